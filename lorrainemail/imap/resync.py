"""Telling a client what happened since it was last here (RFC 7162): VANISHED, and changes after a MODSEQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lorrainemail.grammar.imap_commands import Resync
from lorrainemail.grammar.imap_sets import SequenceSet, intersect, print_ranges
from lorrainemail.imap.server import ImapServer
from lorrainemail.imap.view import View

#: First and last UIDs, ascending.
Ranges = Sequence[tuple[int, int]]

#: Messages looked at in one turn.
SLICE: Final = 1000


async def resynchronize(session: ImapServer, view: View, known: Resync) -> None:
    """What SELECT (QRESYNC ...) answers besides (RFC 7162 §3.2.5)."""
    ranges = known.known.resolved(0) if known.known is not None else [(1, view.mailbox.uid_next - 1)]
    gone = await vanished(session, view, known.modseq, ranges, _agreed(view, known))
    if gone:
        session.send(b"* VANISHED (EARLIER) %b\r\n" % print_ranges(gone))
    for index in await changed(session, view, range(len(view.uids)), known.modseq):
        uid = view.uids[index]
        flags = view.mailbox.flags(uid)
        if flags is not None and (known.known is None or intersect([uid], ranges)):
            session.send(view.line(index, view.flag_items(uid, flags, True)))
        await session.flush()


def _agreed(view: View, known: Resync) -> int:
    """The UID up to which the client's numbers are ours: nothing below it is gone (RFC 7162 §3.2.5.2)."""
    if known.numbers is None or known.uids is None:
        return 0
    agreed = 0
    numbers = (number for first, last in known.numbers.resolved(0) for number in range(first, last + 1))
    uids = (uid for first, last in known.uids.resolved(0) for uid in range(first, last + 1))
    for number, uid in zip(numbers, uids, strict=False):
        if number > len(view.uids) or view.uids[number - 1] != uid:
            break
        agreed = uid
    return agreed


async def vanished(
    session: ImapServer, view: View, since: int, ranges: Ranges, above: int = 0
) -> list[tuple[int, int]]:
    """UIDs in those ranges that went after a MODSEQ; where nobody remembers, all that are not there."""
    gone = await view.mailbox.expunged_since(since)
    found: list[tuple[int, int]] = []
    if gone is not None:
        for uid in intersect(gone, ranges):
            if found and found[-1][1] == uid - 1:
                found[-1] = (found[-1][0], uid)
            elif uid > above:
                found.append((uid, uid))
        return found
    previous = above
    for count, uid in enumerate(view.uids, 1):
        if uid > previous + 1:
            found += _between(previous + 1, uid - 1, ranges)
        previous = max(uid, previous)
        if count % (SLICE * 8) == 0:
            await session.breathe()
    return found + _between(previous + 1, view.mailbox.uid_next - 1, ranges)


def _between(first: int, last: int, ranges: Ranges) -> list[tuple[int, int]]:
    """The parts of the ranges that lie there."""
    return [(max(low, first), min(high, last)) for low, high in ranges if low <= last and high >= first]


async def changed(session: ImapServer, view: View, indexes: Sequence[int], since: int) -> list[int]:
    """Those of the messages whose MODSEQ is higher (RFC 7162 §3.1.4.1)."""
    found: list[int] = []
    mailbox = view.mailbox
    for start in range(0, len(indexes), SLICE * 4):
        for index in indexes[start : start + SLICE * 4]:
            uid = view.uids[index]
            if mailbox.flags(uid) is not None and mailbox.modseq(uid) > since:
                found.append(index)
        if start + SLICE * 4 < len(indexes):
            await session.breathe()
    return found


def uid_ranges(view: View, messages: SequenceSet) -> list[tuple[int, int]]:
    """A set of UIDs as ranges, messages that are gone among them."""
    if messages.saved:
        return [(uid, uid) for uid in view.saved]
    return messages.resolved(view.mailbox.uid_next - 1)
