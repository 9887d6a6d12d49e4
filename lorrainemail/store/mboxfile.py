"""An mbox file as its readers see it: where messages are, their flags, their UIDs, and rewriting in place.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs, with all locks of the file held
(:mod:`lorrainemail.store.locks`). A message is known by a digest of its octets without the fields that belong
to the mailbox (Status and its like), so it keeps its UID in the index wherever other programs move it. Flags
live in the index at once and in the file from the next rewrite on; what another program changed in the file
since we last saw it wins.

The file is never replaced by another: it is rewritten in place, from the first change on, and before that the
new octets are made durable in ``<file>.rewrite``; a crash in the middle is finished from there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import time
from collections.abc import Collection, Generator, Iterator
from typing import Final

import attrs
from twisted.logger import Logger

from lorrainemail.errors import MailError
from lorrainemail.message.summary import summarize
from lorrainemail.store.failures import gone
from lorrainemail.store.flags import ANSWERED, DELETED, DRAFT, FIRST_KEYWORD_BIT, FLAGGED, SEEN
from lorrainemail.store.index import MBOX, Folder, Row
from lorrainemail.store.mbox import MARK, recover
from lorrainemail.store.sync import forget
from lorrainemail.store.tree import Change, Tree, wire_row

#: ``place`` of a message in an mbox.
PLACE: Final = 2
#: Messages indexed in one slice.
SLICE: Final = 100
#: Octets of the file read at once to find the messages.
WINDOW: Final = 1 << 20
#: Octets of a header in which the mailbox's own fields are looked for.
MAX_HEADER: Final = 1 << 20

# Other writers leave "From " in texts unquoted; one that ends a message has a time in it.
_FROM_LINE: Final = re.compile(rb"^From [^\n]{0,400}?[0-9]:[0-9][0-9][^\n]{0,100}\n", re.MULTILINE)
_MAX_FROM_LINE: Final = 600
_QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
_OWN: Final = re.compile(
    rb"^(Status|X-Status|X-Keywords|X-UID|X-IMAP|X-IMAPbase|Content-Length|" + MARK + rb")[ \t]*:[ \t]*"
    rb"([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)\r?\n",
    re.IGNORECASE | re.MULTILINE,
)
_STATUS: Final = {"R": SEEN}
_X_STATUS: Final = {"A": ANSWERED, "F": FLAGGED, "D": DELETED, "T": DRAFT}

_log = Logger("lorrainemail.store")


@attrs.frozen(slots=True)
class Entry:
    """Where one message is: its From_ line, its octets, and where the next one begins."""

    start: int
    body: int
    end: int
    bits: int
    words: tuple[str, ...]


@attrs.frozen(slots=True)
class Box:
    """The file as it was parsed; ``stamp`` tells whether it is still the same."""

    stamp: tuple[int, int, int]
    entries: dict[str, Entry]


@attrs.frozen(slots=True)
class Segment:
    """A message's octets taken apart: the mailbox's own fields, and the rest as it is stored."""

    own: dict[bytes, bytes]
    header: bytes
    rest: bytes


def take_apart(data: bytes) -> Segment:
    """Take a stored message apart; ``data`` without From_ line and without the empty line after it."""
    ends = [at + length for mark, length in ((b"\n\n", 1), (b"\n\r\n", 1)) if (at := data.find(mark)) >= 0]
    cut = min(ends, default=len(data))
    if data[:1] == b"\n" or data[:2] == b"\r\n":
        cut = 0
    header = data[: min(cut, MAX_HEADER)]
    own: dict[bytes, bytes] = {}

    def note(match: re.Match[bytes]) -> bytes:
        own.setdefault(match.group(1).lower(), match.group(2).strip())
        return b""

    return Segment(own, _OWN.sub(note, header), data[len(header) :])


def wire_form(segment: Segment) -> bytes:
    """The message as it was accepted."""
    marks = segment.own.get(MARK.lower(), b"").split()
    data = segment.header + segment.rest
    if b">From " in data:
        data = _QUOTED.sub(rb"\1", data)
    if b"crlf" not in marks:
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if b"open-end" in marks:
            data = data[:-2]
    elif b"open-end" in marks:
        data = data[:-1]
    return data


def file_flags(segment: Segment) -> tuple[int, tuple[str, ...]]:
    """System flags and keywords as the file tells them."""
    bits = 0
    for letter in segment.own.get(b"status", b"").decode("ascii", "replace"):
        bits |= _STATUS.get(letter, 0)
    for letter in segment.own.get(b"x-status", b"").decode("ascii", "replace"):
        bits |= _X_STATUS.get(letter, 0)
    return bits, tuple(segment.own.get(b"x-keywords", b"").decode("ascii", "replace").split())


def with_flags(segment: Segment, bits: int, words: Collection[str]) -> bytes:
    """The message as it is stored with other flags."""
    end = b"\r\n" if b"crlf" in segment.own.get(MARK.lower(), b"") else b"\n"
    lines = []
    mark = segment.own.get(MARK.lower())
    if mark is not None:
        lines.append(MARK + b": " + mark)
    lines.append(b"Status: " + (b"RO" if bits & SEEN else b"O"))
    letters = "".join(letter for letter, bit in _X_STATUS.items() if bits & bit)
    if letters:
        lines.append(b"X-Status: " + letters.encode("ascii"))
    if words:
        lines.append(b"X-Keywords: " + " ".join(sorted(words)).encode("ascii", "replace"))
    for name in (b"X-IMAPbase", b"X-UID"):
        value = segment.own.get(name.lower())
        if value is not None:
            lines.append(name + b": " + value)
    own = b"".join(line + end for line in lines)
    return own + segment.header + segment.rest


def parse(descriptor: int) -> Box:
    """Read the whole file."""
    facts = os.fstat(descriptor)
    stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    entries: dict[str, Entry] = {}
    lines = [*_from_lines(descriptor, facts.st_size), (facts.st_size, facts.st_size)]
    for (start, body), (end, _) in itertools.pairwise(lines):
        stop = end - 1 if end - body >= 2 and os.pread(descriptor, 2, end - 2) == b"\n\n" else end
        # The header is whole in this, or as much of it as is looked at.
        head = os.pread(descriptor, min(stop - body, MAX_HEADER + 2), body)
        segment = take_apart(head)
        if b"x-imap" in segment.own:
            continue  # the pseudo message of other IMAP servers
        state = hashlib.blake2b(os.pread(descriptor, body - start, start), digest_size=12)
        state.update(segment.header)
        state.update(segment.rest)
        at = body + len(head)
        while at < stop and (chunk := os.pread(descriptor, min(WINDOW, stop - at), at)):
            state.update(chunk)
            at += len(chunk)
        base = state.hexdigest()
        while base in entries:
            base += "+"
        bits, words = file_flags(segment)
        entries[base] = Entry(start, body, end, bits, words)
    return Box(stamp, entries)


def _from_lines(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where From_ lines begin and end. Read, not mapped: a program that cuts the file without a lock must not
    end the server."""
    for start in range(0, size, WINDOW):
        base = max(start - 1, 0)  # the line end before the window
        data = os.pread(descriptor, start + WINDOW + _MAX_FROM_LINE - base, base)
        for match in _FROM_LINE.finditer(data):
            at = base + match.start()
            if start <= at < start + WINDOW:
                yield at, base + match.end()


def segment_of(descriptor: int, entry: Entry) -> Segment:
    """One message's octets."""
    data = os.pread(descriptor, entry.end - entry.body, entry.body)
    if len(data) >= 2 and data.endswith(b"\n\n"):
        data = data[:-1]
    return take_apart(data)


def folder_of(tree: Tree) -> Folder:
    """The row of the mbox."""
    return tree.index.folders().get(MBOX) or tree.index.add_folder(MBOX, tree.now())


def sync(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    """Bring the index up to date with the file."""
    finish_rewrite(tree, descriptor)
    recover(tree.files, tree.mbox, descriptor)
    facts = os.fstat(descriptor)
    if tree.box is not None and tree.box.stamp == (facts.st_ino, facts.st_size, facts.st_mtime_ns):
        return
    box = parse(descriptor)
    tree.box = box
    folder = folder_of(tree)
    names = _matched(tree, folder, box)
    missing = sorted(uid for base, (uid, _, _) in names.items() if base not in box.entries)
    forget(tree, folder, missing)
    changed: list[tuple[int, int, int, str]] = []
    for base, entry in box.entries.items():
        if base in names:
            bits = _bits(tree, folder, entry)
            uid, _, info = names[base]
            if info != str(bits):
                changed.append((uid, bits, PLACE, str(bits)))
    if changed:
        changed.sort()
        modseq = tree.index.next_modseq(folder)
        tree.index.change(folder, changed, modseq)
        uids, flags = tuple(c[0] for c in changed), tuple(c[1] for c in changed)
        tree.note(Change(folder.id, "flags", uids, modseq, flags))
    new = [base for base in box.entries if base not in names]
    for start in range(0, len(new), SLICE):
        _index(tree, descriptor, box, new[start : start + SLICE])
        if start + SLICE < len(new):
            yield


def _matched(tree: Tree, folder: Folder, box: Box) -> dict[str, tuple[int, int, str]]:
    """The index's names, equal messages matched with those of the file in order."""
    names = tree.index.names(folder)
    equal: dict[str, list[tuple[int, str]]] = {}
    for base, (uid, _, _) in names.items():
        equal.setdefault(base.rstrip("+"), []).append((uid, base))
    for rows in equal.values():
        rows.sort(reverse=True)
    renames: list[tuple[int, str, str]] = []
    for base in box.entries:
        rows = equal.get(base.rstrip("+"), [])
        if rows:
            uid, old = rows.pop()
            if old != base:
                renames.append((uid, old, base))
    if not renames:
        return names
    moved = {base: names.pop(old) for _, old, base in renames}
    for uid, old, _ in renames:
        tree.index.rename_base(folder, uid, f"{old}~{uid}")
    for uid, _, base in renames:
        if base in names:  # a row without a message in the file: it goes in a moment
            names[f"{base}~"] = names.pop(base)
            tree.index.rename_base(folder, names[f"{base}~"][0], f"{base}~")
        tree.index.rename_base(folder, uid, base)
    names.update(moved)
    return names


def _bits(tree: Tree, folder: Folder, entry: Entry) -> int:
    """The flags of an entry, its keywords made known."""
    bits = entry.bits
    before = len(folder.keywords.names)
    for word in entry.words:
        try:
            bits |= 1 << (FIRST_KEYWORD_BIT + folder.keywords.add(word))
        except MailError:
            continue  # no keyword in our sense
    if len(folder.keywords.names) != before:
        folder.dirty = True
        tree.index.sync_at_commit()
        tree.note(Change(folder.id, "keywords", words=tuple(folder.keywords.names)))
    return bits


def _index(tree: Tree, descriptor: int, box: Box, bases: list[str]) -> None:
    """Give UIDs to messages, in the order of the file."""
    folder = folder_of(tree)
    first = tree.index.allocate(folder, len(bases))
    modseq = tree.index.next_modseq(folder)
    rows, wires = [], []
    now = tree.now()
    for uid, base in enumerate(bases, first):
        entry = box.entries[base]
        data = wire_form(segment_of(descriptor, entry))
        line = os.pread(descriptor, entry.body - entry.start, entry.start)
        bits = _bits(tree, folder, entry)
        # The second of two equal messages is told from the first, for POP3's sake.
        name_id = base if not base.endswith("+") else f"{base.rstrip('+')}-{uid}"
        rows.append(Row(uid, base, PLACE, str(bits), modseq, bits, len(data), _date(line, now), now, name_id))
        wires.append(wire_row(folder.key(uid), summarize(data)))
        tree.count(len(data), 1)
    tree.add(folder, rows)
    tree.index.add_wire(wires)


def _date(line: bytes, default: int) -> int:
    """The date of a From_ line, which is taken for UTC."""
    try:
        parsed = time.strptime(line.decode("ascii").rstrip("\n")[-24:], "%a %b %d %H:%M:%S %Y")
    except ValueError:
        return default
    return max(int(time.mktime(parsed) - time.timezone), 0)


def read(tree: Tree, number: int, uid: int, descriptor: int) -> bytes:
    """One message in wire form; the file is in step with the index.

    :raises PermanentError: where it is gone.
    """
    row = tree.index.row(tree.known(number), uid)
    entry = None if row is None or tree.box is None else tree.box.entries.get(row.base)
    if entry is None:
        raise gone()
    return wire_form(segment_of(descriptor, entry))


def rewrite(tree: Tree, descriptor: int, removed: Collection[str]) -> None:
    """Write flags into the file and leave the removed messages out. The file is in step with the index."""
    assert tree.box is not None
    folder = folder_of(tree)
    start = -1
    changed: list[tuple[int, int]] = []
    entries = tree.box.entries
    rows = {row.base: row for row in tree.index.rows(folder)}
    for base, entry in entries.items():
        row = rows.get(base)
        if base in removed or (row is not None and row.info != str(row.flags)):
            start = entry.start if start < 0 else start
            if row is not None and base not in removed:
                changed.append((row.uid, row.flags))
    if start < 0:
        return

    def pieces() -> Iterator[bytes]:
        for base, entry in entries.items():
            if entry.start < start or base in removed:
                continue
            row = rows.get(base)
            if row is None or row.info == str(row.flags):
                yield os.pread(descriptor, entry.end - entry.start, entry.start)
                continue
            yield os.pread(descriptor, entry.body - entry.start, entry.start)
            words = [n for n in folder.keywords.names_of(row.flags) if not n.startswith("\\")]
            yield with_flags(segment_of(descriptor, entry), row.flags, words)
            yield b"\n"

    _journal(tree, start, pieces())
    finish_rewrite(tree, descriptor)
    for uid, bits in changed:
        tree.index.move_file(folder, uid, PLACE, str(bits))
    tree.box = parse(descriptor)


def _journal(tree: Tree, start: int, pieces: Iterator[bytes]) -> None:
    """Make the new octets durable beside the file."""
    path = f"{tree.mbox}.rewrite"
    temporary = f"{path}.{tree.names.stem()}"
    digest = hashlib.blake2b(digest_size=20)
    length = 0
    output = tree.files.open(temporary)
    try:
        try:
            for piece in pieces:
                digest.update(piece)
                length += len(piece)
                tree.files.write(output, (piece,))
            facts = json.dumps({"start": start, "length": length, "digest": digest.hexdigest()})
            tree.files.write(output, (facts.encode("ascii").rjust(256),))
            tree.files.fsync(output)
        finally:
            tree.files.close(output)
        tree.files.rename(temporary, path)
        tree.files.fsync_directory(tree.home)
    except BaseException:
        for name in (temporary, path):
            try:
                tree.files.unlink(name)
            except OSError:
                pass  # not there, or the disk is beyond us; the first error says why
        raise


def finish_rewrite(tree: Tree, descriptor: int) -> None:
    """Put the journal's octets into the file, whether it was just written or found after a crash."""
    path = f"{tree.mbox}.rewrite"
    if not os.path.exists(path):
        return
    with open(path, "rb") as journal:
        size = os.fstat(journal.fileno()).st_size
        try:
            facts = json.loads(os.pread(journal.fileno(), 256, max(size - 256, 0)))
            start, length, wanted = int(facts["start"]), int(facts["length"]), str(facts["digest"])
        except (ValueError, KeyError, TypeError):
            start, length, wanted = -1, -1, ""
        digest = hashlib.blake2b(digest_size=20)
        left = length
        while left > 0 and (chunk := journal.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        if start < 0 or length != size - 256 or digest.hexdigest() != wanted:
            _log.error("{path} is not whole and is set aside; the mail was not touched", path=path)
            tree.files.rename(path, path + ".bad")
            return
        journal.seek(0)
        os.lseek(descriptor, start, os.SEEK_SET)
        left = length
        while left > 0 and (chunk := journal.read(min(left, 1 << 20))):
            tree.files.write(descriptor, (chunk,))
            left -= len(chunk)
    tree.files.truncate(descriptor, start + length)
    tree.files.fsync(descriptor)
    tree.files.unlink(path)
    tree.files.fsync_directory(tree.home)
    tree.box = None
