"""How text is compared: i;unicode-casemap (RFC 5051), and the looser form of the text index and of FUZZY.

Pure tables, filled as characters are met. Two texts are equal where their folded forms are; a substring of a
folded form is a substring under the comparator. The forms are in lower case, which tells no more texts apart
than the titlecase of the RFC does.
"""

from __future__ import annotations

import unicodedata
from typing import Final

#: Levels of decomposition that a character may have; Unicode's own stay far below.
_MAX_LEVELS: Final = 20


def _decomposed(character: str, level: int = 0) -> str:
    """RFC 5051 §2 (b): by the decomposition property, again and again, compatibility mappings included."""
    mapping = unicodedata.decomposition(character)
    if not mapping or level > _MAX_LEVELS:
        return character
    codes = mapping.split()
    if codes[0].startswith("<"):
        del codes[0]
    return "".join(_decomposed(chr(int(code, 16)), level + 1) for code in codes)


def _titled(character: str) -> str:
    """RFC 5051 §2 (a): the simple titlecase mapping, which is one character for one."""
    titled = character.title()
    return titled if len(titled) == 1 else character


class _Folding(dict[int, str]):
    """For str.translate: what each character becomes, found out at its first use."""

    def __missing__(self, code: int) -> str:
        folded = _decomposed(_titled(chr(code))).lower()
        # a lower case of several characters, and capitals that a decomposition brought out
        found = self[code] = "".join(_titled(one).lower() for one in folded)
        return found


class _Plain(dict[int, str]):
    """The same without accents and other marks."""

    def __missing__(self, code: int) -> str:
        found = self[code] = "".join(one for one in _FOLDING[code] if unicodedata.category(one) != "Mn")
        return found


class _Titled(dict[int, str]):
    """What RFC 5051 §2 makes of a character, as it is: in titlecase."""

    def __missing__(self, code: int) -> str:
        found = self[code] = "".join(_titled(one) for one in _FOLDING[code])
        return found


_FOLDING: Final = _Folding()
_TITLED: Final = _Titled()
_PLAIN: Final = _Plain()


def fold(text: str) -> str:
    """Text as i;unicode-casemap compares it (RFC 5051, RFC 5255 §4.2)."""
    return text.lower() if text.isascii() else text.translate(_FOLDING)


def ordering(text: str) -> str:
    """Text as i;unicode-casemap puts it in order (RFC 5051 §2, RFC 5255 §4.2): by its titlecase form."""
    return text.upper() if text.isascii() else text.translate(_TITLED)


def plain(text: str) -> str:
    """The same with accents taken off: what is equal under :func:`fold` is equal here too."""
    return text.lower() if text.isascii() else text.translate(_PLAIN)
