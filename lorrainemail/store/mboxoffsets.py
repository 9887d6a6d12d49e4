"""Where the messages of an mbox begin, kept so that the file is not read again after every change.

24 octets a message: its UID, its beginning, the lengths of From_ line and header, and a checksum of both. A
copy lies in the index (:func:`save`), so a restart does not read the file either. Whether the file is still
the one that was looked at is told by its stamp (:mod:`lorrainemail.store.mboxstamp`); where it is not, and
the changes were not all our own appends, every header is looked at again (:meth:`Offsets.changed`), a few
microseconds for each: what was moved, cut, or got other flags is found, and only that is read anew. So
nothing is ever served from a wrong offset. What cannot be seen this way is another program's change inside a
text that keeps its length.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from bisect import bisect_left
from operator import lt
from typing import Final

import attrs

from lorrainemail.store.index import Folder
from lorrainemail.store.mboxfile import Found
from lorrainemail.store.mboxstamp import Stamp
from lorrainemail.store.tree import Tree

_COLUMNS: Final = (("uids", "I"), ("starts", "Q"), ("lines", "I"), ("heads", "I"), ("sums", "I"))


@attrs.frozen(slots=True)
class Place:
    """Where one message is: its From_ line, its octets, and where the next one begins."""

    start: int
    body: int
    end: int


@attrs.define(slots=True, eq=False)
class Offsets:
    """The messages of a file, in its order.

    :ivar stamp: of the file when it was looked at; None where it cannot be believed.
    :ivar lines: octets of the From_ lines. ``heads``: of the headers. ``sums``: checksums of both together.
    :ivar saved: whether the index has this.
    """

    size: int = 0
    stamp: Stamp | None = None
    uids: array[int] = attrs.Factory(lambda: array("I"))
    starts: array[int] = attrs.Factory(lambda: array("Q"))
    lines: array[int] = attrs.Factory(lambda: array("I"))
    heads: array[int] = attrs.Factory(lambda: array("I"))
    sums: array[int] = attrs.Factory(lambda: array("I"))
    saved: bool = False
    _by_uid: dict[int, int] | None = None
    _ascending: bool | None = None

    def __len__(self) -> int:
        return len(self.uids)

    def add(self, uid: int, start: int, line: int, head: int, total: int) -> None:
        """One more message, behind all others."""
        self.uids.append(uid)
        self.starts.append(start)
        self.lines.append(line)
        self.heads.append(head)
        self.sums.append(total)
        self.saved = False
        self._by_uid = self._ascending = None

    def found(self, uid: int, one: Found) -> None:
        """The same of a scanned one."""
        self.add(uid, one.start, one.body - one.start, one.head, one.sum)

    def take(self, other: Offsets, first: int, last: int) -> None:
        """Messages of another look at the same file, as they are."""
        for name, _ in _COLUMNS:
            getattr(self, name).extend(getattr(other, name)[first:last])
        self.saved = False
        self._by_uid = self._ascending = None

    def end(self, at: int) -> int:
        """Where the next message begins."""
        return self.starts[at + 1] if at + 1 < len(self.starts) else self.size

    def place(self, at: int) -> Place:
        """Where that message is."""
        start = self.starts[at]
        return Place(start, start + self.lines[at], self.end(at))

    def at(self, uid: int) -> int:
        """Which one has that UID, -1 for none."""
        if self._ascending is None:
            self._ascending = all(map(lt, self.uids, self.uids[1:]))
        if self._ascending:
            at = bisect_left(self.uids, uid)
            return at if at < len(self.uids) and self.uids[at] == uid else -1
        if self._by_uid is None:
            self._by_uid = {uid: at for at, uid in enumerate(self.uids)}
        return self._by_uid.get(uid, -1)

    def look_again(self, descriptor: int, at: int) -> None:
        """We changed that header, to as many octets."""
        octets = os.pread(descriptor, self.lines[at] + self.heads[at], self.starts[at])
        self.sums[at] = zlib.crc32(octets)

    def changed(self, descriptor: int) -> list[int]:
        """The messages whose From_ line or header is no longer what and where it was."""
        pread, crc32 = os.pread, zlib.crc32
        columns = enumerate(zip(self.starts, self.lines, self.heads, self.sums, strict=True))
        return [
            at
            for at, (start, line, head, total) in columns
            if crc32(pread(descriptor, line + head, start)) != total
        ]


def save(tree: Tree, folder: Folder) -> None:
    """Leave a copy in the index, where there is something new."""
    box = tree.box
    if box is None or box.saved:
        return
    facts = {"validity": folder.uid_validity, "size": box.size, "count": len(box), "stamp": box.stamp}
    packed = b"".join(getattr(box, name).tobytes() for name, _ in _COLUMNS)
    tree.index.keep_box(folder, json.dumps(facts).encode("ascii") + b"\n" + packed)
    box.saved = True


def load(tree: Tree, folder: Folder) -> Offsets | None:
    """The copy, None where there is none that can be used. Whether the file is as it says, its checksums
    tell."""
    head, _, packed = (tree.index.kept_box(folder) or b"").partition(b"\n")
    try:
        facts = json.loads(head)
        count, stamp = int(facts["count"]), facts["stamp"]
        if facts["validity"] != folder.uid_validity or len(packed) != count * 24:
            return None
        known = None if stamp is None else (int(stamp[0]), int(stamp[1]), int(stamp[2]), int(stamp[3]))
        box = Offsets(int(facts["size"]), known, saved=True)
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    at = 0
    for name, _ in _COLUMNS:
        column = getattr(box, name)
        reach = at + count * column.itemsize
        column.frombytes(packed[at:reach])
        at = reach
    return box
