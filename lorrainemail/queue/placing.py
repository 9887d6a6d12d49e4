"""How one message gets into the queue: staged and synced unseen, published, or taken back.

Made by :meth:`lorrainemail.queue.spool.Spool.placement`; the message and its envelope are two files, which
count only together. Nothing of it is in the spool before it is published.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from lorrainemail.errors import INTERNAL_ERROR, STORAGE_FULL, TemporaryError
from lorrainemail.interfaces import FileWrite, IContent, IPlacement, Placed, QueueItem
from lorrainemail.queue.format import ID, Stored, encode

if TYPE_CHECKING:
    from lorrainemail.queue.spool import Spool


@implementer(IPlacement)
class QueuePlacement:
    """One item on its way into the queue."""

    __slots__ = ("_content", "_prefix", "_spool", "_stored", "_under_way", "_writes")

    def __init__(self, spool: Spool, item: QueueItem, prefix: bytes, content: IContent) -> None:
        identity = item.envelope.id
        if not ID.match(identity) or not item.recipients:
            raise ValueError(f"no queue item: {identity!r}")
        size = len(prefix) + content.size
        eight_bit = content.eight_bit or not prefix.isascii()
        directory = spool.directory
        self._spool = spool
        age = min(0.0, spool.now() - item.release_at) if item.release_at else 0.0
        self._stored = Stored(attrs.evolve(item, size=size), eight_bit, age)
        self._under_way = False
        self._prefix, self._content = prefix, content
        self._writes = (
            FileWrite(
                temporary=directory.temporary(f"{identity}.msg"),
                final=directory.message(identity),
                parts=(prefix, content),
            ),
            FileWrite(
                temporary=directory.temporary(f"{identity}.json"),
                final=directory.envelope(identity),
                parts=(encode(self._stored),),
            ),
        )

    def stage(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stage())

    def publish(self) -> Deferred[Placed]:
        return Deferred.fromCoroutine(self._publish(self._spool.committer.publish))

    def commit(self) -> Deferred[Placed]:
        refused = self._refused()
        if refused is not None:
            return Deferred.fromCoroutine(_raise(refused))
        self._begin()
        return Deferred.fromCoroutine(self._publish(self._spool.committer.commit))

    def abort(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._abort())

    def _refused(self) -> TemporaryError | None:
        identity = self._stored.item.envelope.id
        if identity in self._spool.staged or self._spool.find(identity) is not None:
            return TemporaryError(INTERNAL_ERROR, f"{identity} is in the queue already")
        reply = self._spool.full()
        return None if reply is None else TemporaryError(reply, "the queue is full")

    def _begin(self) -> None:
        self._under_way = True
        self._spool.staged.add(self._stored.item.envelope.id)

    def _end(self) -> None:
        if self._under_way:
            self._under_way = False
            self._spool.staged.discard(self._stored.item.envelope.id)

    async def _stage(self) -> None:
        refused = self._refused()
        if refused is not None:
            raise refused
        self._begin()
        errors = await self._spool.committer.stage(self._writes)
        error = next((one for one in errors if one is not None), None)
        if error is not None:
            await self._abort()
            raise _temporary(error)

    async def _publish(
        self, how: Callable[[tuple[FileWrite, FileWrite]], Deferred[list[OSError | None]]]
    ) -> Placed:
        errors = await how(self._writes)
        error = next((one for one in errors if one is not None), None)
        identity = self._stored.item.envelope.id
        if error is not None:
            names = [write.temporary for write in self._writes]
            await self._spool.committer.run(partial(self._spool.directory.take_back, identity, names))
            self._end()
            raise _temporary(error)
        self._end()
        body = self._content.in_memory()
        if body is not None:
            self._spool.keep_fresh(identity, self._prefix, body)
        self._spool.placed(self._stored)
        return Placed("", "queue", identity)

    async def _abort(self) -> None:
        self._end()
        await self._spool.committer.discard(self._writes)


async def _raise(error: TemporaryError) -> Placed:
    raise error


def _temporary(error: OSError) -> TemporaryError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return TemporaryError(STORAGE_FULL if full else INTERNAL_ERROR, f"the queue's disk: {error}")
