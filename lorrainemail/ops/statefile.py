"""A SQLite file of the state directory that one part of the server owns.

Threads and commands call it; a lock makes them one after the other. It is made at the first need with mode
0600, whatever the umask. Raises sqlite3.Error and OSError.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lorrainemail.ops.database import make_private

#: The table of :meth:`StateFile.mark`, for schemas that want it.
MARKS: Final = "CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;\n"
#: Seconds that a lock of another process is waited for.
PATIENCE: Final = 10.0


class StateFile:
    """The file.

    :param schema: statements that make what is missing.
    :ivar lock: to be held around :meth:`connection`.
    """

    def __init__(self, path: str, schema: str) -> None:
        self.lock = threading.Lock()
        self._path = path
        self._schema = schema
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let the file go."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self._connection is not None or os.path.exists(self._path)

    def connection(self) -> sqlite3.Connection:
        """The file, opened."""
        if self._connection is None:
            make_private(self._path)
            connection = sqlite3.connect(
                self._path,
                isolation_level=None,
                timeout=PATIENCE,
                check_same_thread=False,
                cached_statements=16,
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.executescript(self._schema)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The file for questions."""
        with self.lock:
            yield self.connection()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        with self.lock:
            connection = self.connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def mark(self, name: str) -> str:
        """A value that was set, "" where none was."""
        with self.reading() as connection:
            row = connection.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_mark(self, name: str, value: str) -> None:
        """Keep a value."""
        with self.writing() as connection:
            connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, value))
