"""What tells an mbox file from the same one after a change.

A stamp is believed only if the file had been quiet for a moment when it was taken, or if the last change was
ours: we give the file a modification time that no other program's write in the same tick of the kernel's
clock can leave (:func:`sign`).
"""

from __future__ import annotations

import os
import time
from typing import Final

#: Inode, size, mtime, ctime.
Stamp = tuple[int, int, int, int]

#: The kernel's clock for mtimes is coarse; a change within one tick of the last one would not show.
TICK_NS: Final = 25_000_000


def stamp_of(descriptor: int) -> Stamp:
    """The file's stamp now."""
    facts = os.fstat(descriptor)
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def believed(stamp: Stamp) -> bool:
    """Whether a change after this moment will show."""
    return time.time_ns() - max(stamp[2], stamp[3]) > TICK_NS


def sign(descriptor: int) -> None:
    """Give the file, which we have just changed, the time of now to the nanosecond. The time of access, by
    which programs tell new mail, stays."""
    facts = os.fstat(descriptor)
    os.utime(descriptor, ns=(facts.st_atime_ns, time.time_ns()))
