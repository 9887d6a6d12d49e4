"""Our own MTA-STS policy (RFC 8461 §3.2): what other servers may demand when they deliver to our domains.

A domain begins with ``testing``, in which nobody is kept from delivering; after a week in which every daily
check was clean, ``enforce`` is offered to the operator, who says so by command, or once for all domains in
``[mta_sts]``. What was said and what the checks found is in two small files of the state directory.
:class:`Policies` is asked by the http door and by whoever makes the record ``_mta-sts``, whose id follows
    from the policy, so that the two never differ. Reading is a small file at each call; writing is durable.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, Final, Literal, cast, get_args

import attrs

from lorrainemail.certs.files import read_json, write_json
from lorrainemail.config.model import Settings

#: What the operator chose; written by commands alone. What the checks found; written by the server alone.
CHOSEN: Final = "mta-sts.json"
CHECKED: Final = "mta-sts-checks.json"
PATH: Final = "/.well-known/mta-sts.txt"
#: Seconds of clean checks after which ``enforce`` is offered.
CLEAN: Final = 7 * 86400
#: Reasons kept of a check that was not clean.
MAX_REASONS: Final = 10

Mode = Literal["testing", "enforce", "none"]


@attrs.frozen(slots=True)
class Standing:
    """How a domain stands.

    :ivar chosen: the mode that the operator set for it, "" where he never did.
    :ivar clean_since: wall-clock seconds of the first of the clean checks in a row; 0 where the last was not.
    :ivar checked: when the last check was; ``reasons``: what it found.
    """

    chosen: str = ""
    clean_since: float = 0.0
    checked: float = 0.0
    reasons: tuple[str, ...] = ()

    def enforce_offered(self) -> bool:
        """Whether the checks have been clean for long enough."""
        return self.clean_since > 0 and self.checked - self.clean_since >= CLEAN


class Policies:
    """The policies of all our domains."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def mode(self, domain: str) -> Mode:
        """What the policy says."""
        configured = self.settings.mta_sts.mode
        if configured != "by domain":
            return configured
        chosen = self.standing(domain).chosen
        return cast(Mode, chosen) if chosen in get_args(Mode) else "testing"

    def text(self, domain: str) -> str:
        """The policy as it is served (RFC 8461 §3.2: CRLF or LF; CRLF is the safer one)."""
        settings = self.settings.mta_sts
        hosts = dict.fromkeys((self.settings.hostname, *settings.mx))
        lines = [
            "version: STSv1",
            f"mode: {self.mode(domain)}",
            *(f"mx: {host}" for host in hosts),
            f"max_age: {settings.max_age}",
        ]
        return "\r\n".join(lines) + "\r\n"

    def id(self, domain: str) -> str:
        """For the record ``_mta-sts`` (RFC 8461 §3.1): another one whenever the policy changes."""
        return hashlib.sha256(f"{domain}\n{self.text(domain)}".encode()).hexdigest()[:20]

    def standing(self, domain: str) -> Standing:
        row = read_json(self._path(CHECKED)).get(domain)
        row = row if isinstance(row, dict) else {}
        return Standing(
            str(read_json(self._path(CHOSEN)).get(domain, "")),
            _number(row.get("clean_since")),
            _number(row.get("checked")),
            tuple(str(reason) for reason in row.get("reasons", ()))[:MAX_REASONS],
        )

    def choose(self, domain: str, mode: Mode) -> None:
        """The operator's word for one domain.

        :raises OSError: where it cannot be kept.
        """
        rows: dict[str, Any] = read_json(self._path(CHOSEN))
        rows[domain] = mode
        write_json(self._path(CHOSEN), rows)

    def checked(self, domain: str, reasons: Sequence[str], now: float) -> Standing:
        """Note what a check found; the standing before it.

        :raises OSError: where it cannot be kept.
        """
        before = self.standing(domain)
        rows: dict[str, Any] = read_json(self._path(CHECKED))
        rows[domain] = {
            "clean_since": 0.0 if reasons else before.clean_since or now,
            "checked": now,
            "reasons": list(reasons)[:MAX_REASONS],
        }
        write_json(self._path(CHECKED), rows)
        return before

    def _path(self, name: str) -> str:
        return os.path.join(self.settings.state, name)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
