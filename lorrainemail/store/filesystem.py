"""On which file systems the mail may lie: not on one that other machines share over the network.

SQLite's log needs memory that all its users share, and locks that hold; NFS and its like promise neither, and
a damaged index would be noticed late. Asked once, at start.
"""

from __future__ import annotations

import os
import re
from typing import Final

#: Types as Linux names them.
_SHARED: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs", "9p", "ceph"}
)
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def network_type(path: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of the network file system that a path lies on, "" where it is none (or nobody can tell).

    :param mounts: proc(5) mountinfo.
    """
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    path = os.path.realpath(path)
    best, found = "", ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if len(words) < 5 or not rest:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), words[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one point the later one hides the other
            best, found = point, rest.split(" ")[0]
    return found if found in _SHARED else ""
