"""Mbox files as a source: one file, or a directory of them (Thunderbird's, mutt's, what export made).

In a directory each mbox file is a folder, ``NAME.mbox`` or ``NAME``; ``NAME/`` or ``NAME.sbd/`` holds what is
below it. A file is an mbox if it begins with "From ". ``inbox``, ``Inbox`` and ``mbox`` are INBOX. Flags and
UIDs are those of Status, X-Status, X-Keywords, X-UID and X-IMAPbase. A file that another program changes
meanwhile ends the import of that folder with a word; the next run goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from typing import Final

from lorrainemail.store import mboxfile
from lorrainemail.store.flags import SYSTEM
from lorrainemail.store.folders import SPECIAL_FOLDERS
from lorrainemail.store.paths import MAX_DEPTH
from lorrainemail.store.reading import open_file
from lorrainemail.transfer.sources import Mark, Message, SourceError, SourceFolder, fitting_name

#: Octets of a message that are held in memory; a longer one is left out.
MAX_MESSAGE: Final = 256 << 20
#: Seconds for which another program's lock is waited for.
PATIENCE: Final = 30.0
_INBOXES: Final = ("inbox", "mbox")
_USES: Final = dict(SPECIAL_FOLDERS)


class MboxSource:
    """One file, which becomes INBOX, or a directory.

    :raises SourceError: where there is none.
    """

    def __init__(self, path: str) -> None:
        self._path = path.rstrip("/") or "/"
        if not os.path.isdir(self._path) and not is_mbox(self._path):
            raise SourceError(f"{path} is no mbox file, and no directory of them")
        self._box: tuple[str, mboxfile.Box] | None = None

    def folders(self) -> Sequence[SourceFolder]:
        if not os.path.isdir(self._path):
            return [self._folder("INBOX", self._path)]
        found: dict[str, str] = {}
        for path, parts in self._below(self._path, []):
            name = fitting_name(parts)
            while name in found:
                name += "_"
            found[name] = path
        if not found:
            raise SourceError(f"there is no mbox file in {self._path}")
        return [self._folder(name, found[name]) for name in sorted(found, key=lambda n: (n != "INBOX", n))]

    def _below(self, directory: str, parts: list[str]) -> Iterator[tuple[str, list[str]]]:
        if len(parts) > MAX_DEPTH:
            return
        with os.scandir(directory) as entries:
            there = sorted(entries, key=lambda entry: entry.name)
        named = any(entry.name.removesuffix(".mbox") == "INBOX" for entry in there)
        for entry in there:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._below(entry.path, [*parts, entry.name.removesuffix(".sbd")])
            elif is_mbox(entry.path) and not entry.name.endswith((".lock", ".msf")):
                name = entry.name.removesuffix(".mbox")
                if not parts and not named and name.lower() in _INBOXES:
                    name = "INBOX"
                yield entry.path, [*parts, name]

    def _folder(self, name: str, path: str) -> SourceFolder:
        validity, last = _uid_base(path)
        return SourceFolder(
            name, path, validity, last + 1 if validity else 0, (_USES[name],) if name in _USES else (), True
        )

    def marks(self, folder: SourceFolder) -> Sequence[Mark]:
        box = self._parsed(folder.place)
        return [Mark(f"mbox {base}", base) for base in box.entries]

    def messages(self, folder: SourceFolder, marks: Sequence[Mark]) -> Iterator[Message]:
        box = self._parsed(folder.place)
        descriptor = _open(folder.place)
        try:
            facts = os.fstat(descriptor)
            if (facts.st_ino, facts.st_size, facts.st_mtime_ns) != box.stamp:
                raise SourceError(f"{folder.place} was changed meanwhile; give the command again")
            for mark in marks:
                entry = box.entries[mark.place]
                if entry.end - entry.body > MAX_MESSAGE:
                    continue
                segment = mboxfile.segment_of(descriptor, entry)
                line = os.pread(descriptor, entry.body - entry.start, entry.start)
                data = mboxfile.wire_form(segment)
                flags = [name for bit, name, _ in SYSTEM if entry.bits & bit]
                uid = segment.own.get(b"x-uid", b"")
                yield Message(
                    mark,
                    (*flags, *entry.words),
                    mboxfile.date_of(line, box.stamp[2] // 10**9),
                    0,
                    int(uid) if folder.uid_validity and uid.isdigit() and len(uid) < 11 else 0,
                    True,
                    lambda data=data: iter((data,)),  # type: ignore[misc]
                )
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self._box = None

    def _parsed(self, path: str) -> mboxfile.Box:
        if self._box is None or self._box[0] != path:
            descriptor = _open(path)
            try:
                with _unwritten(descriptor, path):
                    self._box = (path, mboxfile.parse(descriptor))
            finally:
                os.close(descriptor)
        return self._box[1]


def is_mbox(path: str) -> bool:
    """Whether a plain file begins as an mbox does; an empty one is an empty mbox if it is called so."""
    try:
        descriptor = open_file(path)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        try:
            first = file.read(5)
        except OSError:  # a directory
            return False
    return first == b"From " or (not first and path.endswith(".mbox"))


def _open(path: str) -> int:
    try:
        return open_file(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _unwritten(descriptor: int, path: str) -> Iterator[None]:
    """While no other program that locks writes the file."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise SourceError(f"{path} is locked by another program") from None
            time.sleep(0.2)
    try:
        yield
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _uid_base(path: str) -> tuple[int, int]:
    """(UIDVALIDITY, last UID) of X-IMAPbase or X-IMAP of the first message, (0, 0) where it has none."""
    descriptor = _open(path)
    try:
        head = os.pread(descriptor, 1 << 16, 0)
    finally:
        os.close(descriptor)
    own = mboxfile.take_apart(head[head.find(b"\n") + 1 :]).own
    words = (own.get(b"x-imapbase") or own.get(b"x-imap") or b"").split()
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return 0, 0
    validity, last = int(words[0][:11]), int(words[1][:11])
    return (validity, last) if 0 < validity < 2**32 and last < 2**32 - 1 else (0, 0)
