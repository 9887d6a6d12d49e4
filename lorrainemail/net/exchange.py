"""One question to one DNS server: UDP, then TCP where the answer was cut (RFC 1035 §4.2, RFC 7766).

The resolver (:mod:`lorrainemail.net.resolver`) is the only caller; it chooses servers, repeats and remembers.

Against spoofed answers (RFC 5452): every question leaves from a fresh socket, so from a port that the kernel
chose at random, connected to the server, with a random id; an answer counts only from that server, with that
id and the very question that was asked. Anything else is dropped and the wait goes on.

Fails with :class:`ExchangeError`, after at most the given seconds.
"""

from __future__ import annotations

import secrets
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector, IDelayedCall, IReadDescriptor
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.internet.protocol import Protocol as StreamProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

#: What we offer to take over UDP (RFC 9715 §3.1): no fragments.
UDP_PAYLOAD: Final = 1232
#: Datagrams that are looked at for one question; a flood of wrong ones ends it.
MAX_DATAGRAMS: Final = 64
#: Octets of the largest datagram there is.
MAX_DATAGRAM: Final = 65535


class ReactorForDns(Protocol):
    """What is needed of the reactor."""

    def addReader(self, reader: Any) -> Any: ...

    def removeReader(self, reader: Any) -> Any: ...

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = ...) -> Any: ...

    def callLater(self, delay: float, function: Callable[..., object], *args: object) -> IDelayedCall: ...

    def seconds(self) -> float: ...


_Waiting = Deferred[dns.message.Message]


class ExchangeError(Exception):
    """No usable answer from this server."""


@attrs.frozen(slots=True)
class Server:
    """Address and port of a resolver."""

    host: str
    port: int = 53

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def make_query(
    name: dns.name.Name, rdtype: dns.rdatatype.RdataType, want_ad: bool, edns: bool
) -> dns.message.Message:
    """A question with a random id; ``want_ad``: ask for the server's DNSSEC verdict (RFC 6840 §5.7)."""
    query = dns.message.make_query(name, rdtype, use_edns=0 if edns else -1, payload=UDP_PAYLOAD)
    query.id = secrets.randbits(16)
    if want_ad:
        query.flags |= dns.flags.AD
    return query


async def exchange(
    reactor: ReactorForDns, server: Server, query: dns.message.Message, seconds: float
) -> dns.message.Message:
    """The server's answer to the query, whole.

    :raises ExchangeError: where there is none in time, or only nonsense.
    """
    answer = await _over_udp(reactor, server, query, seconds)
    if answer.flags & dns.flags.TC:
        answer = await _over_tcp(reactor, server, query, seconds)
        if answer.flags & dns.flags.TC:
            raise ExchangeError(f"{server}: truncated over TCP")
    return answer


def _parse(wire: bytes, query: dns.message.Message) -> dns.message.Message | None:
    """The answer to the query, None where this is something else or broken."""
    if len(wire) < 12 or wire[:2] != query.id.to_bytes(2, "big"):
        return None
    try:
        answer = dns.message.from_wire(wire, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError, struct.error):
        # cut in the middle of a record, as some servers do with TC set (RFC 2181 §9)
        if not wire[2] & 0x02 or not wire[2] & 0x80:
            return None
        answer = dns.message.QueryMessage(query.id)
        answer.flags = int.from_bytes(wire[2:4], "big")
        return answer
    if not answer.flags & dns.flags.QR or answer.opcode() != query.opcode():
        return None
    if not query.is_response(answer):  # the question section must be ours
        return None
    return answer


@implementer(IReadDescriptor)
class _Udp:
    """A socket that asks once and waits for the one answer.

    Twisted's own UDP port writes a line into the log at its end, which for each question is too much.
    """

    def __init__(
        self, server: Server, query: dns.message.Message, done: Deferred[dns.message.Message]
    ) -> None:
        """Ask. OSError where that is not possible."""
        self._server = server
        self._query = query
        self._done = done
        self._seen = 0
        family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect((server.host, server.port))
            self._socket.send(query.to_wire())
        except OSError:
            self._socket.close()
            raise

    def doRead(self) -> None:
        """What has come, as far as it goes in one turn."""
        while not self._done.called:
            try:
                datagram = self._socket.recv(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._refused()
                return
            answer = _parse(datagram, self._query)
            self._seen += 1
            if answer is not None:
                self._done.callback(answer)
            elif self._seen >= MAX_DATAGRAMS:
                self._done.errback(ExchangeError(f"{self._server}: a flood of wrong answers"))

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "dns"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor found an error of the socket, or ends."""
        self._refused()

    def _refused(self) -> None:
        if not self._done.called:
            self._done.errback(ExchangeError(f"{self._server}: no resolver there"))

    def close(self) -> None:
        self._socket.close()


async def _over_udp(
    reactor: ReactorForDns, server: Server, query: dns.message.Message, seconds: float
) -> dns.message.Message:
    done: _Waiting = Deferred()
    try:
        udp = _Udp(server, query, done)
    except OSError as error:
        raise ExchangeError(f"{server}: {error}") from error
    reactor.addReader(udp)
    timer = reactor.callLater(seconds, _time_out, done, server)
    try:
        return await done
    finally:
        if timer.active():
            timer.cancel()
        reactor.removeReader(udp)
        udp.close()


def _time_out(done: _Waiting, server: Server) -> None:
    if not done.called:
        done.errback(ExchangeError(f"{server}: no answer in time"))


class _Tcp(StreamProtocol):
    """One question, one answer with its length before it (RFC 1035 §4.2.2): bounded by that length's two
    octets."""

    def __init__(
        self, server: Server, query: dns.message.Message, done: Deferred[dns.message.Message]
    ) -> None:
        self._server = server
        self._query = query
        self._done = done
        self._buffer = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        wire = self._query.to_wire()
        self.transport.write(len(wire).to_bytes(2, "big") + wire)

    def dataReceived(self, data: bytes) -> None:
        if self._done.called:
            return
        self._buffer += data
        if len(self._buffer) < 2:
            return
        length = int.from_bytes(self._buffer[:2], "big")
        if len(self._buffer) < 2 + length:
            return
        answer = _parse(self._buffer[2 : 2 + length], self._query)
        if answer is None:
            self._done.errback(ExchangeError(f"{self._server}: nonsense over TCP"))
        else:
            self._done.callback(answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._done.called:
            self._done.errback(ExchangeError(f"{self._server}: TCP connection closed"))


class _TcpFactory(ClientFactory):
    noisy = False

    def __init__(
        self, server: Server, query: dns.message.Message, done: Deferred[dns.message.Message]
    ) -> None:
        self._protocol = _Tcp(server, query, done)
        self._done = done

    def buildProtocol(self, addr: object) -> _Tcp:
        return self._protocol

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._done.called:
            self._done.errback(ExchangeError(f"no TCP connection: {reason.getErrorMessage()}"))


async def _over_tcp(
    reactor: ReactorForDns, server: Server, query: dns.message.Message, seconds: float
) -> dns.message.Message:
    done: _Waiting = Deferred()
    connector = reactor.connectTCP(server.host, server.port, _TcpFactory(server, query, done), seconds)
    timer = reactor.callLater(seconds, _time_out, done, server)
    try:
        return await done
    finally:
        if timer.active():
            timer.cancel()
        connector.disconnect()
