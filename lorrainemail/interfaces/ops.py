"""What the tools give: messages as octets, durable writes, the trace (:mod:`lorrainemail.ops`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
from zope.interface import Attribute, Interface

from lorrainemail.interfaces.awaiting import T

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class IContent(Interface):
    """A finished message, immutable, in wire form (CRLF line ends), in memory or spilled to a file.

    It stays readable until :meth:`close`; its maker (door, injector) closes it.
    """

    size: int = Attribute("octets with CRLF line ends")
    eight_bit: bool = Attribute("whether any octet is over 127")

    def head(limit: int) -> bytes:
        """The first ``limit`` octets at most (one bounded read)."""

    def chunks(size: int = 65536) -> Iterator[bytes]:
        """The octets in order. May read a file: outside the reactor thread only, unless in memory."""

    def in_memory() -> bytes | None:
        """All octets where they are held in memory, else None."""

    def close() -> None:
        """Let go of memory and of the spill file."""


@attrs.frozen(slots=True)
class FileWrite:
    """One file to make durable: written at ``temporary``, synced, then renamed to ``final``.

    :ivar temporary: path on the same file system; made with O_EXCL.
    :ivar final: the name that makes it visible. Must not exist.
    :ivar parts: what is written, in order: bytes, or a content (read in the committer's thread).
    :ivar line_feed: CRLF becomes LF on the way (Maildir, mbox).
    :ivar mode: permission bits, explicit, whatever the umask.
    :ivar new_directories: directories that were created for it, deepest last; their parents are synced too.
    :ivar replace: ``final`` may exist and is replaced (state files; never mail).
    """

    temporary: str
    final: str
    parts: tuple[bytes | IContent, ...]
    line_feed: bool = False
    mode: int = 0o600
    new_directories: tuple[str, ...] = ()
    replace: bool = False


class ICommitter(Interface):
    """Durable writes, grouped in a few threads.

    Each call answers with one entry a file: None, or the OSError that hit it; one file's error never fails
    another's. A failed fsync is never repeated: the file is unlinked. After a failed *directory* sync every
    call answers EIO for that file system until a probe (new write, sync, read back) succeeds.
    """

    def stage(writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        """Write and sync the temporary files; nothing is visible yet."""

    def publish(writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        """Rename staged files into place and sync their directories."""

    def commit(writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        """Stage and publish in one thread hop: for single files, and where order does not matter."""

    def discard(writes: Sequence[FileWrite]) -> Deferred[None]:
        """Unlink staged files that will not be published."""

    def run(work: Callable[[], T]) -> Deferred[T]:
        """Run other blocking file work (mbox append, removal) in the committer's threads."""

    def writable(octets: int) -> OSError | None:
        """Whether a message of that size may be begun: disk reserve kept, no alarm standing. Cheap."""


class ITrace(Interface):
    """What happened to a message, event by event, kept for a bounded time (``trace.sqlite``)."""

    def event(message: str, kind: str, **facts: object) -> None:
        """Note one event of the message with that id. Returns at once; written in batches by one thread.

        :param kind: "received", "accepted", "refused", "delivered", "queued", "attempt", "deferred",
            "relayed", "bounced", "expired", "dropped", "injected", ...
        :param facts: JSON-able values, no secrets.
        """
