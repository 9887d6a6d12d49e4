"""Intake: one complete message in, one reply out, and everything durable in between.

Owns the decision at the final dot. Doors call :meth:`Intake.take` (SMTP: one reply) or
:meth:`Intake.take_each` (LMTP: one reply a recipient); what the server itself writes enters by
:meth:`Intake.inject` and takes the same way. In order: *plan* (each final recipient once; quota), *stage*
(mailboxes and queue item written and synced, invisible), *publish* (the queue item, then the mailboxes), then
the reply, then nothing: IMAP sessions hear of it from the store.

How replies come about. Recipients form groups: all of them one group in SMTP, each its own in LMTP. A group
is *kept* as soon as one of its final recipients is; then its temporary failures go into a queue item, and its
final refusals into a notice to the sender where that is no backscatter. A group of which nothing is kept is
answered 4xx if any failure was temporary, else 5xx. A group whose queue item could not be written is answered
4xx and nothing of it that is not visible yet becomes so.

One transaction is carried out by :class:`lorrainemail.transaction.taking.Taking`. The common case, mailboxes
only, is one call of the committer for each mailbox, all in one hop.

Invariants: a 2xx is answered only when each recipient of the group is in his mailbox, in the queue, or
refused with a notice; nobody is served twice by one transaction; an answer comes within 60
seconds (what is unfinished after 50 is queued); nothing here fails towards a door.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.envelope import Envelope, Parameter, Recipient, Session
from lorrainemail.errors import INTERNAL_ERROR, MailError, PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import (
    Accepted,
    IContent,
    IFilter,
    IInjector,
    IIntake,
    IQueue,
    IStore,
    ITableService,
    ITrace,
    RemoteMailbox,
    Transaction,
    later,
)
from lorrainemail.interfaces import Final as FinalRecipient
from lorrainemail.ops import steps
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.metrics import Counter, Histogram
from lorrainemail.tables.archive import Archive
from lorrainemail.transaction.course import Means, Seal
from lorrainemail.transaction.taking import Taking

_log = Logger("lorrainemail.intake")
_TAKEN = Counter("lorrainemail_messages_taken", "Messages answered at the final dot", ["answer"])
_SECONDS = Histogram(
    "lorrainemail_intake_seconds",
    "From final dot to reply",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5, 20, 60),
)

_SWEEP: Final = 1.0
#: How often our own mail may cause mail of our own.
MAX_HOPS: Final = 10
TOO_MANY_HOPS: Final = Reply(554, "5.4.6", "The message was sent on too often")


@lru_cache(maxsize=64)
def _answered(code: int) -> Counter:
    """The counter of one answer."""
    return _TAKEN.labels(str(code))


@implementer(IIntake, IInjector)
class Intake(Service):
    """Takes messages.

    :param clock: the reactor's clock (wall-clock seconds).
    :param hostname: our name, for Received and notices.
    :param hide_submitter: leave a logged-in sender's address out of Received.
    :param filter: what accounts want done with their mail.
    :param sign: the signature fields of a message of our own, b"" for none.
    """

    name = "intake"

    def __init__(
        self,
        clock: IReactorTime,
        store: IStore,
        queue: IQueue,
        tables: ITableService,
        trace: ITrace,
        hostname: str,
        hide_submitter: bool = True,
        filter: IFilter | None = None,
        sign: Callable[[IContent], Awaitable[bytes]] | None = None,
    ) -> None:
        self._sign = sign
        self._clock = clock
        self._tables = tables
        self._trace = trace
        self._means = Means(
            clock, store, queue, trace, hostname, hide_submitter, self.inject, self.redirect, filter
        )
        #: Which archives get a copy of what comes in by a door; None for none.
        self.archive: Archive | None = None
        self._taking: dict[Taking, None] = {}
        self._sweeping: IDelayedCall | None = None
        self._idle: Deferred[None] | None = None

    def take(self, transaction: Transaction) -> Deferred[Reply]:
        """The one reply of SMTP."""
        if self.archive is not None:
            taken = Deferred.fromCoroutine(self._with_copies(self.archive, transaction, False))
        else:
            taken = self._take(transaction, False)
        return taken.addCallback(_first)

    def take_each(self, transaction: Transaction) -> Deferred[list[Reply]]:
        """One reply for each accepted recipient (RFC 2033 §4.2)."""
        if self.archive is not None:
            return Deferred.fromCoroutine(self._with_copies(self.archive, transaction, True))
        return self._take(transaction, True)

    async def _with_copies(self, archive: Archive, transaction: Transaction, each: bool) -> list[Reply]:
        """Take a message for its archives too. One that is nobody, or that the tables do not tell now, costs
        the copy, not the mail."""
        envelope = transaction.envelope
        named = [parsed for one in envelope.recipients if (parsed := _as_named(one)) is not None]
        copies = []
        for address in archive.of(envelope.sender, named):
            try:
                expansion = await later(transaction.tables.expand(address))
                refused = None if expansion.refused is None else expansion.refused.reply
            except MailError as error:
                refused = error.reply
            if refused is not None:
                self._trace.event(envelope.id, "not archived", to=str(address), reply=str(refused))
                _log.error("{id}: no copy for {to}: {reply}", id=envelope.id, to=str(address), reply=refused)
            else:
                copies.append(Accepted(Recipient(address, str(address), notify=("NEVER",)), expansion))
        return await self._take(attrs.evolve(transaction, copies=tuple(copies)), each)

    def inject(
        self, sender: Address | None, recipients: Sequence[Address], content: IContent, hops: int, cause: str
    ) -> Deferred[str]:
        """Take a message of our own; its recipients are expanded here."""
        return Deferred.fromCoroutine(self._inject(sender, recipients, content, hops, cause))

    def redirect(
        self,
        sender: Address | None,
        recipients: Sequence[Address],
        content: IContent,
        hops: int,
        cause: str,
        parameters: tuple[Parameter, ...] = (),
        account: str = "",
    ) -> Deferred[str]:
        """Take a message that an account's filter sends on: as :meth:`inject`, but a refusal is a failure,
        and nobody is sent a notice of it.

        :param parameters: of MAIL, which go with it.
        :param account: whose filter it is: all that its sender hears of, if he hears of a failure.
        """
        sent = self._inject(sender, recipients, content, hops, cause, True, parameters, account)
        return Deferred.fromCoroutine(sent)

    def reconfigure(self, hide_submitter: bool) -> None:
        """Other settings, for the transactions that end from now on."""
        self._means = attrs.evolve(self._means, hide_submitter=hide_submitter)

    def seal_with(self, seal: Seal | None) -> None:
        """How messages of strangers are sealed that aliases and filters send on; None: they are not."""
        self._means = attrs.evolve(self._means, seal=seal)

    def stopService(self) -> Deferred[None]:
        """Wait for what is being taken; each answer comes within its bound."""
        super().stopService()  # type: ignore[no-untyped-call]
        idle: Deferred[None] = Deferred()
        if self._taking:
            self._idle = idle
        else:
            self._rest()
            idle.callback(None)
        return idle

    def _rest(self) -> None:
        """Nothing is being taken, and nothing will be."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def _take(
        self, transaction: Transaction, each: bool, refused: Sequence[tuple[Recipient, Reply]] | None = None
    ) -> Deferred[list[Reply]]:
        taking = Taking(self._means, transaction, each, refused)
        self._taking[taking] = None
        if self._sweeping is None:
            self._sweeping = self._clock.callLater(_SWEEP, self._sweep)
        done: Deferred[list[Reply]] = Deferred()

        def ended(result: list[Reply] | Failure) -> None:
            self._taking.pop(taking, None)
            if isinstance(result, Failure):
                _log.failure("{id}: intake failed", result, id=taking.id)
                result = [INTERNAL_ERROR] * taking.groups
            for reply in result:
                _answered(reply.code).inc()
            _SECONDS.observe(self._clock.seconds() - taking.began)
            if self._idle is not None and not self._taking:
                self._rest()
                idle, self._idle = self._idle, None
                self._clock.callLater(0, idle.callback, None)  # the reply goes out first
            done.callback(result)

        steps.run(taking.run(), ended)
        return done

    def _sweep(self) -> None:
        """Once a second, while anything is being taken: hurry what is late. Oldest first."""
        self._sweeping = None
        now = self._clock.seconds()
        for taking in list(self._taking):
            if taking.deadline > now:
                break
            taking.hurry()
        if self._taking:
            self._sweeping = self._clock.callLater(_SWEEP, self._sweep)

    async def _inject(
        self,
        sender: Address | None,
        recipients: Sequence[Address],
        content: IContent,
        hops: int,
        cause: str,
        kept: bool = False,
        parameters: tuple[Parameter, ...] = (),
        account: str = "",
    ) -> str:
        id = new_id()
        facts = {
            "sender": "" if sender is None else str(sender),
            "recipients": [str(r) for r in recipients],
            "cause": cause,
        }
        if hops > MAX_HOPS and kept:
            raise PermanentError(TOO_MANY_HOPS)
        if hops > MAX_HOPS:
            _log.warn("{id}: dropped: our own mail goes round in circles (cause {cause})", id=id, cause=cause)
            self._trace.event(id, "dropped", reason="too many hops", hops=hops, **facts)
            return id
        tables = self._tables.current()
        accepted: list[Accepted] = []
        refused: list[tuple[Recipient, Reply]] = []
        for address in recipients:
            recipient = Recipient(address, original=account or str(address))
            expansion = await later(tables.expand(address))
            if expansion.refused is not None:
                refused.append((recipient, expansion.refused.reply))
            else:
                if kept:  # somebody else's mail, sent on for an account
                    expansion = attrs.evolve(expansion, finals=tuple(map(_sent_on, expansion.finals)))
                accepted.append(Accepted(recipient, expansion))
        if kept and refused:
            raise PermanentError(refused[0][1])
        ours = sender is not None and await later(tables.is_local(sender.domain))
        envelope = Envelope(
            id,
            sender,
            tuple(recipient.recipient for recipient in accepted),
            size=content.size,
            body="8BITMIME" if content.eight_bit else "7BIT",
            smtputf8=not all(address.is_ascii for address in recipients),
            parameters=parameters,
            received_at=self._clock.seconds(),
            hops=hops,
            sender_verified=ours,
        )
        self._trace.event(id, "injected", hops=hops, size=content.size, **facts)
        # What a filter sends on is somebody else's: it keeps the signatures that it has.
        fields = b"" if kept or self._sign is None else await self._sign(content)
        transaction = Transaction(
            Session(id, "local"), envelope, tuple(accepted), tables, content, fields=fields
        )
        (reply,) = await self._take(transaction, False, None if kept else refused)
        if kept and reply.permanent:
            raise PermanentError(reply)
        if reply.temporary:
            raise TemporaryError(reply, "injected mail was not kept")
        return id


def _as_named(recipient: Recipient) -> Address | None:
    """The address that the client named."""
    if not recipient.original:
        return recipient.address
    try:
        return parse_address(recipient.original)
    except AddressError:
        return None


def _sent_on(final: FinalRecipient) -> FinalRecipient:
    return attrs.evolve(final, forwarded=True) if isinstance(final, RemoteMailbox) else final


def _first(replies: list[Reply]) -> Reply:
    """The answer to all."""
    return replies[0]
