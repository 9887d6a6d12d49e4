"""Whether what a file says is as good as the operator's own word: whether others could have written it.

Commands and files as targets are believed only then. Blocking, a few calls of ``stat``.
"""

from __future__ import annotations

import os
import stat


def is_trusted(path: str, server: int) -> bool:
    """Whether only root and the server's user could write that file, or put another in its place.

    :param server: the number of the server's user.
    """
    try:
        real = os.path.realpath(path, strict=True)
        if not _ours(os.stat(real), server, False):
            return False
        while real != "/":
            real = os.path.dirname(real)
            if not _ours(os.stat(real), server, True):
                return False
    except OSError:
        return False
    return True


def _ours(facts: os.stat_result, server: int, sticky: bool) -> bool:
    """``sticky``: a directory for everybody will do where nobody can replace the files of others."""
    if facts.st_uid not in (0, server):
        return False
    return not facts.st_mode & 0o022 or (sticky and bool(facts.st_mode & stat.S_ISVTX))
