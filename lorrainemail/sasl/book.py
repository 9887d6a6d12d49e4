"""``logins.sqlite``: what is remembered of logins over a restart; its schema and its one writer.

Owned here: the file. :mod:`lorrainemail.sasl.record` keeps last logins in it, :mod:`lorrainemail.sasl.bans`
bans. :meth:`Book.write` runs one transaction after the other in a thread; commands read and, where no server
runs, write by :func:`opened`. A file that is broken is put aside and begun anew, which the log says: a
server must not stay closed for what it remembered of logins. Fails with :class:`sqlite3.Error` or OSError.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from lorrainemail.ops.database import make_private

log = Logger(namespace="lorrainemail.sasl")

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

FILE_NAME: Final = "logins.sqlite"
#: Seconds that a writer waits for another one (a command beside the server).
BUSY: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS login (
    account TEXT NOT NULL, good INTEGER NOT NULL, peer TEXT NOT NULL, door TEXT NOT NULL, how TEXT NOT NULL,
    label TEXT NOT NULL, first REAL NOT NULL, last REAL NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (account, good, peer, door, how, label)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS login_last ON login (last);
CREATE TABLE IF NOT EXISTS ban (
    network TEXT PRIMARY KEY, scope TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
    strikes INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
"""


@contextlib.contextmanager
def opened(state: str) -> Iterator[sqlite3.Connection]:
    """The file of a state directory, made where it is missing. Blocks."""
    connection = _open(os.path.join(state, FILE_NAME))
    try:
        yield connection
    finally:
        connection.close()


def _open(path: str) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # busy, no permission, no space: nothing is broken
        log.error("{path} is broken ({reason}); it is put aside and begun anew", path=path, reason=str(error))
        for ending in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + ending)
        os.replace(path, path + ".broken")
        return _connect(path)


def _connect(path: str) -> sqlite3.Connection:
    # Made with its mode before SQLite opens it: it says who logs in from where.
    make_private(path)
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(_SCHEMA)
    except BaseException:
        connection.close()
        raise
    return connection


class Book:
    """The writer of a running server.

    :param in_thread: runs blocking work.
    """

    def __init__(self, state: str, in_thread: Callable[..., Deferred[Any]]) -> None:
        self._path = os.path.join(state, FILE_NAME)
        self._in_thread = in_thread
        self._connection: sqlite3.Connection | None = None
        self._lock = DeferredLock()

    def read_now(self, work: Work[T]) -> T | None:
        """Run a short question in the calling thread, before the server serves; None where there is no file
        yet."""
        if self._connection is None and not os.path.exists(self._path):
            return None
        return work(self._opened())

    def write(self, work: Work[T], durable: bool = False) -> Deferred[T]:
        """Run one transaction, after those that were asked for before.

        :param durable: synced before it answers; else it is within seconds.
        """

        def transaction() -> T:
            connection = self._opened()
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            return result

        return self._lock.run(self._in_thread, transaction)

    def close(self) -> Deferred[None]:
        """Close the file after what is being written."""

        def close() -> None:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

        return self._lock.run(close)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _open(self._path)
        return self._connection
