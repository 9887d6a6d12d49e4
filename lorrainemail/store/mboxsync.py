"""The index and the mbox file brought in step, and messages read by UID.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs, with all locks of the file held
(:mod:`lorrainemail.store.locks`). The file is read only where it changed: nothing where its stamp is the
same, its end where the changes were our own appends, otherwise what :meth:`Offsets.changed` finds. Messages
are matched with the index by their digests; those that are new get UIDs, in the order of the file, or keep
those that another server of this file gave them (X-UID, where X-IMAPbase vouches for it). Flags that another
program changed in the file since we last saw it win over the index's.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from lorrainemail.errors import MailError
from lorrainemail.message.summary import summarize
from lorrainemail.store import mboxjournal
from lorrainemail.store.failures import gone
from lorrainemail.store.flags import FIRST_KEYWORD_BIT
from lorrainemail.store.index import Folder, Row
from lorrainemail.store.mboxfile import (
    Found,
    Numbers,
    date_of,
    first_numbers,
    folder_of,
    scan,
    segment_of,
    wire_form,
    wire_pieces,
)
from lorrainemail.store.mboxoffsets import Offsets, Place, load, save
from lorrainemail.store.mboxstamp import Stamp, believed, sign, stamp_of
from lorrainemail.store.reading import SMALL, LargeFile
from lorrainemail.store.sync import forget
from lorrainemail.store.tree import Change, Tree, wire_row

#: ``place`` of a message in an mbox.
PLACE: Final = 2
#: Messages taken in by one slice, and such of which ENVELOPE and the like are wanted.
SLICE: Final = 1000
SUMMARISED: Final = 100
#: New messages up to which they are summarised at once; of more it is done when they are asked for.
EAGER: Final = 50
#: New messages from which on the offsets are kept in the index at once.
WORTH_KEEPING: Final = 500

_LAST: Final = re.compile(rb"^X-IMAP(?:base)?:[ \t]*[0-9]+[ \t]+([0-9]{10})\b", re.IGNORECASE | re.MULTILINE)
_FIRST_HEADER: Final = 1 << 16

#: Rows of the index whose messages are looked for, by digest: (uid, info), the lowest UID last.
Pool = dict[str, list[tuple[int, str]]]


def sync(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    """Bring the index up to date with the file."""
    try:
        yield from _sync(tree, descriptor)
    except BaseException:  # also where the batch is lost between two slices
        tree.box = None
        raise


def _sync(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    mboxjournal.settle(tree.files, tree.mbox, descriptor)
    stamp = stamp_of(descriptor)
    trusted = stamp if believed(stamp) else None
    folder = folder_of(tree)
    old = tree.box if tree.box is not None else load(tree, folder)
    if old is not None:
        tree.box = old
        if old.stamp == stamp:
            return
        ours = old.stamp is not None and _led_by_appends(tree, old.stamp, stamp)
        if ours:
            trusted = stamp
    tree.own_appends.clear()
    size = stamp[1]
    box = Offsets(size, trusted)
    if old is None:
        pool = _pool((base, uid, info) for base, (uid, _, info) in tree.index.names(folder).items())
        runs: list[tuple[int, int]] = []
        old = Offsets(0)
        tail = 0
    else:
        bad = [] if ours else old.changed(descriptor)
        if not ours and size != old.size and len(old) and (not bad or bad[-1] != len(old) - 1):
            bad.append(len(old) - 1)  # something may have been put behind its text
        runs = _runs(bad)
        dropped = [old.uids[at] for first, last in runs for at in range(first, last)]
        facts = tree.index.facts(folder, dropped)
        pool = _pool((row[1], uid, row[3]) for uid in dropped if (row := facts.get(uid)) is not None)
        tail = old.size if not runs or runs[-1][1] != len(old) else -1
    told = first_numbers(descriptor)
    if told is not None and told.validity != folder.uid_validity:
        told = None
    new = 0
    at = 0
    for first, last in runs:
        box.take(old, at, first)
        begin = old.starts[first] if first else 0
        end = old.starts[last] if last < len(old) else size
        new += yield from _take_in(tree, descriptor, scan(descriptor, begin, end), box, pool, told)
        at = last
    box.take(old, at, len(old))
    if tail >= 0:
        new += yield from _take_in(tree, descriptor, scan(descriptor, tail, size), box, pool, told)
    folder = folder_of(tree)
    forget(tree, folder, sorted(uid for rows in pool.values() for uid, _ in rows))
    tree.box = box
    if new:
        _promise(tree, descriptor, folder, told)
    if new >= WORTH_KEEPING:
        save(tree, folder)


def _led_by_appends(tree: Tree, stamp: Stamp | None, wanted: Stamp) -> bool:
    """Whether appends of ours led from one stamp to the other."""
    while stamp is not None and stamp != wanted:
        stamp = tree.own_appends.pop(stamp, None)
    return stamp is not None


def _runs(bad: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours among them, as [first, behind the last)."""
    runs: list[tuple[int, int]] = []
    for at in bad:
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    return runs


def _pool(rows: Iterable[tuple[str, int, str]]) -> Pool:
    pool: Pool = {}
    for base, uid, info in rows:
        pool.setdefault(base.rstrip("+"), []).append((uid, info))
    for equal in pool.values():
        equal.sort(reverse=True)
    return pool


def _take_in(
    tree: Tree, descriptor: int, found: Iterator[Found], box: Offsets, pool: Pool, told: Numbers | None
) -> Generator[None, None, int]:
    """Match messages with the index, in slices; answers how many are new."""
    count = 0
    while part := list(islice(found, SLICE)):
        folder = folder_of(tree)
        uids: list[int] = []
        new: list[Found] = []
        changed: list[tuple[int, int, int, str]] = []
        for one in part:
            rows = pool.get(one.base)
            if not rows:
                new.append(one)
                uids.append(0)
                continue
            uid, info = rows.pop()
            uids.append(uid)
            bits = _bits(tree, folder, one)
            if info != str(bits):
                changed.append((uid, bits, PLACE, str(bits)))
        if changed:
            changed.sort()
            modseq = tree.index.next_modseq(folder)
            tree.index.change(folder, changed, modseq)
            note = Change(
                folder.id, "flags", tuple(c[0] for c in changed), modseq, tuple(c[1] for c in changed)
            )
            tree.note(note)
        given = iter(_index(tree, descriptor, folder, new, told) if new else ())
        for one, uid in zip(part, uids, strict=True):
            box.found(uid or next(given), one)
        count += len(new)
        if len(part) == SLICE:
            yield
    return count


def _bits(tree: Tree, folder: Folder, one: Found) -> int:
    """The flags of a message, its keywords made known."""
    bits = one.bits
    before = len(folder.keywords.names)
    for word in one.words:
        try:
            bits |= 1 << (FIRST_KEYWORD_BIT + folder.keywords.add(word))
        except MailError:
            continue  # no keyword in our sense
    if len(folder.keywords.names) != before:
        folder.dirty = True
        tree.index.sync_at_commit()
        tree.note(Change(folder.id, "keywords", words=tuple(folder.keywords.names)))
    return bits


def _index(
    tree: Tree, descriptor: int, folder: Folder, new: Sequence[Found], told: Numbers | None
) -> list[int]:
    """Give UIDs to messages, in the order of the file."""
    uids = _uids(tree, folder, new, told)
    modseq = tree.index.next_modseq(folder)
    rows, wires = [], []
    now = tree.now()
    bases = tree.index.known(folder, [one.base for one in new])
    for uid, one in zip(uids, new, strict=True):
        bits = _bits(tree, folder, one)
        base = name_id = one.base
        if base in bases:
            # The second of two equal messages is told from the first, for POP3's sake.
            name_id = f"{base}-{uid}"
            while base in bases:
                base += "+"
                if base not in bases and tree.index.has(folder, base):
                    bases.add(base)
        bases.add(base)
        rows.append(
            Row(uid, base, PLACE, str(bits), modseq, bits, one.size, date_of(one.line, now), now, name_id)
        )
        if len(new) <= EAGER and one.size <= SMALL:
            wires.append(wire_row(folder.key(uid), summarize(wire_form(segment_of(descriptor, one)))))
        tree.count(one.size, 1)
    rows.sort(key=lambda row: row.uid)
    tree.add(folder, rows)
    tree.index.add_wire(wires)
    return uids


def _uids(tree: Tree, folder: Folder, new: Sequence[Found], told: Numbers | None) -> list[int]:
    """Those that another server gave, as far as they can be believed, and new ones above all others."""
    theirs: dict[int, int] = {}
    if told is not None:
        last = 0
        for at, one in enumerate(new):
            if last < one.uid <= told.last and _free(tree, folder, one.uid):
                theirs[at] = last = one.uid
        tree.index.advance(folder, told.last + 1)
        folder.mirrored = max(folder.mirrored, told.last + 1)
        folder.dirty = True
    first = tree.index.allocate(folder, len(new) - len(theirs)) if len(new) > len(theirs) else 0
    uids = []
    for at in range(len(new)):
        if at in theirs:
            uids.append(theirs[at])
        else:
            uids.append(first)
            first += 1
    return uids


def _free(tree: Tree, folder: Folder, uid: int) -> bool:
    return tree.index.row(folder, uid) is None and not tree.index.was_expunged(folder, uid)


def _promise(tree: Tree, descriptor: int, folder: Folder, told: Numbers | None) -> None:
    """Where the file says which UIDs were given, keep that true before a client sees another one: a server
    that finds nothing but the file would give it again."""
    assert tree.box is not None
    if told is None or folder.uid_next <= told.last + 1:
        return
    head = os.pread(descriptor, _FIRST_HEADER, 0)
    match = _LAST.search(head)
    if match is None:
        return
    patch = mboxjournal.Patch(match.start(1), match.group(1), b"%010d" % folder.uid_reserved)
    size = os.fstat(descriptor).st_size
    mboxjournal.rewrite(tree.files, tree.mbox, descriptor, (patch,), size, iter(()))
    folder.mirrored = folder.uid_reserved + 1
    folder.dirty = True
    written(tree, descriptor, 0)


def written(tree: Tree, descriptor: int, *touched: int) -> None:
    """We changed headers of these messages, the file being in step; its offsets are right."""
    box = tree.box
    assert box is not None
    for at in touched:
        if at < len(box):
            box.look_again(descriptor, at)
    sign(descriptor)
    box.stamp = stamp_of(descriptor)
    box.size = box.stamp[1]
    box.saved = False


def complete(tree: Tree, descriptor: int, number: int, uids: Sequence[int]) -> Generator[None, None, None]:
    """Find out ENVELOPE and the like of messages; the file is in step with the index."""
    for start in range(0, len(uids), SUMMARISED):
        folder = tree.known(number)
        wires = []
        for uid in uids[start : start + SUMMARISED]:
            place = place_of(tree, uid)
            if place is None:
                continue
            if place.end - place.body <= SMALL:
                data = wire_form(segment_of(descriptor, place))
            else:
                data = b"".join(wire_pieces(descriptor, place))
            wires.append(wire_row(folder.key(uid), summarize(data)))
        tree.index.add_wire(wires)
        if start + SUMMARISED < len(uids):
            yield


def place_of(tree: Tree, uid: int) -> Place | None:
    """Where a message is, the file being in step."""
    at = -1 if tree.box is None else tree.box.at(uid)
    return None if tree.box is None or at < 0 else tree.box.place(at)


def read(tree: Tree, number: int, uid: int, descriptor: int) -> bytes | LargeFile:
    """One message: a large one as a copy of its own, which stays what it is whatever becomes of the mbox.

    :raises PermanentError: where it is gone.
    """
    place = place_of(tree, uid)
    if place is None or tree.index.row(tree.known(number), uid) is None:
        raise gone()
    if place.end - place.body <= SMALL:
        return wire_form(segment_of(descriptor, place))
    with tempfile.TemporaryFile(dir=tree.home, buffering=0) as file:
        for piece in wire_pieces(descriptor, place):
            tree.files.write(file.fileno(), (piece,))
        return LargeFile(os.dup(file.fileno()), True)
