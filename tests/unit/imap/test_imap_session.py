"""The session: order, login, TLS, limits, time, back-pressure."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.imap.connection import MAX_BUFFERED
from lorrainemail.imap.server import (
    AUTOLOGOUT,
    MAX_ERRORS,
    MAX_LOGIN_FAILURES,
    PRE_LOGIN_IDLE,
    PRE_LOGIN_TOTAL,
)


def test_capabilities_are_those_of_the_state(make_door: Any, tls: Any) -> None:
    plain = make_door().client()
    assert "AUTH=PLAIN" in plain.greeting[0] and "STARTTLS" not in plain.greeting[0]
    closed = make_door(plaintext=False, tls=tls).client()
    words = closed.greeting[0].replace("]", " ").split()
    assert "STARTTLS" in words and "LOGINDISABLED" in words and "AUTH=PLAIN" not in words
    implicit = make_door(door="imaps", plaintext=False, tls=tls).client()
    # Before the handshake has ended nobody knows which mechanisms work, so the greeting names none.
    assert "CAPABILITY" not in implicit.greeting[0]
    words = implicit.say("a CAPABILITY")[0].split()
    assert "AUTH=PLAIN" in words and "STARTTLS" not in words and "LOGINDISABLED" not in words
    plain.login()
    after = plain.say("a CAPABILITY")[0].split()
    assert {"IMAP4rev1", "UIDPLUS", "MOVE", "SPECIAL-USE", "NAMESPACE", "APPENDLIMIT=1000000"} <= set(after)
    assert not any(word.startswith("AUTH=") for word in after)


def test_passwords_are_refused_in_clear_text(make_door: Any, tls: Any) -> None:
    door = make_door(plaintext=False, tls=tls)
    client = door.client()
    assert client.say("a LOGIN bob sesame") == ["a NO [PRIVACYREQUIRED] Start TLS first"]
    assert client.say("b AUTHENTICATE PLAIN") == ["b NO [PRIVACYREQUIRED] Start TLS first"]
    assert door.authenticator.asked == []


def test_what_was_pipelined_behind_starttls_is_thrown_away(make_door: Any, tls: Any) -> None:
    # the stock server runs it inside TLS
    door = make_door(plaintext=False, tls=tls)
    client = door.client()
    assert client.say(b"a STARTTLS\r\nb LOGIN bob sesame\r\nc NOOP\r\n") == ["a OK Begin TLS negotiation now"]
    assert client.transport.tls == ["context of imap"]
    assert door.authenticator.asked == []
    assert client.say("d CAPABILITY")[0].split()[-2:] == ["AUTH=PLAIN", "AUTH=LOGIN"]
    assert client.say("e STARTTLS") == ["e BAD STARTTLS is not offered here"]
    assert client.say("f LOGIN bob sesame")[-1].startswith("f OK")
    assert client.say("g STARTTLS")[-1].startswith("g BAD")


def test_authenticate_plain_and_login(door: Any) -> None:
    token = base64.b64encode(b"\0bob\0sesame").decode()
    assert door.client().say(f"a AUTHENTICATE PLAIN {token}")[-1].startswith("a OK [CAPABILITY ")
    slow = door.client()
    assert slow.say("a AUTHENTICATE PLAIN") == ["+ "]
    assert slow.say(token)[-1].startswith("a OK")
    login = door.client()
    assert login.say("a AUTHENTICATE LOGIN") == ["+ " + base64.b64encode(b"Username:").decode()]
    assert login.say(base64.b64encode(b"bob").decode()) == ["+ " + base64.b64encode(b"Password:").decode()]
    assert login.say(base64.b64encode(b"sesame").decode())[-1].startswith("a OK")
    assert [asked[3] for asked in door.authenticator.asked] == ["PLAIN", "PLAIN", "LOGIN"]
    session = door.authenticator.asked[0][2]
    assert (session.peer, session.door) == ("192.0.2.9", "imap")


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["a AUTHENTICATE PLAIN", "*"], "a BAD Authentication cancelled"),
        (["a AUTHENTICATE PLAIN", "!!!"], "a BAD Malformed authentication exchange"),
        (["a AUTHENTICATE PLAIN ="], "a BAD Malformed authentication exchange"),
        (["a AUTHENTICATE X-NONE"], "a NO [CANNOT] No such mechanism"),
        (["a LOGIN table x"], "a NO [UNAVAILABLE] Login is not possible now, try again later"),
        (["a LOGIN bob x"], "a NO [AUTHENTICATIONFAILED] Wrong name or password"),
    ],
)
def test_failed_logins_leave_the_session_usable(door: Any, lines: list[str], answer: str) -> None:
    client = door.client()
    for line in lines:
        said = client.say(line)
    assert said == [answer]
    assert client.say("b LOGIN bob sesame")[-1].startswith("b OK")


def test_guessing_ends_the_connection(door: Any) -> None:
    client = door.client()
    for _ in range(MAX_LOGIN_FAILURES):
        said = client.say("a LOGIN bob wrong")
    assert said == ["* BYE Too many failed logins"]
    assert client.closed


def test_quoted_passwords_keep_their_quotes(door: Any) -> None:
    assert door.client().say(r'a LOGIN "bob" "se\"sa\\me"')[-1].startswith("a OK")
    client = door.client()
    assert client.say(b"a LOGIN {3}\r\n") == ["+ Ready for literal"]
    assert client.say(b'bob {8+}\r\nse"sa\\me\r\n')[-1].startswith("a OK")


def test_commands_are_answered_in_order_even_when_one_is_slow(door: Any) -> None:
    door.authenticator.late = True
    client = door.client()
    assert client.say(b"a LOGIN bob sesame\r\nb SELECT INBOX\r\nc CAPABILITY\r\n") == []
    door.authenticator.waiting[0].callback(None)
    said = client.read()
    tagged = [line.split()[0] for line in said if line[0] in "abc"]
    assert tagged == ["a", "b", "c"]


def test_a_slow_command_bounds_what_is_buffered(door: Any) -> None:
    door.authenticator.late = True
    client = door.client()
    client.say("a LOGIN bob sesame")
    client.say(b"x NOOP\r\n" * (MAX_BUFFERED // 8))
    assert client.transport.producerState == "paused"
    door.authenticator.waiting[0].callback(None)
    said = client.read()
    assert len([line for line in said if line.startswith("x OK")]) == MAX_BUFFERED // 8
    assert client.transport.producerState == "producing"


def test_a_flood_of_commands_is_taken_in_turns_and_bounded(door: Any) -> None:
    client = door.client()
    tag = "x" * 90
    client.session.dataReceived(f"{tag} NOOP\r\n".encode() * 2000)
    assert client.transport.value().count(b"OK NOOP") < 100
    assert client.transport.producerState == "paused"
    assert client.read().count(f"{tag} OK NOOP completed") == 2000
    assert client.transport.producerState == "producing"


def test_a_client_that_does_not_read_is_not_served(door: Any) -> None:
    door.put(*(["Subject: x\n\n" + "y" * 70_000 + "\n"] * 30))
    client = door.selected()
    client.transport.producer.pauseProducing()
    said = client.say(b"a UID FETCH 1:* BODY.PEEK[]\r\nb NOOP\r\n")
    assert sum(map(len, said)) < 200_000
    assert not any(line.startswith(("a ", "b ")) for line in said)
    for _ in range(100):
        client.transport.producer.resumeProducing()
        said += client.read()
    assert [line for line in said if line.startswith(("a ", "b "))] == [
        "a OK FETCH completed",
        "b OK NOOP completed",
    ]


def test_losing_the_connection_under_a_command_lets_everything_go(door: Any) -> None:
    door.put(*(["Subject: x\n\n" + "y" * 70_000 + "\n"] * 30))
    client = door.selected()
    client.transport.producer.pauseProducing()
    client.say("a FETCH 1:* BODY[]")
    assert door.folder().users == 1
    client.lose()
    client.read()
    assert door.folder().users == 0
    assert door.folder()._watchers == []
    assert door.counter.open == 0


def test_silence_ends_the_session_politely(door: Any) -> None:
    client = door.client()
    door.clock.advance(PRE_LOGIN_IDLE + 1)
    assert client.read() == ["* BYE Autologout; idle for too long"]
    assert client.closed
    user = door.client().login()
    door.clock.advance(30 * 60)  # RFC 3501 §5.4: not before 30 minutes
    assert not user.closed
    user.say("a NOOP")
    door.clock.advance(AUTOLOGOUT + 1)
    assert user.closed


def test_a_login_that_trickles_in_has_an_end(door: Any) -> None:
    client = door.client()
    for _ in range(PRE_LOGIN_TOTAL // 30 + 1):
        client.say(b"a")
        door.clock.advance(30)
    assert client.closed


def test_errors_have_an_end_but_good_commands_forgive(door: Any) -> None:
    client = door.client()
    for _ in range(3):
        for _ in range(MAX_ERRORS - 1):
            client.say("a FROB")
        client.say("a NOOP")
    assert not client.closed
    for _ in range(MAX_ERRORS):
        said = client.say("a FROB")
    assert said[-1] == "* BYE Too many errors"
    assert client.closed


def test_a_syntax_error_is_bad_with_its_tag_and_the_session_goes_on(door: Any) -> None:
    client = door.client().login()
    assert client.say("a7 FETCH 1 FLAGS") == ["a7 BAD FETCH not allowed now"]
    assert client.say("a8 SELECT") == ["a8 BAD a space is missing"]
    assert client.say("") == ["* BAD empty command"]
    assert client.say("a9 NOOP") == ["a9 OK NOOP completed"]


def test_connections_of_one_network_are_limited(make_door: Any) -> None:
    door = make_door()
    door.counter.per_peer = 2
    first, second, third = door.client(), door.client(), door.client()
    assert third.greeting == ["* BYE [UNAVAILABLE] Too many connections from your network"]
    assert third.closed and not second.closed
    third.lose()
    first.lose()
    assert door.client().greeting[0].startswith("* OK")


def test_the_server_stops_after_the_command_under_way(door: Any) -> None:
    idle = door.selected()
    idle.say("a IDLE")
    waiting = door.client()
    middle = door.selected()
    middle.say(b"a APPEND INBOX {300}\r\nSubj")
    door.authenticator.late = True
    busy = door.client()
    busy.say("a LOGIN bob sesame")
    stopped: list[None] = []
    door.factory.close_sessions().addCallback(stopped.append)
    assert idle.read() == ["* BYE [UNAVAILABLE] The server is stopping"]
    assert waiting.closed and not busy.closed
    door.authenticator.waiting[0].callback(None)
    said = busy.read()
    assert said[0].startswith("a OK") and said[1].startswith("* BYE")
    assert middle.read() == ["* BYE [UNAVAILABLE] The server is stopping"]
    for client in (idle, waiting, busy, middle):
        client.lose()
    assert stopped == [None]
    assert door.client().greeting[0].startswith("* BYE")


def test_a_fault_of_ours_is_said_without_its_words(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = door.client().login()

    def broken(*_: object) -> None:
        raise RuntimeError("secret path")

    monkeypatch.setattr(door.home, "folders", broken)
    assert client.say('a LIST "" *') == ["a NO [SERVERBUG] Internal error"]
    assert client.say("b NOOP") == ["b OK NOOP completed"]

    def later(*_: object) -> None:
        raise TemporaryError(Reply(451, "4.3.0", "Try again later"), "disk at /secret")

    monkeypatch.setattr(door.home, "folders", later)
    assert client.say('a LIST "" *') == ["a NO [UNAVAILABLE] Try again later"]


def test_nodelay_is_on(door: Any) -> None:
    assert door.client().transport.nodelay is True


def test_logout_answers_and_closes(door: Any) -> None:
    client = door.selected()
    assert client.say("a LOGOUT") == ["* BYE Logging out", "a OK LOGOUT completed"]
    assert client.closed
    assert door.folder().users == 0


def test_id_enable_and_namespace(door: Any) -> None:
    client = door.client()
    assert client.say('a ID ("name" "mutt")') == ['* ID ("name" "lorrainemail")', "a OK ID completed"]
    client.login()
    assert client.say("a ENABLE X-UNKNOWN") == ["* ENABLED", "a OK ENABLE completed"]
    assert client.say("a ENABLE QRESYNC X-Y") == ["* ENABLED CONDSTORE QRESYNC", "a OK ENABLE completed"]
    assert client.say("a ENABLE CONDSTORE") == ["* ENABLED", "a OK ENABLE completed"]
    assert client.say("a NAMESPACE") == [
        '* NAMESPACE (("" "/")) (("user/" "/")) NIL',
        "a OK NAMESPACE completed",
    ]


def test_idle_tells_at_once_and_ends_with_done(door: Any) -> None:
    client = door.selected()
    other = door.selected()
    assert client.say("a IDLE") == ["+ idling"]
    door.put("Subject: x\n\nhello\n")
    assert client.read() == ["* 1 EXISTS", "* 1 RECENT"]
    other.say("b STORE 1 +FLAGS (\\Deleted)")
    other.say("b STORE 1 +FLAGS (\\Deleted)")
    assert client.read() == ["* 1 FETCH (FLAGS (\\Deleted \\Recent))"]
    other.say("c EXPUNGE")
    assert client.read() == ["* 1 EXPUNGE"]
    assert client.say("done") == ["a OK IDLE completed"]
    client.say("b IDLE")
    assert client.say("NOOP") == ["b BAD Expected DONE"]


def test_idle_waits_for_a_client_that_does_not_read(door: Any) -> None:
    client = door.selected()
    client.say("a IDLE")
    client.transport.producer.pauseProducing()
    door.put("Subject: x\n\nhello\n")
    assert client.read() == []
    client.transport.producer.resumeProducing()
    assert client.read() == ["* 1 EXISTS", "* 1 RECENT"]
