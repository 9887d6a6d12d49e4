"""The PROXY protocol: clients by their own address, in any pieces, and from listed proxies alone."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as installed_reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from lorrainemail.net.peers import local_of, peer_of
from lorrainemail.net.proxy import HEADER_TIME, MAX_VERSION_2, ProxyError, ProxyFactory, parse_header

reactor: Any = installed_reactor
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
IPV4 = b"\xc0\x00\x02\x01" + b"\xc0\x00\x02\x02" + struct.pack("!HH", 4242, 25)
IPV6 = bytes.fromhex("20010db8000000000000000000000001") * 2 + struct.pack("!HH", 4242, 25)


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


GOOD = {
    b"PROXY TCP4 192.0.2.1 192.0.2.2 4242 25\r\n": ("192.0.2.1", 4242),
    b"PROXY TCP6 2001:db8::1 2001:db8::2 4242 25\r\n": ("2001:db8::1", 4242),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n": None,
    version_2(0x21, 0x11, IPV4): ("192.0.2.1", 4242),
    version_2(0x21, 0x11, IPV4 + b"\x04\x00\x01x"): ("192.0.2.1", 4242),
    version_2(0x21, 0x21, IPV6): ("2001:db8::1", 4242),
    version_2(0x20, 0x11, IPV4): None,
    version_2(0x20, 0x00, b""): None,
    version_2(0x21, 0x31, b"x" * 216): None,
}


@pytest.mark.parametrize("header", GOOD)
def test_header_is_read_at_its_last_octet_and_what_follows_is_left(header: bytes) -> None:
    for length in range(len(header)):
        assert parse_header(header[:length]) is None
    found = parse_header(header + b"EHLO x\r\n")
    assert found is not None and found.length == len(header)
    peer = found.peer
    assert (None if peer is None else (peer.host, peer.port)) == GOOD[header]


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO x\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 4242\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 4242 65536\r\n",
        b"PROXY TCP4 2001:db8::1 192.0.2.2 4242 25\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 4242 25\r\n",
        b"PROXY TCP4 192.0.2.300 192.0.2.2 4242 25\r\n",
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 4242 25\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 4242 25\n\n\r\n",
        b"PROXY UNKNOWN" + b"x" * 200,
        version_2(0x11, 0x11, IPV4),
        version_2(0x22, 0x11, IPV4),
        version_2(0x21, 0x11, IPV4[:-1]),
        version_2(0x21, 0x21, IPV4),
        SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MAX_VERSION_2),
    ],
)
def test_what_is_no_header_is_refused(octets: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_header(octets)


@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda tail: SIGNATURE + tail)))
def test_any_octets_are_a_header_or_incomplete_or_an_error(octets: bytes) -> None:
    try:
        found = parse_header(octets)
    except ProxyError:
        return
    assert found is None or 0 < found.length <= len(octets)


class Door(Protocol):
    """Says who the client is, then repeats what it hears."""

    def connectionMade(self) -> None:
        self.transport.write(f"{peer_of(self.transport)} {local_of(self.transport)}\n".encode())  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]


class Client(Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.over: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.over.callback(self.heard)


async def talk(proxies: tuple[str, ...], *pieces: bytes) -> bytes:
    port = reactor.listenTCP(
        0, ProxyFactory(Factory.forProtocol(Door), reactor, proxies), interface="127.0.0.1"
    )
    try:
        endpoint = HostnameEndpoint(reactor, "127.0.0.1", port.getHost().port)
        client = await connectProtocol(endpoint, Client())
        client.transport.setTcpNoDelay(True)
        for piece in pieces:
            client.transport.write(piece)
            await_turn: Deferred[None] = Deferred()
            reactor.callLater(0, await_turn.callback, None)
            await await_turn
        return bytes(await client.over.addTimeout(20, reactor))
    finally:
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_door_sees_the_client_behind_a_listed_proxy() -> None:
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 4242 25\r\n"
    expected = b"('192.0.2.1', 4242) ('192.0.2.2', 25)\nhello"
    assert await talk(("127.0.0.0/8",), header + b"hello") == expected
    assert await talk(("127.0.0.0/8",), header[:3], header[3:20], header[20:] + b"hello") == expected
    mapped = version_2(0x21, 0x21, bytes.fromhex("00000000000000000000ffffc0000201") * 2 + IPV6[-4:])
    assert (await talk(("127.0.0.1/32",), mapped + b"x")).startswith(b"('192.0.2.1', 4242)")


@pytest_twisted.ensureDeferred
async def test_whoever_is_not_listed_or_sends_no_header_hears_nothing() -> None:
    assert await talk(("192.0.2.0/24",), b"PROXY TCP4 192.0.2.1 192.0.2.2 4242 25\r\nhello") == b""
    assert await talk(("127.0.0.0/8",), b"EHLO x\r\n") == b""


def test_proxy_that_sends_no_header_is_cut_off_in_time_and_at_the_stop() -> None:
    clock = Clock()
    factory = ProxyFactory(Factory.forProtocol(Door), clock, ())
    factory.doStart()
    assert factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)) is None
    factory.listed(("192.0.2.1",))
    for address in (IPv4Address("TCP", "192.0.2.1", 1), UNIXAddress(None)):
        aborted: list[bool] = []

        class Transport:
            def __init__(self, aborted: list[bool]) -> None:
                self.abortConnection = lambda: aborted.append(True)

        waiting: Any = factory.buildProtocol(address)
        waiting.makeConnection(Transport(aborted))
        waiting.dataReceived(b"PROX")
        clock.advance(HEADER_TIME)
        assert aborted == [True]
        waiting.connectionLost()
        assert factory.waiting == set()
    waiting = factory.buildProtocol(UNIXAddress(None))
    waiting.makeConnection(Transport(aborted))
    factory.doStop()
    assert aborted == [True, True]
    waiting.connectionLost()
    assert clock.getDelayedCalls() == []
