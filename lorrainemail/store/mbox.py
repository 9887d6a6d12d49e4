"""Delivery into an mbox file: an append under all locks, taken out again where it was not finished.

A message is a From_ line, its octets with LF and mboxrd quoting (``>*From `` gets one more ``>``), an empty
line. A message whose line ends LF cannot express is kept with CRLF, one whose last line has no end gets one;
both are told in :data:`MARK`, a field above it that readers hide, so that it is returned byte for byte.

A message for a mailbox gets some room in its header (an empty X-Keywords, as Dovecot does it), so that its
flags can be written later without moving what follows. How a crash in the middle of an append is mended:
:mod:`lorrainemail.store.mboxjournal`.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from lorrainemail.interfaces import FileWrite, IContent, IPlacement, Placed
from lorrainemail.ops.files import Files
from lorrainemail.store import mboxjournal
from lorrainemail.store.failures import from_os
from lorrainemail.store.locks import FileLocks
from lorrainemail.store.mboxjournal import Pieces
from lorrainemail.store.mboxstamp import Stamp, sign, stamp_of
from lorrainemail.store.placement import count

if TYPE_CHECKING:
    from lorrainemail.store.home import LiveHome

#: Says how the message below differs from its octets: "crlf", "open-end".
MARK: Final = b"X-Lorrainemail-Mbox"
#: Octets of a line that are held until its end is known; the rest of a longer one needs no quoting.
MAX_HELD: Final = 1 << 20
#: Octets of room for flags; the first message of a file needs some for UIDs too.
ROOM: Final = 112

_RETURN_PATH: Final = re.compile(rb"Return-Path:[ \t]*<([^>\r\n]*)>", re.IGNORECASE)
_FROM: Final = re.compile(rb"^(>*From )", re.MULTILINE)


def from_line(prefix: bytes, now: float) -> bytes:
    """The From_ line, its sender from the Return-Path above the message."""
    match = _RETURN_PATH.match(prefix)
    sender = match.group(1) if match is not None else b""
    if not sender or b" " in sender or not sender.isascii():
        sender = b"MAILER-DAEMON"
    return b"From %b %b\n" % (sender, time.asctime(time.gmtime(now)).encode("ascii"))


def quoted(parts: Sequence[bytes | IContent], raw: bool) -> Iterator[bytes]:
    """The message's octets as they stand in the file, its last line ended."""
    held = b""
    line_begins = True
    last = b""
    for part in parts:
        whole = part if isinstance(part, bytes) else part.in_memory()
        for chunk in (whole,) if whole is not None else part.chunks():  # type: ignore[union-attr]
            data = held + chunk
            end = data.rfind(b"\n") + 1
            if not end and len(data) < MAX_HELD:
                held = data
                continue
            if not end:
                end = len(data) - 1  # a CR may stand last
            data, held = data[:end], data[end:]
            out = _quote(data if raw else data.replace(b"\r\n", b"\n"), line_begins)
            line_begins = data.endswith(b"\n")
            last = out[-1:] or last
            yield out
    if held:
        out = _quote(held if raw else held.replace(b"\r\n", b"\n"), line_begins)
        last = out[-1:]
        yield out
    if last != b"\n":
        yield b"\n"


def _quote(data: bytes, line_begins: bool) -> bytes:
    if b"From " not in data:
        return data
    if line_begins:
        return _FROM.sub(rb">\1", data)
    first, newline, rest = data.partition(b"\n")
    return first + newline + _FROM.sub(rb">\1", rest)


def as_stored(parts: Sequence[bytes | IContent], room: int = 0) -> Iterator[bytes]:
    """The whole message as it stands in the file, without From_ line and empty line.

    :param room: octets left for flags.
    """
    marks = []
    raw = count(parts).raw
    if raw:
        marks.append(b"crlf")
    if not _ends_with_newline(parts):
        marks.append(b"open-end")
    if marks:
        yield MARK + b": " + b" ".join(marks) + (b"\r\n" if raw else b"\n")
    if room:
        yield b"X-Keywords:" + b" " * room + (b"\r\n" if raw else b"\n")
    yield from quoted(parts, raw)


def _ends_with_newline(parts: Sequence[bytes | IContent]) -> bool:
    last = b""
    for part in parts:
        whole = part if isinstance(part, bytes) else part.in_memory()
        for chunk in (whole,) if whole is not None else part.chunks():  # type: ignore[union-attr]
            last = chunk[-1:] or last
    return last == b"\n"


@attrs.frozen(slots=True)
class Appended:
    """Where a message begins, and the file's stamp before it came and after."""

    start: int
    before: Stamp
    after: Stamp


def append(files: Files, path: str, descriptor: int, line: bytes, pieces: Pieces) -> Appended:
    """Append one message, durably. In a thread, with all locks held.

    On failure the file is as it was.

    :param pieces: the message as it is stored, each time it is called.
    """
    mboxjournal.settle(files, path, descriptor)
    before = stamp_of(descriptor)
    start = before[1]
    end = os.pread(descriptor, 2, max(start - 2, 0))
    if start and not end.endswith(b"\n"):
        line = b"\n\n" + line
    elif start and end != b"\n\n":
        line = b"\n" + line
    mboxjournal.append(files, path, descriptor, line, lambda: itertools.chain(pieces(), (b"\n",)))
    sign(descriptor)
    return Appended(start + len(line) - len(line.lstrip(b"\n")), before, stamp_of(descriptor))


@implementer(IPlacement)
class MboxPlacement:
    """One message into the INBOX of an account that is kept as mbox."""

    __slots__ = ("_content", "_home", "_locks", "_prefix", "_staged")

    def __init__(self, home: LiveHome, locks: FileLocks, prefix: bytes, content: IContent) -> None:
        self._home = home
        self._locks = locks
        self._prefix = prefix
        self._content = content
        self._staged: FileWrite | None = None

    def stage(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stage())

    async def _stage(self) -> None:
        """The message in its final form, in a file of its own."""
        home = self._home
        await home.make_mbox()
        path = f"{home.tree.home}/mbox.{home.tree.names.stem()}"
        write = FileWrite(path, path, (_AsStored((self._prefix, self._content)),))
        (error,) = await home.committer.stage([write])
        if error is not None:
            raise from_os(error, "stage")
        self._staged = write

    def publish(self) -> Deferred[Placed]:
        return Deferred.fromCoroutine(self._publish())

    async def _publish(self) -> Placed:
        assert self._staged is not None, "published before it was staged"
        staged, self._staged = self._staged, None
        try:
            return await self._append(lambda: _pieces(staged.temporary))
        finally:
            await self._home.committer.discard([staged])

    def commit(self) -> Deferred[Placed]:
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> Placed:
        await self._home.make_mbox()
        return await self._append(lambda: as_stored((self._prefix, self._content), ROOM))

    async def _append(self, pieces: Pieces) -> Placed:
        home = self._home
        tree = home.tree
        path = tree.mbox
        line = from_line(self._prefix, tree.now())

        def work(descriptor: int) -> int:
            done = append(tree.files, path, descriptor, line, pieces)
            tree.appended(done.before, done.after)
            return done.start

        start = await self._locks.holding(path, work)
        home.mbox_delivered(len(self._prefix) + self._content.size)
        return Placed(home.key, "INBOX", f"{path}:{start}")

    def abort(self) -> Deferred[None]:
        staged, self._staged = self._staged, None
        return succeed(None) if staged is None else self._home.committer.discard([staged])


def _pieces(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(1 << 16):
            yield chunk


@implementer(IContent)
class _AsStored:
    """A message as it stands in the file, for the committer to write."""

    __slots__ = ("_parts", "eight_bit", "size")

    def __init__(self, parts: tuple[bytes | IContent, ...]) -> None:
        self._parts = parts
        self.size = sum(len(part) if isinstance(part, bytes) else part.size for part in parts)
        self.eight_bit = True

    def head(self, limit: int) -> bytes:
        return next(self.chunks())[:limit]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        return as_stored(self._parts, ROOM)

    def in_memory(self) -> bytes | None:
        return None

    def close(self) -> None:
        """The parts have their own owner."""
