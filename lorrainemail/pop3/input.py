"""The input of a POP3 connection: octets in, command lines out, bounded.

Owned by one connection each (:mod:`lorrainemail.pop3.server`). Pure. A line ends at LF, with or without CR
before it; POP3 commands carry no content, so nothing can hide behind a bare LF.
"""

from __future__ import annotations

from typing import Final

#: RFC 2449 §4 allows 255 octets a command; names and passwords may be longer with us.
MAX_COMMAND: Final = 4096
#: RFC 4954 §4: a line of a SASL exchange (RFC 5034 takes it from there).
MAX_SASL_LINE: Final = 12288
#: Pipelined octets that wait before reading stops.
MAX_WAITING: Final = 32 * 1024


class LineTooLong(Exception):
    """The client sent more than a line may hold."""


class Lines:
    """What came and was not yet used."""

    __slots__ = ("_at", "_buffer")

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0

    def __len__(self) -> int:
        return len(self._buffer) - self._at

    def add(self, data: bytes) -> None:
        """More octets from the client."""
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def drop(self) -> None:
        """Forget all that waits."""
        self._buffer = b""
        self._at = 0

    @property
    def begin_login(self) -> bool:
        """Whether AUTH comes next; its initial response may be longer than a command."""
        return self._buffer[self._at : self._at + 5].upper() == b"AUTH "

    def next(self, limit: int) -> bytes | None:
        """The next line without its end, or None where it has not come yet.

        :raises LineTooLong: where it is, or will be, longer than the limit.
        """
        end = self._buffer.find(b"\n", self._at, self._at + limit + 2)
        if end < 0:
            if len(self) >= limit + 2:
                raise LineTooLong()
            return None
        line = self._buffer[self._at : end]
        self._at = end + 1
        return line[:-1] if line.endswith(b"\r") else line
