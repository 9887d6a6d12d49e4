"""Contents: small messages in memory, large ones in an unnamed file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import IContent
from lorrainemail.ops import content as module
from lorrainemail.ops.content import Content, ContentWriter, SpilledContent, replace_head


def spilled(tmp_path: Path, *chunks: bytes) -> SpilledContent:
    writer = ContentWriter(str(tmp_path), memory=4)
    for chunk in chunks:
        writer.write(chunk)
    content = writer.finish()
    assert isinstance(content, SpilledContent)
    return content


def test_small_message_stays_in_memory_byte_for_byte(tmp_path: Path) -> None:
    writer = ContentWriter(str(tmp_path))
    writer.write(b"Subject: x\r\n\r\n")
    writer.write(b"body\0\r\n")
    content = writer.finish()
    verifyObject(IContent, content)
    assert content.in_memory() == b"Subject: x\r\n\r\nbody\0\r\n"
    assert content.size == 21
    assert content.head(7) == b"Subject"
    assert b"".join(content.chunks(4)) == content.in_memory()
    assert not content.eight_bit


def test_large_message_leaves_no_name_on_disk_and_reads_back_whole(tmp_path: Path) -> None:
    chunks = [bytes([65 + i]) * 1000 for i in range(20)]
    content = spilled(tmp_path, *chunks)
    verifyObject(IContent, content)
    assert os.listdir(tmp_path) == []
    assert content.in_memory() is None
    assert content.size == 20_000
    assert b"".join(content.chunks(333)) == b"".join(chunks)
    assert content.head(1500) == b"A" * 1000 + b"B" * 500
    assert content.head(10**6) == b"".join(chunks)
    content.close()
    content.close()
    with pytest.raises(TemporaryError):
        next(content.chunks())


def test_reader_that_is_slower_than_the_close_still_reads_this_message(tmp_path: Path) -> None:
    content = spilled(tmp_path, b"0123456789")
    reader = content.chunks(4)
    assert next(reader) == b"0123"
    content.close()
    assert b"".join(reader) == b"456789"
    assert content._file.closed


@pytest.mark.parametrize("chunks", [(b"ascii", b"\xe9"), (b"\xe9", b"ascii more"), (b"abc", b"\xe9" * 9)])
def test_eight_bit_octet_is_noticed_wherever_it_stands(tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    assert spilled(tmp_path, *chunks).eight_bit
    assert Content(b"".join(chunks)).eight_bit


def test_replaced_head_leaves_every_other_octet_alone(tmp_path: Path) -> None:
    wire = b"Bcc: x\r\nA: b\r\n\r\nbody"
    for content in (Content(wire), spilled(tmp_path, wire)):
        new = replace_head(content, 8, b"Date: now\r\n")
        assert b"".join(new.chunks()) == b"Date: now\r\nA: b\r\n\r\nbody"
        assert new.size == len(wire) + 3
        assert new.head(13) == b"Date: now\r\nA:"
        again = replace_head(new, 0, b"") if isinstance(new, Content) else new
        assert b"".join(again.chunks(5)) == b"Date: now\r\nA: b\r\n\r\nbody"


def test_full_disk_is_a_452_and_the_file_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        closed = False

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            self.closed = True

    file = Full()
    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **_: file)
    writer = ContentWriter(str(tmp_path), memory=4)
    with pytest.raises(TemporaryError) as caught:
        writer.write(b"too large")
    assert caught.value.reply.code == 452
    assert caught.value.reply.enhanced == "4.3.1"
    assert file.closed


def test_missing_spill_directory_is_a_452(tmp_path: Path) -> None:
    writer = ContentWriter(str(tmp_path / "gone"), memory=4)
    with pytest.raises(TemporaryError) as caught:
        writer.write(b"too large")
    assert caught.value.reply.code == 452


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    class Slow:
        def write(self, data: bytes) -> int:
            written.append(bytes(data[:3]))
            return len(written[-1])

        def close(self) -> None:
            pass

    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda **_: Slow())
    writer = ContentWriter(str(tmp_path), memory=4)
    writer.write(b"0123456789")
    assert b"".join(written) == b"0123456789"


def test_truncated_spill_file_fails_instead_of_ending_early(tmp_path: Path) -> None:
    content = spilled(tmp_path, b"0123456789")
    os.ftruncate(content._file.fileno(), 4)
    with pytest.raises(TemporaryError):
        list(content.chunks())
