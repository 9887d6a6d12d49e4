"""Copies that a script files with flags, or into a folder that it has made: a placement over the folders.

Plain copies go the store's quick way; these open the folder, which is made at the stage where it is missing.
The copy itself is written and synced when it is published. A folder that cannot be had becomes INBOX.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, Filing, IContent, IMailbox, IPlacement, IStore, Placed


def filing_words(filing: Filing | None) -> str:
    """How a filing is told to the queue, for a mailbox that could not be had at once; "" for a plain copy."""
    if filing is None or not (filing.flags or filing.create):
        return ""
    return " ".join(("create" if filing.create else "as-it-is", *filing.flags))


def told_filing(words: str) -> tuple[tuple[str, ...], bool]:
    """The flags, and whether the folder is made where it is missing, of :func:`filing_words`."""
    create, *flags = words.split(" ")
    return tuple(flags), create == "create"


@implementer(IPlacement)
class FolderPlacement:
    """One message into one folder, with flags.

    :param create: make the folder where it is missing.
    """

    def __init__(
        self,
        store: IStore,
        account: Account,
        folder: str,
        content: IContent,
        flags: Sequence[str],
        create: bool,
    ) -> None:
        self._home = store.home(account)
        self._account = account
        self._folder = folder or "INBOX"
        self._content = content
        self._flags = tuple(flags)
        self._create = create

    def stage(self) -> Deferred[None]:
        if not self._create:
            return succeed(None)
        return Deferred.fromCoroutine(self._make())

    def publish(self) -> Deferred[Placed]:
        return Deferred.fromCoroutine(self._publish())

    def commit(self) -> Deferred[Placed]:
        return Deferred.fromCoroutine(self._commit())

    def abort(self) -> Deferred[None]:
        return succeed(None)  # nothing is written before it is published; a folder that was made may stay

    async def _commit(self) -> Placed:
        await self.stage()
        return await self._publish()

    async def _make(self) -> None:
        try:
            await self._home.create(self._folder)
        except PermanentError:
            pass  # it is there, or cannot be: opening it will tell

    async def _publish(self) -> Placed:
        mailbox = await self._open()
        try:
            uid = await mailbox.append(self._content, self._flags, None)
        finally:
            mailbox.close()
        return Placed(self._account.address.key, mailbox.name, f"uid {uid}")

    async def _open(self) -> IMailbox:
        try:
            return await self._home.open(self._folder)
        except PermanentError:
            if self._folder == "INBOX":
                raise
            return await self._home.open("INBOX")
