"""A SQLite file's first moment: there, ours alone, and never opened by anything but SQLite again.

SQLite's locks are POSIX locks, which a process loses for a file as soon as it closes *any* descriptor of
it: a second connection of the same process whose maker touched the file first would leave the first one
without its locks, and another process (a command beside the server) would take away the write-ahead log
under it. So the file is only ever created here, exclusively, and not opened where it is there already.
"""

from __future__ import annotations

import os


def make_private(path: str) -> None:
    """See to it that the file is there, for us alone (0600).

    :raises OSError: where it cannot be made, or is a link.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        if os.path.islink(path):
            raise
