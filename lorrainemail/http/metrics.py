"""The page of numbers for a monitoring system: ``/metrics`` at the door ``metrics``, in Prometheus' form.

Composed by :mod:`lorrainemail.service` where ``[listen] metrics`` has an endpoint, which must be bound to
loopback: the numbers say who uses the server and how. What others count while they work is in
:mod:`lorrainemail.ops.metrics`; what can be asked for is asked for here, when somebody looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from lorrainemail.http.exchange import NOT_FOUND, Answer, Question, wrong_method
from lorrainemail.ops.metrics import Counter, Gauge, render

PATH: Final = "/metrics"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

_OPEN = Gauge("lorrainemail_connections", "Connections that are open", ["door"])
_OLDEST = Gauge("lorrainemail_queue_oldest_seconds", "Age of the oldest message in the queue")
_LINE = Gauge("lorrainemail_queue_in_line", "Deliveries that are due and wait for their turn")
_ALARMS = Gauge("lorrainemail_alarms", "Alarms that an operator should look at")
_MEMORY = Gauge("process_resident_memory_bytes", "Memory of the process")
_FILES = Gauge("process_open_fds", "Open file descriptors")
_CPU = Counter("process_cpu_seconds", "CPU of the process")
_START = Gauge("process_start_time_seconds", "When the process began")

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
#: When the machine began.
_BOOT: Final = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class MetricsSite:
    """What :class:`lorrainemail.http.door.HttpFactory` asks.

    :param connections: open ones by door.
    :param oldest: age of the oldest message in the queue, in seconds. ``in_line``: deliveries that are due.
    :param alarms: how many there are.
    """

    def __init__(
        self,
        connections: Callable[[], Mapping[str, int]],
        oldest: Callable[[], float],
        in_line: Callable[[], int],
        alarms: Callable[[], int],
    ) -> None:
        self._connections = connections
        self._oldest = oldest
        self._in_line = in_line
        self._alarms = alarms

    async def answer(self, question: Question) -> Answer:
        """The page."""
        if question.path != PATH:
            return NOT_FOUND
        if question.method not in ("GET", "HEAD"):
            return wrong_method("GET", "HEAD")
        for door, count in self._connections().items():
            _OPEN.labels(door).set(count)
        _OLDEST.set(round(self._oldest(), 1))
        _LINE.set(self._in_line())
        _ALARMS.set(self._alarms())
        self._process()
        return Answer(200, TEXT, render().encode("utf-8"))

    def _process(self) -> None:
        """By the names that monitoring systems know."""
        times = os.times()
        _CPU.value = round(times.user + times.system, 2)
        try:
            with open("/proc/self/statm", "rb") as file:
                _MEMORY.set(int(file.read(200).split()[1]) * _PAGE)
            with open("/proc/self/stat", "rb") as file:
                ticks = int(file.read(2000).rpartition(b")")[2].split()[19])
            _START.set(round(_BOOT + ticks / os.sysconf("SC_CLK_TCK"), 2))
            _FILES.set(len(os.listdir("/proc/self/fd")))
        except (OSError, ValueError, IndexError):
            pass  # a system without /proc
