"""The milter client: a finished message is shown to a filter as if it came just now.

:func:`ask` opens a connection, negotiates (version 6, what the filter may change), tells the whole session in
order (connect, helo, mail, each recipient, data, header fields, body) and takes the filter's word at the end
of the message. A filter that accepts or refuses earlier ends it there. Steps that it does not want are left
out, and those that it does not answer are not waited for.

What it changes is applied (:mod:`lorrainemail.filters.editing`), where the row allows it. Recipients and
sender are never its to change: that is not offered, and ignored with a line in the log where a filter does it
anyway. "Discard" means Junk: nothing that was answered 250 is thrown away on a filter's word.
"""

from __future__ import annotations

import struct
from typing import Final

from twisted.logger import Logger

from lorrainemail.errors import Reply
from lorrainemail.filters import milter_wire as wire
from lorrainemail.filters.asking import Means, Opinion, Question, harmless
from lorrainemail.filters.editing import Edits
from lorrainemail.filters.stream import CHUNK, FilterError, Stream, connect
from lorrainemail.interfaces import Action
from lorrainemail.mailauth.header import Header
from lorrainemail.message.header import Field

#: Recipients that are shown, and "still at it" packets that are taken.
MAX_RECIPIENTS: Final = 1000
MAX_PROGRESS: Final = 1000

REFUSED: Final = Reply(550, "5.7.1", "Refused by a filter")
DEFERRED: Final = Reply(451, "4.7.1", "A filter asks you to try again later")

_OFFERED: Final = wire.MAY_ADD | wire.MAY_BODY | wire.MAY_CHANGE | wire.MAY_QUARANTINE

_log = Logger("lorrainemail.filters")


async def ask(question: Question, means: Means) -> Opinion:
    """:raises FilterError: where there is no answer, or none that can be understood."""
    stream = await connect(means.reactor, means.address)
    try:
        return await _Conversation(stream, question, means).run()
    finally:
        stream.abort()


class _Ended(Exception):
    """The filter has made up its mind."""

    def __init__(self, opinion: Opinion) -> None:
        super().__init__(opinion.reason)
        self.opinion = opinion


class _Conversation:
    def __init__(self, stream: Stream, question: Question, means: Means) -> None:
        self._stream = stream
        self._question = question
        self._means = means
        self._steps = 0
        self._actions = 0
        self._skip = False

    async def run(self) -> Opinion:
        offered = _OFFERED if self._means.modify else wire.MAY_QUARANTINE
        await self._stream.send(wire.negotiation(offered))
        command, content = await self._packet()
        if command != wire.NEGOTIATE:
            raise FilterError("the milter does not negotiate")
        self._actions, self._steps = wire.negotiated(content, offered)
        try:
            await self._envelope()
            edits = await self._message()
        except _Ended as ended:
            await self._quit()
            return ended.opinion
        await self._quit()
        return edits.opinion(self._question)

    async def _quit(self) -> None:
        await self._stream.send(wire.packet(wire.QUIT))

    # -- steps -----------------------------------------------------------------------------------

    async def _step(self, command: bytes, octets: bytes, macros: dict[str, str] | None = None) -> None:
        """Tell one step, and take its answer where it has one."""
        if self._steps & wire.NOT.get(command, 0):
            return
        if macros:
            octets = wire.macros(command, macros) + octets
        await self._stream.send(octets)
        if not self._steps & wire.SILENT.get(command, 0):
            await self._answered(command)

    async def _answered(self, command: bytes) -> None:
        for _ in range(MAX_PROGRESS):
            answer, content = await self._packet()
            if answer == wire.CONTINUE:
                return
            if answer == wire.SKIP and command == wire.BODY:
                self._skip = True
                return
            if answer != wire.PROGRESS:
                raise _Ended(self._final(answer, content))
        raise FilterError("the milter is never ready")

    async def _packet(self) -> tuple[bytes, bytes]:
        (size,) = struct.unpack("!I", await self._stream.read(4))
        if not 1 <= size <= wire.MAX_PACKET:
            raise FilterError(f"the milter sends a packet of {size} octets")
        whole = await self._stream.read(size)
        return whole[:1], whole[1:]

    @staticmethod
    def _final(answer: bytes, content: bytes) -> Opinion:
        """An answer that ends the conversation."""
        if answer == wire.ACCEPT:
            return Opinion(Action.CONTINUE, "accepted")
        if answer == wire.REJECT:
            return Opinion(Action.REFUSE, "rejected", REFUSED)
        if answer in (wire.DEFER, wire.SHUTDOWN, wire.CONNECTION_FAILED):
            return Opinion(Action.DEFER, "deferred", DEFERRED)
        if answer == wire.REPLY:
            reply = wire.reply_of(content)
            return Opinion(Action.REFUSE if reply.permanent else Action.DEFER, reply.text, reply)
        if answer == wire.DISCARD:
            return Opinion(Action.JUNK, "it would have thrown the message away", REFUSED)
        raise FilterError(f"the milter answers {harmless(answer)!r}, which means nothing here")

    async def _envelope(self) -> None:
        session, envelope, ours = self._question.session, self._question.envelope, self._question.hostname
        name = session.reverse_name or (f"[{session.peer}]" if session.peer else "localhost")
        client = {
            "j": ours,
            "{daemon_name}": f"lorrainemail-{session.door}",
            "v": "lorrainemail",
            "{client_name}": name,
            "{client_addr}": session.peer,
            "{client_port}": str(session.peer_port),
        }
        await self._step(wire.CONNECT, wire.connection(name, session.peer, session.peer_port), client)
        tls = session.tls
        secure = {} if tls is None else {"{tls_version}": tls.version, "{cipher}": tls.cipher}
        await self._step(wire.HELO, wire.packet(wire.HELO, wire.strings(session.helo or "localhost")), secure)
        sender = "" if envelope.sender is None else str(envelope.sender)
        login = {"{auth_type}": session.mechanism, "{auth_authen}": session.account}
        await self._step(
            wire.MAIL,
            wire.packet(wire.MAIL, wire.strings(f"<{sender}>")),
            {"i": envelope.id, "{mail_addr}": sender, **login},
        )
        for recipient in envelope.recipients[:MAX_RECIPIENTS]:
            address = str(recipient.address)
            await self._step(
                wire.RCPT,
                wire.packet(wire.RCPT, wire.strings(f"<{address}>")),
                {"i": envelope.id, "{rcpt_addr}": address},
            )

    async def _message(self) -> Edits:
        question = self._question
        await self._step(wire.DATA, wire.packet(wire.DATA), {"i": question.envelope.id})
        # What a filter shows as the header is what it counts when it changes one.
        header = Header(question.content)
        above = _fields_of(question.fields)
        if not header.whole:
            raise FilterError("the header is too large to be shown")
        edits = Edits(header, self._means, self._actions, [name.lower() for name, _ in above])
        spaced = bool(self._steps & wire.LEADING_SPACE)
        for name, value in [*above, *[_shown(header, field) for field in header.fields]]:
            await self._step(wire.HEADER, wire.header(name, value, spaced))
        await self._step(wire.END_OF_HEADERS, wire.packet(wire.END_OF_HEADERS))
        if not self._steps & wire.NOT[wire.BODY]:
            await self._body(header.body)
        macros = wire.macros(wire.END_OF_BODY, {"i": question.envelope.id})
        await self._stream.send(macros + wire.packet(wire.END_OF_BODY))
        for _ in range(edits.most):
            answer, content = await self._packet()
            if answer == wire.CONTINUE or answer == wire.ACCEPT:
                return edits
            if answer != wire.PROGRESS and not edits.take(answer, content):
                edits.abort()
                raise _Ended(self._final(answer, content))
        edits.abort()
        raise FilterError("the milter's changes have no end")

    async def _body(self, start: int) -> None:
        skip, content = start, self._question.content
        whole, in_thread = content.in_memory(), self._means.in_thread
        chunks = content.chunks(CHUNK)
        while not self._skip:
            if whole is None and in_thread is not None:
                chunk: bytes = await in_thread(lambda: next(chunks, b""))
            else:
                chunk = next(chunks, b"")
            if not chunk:
                return
            taken = min(skip, len(chunk))
            skip -= taken
            if taken < len(chunk):
                await self._step(wire.BODY, wire.packet(wire.BODY, chunk[taken:]))


def _fields_of(octets: bytes) -> list[tuple[bytes, bytes]]:
    """Names as they are written, and values, of whole fields."""
    found: list[tuple[bytes, bytes]] = []
    for line in octets.split(b"\r\n"):
        if line[:1] in (b" ", b"\t") and found:
            found[-1] = (found[-1][0], found[-1][1] + b"\r\n" + line)
        elif line:
            name, _, value = line.partition(b":")
            found.append((name, value))
    return found


def _shown(header: Header, field: Field) -> tuple[bytes, bytes]:
    raw = header.data[field.start : field.end]
    return raw.partition(b":")[0].rstrip(b" \t"), header.data[field.value : field.end]
