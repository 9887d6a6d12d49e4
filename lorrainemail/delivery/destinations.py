"""Who may start next: jobs by destination, so that one slow destination never delays another.

Pure but for the clock that it is given. The runner puts jobs in and takes them out; nothing here delivers.

- Each destination has its own line of jobs and its own limit of deliveries at once; a new one begins with
  :data:`FIRST` and earns one more with each success.
- Destinations take turns. Within a line jobs of higher priority stand before those of lower (RFC 6710 §4.2),
  and a destination that gets an urgent one has the next turn.
- The limit over all counts only deliveries that are younger than :data:`PATIENCE` (the runner calls
  :meth:`Destinations.slow_down` for older ones), so that many stalled connections do not use it up; a second,
  larger one counts them all.
- A destination whose operator's row bounds its rate starts one delivery after the other at that rate; what
  was not used is not saved up.
- A destination that cannot be reached at all is *down* for a while, growing with each failed try; its jobs
  stay in line, and one of them tries when the time is over.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

import attrs

from lorrainemail.interfaces import Pace

#: Deliveries at once to a destination that is not known to work.
FIRST: Final = 2
#: Seconds after which a delivery no longer counts in the limit over all.
PATIENCE: Final = 30.0
#: How many times the limit over all may run, the slow ones included.
SLOW_FACTOR: Final = 5
#: Seconds for which a destination is down after its first, second, ... failed try.
DOWN: Final = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)
#: Destinations remembered although nothing waits for them.
MAX_IDLE: Final = 5000


_USUAL: Final = Pace()


class Keyed(Protocol):
    """What a job must tell."""

    @property
    def destination(self) -> str: ...

    @property
    def priority(self) -> int: ...


J = TypeVar("J", bound=Keyed)


@attrs.define(slots=True, eq=False)
class Destination(Generic[J]):
    """One destination.

    :ivar waiting: jobs in line. ``running``: how many were started and have not ended.
    :ivar limit: how many may run now.
    :ivar down_until: instant before which nothing is tried. ``failures``: tries in a row that did not reach
        it. ``words``: what the last of them came to.
    :ivar pace: what the operator wants of it. ``not_before``: the instant at which its rate lets one start.
    """

    waiting: deque[J] = attrs.field(factory=deque)
    running: int = 0
    limit: int = FIRST
    down_until: float = 0.0
    failures: int = 0
    words: str = ""
    pace: Pace = _USUAL
    not_before: float = 0.0

    @property
    def rests_until(self) -> float:
        """Instant before which nothing may start, whatever the reason."""
        return max(self.down_until, self.not_before)


class Destinations(Generic[J]):
    """All destinations that are known now.

    :param concurrency: deliveries at once over all; ``per_destination``: to one at most.
    """

    def __init__(self, concurrency: int, per_destination: int) -> None:
        self.concurrency = concurrency
        self.per_destination = per_destination
        self._known: dict[str, Destination[J]] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._down: set[str] = set()
        self._fast = 0
        self._slow = 0

    def __getitem__(self, key: str) -> Destination[J]:
        return self._known[key]

    def get(self, key: str) -> Destination[J] | None:
        """The destination, where it is known."""
        return self._known.get(key)

    @property
    def waiting(self) -> int:
        """Jobs in all lines."""
        return sum(len(one.waiting) for one in self._known.values())

    def add(self, job: J, now: float, pace: Pace = _USUAL) -> None:
        """Put a job at the end of its line.

        :param pace: of its destination, from now on.
        """
        key = job.destination
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_IDLE:
                self._forget_idle(now)
            found = self._known[key] = Destination(limit=FIRST)
        found.pace = pace
        found.limit = min(found.limit, self._most(found))
        waiting = found.waiting
        if not waiting or waiting[-1].priority >= job.priority:
            waiting.append(job)
        else:
            waiting.insert(next(i for i, one in enumerate(waiting) if one.priority < job.priority), job)
        self._look(key, found, now)
        if job.priority > 0 and key in self._ready:
            self._ready.move_to_end(key, last=False)

    def start(self, now: float) -> J | None:
        """The job that may start now; it counts as running from here on."""
        if self._fast >= self.concurrency or self._fast + self._slow >= self.concurrency * SLOW_FACTOR:
            return None
        if not self._ready:
            return None
        key, _ = self._ready.popitem(last=False)
        found = self._known[key]
        job = found.waiting.popleft()
        found.running += 1
        self._fast += 1
        if found.pace.rate:
            found.not_before = max(now, found.not_before) + 60.0 / found.pace.rate
        self._look(key, found, now)
        return job

    def slow_down(self) -> None:
        """A running job has lasted long."""
        self._fast -= 1
        self._slow += 1

    def end(self, key: str, slow: bool, now: float) -> None:
        """A running job has ended; ``slow``: :meth:`slow_down` was called for it."""
        found = self._known[key]
        found.running -= 1
        if slow:
            self._slow -= 1
        else:
            self._fast -= 1
        self._look(key, found, now)

    def reached(self, key: str) -> None:
        """The destination answered: it is up, and trusted a little more."""
        found = self._known[key]
        found.failures = 0
        found.down_until = 0.0
        found.words = ""
        found.limit = min(found.limit + 1, self._most(found))

    def missed(self, key: str, words: str, now: float) -> None:
        """The destination could not be reached. Those that were under way together count once."""
        found = self._known[key]
        found.words = words
        found.limit = 1
        if found.down_until <= now:
            found.down_until = now + DOWN[min(found.failures, len(DOWN) - 1)]
            found.failures += 1
            self._ready.pop(key, None)
            self._down.add(key)

    def revive(self, key: str, now: float) -> None:
        """Try a destination that is down now."""
        found = self._known.get(key)
        if found is not None:
            found.down_until = 0.0  # its rate is kept all the same
            self._look(key, found, now)

    def wake(self, now: float) -> None:
        """Let those whose time is over try again."""
        for key in [key for key in self._down if self._known[key].rests_until <= now]:
            self._look(key, self._known[key], now)

    def next_wake(self) -> float | None:
        """The instant at which :meth:`wake` has something to do."""
        return min((self._known[key].rests_until for key in self._down), default=None)

    def take_out(self, key: str, count: int, wanted: Callable[[J], bool]) -> list[J]:
        """Of the first so many jobs in line, those wanted, taken out; the others go to the line's end."""
        waiting = self._known[key].waiting
        found = []
        for _ in range(min(count, len(waiting))):
            job = waiting.popleft()
            if wanted(job):
                found.append(job)
            else:
                waiting.append(job)
        if not waiting:
            self._ready.pop(key, None)
        return found

    def _look(self, key: str, found: Destination[J], now: float) -> None:
        """Put a destination where its state says."""
        if found.rests_until > now:
            self._ready.pop(key, None)
            self._down.add(key)
            return
        self._down.discard(key)
        if found.waiting and found.running < found.limit:
            self._ready.setdefault(key)
        else:
            self._ready.pop(key, None)

    def _most(self, found: Destination[J]) -> int:
        """Deliveries at once to that destination."""
        return found.pace.concurrency or self.per_destination

    def _forget_idle(self, now: float) -> None:
        idle = [
            key
            for key, one in self._known.items()
            if not one.waiting and not one.running and one.rests_until <= now
        ]
        for key in idle:
            del self._known[key]
            self._down.discard(key)
