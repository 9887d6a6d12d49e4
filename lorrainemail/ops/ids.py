"""Ids of sessions and messages: unique, ordered by time, safe in file names, headers and logs.

Called once a session and once a message by the doors and the injector. 45 bits of milliseconds and 40 random
bits as 17 characters of a lower-case alphabet without look-alikes.
"""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_DIGITS = 17


def new_id() -> str:
    """A new id: 17 characters of ``[0-9a-z]``; later ones sort after earlier ones (to the millisecond)."""
    value = (time.time_ns() // 1_000_000) << 40 | int.from_bytes(os.urandom(5), "big")
    digits = []
    for _ in range(_DIGITS):
        digits.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(digits))
