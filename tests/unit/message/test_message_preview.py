"""Previews (RFC 8970): what a reader would see first."""

import pytest

from lorrainemail.message.preview import MAX_PREVIEW, preview


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Subject: x\r\n\r\nHello\r\n> quoted\r\n\r\n  you \x01 there", "Hello you there"),
        (b"Subject: x\r\n\r\n", ""),
        (b"", ""),
        (b"Content-Type: image/png\r\n\r\nabc", ""),
        (b"Content-Type: text/html\r\n\r\n<head><title>no</title></head><b>a</b>&eacute;<script>x", "a é"),
        (b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\ncaf\xe9", "café"),
        (b"Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nno", ""),
        (
            b"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n"
            b"<p>html</p>\r\n--b\r\n\r\nplain\r\n--b--\r\n",
            "plain",
        ),
        (b"Content-Type: text/html\r\n\r\n" + b"<script" * 9000, ""),
    ],
)
def test_the_first_words_are_shown(data: bytes, expected: str) -> None:
    assert preview(data) == expected


def test_it_is_never_longer_than_allowed() -> None:
    assert len(preview(b"\r\n" + b"word " * 10_000)) <= MAX_PREVIEW
