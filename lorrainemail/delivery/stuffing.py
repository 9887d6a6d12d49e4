"""The octets of a message as DATA carries them: dots doubled at line starts, ended by a lone dot; and as BDAT
does.

Sans-I/O, called chunk by chunk by the client; where the chunks are cut makes no difference to what comes out.
What comes out never holds a bare CR or LF: our doors accept none, and should one have come from elsewhere it
becomes a CRLF here, since a peer that takes it for a line end could be made to see the end of the message
inside it.
"""

from __future__ import annotations

import re
from typing import Final

_LINE_END = re.compile(rb"\r?\n|\r")


class DotStuffer:
    """RFC 5321 §4.5.2, as a stream: :meth:`feed` the chunks, then :meth:`finish`."""

    __slots__ = ("_at_line_start", "_held")
    #: Only :meth:`finish` ends a message.
    complete: Final = False

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR at the end of a chunk: the next one tells what it is

    def feed(self, chunk: bytes) -> bytes:
        """The chunk's octets for the wire."""
        data = self._held + chunk if self._held else chunk
        if data.endswith(b"\r"):
            self._held = b"\r"
            data = data[:-1]
        else:
            self._held = b""
        if not data:
            return b""
        pairs = data.count(b"\r\n")
        if data.count(b"\n") != pairs or data.count(b"\r") != pairs:
            data = _LINE_END.sub(b"\r\n", data)
        out = data.replace(b"\r\n.", b"\r\n..")
        if self._at_line_start and data.startswith(b"."):
            out = b"." + out
        self._at_line_start = data.endswith(b"\r\n")
        return out

    def finish(self) -> bytes:
        """The rest, and the end of the message."""
        rest = b""
        if self._held:
            self._held = b""
            rest = b"\r\n"
            self._at_line_start = True
        return rest + (b".\r\n" if self._at_line_start else b"\r\n.\r\n")


class Counted:
    """RFC 3030 §2, as a stream: the octets as they are, exactly as many as were announced."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def feed(self, chunk: bytes) -> bytes:
        """The chunk's octets for the wire.

        :raises ValueError: where there are more than announced: they would be read as commands.
        """
        self._left -= len(chunk)
        if self._left < 0:
            raise ValueError("the message is longer than it said")
        return chunk

    @property
    def complete(self) -> bool:
        """Whether all octets that were announced are there."""
        return not self._left

    def finish(self) -> bytes:
        """Nothing more.

        :raises ValueError: where octets are missing: the next command would be read as some.
        """
        if self._left:
            raise ValueError("the message is shorter than it said")
        return b""
