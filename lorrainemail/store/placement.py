"""A delivery into a Maildir: written to tmp/, synced, renamed to new/, and only then told.

The hot path of local mail. Intake calls it; the committer does the writing. What it costs here is three
counts over the octets and a name; the home's directories are known from earlier, and the index hears of the
message afterwards. Message bytes: LF on disk; a message with any CR or LF that is not part of a CRLF is kept
with CRLF and marked in its name, so that what was accepted is returned byte for byte.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from lorrainemail.interfaces import FileWrite, ICommitter, IContent, IPlacement, Placed
from lorrainemail.ops.content import Content
from lorrainemail.store.copies import Copy, copy_of
from lorrainemail.store.failures import from_os

if TYPE_CHECKING:
    from lorrainemail.store.home import LiveHome

#: Octets of a message that wait in memory for its summary; a larger one is read again.
MAX_KEPT: Final = 128 * 1024


@attrs.frozen(slots=True)
class Measured:
    """Octets on disk and in wire form; ``raw``: kept with CRLF."""

    disk: int
    wire: int
    raw: bool


def count(parts: Sequence[bytes | IContent]) -> Measured:
    """Measure a message in wire form. Reads it through: in a thread, unless it is in memory."""
    wire = pairs = feeds = returns = 0
    ended_with_return = False
    for part in parts:
        if isinstance(part, Content) and part.line_ends is not None:
            wire += part.size
            pairs, feeds, returns = pairs + part.line_ends, feeds + part.line_ends, returns + part.line_ends
            ended_with_return = False
            continue
        whole = part if isinstance(part, bytes) else part.in_memory()
        for chunk in (whole,) if whole is not None else part.chunks():  # type: ignore[union-attr]
            wire += len(chunk)
            pairs += chunk.count(b"\r\n")
            feeds += chunk.count(b"\n")
            returns += chunk.count(b"\r")
            if ended_with_return and chunk[:1] == b"\n":
                pairs += 1
            if chunk:
                ended_with_return = chunk[-1:] == b"\r"
    raw = not pairs == feeds == returns
    return Measured(wire if raw else wire - pairs, wire, raw)


async def measure(committer: ICommitter, parts: Sequence[bytes | IContent]) -> Measured:
    """The same, in a thread where the octets are in a file."""
    if all(isinstance(part, bytes) or part.in_memory() is not None for part in parts):
        return count(parts)
    return await committer.run(lambda: count(parts))


@implementer(IPlacement)
class MaildirPlacement:
    """One message into one folder of one account."""

    __slots__ = (
        "_base",
        "_content",
        "_directory",
        "_folder",
        "_home",
        "_id",
        "_prefix",
        "_stem",
        "_wire",
        "_write",
    )

    def __init__(self, home: LiveHome, folder: str, prefix: bytes, content: IContent, id: str) -> None:
        self._home = home
        self._folder = folder
        self._prefix = prefix
        self._content = content
        self._id = id
        self._directory = ""
        self._stem = ""
        self._base = ""
        self._wire = 0
        self._write: FileWrite | None = None

    def stage(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stage())

    async def _stage(self) -> None:
        write = await self._prepared()
        (error,) = await self._home.committer.stage([write])
        if error is not None and error.errno == errno.ENOENT:
            write = await self._prepared(anew=True)
            (error,) = await self._home.committer.stage([write])
        if error is not None:
            self._write = None
            raise from_os(error, "stage")

    def publish(self) -> Deferred[Placed]:
        assert self._write is not None, "published before it was staged"
        return self._home.committer.publish([self._write]).addCallback(self._published)

    def commit(self) -> Deferred[Placed]:
        directory = self._home.ready_directory(self._folder)
        if directory is None or self._content.in_memory() is None:
            return Deferred.fromCoroutine(self._commit())
        write = self._prepare(directory, count((self._prefix, self._content)))
        return self._home.committer.commit([write]).addCallback(self._committed)

    async def _commit(self, anew: bool = False) -> Placed:
        write = await self._prepared(anew)
        return self._published(await self._home.committer.commit([write]))

    def _committed(self, errors: list[OSError | None]) -> Placed | Deferred[Placed]:
        error = errors[0]
        if error is not None and error.errno == errno.ENOENT:
            # The folder was known and is not there: somebody removed it.
            return Deferred.fromCoroutine(self._commit(anew=True))
        return self._published(errors)

    def abort(self) -> Deferred[None]:
        write, self._write = self._write, None
        if write is None:
            return succeed(None)
        return self._home.committer.discard([write])

    async def _prepared(self, anew: bool = False) -> FileWrite:
        directory = await self._home.make_ready(self._folder, anew)
        return self._prepare(directory, await measure(self._home.committer, (self._prefix, self._content)))

    def _prepare(self, directory: str, measured: Measured) -> FileWrite:
        home = self._home
        self._directory = directory
        self._stem = stem = home.tree.names.stem()
        self._base = base = home.tree.names.with_sizes(stem, measured.disk, measured.wire, measured.raw)
        self._wire = measured.wire
        path = home.tree.folder_path(directory)
        self._write = write = FileWrite(
            f"{path}/tmp/{stem}",
            f"{path}/new/{base}",
            (self._prefix, self._content),
            line_feed=not measured.raw,
        )
        return write

    def _published(self, errors: list[OSError | None]) -> Placed:
        (error,) = errors
        if error is not None:
            self._write = None
            raise from_os(error, "delivery")
        assert self._write is not None
        where = self._write.final
        self._write = None
        copy: Copy | None = None
        if self._wire <= MAX_KEPT:
            copy = copy_of(self._prefix, self._content)
        folder = self._home.delivered(self._directory, self._base, self._wire, copy)
        return Placed(self._home.key, folder, where)
