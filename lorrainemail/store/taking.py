"""Messages that are moved in from elsewhere: placed from staged files, with flags, dates and, where possible,
UIDs.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs, beside every other use of the home.
Whoever moves messages in (:mod:`lorrainemail.transfer`) writes their files, in the form of a Maildir, into a
directory of the same file system and syncs them; a job here renames them into ``cur/``, syncs that, and only
then answers. What was placed once is remembered in ``imports.sqlite`` of the home, so that a repeated or
resumed import takes nothing twice, nor brings back what its owner deleted since. A crash between the rename
and that note is healed by the file's name, which is made from the source's own mark of the message.

UIDs are kept in a folder that has the source's UIDVALIDITY: one that never had a message is given it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Final

import attrs

from lorrainemail.errors import MailError
from lorrainemail.store import folders, maildir
from lorrainemail.store.flags import IN_NAME
from lorrainemail.store.index import MAX_UID, Folder, Row
from lorrainemail.store.paths import canonical_name, folder_directory
from lorrainemail.store.sync import refresh
from lorrainemail.store.tree import Tree

#: Messages of one slice; each is synced before the next.
SLICE: Final = 100
JOURNAL: Final = "imports.sqlite"
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS taken (key BLOB PRIMARY KEY) WITHOUT ROWID"


@attrs.frozen(slots=True)
class Incoming:
    """One message that is to be placed.

    :ivar key: the source's mark of it, of any form; the same message of the same source has the same always.
    :ivar path: its staged file, synced, its mtime the internal date; it is moved away from there.
    :ivar base: the base name that the file is to have (:func:`base_name`).
    :ivar flags: system flags and keywords; words that can be no flags here are left out.
    :ivar size: octets with CRLF.
    :ivar uid: as the source has it, 0 for any.
    """

    key: str
    path: str
    base: str
    flags: tuple[str, ...]
    date: int
    size: int
    uid: int = 0


@attrs.frozen(slots=True)
class Prepared:
    """A folder that takes messages. ``keeps``: it has the source's UIDVALIDITY, so UIDs can be kept."""

    uid_validity: int
    uid_next: int
    keeps: bool


def base_name(key: str, date: int, order: int, disk: int, wire: int, raw: bool) -> str:
    """The base name of a message that is moved in; the same for the same message of the same source.

    :param order: what tells the order of messages of one second.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    tail = ",C=1" if raw else ""
    return f"{max(date, 0)}.M{order % 1_000_000}I{digest}.import,S={disk},W={wire}{tail}"


def prepare(
    tree: Tree, name: str, uid_validity: int, special_use: Sequence[str], subscribed: bool
) -> Generator[None, None, Prepared]:
    """Make the folder where it is missing, and ready to take messages.

    :param uid_validity: the source's, 0 where it has none; taken over by a folder that never had a message.
    :raises PermanentError: where no folder can have that name.
    """
    folders.furnish(tree)
    name = canonical_name(name)
    directory = folder_directory(name)
    if directory and not os.path.isdir(f"{tree.folder_path(directory)}/cur"):
        folders.create(tree, name, _usable(tree, special_use))
    if subscribed:
        folders.subscribe(tree, name, True)
    number = tree.present(name).id
    yield from refresh(tree, number, force=True)
    folder = tree.present(name)
    if uid_validity and folder.uid_validity != uid_validity and _never_used(tree, folder):
        use, words = folder.special_use, list(folder.keywords.names)
        tree.lost(folder)
        folder = tree.index.add_folder(directory, tree.now(), uid_validity, 1, words)
        folder.special_use = use
        folder.modseq = folder.modseq_reserved = tree.now() * 1000
        folder.dirty = True
        tree.drop_mirror(folder)
    return Prepared(folder.uid_validity, folder.uid_next, folder.uid_validity == uid_validity)


def known(tree: Tree, name: str, keys: Sequence[str]) -> list[int]:
    """Which of these messages were placed before, by their places in the list."""
    path = f"{tree.home}/{JOURNAL}"
    if not os.path.exists(path):
        return []
    with _journal(path) as journal:
        return [at for at, key in enumerate(keys) if _is_taken(journal, name, key)]


def place(
    tree: Tree, name: str, incoming: Sequence[Incoming], keep: bool, uid_next: int = 0
) -> Generator[None, None, int]:
    """Put messages into a folder, in their order; how many of them are new there.

    :param keep: give them their source's UIDs, where these are above all that were given here.
    :param uid_next: the source's; with ``keep``, messages without a UID get one from there on.
    """
    number = tree.present(name).id
    placed = 0
    for start in range(0, len(incoming), SLICE):
        part = incoming[start : start + SLICE]
        placed += _place_slice(tree, tree.known(number), part, keep, uid_next)
        remember(tree, name, [one.key for one in part])
        if start + SLICE < len(incoming):
            yield
    return placed


def remember(tree: Tree, name: str, keys: Sequence[str]) -> None:
    """These messages were placed; durable when it returns."""
    path = f"{tree.home}/{JOURNAL}"
    _make_journal(tree, path)
    with _journal(path) as journal, journal:
        journal.executemany("INSERT OR IGNORE INTO taken VALUES (?)", [(_mark(name, key),) for key in keys])


def finish(tree: Tree, name: str, uid_next: int, keep: bool) -> None:
    """All messages of the source's folder are in: no UID that it gave is ever given again."""
    if keep:
        _advance(tree, tree.present(name), uid_next)


def _advance(tree: Tree, folder: Folder, uid_next: int) -> None:
    """UIDs below this were given by the source."""
    if folder.uid_next < uid_next <= MAX_UID:
        if folder.mirrored and uid_next > folder.mirrored:
            tree.drop_mirror(folder)
        tree.index.advance(folder, uid_next)


def _place_slice(tree: Tree, folder: Folder, part: Sequence[Incoming], keep: bool, uid_next: int) -> int:
    there = tree.index.known(folder, [one.base for one in part])
    path = tree.path(folder)
    rows: list[Row] = []
    modseq = tree.index.next_modseq(folder)
    now = tree.now()
    for one in part:
        if one.base in there:
            _unlink(tree, one.path)
            continue
        bits = folder.keywords.bits_of(fitting(tree, folder, one.flags))
        info = maildir.make_info(bits & IN_NAME)
        try:
            tree.files.rename_new(one.path, f"{path}/cur/{one.base}{info}")
        except FileExistsError:
            _unlink(tree, one.path)
            continue
        there.add(one.base)
        uid = one.uid
        if keep and not uid:
            _advance(tree, folder, uid_next)
        if keep and folder.uid_next <= uid < MAX_UID:
            _advance(tree, folder, uid + 1)
        else:
            uid = tree.allocate(folder, 1)
        rows.append(
            Row(
                uid,
                one.base,
                1,
                info,
                modseq,
                bits,
                one.size,
                max(one.date, 0),
                now,
                maildir.message_id(one.base),
            )
        )
        tree.count(one.size, 1)
    if rows:
        tree.files.fsync_directory(f"{path}/cur")
        tree.add(folder, rows)
        tree.index.sync_at_commit()  # a UID that was kept must not change with a crash
    return len(rows)


def fitting(tree: Tree, folder: Folder, flags: Iterable[str]) -> list[str]:
    """The flags that a message can have in that folder; new keywords of them are kept."""
    before = len(folder.keywords.names)
    found = []
    for flag in flags:
        try:
            folder.keywords.bits_of((flag,))
        except MailError:
            continue  # no flag in our sense, or one keyword too many
        found.append(flag)
    if len(folder.keywords.names) != before:
        tree.keywords_changed(folder)
    return found


def _usable(tree: Tree, special_use: Sequence[str]) -> list[str]:
    """Special uses that no other folder was given."""
    taken = {use.lower() for row in tree.index.folders().values() for use in row.special_use.split()}
    return [use for use in special_use if use.lower() in folders.SPECIAL_USES and use.lower() not in taken]


def _never_used(tree: Tree, folder: Folder) -> bool:
    return folder.uid_next == 1 and not tree.index.names(folder)


def _unlink(tree: Tree, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        tree.files.unlink(path)


def _mark(name: str, key: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{key}".encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _is_taken(journal: sqlite3.Connection, name: str, key: str) -> bool:
    found = journal.execute("SELECT 1 FROM taken WHERE key = ?", (_mark(name, key),))
    return found.fetchone() is not None


def _make_journal(tree: Tree, path: str) -> None:
    if os.path.exists(path):
        return
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with _journal(path) as journal, journal:
        journal.execute(_SCHEMA)
    tree.files.fsync_directory(tree.home)


@contextlib.contextmanager
def _journal(path: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        yield connection
    finally:
        connection.close()
