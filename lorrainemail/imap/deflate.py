"""COMPRESS=DEFLATE (RFC 4978): both directions of one connection as raw deflate streams, in bounded memory.

What comes in is unpacked in steps and only as far as the session takes it: a small packet that unpacks to
gigabytes costs a step at a time, and backlog is reported so that the client is not read from meanwhile.
About 100 KiB a compressed session.
"""

from __future__ import annotations

import zlib
from typing import Final

#: Octets unpacked at once.
STEP: Final = 32 * 1024
#: A window of 8 KiB and little memory suffice for mail; level 3 costs a third of the usual one.
_WINDOW: Final = -13
_MEMORY: Final = 6
_LEVEL: Final = 3


class Malformed(Exception):
    """What the client sent is no deflate stream, or is one that has ended."""


class Deflate:
    """The two streams."""

    __slots__ = ("_full", "_packed", "_packer", "_unpacker")

    def __init__(self) -> None:
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY)
        self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        self._packed = b""
        self._full = False  # the last step filled its bound, so there may be more

    def pack(self, data: bytes) -> bytes:
        """What goes out for it, to be understood at once."""
        return self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def feed(self, data: bytes) -> None:
        """Octets of the client's."""
        self._packed += data

    @property
    def backlog(self) -> int:
        """Octets that were not looked at yet."""
        return len(self._packed)

    @property
    def waiting(self) -> bool:
        """Whether :meth:`unpack` may have something."""
        return bool(self._packed) or self._full

    def unpack(self) -> bytes:
        """The next octets, :data:`STEP` at most."""
        try:
            data = self._unpacker.decompress(self._packed, STEP)
        except zlib.error:
            raise Malformed() from None
        if self._unpacker.eof:
            raise Malformed()
        self._packed = self._unpacker.unconsumed_tail
        self._full = len(data) == STEP
        return data
