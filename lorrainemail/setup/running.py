"""The server as a process: what a composed server needs around it when twistd runs it.

:class:`Running` is what ``twistd lorrainemail`` starts: it writes our pid into the state's lock once we are
the process that stays, has SIGHUP reload, tells systemd, and lets the lock go when all has ended. A lab or a
test that runs several servers in one process starts the composed servers themselves instead.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from lorrainemail.ops.sd_notify import notify
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.lock import Locked, StateLock
from lorrainemail.setup.state import Owner, Undo

_log = Logger(namespace="lorrainemail")

#: Seconds between the answer to "stop" and the end's beginning.
_FAREWELL: Final = 0.05
#: Open files that are asked for; more than all doors' connections.
MAX_FILES: Final = 65536


def lock_state(state: str, owner: Owner, undo: Undo) -> StateLock:
    """Take the state directory for this server.

    :raises StartError: naming the process that has it.
    """
    try:
        lock = StateLock.acquire(state)
    except Locked as held:
        who = f"process {held.pid}" if held.pid else "another process"
        stop = f"stop it (kill {held.pid})" if held.pid else "stop it"
        raise StartError(
            f"{state} is in use by {who}", f"{stop} or give this server its own directory with --state"
        ) from None
    except OSError as error:
        raise StartError(
            f"cannot make {os.path.join(state, 'lock')} ({error.strerror})",
            "mend the directory's permissions",
        ) from None
    undo.add(lock.undo)
    if owner.changes:
        owner.take(lock.path)
    return lock


def raise_file_limit() -> None:
    """As many open files as the system lets us have without asking: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # fewer connections, then
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Running(Service):
    """The one server of this process.

    :param server: the composed :class:`lorrainemail.service.Server`.
    :param observer: makes the log's observer, None where twistd is to make its own.
    """

    name = "lorrainemail"

    def __init__(
        self,
        reactor: Any,
        server: Any,
        lock: StateLock,
        observer: Callable[[], ILogObserver | None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._observer = observer
        self._server = server
        self._lock = lock
        server.commands["stop"] = self._stop

    def setServiceParent(self, parent: Any) -> None:
        """Become part of twistd's application, which asks its components how to log."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if isinstance(parent, Componentized):
            observer = self._observer()
            if observer is not None:
                parent.setComponent(ILogObserver, observer)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Nothing: every port is open already."""

    def startService(self) -> None:
        """Start it. Must not raise: a daemonising parent would wait for ever."""
        super().startService()  # type: ignore[no-untyped-call]
        try:
            self._lock.note_pid()
            self._server.startService()
        except Exception:
            _log.failure("The server could not start")
            self._reactor.callWhenRunning(self._reactor.stop)
            return
        signal.signal(signal.SIGHUP, self._hang_up)
        self._reactor.callWhenRunning(notify, "READY=1", f"MAINPID={os.getpid()}")

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        notify("STOPPING=1")
        done: Deferred[Any] = maybeDeferred(self._server.stopService)
        return done.addBoth(self._ended)

    def _ended(self, result: object) -> None:
        self._lock.release()
        _log.info("The server has ended")

    def _stop(self) -> None:
        """As on SIGTERM, once the answer is out."""
        self._reactor.callLater(_FAREWELL, self._reactor.stop)

    def _hang_up(self, number: int, frame: object) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        done: Deferred[str] = self._server.reload()
        done.addBoth(lambda _: notify("READY=1"))
