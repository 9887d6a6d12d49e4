"""What a backup looks like on disk: names, manifests, and files copied so that they can be trusted.

A backup directory holds one directory a backup, named by its beginning in UTC, whole or not there at all::

    README               what this is, in words
    latest               a link to the newest
    20261122T101500Z/
        state/           like the state directory (mail/DOMAIN/USER/Maildir, queue, tables, keys)
        configuration/   the configuration, where it lies elsewhere
        manifests/       DOMAIN/USER.jsonl, and rest.jsonl: [path, octets, SHA-256], one file a line
        backup.json      when, of what, by which version; written last

A message's file that an earlier backup has is a hard link to it. Everything is 0600 or 0700, owned by whoever
made the backup. Blocking; fails with OSError, or :class:`Damaged` where what is read is not what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from lorrainemail.ops.files import SYSTEM

#: The form that this version writes, and the newest that it reads.
FORMAT: Final = 1
#: Names of backups, and of one that is not whole yet.
NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z(?:-[0-9]+)?\Z")
PARTIAL: Final = ".partial"
FACTS: Final = "backup.json"
LATEST: Final = "latest"
#: The server's staging directory below spill/, the places in it, and the list of what needs no link.
STAGE: Final = re.compile(r"backup-[0-9a-f]{8}-([0-9]{1,10})\Z")
PLACE: Final = re.compile(r"[0-9]{1,12}\Z")
KNOWN: Final = "known"
#: Files that are synced together.
GROUP: Final = 64
_CHUNK: Final = 1 << 20

README: Final = """This directory holds backups of a lorrainemail server, one directory each (see the file
docs/operations.rst of lorrainemail, "Backup"). They hold mail, password hashes and secret keys:
keep them as safe as the server itself.

  lorrainemail restore THIS_DIRECTORY --state DIRECTORY    everything, into a new state directory
  lorrainemail restore THIS_DIRECTORY ADDRESS              what one mailbox lacks, also into a running server
  lorrainemail backup --check THIS_DIRECTORY               whether all files are as they were written

Mail can be read without lorrainemail: state/mail/DOMAIN/USER/Maildir is a Maildir.
"""


class Damaged(Exception):
    """A backup is not as it was written; the message is for the operator."""


@attrs.frozen(slots=True)
class Entry:
    """One file: its path below the backup, its octets, their SHA-256 in hex."""

    path: str
    size: int
    digest: str


def backups(directory: str) -> list[str]:
    """The names of the backups in a directory, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(
        name for name in names if NAME.match(name) and os.path.exists(f"{directory}/{name}/{FACTS}")
    )


def facts_of(backup: str) -> dict[str, Any]:
    """What a backup says of itself.

    :raises Damaged: where that cannot be read, or it is of a newer form.
    """
    try:
        with open(f"{backup}/{FACTS}", encoding="utf-8") as file:
            facts = json.load(file)
        form = int(facts["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{backup} is no backup: {error}") from None
    if form > FORMAT:
        raise Damaged(f"{backup} was made by a newer version ({facts.get('version')}); install that one")
    assert isinstance(facts, dict)
    return facts


def manifests(backup: str) -> Iterator[str]:
    """The paths of all manifests, below the backup."""
    top = f"{backup}/manifests"
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in sorted(files):
            yield os.path.relpath(f"{folder}/{name}", backup)


def entries(path: str) -> Iterator[Entry]:
    """The entries of a manifest; none where it is missing.

    :raises Damaged: where it cannot be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                name, size, digest = json.loads(line)
                if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
                    raise Damaged(f"{path} names a file outside of the backup: {name}")
                yield Entry(name, int(size), str(digest))
    except FileNotFoundError:
        return
    except (ValueError, TypeError) as error:
        raise Damaged(f"{path} cannot be read: {error}") from None


class Writer:
    """Writes the files of one backup (or of a restored state), with a manifest; syncs in groups.

    :param root: the directory that paths are below.
    :param verify: read each file again from the disk, once it is synced, and compare.
    """

    def __init__(self, root: str, verify: bool = True) -> None:
        self.root = root
        self.entries: list[Entry] = []
        #: Octets written, and files that are links to an earlier backup's.
        self.written = 0
        self.linked = 0
        self._verify = verify
        self._open: list[tuple[int, Entry]] = []
        self._directories: set[str] = set()

    def directory(self, path: str) -> None:
        """Make a directory and those above it."""
        if path and path not in self._directories:
            parent = os.path.dirname(path)
            self.directory(parent)
            if not os.path.isdir(f"{self.root}/{path}"):
                os.mkdir(f"{self.root}/{path}", 0o700)
            self._directories.add(path)

    def link(self, source: str, path: str, entry: Entry) -> bool:
        """A second name for an earlier backup's file; whether that was possible."""
        self.directory(os.path.dirname(path))
        try:
            if os.stat(source, follow_symlinks=False).st_size != entry.size:
                return False
            os.link(source, f"{self.root}/{path}", follow_symlinks=False)
        except OSError:
            return False  # gone, or as many links as the file system allows: a copy then
        self.entries.append(Entry(path, entry.size, entry.digest))
        self.linked += 1
        return True

    def copy(self, descriptor: int, path: str, expected: Entry | None = None) -> Entry:
        """Copy an open file.

        :raises Damaged: where it is not what was expected.
        """
        facts = os.fstat(descriptor)
        self.directory(os.path.dirname(path))
        target = SYSTEM.open(
            f"{self.root}/{path}", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        )
        try:
            digest, at = hashlib.sha256(), 0
            while chunk := os.pread(descriptor, _CHUNK, at):
                digest.update(chunk)
                SYSTEM.write(target, (chunk,))
                at += len(chunk)
            os.fchmod(target, 0o600)
            os.utime(target, ns=(facts.st_mtime_ns, facts.st_mtime_ns))
            SYSTEM.begin_sync(target)
        except BaseException:
            os.close(target)
            raise
        entry = Entry(path, at, digest.hexdigest())
        self._open.append((target, entry))
        if expected is not None and (entry.size, entry.digest) != (expected.size, expected.digest):
            raise Damaged(f"{expected.path} is not as it was written")
        self.entries.append(entry)
        self.written += at
        if len(self._open) >= GROUP:
            self.sync()
        return entry

    def write(self, path: str, data: bytes) -> None:
        """A small file of our own; not in the manifest."""
        self.directory(os.path.dirname(path))
        descriptor = SYSTEM.open(f"{self.root}/{path}")
        try:
            SYSTEM.write(descriptor, (data,))
            SYSTEM.fsync(descriptor)
        finally:
            SYSTEM.close(descriptor)

    def sync(self) -> None:
        """Everything is on stable storage, and is what was to be written."""
        group, self._open = self._open, []
        try:
            for descriptor, _ in group:
                SYSTEM.fsync(descriptor)
            for descriptor, entry in group if self._verify else ():
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                if digest_of(descriptor) != entry.digest:
                    raise Damaged(
                        f"{self.root}/{entry.path} was written, and reads otherwise: a failing disk?"
                    )
        finally:
            for descriptor, _ in group:
                os.close(descriptor)

    def sync_directories(self) -> None:
        """Their entries, too."""
        for path in sorted(self._directories, reverse=True):
            SYSTEM.fsync_directory(f"{self.root}/{path}")
        self._directories.clear()
        SYSTEM.fsync_directory(self.root)

    def forget(self, path: str) -> None:
        """That directory was removed again."""
        self._directories = {
            one for one in self._directories if one != path and not one.startswith(path + "/")
        }

    def manifest(self, path: str) -> None:
        """Write down what was written since the last manifest."""
        self.sync()
        lines = "".join(json.dumps([one.path, one.size, one.digest]) + "\n" for one in self.entries)
        self.write(path, lines.encode("utf-8", "surrogateescape"))
        self.entries = []


def digest_of(descriptor: int) -> str:
    """SHA-256 of a whole file."""
    digest, at = hashlib.sha256(), 0
    while chunk := os.pread(descriptor, _CHUNK, at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def check(backup: str) -> tuple[int, list[str]]:
    """Read a whole backup: files, and what is wrong, in words."""
    faults: list[str] = []
    count = 0
    facts = facts_of(backup)
    for manifest in manifests(backup):
        for entry in entries(f"{backup}/{manifest}"):
            count += 1
            fault = _fault(f"{backup}/{entry.path}", entry)
            if fault:
                faults.append(fault)
    if count != facts.get("files"):
        faults.append(f"{backup}: {facts.get('files')} files were written, the manifests name {count}")
    return count, faults


def _fault(path: str, entry: Entry) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        if os.fstat(descriptor).st_size != entry.size or digest_of(descriptor) != entry.digest:
            return f"{path} is not as it was written"
    except OSError as error:
        return f"{path}: {error.strerror}"
    finally:
        os.close(descriptor)
    return ""


def newest(directory: str, names: Sequence[str], wanted: str) -> str:
    """The path of a backup, the newest where none is named.

    :raises Damaged: where there is none.
    """
    if os.path.exists(f"{directory}/{FACTS}"):
        return directory
    if not names:
        raise Damaged(f"there is no backup in {directory}")
    if wanted and wanted not in names:
        raise Damaged(f"there is no backup {wanted} in {directory}: there are {', '.join(names)}")
    return f"{directory}/{wanted or names[-1]}"
