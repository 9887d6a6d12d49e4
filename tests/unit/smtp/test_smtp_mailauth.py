"""What the door makes of proofs and signatures: who is signed for, and who may be sent a report."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from twisted.internet.defer import fail, succeed

from lorrainemail.errors import INTERNAL_ERROR, TemporaryError
from lorrainemail.interfaces import Action, IContent, Verdict

FIELDS = b"DKIM-Signature: v=1\r\n"


def sign(content: IContent) -> Awaitable[bytes]:
    assert content.head(5) == b"From:"
    return succeed(FIELDS)


def test_a_message_of_our_own_user_is_signed(world: Any) -> None:
    client = world.submission().logged_in()
    world.door.sign = sign
    client.say("MAIL FROM:<anne@ours.test>", "RCPT TO:<x@elsewhere.test>", "DATA")
    assert client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n").startswith("250")
    assert world.intake.taken[0].fields == FIELDS
    assert not world.intake.wires[0].startswith(FIELDS)


def test_a_strangers_message_is_not_signed_and_a_listed_hosts_is(world: Any) -> None:
    world.door.sign = sign
    assert world.connect().mail(b"From: a@b.example\r\n\r\n").startswith("250")
    assert world.connect("10.1.2.3").mail(b"From: a@b.example\r\n\r\n").startswith("250")
    assert [taken.fields for taken in world.intake.taken] == [b"", FIELDS]


def test_a_message_that_cannot_be_read_to_be_signed_is_not_taken(world: Any) -> None:
    client = world.submission().logged_in()
    world.door.sign = lambda content: fail(TemporaryError(INTERNAL_ERROR))
    client.say("MAIL FROM:<anne@ours.test>", "RCPT TO:<x@elsewhere.test>", "DATA")
    assert client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n").startswith("451")
    assert world.intake.taken == []


def test_a_proven_sender_may_be_sent_a_report_and_another_not(world: Any) -> None:
    world.check.stages = frozenset({"data"})
    for verified in (True, False):
        world.check.answer = lambda: Verdict(Action.CONTINUE, "check", "", verified=verified)  # noqa: B023
        assert world.connect().mail().startswith("250")
    assert [taken.envelope.sender_verified for taken in world.intake.taken] == [True, False]
