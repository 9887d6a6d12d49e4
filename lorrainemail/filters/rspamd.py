"""rspamd over HTTP: ``POST /checkv2``, one message a connection.

Its actions: "reject" is refused, "soft reject" and "greylist" are deferred, "add header" and "rewrite
subject" mean Junk (the subject stays as it is). Header fields that it wants added are. A small HTTP client of
our own: one request, one answer, both bounded.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from lorrainemail.errors import Reply
from lorrainemail.filters.asking import MAX_ADDED, Means, Opinion, Question, harmless, header_field
from lorrainemail.filters.stream import FilterError, Stream, connect, pieces
from lorrainemail.interfaces import Action

#: Octets of an answer's header, and of its body.
MAX_HEAD: Final = 32 * 1024
MAX_BODY: Final = 1024 * 1024
#: Recipients that are named.
MAX_RECIPIENTS: Final = 100
#: Symbols in a reason.
MAX_SYMBOLS: Final = 8

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")
_LENGTH = re.compile(rb"^content-length:[ \t]*([0-9]{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding:[ \t]*chunked[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_ACTIONS: Final = {
    "no action": Action.CONTINUE,
    "accept": Action.CONTINUE,
    "greylist": Action.DEFER,
    "soft reject": Action.DEFER,
    "add header": Action.JUNK,
    "rewrite subject": Action.JUNK,
    "quarantine": Action.JUNK,
    "reject": Action.REFUSE,
    "discard": Action.REFUSE,
}


async def ask(question: Question, means: Means) -> Opinion:
    """:raises FilterError: where there is no answer, or none about the message."""
    stream = await connect(means.reactor, means.address)
    try:
        await stream.send(_request(question))
        async for piece in pieces(question.content, means.in_thread):
            await stream.send(piece)
        body = await _answer(stream)
    finally:
        stream.abort()
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise FilterError("rspamd's answer is no JSON") from None
    if not isinstance(answer, dict):
        raise FilterError("rspamd's answer is no object")
    return _opinion(answer)


def _request(question: Question) -> bytes:
    session, envelope = question.session, question.envelope
    facts = [
        ("Host", "localhost"),
        ("Connection", "close"),
        ("Content-Length", str(len(question.fields) + question.content.size)),
        ("IP", session.peer),
        ("Helo", session.helo),
        ("Hostname", session.reverse_name),
        ("From", f"<{envelope.sender}>" if envelope.sender is not None else "<>"),
        ("Queue-Id", envelope.id),
        ("User", session.account),
        ("MTA-Name", question.hostname),
        *[("Rcpt", str(one.address)) for one in envelope.recipients[:MAX_RECIPIENTS]],
    ]
    lines = [f"{name}: {harmless(value)}" for name, value in facts if value]
    return "\r\n".join(["POST /checkv2 HTTP/1.1", *lines, "", ""]).encode("ascii") + question.fields


async def _answer(stream: Stream) -> bytes:
    head = await stream.read_until(b"\r\n\r\n", MAX_HEAD)
    status = _STATUS.match(head)
    if status is None or status[1] != b"200":
        line = harmless(head.partition(b"\r\n")[0])
        raise FilterError(f"rspamd says {line!r}")
    length = _LENGTH.search(head)
    if length is not None:
        octets = int(length[1])
        if octets > MAX_BODY:
            raise FilterError(f"rspamd's answer is longer than {MAX_BODY} octets")
        return await stream.read(octets)
    if not _CHUNKED.search(head):
        return await stream.read_to_end(MAX_BODY)
    body = b""
    while True:
        digits = (await stream.read_until(b"\r\n", 64)).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,6}", digits):
            raise FilterError("rspamd's answer has a malformed chunk")
        octets = int(digits, 16)
        if octets == 0:
            return body
        if len(body) + octets > MAX_BODY:
            raise FilterError(f"rspamd's answer is longer than {MAX_BODY} octets")
        body += (await stream.read(octets + 2))[:-2]


def _opinion(answer: dict[str, Any]) -> Opinion:
    word = answer.get("action")
    if word not in _ACTIONS:
        raise FilterError(f"rspamd wants {harmless(str(word))!r}, which is unknown")
    action = _ACTIONS[word]
    reason = f"{word}, score {_number(answer.get('score'))} of {_number(answer.get('required_score'))}"
    symbols = _symbols(answer.get("symbols"))
    if symbols:
        reason += f" ({symbols})"
    messages = answer.get("messages")
    told = messages.get("smtp_message") if isinstance(messages, dict) else None
    words = harmless(told) if isinstance(told, str) and told else "The message looks like spam"
    code = (451, "4.7.1") if action is Action.DEFER else (550, "5.7.1")
    reply = Reply(*code, words) if action is not Action.CONTINUE else None
    milter = answer.get("milter")
    wanted = milter.get("add_headers") if isinstance(milter, dict) else None
    return Opinion(action, reason, reply, _fields(wanted))


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) and not isinstance(value, bool) else "?"


def _symbols(symbols: object) -> str:
    """The names that weigh most."""
    if not isinstance(symbols, dict):
        return ""
    scores = []
    for name, facts in symbols.items():
        score = facts.get("score") if isinstance(facts, dict) else None
        if isinstance(score, int | float) and score:
            scores.append((abs(score), f"{harmless(name, 40)} {score:.1f}"))
    return ", ".join(text for _, text in sorted(scores, reverse=True)[:MAX_SYMBOLS])


def _fields(wanted: object) -> bytes:
    """``{"Name": "value"}``, ``{"Name": {"value": ...}}``, or a list of either."""
    found: list[bytes] = []
    for name, given in wanted.items() if isinstance(wanted, dict) else ():
        for one in given if isinstance(given, list) else [given]:
            value = one.get("value") if isinstance(one, dict) else one
            if isinstance(value, str) and len(found) < MAX_ADDED:
                found.append(header_field(str(name).encode("ascii", "replace"), value.encode()))
    return b"".join(found)
