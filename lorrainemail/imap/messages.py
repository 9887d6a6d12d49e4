"""Commands that change messages: STORE, COPY, MOVE, EXPUNGE; and CHECK, CLOSE, UNSELECT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, cast

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_commands import Command, StoreArguments
from lorrainemail.grammar.imap_sets import SequenceSet, print_set
from lorrainemail.imap.folders import target_failure
from lorrainemail.imap.server import Bad, ImapServer, No
from lorrainemail.imap.view import View

#: Messages whose flags are changed, or looked at, in one turn.
SLICE: Final = 1000

EXPUNGED: Final = b"[EXPUNGEISSUED] Some of the messages are gone"


def chosen(view: View, messages: SequenceSet, by_uid: bool) -> list[int]:
    """Positions in the view of the messages that a command means."""
    indexes = view.indexes(messages, by_uid)
    if indexes is None:
        raise Bad(b"No such message")
    return indexes


async def check(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.4.1; we also look for what other programs did."""
    await session.selected().mailbox.refresh()
    return b"OK CHECK completed"


async def unselect(session: ImapServer, command: Command) -> bytes:
    """RFC 3691."""
    session.close_view()
    return b"OK UNSELECT completed"


async def close(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.4.2: expunges without saying so."""
    view = session.selected()
    if not view.read_only:
        uids = await _deleted(session, view, range(len(view.uids)))
        if uids:
            await view.mailbox.expunge(uids)
    session.close_view()
    return b"OK CLOSE completed"


async def expunge(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.4.3; with a set of UIDs RFC 4315 §2.1."""
    view = session.writable()
    indexes = chosen(view, command.arguments[0], True) if command.uid else range(len(view.uids))
    uids = await _deleted(session, view, indexes)
    removed = await view.mailbox.expunge(uids) if uids else ()
    if removed and "QRESYNC" in session.enabled:  # RFC 7162 §3.2.7
        await session.tell_updates(True, command.uid)
        return b"OK [HIGHESTMODSEQ %d] EXPUNGE completed" % view.mailbox.highest_modseq
    return b"OK EXPUNGE completed"


async def _deleted(session: ImapServer, view: View, indexes: Sequence[int]) -> list[int]:
    """UIDs of those that are marked ``\\Deleted`` and are in the view."""
    found: list[int] = []
    for count, index in enumerate(indexes, 1):
        uid = view.uids[index]
        if "\\Deleted" in (view.mailbox.flags(uid) or ()):
            found.append(uid)
        if count % (SLICE * 8) == 0:
            await session.breathe()
    return found


async def store(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.4.6, RFC 7162 §3.1.3."""
    arguments: StoreArguments = command.arguments[0]
    view = session.writable()
    indexes = chosen(view, arguments.messages, command.uid)
    operation = cast(Literal["add", "remove", "set"], arguments.operation)
    flags = [flag for flag in arguments.flags if flag.lower() != "\\recent"]
    since = arguments.unchanged_since
    if since is not None:
        session.enable("CONDSTORE")
    missing = False
    refused: list[int] = []
    for start in range(0, len(indexes), SLICE):
        part = indexes[start : start + SLICE]
        uids = [view.uids[index] for index in part]
        unsaid = view.pending_changes(uids)
        before = view.mailbox.flags_of(uids) if session.scripts_run else []
        result = await view.mailbox.change_flags(uids, operation, flags, since)
        if before:
            changed = _changed_flags(view, uids, before)
            session.happened("FLAG", view.mailbox.name, changed, changed=changed)
        if result.modified:
            left = set(result.modified)
            refused += [
                view.uids[index] if command.uid else index + 1 for index in part if view.uids[index] in left
            ]
            part = [index for index in part if view.uids[index] not in left]
            uids = [view.uids[index] for index in part]
        view.forget_changes(uids, unsaid if arguments.silent else set())
        missing = _say_flags(session, view, part, command.uid, arguments.silent) or missing
        if start + SLICE < len(indexes):
            await session.breathe()
    if refused:
        return b"OK [MODIFIED %b] Conditional STORE failed" % print_set(refused)
    # RFC 2180 §4.2: the client is told that some are gone; with UIDs that is no error
    return b"NO " + EXPUNGED if missing and not command.uid else b"OK STORE completed"


def _changed_flags(
    view: View, uids: list[int], before: list[frozenset[str] | None]
) -> dict[int, frozenset[str]]:
    """Which flags of which messages are others than before."""
    changed = {}
    for uid, old, new in zip(uids, before, view.mailbox.flags_of(uids), strict=True):
        if old is not None and new is not None and old != new:
            changed[uid] = old ^ new
    return changed


def _say_flags(session: ImapServer, view: View, indexes: list[int], by_uid: bool, silent: bool) -> bool:
    """FETCH responses for a STORE that is not silent; whether any message is gone."""
    missing = False
    lines: list[bytes] = []
    found: set[str] = set()
    for index in indexes:
        uid = view.uids[index]
        flags = view.mailbox.flags(uid)
        if flags is None:
            missing = True
            continue
        found |= flags
        if not silent:
            lines.append(view.line(index, view.flag_items(uid, flags, by_uid)))
        elif "CONDSTORE" in session.enabled:  # RFC 7162 §3.1.3: the new MODSEQ is always told
            modseq = b"MODSEQ (%d)" % view.mailbox.modseq(uid)
            shown = b"UID %d %b" % (uid, modseq) if view.shows_uid(by_uid) else modseq
            lines.append(view.line(index, shown))
    session.send(view.learn_keywords(found))
    session.send(b"".join(lines))
    return missing


async def copy(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.4.7, RFC 4315 §3."""
    messages, name = command.arguments
    view = session.selected()
    uids = _present(view, chosen(view, messages, command.uid), command.uid)
    try:
        target = await session.mail().open(name)
    except MailError as failure:
        raise target_failure(failure) from None
    try:
        pairs = await view.mailbox.copy_to(uids, target) if uids else []
        validity = target.uid_validity
    finally:
        target.close()
    if not pairs:
        return b"OK No messages copied"
    session.happened("COPY", target.name, [uid for _, uid in pairs], view.mailbox.name)
    return b"OK %b COPY completed" % _copied(validity, pairs)


async def move(session: ImapServer, command: Command) -> bytes:
    """RFC 6851."""
    messages, name = command.arguments
    view = session.writable()
    uids = _present(view, chosen(view, messages, command.uid), command.uid)
    try:
        target = await session.mail().open(name)
    except MailError as failure:
        raise target_failure(failure) from None
    try:
        if target.mailbox_id == view.mailbox.mailbox_id:
            raise No(b"[CANNOT] The messages are in that folder")
        pairs = await view.mailbox.move_to(uids, target) if uids else []
        validity = target.uid_validity
    finally:
        target.close()
    if not pairs:
        return b"OK No messages moved"
    session.happened("COPY", target.name, [uid for _, uid in pairs], view.mailbox.name)
    # RFC 6851 §4.3: before the EXPUNGEs that follow
    session.send(b"* OK %b Moved\r\n" % _copied(validity, pairs))
    return b"OK MOVE completed"


def _present(view: View, indexes: list[int], by_uid: bool) -> list[int]:
    """UIDs of those that still exist; where sequence numbers name one that is gone: all or none."""
    uids = [view.uids[index] for index in indexes]
    present = [uid for uid in uids if view.mailbox.flags(uid) is not None]
    if len(present) < len(uids) and not by_uid:
        raise No(EXPUNGED)  # RFC 2180 §4.4
    return present


def _copied(validity: int, pairs: list[tuple[int, int]]) -> bytes:
    sources = print_set(source for source, _ in pairs)
    return b"[COPYUID %d %b %b]" % (validity, sources, print_set(target for _, target in pairs))
