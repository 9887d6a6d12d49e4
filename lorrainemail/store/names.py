"""Unique base names of Maildir files, as the format asks: time, a part unique on this host, the host.

Made in the reactor thread and in the store's threads alike; two are never the same (process id and a counter
beside the microseconds).
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Final

_UNSAFE: Final = {ord("/"): "\\057", ord(":"): "\\072", ord(","): "\\054"}


class UniqueNames:
    """Makes base names for one host."""

    __slots__ = ("_counter", "_tail")

    def __init__(self, hostname: str) -> None:
        self._counter = itertools.count(1)
        host = "".join(c for c in hostname.translate(_UNSAFE) if c.isprintable() and c.isascii())[:60]
        self._tail = f".{host or 'localhost'}"

    def stem(self) -> str:
        """The unique part; fit for tmp/ as it is."""
        now = time.time_ns()
        pid = os.getpid()
        return f"{now // 10**9}.M{now // 1000 % 10**6:06}P{pid}Q{next(self._counter)}{self._tail}"

    @staticmethod
    def with_sizes(stem: str, disk: int, wire: int, raw: bool) -> str:
        """The base name of a message that takes so many octets on disk and with CRLF.

        ``raw``: it is kept with CRLF, for it has a bare CR or LF.
        """
        return f"{stem},S={disk},W={wire},C=1" if raw else f"{stem},S={disk},W={wire}"
