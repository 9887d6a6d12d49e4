"""The courier "local": mailboxes that could not be had at once, tried again from the queue.

Intake puts a recipient here when his mailbox failed for a moment while others of the same message were
served. The recipient's address is the account's main address, the folder stands beside it; nothing is
expanded again. Called by the queue's runner; never fails, every recipient gets an outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.delivery.arrival import for_mailbox, header_of, mailbox_prefix
from lorrainemail.errors import INTERNAL_ERROR, MailError, PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import (
    IContent,
    ICourier,
    IStore,
    ITableService,
    Outcome,
    QueueItem,
    QueueRecipient,
    later,
)
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.sieve.filing import FolderPlacement, told_filing

_log = Logger("lorrainemail.delivery.local")

DELIVERED: Final = Reply(250, "2.1.5", "Delivered")
QUOTA: Final = "quota"
NO_ACCOUNT: Final = Reply(550, "5.1.1", "There is no such mailbox any more")


@implementer(ICourier)
class LocalCourier:
    """Deliveries into our own mailboxes, from the queue."""

    name = "local"

    def __init__(self, store: IStore, tables: ITableService) -> None:
        self._store = store
        self._tables = tables

    def destination(self, item: QueueItem, recipient: QueueRecipient) -> str:
        """Each mailbox is a destination of its own: one that hangs holds up no other."""
        return f"local:{recipient.recipient.address.key}"

    def deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        """Try each mailbox once, one after the other."""
        return Deferred.fromCoroutine(self._deliver(item, recipients, content))

    async def _deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> list[Outcome]:
        outcomes = []
        for recipient in recipients:
            try:
                await self._place(item, recipient, content)
                outcomes.append(Outcome(recipient.recipient, "delivered", DELIVERED))
            except MailError as error:
                final = isinstance(error, PermanentError)
                _log.info(
                    "{id}: mailbox {mailbox}: {reply} ({detail})",
                    id=item.envelope.id,
                    mailbox=str(recipient.recipient.address),
                    reply=str(error.reply),
                    detail=error.detail,
                )
                outcomes.append(
                    Outcome(
                        recipient.recipient,
                        "failed" if final else "deferred",
                        error.reply,
                        ours=not final and error.detail != QUOTA,
                    )
                )
            except Exception:
                _log.failure("{id}: delivery from the queue failed", id=item.envelope.id)
                outcomes.append(Outcome(recipient.recipient, "deferred", INTERNAL_ERROR, ours=True))
        return outcomes

    async def _place(self, item: QueueItem, recipient: QueueRecipient, content: IContent) -> None:
        address = recipient.recipient.address
        account = await later(self._tables.current().account(address))
        if account is None:
            raise PermanentError(NO_ACCOUNT)
        refusal = await later(self._store.may_accept(account, content.size))
        if refusal is not None:
            raise TemporaryError(refusal, QUOTA) if refusal.temporary else PermanentError(refusal)
        prefix = mailbox_prefix(recipient.owner or item.envelope.sender, address)
        body = for_mailbox(content, header_of(content))
        if recipient.argument:  # the account's script wanted flags, or a folder that it makes
            flags, create = told_filing(recipient.argument)
            whole = Reheaded(body, 0, prefix)
            await FolderPlacement(self._store, account, recipient.folder, whole, flags, create).commit()
            return
        placement = self._store.placement(account, recipient.folder, prefix, body, item.envelope.id)
        await placement.commit()
