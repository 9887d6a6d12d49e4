"""Changes of an mbox file that a crash cannot leave half done: the redo journal, and the notes of appends.

The file is never replaced by another, so that no append of another program goes to a file that is no more.
Callers hold all locks; both journals lie beside the file and are looked at before anything else is done with
it (:func:`settle`).

**Rewriting.** ``<file>.rewrite`` gets, synced, headers that are overwritten by as many octets, each with what
was there, and everything that is to follow from some offset on; then the file is cut there and written. After
a crash it is done again. What other programs appended between the crash and that moment, to the whole file or
to the half-written one, is found and kept behind what the journal holds; where another program rewrote the
file in the meantime, the journal's messages are put behind what it left: rather one twice than none.

**Appends.** ``<file>.append`` says, synced, where a message begins, its length and its digest; after the file
is synced the note goes, and that is synced before anybody is told. After a crash the message is kept where it
is whole, else it is taken out again, and what another program appended behind it stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import attrs
from twisted.logger import Logger

from lorrainemail.ops.files import Files

#: Octets copied at once.
WINDOW: Final = 1 << 20
#: Octets before the cut by which the file is known again.
_BEFORE: Final = 256
_TRAILER: Final = 512
_RECORD: Final = struct.Struct(">QI")
_MAX_FROM_LINE: Final = 600
#: Where another program's message begins: its From_ line may stand behind half a line of ours.
_FROM_LINE: Final = re.compile(rb"(?<!>)From [^\n]{0,400}?[0-9]:[0-9][0-9][^\n]{0,100}\n")
_REPLACE: Final = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW

_log = Logger("lorrainemail.store")

Pieces = Callable[[], Iterator[bytes]]


@attrs.frozen(slots=True)
class Patch:
    """Octets that take the place of as many."""

    offset: int
    old: bytes
    new: bytes


def settle(files: Files, path: str, descriptor: int) -> None:
    """Finish or undo what a crash interrupted. With all locks held."""
    _finish(files, path, descriptor, fresh=False)
    _look_at_note(files, path, descriptor)


# -- rewriting -----------------------------------------------------------------------------------


def rewrite(
    files: Files,
    path: str,
    descriptor: int,
    patches: Sequence[Patch],
    start: int,
    pieces: Iterator[bytes],
) -> None:
    """Overwrite some octets before ``start`` and replace everything from there on. Durable when it returns.

    :param pieces: what is to follow; read while the file is still as it was.
    :raises OSError: and the file is as it was, or the journal is there for the next :func:`settle`.
    """
    _write(files, path, descriptor, patches, start, pieces)
    _finish(files, path, descriptor, fresh=True)


def _write(
    files: Files,
    path: str,
    descriptor: int,
    patches: Sequence[Patch],
    start: int,
    pieces: Iterator[bytes],
) -> None:
    journal = path + ".rewrite"
    was = os.fstat(descriptor).st_size
    digest = hashlib.blake2b(digest_size=20)
    patched = length = 0
    output = files.open(journal + ".new", _REPLACE)
    try:
        try:
            for patch in patches:
                record = _RECORD.pack(patch.offset, len(patch.old)) + patch.old + patch.new
                digest.update(record)
                patched += len(record)
                files.write(output, (record,))
            for piece in pieces:
                digest.update(piece)
                length += len(piece)
                files.write(output, (piece,))
            facts = {
                "patches": patched,
                "start": start,
                "length": length,
                "was": was,
                "old": _digest(descriptor, start, was),
                "before": hashlib.blake2b(_before(descriptor, start, patches), digest_size=8).hexdigest(),
                "digest": digest.hexdigest(),
            }
            files.write(output, (json.dumps(facts).encode("ascii").rjust(_TRAILER),))
            files.fsync(output)
        finally:
            files.close(output)
        files.rename(journal + ".new", journal)
    except BaseException:
        try:
            files.unlink(journal + ".new")
        except OSError:
            pass  # not there, or the disk is beyond us; the first error says why
        raise
    files.fsync_directory(os.path.dirname(path))


def _finish(files: Files, path: str, descriptor: int, fresh: bool) -> None:
    """Put the journal's octets into the file, whether it was just written or found after a crash."""
    name = path + ".rewrite"
    if not fresh and not os.path.exists(name):
        return
    with open(name, "rb") as journal:
        facts = _facts(journal, check=not fresh)
        if facts is None:
            _log.error("{path} is not whole and is set aside; the mail was not touched", path=name)
            files.rename(name, name + ".bad")
            return
        for patch in _patches(journal, facts["patches"]):
            _apply(files, descriptor, patch, path)
        start, length = facts["start"], facts["length"]
        if not fresh:
            again = _what_others_did(path, descriptor, journal, facts)
            if again is not None:
                files.fsync(descriptor)  # the patches
                where, pieces = again
                _write(files, path, descriptor, (), where, pieces)
                _finish(files, path, descriptor, fresh=True)
                return
        if length or os.fstat(descriptor).st_size > start:
            files.truncate(descriptor, start)
            files.fsync(descriptor)
            os.lseek(descriptor, start, os.SEEK_SET)
            for chunk in _read(journal.fileno(), facts["patches"], facts["patches"] + length):
                files.write(descriptor, (chunk,))
    files.fsync(descriptor)
    files.unlink(name)
    files.fsync_directory(os.path.dirname(path))


def _facts(journal: Any, check: bool) -> dict[str, Any] | None:
    """The journal's trailer, None where the journal is not whole."""
    size = os.fstat(journal.fileno()).st_size
    try:
        facts: dict[str, Any] = json.loads(os.pread(journal.fileno(), _TRAILER, max(size - _TRAILER, 0)))
        whole = facts["patches"] + facts["length"]
        if whole + _TRAILER != size:
            return None
        if check and _digest(journal.fileno(), 0, whole) != facts["digest"]:
            return None
    except (ValueError, KeyError, TypeError):
        return None
    return facts


def _patches(journal: Any, end: int) -> Iterator[Patch]:
    at = 0
    while at < end:
        offset, length = _RECORD.unpack(os.pread(journal.fileno(), _RECORD.size, at))
        octets = os.pread(journal.fileno(), 2 * length, at + _RECORD.size)
        yield Patch(offset, octets[:length], octets[length:])
        at += _RECORD.size + 2 * length


def _apply(files: Files, descriptor: int, patch: Patch, path: str) -> None:
    """One patch, where every octet is the old one or (after a crash) the new one."""
    there = os.pread(descriptor, len(patch.old), patch.offset)
    if there == patch.new:
        return
    if there != patch.old and (
        len(there) != len(patch.old)
        or any(a not in (b, c) for a, b, c in zip(there, patch.old, patch.new, strict=True))
    ):
        _log.warn("{path}: another program changed {offset} meanwhile", path=path, offset=patch.offset)
        return
    os.lseek(descriptor, patch.offset, os.SEEK_SET)
    files.write(descriptor, (patch.new,))


def _what_others_did(
    path: str, descriptor: int, journal: Any, facts: dict[str, Any]
) -> tuple[int, Iterator[bytes]] | None:
    """Found after a crash: where the file is to be rewritten from, and with what, so that nothing is lost
    that other programs wrote since; None where nobody wrote."""
    start, was, patched, length = facts["start"], facts["was"], facts["patches"], facts["length"]
    size = os.fstat(descriptor).st_size
    untouched = size >= was and _digest(descriptor, start, was) == facts["old"]
    known = hashlib.blake2b(_before(descriptor, start, ()), digest_size=8).hexdigest() == facts["before"]
    mine = (patched, patched + length)
    if size < start or not known:
        _log.warn("{path}: another program rewrote it after a crash of ours", path=path)
        if untouched:
            return size, iter(())
        gap = os.pread(descriptor, 2, max(size - 2, 0))
        between = b"" if not size or gap == b"\n\n" else b"\n" if gap.endswith(b"\n") else b"\n\n"
        return size, _chain(between, journal.fileno(), mine, -1, (0, 0))
    foreign = was if untouched else _foreign(descriptor, start, size, journal.fileno(), mine)
    if foreign >= size:
        return None
    _log.warn("{path}: another program appended to it after a crash of ours", path=path)
    return start, _chain(b"", journal.fileno(), mine, descriptor, (foreign, size))


def _chain(
    between: bytes, journal: int, mine: tuple[int, int], descriptor: int, theirs: tuple[int, int]
) -> Iterator[bytes]:
    if between:
        yield between
    yield from _read(journal, *mine)
    yield from _read(descriptor, *theirs)


def _foreign(descriptor: int, start: int, size: int, journal: int, mine: tuple[int, int]) -> int:
    """Where what another program appended begins, behind what we had written when we ended; ``size`` for
    nowhere."""
    at = start
    for chunk in _read(journal, *mine):
        there = os.pread(descriptor, len(chunk), at)
        if there != chunk:
            at += _common(there, chunk)
            break
        at += len(chunk)
    if at >= size:
        return size
    if _FROM_LINE.match(os.pread(descriptor, _MAX_FROM_LINE, at)):
        return at
    # Their From_ line may begin as ours does.
    base = max(start, at - _MAX_FROM_LINE)
    for match in _FROM_LINE.finditer(os.pread(descriptor, 3 * _MAX_FROM_LINE, base)):
        if base + match.start() <= at < base + match.end():
            return base + match.start()
    return first_from(descriptor, at, size)


def _common(one: bytes, other: bytes) -> int:
    """With how many equal octets they begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def first_from(descriptor: int, start: int, size: int) -> int:
    """Where the next From_ line begins, ``size`` where there is none."""
    for begin in range(start, size, WINDOW):
        base = max(begin - 1, start)
        data = os.pread(descriptor, WINDOW + _MAX_FROM_LINE, base)
        match = _FROM_LINE.search(data)
        if match is not None:
            return base + match.start()
    return size


def _before(descriptor: int, start: int, patches: Sequence[Patch]) -> bytes:
    """The octets before the cut, as they are with the patches."""
    begin = max(start - _BEFORE, 0)
    octets = bytearray(os.pread(descriptor, start - begin, begin))
    for patch in patches:
        for index, octet in enumerate(patch.new):
            if 0 <= patch.offset + index - begin < len(octets):
                octets[patch.offset + index - begin] = octet
    return bytes(octets)


def _digest(descriptor: int, start: int, end: int) -> str:
    state = hashlib.blake2b(digest_size=20)
    for chunk in _read(descriptor, start, end):
        state.update(chunk)
    return state.hexdigest()


def _read(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (chunk := os.pread(descriptor, min(WINDOW, end - start), start)):
        yield chunk
        start += len(chunk)


# -- appends -------------------------------------------------------------------------------------


def append(files: Files, path: str, descriptor: int, line: bytes, pieces: Pieces) -> None:
    """Put a message at the end of the file, durably; on failure the file is as it was.

    :param line: its From_ line, and before it what ends the message before. ``pieces``: the rest, twice.
    """
    start = os.fstat(descriptor).st_size
    note = path + ".append"
    state = hashlib.blake2b(line, digest_size=20)
    length = len(line)
    for piece in pieces():
        state.update(piece)
        length += len(piece)
    _note(
        files,
        note,
        {"start": start, "line": line.decode("ascii"), "length": length, "digest": state.hexdigest()},
    )
    try:
        os.lseek(descriptor, start, os.SEEK_SET)
        files.write(descriptor, (line,))
        for piece in pieces():
            files.write(descriptor, (piece,))
        files.fsync(descriptor)
    except BaseException:
        files.truncate(descriptor, start)
        files.fsync(descriptor)
        _forget(files, note)
        raise
    _forget(files, note)


def _look_at_note(files: Files, path: str, descriptor: int) -> None:
    """Keep or take out what an interrupted append left."""
    note = path + ".append"
    try:
        with open(note, "rb") as file:
            facts = json.loads(file.read(4096))
        start, line = int(facts["start"]), str(facts["line"]).encode("ascii")
        length, digest = int(facts["length"]), str(facts["digest"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        # The note itself was not finished, so nothing was appended yet.
        _forget(files, note)
        return
    size = os.fstat(descriptor).st_size
    there = os.pread(descriptor, len(line), start)
    ours = bool(there) and (there == line or line.startswith(there) or not there.strip(b"\0"))
    if not ours and there:
        begin = _common(there, line)
        # Half a From_ line of ours, and another program's message behind it.
        ours = begin > 0 and _FROM_LINE.match(os.pread(descriptor, _MAX_FROM_LINE, start + begin)) is not None
    if ours and not (size >= start + length and _digest(descriptor, start, start + length) == digest):
        foreign = first_from(descriptor, start + (len(line) if there == line else 1), size)
        _log.warn("{path}: an append was interrupted; taken out at {start}", path=path, start=start)
        if foreign < size:
            rewrite(files, path, descriptor, (), start, _read(descriptor, foreign, size))
        else:
            files.truncate(descriptor, start)
            files.fsync(descriptor)
    _forget(files, note)


def _note(files: Files, note: str, facts: dict[str, Any]) -> None:
    descriptor = files.open(note)
    try:
        try:
            files.write(descriptor, (json.dumps(facts).encode("ascii"),))
            files.fsync(descriptor)
        finally:
            files.close(descriptor)
        files.fsync_directory(os.path.dirname(note))
    except OSError:
        _forget(files, note)
        raise


def _forget(files: Files, note: str) -> None:
    files.unlink(note)
    files.fsync_directory(os.path.dirname(note))
