"""POP3 sessions over the store in memory, on a transport in memory, by a clock that the test moves."""

from __future__ import annotations

import base64
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.mail.pop3 import POP3
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import Account, IAuthenticator
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.pop3.factory import Pop3Factory
from lorrainemail.pop3.input import MAX_COMMAND, MAX_SASL_LINE, MAX_WAITING
from lorrainemail.pop3.maildrop import MESSAGES_AHEAD
from lorrainemail.pop3.server import (
    CLOSE_TIMEOUT,
    COMMANDS_AT_ONCE,
    IDLE_TIMEOUT,
    LOGIN_TIMEOUT,
    MAX_ERRORS,
    MAX_LOGINS,
    Pop3Server,
)
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.portal import Principal
from lorrainemail.store.memory import MemoryContent, MemoryStore

BOB = Account(parse_address("bob@bricoleur.com"))
ONE = b"Subject: one\r\n\r\nfirst\r\n.dot\r\n"
TWO = b"Subject: two\r\n\r\nline 1\r\nline 2\r\nline 3\r\n"


@implementer(IAuthenticator)
class Door(PasswordLogins):
    """Bob's password is "pass word"; ``answer`` may be held back."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.sessions: list[Session] = []
        self.failure: Exception | None = None
        self.held: Deferred[Any] | None = None

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Any:
        self.sessions.append(session)
        if self.failure is not None:
            return fail(self.failure)
        if (username, password) != (b"bob", b"pass word"):
            return fail(PermanentError(Reply(535, "5.7.8", "no")))
        principal = Principal(BOB, self.store.home(BOB), mechanism)
        if self.held is not None:
            return self.held.addCallback(lambda _: principal)
        return succeed(principal)


class Transport(StringTransport):
    """Remembers TLS and aborts."""

    def __init__(self) -> None:
        super().__init__()
        self.tls: object = None
        self.aborted = False

    def startTLS(self, context: object) -> None:
        self.tls = context

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class Tls:
    def context_factory(self, door: str) -> object:
        return ("context", door)


@attrs.define
class Client:
    """The other end."""

    clock: Clock
    store: MemoryStore
    door: Door
    factory: Pop3Factory
    server: Pop3Server
    transport: Transport

    def send(self, data: bytes) -> bytes:
        """Octets in, what is answered at once."""
        self.server.dataReceived(data)
        return self.answered()

    def answered(self) -> bytes:
        value = self.transport.value()
        self.transport.clear()
        return value

    def ask(self, line: bytes) -> bytes:
        return self.send(line + b"\r\n")

    def log_in(self) -> None:
        assert self.send(b"USER bob\r\nPASS pass word\r\n").count(b"+OK") == 2

    def lose(self) -> None:
        self.server.connectionLost(Failure(ConnectionDone()))

    @property
    def inbox(self) -> Any:
        return self.store.memory_home(BOB).folder("INBOX")

    def reconnect(self) -> Client:
        return connect(self.factory, self)


def connect(factory: Pop3Factory, like: Client | None = None, **parts: Any) -> Client:
    server = factory.buildProtocol(None)
    transport = Transport()
    if like is not None:
        parts = {"clock": like.clock, "store": like.store, "door": like.door}
    client = Client(factory=factory, server=server, transport=transport, **parts)
    server.makeConnection(transport)
    return client


def make(
    door: Any = "pop3", plaintext: bool = True, tls: Any = None, total: int = 10, peers: int = 10
) -> Client:
    clock = Clock()
    store = MemoryStore(clock)
    authenticator = Door(store)
    factory = Pop3Factory(door, authenticator, clock, ConnectionCounter(total, peers), tls, plaintext)
    client = connect(factory, clock=clock, store=store, door=authenticator)
    for message in (ONE, TWO):
        store.placement(BOB, "", b"", MemoryContent(message), "id").commit()
    return client


def put(client: Client, message: bytes) -> None:
    client.store.placement(BOB, "", b"", MemoryContent(message), "id").commit()


@pytest.fixture
def client() -> Client:
    client = make()
    assert client.answered() == b"+OK POP3 server ready\r\n"
    return client


@pytest.fixture
def inside(client: Client) -> Client:
    client.log_in()
    return client


@pytest.fixture
def logged() -> Any:
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


# -- UTF-8 and languages --


def test_a_client_gets_utf8_in_headers_only_where_it_asked_for_it(client: Client) -> None:
    message = "Subject: été\r\n\r\nchaud\r\n".encode()
    put(client, message)
    client.log_in()
    surrogate = b"Subject: =?utf-8?b?w6l0w6k=?=\r\n\r\nchaud\r\n"
    assert client.ask(b"RETR 3") == b"+OK %d octets\r\n%b.\r\n" % (len(surrogate), surrogate)
    assert b"=?utf-8?" in client.ask(b"TOP 3 0")
    client.ask(b"QUIT")
    client = client.reconnect()
    client.answered()
    assert client.ask(b"UTF8").startswith(b"+OK")
    client.log_in()
    assert client.ask(b"RETR 3") == b"+OK %d octets\r\n%b.\r\n" % (len(message), message)
    assert "été".encode() in client.ask(b"TOP 3 0")
    assert client.ask(b"UTF8").startswith(b"-ERR")


def test_words_for_people_are_in_the_language_that_was_asked_for(client: Client) -> None:
    assert client.ask(b"LANG") == "+OK Languages follow\r\nen English\r\nfr Français\r\n.\r\n".encode()
    assert client.ask(b"LANG fr-CA") == "+OK fr Cette langue est parlée désormais\r\n".encode()
    client.log_in()
    assert client.ask(b"DELE 1") == "+OK Message 1 supprimé\r\n".encode()
    assert client.ask(b"LANG tlh") == "-ERR Cette langue n'est pas parlée ici\r\n".encode()
    assert client.ask(b"LANG *") == b"+OK en This language is spoken now\r\n"
    assert client.ask(b"RETR 1") == b"-ERR Message 1 is deleted\r\n"


# -- reading ahead --


def test_what_was_read_ahead_is_not_served_once_it_is_gone_or_deleted(client: Client) -> None:
    for number in range(6):
        put(client, b"Subject: %d\r\n\r\nbody\r\n" % number)
    client.log_in()
    inbox = client.inbox
    for number in (1, 2, 3):
        assert client.ask(b"RETR %d" % number).startswith(b"+OK")
    inbox.expunge([inbox.uids()[3]])
    assert client.ask(b"RETR 4").startswith(b"-ERR [SYS/PERM]")
    client.ask(b"DELE 5")
    assert client.ask(b"RETR 5") == b"-ERR Message 5 is deleted\r\n"
    assert b"Subject: 3" in client.ask(b"RETR 6")
    assert b"Subject: 5" in client.ask(b"RETR 8")
    client.ask(b"QUIT")
    seen = [number for number, uid in enumerate(inbox.uids(), 1) if "\\Seen" in inbox.flags(uid)]
    assert seen == [1, 2, 3, 4, 6]  # 7 was read ahead, never retrieved


def test_reading_ahead_is_bounded_and_only_for_who_goes_through_them(
    client: Client, monkeypatch: Any
) -> None:
    for number in range(30):
        put(client, b"Subject: %d\r\n\r\n%b\r\n" % (number, b"x" * (40_000 if number == 10 else 100)))
    client.log_in()
    asked: list[int] = []
    examine = client.inbox.examine
    monkeypatch.setattr(
        client.inbox, "examine", lambda uids, work: (asked.append(len(uids)), examine(uids, work))[1]
    )
    for number in (20, 9, 25):
        client.ask(b"RETR %d" % number)
    assert asked == [1, 1, 1]
    answers = [client.ask(b"RETR %d" % number) for number in range(1, 33)]
    assert all(answer.startswith(b"+OK") and answer.endswith(b"\r\n.\r\n") for answer in answers)
    assert len(answers[12]) > 40_000
    assert max(asked) <= MESSAGES_AHEAD and sum(asked) < 40


# -- the defects of the stock server --


def test_it_is_twisteds_protocol() -> None:
    assert issubclass(Pop3Server, POP3)


def test_deleted_messages_leave_stat_list_and_uidl(inside: Client) -> None:
    uidl_two = inside.ask(b"UIDL 2")[4:]
    assert inside.ask(b"DELE 1").startswith(b"+OK")
    assert inside.ask(b"STAT") == b"+OK 1 %d\r\n" % len(TWO)
    assert inside.ask(b"LIST") == b"+OK 1 messages (%d octets)\r\n2 %d\r\n.\r\n" % (len(TWO), len(TWO))
    assert inside.ask(b"UIDL") == b"+OK Unique ids follow\r\n" + uidl_two + b".\r\n"
    for command in (b"LIST 1", b"UIDL 1", b"RETR 1", b"TOP 1 0", b"DELE 1"):
        assert inside.ask(command).startswith(b"-ERR"), command


@pytest.mark.parametrize(
    "line", [b"USER", b"USER ", b"PASS", b"PASS x", b"AUTH \xff", b"\xff\xfe x", b"", b" "]
)
def test_odd_commands_before_login_are_errors_and_the_session_lives(client: Client, line: bytes) -> None:
    answer = client.ask(line)
    assert answer.startswith(b"-ERR ") and answer.count(b"\r\n") == 1
    client.log_in()


def test_capa_before_login_without_tls_and_without_permission_offers_no_login() -> None:
    client = make(plaintext=False, tls=Tls())
    client.answered()
    lines = client.ask(b"CAPA").split(b"\r\n")
    assert b"STLS" in lines and b"USER" not in lines
    assert not any(line.startswith(b"SASL") for line in lines)
    for refused in (b"USER bob", b"AUTH PLAIN", b"AUTH LOGIN AA=="):
        assert client.ask(refused).startswith(b"-ERR [AUTH]")
    assert client.ask(b"AUTH") == b"+OK Mechanisms follow\r\n.\r\n"
    assert client.door.sessions == []


def test_capa_tells_the_truth_in_each_state() -> None:
    client = make(plaintext=False, tls=Tls())
    client.ask(b"STLS")
    client.answered()
    after_tls = client.ask(b"CAPA").split(b"\r\n")
    assert b"STLS" not in after_tls and b"USER" in after_tls and b"SASL PLAIN LOGIN" in after_tls
    client.log_in()
    logged_in = client.ask(b"CAPA").split(b"\r\n")
    # RFC 2449 §3: what was offered before the login stays announced.
    assert logged_in == after_tls
    joined = b" ".join(logged_in)
    for joke in (b"CELERITY", b"AUSPEX", b"POTENCE", b"PIPELINE ", b"APOP", b"LAST", b"LOGIN-DELAY"):
        assert joke not in joined
    for promised in (b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"UTF8 USER", b"LANG"):
        assert promised in logged_in


@pytest.mark.parametrize("verb", [b"APOP bob 0123", b"RPOP bob", b"LAST", b"XTND", b"_COITERATE"])
def test_commands_that_are_not_offered_are_unknown(client: Client, verb: bytes) -> None:
    assert client.ask(verb) == b"-ERR Unknown command\r\n"
    client.log_in()
    assert client.ask(verb) == b"-ERR Unknown command\r\n"


def test_a_snapshot_stays_as_it_was_while_mail_comes_and_goes(inside: Client) -> None:
    inside.inbox.expunge([1])
    inside.store.placement(BOB, "", b"", MemoryContent(b"A: b\r\n\r\nnew\r\n"), "id").commit()
    assert inside.ask(b"STAT") == b"+OK 2 %d\r\n" % (len(ONE) + len(TWO))
    assert inside.ask(b"RETR 1").startswith(b"-ERR [SYS/PERM]")
    assert inside.ask(b"RETR 3").startswith(b"-ERR No such message")
    assert TWO in inside.ask(b"RETR 2")
    other = inside.reconnect()
    other.answered()
    other.log_in()
    assert other.ask(b"STAT").startswith(b"+OK 2 ")


def test_plaintext_pipelined_behind_stls_never_acts_inside_tls() -> None:
    client = make(plaintext=True, tls=Tls())
    client.answered()
    client.send(b"USER bob\r\n")
    client.answered()
    assert client.send(b"STLS\r\nPASS pass word\r\nNOOP\r\n") == b"+OK Begin TLS negotiation\r\n"
    assert client.transport.tls == ("context", "pop3")
    assert client.ask(b"PASS pass word") == b"-ERR USER comes first\r\n"
    assert client.ask(b"STLS").startswith(b"-ERR TLS is active")
    client.log_in()


def test_pop3s_is_secure_from_the_start() -> None:
    client = make("pop3s", plaintext=False, tls=Tls())
    client.answered()
    assert b"STLS" not in client.ask(b"CAPA")
    client.log_in()


# -- logging in --


def test_a_password_keeps_its_spaces(client: Client) -> None:
    client.ask(b"USER bob")
    assert client.ask(b"PASS pass word ").startswith(b"-ERR [AUTH]")
    client.log_in()


def test_a_wrong_login_is_auth_and_a_failing_table_is_temporary(client: Client) -> None:
    client.ask(b"USER bob")
    assert client.ask(b"PASS no") == b"-ERR [AUTH] Name or password is wrong\r\n"
    client.door.failure = TemporaryError(Reply(454, "4.7.0", "Temporary authentication failure"))
    client.ask(b"USER bob")
    assert client.ask(b"PASS pass word") == b"-ERR [SYS/TEMP] Temporary authentication failure\r\n"


def test_auth_plain_with_and_without_initial_response(client: Client) -> None:
    message = base64.b64encode(b"\0bob\0pass word")
    assert client.ask(b"auth plain " + message).startswith(b"+OK 2 messages")
    other = client.reconnect()
    other.answered()
    assert other.ask(b"AUTH PLAIN") == b"+ \r\n"
    assert other.ask(message).startswith(b"+OK 2 messages")


def test_auth_login_takes_two_rounds_and_a_star_ends_it(client: Client) -> None:
    assert client.ask(b"AUTH LOGIN") == b"+ VXNlcm5hbWU6\r\n"
    assert client.ask(b"*") == b"-ERR Authentication cancelled\r\n"
    assert client.ask(b"AUTH LOGIN") == b"+ VXNlcm5hbWU6\r\n"
    assert client.ask(base64.b64encode(b"bob")) == b"+ UGFzc3dvcmQ6\r\n"
    assert client.ask(base64.b64encode(b"pass word")).startswith(b"+OK 2 messages")


@pytest.mark.parametrize("line", [b"AUTH CRAM-MD5", b"AUTH PLAIN ????", b"AUTH PLAIN a b", b"AUTH PLAIN ="])
def test_a_bad_auth_leaves_the_session_usable(client: Client, line: bytes) -> None:
    assert client.ask(line).startswith(b"-ERR ")
    client.log_in()


def test_the_session_knows_its_peer_when_it_logs_in(client: Client) -> None:
    client.log_in()
    assert client.door.sessions[0].peer == "192.168.1.1"
    assert client.door.sessions[0].door == "pop3"


def test_guessing_ends_the_connection(client: Client) -> None:
    for _ in range(MAX_LOGINS):
        assert not client.transport.disconnecting
        client.send(b"USER bob\r\nPASS no\r\n")
    assert client.transport.disconnecting
    assert client.send(b"USER bob\r\nPASS pass word\r\n") == b""


def test_commands_of_the_other_state_are_refused(client: Client) -> None:
    for command in (b"STAT", b"LIST", b"UIDL", b"RETR 1", b"TOP 1 1", b"DELE 1", b"RSET", b"NOOP"):
        assert client.ask(command) == b"-ERR Log in first\r\n"
    client.log_in()
    for command in (b"USER bob", b"PASS x", b"AUTH PLAIN", b"STLS"):
        assert client.ask(command) == b"-ERR Already logged in\r\n"


def test_a_client_that_goes_while_its_login_is_checked_leaves_nothing_open(client: Client) -> None:
    client.door.held = Deferred()
    client.send(b"USER bob\r\nPASS pass word\r\n")
    client.lose()
    client.door.held.callback(None)
    assert client.inbox.users == 0


# -- reading mail --


def test_retr_is_byte_for_byte_with_dots_stuffed(inside: Client) -> None:
    assert (
        inside.ask(b"RETR 1") == b"+OK %d octets\r\n" % len(ONE) + ONE.replace(b"\r\n.", b"\r\n..") + b".\r\n"
    )


def test_top_is_header_and_so_many_lines(inside: Client) -> None:
    assert inside.ask(b"TOP 2 0") == b"+OK Top of message follows\r\nSubject: two\r\n\r\n.\r\n"
    assert inside.ask(b"TOP 2 2").endswith(b"\r\n\r\nline 1\r\nline 2\r\n.\r\n")
    assert inside.ask(b"TOP 2 99999").endswith(b"line 3\r\n.\r\n")


@pytest.mark.parametrize(
    "line",
    [b"RETR", b"RETR 0", b"RETR 3", b"RETR -1", b"RETR x", b"RETR 1 2", b"TOP 1", b"TOP 1 -1", b"TOP 1 x",
     b"DELE", b"DELE 9", b"LIST 0", b"LIST 1 2", b"UIDL 7", b"RETR +1", b"RETR 1_0", b"STAT 1",
     b"RETR 99999999999999999999", b"RETR \xd9\xa1"],
)  # fmt: skip
def test_bad_arguments_are_one_error_line(inside: Client, line: bytes) -> None:
    answer = inside.ask(line)
    assert answer.startswith(b"-ERR ") and answer.count(b"\n") == 1
    assert inside.ask(b"NOOP") == b"+OK\r\n"


def test_uidl_is_the_same_in_every_session_and_unlike_for_each_message(inside: Client) -> None:
    first = inside.ask(b"UIDL")
    ids = [line.split()[1] for line in first.split(b"\r\n")[1:-2]]
    assert len(set(ids)) == 2 and all(1 <= len(one) <= 70 for one in ids)
    other = inside.reconnect()
    other.answered()
    other.log_in()
    assert other.ask(b"UIDL") == first


def test_copies_of_one_message_have_ids_of_their_own(client: Client) -> None:
    client.inbox._stored[2].message_id = client.inbox._stored[1].message_id
    client.log_in()
    assert client.ask(b"UIDL 1").split()[2] != client.ask(b"UIDL 2").split()[2]


def test_an_empty_maildrop_has_empty_listings(client: Client) -> None:
    client.inbox.expunge([1, 2])
    client.log_in()
    assert client.ask(b"STAT") == b"+OK 0 0\r\n"
    assert client.ask(b"LIST") == b"+OK 0 messages (0 octets)\r\n.\r\n"
    assert client.ask(b"UIDL") == b"+OK Unique ids follow\r\n.\r\n"


def test_a_listing_of_thousands_is_made_in_slices(client: Client) -> None:
    for _ in range(2500):
        client.store.placement(BOB, "", b"", MemoryContent(b"\r\n"), "id").commit()
    client.log_in()
    whole = client.ask(b"LIST")
    slices = 1
    while not whole.endswith(b"\r\n.\r\n"):
        client.clock.advance(0)
        whole += client.answered()
        slices += 1
    assert slices == 2
    assert len(whole.split(b"\r\n")) == 2502 + 3


# -- deleting --


def test_only_quit_deletes_and_it_answers_when_that_is_durable(inside: Client, monkeypatch: Any) -> None:
    inbox, done = inside.inbox, Deferred[Any]()
    expunge = inbox.expunge
    monkeypatch.setattr(inbox, "expunge", lambda uids: done.addCallback(lambda _: expunge(uids)))
    inside.send(b"DELE 1\r\n")
    assert inside.ask(b"QUIT") == b""
    assert inbox.uids() == (1, 2)
    done.callback(None)
    assert inside.answered() == b"+OK Goodbye\r\n"
    assert inbox.uids() == (2,) and inside.transport.disconnecting


def test_rset_takes_the_marks_off(inside: Client) -> None:
    inside.send(b"DELE 1\r\nDELE 2\r\n")
    assert inside.ask(b"RSET") == b"+OK 2 messages (%d octets)\r\n" % (len(ONE) + len(TWO))
    inside.ask(b"QUIT")
    assert inside.inbox.uids() == (1, 2)


def test_a_broken_connection_deletes_nothing(inside: Client) -> None:
    inside.send(b"DELE 1\r\nDELE 2\r\nQUI")
    inside.lose()
    assert inside.inbox.uids() == (1, 2) and inside.inbox.users == 0


def test_the_autologout_deletes_nothing_and_says_nothing(inside: Client) -> None:
    inside.send(b"DELE 1\r\n")
    inside.answered()
    inside.clock.advance(IDLE_TIMEOUT - 1)
    assert not inside.transport.aborted
    inside.clock.advance(1)
    assert inside.transport.aborted and inside.answered() == b""
    inside.lose()
    assert inside.inbox.uids() == (1, 2)


def test_quit_goes_on_when_the_client_does_not_wait_for_the_answer(inside: Client, monkeypatch: Any) -> None:
    inbox, done = inside.inbox, Deferred[Any]()
    expunge = inbox.expunge
    monkeypatch.setattr(inbox, "expunge", lambda uids: done.addCallback(lambda _: expunge(uids)))
    inside.send(b"DELE 1\r\nQUIT\r\n")
    inside.lose()
    done.callback(None)
    assert inbox.uids() == (2,) and inbox.users == 0


def test_a_failed_deletion_is_told(inside: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        inside.inbox, "expunge", lambda uids: fail(TemporaryError(Reply(451, "4.3.0", "disk")))
    )
    inside.send(b"DELE 1\r\n")
    inside.answered()
    assert inside.ask(b"QUIT") == b"-ERR [SYS/TEMP] Some deleted messages were not removed\r\n"
    assert inside.transport.disconnecting


def test_what_was_retrieved_is_seen_after_quit_and_what_was_not_is_not(inside: Client) -> None:
    inside.send(b"RETR 1\r\nTOP 2 0\r\nQUIT\r\n")
    assert inside.inbox.flags(1) == {"\\Seen"} and inside.inbox.flags(2) == frozenset()


# -- order, limits, back-pressure, time --


def test_pipelined_commands_are_answered_in_order_also_behind_a_slow_login(client: Client) -> None:
    client.door.held = Deferred()
    assert (
        client.send(b"USER bob\r\nPASS pass word\r\nSTAT\r\nLIST 2\r\nNOOP\r\nQUIT\r\n")
        == b"+OK Send PASS\r\n"
    )
    client.door.held.callback(None)
    whole, second = len(ONE) + len(TWO), len(TWO)
    assert client.answered() == (
        b"+OK 2 messages (%d octets)\r\n+OK 2 %d\r\n+OK 2 %d\r\n+OK\r\n+OK Goodbye\r\n"
        % (whole, whole, second)
    )


def test_a_flood_behind_a_slow_command_stops_reading(client: Client) -> None:
    client.door.held = Deferred()
    client.send(b"USER bob\r\nPASS pass word\r\n")
    client.send(b"NOOP\r\n" * (MAX_WAITING // 6 + 2))
    assert client.transport.producerState == "paused"
    client.door.held.callback(None)
    while client.transport.producerState == "paused":
        client.clock.advance(0)
    assert client.answered().count(b"+OK\r\n") > 0


def test_many_pipelined_commands_leave_others_their_turn(inside: Client) -> None:
    assert inside.send(b"NOOP\r\n" * (COMMANDS_AT_ONCE + 5)).count(b"+OK") == COMMANDS_AT_ONCE
    inside.clock.advance(0)
    assert inside.answered().count(b"+OK") == 5


def test_a_client_that_does_not_read_gets_no_further_answers(inside: Client) -> None:
    assert inside.transport.producer is not None
    inside.transport.producer.pauseProducing()
    assert inside.send(b"RETR 1\r\n" * 100) == b""
    inside.transport.producer.resumeProducing()
    assert inside.answered().count(b"+OK") == 100


def test_a_big_message_goes_out_as_the_client_reads(client: Client) -> None:
    big = b"A: b\r\n\r\n" + b"".join(b".%06d\r\n" % n for n in range(60_000))
    client.store.placement(BOB, "", b"", MemoryContent(big), "id").commit()
    client.log_in()
    transport = client.transport
    parts = []
    write = transport.write

    def full(data: bytes) -> None:
        write(data)
        if len(data) > 1000:
            transport.producer.pauseProducing()

    transport.write = full  # type: ignore[method-assign]
    got = client.ask(b"RETR 3")
    while not got.endswith(b"\r\n.\r\n"):
        parts.append(len(got))
        assert len(parts) < 50
        transport.producer.resumeProducing()
        got += client.answered()
    assert len(parts) > 5
    body = got.partition(b"\r\n")[2].removesuffix(b".\r\n")
    assert body.replace(b"\r\n..", b"\r\n.") == big


def test_a_client_that_leaves_during_a_big_message_leaves_nothing_behind(client: Client, logged: Any) -> None:
    client.store.placement(BOB, "", b"", MemoryContent(b"x" * 500_000), "id").commit()
    client.log_in()
    transport = client.transport
    write = transport.write
    transport.write = lambda data: (write(data), transport.producer.pauseProducing())[0]  # type: ignore
    client.ask(b"RETR 3")
    client.lose()
    assert client.inbox.users == 0 and client.factory.counter.open == 0
    assert client.clock.getDelayedCalls() == []
    assert not [event for event in logged if event.get("log_failure")]


def test_a_message_that_cannot_be_read_to_its_end_breaks_the_connection(
    inside: Client, monkeypatch: Any
) -> None:
    class Broken:
        size = 200_000

        def read(self, offset: int = 0, length: int | None = None) -> Deferred[bytes]:
            if offset:
                return fail(OSError("disk at /secret/path"))
            return succeed(b"x" * (length or 0))

        def close(self) -> None:
            pass

    monkeypatch.setattr(inside.inbox, "examine", lambda uids, work: succeed({}))  # as for large ones
    monkeypatch.setattr(inside.inbox, "message", lambda uid: succeed(Broken()))
    answer = inside.ask(b"RETR 1")
    assert inside.transport.aborted and not answer.endswith(b"\r\n.\r\n") and b"secret" not in answer


def test_an_unexpected_error_is_temporary_and_shows_nothing(
    inside: Client, monkeypatch: Any, logged: Any
) -> None:
    monkeypatch.setattr(inside.inbox, "examine", lambda uids, work: fail(ValueError("/secret/path")))
    assert inside.ask(b"RETR 1") == b"-ERR [SYS/TEMP] Internal error, try again later\r\n"
    assert inside.ask(b"NOOP") == b"+OK\r\n"
    assert any(event.get("log_failure") for event in logged)


def test_too_many_errors_end_the_connection(client: Client) -> None:
    for _ in range(MAX_ERRORS - 1):
        client.ask(b"FOO")
    assert not client.transport.disconnecting
    client.ask(b"FOO")
    assert client.transport.disconnecting


def test_a_line_without_end_ends_the_connection(client: Client) -> None:
    assert client.send(b"x" * (MAX_COMMAND + 2)) == b"-ERR Line too long\r\n"
    assert client.transport.disconnecting


def test_dribbling_before_the_login_does_not_keep_the_connection(client: Client) -> None:
    for _ in range(int(LOGIN_TIMEOUT / 60)):
        client.ask(b"CAPA")
        client.clock.advance(60)
    assert client.transport.aborted


def test_a_client_that_never_takes_the_last_answer_is_cut(inside: Client) -> None:
    inside.ask(b"QUIT")
    assert not inside.transport.aborted
    inside.clock.advance(CLOSE_TIMEOUT)
    assert inside.transport.aborted


def test_connections_are_limited_in_all_and_by_peer_and_counted_out(client: Client) -> None:
    full = make(total=1)
    second = full.reconnect()
    assert second.answered() == b"-ERR [SYS/TEMP] Too many connections\r\n" and second.transport.disconnecting
    second.lose()
    full.lose()
    assert full.factory.counter.open == 0
    assert full.reconnect().answered().startswith(b"+OK")
    narrow = make(peers=1)
    assert b"from your network" in narrow.reconnect().answered()


def test_stopping_waits_for_the_answer_under_way(inside: Client, monkeypatch: Any) -> None:
    idle = inside.reconnect()
    done = Deferred[Any]()
    inbox = inside.inbox
    expunge = inbox.expunge
    monkeypatch.setattr(inbox, "expunge", lambda uids: done.addCallback(lambda _: expunge(uids)))
    inside.send(b"DELE 1\r\nQUIT\r\n")
    stopped: list[Any] = []
    inside.factory.close_sessions().addCallback(stopped.append)
    assert idle.transport.disconnecting and not inside.transport.disconnecting
    idle.lose()
    done.callback(None)
    assert inside.answered().endswith(b"+OK Goodbye\r\n") and inside.transport.disconnecting
    inside.lose()
    assert stopped == [None]
    assert b"-ERR" in inside.reconnect().answered()


def test_a_stop_that_takes_too_long_cuts_the_sessions_off(inside: Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(inside.inbox, "expunge", lambda uids: Deferred())
    inside.send(b"DELE 1\r\nQUIT\r\n")
    stopped = inside.factory.close_sessions()
    assert not inside.transport.aborted
    stopped.addErrback(lambda failure: None)
    stopped.cancel()
    assert inside.transport.aborted
    inside.lose()


def test_stopping_without_sessions_is_done_at_once(client: Client) -> None:
    client.lose()
    assert client.factory.close_sessions().called


def test_an_initial_response_may_be_longer_than_a_command(client: Client) -> None:
    token = base64.b64encode(b"\0bob\0" + b"x" * (MAX_COMMAND + 100))
    assert client.ask(b"AUTH PLAIN " + token).startswith(b"-ERR [AUTH]")
    assert client.send(b"AUTH PLAIN " + b"A" * MAX_SASL_LINE) == b"-ERR Line too long\r\n"
