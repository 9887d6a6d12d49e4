"""What a message loses on its way into a mailbox, and that it loses nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.delivery.arrival import for_mailbox, header_of, message_id_of
from lorrainemail.interfaces import IContent
from lorrainemail.ops.content import Content, ContentWriter


def cleaned(message: bytes) -> bytes:
    return octets(for_mailbox(Content(message), header_of(Content(message))))


def octets(content: IContent) -> bytes:
    data = b"".join(content.chunks(7))
    assert len(data) == content.size
    whole = content.in_memory()
    assert whole is None or whole == data
    for limit in (0, 1, 5, 40, 1000):
        assert content.head(limit) == data[:limit]
    return data


@pytest.mark.parametrize(
    "name",
    [
        *b"Status X-Status X-Keywords X-UID X-IMAP X-IMAPbase Content-Length Return-Path STATUS".split(),
        b"X-Lorrainemail-Policy",
        b"status ",
    ],
)
def test_outsider_cannot_mark_his_mail_as_read_or_lie_to_the_mailbox(name: bytes) -> None:
    rest = b"Subject: a\r\n\tb\r\n\r\nStatus: RO\r\n"
    assert cleaned(name + b": RO\r\n" + rest) == rest
    assert cleaned(b"A: b\r\n" + name + b": RO\r\n folded\r\n\tagain\r\n" + rest) == b"A: b\r\n" + rest
    assert cleaned(b"A: b\r\n" + name + b":RO\r\n\r\n") == b"A: b\r\n\r\n"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\r\n",
        b"\r\nStatus: body\r\n",
        b"A: b\r\n\r\nStatus: body\r\n",
        b"A: b\r\n Status: folded\r\n\r\n",
        b"Statuses: x\r\nX-UIDL: y\r\nXStatus: z\r\n\r\nbody",
        b"no header at all",
        b"A: b\nc\rd\r\n\r\nx",
    ],
)
def test_everything_else_stays_octet_for_octet(message: bytes) -> None:
    assert cleaned(message) == message


def test_message_too_large_for_memory_is_cleaned_the_same_way(tmp_path: Path) -> None:
    writer = ContentWriter(str(tmp_path), memory=10)
    header = b"A: " + b"x" * 70_000 + b"\r\nStatus: RO\r\nB: c\r\n"
    body = b"\r\n" + b"line\r\n" * 20_000
    writer.write(header + body)
    content = writer.finish()
    try:
        result = for_mailbox(content, header_of(content))
        assert result.in_memory() is None
        assert octets(result) == header.replace(b"Status: RO\r\n", b"") + body
    finally:
        content.close()


@given(
    st.lists(
        st.sampled_from([b"A: b", b"Status: x", b" fold", b"\tfold", b"", b"X-UID:1", b"\n", b"Re"]),
        max_size=8,
    )
)
def test_cleaning_removes_whole_fields_and_only_them(lines: list[bytes]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    expected, header, dropping = [], True, False
    for line in lines:
        if header and not line:
            header = False
        if header and line[:1] not in (b" ", b"\t"):
            dropping = line.startswith((b"Status", b"X-UID"))
        if not (header and dropping):
            expected.append(line)
    assert cleaned(message) == b"".join(line + b"\r\n" for line in expected)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"Message-ID: <a@b>\r\n", "<a@b>"),
        (b"A: b\r\nmessage-id:\r\n <a@b>\r\n", "<a@b>"),
        (b"A: b\r\n", ""),
        (b"Message-ID: <a b>\r\n", ""),
        (b"X-Message-ID: <a@b>\r\n", ""),
        (b"Message-ID: <" + b"a" * 5000 + b">\r\n", ""),
    ],
)
def test_message_id_is_found_for_the_trace(header: bytes, found: str) -> None:
    assert message_id_of(header) == found
