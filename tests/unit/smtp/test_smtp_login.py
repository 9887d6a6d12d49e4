"""AUTH, and what a client that logged in may send."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from twisted.internet.defer import fail

from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.sasl.mechanisms import TEMPORARY_FAILURE
from lorrainemail.smtp.session import MAX_FAILED_LOGINS


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


GOOD = b64("\0anne@ours.test\0secret")
BAD = b64("\0anne@ours.test\0wrong")


def test_submission_without_login_is_refused(world: Any) -> None:
    client = world.submission().connect()
    assert "AUTH PLAIN LOGIN\r\n" in client.send("EHLO c\r\n")
    assert client.send("MAIL FROM:<anne@ours.test>\r\n") == "530 5.7.0 Authentication required\r\n"


def test_without_tls_login_is_neither_offered_nor_possible(world: Any) -> None:
    world.tls = object()
    client = world.submission().configure(plaintext_login=False).connect()
    assert "AUTH" not in client.send("EHLO c\r\n")
    assert client.say(f"AUTH PLAIN {GOOD}") == ["538 5.7.11"[:9]]
    assert client.send("MAIL FROM:<>\r\n") == "530 5.7.0 Must issue a STARTTLS command first\r\n"
    assert world.authenticator.asked == []
    client.say("STARTTLS")
    assert "AUTH PLAIN LOGIN\r\n" in client.send("EHLO c\r\n")
    assert client.say(f"AUTH PLAIN {GOOD}") == ["235 2.7.0"]


def test_mx_door_offers_no_login_unless_switched_on(world: Any) -> None:
    client = world.connect()
    assert "AUTH" not in client.send("EHLO c\r\n")
    assert client.say(f"AUTH PLAIN {GOOD}") == ["502 5.5.1"]


def test_mx_door_with_login_switched_on_still_takes_mail_without(world: Any) -> None:
    world.configure(login="offered", plaintext_login=True)
    assert world.connect().mail().startswith("250")
    client = world.logged_in()
    client.say("MAIL FROM:<anne@ours.test>")
    assert client.say("RCPT TO:<x@elsewhere.test>") == ["250 2.1.5"]


@pytest.mark.parametrize(
    "lines",
    [
        [f"AUTH PLAIN {GOOD}"],
        ["AUTH PLAIN", GOOD],
        [f"auth plain {GOOD}"],
        ["AUTH LOGIN", b64("anne@ours.test"), b64("secret")],
        [f"AUTH LOGIN {b64('anne@ours.test')}", b64("secret")],
    ],
)
def test_every_way_to_log_in(world: Any, lines: list[str]) -> None:
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    replies = client.say(*lines)
    assert [reply[:3] for reply in replies[:-1]] == ["334"] * (len(lines) - 1)
    assert replies[-1] == "235 2.7.0"
    ((name, password, session, _),) = world.authenticator.asked
    assert (name, password, session.peer) == (b"anne@ours.test", b"secret", "198.51.100.7")
    assert client.say("MAIL FROM:<anne@ours.test>", "RCPT TO:<x@elsewhere.test>") == [
        "250 2.1.0",
        "250 2.1.5",
    ]
    client.send("DATA\r\n")
    client.send("From: anne@ours.test\r\n\r\n.\r\n")
    (transaction,) = world.intake.taken
    assert transaction.session.account == "anne@ours.test"
    assert transaction.session.mechanism in ("PLAIN", "LOGIN")
    assert transaction.envelope.sender_verified


@pytest.mark.parametrize(
    ("lines", "last"),
    [
        (["AUTH PLAIN", "*"], "501 5.7.0"),
        (["AUTH LOGIN", "*"], "501 5.7.0"),
        (["AUTH PLAIN !!!"], "501 5.5.2"),
        (["AUTH PLAIN", "a"], "501 5.5.2"),
        (["AUTH PLAIN ="], "501 5.5.2"),
        (["AUTH CRAM-MD5"], "504 5.5.4"),
        (["AUTH"], "501 5.5.4"),
        (["AUTH PLAIN " + BAD], "535 5.7.8"),
        (["AUTH PLAIN", "x" * 12291], "500 5.5.2"),
    ],
)
def test_failed_exchanges_say_why_and_leave_the_session_usable(
    world: Any, lines: list[str], last: str
) -> None:
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    assert client.say(*lines)[-1] == last
    assert client.say("NOOP", "MAIL FROM:<anne@ours.test>", f"AUTH PLAIN {GOOD}") == [
        "250 2.0.0",
        "530 5.7.0",
        "235 2.7.0",
    ]


def test_long_lawful_exchange_line_is_taken(world: Any) -> None:
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    client.send("AUTH PLAIN\r\n")
    assert client.say(b64("\0anne@ours.test\0" + "p" * 9000)) == ["535 5.7.8"]


def test_login_needs_a_greeting_and_no_transaction_and_comes_once(world: Any) -> None:
    world.configure(login="offered", plaintext_login=True)
    client = world.connect()
    assert client.say(f"AUTH PLAIN {GOOD}") == ["503 5.5.1"]
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.say(f"AUTH PLAIN {GOOD}", "RSET", f"AUTH PLAIN {GOOD}", f"AUTH PLAIN {GOOD}") == [
        "503 5.5.1",
        "250 2.0.0",
        "235 2.7.0",
        "503 5.5.1",
    ]


def test_failing_logins_end_the_session(world: Any) -> None:
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    assert client.say(*[f"AUTH PLAIN {BAD}"] * MAX_FAILED_LOGINS)[-1] == "421 4.7.0"
    assert client.closing


def test_temporary_failure_of_the_login_is_a_454(world: Any) -> None:
    world.authenticator.authenticate = lambda *_: fail(TemporaryError(TEMPORARY_FAILURE))
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    assert client.say(f"AUTH PLAIN {GOOD}") == ["454 4.7.0"]


def test_commands_pipelined_behind_a_login_wait_for_it(world: Any) -> None:
    world.authenticator.pending = []
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    assert client.send(f"AUTH PLAIN {GOOD}\r\nMAIL FROM:<anne@ours.test>\r\n") == ""
    (pending,) = world.authenticator.pending
    pending.errback(TemporaryError(Reply(454, "4.7.0", "Later")))
    assert client.read() == "454 4.7.0 Later\r\n530 5.7.0 Authentication required\r\n"


def test_client_that_leaves_during_its_login_harms_nothing(world: Any) -> None:
    world.authenticator.pending = []
    client = world.submission().connect()
    client.send(f"EHLO c\r\nAUTH PLAIN {GOOD}\r\n")
    client.lose()
    world.authenticator.pending[0].errback(TemporaryError(Reply(454, "4.7.0", "Later")))


def test_secrets_reach_neither_trace_nor_replies(world: Any) -> None:
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    text = client.send(f"AUTH PLAIN {BAD}\r\nAUTH LOGIN\r\n{b64('hunter2')}\r\n*\r\n")
    assert "wrong" not in text
    assert "hunter2" not in text
    assert world.trace.events == []


def test_envelope_sender_must_be_the_accounts_own(world: Any) -> None:
    client = world.submission().logged_in()
    assert client.send("MAIL FROM:<bob@ours.test>\r\n") == (
        "553 5.7.1 You are logged in as anne@ours.test and may not send as bob@ours.test\r\n"
    )
    assert client.say("MAIL FROM:<x@elsewhere.test>") == ["553 5.7.1"]
    for own in ("anne@ours.test", "ANNE+list@ours.test", "sales@ours.test", ""):
        assert client.say(f"MAIL FROM:<{own}>", "RSET") == ["250 2.1.0", "250 2.0.0"]


def test_an_initial_response_may_be_longer_than_a_command(world: Any) -> None:
    # RFC 4954 §4: tokens are, and clients send them with the command; anything else stays bounded.
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    response = b64("\0anne@ours.test\0" + "x" * 5000)
    half = len(response) // 2
    assert client.send(f"auth plain {response[:half]}") == ""
    assert client.send(f"{response[half:]}\r\n").startswith("535 5.7.8")
    assert client.send(f"AUTH PLAIN {'A' * 12300}\r\n").startswith("500 5.5.2 Line too long")
    assert client.send(f"NOOP {response}\r\n").startswith("500 5.5.2 Line too long")
