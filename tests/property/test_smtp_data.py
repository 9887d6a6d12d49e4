"""Transparency at any chunk edges, against a reference that goes line by line."""

from __future__ import annotations

import tempfile
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.errors import MailError
from lorrainemail.smtp.data import MessageReader

# Mostly the octets that matter.
stream = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r\n.", b"a", b"\r", b"\n", b"\0", b"\xff", b".."]), max_size=40
)


def reference(wire: bytes) -> tuple[bytes | None, bytes] | None:
    """Message (None: a bare CR or LF in it) and rest, or None without an end. RFC 5321 §4.5.2, §2.3.8."""
    message = []
    position = 0
    while True:
        end = wire.find(b"\r\n", position)
        if end < 0:
            return None
        line, position = wire[position:end], end + 2
        if line == b".":
            whole = b"".join(message)
            bare = whole.replace(b"\r\n", b"")
            return (None if b"\r" in bare or b"\n" in bare else whole), wire[position:]
        message.append((line[1:] if line.startswith(b".") else line) + b"\r\n")


@given(stream, st.lists(st.integers(min_value=0, max_value=120), max_size=6))
def test_any_stream_cut_anywhere(pieces: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(pieces)
    expected = reference(wire)
    reader = MessageReader(tempfile.gettempdir(), 10**6)
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    for start, end in pairwise(edges):
        rest = reader.feed(wire[start:end])
        if rest is not None:
            assert expected is not None
            assert rest + wire[end:] == expected[1]
            try:
                message: bytes | None = b"".join(reader.finish().chunks())
            except MailError:
                message = None
            assert message == expected[0]
            return
    assert expected is None


@given(st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), max_size=12))
def test_what_a_client_stuffs_is_what_we_keep(lines: list[bytes]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    stuffed = b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines)
    reader = MessageReader(tempfile.gettempdir(), 10**6)
    assert reader.feed(stuffed + b".\r\nQUIT\r\n") == b"QUIT\r\n"
    assert b"".join(reader.finish().chunks()) == message
