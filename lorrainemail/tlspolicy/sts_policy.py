"""MTA-STS records and policies: octets in, values out (RFC 8461 §3). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, cast, get_args

import attrs

#: Octets of a policy (RFC 8461 §3.3 suggests this bound), and patterns of hosts that are used.
MAX_POLICY: Final = 64 * 1024
MAX_PATTERNS: Final = 256
#: Seconds for which a policy may hold (RFC 8461 §3.2).
MAX_AGE: Final = 31_557_600

Mode = Literal["enforce", "testing", "none"]

_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_FIELD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")
_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?)+\Z")


class PolicyFault(ValueError):
    """What came is no policy; the text says why."""


@attrs.frozen(slots=True)
class StsPolicy:
    """One policy (RFC 8461 §3.2). ``patterns``: of MX hosts, lower case; ``max_age`` in seconds."""

    mode: Mode
    patterns: tuple[str, ...]
    max_age: int

    def names(self, host: str) -> bool:
        """Whether the host is one of its MX (RFC 8461 §4.1); ``*.`` stands for one label."""
        host = host.lower().rstrip(".")
        wildcard = "*." + host.partition(".")[2]
        return host in self.patterns or wildcard in self.patterns

    def strings(self) -> tuple[str, ...]:
        """Its lines, as in reports (RFC 8460 §4.4)."""
        hosts = [f"mx: {one}" for one in self.patterns]
        return ("version: STSv1", f"mode: {self.mode}", *hosts, f"max_age: {self.max_age}")


def id_of(texts: Iterable[bytes]) -> str:
    """The policy's id in the records ``_mta-sts`` of a domain; "" where they tell of no policy
    (RFC 8461 §3.1: none, several, or a malformed one)."""
    ours = [text for text in texts if re.match(rb"v=STSv1[ \t]*;", text)]
    if len(ours) != 1:
        return ""
    fields = [one.partition("=") for one in ours[0].decode("utf-8", "replace").split(";")]
    found = [value.strip() for name, _, value in fields if name.strip() == "id"]
    return found[0] if found and _ID.match(found[0]) else ""


def parse(body: bytes) -> StsPolicy:
    """A policy as it was fetched.

    :raises PolicyFault: where it is none.
    """
    if len(body) > MAX_POLICY:
        raise PolicyFault(f"it is larger than {MAX_POLICY} octets")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise PolicyFault("it is not UTF-8") from None
    fields: dict[str, str] = {}
    patterns: dict[str, None] = {}
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon or not _FIELD.match(name) or not value:
            raise PolicyFault(f"{line[:60]!r} is no field")
        if name != "mx":
            fields.setdefault(name, value)  # of a field that stands twice the first counts
        elif len(value) > 255 or not _PATTERN.match(value.lower().rstrip(".")):
            raise PolicyFault(f"mx: {value[:60]!r} is no name of a host")
        elif len(patterns) < MAX_PATTERNS:
            patterns[value.lower().rstrip(".")] = None
    if fields.get("version") != "STSv1":
        raise PolicyFault("its version is not STSv1")
    mode, age = fields.get("mode", ""), fields.get("max_age", "")
    if mode not in get_args(Mode):
        raise PolicyFault(f"it has no mode that is known ({mode[:20]!r})")
    if not (age.isascii() and age.isdigit() and len(age) <= 10):
        raise PolicyFault("its max_age is no number")
    if not patterns and mode != "none":
        raise PolicyFault("it names no mx")
    return StsPolicy(cast(Mode, mode), tuple(patterns), min(int(age), MAX_AGE))
