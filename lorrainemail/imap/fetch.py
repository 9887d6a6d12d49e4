"""FETCH (RFC 3501 §6.4.5), in slices, with back-pressure.

What the index has is answered from ready wire bytes; octets of messages are copied by offset and streamed. A
message that was expunged by somebody else meanwhile is left out and said so (RFC 2180 §4.1). Updates of the
view wait until the command is over, so sequence numbers stay true.
"""

from __future__ import annotations

from typing import Final

import attrs
from twisted.logger import Logger

from lorrainemail.errors import MailError, PermanentError
from lorrainemail.grammar.imap import Command, flag_list
from lorrainemail.grammar.imap_fetch import FetchItem
from lorrainemail.grammar.imap_sets import print_ranges
from lorrainemail.imap.messages import EXPUNGED, chosen
from lorrainemail.imap.octets import ShortRead, Source, Span
from lorrainemail.imap.resync import changed, uid_ranges, vanished
from lorrainemail.imap.server import Bad, ImapServer
from lorrainemail.imap.view import View
from lorrainemail.interfaces import MessageFacts
from lorrainemail.message.dates import date_time
from lorrainemail.message.summary import body_of, without_global
from lorrainemail.net.flow import Gone

log = Logger(namespace="lorrainemail.imap")

#: Messages answered in one turn from the index; and where their octets are read.
SLICE: Final = 200
CONTENT_SLICE: Final = 20
#: Octets of a message read and written at once.
CHUNK: Final = 64 * 1024

_UID: Final = FetchItem("UID", b"UID")
_FLAGS: Final = FetchItem("FLAGS", b"FLAGS")
_MODSEQ: Final = FetchItem("MODSEQ", b"MODSEQ")
_FROM_INDEX: Final = frozenset(
    {"ENVELOPE", "INTERNALDATE", "RFC822.SIZE", "BODY", "BODYSTRUCTURE", "EMAILID", "SAVEDATE"}
)
_FROM_CONTENT: Final = frozenset({"SECTION", "BINARY", "BINARY.SIZE", "PREVIEW"})
_WIRE: Final = frozenset({"ENVELOPE", "BODY", "BODYSTRUCTURE"})


@attrs.frozen(slots=True)
class Plan:
    """What one FETCH needs.

    :ivar rows: index rows; ``wire`` with their wire bytes; ``content`` octets of messages.
    :ivar sees: it sets ``\\Seen``.
    """

    items: tuple[FetchItem, ...]
    rows: bool
    wire: bool
    content: bool
    sees: bool


def plan(items: tuple[FetchItem, ...], by_uid: bool, read_only: bool, changed_since: bool = False) -> Plan:
    """What the items ask for; a UID command always answers the UID (RFC 3501 §6.4.8), and one that asks for
    changes their MODSEQ (RFC 7162 §3.1.4.1)."""
    if by_uid and _UID not in items:
        items = (_UID, *items)
    if changed_since and _MODSEQ not in items:
        items = (*items, _MODSEQ)
    kinds = {item.kind for item in items}
    return Plan(
        items,
        bool(kinds & _FROM_INDEX),
        bool(kinds & _WIRE),
        bool(kinds & _FROM_CONTENT),
        not read_only and any(not item.peek for item in items),
    )


async def fetch(session: ImapServer, command: Command) -> bytes:
    """FETCH and UID FETCH."""
    messages, items, modifiers = command.arguments
    view = session.selected()
    indexes = chosen(view, messages, command.uid)
    since = modifiers.changed_since
    if modifiers.vanished and "QRESYNC" not in session.enabled:
        raise Bad(b"QRESYNC was not enabled")  # RFC 7162 §3.2.6
    if since is not None or _MODSEQ in items:
        session.enable("CONDSTORE")
    what = plan(items, view.shows_uid(command.uid), view.read_only, since is not None)
    if since is not None:
        if modifiers.vanished:
            gone = await vanished(session, view, since, uid_ranges(view, messages))
            if gone:
                session.send(b"* VANISHED (EARLIER) %b\r\n" % print_ranges(gone))
        indexes = await changed(session, view, indexes, since)
    if modifiers.window is not None:
        indexes = list(modifiers.window.of(indexes))
    size = CONTENT_SLICE if what.content else SLICE
    missing = False
    for start in range(0, len(indexes), size):
        part = indexes[start : start + size]
        missing = await _slice(session, view, part, what, command.uid) or missing
        if start + size < len(indexes):
            await session.breathe()
    if missing and not command.uid:
        return b"NO " + EXPUNGED
    return b"OK FETCH completed"


async def _slice(session: ImapServer, view: View, indexes: list[int], what: Plan, by_uid: bool) -> bool:
    """Answer some messages; whether any of them is gone."""
    uids = [view.uids[index] for index in indexes]
    seen = await _see(session, view, uids) if what.sees else frozenset[int]()
    rows: dict[int, MessageFacts] = {}
    if what.rows:
        rows = {row.uid: row for row in await view.mailbox.facts(uids, wire=what.wire)}
    missing = False
    for index, uid in zip(indexes, uids, strict=True):
        flags = view.mailbox.flags(uid)
        row = rows.get(uid)
        if flags is None or (what.rows and row is None):
            missing = True
            continue
        modseq = view.mailbox.modseq(uid) if "CONDSTORE" in session.enabled else 0
        line = Line(session, view, index, uid, flags, row, modseq)
        if what.content:
            if not await line.answer_with_content(what, uid in seen):
                missing = True
        else:
            session.send(line.answer(what.items))
    return missing


async def _see(session: ImapServer, view: View, uids: list[int]) -> frozenset[int]:
    """Set ``\\Seen`` where it is missing; those whose flags the client has to be told."""
    unseen = [uid for uid in uids if (flags := view.mailbox.flags(uid)) is not None and "\\Seen" not in flags]
    if not unseen:
        return frozenset()
    try:
        await view.mailbox.change_flags(unseen, "add", ["\\Seen"])
    except MailError as failure:
        # the message can be read all the same; it only stays unread
        log.warn(
            "\\Seen could not be set: {detail} (session {session})",
            detail=failure.detail or str(failure.reply),
            session=session.facts.id,
        )
        return frozenset()
    view.forget_changes(unseen, set())
    return frozenset(unseen)


@attrs.frozen(slots=True)
class Line:
    """One message's FETCH response."""

    session: ImapServer
    view: View
    index: int
    uid: int
    flags: frozenset[str]
    row: MessageFacts | None
    modseq: int

    def answer(self, items: tuple[FetchItem, ...]) -> bytes:
        """The whole response where no octets of the message are asked for."""
        return self.view.line(self.index, b" ".join([self.value(item) for item in items]))

    def value(self, item: FetchItem) -> bytes:
        """An item that the index or the view knows."""
        kind = item.kind
        if kind == "UID":
            return b"UID %d" % self.uid
        if kind == "MODSEQ":
            return b"MODSEQ (%d)" % self.modseq
        if kind == "THREADID":
            return b"THREADID NIL"  # RFC 8474 §5.2: we keep none
        if kind == "FLAGS":
            return b"FLAGS " + flag_list(self.flags, self.view.is_recent(self.uid))
        row = self.row
        assert row is not None
        if kind == "ENVELOPE":
            return b"ENVELOPE " + row.envelope
        if kind in ("BODYSTRUCTURE", "BODY"):
            # RFC 6855 §3, RFC 9051 §7.5.2: only who speaks UTF-8 knows message/global
            structure = row.structure if self.session.utf8 else without_global(row.structure)
            if kind == "BODY":
                return b"BODY " + body_of(structure)
            return b"BODYSTRUCTURE " + structure
        if kind == "EMAILID":
            return b"EMAILID (%b)" % row.message_id.encode("ascii")
        if kind == "SAVEDATE":
            return b"SAVEDATE " + date_time(row.save_date)
        if kind == "RFC822.SIZE":
            return b"RFC822.SIZE %d" % row.size
        return b"INTERNALDATE " + date_time(row.internal_date)

    async def answer_with_content(self, what: Plan, seen: bool) -> bool:
        """The response with octets of the message; False where the message is gone."""
        source = Source(self.session, self.view.mailbox, self.uid)
        try:
            # everything that may fail comes before the first octet of the answer
            sections = {item: await source.section(item) for item in what.items if item.kind in _FROM_CONTENT}
        except PermanentError:
            source.close()
            return False
        except BaseException:
            source.close()
            raise
        try:
            items = what.items
            if seen and _FLAGS not in items:
                items = (*items, _FLAGS)
            if seen and _MODSEQ not in items and "CONDSTORE" in self.session.enabled:
                items = (*items, _MODSEQ)
            self.session.send(self.view.opening(self.index))
            for count, item in enumerate(items):
                if count:
                    self.session.send(b" ")
                if item in sections:
                    await self._send_section(source, item, sections[item])
                else:
                    self.session.send(self.value(item))
            self.session.send(b")\r\n")
            await self.session.flush()
        finally:
            source.close()
        return True

    async def _send_section(self, source: Source, item: FetchItem, found: Span | bytes | None) -> None:
        send = self.session.send
        if found is None:
            send(item.label + b" NIL")
        elif item.kind in ("PREVIEW", "BINARY.SIZE"):
            assert isinstance(found, bytes)
            send(b"%b %b" % (item.label, found))
        elif item.kind == "BINARY":
            assert isinstance(found, bytes)
            # RFC 3516 §4.2: NUL needs a literal8
            send(b"%b %b{%d}\r\n%b" % (item.label, b"~" if b"\0" in found else b"", len(found), found))
        elif isinstance(found, bytes):
            send(b"%b {%d}\r\n%b" % (item.label, len(found), _without_nul(found)))
        else:
            send(b"%b {%d}\r\n" % (item.label, found.end - found.start))
            position = found.start
            while position < found.end:
                reach = min(position + CHUNK, found.end)
                try:
                    send(_without_nul(await source.read(position, reach)))
                except (MailError, ShortRead):
                    # the literal's length is said already: nothing but the connection's end can mend that
                    log.failure(
                        "A message could not be read (session {session})", session=self.session.facts.id
                    )
                    self.session.abort()
                    raise Gone() from None
                position = reach
                await self.session.flush()


def _without_nul(octets: bytes) -> bytes:
    """A literal holds no NUL (RFC 3501 §9, CHAR8), and clients cut their strings at one: 0x80 stands for it,
    as with other servers, so that sizes and offsets stay. POP3 gives the octets as they are."""
    return octets.replace(b"\0", b"\x80") if b"\0" in octets else octets
