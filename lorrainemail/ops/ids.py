"""Ids of sessions and messages: unique, ordered by time, safe in file names, headers and logs.

Called once a session and once a message by the doors and the injector. 45 bits of milliseconds and 40 random
bits as 17 characters of a lower-case alphabet without look-alikes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Final

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
#: Octets of randomness asked of the system at once, and those of one id.
_STOCK: Final = 4000
_RANDOM: Final = 5


class _Ids:
    """The part that is the same for a millisecond, and randomness in stock; for threads too."""

    def __init__(self) -> None:
        self._time = (-1, "")
        self._stock: deque[bytes] = deque()

    def __call__(self) -> str:
        now = time.time_ns() // 1_000_000
        known, first = self._time
        if now != known:
            first = _ALPHABET[now >> 40 & 31] + "".join(
                [_PAIRS[now >> shift & 1023] for shift in (30, 20, 10, 0)]
            )
            self._time = (now, first)
        try:
            octets = self._stock.pop()
        except IndexError:
            fresh = os.urandom(_STOCK)
            octets, *rest = [fresh[at : at + _RANDOM] for at in range(0, _STOCK, _RANDOM)]
            self._stock.extend(rest)
        value = int.from_bytes(octets, "big")
        return (
            f"{first}{_PAIRS[value >> 30]}{_PAIRS[value >> 20 & 1023]}"
            f"{_PAIRS[value >> 10 & 1023]}{_PAIRS[value & 1023]}"
        )

    def forget(self) -> None:
        """In a child after a fork: the parent has the same stock."""
        self._stock.clear()


_ids = _Ids()
os.register_at_fork(after_in_child=_ids.forget)


def new_id() -> str:
    """A new id: 17 characters of ``[0-9a-z]``; later ones sort after earlier ones (to the millisecond)."""
    return _ids()
