"""Whatever a client sends and however it is cut: one answer a command, the same answers, nothing lost."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account, IAuthenticator
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.pop3.factory import Pop3Factory
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.portal import Principal
from lorrainemail.store.memory import MemoryContent, MemoryStore

BOB = Account(parse_address("bob@x.org"))
MESSAGES = (b"A: b\r\n\r\n.\r\nbody\r\n", b"A: c\r\n\r\nno end", b"")

COMMANDS = """CAPA|USER bob|PASS pw|AUTH PLAIN AGJvYgBwdw==|AUTH LOGIN|*|STAT|LIST|LIST 1|UIDL|UIDL 2
RETR 1|RETR 2|RETR 3|TOP 1 0|TOP 2 9|DELE 1|DELE 2|RSET|NOOP|STLS|APOP x y||RETR|LIST -1|retr 1 |QUIT"""
WORDS = st.sampled_from([word.encode() for word in COMMANDS.replace("\n", "|").split("|")])
SCRIPTS = st.lists(WORDS | st.binary(max_size=20), max_size=20)


@implementer(IAuthenticator)
@attrs.define
class Anybody(PasswordLogins):
    store: MemoryStore

    def authenticate(self, username: bytes, password: bytes, session: Any, mechanism: str = "PLAIN") -> Any:
        return succeed(Principal(BOB, self.store.home(BOB), mechanism))


class Transport(StringTransport):
    def abortConnection(self) -> None:
        self.disconnecting = True


def converse(pieces: list[bytes]) -> tuple[bytes, tuple[int, ...], list[object]]:
    """What the server says, what is left in the mailbox, what failed."""
    clock = Clock()
    store = MemoryStore(clock)
    for message in MESSAGES:
        store.placement(BOB, "", b"", MemoryContent(message), "id").commit()
    factory = Pop3Factory("pop3", Anybody(store), clock, ConnectionCounter(5, 5), plaintext=True)
    server, transport = factory.buildProtocol(None), Transport()
    failures: list[object] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    try:
        server.makeConnection(transport)
        for piece in pieces:
            server.dataReceived(piece)
        server.connectionLost(Failure(ConnectionDone()))
    finally:
        globalLogPublisher.removeObserver(observe)
    assert clock.getDelayedCalls() == []
    inbox = store.memory_home(BOB).folder("INBOX")
    assert inbox.users == 0
    return transport.value(), tuple(inbox.uids()), failures


@settings(max_examples=150, deadline=None)
@given(SCRIPTS, st.lists(st.integers(1, 7), min_size=1, max_size=20))
def test_cuts_between_packets_change_no_answer(script: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\r\n" for line in script)
    pieces, at = [], 0
    while at < len(stream):
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(stream[at : at + size])
        at += size
    whole = converse([stream])
    assert converse(pieces) == whole
    assert whole[2] == []


@settings(max_examples=150, deadline=None)
@given(SCRIPTS)
def test_without_a_final_quit_nothing_is_deleted(script: list[bytes]) -> None:
    lines = [line for line in script if not line.upper().startswith(b"QUIT")]
    _, uids, failures = converse([b"USER bob\r\nPASS pw\r\n", *(line + b"\r\n" for line in lines)])
    assert uids == (1, 2, 3) and failures == []
