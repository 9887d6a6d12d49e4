"""An IMAP door over the store in memory: sessions on in-memory transports, time by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from lorrainemail.addresses import Address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, Reply, TemporaryError
from lorrainemail.imap.factory import ImapFactory
from lorrainemail.interfaces import Account, IPrincipal
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.portal import Principal
from lorrainemail.store.memory import MemoryContent, MemoryHome, MemoryMailbox, MemoryStore

ACCOUNT = Account(Address("bob", "bricoleur.com"))


class Transport(StringTransport):
    """A TCP transport in memory with what the door asks of one."""

    def __init__(self) -> None:
        super().__init__(
            hostAddress=IPv4Address("TCP", "127.0.0.1", 143), peerAddress=IPv4Address("TCP", "192.0.2.9", 999)
        )
        self.tls: list[object] = []
        self.aborted = False
        self.nodelay = False

    def startTLS(self, context: object) -> None:
        self.tls.append(context)

    def setTcpNoDelay(self, on: bool) -> None:
        self.nodelay = on

    def abortConnection(self) -> None:
        self.aborted = True
        self.disconnecting = True


class Authenticator(PasswordLogins):
    """bob / sesame; ``late`` answers wait for the test."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.asked: list[tuple[bytes, bytes, Session, str]] = []
        self.waiting: list[Deferred[None]] = []
        self.late = False

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[IPrincipal]:
        self.asked.append((username, password, session, mechanism))
        if username == b"table":
            return fail(TemporaryError(Reply(454, "4.7.0", "later")))
        if (username, password) not in (
            (b"bob", b"sesame"),
            (b"bob", b'se"sa\\me'),
            (b"bob", "sésame".encode()),
        ):
            return fail(PermanentError(Reply(535, "5.7.8", "no"), "wrong password"))
        principal: Any = Principal(ACCOUNT, self.store.home(ACCOUNT), mechanism)
        if self.late:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            return waiting.addCallback(lambda _: principal)
        return succeed(principal)


class Tls:
    def context_factory(self, door: str) -> object:
        return f"context of {door}"


class Client:
    """One connection: speak, and read what came back."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.transport = Transport()
        self.session = door.factory.buildProtocol(None)
        self.session.factory = door.factory
        self.session.makeConnection(self.transport)
        self.greeting = self.read()

    def read(self) -> list[str]:
        """The lines that came (latin-1), after letting the door finish what it can."""
        for _ in range(2000):
            before = self.transport.value()
            self.door.clock.advance(0)
            if self.transport.value() == before and not self.door.clock.getDelayedCallsDue():
                break
        data = self.transport.value().decode("latin-1")
        self.transport.clear()
        lines = data.split("\r\n")
        return lines if lines[-1] else lines[:-1]

    def say(self, text: str | bytes) -> list[str]:
        """Send one line (or octets as they are) and read."""
        data = text if isinstance(text, bytes) else text.encode("utf-8") + b"\r\n"
        self.session.dataReceived(data)
        return self.read()

    def login(self) -> Client:
        assert self.say("l LOGIN bob sesame")[-1].startswith("l OK")
        return self

    def select(self, name: str = "INBOX") -> Client:
        assert self.say(f"s SELECT {name}")[-1].startswith("s OK")
        return self

    @property
    def closed(self) -> bool:
        return self.transport.disconnecting

    def lose(self) -> None:
        from twisted.internet.error import ConnectionLost
        from twisted.python.failure import Failure

        self.session.connectionLost(Failure(ConnectionLost()))


class HandClock(Clock):
    def getDelayedCallsDue(self) -> list[object]:
        return [call for call in self.getDelayedCalls() if call.getTime() <= self.seconds()]


class Door:
    """The door, its store and its clock."""

    def __init__(self, **settings: Any) -> None:
        self.clock = HandClock()
        self.clock.advance(1_794_646_800)
        self.store = MemoryStore(self.clock)
        self.authenticator = Authenticator(self.store)
        self.counter = ConnectionCounter(100, 100)
        settings = {"door": "imap", "tls": None, "plaintext": True, "message_size": 1_000_000, **settings}
        self.factory = ImapFactory(
            authenticator=self.authenticator,
            clock=self.clock,
            counter=self.counter,
            run=lambda work, *arguments: maybeDeferred(work, *arguments),
            spill_directory="/tmp",
            hostname="mail.bricoleur.com",
            **settings,
        )

    @property
    def home(self) -> MemoryHome:
        return self.store.memory_home(ACCOUNT)

    def folder(self, name: str = "INBOX") -> MemoryMailbox:
        return self.home.folder(name)

    def put(self, *texts: str | bytes, folder: str = "INBOX", flags: tuple[str, ...] = ()) -> list[int]:
        """Deliver messages; their UIDs."""
        uids: list[int] = []
        for text in texts:
            data = text if isinstance(text, bytes) else text.replace("\n", "\r\n").encode("utf-8")
            self.folder(folder).append(MemoryContent(data), flags, None).addCallback(uids.append)
        return uids

    def client(self) -> Client:
        return Client(self)

    def selected(self, name: str = "INBOX") -> Client:
        return self.client().login().select(name)


@pytest.fixture
def make_door() -> Callable[..., Door]:
    return Door


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def tls() -> Tls:
    return Tls()


@pytest.fixture
def numbers() -> Callable[[str], list[int]]:
    return lambda line: list(map(int, re.findall(r"\d+", line)))
