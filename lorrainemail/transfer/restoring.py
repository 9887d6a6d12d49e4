"""A backup put back: the whole state into a new directory, or what one mailbox lacks into a server at work.

The whole: every file is compared with the manifest as it is copied, beside its place, and all is renamed when
it is synced. What clients saw after the backup was made may contradict it: so no UID that may have been given
since is given again, and every flag counts as changed (:func:`renew`); clients look at it all anew, without
fetching messages again.

One mailbox: what it lacks, by EMAILID, wherever its owner moved it since, comes back into its folders with
flags, dates and, in folders that never were, UIDs; nothing is removed. Blocking. Fails with OSError, Damaged,
SourceError.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import sqlite3
from collections.abc import Callable
from typing import Any, Final

from lorrainemail.addresses import Address
from lorrainemail.config.load import FILE_NAME
from lorrainemail.ops.files import SYSTEM
from lorrainemail.store.index import MAX_UID
from lorrainemail.store.paths import home_path
from lorrainemail.transfer.access import Access
from lorrainemail.transfer.homes import KeptHome
from lorrainemail.transfer.importing import Progress, Tally, import_account
from lorrainemail.transfer.snapshot import Damaged, Writer, digest_of, entries, facts_of, manifests
from lorrainemail.transfer.sources import SourceError
from lorrainemail.transfer.staging import Stage

#: UIDs and MODSEQs that are skipped: more than can have been given since the backup.
UID_GAP: Final = 1_000_000
MODSEQ_GAP: Final = 1 << 40


def restore_all(backup: str, state: str, queue: bool, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Make the state directory of a backup.

    :param state: not there yet, or empty.
    :param queue: with what waited to be sent.
    :returns: what the backup says of itself; ``configuration`` is the restored file where it lay elsewhere.
    """
    facts = facts_of(backup)
    if os.path.isdir(state) and os.listdir(state):
        raise SourceError(f"{state} is not empty: a whole state is restored into a new directory")
    parent = os.path.dirname(state)
    if not os.path.isdir(parent):
        raise SourceError(f"there is no directory {parent}")
    partial = f"{state}.restoring"
    if os.path.exists(partial):
        shutil.rmtree(partial)
    os.mkdir(partial, 0o700)
    writer = Writer(partial)
    done = 0
    for manifest in manifests(backup):
        for entry in entries(f"{backup}/{manifest}"):
            done += 1
            below = entry.path.partition("/")[2]
            if not entry.path.startswith("state/") or (not queue and below.startswith("queue/")):
                continue
            descriptor = _open(f"{backup}/{entry.path}")
            try:
                writer.copy(descriptor, below, entry)
            finally:
                os.close(descriptor)
            progress(done, int(facts.get("files", 0)))
        writer.sync()
        writer.entries = []
    _directories_and_links(f"{backup}/state", writer)
    for folder, _, files in os.walk(f"{partial}/mail"):
        if "index.sqlite" in files:
            renew(f"{folder}/index.sqlite")
    facts["configuration"] = _configuration(backup, writer)
    writer.sync()
    writer.sync_directories()
    _hand_over(partial, str(facts.get("owner", "")))
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(state)
    os.rename(partial, state)
    SYSTEM.fsync_directory(parent)
    return facts


def renew(index: str) -> None:
    """Make a copied index fit to be served: see above. Durable when it returns."""
    with contextlib.closing(sqlite3.connect(index, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA synchronous=FULL")
        (sound,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise Damaged(f"{index}: {sound}")
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "UPDATE folders SET uid_next = min(max(uid_next, uid_reserved + 1) + ?, max(?, uid_next)), "
            "modseq = modseq_reserved + ?, new_seen = 0, cur_seen = 0",
            (UID_GAP, MAX_UID - UID_GAP, MODSEQ_GAP),
        )
        database.execute("UPDATE folders SET uid_reserved = uid_next - 1, modseq_reserved = modseq")
        database.execute(
            "UPDATE messages SET modseq = (SELECT modseq FROM folders WHERE folders.id = messages.folder)"
        )
        # What is forgotten here is told to clients in full, as if it were too long ago to be known.
        database.execute("DELETE FROM expunged")
        database.execute("DELETE FROM views")
        database.execute("DELETE FROM meta WHERE key = 'run'")
        database.execute("COMMIT")


def restore_mailbox(
    access: Access,
    stage: Stage,
    backup: str,
    address: Address,
    wanted: Callable[[str], bool],
    progress: Progress,
) -> Tally:
    """Bring back what a mailbox lacks."""
    facts_of(backup)
    home = f"{backup}/state/mail/{home_path(address)}"
    if not os.path.isdir(home):
        raise SourceError(f"{address} has no mail in {backup}")
    _check_home(backup, address)
    account = access("import.account", address=str(address))
    if account is None:
        raise SourceError(f"there is no account {address}: lorrainemail account add makes it")

    def known(folder: str, ids: list[str]) -> set[int]:
        there = set(access("restore.present", address=str(address), ids=ids))
        if account["format"] == "mbox":  # EMAILIDs do not outlast a restore there
            there |= set(access("import.known", address=str(address), folder=folder, keys=ids))
        return there

    with contextlib.closing(KeptHome(home)) as source:
        return import_account(access, stage, source, str(address), wanted, progress, known)


def _check_home(backup: str, address: Address) -> None:
    """The small files that a home's messages are found by must be sound; messages are read one by one."""
    for entry in entries(f"{backup}/manifests/{home_path(address)}.jsonl"):
        if os.path.basename(os.path.dirname(entry.path)) in ("cur", "new"):
            continue
        descriptor = _open(f"{backup}/{entry.path}")
        try:
            if digest_of(descriptor) != entry.digest:
                raise Damaged(f"{backup}/{entry.path} is not as it was written")
        finally:
            os.close(descriptor)


def _directories_and_links(top: str, writer: Writer) -> None:
    """What manifests do not name: empty directories, symbolic links."""
    for folder, folders, files in os.walk(top):
        below = os.path.relpath(folder, top)
        for name in folders + files:
            path = os.path.normpath(f"{below}/{name}")
            if os.path.islink(f"{top}/{path}"):
                if not os.path.lexists(f"{writer.root}/{path}"):
                    writer.directory(os.path.dirname(path))
                    os.symlink(os.readlink(f"{top}/{path}"), f"{writer.root}/{path}")
            elif name in folders:
                writer.directory(path)


def _configuration(backup: str, writer: Writer) -> str:
    """The configuration, where it lay outside of the state: beside it now, for the operator to put back."""
    folder = f"{backup}/configuration"
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        target = FILE_NAME if not os.path.exists(f"{writer.root}/{FILE_NAME}") else f"restored-{name}"
        descriptor = _open(f"{folder}/{name}")
        try:
            writer.copy(descriptor, target)
        finally:
            os.close(descriptor)
        return target
    return ""


def _hand_over(path: str, owner: str) -> None:
    """To the user whose it was, where root restores and there is such a user."""
    if os.geteuid() != 0 or not owner:
        return
    try:
        user = pwd.getpwnam(owner)
    except KeyError:
        return
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(f"{folder}/{name}", user.pw_uid, user.pw_gid, follow_symlinks=False)
    os.chown(path, user.pw_uid, user.pw_gid)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing") from None
