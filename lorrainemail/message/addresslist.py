"""Address lists of header fields (RFC 5322 §3.4, §4.4) to the address structures of IMAP.

Leniently and in linear time: whatever stands in a ``To:``, each list element yields one mailbox at most,
groups keep their names, comments name an address that has no display name, quoting is undone, encoded words
and 8-bit octets stay as they are. Callers: :mod:`lorrainemail.message.summary`, SEARCH on old rows.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

#: Addresses of one field that are listed.
MAX_ADDRESSES: Final = 5000

_COMMON = re.compile(
    rb"[ \t]*(?:\"([^\"\\]*)\"[ \t]*"
    rb"|([!#-'*+\-.-9=?A-Z^-~\x80-\xff]+(?: [!#-'*+\-.-9=?A-Z^-~\x80-\xff]+)*) +)?"
    rb"<([!#-'*+\-.-9=?A-Z^-~\x80-\xff]+)@([!#-'*+\-.-9=?A-Z^-~\x80-\xff]+)>[ \t]*(?:,|\Z)"
)
_BARE = re.compile(
    rb"[ \t]*([!#-'*+\-.-9=?A-Z^-~\x80-\xff]+)@([!#-'*+\-.-9=?A-Z^-~\x80-\xff]+)[ \t]*(?:,|\Z)"
)
_TOKEN = re.compile(
    rb"(?P<space>[ \t\r\n]+)|(?P<quoted>\"(?:[^\"\\]|\\.)*\"?)|(?P<literal>\[[^\]\\]*\]?)"
    rb"|(?P<text>[^\x00- \"\[(),:;<>@\\]+)|(?P<special>.)",
    re.DOTALL,
)
_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_COMMENT_EDGE = re.compile(rb"[()\\]")


@attrs.frozen(slots=True)
class Mailbox:
    """One address structure (RFC 3501 §7.4.2); of a group's start ``host`` is None, of its end all."""

    name: bytes | None
    route: bytes | None
    mailbox: bytes | None
    host: bytes | None


def parse_addresses(value: bytes) -> list[Mailbox]:
    """All addresses of an unfolded field value, in order."""
    found: list[Mailbox] = []
    position = 0
    size = len(value)
    while position < size:
        match = _COMMON.match(value, position)
        if match is not None:
            quoted, words, local, host = match.groups()
            found.append(Mailbox(words if quoted is None else quoted, None, local, host))
        else:
            match = _BARE.match(value, position)
            if match is None:
                return _Reader(value, position, found).read()
            found.append(Mailbox(None, None, match.group(1), match.group(2)))
        position = match.end()
        if len(found) >= MAX_ADDRESSES:
            break
    return found


def _comment_end(value: bytes, position: int) -> int:
    """Where the comment that begins there ends (after its parenthesis)."""
    depth = 0
    while True:
        match = _COMMENT_EDGE.search(value, position)
        if match is None:
            return len(value)
        position = match.end()
        octet = match.group()
        if octet == b"\\":
            position += 1
        elif octet == b"(":
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                return position


class _Reader:
    """The slow road: quoted pairs, comments, groups, routes, missing pieces."""

    __slots__ = ("comment", "found", "in_group", "position", "value", "words")

    def __init__(self, value: bytes, position: int, found: list[Mailbox]) -> None:
        self.value = value
        self.position = position
        self.found = found
        self.in_group = False
        self.words: list[bytes] = []  # tokens of the element so far; b" " for white space between
        self.comment: bytes | None = None

    def read(self) -> list[Mailbox]:
        value, size = self.value, len(self.value)
        while self.position < size and len(self.found) < MAX_ADDRESSES:
            match = _TOKEN.match(value, self.position)
            assert match is not None  # the last alternative takes any octet
            token = match.group()
            self.position = match.end()
            kind = match.lastgroup
            if kind == "space":
                self.words.append(b" ")
            elif kind == "quoted" or kind != "special":
                self.words.append(token)
            elif token == b"(":
                stop = _comment_end(value, match.start())
                self.comment = _PAIR.sub(rb"\1", value[match.start() + 1 : stop].removesuffix(b")")).strip()
                self.words.append(b" ")
                self.position = stop
            elif token == b",":
                self.bare()
            elif token == b";":
                self.bare()
                if self.in_group:
                    self.in_group = False
                    self.found.append(Mailbox(None, None, None, None))
            elif token == b":" and not self.in_group:
                self.in_group = True
                self.found.append(Mailbox(None, None, self.phrase() or b"", None))
                self.clear()
            elif token == b"<":
                self.angle()
            elif token == b"@":
                self.words.append(b"@")
        self.bare()
        if self.in_group:
            self.found.append(Mailbox(None, None, None, None))
        return self.found

    def clear(self) -> None:
        self.words = []
        self.comment = None

    def phrase(self) -> bytes | None:
        """The words as a display name: quotes undone, white space single."""
        text = b"".join(
            _PAIR.sub(rb"\1", word[1:].removesuffix(b'"')) if word.startswith(b'"') else word
            for word in self.words
        )
        text = b" ".join(text.split()) if b'"' not in b"".join(self.words) else text.strip()
        return text or None

    def bare(self) -> None:
        """An element without angle brackets ends: ``local@host``, or a lone word."""
        words = [word for word in self.words if word != b" "]
        if words:
            at = len(words) - 1 - words[::-1].index(b"@") if b"@" in words else len(words)
            local = b"".join(self.plain(word) for word in words[:at])
            host = b"".join(words[at + 1 :])
            self.found.append(Mailbox(self.comment or None, None, local, host))
        self.clear()

    def angle(self) -> None:
        """``<route:local@host>`` after a display name."""
        stop, inner = self.inside()
        self.position = stop
        route: bytes | None = None
        if inner and inner[0] == b"@" and b":" in inner:
            colon = inner.index(b":")
            route = b"".join(inner[:colon])
            inner = inner[colon + 1 :]
        at = len(inner) - 1 - inner[::-1].index(b"@") if b"@" in inner else len(inner)
        local = b"".join(self.plain(word) for word in inner[:at])
        host = b"".join(inner[at + 1 :])
        name = self.phrase()
        if local or host or name:
            self.found.append(Mailbox(name if name is not None else self.comment, route, local, host))
        self.clear()
        # what stands between ">" and the next comma belongs to nothing
        while self.position < len(self.value):
            match = _TOKEN.match(self.value, self.position)
            assert match is not None
            if match.group() in (b",", b";"):
                break
            self.position = _comment_end(self.value, self.position) if match.group() == b"(" else match.end()

    def inside(self) -> tuple[int, list[bytes]]:
        """Tokens up to ">" (or to the end), without white space and comments, and the place after it."""
        tokens: list[bytes] = []
        position = self.position
        while position < len(self.value):
            match = _TOKEN.match(self.value, position)
            assert match is not None
            token = match.group()
            if token == b">":
                return match.end(), tokens
            if token == b"(":
                position = _comment_end(self.value, position)
                continue
            if match.lastgroup != "space":
                tokens.append(token)
            position = match.end()
        return position, tokens

    @staticmethod
    def plain(word: bytes) -> bytes:
        """A token of a local part without its quotes."""
        return _PAIR.sub(rb"\1", word[1:].removesuffix(b'"')) if word.startswith(b'"') else word
