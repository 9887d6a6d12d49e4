"""Flags as bits: five system flags and up to fifty keywords a folder.

A folder's messages keep their flags as one integer each; this module owns what the bits mean, the letters of
Maildir names (S, R, F, T, D and a to z) and which words a keyword may be. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from lorrainemail.store.failures import cannot, limit

SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16

#: System flags by bit, RFC 9051 §2.3.2.
SYSTEM: Final = (
    (SEEN, "\\Seen", "S"),
    (ANSWERED, "\\Answered", "R"),
    (FLAGGED, "\\Flagged", "F"),
    (DELETED, "\\Deleted", "T"),
    (DRAFT, "\\Draft", "D"),
)
FIRST_KEYWORD_BIT: Final = 5
#: Keywords of one folder; the bits and the sign fit SQLite's 64-bit integer.
MAX_KEYWORDS: Final = 50
#: Of these the first 26 have a letter in file names, as Dovecot does it.
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
#: Octets of one keyword.
MAX_KEYWORD: Final = 100

_BY_NAME: Final = {name.lower(): bit for bit, name, _ in SYSTEM}
_BY_LETTER: Final = {letter: bit for bit, _, letter in SYSTEM}
# RFC 9051 §9 flag-keyword: an atom.
_KEYWORD: Final = re.compile(r"[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]+\Z")
_SYSTEM_MASK: Final = 31


class Keywords:
    """The keywords of one folder, each with its bit; grows only."""

    __slots__ = ("_bits", "_cache", "names")

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = list(names)
        self._bits = {name.lower(): index for index, name in enumerate(self.names)}
        self._cache: dict[int, frozenset[str]] = {}

    def names_of(self, bits: int) -> frozenset[str]:
        """The flags behind the bits."""
        found = self._cache.get(bits)
        if found is None:
            names = [name for bit, name, _ in SYSTEM if bits & bit]
            rest = bits >> FIRST_KEYWORD_BIT
            index = 0
            while rest:
                if rest & 1 and index < len(self.names):
                    names.append(self.names[index])
                rest >>= 1
                index += 1
            if len(self._cache) > 512:
                self._cache.clear()
            found = self._cache[bits] = frozenset(names)
        return found

    def bits_of(self, flags: Iterable[str], create: bool = True) -> int:
        """The bits of the flags; unknown keywords are added, ``\\Recent`` is ignored.

        :param create: False leaves unknown keywords out (for removing).
        :raises PermanentError: ``CANNOT`` for words that are no flags, ``LIMIT`` for one keyword too many.
        """
        bits = 0
        for flag in flags:
            lowered = flag.lower()
            if lowered.startswith("\\"):
                bit = _BY_NAME.get(lowered)
                if bit is None and lowered != "\\recent":
                    raise cannot("no such system flag")
                bits |= bit or 0
                continue
            index = self._bits.get(lowered)
            if index is None:
                if not create:
                    continue
                index = self.add(flag)
            bits |= 1 << (FIRST_KEYWORD_BIT + index)
        return bits

    def add(self, name: str) -> int:
        """The index of a keyword, made where it is new."""
        known = self._bits.get(name.lower())
        if known is not None:
            return known
        if len(name) > MAX_KEYWORD or not _KEYWORD.match(name):
            raise cannot("not a keyword")
        if len(self.names) >= MAX_KEYWORDS:
            raise limit("too many different keywords in this folder")
        self.names.append(name)
        self._cache.clear()
        self._bits[name.lower()] = len(self.names) - 1
        return len(self.names) - 1


def letters(bits: int) -> str:
    """The info letters of a Maildir name, in ASCII order as the format asks."""
    out = [letter for bit, _, letter in SYSTEM if bits & bit]
    out.sort()
    rest = bits >> FIRST_KEYWORD_BIT
    if rest:
        out.extend(letter for index, letter in enumerate(LETTERS) if rest >> index & 1)
    return "".join(out)


def from_letters(text: str) -> int:
    """The bits behind info letters; letters of other programs (P and the like) mean nothing to us."""
    bits = 0
    for letter in text:
        bit = _BY_LETTER.get(letter)
        if bit is not None:
            bits |= bit
        elif "a" <= letter <= "z":
            bits |= 1 << (FIRST_KEYWORD_BIT + ord(letter) - 97)
    return bits


#: Bits that a file name can carry; the rest live in the index alone.
IN_NAME: Final = _SYSTEM_MASK | ((1 << 26) - 1) << FIRST_KEYWORD_BIT
