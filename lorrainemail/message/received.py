"""The trace fields that a delivery puts before a message: Return-Path, Delivered-To, Received.

Pure functions from session facts and envelope to wire octets (CRLF); intake calls them. Whatever a client
said (its EHLO name above all) is either well-formed where it stands as a name, or reduced to harmless
characters inside a comment, so that no client can write a field of its own choice here.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from lorrainemail.addresses import Address, AddressError, normalise_domain
from lorrainemail.envelope import Envelope, Session, TlsFacts

#: Longest EHLO argument that is shown, in characters.
MAX_SHOWN: Final = 255

_NOT_SHOWN = re.compile(r"[^A-Za-z0-9._:\[\]-]")


@lru_cache(maxsize=8)
def _date(second: int) -> str:
    return formatdate(second)[:-5] + "+0000"


def rfc5322_date(when: float) -> str:
    """A wall-clock time as date-time (RFC 5322 §3.3), in UTC."""
    return _date(int(when))


@lru_cache(maxsize=1024)
def _name(helo: str) -> str:
    """The EHLO argument where it is a domain or address literal, else ""."""
    try:
        normalise_domain(helo)
    except AddressError:
        return ""
    return helo if helo.isascii() else ""


def address_literal(address: str) -> str:
    """An IP address as address literal (RFC 5321 §4.1.3)."""
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def protocol(session: Session, smtputf8: bool = False) -> str:
    """The ``with`` keyword of a session (RFC 3848, RFC 6531 §4.3)."""
    if session.door == "lmtp":
        base = "UTF8LMTP" if smtputf8 else "LMTP"
    elif smtputf8:
        base = "UTF8SMTP"
    elif session.esmtp:
        base = "ESMTP"
    else:
        return "SMTP"
    return f"{base}{'S' if session.tls else ''}{'A' if session.account else ''}"


def _tls(facts: TlsFacts) -> str:
    return f"\r\n\t(version={facts.version} cipher={facts.cipher} bits={facts.bits})"


def received_field(
    session: Session,
    envelope: Envelope,
    hostname: str,
    when: float,
    for_recipient: Address | None = None,
    hide_submitter: bool = False,
) -> bytes:
    """The Received field of one transaction (RFC 5321 §4.4).

    :param hostname: our name.
    :param when: wall-clock seconds.
    :param for_recipient: only where the message has one recipient; more would tell them of each other.
    :param hide_submitter: leave out name and address of a client that logged in.
    """
    if session.door == "local" and not session.peer:
        origin = ""
    elif hide_submitter and session.account:
        origin = f"from {hostname} (submitted with login)\r\n\t"
    elif not session.peer:
        origin = f"from {_name(session.helo) or 'localhost'} (local socket)\r\n\t"
    else:
        literal = address_literal(session.peer)
        tcp = f"{session.reverse_name} {literal}" if session.reverse_name else literal
        name = _name(session.helo)
        if name:
            origin = f"from {name} ({tcp})\r\n\t"
        elif session.helo:
            said = _NOT_SHOWN.sub("?", session.helo[:MAX_SHOWN])
            origin = f"from {literal} ({tcp})\r\n\t(greeting {said})\r\n\t"
        else:
            origin = f"from {literal} ({tcp})\r\n\t"
    by = f"by {hostname} (lorrainemail)"
    if session.door != "local":
        by += f" with {protocol(session, envelope.smtputf8)}"
    tls = _tls(session.tls) if session.tls else ""
    reached = f"\r\n\tfor <{for_recipient}>" if for_recipient is not None else ""
    field = f"Received: {origin}{by}\r\n\tid {envelope.id}{tls}{reached};\r\n\t{rfc5322_date(when)}\r\n"
    return field.encode("utf-8", "replace")


def return_path_field(sender: Address | None) -> bytes:
    """Return-Path, added at final delivery only (RFC 5321 §4.4)."""
    return f"Return-Path: <{'' if sender is None else sender}>\r\n".encode("utf-8", "replace")


def delivered_to_field(address: Address) -> bytes:
    """Delivered-To (RFC 9228): by it a forwarding loop is known."""
    return f"Delivered-To: {address}\r\n".encode("utf-8", "replace")
