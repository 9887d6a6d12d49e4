"""The octets between 354 and the final dot.

Owns the end of DATA and transparency (RFC 5321 §4.5.2), the size limit and the line ends. The door feeds
whatever it receives; nothing is ever taken line by line: the end ``CRLF . CRLF`` is searched across chunk
edges, stuffed dots go by one replacement a chunk, bare CR and LF show as a difference of counts.

Invariants: no input is long enough to need memory (over the limit it is counted and dropped; what might be
the beginning of the end is four octets at most); only ``CRLF . CRLF`` ends a message, so that no other server
can see an end where we see none or the reverse; NUL and 8-bit octets are kept. Fails at :meth:`finish`:
552 5.3.4 too large, 550 5.6.0 bare CR or LF, 452 4.3.1 no room to spill. What comes by BDAT is
the business of :mod:`lorrainemail.smtp.chunks`.
"""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.errors import MailError, PermanentError, Reply
from lorrainemail.ops.content import Content, ContentWriter, SpilledContent

TOO_LARGE: Final = Reply(552, "5.3.4", "Message too large")
BARE_LINE_END: Final = Reply(550, "5.6.0", "Bare CR or LF in the message; lines must end with CRLF")

_END: Final = b"\r\n.\r\n"
_DOT: Final = b"\r\n."
_LINE_END = re.compile(rb"\r\n|\r|\n")


class IncomingMessage:
    """What is kept of a message while it comes in.

    :param directory: where it is spilled when it is large.
    :param limit: octets, dots unstuffed (RFC 1870 §5).
    :param mend: make CRLF of bare CR and LF instead of refusing them.
    """

    __slots__ = ("_failure", "_limit", "_line_ends", "_mend", "_size", "_writer")

    def __init__(self, directory: str, limit: int, mend: bool = False) -> None:
        self._writer = ContentWriter(directory)
        self._limit = limit
        self._mend = mend
        self._size = self._line_ends = 0
        self._failure: MailError | None = None

    def _keep(self, piece: bytes) -> None:
        """The next octets of the message itself; no CRLF is cut in two."""
        line_ends = piece.count(b"\r\n")
        if piece.count(b"\n") != line_ends or piece.count(b"\r") != line_ends:
            if not self._mend:
                self._fail(PermanentError(BARE_LINE_END))
                return
            piece = _LINE_END.sub(b"\r\n", piece)
            line_ends = piece.count(b"\r\n")
        self._line_ends += line_ends
        self._size += len(piece)
        if self._size > self._limit:
            self._fail(PermanentError(TOO_LARGE, f"over {self._limit} octets"))
            return
        try:
            self._writer.write(piece)
        except MailError as failure:
            self._fail(failure)

    def _fail(self, failure: MailError) -> None:
        self._failure = failure
        self._writer.abort()

    def finish(self) -> Content | SpilledContent:
        """The message, which belongs to the caller now.

        :raises MailError: where it cannot be taken; the reply to its end.
        """
        if self._failure is not None:
            raise self._failure
        return self._writer.finish(self._line_ends)

    def abort(self) -> None:
        """The client went away, or thought better of it."""
        self._writer.abort()


class MessageReader(IncomingMessage):
    """Takes one message that comes by DATA."""

    __slots__ = ("_carry", "_first")

    def __init__(self, directory: str, limit: int, mend: bool = False) -> None:
        super().__init__(directory, limit, mend)
        # The message begins at the start of a line: a CRLF that is not part of it stands before it.
        self._carry = b"\r\n"
        self._first = True

    def feed(self, data: bytes) -> bytes | None:
        """Take input. What follows the final dot, or None while it has not come."""
        data = self._carry + data
        # A search for lines that begin with a dot decides whether there is an end or a dot to take away; from
        # behind, which takes a third of the time that counting or searching from the front does.
        dot = data.rfind(_DOT)
        if dot >= 0:
            alone = dot == len(data) - len(_END) and data.endswith(_END) and data.rfind(_DOT, 0, dot) < 0
            end = dot if alone else data.find(_END)
            if end >= 0:
                self._take(data[: end + 2], not alone)
                return data[end + len(_END) :]
        stuffed = dot >= 0
        # Hold back what may be the beginning of a stuffed dot or of the end.
        if data.endswith(b"\r"):
            held = 4 if data.endswith(b"\r\n.\r") else 1
        elif data.endswith(b"\r\n"):
            held = 2
        elif data.endswith(b"\r\n."):
            held = 3
        else:
            self._carry = b""
            self._take(data, stuffed)
            return None
        self._carry = data[-held:]
        self._take(data[:-held], stuffed)
        return None

    def _take(self, piece: bytes, stuffed: bool) -> None:
        """A piece that ends neither inside CRLF nor inside CRLF and dot.

        :param stuffed: there may be lines in it that begin with a dot.
        """
        if not piece or self._failure is not None:
            return
        if stuffed:
            piece = piece.replace(_DOT, b"\r\n")
        if self._first:
            self._first = False
            piece = piece[2:]
        self._keep(piece)
