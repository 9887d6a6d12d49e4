"""What a mail program has to know of us: hosts, ports and kinds of TLS of the doors that users log in at.

Made by ``service`` of the open ports, newest configuration; the pages only print it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address

Protocol = Literal["imap", "pop3", "smtp"]


@attrs.frozen(slots=True)
class Offer:
    """One door; ``tls`` is how it is encrypted: at once, or by STARTTLS."""

    protocol: Protocol
    host: str
    port: int
    tls: Literal["at once", "starttls"]


#: The doors, the better first: TLS at once before STARTTLS (RFC 8314 §3.3), IMAP before POP3.
_DOORS: tuple[tuple[str, Protocol, Literal["at once", "starttls"]], ...] = (
    ("imaps", "imap", "at once"),
    ("imap", "imap", "starttls"),
    ("pop3s", "pop3", "at once"),
    ("pop3", "pop3", "starttls"),
    ("submissions", "smtp", "at once"),
    ("submission", "smtp", "starttls"),
)


def offers(hostname: str, ports: Iterable[tuple[str, int]]) -> tuple[Offer, ...]:
    """Of (door, port) pairs, one offer for each door, the first port of it."""
    first: dict[str, int] = {}
    for door, port in ports:
        first.setdefault(door, port)
    return tuple(
        Offer(protocol, hostname, first[door], tls) for door, protocol, tls in _DOORS if first.get(door)
    )


def readable(text: str) -> Address | None:
    """An address that somebody typed into a mail program, None where it is none."""
    try:
        # Many a program leaves "+" as it is in a query, where it means a space.
        address = parse_address(text.strip().replace(" ", "+"))
    except (AddressError, ValueError):
        return None
    return address if address.domain and not address.domain.startswith("[") else None
