"""BDAT: octets by count, and never one of them taken for a command."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from lorrainemail.errors import Reply

BEGIN = "EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@ours.test>\r\n"


def codes(text: str) -> list[str]:
    return [line[:9].strip() for line in text.splitlines() if line[3] == " "]


def test_message_in_chunks_is_taken_octet_for_octet(world: Any) -> None:
    client = world.connect()
    assert "250-CHUNKING" in client.send(BEGIN)
    assert client.send("BDAT 10\r\nSubject: x") == "250 2.0.0 10 octets received\r\n"
    assert client.send("BDAT 7\r\n\r\n\r\n.\r\n") == "250 2.0.0 7 octets received\r\n"
    assert client.send("bdat 9 last\r\n..\r\n.\r\n\r\n") == "250 2.0.0 Ok, delivered\r\n"
    assert world.intake.wires == [b"Subject: x\r\n\r\n.\r\n..\r\n.\r\n\r\n"]
    assert client.say("MAIL FROM:<>") == ["250 2.1.0"]


def test_chunks_cut_anywhere_and_pipelined_are_the_same_message(world: Any) -> None:
    wire = (
        BEGIN.encode()
        + b"BDAT 4\r\na: bBDAT 3\r\n\r\n\rBDAT 1\r\n\nBDAT 6\r\nRSET\r\nBDAT 0 LAST\r\nQUIT\r\n"
    )
    message = b"a: b\r\n\r\nRSET\r\n"
    for size in (1, 2, 3, 7, len(wire)):
        client = world.connect()
        for start in range(0, len(wire), size):
            client.server.dataReceived(wire[start : start + size])
        assert codes(client.read())[-7:] == ["250 2.1.5"] + ["250 2.0.0"] * 5 + ["221 2.0.0"]
        assert world.intake.wires.pop() == message


def test_last_line_without_its_end_gets_one(world: Any) -> None:
    client = world.connect()
    client.send(BEGIN)
    assert codes(client.send("BDAT 4 LAST\r\na: b")) == ["250 2.0.0"]
    assert world.intake.wires == [b"a: b\r\n"]


def test_nothing_at_all_is_a_message_too(world: Any) -> None:
    client = world.connect()
    client.send(BEGIN)
    assert codes(client.send("BDAT 0 LAST\r\n")) == ["250 2.0.0"]
    assert world.intake.wires == [b""]


@pytest.mark.parametrize(
    ("before", "code"),
    [("", "503 5.5.1"), ("EHLO c\r\n", "503 5.5.1"), ("EHLO c\r\nMAIL FROM:<>\r\n", "554 5.5.1")],
)
def test_octets_of_a_refused_chunk_are_never_commands(world: Any, before: str, code: str) -> None:
    client = world.connect()
    client.send(before)
    assert codes(client.send("BDAT 14\r\nEHLO evil.testNOOP\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n")) == [
        code,
        "250 2.0.0",
        code,
        "250 2.0.0",
    ]
    assert not client.closing
    assert world.intake.taken == []


@pytest.mark.parametrize(
    "argument", ["", " x", " -1", " 5 FIRST", " 1 LAST x", " 999999999999999999999", " 1_0"]
)
def test_chunk_of_unknown_length_ends_the_connection(world: Any, argument: str) -> None:
    client = world.connect()
    client.send(BEGIN)
    assert codes(client.send(f"BDAT{argument}\r\nRSET\r\n")) == ["501 5.5.4"]
    assert client.closing


def test_too_many_octets_are_counted_and_not_kept(world: Any) -> None:
    world.configure(message_size=1000)
    client = world.connect()
    client.send(BEGIN)
    assert client.send(b"BDAT 600\r\n" + b"x" * 600) == "250 2.0.0 600 octets received\r\n"
    assert client.send(b"BDAT 600\r\n" + b"QUIT\r\n" * 99) == ""
    assert codes(client.send("QUIT\r\n")) == ["552 5.3.4"]
    # Whatever comes now belongs to a message that is refused already.
    assert codes(client.send("BDAT 5\r\nxxxxxBDAT 6 LAST\r\nRSET\r\nNOOP\r\n")) == [
        "552 5.3.4",
        "552 5.3.4",
        "250 2.0.0",
    ]
    assert world.intake.taken == []
    assert client.say("MAIL FROM:<>") == ["250 2.1.0"]


@pytest.mark.parametrize("chunk", ["a\nb\r\n", "a\rb\r\n", "a\r", "\n"])
def test_bare_line_ends_are_refused_or_mended(world: Any, chunk: str) -> None:
    world.configure(mend_line_ends=("10.1.0.0/16",))
    for peer, code in (("198.51.100.7", "550 5.6.0"), ("10.1.0.1", "250 2.0.0")):
        client = world.connect(peer)
        client.send(BEGIN)
        assert codes(client.send(f"BDAT {len(chunk)} LAST\r\n{chunk}")) == [code]
    assert world.intake.wires == [
        chunk.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").encode()
    ]


def test_data_and_recipients_after_the_first_chunk_are_refused(world: Any) -> None:
    client = world.connect()
    client.send(BEGIN)
    client.send("BDAT 6\r\na: b\r\n")
    assert client.say("DATA", "RCPT TO:<anne@ours.test>", "MAIL FROM:<>") == ["503 5.5.1"] * 3
    assert codes(client.send("BDAT 0 LAST\r\n")) == ["250 2.0.0"]
    assert world.intake.wires == [b"a: b\r\n"]
    assert len(world.intake.taken[0].accepted) == 1


@pytest.mark.parametrize("end", ["RSET", "EHLO again"])
def test_message_that_is_given_up_leaves_nothing_behind(world: Any, end: str) -> None:
    client = world.connect()
    client.send(BEGIN)
    client.send(b"BDAT 400000\r\n" + b"x" * 400_000)
    spilled = client.server._open.chunks._writer._file
    assert not spilled.closed
    assert codes(client.send(end + "\r\n"))[-1][:3] == "250"
    assert spilled.closed
    client.send(BEGIN)
    client.send("BDAT 6 LAST\r\nc: d\r\n")
    assert world.intake.wires == [b"c: d\r\n"]


def test_client_that_vanishes_in_a_chunk_or_between_two_delivers_nothing(world: Any) -> None:
    for sent in ("BDAT 10 LAST\r\nSubject", "BDAT 7\r\nSubject"):
        client = world.connect()
        client.send(BEGIN + sent)
        client.lose()
    assert world.intake.taken == []


def test_what_follows_the_last_chunk_waits_for_its_answer(world: Any) -> None:
    pending: Deferred[Reply] = Deferred()
    world.intake.answer = lambda _: pending
    client = world.connect()
    client.send(BEGIN)
    assert client.send("BDAT 6 LAST\r\na: b\r\nNOOP\r\n") == ""
    pending.callback(Reply(451, "4.3.0", "Later"))
    assert codes(client.read()) == ["451 4.3.0", "250 2.0.0"]


def test_endless_empty_chunks_end_the_connection(world: Any) -> None:
    client = world.connect()
    client.send(BEGIN)
    answers = codes(client.send("BDAT 0\r\n" * 40))
    for _ in range(3):
        world.clock.advance(0)
        answers += codes(client.send("BDAT 0\r\n" * 40))
    assert client.closing
    assert answers[-1] == "421 4.7.0" and len(answers) < 110


def test_binary_bodies_are_not_offered(world: Any) -> None:
    client = world.connect()
    assert "BINARYMIME" not in client.send("EHLO c\r\n")
    assert client.say("MAIL FROM:<> BODY=BINARYMIME") == ["501 5.5.4"]
