"""What stock ``twisted.mail.smtp`` gets wrong as a server, one test each; none of it may come back."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from lorrainemail.addresses import Address
from lorrainemail.errors import Reply


def test_line_over_16384_octets_in_data_does_not_turn_the_rest_into_commands(world: Any) -> None:
    client = world.connect()
    wire = b"Subject: x\r\n\r\n" + b"l" * 20_000 + b"\r\nRSET\r\nMAIL FROM:<evil@x.test>\r\n"
    assert client.mail(wire).startswith("250 2.0.0 ")
    assert world.intake.wires == [wire]


def test_plaintext_pipelined_after_starttls_is_not_executed_inside_tls(world: Any) -> None:
    world.tls = object()
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.send("STARTTLS\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<bob@ours.test>\r\n")[:3] == "220"
    assert client.transport.started is world.tls
    assert client.send("NOOP\r\n") == "250 2.0.0 OK\r\n"
    assert client.say("RCPT TO:<bob@ours.test>") == ["503 5.5.1"]


def test_starttls_forgets_greeting_login_and_transaction(world: Any) -> None:
    world.tls = object()
    world.submission()
    client = world.logged_in()
    assert client.say("MAIL FROM:<anne@ours.test>", "STARTTLS") == ["250 2.1.0", "220 2.0.0"]
    assert client.say("RCPT TO:<bob@ours.test>", "MAIL FROM:<anne@ours.test>") == ["503 5.5.1"] * 2
    client.send("EHLO c\r\n")
    assert client.say("MAIL FROM:<anne@ours.test>") == ["530 5.7.0"]


def test_half_a_plaintext_command_is_not_completed_inside_tls(world: Any) -> None:
    world.tls = object()
    client = world.connect()
    client.send("EHLO c\r\n")
    client.send("STARTTLS\r\nMAIL FROM:<evil")
    assert client.send("NOOP\r\n") == "250 2.0.0 OK\r\n"


def test_replies_come_in_order_when_a_check_takes_its_time(world: Any) -> None:
    slow = world.slow_tables()
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.send("MAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nRCPT TO:<no@ours.test>\r\nNOOP\r\n") == (
        "250 2.1.0 Sender OK\r\n"
    )
    slow.waiting.pop()()
    assert client.read() == "250 2.1.5 Recipient OK\r\n"
    slow.waiting.pop()()
    answers = client.read().splitlines()
    assert [answer[:9] for answer in answers] == ["550 5.1.1", "250 2.0.0"]


def test_commands_after_the_final_dot_wait_for_its_reply(world: Any) -> None:
    pending: Deferred[Reply] = Deferred()
    world.intake.answer = lambda _: pending
    client = world.connect()
    assert client.mail(b"x: y\r\n\r\n.\r\nMAIL FROM:<>\r\nNOOP\r\nQUIT\r\n") == ""
    pending.callback(Reply(250, "2.0.0", "Done"))
    assert client.read() == "250 2.0.0 Done\r\n250 2.1.0 Sender OK\r\n250 2.0.0 OK\r\n221 2.0.0 Bye\r\n"
    assert client.closing


@pytest.mark.parametrize("parameter", ["XFOO", "XFOO=1", "SIZ=1", "RET=FULL", "AUTH=<>"])
def test_unknown_parameters_are_refused_not_dropped(world: Any, parameter: str) -> None:
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.say(f"MAIL FROM:<a@b.test> {parameter}") == ["555 5.5.4"]
    client.send("MAIL FROM:<a@b.test>\r\n")
    assert client.say(f"RCPT TO:<bob@ours.test> {parameter}") == ["555 5.5.4"]


def test_noop_vrfy_and_help_are_answered(world: Any) -> None:
    client = world.connect()
    assert client.say("NOOP", "NOOP x", "VRFY bob", "VRFY", "EXPN list", "EXPN") == [
        "250 2.0.0",
        "250 2.0.0",
        "252 2.5.2",
        "501 5.5.4",
        "502 5.5.1",
        "502 5.5.1",
    ]
    assert client.send("HELP\r\n").startswith("214-2.0.0 ")


def test_mail_before_ehlo_is_refused(world: Any) -> None:
    client = world.connect()
    assert client.say("MAIL FROM:<a@b.test>", "RCPT TO:<bob@ours.test>", "DATA") == ["503 5.5.1"] * 3


def test_address_literals_are_accepted(world: Any) -> None:
    client = world.connect()
    client.send("EHLO [198.51.100.7]\r\n")
    assert client.say("MAIL FROM:<a@[IPv6:2001:db8::1]>") == ["250 2.1.0"]
    assert client.say("RCPT TO:<bob@ours.test>", "RSET") == ["250 2.1.5", "250 2.0.0"]
    assert client.say("MAIL FROM:<a@[198.51.100.7]>") == ["250 2.1.0"]


def test_utf8_addresses_are_accepted_under_smtputf8_and_only_there(world: Any) -> None:
    client = world.connect()
    assert "250 SMTPUTF8\r\n" in client.send("EHLO c\r\n")
    assert client.say("MAIL FROM:<é@b.test>") == ["553 5.6.7"]
    assert client.say("MAIL FROM:<é@b.test> SMTPUTF8", "RCPT TO:<bob@ours.test>") == [
        "250 2.1.0",
        "250 2.1.5",
    ]
    client.send("DATA\r\n")
    client.send("Subject: x\r\n\r\n.\r\n")
    envelope = world.intake.taken[0].envelope
    assert envelope.smtputf8
    assert envelope.sender == Address("é", "b.test")


def test_auth_without_argument_is_answered(world: Any) -> None:
    client = world.submission().connect()
    client.send("EHLO c\r\n")
    assert client.say("AUTH", "NOOP") == ["501 5.5.4", "250 2.0.0"]


@pytest.mark.parametrize("verb", [b"\xff\xfe\r\n", "ÉHLO x\r\n".encode(), b"\0\r\n", b"\r\n", b" \r\n"])
def test_verb_that_is_no_ascii_is_answered(world: Any, verb: bytes) -> None:
    client = world.connect()
    assert client.send(verb) == "500 5.5.2 Command not recognized\r\n"
    assert not client.closing


def test_one_failing_recipient_does_not_fail_the_other(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.say("MAIL FROM:<a@b.test>", "RCPT TO:<no@ours.test>", "RCPT TO:<bob@ours.test>") == [
        "250 2.1.0",
        "550 5.1.1",
        "250 2.1.5",
    ]
    client.send("DATA\r\n")
    assert client.send("Subject: x\r\n\r\n.\r\n").startswith("250 ")
    (transaction,) = world.intake.taken
    assert [str(r.address) for r in transaction.envelope.recipients] == ["bob@ours.test"]


@pytest.mark.parametrize("body", [b"a\nb", b"a\rb", b"a\n.\nMAIL FROM:<evil@x.test>"])
def test_bare_cr_and_lf_do_not_pass(world: Any, body: bytes) -> None:
    client = world.connect()
    assert client.mail(b"Subject: x\r\n\r\n" + body + b"\r\n").startswith("550 5.6.0 ")
    assert world.intake.taken == []
    assert client.say("MAIL FROM:<a@b.test>") == ["250 2.1.0"]
