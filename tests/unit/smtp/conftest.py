"""A door in memory: real tables of a few rows, an intake that remembers, a clock that stands still."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITLSTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import (
    Account,
    Circumstances,
    IAuthenticator,
    IIntake,
    IPolicyCheck,
    IPrincipal,
    ITrace,
    Stage,
    Transaction,
    Verdict,
)
from lorrainemail.policy.chain import Guarded, PolicyChain
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.mechanisms import CREDENTIALS_INVALID
from lorrainemail.sasl.portal import Principal
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.factory import SmtpFactory
from lorrainemail.smtp.server import SmtpServer
from lorrainemail.smtp.settings import DoorSettings
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import DomainRow, NetworkRow, Rules
from lorrainemail.tables.snapshot import Snapshot

BOB = Account(parse_address("bob@ours.test"))
ANNE = Account(parse_address("anne@ours.test"), may_send_as=("sales@ours.test",))
FULL = Account(parse_address("full@ours.test"))
TAKEN = Reply(250, "2.0.0", "Ok, delivered")


@implementer(IIntake)
class Intake:
    """Remembers what it was given. ``answer`` is a reply, or a Deferred per message."""

    def __init__(self) -> None:
        self.taken: list[Transaction] = []
        self.wires: list[bytes] = []
        self.answer: Callable[[Transaction], Deferred[Reply]] = lambda _: succeed(TAKEN)
        self.each: Callable[[Transaction], Deferred[list[Reply]]] = lambda t: succeed(
            [TAKEN] * len(t.accepted)
        )

    def take(self, transaction: Transaction) -> Deferred[Reply]:
        self.taken.append(transaction)
        self.wires.append(b"".join(transaction.content.chunks()))
        return self.answer(transaction)

    def take_each(self, transaction: Transaction) -> Deferred[list[Reply]]:
        self.taken.append(transaction)
        self.wires.append(b"".join(transaction.content.chunks()))
        return self.each(transaction)


@implementer(ITrace)
class Trace:
    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def event(self, message: str, kind: str, **facts: object) -> None:
        self.events.append((message, kind, facts))


@implementer(IAuthenticator)
class Authenticator(PasswordLogins):
    """anne's and bob's password is "secret"; ``pending`` holds back the answer when it is a list."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes, Session, str]] = []
        self.pending: list[Deferred[IPrincipal]] | None = None

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[IPrincipal]:
        self.asked.append((username, password, session, mechanism))
        if self.pending is not None:
            self.pending.append(Deferred())
            return self.pending[-1]
        account = {b"anne@ours.test": ANNE, b"bob@ours.test": BOB}.get(username)
        if account is None or password != b"secret":
            return fail(PermanentError(CREDENTIALS_INVALID))
        return succeed(Principal(account, None, mechanism))  # type: ignore[arg-type]


@implementer(IPolicyCheck)
class Check:
    """A check that answers with ``answer``."""

    name = "check"

    def __init__(self, *stages: Stage) -> None:
        self.stages = frozenset(stages)
        self.seen: list[Circumstances] = []
        self.answer: Callable[[], Any] = lambda: None

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        self.seen.append(circumstances)
        answer: Verdict | None = self.answer()
        return answer


class Tables:
    """A table service with one snapshot."""

    def __init__(self, snapshot: Any) -> None:
        self.snapshot = snapshot

    def current(self) -> Any:
        return self.snapshot


class SlowTables:
    """A snapshot whose expansions are fired by the test."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.waiting: list[Callable[[], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._snapshot, name)

    def expand(self, address: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.waiting.append(lambda: answer.callback(self._snapshot.expand(address)))
        return answer


class Transport(StringTransport):
    """Also counts writes, and can be told that it speaks (or may start) TLS."""

    def __init__(self, peer: str) -> None:
        super().__init__(IPv4Address("TCP", "192.0.2.1", 25), IPv4Address("TCP", peer, 4242), lenient=True)
        self.writes: list[bytes] = []
        self.started: object | None = None
        directlyProvides(self, ITLSTransport)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        super().write(data)

    def startTLS(self, context: object) -> None:
        self.started = context


class Client:
    """The other end of one connection."""

    def __init__(self, door: Door, peer: str = "198.51.100.7") -> None:
        self.transport = Transport(peer)
        self.server: SmtpServer = SmtpFactory(door).buildProtocol(None)
        self.server.makeConnection(self.transport)
        self.greeting = self.read()

    def read(self) -> str:
        """What came since the last time."""
        text: bytes = self.transport.value()
        self.transport.clear()
        self.transport.writes.clear()
        return text.decode()

    def send(self, data: bytes | str) -> str:
        """Send octets in one piece; answer what comes at once."""
        self.server.dataReceived(data.encode() if isinstance(data, str) else data)
        return self.read()

    def say(self, *lines: str) -> list[str]:
        """Send lines one by one; the replies' first 9 characters (codes)."""
        return [self.send(line + "\r\n")[:9].strip() for line in lines]

    def mail(self, wire: bytes = b"Subject: x\r\n\r\nbody\r\n", rcpt: str = "bob@ours.test") -> str:
        """A whole transaction; the last reply."""
        self.send(f"EHLO client.test\r\nMAIL FROM:<carole@elorac.test>\r\nRCPT TO:<{rcpt}>\r\nDATA\r\n")
        return self.send(wire + b".\r\n")

    @property
    def closing(self) -> bool:
        return bool(self.transport.disconnecting)

    def lose(self) -> None:
        self.server.connectionLost(Failure(ConnectionDone()))


class World:
    """A door and its neighbours."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.intake = Intake()
        self.trace = Trace()
        self.authenticator = Authenticator()
        self.check = Check()
        self.tls: object | None = None
        self.full: Reply | None = None
        self.settings = DoorSettings("smtp", "mail.ours.test", str(directory), message_size=1_000_000)
        self.snapshot = Snapshot(
            memory_set(accounts=(BOB, ANNE, FULL)),
            Rules(
                domains={"ours.test": DomainRow("ours.test")},
                networks=(NetworkRow(ipaddress.ip_network("10.1.0.0/16")),),
            ),
        )
        self.tables = Tables(self.snapshot)
        self.clients: list[Client] = []
        self._door: Door | None = None

    def submission(self, **more: Any) -> World:
        return self.configure(door="submission", login="required", plaintext_login=True, **more)

    def configure(self, **more: Any) -> World:
        self.settings = attrs.evolve(self.settings, **more)
        return self

    @property
    def door(self) -> Door:
        if self._door is None:
            self._door = Door(
                self.settings,
                self.clock,
                self.tables,  # type: ignore[arg-type]
                PolicyChain([Guarded(self.check, 10.0, True)], self.clock),
                lambda account, size: Reply(552, "5.2.2", "Mailbox full") if account is FULL else None,
                self.intake,
                self.trace,
                self.tls,
                self.authenticator,
                lambda size: self.full,
                lambda: 1_700_000_000.0,
            )
        return self._door

    def connect(self, peer: str = "198.51.100.7") -> Client:
        client = Client(self.door, peer)
        self.clients.append(client)
        return client

    def slow_tables(self) -> SlowTables:
        self.tables.snapshot = slow = SlowTables(self.snapshot)
        return slow

    def logged_in(self) -> Client:
        client = self.connect()
        # NUL anne@ours.test NUL secret
        assert client.say("EHLO c", "AUTH PLAIN AGFubmVAb3Vycy50ZXN0AHNlY3JldA==")[1] == "235 2.7.0"
        return client


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for client in world.clients:
        if not client.server._lost:
            client.lose()
    world.clock.advance(60)
    assert world.clock.getDelayedCalls() == []
    assert world.door.connections.open == 0
