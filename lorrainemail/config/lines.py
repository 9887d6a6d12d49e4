"""Maps every key of a TOML document to its line, which ``tomllib`` does not tell.

Called by :mod:`lorrainemail.config.load` after ``tomllib`` accepted the text, so this scanner may assume a
valid document: it only finds where keys and list elements begin. Pure. It fails with ``ValueError`` where it
loses its way, which a property test keeps from happening.
"""

from __future__ import annotations

import bisect
import re
import tomllib

from lorrainemail.config.model import KeyPath

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_LITERAL = re.compile(r"'[^'\n]*'")
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every table, key and list element of a valid TOML document."""
    return _Scanner(text).document()


class _Scanner:
    """One pass over one document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._array_tables: dict[KeyPath, int] = {}

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)
        return self._lines

    def _line(self) -> int:
        return bisect.bisect_right(self._line_starts, self._at)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"unexpected text on line {self._line()}")
        self._at = match.end()
        return match.group()

    def _take(self, token: str) -> bool:
        found = self._text.startswith(token, self._at)
        if found:
            self._at += len(token)
        return found

    def _note(self, path: KeyPath, line: int) -> None:
        for end in range(1, len(path) + 1):
            self._lines.setdefault(path[:end], line)

    def _key(self) -> tuple[str, ...]:
        """A key, dotted or not; the position is then at ``=`` or ``]``."""
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            quote = self._text[self._at : self._at + 1]
            if quote == '"':
                parts.append(str(tomllib.loads(f"k = {self._skip(_BASIC)}")["k"]))
            elif quote == "'":
                parts.append(self._skip(_LITERAL)[1:-1])
            else:
                parts.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if not self._take("."):
                return tuple(parts)

    def _header(self) -> KeyPath:
        line = self._line()
        array = self._take("[[")
        if not array:
            self._take("[")
        key = self._key()
        self._take("]]" if array else "]")
        path: KeyPath = ()
        for position, part in enumerate(key):
            path = (*path, part)
            if array and position == len(key) - 1:
                self._array_tables[path] = self._array_tables.get(path, -1) + 1
            if path in self._array_tables:
                self._note(path, line)
                path = (*path, self._array_tables[path])
        self._lines[path] = line
        self._note(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = (*table, *self._key())
        self._note(path, line)
        self._take("=")
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        text, at = self._text, self._at
        if text.startswith('"""', at):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", at):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', at):
            self._skip(_BASIC)
        elif text.startswith("'", at):
            self._skip(_LITERAL)
        elif self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        index = 0
        self._skip(_BLANK)
        while not self._take("]"):
            self._note((*path, index), self._line())
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)

    def _inline_table(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        while not self._take("}"):
            self._pair(path)
            self._skip(_BLANK)
            self._take(",")
            self._skip(_BLANK)
