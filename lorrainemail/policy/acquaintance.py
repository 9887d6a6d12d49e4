"""Who wrote to whom before: ``policy.sqlite`` in the state directory, for the check ``greylist``.

Owns that file. Two tables, both bounded in rows and time: which domains an account had mail from or wrote to,
and which first tries of strangers were deferred when. All methods block and are called in threads; a lock
makes them one after the other. A file that cannot be used raises sqlite3.Error or OSError, which fail the
check; it holds nothing that mail depends on and may be deleted at any time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from lorrainemail.ops.statefile import StateFile

#: Seconds for which an acquaintance, a try that came again, and one that has not yet come again are kept.
KEEP_KNOWN: Final = 400 * 86400.0
KEEP_PASSED: Final = 36 * 86400.0
KEEP_WAITING: Final = 2 * 86400.0
#: Rows of each table; the oldest go first.
MAX_KNOWN: Final = 500_000
MAX_TRIES: Final = 200_000
#: Writes between two looks for what is too old or too much.
SWEEP: Final = 2000
#: Seconds for which a row's time is left as it is, so that not every message writes.
FRESH: Final = 86400.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS known (
    account TEXT NOT NULL, domain TEXT NOT NULL, time REAL NOT NULL, PRIMARY KEY (account, domain)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS known_time ON known (time);
CREATE TABLE IF NOT EXISTS tried (
    network TEXT NOT NULL, sender TEXT NOT NULL, recipient TEXT NOT NULL, first REAL NOT NULL,
    last REAL NOT NULL, passed INTEGER NOT NULL, PRIMARY KEY (network, sender, recipient)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tried_last ON tried (last);
"""


class Acquaintances(StateFile):
    """The file.

    :param path: of ``policy.sqlite``; made with mode 0600 at the first write.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, _SCHEMA)
        self._writes = 0

    def known(self, accounts: Sequence[str], domain: str) -> bool:
        """Whether any of the accounts knows the domain."""
        if not self.exists():
            return False
        with self.reading() as connection:
            query = "SELECT 1 FROM known WHERE account = ? AND domain = ?"
            return any(connection.execute(query, (account, domain)).fetchone() for account in accounts)

    def meet(self, accounts: Sequence[str], domains: Sequence[str], now: float) -> None:
        """Each of the accounts knows each of the domains from now on."""
        rows = [(account, domain, now) for account in accounts for domain in domains]
        with self.writing() as connection:
            connection.executemany(
                "INSERT INTO known VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET time = excluded.time "
                f"WHERE excluded.time - time > {FRESH}",
                rows,
            )
            self._sweep(connection, now)

    def waited(
        self, network: str, sender: str, recipient: str, now: float, wait: float, write: bool
    ) -> float:
        """Seconds that such a message must still wait; 0 where it came again late enough.

        :param write: note this try.
        """
        if not write and not self.exists():
            return wait
        with self.writing() if write else self.reading() as connection:
            row = connection.execute(
                "SELECT first, last, passed FROM tried WHERE network = ? AND sender = ? AND recipient = ?",
                (network, sender, recipient),
            ).fetchone()
            if row is not None and now - row[1] > (KEEP_PASSED if row[2] else KEEP_WAITING):
                row = None
            first = now if row is None or row[0] > now else row[0]
            left = 0.0 if row is not None and row[2] else max(0.0, first + wait - now)
            if write:
                connection.execute(
                    "INSERT INTO tried VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                    "first = excluded.first, last = excluded.last, passed = excluded.passed",
                    (network, sender, recipient, first, now, int(not left)),
                )
                self._sweep(connection, now)
        return left

    def _sweep(self, connection: sqlite3.Connection, now: float) -> None:
        """Now and then: what is too old or too much."""
        self._writes += 1
        if self._writes % SWEEP != 1:
            return
        connection.execute("DELETE FROM known WHERE time < ?", (now - KEEP_KNOWN,))
        connection.execute(
            "DELETE FROM tried WHERE last < ? OR (NOT passed AND last < ?)",
            (now - KEEP_PASSED, now - KEEP_WAITING),
        )
        for table, column, most in (("known", "time", MAX_KNOWN), ("tried", "last", MAX_TRIES)):
            row = connection.execute(
                f"SELECT {column} FROM {table} ORDER BY {column} DESC LIMIT 1 OFFSET ?", (most,)
            ).fetchone()
            if row is not None:
                connection.execute(f"DELETE FROM {table} WHERE {column} <= ?", row)
