"""The grammar of Sieve scripts: octets in, a tree of commands out (RFC 5228 §8). No meaning, no message.

Owns tokens, strings and nesting; which commands exist is :mod:`lorrainemail.sieve.compiler`'s business. Any
octets are either a script or fail with a :class:`SieveError` that says what, at which line and column (both
from 1, columns in characters). Bounded in size, nesting, strings and lists; linear in time. Line ends may be
CRLF or LF; inside strings they are CRLF, as the standard has them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final, NoReturn

import attrs

#: Octets of one script.
MAX_SCRIPT: Final = 1 << 20
#: RFC 5228 §2.10.5 asks for 15 levels of blocks and of tests at least.
MAX_BLOCKS: Final = 32
MAX_TESTS: Final = 32
#: Characters of one string; strings of one list.
MAX_STRING: Final = 256 * 1024
MAX_STRINGS: Final = 4096
#: Arguments of one command or test.
MAX_ARGUMENTS: Final = 64
#: RFC 5228 §2.4.1: 31 bits at least.
MAX_NUMBER: Final = (1 << 63) - 1


class SieveError(Exception):
    """A script cannot be used.

    :ivar what: the fault, in words for its author. ``line`` and ``column`` from 1, 0 where unknown.
    :ivar script: the name of the (included) script, "" for the one at hand.
    """

    def __init__(self, what: str, line: int = 0, column: int = 0, script: str = "") -> None:
        place = f"line {line}, column {column}: " if line else ""
        super().__init__((f"{script}: " if script else "") + place + what)
        self.what = what
        self.line = line
        self.column = column
        self.script = script


@attrs.frozen(slots=True)
class Number:
    """A number, its quantifier applied."""

    value: int
    line: int
    column: int


@attrs.frozen(slots=True)
class Tag:
    """``:name``, lower case, without its colon."""

    name: str
    line: int
    column: int


@attrs.frozen(slots=True)
class Strings:
    """A string, or a list of them (``listed``)."""

    values: tuple[str, ...]
    listed: bool
    line: int
    column: int


Argument = Number | Tag | Strings


@attrs.frozen(slots=True)
class Node:
    """A command or a test.

    :ivar name: lower case.
    :ivar tests: of a test list, or the one test; ``listed``: it stood in parentheses.
    :ivar block: of a command that has one, else None.
    """

    name: str
    arguments: tuple[Argument, ...]
    tests: tuple[Node, ...]
    listed: bool
    block: tuple[Node, ...] | None
    line: int
    column: int


_SKIP = re.compile(r"(?:[ \t\n]+|#[^\n]*(?:\n|\Z)|/\*(?:[^*]|\*(?!/))*\*/)+")
_TOKEN = re.compile(
    r"""(?P<multiline>text:[ \t]*(?:\#[^\n]*)?\n)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |:(?P<tag>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>[0-9]+)(?P<quantifier>[KMGkmg]?)(?![A-Za-z0-9_])
    |"(?P<quoted>(?:[^"\\]|\\.)*)"
    |(?P<mark>[][(){},;])""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_MULTILINE_END = re.compile(r"^\.(?:\n|\Z)", re.MULTILINE)
_DOT = re.compile(r"^\.\.", re.MULTILINE)
_QUANTIFIER: Final = {"": 0, "k": 10, "m": 20, "g": 30}

# Kinds of tokens; a mark is its own kind.
_WORD, _TAG, _NUMBER, _STRING, _END = "word", "tag", "number", "string", "end"


def parse(script: bytes) -> tuple[Node, ...]:
    """The commands of a script.

    :raises SieveError: where it is none.
    """
    return _Parser(script).script()


def _decoded(script: bytes) -> str:
    if len(script) > MAX_SCRIPT:
        raise SieveError(f"the script is larger than {MAX_SCRIPT} octets", 1, 1)
    try:
        text = script.decode("utf-8")
    except UnicodeDecodeError as error:
        before = script[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        raise SieveError("the script is not UTF-8", line, column) from None
    text = text.replace("\r\n", "\n")
    for wrong, name in (("\0", "a NUL"), ("\r", "a carriage return without its line feed")):
        at = text.find(wrong)
        if at >= 0:
            line = text.count("\n", 0, at) + 1
            raise SieveError(f"{name} cannot be in a script", line, at - text.rfind("\n", 0, at))
    return text


class _Parser:
    """Recursive descent, one token ahead."""

    __slots__ = ("at", "kind", "lines", "number", "position", "text", "value")

    def __init__(self, script: bytes) -> None:
        self.text = _decoded(script)
        self.lines: list[int] | None = None
        self.position = 1 if self.text.startswith("\ufeff") else 0  # a byte order mark
        self.at = 0
        self.kind = _END
        self.value = ""
        self.number = 0
        self.next()

    # -- tokens ------------------------------------------------------------------------------------

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        if self.lines is None:
            self.lines = [0, *(match.end() for match in re.finditer("\n", self.text))]
        line = bisect_right(self.lines, offset)
        return line, offset - self.lines[line - 1] + 1

    def fail(self, what: str, offset: int | None = None) -> NoReturn:
        raise SieveError(what, *self.place(self.at if offset is None else offset))

    def next(self) -> None:
        """Go to the next token."""
        text = self.text
        skipped = _SKIP.match(text, self.position)
        if skipped is not None:
            self.position = skipped.end()
        self.at = at = self.position
        if at >= len(text):
            self.kind, self.value = _END, ""
            return
        match = _TOKEN.match(text, at)
        if match is None:
            self.malformed()
        self.position = match.end()
        kind = match.lastgroup
        if kind == "word":
            self.kind, self.value = _WORD, match.group().lower()
        elif kind == "mark":
            self.kind = self.value = match.group()
        elif kind == "tag":
            self.kind, self.value = _TAG, match.group("tag").lower()
        elif kind == "quoted":
            quoted = match.group("quoted")
            self.string(_ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted)
        elif kind == "multiline":
            end = _MULTILINE_END.search(text, match.end())
            if end is None:
                self.fail('the text that begins here has no end (a line with only ".")')
            self.position = end.end()
            self.string(_DOT.sub(".", text[match.end() : end.start()]))
        else:
            self.kind, self.value = _NUMBER, match.group()
            digits = match.group("number")
            number = int(digits) if len(digits) < 20 else MAX_NUMBER + 1
            self.number = number << _QUANTIFIER[match.group("quantifier").lower()]
            if self.number > MAX_NUMBER:
                self.fail("the number is too large")

    def string(self, value: str) -> None:
        if len(value) > MAX_STRING:
            self.fail(f"a string is longer than {MAX_STRING} characters")
        self.kind, self.value = _STRING, value.replace("\n", "\r\n")

    def malformed(self) -> NoReturn:
        """No token begins here: say why."""
        text, at = self.text, self.at
        if text[at] == '"':
            self.fail("the string that begins here has no end")
        if text.startswith("/*", at):
            self.fail("the comment that begins here has no end")
        if text[at].isdigit():
            self.fail("malformed number")
        shown = text[at] if text[at].isprintable() else f"U+{ord(text[at]):04X}"
        self.fail(f"unexpected character {shown}")

    def shown(self) -> str:
        """The token at hand, for an error."""
        if self.kind == _END:
            return "the end of the script"
        if self.kind == _STRING:
            return "a string"
        return f":{self.value}" if self.kind == _TAG else f'"{self.value[:40]}"'

    # -- structure ---------------------------------------------------------------------------------

    def script(self) -> tuple[Node, ...]:
        commands = []
        while self.kind != _END:
            commands.append(self.command(0))
        return tuple(commands)

    def command(self, depth: int) -> Node:
        if self.kind != _WORD:
            self.fail(f"expected a command, found {self.shown()}")
        name, (line, column) = self.value, self.place(self.at)
        self.next()
        arguments, tests, listed = self.arguments(0)
        block: tuple[Node, ...] | None = None
        if self.kind == ";":
            self.next()
        elif self.kind == "{":
            if depth >= MAX_BLOCKS:
                self.fail(f"blocks are nested deeper than {MAX_BLOCKS} levels")
            began = self.at
            self.next()
            inner = []
            while self.kind != "}":
                if self.kind == _END:
                    self.fail("the block that begins here has no end", began)
                inner.append(self.command(depth + 1))
            self.next()
            block = tuple(inner)
        else:
            self.fail(f'expected ";" after "{name}", found {self.shown()}')
        return Node(name, arguments, tests, listed, block, line, column)

    def arguments(self, depth: int) -> tuple[tuple[Argument, ...], tuple[Node, ...], bool]:
        """What stands behind a name: arguments, then a test or a list of tests."""
        arguments: list[Argument] = []
        while True:
            if len(arguments) > MAX_ARGUMENTS:
                self.fail("too many arguments")
            kind = self.kind
            if kind == _STRING or kind == "[":
                arguments.append(self.strings())
            elif kind == _TAG:
                arguments.append(Tag(self.value, *self.place(self.at)))
                self.next()
            elif kind == _NUMBER:
                arguments.append(Number(self.number, *self.place(self.at)))
                self.next()
            elif kind == _WORD:
                return tuple(arguments), (self.test(depth + 1),), False
            elif kind == "(":
                self.next()
                tests = [self.test(depth + 1)]
                while self.kind == ",":
                    self.next()
                    tests.append(self.test(depth + 1))
                self.expect(")")
                return tuple(arguments), tuple(tests), True
            else:
                return tuple(arguments), (), False

    def test(self, depth: int) -> Node:
        if self.kind != _WORD:
            self.fail(f"expected a test, found {self.shown()}")
        if depth > MAX_TESTS:
            self.fail(f"tests are nested deeper than {MAX_TESTS} levels")
        name, (line, column) = self.value, self.place(self.at)
        self.next()
        arguments, tests, listed = self.arguments(depth)
        return Node(name, arguments, tests, listed, None, line, column)

    def strings(self) -> Strings:
        line, column = self.place(self.at)
        if self.kind == _STRING:
            value = self.value
            self.next()
            return Strings((value,), False, line, column)
        self.next()
        values = [self.one_string()]
        while self.kind == ",":
            self.next()
            if len(values) >= MAX_STRINGS:
                self.fail(f"a list has more than {MAX_STRINGS} strings")
            values.append(self.one_string())
        self.expect("]")
        return Strings(tuple(values), True, line, column)

    def one_string(self) -> str:
        if self.kind != _STRING:
            self.fail(f"expected a string, found {self.shown()}")
        value = self.value
        self.next()
        return value

    def expect(self, mark: str) -> None:
        if self.kind != mark:
            self.fail(f'expected "{mark}", found {self.shown()}')
        self.next()
