"""The octets between 354 and the final dot, at every place where a chunk may end."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorrainemail.errors import MailError
from lorrainemail.smtp import data as module
from lorrainemail.smtp.data import MessageReader


def read(tmp_path: Path, chunks: list[bytes], limit: int = 10**6, mend: bool = False) -> tuple[bytes, bytes]:
    """The message and what came after it."""
    reader = MessageReader(str(tmp_path), limit, mend)
    rest = None
    for index, chunk in enumerate(chunks):
        rest = reader.feed(chunk)
        if rest is not None:
            assert index == len(chunks) - 1, "input after the end"
    assert rest is not None, "no end"
    return b"".join(reader.finish().chunks()), rest


def refusal(tmp_path: Path, wire: bytes, **more: int) -> str:
    with pytest.raises(MailError) as caught:
        read(tmp_path, [wire], **more)
    return f"{caught.value.reply.code} {caught.value.reply.enhanced}"


CASES = [
    (b".\r\n", b""),
    (b"\r\n.\r\n", b"\r\n"),
    (b"a\r\n.\r\n", b"a\r\n"),
    (b"..\r\n.\r\n", b".\r\n"),
    (b".a\r\n.\r\n", b"a\r\n"),
    (b"...\r\n.\r\n", b"..\r\n"),
    (b"a\r\n..\r\n..b\r\n.\r\n", b"a\r\n.\r\n.b\r\n"),
    (b"a.\r\n.b.\r\n\r\n..\r\n\r\n.\r\n", b"a.\r\nb.\r\n\r\n.\r\n\r\n"),
    (b"nul \0 and \xff\r\n.\r\n", b"nul \0 and \xff\r\n"),
]


@pytest.mark.parametrize(("wire", "message"), CASES)
def test_message_is_the_same_wherever_it_is_cut(tmp_path: Path, wire: bytes, message: bytes) -> None:
    wire += b"QUIT\r\n"
    end = len(wire) - 6
    for first in range(end + 1):
        for second in range(first, end + 1):
            chunks = [wire[:first], wire[first:second], wire[second:]]
            # What follows the end comes with the chunk that has it.
            used = [chunk for chunk in chunks if chunk]
            if first == end or second == end:
                used = [chunk for chunk in (wire[:first], wire[first:second]) if chunk]
                if first == end:
                    used = [wire[:end]]
                assert read(tmp_path, used) == (message, b"")
            else:
                assert read(tmp_path, used) == (message, b"QUIT\r\n")


@pytest.mark.parametrize(("wire", "message"), CASES)
def test_message_octet_by_octet(tmp_path: Path, wire: bytes, message: bytes) -> None:
    assert read(tmp_path, [wire[i : i + 1] for i in range(len(wire))]) == (message, b"")


@pytest.mark.parametrize(
    "smuggled",
    [
        b"a\n.\nMAIL",
        b"a\n.\r\nMAIL",
        b"a\r.\rMAIL",
        b"a\r\n.\rMAIL",
        b"a\r\n.\nMAIL",
        b"a\r.\r\nMAIL",
        b"a\r\n\r.\r\nMAIL",
        b"a\rb",
        b"a\nb",
        b"\n",
        b"\r",
        b"a\r\r\nb",
        b"a\r\n\nb",
    ],
)
def test_only_crlf_dot_crlf_ends_a_message_and_bare_line_ends_are_refused(
    tmp_path: Path, smuggled: bytes
) -> None:
    wire = smuggled + b"\r\n.\r\n"
    assert refusal(tmp_path, wire) == "550 5.6.0"
    for cut in range(1, len(wire)):
        with pytest.raises(MailError):
            read(tmp_path, [wire[:cut], wire[cut:]])


def test_bare_line_ends_of_listed_networks_are_mended(tmp_path: Path) -> None:
    wire = b"a\nb\rc\r\n\n\r\r\nd\r\n..\r\n.\r\n"
    for cut in range(1, len(wire) - 4):
        message, rest = read(tmp_path, [wire[:cut], wire[cut:]], mend=True)
        assert message == b"a\r\nb\r\nc\r\n\r\n\r\n\r\nd\r\n.\r\n"
        assert rest == b""


def test_size_limit_counts_the_message_without_stuffed_dots(tmp_path: Path) -> None:
    assert read(tmp_path, [b"..23456\r\n.\r\n"], limit=8)[0] == b".23456\r\n"
    assert refusal(tmp_path, b"123456789\r\n.\r\n", limit=10) == "552 5.3.4"


def test_message_over_the_limit_takes_no_memory_and_no_disk(tmp_path: Path) -> None:
    reader = MessageReader(str(tmp_path), 1000)
    for _ in range(100):
        assert reader.feed(b"x" * 998 + b"\r\n") is None
        assert reader._writer.size <= 1000
        assert not reader._writer._chunks or reader._failure is None
    assert reader._writer._chunks == []
    assert reader.feed(b".\r\nNOOP\r\n") == b"NOOP\r\n"
    with pytest.raises(MailError):
        reader.finish()


def test_large_message_is_spilled_and_comes_back_whole(tmp_path: Path) -> None:
    line = b"." + b"y" * 700 + b"\r\n"
    wire = (b"." + line) * 1000 + b".\r\n"
    chunks = [wire[i : i + 65521] for i in range(0, len(wire), 65521)]
    reader = MessageReader(str(tmp_path), 10**6)
    for chunk in chunks:
        reader.feed(chunk)
    content = reader.finish()
    assert content.in_memory() is None
    assert b"".join(content.chunks()) == line * 1000
    content.close()


def test_full_disk_is_answered_after_the_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = MessageReader(str(tmp_path / "missing"), 10**7)
    for _ in range(10):
        assert reader.feed(b"z" * 65534 + b"\r\n") is None
    assert reader.feed(b".\r\n") == b""
    with pytest.raises(MailError) as caught:
        reader.finish()
    assert caught.value.reply.code == 452


def test_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    reader = MessageReader(str(tmp_path), 10**7)
    reader.feed(b"q" * 300_000)
    file = reader._writer._file
    assert file is not None
    reader.abort()
    assert file.closed


def test_input_is_not_taken_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large chunk of many lines is one write."""
    writes: list[int] = []

    class Counting(module.ContentWriter):
        def write(self, chunk: bytes) -> None:
            writes.append(len(chunk))
            super().write(chunk)

    monkeypatch.setattr(module, "ContentWriter", Counting)
    reader = MessageReader(str(tmp_path), 10**6)
    reader.feed(b"ab\r\n" * 16384)
    assert len(writes) == 1
