"""The table service: holds the current snapshot, notices changes, never lets a broken table turn mail away.

Composed by :mod:`lorrainemail.service`. It looks at the backend every :data:`CHECK_INTERVAL` seconds,
whenever somebody asks for the snapshot (so that an account is there as soon as the command that made it has
ended; at most every :data:`LOOK_GAP` seconds), and at a reload of the configuration. What blocks for more
than milliseconds runs in the thread that it is handed; the snapshot is exchanged in the reactor thread. Fails
at start, with :class:`lorrainemail.errors.ConfigurationError`; later it only raises alarms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import Problem
from lorrainemail.interfaces import ITableService
from lorrainemail.tables.backend import ITableSource, TableSet
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot

#: Seconds between looks at the table files: one ``stat`` each.
CHECK_INTERVAL: Final = 1.0
#: Seconds between looks at the behest of those who ask for the snapshot.
LOOK_GAP: Final = 0.02

T = TypeVar("T")
#: Runs blocking work in a thread.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]


@implementer(ITableService)
class TableService(Service):
    """The tables of a running server."""

    name = "tables"
    _log: ClassVar[Logger] = Logger(namespace="lorrainemail.tables")

    def __init__(
        self,
        source: ITableSource,
        rules: Rules,
        clock: IReactorTime,
        in_thread: InThread = execute,
        interval: float = CHECK_INTERVAL,
    ) -> None:
        """Loads the tables at once.

        :param source: an open backend.
        :param in_thread: runs blocking work; by default in the caller's own thread, for commands and tests.
        :raises ConfigurationError: where a table cannot be used.
        """
        self._source = source
        self._rules = rules
        self._in_thread = in_thread
        self._listeners: list[Callable[[], None]] = []
        self._alarms: tuple[Problem, ...] = ()
        self._tables = source.load(rules)
        self._snapshot = Snapshot(self._tables, rules, in_thread)
        self._lock = DeferredLock()
        self._notes = DeferredLock()
        self._interval = interval
        self._clock = clock
        self._looked = clock.seconds()
        self._looks = LoopingCall(self.check_files)
        self._looks.clock = clock

    def startService(self) -> None:
        Service.startService(self)  # type: ignore[no-untyped-call]
        self._looks.start(self._interval, now=False)
        self._note()

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        if self._looks.running:
            self._looks.stop()
        # A refresh that is under way ends before the process does.
        return self._lock.run(self._notes.run, lambda: None)

    def current(self) -> Snapshot:
        now = self._clock.seconds()
        if now - self._looked > LOOK_GAP:
            self._looked = now
            if not self._lock.locked and self._source.changed(closely=False):
                self.refresh()
        return self._snapshot

    def secret(self, name: str) -> tuple[str, str] | None:
        return self._snapshot.tables.secrets.get(name)

    def check_files(self) -> None:
        if not self._lock.locked and self._source.changed():
            self.refresh()

    def refresh(self) -> Deferred[None]:
        """Look at the backend now; fires when a change is in use. Never fails."""
        return self._renew(None, False)

    def confirm(self) -> Deferred[None]:
        """The operator says that what vanished from the tables was meant to go."""
        return self._renew(None, True)

    def reload(self, rules: Rules) -> Deferred[None]:
        """Use the tables' part of a configuration that was loaded anew."""
        return self._renew(rules, False)

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    def alarms(self) -> list[Problem]:
        return list(self._alarms)

    def _renew(self, rules: Rules | None, confirmed: bool) -> Deferred[None]:
        def work() -> Deferred[None]:
            used = rules or self._rules
            run = execute if self._source.small() else self._in_thread
            answer: Deferred[TableSet] = run(lambda: self._source.refresh(used, confirmed))
            return answer.addCallback(self._use, used)

        done: Deferred[None] = self._lock.run(work)
        return done.addErrback(lambda failure: self._log.failure("tables could not be looked at", failure))

    def _note(self) -> None:
        """Have the backend remember what is in use; nobody waits for it."""
        done = self._notes.run(self._in_thread, self._source.note)
        done.addErrback(
            lambda failure: self._log.error(
                "what the tables hold could not be noted: {reason}", reason=failure.getErrorMessage()
            )
        )

    def _use(self, tables: TableSet, rules: Rules) -> None:
        self._tell_alarms(tuple(self._source.alarms()))
        if tables is self._tables and rules is self._rules:
            return
        self._tables, self._rules = tables, rules
        self._snapshot = Snapshot(tables, rules, self._in_thread)
        self._log.info("tables loaded")
        for listener in self._listeners:
            try:
                listener()
            except Exception:
                self._log.failure("a listener to table changes failed")
        self._note()

    def _tell_alarms(self, alarms: tuple[Problem, ...]) -> None:
        for problem in alarms:
            if problem not in self._alarms:
                self._log.error("the old version of a table stays in use: {problem}", problem=str(problem))
        if self._alarms and not alarms:
            self._log.info("all tables are in order again")
        self._alarms = alarms
