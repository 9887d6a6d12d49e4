"""BDAT: whatever the octets and wherever they are cut, the message is what was sent or is refused."""

from __future__ import annotations

import re
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.errors import MailError
from lorrainemail.smtp.chunks import ChunkedMessage, ChunkReader

pieces = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"\r", b"\n", b"\0", b"\xff"]), max_size=30).map(
    b"".join
)


@given(st.lists(pieces, max_size=4), st.booleans(), st.data())
def test_any_octets_in_any_chunks_cut_anywhere(chunks: list[bytes], mend: bool, data: st.DataObject) -> None:
    message = ChunkedMessage(tempfile.gettempdir(), 10**6, mend)
    for chunk in chunks:
        reader = ChunkReader(len(chunk), False, message, None)
        wire = chunk + b"REST"
        position, rest = 0, None if chunk else wire
        while rest is None:
            step = data.draw(st.integers(1, 8))
            rest = reader.feed(wire[position : position + step])
            position += step
        assert (rest + wire[position:] if chunk else rest) == b"REST"
    whole = b"".join(chunks)
    bare = re.sub(rb"\r\n", b"", whole)
    try:
        found = b"".join(message.finish().chunks())
    except MailError:
        assert not mend and (b"\r" in bare or b"\n" in bare)
        return
    if mend:
        whole = re.sub(rb"\r\n|\r|\n", b"\r\n", whole)
    else:
        assert b"\r" not in bare and b"\n" not in bare
    assert found == (whole if whole.endswith(b"\r\n") or not whole else whole + b"\r\n")
