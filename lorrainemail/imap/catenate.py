"""CATENATE (RFC 4469): a message of an APPEND that is put together from literals and parts of other messages.

The pieces come in turn: URLs up to a literal, the literal, and so on. A URL is read when its turn comes, and
one that leads to nothing refuses the whole APPEND (``BADURL``), before the client sends what it still waits
to send; what does not wait is read over, so that the session goes on at the right octet.
"""

from __future__ import annotations

from typing import Final

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_commands import BadCommand
from lorrainemail.grammar.imap_input import AppendMessage, next_piece
from lorrainemail.imap.server import Bad, ImapServer, No
from lorrainemail.imap.urls import MAX_URL, BadUrl, read_url, refusal
from lorrainemail.interfaces import IContent
from lorrainemail.net.flow import Gone
from lorrainemail.ops.content import ContentWriter

#: Octets of a line between two literals: flags, a date, URLs.
MAX_BETWEEN: Final = 8000


async def catenate(session: ImapServer, event: AppendMessage, room: int) -> tuple[IContent, AppendMessage]:
    """The whole message, and its end with all of its arguments.

    :param event: what stands before the first literal, or before the end.
    :param room: octets that the message may have.
    """
    pot = _Pot(session, room)
    try:
        await pot.add(event)
        while event.arguments.catenates != "END":
            line = await session.read_line(MAX_BETWEEN)
            try:
                event = next_piece(event, line)
            except BadCommand as bad:
                cut_literal(session, line)
                raise Bad(bad.text.encode("ascii")) from None
            await pot.add(event)
        if not pot.size:
            session.skip_literal(event)
            raise No(b"[CANNOT] Message is empty")
        return pot.writer.finish(), event
    except BaseException:
        pot.writer.abort()
        raise


def cut_literal(session: ImapServer, line: bytes) -> None:
    """A literal that does not wait follows something wrong: nobody can say where the next command begins."""
    if line.endswith(b"+}"):
        session.bye(b"Unexpected literal")
        raise Gone()


class _Pot:
    """What the pieces go into."""

    def __init__(self, session: ImapServer, room: int) -> None:
        self.session = session
        self.room = room
        self.size = 0
        self.writer = ContentWriter(session.shared.spill_directory)

    async def add(self, event: AppendMessage) -> None:
        """The URLs before a literal, then the literal."""
        try:
            for url in event.arguments.urls:
                await self._url(url)
            if event.arguments.catenates == "TEXT":
                self._begin(event.size)
            elif event.arguments.catenates == "URL" and event.size > MAX_URL:
                raise No(b"[CANNOT] That URL is too long")
        except (No, Bad, MailError):
            self.session.skip_literal(event)
            raise
        if event.arguments.catenates == "END":
            return
        if event.waits:
            self.session.send(b"+ Ready for the literal\r\n")
        if event.arguments.catenates == "TEXT":
            await self._text(event)
            return
        octets: list[bytes] = []
        await self.session.read_octets(event.size, octets.append)
        try:
            await self._url(b"".join(octets))
        except (No, MailError):
            await self._read_over()
            raise

    async def _text(self, event: AppendMessage) -> None:
        failures: list[MailError] = []
        nul = False

        def write(chunk: bytes) -> None:
            nonlocal nul
            nul = nul or b"\0" in chunk
            if not failures:
                try:
                    self.writer.write(chunk)
                except MailError as failure:
                    failures.append(failure)  # the rest is read over

        await self.session.read_octets(event.size, write)
        if failures or nul:
            await self._read_over()
            raise failures[0] if failures else No(b"[UNKNOWN-CTE] NUL cannot be stored")

    async def _read_over(self) -> None:
        """The line behind a literal; what may follow it is cut off."""
        cut_literal(self.session, await self.session.read_line(MAX_BETWEEN))

    async def _url(self, url: bytes) -> None:
        try:
            await read_url(self.session, url, self._begin, self.writer.write)
        except BadUrl:
            raise refusal(url) from None

    def _begin(self, octets: int) -> None:
        self.size += octets
        if self.size > self.room:
            raise No(b"[TOOBIG] Message too large")
