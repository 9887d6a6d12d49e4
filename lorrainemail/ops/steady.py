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


class SteadyClock:
    """Seconds since the epoch, never fewer than before."""

    __slots__ = ("_last", "_lock", "_monotonic", "_now", "_wall")

    def __init__(
        self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._now = wall()
        self._last = monotonic()

    def seconds(self) -> float:
        """What ``reactor.seconds`` is to answer."""
        with self._lock:
            last = self._last
            self._last = monotonic = self._monotonic()
            passed = monotonic - last
            behind = self._wall() - (self._now + passed)
            if behind > LEAP:
                passed += behind
            elif behind > 0:
                passed += min(behind, passed * FASTER)
            else:
                passed += max(behind, -passed * SLOWER)
            self._now += passed
            return self._now
