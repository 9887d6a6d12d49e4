"""Replies of SMTP servers: octets in, replies out, everything bounded.

Sans-I/O; :mod:`lorrainemail.delivery.wire` is the caller. Lenient in what makes no difference (LF for CRLF, a
code without text, any octets in the text), strict in what does: a reply whose code cannot be read, or whose
lines disagree, is a :class:`MalformedReply`, after which the session is of no use.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from lorrainemail.errors import Reply

#: RFC 5321 §4.5.3.1.5 says 512; there are servers that say more.
MAX_REPLY_LINE: Final = 4096
#: Lines of one reply; EHLO of the largest servers has about 20.
MAX_REPLY_LINES: Final = 128
#: Characters kept of a reply's text.
MAX_TEXT: Final = 1000

_LINE = re.compile(rb"([2-5][0-9][0-9])([ -](.*))?\Z", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s+|\Z)")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]+")


class MalformedReply(Exception):
    """What came is no reply, or longer than any."""


@attrs.frozen(slots=True)
class RemoteReply:
    """One reply: its code and the text of its lines, as received."""

    code: int
    lines: tuple[bytes, ...]

    @property
    def reply(self) -> Reply:
        """In our form: enhanced code found or derived, one line of printable text of bounded length."""
        words = []
        enhanced = ""
        for line in self.lines:
            text = _CONTROL.sub(" ", line.decode("utf-8", "replace")).strip()
            match = _ENHANCED.match(text)
            if match is not None and match.group(1) == str(self.code // 100):
                enhanced = enhanced or match.group().strip()
                text = text[match.end() :]
            words.append(text)
        if not enhanced and self.code // 100 in (2, 4, 5):
            enhanced = f"{self.code // 100}.0.0"
        return Reply(self.code, enhanced, " ".join(word for word in words if word)[:MAX_TEXT])


class ReplyParser:
    """Octets of a connection in any cut, replies out."""

    __slots__ = ("_buffer", "_code", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._code = 0
        self._lines: list[bytes] = []

    @property
    def pending(self) -> bool:
        """Whether a reply has begun that is not complete."""
        return bool(self._buffer or self._lines)

    def feed(self, data: bytes) -> list[RemoteReply]:
        """The replies that are complete now.

        :raises MalformedReply: the parser is of no use any more then.
        """
        found = []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if len(line) > MAX_REPLY_LINE:
                raise MalformedReply("a line that is too long")
            reply = self._take(line.removesuffix(b"\r"))
            if reply is not None:
                found.append(reply)
        if len(self._buffer) > MAX_REPLY_LINE:
            raise MalformedReply("a line that is too long")
        return found

    def _take(self, line: bytes) -> RemoteReply | None:
        match = _LINE.match(line)
        if match is None:
            raise MalformedReply(f"no reply: {line[:80]!r}")
        code = int(match.group(1))
        if self._lines and code != self._code:
            raise MalformedReply(f"a reply of two codes, {self._code} and {code}")
        self._code = code
        self._lines.append(match.group(3) or b"")
        if len(self._lines) > MAX_REPLY_LINES:
            raise MalformedReply("a reply of too many lines")
        if (match.group(2) or b"")[:1] == b"-":
            return None
        reply = RemoteReply(code, tuple(self._lines))
        self._lines = []
        return reply
