"""ManageSieve sessions over scripts in a directory, on a transport in memory, by a clock of the test's."""

from __future__ import annotations

import base64
import errno
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, TemporaryError
from lorrainemail.grammar.sieve import MAX_SCRIPT
from lorrainemail.interfaces import Account, IAuthenticator
from lorrainemail.managesieve.factory import ManageSieveFactory
from lorrainemail.managesieve.scripts import ScriptKeeper
from lorrainemail.managesieve.server import (
    AFTER_LOGIN,
    IDLE_TIMEOUT,
    LOGIN_TIMEOUT,
    MAX_ERRORS,
    MAX_LOGINS,
    ManageSieveServer,
)
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.mechanisms import CREDENTIALS_INVALID, TEMPORARY_FAILURE
from lorrainemail.sasl.portal import Principal
from lorrainemail.sieve.language import EXTENSIONS
from lorrainemail.sieve.storage import MAX_SCRIPTS, Scripts
from lorrainemail.store.memory import MemoryStore

BOB = Account(parse_address("bob@bricoleur.com"))
ANN = Account(parse_address("ann@bricoleur.com"))
GOOD = b'require "fileinto"; fileinto "Lists";'


@implementer(IAuthenticator)
class Logins(PasswordLogins):
    """Everybody's password is "pass word"."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.sessions: list[Session] = []

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Any:
        self.sessions.append(session)
        if self.failure is not None:
            return fail(self.failure)
        account = {b"bob": BOB, b"ann": ANN}.get(username)
        if account is None or password != b"pass word":
            return fail(PermanentError(CREDENTIALS_INVALID))
        return succeed(Principal(account, MemoryStore(Clock()).home(account), mechanism))


class Wire(StringTransport):
    """Remembers a TLS that was started."""

    tls: object = None
    paused = False

    def startTLS(self, context: object) -> None:
        self.tls = context

    def abortConnection(self) -> None:
        self.aborting = True


class Tls:
    def context_factory(self, door: str) -> object:
        return f"context of {door}"


@attrs.define
class Talk:
    """One session and the test's end of it."""

    clock: Clock
    factory: ManageSieveFactory
    logins: Logins
    session: ManageSieveServer
    wire: Wire

    def say(self, octets: bytes) -> bytes:
        self.wire.clear()
        self.session.dataReceived(octets + b"\r\n")
        return bytes(self.wire.value())

    def log_in(self, name: bytes = b"bob") -> None:
        token = base64.b64encode(b"\0%b\0pass word" % name)
        assert self.say(b'AUTHENTICATE "PLAIN" "%b"' % token) == b'OK "Logged in"\r\n'


@pytest.fixture
def talk(tmp_path: Path) -> Talk:
    return make_talk(tmp_path)


def make_talk(
    tmp_path: Path,
    plaintext: bool = True,
    in_thread: Any = maybeDeferred,
    writable: Any = lambda octets: None,
    tls: Any = None,
) -> Talk:
    clock, logins = Clock(), Logins()
    keeper = ScriptKeeper(Scripts(str(tmp_path)), in_thread, writable)
    factory = ManageSieveFactory(logins, clock, ConnectionCounter(10, 5), keeper, tls or Tls(), plaintext)
    session, wire = factory.buildProtocol(None), Wire()
    session.makeConnection(wire)
    return Talk(clock, factory, logins, session, wire)


def capabilities(octets: bytes) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    *lines, last = octets.decode().splitlines()
    assert last.startswith("OK")
    for line in lines:
        words = line.split('"')
        found[words[1]] = words[3] if len(words) > 3 else None
    return found


def test_capabilities_are_true_before_and_after_login(talk: Talk) -> None:
    before = capabilities(bytes(talk.wire.value()))
    assert before == capabilities(talk.say(b"CAPABILITY"))
    assert before["SASL"] == "PLAIN LOGIN"
    assert before["SIEVE"] == " ".join(sorted(EXTENSIONS))
    assert before["VERSION"] == "1.0" and "STARTTLS" in before and "OWNER" not in before
    talk.log_in()
    after = capabilities(talk.say(b"CAPABILITY"))
    assert after["OWNER"] == "bob@bricoleur.com"
    assert after["SASL"] == "" and "STARTTLS" not in after and "UNAUTHENTICATE" in after
    assert talk.say(b"UNAUTHENTICATE").startswith(b"OK")
    assert capabilities(talk.say(b"CAPABILITY")) == before
    talk.log_in(b"ann")
    assert capabilities(talk.say(b"CAPABILITY"))["OWNER"] == "ann@bricoleur.com"


def test_no_mechanism_and_no_login_without_tls(tmp_path: Path) -> None:
    talk = make_talk(tmp_path, plaintext=False)
    assert capabilities(bytes(talk.wire.value()))["SASL"] == ""
    assert talk.say(b'AUTHENTICATE "PLAIN" "AGJvYgBwYXNzIHdvcmQ="').startswith(b"NO (ENCRYPT-NEEDED)")
    assert talk.logins.sessions == []
    assert talk.say(b"STARTTLS\r\nNOOP") == b'OK "Begin TLS negotiation"\r\n'
    assert talk.wire.tls == "context of managesieve"
    talk.wire.clear()
    talk.session.handshakeCompleted()
    after = capabilities(bytes(talk.wire.value()))
    assert after["SASL"] == "PLAIN LOGIN" and "STARTTLS" not in after
    assert talk.say(b"STARTTLS").startswith(b"NO")


def test_a_login_in_several_steps_and_one_that_is_cancelled(talk: Talk) -> None:
    assert talk.say(b'AUTHENTICATE "LOGIN"') == b'"VXNlcm5hbWU6"\r\n'
    assert talk.say(b'"*"') == b'NO "Cancelled"\r\n'
    assert talk.say(b'AUTHENTICATE "LOGIN"') == b'"VXNlcm5hbWU6"\r\n'
    assert talk.say(b"{4+}\r\nYm9i") == b'"UGFzc3dvcmQ6"\r\n'
    assert talk.say(b'"cGFzcyB3b3Jk"') == b'OK "Logged in"\r\n'
    assert talk.session.facts.account == "bob@bricoleur.com"


def test_failed_logins_end_the_session(talk: Talk) -> None:
    wrong = b'AUTHENTICATE "PLAIN" "AGJvYgBubw=="'
    for _ in range(MAX_LOGINS):
        assert talk.say(wrong) == b'NO "Name or password is wrong"\r\n'
    assert talk.wire.disconnecting


def test_a_login_that_may_work_later_says_so(talk: Talk) -> None:
    talk.logins.failure = TemporaryError(TEMPORARY_FAILURE)
    assert talk.say(b'AUTHENTICATE "PLAIN" "AGJvYgBubw=="').startswith(b"NO (TRYLATER)")


def test_commands_of_another_state_are_refused(talk: Talk) -> None:
    for line in (b"LISTSCRIPTS", b'PUTSCRIPT "a" "keep;"', b'HAVESPACE "a" 10', b"UNAUTHENTICATE"):
        assert talk.say(line) == b'NO "Log in first"\r\n'
    talk.log_in()
    assert talk.say(b'AUTHENTICATE "PLAIN"') == b'NO "Already logged in"\r\n'
    assert talk.say(b"STARTTLS") == b'NO "Already logged in"\r\n'


def test_the_life_of_a_script(talk: Talk, tmp_path: Path) -> None:
    talk.log_in()
    assert talk.say(b"LISTSCRIPTS") == b"OK\r\n"
    assert talk.say(b'PUTSCRIPT "main" {%d+}\r\n%b' % (len(GOOD), GOOD)) == b"OK\r\n"
    assert talk.say(b'GETSCRIPT "main"') == b"{%d}\r\n%b\r\nOK\r\n" % (len(GOOD), GOOD)
    assert talk.say(b'SETACTIVE "main"') == b"OK\r\n"
    assert talk.say(b'RENAMESCRIPT "main" "\xc3\xa9t\xc3\xa9"') == b"OK\r\n"
    assert talk.say(b'PUTSCRIPT "other" "keep;"') == b"OK\r\n"
    assert talk.say(b"LISTSCRIPTS") == b'"other"\r\n"\xc3\xa9t\xc3\xa9" ACTIVE\r\nOK\r\n'
    assert Scripts(str(tmp_path)).active(BOB.address) == "été"
    assert talk.say(b'RENAMESCRIPT "other" "\xc3\xa9t\xc3\xa9"').startswith(b"NO (ALREADYEXISTS)")
    assert talk.say(b'DELETESCRIPT "\xc3\xa9t\xc3\xa9"').startswith(b"NO (ACTIVE)")
    assert talk.say(b'SETACTIVE ""') == b"OK\r\n"
    assert talk.say(b'DELETESCRIPT "\xc3\xa9t\xc3\xa9"') == b"OK\r\n"
    for line in (b"GETSCRIPT", b"DELETESCRIPT", b"SETACTIVE"):
        assert talk.say(line + b' "none"').startswith(b"NO (NONEXISTENT)")
    assert talk.say(b'RENAMESCRIPT "none" "new"').startswith(b"NO (NONEXISTENT)")
    assert talk.say(b"LISTSCRIPTS") == b'"other"\r\nOK\r\n'


def test_a_script_that_is_none_is_not_stored_and_its_author_told_where(talk: Talk) -> None:
    talk.log_in()
    bad = b'keep;\r\nfileinto "x";\r\n'
    answer = talk.say(b'PUTSCRIPT "main" {%d+}\r\n%b' % (len(bad), bad))
    assert answer == b'NO "line 2, column 1: \\"fileinto\\" needs: require \\"fileinto\\""\r\n'
    assert talk.say(b"CHECKSCRIPT {%d+}\r\n%b" % (len(bad), bad)) == answer
    assert talk.say(b"LISTSCRIPTS") == b"OK\r\n"
    assert talk.say(b'CHECKSCRIPT "keep;"') == b"OK\r\n"
    assert talk.say(b"LISTSCRIPTS") == b"OK\r\n"


def test_scripts_may_be_stored_in_any_order_with_a_warning(talk: Talk) -> None:
    talk.log_in()
    script = b'require "include"; include "later"; stop; keep;'
    answer = talk.say(b'PUTSCRIPT "main" {%d+}\r\n%b' % (len(script), script))
    assert answer.startswith(b"OK (WARNINGS) {")
    assert b'no personal script "later"' in answer and b'"keep" is never reached' in answer
    assert talk.say(b'PUTSCRIPT "later" "keep;"') == b"OK\r\n"
    assert b"later" not in talk.say(b'SETACTIVE "main"')


def test_sizes_and_numbers_of_scripts_are_bounded(talk: Talk) -> None:
    talk.log_in()
    assert talk.say(b'HAVESPACE "main" %d' % MAX_SCRIPT) == b"OK\r\n"
    assert talk.say(b'HAVESPACE "main" %d' % (MAX_SCRIPT + 1)).startswith(b"NO (QUOTA/MAXSIZE)")
    # Too large, and sent nevertheless: read over, the session goes on.
    whole = b'PUTSCRIPT "main" {%d+}\r\n%b' % (MAX_SCRIPT + 1, b" " * (MAX_SCRIPT + 1))
    assert talk.say(whole).startswith(b"NO (QUOTA/MAXSIZE)")
    assert talk.say(b"NOOP").startswith(b"OK")
    for number in range(MAX_SCRIPTS):
        assert talk.say(b'PUTSCRIPT "s%d" "keep;"' % number) == b"OK\r\n"
    assert talk.say(b'PUTSCRIPT "one more" "keep;"').startswith(b"NO (QUOTA/MAXSCRIPTS)")
    assert talk.say(b'HAVESPACE "one more" 5').startswith(b"NO (QUOTA/MAXSCRIPTS)")
    assert talk.say(b'PUTSCRIPT "s1" "discard;"') == b"OK\r\n"
    assert talk.say(b'PUTSCRIPT "x" {%d+}\r\n' % (AFTER_LOGIN.skip + 1)).startswith(b"BYE")
    assert talk.wire.disconnecting


def test_names_that_could_leave_the_directory_or_break_lines_are_harmless(talk: Talk, tmp_path: Path) -> None:
    talk.log_in()
    assert talk.say(b'PUTSCRIPT "../../x" "keep;"') == b"OK\r\n"
    assert talk.say(b"LISTSCRIPTS") == b'"../../x"\r\nOK\r\n'
    home = tmp_path / "bricoleur.com" / "bob" / "sieve"
    assert {path.parent for path in tmp_path.rglob("*.sieve")} == {home}
    for name in (b"{3+}\r\na\nb", b'""', b'"\xff"', b'"a\x01"', b'"%b"' % (b"n" * 129)):
        assert talk.say(b'PUTSCRIPT %b "keep;"' % name).startswith(b"NO"), name


@pytest.mark.parametrize("name", ["я" * 128, "文" * 127 + "a", "=" * 128, "=0a"])
def test_a_name_may_have_128_characters_of_any_script(talk: Talk, tmp_path: Path, name: str) -> None:
    talk.log_in()
    octets = name.encode()
    assert talk.say(b'PUTSCRIPT "%b" "keep;"' % octets) == b"OK\r\n"
    assert talk.say(b'PUTSCRIPT "%b" "discard;"' % octets) == b"OK\r\n"
    assert talk.say(b'SETACTIVE "%b"' % octets) == b"OK\r\n"
    assert talk.say(b"LISTSCRIPTS") == b'"%b" ACTIVE\r\nOK\r\n' % octets
    assert talk.say(b'GETSCRIPT "%b"' % octets) == b"{8}\r\ndiscard;\r\nOK\r\n"
    assert talk.say(b'RENAMESCRIPT "%b" "short"' % octets) == b"OK\r\n"
    assert talk.say(b"LISTSCRIPTS") == b'"short" ACTIVE\r\nOK\r\n'
    assert talk.say(b'RENAMESCRIPT "short" "%b"' % octets) == b"OK\r\n"
    assert talk.say(b'SETACTIVE ""') == b"OK\r\n"
    assert talk.say(b'DELETESCRIPT "%b"' % octets) == b"OK\r\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_one_account_never_sees_the_scripts_of_another(talk: Talk) -> None:
    talk.log_in()
    talk.say(b'PUTSCRIPT "secret" "keep;"')
    talk.say(b"UNAUTHENTICATE")
    talk.log_in(b"ann")
    assert talk.say(b"LISTSCRIPTS") == b"OK\r\n"
    assert talk.say(b'GETSCRIPT "secret"').startswith(b"NO (NONEXISTENT)")


def test_pipelined_commands_are_answered_in_order_when_each_is_durable(tmp_path: Path) -> None:
    held: list[tuple[Deferred[Any], Any]] = []

    def in_thread(work: Any, *arguments: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        held.append((done, lambda: work(*arguments)))
        return done

    talk = make_talk(tmp_path, in_thread=in_thread)
    talk.log_in()
    assert talk.say(b'PUTSCRIPT "a" "keep;"\r\nLISTSCRIPTS\r\nNOOP "end"') == b""
    done, work = held.pop()
    done.callback(work())
    assert bytes(talk.wire.value()) == b"OK\r\n"
    done, work = held.pop()
    done.callback(work())
    assert bytes(talk.wire.value()) == b'OK\r\n"a"\r\nOK\r\nOK (TAG "end") "Nothing was done"\r\n'


def test_a_client_that_leaves_in_the_middle_of_a_command_breaks_nothing(tmp_path: Path) -> None:
    held: list[Deferred[Any]] = []

    def in_thread(work: Any, *arguments: Any) -> Deferred[Any]:
        held.append(Deferred())
        return held[-1]

    talk = make_talk(tmp_path, in_thread=in_thread)
    talk.log_in()
    talk.say(b"LISTSCRIPTS")
    talk.session.connectionLost(Failure(ConnectionDone()))
    held.pop().callback([])
    assert talk.factory.counter.open == 0
    assert not talk.clock.getDelayedCalls()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_quota_and_loses_no_session(tmp_path: Path, number: int) -> None:
    def in_thread(work: Any, *arguments: Any) -> Deferred[Any]:
        return fail(OSError(number, "full"))

    talk = make_talk(tmp_path, in_thread=in_thread)
    talk.log_in()
    assert talk.say(b'PUTSCRIPT "a" "keep;"') == b'NO (QUOTA) "the server has no room now"\r\n'
    talk = make_talk(tmp_path, writable=lambda octets: OSError(number, "reserve"))
    talk.log_in()
    assert talk.say(b'HAVESPACE "a" 10').startswith(b"NO (QUOTA)")
    assert talk.say(b"NOOP").startswith(b"OK")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"HELLO",
        b'"NOOP"',
        b"NOOP 5",
        b'NOOP "a" "b"',
        b"CHECKSCRIPT",
        b'NOOP "open',
        b"NOOP (a)",
        b'NOOP"a"',
    ],
)
def test_what_is_no_command_is_answered_and_too_much_of_it_ends_the_session(talk: Talk, line: bytes) -> None:
    talk.log_in()
    for _ in range(MAX_ERRORS - 1):
        assert talk.say(line).startswith(b"NO ")
    assert talk.say(line) == b'BYE "Too many errors"\r\n'
    assert talk.wire.disconnecting


def test_before_login_nobody_can_fill_memory(talk: Talk) -> None:
    assert talk.say(b"NOOP {20000+}\r\n" + b"x" * 20000).startswith(b"NO ")
    assert talk.say(b"NOOP").startswith(b"OK")
    talk.wire.clear()
    talk.session.dataReceived(b"x" * 20000)
    assert bytes(talk.wire.value()).startswith(b"BYE")


def test_silence_ends_a_session(talk: Talk) -> None:
    talk.clock.advance(LOGIN_TIMEOUT + 1)
    assert bytes(talk.wire.value()).endswith(b'BYE "Idle for too long"\r\n')


def test_a_login_must_come_in_time_whatever_is_said_before(talk: Talk) -> None:
    for _ in range(7):
        talk.clock.advance(LOGIN_TIMEOUT / 6)
        talk.say(b"NOOP")
    assert talk.wire.disconnecting


def test_a_user_may_write_a_script_for_half_an_hour(talk: Talk) -> None:
    talk.log_in()
    talk.clock.advance(30 * 60)
    assert talk.say(b"NOOP").startswith(b"OK")
    talk.clock.advance(IDLE_TIMEOUT + 1)
    assert talk.wire.disconnecting


def test_the_connections_of_a_network_are_counted_and_the_end_of_the_server_is_told(tmp_path: Path) -> None:
    talk = make_talk(tmp_path)
    others = []
    for _ in range(5):
        session, wire = talk.factory.buildProtocol(None), Wire()
        session.makeConnection(wire)
        others.append((session, wire))
    assert bytes(others[-1][1].value()).startswith(b"BYE (TRYLATER)")
    done = talk.factory.close_sessions()
    assert bytes(talk.wire.value()).endswith(b'BYE (TRYLATER) "The server is stopping"\r\n')
    for session, _ in [(talk.session, talk.wire), *others]:
        session.connectionLost(Failure(ConnectionDone()))
    assert done.called
    assert talk.factory.counter.open == 0
