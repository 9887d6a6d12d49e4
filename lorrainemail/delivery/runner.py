"""The runner: takes due queue items to couriers and writes down what became of them.

Reads the spool, asks the courier for each due recipient's destination, and puts one job a destination of an
item into :mod:`~lorrainemail.delivery.destinations`, which says what may start. Each outcome ends in one of
three ways: delivered (traced), deferred (a later try) or failed for good (a notice, or the reason for none).

Invariants:

- A recipient is in one job at most; an item's other recipients do not wait for it.
- A notice about a recipient is durable before the recipient is marked as done.
- What fails on our side, and a courier that raises, is deferred with an alarm; it becomes final only when the
  message expires. A message never expires without a try since this process started.
- :meth:`Runner.stopService` begins nothing new, gives running attempts :data:`GRACE` seconds, then cuts them;
  what was not decided by then is tried again at the next start.

The committer must outlive :meth:`Runner.stopService`: what was delivered last is still to be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.delivery.deadline import NOT_IN_TIME, Deadline, deadline_of
from lorrainemail.delivery.destinations import PATIENCE, Destinations
from lorrainemail.delivery.notices import (
    Notices,
    why_no_delay_notice,
    why_no_failure_notice,
    why_no_success_notice,
)
from lorrainemail.errors import Problem, Reply
from lorrainemail.grammar.smtp_wishes import wishes_of
from lorrainemail.interfaces import (
    ICourier,
    IPaced,
    ITrace,
    Outcome,
    Pace,
    QueueItem,
    QueueRecipient,
    later,
)
from lorrainemail.message.dsn import Action, Fate
from lorrainemail.ops import steps
from lorrainemail.ops.log import note
from lorrainemail.ops.metrics import Counter, Gauge, Histogram
from lorrainemail.queue.format import Stored
from lorrainemail.queue.spool import Entry, Spool

#: Items whose destinations are looked up at once.
LOOKUPS: Final = 32
#: The longest sleep between two looks at the queue.
LONGEST_SLEEP: Final = 30.0
#: Seconds that running attempts get when the server stops.
GRACE: Final = 5.0
#: Seconds before an item is tried again that met an error of this program.
AFTER_A_FAULT: Final = 300.0
#: Jobs in line that are looked at in one turn of the reactor.
SLICE: Final = 500
#: For how many of the longest waits between tries an alarm outlasts the last failure.
ALARM_LASTS: Final = 2.0
#: Alarms that are remembered, one a destination.
MAX_ALARMS: Final = 100
#: What the sender is told of what is wrong with our configuration.
OUR_FAULT: Final = "a fault of this mail server's own configuration"
#: Deliveries being written down beside which a place is free at once for the next one.
MAX_SETTLING: Final = 200
#: Characters of a reply that are kept with a recipient.
MAX_LAST_REPLY: Final = 500

_USUAL: Final = Pace()

_log = Logger("lorrainemail.delivery.runner")
_OUTCOMES = Counter("lorrainemail_deliveries", "Delivery attempts by outcome", ["courier", "outcome"])
_RUNNING = Gauge("lorrainemail_deliveries_running", "Delivery attempts under way")
_ATTEMPT = Histogram(
    "lorrainemail_attempt_seconds",
    "How long an attempt took, with its writing down",
    ["courier"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600),
)
_LATENCY = Histogram(
    "lorrainemail_delivery_seconds",
    "From queue to the end of a recipient",
    ["outcome"],
    buckets=(0.1, 0.5, 1, 5, 30, 300, 1800, 3600, 4 * 3600, 86400, 5 * 86400),
)


@attrs.define(slots=True, eq=False)
class Job:
    """Recipients of one item that go to one destination.

    :ivar slow: it has been under way for long. ``settling``: the courier is done, the rest is ours.
        ``freed``: its place at the destination is another's.
    :ivar priority: of the message (RFC 6710). ``deadline``: the time that its sender set.
    """

    entry: Entry
    courier: str
    destination: str
    indices: tuple[int, ...]
    slow: bool = False
    settling: bool = False
    freed: bool = False
    priority: int = 0
    deadline: Deadline | None = None


class Runner(Service):
    """The runner of a server.

    :param reactor: for its timers.
    :param spool: the queue.
    :param couriers: by their names.
    :param notices: how senders are told.
    :param trace: told of every outcome; None for no trace.
    :param concurrency: deliveries at once; ``per_destination``: to one destination.
    :param closing: what is called at the end, after the last attempt (couriers' sessions).
    """

    name = "runner"

    def __init__(
        self,
        reactor: IReactorTime,
        spool: Spool,
        couriers: Sequence[ICourier],
        notices: Notices,
        trace: ITrace | None = None,
        concurrency: int = 40,
        per_destination: int = 5,
        closing: Callable[[], Deferred[None]] | None = None,
    ) -> None:
        self.spool = spool
        self.destinations: Destinations[Job] = Destinations(concurrency, per_destination)
        self._reactor = reactor
        self._couriers = {courier.name: courier for courier in couriers}
        self._paced = {courier.name: IPaced(courier) for courier in couriers if IPaced.providedBy(courier)}
        self._notices = notices
        self._trace = trace
        self._closing = closing
        self._lookups = 0
        self._settling = 0
        self._attempts: dict[Job, Deferred[None]] = {}
        self._jobs: dict[str, list[Job]] = {}
        self._sweeping: set[str] = set()
        self._timer: IDelayedCall | None = None
        self._alarms: dict[str, tuple[float, Problem]] = {}
        self._wanted = False
        spool.on_change(self.wake)

    # -- service ---------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self.wake()

    def stopService(self) -> Deferred[None]:
        """Begin nothing new; answer when every attempt has ended, by itself or cut."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._disarm()
        self._wanted = False
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        attempts = list(self._attempts.values())
        if attempts:
            _log.info("Waiting for {count} deliveries under way", count=len(attempts))
            # the attempts themselves go on when the wait is over: each listens through a Deferred of its own
            over: Deferred[None] = Deferred()
            ended = DeferredList([_echo(attempt) for attempt in attempts])
            ended.addCallback(lambda _: None if over.called else over.callback(None))
            timer = self._reactor.callLater(GRACE, lambda: None if over.called else over.callback(None))
            await over
            if timer.active():
                timer.cancel()
            for job, attempt in list(self._attempts.items()):
                if not job.settling:
                    attempt.cancel()
            await ended
        if self._closing is not None:
            await self._closing()

    def reconfigure(self, concurrency: int, per_destination: int) -> None:
        """New limits, for what starts from now on."""
        self.destinations.concurrency = concurrency
        self.destinations.per_destination = per_destination
        self.wake()

    def alarms(self) -> list[Problem]:
        """What failed on our side lately, in words; where nothing is tried any more there is no alarm."""
        lately = self.spool.monotonic() - ALARM_LASTS * self.spool.schedule.longest
        self._alarms = {name: one for name, one in self._alarms.items() if one[0] >= lately}
        return [problem for _, problem in self._alarms.values()]

    # -- the loop --------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look at the queue soon, once however often this is called in the meantime."""
        if self.running and not self._wanted:
            self._wanted = True
            self._disarm()
            self._timer = self._reactor.callLater(0, self._pump)

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _pump(self) -> None:
        """Take what is due, start what may start, sleep until there is more."""
        self._wanted = False
        self._disarm()
        if not self.running:
            return
        for entry in self.spool.take(LOOKUPS - self._lookups):
            self._lookups += 1
            self._run(self._look_up(entry), entry)
        now = self.spool.monotonic()
        self.destinations.wake(now)
        while (job := self.destinations.start(now)) is not None:
            self._begin(job)
        if self._wanted:
            return
        sleep = LONGEST_SLEEP
        due = self.spool.next_due() if self._lookups < LOOKUPS else None
        if due is not None:
            sleep = min(sleep, due)
        wake = self.destinations.next_wake()
        if wake is not None:
            sleep = min(sleep, max(0.0, wake - now))
        self._timer = self._reactor.callLater(sleep, self._pump)

    async def _look_up(self, entry: Entry) -> None:
        """Turn an item's due recipients into jobs."""
        stored: Stored | None = None
        try:
            stored = await self.spool.read(entry)
            if stored is not None:
                await self._make_jobs(entry, stored)
        finally:
            self._lookups -= 1
            self.spool.give_back(entry, stored)
            self.wake()

    async def _make_jobs(self, entry: Entry, stored: Stored) -> None:
        groups: dict[tuple[str, str], list[int]] = {}
        paces: dict[tuple[str, str], Pace] = {}
        for index, one in enumerate(stored.item.recipients):
            if index in entry.busy or not self.spool.is_due(entry, one):
                continue
            courier = self._couriers.get(one.courier)
            where = "" if courier is None else await self._destination(courier, stored.item, one)
            key = one.courier, f"{one.courier} {where}"
            groups.setdefault(key, []).append(index)
            paced = self._paced.get(one.courier)
            paces[key] = _USUAL if paced is None else paced.pace(where)
        hurry, entry.hurry = entry.hurry, False
        if not self.running or not self.spool.alive(entry):
            return
        now, envelope = self.spool.monotonic(), stored.item.envelope
        for (courier_name, destination), indices in groups.items():
            idle = tuple(index for index in indices if index not in entry.busy)  # two looks may overlap
            if idle:
                entry.busy |= frozenset(idle)
                priority = wishes_of(envelope).priority or 0 if envelope.parameters else 0
                deadline = deadline_of(envelope)
                job = Job(entry, courier_name, destination, idle, priority=priority, deadline=deadline)
                self._jobs.setdefault(entry.id, []).append(job)
                self.destinations.add(job, now, paces[courier_name, destination])
                if hurry:  # asked for by an operator, who knows more than our last tries
                    self.destinations.revive(destination, now)

    async def _destination(self, courier: ICourier, item: QueueItem, one: QueueRecipient) -> str:
        try:
            return await later(courier.destination(item, one))
        except Exception:
            _log.failure("no destination for {id}", id=item.envelope.id)
            return f"? {one.recipient.address.domain}"

    def _run(self, work: Coroutine[Any, Any, None], entry: Entry) -> None:
        """Work on an item that nobody waits for."""
        steps.run(work, lambda result: self._failed(result, entry) if isinstance(result, Failure) else None)

    def _failed(self, failure: Failure, entry: Entry) -> None:
        _log.failure("Queue item {id}: its turn failed unexpectedly", failure, id=entry.id)

    # -- one attempt -----------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        _RUNNING.inc()
        timer = self._reactor.callLater(PATIENCE, self._is_slow, job)
        began = self.spool.monotonic()
        attempt = Deferred.fromCoroutine(self._attempt(job))
        self._attempts[job] = attempt

        def end(result: object) -> None:
            _RUNNING.dec()
            _ATTEMPT.labels(job.courier).observe(self.spool.monotonic() - began)
            if timer.active():
                timer.cancel()
            del self._attempts[job]
            wait = 0.0
            if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
                self._failed(result, job.entry)
                wait = AFTER_A_FAULT
            self._release(job, wait)
            if job.freed:
                self._settling -= 1
            else:
                self._free(job)
            self.wake()

        attempt.addBoth(end)

    def _free(self, job: Job) -> None:
        """Let the next one have its place at the destination."""
        job.freed = True
        self.destinations.end(job.destination, job.slow, self.spool.monotonic())

    def _is_slow(self, job: Job) -> None:
        if job.freed:
            return
        job.slow = True
        self.destinations.slow_down()
        self.wake()

    def _release(self, job: Job, at_least: float = 0.0) -> None:
        """Give a job's recipients back to the spool."""
        job.entry.busy -= frozenset(job.indices)
        jobs = self._jobs.get(job.entry.id, [])
        if job in jobs:
            jobs.remove(job)
        if not jobs:
            self._jobs.pop(job.entry.id, None)
        if not self.spool.alive(job.entry) or not self.running:
            return
        self._run(self._reschedule(job.entry, at_least), job.entry)

    async def _reschedule(self, entry: Entry, at_least: float) -> None:
        stored = await self.spool.read(entry)
        self.spool.give_back(entry, stored, at_least)
        self.wake()

    async def _attempt(self, job: Job) -> None:
        stored = await self.spool.read(job.entry)
        if stored is None:
            return
        waiting = [
            index for index in job.indices if stored.item.recipients[index].state == "waiting"
        ]  # an operator may have dropped some while they stood in line
        if waiting:
            deadline = job.deadline
            if deadline is not None and deadline.final and deadline.over(self.spool.now()):
                outcomes = [_missed(stored.item.recipients[index]) for index in waiting]
            else:
                outcomes = await self._deliver(job, stored, waiting)
            job.settling = True
            self._judge_destination(job, outcomes)
            if self._settling < MAX_SETTLING and all(one.kind == "delivered" for one in outcomes):
                # What is left is a line on our own disk: the next message need not wait for it.
                self._settling += 1
                self._free(job)
                self.wake()
            known = dict(zip(waiting, outcomes, strict=True))
            try:
                await self._settle(job, stored, known)
            except Exception:
                # whatever else went wrong: what was delivered must not be delivered again
                delivered = {
                    index: attrs.evolve(stored.item.recipients[index], state="done")
                    for index, outcome in known.items()
                    if outcome.kind == "delivered"
                }
                await self.spool.change(job.entry, delivered)
                raise

    async def _deliver(self, job: Job, stored: Stored, waiting: list[int]) -> list[Outcome]:
        recipients = [stored.item.recipients[index] for index in waiting]
        courier = self._couriers.get(job.courier)
        if courier is None:
            return _all_deferred(recipients, f"there is no courier {job.courier!r} here")
        self._event(stored.item, "attempt", destination=job.destination, recipients=len(recipients))
        content = self.spool.content(stored)
        try:
            outcomes = await courier.deliver(stored.item, recipients, content)
        except CancelledError:
            raise
        except Exception:
            _log.failure("the courier {courier} failed with {id}", courier=job.courier, id=job.entry.id)
            return _all_deferred(recipients, "internal error")
        finally:
            content.close()
        if len(outcomes) != len(recipients):
            _log.error("the courier {courier} lost outcomes of {id}", courier=job.courier, id=job.entry.id)
            return _all_deferred(recipients, "internal error")
        return outcomes

    def _judge_destination(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        """Whether the destination can be reached; where not, those in line need not all find out."""
        first = outcomes[0].reply
        if all(
            one.kind == "deferred" and not one.host and one.reply.enhanced in ("4.4.1", "4.4.3")
            for one in outcomes
        ):
            self.destinations.missed(job.destination, str(first), self.spool.monotonic())
            if job.destination not in self._sweeping:
                self._sweeping.add(job.destination)
                sweep = Deferred.fromCoroutine(self._spare_the_old(job.destination, first))
                sweep.addErrback(self._failed, job.entry)
                sweep.addBoth(lambda _: self._sweeping.discard(job.destination))
        elif not any(one.ours for one in outcomes):
            self.destinations.reached(job.destination)
            self._alarms.pop(job.destination, None)

    async def _spare_the_old(self, destination: str, reply: Reply) -> None:
        """Jobs in line that are old enough for a notice or for expiry share the outcome of the one that
        tried, so that waiting in line neither hides a delay nor keeps a message for ever. In slices."""
        schedule = self.spool.schedule
        patience = min(schedule.delay_notice or schedule.expire, schedule.expire)
        left = len(self.destinations[destination].waiting)
        while left > 0 and self.running:
            slice_, left = min(left, SLICE), left - SLICE
            old = self.destinations.take_out(
                destination,
                slice_,
                lambda job: (
                    self.spool.age(job.entry) >= patience
                    or (job.deadline is not None and job.deadline.over(self.spool.now()))
                ),
            )
            for job in old:
                await self._share(job, reply)
            turn: Deferred[None] = Deferred()
            self._reactor.callLater(0, turn.callback, None)
            await turn

    async def _share(self, job: Job, reply: Reply) -> None:
        try:
            stored = await self.spool.read(job.entry)
            if stored is not None:
                recipients = stored.item.recipients
                outcomes = {
                    index: Outcome(recipients[index].recipient, "deferred", reply)
                    for index in job.indices
                    if recipients[index].state == "waiting"
                }
                await self._settle(job, stored, outcomes)
        finally:
            self._release(job)

    # -- what became of it -----------------------------------------------------------------------

    async def _settle(self, job: Job, stored: Stored, outcomes: dict[int, Outcome]) -> None:
        """Write down every outcome; tell the sender what he must know."""
        changes: dict[int, QueueRecipient] = {}
        failed: dict[int, Fate] = {}
        said: dict[int, Outcome] = {}
        delayed: dict[int, Fate] = {}
        served: list[Fate] = []
        expired = self.spool.schedule.expired(self.spool.age(job.entry))
        deadline, now = job.deadline, self.spool.now()
        for index, outcome in outcomes.items():
            one = stored.item.recipients[index]
            if deadline is not None:
                outcome = deadline.judged(outcome, now)
            self._note(job, stored.item, one, outcome)
            reply = str(outcome.reply)[:MAX_LAST_REPLY]
            if outcome.kind == "delivered":
                changes[index] = attrs.evolve(one, state="done", attempts=one.attempts + 1, last_reply=reply)
                age = self.spool.age(job.entry)
                _LATENCY.labels("delivered").observe(age)
                self.spool.history.note("delivered", stored.item, changes[index], age, outcome)
                if not why_no_success_notice(stored.item, one, outcome):
                    # RFC 3461 §5.2.2, §5.2.3
                    action: Action = "relayed" if job.courier == "remote" else "delivered"
                    fate = self._fate(one, outcome, action, False)
                    served.append(attrs.evolve(fate, concealed=fate.concealed or action == "delivered"))
            elif (outcome.kind == "failed" and not outcome.ours) or expired:
                failed[index] = self._fate(one, outcome, "failed", outcome.kind != "failed" or outcome.ours)
                said[index] = outcome
            else:
                attempts = one.attempts + 1
                next_try = now + self.spool.schedule.wait(attempts)
                if deadline is not None:
                    next_try = deadline.next_try(now, next_try)
                changes[index] = attrs.evolve(one, attempts=attempts, next_try=next_try, last_reply=reply)
                missed = deadline is not None and deadline.over(now)
                if self._is_late(job.entry, stored.item, one, missed):
                    left = self.spool.schedule.expire - self.spool.age(job.entry)
                    fate = self._fate(one, outcome, "delayed", False)
                    delayed[index] = attrs.evolve(fate, retry_until=self.spool.now() + left)
        changes.update(await self._fail(job.entry, stored, failed, said))
        if served:
            # A notice that cannot be kept is not worth a second delivery; the log has it.
            await self._tell(stored, served)
        for told in _by_owner(stored.item, delayed):
            if await self._tell(stored, list(told.values()), next(iter(told))):
                for index in told:
                    changes[index] = attrs.evolve(changes[index], delay_told=True)
        await self.spool.change(job.entry, changes)

    def _is_late(self, entry: Entry, item: QueueItem, one: QueueRecipient, missed: bool) -> bool:
        """Whether the sender is to be told now. ``missed``: the time that he set is over."""
        notice = self.spool.schedule.delay_notice
        late = missed or (bool(notice) and self.spool.age(entry) >= notice)
        return late and not why_no_delay_notice(_sent_by(item, one), one)

    def _fate(self, one: QueueRecipient, outcome: Outcome, action: Action, expired: bool) -> Fate:
        reply = outcome.reply
        if outcome.ours and not outcome.host:
            # Names of our rows and files are the operator's: he has them in log, queue and status.
            reply = attrs.evolve(reply, text=OUR_FAULT)
        return Fate(
            recipient=one.recipient,
            action=action,
            reply=reply,
            host=_name_of(outcome.host),
            expired=expired,
            concealed=one.forwarded,
            last_attempt=self.spool.now(),
        )

    async def _fail(
        self, entry: Entry, stored: Stored, failed: dict[int, Fate], said: Mapping[int, Outcome]
    ) -> dict[int, QueueRecipient]:
        """Give recipients up: a notice first, where there may be one. ``said``: the outcomes of now."""
        changes: dict[int, QueueRecipient] = {}
        told: dict[int, Fate] = {}
        notices: dict[int, str] = {}
        for index, fate in failed.items():
            one = stored.item.recipients[index]
            reason = why_no_failure_notice(_sent_by(stored.item, one), one)
            words = str(fate.reply)[:MAX_LAST_REPLY]
            changes[index] = attrs.evolve(one, state="done", attempts=one.attempts + 1, last_reply=words)
            kind = "expired" if fate.expired else "bounced"
            recipient = str(one.recipient.address)
            whom = "to the sender" if one.owner is None else f"to {one.owner}"
            notice = notices[index] = f"none, {reason}" if reason else whom
            _log.info(
                "{id}: given up for {recipient}{why} (notice {notice})",
                id=stored.item.envelope.id,
                recipient=recipient,
                why=", too old" if fate.expired else "",
                notice=notice,
            )
            self._event(stored.item, kind, recipient=recipient, reply=words, notice=notice)
            if not reason:
                told[index] = fate
        for group in _by_owner(stored.item, told):
            if await self._tell(stored, list(group.values()), next(iter(group))):
                continue
            for index, fate in group.items():  # the notice cannot be kept now: try all of it again later
                one = stored.item.recipients[index]
                wait = self.spool.schedule.wait(one.attempts + 1)
                changes[index] = attrs.evolve(
                    one,
                    attempts=one.attempts + 1,
                    next_try=self.spool.now() + wait,
                    last_reply=str(fate.reply)[:MAX_LAST_REPLY],
                )
        for index, one in changes.items():
            if one.state == "done":
                outcome = "expired" if failed[index].expired else "bounced"
                age = self.spool.age(entry)
                _LATENCY.labels(outcome).observe(age)
                self.spool.history.note(outcome, stored.item, one, age, said.get(index), notices[index])
        return changes

    async def _tell(self, stored: Stored, fates: Sequence[Fate], index: int | None = None) -> bool:
        """One notice, to the message's sender, or to the owner of the list that led to that recipient."""
        item = stored.item if index is None else _sent_by(stored.item, stored.item.recipients[index])
        content = self.spool.content(stored)
        try:
            return await self._notices.send(item, fates, content, self.spool.now())
        finally:
            content.close()

    def _note(self, job: Job, item: QueueItem, one: QueueRecipient, outcome: Outcome) -> None:
        """One line in the log and one event in the trace."""
        _OUTCOMES.labels(job.courier, outcome.kind).inc()
        recipient = str(one.recipient.address)
        words = {"delivered": "delivered to", "deferred": "deferred for", "failed": "refused for"}
        reply = str(outcome.reply)
        by = f" by {outcome.host}" if outcome.host else ""
        note(
            _log,
            f"{item.envelope.id}: {words[outcome.kind]} {recipient}{by}: {reply}",
            id=item.envelope.id,
            outcome=outcome.kind,
            recipient=recipient,
            host=outcome.host,
            reply=reply,
        )
        kind = {"delivered": "relayed", "deferred": "deferred", "failed": "refused"}[outcome.kind]
        self._event(item, kind, recipient=recipient, host=outcome.host, reply=reply, tls=outcome.tls)
        if outcome.ours:
            _log.critical(
                "Mail for {recipient} cannot be delivered because of this server: {reply}",
                recipient=recipient,
                reply=str(outcome.reply),
            )
            if len(self._alarms) < MAX_ALARMS or job.destination in self._alarms:
                problem = Problem(
                    "",
                    0,
                    f"mail for {recipient} cannot be delivered: {outcome.reply}",
                    "mend the next hop, its credentials or its TLS; mail is tried again until it expires",
                )
                self._alarms[job.destination] = self.spool.monotonic(), problem

    def _event(self, item: QueueItem, kind: str, **facts: object) -> None:
        if self._trace is not None:
            self._trace.event(item.envelope.id, kind, **facts)

    def adopt(self, couriers: Sequence[ICourier]) -> None:
        """More couriers, for what is looked at from now on."""
        self._couriers.update({courier.name: courier for courier in couriers})
        self._paced.update(
            {courier.name: IPaced(courier) for courier in couriers if IPaced.providedBy(courier)}
        )
        self.wake()

    # -- what the operator asks for --------------------------------------------------------------

    def retry(self, entry: Entry) -> None:
        """Try every waiting recipient now, also where its destination is down."""
        now = self.spool.monotonic()
        for job in self._jobs.get(entry.id, ()):
            self.destinations.revive(job.destination, now)
        self.spool.hurry(entry)
        self.wake()

    async def bounce(self, entry: Entry) -> bool:
        """Give every waiting recipient up, with a notice as the rules allow; whether that is done."""
        stored = await self.spool.read(entry)
        if stored is None:
            return False
        reply = Reply(550, "5.0.0", "given up by the operator of the server")
        failed = {
            index: self._fate(one, Outcome(one.recipient, "failed", reply), "failed", False)
            for index, one in enumerate(stored.item.recipients)
            if one.state != "done"
        }
        changes = await self._fail(entry, stored, failed, {})
        await self.spool.change(entry, changes)
        return all(one.state == "done" for one in changes.values())

    def standing(self, entry: Entry) -> dict[int, tuple[str, float]]:
        """Of recipients in our hands: what they wait for, and for how many seconds (0: not known)."""
        found: dict[int, tuple[str, float]] = {}
        now = self.spool.monotonic()
        for job in self._jobs.get(entry.id, ()):
            words, left = "being delivered", 0.0
            if job not in self._attempts:
                destination = self.destinations[job.destination]
                left = max(0.0, destination.down_until - now)
                words = f"destination down: {destination.words}" if left else "in line"
            found.update(dict.fromkeys(job.indices, (words, left)))
        return found


def _all_deferred(recipients: Sequence[QueueRecipient], words: str) -> list[Outcome]:
    reply = Reply(451, "4.3.0", words)
    return [Outcome(one.recipient, "deferred", reply, ours=True) for one in recipients]


def _missed(one: QueueRecipient) -> Outcome:
    """Not tried any more: its sender's time is over."""
    last = f"; at last: {one.last_reply}" if one.last_reply else ""
    return Outcome(one.recipient, "failed", Reply(550, "5.4.7", f"{NOT_IN_TIME}{last}"))


def _sent_by(item: QueueItem, one: QueueRecipient) -> QueueItem:
    """The item as it is sent to a recipient: by the owner, ours, of the list that led to him."""
    if one.owner is None:
        return item
    envelope = attrs.evolve(item.envelope, sender=one.owner, sender_verified=True)
    return attrs.evolve(item, envelope=envelope)


def _by_owner(item: QueueItem, fates: dict[int, Fate]) -> list[dict[int, Fate]]:
    """Fates of recipients, those together whose notices go to the same person."""
    groups: dict[object, dict[int, Fate]] = {}
    for index, fate in fates.items():
        groups.setdefault(item.recipients[index].owner, {})[index] = fate
    return list(groups.values())


def _name_of(host: str) -> str:
    """The name in "name[address]:port", or the address in its brackets where there is no name."""
    name, bracket, rest = host.partition("[")
    return name or bracket + rest.partition("]")[0] + "]" * bool(bracket)


def _echo(deferred: Deferred[None]) -> Deferred[None]:
    """Fires when the other does, without taking part in it."""
    echo: Deferred[None] = Deferred()

    def pass_on(result: object) -> object:
        echo.callback(None)
        return result

    deferred.addBoth(pass_on)
    return echo
