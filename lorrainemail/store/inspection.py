"""What an operator asks of a home: what is in it, whether its index is sound, a new index.

Blocking, for the operator's command. :func:`stat` and :func:`check` only read and may run beside the server;
:func:`rebuild` needs the state to itself. Failures: OSError and ``sqlite3.Error``.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time

import attrs
from twisted.logger import Logger

from lorrainemail.ops.files import SYSTEM
from lorrainemail.store import maildir, sync
from lorrainemail.store.index import MAX_UID, MBOX, unusable
from lorrainemail.store.names import UniqueNames
from lorrainemail.store.paths import folder_name
from lorrainemail.store.tree import Tree

_log = Logger("lorrainemail.store")


@attrs.frozen(slots=True)
class FolderReport:
    """One folder.

    :ivar files: messages on disk, -1 for an mbox (not counted here).
    :ivar messages: with a UID in the index; ``octets`` of them with CRLF, ``unseen`` among them.
    :ivar uid_validity: 0 where the folder has no row yet (nobody opened it).
    """

    name: str
    files: int
    messages: int
    unseen: int
    octets: int
    uid_validity: int
    uid_next: int


def stat(home: str) -> list[FolderReport]:
    """All folders of a home, INBOX first."""
    rows: dict[str, tuple[int, ...]] = {}
    database = _read_only(home)
    if database is not None:
        try:
            for number, directory, validity, following in database.execute(
                "SELECT id, directory, uid_validity, uid_next FROM folders"
            ).fetchall():
                counts = database.execute(
                    "SELECT count(*), total(flags & 1 = 0), total(max(size, 0)) FROM messages "
                    "WHERE id BETWEEN ? AND ?",
                    (number << 32, number << 32 | MAX_UID),
                ).fetchone()
                rows[directory] = (*(int(value) for value in counts), validity, following)
        finally:
            database.close()
    reports = []
    empty = (0, 0, 0, 0, 0)
    if os.path.exists(f"{home}/mbox"):
        reports.append(FolderReport("INBOX", -1, *rows.get(MBOX, empty)))
    for directory in _directories(home):
        files = len(maildir.scan(_path(home, directory)).files)
        name = "INBOX" if not directory else folder_name(directory) or directory
        if name == "INBOX" and reports and not files:
            continue  # an account kept as mbox; its Maildir holds the other folders
        reports.append(FolderReport(name, files, *rows.get(directory, empty)))
    return reports


def check(home: str) -> list[str]:
    """What is wrong with the index, in words; files that wait for their first reader are not."""
    try:
        database = _read_only(home)
        if database is None:
            return []
        try:
            found = [row[0] for row in database.execute("PRAGMA quick_check(20)")]
            faults = [f"index.sqlite: {words}" for words in found if words != "ok"]
            for number, directory in database.execute("SELECT id, directory FROM folders").fetchall():
                if directory == MBOX:
                    continue
                name = "INBOX" if not directory else folder_name(directory) or directory
                bases = {
                    base
                    for (base,) in database.execute("SELECT base FROM messages WHERE folder = ?", (number,))
                }
                try:
                    files = maildir.scan(_path(home, directory)).files
                except FileNotFoundError:
                    faults.append(f"{name}: the index knows this folder, the disk does not")
                    continue
                lost = len(bases - files.keys())
                if lost:
                    faults.append(f"{name}: {lost} messages of the index have no file")
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        if not unusable(error):
            raise
        return [f"index.sqlite: {error}"]
    return faults


def rebuild(root: str, home: str) -> list[FolderReport]:
    """Make the index anew from the files; UIDs are kept where the old index can still tell them."""
    tree = Tree(root, home, secrets.token_hex(16), SYSTEM, UniqueNames("rebuild"), time.time)
    path = f"{home}/index.sqlite"
    if os.path.exists(path):
        try:
            tree.begin()
            tree.job_begins()
            for directory in _directories(home):
                folder = tree.index.folders().get(directory)
                if folder is not None:
                    folder.mirrored = 0
                    sync.mirror(tree, folder.id)
            tree.job_ends()
            tree.commit()
        except (sqlite3.Error, OSError) as error:
            _log.warn("the old index of {home} tells no UIDs: {error}", home=home, error=error)
            tree.batch_failed(error)
        else:
            tree.close(False)
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.replace(path + suffix, path + ".old" + suffix)
    tree.begin()
    tree.job_begins()
    for directory in _directories(home):
        sync.adopt(tree, directory)
    tree.job_ends()
    tree.commit()
    tree.close(True)
    return stat(home)


def _directories(home: str) -> list[str]:
    """INBOX ("") and the folders below it."""
    if not os.path.isdir(f"{home}/Maildir/cur"):
        return []
    return ["", *maildir.subfolders(f"{home}/Maildir")]


def _path(home: str, directory: str) -> str:
    return f"{home}/Maildir/{directory}" if directory else f"{home}/Maildir"


def _read_only(home: str) -> sqlite3.Connection | None:
    path = f"{home}/index.sqlite"
    if not os.path.exists(path):
        return None
    # A connection that reads needs to write the -shm file where no server has made it.
    database = sqlite3.connect(path)
    database.execute("PRAGMA query_only=1")
    return database
