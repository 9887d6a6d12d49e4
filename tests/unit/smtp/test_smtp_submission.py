"""Messages of our own users: what is added, what goes, what is refused, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

from lorrainemail.ops import content as content_module

COMPLETE = b"From: Anne <anne@ours.test>\r\nDate: Thu, 01 Jan 1970 00:00:00 +0000\r\nMessage-ID: <1@x>\r\n"


def submit(world: Any, wire: bytes, sender: str = "anne@ours.test") -> str:
    client = world.submission().logged_in()
    client.say(f"MAIL FROM:<{sender}>", "RCPT TO:<x@elsewhere.test>", "DATA")
    answer: str = client.send(wire.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return answer


def test_complete_message_is_not_touched(world: Any) -> None:
    wire = COMPLETE + b"X: a\r\n\tb\r\nno field\r\n\r\nBcc: body\r\n\0\xff\r\n"
    assert submit(world, wire).startswith("250")
    assert world.intake.wires == [wire]


def test_missing_date_message_id_and_from_come_first_and_the_rest_stays(world: Any) -> None:
    wire = b"Subject: x\r\n\r\nbody\r\n"
    assert submit(world, wire).startswith("250")
    id = world.intake.taken[0].envelope.id
    assert world.intake.wires == [
        b"From: anne@ours.test\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Message-ID: <" + id.encode() + b"@mail.ours.test>\r\n" + wire
    ]


def test_missing_from_of_a_bounce_is_the_account(world: Any) -> None:
    submit(world, b"Subject: x\r\n\r\n", sender="")
    assert world.intake.wires[0].startswith(b"From: anne@ours.test\r\n")


def test_bcc_goes_with_its_folded_lines_wherever_it_stands(world: Any) -> None:
    wire = b"Bcc: a@b,\r\n c@d\r\n" + COMPLETE + b"bcc : e@f\r\nX: y\r\nResent-Bcc: g@h\r\n\r\nBcc: body\r\n"
    assert submit(world, wire).startswith("250")
    assert world.intake.wires == [COMPLETE + b"X: y\r\n\r\nBcc: body\r\n"]


def test_message_that_is_all_body_gets_a_header(world: Any) -> None:
    submit(world, b"hello\r\nworld\r\n")
    header, _, body = world.intake.wires[0].partition(b"\r\n\r\n")
    assert header.count(b"\r\n") == 2
    assert body == b"hello\r\nworld\r\n"


def test_message_without_header_or_body(world: Any) -> None:
    submit(world, b"")
    assert world.intake.wires[0].endswith(b"@mail.ours.test>\r\n\r\n")
    submit(world, b"\r\nbody\r\n")
    assert world.intake.wires[1].endswith(b"@mail.ours.test>\r\n\r\nbody\r\n")


@pytest.mark.parametrize(
    "author",
    [
        b"bob@ours.test",
        b"Anne <bob@ours.test>",
        b"anne@ours.test, bob@ours.test",
        b'"anne@ours.test" <bob@ours.test>',
        b"=?utf-8?q?anne=40ours=2Etest?= <ceo@elsewhere.test>",
        b"anne@ours.test\r\nFrom: bob@ours.test",
        b"anne@ours.test (anne) <bob@ours.test>",
        b"team: bob@ours.test;",
        b"nonsense",
        b"",
        b"nobody:;",
    ],
)
def test_foreign_from_is_refused_by_name(world: Any, author: bytes) -> None:
    wire = b"Date: x\r\nMessage-ID: <1@x>\r\nFrom: " + author + b"\r\n\r\n"
    answer = submit(world, wire)
    assert answer.startswith("550 5.7.1 You are logged in as anne@ours.test, but From names ")
    assert world.intake.taken == []


@pytest.mark.parametrize(
    "author",
    [b"anne@ours.test", b"A <ANNE+x@Ours.Test>", b"sales@ours.test, anne@ours.test", b"<anne@ours.test>"],
)
def test_own_from_is_accepted(world: Any, author: bytes) -> None:
    assert submit(world, b"From: " + author + b"\r\n\r\n").startswith("250")


def test_header_too_large_to_be_looked_at_whole_is_refused(world: Any) -> None:
    wire = COMPLETE + (b"X: " + b"y" * 900 + b"\r\n") * 400 + b"Bcc: hidden@x.test\r\n\r\n"
    assert submit(world, wire).startswith("554 5.6.0 ")


def test_from_is_taken_apart_up_to_a_length_that_holds_nobody_up(world: Any) -> None:
    answer = submit(world, b"From: " + b"()" * 5000 + b"\r\n" + b" ()" * 4000 + b" anne@ours.test\r\n\r\n")
    assert answer.startswith("550 5.7.1 The From field is too long")
    answer = submit(world, b"From: " + b"()" * 400 + b" anne@ours.test\r\n\r\n")
    assert answer.startswith("250")


def test_too_many_fields_to_be_looked_at_are_refused(world: Any) -> None:
    assert submit(world, COMPLETE + b"X:\r\n" * 4001 + b"Bcc: h@x.test\r\n\r\n").startswith("554 5.6.0 ")


def test_large_message_is_edited_without_being_read_into_memory(world: Any) -> None:
    body = (b"." + b"z" * 900 + b"\r\n") * 600
    assert submit(world, b"Bcc: a@b\r\n" + COMPLETE + b"\r\n" + body).startswith("250")
    assert world.intake.wires == [COMPLETE + b"\r\n" + body]
    assert isinstance(world.intake.taken[0].content, content_module.SpilledContent)


def test_mail_of_strangers_is_never_edited(world: Any) -> None:
    wire = b"Bcc: x\r\n\r\n"
    world.connect().mail(wire)
    world.connect("10.1.2.3").mail(wire)
    assert world.intake.wires == [wire, wire]
