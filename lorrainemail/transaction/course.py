"""One transaction under way: what it is carried out with, where each of its final recipients stands, and how
it waits.

Written by the steps of :mod:`lorrainemail.transaction.taking`, in their order. Whatever a step awaits goes
through :meth:`Course.all`, which :meth:`Course.hurry` ends: the silence of a neighbour does not hold up the
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.addresses import Address
from lorrainemail.envelope import Parameter, Recipient
from lorrainemail.errors import INTERNAL_ERROR, MailError, PermanentError, Reply
from lorrainemail.interfaces import (
    Filing,
    Handed,
    IContent,
    IFilter,
    Inject,
    IPlacement,
    IQueue,
    IStore,
    ITrace,
    LocalMailbox,
    QueueRecipient,
    Transaction,
)
from lorrainemail.message import dsn
from lorrainemail.sieve.filing import filing_words

_log = Logger("lorrainemail.intake")

#: Seconds after which what is unfinished is queued, and after which the answer is given whatever happens.
#: A client waits ten minutes (RFC 5321 §4.5.3.2.6); one that gives up first would send it all again.
PATIENCE: Final = 50.0
BOUND: Final = 60.0
#: Seconds until the queue first tries a mailbox again that failed at the final dot.
LOCAL_RETRY: Final = 60.0

NOT_IN_TIME: Final = Reply(451, "4.3.0", "Not finished in time, try again later")

#: Where a final recipient stands.
OPEN, KEPT, QUEUED, LATER, REFUSED = "open", "kept", "queued", "later", "refused"
#: The result of what did not end in time.
UNFINISHED: Final = object()

#: What ``Intake.redirect`` is.
Redirect = Callable[
    [Address | None, Sequence[Address], IContent, int, str, tuple[Parameter, ...], str], Deferred[str]
]

#: What :meth:`lorrainemail.mailauth.sealing.Sealer.seal` is.
Seal = Callable[[IContent, Sequence[str]], Coroutine[Any, Any, bytes]]


@attrs.define(slots=True)
class Means:
    """What a transaction is carried out with: intake's neighbours, and its injector for notices.

    :ivar clock: wall-clock seconds.
    :ivar hostname: our name, for Received and notices.
    :ivar hide_submitter: leave a logged-in sender's address out of Received.
    :ivar redirect: as ``inject``, but fails where nothing of the message is kept.
    :ivar filter: the accounts' filters, None where there are none.
    :ivar seal: the ARC fields of a message that those domains send on, b"" for none.
    """

    clock: IReactorTime
    store: IStore
    queue: IQueue
    trace: ITrace
    hostname: str
    hide_submitter: bool
    inject: Inject
    redirect: Redirect
    filter: IFilter | None = None
    seal: Seal | None = None


@attrs.define(slots=True, eq=False)
class Target:
    """One final recipient, once, whatever number of RCPTs lead to it.

    :ivar mailbox: where it is ours; None for one elsewhere.
    :ivar groups: the groups of the answer that it belongs to.
    :ivar filing: how its account's filter wants it filed; ``settle`` is called once it is safe.
    :ivar copy: an archive, whose fate is not the answer's.
    :ivar handed: where a courier of the queue serves it. ``owner``: the sender for it, if not the message's.
    """

    recipient: Recipient
    mailbox: LocalMailbox | None
    forwarded: bool
    concealed: bool
    folder: str
    groups: list[int]
    state: str = OPEN
    reply: Reply | None = None
    placement: IPlacement | None = None
    filing: Filing | None = None
    settle: Callable[[Inject], Deferred[None]] | None = None
    handed: Handed | None = None
    owner: Address | None = None
    copy: bool = False

    def queue_recipient(self, now: float) -> QueueRecipient:
        """How the queue holds it."""
        handed = self.handed
        if handed is not None:
            return QueueRecipient(
                handed.courier,
                self.recipient,
                forwarded=handed.forwarded,
                argument=handed.argument,
                user=handed.user,
                owner=self.owner,
            )
        if self.mailbox is None:
            return QueueRecipient("remote", self.recipient, forwarded=self.forwarded, owner=self.owner)
        account = self.mailbox.account.address
        return QueueRecipient(
            "local",
            attrs.evolve(self.recipient, address=account),
            folder=self.folder,
            argument=filing_words(self.filing),
            attempts=1,
            next_try=now + LOCAL_RETRY,
            last_reply=str(self.reply),
            owner=self.owner,
        )


@attrs.define(slots=True, eq=False)
class Success:
    """A recipient whose sender wants to hear of success, from us (RFC 3461 §5.2).

    :ivar action: "delivered" (one mailbox here), "expanded" (an alias of several), "relayed" (an alias that
        leads elsewhere: who is behind it is its owner's affair, so nobody further on is asked for a notice).
    """

    recipient: Recipient
    action: dsn.Action
    targets: list[Target]


class Course:
    """Where a transaction stands.

    :param each: one reply for each accepted recipient, not one for all.
    :param refused: for injected mail (else None): recipients that were refused at their expansion; the sender
        sees no reply, so that every refusal needs a notice.
    :ivar groups: how many replies there will be.
    :ivar dead: groups of which nothing can be kept, with their reply.
    :ivar prefix: the fields of our own that go above the message.
    :ivar seal: the ARC fields above those, where it is sent on.
    """

    __slots__ = (
        "_waiter",
        "began",
        "dead",
        "deadline",
        "each",
        "groups",
        "id",
        "means",
        "prefix",
        "refused",
        "seal",
        "successes",
        "targets",
        "transaction",
    )

    def __init__(
        self,
        means: Means,
        transaction: Transaction,
        each: bool = False,
        refused: Sequence[tuple[Recipient, Reply]] | None = None,
    ) -> None:
        self.id = transaction.envelope.id
        self.groups = len(transaction.accepted) if each else 1
        self.began = means.clock.seconds()
        self.deadline = self.began + PATIENCE
        self.means = means
        self.transaction = transaction
        self.each = each
        self.refused = refused
        self.targets: list[Target] = []
        self.successes: list[Success] = []
        self.dead: dict[int, Reply] = {}
        self._waiter: Deferred[Any] | None = None
        self.prefix = b""
        self.seal = b""

    def hurry(self) -> None:
        """Time is up: whatever is waited for now counts as not finished."""
        self.deadline = self.began + BOUND
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def lives(self, target: Target) -> bool:
        """Whether any group of it can still be kept."""
        return not self.dead or any(group not in self.dead for group in target.groups)

    def kill(self, targets: Sequence[Target], reply: Reply) -> None:
        """These cannot be kept at all: their groups are answered 4xx."""
        for target in targets:
            target.state, target.reply = LATER, reply
            for group in target.groups:
                self.dead.setdefault(group, reply)

    def failed(self, target: Target, failure: Failure) -> None:
        """It cannot be served, for now or for good."""
        target.state = REFUSED if isinstance(failure.value, PermanentError) else LATER
        target.reply = reply_of(failure, self.id)

    async def all(self, started: Sequence[Deferred[Any]]) -> list[Any]:
        """The results (or Failures) of all, or ``UNFINISHED`` for those that are too late."""
        if len(started) == 1:
            return [await self._one(started[0])]
        results: list[Any] = [UNFINISHED] * len(started)
        missing = len(started)

        def record(result: Any, index: int) -> Any:
            nonlocal missing
            results[index] = result
            missing -= 1
            if not missing and self._waiter is waiter:
                self._waiter = None
                waiter.callback(None)
            return None if isinstance(result, Failure) else result

        waiter: Deferred[None] = Deferred()
        self._waiter = waiter
        for index, deferred in enumerate(started):
            deferred.addBoth(record, index)
        if missing:
            await waiter
        elif self._waiter is waiter:
            self._waiter = None
        return list(results)  # a late one must not change them any more

    async def _one(self, started: Deferred[Any]) -> Any:
        """The same for one."""
        waiter: Deferred[Any] = Deferred()
        self._waiter = waiter

        def record(result: Any) -> Any:
            if self._waiter is waiter:
                self._waiter = None
                waiter.callback((result,))
            return None if isinstance(result, Failure) else result

        started.addBoth(record)
        answer = await waiter
        return UNFINISHED if answer is None else answer[0]


def reply_of(result: object, id: str) -> Reply:
    """What a failure means to the client."""
    if not isinstance(result, Failure):
        return NOT_IN_TIME
    if isinstance(result.value, MailError):
        if result.value.detail:
            _log.warn(
                "{id}: {reply} ({detail})", id=id, reply=str(result.value.reply), detail=result.value.detail
            )
        return result.value.reply
    _log.failure("{id}: a placement failed", result, id=id)
    return INTERNAL_ERROR
