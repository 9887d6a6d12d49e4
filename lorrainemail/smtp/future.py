"""Messages that their senders want to leave later (RFC 4865): kept in the queue, released when it is time.

:meth:`FutureRelease.hold` takes a submitted message in intake's place: one queue item, durable before the
250, whose recipients stand as the sender named them. When the time has come the runner hands it to
:meth:`FutureRelease.deliver`, which asks again whatever RCPT asked (the account exists and is enabled, its
limits, aliases and mailboxes as they are now) and gives the message to intake as a new one. So a recipient
counts in the account's limits at submission and again at release, and nothing leaves for an account that was
disabled meanwhile: it waits, and expires like any other mail.

Composed by ``service``; the doors and the runner call. What fails for good at release comes back to the
sender as a notice, by way of the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.addresses import AddressError, parse_address
from lorrainemail.envelope import Recipient, Session
from lorrainemail.errors import INTERNAL_ERROR, MailError, Reply
from lorrainemail.grammar.smtp_wishes import HOLD_PARAMETERS, date_time
from lorrainemail.interfaces import (
    Accepted,
    Account,
    IContent,
    ICourier,
    IIntake,
    IPolicy,
    IQueue,
    ITables,
    ITableService,
    ITrace,
    Outcome,
    QueueItem,
    QueueRecipient,
    Transaction,
    later,
)
from lorrainemail.message.received import received_field
from lorrainemail.ops.content import Content, ContentWriter, SpilledContent
from lorrainemail.ops.ids import new_id
from lorrainemail.queue.format import FUTURE
from lorrainemail.smtp.acceptance import MayAccept, judge_recipient, not_owned

DISABLED: Final = Reply(450, "4.7.1", "The account that sent it is disabled; it waits")
NO_ACCOUNT: Final = Reply(550, "5.7.1", "The account that sent it is gone")

_log = Logger(namespace="lorrainemail.smtp.future")


@implementer(ICourier)
class FutureRelease:
    """See the module.

    :param clock: wall-clock seconds.
    :param policy: the chain of now.
    :param may_accept: ``store.may_accept``.
    :param hostname: our name, for Received.
    :param in_thread: runs the reading of queued messages.
    :param spill: where large ones are kept while they are taken.
    :param hide_submitter: whether the client's address stays out of Received, as it is set now.
    """

    name = FUTURE

    def __init__(
        self,
        clock: IReactorTime,
        tables: ITableService,
        policy: Callable[[], IPolicy],
        may_accept: MayAccept,
        intake: IIntake,
        queue: IQueue,
        trace: ITrace,
        hostname: str,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        spill: str,
        hide_submitter: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._tables = tables
        self._policy = policy
        self._may_accept = may_accept
        self._intake = intake
        self._queue = queue
        self._trace = trace
        self._hostname = hostname
        self._in_thread = in_thread
        self._spill = spill
        self._hide_submitter = hide_submitter

    # -- the door's side -------------------------------------------------------------------------

    def hold(self, transaction: Transaction, until: float) -> Deferred[Reply]:
        """Keep a message until an instant (wall-clock seconds); the reply to its final dot. Never fails."""
        return Deferred.fromCoroutine(self._hold(transaction, until))

    async def _hold(self, transaction: Transaction, until: float) -> Reply:
        session, envelope = transaction.session, transaction.envelope
        full = self._queue.full()
        if full is not None:
            return full
        now = self._clock.seconds()
        received = received_field(
            session, envelope, self._hostname, now, hide_submitter=self._hide_submitter()
        )
        prefix = received + transaction.fields
        item = QueueItem(
            envelope,
            tuple(QueueRecipient(FUTURE, one.recipient, next_try=until) for one in transaction.accepted),
            queued_at=now,
            size=transaction.content.size + len(prefix),
            door=session.door,
            account=session.account,
            trusted=transaction.trusted,
            release_at=until,
            client=session.client(),
        )
        try:
            await self._queue.placement(item, prefix, transaction.content).commit()
        except MailError as error:
            _log.warn("{id}: not held: {error}", id=envelope.id, error=error)
            return error.reply
        except Exception:
            _log.failure("{id}: not held", id=envelope.id)
            return INTERNAL_ERROR
        self._trace.event(
            envelope.id,
            "received",
            sender="" if envelope.sender is None else str(envelope.sender),
            recipients=[str(one.recipient.address) for one in transaction.accepted],
            door=session.door,
            account=session.account,
            size=transaction.content.size,
            held_until=date_time(until),
        )
        _log.info(
            "{id}: from {account}, held until {until}",
            id=envelope.id,
            account=session.account,
            until=date_time(until),
        )
        return Reply(250, "2.0.0", f"Held until {date_time(until)} as {envelope.id}")

    # -- ICourier --------------------------------------------------------------------------------

    def destination(self, item: QueueItem, recipient: QueueRecipient) -> str:
        return item.account

    def deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        return Deferred.fromCoroutine(self._release(item, recipients, content))

    async def _release(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> list[Outcome]:
        try:
            return await self._judge(item, recipients, content)
        except CancelledError:
            raise
        except MailError as error:
            return [_outcome(one.recipient, error.reply) for one in recipients]
        except Exception:
            _log.failure("{id}: not released", id=item.envelope.id)
            return [_outcome(one.recipient, INTERNAL_ERROR) for one in recipients]

    async def _judge(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> list[Outcome]:
        """Ask for each recipient anew, then hand over those that are taken."""
        tables = self._tables.current()
        account = await _account(tables, item.account)
        if account is None or not account.enabled:
            reply = NO_ACCOUNT if account is None else DISABLED
            return [_outcome(one.recipient, reply) for one in recipients]
        sender = item.envelope.sender
        if sender is not None and not await later(tables.owns(account, sender)):
            # An address that was taken from the account since.
            return [_outcome(one.recipient, not_owned(account, sender)) for one in recipients]
        id = new_id()
        session = Session(id, "submission", esmtp=True, account=account.address.key)
        relay = tables.relay_right(session)
        outcomes: dict[int, Outcome] = {}
        accepted: dict[int, Accepted] = {}
        for index, one in enumerate(recipients):
            decision = await judge_recipient(
                tables,
                self._policy(),
                self._may_accept,
                session,
                item.envelope.sender,
                relay,
                one.recipient,
                content.size,
            )
            if decision.reply is not None:
                outcomes[index] = _outcome(one.recipient, decision.reply)
            else:
                accepted[index] = Accepted(one.recipient, decision.expansion, decision.verdicts)
        if accepted:
            reply = await self._hand_over(item, id, tuple(accepted.values()), tables, content)
            outcomes.update((index, _outcome(one.recipient, reply)) for index, one in accepted.items())
        return [outcomes[index] for index in range(len(recipients))]

    async def _hand_over(
        self, item: QueueItem, id: str, accepted: tuple[Accepted, ...], tables: ITables, content: IContent
    ) -> Reply:
        envelope = attrs.evolve(
            item.envelope,
            id=id,
            recipients=tuple(one.recipient for one in accepted),
            parameters=tuple(one for one in item.envelope.parameters if one.keyword not in HOLD_PARAMETERS),
            received_at=self._clock.seconds(),
        )
        # Intake may read on after its answer; the queue's file is closed then.
        copy: Content | SpilledContent = await self._in_thread(lambda: _copied(content, self._spill))
        try:
            # The client's own session stands in the Received field below.
            session = Session(id, "local", account=item.account)
            reply = await self._intake.take(
                Transaction(session, envelope, accepted, tables, copy, trusted=item.trusted)
            )
        finally:
            copy.close()
        if reply.positive:
            self._trace.event(item.envelope.id, "released", **{"as": id})
        return reply


async def _account(tables: ITables, name: str) -> Account | None:
    try:
        return await later(tables.account(parse_address(name)))
    except AddressError:
        return None


def _outcome(recipient: Recipient, reply: Reply) -> Outcome:
    kind: Literal["delivered", "deferred", "failed"] = "delivered"
    if not reply.positive:
        kind = "failed" if reply.permanent else "deferred"
    # Whoever asked to hear of success is told by those who serve the released message.
    return Outcome(recipient, kind, reply, confirms=True)


def _copied(content: IContent, spill: str) -> Content | SpilledContent:
    writer = ContentWriter(spill)
    try:
        for chunk in content.chunks():
            writer.write(chunk)
        return writer.finish()
    except BaseException:
        writer.abort()
        raise
