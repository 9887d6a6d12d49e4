"""The backup of a whole state, beside the running server.

Order makes it whole without stopping anything. The queue is read first, then one mailbox after the other,
each as it is at one moment (:mod:`lorrainemail.store.freezing`, by the server itself; as it lies there where
no server runs, or for homes whose account is gone), then everything else. So no message that was accepted
before the backup began is missing: one that was in the queue and then went into a mailbox is in both.
SQLite files are copied by SQLite. What an earlier backup in the same directory has is linked, not copied.

The lock of the backup directory is held meanwhile. What is not whole keeps the name ``*.partial`` and is
removed by the next one. Blocking. Fails with OSError, ``sqlite3.Error``, SourceError, Damaged.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote

import attrs

from lorrainemail.addresses import AddressError, parse_address
from lorrainemail.control.words import SOCKET_NAME, Refused
from lorrainemail.ops.files import SYSTEM
from lorrainemail.queue.format import ID
from lorrainemail.setup.lock import FILE_NAME as LOCK
from lorrainemail.setup.places import directories
from lorrainemail.store import freezing, maildir
from lorrainemail.store.paths import home_path
from lorrainemail.transfer.access import Access
from lorrainemail.transfer.homes import homes
from lorrainemail.transfer.snapshot import (
    FACTS,
    FORMAT,
    KNOWN,
    LATEST,
    PARTIAL,
    README,
    STAGE,
    Entry,
    Writer,
    backups,
    entries,
)
from lorrainemail.transfer.sources import SourceError
from lorrainemail.version import VERSION

#: Times at which a home is tried whose files other programs change in that very moment.
ATTEMPTS: Final = 3
#: What of the state is not worth keeping, or is made anew: locks, sockets, spill, the text index.
_LEFT_OUT: Final = frozenset((LOCK, SOCKET_NAME, "submit.sock", "spill", "mail", "queue"))
_LEFT_OUT_ENDS: Final = ("-wal", "-shm", "-journal", ".bad", ".sock", ".new")
_SEARCH: Final = "search.sqlite"

#: Told (what is being copied, how many are done, how many there are).
Progress = Callable[[str, int, int], None]


@attrs.define(slots=True)
class Report:
    """What came of it."""

    path: str = ""
    homes: int = 0
    messages: int = 0
    files: int = 0
    linked: int = 0
    octets: int = 0
    faults: list[str] = attrs.field(factory=list)


def back_up(
    access: Access | None,
    state: str,
    configuration: str | None,
    target: str,
    progress: Progress,
    full: bool = False,
) -> Report:
    """Make one backup.

    :param access: the running server; None where the caller holds the state's lock.
    :param configuration: the configuration's file, None for the embedded default.
    :param target: the directory of all backups; made where it is missing.
    :param full: copy everything anew, link nothing.
    """
    began = time.time()
    os.makedirs(target, mode=0o700, exist_ok=True)
    if os.path.realpath(target).startswith(os.path.realpath(state) + "/"):
        raise SourceError(f"{target} lies in the state directory: a backup belongs on another disk")
    with _locked(target):
        earlier = backups(target)
        previous = f"{target}/{earlier[-1]}" if earlier and not full else ""
        name = _name(target, began)
        partial = f"{target}/{name}{PARTIAL}"
        os.mkdir(partial, 0o700)
        report = Report(f"{target}/{name}")
        work = _Backup(access, state, Writer(partial), previous, report, progress)
        work.queue()
        work.manifest("queue")
        work.homes()
        if access is not None:
            with contextlib.suppress(Refused):  # its disk may be full
                access("trace.flush")
        work.rest(configuration)
        work.manifest("rest")
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "began": began,
            "ended": time.time(),
            "state": state,
            "configuration": configuration or "",
            "owner": _owner(state),
            "homes": report.homes,
            "messages": report.messages,
            "files": report.files,
        }
        work.writer.write(FACTS, (json.dumps(facts) + "\n").encode("ascii"))
        work.writer.sync_directories()
        os.rename(partial, report.path)
        _publish(target, name)
        report.linked, report.octets = work.writer.linked, work.writer.written
    return report


def forget_old(target: str, keep: int) -> list[str]:
    """Remove all backups but the newest so many; the names of those that went."""
    with _locked(target):
        gone = backups(target)[:-keep] if keep > 0 else []
        for name in gone:
            os.rename(f"{target}/{name}", f"{target}/{name}{PARTIAL}")
            shutil.rmtree(f"{target}/{name}{PARTIAL}")
        SYSTEM.fsync_directory(target)
    return gone


class _Backup:
    """One run."""

    def __init__(
        self,
        access: Access | None,
        state: str,
        writer: Writer,
        previous: str,
        report: Report,
        progress: Progress,
    ) -> None:
        self.writer = writer
        self._access = access
        self._state = state
        self._places = directories(state)
        self._previous = previous
        self._report = report
        self._progress = progress

    def manifest(self, name: str) -> None:
        """Everything since the last one is written and synced; say what it is."""
        self._report.files += len(self.writer.entries)
        self.writer.manifest(f"manifests/{name}.jsonl")

    # -- the queue -------------------------------------------------------------------------------------

    def queue(self) -> None:
        """Items that are whole, and the history."""
        top = self._places.queue
        try:
            names = sorted(os.listdir(top))
        except FileNotFoundError:
            return
        for name in names:
            stem, _, suffix = name.partition(".")
            if suffix == "json" and ID.match(stem):
                # The message first: it never changes, and it stays for as long as its envelope does.
                with contextlib.suppress(FileNotFoundError):
                    message = _open(f"{top}/{stem}.msg")
                    try:
                        envelope = _open(f"{top}/{name}")
                        try:
                            self.writer.copy(message, f"state/queue/{stem}.msg")
                            self.writer.copy(envelope, f"state/queue/{name}")
                        finally:
                            os.close(envelope)
                    finally:
                        os.close(message)
        for folder in ("history", "damaged"):
            self._tree(f"{top}/{folder}", f"state/queue/{folder}")

    # -- mailboxes -------------------------------------------------------------------------------------

    def homes(self) -> None:
        """One after the other."""
        found = list(homes(self._places.mail))
        with self._stage() as stage:
            for at, (below, home) in enumerate(found):
                self._progress(below, at, len(found))
                for attempt in range(ATTEMPTS):
                    place = f"{at * ATTEMPTS + attempt}"
                    try:
                        self._home(stage, place, below, home)
                        self.manifest(below)
                        self._report.homes += 1
                        break
                    except (Refused, OSError, sqlite3.Error) as error:
                        if not os.path.isdir(home):
                            break  # removed meanwhile
                        self._undo(below)
                        if attempt == ATTEMPTS - 1:
                            self._report.faults.append(f"{below}: {error}")
                    finally:
                        freezing.thaw(f"{stage}/{place}")
            self._progress("", len(found), len(found))

    def _undo(self, below: str) -> None:
        """Nothing of a home that was half copied."""
        self.writer.sync()
        self.writer.entries = []
        shutil.rmtree(f"{self.writer.root}/state/mail/{below}", ignore_errors=True)
        self.writer.forget(f"state/mail/{below}")

    def _home(self, stage: str, place: str, below: str, home: str) -> None:
        earlier = self._earlier(below)
        os.mkdir(f"{stage}/{place}", 0o700)
        self._hand_over(f"{stage}/{place}")
        with open(f"{stage}/{place}/{KNOWN}", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(earlier))
        self._hand_over(f"{stage}/{place}/{KNOWN}")
        count = None
        address = _address(below)
        if address and self._access is not None:
            count = self._access("backup.freeze", address=address, stage=os.path.basename(stage), place=place)
        if count is None:
            count = _freeze_quiet(home, f"{stage}/{place}", frozenset(earlier))
        self._thawed(f"{stage}/{place}", below, earlier)
        self._beside(home, f"state/mail/{below}")
        self._report.messages += count

    def _thawed(self, frozen: str, below: str, earlier: dict[str, Entry]) -> None:
        """What was held fast, into the backup."""
        top = f"state/mail/{below}"
        with contextlib.suppress(FileNotFoundError):
            self._file(f"{frozen}/{freezing.INDEX}", f"{top}/{freezing.INDEX}")
        with contextlib.suppress(FileNotFoundError):
            self._file(f"{frozen}/mbox", f"{top}/mbox")
        places = set()
        with open(f"{frozen}/{freezing.LIST}", encoding="utf-8", errors="surrogateescape") as listed:
            for line in listed:
                name, link = json.loads(line)
                path = f"{top}/Maildir/{name}"
                places.add(os.path.dirname(os.path.dirname(path)))
                if link:
                    self._file(f"{frozen}/{link}", path)
                    continue
                entry = earlier[maildir.split(os.path.basename(name))[0]]
                source = f"{self._previous}/{entry.path}"
                if not self.writer.link(source, path, entry):
                    self._file(source, path, entry)
        for folder in _listed(f"{frozen}/small"):
            directory = f"{top}/Maildir" if folder == "INBOX" else f"{top}/Maildir/{folder}"
            places.add(directory)
            for name in _listed(f"{frozen}/small/{folder}"):
                self._file(f"{frozen}/small/{folder}/{name}", f"{directory}/{name}")
        for place in places:
            for sub in ("cur", "new", "tmp"):
                self.writer.directory(f"{place}/{sub}")

    def _beside(self, home: str, path: str) -> None:
        """What lies in a home beside its mail."""
        for name in _listed(home):
            if name in ("Maildir", "mbox", freezing.INDEX) or name.startswith((_SEARCH, "mbox.")):
                continue
            self._any(f"{home}/{name}", f"{path}/{name}")

    def _earlier(self, below: str) -> dict[str, Entry]:
        """The messages that the last backup has of a home, by base name."""
        if not self._previous:
            return {}
        found = {}
        for entry in entries(f"{self._previous}/manifests/{below}.jsonl"):
            parts = entry.path.split("/")
            if len(parts) > 5 and parts[-2] in ("cur", "new"):
                found[maildir.split(parts[-1])[0]] = entry
        return found

    @contextlib.contextmanager
    def _stage(self) -> Iterator[str]:
        """A directory on the mailboxes' file system."""
        spill = self._places.spill
        os.makedirs(spill, mode=0o700, exist_ok=True)
        for name in os.listdir(spill):
            match = STAGE.match(name)
            if match is not None and not os.path.exists(f"/proc/{match.group(1)}"):
                shutil.rmtree(f"{spill}/{name}", ignore_errors=True)
        path = f"{spill}/backup-{secrets.token_hex(4)}-{os.getpid()}"
        os.mkdir(path, 0o700)
        self._hand_over(path)
        try:
            yield path
        finally:
            freezing.thaw(path)

    def _hand_over(self, path: str) -> None:
        """What root makes for the server is the server's."""
        if os.geteuid() == 0:
            owner = os.stat(self._state)
            os.chown(path, owner.st_uid, owner.st_gid)

    # -- everything else -------------------------------------------------------------------------------

    def rest(self, configuration: str | None) -> None:
        """Tables, keys, certificates, what is remembered, the configuration."""
        for name in _listed(self._state):
            if name not in _LEFT_OUT:
                self._any(f"{self._state}/{name}", f"state/{name}")
        for name in _listed(self._places.mail):
            path = f"{self._places.mail}/{name}"
            if os.path.isfile(path):  # what is shared, by whom
                self._any(path, f"state/mail/{name}")
        if configuration and not configuration.startswith(self._state + "/"):
            self._any(configuration, f"configuration/{os.path.basename(configuration)}")

    def _any(self, source: str, path: str) -> None:
        name = os.path.basename(source)
        try:
            mode = os.lstat(source).st_mode
            if stat.S_ISDIR(mode):
                self._tree(source, path)
            elif stat.S_ISLNK(mode):
                self.writer.directory(os.path.dirname(path))
                os.symlink(os.readlink(source), f"{self.writer.root}/{path}")
            elif stat.S_ISREG(mode) and name.endswith(".sqlite"):
                self._database(source, path)
            elif stat.S_ISREG(mode) and not name.endswith(_LEFT_OUT_ENDS):
                self._file(source, path)
        except FileNotFoundError:
            pass  # it went, or was replaced this very moment under another name

    def _tree(self, source: str, path: str) -> None:
        if os.path.isdir(source):
            self.writer.directory(path)
            for name in _listed(source):
                self._any(f"{source}/{name}", f"{path}/{name}")

    def _file(self, source: str, path: str, expected: Entry | None = None) -> None:
        descriptor = _open(source)
        try:
            self.writer.copy(descriptor, path, expected)
        finally:
            os.close(descriptor)

    def _database(self, source: str, path: str) -> None:
        """As it is at one moment, whoever writes it."""
        copied = f"{self.writer.root}/{os.path.basename(path)}.copying"
        _copy_database(source, copied)
        try:
            self._file(copied, path)
        finally:
            os.unlink(copied)


def _freeze_quiet(home: str, target: str, known: frozenset[str]) -> int:
    """A home that no server knows: as it lies there."""
    if os.path.exists(f"{home}/{freezing.INDEX}"):
        _copy_database(f"{home}/{freezing.INDEX}", f"{target}/{freezing.INDEX}")
    if os.path.exists(f"{home}/mbox"):
        shutil.copy2(f"{home}/mbox", f"{target}/mbox", follow_symlinks=False)
    count = 0
    os.mkdir(f"{target}/{freezing.LINKS}0", 0o700)
    with open(f"{target}/{freezing.LIST}", "w", encoding="utf-8", errors="surrogateescape") as listed:
        top = f"{home}/Maildir"
        for directory in ["", *maildir.subfolders(top)] if os.path.isdir(f"{top}/cur") else []:
            path = f"{top}/{directory}" if directory else top
            for base, found in maildir.scan(path).files.items():
                name = f"{'cur' if found.place else 'new'}/{base}{found.info}"
                link = "" if base in known else f"{freezing.LINKS}0/{count}"
                if link:
                    os.link(f"{path}/{name}", f"{target}/{link}", follow_symlinks=False)
                listed.write(json.dumps([f"{directory}/{name}" if directory else name, link]) + "\n")
                count += 1
            freezing.small_files(path, f"{target}/small/{directory or 'INBOX'}")
    return count


def _copy_database(source: str, target: str) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with (
        contextlib.closing(sqlite3.connect(source, timeout=30)) as database,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        database.execute("PRAGMA query_only=1")
        database.backup(copy, pages=1000)
        # One file, whatever the other's journal is: nothing beside it belongs to it.
        copy.execute("PRAGMA journal_mode=DELETE")


def _address(below: str) -> str:
    """The address whose home that is, "" where its name does not tell."""
    domain, _, local = below.partition("/")
    try:
        address = parse_address(f"{unquote(local)}@{unquote(domain)}")
    except AddressError:
        return ""
    return str(address) if home_path(address) == below else ""


def _name(target: str, began: float) -> str:
    """A name that no backup has."""
    plain = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(began))
    name, count = plain, 1
    while os.path.lexists(f"{target}/{name}") or os.path.lexists(f"{target}/{name}{PARTIAL}"):
        count += 1
        name = f"{plain}-{count}"
    return name


def _publish(target: str, name: str) -> None:
    """Let it be found."""
    temporary = f"{target}/.{LATEST}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(name, temporary)
    os.rename(temporary, f"{target}/{LATEST}")
    if not os.path.exists(f"{target}/README"):
        with open(f"{target}/README", "w", encoding="ascii") as file:
            file.write(README)
            file.flush()
            os.fsync(file.fileno())
    SYSTEM.fsync_directory(target)


@contextlib.contextmanager
def _locked(target: str) -> Iterator[None]:
    """One backup at a time; what an interrupted one left is removed."""
    descriptor = os.open(f"{target}/.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceError(f"another backup into {target} is under way") from None
        for name in os.listdir(target):
            if name.endswith(PARTIAL):
                shutil.rmtree(f"{target}/{name}")
        yield
    finally:
        os.close(descriptor)


def _owner(state: str) -> str:
    """The user whose state it is."""
    try:
        return pwd.getpwuid(os.stat(state).st_uid).pw_name
    except KeyError:
        return ""


def _listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
