"""The last logins of every account, good and refused, for its owner's eyes (``lorrainemail account logins``).

Called by the gate after each attempt at an account that exists. What is alike (account, peer, door,
mechanism, label of the password) is one row with the first and last time and a count, so that a phone which
asks every minute takes one row. Rows gather in memory and are written every :data:`GATHER` seconds; a crash
loses at most those. Bounded: :data:`ROWS_EACH` rows an account and outcome, :data:`KEEP` seconds, and
:data:`MAX_WAITING` in memory. When the disk fails, nothing waits: the rows are dropped and the log says so.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lorrainemail.envelope import Session
from lorrainemail.sasl.book import Book

log = Logger(namespace="lorrainemail.sasl")

#: Seconds in which rows gather.
GATHER: Final = 5.0
#: Rows kept of an account, of good logins and of refused ones.
ROWS_EACH: Final = 50
#: Seconds that a row is kept after its last login.
KEEP: Final = 90 * 86_400.0
#: Rows that wait; more are dropped.
MAX_WAITING: Final = 20_000
#: (account, network) pairs that are told to the throttle at a start, and how old they may be.
MAX_KNOWN: Final = 10_000
KNOWN_FOR: Final = 30 * 86_400.0
MAX_TEXT: Final = 200


@attrs.frozen(slots=True)
class Row:
    """Logins that were alike.

    :ivar how: the mechanism of good ones, the reason of refused ones.
    :ivar label: of the password that was used, "" for the account's own (or none).
    :ivar first: wall-clock seconds, as ``last``.
    """

    account: str
    good: bool
    peer: str
    door: str
    how: str
    label: str
    first: float
    last: float
    count: int


_Key = tuple[str, int, str, str, str, str]


class LoginRecord:
    """See the module.

    :param clock: for the gathering.
    """

    def __init__(self, book: Book, clock: IReactorTime, wall_clock: Callable[[], float] = time.time) -> None:
        self._book = book
        self._clock = clock
        self._wall_clock = wall_clock
        self._waiting: dict[_Key, tuple[float, float, int]] = {}
        self._dropped = 0
        self._call: IDelayedCall | None = None

    def note(self, session: Session, account: str, good: bool, how: str, label: str = "") -> None:
        """An attempt at an account, by its folded address."""
        now = self._wall_clock()
        key = (account, int(good), session.peer, session.door, how[:MAX_TEXT], label[:MAX_TEXT])
        first, _, count = self._waiting.get(key, (now, now, 0))
        if not count and len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting[key] = first, now, count + 1
        if self._call is None:
            self._call = self._clock.callLater(GATHER, self._due)

    def known(self) -> list[tuple[str, str]]:
        """(account, peer) of the newest good logins, for a start; oldest first. Blocks for milliseconds."""

        def ask(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            rows = connection.execute(
                "SELECT account, peer FROM login WHERE good AND last > ? ORDER BY last DESC LIMIT ?",
                (self._wall_clock() - KNOWN_FOR, MAX_KNOWN),
            )
            return [(account, peer) for account, peer in rows][::-1]

        try:
            return self._book.read_now(ask) or []
        except (sqlite3.Error, OSError) as error:
            log.error("The record of logins cannot be read: {reason}", reason=str(error))
            return []

    def flush(self) -> Deferred[None]:
        """Write what waits; fires when it can be read. Never fails."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return self._write()

    def _due(self) -> None:
        self._call = None
        self._write()

    def _write(self) -> Deferred[None]:
        waiting, self._waiting = self._waiting, {}
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warn("{count} logins were too many to be recorded", count=dropped)
        if not waiting:
            return succeed(None)
        now = self._wall_clock()
        writing = self._book.write(lambda connection: _store(connection, waiting, now))
        return writing.addErrback(
            lambda failure: log.error(
                "{count} kinds of logins could not be recorded: {reason}",
                count=len(waiting),
                reason=failure.getErrorMessage(),
            )
        )


def _store(connection: sqlite3.Connection, waiting: dict[_Key, tuple[float, float, int]], now: float) -> None:
    connection.executemany(
        "INSERT INTO login VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "last = excluded.last, count = count + excluded.count",
        [(*key, *times) for key, times in waiting.items()],
    )
    for account, good in {key[:2] for key in waiting}:
        connection.execute(
            "DELETE FROM login WHERE account = ? AND good = ? AND last < "
            "(SELECT last FROM login WHERE account = ? AND good = ? ORDER BY last DESC LIMIT 1 OFFSET ?)",
            (account, good, account, good, ROWS_EACH - 1),
        )
    connection.execute("DELETE FROM login WHERE last < ?", (now - KEEP,))


def logins_of(connection: sqlite3.Connection, account: str) -> list[Row]:
    """The rows of an account (its folded address), the newest first."""
    rows = connection.execute("SELECT * FROM login WHERE account = ? ORDER BY last DESC", (account,))
    return [Row(name, bool(good), *rest) for name, good, *rest in rows]
