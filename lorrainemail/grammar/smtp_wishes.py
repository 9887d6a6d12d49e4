"""What a sender asks of the way of its message: parameters of MAIL beyond the message itself.

REQUIRETLS (RFC 8689), HOLDFOR and HOLDUNTIL (RFC 4865), MT-PRIORITY (RFC 6710), BY (RFC 2852). The door reads
them with :func:`parse_wishes` when MAIL has any parameter; the envelope keeps the parameters as they came, on
disk too, and whoever acts on them later (couriers, the runner) reads them again with :func:`wishes_of`. Who
may ask for what is the door's business.

Pure. Fails with :class:`PermanentError` 501 5.5.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Literal, NoReturn

import attrs

from lorrainemail.envelope import Envelope
from lorrainemail.errors import MailError, PermanentError, Reply

#: RFC 4865 §3: the longest that a message is held, in seconds.
LONGEST_HOLD: Final = 30 * 86400
#: RFC 6710 §4: priorities lie between these.
LOWEST, HIGHEST = -9, 9

#: The parameters of MAIL that this module understands, by what they need.
TLS_PARAMETERS: Final = frozenset({"REQUIRETLS"})
HOLD_PARAMETERS: Final = frozenset({"HOLDFOR", "HOLDUNTIL"})
LOGIN_PARAMETERS: Final = HOLD_PARAMETERS | {"MT-PRIORITY"}
TRUST_PARAMETERS: Final = frozenset({"BY"})
PARAMETERS: Final = TLS_PARAMETERS | LOGIN_PARAMETERS | TRUST_PARAMETERS

_SECONDS = re.compile(r"[0-9]{1,9}\Z")
_PRIORITY = re.compile(r"[+-]?[0-9]\Z")
_BY = re.compile(r"(-?[0-9]{1,9});([NR])(T?)\Z", re.IGNORECASE)
_DATE_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:\d\d)\Z", re.IGNORECASE | re.ASCII
)


@attrs.frozen(slots=True)
class DeliverBy:
    """RFC 2852 §4: seconds from MAIL (negative: so long ago), mode and trace flag.

    :ivar mode: "R": give it up at that time; "N": tell the sender then, and go on.
    :ivar trace: every relaying on the way is to be told.
    """

    seconds: int
    mode: Literal["N", "R"]
    trace: bool = False


@attrs.frozen(slots=True)
class Wishes:
    """All of them.

    :ivar hold_for: seconds, 0 for none; ``hold_until``: wall-clock seconds, 0 for none.
    :ivar priority: None where none was given.
    """

    require_tls: bool = False
    hold_for: int = 0
    hold_until: float = 0.0
    priority: int | None = None
    deliver_by: DeliverBy | None = None

    def release_at(self, now: float) -> float:
        """When a message that came now may go on (wall-clock seconds), 0 for at once."""
        until = now + self.hold_for if self.hold_for else self.hold_until
        return until if until > now else 0.0


#: What most messages ask for.
NONE: Final = Wishes()


def parse_wishes(values: Mapping[str, str | None]) -> Wishes:
    """The wishes among parameters of MAIL (keywords in upper case).

    :raises PermanentError: for a malformed value, or for wishes that contradict each other.
    """
    if "REQUIRETLS" in values and values["REQUIRETLS"] is not None:
        _syntax("REQUIRETLS takes no value")
    wishes = Wishes(
        "REQUIRETLS" in values,
        _hold_for(values["HOLDFOR"]) if "HOLDFOR" in values else 0,
        _hold_until(values["HOLDUNTIL"]) if "HOLDUNTIL" in values else 0.0,
        _priority(values["MT-PRIORITY"]) if "MT-PRIORITY" in values else None,
        _deliver_by(values["BY"]) if "BY" in values else None,
    )
    if not HOLD_PARAMETERS.isdisjoint(values):
        if HOLD_PARAMETERS.issubset(values):
            _syntax("HOLDFOR and HOLDUNTIL exclude each other")
        if wishes.deliver_by is not None:
            _syntax("A message is either held or delivered by a time")
    return wishes


def wishes_of(envelope: Envelope) -> Wishes:
    """What the sender of an accepted message asked for. Never fails."""
    values = {one.keyword: one.value for one in envelope.parameters if one.keyword in PARAMETERS}
    if not values:
        return NONE
    try:
        return parse_wishes(values)
    except MailError:
        # Written by another version, or by hand. What protects the message holds all the same.
        return Wishes(require_tls="REQUIRETLS" in values)


def date_time(when: float) -> str:
    """An instant in the form of HOLDUNTIL, in UTC, without fractions."""
    return datetime.fromtimestamp(int(when), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _syntax(text: str) -> NoReturn:
    raise PermanentError(Reply(501, "5.5.4", text))


def _hold_for(value: str | None) -> int:
    if value is None or not _SECONDS.match(value):
        _syntax("HOLDFOR must be a number of seconds")
    if int(value) > LONGEST_HOLD:
        _syntax(f"HOLDFOR must be {LONGEST_HOLD} at most")
    return int(value)


def _hold_until(value: str | None) -> float:
    if value is None or not _DATE_TIME.match(value):
        _syntax("HOLDUNTIL must be a date and time, as 2027-01-31T08:00:00Z")
    try:
        return datetime.fromisoformat(value.upper().replace("Z", "+00:00").replace(",", ".")).timestamp()
    except (ValueError, OverflowError):
        _syntax("HOLDUNTIL is no date and time that exists")


def _priority(value: str | None) -> int:
    if value is None or not _PRIORITY.match(value):
        _syntax(f"MT-PRIORITY must be a number from {LOWEST} to {HIGHEST}")
    return int(value)


def _deliver_by(value: str | None) -> DeliverBy:
    match = _BY.match(value or "")
    if match is None:
        _syntax("Syntax: BY=seconds;N or BY=seconds;R, with T behind it for a trace")
    seconds, mode = int(match.group(1)), match.group(2).upper()
    if mode == "R":
        if seconds <= 0:
            # RFC 2852 §4.
            _syntax("BY with R needs a time to come")
        return DeliverBy(seconds, "R", bool(match.group(3)))
    return DeliverBy(seconds, "N", bool(match.group(3)))
