"""The text index of one home: an SQLite file beside the index that says which messages may hold a text.

``search.sqlite`` holds, for the folders in which somebody has searched texts, the grams of every message
(:mod:`lorrainemail.message.searchable`) in an FTS5 table without the texts themselves: some 0.8 octets for
each octet of text, 2.4 KB a message of 3 KiB. It only preselects: whoever searches looks at the messages
that it names. It is a cache and nothing else: written lazily, in the background, never by a delivery; a file
that is damaged, of another version or mostly about messages that are gone is removed, and begun anew.

A folder is known here by its MAILBOXID and UIDVALIDITY, so rows of a folder that began anew are never taken
for its messages. UIDs up to a mark are in; what came later is not. Rows of expunged messages stay until the
file is begun anew. Callers: the jobs of the home's strand, one thread at a time. Failures: ``sqlite3.Error``,
after which the caller closes it (:meth:`TextIndex.discard`) and searches without.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

#: Grams of one question; more would hardly narrow it further.
MAX_ASKED: Final = 24
#: Rows about messages that are gone, beyond as many as there are others, after which the file is begun anew.
MAX_STALE: Final = 2000

_VERSION: Final = 1
_SCHEMA: Final = f"""
BEGIN;
CREATE TABLE folders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mailbox_id TEXT NOT NULL,
    uid_validity INTEGER NOT NULL,
    mark INTEGER NOT NULL,               -- UIDs up to this are in
    messages INTEGER NOT NULL,           -- rows made, also of those that are gone
    UNIQUE (mailbox_id, uid_validity)
);
CREATE TABLE unsure (id INTEGER PRIMARY KEY);  -- folder << 32 | uid of messages too large for grams
CREATE VIRTUAL TABLE grams USING fts5 (text, content='', columnsize=0, detail=none, tokenize='ascii');
PRAGMA user_version={_VERSION};
COMMIT;
"""


@attrs.frozen(slots=True)
class Place:
    """A folder here. ``mark``: UIDs up to this are in; ``messages``: rows made."""

    number: int
    mark: int
    messages: int


class TextIndex:
    """An open text index.

    :param path: of ``search.sqlite``.
    :raises sqlite3.Error: where it cannot be had, even anew.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError:
            self._remove()
            self._db = self._connect()

    def _connect(self) -> sqlite3.Connection:
        if not os.path.exists(self._path):
            # Made by us, so that the mode is ours whatever the umask.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA journal_size_limit=4194304")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not version:
                db.executescript(_SCHEMA)
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"text index of version {version}")
        except BaseException:
            db.close()
            raise
        return db

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            try:
                os.unlink(self._path + suffix)
            except FileNotFoundError:
                pass

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def discard(self) -> None:
        """The file is of no use: close and remove it."""
        self._db.close()
        self._remove()

    def place(self, mailbox_id: str, uid_validity: int) -> Place | None:
        """What is known of a folder, None where nothing is."""
        found = self._db.execute(
            "SELECT id, mark, messages FROM folders WHERE mailbox_id = ? AND uid_validity = ?",
            (mailbox_id, uid_validity),
        ).fetchone()
        return None if found is None else Place(*found)

    def totals(self) -> int:
        """Rows made, of all folders, also of messages and folders that are gone."""
        (found,) = self._db.execute("SELECT total(messages) FROM folders").fetchone()
        return int(found)

    def add(
        self, mailbox_id: str, uid_validity: int, messages: Iterable[tuple[int, set[str] | None]], mark: int
    ) -> None:
        """The grams of messages by UID (None for one that every search must look at); all UIDs up to ``mark``
        are in then. One transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute(
                "INSERT OR IGNORE INTO folders (mailbox_id, uid_validity, mark, messages) "
                "VALUES (?, ?, 0, 0)",
                (mailbox_id, uid_validity),
            )
            place = self.place(mailbox_id, uid_validity)
            assert place is not None
            count = 0
            for uid, grams in messages:
                if uid <= place.mark:
                    continue
                count += 1
                row = place.number << 32 | uid
                if grams is None:
                    self._db.execute("INSERT INTO unsure VALUES (?)", (row,))
                else:
                    self._db.execute("INSERT INTO grams (rowid, text) VALUES (?, ?)", (row, " ".join(grams)))
            self._db.execute(
                "UPDATE folders SET mark = max(mark, ?), messages = messages + ? WHERE id = ?",
                (mark, count, place.number),
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def candidates(self, place: Place, grams: Sequence[str], first: int, last: int) -> list[int]:
        """UIDs of a range whose messages have all of these grams, and of those of which nobody knows."""
        low, high = place.number << 32 | first, place.number << 32 | last
        asked = sorted(grams)
        if len(asked) > MAX_ASKED:  # evenly out of all of them
            asked = [asked[at * len(asked) // MAX_ASKED] for at in range(MAX_ASKED)]
        question = " AND ".join(f'"{gram}"' for gram in asked)
        found = [
            row & 0xFFFFFFFF
            for (row,) in self._db.execute(
                "SELECT rowid FROM grams WHERE grams MATCH ? AND rowid BETWEEN ? AND ?", (question, low, high)
            )
        ]
        found += [
            row & 0xFFFFFFFF
            for (row,) in self._db.execute("SELECT id FROM unsure WHERE id BETWEEN ? AND ?", (low, high))
        ]
        return found

    def size(self) -> int:
        """Octets on disk."""
        return os.path.getsize(self._path)
