"""Sequence sets and UID sets (RFC 3501 §9 ``sequence-set``), kept as ranges, never as lists of numbers.

Resolving one against a mailbox of n messages costs O(ranges · log n + result). Callers: the IMAP door.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

#: Ranges in one set.
MAX_RANGES: Final = 20_000
#: RFC 3501 §9: numbers are unsigned 32-bit; "*" is kept as this one.
STAR: Final = 1 << 32

_SET = re.compile(
    rb"(?:[1-9][0-9]{0,9}|\*)(?::(?:[1-9][0-9]{0,9}|\*))?(?:,(?:[1-9][0-9]{0,9}|\*)(?::(?:[1-9][0-9]{0,9}|\*))?)*\Z"
)


@attrs.frozen(slots=True)
class SequenceSet:
    """Ranges (low, high) as written, ``STAR`` for "*".

    :ivar saved: "$", what the last search saved (RFC 5182 §2.1); then there are no ranges.
    """

    ranges: tuple[tuple[int, int], ...]
    saved: bool = False

    @property
    def highest(self) -> int:
        """The largest number named, "*" left out."""
        return max((n for pair in self.ranges for n in pair if n != STAR), default=0)

    @property
    def has_star(self) -> bool:
        return any(STAR in pair for pair in self.ranges)

    def resolved(self, star: int) -> list[tuple[int, int]]:
        """Ranges with "*" replaced, ascending, none touching another."""
        pairs = []
        for low, high in self.ranges:
            first = star if low == STAR else low
            last = star if high == STAR else high
            pairs.append((first, last) if first <= last else (last, first))
        pairs.sort()
        merged: list[tuple[int, int]] = []
        for first, last in pairs:
            if merged and first <= merged[-1][1] + 1:
                if last > merged[-1][1]:
                    merged[-1] = (merged[-1][0], last)
            else:
                merged.append((first, last))
        return merged

    def indexes(self, uids: Sequence[int], by_uid: bool) -> list[int]:
        """Ascending positions in ``uids`` (ascending) of the messages meant; numbers beyond are left out."""
        size = len(uids)
        found: list[int] = []
        if not size:
            return found
        for first, last in self.resolved(uids[-1] if by_uid else size):
            if by_uid:
                found.extend(range(bisect_left(uids, first), bisect_right(uids, last)))
            else:
                found.extend(range(max(first, 1) - 1, min(last, size)))
        return found


#: RFC 5182 §2.1 ``seq-last-command``.
SAVED: Final = SequenceSet((), True)


def intersect(numbers: Iterable[int], ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Those of the numbers that lie in resolved ranges."""
    starts = [first for first, _ in ranges]
    found: list[int] = []
    for number in numbers:
        at = bisect_right(starts, number) - 1
        if at >= 0 and number <= ranges[at][1]:
            found.append(number)
    return found


def parse_set(text: bytes) -> SequenceSet | None:
    """A sequence set, None where it is malformed or over a bound."""
    if _SET.match(text) is None or text.count(b",") >= MAX_RANGES:
        return None
    ranges = []
    for item in text.split(b","):
        low, colon, high = item.partition(b":")
        first = STAR if low == b"*" else int(low)
        last = first if not colon else STAR if high == b"*" else int(high)
        if (first > STAR - 1 and low != b"*") or (last > STAR - 1 and (high or low) != b"*"):
            return None
        ranges.append((first, last))
    return SequenceSet(tuple(ranges))


def print_set(numbers: Iterable[int]) -> bytes:
    """Numbers in the order given, runs joined: ``1:3,7`` (RFC 4315 §4 keeps order)."""
    runs: list[tuple[int, int]] = []
    first = last = -1
    for number in numbers:
        if number == last + 1 and first >= 0:
            last = number
            continue
        if first >= 0:
            runs.append((first, last))
        first = last = number
    if first >= 0:
        runs.append((first, last))
    return print_ranges(runs)


def print_ranges(runs: Iterable[tuple[int, int]]) -> bytes:
    """First and last numbers as a set."""
    return b",".join(b"%d" % first if first == last else b"%d:%d" % (first, last) for first, last in runs)
