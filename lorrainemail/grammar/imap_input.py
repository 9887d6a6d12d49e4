"""The octets of an IMAP client cut into commands: lines, and literals wherever they stand. No transport.

The owner feeds octets and asks, when it is ready for one, for the next :class:`Event`; nothing is looked at
before that, so a command that changes the rules (STARTTLS, login, IDLE) changes them for all that follows.

- A line ends with LF, with or without CR before it (people type); what it may hold is bounded, a longer one
  is thrown away up to its end and reported once.
- ``{n}`` at the end of a line is a literal (RFC 3501 §4.3), ``{n+}`` one that does not wait (RFC 7888). A
  literal that waits and is too large is refused before it is sent. One that does not wait is read over, up to
  a bound; beyond that the session cannot go on.
- The message of an APPEND is not gathered: it is announced, then streamed by :meth:`CommandReader.take`.

Memory: at most the limits' ``command`` octets of a command, and what the owner feeds before it asks.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from lorrainemail.grammar.imap_append import (
    is_catenated,
    parse_append,
    parse_append_options,
    parse_pieces,
    tag_of,
)
from lorrainemail.grammar.imap_commands import AppendArguments, BadCommand

_LITERAL = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\Z")
_SENT_LITERAL = re.compile(rb"\{([0-9]{1,20})\+\}\r?\Z")
_TAIL: Final = 30
#: RFC 3501 §9: a number has 32 bits.
MAX_NUMBER: Final = 0xFFFFFFFF


@attrs.frozen(slots=True)
class Limits:
    """What one command may hold.

    :ivar line: octets of one line; ``command`` of a whole command with its literals.
    :ivar skip: octets of a literal that does not wait and is too large, which are still read over.
    """

    line: int
    command: int
    skip: int


#: Before login: a LOGIN or AUTHENTICATE and no more (RFC 4959, RFC 3501 §6.2).
BEFORE_LOGIN: Final = Limits(line=16 * 1024, command=18 * 1024, skip=64 * 1024)
#: After login. RFC 7162 §4 asks for 8,192 octets at least; long UID sets need more.
AFTER_LOGIN: Final = Limits(line=64 * 1024, command=256 * 1024, skip=256 * 1024 * 1024)


@attrs.frozen(slots=True)
class Ready:
    """A whole command, without its final line end."""

    data: bytes


@attrs.frozen(slots=True)
class Continue:
    """Send "+ ": the client waits to send a literal. Ask again at once."""


@attrs.frozen(slots=True)
class AppendMessage:
    """An APPEND has come to its message, ``size`` octets; ``waits``: for a "+ " (or for a refusal).

    At the end of a message that is put together (RFC 4469) that literal is of the next one; without one the
    size is 0, and nothing is on its way.

    :ivar binary: sent as a literal8 (RFC 3516 §4.4).
    """

    arguments: AppendArguments
    size: int
    waits: bool
    binary: bool = False


@attrs.frozen(slots=True)
class Fault:
    """No command came. ``fatal``: the session cannot go on. ``too_big``: a literal over the limit."""

    tag: bytes
    text: str
    fatal: bool = False
    too_big: bool = False


def next_message(before: AppendMessage, line: bytes) -> AppendMessage | None:
    """The further message that an APPEND announces behind one (RFC 3502 §6.3.11); None where it does not.

    :raises BadCommand: where what stands before it is wrong.
    """
    match = _LITERAL.search(line) if line.endswith(b"}") else None
    if match is None or int(match.group(2)) > MAX_NUMBER:
        return None
    return _announced(parse_append_options(line[: match.start()], before.arguments), line, match)


def next_piece(before: AppendMessage, line: bytes) -> AppendMessage:
    """What follows behind a literal of CATENATE (RFC 4469): the next literal, or the end.

    :raises BadCommand: where it is wrong.
    """
    match = _LITERAL.search(line) if line.endswith(b"}") else None
    if match is None or int(match.group(2)) > MAX_NUMBER:
        arguments = parse_pieces(line, before.arguments)
        if arguments.catenates != "END":
            raise BadCommand(b"", "a literal is missing")
        return AppendMessage(arguments, 0, True)
    return _announced(parse_pieces(line[: match.start()], before.arguments), line, match)


def _announced(arguments: AppendArguments, line: bytes, match: re.Match[bytes]) -> AppendMessage:
    """The arguments with the literal behind them on that line, which may be of the message after this one."""
    if arguments.catenates == "END":
        arguments = attrs.evolve(arguments, behind=arguments.behind + line[match.start() :])
    return AppendMessage(arguments, int(match.group(2)), not match.group(3), bool(match.group(1)))


Event = Ready | Continue | AppendMessage | Fault


class CommandReader:
    """Buffer and cutter of one session's input."""

    __slots__ = (
        "_buffer", "_command", "_fault", "_scanned", "_skip", "_skip_line", "_want", "limits", "utf8",
    )  # fmt: skip

    def __init__(self, limits: Limits = BEFORE_LOGIN) -> None:
        self.limits = limits
        self.utf8 = False  # mailbox names are UTF-8 (RFC 6855 §3)
        self._buffer = bytearray()
        self._command = bytearray()  # the command so far, literals in their places
        self._scanned = 0  # octets of the buffer known to hold no LF
        self._want = 0  # octets of a literal still to come
        self._skip = 0  # octets of a refused literal still to read over
        self._skip_line = False  # throw away up to the next LF
        self._fault: Fault | None = None  # reported once the refused literal's line has ended

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def discard(self) -> None:
        """Forget everything unread (STARTTLS: what came in clear text is not to be trusted)."""
        self.__init__(self.limits)  # type: ignore[misc]

    def line(self, limit: int) -> bytes | Fault | None:
        """One bare line (SASL, IDLE) without its end; None where it is not there yet."""
        found = self._line(limit)
        if found is None and self._skip_line:
            return Fault(b"", "line too long", fatal=True)
        return found

    def _line(self, limit: int) -> bytes | None:
        buffer = self._buffer
        end = buffer.find(b"\n", self._scanned)
        if end < 0 or end > limit:
            self._scanned = len(buffer)
            if max(end, len(buffer)) > limit:
                self._skip_line = True
                self._scanned = 0
            return None
        line = bytes(buffer[: end - 1 if end and buffer[end - 1] == 0x0D else end])
        del buffer[: end + 1]
        self._scanned = 0
        return line

    def take(self, limit: int) -> bytes:
        """Up to ``limit`` octets of what is buffered, as they are: for the message of an APPEND."""
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return data

    def skip(self, octets: int, fault: Fault | None = None) -> None:
        """Read over a literal that was refused and is sent nevertheless, and the rest of its command."""
        self._skip = octets
        self._skip_line = True
        self._fault = fault

    def next(self) -> Event | None:
        """The next event, None where more octets are needed."""
        while True:
            if self._skip:
                gone = min(self._skip, len(self._buffer))
                del self._buffer[:gone]
                self._skip -= gone
                if self._skip:
                    return None
            if self._skip_line:
                event, again = self._finish_skip()
                if not again:
                    return event
                continue
            if self._want:
                size = len(self._buffer)
                if size < self._want:
                    return None
                self._command += self._buffer[: self._want]
                del self._buffer[: self._want]
                self._scanned = 0
                self._want = 0
            line = self._line(self.limits.line)
            if line is None:
                if self._skipping():
                    start = bytes(self._command) + bytes(self._buffer[:200])
                    self._command.clear()
                    self._fault = Fault(tag_of(start), "line too long")
                    continue
                return None
            event_or_none = self._line_done(line)
            if event_or_none is not None:
                return event_or_none

    def _skipping(self) -> bool:
        return self._skip_line

    def _finish_skip(self) -> tuple[Event | None, bool]:
        """Throw away the rest of a line: (event, False), or (None, True) to go on."""
        buffer = self._buffer
        end = buffer.find(b"\n")
        self._scanned = 0
        if end < 0:
            del buffer[:-_TAIL]
            return None, False
        match = _SENT_LITERAL.search(bytes(buffer[max(0, end - _TAIL) : end]))
        del buffer[: end + 1]
        if match is not None:
            # a literal that does not wait belongs to what is thrown away
            size = int(match.group(1))
            if size > self.limits.skip:
                return Fault(b"", "literal too large", fatal=True), False
            self._skip = size
            return None, True
        self._skip_line = False
        fault, self._fault = self._fault, None
        return (fault, False) if fault is not None else (None, True)

    def _line_done(self, line: bytes) -> Event | None:
        """A line of a command has ended: the command is whole, or a literal follows."""
        match = _LITERAL.search(line) if line.endswith(b"}") else None
        command = self._command
        if match is None:
            if len(command) + len(line) > self.limits.command:
                tag = tag_of(bytes(command[:200]) or line)
                command.clear()
                return Fault(tag, "command too long")
            if command:
                command += line
                line = bytes(command)
                command.clear()
            if is_catenated(line):
                return self._catenated(line)
            return Ready(line) if line else Fault(b"", "empty command")
        size = int(match.group(2))
        waits = not match.group(3)
        before = bytes(command) + line[: match.start()]
        tag = tag_of(before)
        try:
            append = parse_append(before, self.utf8)
        except BadCommand as bad:
            return self._refuse(Fault(bad.tag, bad.text), size, waits)
        if size > MAX_NUMBER:
            return self._refuse(Fault(tag, "literal too large", too_big=True), size, waits)
        if append is not None:
            command.clear()
            return _announced(append, line, match)
        if match.group(1) or not tag:
            return self._refuse(Fault(tag, "unexpected literal"), size, waits)
        if len(before) + size + 20 > self.limits.command:
            return self._refuse(Fault(tag, "literal too large", too_big=True), size, waits)
        command += line
        command += b"\r\n"
        self._want = size
        return Continue() if waits else None

    def _catenated(self, line: bytes) -> Event:
        """An APPEND of URLs alone, if that is what it is."""
        try:
            append = parse_append(line, self.utf8)
        except BadCommand as bad:
            return Fault(bad.tag, bad.text)
        return Ready(line) if append is None or append.catenates != "END" else AppendMessage(append, 0, True)

    def _refuse(self, fault: Fault, size: int, waits: bool) -> Fault | None:
        """A literal is not taken: where it waits, the command ends here; else it is read over."""
        self._command.clear()
        if waits:
            return fault
        if size > self.limits.skip:
            return attrs.evolve(fault, fatal=True)
        self.skip(size, fault)
        return None
