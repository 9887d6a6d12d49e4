"""Filters of our own making, honest ones and others, on a UNIX socket; and what they are asked."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.filters.asking import Means, Question
from lorrainemail.ops.content import Content

MESSAGE = (
    "From: carole@elorac.fr\r\nSubject: Une\r\n\tvieille étagère\r\nX-Old: 1\r\nX-Old: 2\r\n\r\n"
    "Bonjour\r\n.\r\nBob\r\n"
).encode()


class Peer(Protocol):
    """A filter: what came is in ``got``; ``answer`` is called with all of it at each piece."""

    transport: Any

    def __init__(self, answer: Callable[[Peer, bytes], None]) -> None:
        self.got = b""
        self.answer = answer
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        self.answer(self, self.got)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(None)


@attrs.define
class Filters:
    directory: Path
    ports: list[Any]
    peers: list[Peer]

    def start(self, answer: Callable[[Peer, bytes], None]) -> str:
        path = self.directory / f"f{len(self.ports)}"

        def build(_: Any) -> Peer:
            peer = Peer(answer)
            self.peers.append(peer)
            return peer

        factory = Factory()
        factory.buildProtocol = build  # type: ignore[assignment]
        self.ports.append(reactor.listenUNIX(str(path), factory))  # type: ignore[attr-defined]
        return f"unix:{path}"


@pytest.fixture
def filters(tmp_path: Path) -> Iterator[Filters]:
    made = Filters(tmp_path, [], [])
    yield made
    for peer in made.peers:
        if not peer.lost.called:
            peer.transport.abortConnection()
            pytest_twisted.blockon(peer.lost)
    for port in made.ports:
        pytest_twisted.blockon(port.stopListening())


def asked(message: bytes = MESSAGE, **more: Any) -> Question:
    session = Session("s", "smtp", "192.0.2.7", 4711, helo="mail.elorac.fr", esmtp=True)
    envelope = Envelope(
        "m1", parse_address("carole@elorac.fr"), (Recipient(parse_address("bob@bricoleur.com")),)
    )
    given = {"fields": b"", "received": b"Received: from x\r\n\tby y\r\n", **more}
    return Question(session, envelope, Content(message), "mail.bricoleur.com", **given)


@pytest.fixture
def question() -> Callable[..., Question]:
    return asked


@pytest.fixture
def means(tmp_path: Path) -> Callable[..., Means]:
    def make(address: str, **more: Any) -> Means:
        given = {"spill": str(tmp_path), "limit": 100_000, **more}
        return Means(reactor, address, lambda work: succeed(work()), **given)

    return make


def packets(octets: bytes) -> list[tuple[bytes, bytes]]:
    """Whole milter packets."""
    found = []
    while len(octets) >= 4:
        (size,) = struct.unpack("!I", octets[:4])
        if len(octets) < 4 + size:
            break
        found.append((octets[4:5], octets[5 : 4 + size]))
        octets = octets[4 + size :]
    return found


def packet(command: bytes, content: bytes = b"") -> bytes:
    return struct.pack("!I", 1 + len(content)) + command + content


class Milter:
    """A milter by the book: answers every step; ``end`` at the end of the message, ``at`` at others."""

    def __init__(
        self, end: bytes = packet(b"c"), at: dict[bytes, bytes] | None = None, steps: int = 0
    ) -> None:
        self.end, self.at, self.steps = end, at or {}, steps
        self.seen: list[tuple[bytes, bytes]] = []
        self.offered = (0, 0, 0)
        self.version = 6
        self.actions = 0xFF

    def __call__(self, peer: Peer, got: bytes) -> None:
        whole = packets(got)
        new = whole[len(self.seen) :]
        for command, content in new:
            self.seen.append((command, content))
            if command == b"O":
                self.offered = struct.unpack("!III", content)
                answer = struct.pack("!III", self.version, self.actions, self.steps)
                peer.transport.write(packet(b"O", answer))
            elif command in self.at:
                peer.transport.write(self.at[command])
            elif command == b"E":
                peer.transport.write(self.end)
            elif command not in b"DQA":
                peer.transport.write(packet(b"c"))

    def of(self, command: bytes) -> list[bytes]:
        return [content for one, content in self.seen if one == command]


@pytest.fixture
def milter() -> type[Milter]:
    return Milter
