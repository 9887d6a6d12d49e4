"""The milter client: what a milter sees, what it may do, and milters that misbehave."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.filters import milter_wire as wire
from lorrainemail.filters.milter import ask
from lorrainemail.filters.stream import FilterError
from lorrainemail.interfaces import Action


def packet(command: bytes, content: bytes = b"") -> bytes:
    return struct.pack("!I", 1 + len(content)) + command + content


def change(index: int, name: bytes, value: bytes, command: bytes = b"m") -> bytes:
    return packet(command, struct.pack("!I", index) + name + b"\0" + value + b"\0")


def whole(content: Any) -> bytes:
    return b"".join(content.chunks())


@pytest_twisted.ensureDeferred
async def test_a_milter_sees_the_session_and_the_message_as_they_are(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    one = milter()
    opinion = await ask(question(fields=b"X-Ours: a\r\n\tb\r\n"), means(filters.start(one)))
    assert opinion.action is Action.CONTINUE and opinion.content is None and opinion.field == b""
    assert one.offered[0] == 6 and one.offered[1] == 0x33  # no recipients, no sender
    assert one.of(b"C") == [b"[192.0.2.7]\x004" + struct.pack("!H", 4711) + b"192.0.2.7\0"]
    assert one.of(b"H") == [b"mail.elorac.fr\0"]
    assert one.of(b"M") == [b"<carole@elorac.fr>\0"] and one.of(b"R") == [b"<bob@bricoleur.com>\0"]
    assert one.of(b"L") == [
        b"X-Ours\0a\n\tb\0",
        b"From\0carole@elorac.fr\0",
        "Subject\0Une\n\tvieille étagère\0".encode(),
        b"X-Old\x001\0",
        b"X-Old\x002\0",
    ]
    assert b"".join(one.of(b"B")) == b"Bonjour\r\n.\r\nBob\r\n"
    macros = b"".join(one.of(b"D"))
    assert b"i\0m1\0" in macros and b"{client_addr}\x00192.0.2.7\0" in macros
    assert [command for command, _ in one.seen][-2:] == [b"E", b"Q"] or one.seen[-1][0] == b"E"


@pytest_twisted.ensureDeferred
async def test_steps_that_a_milter_does_not_want_are_left_out_and_silent_ones_not_waited_for(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    steps = wire.NOT[b"H"] | wire.NOT[b"B"] | wire.SILENT[b"L"] | wire.LEADING_SPACE
    one = milter(steps=steps, at={b"L": b""})
    await ask(question(), means(filters.start(one)))
    assert one.of(b"H") == [] and one.of(b"B") == []
    assert one.of(b"L")[0] == b"From\0 carole@elorac.fr\0"


@pytest_twisted.ensureDeferred
async def test_what_a_milter_changes_is_changed_and_nothing_else(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    end = (
        packet(b"h", b"X-Last\0no\0")
        + change(0, b"X-First", b"1\n and more", b"i")
        + change(0, b"DKIM-Signature", b"v=1", b"i")
        + change(2, b"x-old", b"two")
        + change(1, b"X-Old", b"")
        + packet(b"b", b"Salut\r\n")
        + packet(b"b", b"Bob\r\n")
        + packet(b"p")
        + packet(b"a")
    )
    opinion = await ask(question(), means(filters.start(milter(end))))
    assert opinion.field == b"DKIM-Signature: v=1\r\nX-First: 1\r\n and more\r\nX-Last: no\r\n"
    assert (
        whole(opinion.content)
        == (
            "From: carole@elorac.fr\r\nSubject: Une\r\n\tvieille étagère\r\n"
            "x-old: two\r\n\r\nSalut\r\nBob\r\n"
        ).encode()
    )
    opinion.content.close()


@pytest_twisted.ensureDeferred
async def test_a_milter_may_not_change_who_gets_the_mail_nor_what_earlier_checks_said(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    end = (
        packet(b"+", b"<eve@evil.example>\0")
        + packet(b"-", b"<bob@bricoleur.com>\0")
        + packet(b"e", b"<eve@evil.example>\0")
        + change(1, b"X-Ours", b"forged")
        + packet(b"c")
    )
    opinion = await ask(question(fields=b"X-Ours: a\r\n"), means(filters.start(milter(end))))
    assert opinion.action is Action.CONTINUE and opinion.content is None and opinion.field == b""


@pytest_twisted.ensureDeferred
async def test_a_row_may_forbid_all_changes(filters: Any, milter: Any, question: Any, means: Any) -> None:
    one = milter(packet(b"h", b"X-A\0b\0") + packet(b"b", b"x") + change(1, b"X-Old", b"") + packet(b"c"))
    opinion = await ask(question(), means(filters.start(one), modify=False))
    assert one.offered[1] == wire.MAY_QUARANTINE
    assert opinion.content is None and opinion.field == b""


@pytest_twisted.ensureDeferred
async def test_no_field_of_a_milter_ends_the_header(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    end = packet(b"h", b"X-A\0b\r\n\r\nBody\r\rX-C: d\0") + packet(b"h", b"X:Y\0b\0") + packet(b"c")
    opinion = await ask(question(), means(filters.start(milter(end))))
    assert opinion.field == b"X-A: b\r\n\tBody\r\n\tX-C: d\r\n"


@pytest.mark.parametrize(
    ("answer", "action", "reply"),
    [
        (packet(b"r"), Action.REFUSE, "550 5.7.1 Refused by a filter"),
        (packet(b"t"), Action.DEFER, "451 4.7.1 A filter asks you to try again later"),
        (packet(b"y", b"554 5.7.9 Policy is 100%% no\0"), Action.REFUSE, "554 5.7.9 Policy is 100% no"),
        (packet(b"y", b"421 5.7.9 Later\r\nX\0"), Action.DEFER, "421 4.7.1 Later??X"),
        (packet(b"d"), Action.JUNK, "550 5.7.1 Refused by a filter"),
        (packet(b"q", b"odd\0") + packet(b"c"), Action.JUNK, "550 5.7.1 Put aside by a filter"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_verdicts_at_the_end(
    filters: Any, milter: Any, question: Any, means: Any, answer: bytes, action: Action, reply: str
) -> None:
    opinion = await ask(question(), means(filters.start(milter(answer))))
    assert opinion.action is action and str(opinion.reply) == reply


@pytest_twisted.ensureDeferred
async def test_a_verdict_before_the_end_ends_it(filters: Any, milter: Any, question: Any, means: Any) -> None:
    one = milter(at={b"R": packet(b"r")})
    opinion = await ask(question(), means(filters.start(one)))
    assert opinion.action is Action.REFUSE and one.of(b"L") == []
    accepts = milter(at={b"C": packet(b"a")})
    opinion = await ask(question(), means(filters.start(accepts)))
    assert opinion.action is Action.CONTINUE and accepts.of(b"M") == []


@pytest_twisted.ensureDeferred
async def test_a_large_body_comes_in_pieces_and_a_milter_may_have_enough(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    message = b"From: a@b.c\r\n\r\n" + b"x" * 300_000
    one = milter()
    (await ask(question(message), means(filters.start(one))))
    assert b"".join(one.of(b"B")) == b"x" * 300_000 and max(map(len, one.of(b"B"))) <= 65535
    bored = milter(at={b"B": packet(b"s")})
    (await ask(question(message), means(filters.start(bored))))
    assert len(bored.of(b"B")) == 1


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (struct.pack("!I", 2**31) + b"c", "packet of 2147483648"),
        (struct.pack("!I", 0), "packet of 0"),
        (packet(b"Z"), "means nothing"),
        (packet(b"h", b"no end"), "malformed"),
        (packet(b"m", b"x"), "malformed"),
        (packet(b"y", b"250 fine\0"), "malformed"),
        (packet(b"b", b"x" * 60_000) * 3, "longer than 100000"),
        (packet(b"h", b"X-A\0b\0") * 600, "more than 500 changes"),
        (packet(b"p") * 3000, "no end"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_milter_that_talks_nonsense_or_without_end_fails(
    filters: Any, milter: Any, question: Any, means: Any, end: bytes, words: str
) -> None:
    with pytest.raises(FilterError, match=words):
        (await ask(question(), means(filters.start(milter(end)))))


@pytest_twisted.ensureDeferred
async def test_negotiation_is_checked(filters: Any, milter: Any, question: Any, means: Any) -> None:
    old = milter()
    old.version = 1
    with pytest.raises(FilterError, match="version 1"):
        (await ask(question(), means(filters.start(old))))
    with pytest.raises(FilterError, match="does not negotiate"):
        rude = filters.start(lambda peer, got: peer.transport.write(packet(b"a")))
        (await ask(question(), means(rude)))
    with pytest.raises(FilterError, match="ended the connection"):
        gone = filters.start(lambda peer, got: peer.transport.abortConnection())
        (await ask(question(), means(gone)))
    with pytest.raises(FilterError, match="no connection"):
        (await ask(question(), means("unix:/nowhere/at/all")))


@pytest_twisted.ensureDeferred
async def test_a_header_that_cannot_be_seen_whole_is_not_shown_in_part(
    filters: Any, milter: Any, question: Any, means: Any
) -> None:
    message = b"X-Long: " + b"x" * 70 + b"\r\n"
    with pytest.raises(FilterError, match="too large"):
        await ask(question(message * 10_000 + b"\r\nx"), means(filters.start(milter())))


@given(st.binary(max_size=200))
def test_any_octets_are_a_reply_or_a_failure(octets: bytes) -> None:
    for reader in (wire.reply_of, wire.indexed, wire.two_strings):
        try:
            reader(octets)
        except FilterError:
            continue
