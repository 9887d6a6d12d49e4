"""The spool: messages that must leave for elsewhere or could not be placed at once, durable on disk.

Owns ``queue/`` in the state directory (form: :mod:`~lorrainemail.queue.format`, order of changes:
:mod:`~lorrainemail.queue.files`) and, in memory, one small :class:`Entry` an item; envelopes are read when an
item's turn comes. Intake makes items through :meth:`Spool.placement`; the runner takes due ones and gives
them back; the operator's commands look and change.

Invariants:

- An item exists from the rename of its ``.json`` until that is unlinked; every change is durable before the
  Deferred of it fires. A change that the disk refuses stays in memory, is used from there, and is tried again
  until it holds: what was delivered is not delivered twice because a disk was full.
- Changes of one item are serialised and merged while one is being written.
- Recipients keep their index for the life of the item.
- Time inside is monotonic. ``next_try`` on disk is wall-clock, turned into a bounded wait at start; age is
  the time for which we were up with the item. So no jump of the wall clock expires or stalls anything.

Failures: placements fail with TemporaryError; everything else reports what the disk does in the log and
carries on.
"""

from __future__ import annotations

import gc
import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Literal

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.errors import STORAGE_FULL, Reply
from lorrainemail.interfaces import (
    FileWrite,
    ICommitter,
    IContent,
    IPlacement,
    IQueue,
    ITrace,
    QueueItem,
    QueueRecipient,
)
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import SYSTEM, Files
from lorrainemail.ops.metrics import Counter, Gauge
from lorrainemail.queue.files import Directory, Fault, MessageFile
from lorrainemail.queue.format import FUTURE, FormatError, Stored, encode
from lorrainemail.queue.history import History
from lorrainemail.queue.placing import QueuePlacement
from lorrainemail.queue.schedule import Schedule

#: Items read at once at start; between two slices the reactor and other work get their turn.
SLICE: Final = 400
#: Slices after which what was read is taken off the garbage collector's hands.
FREEZE: Final = 25
#: Envelopes kept parsed after their last use.
RECENT: Final = 1000
#: Octets of messages that stay in memory for their first attempt; of others the file is read.
FRESH: Final = 8 << 20
#: Seconds until what the disk refused (a change, a read) is tried again.
AGAIN: Final = 30.0

_log = Logger("lorrainemail.queue.spool")
_ITEMS = Gauge("lorrainemail_queue_items", "Messages in the queue")
_QUEUED = Counter("lorrainemail_queued", "Messages put into the queue")
_UNSAVED = Gauge("lorrainemail_queue_unsaved", "Queue items whose last change the disk refused so far")


@attrs.define(slots=True, eq=False)
class Entry:
    """What is kept in memory of one item.

    :ivar due: monotonic instant at which its next recipient is due; infinite where none waits idle.
    :ivar born: monotonic instant at which its age was 0.
    :ivar hurry: an operator asked for a try now: every waiting recipient is due.
    :ivar version: how often it was changed; a read that a change overtook is not believed.
    :ivar busy: indices of recipients that are in the runner's hands.
    """

    id: str
    due: float
    born: float
    hurry: bool = False
    version: int = 0
    busy: frozenset[int] = frozenset()


@attrs.define(slots=True, eq=False)
class _Change:
    """Changes of one item that wait while another is being written.

    :ivar orders: an operator's: new states of recipients, which hold against what the runner says.
    """

    recipients: dict[int, QueueRecipient]
    orders: dict[int, Literal["waiting", "held"]]
    waiters: list[Deferred[None]]


@implementer(IQueue)
class Spool(Service):
    """The queue of a server.

    :param reactor: for its timers.
    :param directory: ``<state>/queue``.
    :param committer: writes, syncs and threads.
    :param trace: told of what is queued and dropped; None for no trace.
    :param schedule: waits between tries and expiry; replaced by :meth:`reconfigure`.
    :param capacity: items at once.
    :param wall, monotonic: the clocks.
    :param keep_history: seconds for which is remembered what became of recipients; ``history_size``: octets.
    :ivar staged: ids of items that are being placed.
    """

    name = "queue"

    def __init__(
        self,
        reactor: IReactorTime,
        directory: str,
        committer: ICommitter,
        trace: ITrace | None = None,
        schedule: Schedule | None = None,
        capacity: int = 200_000,
        files: Files = SYSTEM,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        keep_history: float = 0.0,
        history_size: int = 64 << 20,
    ) -> None:
        self.schedule = schedule or Schedule()
        self.capacity = capacity
        self.directory = Directory(directory, files)
        self.history = History(reactor, self.directory.history, committer, keep_history, history_size, wall)
        self._reactor = reactor
        self.committer = committer
        self._trace = trace
        self.monotonic = monotonic
        self._epoch = wall() - monotonic()
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._pushed = 0
        self._unread = 0
        self.staged: set[str] = set()
        self._recent: OrderedDict[str, Stored] = OrderedDict()
        self._fresh: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._fresh_octets = 0
        self._unsaved: dict[str, Stored] = {}
        self._changes: dict[str, _Change] = {}
        self._removals: list[tuple[str, Deferred[OSError | None]]] = []
        self._removing = False
        self._listeners: list[Callable[[], None]] = []
        self._loading: Deferred[None] | None = None
        self._again: IDelayedCall | None = None
        self._reload: IDelayedCall | None = None

    # -- service ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the directories; before the reactor runs, so that a fault is a start error (OSError)."""
        self.directory.prepare()

    def startService(self) -> None:
        """Begin to load what an earlier process left; placements and deliveries go on beside it."""
        super().startService()  # type: ignore[no-untyped-call]
        self._start_loading()

    def _start_loading(self) -> None:
        self._loading = Deferred.fromCoroutine(self._load())
        self._loading.addErrback(self._load_failed)

    def stopService(self) -> Deferred[None]:
        """Stop loading, write the history down. Changes that are under way belong to the committer, which
        ends after us."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        for call in (self._again, self._reload):
            if call is not None and call.active():
                call.cancel()
        self._again = self._reload = None
        return self.history.flush()

    def reconfigure(
        self, schedule: Schedule, capacity: int, keep_history: float = 0.0, history_size: int = 64 << 20
    ) -> None:
        """New settings; waits that are running keep their length."""
        self.schedule = schedule
        self.capacity = capacity
        self.history.keep, self.history.most = keep_history, history_size

    async def _load(self) -> None:
        identities, faults = await self.committer.run(self.directory.scan)
        self._say(faults)
        self._unread = len(identities)
        if identities:
            _log.info("{count} messages wait in the queue", count=len(identities))
        for start in range(0, len(identities), SLICE):
            part = identities[start : start + SLICE]
            found, faults = await self.committer.run(partial(self.directory.peek_all, part))
            self._say(faults)
            now = self.monotonic()
            for identity, age, next_try in found:
                if identity not in self._entries:
                    entry = Entry(identity, now + self._wait_until(next_try), now - age)
                    self._entries[identity] = entry
                    self._schedule(entry, entry.due)
            self._unread = max(0, self._unread - len(part))
            _ITEMS.set(len(self._entries))
            self._wake()
            if start // SLICE % FREEZE == FREEZE - 1:
                # They stay for hours; a full collection that looked at them all would stop everything.
                gc.freeze()
        if identities:
            _log.info("The queue is read: {count} messages", count=len(self._entries))

    def _load_failed(self, failure: Failure) -> None:
        self._unread = 0
        if isinstance(failure.value, CancelledError) or not self.running:
            return
        _log.failure("the queue could not be read; that is tried again", failure)
        self._reload = self._reactor.callLater(AGAIN, self._start_loading)

    def _say(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            _log.error("Queue item {id}: {what}. {where}", id=fault.id, what=fault.what, where=fault.where)
            self._event(fault.id, "damaged", what=fault.what, where=fault.where)

    # -- IQueue ----------------------------------------------------------------------------------

    def placement(self, item: QueueItem, prefix: bytes, content: IContent) -> IPlacement:
        """A new item of ``prefix`` + ``content``."""
        return QueuePlacement(self, item, prefix, content)

    def full(self) -> Reply | None:
        """452 4.3.1 where nothing more may be queued."""
        if self.count + len(self.staged) >= self.capacity or self.committer.writable(0) is not None:
            return STORAGE_FULL
        return None

    # -- what the runner needs -------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Items in the queue, those not read yet included."""
        return len(self._entries) + self._unread

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call back when something became due that was not there before."""
        self._listeners.append(listener)

    def now(self) -> float:
        """Seconds since the epoch as the clock stood at start, not moved by its jumps."""
        return self._epoch + self.monotonic()

    def oldest(self) -> float:
        """Age of the oldest item, 0 where there is none. Looks at each one."""
        return max(
            0.0, self.monotonic() - min((one.born for one in self._entries.values()), default=math.inf)
        )

    def age(self, entry: Entry) -> float:
        """Seconds for which a server was up with the item."""
        return max(0.0, self.monotonic() - entry.born)

    def take(self, limit: int) -> list[Entry]:
        """Entries that are due, longest due first. Each is to be given back, see :meth:`give_back`."""
        taken: list[Entry] = []
        now = self.monotonic()
        while self._heap and len(taken) < limit and self._heap[0][0] <= now:
            due, _, entry = heapq.heappop(self._heap)
            if entry.due == due and self._entries.get(entry.id) is entry:
                entry.due = math.inf
                taken.append(entry)
        return taken

    def next_due(self) -> float | None:
        """Seconds until something is due; None where nothing waits."""
        while self._heap:
            due, _, entry = self._heap[0]
            if entry.due == due and self._entries.get(entry.id) is entry:
                return max(0.0, due - self.monotonic())
            heapq.heappop(self._heap)
        return None

    def give_back(self, entry: Entry, stored: Stored | None, at_least: float = 0.0) -> None:
        """Schedule an entry anew from its item: when the first of its idle, waiting recipients is due.

        :param stored: None where the item could not be read: it is looked at again later.
        :param at_least: seconds from now before which it is not due.
        """
        if self._entries.get(entry.id) is not entry:
            return
        if stored is None:
            wait = AGAIN
        else:
            wait = min(
                (
                    self._wait_until(one.next_try)
                    for index, one in enumerate(stored.item.recipients)
                    if one.state == "waiting" and index not in entry.busy
                ),
                default=math.inf,
            )
        self._schedule(entry, self.monotonic() + max(wait, at_least))

    def is_due(self, entry: Entry, recipient: QueueRecipient) -> bool:
        """Whether a waiting recipient may be tried now."""
        if recipient.courier == FUTURE and entry.hurry and recipient.next_try > self.now():
            return False  # an operator's haste is not the sender's wish
        return recipient.state == "waiting" and (entry.hurry or self._wait_until(recipient.next_try) <= 1.0)

    async def read_many(self, entries: Sequence[Entry]) -> list[tuple[Entry, Stored]]:
        """Those items that can be read, in one turn of a thread; they are not kept in memory for it."""
        unknown = [
            entry.id for entry in entries if entry.id not in self._unsaved and entry.id not in self._recent
        ]
        versions = {entry.id: entry.version for entry in entries}
        found = await self.committer.run(partial(self.directory.read_all, unknown)) if unknown else {}
        answer = []
        for entry in entries:
            known = self._unsaved.get(entry.id) or self._recent.get(entry.id)
            if known is None and entry.version == versions[entry.id]:
                known = found.get(entry.id)
            if known is None:  # changed meanwhile, or damaged
                known = await self.read(entry) if self.alive(entry) else None
            if known is not None:
                answer.append((entry, known))
        return answer

    async def read(self, entry: Entry) -> Stored | None:
        """The item; None where it is gone, or damaged (it is set aside then), or cannot be read now."""
        known = self._unsaved.get(entry.id) or self._recent.get(entry.id)
        if known is not None:
            return known
        version = entry.version
        try:
            stored = await self.committer.run(partial(self.directory.read, entry.id))
            if entry.version != version:
                return await self.read(entry)
        except FileNotFoundError:
            if self.alive(entry):
                _log.warn("Queue item {id} was removed by somebody else", id=entry.id)
                self._forget(entry)
            return None
        except FormatError as error:
            aside = partial(self.directory.set_aside, entry.id, f"its envelope is damaged: {error}")
            self._say([await self.committer.run(aside)])
            self._forget(entry)
            return None
        except OSError as error:
            _log.error("Queue item {id} cannot be read: {error}", id=entry.id, error=error)
            return None
        self._remember(stored)
        return stored

    def content(self, stored: Stored) -> IContent:
        """The item's message; the caller closes it."""
        identity = stored.item.envelope.id
        fresh = self._fresh.get(identity)
        if fresh is not None:
            return Content(b"".join(fresh))
        return MessageFile(self.directory.message(identity), stored.item.size, stored.eight_bit)

    def keep_fresh(self, identity: str, prefix: bytes, body: bytes) -> None:
        """The message was just written, and will be sent in a moment."""
        self._fresh[identity] = prefix, body
        self._fresh_octets += len(prefix) + len(body)
        while self._fresh_octets > FRESH:
            self._drop_fresh(next(iter(self._fresh)))

    def _drop_fresh(self, identity: str) -> None:
        fresh = self._fresh.pop(identity, None)
        if fresh is not None:
            self._fresh_octets -= sum(map(len, fresh))

    def alive(self, entry: Entry) -> bool:
        """Whether the item still exists."""
        return self._entries.get(entry.id) is entry

    async def change(
        self,
        entry: Entry,
        recipients: Mapping[int, QueueRecipient],
        orders: Mapping[int, Literal["waiting", "held"]] | None = None,
    ) -> None:
        """Replace recipients by their index; durable when it returns (see the head for a refusing disk). An
        item whose recipients are all done is removed.

        :param orders: states that an operator wants of recipients, which are not replaced otherwise.
        """
        if not self.alive(entry):
            return
        pending = self._changes.get(entry.id)
        if pending is not None:
            pending.recipients.update(recipients)
            pending.orders.update(orders or {})
            waiter: Deferred[None] = Deferred()
            pending.waiters.append(waiter)
            await waiter
            return
        pending = self._changes[entry.id] = _Change(dict(recipients), dict(orders or {}), [])
        try:
            more = True
            while more and self.alive(entry):
                todo, pending.recipients = pending.recipients, {}
                ordered, pending.orders = pending.orders, {}
                waiters, pending.waiters = pending.waiters, []
                try:
                    await self._apply(entry, todo, ordered)
                finally:
                    for one in waiters:
                        one.callback(None)
                more = bool(pending.recipients or pending.orders)
        finally:
            del self._changes[entry.id]
            for one in pending.waiters:
                one.callback(None)

    async def _apply(
        self,
        entry: Entry,
        todo: Mapping[int, QueueRecipient],
        orders: Mapping[int, Literal["waiting", "held"]],
    ) -> None:
        stored = await self.read(entry)
        if stored is None:
            return
        recipients = tuple(
            _changed(one, todo.get(index, one), orders.get(index))
            for index, one in enumerate(stored.item.recipients)
        )
        changed = attrs.evolve(stored, item=attrs.evolve(stored.item, recipients=recipients))
        entry.version += 1
        await self._save(entry, changed)

    async def _save(self, entry: Entry, stored: Stored) -> None:
        """Bring one item's state to the disk, or keep it in memory until that works."""
        self._drop_fresh(entry.id)  # it had its attempt
        if all(one.state == "done" for one in stored.item.recipients):
            error = await self._remove(entry.id)
            if error is None:
                self._forget(entry)
        else:
            stored = attrs.evolve(stored, age=self.monotonic() - entry.born)
            write = FileWrite(
                temporary=self.directory.temporary(f"{entry.id}.{self._next_number()}"),
                final=self.directory.envelope(entry.id),
                parts=(encode(stored),),
                replace=True,
            )
            (error,) = await self.committer.commit([write])
        if error is None:
            self._unsaved.pop(entry.id, None)
            if self.alive(entry):
                self._remember(stored)
        else:
            _log.error("Queue item {id} could not be updated: {error}", id=entry.id, error=error)
            self._unsaved[entry.id] = stored
            if self._again is None:
                self._again = self._reactor.callLater(AGAIN, self._save_again)
        _UNSAVED.set(len(self._unsaved))

    def _save_again(self) -> None:
        self._again = None
        for identity in list(self._unsaved):
            entry = self._entries.get(identity)
            if entry is not None:
                Deferred.fromCoroutine(self.change(entry, {})).addErrback(
                    lambda failure: _log.failure("saving a queue item", failure)
                )

    async def _remove(self, identity: str) -> OSError | None:
        """Remove an item; removals that come while one is under way share the next sync."""
        done: Deferred[OSError | None] = Deferred()
        self._removals.append((identity, done))
        if not self._removing:
            self._removing = True
            try:
                while self._removals:
                    batch, self._removals = self._removals, []
                    names = [one for one, _ in batch]
                    work = partial(self.directory.remove, names, self.history.writing())
                    error = None
                    try:
                        await self.committer.run(work)
                    except OSError as caught:
                        error = caught
                    for _, waiting in batch:
                        waiting.callback(error)
            finally:
                self._removing = False
        return await done

    # -- what the operator needs -----------------------------------------------------------------

    def identities(self) -> list[str]:
        """All items that are read, oldest first."""
        return sorted(self._entries)

    def find(self, identity: str) -> Entry | None:
        """The entry of that id."""
        return self._entries.get(identity)

    def hurry(self, entry: Entry) -> None:
        """Try every waiting recipient now."""
        entry.hurry = True
        self._schedule(entry, self.monotonic())
        self._wake()

    async def drop(self, entry: Entry) -> None:
        """Remove an item without a word to its sender."""
        stored = await self.read(entry)
        if stored is not None:
            left = [one for one in stored.item.recipients if one.state != "done"]
            for one in left:
                self.history.note("dropped", stored.item, one, self.age(entry))
            done = {
                index: attrs.evolve(one, state="done") for index, one in enumerate(stored.item.recipients)
            }
            await self.change(entry, done)
            self._event(entry.id, "dropped", recipients=[str(one.recipient.address) for one in left])

    async def hold(self, entry: Entry) -> bool:
        """Try no recipient any more until :meth:`release`; whether any waited. An attempt that is under way
        ends first."""
        return await self._order(entry, "waiting", "held")

    async def release(self, entry: Entry) -> bool:
        """Undo :meth:`hold` and try now; whether any recipient was held."""
        released = await self._order(entry, "held", "waiting")
        if released:
            self.hurry(entry)
        return released

    async def _order(
        self, entry: Entry, old: Literal["waiting", "held"], new: Literal["waiting", "held"]
    ) -> bool:
        stored = await self.read(entry)
        if stored is None:
            return False
        orders = {index: new for index, one in enumerate(stored.item.recipients) if one.state == old}
        if orders:
            await self.change(entry, {}, orders)
            if self.alive(entry):
                self._event(entry.id, "held" if new == "held" else "released")
                self.give_back(entry, await self.read(entry))
        return bool(orders)

    # -- inside ----------------------------------------------------------------------------------

    def _wait_until(self, next_try: float) -> float:
        """Seconds until a stored instant, never longer than the longest wait of the schedule."""
        if next_try == math.inf:
            return math.inf
        return min(max(0.0, next_try - self.now()), self.schedule.longest)

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._schedule(entry, entry.due)
        _ITEMS.set(len(self._entries))

    def _schedule(self, entry: Entry, due: float) -> None:
        entry.due = due
        if due != math.inf:
            heapq.heappush(self._heap, (due, self._next_number(), entry))

    def _next_number(self) -> int:
        self._pushed += 1
        return self._pushed

    def _forget(self, entry: Entry) -> None:
        if self._entries.get(entry.id) is entry:
            del self._entries[entry.id]
        self._recent.pop(entry.id, None)
        self._drop_fresh(entry.id)
        self._unsaved.pop(entry.id, None)
        _ITEMS.set(len(self._entries))

    def _remember(self, stored: Stored) -> None:
        identity = stored.item.envelope.id
        self._recent[identity] = stored
        self._recent.move_to_end(identity)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _wake(self) -> None:
        for listener in self._listeners:
            listener()

    def _event(self, message: str, kind: str, **facts: object) -> None:
        if self._trace is not None:
            self._trace.event(message, kind, **facts)

    def placed(self, stored: Stored) -> None:
        """An item is durable and visible: it is the runner's from now on."""
        now = self.monotonic()
        first = min(one.next_try for one in stored.item.recipients)
        self._remember(stored)
        self._enter(Entry(stored.item.envelope.id, now + self._wait_until(first), now - stored.age))
        _QUEUED.inc()
        recipients = [str(one.recipient.address) for one in stored.item.recipients]
        self._event(stored.item.envelope.id, "queued", recipients=recipients)
        self._wake()


def _changed(
    one: QueueRecipient, new: QueueRecipient, order: Literal["waiting", "held"] | None
) -> QueueRecipient:
    """A recipient after a change. What an operator dropped or held meanwhile stays so, but for his order."""
    if one.state == "done" or new.state == "done":
        return one if one.state == "done" else new
    return attrs.evolve(new, state=order or one.state)
