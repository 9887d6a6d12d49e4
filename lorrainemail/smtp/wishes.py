"""Who may ask for what of the way of a message, beyond its delivery.

Pure: :class:`~lorrainemail.smtp.server.SmtpServer` asks at MAIL, :class:`~lorrainemail.smtp.door.Door` when
it announces. REQUIRETLS is for everybody under TLS; a time of delivery for those who may relay, since others
are sent no notices; holding and priorities for users who logged in, whose limits hold them.
"""

from __future__ import annotations

from lorrainemail.errors import Reply
from lorrainemail.grammar.smtp_wishes import (
    HOLD_PARAMETERS,
    LOGIN_PARAMETERS,
    LONGEST_HOLD,
    TLS_PARAMETERS,
    TRUST_PARAMETERS,
    Wishes,
    date_time,
)
from lorrainemail.smtp import replies
from lorrainemail.smtp.settings import DoorSettings

TOO_FAR = Reply(501, "5.5.4", f"A message is held for {LONGEST_HOLD} seconds at most")


def taken(settings: DoorSettings, holds: bool) -> frozenset[str]:
    """The parameters of MAIL that a door takes from anybody.

    :param holds: messages can be held there.
    """
    if settings.door in ("lmtp", "local"):
        return frozenset()
    found = TLS_PARAMETERS | TRUST_PARAMETERS
    if settings.login != "no":
        found |= LOGIN_PARAMETERS
    return found if holds else found - HOLD_PARAMETERS


def announced(settings: DoorSettings, holds: bool, secure: bool, trusted: bool, now: float) -> list[str]:
    """What EHLO says of them.

    :param secure: the session runs under TLS. ``trusted``: it may relay. ``now``: wall-clock seconds.
    """
    if settings.door in ("lmtp", "local"):
        return []
    lines = []
    login = settings.login == "required"
    if secure:
        # RFC 8689 §4.1: never in clear text.
        lines.append("REQUIRETLS")
    if trusted or login:
        lines.append("DELIVERBY")
    if login:
        lines.append("MT-PRIORITY")
        if holds:
            # RFC 4865 §3.
            lines.append(f"FUTURERELEASE {LONGEST_HOLD} {date_time(now + LONGEST_HOLD)}")
    return lines


def refused(wishes: Wishes, secure: bool, logged_in: bool, trusted: bool, now: float) -> Reply | None:
    """Why they cannot be granted, None where they are."""
    if wishes.require_tls and not secure:
        return replies.REQUIRETLS_NEEDS_TLS
    if not logged_in and (wishes.hold_for or wishes.hold_until or wishes.priority is not None):
        return replies.NEEDS_LOGIN
    if wishes.deliver_by is not None and not (logged_in or trusted):
        return replies.NEEDS_TRUST
    if wishes.hold_until > now + LONGEST_HOLD:
        return TOO_FAR
    return None
