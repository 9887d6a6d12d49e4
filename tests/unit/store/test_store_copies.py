"""Copies of one message share a summary, and each is the one that it would have by itself."""

from __future__ import annotations

import pytest

from lorrainemail.message.summary import MAX_SURE_HEADER, summarize
from lorrainemail.ops.content import Content
from lorrainemail.store import copies
from lorrainemail.store.copies import Copy, copy_of

MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: a@bricoleur.com\r\nSubject: =?utf-8?q?=C3=A9t=C3=A9?=\r\n"
    b"Message-ID: <1@elorac.fr>\r\nReferences: <0@elorac.fr>\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n'
    b"\r\n<p>two\r\n--b--\r\n"
)


def prefix(name: str, more: bytes = b"Received: by mail\r\n\t; now\r\n") -> bytes:
    return b"Return-Path: <carole@elorac.fr>\r\nDelivered-To: %b@bricoleur.com\r\n" % name.encode() + more


def made(prefix: bytes, content: Content) -> Copy:
    copy = copy_of(prefix, content)
    assert copy is not None
    return copy


@pytest.mark.parametrize("body", [MESSAGE, b"\r\nno header\r\n", b"Subject: x\r\n"])
def test_each_copy_has_the_summary_that_it_would_have_alone(body: bytes) -> None:
    content = Content(body)
    for name in ("karl", "a", "a-much-longer-name"):
        copy = made(prefix(name), content)
        assert copy.octets == prefix(name) + body
        assert copy.summary() == summarize(copy.octets)


def test_a_copy_with_other_fields_above_it_is_not_taken_for_the_same() -> None:
    content = Content(MESSAGE)
    made(prefix("karl"), content).summary()
    other = made(prefix("karl", b"Subject: list\r\n"), content)
    assert other.summary() == summarize(other.octets)


def test_a_copy_over_the_bound_of_what_is_relied_upon_is_looked_at_itself() -> None:
    header = b"X: " + b"x" * (MAX_SURE_HEADER - len(prefix("a")) - 7) + b"\r\n"
    content = Content(header + b"\r\nbody\r\n")
    for name in ("a", "ab", "abc", "abcdefgh"):
        copy = made(prefix(name), content)
        assert copy.summary() == summarize(copy.octets)


def test_a_message_for_many_is_read_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(copies, "summarize", lambda data: calls.append(data) or summarize(data))
    content = Content(MESSAGE)
    for number in range(50):
        made(prefix(f"user{number}"), content).summary()
    assert len(calls) == 1
