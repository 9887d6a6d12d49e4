"""What makes one SMTP door different from another: plain values, which ``service`` makes."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

import attrs

from lorrainemail.envelope import Door

Network = IPv4Network | IPv6Network


def _networks(texts: Iterable[str | Network]) -> tuple[Network, ...]:
    return tuple(ip_network(text, strict=False) for text in texts)


@attrs.frozen(slots=True)
class DoorSettings:
    """One door.

    :ivar door: its name, as in sessions and log.
    :ivar hostname: our name.
    :ivar spill_directory: where messages too large for memory are kept until they are delivered.
    :ivar login: "no" (AUTH is not offered), "offered", or "required" (the submission doors).
    :ivar plaintext_login: AUTH may be used without TLS (a listener bound to loopback, where switched on).
    :ivar message_size: largest message in octets (RFC 5321 §4.5.3.1.7); ``recipients`` RCPTs in one
        transaction (RFC 5321 §4.5.3.1.8).
    :ivar errors: refused commands, no message taken meanwhile, after which the client is sent away.
    :ivar connections: at once in all; ``connections_per_peer`` from one IPv4 address or IPv6 /64.
    :ivar mend_line_ends: networks whose bare CR and LF in messages are mended, not refused.
    :ivar xclient: networks whose XCLIENT is believed; ``xforward`` likewise.
    :ivar smtputf8: announce SMTPUTF8; ``dsn`` take DSN's parameters, and announce it to those
        whom notices of success are for.
    :ivar idle_timeout: seconds without input (RFC 5321 §4.5.3.2.7); ``session_timeout`` in all.
    """

    door: Door
    hostname: str
    spill_directory: str
    login: Literal["no", "offered", "required"] = "no"
    plaintext_login: bool = False
    message_size: int = 50_000_000
    recipients: int = 1000
    errors: int = 20
    connections: int = 2000
    connections_per_peer: int = 100
    mend_line_ends: tuple[Network, ...] = attrs.field(default=(), converter=_networks)
    xclient: tuple[Network, ...] = attrs.field(default=(), converter=_networks)
    xforward: tuple[Network, ...] = attrs.field(default=(), converter=_networks)
    smtputf8: bool = True
    dsn: bool = False
    idle_timeout: float = 300.0
    session_timeout: float = 4 * 3600.0

    def mends(self, peer: str) -> bool:
        """Whether that peer's line ends are mended."""
        return bool(self.mend_line_ends) and _in(peer, self.mend_line_ends)

    def believes(self, peer: str) -> bool:
        """Whether that peer may say who its client is."""
        return bool(self.xclient) and _in(peer, self.xclient)

    def forwards(self, peer: str) -> bool:
        """Whether that peer may say whom a message came from."""
        return bool(self.xforward) and _in(peer, self.xforward)


def _in(peer: str, networks: tuple[Network, ...]) -> bool:
    if not peer:
        return False
    address = ip_address(peer)
    return any(address in network for network in networks)
