"""FETCH (RFC 3501 §6.4.5), in slices, with back-pressure.

What the index has is answered from ready wire bytes; octets of messages are copied by offset and streamed. A
message that was expunged by somebody else meanwhile is left out and said so (RFC 2180 §4.1). Updates of the
view wait until the command is over, so sequence numbers stay true.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import Any, Final

import attrs
from twisted.logger import Logger

from lorrainemail.errors import MailError, PermanentError
from lorrainemail.grammar.imap import flag_list
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_fetch import FetchItem
from lorrainemail.grammar.imap_sets import print_ranges
from lorrainemail.imap.messages import EXPUNGED, chosen
from lorrainemail.imap.octets import ShortRead, Source, Span
from lorrainemail.imap.resync import changed, uid_ranges, vanished
from lorrainemail.imap.server import Bad, ImapServer
from lorrainemail.imap.view import View
from lorrainemail.interfaces import Column, MessageFacts
from lorrainemail.message.dates import date_time
from lorrainemail.message.summary import body_of, without_global
from lorrainemail.net.flow import Gone

log = Logger(namespace="lorrainemail.imap")

#: Messages answered in one turn from memory; from the index; where their octets are read.
MEMORY_SLICE: Final = 2000
SLICE: Final = 500
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
    return _answer(await _all(session, view, indexes, what, command.uid), command.uid)


async def fetch_of(
    session: ImapServer, view: View, indexes: Sequence[int], items: tuple[FetchItem, ...]
) -> None:
    """What NOTIFY tells of new messages (RFC 5465 §5.2)."""
    await _all(session, view, indexes, plan(items, view.shows_uid(False), view.read_only), False)


async def _all(session: ImapServer, view: View, indexes: Sequence[int], what: Plan, by_uid: bool) -> bool:
    """Answer all of the messages; whether any of them is gone."""
    size = CONTENT_SLICE if what.content else (SLICE if what.rows else MEMORY_SLICE)
    if not what.content:
        return await _from_index(session, view, indexes, what, size)
    missing = False
    for start in range(0, len(indexes), size):
        part = list(indexes[start : start + size])
        missing = await _slice(session, view, part, what, by_uid) or missing
        if start + size < len(indexes):
            await session.breathe()
    return missing


def _answer(missing: bool, by_uid: bool) -> bytes:
    return b"NO " + EXPUNGED if missing and not by_uid else b"OK FETCH completed"


#: How FETCH writes what is known of each message from memory.
_KNOWN: Final = {"UID": b"UID %d", "FLAGS": b"FLAGS %b", "MODSEQ": b"MODSEQ (%d)"}
#: And what it only needs to copy from the index.
_COPIED: Final[dict[str, tuple[Column, bytes]]] = {
    "RFC822.SIZE": ("size", b"RFC822.SIZE %d"),
    "ENVELOPE": ("envelope", b"ENVELOPE %b"),
}


@attrs.frozen(slots=True)
class Template:
    """A whole response as one format: a client that fetches a large folder waits for nothing but this.

    :ivar text: the format; ``values`` what fills it, in order; ``columns`` what of that the index has.
    """

    text: bytes
    values: tuple[str, ...]
    columns: tuple[Column, ...]

    def lines(self, known: dict[str, Iterable[Any]]) -> bytes:
        """The responses; what fills them by the name of its item, in the order of the messages."""
        text = self.text
        return b"".join([text % row for row in zip(*[known[value] for value in self.values], strict=True)])


def _template(items: tuple[FetchItem, ...], numbers: bool) -> Template | None:
    """The items as one format; None where one of them is not so simple."""
    values: list[str] = ["NUMBER" if numbers else "UID"]
    columns: list[Column] = []
    texts: list[bytes] = []
    for item in items:
        values.append(item.kind)
        if item.kind in _KNOWN:
            texts.append(_KNOWN[item.kind])
        elif item.kind in _COPIED:
            column, text = _COPIED[item.kind]
            texts.append(text)
            columns.append(column)
        else:
            return None
    first = b"* %d FETCH (" if numbers else b"* %d UIDFETCH ("  # RFC 9586 §3.3
    return Template(b"%b%b)\r\n" % (first, b" ".join(texts)), tuple(values), tuple(columns))


def _uids(view: View, indexes: Sequence[int]) -> array[int]:
    return array("I", [view.uids[index] for index in indexes])


async def _from_index(session: ImapServer, view: View, indexes: Sequence[int], what: Plan, size: int) -> bool:
    """Answer all from memory and index; whether any message is gone."""
    missing = False
    mailbox = view.mailbox
    numbers = "UIDONLY" not in view.enabled
    condstore = "CONDSTORE" in view.enabled
    recent: AbstractSet[int] = frozenset() if "IMAP4rev2" in view.enabled else view.recent
    template = _template(what.items, numbers)
    makers = [_maker(item, session.utf8) for item in what.items]
    whole = len(indexes) == len(view.uids)  # in order, so they are all of them
    for start in range(0, len(indexes), size):
        part = indexes[start : start + size]
        uids = view.uids[start : start + size] if whole else _uids(view, part)
        if template is not None:
            missing = await _by_template(session, view, part, uids, template, recent) or missing
        else:
            rows: dict[int, MessageFacts] = {}
            if what.rows:
                rows = {row.uid: row for row in await mailbox.facts(uids, wire=what.wire)}
            lines: list[bytes] = []
            for index, uid, flags in zip(part, uids, mailbox.flags_of(uids), strict=True):
                row = rows.get(uid, _NO_ROW)
                if flags is None or (what.rows and row is _NO_ROW):
                    missing = True
                    continue
                modseq = mailbox.modseq(uid) if condstore else 0
                items = b" ".join([make(uid, flags, uid in recent, modseq, row) for make in makers])
                if numbers:
                    lines.append(b"* %d FETCH (%b)\r\n" % (index + 1, items))
                else:
                    lines.append(b"* %d UIDFETCH (%b)\r\n" % (uid, items))  # RFC 9586 §3.3
            session.send(b"".join(lines))
        if start + size < len(indexes):
            await session.breathe()
    return missing


async def _by_template(
    session: ImapServer,
    view: View,
    indexes: Sequence[int],
    uids: array[int],
    template: Template,
    recent: AbstractSet[int],
) -> bool:
    """Answer some messages; whether any of them is gone."""
    rows: list[tuple[Any, ...]] = []
    if template.columns:
        rows = await view.mailbox.columns(uids, template.columns)
    flags = view.mailbox.flags_of(uids)
    missing = None in flags
    if template.columns and len(rows) < len(uids):
        missing = True
    if missing:
        there = {row[0]: row for row in rows}
        kept = [
            at
            for at, uid in enumerate(uids)
            if flags[at] is not None and (not template.columns or uid in there)
        ]
        indexes = [indexes[at] for at in kept]
        uids = array("I", [uids[at] for at in kept])
        flags = [flags[at] for at in kept]
        rows = [there[uid] for uid in uids] if template.columns else []
    known: dict[str, Iterable[Any]] = {
        "NUMBER": [index + 1 for index in indexes],
        "UID": uids,
        "FLAGS": [
            flag_list(words or _NO_FLAGS, uid in recent) for words, uid in zip(flags, uids, strict=True)
        ],
    }
    if "MODSEQ" in template.values:
        known["MODSEQ"] = [view.mailbox.modseq(uid) for uid in uids]
    for at, column in enumerate(template.columns, 1):
        known[_ITEM_OF[column]] = map(itemgetter(at), rows)
    session.send(template.lines(known))
    return missing


_ITEM_OF: Final = {column: kind for kind, (column, _) in _COPIED.items()}
_NO_FLAGS: Final[frozenset[str]] = frozenset()


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
        if not await line.answer_with_content(what, uid in seen):
            missing = True
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


#: Of one message, what its UID, flags, being recent, MODSEQ and row say.
Maker = Callable[[int, frozenset[str], bool, int, MessageFacts], bytes]

_NO_ROW: Final = MessageFacts(0, 0, frozenset(), 0, 0, 0, "")


def _flags_item(uid: int, flags: frozenset[str], recent: bool, modseq: int, row: MessageFacts) -> bytes:
    return b"FLAGS " + flag_list(flags, recent)


_MAKERS: Final[dict[str, Maker]] = {
    "UID": lambda uid, flags, recent, modseq, row: b"UID %d" % uid,
    "MODSEQ": lambda uid, flags, recent, modseq, row: b"MODSEQ (%d)" % modseq,
    "THREADID": lambda uid, flags, recent, modseq, row: b"THREADID NIL",  # RFC 8474 §5.2: we keep none
    "FLAGS": _flags_item,
    "ENVELOPE": lambda uid, flags, recent, modseq, row: b"ENVELOPE " + row.envelope,
    "EMAILID": lambda uid, flags, recent, modseq, row: b"EMAILID (%b)" % row.message_id.encode("ascii"),
    "SAVEDATE": lambda uid, flags, recent, modseq, row: b"SAVEDATE " + date_time(row.save_date),
    "RFC822.SIZE": lambda uid, flags, recent, modseq, row: b"RFC822.SIZE %d" % row.size,
    "INTERNALDATE": lambda uid, flags, recent, modseq, row: b"INTERNALDATE " + date_time(row.internal_date),
}


def _maker(item: FetchItem, utf8: bool) -> Maker:
    """What makes an item that the index or the view knows."""
    found = _MAKERS.get(item.kind)
    if found is not None:
        return found

    def structure(uid: int, flags: frozenset[str], recent: bool, modseq: int, row: MessageFacts) -> bytes:
        # RFC 6855 §3, RFC 9051 §7.5.2: only who speaks UTF-8 knows message/global
        wire = row.structure if utf8 else without_global(row.structure)
        return b"BODY " + body_of(wire) if item.kind == "BODY" else b"BODYSTRUCTURE " + wire

    return structure


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

    def value(self, item: FetchItem) -> bytes:
        """An item that the index or the view knows."""
        row = _NO_ROW if self.row is None else self.row
        recent = self.view.is_recent(self.uid)
        return _maker(item, self.session.utf8)(self.uid, self.flags, recent, self.modseq, row)

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
