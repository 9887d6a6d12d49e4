"""The courier "file": a message appended to an mbox file, or put into a Maildir (a path with a final slash).

Only below the directories that the operator lists (``[aliases] file_directories``), and there only where no
user could have put something else in the way: each directory from the listed one down, and the file itself,
belong to root or the server, are no links and cannot be written by others. An mbox is locked as the store's
own (:mod:`lorrainemail.store.locks`) and written by the same code; ``/dev/null`` takes everything. Called
through :mod:`~lorrainemail.delivery.agents`.
"""

from __future__ import annotations

import os
import stat
import time
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from lorrainemail.delivery.arrival import for_mailbox, header_of, mailbox_prefix
from lorrainemail.errors import MailError, Reply, TemporaryError
from lorrainemail.interfaces import (
    DeliveryRow,
    FileWrite,
    IAgent,
    ICommitter,
    IContent,
    IDelivery,
    QueueItem,
    QueueRecipient,
)
from lorrainemail.ops.files import SYSTEM, Files, make_directories
from lorrainemail.store.failures import from_os
from lorrainemail.store.locks import FileLocks
from lorrainemail.store.mbox import append, as_stored, from_line
from lorrainemail.store.names import UniqueNames
from lorrainemail.store.placement import measure

DELIVERED: Final = Reply(250, "2.1.5", "Delivered to the file")
DEV_NULL: Final = "/dev/null"


@implementer(IAgent)
class FileAgent:
    """The agent.

    :param committer: makes files durable. ``locks``: of mbox files, the store's own.
    :param hostname: our name, in names of Maildir files.
    """

    name = "file"

    def __init__(
        self,
        committer: ICommitter,
        locks: FileLocks,
        hostname: str,
        directories: tuple[str, ...],
        files: Files = SYSTEM,
    ) -> None:
        self.directories = directories
        self.committer = committer
        self.locks = locks
        self.names = UniqueNames(hostname)
        self.files = files

    def destination(self, recipient: QueueRecipient, argument: str) -> str:
        return argument

    def start(self, item: QueueItem, row: DeliveryRow | None) -> Deferred[IDelivery]:
        delivery: IDelivery = FileDelivery(self, item)
        return succeed(delivery)

    def allowed(self, path: str) -> str:
        """The listed directory that a path is below. Blocks.

        :raises TemporaryError: where there is none, or where something in between is not ours alone.
        """
        for listed in self.directories:
            base = listed.rstrip("/")
            if path.startswith(base + "/") and ".." not in path.split("/") and path.isprintable():
                _check(base, path)
                return base
        raise TemporaryError(
            Reply(451, "4.3.5", f"{path} is not below a directory of aliases.file_directories")
        )


def _check(base: str, path: str) -> None:
    """Every part below the listed directory that exists: ours or root's, no link, not for others to write."""
    parts = [part for part in path[len(base) :].split("/") if part]
    place = base
    for part in ("", *parts):
        place = f"{place}/{part}" if part else place
        try:
            facts = os.stat(place) if place == base else os.lstat(place)
        except FileNotFoundError:
            if place == base:
                raise TemporaryError(Reply(451, "4.3.5", f"{base} does not exist")) from None
            return
        except OSError as error:
            raise from_os(error, place) from error
        kind = stat.S_IFMT(facts.st_mode)
        whole = kind == stat.S_IFDIR or (place == path.rstrip("/") and kind == stat.S_IFREG)
        if not whole or facts.st_uid not in (0, os.geteuid()) or facts.st_mode & 0o022:
            words = f"{place} is a link, or can be written by others than root and the server"
            raise TemporaryError(Reply(451, "4.3.5", words))


@implementer(IDelivery)
class FileDelivery:
    """One message for files; each recipient is a copy."""

    def __init__(self, agent: FileAgent, item: QueueItem) -> None:
        self._agent = agent
        self._item = item
        self._targets: list[tuple[QueueRecipient, str, str]] = []
        self._content: IContent | None = None

    def recipient(self, recipient: QueueRecipient, argument: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._recipient(recipient, argument))

    async def _recipient(self, recipient: QueueRecipient, argument: str) -> None:
        base = ""
        if argument != DEV_NULL:
            base = await self._agent.committer.run(partial(self._agent.allowed, argument))
        self._targets.append((recipient, argument, base))

    def body(self, content: IContent) -> Deferred[None]:
        return Deferred.fromCoroutine(self._body(content))

    async def _body(self, content: IContent) -> None:
        header = await self._agent.committer.run(partial(header_of, content))
        self._content = for_mailbox(content, header)

    def commit(self) -> Deferred[list[Reply]]:
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> list[Reply]:
        assert self._content is not None, "committed before the body was there"
        replies: list[Reply] = []
        for recipient, path, base in self._targets:
            prefix = mailbox_prefix(self._item.envelope.sender, recipient.recipient.address)
            try:
                if path.endswith("/"):
                    await self._maildir(path.rstrip("/"), base, prefix, self._content)
                elif path != DEV_NULL:
                    await self._mbox(path, base, prefix, self._content)
                replies.append(DELIVERED)
            except MailError as error:
                replies.append(error.reply)
        return replies

    def abort(self) -> Deferred[None]:
        return succeed(None)

    async def _mbox(self, path: str, base: str, prefix: bytes, content: IContent) -> None:
        agent = self._agent
        await self._made(os.path.dirname(path), base)
        line = from_line(prefix, time.time())

        def work(descriptor: int) -> int:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                raise TemporaryError(Reply(451, "4.3.5", f"{path} is no plain file of its own"))
            return append(agent.files, path, descriptor, line, lambda: as_stored((prefix, content))).start

        await agent.locks.holding(path, work)

    async def _maildir(self, path: str, base: str, prefix: bytes, content: IContent) -> None:
        agent = self._agent
        for part in ("tmp", "new", "cur"):
            await self._made(f"{path}/{part}", base)
        parts = (prefix, content)
        measured = await measure(agent.committer, parts)
        stem = agent.names.stem()
        final = agent.names.with_sizes(stem, measured.disk, measured.wire, measured.raw)
        write = FileWrite(f"{path}/tmp/{stem}", f"{path}/new/{final}", parts, line_feed=not measured.raw)
        (error,) = await agent.committer.commit([write])
        if error is not None:
            raise from_os(error, path)

    async def _made(self, directory: str, base: str) -> None:
        """The directory, made with those above it that are missing."""
        if directory == base:
            return
        work: Any = partial(make_directories, self._agent.files, base, directory)
        try:
            await self._agent.committer.run(work)
        except OSError as error:
            raise from_os(error, directory) from error
