"""DNS over real sockets, and the limits of a TCP connection."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.query
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from lorrainemail.dns.responder import LARGEST_QUERY, Responder
from lorrainemail.dns.server import TCP_IDLE, TCP_QUERIES, TCP_TOTAL, DnsConnection, DnsFactory, listen
from lorrainemail.dns.zonefile import parse_zone
from lorrainemail.dns.zones import Zones
from lorrainemail.net.limits import ConnectionCounter

ZONE = """\
$ORIGIN bricoleur.com.
$TTL 60
@ SOA ns hostmaster 1 1h 10m 1w 5m
@ NS ns
@ MX 10 mx
ns A 127.0.0.1
mx A 127.0.0.3
""" + "".join(f"many TXT {'x' * 200}{n}\n" for n in range(20))

WIRE = dns.message.make_query("bricoleur.com", "MX").to_wire()
FRAMED = len(WIRE).to_bytes(2, "big") + WIRE


@pytest_twisted.ensureDeferred
async def test_udp_and_tcp_answer_at_one_port_and_truncation_leads_to_tcp() -> None:
    udp, tcp = listen(reactor, Responder(Zones([parse_zone(ZONE)]), reactor), "127.0.0.1", 0)  # type: ignore[arg-type]
    port: Any = udp.getHost()
    try:
        assert port.port == tcp.getHost().port  # type: ignore[attr-defined]

        def asking() -> tuple[dns.message.Message, bool, dns.message.Message]:
            short = dns.message.make_query("bricoleur.com", "MX")
            long = dns.message.make_query("many.bricoleur.com", "TXT")
            first = dns.query.udp(short, "127.0.0.1", port=port.port, timeout=10)
            second, fell_back = dns.query.udp_with_fallback(long, "127.0.0.1", port=port.port, timeout=10)
            return first, fell_back, second

        first, fell_back, second = await deferToThread(asking)
        assert str(first.answer[0]) == "bricoleur.com. 60 IN MX 10 mx.bricoleur.com."
        assert fell_back and len(second.answer[0]) == 20
    finally:
        await DeferredList([port.stopListening() for port in (udp, tcp)])  # type: ignore[misc]


class Transport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counter() -> ConnectionCounter:
    return ConnectionCounter(2, 2)


def connect(clock: Clock, counter: ConnectionCounter) -> tuple[DnsConnection, Transport]:
    connection = DnsFactory(Responder(Zones([parse_zone(ZONE)]), clock), clock, counter).buildProtocol(None)
    transport = Transport()
    connection.makeConnection(transport)
    return connection, transport


def answers(transport: StringTransport) -> int:
    data, count = transport.value(), 0
    while data:
        data = data[2 + int.from_bytes(data[:2], "big") :]
        count += 1
    return count


def test_queries_cut_anywhere_and_glued_together_are_answered_in_order(clock: Clock, counter: Any) -> None:
    connection, transport = connect(clock, counter)
    for octet in FRAMED:
        connection.dataReceived(bytes([octet]))
    connection.dataReceived(FRAMED * 3 + FRAMED[:5])
    assert answers(transport) == 4
    connection.dataReceived(FRAMED[5:])
    assert answers(transport) == 5


def test_an_idle_connection_is_closed_and_dribbling_does_not_help(clock: Clock, counter: Any) -> None:
    connection, transport = connect(clock, counter)
    connection.dataReceived(FRAMED)
    for octet in FRAMED[:5]:
        connection.dataReceived(bytes([octet]))
        clock.advance(TCP_IDLE / 5)
    assert transport.aborted


def test_a_busy_connection_ends_in_time_and_after_so_many_queries(clock: Clock, counter: Any) -> None:
    connection, transport = connect(clock, counter)
    for _ in range(int(TCP_TOTAL / 5)):
        connection.dataReceived(FRAMED)
        clock.advance(5)
    assert transport.aborted
    connection.connectionLost(Failure(ConnectionDone()))
    connection, transport = connect(clock, counter)
    for _ in range(TCP_QUERIES + 1):
        connection.dataReceived(FRAMED)
    assert transport.aborted and answers(transport) == TCP_QUERIES


def test_a_query_too_large_or_no_query_ends_the_connection(clock: Clock, counter: Any) -> None:
    for data in ((LARGEST_QUERY + 1).to_bytes(2, "big"), b"\0\4abcd"):
        connection, transport = connect(clock, counter)
        connection.dataReceived(data)
        assert transport.aborted
        connection.connectionLost(Failure(ConnectionDone()))


def test_a_client_that_does_not_read_is_not_read_from(clock: Clock, counter: Any) -> None:
    connection, transport = connect(clock, counter)
    connection.pauseProducing()
    assert transport.producerState == "paused"
    connection.dataReceived(FRAMED * 4)
    assert answers(transport) == 0
    connection.resumeProducing()
    assert answers(transport) == 4 and transport.producerState == "producing"


def test_connections_are_counted_in_and_out(clock: Clock, counter: Any) -> None:
    first, _ = connect(clock, counter)
    connect(clock, counter)
    third, transport = connect(clock, counter)
    assert transport.aborted and counter.open == 2
    third.connectionLost(Failure(ConnectionDone()))
    first.connectionLost(Failure(ConnectionDone()))
    assert counter.open == 1


def test_nothing_stays_behind_a_closed_connection(clock: Clock, counter: Any) -> None:
    connection, _ = connect(clock, counter)
    connection.dataReceived(FRAMED)
    connection.connectionLost(Failure(ConnectionDone()))
    assert clock.getDelayedCalls() == [] and counter.open == 0
