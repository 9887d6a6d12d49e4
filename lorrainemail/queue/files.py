"""The spool's work on its directory: everything here blocks and runs in a committer's thread.

Owns the names below ``queue/`` and what is left of them after a crash. Order makes it safe without a journal:
an item lives exactly while its ``.json`` is there. It is born with ``.msg`` renamed before ``.json`` and both
made durable by one sync of the directory before anybody is told; it dies with ``.json`` unlinked and that
synced before ``.msg`` goes. So after a crash

- ``.json`` without ``.msg`` was never acknowledged, or belongs to an item that was finished: it is moved to
  ``queue/damaged/`` for a person to look at, and said;
- ``.msg`` without ``.json`` is a rest of the same, and removed once it is old;
- files in ``queue/tmp/`` are rests, and removed.

Fails with OSError; one item's fault is reported for that item and never stops the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs
from zope.interface import implementer

from lorrainemail.errors import INTERNAL_ERROR, TemporaryError
from lorrainemail.interfaces import IContent
from lorrainemail.ops.files import Files, make_directories
from lorrainemail.queue.format import ID, MAX_OCTETS, FormatError, NewerFormat, Stored, decode, peek

#: A message file without its envelope is removed when it is older than this: no placement takes so long.
ORPHAN_AGE: Final = 3600.0
#: Octets of an envelope that are read at once; most have fewer.
AT_ONCE: Final = 64 << 10


@attrs.frozen(slots=True)
class Fault:
    """Something that is wrong with an item on disk, in words, and where it lies now ("" where it is gone)."""

    id: str
    what: str
    where: str = ""


@attrs.frozen(slots=True)
class Directory:
    """The names below ``queue/`` and the operations on them."""

    path: str
    files: Files

    def envelope(self, identity: str) -> str:
        return f"{self.path}/{identity}.json"

    def message(self, identity: str) -> str:
        return f"{self.path}/{identity}.msg"

    def temporary(self, name: str) -> str:
        return f"{self.path}/tmp/{name}"

    def prepare(self) -> None:
        """Make what is missing, durable. Before anything else, also where no reactor runs yet."""
        root = os.path.dirname(self.path)
        for name in ("tmp", "damaged", "history"):
            make_directories(self.files, root, f"{self.path}/{name}")

    def scan(self, now: float | None = None) -> tuple[list[str], list[Fault]]:
        """Ids of all items, oldest first, and what had to be put aside; rests are cleared away."""
        moment = time.time() if now is None else now
        envelopes: set[str] = set()
        messages: set[str] = set()
        with os.scandir(self.path) as entries:
            for entry in entries:
                stem, dot, suffix = entry.name.partition(".")
                if dot and ID.match(stem):
                    if suffix == "json":
                        envelopes.add(stem)
                    elif suffix == "msg":
                        messages.add(stem)
        faults = []
        for identity in envelopes - messages:
            # a directory's listing is no snapshot: look again
            if not os.path.exists(self.message(identity)) and os.path.exists(self.envelope(identity)):
                faults.append(self.set_aside(identity, "its message is missing: it was never accepted"))
                envelopes.discard(identity)
        for identity in messages - envelopes:
            self._clear(self.message(identity), moment, unless=self.envelope(identity))
        with os.scandir(f"{self.path}/tmp") as rests:
            for entry in rests:
                self._clear(entry.path, moment)
        return sorted(envelopes), faults

    def _clear(self, path: str, now: float, unless: str = "") -> None:
        try:
            if os.stat(path).st_mtime < now - ORPHAN_AGE and not (unless and os.path.exists(unless)):
                self.files.unlink(path)
        except OSError:
            pass  # gone meanwhile, or it stays for the next start

    def set_aside(self, identity: str, what: str) -> Fault:
        """Move an item's files to ``damaged/``, where a person can look at them."""
        where = f"{self.path}/damaged"
        for source in (self.envelope(identity), self.message(identity)):
            try:
                self.files.rename(source, f"{where}/{os.path.basename(source)}")
            except FileNotFoundError:
                pass  # the one that is missing
            except OSError as error:
                return Fault(identity, f"{what}; moving it aside failed: {error}", source)
        return Fault(identity, what, f"{where}/{identity}.json")

    def read(self, identity: str) -> Stored:
        """One item.

        :raises FormatError: where it is damaged. :raises OSError: where it cannot be read.
        """
        stored = decode(self._octets(identity))
        if stored.item.envelope.id != identity:
            raise FormatError("the file's name and its id differ")
        return stored

    def _octets(self, identity: str) -> bytes:
        # Without a file object, which costs several times as much: a start reads 100,000 of them.
        descriptor = os.open(self.envelope(identity), os.O_RDONLY | os.O_CLOEXEC)
        try:
            octets = os.read(descriptor, AT_ONCE)
            while len(octets) >= AT_ONCE and (more := os.read(descriptor, MAX_OCTETS)):
                octets += more
                if len(octets) > MAX_OCTETS:
                    raise FormatError("longer than any queue item")
        finally:
            os.close(descriptor)
        return octets

    def read_all(self, identities: Sequence[str]) -> dict[str, Stored]:
        """Those of a slice of items that can be read."""
        found = {}
        for identity in identities:
            try:
                found[identity] = self.read(identity)
            except (OSError, FormatError):
                continue  # gone meanwhile, or for :meth:`read` to tell
        return found

    def peek_all(self, identities: Sequence[str]) -> tuple[list[tuple[str, float, float]], list[Fault]]:
        """(id, age, next try) of a slice of items; damaged ones are set aside, those of a newer version
        left alone."""
        found, faults = [], []
        for identity in identities:
            try:
                facts = peek(self._octets(identity))
                if facts[0] != identity:
                    raise FormatError("the file's name and its id differ")
                found.append(facts)
            except NewerFormat as error:
                faults.append(Fault(identity, str(error), self.envelope(identity)))
            except FormatError as error:
                faults.append(self.set_aside(identity, f"its envelope is damaged: {error}"))
            except FileNotFoundError:
                pass  # finished meanwhile
            except OSError as error:
                faults.append(Fault(identity, f"cannot be read: {error}", self.envelope(identity)))
        return found, faults

    @property
    def history(self) -> str:
        """Where :mod:`lorrainemail.queue.history` writes."""
        return f"{self.path}/history"

    def remove(self, identities: Sequence[str], before: Callable[[], None] | None = None) -> None:
        """Remove items for good: durable when it returns.

        :param before: what must be written down first; it does not fail.
        """
        if before is not None:
            before()
        for identity in identities:
            try:
                self.files.unlink(self.envelope(identity))
            except FileNotFoundError:
                pass  # an earlier try came this far
        self.files.fsync_directory(self.path)
        for identity in identities:
            try:
                self.files.unlink(self.message(identity))
            except OSError:
                pass  # a rest, cleared at a later start

    def replace(self, identity: str, octets: bytes) -> None:
        """Replace an envelope, durable when it returns: for commands that run without a server."""
        temporary = self.temporary(f"{identity}.{os.getpid()}")
        owner = os.stat(self.envelope(identity))
        descriptor = self.files.open(temporary)
        try:
            try:
                self.files.write(descriptor, [octets])
                self.files.fsync(descriptor)
                if os.geteuid() == 0:  # root's command must not take the file from the server
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                self.files.close(descriptor)
            self.files.rename(temporary, self.envelope(identity))
        except OSError:
            self.files.unlink(temporary)
            raise
        self.files.fsync_directory(self.path)

    def take_back(self, identity: str, names: Sequence[str]) -> None:
        """Remove what a placement left that failed half-way: the envelope first."""
        for path in (self.envelope(identity), self.message(identity), *names):
            try:
                self.files.unlink(path)
            except OSError:
                pass  # was not there, or a rest for a later start


@implementer(IContent)
class MessageFile:
    """A queued message, read from its file; the file is opened at the first read."""

    __slots__ = ("_descriptor", "_path", "eight_bit", "size")

    def __init__(self, path: str, size: int, eight_bit: bool) -> None:
        self._path = path
        self._descriptor = -1
        self.size = size
        self.eight_bit = eight_bit

    def head(self, limit: int) -> bytes:
        return b"".join(self._read(min(limit, self.size), limit))

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield from self._read(self.size, size)

    def _read(self, wanted: int, size: int) -> Iterator[bytes]:
        position = 0
        while position < wanted:
            try:
                if self._descriptor < 0:
                    self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                chunk = os.pread(self._descriptor, min(size, wanted - position), position)
            except OSError as error:
                raise TemporaryError(INTERNAL_ERROR, f"reading a queued message: {error}") from error
            if not chunk:
                raise TemporaryError(INTERNAL_ERROR, f"{self._path} is shorter than it was")
            position += len(chunk)
            yield chunk

    def in_memory(self) -> bytes | None:
        return None

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
