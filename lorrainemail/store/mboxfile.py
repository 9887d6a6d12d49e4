"""A message as it stands in an mbox file: where it begins and ends, its own fields, its wire form.

Pure reading of a descriptor; no index, no locks (the callers hold them). Both kinds of quoting are read
(mboxrd, and mboxo, which cannot be told from it); Content-Length ends a message only where a From_ line or
the end of the file follows it, so that a wrong one does no harm. The file is read in windows, never mapped: a
program that cuts it without a lock must not end the server.

A message is known by a digest of its From_ line, its header without the fields that belong to the mailbox
(Status and its like), the length of its text and what stands at both ends of that, so it keeps its UID
wherever other programs move it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import zlib
from collections.abc import Collection, Iterator
from datetime import date
from typing import Final, Protocol

import attrs

from lorrainemail.store.flags import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN
from lorrainemail.store.index import MAX_UID, MBOX, Folder
from lorrainemail.store.mbox import MARK
from lorrainemail.store.reading import open_file
from lorrainemail.store.tree import Tree

#: Octets of the file read at once.
WINDOW: Final = 1 << 20
#: Octets of a header in which the mailbox's own fields are looked for.
MAX_HEADER: Final = 1 << 20
_HEAD: Final = MAX_HEADER + 2
#: Octets at both ends of a text by which, with its length and header, a message is known.
SAMPLE: Final = 1024
#: Octets left free in a header that we write, so that flags can change without moving what follows.
ROOM: Final = 64
#: UIDs that must be left above what another server promises, or its numbers are not taken over.
MIN_LEFT: Final = 1 << 20

# Other writers leave "From " in texts unquoted; one that begins a message has a time in it.
_FROM_LINE: Final = re.compile(rb"^From [^\n]{0,400}?[0-9]:[0-9][0-9][^\n]{0,100}\n", re.MULTILINE)
_MAX_FROM_LINE: Final = 600
_QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
_OWN: Final = re.compile(
    rb"^(Status|X-Status|X-Keywords|X-UID|X-IMAP|X-IMAPbase|Content-Length|" + MARK + rb")[ \t]*:[ \t]*"
    rb"([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)\r?\n",
    re.IGNORECASE | re.MULTILINE,
)
#: mutt's own, behind its Content-Length; elsewhere it is the author's.
_LINES: Final = re.compile(
    rb"^(Content-Length[ \t]*:[^\r\n]*\r?\n)Lines:[ \t]*[0-9]+\r?\n", re.IGNORECASE | re.MULTILINE
)
_BASE: Final = re.compile(rb"([0-9]{1,10})[ \t]+([0-9]{10})((?:[ \t]+\S+)*)\Z")
_STATUS: Final = {"R": SEEN}
_X_STATUS: Final = {"A": ANSWERED, "F": FLAGGED, "D": DELETED, "T": DRAFT}
#: The subject of the first message that UW's servers make for themselves.
_PSEUDO: Final = b"folder internal data"
_DATE: Final = re.compile(
    rb" ([A-Z][a-z][a-z]) +([0-9]{1,2}) ([0-9]{1,2}):([0-9][0-9])(?::([0-9][0-9]))? "
    rb"(?:[A-Z]{1,5} )?([0-9]{4})\b"
)
_MONTHS: Final = b"janfebmaraprmayjunjulaugsepoctnovdec"
_EPOCH: Final = date(1970, 1, 1).toordinal()
_NO_OWN: Final[dict[bytes, bytes]] = {}


class Placed(Protocol):
    """Where a message is: its From_ line, its octets, and where the next one begins."""

    @property
    def start(self) -> int: ...
    @property
    def body(self) -> int: ...
    @property
    def end(self) -> int: ...


@attrs.frozen(slots=True)
class Entry:
    """One message of a file that was read through."""

    start: int
    body: int
    end: int
    bits: int
    words: tuple[str, ...]


@attrs.frozen(slots=True)
class Found:
    """One message, as a scan sees it.

    :ivar head: octets of its header, without the empty line; ``sum``: of From_ line and header.
    :ivar base: its digest. ``uid``: of X-UID, 0 where there is none. ``size``: in wire form. ``line``: its
        From_ line.
    """

    start: int
    body: int
    end: int
    head: int
    sum: int
    base: str
    bits: int
    words: tuple[str, ...]
    uid: int
    size: int
    line: bytes


@attrs.frozen(slots=True)
class Box:
    """A whole file; ``stamp`` tells whether it is still the same."""

    stamp: tuple[int, int, int]
    entries: dict[str, Entry]


@attrs.frozen(slots=True)
class Segment:
    """A message's octets taken apart: the mailbox's own fields, and the rest as it is stored."""

    own: dict[bytes, bytes]
    header: bytes
    rest: bytes


@attrs.frozen(slots=True)
class Numbers:
    """What X-IMAPbase (or UW's X-IMAP) says: UIDVALIDITY, the highest UID given, keywords."""

    validity: int
    last: int
    words: tuple[str, ...]


def take_apart(data: bytes, cut: int = -1) -> Segment:
    """Take a stored message apart; ``data`` without From_ line and without the empty line after it.

    :param cut: :func:`header_length`, where that is known.
    """
    header = data[: min(header_length(data) if cut < 0 else cut, MAX_HEADER)]
    lowered = header.lower()
    if not (  # one after the other: this is asked of every message
        b"status" in lowered
        or b"x-keywords" in lowered
        or b"x-uid" in lowered
        or b"x-imap" in lowered
        or b"content-length" in lowered
        or b"x-lorrainemail-mbox" in lowered
    ):
        return Segment(_NO_OWN, header, data[len(header) :])
    own: dict[bytes, bytes] = {}
    if b"content-length" in lowered:
        header = _LINES.sub(rb"\1", header)

    def note(match: re.Match[bytes]) -> bytes:
        own.setdefault(match.group(1).lower(), match.group(2).strip())
        return b""

    rest = data[len(lowered) :]
    return Segment(own, _OWN.sub(note, header), rest)


def header_length(data: bytes) -> int:
    """Octets of a message's header, without the empty line."""
    if data[:1] == b"\n" or data[:2] == b"\r\n":
        return 0
    plain = data.find(b"\n\n")
    end = data.find(b"\n\r\n", 0, len(data) if plain < 0 else plain + 2)
    if end < 0:
        end = plain
    return len(data) if end < 0 else end + 1


def wire_form(segment: Segment) -> bytes:
    """The message as it was accepted."""
    marks = segment.own.get(MARK.lower(), b"").split()
    data = segment.header + segment.rest
    if b">From " in data and not _unquoted(segment):
        data = _QUOTED.sub(rb"\1", data)
    if b"crlf" not in marks:
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        data = data.replace(b"\n", b"\r\n")
        if b"open-end" in marks:
            data = data[:-2]
    elif b"open-end" in marks:
        data = data[:-1]
    return data


def _wire_size(segment: Segment, quoted: bool) -> int:
    """Octets of :func:`wire_form`."""
    if quoted:
        return len(wire_form(segment))
    marks = segment.own.get(MARK.lower(), b"").split()
    size = len(segment.header) + len(segment.rest)
    if b"crlf" in marks:
        return size - (b"open-end" in marks)
    for part in (segment.header, segment.rest):
        size += part.count(b"\n")
        if b"\r" in part:
            size -= part.count(b"\r\n")
    if segment.header.endswith(b"\r") and segment.rest.startswith(b"\n"):
        size -= 1
    return size - 2 * (b"open-end" in marks)


def _unquoted(segment: Segment) -> bool:
    """Whether From_ lines stand in the text, made safe by a true Content-Length: the way of mboxcl2, where
    what looks like quoting is the author's."""
    length = segment.own.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 12:
        return False
    text = segment.rest[2 if segment.rest.startswith(b"\r\n") else 1 :]
    return len(text) - 1 <= int(length) <= len(text) and _FROM_LINE.search(text) is not None


def wire_pieces(descriptor: int, entry: Placed) -> Iterator[bytes]:
    """The wire form of a message that is too large to be held."""
    stop = _stop(descriptor, entry.body, entry.end)
    at = entry.body
    segment = take_apart(os.pread(descriptor, min(stop - at, _HEAD), at))
    at += min(stop - at, _HEAD)
    marks = segment.own.get(MARK.lower(), b"").split()
    held = segment.header + segment.rest
    line_begins = True
    while True:
        last = at >= stop
        cut = len(held) if last else held.rfind(b"\n") + 1 or len(held) - 1
        piece, held = held[:cut], held[cut:]
        ended = piece.endswith(b"\n")
        if b">From " in piece:
            if line_begins:
                piece = _QUOTED.sub(rb"\1", piece)
            else:
                first, newline, rest = piece.partition(b"\n")
                piece = first + newline + _QUOTED.sub(rb"\1", rest)
        line_begins = ended
        if b"crlf" not in marks:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if last:
            if b"open-end" in marks:
                piece = piece[: -1 if b"crlf" in marks else -2]
            yield piece
            return
        yield piece
        more = os.pread(descriptor, min(WINDOW, stop - at), at)
        if not more:  # cut under us by a program that does not lock
            stop = at
        held += more
        at += len(more)


def file_flags(segment: Segment) -> tuple[int, tuple[str, ...]]:
    """System flags and keywords as the file tells them."""
    if not segment.own:
        return 0, ()
    bits = 0
    for letter in segment.own.get(b"status", b"").decode("ascii", "replace"):
        bits |= _STATUS.get(letter, 0)
    for letter in segment.own.get(b"x-status", b"").decode("ascii", "replace"):
        bits |= _X_STATUS.get(letter, 0)
    return bits, tuple(segment.own.get(b"x-keywords", b"").decode("ascii", "replace").split())


def with_flags(
    segment: Segment,
    bits: int,
    words: Collection[str],
    uid: int = 0,
    base: Numbers | None = None,
    exact: int = -1,
) -> bytes | None:
    """The header as it is stored with other flags, as UW and Dovecot write them.

    :param uid: its X-UID; 0 leaves what is there.
    :param base: for X-IMAPbase; None leaves it out.
    :param exact: so many octets it has to have; None is the answer where it would have more. Otherwise some
        room is left.
    """
    end = b"\r\n" if b"crlf" in segment.own.get(MARK.lower(), b"") else b"\n"
    lines = []
    mark = segment.own.get(MARK.lower())
    if mark is not None:
        lines.append(MARK + b": " + mark)
    if base is not None:
        told = "".join(f" {word}" for word in base.words)
        lines.append(f"X-IMAPbase: {base.validity} {base.last:010d}{told}".encode("ascii", "replace"))
    lines.append(b"Status: " + (b"RO" if bits & SEEN else b"O"))
    status = len(lines) - 1
    letters = "".join(letter for letter, bit in _X_STATUS.items() if bits & bit)
    if letters:
        lines.append(b"X-Status: " + letters.encode("ascii"))
    number = b"%d" % uid if uid else segment.own.get(b"x-uid")
    if number is not None:
        lines.append(b"X-UID: " + number)
    length = segment.own.get(b"content-length")
    if length is not None:  # not a word of it changes: what was true stays true
        lines.append(b"Content-Length: " + length)
    if words:
        lines.append(b"X-Keywords: " + " ".join(sorted(words)).encode("ascii", "replace"))
    size = sum(map(len, lines)) + len(lines) * len(end) + len(segment.header)
    room = ROOM if exact < 0 else exact - size
    if room < 0:
        return None
    if words:
        lines[-1] += b" " * room
    elif room >= len(b"X-Keywords:" + end):
        lines.append(b"X-Keywords:" + b" " * (room - len(b"X-Keywords:" + end)))
    else:
        lines[status] += b" " * room
    return b"".join(line + end for line in lines) + segment.header


def numbers(segment: Segment) -> Numbers | None:
    """What the first message says of UIDs; None where it says nothing that can be relied on."""
    told = segment.own.get(b"x-imapbase") or segment.own.get(b"x-imap")
    match = None if told is None else _BASE.match(told)
    if match is None:
        return None
    validity, last = int(match.group(1)), int(match.group(2))
    if not 0 < validity <= MAX_UID or last > MAX_UID - MIN_LEFT:
        return None
    return Numbers(validity, last, tuple(match.group(3).decode("ascii", "replace").split()))


def first_numbers(descriptor: int) -> Numbers | None:
    """The same of a file."""
    head = os.pread(descriptor, 1 << 16, 0)
    return numbers(take_apart(head[head.find(b"\n") + 1 :])) if head.startswith(b"From ") else None


def scan(descriptor: int, start: int, size: int) -> Iterator[Found]:
    """The messages of a part of the file, which begins where one begins and ends where one ends."""
    quoted: list[int] = []
    lines = itertools.chain(_from_lines(descriptor, size, start, quoted), [(size, size)])
    here = next(lines)
    while here[0] < size:
        begin, body = here
        here = next(lines)
        data = os.pread(descriptor, min(here[0] - body, _HEAD), body)
        head = header_length(data)
        segment = take_apart(data, head)
        true_end = _true_end(descriptor, segment, body + head, size)
        if true_end > here[0]:  # From_ lines in its text, which its length covers
            while here[0] < true_end:
                here = next(lines)
            data = os.pread(descriptor, min(here[0] - body, _HEAD), body)
            segment = take_apart(data, head)
        if begin == 0 and b"x-imap" in segment.own and _PSEUDO in segment.header.lower():
            continue  # the pseudo message of UW's servers
        suspect = False
        while quoted and quoted[0] < here[0]:
            suspect = True
            quoted.pop(0)
        yield _found(descriptor, begin, body, here[0], data, head, segment, suspect)


def _found(
    descriptor: int, begin: int, body: int, end: int, data: bytes, head: int, segment: Segment, quoted: bool
) -> Found:
    line = os.pread(descriptor, body - begin, begin)
    head = min(head, MAX_HEADER)
    if body + len(data) == end:
        if data.endswith(b"\n\n"):
            segment = Segment(segment.own, segment.header, segment.rest[:-1])
        length = len(segment.rest)
        last = segment.rest[-SAMPLE:]
        size = _wire_size(segment, quoted)
    else:
        stop = _stop(descriptor, body, end)
        length = stop - body - head
        last = os.pread(descriptor, min(SAMPLE, length), stop - min(SAMPLE, length))
        size = sum(map(len, wire_pieces(descriptor, Entry(begin, body, end, 0, ()))))
    known = b"".join((line, segment.header, b"%d\n" % length, segment.rest[:SAMPLE], last))
    state = hashlib.blake2b(known, digest_size=12)
    bits, words = file_flags(segment)
    uid = segment.own.get(b"x-uid", b"")
    number = int(uid) if uid.isdigit() and len(uid) <= 10 else 0
    total = zlib.crc32(data[:head], zlib.crc32(line))
    return Found(begin, body, end, head, total, state.hexdigest(), bits, words, number, size, line)


def _true_end(descriptor: int, segment: Segment, head_end: int, size: int) -> int:
    """Where the message ends by its Content-Length, -1 where that is not so."""
    length = segment.own.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 12:
        return -1
    begin = head_end + (2 if os.pread(descriptor, 2, head_end) == b"\r\n" else 1)
    end = begin + int(length)
    if end > size:
        return -1
    after = os.pread(descriptor, _MAX_FROM_LINE, end)
    stripped = after.lstrip(b"\n")
    skipped = len(after) - len(stripped)
    if skipped > 2 or (stripped and not _FROM_LINE.match(stripped)):
        return -1
    before = os.pread(descriptor, 1, end - 1) if not skipped else b"\n"
    return end + skipped if before == b"\n" else -1


def _stop(descriptor: int, body: int, end: int) -> int:
    """Where a message's octets end: the empty line after it is not its own."""
    return end - 1 if end - body >= 2 and os.pread(descriptor, 2, end - 2) == b"\n\n" else end


def parse(descriptor: int) -> Box:
    """Read the whole file; equal messages are told apart by plus signs."""
    facts = os.fstat(descriptor)
    entries: dict[str, Entry] = {}
    for one in scan(descriptor, 0, facts.st_size):
        base = one.base
        while base in entries:
            base += "+"
        entries[base] = Entry(one.start, one.body, one.end, one.bits, one.words)
    return Box((facts.st_ino, facts.st_size, facts.st_mtime_ns), entries)


def _from_lines(
    descriptor: int, size: int, begin: int = 0, quoted: list[int] | None = None
) -> Iterator[tuple[int, int]]:
    """Where From_ lines begin and end.

    :param quoted: is told where lines may be quoted, before the From_ line behind them is.
    """
    for start in range(begin, size, WINDOW):
        base = max(start - 1, begin)  # the line end before the window
        data = os.pread(descriptor, min(start + WINDOW + _MAX_FROM_LINE, size) - base, base)
        at = data.find(b"From ")
        while at >= 0:
            before = data[at - 1 : at]
            if base + at == begin or before == b"\n":
                match = _FROM_LINE.match(data, at)
                if match is not None and start <= base + at < start + WINDOW:
                    yield base + at, base + match.end()
            elif before == b">" and quoted is not None and base + at < start + WINDOW:
                quoted.append(base + at)
            at = data.find(b"From ", at + 1)


def segment_of(descriptor: int, entry: Placed) -> Segment:
    """One message's octets."""
    data = os.pread(descriptor, entry.end - entry.body, entry.body)
    if len(data) >= 2 and data.endswith(b"\n\n"):
        data = data[:-1]
    return take_apart(data)


def date_of(line: bytes, default: int) -> int:
    """The date of a From_ line, which is taken for UTC."""
    match = _DATE.search(line)
    if match is None:
        return default
    month, day, hour, minute, second, year = match.groups()
    try:
        days = date(int(year), _MONTHS.index(month.lower()) // 3 + 1, int(day)).toordinal() - _EPOCH
    except ValueError:
        return default
    return max(days * 86400 + int(hour) * 3600 + int(minute) * 60 + int(second or 0), 0)


def folder_of(tree: Tree) -> Folder:
    """The row of the mbox; at first sight with the UIDs that another server left in the file."""
    known = tree.index.folders().get(MBOX)
    if known is not None:
        return known
    told = None
    try:
        descriptor = open_file(tree.mbox)
    except OSError:
        pass  # none yet, or none that can be read: whoever opens it to read hears of that
    else:
        try:
            told = first_numbers(descriptor)
        finally:
            os.close(descriptor)
    if told is None:
        return tree.index.add_folder(MBOX, tree.now())
    folder = tree.index.add_folder(MBOX, tree.now(), told.validity, told.last + 1)
    folder.mirrored = told.last + 1
    # HIGHESTMODSEQ never falls, and how far a lost index had come is not known.
    folder.modseq = folder.modseq_reserved = tree.now() * 1000
    folder.dirty = True
    return folder
