"""Flags written into an mbox, and messages taken out of it.

Works as :mod:`lorrainemail.store.mboxsync`, with the file in step. A header that has room for its new fields
is overwritten in place; from the first message on that has none, or is taken out, everything that follows is
written anew, and then headers get room. X-UID comes with the flags and X-IMAPbase with the first message, as
Dovecot and UW write them, so that UIDs survive the loss of the index.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator

from lorrainemail.store import mboxjournal
from lorrainemail.store.flags import Keywords
from lorrainemail.store.index import Folder
from lorrainemail.store.mboxfile import (
    WINDOW,
    Numbers,
    Segment,
    first_numbers,
    folder_of,
    numbers,
    take_apart,
    with_flags,
)
from lorrainemail.store.mboxjournal import Patch
from lorrainemail.store.mboxoffsets import Offsets
from lorrainemail.store.mboxsync import written
from lorrainemail.store.tree import Tree


def rewrite(tree: Tree, descriptor: int, removed: Collection[int]) -> None:
    """Write flags into the file, or leave the messages with these UIDs out, and then write those flags that
    have their room. Durable when it returns."""
    box = tree.box
    assert box is not None
    folder = folder_of(tree)
    flags = {uid: bits for uid, bits in tree.index.unwritten(folder) if uid not in removed}
    out = {at for uid in removed if (at := box.at(uid)) >= 0}
    dirty = {at: bits for uid, bits in flags.items() if (at := box.at(uid)) >= 0}
    if not out and not dirty:
        return
    plan = _Plan(tree, descriptor, folder, box, out, dirty)
    plan.write()
    tree.index.written(folder, [(box.uids[at], bits) for at, bits in dirty.items()])


class _Plan:
    """One rewriting."""

    def __init__(
        self,
        tree: Tree,
        descriptor: int,
        folder: Folder,
        box: Offsets,
        out: Collection[int],
        dirty: dict[int, int],
    ) -> None:
        self._tree = tree
        self._descriptor = descriptor
        self._folder = folder
        self._box = box
        self._out = out
        self._dirty = dirty
        self._first = next((at for at in range(len(box)) if at not in out), -1)
        told = first_numbers(descriptor)
        pseudo = len(box) > 0 and box.starts[0] > 0
        mine = told is not None and told.validity == folder.uid_validity
        # Of UW's first message nothing is changed but the numbers, elsewhere.
        self._base: Numbers | None = None
        if not pseudo and (dirty or mine):
            self._base = Numbers(
                folder.uid_validity,
                max(folder.uid_reserved, folder.uid_next - 1),
                tuple(folder.keywords.names),
            )
        self._grown = Offsets()

    def write(self) -> None:
        """Do it."""
        tree, box, descriptor = self._tree, self._box, self._descriptor
        patches: list[Patch] = []
        touched: list[int] = []
        cut = min(self._out, default=len(box))
        wanted = sorted(at for at in self._dirty if at < cut)
        if self._base is not None and cut > 0 and 0 not in self._dirty:
            wanted.insert(0, 0)  # its numbers; they may wait where there is no room for them
        for at in wanted:
            head = self._head(at)
            new = self._header(at, take_apart(head), len(head))
            if new is None and at in self._dirty and not self._out:
                cut = at
                break
            if new is None:
                self._dirty.pop(at, None)  # not worth moving what need not move; another time
            if new is not None and new != head:
                patches.append(Patch(box.place(at).body, head, new))
                touched.append(at)
        end = box.size
        start = box.starts[cut] if cut < len(box) else end
        self._grown.take(box, 0, cut)
        mboxjournal.rewrite(tree.files, tree.mbox, descriptor, patches, start, self._pieces(cut, start))
        if (0 in touched or cut == 0) and self._base is not None:
            self._folder.mirrored = self._base.last + 1
            self._folder.dirty = True
        tree.box = self._grown
        tree.box.size = os.fstat(descriptor).st_size
        written(tree, descriptor, *touched)

    def _pieces(self, cut: int, start: int) -> Iterator[bytes]:
        """What follows the cut."""
        box, descriptor, grown = self._box, self._descriptor, self._grown
        roomy = any(at >= cut for at in self._dirty)
        for at in range(cut, len(box)):
            if at in self._out:
                continue
            place = box.place(at)
            head, total = box.heads[at], box.sums[at]
            line = os.pread(descriptor, place.body - place.start, place.start)
            yield line
            if roomy or (at == self._first and self._base is not None):
                old = self._head(at)
                segment = take_apart(old)
                new = None
                if at not in self._dirty and at != self._first and b"x-uid" in segment.own:
                    new = old  # it has had its room
                else:
                    new = self._header(at, segment, len(old)) or self._header(at, segment, -1)
                assert new is not None
                head, total = len(new), zlib.crc32(new, zlib.crc32(line))
                yield new
            else:
                yield os.pread(descriptor, head, place.body)
            grown.add(box.uids[at], start, len(line), head, total)
            length = place.end - place.body - box.heads[at]
            position = place.body + box.heads[at]
            start += len(line) + head + length
            while length and (chunk := os.pread(descriptor, min(length, WINDOW), position)):
                yield chunk
                position += len(chunk)
                length -= len(chunk)

    def _head(self, at: int) -> bytes:
        return os.pread(self._descriptor, self._box.heads[at], self._box.place(at).body)

    def _header(self, at: int, segment: Segment, exact: int) -> bytes | None:
        """A message's header with its flags, UID and, for the first one, the numbers."""
        uid = self._box.uids[at]
        bits = self._dirty.get(at)
        if bits is None:
            row = self._tree.index.row(self._folder, uid)
            bits = 0 if row is None else row.flags
        words = self._words(self._folder.keywords, bits)
        base = self._base if at == self._first else None
        if base is None and at == self._first:
            base = numbers(segment)
        return with_flags(segment, bits, words, uid, base, exact)

    @staticmethod
    def _words(keywords: Keywords, bits: int) -> list[str]:
        return [name for name in keywords.names_of(bits) if not name.startswith("\\")]
