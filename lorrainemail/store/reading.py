"""Stored messages in wire form: LF files as CRLF, by ranges, without loading large ones.

A Maildir file holds LF (or CRLF throughout, when its name is marked or another program wrote it so). Small
messages are converted whole; for large ones a table of checkpoints says where each stretch of the file begins
in the wire form, so that any range is read from the nearest one. Blocking: called in the threads of the
store, but for what is small and in the page cache.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from lorrainemail.interfaces import IMessage

#: Messages up to this many octets are read and kept whole while they are open.
SMALL: Final = 256 * 1024
#: Messages up to this many octets are read at once where nothing has to be waited for (Linux alone can tell).
AT_HAND: Final = 64 * 1024
_NOWAIT: Final = getattr(os, "RWF_NOWAIT", 0)
#: Octets of the file between checkpoints.
STRETCH: Final = 64 * 1024


def to_wire(data: bytes) -> bytes:
    """CRLF for every LF that has none."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    return data.replace(b"\n", b"\r\n")


def open_file(path: str) -> int:
    """A descriptor of a message's file; never through a link."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


class NotAMessage(OSError):
    """There is something else than a plain file."""


def read_whole(path: str, raw: bool) -> bytes:
    """A message in wire form. ``raw``: the file is in wire form itself."""
    return read_dated(path, raw)[0]


def read_dated(path: str, raw: bool) -> tuple[bytes, int]:
    """The same, and when the file was last modified.

    :raises NotAMessage: where it is no plain file.
    """
    descriptor = open_file(path)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise NotAMessage(path)
        size = facts.st_size
        data = os.read(descriptor, size + 1)
        if len(data) != size:
            parts = [data]
            while part := os.read(descriptor, 1 << 20):
                parts.append(part)
            data = b"".join(parts)
    finally:
        os.close(descriptor)
    return data if raw else to_wire(data), int(facts.st_mtime)


def read_at_hand(path: str, raw: bool) -> bytes | None:
    """A small message in wire form, where the system has its octets in memory; None where reading it would
    wait for a disk, or for whatever other reason has to be left to somebody who may wait."""
    try:
        descriptor = open_file(path)
    except OSError:
        return None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > AT_HAND:
            return None
        data = bytearray(facts.st_size + 1)
        if os.preadv(descriptor, [data], 0, _NOWAIT) != facts.st_size:
            return None
    except OSError:
        return None
    finally:
        os.close(descriptor)
    del data[-1]
    return bytes(data) if raw else to_wire(bytes(data))


@implementer(IMessage)
class SmallMessage:
    """A message that is held whole."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int = 0, length: int | None = None) -> Deferred[bytes]:
        if offset == 0 and (length is None or length >= self.size):
            return succeed(self._data)
        return succeed(self._data[offset : None if length is None else offset + length])

    def close(self) -> None:
        self._data = b""


class LargeFile:
    """A large message's file with its checkpoints. Blocking; one thread at a time.

    It is read, never mapped: a program that cuts the file must not end the server.
    """

    def __init__(self, descriptor: int, raw: bool) -> None:
        self._descriptor = descriptor
        self._raw = raw
        length = os.fstat(descriptor).st_size
        #: Where each stretch begins in the wire form; one more entry for the end.
        self._starts = [0]
        if raw:
            self.size = length
            return
        total = 0
        before = b""
        for start in range(0, length, STRETCH):
            stretch = os.pread(descriptor, STRETCH, start)
            lone = stretch.count(b"\n") - stretch.count(b"\r\n")
            if before == b"\r" and stretch[:1] == b"\n":
                lone -= 1
            before = stretch[-1:]
            total += len(stretch) + lone
            self._starts.append(total)
        self.size = total

    def read(self, offset: int, length: int) -> bytes:
        """A range of the wire form."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if self._raw:
            return os.pread(self._descriptor, length, offset)
        first = _last_at_or_before(self._starts, offset)
        last = _last_at_or_before(self._starts, offset + length - 1)
        start = first * STRETCH
        data = os.pread(self._descriptor, (last - first + 1) * STRETCH, start)
        if first and data[:1] == b"\n" and os.pread(self._descriptor, 1, start - 1) == b"\r":
            wire = b"\n" + self._wire(data[1:])
        else:
            wire = self._wire(data)
        skip = offset - self._starts[first]
        return wire[skip : skip + length]

    @staticmethod
    def _wire(data: bytes) -> bytes:
        return to_wire(data)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@implementer(IMessage)
class LargeMessage:
    """A message that is read by ranges in a thread.

    :param run: runs blocking work in order.
    """

    __slots__ = ("_closed", "_file", "_run", "size")

    def __init__(self, file: LargeFile, run: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self._file = file
        self._run = run
        self._closed = False
        self.size = file.size

    def read(self, offset: int = 0, length: int | None = None) -> Deferred[bytes]:
        wanted = self.size - offset if length is None else length
        return self._run(lambda: self._file.read(offset, wanted))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # After the reads that were asked for; errors have nobody to hear them.
            self._run(self._file.close).addErrback(lambda _: None)


def _last_at_or_before(starts: list[int], offset: int) -> int:
    """The index of the stretch in which a wire offset lies."""
    low, high = 0, len(starts) - 1
    while low + 1 < high:
        middle = (low + high) // 2
        if starts[middle] <= offset:
            low = middle
        else:
            high = middle
    return low
