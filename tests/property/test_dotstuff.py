"""Dot-stuffing: what the other side unstuffs is the message, wherever the chunks were cut."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.delivery.stuffing import DotStuffer

PIECES = st.sampled_from([b".", b"\r\n", b"a", b"..", b"\r\n.\r\n", b".\r\n", b"\xff", b"long line "])
MESSAGES = st.lists(PIECES, max_size=12).map(b"".join)
HOSTILE = st.lists(
    st.sampled_from([b".", b"\r", b"\n", b"a", b"\r\n", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n"]),
    max_size=12,
).map(b"".join)


def stuffed(chunks: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join(map(stuffer.feed, chunks)) + stuffer.finish()


def unstuffed(wire: bytes) -> tuple[bytes, bytes]:
    """What a server makes of DATA (RFC 5321 §4.5.2): the message, and what is left behind its end."""
    message = b""
    while True:
        line, end, wire = wire.partition(b"\r\n")
        assert end, "no end of the message"
        if line == b".":
            return message, wire
        message += line.removeprefix(b".") + end


@given(MESSAGES)
def test_every_cut_in_two_gives_the_same_octets(message: bytes) -> None:
    whole = stuffed([message])
    for cut in range(len(message) + 1):
        assert stuffed([message[:cut], message[cut:]]) == whole


@given(MESSAGES, st.lists(st.integers(1, 4), max_size=60))
def test_the_other_side_gets_the_message_and_nothing_behind_it(message: bytes, sizes: list[int]) -> None:
    chunks, rest = [], message
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    received, behind = unstuffed(stuffed([*chunks, rest]))
    expected = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    assert (received, behind) == (expected, b"")


@given(HOSTILE, st.integers(0, 12))
def test_no_peer_however_lenient_sees_an_end_inside(message: bytes, cut: int) -> None:
    wire = stuffed([message[:cut], message[cut:]])
    assert re.search(rb"(?<!\r)\n|\r(?!\n)", wire) is None
    ends = [match.start() for match in re.finditer(rb"(?:\A|\r\n|\r|\n)\.(?:\r\n|\r|\n)", wire)]
    assert len(ends) == 1 and wire.endswith(b".\r\n")
    assert stuffed([message]) == wire


@given(st.binary(max_size=300), st.integers(1, 40))
def test_octets_that_are_no_line_ends_or_dots_pass_unchanged(message: bytes, size: int) -> None:
    plain = message.replace(b"\r", b"").replace(b"\n", b"").replace(b".", b"")
    chunks = [plain[start : start + size] for start in range(0, len(plain), size)]
    assert stuffed(chunks) == (plain + b"\r\n.\r\n" if plain else b".\r\n")
