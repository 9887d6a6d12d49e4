"""Loaded by a server's interpreter that has this directory in PYTHONPATH: its disk fails now and then.

``LORRAINEMAIL_FAULTS`` says how often (0.01: one call in a hundred). Opening fails with EMFILE, writing with
ENOSPC after half of the octets, syncing a file with EIO; all before anything else of the call is done, as the
kernel does it. Directories do not fail: after that nothing is written for half a minute, which other tests
look at.
"""

import errno
import os
import random
from collections.abc import Sequence

from lorrainemail.ops.files import CREATE, Files

RATE = float(os.environ.get("LORRAINEMAIL_FAULTS", "0"))

_open, _write, _fsync = Files.open, Files.write, Files.fsync


def fails() -> bool:
    return random.random() < RATE


def open_(self: Files, path: str, flags: int = CREATE, mode: int = 0o600) -> int:
    if fails():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
    return _open(self, path, flags, mode)


def write(self: Files, descriptor: int, buffers: Sequence[bytes]) -> None:
    if fails():
        data = b"".join(buffers)
        _write(self, descriptor, (data[: len(data) // 2],))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    _write(self, descriptor, buffers)


def fsync(self: Files, descriptor: int) -> None:
    if fails():
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _fsync(self, descriptor)


if RATE:
    Files.open, Files.write, Files.fsync = open_, write, fsync  # type: ignore[method-assign]
