"""A clock for the reactor that a jump of the system's clock cannot stop.

Twisted's reactor goes by the wall clock: where that is set back by an hour, nothing that waits happens for an
hour. :class:`SteadyClock` tells wall-clock time that never goes back; it goes by the monotonic clock, taking
up what lies between the two little by little. ``tap`` gives it to the reactor before any timer exists.

- The wall clock is behind (it was set back): time passes at half its speed until it has caught up.
- It is ahead by up to :data:`LEAP`: time passes a tenth faster.
- It is ahead by more (a machine that slept, or had no clock at its start): taken at once.

Threads may ask too. Never fails.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

#: How much faster and slower than the monotonic clock time may pass.
FASTER: Final = 0.1
SLOWER: Final = 0.5
#: Seconds of lag that are taken at once.
LEAP: Final = 3600.0
#: Seconds after which the wall clock is looked at again. The reactor asks for the time several times a turn.
LOOK: Final = 0.01


class SteadyClock:
    """Seconds since the epoch, never fewer than before."""

    __slots__ = ("_known", "_lock", "_monotonic", "_wall")

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # When we looked, what the time was then, and how fast it passes since; one value, for threads.
        self._known = (monotonic(), wall(), 1.0)

    def seconds(self) -> float:
        """What ``reactor.seconds`` is to answer."""
        looked, now, pace = self._known
        passed = self._monotonic() - looked
        return now + passed * pace if passed < LOOK else self._look()

    def _look(self) -> float:
        with self._lock:
            looked, now, pace = self._known
            monotonic = self._monotonic()
            rest = monotonic - looked - LOOK
            if rest < 0:  # another thread has just looked
                return now + (rest + LOOK) * pace
            # Nobody was told more than this.
            now += LOOK * pace
            behind = self._wall() - (now + rest)
            taken = behind if behind > LEAP else max(min(behind, rest * FASTER), -rest * SLOWER)
            now += rest + taken
            pace = 1 + max(min((behind - taken) / LOOK, FASTER), -SLOWER)
            self._known = (monotonic, now, pace)
            return now
