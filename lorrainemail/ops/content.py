"""Messages on their way through the server: a finished one is immutable, in wire form (CRLF line ends).

Owns where the octets of a message live between its first chunk and its last reader. Small messages stay in
memory; larger ones go to an unnamed file in the directory given (on the state's file system, so that a full
disk is noticed here), which the kernel frees with its last descriptor, also after a crash. Callers: doors and
the injector make contents through :class:`ContentWriter`; intake, store, queue and couriers read them through
:class:`lorrainemail.interfaces.IContent`. A spill file that cannot be written is a TemporaryError 452 4.3.1;
one that cannot be read back is a TemporaryError 451.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Final

from zope.interface import implementer

from lorrainemail.errors import INTERNAL_ERROR, STORAGE_FULL, TemporaryError
from lorrainemail.interfaces import IContent

#: Octets up to which a message is held in memory.
SPILL_OVER: Final = 256 * 1024
#: One read of a message, unless the reader asks for another size.
CHUNK: Final = 65536


@implementer(IContent)
class Content:
    """A message in memory.

    :param line_ends: how many CRLF there are, where whoever made it knows that there is no other CR or LF.
    :ivar notes: what its reader found out, for the next time that it meets it.
    """

    __slots__ = ("_data", "eight_bit", "line_ends", "notes", "size")

    def __init__(self, data: bytes, line_ends: int | None = None) -> None:
        self._data = data
        self.line_ends = line_ends
        self.notes: object = None
        self.size = len(data)
        self.eight_bit = not data.isascii()

    def head(self, limit: int) -> bytes:
        return self._data[:limit]

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        data = self._data
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def in_memory(self) -> bytes:
        return self._data

    def close(self) -> None:
        """The octets go with their last reader; nothing else is held."""


@implementer(IContent)
class SpilledContent:
    """A message of ``head`` + what stands in ``file`` from ``offset`` on.

    Reads are positioned, so that several threads may read at once; the file is let go when it is closed and
    no reader is left in it. Two contents never share a file.
    """

    __slots__ = ("_closed", "_end", "_file", "_head", "_lock", "_offset", "_readers", "eight_bit", "size")

    def __init__(self, head: bytes, file: IO[bytes], offset: int, end: int, eight_bit: bool) -> None:
        self._head = head
        self._file = file
        self._offset = offset
        self._end = end
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False
        self.size = len(head) + end - offset
        self.eight_bit = eight_bit

    def head(self, limit: int) -> bytes:
        beginning = self._head[:limit]
        end = min(self._end, self._offset + limit - len(beginning))
        return beginning + b"".join(self._read(self._offset, end, CHUNK))

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        for start in range(0, len(self._head), size):
            yield self._head[start : start + size]
        yield from self._read(self._offset, self._end, size)

    def with_head(self, octets: int, head: bytes) -> SpilledContent:
        """The same with its first ``octets`` replaced; takes over the file. Once a content."""
        assert not self._head
        return SpilledContent(
            head, self._file, self._offset + octets, self._end, self.eight_bit or not head.isascii()
        )

    def _read(self, start: int, end: int, size: int) -> Iterator[bytes]:
        # A descriptor closed under a reader could be another file's by its next read.
        with self._lock:
            if self._closed:
                raise TemporaryError(INTERNAL_ERROR, "a spilled message is read after its end")
            self._readers += 1
        try:
            while start < end:
                chunk = self._pread(min(size, end - start), start)
                start += len(chunk)
                yield chunk
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._readers -= 1
            if self._closed and not self._readers:
                self._file.close()

    def _pread(self, size: int, start: int) -> bytes:
        try:
            chunk = os.pread(self._file.fileno(), size, start)
        except OSError as error:
            raise TemporaryError(INTERNAL_ERROR, f"reading a spilled message: {error}") from error
        if not chunk:
            raise TemporaryError(INTERNAL_ERROR, "a spilled message is shorter than it was")
        return chunk

    def in_memory(self) -> bytes | None:
        return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if not self._readers:
                self._file.close()


def replace_head(content: Content | SpilledContent, octets: int, head: bytes) -> Content | SpilledContent:
    """``content`` with its first ``octets`` replaced by ``head``; the old object is not to be used again."""
    if isinstance(content, SpilledContent):
        return content.with_head(octets, head)
    data = content.in_memory() or b""
    return Content(head + data[octets:])


class ContentWriter:
    """Gathers the chunks of one message, then :meth:`finish` or :meth:`abort`; nothing after either.

    :param directory: where a message too large for memory is spilled.
    :param memory: octets held in memory.
    """

    __slots__ = ("_chunks", "_directory", "_eight_bit", "_file", "_memory", "size")

    def __init__(self, directory: str, memory: int = SPILL_OVER) -> None:
        self._directory = directory
        self._memory = memory
        self._chunks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._eight_bit = False
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Take one more chunk (CRLF line ends).

        :raises TemporaryError: 452 where the disk does not take it; the writer is aborted then.
        """
        self.size += len(chunk)
        if self._file is None:
            self._chunks.append(chunk)
            if self.size > self._memory:
                self._spill()
        else:
            self._append(chunk)

    def _spill(self) -> None:
        try:
            file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 (outlives us)
            self._file = file
        except OSError as error:
            self.abort()
            raise TemporaryError(STORAGE_FULL, f"making a spill file: {error}") from error
        chunks, self._chunks = self._chunks, []
        self._append(b"".join(chunks))

    def _append(self, chunk: bytes) -> None:
        assert self._file is not None
        self._eight_bit = self._eight_bit or not chunk.isascii()
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.abort()
            raise TemporaryError(STORAGE_FULL, f"writing a spill file: {error}") from error

    def finish(self, line_ends: int | None = None) -> Content | SpilledContent:
        """The finished message; it belongs to the caller, who closes it.

        :param line_ends: as of :class:`Content`.
        """
        file, self._file = self._file, None
        if file is not None:
            return SpilledContent(b"", file, 0, self.size, self._eight_bit)
        chunks, self._chunks = self._chunks, []
        return Content(chunks[0] if len(chunks) == 1 else b"".join(chunks), line_ends)

    def abort(self) -> None:
        """Forget everything. Harmless when nothing is left."""
        self._chunks = []
        file, self._file = self._file, None
        if file is not None:
            file.close()
