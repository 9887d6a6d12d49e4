"""The index of one home: an SQLite file that knows UIDs, MODSEQs, keywords and the facts of every message.

It is a cache of what the files say, and the truth about UIDs and MODSEQs. All of a home's folders share one
file, ``index.sqlite`` in WAL mode. Callers: the jobs of the home's strand, one thread at a time.

Durability of UIDs (RFC 3501 §2.3.1.1, RFC 7162 §3.1). Commits are not synced. Instead a folder owns a block
of UIDs and of MODSEQs that a synced commit has reserved; numbers are given out of it. An index that was last
written by another run of the server continues behind the reserved block, unless that run ended cleanly and
gave the rest of the block back. So no number that a client may have seen is used twice, and a delivery costs
no sync of its own.

Failures: ``sqlite3.Error``. A file that is no usable index is moved aside to ``index.sqlite.bad`` and a new
one is made; the folders' UIDVALIDITY then rises, unless UIDs are found elsewhere.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import attrs
from twisted.logger import Logger

from lorrainemail.interfaces import Column
from lorrainemail.message.summary import REPLY
from lorrainemail.store.flags import Keywords
from lorrainemail.store.schema import SCHEMA, SCHEMA_VERSION, UPGRADES

#: What stands for the directory of an account's mbox file; no Maildir++ directory has this name.
MBOX: Final = "mbox:"
#: UIDs and MODSEQs that one synced commit reserves.
UID_BLOCK: Final = 256
MODSEQ_BLOCK: Final = 65536
#: RFC 3501 §2.3.1.1: 32 bits, not 0.
MAX_UID: Final = 2**32 - 1
#: Rows of ``expunged`` kept a folder (RFC 7162 §3.2.7 lets a server forget).
MAX_EXPUNGED: Final = 20_000

#: Pages of the log from which on SQLite writes them into the index itself, which costs two syncs.
CHECKPOINT: Final = 4000

#: Messages of a folder from which on a copy of its view is kept.
MIN_KEPT_VIEW: Final = 1000

#: UIDs ascending, and the MODSEQ and the flags of each.
View = tuple["array[int]", "array[int]", "array[int]"]

#: Rows of one INSERT, as many as there are; see :meth:`Index._insert`.
_ROWS: Final = (16, 4, 1)

_log = Logger("lorrainemail.store")

_FOLDER_COLUMNS: Final = (
    "id, directory, mailbox_id, uid_validity, uid_next, uid_reserved, modseq, modseq_reserved, recent, "
    "keywords, special_use, new_seen, cur_seen, mirrored"
)


def _keywords(text: str) -> Keywords:
    return Keywords(text.split())


@attrs.define(slots=True)
class Folder:
    """One folder's row; changed in place and written back by :meth:`Index.save_folders`."""

    id: int
    directory: str
    mailbox_id: str
    uid_validity: int
    uid_next: int
    uid_reserved: int
    modseq: int
    modseq_reserved: int
    recent: int
    keywords: Keywords = attrs.field(converter=_keywords)
    special_use: str
    new_seen: int
    cur_seen: int
    mirrored: int
    dirty: bool = False

    def key(self, uid: int) -> int:
        """A message's row id."""
        return self.id << 32 | uid


@attrs.frozen(slots=True)
class Row:
    """One message as the jobs see it."""

    uid: int
    base: str
    place: int
    info: str
    modseq: int
    flags: int
    size: int
    internal_date: int
    save_date: int
    message_id: str

    @property
    def file(self) -> str:
        """Its path below the folder's directory."""
        return ("cur/" if self.place else "new/") + self.base + self.info


#: Where in :data:`_ROW` the size stands.
SIZE: Final = 6
_ROW: Final = "id & 4294967295, base, place, info, modseq, flags, size, internal_date, save_date, message_id"

_FACTS: Final = f"SELECT {_ROW} FROM messages WHERE id "
_WIRE: Final = (
    "SELECT m.id & 4294967295, modseq, flags, size, internal_date, save_date, message_id, envelope, "
    "structure "
    "FROM messages m LEFT JOIN wire w ON w.id = m.id WHERE m.id "
)
#: Where :data:`lorrainemail.interfaces.Column` stands; in ``wire`` where that begins with "w.".
_COLUMNS: Final[dict[str, str]] = {
    "size": "m.size",
    "internal_date": "m.internal_date",
    "envelope": "w.envelope",
    "sent": "w.sent",
    "base_subject": "w.base_subject",
    "is_reply": f"w.marks & {REPLY} != 0",
    "header_id": "w.header_id",
    "in_reply_to": "w.in_reply_to",
    "references": "w.refs",
}


class Index:
    """An open index.

    :param path: of ``index.sqlite``.
    :param run: what tells this run of the server from every other one.
    """

    def __init__(self, path: str, run: str) -> None:
        self._path = path
        self._run = run
        self._must_sync = False
        self._folders: dict[str, Folder] | None = None
        self._by_id: dict[int, Folder] = {}
        #: Tells this index from any that is made in its place.
        self.identity = ""
        try:
            self._db = self._connect()
        except sqlite3.DatabaseError as error:
            if not unusable(error):
                raise
            self.set_aside(str(error))
            self._db = self._connect()
        facts = os.stat(path)
        self._file = (facts.st_dev, facts.st_ino)

    def _connect(self) -> sqlite3.Connection:
        if not os.path.exists(self._path):
            # Made by us, so that the mode is ours whatever the umask.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        if not os.path.getsize(self._path):
            self._make()
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA journal_size_limit=4194304")
            db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            while 0 < version < SCHEMA_VERSION:
                db.executescript(f"BEGIN; {UPGRADES[version]} PRAGMA user_version={version + 1}; COMMIT")
                version += 1
            if version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"index of schema {version}: not a database of ours")
            self._take_over(db)
        except BaseException:
            db.close()
            raise
        return db

    def _make(self) -> None:
        """The tables, durably, by a connection of their own.

        While a connection is open nothing else in this process may open and close the file, to sync it for
        one: that drops the locks of SQLite, and another process that closes the index (an operator's
        command) would then take itself for the last one and remove the log that is being written.
        """
        db = sqlite3.connect(self._path, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT")
        finally:
            db.close()
        _sync(os.path.dirname(self._path))

    def _take_over(self, db: sqlite3.Connection) -> None:
        """Continue behind the reserved blocks where another run wrote last."""
        known = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('run', 'identity')"))
        self.identity = known.get("identity") or secrets.token_hex(8)
        if known.get("run") == self._run and known.get("identity"):
            return
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT OR IGNORE INTO meta VALUES ('identity', ?)", (self.identity,))
        db.execute("UPDATE folders SET uid_next = max(uid_next, uid_reserved + 1), modseq = modseq_reserved")
        db.execute("INSERT OR REPLACE INTO meta VALUES ('run', ?)", (self._run,))
        db.execute("COMMIT")

    def set_aside(self, why: str) -> None:
        """Move an unusable index away."""
        _log.error("The index {path} cannot be used and is made anew: {why}", path=self._path, why=why)
        for suffix in ("-wal", "-shm"):
            try:
                os.unlink(self._path + suffix)
            except FileNotFoundError:
                pass
        try:
            os.replace(self._path, self._path + ".bad")
        except FileNotFoundError:
            pass

    def in_place(self) -> bool:
        """Whether the file at our path is still the one that we have open."""
        try:
            facts = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (facts.st_dev, facts.st_ino) == self._file

    # -- transactions ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a batch."""
        self._db.execute("BEGIN")

    def savepoint(self) -> None:
        """Mark the beginning of a job."""
        self._db.execute("SAVEPOINT job")

    def release(self) -> None:
        """The job is done."""
        self.save_folders()
        self._db.execute("RELEASE job")

    def undo(self) -> None:
        """The job failed: as if it had not been."""
        self._folders = None
        self._db.execute("ROLLBACK TO job")
        self._db.execute("RELEASE job")

    def commit(self) -> None:
        """End the batch; synced where numbers were reserved in it."""
        self._db.execute("COMMIT")
        if self._must_sync:
            _sync(self._path + "-wal")
            self._must_sync = False

    def copy_to(self, path: str) -> None:
        """A copy of the whole index in a new file, from within a job: what the batch did until now is
        committed before it, and is in it."""
        self.save_folders()
        self._db.execute("RELEASE job")
        self.commit()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            copy = sqlite3.connect(path)
            try:
                self._db.backup(copy)
            finally:
                copy.close()
        finally:
            self.begin()
            self.savepoint()

    def rollback(self) -> None:
        """Lose the batch."""
        self._folders = None
        self._must_sync = False
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def sync_at_commit(self) -> None:
        """What this batch writes must be on stable storage before anybody hears of it."""
        self._must_sync = True

    def give_back(self) -> None:
        """The server ends cleanly: the rest of the reserved blocks is free again. Outside of a batch. Not
        synced: where a crash loses this, the blocks are skipped."""
        self._folders = None
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("UPDATE folders SET uid_reserved = uid_next - 1, modseq_reserved = modseq")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # -- folders -----------------------------------------------------------------------------------

    def folders(self) -> dict[str, Folder]:
        """All known folders by directory."""
        if self._folders is None:
            rows = self._db.execute(f"SELECT {_FOLDER_COLUMNS} FROM folders")
            self._folders = {row[1]: Folder(*row) for row in rows}
            # Never one map of old objects beside one of new ones: numbers given out on an object that is not
            # saved would be given out again.
            self._by_id = {row.id: row for row in self._folders.values()}
        return self._folders

    def folder(self, number: int) -> Folder | None:
        """A folder by its id."""
        self.folders()
        return self._by_id.get(number)

    def add_folder(
        self, directory: str, now: int, uid_validity: int = 0, uid_next: int = 1, keywords: Iterable[str] = ()
    ) -> Folder:
        """A new folder. Its UIDVALIDITY is above all that this index ever gave, unless one is handed in."""
        last = self._meta("uid_validity", 0)
        if not uid_validity:
            uid_validity = min(max(now, last + 1), MAX_UID)
        self._set_meta("uid_validity", max(last, uid_validity))
        words = " ".join(keywords)
        cursor = self._db.execute(
            "INSERT INTO folders (directory, mailbox_id, uid_validity, uid_next, uid_reserved, modseq, "
            "modseq_reserved, keywords) VALUES (?, ?, ?, ?, ?, 1, 1, ?)",
            (directory, secrets.token_hex(8), uid_validity, uid_next, uid_next - 1, words),
        )
        self._must_sync = True
        known = self.folders()
        row = self._db.execute(
            f"SELECT {_FOLDER_COLUMNS} FROM folders WHERE id = ?", (cursor.lastrowid,)
        ).fetchone()
        folder = known[directory] = Folder(*row)
        self._by_id[folder.id] = folder
        return folder

    def remove_folder(self, folder: Folder) -> None:
        """The folder went, with all that was in it. Its UIDVALIDITY never comes again."""
        self.forget_messages(folder)
        self._db.execute("DELETE FROM folders WHERE id = ?", (folder.id,))
        self._db.execute("DELETE FROM meta WHERE key = ?", (f"lists {folder.id}",))
        self.folders().pop(folder.directory, None)
        self._by_id.pop(folder.id, None)

    def forget_messages(self, folder: Folder) -> None:
        """Remove all rows of the folder's messages."""
        low, high = folder.key(0), folder.key(MAX_UID)
        for table in ("messages", "wire", "expunged"):
            self._db.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", (low, high))
        self._db.execute("DELETE FROM views WHERE folder = ?", (folder.id,))

    def rename_folder(self, folder: Folder, directory: str) -> None:
        """The folder has another directory now."""
        known = self.folders()
        del known[folder.directory]
        folder.directory = directory
        folder.dirty = True
        known[directory] = folder

    def save_folders(self) -> None:
        """Write changed rows back."""
        for folder in (self._folders or {}).values():
            if folder.dirty:
                self._db.execute(
                    "UPDATE folders SET directory=?, uid_validity=?, uid_next=?, uid_reserved=?, modseq=?, "
                    "modseq_reserved=?, recent=?, keywords=?, special_use=?, new_seen=?, cur_seen=?, "
                    "mirrored=? WHERE id=?",
                    (
                        folder.directory,
                        folder.uid_validity,
                        folder.uid_next,
                        folder.uid_reserved,
                        folder.modseq,
                        folder.modseq_reserved,
                        folder.recent,
                        " ".join(folder.keywords.names),
                        folder.special_use,
                        folder.new_seen,
                        folder.cur_seen,
                        folder.mirrored,
                        folder.id,
                    ),
                )
                folder.dirty = False

    def allocate(self, folder: Folder, count: int) -> int:
        """The first of so many new UIDs, safe to show after the batch's commit."""
        first = folder.uid_next
        last = first + count - 1
        if last > MAX_UID:
            raise sqlite3.DataError("no UID is left in this folder")
        if last > folder.uid_reserved:
            folder.uid_reserved = min(last + UID_BLOCK, MAX_UID)
            self._must_sync = True
        folder.uid_next = last + 1
        folder.dirty = True
        return first

    def advance(self, folder: Folder, uid_next: int) -> None:
        """UIDs below this were given by another server; safe to show after the batch's commit."""
        if uid_next > folder.uid_next:
            folder.uid_next = uid_next
            if uid_next - 1 > folder.uid_reserved:
                folder.uid_reserved = uid_next - 1
                self._must_sync = True
            folder.dirty = True

    def next_modseq(self, folder: Folder) -> int:
        """A new MODSEQ, safe to show after the batch's commit."""
        folder.modseq += 1
        if folder.modseq > folder.modseq_reserved:
            folder.modseq_reserved = folder.modseq + MODSEQ_BLOCK
            self._must_sync = True
        folder.dirty = True
        return folder.modseq

    # -- messages ----------------------------------------------------------------------------------

    def add(self, folder: Folder, rows: Sequence[Row]) -> None:
        """New messages, their UIDs allocated."""
        number = folder.id
        self._insert(
            "INSERT INTO messages VALUES",
            [
                (
                    number << 32 | row.uid,
                    number,
                    row.base,
                    row.place,
                    row.info,
                    row.modseq,
                    row.flags,
                    row.size,
                    row.internal_date,
                    row.save_date,
                    row.message_id,
                )
                for row in rows
            ],
        )

    def add_wire(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows of ``wire``, in the order of its columns."""
        self._insert("INSERT OR REPLACE INTO wire VALUES", rows)

    def _insert(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows in few statements: at each one Python's lock is let go of and must be had again, which costs
        a busy server more than the row. A few fixed sizes, so that SQLite prepares them once."""
        start = 0
        for size in _ROWS:
            while len(rows) - start >= size:
                part = rows[start : start + size]
                marks = f"({','.join('?' * len(part[0]))})"
                self._db.execute(
                    f"{statement} {','.join([marks] * size)}", [value for row in part for value in row]
                )
                start += size

    def copy_wire(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Wire rows under further ids: (from, to)."""
        self._db.executemany(
            "INSERT OR REPLACE INTO wire SELECT ?2, envelope, structure, header_octets, sent, base_subject, "
            "header_id, in_reply_to, refs, marks FROM wire WHERE id = ?1",
            pairs,
        )

    def complete(self, folder: Folder, uid: int, size: int, internal_date: int) -> None:
        """The message was looked at."""
        self._db.execute(
            "UPDATE messages SET size = ?, internal_date = ? WHERE id = ?",
            (size, internal_date, folder.key(uid)),
        )

    def complete_all(self, facts: Sequence[tuple[int, int, int]]) -> None:
        """(size, internal date, row id) of messages that were looked at."""
        self._db.executemany("UPDATE messages SET size = ?, internal_date = ? WHERE id = ?", facts)

    def has(self, folder: Folder, base: str) -> bool:
        """Whether a message of that base name has its UID."""
        found = self._db.execute("SELECT 1 FROM messages WHERE folder = ? AND base = ?", (folder.id, base))
        return found.fetchone() is not None

    def known(self, folder: Folder, bases: Sequence[str]) -> set[str]:
        """Which of these base names have their UIDs."""
        found = self._db.execute(
            "SELECT base FROM messages WHERE folder = ? AND base IN (SELECT value FROM json_each(?))",
            (folder.id, json.dumps(bases)),
        )
        return {base for (base,) in found}

    def present(self, ids: Sequence[str]) -> list[int]:
        """Which of these EMAILIDs any folder has, by their places in the list."""
        found = self._db.execute(
            "SELECT DISTINCT message_id FROM messages WHERE message_id IN (SELECT value FROM json_each(?))",
            (json.dumps(ids),),
        )
        there = {one for (one,) in found}
        return [at for at, one in enumerate(ids) if one in there]

    def by_base(self, folder: Folder, base: str) -> Row | None:
        """A message by its base name."""
        found = self._db.execute(
            f"SELECT {_ROW} FROM messages WHERE folder = ? AND base = ?", (folder.id, base)
        ).fetchone()
        return None if found is None else Row(*found)

    def row(self, folder: Folder, uid: int) -> Row | None:
        """A message by its UID."""
        found = self._db.execute(f"SELECT {_ROW} FROM messages WHERE id = ?", (folder.key(uid),)).fetchone()
        return None if found is None else Row(*found)

    def rows(self, folder: Folder) -> Iterator[Row]:
        """All messages of a folder by UID."""
        for found in self._db.execute(
            f"SELECT {_ROW} FROM messages WHERE id BETWEEN ? AND ? ORDER BY id",
            (folder.key(0), folder.key(MAX_UID)),
        ):
            yield Row(*found)

    def rows_from(self, folder: Folder, uid: int) -> list[tuple[int, str]]:
        """(uid, base name) of the messages from that UID on."""
        return self._db.execute(
            "SELECT id & 4294967295, base FROM messages WHERE id BETWEEN ? AND ? ORDER BY id",
            (folder.key(uid), folder.key(MAX_UID)),
        ).fetchall()

    def names(self, folder: Folder) -> dict[str, tuple[int, int, str]]:
        """base name → (uid, place, info) of all messages."""
        return {
            base: (uid, place, info)
            for uid, base, place, info in self._db.execute(
                "SELECT id & 4294967295, base, place, info FROM messages WHERE id BETWEEN ? AND ?",
                (folder.key(0), folder.key(MAX_UID)),
            )
        }

    def view(self, folder: Folder) -> View:
        """UIDs, MODSEQs and flags of all messages by UID; from the copy that an earlier closing left, where
        nothing changed since."""
        found = self._db.execute(
            "SELECT packed FROM views WHERE folder = ? AND modseq = ? AND uid_next = ?",
            (folder.id, folder.modseq, folder.uid_next),
        ).fetchone()
        unpacked = None if found is None else _unpacked(found[0])
        return self._view(folder) if unpacked is None else unpacked

    def _view(self, folder: Folder) -> View:
        rows = self._db.execute(
            "SELECT id & 4294967295, modseq, flags FROM messages WHERE id BETWEEN ? AND ? ORDER BY id",
            (folder.key(0), folder.key(MAX_UID)),
        ).fetchall()
        return (
            array("I", [row[0] for row in rows]),
            array("Q", [row[1] for row in rows]),
            array("Q", [row[2] for row in rows]),
        )

    def keep_view(self, folder: Folder) -> None:
        """Leave a copy of the view for the next opening, where there is enough of it. Every change of it
        raises the folder's MODSEQ, so a copy that is no longer true is known."""
        stamp = (folder.id, folder.modseq, folder.uid_next)
        if self._db.execute(
            "SELECT 1 FROM views WHERE folder = ? AND modseq = ? AND uid_next = ?", stamp
        ).fetchone():
            return
        view = self._view(folder)
        if len(view[0]) >= MIN_KEPT_VIEW:
            packed = zlib.compress(b"".join(column.tobytes() for column in view), 1)
            self._db.execute("INSERT OR REPLACE INTO views VALUES (?, ?, ?, ?)", (*stamp, packed))

    def keep_box(self, folder: Folder, packed: bytes) -> None:
        """Where the messages of an mbox are, for the next opening."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"box {folder.id}", packed))

    def kept_box(self, folder: Folder) -> bytes | None:
        """The same, None where there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"box {folder.id}",)).fetchone()
        return None if row is None else bytes(row[0])

    def unwritten(self, folder: Folder, limit: int = -1) -> list[tuple[int, int]]:
        """(uid, flags) of messages in an mbox whose flags there (``info``) are others, ascending."""
        return self._db.execute(
            "SELECT id & 4294967295, flags FROM messages WHERE id BETWEEN ? AND ? "
            "AND info != CAST(flags AS TEXT) ORDER BY id LIMIT ?",
            (folder.key(0), folder.key(MAX_UID), limit),
        ).fetchall()

    def written(self, folder: Folder, flags: Iterable[tuple[int, int]]) -> None:
        """(uid, flags) that the mbox has now."""
        high = folder.id << 32
        self._db.executemany(
            "UPDATE messages SET info = CAST(? AS TEXT) WHERE id = ?",
            [(bits, high | uid) for uid, bits in flags],
        )

    def unsummarised(self, folder: Folder, uids: Sequence[int]) -> list[int]:
        """Those of these messages that nobody has looked into yet."""
        if not uids:
            return []
        found = self._db.execute(
            "SELECT m.id & 4294967295 FROM messages m LEFT JOIN wire w ON w.id = m.id "
            "WHERE m.id BETWEEN ? AND ? AND w.id IS NULL",
            (folder.key(min(uids)), folder.key(max(uids))),
        )
        wanted = set(uids)
        return [uid for (uid,) in found if uid in wanted]

    def facts(self, folder: Folder, uids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """The values of :class:`Row` by UID."""
        return {row[0]: row for row in self._of_each(_FACTS, folder, uids)}

    def wire_facts(self, folder: Folder, uids: Sequence[int]) -> dict[int, tuple[Any, ...]]:
        """(uid, modseq, flags, size, internal date, save date, EMAILID, ENVELOPE, BODYSTRUCTURE) by UID, the
        last two None where nobody has looked at the message yet."""
        return {row[0]: row for row in self._of_each(_WIRE, folder, uids)}

    def _of_each(self, select: str, folder: Folder, uids: Sequence[int]) -> list[Any]:
        """Rows of these messages, and perhaps of some between them, in any order."""
        if not uids:
            return []
        low, high = min(uids), max(uids)
        if high - low < 4 * len(uids) + 16:
            return self._db.execute(
                select + "BETWEEN ? AND ?", (folder.key(low), folder.key(high))
            ).fetchall()
        found: list[Any] = []
        for uid in uids:
            found += self._db.execute(select + "= ?", (folder.key(uid),)).fetchall()
        return found

    def columns(self, folder: Folder, uids: Sequence[int], names: Sequence[Column]) -> list[tuple[Any, ...]]:
        """(uid, and what the names say) in the order asked, of the messages that somebody has looked at."""
        texts = [_COLUMNS[name] for name in names]
        wire = any(text.startswith("w.") for text in texts)
        select = (
            f"SELECT {', '.join(('m.id & 4294967295', *texts))} FROM messages m "
            f"{'CROSS JOIN wire w ON w.id = m.id ' if wire else ''}"
            "WHERE m.size >= 0 AND m.internal_date >= 0 AND m.id "
        )
        rows: list[tuple[Any, ...]] = self._of_each(select, folder, uids)
        if [row[0] for row in rows] == list(uids):
            return rows
        found = {row[0]: row for row in rows}
        return [row for row in map(found.get, uids) if row is not None]

    def candidates(
        self, folder: Folder, column: str, words: Sequence[bytes], unsure: int, first: int, last: int
    ) -> list[int]:
        """UIDs of a range without those whose column surely lacks one of the words."""
        holds = "".join(f" AND instr(lower(CAST(w.{column} AS TEXT)), ?)" for _ in words)
        found = self._db.execute(
            "SELECT m.id & 4294967295 FROM messages m LEFT JOIN wire w ON w.id = m.id "
            f"WHERE m.id BETWEEN ? AND ? AND (w.id IS NULL OR w.marks & ? OR (1{holds})) ORDER BY m.id",
            (folder.key(first), folder.key(last), unsure, *(word.decode("ascii") for word in words)),
        )
        return [uid for (uid,) in found]

    def expunged_since(self, folder: Folder, since: int) -> list[int] | None:
        """UIDs expunged after that MODSEQ; None where the table does not reach back so far."""
        known = self._db.execute(
            "SELECT 1 FROM expunged WHERE folder = ? AND modseq <= ? LIMIT 1", (folder.id, since)
        ).fetchone()
        if known is None and since < folder.modseq:
            return None
        found = self._db.execute(
            "SELECT id & 4294967295 FROM expunged WHERE folder = ? AND modseq > ? ORDER BY id",
            (folder.id, since),
        )
        return [uid for (uid,) in found]

    def wire_of(self, folder: Folder, uid: int) -> tuple[bytes, bytes] | None:
        """ENVELOPE and BODYSTRUCTURE."""
        found: tuple[bytes, bytes] | None = self._db.execute(
            "SELECT envelope, structure FROM wire WHERE id = ?", (folder.key(uid),)
        ).fetchone()
        return found

    def move_file(self, folder: Folder, uid: int, place: int, info: str) -> None:
        """The message's file has another name now."""
        self._db.execute(
            "UPDATE messages SET place = ?, info = ? WHERE id = ?", (place, info, folder.key(uid))
        )

    def rename_base(self, folder: Folder, uid: int, base: str) -> None:
        """The message is found under another base name now."""
        self._db.execute("UPDATE messages SET base = ? WHERE id = ?", (base, folder.key(uid)))

    def change(self, folder: Folder, changes: Iterable[tuple[int, int, int, str]], modseq: int) -> None:
        """(uid, flags, place, info): new flags, and the file name that says so."""
        high = folder.id << 32
        self._db.executemany(
            "UPDATE messages SET modseq = ?, flags = ?, place = ?, info = ? WHERE id = ?",
            [(modseq, flags, place, info, high | uid) for uid, flags, place, info in changes],
        )

    def expunge(self, folder: Folder, uids: Sequence[int], modseq: int) -> None:
        """The messages are gone for good."""
        keys = [(folder.key(uid),) for uid in uids]
        self._db.executemany("DELETE FROM messages WHERE id = ?", keys)
        self._db.executemany("DELETE FROM wire WHERE id = ?", keys)
        self._db.executemany(
            "INSERT OR REPLACE INTO expunged VALUES (?, ?, ?)", [(key, folder.id, modseq) for (key,) in keys]
        )

    def counts(self, folder: Folder) -> tuple[int, int, int, int, int, int]:
        """(messages, unseen, deleted, recent, octets, how many of unknown size)."""
        found = self._db.execute(
            "SELECT count(*), total(flags & 1 = 0), total(flags & 8 != 0), total(id > ?), "
            "total(max(size, 0)), total(size < 0) FROM messages WHERE id BETWEEN ? AND ?",
            (folder.key(folder.recent), folder.key(0), folder.key(MAX_UID)),
        ).fetchone()
        messages, unseen, deleted, recent, octets, unknown = (int(value) for value in found)
        return messages, unseen, deleted, recent, octets, unknown

    def usage(self) -> tuple[int, int]:
        """(octets, messages) of the home, for quota."""
        octets, messages = self._db.execute("SELECT total(max(size, 0)), count(*) FROM messages").fetchone()
        return int(octets), int(messages)

    def unknown(self, folder: Folder, limit: int) -> list[int]:
        """UIDs of messages that nobody has looked at yet."""
        found = self._db.execute(
            "SELECT id & 4294967295 FROM messages WHERE id BETWEEN ? AND ? AND size < 0 LIMIT ?",
            (folder.key(0), folder.key(MAX_UID), limit),
        )
        return [uid for (uid,) in found]

    def prune(self, folder: Folder) -> None:
        """Forget the oldest expunged UIDs above the bound."""
        self._db.execute(
            "DELETE FROM expunged WHERE folder = ?1 AND modseq <= (SELECT modseq FROM expunged "
            "WHERE folder = ?1 ORDER BY modseq DESC LIMIT 1 OFFSET ?2)",
            (folder.id, MAX_EXPUNGED),
        )

    def was_expunged(self, folder: Folder, uid: int) -> bool:
        """Whether a message had that UID once, as far back as is known."""
        found = self._db.execute("SELECT 1 FROM expunged WHERE id = ?", (folder.key(uid),))
        return found.fetchone() is not None

    def lists_seen(self, folder: Folder) -> tuple[tuple[str, ...], int]:
        """What the files of other servers beside the mail looked like when they agreed with the index, and
        the next UID then."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"lists {folder.id}",)).fetchone()
        *stamps, uid_next = row[0].split(" ") if row is not None else ("0",)
        return tuple(stamps), int(uid_next)

    def note_lists(self, folder: Folder, seen: tuple[str, ...], uid_next: int) -> None:
        """Remember that."""
        self._set_meta(f"lists {folder.id}", " ".join((*seen, str(uid_next))))

    def _meta(self, key: str, default: int) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else int(row[0])

    def _set_meta(self, key: str, value: int | str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _unpacked(packed: bytes) -> View | None:
    """A kept view, None where it is damaged."""
    try:
        data = zlib.decompress(packed)
    except zlib.error:
        return None
    view: View = (array("I"), array("Q"), array("Q"))
    octets = sum(column.itemsize for column in view)
    count = len(data) // octets
    if count * octets != len(data):
        return None
    at = 0
    for column in view:
        reach = at + count * column.itemsize
        column.frombytes(data[at:reach])
        at = reach
    return view


def unusable(error: BaseException) -> bool:
    """Whether the error says that the file is no sound index (and not, say, that the disk is full)."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    words = str(error)
    return "malformed" in words or "not a database" in words or "no such table" in words


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
