"""DNS over UDP and TCP (RFC 1035 §4.2, RFC 7766) on Twisted.

Owns the transports: datagrams in and out, and TCP messages with their length, idle and total limits, and
back-pressure. :func:`listen` binds both at one port; :mod:`lorrainemail.service`, the lab and the tests call
it. What to answer is :mod:`lorrainemail.dns.responder`'s.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import DatagramProtocol, Protocol, ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.dns.responder import LARGEST_QUERY, Responder
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.peers import canonical, peer_of

log = Logger(namespace="lorrainemail.dns")

#: RFC 7766 §6.2.3: a connection without a complete query for so long is closed.
TCP_IDLE: Final = 10.0
#: And any connection after so long, or so many queries.
TCP_TOTAL: Final = 120.0
TCP_QUERIES: Final = 1000
#: Connections at once, in all and from one peer network.
TCP_CONNECTIONS: Final = 100
TCP_CONNECTIONS_PER_PEER: Final = 20
#: Tries to find a port that is free for both protocols.
PORT_TRIES: Final = 20


class DnsDatagrams(DatagramProtocol):
    """DNS over UDP."""

    noisy = False

    def __init__(self, responder: Responder) -> None:
        self._responder = responder

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        response = self._responder.udp(datagram, canonical(addr[0]))
        if response is None or self.transport is None:
            return
        try:
            self.transport.write(response, addr)
        except OSError as error:
            # The client will ask again.
            log.debug("A response could not be sent: {error}", error=str(error))


@implementer(IPushProducer)
class DnsConnection(Protocol):
    """DNS over TCP: messages with a two-octet length each, answered in order."""

    def __init__(self, responder: Responder, clock: IReactorTime, counter: ConnectionCounter) -> None:
        self._responder = responder
        self._clock = clock
        self._counter = counter
        self._buffer = b""
        self._queries = 0
        self._peer: str | None = None
        self._paused = False
        self._timers: dict[str, IDelayedCall] = {}

    def connectionMade(self) -> None:
        transport: Any = self.transport
        peer = peer_of(transport)[0]
        if self._counter.enter(peer) is not None:
            transport.abortConnection()
            return
        self._peer = peer
        transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        self._timers["total"] = self._clock.callLater(TCP_TOTAL, transport.abortConnection)
        self._timers["idle"] = self._clock.callLater(TCP_IDLE, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._peer is None:
            return
        self._buffer += data
        self._work()

    def connectionLost(self, reason: Failure | None = None) -> None:
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        if self._peer is not None:
            self._counter.leave(self._peer)
            self._peer = None

    def pauseProducing(self) -> None:
        """The client does not take its answers: read no further queries."""
        self._paused = True
        transport: Any = self.transport
        transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        transport: Any = self.transport
        transport.resumeProducing()
        self._work()

    def stopProducing(self) -> None:
        """The connection is gone; connectionLost does the rest."""

    def _work(self) -> None:
        transport: Any = self.transport
        at = 0
        while not self._paused and len(self._buffer) - at >= 2:
            length = int.from_bytes(self._buffer[at : at + 2], "big")
            if length > LARGEST_QUERY or self._queries >= TCP_QUERIES:
                transport.abortConnection()
                return
            if len(self._buffer) - at - 2 < length:
                break
            self._queries += 1
            self._timers["idle"].reset(TCP_IDLE)
            response = self._responder.tcp(self._buffer[at + 2 : at + 2 + length])
            at += 2 + length
            if response is None:
                transport.abortConnection()
                return
            transport.write(len(response).to_bytes(2, "big") + response)
        self._buffer = self._buffer[at:]


class DnsFactory(ServerFactory):
    """Makes TCP connections."""

    noisy = False

    def __init__(
        self, responder: Responder, clock: IReactorTime, counter: ConnectionCounter | None = None
    ) -> None:
        self._responder = responder
        self._clock = clock
        self._counter = counter or ConnectionCounter(TCP_CONNECTIONS, TCP_CONNECTIONS_PER_PEER)

    def buildProtocol(self, addr: IAddress | None) -> DnsConnection:
        return DnsConnection(self._responder, self._clock, self._counter)


def listen(
    reactor: Any, responder: Responder, host: str, port: int = 53
) -> tuple[IListeningPort, IListeningPort]:
    """Bind UDP and TCP at the same port of one address; port 0 finds one that is free for both.

    :returns: the UDP and the TCP port; ``getHost().port`` tells the number.
    :raises twisted.internet.error.CannotListenError: with nothing left bound.
    """
    tries = PORT_TRIES if port == 0 else 1
    while True:
        tries -= 1
        tcp: IListeningPort = reactor.listenTCP(port, DnsFactory(responder, reactor), interface=host)
        bound: Any = tcp.getHost()
        number = bound.port
        try:
            udp: IListeningPort = reactor.listenUDP(
                number, DnsDatagrams(responder), interface=host, maxPacketSize=LARGEST_QUERY + 1
            )
        except CannotListenError:
            tcp.stopListening()
            if tries <= 0:
                raise
        else:
            return udp, tcp
