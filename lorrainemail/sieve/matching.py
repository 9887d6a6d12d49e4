"""Comparators and match types: how a key is compared with a value (RFC 5228 §2.7, RFC 4790, RFC 5231).

Pure. A key is made once (:func:`make_key`; at compile time where it is constant) and asked for each value.
Wildcards and regular expressions are matched in linear time, bounded by the run's :class:`Work`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final, Literal

import attrs

from lorrainemail.sieve.regex import PatternError, Regex, Work

Kind = Literal["is", "contains", "matches", "regex", "count", "value"]
Captures = tuple[str, ...]
#: (value, the same folded, work, whether captures are wanted) → None: no; captures, perhaps none: yes.
Key = Callable[[str, str, Work, bool], Captures | None]

#: Characters over which the captures of a regular expression are not looked for (RFC 5229 §3.2 sets none).
MAX_CAPTURED: Final = 64 * 1024
#: RFC 5229 §3.2: nine match variables at least.
MAX_CAPTURES: Final = 64

NOTHING: Final[Captures] = ()

OCTET, CASEMAP, NUMERIC, UNICODE = "i;octet", "i;ascii-casemap", "i;ascii-numeric", "i;unicode-casemap"
COMPARATORS: Final = frozenset({OCTET, CASEMAP, NUMERIC, UNICODE})
RELATIONS: Final[dict[str, Callable[[int], bool]]] = {
    "gt": lambda order: order > 0,
    "ge": lambda order: order >= 0,
    "lt": lambda order: order < 0,
    "le": lambda order: order <= 0,
    "eq": lambda order: order == 0,
    "ne": lambda order: order != 0,
}


def ascii_upper(text: str) -> str:
    """RFC 4790 §9.2: only the letters of ASCII."""
    if text.isascii():
        return text.upper()
    return text.encode("utf-8", "surrogatepass").upper().decode("utf-8", "surrogatepass")


def _unicode_fold_one(character: str) -> str:
    title = character.title()
    return unicodedata.normalize("NFKD", title if len(title) == 1 else character)


def unicode_fold(text: str) -> str:
    """RFC 5051 §2: titlecase, then decomposed, each character by itself."""
    if text.isascii():
        return text.upper()
    return "".join(map(_unicode_fold_one, text))


def _same(text: str) -> str:
    return text


FOLDS: Final[dict[str, Callable[[str], str]]] = {
    OCTET: _same,
    CASEMAP: ascii_upper,
    UNICODE: unicode_fold,
    NUMERIC: _same,
}


def number_of(text: str) -> int | None:
    """RFC 4790 §9.1: the leading digits; None is positive infinity."""
    end = 0
    while end < len(text) and text[end] in "0123456789":
        end += 1
    digits = text[:end].lstrip("0")
    if not end:
        return None
    if len(digits) > 4000:  # beyond what an integer may be read from at a reasonable price
        return 10**4000
    return int(digits or "0")


def compare(comparator: str, left: str, right: str) -> int:
    """-1, 0, 1 of two folded texts."""
    if comparator == NUMERIC:
        a, b = number_of(left), number_of(right)
        if a is None or b is None:
            return (a is None) - (b is None)
        return (a > b) - (a < b)
    return (left > right) - (left < right)


@attrs.frozen(slots=True)
class Match:
    """A match type with its comparator.

    :ivar relation: of :count and :value.
    """

    kind: Kind = "is"
    comparator: str = CASEMAP
    relation: str = ""

    def key(self, text: str) -> Key:
        """The key; :raises PatternError: where it is no pattern."""
        return make_key(self, text)

    @property
    def fold(self) -> Callable[[str], str]:
        """What values must go through before they are compared."""
        return FOLDS[self.comparator]

    def __str__(self) -> str:
        relation = f' "{self.relation}"' if self.relation else ""
        shown = "" if self.comparator == CASEMAP else f' :comparator "{self.comparator}"'
        return f":{self.kind}{relation}{shown}"


def make_key(match: Match, text: str) -> Key:
    """How ``text`` is compared under a match type.

    :raises PatternError: where it should be a regular expression and is none.
    """
    fold = match.fold
    if match.kind == "matches":
        return _Glob(text, match.comparator).match
    if match.kind == "regex":
        return _Pattern(text, match.comparator).match
    folded = fold(text)
    if match.kind == "contains":

        def contains(value: str, other: str, work: Work, want: bool) -> Captures | None:
            work.spend((len(other) >> 7) + 1)
            return NOTHING if folded in other else None

        return contains
    relation = RELATIONS[match.relation or "eq"]
    if match.kind == "is" and match.comparator != NUMERIC:

        def equal(value: str, other: str, work: Work, want: bool) -> Captures | None:
            work.spend(1)
            return NOTHING if folded == other else None

        return equal
    comparator = match.comparator

    def related(value: str, other: str, work: Work, want: bool) -> Captures | None:
        work.spend((len(other) >> 7) + 1)
        return NOTHING if relation(compare(comparator, other, folded)) else None

    return related


def _positions(text: str, comparator: str) -> list[int] | None:
    """For each character of the folded text where it came from; None where nothing moved."""
    if comparator != UNICODE or text.isascii():
        return None
    found: list[int] = []
    for index, character in enumerate(text):
        found += [index] * len(_unicode_fold_one(character))
    found.append(len(text))
    return found


# -- wildcards ------------------------------------------------------------------------------------------

_ANY_ONE: Final = None
_Segment = tuple[str | None, ...]


class _Glob:
    """``*`` and ``?`` (RFC 5228 §2.7.1): segments between stars, each found once, from left to right.

    A star takes as little as it can, so the leftmost place of each segment is the right one, and nothing is
    ever tried twice.
    """

    __slots__ = ("_comparator", "_finders", "_marks", "_segments")

    def __init__(self, pattern: str, comparator: str) -> None:
        fold = FOLDS[comparator]
        segments: list[list[str | None]] = [[]]
        marks: list[str] = []
        at = 0
        while at < len(pattern):
            character = pattern[at]
            at += 1
            if character == "*":
                marks.append("*")
                segments.append([])
            elif character == "?":
                marks.append("?")
                segments[-1].append(_ANY_ONE)
            else:
                if character == "\\" and at < len(pattern):
                    character = pattern[at]
                    at += 1
                segments[-1].extend(fold(character))
        self._comparator = comparator
        self._segments = [tuple(segment) for segment in segments]
        self._marks = marks
        self._finders = [_finder(segment) for segment in self._segments]

    def match(self, value: str, folded: str, work: Work, want: bool) -> Captures | None:
        work.spend((len(folded) >> 7) + len(self._segments))
        places = self._places(folded, work)
        if places is None:
            return None
        return self._captures(value, folded, places) if want else NOTHING

    def _places(self, text: str, work: Work) -> list[int] | None:
        """Where each segment stands."""
        segments = self._segments
        first, last = segments[0], segments[-1]
        if not _fits(first, text, 0):
            return None
        if len(segments) == 1:
            return [0] if len(text) == len(first) else None
        end = len(text) - len(last)
        position = len(first)
        places = [0]
        for segment, find in zip(segments[1:-1], self._finders[1:-1], strict=True):
            at = find(text, position, end, work)
            if at < 0:
                return None
            places.append(at)
            position = at + len(segment)
        if position > end or not _fits(last, text, end):
            return None
        places.append(end)
        return places

    def _captures(self, value: str, folded: str, places: list[int]) -> Captures:
        origin = _positions(value, self._comparator)

        def part(start: int, end: int) -> str:
            return value[start:end] if origin is None else value[origin[start] : origin[end]]

        found = [value]
        before = 0
        for index, (segment, place) in enumerate(zip(self._segments, places, strict=True)):
            if index:
                found.append(part(before, place))
            found += [
                part(place + offset, place + offset + 1)
                for offset, character in enumerate(segment)
                if character is _ANY_ONE
            ]
            before = place + len(segment)
            if len(found) > MAX_CAPTURES:
                break
        return tuple(found[:MAX_CAPTURES])


def _fits(segment: _Segment, text: str, at: int) -> bool:
    if at < 0 or at + len(segment) > len(text):
        return False
    return all(c is _ANY_ONE or c == text[at + offset] for offset, c in enumerate(segment))


def _finder(segment: _Segment) -> Callable[[str, int, int, Work], int]:
    """The leftmost place of a segment within bounds."""
    if _ANY_ONE not in segment:
        literal = "".join(c for c in segment if c is not _ANY_ONE)

        def find(text: str, start: int, end: int, work: Work) -> int:
            at = text.find(literal, start, max(start, end)) if start <= end else -1
            work.spend((max(0, (end if at < 0 else at) - start) >> 7) + 1 + (len(literal) >> 4))
            return at

        return find
    # Shift-and: one bit a character of the segment, all places tried at once.
    size = len(segment)
    everywhere = sum(1 << index for index, c in enumerate(segment) if c is _ANY_ONE)
    masks: dict[str, int] = {}
    for index, c in enumerate(segment):
        if c is not _ANY_ONE:
            masks[c] = masks.get(c, everywhere) | (1 << index)
    goal = 1 << (size - 1)

    def shift_and(text: str, start: int, end: int, work: Work) -> int:
        if end - start < size:
            return -1
        price = 1 + size // 64
        state = 0
        for position in range(start, end):
            state = ((state << 1) | 1) & masks.get(text[position], everywhere)
            if state & goal:
                work.spend((position - start + 1) * price)
                return position - size + 1
        work.spend((end - start) * price)
        return -1

    return shift_and


class _Pattern:
    """A regular expression under a comparator."""

    __slots__ = ("_comparator", "_regex")

    def __init__(self, pattern: str, comparator: str) -> None:
        self._comparator = comparator
        self._regex = Regex(pattern, FOLDS[comparator])

    def match(self, value: str, folded: str, work: Work, want: bool) -> Captures | None:
        if not self._regex.matches(folded, work):
            return None
        if not want:
            return NOTHING
        if len(folded) > MAX_CAPTURED:
            return NOTHING
        spans = self._regex.groups(folded, work)
        if spans is None:
            return NOTHING
        origin = _positions(value, self._comparator)
        if origin is not None:
            spans = [(origin[a], origin[b]) if a >= 0 else (a, b) for a, b in spans]
        return tuple(value[a:b] if a >= 0 and b >= 0 else "" for a, b in spans[:MAX_CAPTURES])


__all__ = [
    "CASEMAP",
    "COMPARATORS",
    "FOLDS",
    "NUMERIC",
    "OCTET",
    "RELATIONS",
    "UNICODE",
    "Captures",
    "Key",
    "Kind",
    "Match",
    "PatternError",
    "Work",
    "make_key",
]
