"""An account written out, as a Maildir tree or as mbox files, for any other program and for import again.

A Maildir export holds what Dovecot keeps beside the mail (UIDs, keywords, subscriptions), file dates are the
internal dates. In an mbox export each folder is ``NAME.mbox``, what is below it in ``NAME/``; flags, keywords
and UIDs are in the fields that mutt, UW-IMAP and Dovecot use. Everything is synced when :func:`export`
returns. Blocking. Fails with OSError and SourceError; what was written stays then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, Protocol

from lorrainemail.ops.files import CREATE, SYSTEM
from lorrainemail.store import maildir, mbox
from lorrainemail.store.dovecot import KEYWORDS, UIDLIST, print_keywords, print_lines
from lorrainemail.store.flags import ANSWERED, DELETED, DRAFT, FLAGGED, IN_NAME, SEEN, Keywords
from lorrainemail.store.folders import SUBSCRIPTIONS
from lorrainemail.store.index import MAX_UID
from lorrainemail.store.paths import encode_component, folder_directory
from lorrainemail.transfer.maildirs import FURTHER
from lorrainemail.transfer.sources import Message, Source, SourceError, SourceFolder, as_wire

Form = Literal["maildir", "mbox"]
#: What mutt and Dovecot say in X-Status.
X_STATUS: Final = {"A": ANSWERED, "F": FLAGGED, "D": DELETED, "T": DRAFT}
#: Messages handed over, and synced, at once.
STEP: Final = 100


class Writer(Protocol):
    """Writes folders."""

    def begin(self, folder: SourceFolder) -> None: ...

    def write(self, message: Message) -> None: ...

    def step(self) -> None:
        """Sync what was written."""

    def end(self) -> None: ...


def export(
    source: Source,
    target: str,
    form: Form,
    wanted: Callable[[str], bool],
    progress: Callable[[str, int, int], None],
) -> tuple[int, int]:
    """Write a source out.

    :param target: the directory, made here; one that is there must be empty.
    :returns: folders and messages.
    :raises SourceError: where the target is in use.
    """
    os.makedirs(target, mode=0o700, exist_ok=True)
    if os.listdir(target):
        raise SourceError(f"{target} is not empty")
    folders = [folder for folder in source.folders() if wanted(folder.name)]
    writer: Writer = MaildirWriter(target, folders) if form == "maildir" else MboxWriter(target)
    count = 0
    for folder in folders:
        writer.begin(folder)
        marks = source.marks(folder)
        progress(folder.name, 0, len(marks))
        for start in range(0, len(marks), STEP):
            for message in source.messages(folder, marks[start : start + STEP]):
                try:
                    writer.write(message)
                except FileNotFoundError:
                    continue  # expunged this very moment
                count += 1
            writer.step()
            progress(folder.name, min(start + STEP, len(marks)), len(marks))
        writer.end()
    SYSTEM.fsync_directory(target)
    SYSTEM.fsync_directory(os.path.dirname(os.path.abspath(target)))
    return len(folders), count


class MaildirWriter:
    """A Maildir++ tree."""

    def __init__(self, target: str, folders: Sequence[SourceFolder]) -> None:
        self._target = target
        self._path = ""
        self._folder: SourceFolder | None = None
        self._keywords = Keywords()
        self._uids: list[tuple[int, str]] = []
        self._further: list[str] = []
        self._open: list[int] = []
        for sub in ("cur", "new", "tmp"):
            os.mkdir(f"{target}/{sub}", 0o700)
        names = [folder_directory(f.name)[1:] or "INBOX" for f in folders if f.subscribed]
        _write_file(f"{target}/{SUBSCRIPTIONS}", "".join(f"{name}\n" for name in names).encode("ascii"))

    def begin(self, folder: SourceFolder) -> None:
        directory = folder_directory(folder.name)
        self._path = f"{self._target}/{directory}" if directory else self._target
        if directory:
            for path in (self._path, *(f"{self._path}/{sub}" for sub in ("cur", "new", "tmp"))):
                os.mkdir(path, 0o700)
            _write_file(f"{self._path}/maildirfolder", b"")
        self._folder, self._keywords, self._uids, self._further = folder, Keywords(), [], []

    def write(self, message: Message) -> None:
        bits = self._keywords.bits_of(message.flags)
        name = f"{self._path}/cur/{message.mark.place}{maildir.make_info(bits & IN_NAME)}"
        base = message.mark.place
        if "/" in base or message.wire != ("C" in maildir.fields(base)):
            base, name = self._named(message, bits)
        descriptor = SYSTEM.open(name)
        self._open.append(descriptor)
        for chunk in message.octets():
            SYSTEM.write(descriptor, (chunk,))
        os.utime(descriptor, (message.date, message.date))
        SYSTEM.begin_sync(descriptor)
        if message.uid:
            self._uids.append((message.uid, base))
        if bits & ~IN_NAME:
            self._further.append(f"{base} {' '.join(sorted(self._keywords.names_of(bits & ~IN_NAME)))}\n")

    def _named(self, message: Message, bits: int) -> tuple[str, str]:
        """A name for what was no Maildir file: in wire form, and marked so."""
        digest = encode_component(message.mark.place)
        base = f"{max(message.date, 0)}.M{len(self._uids) % 10**6}I{digest}.export,C=1"
        return base, f"{self._path}/cur/{base}{maildir.make_info(bits & IN_NAME)}"

    def step(self) -> None:
        while self._open:
            descriptor = self._open.pop()
            try:
                SYSTEM.fsync(descriptor)
            finally:
                SYSTEM.close(descriptor)

    def end(self) -> None:
        assert self._folder is not None
        folder = self._folder
        if self._keywords.names:
            _write_file(f"{self._path}/{KEYWORDS}", print_keywords(self._keywords.names))
        if self._further:
            _write_file(f"{self._path}/{FURTHER}", "".join(self._further).encode("utf-8", "surrogateescape"))
        if folder.uid_validity:
            self._uids.sort()
            last = self._uids[-1][0] if self._uids else 0
            following = max(folder.uid_next, last + 1)
            head = f"3 V{folder.uid_validity} N{min(following, MAX_UID)}\n".encode("ascii")
            _write_file(f"{self._path}/{UIDLIST}", head + print_lines(self._uids))
        for sub in ("cur", "new", "tmp"):
            SYSTEM.fsync_directory(f"{self._path}/{sub}")
        SYSTEM.fsync_directory(self._path)


class MboxWriter:
    """Mbox files in directories."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._descriptor = -1
        self._folder: SourceFolder | None = None
        self._first = True

    def begin(self, folder: SourceFolder) -> None:
        parts = [part.replace("\0", "_") for part in folder.name.split("/")]
        directory = "/".join([self._target, *(_safe(part) for part in parts[:-1])])
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._descriptor = SYSTEM.open(f"{directory}/{_safe(parts[-1])}.mbox", CREATE)
        self._folder = folder
        self._first = True

    def write(self, message: Message) -> None:
        assert self._folder is not None
        keywords = Keywords()
        bits = keywords.bits_of(message.flags)
        lines = [b"Status: " + (b"RO" if bits & SEEN else b"O")]
        letters = "".join(letter for letter, bit in X_STATUS.items() if bits & bit)
        if letters:
            lines.append(b"X-Status: " + letters.encode("ascii"))
        if keywords.names:
            lines.append(b"X-Keywords: " + " ".join(sorted(keywords.names)).encode("ascii"))
        if self._folder.uid_validity and message.uid:
            if self._first:
                following = max(self._folder.uid_next, message.uid + 1)
                lines.append(b"X-IMAPbase: %d %010d" % (self._folder.uid_validity, following - 1))
            lines.append(b"X-UID: %d" % message.uid)
            self._first = False
        content: Any = Octets(message)
        SYSTEM.write(self._descriptor, (mbox.from_line(b"", message.date), b"\n".join(lines) + b"\n"))
        for piece in mbox.as_stored((content,)):
            SYSTEM.write(self._descriptor, (piece,))
        SYSTEM.write(self._descriptor, (b"\n",))

    def step(self) -> None:
        """A file is synced at its end."""

    def end(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        try:
            SYSTEM.fsync(descriptor)
        finally:
            SYSTEM.close(descriptor)


class Octets:
    """A message as the writers of mboxes want it: in wire form, by chunks."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def in_memory(self) -> None:
        """It is read by chunks."""

    def chunks(self, size: int = 0) -> Iterator[bytes]:
        return as_wire(self._message)


def _safe(part: str) -> str:
    """A folder's level as a file name that begins with no dot."""
    return "_" + part if part.startswith(".") else part


def _write_file(path: str, data: bytes) -> None:
    descriptor = SYSTEM.open(path)
    try:
        SYSTEM.write(descriptor, (data,))
        SYSTEM.fsync(descriptor)
    finally:
        SYSTEM.close(descriptor)
