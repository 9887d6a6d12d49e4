"""Whether the reactor keeps its promise never to wait: the loop's lag, and the longest callback.

Composed by :mod:`lorrainemail.service` as a service. A timer that is due every :data:`BEAT` seconds measures
by how much it comes late; lateness over :data:`STALL` is a line in the log. That costs nothing worth telling.
:func:`measure_callbacks` times every single callback instead (CPU of the reactor's thread); it costs some
microseconds an event and is switched on by the environment variable :data:`SWITCH`, for benchmarks. What was
found is logged at the end, in one line that the benchmarks read.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lorrainemail.ops.metrics import Counter, Gauge, Histogram

_log = Logger("lorrainemail.ops.stall")
_LAG = Histogram(
    "lorrainemail_reactor_lag_seconds",
    "By how much a timer comes late",
    buckets=(0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
_STALLS = Counter("lorrainemail_reactor_stalls", "How often the server did nothing else for too long")
_LONGEST = Gauge("lorrainemail_reactor_longest_callback_seconds", "CPU of the longest callback, if measured")

#: New objects after which the youngest are looked at. Python's 700 are made in two messages, and nearly all
#: of them are gone again by themselves.
YOUNG: Final = 10_000
#: Seconds between beats, and lateness that an operator should know of.
BEAT: Final = 0.5
STALL: Final = 0.5
SWITCH: Final = "LORRAINEMAIL_MEASURE_CALLBACKS"


class CallbackMeter:
    """The longest callbacks so far."""

    __slots__ = ("count", "longest", "name", "over")

    #: Seconds of CPU that a callback should not reach.
    LIMIT: Final = 0.02

    def __init__(self) -> None:
        self.longest = 0.0
        self.name = ""
        self.count = 0
        self.over = 0

    def time(self, call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        """The same call, timed."""

        def timed(*args: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args)
            finally:
                took = time.thread_time() - began
                self.count += 1
                if took > self.LIMIT:
                    self.over += 1
                if took > self.longest:
                    self.longest = took
                    self.name = name(*args)

        return timed


def measure_callbacks(reactor: Any) -> CallbackMeter:
    """Time every callback of a reactor of Twisted's own, from now on.

    A descriptor's callback is timed by itself; timers and calls from threads together, once a turn.
    """
    meter = CallbackMeter()
    for method in ("_doReadOrWrite", "runUntilCurrent"):
        call = getattr(reactor, method, None)
        if call is not None:
            setattr(
                reactor, method, meter.time(call, lambda *args: repr(args[0])[:120] if args else "timers")
            )
    return meter


class StallMonitor(Service):
    """Watches one reactor."""

    name = "stall"

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self._worst = 0.0
        self._meter: CallbackMeter | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # What was loaded to start stays; a full collection that looked at it all would take 30 ms.
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
        if os.environ.get(SWITCH):
            self._meter = measure_callbacks(self._reactor)
        self._beat_later()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._call is not None:
            self._call.cancel()
            self._call = None
        meter = self._meter
        if meter is not None:
            _log.info(
                "reactor: longest callback {longest:.1f} ms ({name}), {over} of {count} over 20 ms, "
                "worst lag {lag:.1f} ms",
                longest=meter.longest * 1000,
                name=meter.name,
                over=meter.over,
                count=meter.count,
                lag=self._worst * 1000,
            )

    def _beat_later(self) -> None:
        self._due = self._reactor.seconds() + BEAT
        self._call = self._reactor.callLater(BEAT, self._beat)

    def _beat(self) -> None:
        lag = max(0.0, self._reactor.seconds() - self._due)
        _LAG.observe(lag)
        self._worst = max(self._worst, lag)
        if self._meter is not None:
            _LONGEST.set(self._meter.longest)
        if lag > STALL:
            _STALLS.inc()
            _log.warn("The server did nothing else for {lag:.2f} s", lag=lag)
        self._beat_later()
