"""SpamAssassin's daemon: SYMBOLS, one message a connection. What it calls spam goes to Junk."""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.errors import Reply
from lorrainemail.filters.asking import Means, Opinion, Question, harmless
from lorrainemail.filters.stream import FilterError, connect, pieces
from lorrainemail.interfaces import Action

#: Octets of an answer.
MAX_ANSWER: Final = 64 * 1024

_STATUS = re.compile(rb"SPAMD/[0-9.]+ ([0-9]+) ")
_SPAM = re.compile(
    rb"^Spam: *(True|Yes|False|No) *; *(-?[0-9.]+) */ *(-?[0-9.]+)", re.IGNORECASE | re.MULTILINE
)


async def ask(question: Question, means: Means) -> Opinion:
    """:raises FilterError: where there is no answer, or none about the message."""
    above = question.received + question.fields
    stream = await connect(means.reactor, means.address)
    try:
        size = len(above) + question.content.size
        await stream.send(b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n" % size + above)
        async for piece in pieces(question.content, means.in_thread):
            await stream.send(piece)
        answer = await stream.read_to_end(MAX_ANSWER)
    finally:
        stream.abort()
    head, _, symbols = answer.partition(b"\r\n\r\n")
    status, spam = _STATUS.match(head), _SPAM.search(head)
    if status is None or status[1] != b"0" or spam is None:
        raise FilterError(f"spamd says {harmless(head)!r}")
    told = harmless(b", ".join(symbols.replace(b"\r\n", b",").split(b",")).strip(b", "))
    reason = f"score {harmless(spam[2])} of {harmless(spam[3])}{f' ({told})' if told else ''}"
    if spam[1].lower() in (b"true", b"yes"):
        return Opinion(Action.JUNK, reason, Reply(550, "5.7.1", "The message looks like spam"))
    return Opinion(Action.CONTINUE, reason)
