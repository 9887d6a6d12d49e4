"""An SMTP server on loopback that misbehaves exactly as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor, ssl
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory, Protocol

EHLO = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8")


@attrs.define
class Behaviour:
    """What the peer answers. ``replies`` maps a verb ("greeting", "EHLO", "MAIL", "RCPT", "DATA", ".") to a
    reply or to a list of replies, used in turn, the last one again and again. A reply of "" is silence,
    "DROP" cuts the connection, "RAW:..." is sent as it is. ``early`` is sent once so many octets of a message
    are in."""

    extensions: tuple[str, ...] = EHLO
    replies: dict[str, Any] = attrs.field(factory=dict)
    tls: Any = None
    early: tuple[int, bytes] | None = None
    commands: list[str] = attrs.field(factory=list)
    messages: list[bytes] = attrs.field(factory=list)
    connections: int = 0
    secured: int = 0

    def reply(self, verb: str) -> str:
        found = self.replies.get(verb, DEFAULTS.get(verb, "250 2.0.0 ok"))
        if isinstance(found, list):
            return str(found.pop(0) if len(found) > 1 else found[0])
        return str(found)

    def verbs(self) -> list[str]:
        return [command.split(" ", 1)[0] for command in self.commands]


DEFAULTS = {"greeting": "220 peer ESMTP", "DATA": "354 go on", "QUIT": "221 2.0.0 bye", "STARTTLS": "220 go"}


class PeerProtocol(Protocol):
    transport: Any

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    def connectionMade(self) -> None:
        self.buffer = b""
        self.body: bytes | None = None
        self.auth = False
        self.chunk: tuple[int, bool] | None = None
        self.chunks = b""
        self.behaviour.connections += 1
        self.say("greeting")

    def say(self, verb: str) -> str:
        reply = self.behaviour.reply(verb)
        if reply == "DROP":
            self.transport.abortConnection()
        elif reply.startswith("RAW:"):
            self.transport.write(reply[4:].encode("latin-1"))
        elif reply:
            self.transport.write(reply.encode() + b"\r\n")
        return reply

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        while self.buffer:
            if self.chunk is not None:
                if not self.take_chunk(*self.chunk):
                    return
                continue
            if self.body is not None:
                if not self.take_body():
                    return
                continue
            line, end, rest = self.buffer.partition(b"\r\n")
            if not end:
                return
            self.buffer = rest
            self.take(line.decode("utf-8", "replace"))

    def take_body(self) -> bool:
        early = self.behaviour.early
        if early is not None and len(self.buffer) > early[0]:
            self.behaviour.early = None
            self.transport.write(early[1])
        whole = b"\r\n" + self.buffer
        at = whole.find(b"\r\n.\r\n")
        if at < 0:
            return False
        self.behaviour.messages.append(whole[: at + 2].replace(b"\r\n..", b"\r\n.")[2:])
        self.buffer = whole[at + 5 :]
        self.body = None
        self.say(".")
        return True

    def take_chunk(self, count: int, last: bool) -> bool:
        early = self.behaviour.early
        if early is not None and len(self.buffer) > early[0]:
            self.behaviour.early = None
            self.transport.write(early[1])
        if len(self.buffer) < count:
            return False
        self.chunks += self.buffer[:count]
        self.buffer = self.buffer[count:]
        self.chunk = None
        if last:
            self.behaviour.messages.append(self.chunks)
            self.chunks = b""
        self.say(".")
        return True

    def take(self, line: str) -> None:
        self.behaviour.commands.append(line)
        verb = line.split(" ", 1)[0].upper()
        if self.auth:
            verb = "auth-line"
        if verb == "EHLO" and "EHLO" not in self.behaviour.replies:
            lines = ["peer", *self.behaviour.extensions]
            if self.behaviour.tls is not None and not self.secure:
                lines.append("STARTTLS")
            last = len(lines) - 1
            for index, text in enumerate(lines):
                self.transport.write(f"250{' ' if index == last else '-'}{text}\r\n".encode())
            return
        if verb == "BDAT":
            count, _, last = line.split(" ", 1)[1].partition(" ")
            self.chunk = (int(count), last == "LAST")
            return
        reply = self.say(verb)
        self.auth = reply.startswith("334")
        if verb == "DATA" and reply.startswith("354"):
            self.body = b""
        elif verb == "STARTTLS" and reply.startswith("220") and self.behaviour.tls is not None:
            self.transport.startTLS(self.behaviour.tls)
            self.behaviour.secured += 1
        elif verb == "QUIT":
            self.transport.loseConnection()

    @property
    def secure(self) -> bool:
        return ssl.Certificate is not None and hasattr(self.transport, "getPeerCertificate")


@attrs.define
class Peer:
    behaviour: Behaviour
    port: int
    protocols: list[PeerProtocol]

    def drop(self) -> None:
        """Cut every connection."""
        for protocol in self.protocols:
            protocol.transport.abortConnection()


MakePeer = Callable[..., Peer]


@pytest.fixture
def make_peer() -> Iterator[MakePeer]:
    """Peers on 127.0.0.1 (or another loopback address); all are closed after the test."""
    ports: list[Any] = []
    protocols: list[PeerProtocol] = []

    def make(interface: str = "127.0.0.1", port: int = 0, **facts: Any) -> Peer:
        behaviour = Behaviour(**facts)
        own: list[PeerProtocol] = []

        def build() -> PeerProtocol:
            protocol = PeerProtocol(behaviour)
            protocols.append(protocol)
            own.append(protocol)
            return protocol

        factory = Factory.forProtocol(build)
        factory.noisy = False
        listening = reactor.listenTCP(port, factory, interface=interface)  # type: ignore[attr-defined]
        ports.append(listening)
        return Peer(behaviour, listening.getHost().port, own)

    yield make
    for protocol in protocols:
        protocol.transport.abortConnection()
    pytest_twisted.blockon(gatherResults([port.stopListening() for port in ports]))
