"""One transaction on its way from the final dot to its reply: plan, stage, publish.

Owned and run by :mod:`lorrainemail.intake`, whose head tells the rules; here they are carried out. One object
a transaction, used once. :meth:`Taking.run` may fail only by a fault of ours; :meth:`Taking.hurry` ends
whatever it waits for.
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
from lorrainemail.delivery.arrival import VERDICT_FIELD, for_mailbox, header_of, message_id_of, with_header
from lorrainemail.envelope import Parameter, Recipient
from lorrainemail.errors import INTERNAL_ERROR, MailError, PermanentError, Reply
from lorrainemail.interfaces import (
    Accepted,
    Action,
    Filing,
    Filtered,
    Handed,
    IContent,
    IFilter,
    Inject,
    IPlacement,
    IQueue,
    IStore,
    ITrace,
    LocalMailbox,
    Placed,
    QueueItem,
    QueueRecipient,
    Redirection,
    RemoteMailbox,
    Transaction,
    Verdict,
)
from lorrainemail.mailauth.authres import claimed_by
from lorrainemail.message import dsn
from lorrainemail.message.received import delivered_to_field, received_field, return_path_field
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.log import note
from lorrainemail.ops.metrics import Counter
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.sieve.filing import FolderPlacement

_log = Logger("lorrainemail.intake")
_PLACED = Counter("lorrainemail_messages_placed", "Copies placed in mailboxes by intake")
_QUEUED = Counter("lorrainemail_messages_queued", "Messages that intake put into the queue")

#: Seconds after which what is unfinished is queued, and after which the answer is given whatever happens.
#: A client waits ten minutes (RFC 5321 §4.5.3.2.6); one that gives up first would send it all again.
PATIENCE: Final = 50.0
BOUND: Final = 60.0
#: Seconds until the queue first tries a mailbox again that failed at the final dot.
LOCAL_RETRY: Final = 60.0
#: Characters of reasons in the verdict field.
MAX_VERDICT: Final = 400
JUNK: Final = "Junk"

#: Who sends spam on is taken for its sender.
NOT_SENT_ON: Final = Reply(550, "5.7.1", "Taken for spam, and not sent on to another server")
NOT_IN_TIME: Final = Reply(451, "4.3.0", "Not finished in time, try again later")

#: Recipients (and answers) that a log line names.
MAX_LOGGED: Final = 5

#: Where a final recipient stands.
OPEN, KEPT, QUEUED, LATER, REFUSED = "open", "kept", "queued", "later", "refused"
_UNFINISHED: Final = object()

DELIVERED: Final = Reply(250, "2.1.5", "Delivered")

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
class _Target:
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
            attempts=1,
            next_try=now + LOCAL_RETRY,
            last_reply=str(self.reply),
            owner=self.owner,
        )


@attrs.define(slots=True, eq=False)
class _Success:
    """A recipient whose sender wants to hear of success, from us (RFC 3461 §5.2).

    :ivar action: "delivered" (one mailbox here), "expanded" (an alias of several), "relayed" (an alias that
        leads elsewhere: who is behind it is its owner's affair, so nobody further on is asked for a notice).
    """

    recipient: Recipient
    action: dsn.Action
    targets: list[_Target]


class Taking:
    """One transaction on its way from the final dot to its reply.

    :param each: one reply for each accepted recipient, not one for all.
    :param refused: for injected mail (else None): recipients that were refused at their expansion; the sender
        sees no reply, so that every refusal needs a notice.
    """

    __slots__ = (
        "_dead",
        "_each",
        "_means",
        "_prefix",
        "_refused",
        "_seal",
        "_successes",
        "_targets",
        "_transaction",
        "_waiter",
        "began",
        "deadline",
        "groups",
        "id",
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
        self._means = means
        self._transaction = transaction
        self._each = each
        self._refused = refused
        self._targets: list[_Target] = []
        self._successes: list[_Success] = []
        self._dead: dict[int, Reply] = {}
        self._waiter: Deferred[Any] | None = None
        self._prefix = b""
        self._seal = b""

    async def run(self) -> list[Reply]:
        """The whole way; one reply a group."""
        transaction = self._transaction
        header = header_of(transaction.content)
        self._note_received(header)
        cleaned = claimed_by(header, self._means.hostname)
        if cleaned is not None:
            content = with_header(transaction.content, header, cleaned)
            self._transaction = transaction = attrs.evolve(transaction, content=content)
            header = cleaned
        self._targets = self._plan()
        await self._ask_quota()
        received = received_field(
            transaction.session,
            transaction.envelope,
            self._means.hostname,
            self.began,
            transaction.accepted[0].recipient.address
            # Where a filter sends it on to is its owner's affair, also in a header that comes back.
            if len(transaction.accepted) == 1 and not transaction.envelope.hops
            else None,
            self._means.hide_submitter,
        )
        self._prefix = b"".join(
            (*[v.field for v in transaction.verdicts], self._verdict_field(), received, transaction.fields)
        )
        content = for_mailbox(transaction.content, header)
        if self._means.filter is not None:
            await self._filter(self._means.filter, content)
        if any(target.forwarded and target.state is OPEN for target in self._targets):
            self._seal = await self._sealed(Reheaded(transaction.content, 0, self._prefix))
        if len(self._targets) > 1:
            await self._merge()
        self._make_placements(content)
        if any(target.mailbox is None for target in self._targets):
            await self._with_queue()
        else:
            await self._direct()
        await self._queue_leftovers()
        replies = self._replies()
        await self._settle()
        await self._notify(replies)
        if self._successes:
            await self._notify_success()
        self._note_end(replies)
        return replies

    def hurry(self) -> None:
        """Time is up: whatever is waited for now counts as not finished."""
        self.deadline = self.began + BOUND
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    # -- plan ------------------------------------------------------------------------------------

    def _plan(self) -> list[_Target]:
        """Each final recipient once."""
        transaction = self._transaction
        junk = _is_junk(transaction.verdicts)
        targets: dict[tuple[str, str], _Target] = {}
        for index, accepted in enumerate(transaction.accepted):
            group = index if self._each else 0
            to_junk = junk or (bool(accepted.verdicts) and _is_junk(accepted.verdicts))
            asked = accepted.recipient
            success = None
            if asked.notify is not None and "SUCCESS" in asked.notify:
                success, asked = _success(accepted)
                if success is not None:
                    self._successes.append(success)
            for final in accepted.expansion.finals:
                if isinstance(final, LocalMailbox):
                    mailbox: LocalMailbox | None = final
                    folder = JUNK if to_junk else final.folder
                    key = (final.account.address.key, "/" + folder)
                    forwarded = False
                elif isinstance(final, Handed):
                    mailbox, folder, forwarded = None, "", False
                    key = (f"|{final.courier}:{final.user}", final.argument or final.address.key)
                else:
                    mailbox, folder, forwarded = None, "", final.forwarded
                    key = (final.address.local, final.address.domain)
                target = targets.get(key)
                if target is not None:
                    if group not in target.groups:
                        target.groups.append(group)
                    notify = _both(target.recipient.notify, asked.notify)
                    if notify != target.recipient.notify:
                        target.recipient = attrs.evolve(target.recipient, notify=notify)
                    if success is not None:
                        success.targets.append(target)
                    continue
                recipient = asked
                if final.address is not recipient.address and final.address != recipient.address:
                    recipient = attrs.evolve(
                        recipient,
                        address=final.address,
                        original=recipient.original or str(recipient.address),
                    )
                target = _Target(recipient, mailbox, forwarded, bool(final.path), folder, [group])
                targets[key] = target
                if final.owner is not None:
                    target.owner = final.owner
                if isinstance(final, Handed):
                    target.handed = final
                if forwarded and to_junk:
                    target.state, target.reply = REFUSED, NOT_SENT_ON
                if success is not None:
                    success.targets.append(target)
        if transaction.copies:
            self._plan_copies(targets)
        planned = list(targets.values())
        for recipient, reply in self._refused or ():
            planned.append(_Target(recipient, None, False, False, "", [0], REFUSED, reply))
        return planned

    def _plan_copies(self, targets: dict[tuple[str, str], _Target]) -> None:
        """Archives that are not among the recipients themselves."""
        groups = list(range(self.groups))
        for accepted in self._transaction.copies:
            for final in accepted.expansion.finals:
                recipient = attrs.evolve(accepted.recipient, address=final.address)
                if isinstance(final, LocalMailbox):
                    key = (final.account.address.key, "/" + final.folder)
                    target = _Target(recipient, final, False, True, final.folder, groups[:], copy=True)
                elif isinstance(final, RemoteMailbox):
                    key = (final.address.local, final.address.domain)
                    target = _Target(recipient, None, False, True, "", groups[:], copy=True)
                else:
                    continue  # a command or a file of an alias is no archive
                targets.setdefault(key, target)

    async def _ask_quota(self) -> None:
        size = self._transaction.content.size
        for target in self._targets:
            if target.mailbox is None:
                continue
            try:
                answer = self._means.store.may_accept(target.mailbox.account, size)
                if isinstance(answer, Deferred):
                    (result,) = await self._all([answer])
                    if result is _UNFINISHED:
                        target.state, target.reply = LATER, NOT_IN_TIME
                        continue
                    if isinstance(result, Failure):
                        self._failed(target, result)
                        continue
                    answer = result
            except MailError:
                self._failed(target, Failure())  # type: ignore[no-untyped-call]
                continue
            if answer is not None:
                target.state = REFUSED if answer.permanent else LATER
                target.reply = answer

    def _make_placements(self, content: IContent) -> None:
        sender = self._transaction.envelope.sender
        senders = return_path_field(sender)
        for target in self._targets:
            if target.mailbox is None or target.state is not OPEN:
                continue
            above = senders
            account, filing = target.mailbox.account, target.filing
            if target.owner is not None:
                above = return_path_field(target.owner)
            prefix, body = above + delivered_to_field(target.mailbox.address), content
            if filing is not None and filing.content is not None:
                body = filing.content  # the fields of our own are in it
            else:
                prefix += self._prefix
            if filing is not None and (filing.flags or filing.create):
                target.placement = FolderPlacement(
                    self._means.store,
                    account,
                    target.folder,
                    Reheaded(body, 0, prefix),
                    filing.flags,
                    filing.create,
                )
            else:
                target.placement = self._means.store.placement(account, target.folder, prefix, body, self.id)

    async def _merge(self) -> None:
        """Copies of one account that would lie side by side in its INBOX, because the folders that their
        addresses ask for do not exist, become one."""
        homes: dict[str, list[_Target]] = {}
        for target in self._targets:
            if target.copy or target.mailbox is None or target.state is not OPEN:
                continue
            if _as_it_comes(target.filing):
                homes.setdefault(target.mailbox.account.address.key, []).append(target)
        for targets in homes.values():
            if len(targets) == 1 or targets[0].mailbox is None:
                continue
            asked = self._means.store.existing(targets[0].mailbox.account, [t.folder for t in targets])
            (there,) = await self._all([asked])
            if not isinstance(there, frozenset):
                continue  # twice is better than late
            inbox: _Target | None = None
            for target in targets:
                if target.folder in there:
                    continue
                if inbox is None:
                    inbox = target
                    continue
                inbox.folder = ""
                inbox.groups = sorted({*inbox.groups, *target.groups})
                notify = _both(inbox.recipient.notify, target.recipient.notify)
                if notify != inbox.recipient.notify:
                    inbox.recipient = attrs.evolve(inbox.recipient, notify=notify)
                inbox.settle = inbox.settle or target.settle
                self._targets.remove(target)
                for success in self._successes:
                    success.targets = [inbox if one is target else one for one in success.targets]

    # -- filters ---------------------------------------------------------------------------------

    async def _filter(self, filter: IFilter, content: IContent) -> None:
        """Each account's filter says what becomes of its copy; one that does not answer changes nothing."""
        for target in tuple(self._targets):
            if target.mailbox is None or target.state is not OPEN:
                continue
            planned: Any = filter.plan(target.mailbox, self._transaction, self._prefix, content)
            if isinstance(planned, Deferred):
                (planned,) = await self._all([planned])
            if isinstance(planned, Filtered):
                await self._follow(target, planned)

    async def _follow(self, target: _Target, filtered: Filtered) -> None:
        """What the filter decided becomes targets of their own; what it redirects is safe after this."""
        account = str(target.recipient.address)
        if filtered.error:
            self._means.trace.event(self.id, "filter failed", recipient=account, error=filtered.error)
        if filtered.reply is not None:
            target.state, target.reply = REFUSED, filtered.reply
            return
        filings = filtered.filings
        if not await self._redirect(filtered.redirections, account) and not filings:
            filings = (Filing(),)
        target.settle = filtered.settle
        if not filings:
            target.state = KEPT
            if not filtered.redirections:
                self._means.trace.event(self.id, "discarded", recipient=account)
            return
        folder, groups = target.folder, target.groups
        others = [other for other in self._targets if other is not target and other.state is OPEN]
        self._targets.remove(target)
        for filing in filings:
            wanted = folder if filing.folder is None else filing.folder
            wanted = "" if wanted.upper() == "INBOX" else wanted
            twin = next((other for other in others if _same_place(other, target, wanted)), None)
            if twin is not None:
                twin.groups = sorted({*twin.groups, *groups})
                twin.settle = twin.settle or filtered.settle
                continue
            copy = attrs.evolve(target, folder=wanted, filing=filing, groups=list(groups))
            others.append(copy)
            self._targets.append(copy)
            for success in self._successes:
                if target in success.targets:
                    success.targets.append(copy)
        for success in self._successes:
            if target in success.targets:
                success.targets.remove(target)

    async def _redirect(self, redirections: Sequence[Redirection], account: str) -> bool:
        """Send on; whether all of it is safe."""
        if redirections and _is_junk(self._transaction.verdicts):
            self._means.trace.event(self.id, "not redirected", recipient=account, reason="taken for spam")
            return False
        hops = self._transaction.envelope.hops + 1
        # RFC 8689 §4.2: what must stay under TLS does so on its further way.
        parameters = tuple(
            one for one in self._transaction.envelope.parameters if one.keyword == "REQUIRETLS"
        )
        contents = [one.content for one in redirections]
        if self._means.seal is not None:
            contents = [Reheaded(one, 0, await self._sealed(one)) for one in contents]
        results = await self._all(
            [
                self._means.redirect(
                    one.sender, (one.recipient,), content, hops, self.id, parameters, account
                )
                for one, content in zip(redirections, contents, strict=True)
            ]
        )
        for one, result in zip(redirections, results, strict=True):
            done = isinstance(result, str)
            facts = {"to": str(one.recipient), "as": result} if done else {"to": str(one.recipient)}
            kind = "redirected" if done else "not redirected"
            self._means.trace.event(self.id, kind, recipient=account, **facts)
            if not done:
                _log.warn(
                    "{id}: {account} keeps it: not redirected to {to}: {reply}",
                    id=self.id,
                    account=account,
                    to=str(one.recipient),
                    reply=str(_reply_of(result, self.id)),
                )
        return all(isinstance(result, str) for result in results)

    async def _settle(self) -> None:
        """What filters do once a message is safe; a failure there fails nobody's mail."""
        settles = {
            target.settle: None
            for target in self._targets
            if target.settle is not None and target.state in (KEPT, QUEUED)
        }
        if not settles:
            return
        for result in await self._all([settle(self._means.inject) for settle in settles]):
            if isinstance(result, Failure):
                _log.failure("{id}: a filter's reply or memory was lost", result, id=self.id)

    def _verdict_field(self) -> bytes:
        """What policy thought of a message that it let pass, for the reader's filters."""
        verdicts = self._transaction.verdicts
        for accepted in self._transaction.accepted:
            if accepted.verdicts:
                verdicts += accepted.verdicts
        told = list(
            dict.fromkeys(
                f"{verdict.action.name.lower()} {verdict.check} ({verdict.reason})"
                for verdict in verdicts
                if verdict.action in (Action.TAG, Action.JUNK)
            )
        )
        if not told:
            return b""
        text = "".join(c if " " <= c <= "~" else "?" for c in "; ".join(told))[:MAX_VERDICT]
        return f"{VERDICT_FIELD}: {text}\r\n".encode()

    # -- stage and publish -----------------------------------------------------------------------

    async def _direct(self) -> None:
        """Mailboxes only: stage and publish in one."""
        targets = [target for target in self._targets if target.placement is not None]
        if not targets:
            return
        commits = [target.placement.commit() for target in targets if target.placement]
        for target, commit, result in zip(targets, commits, await self._all(commits), strict=True):
            self._apply(target, result)
            if result is _UNFINISHED:
                commit.addCallback(self._came_late, target)

    def _came_late(self, result: object, target: _Target) -> None:
        """A commit that could not be called back ended after the answer: it may be there twice now."""
        if isinstance(result, Placed):
            self._note_delivered(target, result)

    async def _with_queue(self) -> None:
        """Something must leave: queue item and mailboxes staged together, the queue item published first."""
        queue = self._means.queue
        leaving = {
            group for t in self._targets if t.mailbox is None and t.state is OPEN for group in t.groups
        }
        # What failed in the plan beside something that leaves goes along.
        waiting = [
            target
            for target in self._targets
            if (target.mailbox is None and target.state is OPEN)
            or (target.state is LATER and not leaving.isdisjoint(target.groups))
        ]
        full = queue.full()
        if full is not None:
            self._kill(waiting, full)
            waiting = []
        mailboxes = [t for t in self._targets if t.placement is not None and self._lives(t)]
        item = self._queue_placement(waiting) if waiting else None
        staged = [target.placement.stage() for target in mailboxes if target.placement]
        if item is not None:
            staged.append(item.stage())
        results = await self._all(staged)
        item_result = results.pop() if item is not None else None
        for index, (target, result) in enumerate(zip(mailboxes, results, strict=True)):
            if result is None:
                continue
            if result is _UNFINISHED and target.placement is not None:
                staged[index].addCallback(_abort_late, target.placement)
            self._apply(target, result)
        more = self._to_be_queued(waiting)
        if item is not None and more and item_result is None:
            await self._all([item.abort()])
            waiting = [*waiting, *more]
            item = self._queue_placement(waiting)
            stage = item.stage()
            (item_result,) = await self._all([stage])
            if item_result is _UNFINISHED:
                stage.addCallback(_abort_late, item)
        elif item is not None and item_result is _UNFINISHED:
            staged[-1].addCallback(_abort_late, item)
        if item is not None:
            if item_result is None:
                (item_result,) = await self._all([item.publish()])
            else:
                item_result = item_result or _UNFINISHED
            if isinstance(item_result, Placed):
                for target in waiting:
                    target.state = QUEUED
                _QUEUED.inc()
            else:
                self._kill(waiting, _reply_of(item_result, self.id))
        ready = [t for t in mailboxes if t.state is OPEN]
        living = [t for t in ready if self._lives(t)]
        aborted = [t.placement.abort() for t in ready if t.placement is not None and not self._lives(t)]
        published = [t.placement.publish() for t in living if t.placement is not None]
        results = await self._all([*published, *aborted])
        for target, result in zip(living, results[: len(living)], strict=True):
            self._apply(target, result)

    async def _queue_leftovers(self) -> None:
        """Mailboxes that failed for a moment, in groups of which something else is kept."""
        left = self._to_be_queued(())
        if not left:
            return
        result: Any = self._means.queue.full()
        if result is None:
            (result,) = await self._all([self._queue_placement(left).commit()])
        if isinstance(result, Placed):
            for target in left:
                target.state = QUEUED
            _QUEUED.inc()
        else:
            # Better twice than never: others have it already, and this sender will come again.
            reply = result if isinstance(result, Reply) else _reply_of(result, self.id)
            self._kill(left, reply)

    def _queue_placement(self, targets: Sequence[_Target]) -> IPlacement:
        transaction = self._transaction
        now = self._means.clock.seconds()
        item = QueueItem(
            transaction.envelope,
            tuple(target.queue_recipient(now) for target in targets),
            queued_at=now,
            size=transaction.content.size + len(self._seal) + len(self._prefix),
            door=transaction.session.door,
            account=transaction.session.account,
            trusted=transaction.trusted,
            client=transaction.session.client(),
        )
        return self._means.queue.placement(item, self._seal + self._prefix, transaction.content)

    async def _sealed(self, content: IContent) -> bytes:
        """The seal on a stranger's message that is sent on, b"" for none: not worth a message's delay."""
        transaction = self._transaction
        if self._means.seal is None or transaction.trusted or transaction.session.door == "local":
            return b""
        domains = [accepted.recipient.address.domain for accepted in transaction.accepted]
        (fields,) = await self._all([Deferred.fromCoroutine(self._means.seal(content, domains))])
        if isinstance(fields, Failure):
            _log.failure("{id}: not sealed", fields, id=self.id)
        return fields if isinstance(fields, bytes) else b""

    # -- states ----------------------------------------------------------------------------------

    def _lives(self, target: _Target) -> bool:
        """Whether any group of it can still be kept."""
        return not self._dead or any(group not in self._dead for group in target.groups)

    def _to_be_queued(self, others: Sequence[_Target]) -> list[_Target]:
        """Those that failed for a moment and share a living group with something that is kept, or is among
        ``others``, or will be queued for the same reason."""
        besides = set(others)
        kept = {
            group
            for target in self._targets
            if target.state is KEPT or target.state is QUEUED or target in besides
            for group in target.groups
        }
        found: list[_Target] = []
        while True:
            more = [
                target
                for target in self._targets
                if target.state is LATER
                and target not in besides
                and any(group in kept and group not in self._dead for group in target.groups)
            ]
            if not more:
                return found
            found += more
            besides.update(more)
            kept.update(group for target in more for group in target.groups)

    def _kill(self, targets: Sequence[_Target], reply: Reply) -> None:
        """These cannot be kept at all: their groups are answered 4xx."""
        for target in targets:
            target.state, target.reply = LATER, reply
            for group in target.groups:
                self._dead.setdefault(group, reply)

    def _apply(self, target: _Target, result: object) -> None:
        """A mailbox's answer."""
        if isinstance(result, Placed):
            target.state = KEPT
            _PLACED.inc()
            self._note_delivered(target, result)
        elif isinstance(result, Failure):
            self._failed(target, result)
        else:
            target.state, target.reply = LATER, NOT_IN_TIME
            _log.warn(
                "{id}: mailbox of {account} did not answer in time",
                id=self.id,
                account=str(target.recipient.address),
            )

    def _failed(self, target: _Target, failure: Failure) -> None:
        target.state = REFUSED if isinstance(failure.value, PermanentError) else LATER
        target.reply = _reply_of(failure, self.id)

    def _replies(self) -> list[Reply]:
        members: list[list[_Target]] = [[] for _ in range(self.groups)]
        for target in self._targets:
            for group in target.groups:
                members[group].append(target)
        return [self._reply(group, targets) for group, targets in enumerate(members)]

    def _reply(self, group: int, targets: Sequence[_Target]) -> Reply:
        """The answer of a group."""
        if group in self._dead:
            return self._dead[group]
        if self._transaction.copies:
            targets = [target for target in targets if not target.copy]
        states = {target.state for target in targets}
        if QUEUED in states:
            return Reply(250, "2.0.0", f"Queued as {self.id}")
        if KEPT in states:
            return Reply(250, "2.0.0", f"Delivered as {self.id}")
        for state in (LATER, REFUSED):
            for target in targets:
                if target.state is state and target.reply is not None:
                    return target.reply
        return INTERNAL_ERROR

    # -- waiting ---------------------------------------------------------------------------------

    async def _all(self, started: Sequence[Deferred[Any]]) -> list[Any]:
        """The results (or Failures) of all, or ``_UNFINISHED`` for those that are too late."""
        if len(started) == 1:
            return [await self._one(started[0])]
        results: list[Any] = [_UNFINISHED] * len(started)
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
        return _UNFINISHED if answer is None else answer[0]

    # -- notices and trace -----------------------------------------------------------------------

    async def _notify(self, replies: list[Reply]) -> None:
        """Tell the sender of recipients refused for good, where no reply can and it is no backscatter."""
        transaction = self._transaction
        fates = [
            dsn.Fate(target.recipient, "failed", target.reply, concealed=target.concealed)
            for target in self._targets
            if target.state is REFUSED
            and target.reply is not None
            and target.reply is not NOT_SENT_ON
            and (self._refused is not None or any(replies[group].positive for group in target.groups))
        ]
        if not fates:
            return
        envelope = transaction.envelope
        told = [f for f in fates if f.recipient.notify is None or "FAILURE" in f.recipient.notify]
        proven = envelope.sender_verified or bool(transaction.session.account)
        tell = bool(told) and proven and envelope.sender is not None
        for fate in fates:
            self._means.trace.event(
                self.id,
                "refused",
                recipient=str(fate.recipient.address),
                reply=str(fate.reply),
                notice="sent" if tell and fate in told else "none" if proven else "none: sender unproven",
            )
        if tell:
            await self._tell(told)

    async def _notify_success(self) -> None:
        """Tell the sender of what was delivered, where he asked for it and is one of our own."""
        transaction = self._transaction
        if not transaction.trusted or transaction.envelope.sender is None:
            return
        fates: dict[str, list[dsn.Fate]] = {}
        for success in self._successes:
            states = {target.state for target in success.targets}
            # A mailbox that must wait is told by the queue, which still knows the wish.
            if KEPT in states or (QUEUED in states and success.action != "delivered"):
                fate = dsn.Fate(success.recipient, success.action, DELIVERED, concealed=True)
                fates.setdefault(success.action, []).append(fate)
        for told in fates.values():
            await self._tell(told)

    async def _tell(self, told: Sequence[dsn.Fate]) -> None:
        """One notice to the sender, durable when this ends, or its loss logged."""
        transaction = self._transaction
        envelope = transaction.envelope
        assert envelope.sender is not None
        wanted = dsn.octets_wanted(envelope, transaction.content.size)
        notice = Content(
            dsn.build(
                self._means.hostname,
                new_id(),
                envelope,
                told,
                transaction.content.head(wanted),
                transaction.content.size,
                self._means.clock.seconds(),
            )
        )
        (result,) = await self._all(
            [self._means.inject(None, (envelope.sender,), notice, envelope.hops + 1, self.id)]
        )
        if not isinstance(result, str):
            _log.error("{id}: the notice to its sender could not be kept", id=self.id)

    def _note_received(self, header: bytes) -> None:
        session, envelope = self._transaction.session, self._transaction.envelope
        facts: dict[str, Any] = {
            "door": session.door,
            "sender": _shown(envelope.sender),
            "recipients": [r.original or str(r.address) for r in envelope.recipients],
            "size": self._transaction.content.size,
            "message_id": message_id_of(header),
        }
        if session.peer:
            facts["peer"] = session.peer
            facts["helo"] = session.helo
        if session.origin:
            facts["origin"] = dict(session.origin)
        if session.account:
            facts["account"] = session.account
        if session.tls is not None:
            facts["tls"] = f"{session.tls.version} {session.tls.cipher}"
        if self._transaction.verdicts:
            facts["verdicts"] = [f"{v.check}: {v.action.name} {v.reason}" for v in self._transaction.verdicts]
        for accepted in self._transaction.accepted:
            if accepted.verdicts:
                whom = accepted.recipient.original or str(accepted.recipient.address)
                told = [f"{v.check}: {v.action.name} {v.reason}" for v in accepted.verdicts]
                facts.setdefault("verdicts_for", {})[whom] = told
        self._means.trace.event(self.id, "received", **facts)

    def _note_delivered(self, target: _Target, placed: Placed) -> None:
        self._means.trace.event(
            self.id,
            "delivered",
            recipient=str(target.recipient.address),
            account=placed.account,
            folder=placed.folder,
            where=placed.where,
        )

    def _note_end(self, replies: list[Reply]) -> None:
        """One line in the log, and to the trace what the events of mailboxes and queue do not say."""
        for reply in replies:
            if not reply.positive:
                kind = "refused" if reply.permanent else "deferred"
                self._means.trace.event(self.id, kind, reply=str(reply))
        session, envelope = self._transaction.session, self._transaction.envelope
        sender, size = _shown(envelope.sender), self._transaction.content.size
        recipients = _few([one.original or str(one.address) for one in envelope.recipients]) or "nobody"
        answer = _few(list(dict.fromkeys(map(str, replies))))
        peer = f" from {session.peer}" if session.peer else ""
        account = f" logged in as {session.account}" if session.account else ""
        note(
            _log,
            f"{self.id}: from <{sender}> for {recipients}, {size} octets, "
            f"at {session.door}{peer}{account}: {answer}",
            id=self.id,
            sender=sender,
            recipients=recipients,
            size=size,
            door=session.door,
            peer=session.peer,
            account=session.account,
            answer=answer,
        )


def _few(words: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(words) - MAX_LOGGED
    return ", ".join(words[:MAX_LOGGED]) + (f" and {more} more" if more > 0 else "")


def _success(accepted: Accepted) -> tuple[_Success | None, Recipient]:
    """Who tells of the success of a recipient: we, or None for whoever delivers it in the end; and the
    recipient as those further on see it."""
    recipient, finals = accepted.recipient, accepted.expansion.finals
    action: dsn.Action = "expanded"
    if len(finals) == 1:
        if isinstance(finals[0], LocalMailbox):
            return _Success(recipient, "delivered", []), recipient
        if not finals[0].forwarded:
            return None, recipient
        action = "relayed"
    rest = tuple(word for word in recipient.notify or () if word != "SUCCESS")
    return _Success(recipient, action, []), attrs.evolve(recipient, notify=rest or ("NEVER",))


def _both(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The NOTIFY of two RCPTs that lead to the same place: whatever either wants (RFC 3461 §4.1)."""
    if one == other:
        return one
    usual = ("FAILURE", "DELAY")
    words = {*(usual if one is None else one), *(usual if other is None else other)}
    return tuple(word for word in ("SUCCESS", *usual) if word in words) or ("NEVER",)


def _abort_late(_: object, placement: IPlacement) -> Deferred[None]:
    """A stage that ended after its time: nobody will publish it."""
    return placement.abort()


def _reply_of(result: object, id: str) -> Reply:
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


def _is_junk(verdicts: Sequence[Verdict]) -> bool:
    return any(verdict.action is Action.JUNK for verdict in verdicts)


def _as_it_comes(filing: Filing | None) -> bool:
    """Whether a filter changes nothing of a copy, and lets its folder fall back to INBOX."""
    return filing is None or not (filing.flags or filing.create or filing.content is not None)


def _same_place(one: _Target, other: _Target, folder: str) -> bool:
    """Whether a target is that folder of the other's account."""
    if one.mailbox is None or other.mailbox is None:
        return False
    return one.folder == folder and one.mailbox.account.address.key == other.mailbox.account.address.key


def _shown(sender: Address | None) -> str:
    return "" if sender is None else str(sender)
