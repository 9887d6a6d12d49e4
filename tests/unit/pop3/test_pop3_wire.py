"""Dot-stuffing and TOP are right wherever the chunks are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.pop3.input import Lines, LineTooLong
from lorrainemail.pop3.wire import Stuffer, Top

MESSAGES = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"a", b"..", b"\r\n.\r\n"]), max_size=30
).map(b"".join)
CUTS = st.lists(st.integers(1, 4), min_size=1, max_size=60)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    chunks, at, turn = [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        chunks.append(data[at : at + size])
        at += size
        turn += 1
    return chunks


def as_client(wire: bytes) -> bytes:
    """What a client that follows RFC 1939 §3 makes of a response."""
    end = wire.find(b"\r\n.\r\n") if not wire.startswith(b".\r\n") else -2
    assert end + 5 == len(wire), "the response ended early"
    body = wire[: end + 2]
    lines = body.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@given(MESSAGES, CUTS)
def test_every_message_comes_back_whole_whatever_the_chunks(message: bytes, cuts: list[int]) -> None:
    stuffer = Stuffer()
    wire = b"".join(stuffer.stuff(chunk) for chunk in pieces(message, cuts)) + stuffer.end()
    expected = message if not message or message.endswith(b"\r\n") else message + b"\r\n"
    assert as_client(wire) == expected


def test_an_empty_message_is_just_the_dot() -> None:
    assert Stuffer().end() == b".\r\n"


def simple_top(message: bytes, lines: int) -> bytes:
    at = 0 if message.startswith(b"\r\n") else message.find(b"\r\n\r\n") + 2
    if at == 1:
        return message
    at += 2
    for _ in range(lines):
        end = message.find(b"\r\n", at)
        if end < 0:
            return message
        at = end + 2
    return message[:at]


@given(MESSAGES, CUTS, st.integers(0, 5))
def test_top_is_the_same_whatever_the_chunks(message: bytes, cuts: list[int], lines: int) -> None:
    top = Top(lines)
    assert b"".join(top.cut(chunk) for chunk in pieces(message, cuts)) == simple_top(message, lines)


def test_top_0_is_the_header_and_the_blank_line() -> None:
    top = Top(0)
    assert top.cut(b"A: 1\r\nB: 2\r\n\r\nbody\r\n") == b"A: 1\r\nB: 2\r\n\r\n"
    assert top.done


def test_lines_are_bounded_even_when_they_never_end() -> None:
    lines = Lines()
    lines.add(b"x" * 11)
    assert lines.next(10) is None
    lines.add(b"x")
    with pytest.raises(LineTooLong):
        lines.next(10)
    lines.drop()
    lines.add(b"0123456789\r\n" + b"01234567890\r\n")
    assert lines.next(10) == b"0123456789"
    with pytest.raises(LineTooLong):
        lines.next(10)


def test_lines_end_with_or_without_cr() -> None:
    lines = Lines()
    lines.add(b"one\ntwo\r\n\r\nthr")
    assert [lines.next(10) for _ in range(4)] == [b"one", b"two", b"", None]
    lines.add(b"ee\r\n")
    assert lines.next(10) == b"three"
