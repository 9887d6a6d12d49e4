"""The log that twistd keeps, written for one line a message.

Twisted's own file observer puts together each line's time stamp and words anew, and asks the system to write
each line; under load that was a tenth of what a message costs. :class:`LogLines` writes the same lines to the
same files: time stamps are made once a second, what :func:`note` was told is taken as it is and waits up to
:data:`GATHER` seconds for others of its kind. Everything else is written at once, behind what waits.

``tap`` has :func:`observer` make one where twistd would make its own, so ``--logfile``, SIGUSR1 and stdout
are as its manual says; ``--syslog`` and ``--logger`` stay with twistd.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEventAsClassicLogText
from twisted.python.logfile import LogFile
from zope.interface import implementer

#: Seconds for which the lines of messages may wait to be written together.
GATHER: Final = 0.05
#: Characters that may wait.
MAX_WAITING: Final = 64 * 1024

_WHOLE: Final = "{line}"


def note(logger: Logger, line: str, **facts: object) -> None:
    """Log a line of level info that is put together already: what every message costs must be little.

    :param facts: what the line says, for observers that count or search.
    """
    event: dict[str, Any] = {
        **facts,
        "line": line,
        "log_format": _WHOLE,
        "log_level": LogLevel.info,
        "log_logger": logger,
        "log_namespace": logger.namespace,
        "log_source": None,
        "log_time": time.time(),
    }
    logger.observer(event)


@implementer(ILogObserver)
class LogLines:
    """Writes events as twistd does.

    :param out: takes text; flushed after each write.
    :param reactor: tells when gathered lines are to be written. Nothing waits before it runs and after its
        end.
    """

    def __init__(self, out: Any, reactor: Any) -> None:
        self._out = out
        self._reactor = reactor
        self._clock = IReactorTime(reactor)
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._length = 0
        self._stamp = (-1, "")
        self._thread = threading.get_ident()

    def __call__(self, event: LogEvent) -> None:
        """Write one event."""
        of_a_message = event.get("log_format") is _WHOLE
        if of_a_message:
            line = event["line"].replace("\n", "\n\t")
            text = f"{self._time(event['log_time'])} [{event['log_namespace']}#info] {line}\n"
        else:
            formatted = formatEventAsClassicLogText(event, formatTime=self._time)
            if not formatted:
                return
            text = formatted
        may_wait = of_a_message and threading.get_ident() == self._thread and self._reactor.running
        with self._lock:
            if may_wait and not self._waiting:
                self._clock.callLater(GATHER, self.flush)
            self._waiting.append(text)
            self._length += len(text)
            if not may_wait or self._length > MAX_WAITING:
                self._write()

    def flush(self) -> None:
        """Write what has gathered; what a full disk does not take is lost, and the server goes on."""
        with self._lock, contextlib.suppress(OSError):
            self._write()

    def _write(self) -> None:
        waiting, self._waiting, self._length = self._waiting, [], 0
        if waiting:
            self._out.write("".join(waiting))
            self._out.flush()

    def _time(self, when: float | None) -> str:
        """As twistd shows it: local time with its offset."""
        if when is None:
            return "-"
        second = int(when)
        known, stamp = self._stamp
        if second != known:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(second))
            self._stamp = (second, stamp)
        return stamp


def observer(options: Mapping[str, Any], reactor: Any) -> LogLines | None:
    """What takes the place of twistd's own observer; None where twistd is to do as it is told.

    :param options: twistd's own.
    :raises OSError: where the file cannot be opened.
    """
    name = options.get("logfile") or ""
    in_front = bool(options.get("nodaemon"))
    if options.get("syslog") or options.get("logger") or (name == "-" and not in_front):
        return None
    if name == "-" or (in_front and not name):
        return LogLines(sys.stdout, reactor)
    out = LogFile.fromFullPath(name or "twistd.log")  # type: ignore[no-untyped-call]
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda number, frame: reactor.callFromThread(_begin_anew, out))
    return LogLines(out, reactor)


def _begin_anew(out: Any) -> None:
    """As twistd does; and where logrotate has moved the file away, a new one."""
    if os.path.exists(out.path):
        out.rotate()
    else:
        out.reopen()
