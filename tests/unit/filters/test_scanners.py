"""ClamAV, spamd and rspamd: what they are asked, what their answers mean, and answers that mean nothing."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import pytest_twisted

from lorrainemail.filters import clamav, rspamd, spamd
from lorrainemail.filters.stream import FilterError
from lorrainemail.interfaces import Action


def says(answer: bytes, when: bytes, close: bool = False) -> Any:
    def act(peer: Any, got: bytes) -> None:
        if when in got and not getattr(peer, "said", False):
            peer.said = True
            peer.transport.write(answer)
            if close:
                peer.transport.loseConnection()

    return act


ZERO = struct.pack("!I", 0)


@pytest_twisted.ensureDeferred
async def test_clamav_gets_the_message_in_pieces_and_what_it_finds_is_refused(
    filters: Any, question: Any, means: Any
) -> None:
    asked = question()
    found = await clamav.ask(asked, means(filters.start(says(b"stream: Eicar-Test\x01 FOUND\0", ZERO))))
    assert found.action is Action.REFUSE
    assert str(found.reply) == "550 5.7.1 The message contains Eicar-Test?"
    message = asked.content.in_memory()
    assert filters.peers[0].got == b"zINSTREAM\0" + struct.pack("!I", len(message)) + message + ZERO
    assert (
        await clamav.ask(question(), means(filters.start(says(b"stream: OK\0", ZERO))))
    ).action is Action.CONTINUE


@pytest.mark.parametrize(
    "answer", [b"INSTREAM size limit exceeded. ERROR\0", b"\0", b"x" * 10_000, b"stream: FOUND it\0"]
)
@pytest_twisted.ensureDeferred
async def test_a_scanner_that_answers_otherwise_fails(
    filters: Any, question: Any, means: Any, answer: bytes
) -> None:
    with pytest.raises(FilterError):
        await clamav.ask(question(), means(filters.start(says(answer, ZERO))))


@pytest_twisted.ensureDeferred
async def test_spamd_sees_who_sent_it_and_its_spam_goes_to_junk(
    filters: Any, question: Any, means: Any
) -> None:
    answer = (
        b"SPAMD/1.1 0 EX_OK\r\nContent-length: 20\r\nSpam: True ; 15.3 / 5.0\r\n\r\nBAYES_99,URIBL_BLACK\r\n"
    )
    asked = question(fields=b"X-Ours: a\r\n")
    found = await spamd.ask(asked, means(filters.start(says(answer, b"Bob", True))))
    assert found.action is Action.JUNK and found.reason == "score 15.3 of 5.0 (BAYES_99, URIBL_BLACK)"
    head, _, rest = filters.peers[0].got.partition(b"\r\n\r\n")
    assert head == b"SYMBOLS SPAMC/1.5\r\nContent-length: %d" % len(rest)
    assert rest == asked.received + asked.fields + asked.content.in_memory()
    ham = b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; -0.3 / 5.0\r\n\r\n"
    assert (
        await spamd.ask(question(), means(filters.start(says(ham, b"Bob", True))))
    ).action is Action.CONTINUE


@pytest.mark.parametrize(
    "answer", [b"SPAMD/1.1 74 EX_IOERR\r\n\r\n", b"", b"SPAMD/1.1 0 EX_OK\r\n\r\n", b"x" * 90_000]
)
@pytest_twisted.ensureDeferred
async def test_a_spamd_that_answers_otherwise_fails(
    filters: Any, question: Any, means: Any, answer: bytes
) -> None:
    with pytest.raises(FilterError):
        await spamd.ask(question(), means(filters.start(says(answer, b"Bob", True))))


def http(answer: Any, status: str = "200 OK", length: int | None = None) -> bytes:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n".encode()
        + body
    )


ANSWER = {
    "action": "add header",
    "score": 7.25,
    "required_score": 15.0,
    "symbols": {
        "A": {"score": 0.1},
        "BAYES_SPAM": {"score": 5.0},
        "ZERO": {"score": 0},
        "bad\n": {"score": "x"},
    },
    "milter": {"add_headers": {"X-Spam": {"value": "Yes\r\n\r\nBody"}, "X-B": "1", "X Y": "2"}},
}


@pytest_twisted.ensureDeferred
async def test_rspamd_is_told_all_about_the_session_and_its_actions_are_followed(
    filters: Any, question: Any, means: Any
) -> None:
    found = await rspamd.ask(question(), means(filters.start(says(http(ANSWER), b"Bob"))))
    assert found.action is Action.JUNK
    assert found.reason == "add header, score 7.2 of 15.0 (BAYES_SPAM 5.0, A 0.1)"
    assert found.field == b"X-Spam: Yes\r\n\tBody\r\nX-B: 1\r\n"
    got = filters.peers[0].got
    for line in (b"IP: 192.0.2.7", b"From: <carole@elorac.fr>", b"Rcpt: bob@bricoleur.com", b"Queue-Id: m1"):
        assert line + b"\r\n" in got.partition(b"\r\n\r\n")[0] + b"\r\n"
    assert got.endswith(b"Bonjour\r\n.\r\nBob\r\n")
    for word, action in (
        ("reject", Action.REFUSE),
        ("soft reject", Action.DEFER),
        ("no action", Action.CONTINUE),
    ):
        answer = {"action": word, "messages": {"smtp_message": "Said\r\nso"}}
        found = await rspamd.ask(question(), means(filters.start(says(http(answer), b"Bob"))))
        assert found.action is action
        assert (found.reply is None) == (word == "no action")
    assert found.reply is None


@pytest_twisted.ensureDeferred
async def test_an_answer_in_chunks_is_read(filters: Any, question: Any, means: Any) -> None:
    body = json.dumps(ANSWER).encode()
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
        % (
            10,
            body[:10],
            len(body) - 10,
            body[10:],
        )
    )
    assert (await rspamd.ask(question(), means(filters.start(says(chunked, b"Bob"))))).action is Action.JUNK


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        http({}, "500 No"),
        http(b"no json"),
        http(b"[" * 100_000),
        http([1]),
        http({"action": "explode"}),
        http({}, length=10**8),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_rspamd_that_answers_otherwise_fails(
    filters: Any, question: Any, means: Any, answer: bytes
) -> None:
    with pytest.raises(FilterError):
        await rspamd.ask(question(), means(filters.start(says(answer, b"Bob", True))))
