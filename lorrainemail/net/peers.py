"""Who is at the other end: peer and local addresses in one canonical text form.

The IPv4-mapped form (``::ffff:192.0.2.1``) is undone here and nowhere else, so that tables, policy, limits
and logs all see ``192.0.2.1``. Callers: every door. Pure but for reading the transport's address objects.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from functools import lru_cache
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address


@lru_cache(maxsize=4096)
def canonical(address: str) -> str:
    """An IP address as text in canonical form; zone index dropped, IPv4-mapped undone."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 6 and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return parsed.compressed


@lru_cache(maxsize=4096)
def network_key(address: str) -> str:
    """The unit by which peers are counted and limited: one IPv4 address, or an IPv6 /64."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False))


def peer_of(transport: Any) -> tuple[str, int]:
    """(canonical IP, port) of the peer; ("", 0) for a UNIX socket."""
    return _host_port(transport.getPeer())


def local_of(transport: Any) -> tuple[str, int]:
    """(canonical IP, port) of our end; ("", 0) for a UNIX socket."""
    return _host_port(transport.getHost())


def _host_port(address: object) -> tuple[str, int]:
    if isinstance(address, IPv4Address | IPv6Address):
        return canonical(address.host), address.port
    return "", 0


def peer_uid(transport: Any) -> int | None:
    """The user at the other end of a UNIX socket, None where there is none or the system does not say."""
    try:
        facts = transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (AttributeError, OSError):
        return None
    uid: int = struct.unpack("3i", facts)[1]
    return uid


def is_loopback(address: str) -> bool:
    """Whether a canonical address is the machine's own loopback."""
    return address == "::1" or address.startswith("127.")
