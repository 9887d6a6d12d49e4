"""SMTP over real sockets, as scripted dialogues.

In a script ``C:`` sends a line, ``C>`` one that goes out together with the next, ``S:`` expects a line (shell
patterns), ``S~`` a reply of that code in any number of lines, ``S!`` the end of the connection. ``# door:
submission`` as the first line chooses the door.
"""

from __future__ import annotations

import fnmatch
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import Account, IIntake, ITrace, PolicyResources, Transaction
from lorrainemail.policy.chain import build_chain
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.mechanisms import CREDENTIALS_INVALID
from lorrainemail.sasl.portal import Principal
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.factory import SmtpFactory
from lorrainemail.smtp.settings import DoorSettings
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import DomainRow, Rules
from lorrainemail.tables.snapshot import Snapshot

reactor: Any = installed_reactor
PATIENCE = 20.0
ACCOUNTS = [Account(parse_address(f"{name}@bricoleur.com")) for name in ("jones", "brown")]
CHECKS = ("limits", "helo", "sender_domain", "loops")


@implementer(IIntake, ITrace)
class Neighbours(PasswordLogins):
    """Tables, login, intake and trace of the door; the intake answers with what it was given."""

    snapshot = Snapshot(
        memory_set(accounts=ACCOUNTS), Rules(domains={"bricoleur.com": DomainRow("bricoleur.com")})
    )

    def current(self) -> Snapshot:
        return self.snapshot

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[Any]:
        if (username, password) == (b"jones@bricoleur.com", b"secret"):
            return succeed(Principal(ACCOUNTS[0], None, mechanism))  # type: ignore[arg-type]
        return fail(PermanentError(CREDENTIALS_INVALID))

    def take(self, transaction: Transaction) -> Deferred[Reply]:
        names = " ".join(recipient.address.key.strip("@") for recipient in transaction.envelope.recipients)
        return succeed(Reply(250, "2.0.0", f"taken: {names} {transaction.content.size} octets"))

    def event(self, message: str, kind: str, **facts: object) -> None:
        pass


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], int]]:
    """Open a door on loopback; the port."""
    open_: list[tuple[Door, Any]] = []

    def serve(name: str) -> int:
        submission = name == "submission"
        settings = DoorSettings(
            "submission" if submission else "smtp",
            "bricoleur.com",
            str(tmp_path),
            login="required" if submission else "no",
            plaintext_login=submission,
        )
        neighbours: Any = Neighbours()
        policy = build_chain(CHECKS, PolicyResources(reactor, None, "bricoleur.com"))
        door = Door(
            settings,
            reactor,
            neighbours,
            policy,
            lambda account, size: None,
            neighbours,
            neighbours,
            authenticator=neighbours,
        )
        port = reactor.listenTCP(0, SmtpFactory(door), interface="127.0.0.1")
        open_.append((door, port))
        return int(port.getHost().port)

    yield serve
    for door, port in open_:
        pytest_twisted.blockon(port.stopListening())
        pytest_twisted.blockon(door.shut_down().addTimeout(PATIENCE, reactor))


def door_of(script: Path) -> str:
    first = script.read_text().partition("\n")[0]
    return first.removeprefix("# door: ") if first.startswith("# door: ") else "smtp"


def play(script: Path, port: int) -> None:
    """One script against the server. In a thread."""
    waiting = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        stream = connection.makefile("rb")
        for number, line in enumerate(script.read_text().split("\n"), 1):
            what, _, text = line.partition(" ")
            place = f"{script.name}:{number}"
            if what == "C>":
                waiting += text.encode() + b"\r\n"
            elif what == "C:":
                connection.sendall(waiting + text.encode() + b"\r\n")
                waiting = b""
            elif what == "S:":
                got = stream.readline(100_000)
                assert got.endswith(b"\r\n"), f"{place}: got {got!r} for {text!r}"
                assert fnmatch.fnmatchcase(got[:-2].decode(), text), f"{place}: {got!r} for {text!r}"
            elif what == "S~":
                while (got := stream.readline(100_000)).startswith(f"{text}-".encode()):
                    pass
                assert got.startswith(f"{text} ".encode()), f"{place}: {got!r} for {text!r}"
            elif what == "S!":
                assert stream.read(1) == b"", f"{place}: the connection stays open"
            else:
                assert what in ("#", ""), f"{place}: not understood"


@pytest.mark.parametrize(
    "script", sorted(Path(__file__).parent.glob("smtp*.txt")), ids=lambda path: path.stem
)
@pytest_twisted.ensureDeferred
async def test_dialogue(serve: Callable[[str], int], script: Path) -> None:
    port = serve(door_of(script))
    await deferToThread(play, script, port).addTimeout(PATIENCE, reactor)
