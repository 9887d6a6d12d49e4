"""Ids of sessions and messages: unique, ordered by time, safe in file names, headers and logs.

Called once a session and once a message by the doors and the injector. 45 bits of milliseconds and 40 random
bits as 17 characters of a lower-case alphabet without look-alikes.
"""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS = tuple(range(70, -1, -10))


def new_id() -> str:
    """A new id: 17 characters of ``[0-9a-z]``; later ones sort after earlier ones (to the millisecond)."""
    value = (time.time_ns() // 1_000_000) << 40 | int.from_bytes(os.urandom(5), "big")
    pairs = _PAIRS
    return _ALPHABET[value >> 80 & 31] + "".join([pairs[value >> shift & 1023] for shift in _SHIFTS])
