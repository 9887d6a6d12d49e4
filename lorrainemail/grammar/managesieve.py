"""The octets of a ManageSieve client cut into commands, and strings for the way back (RFC 5804 §4).

The door feeds octets and asks, when it is ready for one, for the next :class:`Words`; nothing is looked at
before that, so what changes the rules (STARTTLS, a login) changes them for all that follows. Literals
of clients never wait (``{n+}``): one that is too large is read over, up to a bound, so that the session can
go on. No transport.

Memory: at most the limits' ``line`` and ``literal`` octets a word of a command, of which there are few.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

#: Words of one command: none of RFC 5804 §2 has more than three.
MAX_WORDS: Final = 8
#: RFC 5804 §4: octets of a quoted string that every client takes.
MAX_QUOTED: Final = 1024


@attrs.frozen(slots=True)
class Limits:
    """What one command may hold.

    :ivar line: octets of one line. ``literal``: of one literal.
    :ivar skip: octets of a literal that is too large which are still read over.
    """

    line: int
    literal: int
    skip: int


@attrs.frozen(slots=True)
class Atom:
    """A bare word, as it was written."""

    text: bytes


Word = Atom | bytes | int


@attrs.frozen(slots=True)
class Words:
    """One command: atoms, strings (as bytes) and numbers."""

    words: tuple[Word, ...]


@attrs.frozen(slots=True)
class Fault:
    """No command came. ``fatal``: the session cannot go on. ``too_big``: a literal over the limit."""

    text: str
    fatal: bool = False
    too_big: bool = False


_LITERAL = re.compile(rb"\{([0-9]{1,20})\+?\}\Z")
_WORD = re.compile(
    rb'[ \t]*(?:"(?P<quoted>(?:[^"\\\0]|\\["\\])*)"'
    rb"|(?P<number>[0-9]{1,10})|(?P<atom>[A-Za-z][A-Za-z0-9_.-]*))(?=[ \t]|\Z)"
)
_ESCAPED = re.compile(rb"\\(.)")


class Reader:
    """Buffer and cutter of one session's input."""

    __slots__ = ("_buffer", "_fault", "_scanned", "_skip", "_want", "_words", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._buffer = bytearray()
        self._scanned = 0  # octets of the buffer known to hold no line end
        self._words: list[Word] = []
        self._want = -1  # octets of a literal still to come, -1 for none
        self._skip = 0  # octets still to read over
        self._fault: Fault | None = None  # of the command that is being read

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def partial(self) -> bool:
        """A command has begun and is not whole."""
        return bool(self._buffer or self._words or self._want >= 0 or self._skip or self._fault)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def discard(self) -> None:
        """Forget everything unread (STARTTLS: what came in clear text is not to be trusted)."""
        self.__init__(self.limits)  # type: ignore[misc]

    def next(self) -> Words | Fault | None:
        """The next command, None where more octets are needed."""
        buffer = self._buffer
        while True:
            if self._skip:
                gone = min(self._skip, len(buffer))
                del buffer[:gone]
                self._skip -= gone
                if self._skip:
                    return None
            if self._want >= 0:
                if len(buffer) < self._want:
                    return None
                self._add(bytes(buffer[: self._want]))
                del buffer[: self._want]
                self._want = -1
            end = buffer.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(buffer)
                if self._scanned > self.limits.line:
                    return Fault("Line too long", fatal=True)
                return None
            self._scanned = 0
            if end > self.limits.line:
                return Fault("Line too long", fatal=True)
            line = bytes(buffer[: end - 1 if end and buffer[end - 1] == 0x0D else end])
            del buffer[: end + 1]
            found = self._line(line)
            if found is not None:
                return found

    def _line(self, line: bytes) -> Words | Fault | None:
        """A line has ended: the command is whole, or a literal follows."""
        match = _LITERAL.search(line)
        self._cut(line if match is None else line[: match.start()])
        if match is None:
            words, fault = tuple(self._words), self._fault
            self._words, self._fault = [], None
            return Words(words) if fault is None else fault
        size = int(match.group(1))
        if self._fault is None and size <= self.limits.literal:
            self._want = size
            return None
        if self._fault is None:
            self._fault = Fault("The literal is too large", too_big=True)
        if size > self.limits.skip:
            return attrs.evolve(self._fault, fatal=True)
        self._skip = size
        return None

    def _cut(self, line: bytes) -> None:
        """The words of a line."""
        at = 0
        while at < len(line):
            match = _WORD.match(line, at)
            if match is None:
                if line[at:].strip(b" \t"):
                    self._wrong("That cannot be understood")
                return
            at = match.end()
            kind = match.lastgroup
            if kind == "quoted":
                self._add(_ESCAPED.sub(rb"\1", match.group("quoted")))
            elif kind == "number":
                self._add(int(match.group("number")))
            else:
                self._add(Atom(match.group("atom")))

    def _add(self, word: Word) -> None:
        if len(self._words) >= MAX_WORDS:
            self._wrong("Too many arguments")
        elif self._fault is None:
            self._words.append(word)

    def _wrong(self, text: str) -> None:
        if self._fault is None:
            self._fault = Fault(text)
            self._words.clear()


def string(octets: bytes) -> bytes:
    """RFC 5804 §4: quoted where that is possible, else a literal."""
    if len(octets) <= MAX_QUOTED and not any(octet in octets for octet in b"\r\n\0"):
        return b'"' + octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return b"{%d}\r\n%b" % (len(octets), octets)
