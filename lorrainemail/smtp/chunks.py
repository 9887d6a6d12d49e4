"""A message that comes by BDAT (RFC 3030): octets counted by the client, no dots, no end mark.

:class:`ChunkedMessage` lives in the transaction from its first BDAT to its last; :class:`ChunkReader` takes
the octets of one BDAT off the input, by count and whatever became of the command, so that no octet of a
message is ever read as a command. The limits and the rules for line ends are those of DATA. A last line
without its CRLF gets one, as it would have by DATA.

BINARYMIME is not announced: a message without lines could not be kept octet for octet in a Maildir or mbox of
lines, nor go on to most other servers.
"""

from __future__ import annotations

from lorrainemail.errors import MailError, PermanentError, Reply
from lorrainemail.ops.content import Content, SpilledContent
from lorrainemail.smtp.data import TOO_LARGE, IncomingMessage


class ChunkedMessage(IncomingMessage):
    """Takes one message, chunk by chunk; fails like :class:`~lorrainemail.smtp.data.MessageReader`."""

    __slots__ = ("_complete", "_held")

    def __init__(self, directory: str, limit: int, mend: bool = False) -> None:
        super().__init__(directory, limit, mend)
        # A CR at the end of what came: the next octet tells what it is.
        self._held = False
        self._complete = True

    @property
    def failure(self) -> MailError | None:
        """Why it will not be taken, as far as that is known."""
        return self._failure

    def expect(self, count: int) -> None:
        """That many octets are announced; they need not be kept where they are too many."""
        if self._failure is None and self._size + count > self._limit:
            self._fail(PermanentError(TOO_LARGE, f"over {self._limit} octets"))

    def take(self, data: bytes) -> None:
        """Some octets, cut anywhere."""
        if not data or self._failure is not None:
            return
        if self._held:
            data = b"\r" + data
        self._held = data.endswith(b"\r")
        if self._held:
            data = data[:-1]
        if data:
            self._complete = data.endswith(b"\n")
            self._keep(data)

    def finish(self) -> Content | SpilledContent:
        if self._failure is None:
            if self._held:
                self._held, self._complete = False, self._mend
                self._keep(b"\r")
            if not self._complete:
                self._keep(b"\r\n")
        return super().finish()


class ChunkReader:
    """The octets of one BDAT on their way from the input.

    :ivar message: where they go, None where they are thrown away.
    :ivar last: it ends the message.
    :ivar refusal: the reply, where they are thrown away.
    """

    __slots__ = ("_left", "count", "last", "message", "refusal")

    def __init__(self, count: int, last: bool, message: ChunkedMessage | None, refusal: Reply | None) -> None:
        self._left = count
        self.count = count
        self.last = last
        self.message = message
        self.refusal = refusal

    def feed(self, data: bytes) -> bytes | None:
        """Take input. What follows the chunk, or None while it is not complete."""
        left = self._left
        piece = data if len(data) <= left else data[:left]
        self._left = left - len(piece)
        if self.message is not None:
            self.message.take(piece)
        return None if self._left else data[left:]

    def abort(self) -> None:
        """The client went away."""
        if self.message is not None:
            self.message.abort()
