"""The octets of a multi-line POP3 response, without I/O: dot-stuffing and the top of a message.

Called by :mod:`lorrainemail.pop3.server` with a message's octets in chunks of any size. Invariant: where the
chunks are cut changes nothing.
"""

from __future__ import annotations

from lorrainemail.message.header import body_offset
from lorrainemail.message.surrogate import surrogate


class Stuffer:
    """Dot-stuffing (RFC 1939 §3) of one message, chunk by chunk."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        # The last two octets so far; a message begins as if after a line end.
        self._tail = b"\r\n"

    def stuff(self, chunk: bytes) -> bytes:
        """The chunk with every line that begins with a dot given another one."""
        if not chunk:
            return chunk
        edge = self._tail + chunk[:2]
        self._tail = (self._tail + chunk[-2:])[-2:]
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        if edge.startswith(b"\r\n."):
            return b"." + stuffed
        if edge[1:].startswith(b"\r\n."):
            return b"\n." + stuffed[1:]
        return stuffed

    def end(self) -> bytes:
        """What ends the response: a line end where the message lacks one, then the dot."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"


def for_ascii(start: bytes) -> bytes:
    """The beginning of a message for a client that did not ask for UTF-8 (RFC 6856 §2.1): its header, where
    it is whole, as ASCII."""
    body = body_offset(start)
    if start.isascii() or start[:body].isascii() or not start[:body].endswith(b"\r\n\r\n"):
        return start
    return surrogate(start[:body]) + start[body:]


def whole_answer(octets: bytes, utf8: bool = False) -> bytes:
    """The whole answer to RETR of a message."""
    if not utf8:
        octets = for_ascii(octets)
    stuffer = Stuffer()
    return b"+OK %d octets\r\n%b%b" % (len(octets), stuffer.stuff(octets), stuffer.end())


class Top:
    """Cuts a message to its header, the blank line and so many lines of the body (RFC 1939 §7 TOP)."""

    __slots__ = ("_in_body", "_lines", "_tail", "done")

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._in_body = False
        # As if a line ended just before: a message that begins with CRLF has an empty header.
        self._tail = b"\r\n"
        #: Nothing more belongs to the top.
        self.done = False

    def cut(self, chunk: bytes) -> bytes:
        """What of the chunk belongs to the top."""
        if self.done:
            return b""
        start = 0
        if not self._in_body:
            window = self._tail + chunk
            blank = window.find(b"\r\n\r\n")
            if blank < 0:
                self._tail = window[-3:]
                return chunk
            start = blank + 4 - len(self._tail)
            self._in_body = True
            self._tail = b""
        return self._body(chunk, start)

    def _body(self, chunk: bytes, start: int) -> bytes:
        # A line end is counted at its LF; a CR at the end of the chunk before is remembered.
        previous = self._tail if start == 0 else b""
        at = start
        while self._lines > 0:
            at = chunk.find(b"\n", at)
            if at < 0:
                self._tail = chunk[-1:] or previous
                return chunk
            before = chunk[at - 1 : at] if at > start else previous
            at += 1
            if before == b"\r":
                self._lines -= 1
        self.done = True
        return chunk[:at]
