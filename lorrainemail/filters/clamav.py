"""ClamAV's daemon: INSTREAM, one message a connection. What it finds is refused."""

from __future__ import annotations

import struct
from typing import Final

from lorrainemail.errors import Reply
from lorrainemail.filters.asking import Means, Opinion, Question, harmless
from lorrainemail.filters.stream import FilterError, connect, pieces
from lorrainemail.interfaces import Action

#: Octets of an answer.
MAX_ANSWER: Final = 4096


async def ask(question: Question, means: Means) -> Opinion:
    """:raises FilterError: where there is no answer, or none about the message."""
    stream = await connect(means.reactor, means.address)
    try:
        await stream.send(b"zINSTREAM\0")
        async for piece in pieces(question.content, means.in_thread):
            await stream.send(struct.pack("!I", len(piece)) + piece)
        await stream.send(struct.pack("!I", 0))
        answer = (await stream.read_until(b"\0", MAX_ANSWER)).strip()
    finally:
        stream.abort()
    if answer.endswith(b" OK"):
        return Opinion(Action.CONTINUE, "nothing found")
    if answer.endswith(b" FOUND"):
        name = harmless(answer.removesuffix(b" FOUND").partition(b": ")[2])
        return Opinion(Action.REFUSE, f"found {name}", Reply(550, "5.7.1", f"The message contains {name}"))
    raise FilterError(f"the scanner says {harmless(answer)!r}")
