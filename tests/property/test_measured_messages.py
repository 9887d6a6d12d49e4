"""What the door counted of a message's line ends is what counting them again says."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.ops.content import Content
from lorrainemail.smtp.data import MessageReader
from lorrainemail.store.placement import count

PIECES = st.lists(
    st.sampled_from([b"\r\n", b".", b"..", b"x", b"text", b"\xc3\xa9", b"\0"]), max_size=30
).map(b"".join)


@given(PIECES, st.lists(st.integers(0, 80), max_size=4), st.booleans())
def test_sizes_do_not_depend_on_who_counted(data: bytes, cuts: list[int], mend: bool) -> None:
    reader = MessageReader("/nonexistent", 1 << 20, mend)
    stuffed = (b"\r\n" + data + b"\r\n").replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    edges = sorted({0, len(stuffed), *(cut for cut in cuts if cut < len(stuffed))})
    rest = None
    for start, end in pairwise(edges):
        rest = reader.feed(stuffed[start:end])
    assert rest == b""
    content = reader.finish()
    assert isinstance(content, Content) and content.line_ends is not None
    prefix = b"Return-Path: <>\r\n"
    assert count((prefix, content)) == count((prefix, Content(content.in_memory() or b"")))
