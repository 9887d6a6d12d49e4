"""What one account taught the classifier: ``classifier.sqlite`` in its home, and what follows from it.

Owns that file: how often each word stood in junk and in other mail, and which messages were learned as what,
so that none counts twice and one that is moved back is unlearned. Bounded: over :data:`MAX_WORDS` words those
that were seen once and longest ago go. :meth:`ClassifierFile.judge` combines the words that tell most by
Fisher's method, as Robinson proposed it. All methods block and are called in threads. Raises sqlite3.Error
and OSError.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from lorrainemail.ops.database import make_private

FILE: Final = "classifier.sqlite"
#: Words, and messages, that are remembered.
MAX_WORDS: Final = 200_000
MAX_LEARNED: Final = 50_000
#: Messages of either kind that must have been learned before anything is said.
LEAST: Final = 5
#: Words that decide, and how far from even a word must be to be one.
MAX_DECIDING: Final = 120
FAR: Final = 0.1
#: What is believed of a word never seen, and how much that weighs (in messages).
UNKNOWN: Final = 0.5
STRENGTH: Final = 0.45
#: From which score on a message is junk.
JUNK: Final = 0.9

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS word (
    word TEXT PRIMARY KEY, junk INTEGER NOT NULL, other INTEGER NOT NULL, last INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS learned (
    message TEXT PRIMARY KEY, junk INTEGER NOT NULL, number INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


@attrs.frozen(slots=True)
class Judgement:
    """What is thought of a message.

    :ivar score: from 0 (surely not junk) to 1; None where too little was learned yet.
    :ivar deciding: the words that told most, with the share of junk among the messages that have them.
    """

    score: float | None
    deciding: tuple[tuple[str, float], ...] = ()
    learned: tuple[int, int] = (0, 0)

    @property
    def junk(self) -> bool:
        return self.score is not None and self.score >= JUNK

    def __str__(self) -> str:
        if self.score is None:
            return f"too little was learned yet: {self.learned[0]} junk, {self.learned[1]} other"
        told = ", ".join(f"{word} {round(100 * share)} %" for word, share in self.deciding[:8])
        return f"{round(100 * self.score)} % junk ({told})"


class ClassifierFile:
    """The file of one account; open it for one piece of work.

    :param home: the account's home.
    """

    def __init__(self, home: str) -> None:
        self._path = os.path.join(home, FILE)

    def judge(self, words: Iterable[str]) -> Judgement:
        """What the account's mail so far says of a message with these words."""
        if not os.path.exists(self._path):
            return Judgement(None)
        with self._open() as connection:
            junk, other = self._totals(connection)
            if junk < LEAST or other < LEAST:
                return Judgement(None, (), (junk, other))
            shares: list[tuple[float, str, float]] = []
            for word in words:
                row = connection.execute("SELECT junk, other FROM word WHERE word = ?", (word,)).fetchone()
                if row is not None:
                    share = _share(row[0], row[1], junk, other)
                    if abs(share - 0.5) >= FAR:
                        shares.append((abs(share - 0.5), word, share))
        shares.sort(reverse=True)
        deciding = tuple((word, share) for _, word, share in shares[:MAX_DECIDING])
        return Judgement(_combined([share for _, share in deciding]), deciding, (junk, other))

    def learn(self, message: str, words: Iterable[str], junk: bool) -> bool:
        """Learn a message by its EMAILID; unlearn what it was before. False where it is known as that."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = self._learn(connection, message, list(words), junk)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
        return done

    def _learn(self, connection: sqlite3.Connection, message: str, words: list[str], junk: bool) -> bool:
        row = connection.execute("SELECT junk FROM learned WHERE message = ?", (message,)).fetchone()
        if row is not None and bool(row[0]) == junk:
            return False
        (number,) = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM learned").fetchone()
        connection.execute("INSERT OR REPLACE INTO learned VALUES (?, ?, ?)", (message, junk, number))
        mine, its = ("junk", "other") if junk else ("other", "junk")
        connection.executemany(
            f"INSERT INTO word (word, {mine}, {its}, last) VALUES (?, 1, 0, ?) "
            f"ON CONFLICT DO UPDATE SET {mine} = {mine} + 1, last = excluded.last",
            [(word, number) for word in words],
        )
        if row is not None:
            connection.executemany(
                f"UPDATE word SET {its} = {its} - 1 WHERE word = ? AND {its} > 0", [(word,) for word in words]
            )
        self._count(connection, mine, 1)
        if row is not None:
            self._count(connection, its, -1)
        (held,) = connection.execute("SELECT count(*) FROM word").fetchone()
        if held > MAX_WORDS:
            connection.execute(
                "DELETE FROM word WHERE word IN "
                "(SELECT word FROM word ORDER BY junk + other > 1, last LIMIT ?)",
                (held - MAX_WORDS * 9 // 10,),
            )
        connection.execute("DELETE FROM learned WHERE number < ?", (number - MAX_LEARNED,))
        return True

    @staticmethod
    def _count(connection: sqlite3.Connection, name: str, change: int) -> None:
        connection.execute(
            "INSERT INTO mark VALUES (?, ?) ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + ?",
            (f"total {name}", change, change),
        )

    @staticmethod
    def _totals(connection: sqlite3.Connection) -> tuple[int, int]:
        rows = dict(
            connection.execute("SELECT name, CAST(value AS INTEGER) FROM mark WHERE name LIKE 'total %'")
        )
        return rows.get("total junk", 0), rows.get("total other", 0)

    def totals(self) -> tuple[int, int]:
        """Messages that were learned: junk, and others."""
        if not os.path.exists(self._path):
            return 0, 0
        with self._open() as connection:
            return self._totals(connection)

    def mark(self, name: str) -> str:
        """A value that was set, "" where none was."""
        if not os.path.exists(self._path):
            return ""
        with self._open() as connection:
            row = connection.execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
            return str(row[0]) if row else ""

    def set_mark(self, name: str, value: str) -> None:
        """Keep a value."""
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, value))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        make_private(self._path)
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_SCHEMA)
            yield connection
        finally:
            connection.close()


def _share(junk: int, other: int, all_junk: int, all_other: int) -> float:
    """Robinson's f(w): the share of junk among messages with a word, drawn to even while it is rare."""
    in_junk, in_other = min(1.0, junk / all_junk), min(1.0, other / all_other)
    if not in_junk + in_other:
        return UNKNOWN
    share, seen = in_junk / (in_junk + in_other), junk + other
    return (STRENGTH * UNKNOWN + seen * share) / (STRENGTH + seen)


def _combined(shares: list[float]) -> float:
    """Fisher's method on both sides: near 1 junk, near 0 not, near 0.5 nobody knows."""
    if not shares:
        return 0.5
    junk = 1 - _chi_squared(-2 * sum(math.log(1 - share) for share in shares), 2 * len(shares))
    other = 1 - _chi_squared(-2 * sum(math.log(share) for share in shares), 2 * len(shares))
    return (1 + junk - other) / 2


def _chi_squared(value: float, freedom: int) -> float:
    """The chance of at least that value, for an even number of degrees of freedom."""
    half = value / 2
    term = total = math.exp(-half)
    for number in range(1, freedom // 2):
        term *= half / number
        total += term
    return min(total, 1.0)
