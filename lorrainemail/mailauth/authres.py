"""The Authentication-Results field: made by us, and removed where somebody else made one in our name.

Pure (RFC 8601). :func:`field` is called by the policy check with what was found out; :func:`claimed_by` by
intake for every message that enters. Whatever a sender may have chosen (addresses, selectors, reasons) stands
in the field as a token or inside a quoted string of harmless characters, cut to a bound: no sender can write
a result of his own choice here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import attrs

#: Characters of one value, and of one reason.
MAX_VALUE: Final = 320
MAX_REASON: Final = 200
#: Fields of one message whose author is looked at; of a message with more, all are removed.
MAX_FIELDS: Final = 50
#: Octets of comments and white space before the name in a field; nobody who is not out for trouble has more.
MAX_BEFORE: Final = 2048
#: Characters of a line, where its parts are shorter.
LINE: Final = 70

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+\Z")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9!#$%&'*+^_`{|}~.-]+)?@[a-z0-9_][a-z0-9_.-]*\Z")
_FIELD = re.compile(rb"Authentication-Results[ \t]*:", re.IGNORECASE)
_INNER = re.compile(rb"\nAuthentication-Results[ \t]*:", re.IGNORECASE)
_WHOLE = re.compile(
    rb"\r\nAuthentication-Results[ \t]*:((?:[^\r]++|\r(?!\n)|\r\n[ \t])*+)(?=\r\n|\Z)", re.IGNORECASE
)
_COMMENT_EDGE = re.compile(rb"[()\\]")


@attrs.frozen(slots=True)
class Finding:
    """One method's result (RFC 8601 §2.2).

    :ivar properties: "smtp.mailfrom" and the like with their values; empty values are left out.
    :ivar comment: a word or two for people and for programs that look for them, as "p=reject".
    """

    method: str
    result: str
    reason: str = ""
    properties: tuple[tuple[str, str], ...] = ()
    comment: str = ""

    def __str__(self) -> str:
        first = f"{self.method}={self.result}"
        if self.comment:
            first += f" ({_harmless(self.comment, MAX_REASON, '()')})"
        told = [f"reason={_quoted(self.reason, MAX_REASON)}"] if self.reason else []
        told += [f"{name}={_value(value)}" for name, value in self.properties if value]
        lines = [first]
        for one in told:
            if len(lines[-1]) + len(one) < LINE:
                lines[-1] += " " + one
            else:
                lines.append(one)
        return "\r\n\t ".join(lines)


def field(hostname: str, findings: Iterable[Finding]) -> bytes:
    """The whole field.

    :param hostname: our name, the authserv-id.
    """
    told = [str(finding) for finding in findings] or ["none"]
    text = ";\r\n\t".join([f"Authentication-Results: {hostname}", *told]) + "\r\n"
    return text.encode("utf-8", "replace")


def _value(text: str) -> str:
    if len(text) <= MAX_VALUE and (_TOKEN.match(text) or _ADDRESS.match(text)):
        return text
    return _quoted(text, MAX_VALUE)


def _quoted(text: str, most: int) -> str:
    return '"' + _harmless(text, most, '"\\') + '"'


def _harmless(text: str, most: int, without: str) -> str:
    return "".join(c if c.isprintable() and c not in without else "?" for c in text[:most])


# -- forged fields ---------------------------------------------------------------------------------------


def claimed_by(header: bytes, hostname: str) -> bytes | None:
    """The header without the fields that claim to be ours; None where there is none (RFC 8601 §5).

    :param header: of a message that just came in, with the CRLF of its last line.
    """
    if _INNER.search(header) is None and _FIELD.match(header) is None:
        return None
    lined = b"\r\n" + header  # each field is found by the line end before it
    if len(_INNER.findall(lined)) > MAX_FIELDS:
        # Nobody has that many; which of them are in our name is not worth finding out.
        cleaned = _WHOLE.sub(b"", lined)
    else:
        ours = hostname.lower().encode("ascii", "replace")
        cleaned = _WHOLE.sub(lambda found: found[0] if _serves(found[1], ours) is False else b"", lined)
    return None if len(cleaned) == len(lined) else cleaned[2:]


def is_by(value: bytes, hostname: str) -> bool:
    """Whether the field with that value is in our name."""
    return _serves(value, hostname.lower().encode("ascii", "replace")) is True


def _serves(value: bytes, ours: bytes) -> bool | None:
    """Whether the authserv-id of a field's value, comments and quotes apart, is ours; None where it stands
    behind more than is looked at."""
    whole, value = len(value), value[: MAX_BEFORE + 4 * len(ours) + 64]
    position = 0
    while position < len(value):
        if value[position : position + 1] in (b" ", b"\t", b"\r", b"\n"):
            position += 1
        elif value[position : position + 1] == b"(":
            position = _after_comment(value, position)
        else:
            break
    if position > MAX_BEFORE and whole > len(value):
        return None
    rest = value[position : position + 4 * len(ours) + 64]
    if rest.startswith(b'"'):
        name = re.sub(rb"\\(.)", rb"\1", rest[1:].split(b'"', 1)[0])
    else:
        name = re.split(rb"[ \t\r\n;(]", rest, maxsplit=1)[0]
    return name.strip().lower().rstrip(b".") == ours


def _after_comment(value: bytes, position: int) -> int:
    depth = 0
    while True:
        match = _COMMENT_EDGE.search(value, position)
        if match is None:
            return len(value)
        position = match.end()
        if match.group() == b"\\":
            position += 1
        elif match.group() == b"(":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return position
