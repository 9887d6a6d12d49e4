"""The PROXY protocol, versions 1 and 2: a proxy in front of a door says who the client is.

:func:`parse_header` is the grammar (the specification is HAProxy's ``proxy-protocol.txt``), without I/O.
:class:`ProxyFactory` stands before a door's factory: it takes connections of listed proxies alone (and of
UNIX sockets), reads the header whatever pieces it comes in, and only then makes the door's protocol, on the
same transport, whose ``getPeer`` and ``getHost`` tell the header's addresses from then on. So nothing of the
door runs before the client is known, and nothing stands between door and transport afterwards.

Made by :mod:`lorrainemail.service` for endpoints that begin with ``haproxy:``. Bounded: the header's octets
and time. A header that is none ends the connection without a word.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from collections.abc import Iterable
from typing import Any, Final

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.net.peers import canonical

#: Octets of a header: version 1 has 107 at most, version 2 some hundred with its additions.
MAX_VERSION_1: Final = 107
MAX_VERSION_2: Final = 4096
#: Seconds in which it must come.
HEADER_TIME: Final = 10.0

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_LINE = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}) ([0-9]{1,5}) ([0-9]{1,5})\Z"
)
_log = Logger(namespace="lorrainemail.proxy")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = IPv4Address | IPv6Address


class ProxyError(ValueError):
    """The octets are no header; the message says why."""


@attrs.frozen(slots=True)
class Header:
    """What a header says.

    :ivar peer: the client, None where the proxy speaks for itself (a health check) or does not know.
    :ivar host: what the client connected to.
    :ivar length: octets of the header.
    """

    length: int
    peer: Address | None = None
    host: Address | None = None


def parse_header(data: bytes) -> Header | None:
    """The header that ``data`` begins with, None while it is not complete.

    :raises ProxyError: where it can become none.
    """
    if data[:12] == _SIGNATURE[: len(data)]:
        return _version_2(data) if len(data) >= 16 else None
    if not data.startswith(b"PROXY"[: len(data)]):
        raise ProxyError("no PROXY header")
    end = data.find(b"\r\n", 0, MAX_VERSION_1)
    if end < 0:
        if len(data) >= MAX_VERSION_1:
            raise ProxyError("a line that is too long")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return Header(end + 2)
    match = _LINE.match(line)
    if match is None:
        raise ProxyError("a malformed line")
    family, source, destination, source_port, destination_port = match.groups()
    version = 4 if family == b"TCP4" else 6
    return Header(
        end + 2,
        _address(version, source.decode("ascii"), int(source_port)),
        _address(version, destination.decode("ascii"), int(destination_port)),
    )


def _version_2(data: bytes) -> Header | None:
    command, family, size = struct.unpack("!BBH", data[12:16])
    length = 16 + size
    if command not in (0x20, 0x21):
        raise ProxyError("an unknown version or command")
    if length > MAX_VERSION_2:
        raise ProxyError("a header that is too long")
    if len(data) < length:
        return None
    octets = {0x11: 4, 0x21: 16}.get(family)
    if command == 0x20 or octets is None:
        # LOCAL, or a client that did not come by TCP.
        return Header(length)
    if size < 2 * octets + 4:
        raise ProxyError("too short for its addresses")
    source, destination = (
        str(ipaddress.ip_address(data[16 + octets * part : 16 + octets * (part + 1)])) for part in (0, 1)
    )
    source_port, destination_port = struct.unpack("!HH", data[16 + 2 * octets : 20 + 2 * octets])
    version = 4 if octets == 4 else 6
    return Header(
        length, _address(version, source, source_port), _address(version, destination, destination_port)
    )


def _address(version: int, text: str, port: int) -> Address:
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        raise ProxyError("a malformed address") from None
    if parsed.version != version or port > 65535:
        raise ProxyError("an address or port that cannot be")
    return IPv4Address("TCP", text, port) if version == 4 else IPv6Address("TCP", text, port)


class ProxyFactory(Factory):
    """Makes the connections of one door that proxies reach.

    :param door: the door's own factory.
    :param proxies: whose word is taken; may be replaced while running.
    """

    noisy = False

    def __init__(self, door: Factory, clock: Any, proxies: Iterable[str]) -> None:
        self.clock = clock
        self.door = door
        self.waiting: set[_ProxyHeader] = set()
        self.listed(proxies)

    def listed(self, proxies: Iterable[str]) -> None:
        """Whose word is taken from now on."""
        self._proxies: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in proxies)

    def buildProtocol(self, addr: Any) -> Protocol | None:
        if not self._is_listed(addr):
            _log.warn("A connection from {peer} was closed: it is no proxy of ours", peer=str(addr))
            return None
        return _ProxyHeader(self, addr)

    def _is_listed(self, addr: Any) -> bool:
        if isinstance(addr, IPv4Address | IPv6Address):
            peer = ipaddress.ip_address(canonical(addr.host))
            return any(peer in network for network in self._proxies)
        return isinstance(addr, UNIXAddress)  # who reaches it is the file system's matter

    def startFactory(self) -> None:
        self.door.doStart()  # type: ignore[no-untyped-call]

    def stopFactory(self) -> None:
        self.door.doStop()  # type: ignore[no-untyped-call]
        for header in list(self.waiting):
            header.abort()


class _ProxyHeader(Protocol):
    """A connection until its header is complete."""

    transport: Any

    def __init__(self, factory: ProxyFactory, addr: Any) -> None:
        self._factory = factory
        self._addr = addr
        self._data = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._factory.waiting.add(self)
        self._timer = self._factory.clock.callLater(HEADER_TIME, self._late)

    def _late(self) -> None:
        self._timer = None
        _log.warn("The proxy {peer} sent no header in time", peer=str(self._addr))
        self.abort()

    def abort(self) -> None:
        """End the connection."""
        self.transport.abortConnection()

    def _end(self) -> None:
        self._factory.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._end()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        try:
            header = parse_header(self._data)
        except ProxyError as error:
            _log.warn("The proxy {peer} sent {error}", peer=str(self._addr), error=error)
            self.abort()
            return
        if header is not None:
            self._end()
            self._hand_over(header)

    def _hand_over(self, header: Header) -> None:
        """The door's protocol takes our place."""
        transport, peer, host = self.transport, header.peer, header.host
        if peer is not None:
            transport.getPeer = lambda: peer
            transport.getHost = lambda: host
        protocol = self._factory.door.buildProtocol(peer or self._addr)
        if protocol is None:
            self.abort()
            return
        rest, self._data = self._data[header.length :], b""
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest and transport.connected and not transport.disconnecting:
            protocol.dataReceived(rest)
