"""Threads for the work on mailboxes: many homes, each with its jobs strictly in order.

Owns the store's threads. Every home has a :class:`Strand`, a queue of jobs of which one thread at a time
takes a batch; so whatever a job touches (the home's index connection, its directories as we change them)
needs no lock, and homes do not wait for one another beyond a batch. A batch is one transaction of the index:
its jobs are answered only after the commit, each with the changes that it made, in order.

A job that is long returns a generator; each ``next`` is a slice, after which other homes have their turn. The
generator's return value is the job's result.

Failures: a job's own exception reaches its own caller (``OSError`` and ``sqlite3.Error`` as MailError); a
failed commit reaches every caller of the batch.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.errors import MailError, TemporaryError
from lorrainemail.store.failures import NOT_NOW, from_os

T = TypeVar("T")

#: Jobs of one home that share a transaction.
BATCH: Final = 128
#: Seconds after which a home's batch ends although more is waiting.
TURN: Final = 0.02
#: Threads. More would only contend: their work is Python and SQLite, and a few syncs.
THREADS: Final = 3
#: Homes whose index stays open (three descriptors each).
MAX_OPEN: Final = 128

_log = Logger("lorrainemail.store")


class Workplace(Protocol):
    """What the jobs of one strand work on. All calls come from one thread at a time."""

    def begin(self) -> list[Any]:
        """A batch begins: open what is closed, begin a transaction. Its changes are announced in any case."""

    def job_begins(self) -> None:
        """Mark a point to come back to."""

    def job_ends(self) -> list[Any]:
        """The job's changes, to be announced after the commit."""

    def job_failed(self, error: BaseException) -> None:
        """Back to the mark."""

    def commit(self) -> None:
        """End the batch. What it promised is durable afterwards."""

    def batch_failed(self, error: BaseException) -> list[Any]:
        """The commit failed: forget everything; changes to announce in spite of it."""

    def close(self, for_good: bool) -> None:
        """Let go of descriptors; the next batch opens them again.

        :param for_good: this run of the server ends.
        """


class ReactorForThreads(Protocol):
    """What is needed of the reactor."""

    def callFromThread(self, function: Callable[..., object], *args: object) -> None: ...


class _Job:
    __slots__ = ("done", "steps", "work")

    def __init__(self, work: Callable[[], Any], done: Deferred[Any]) -> None:
        self.work = work
        self.done = done
        self.steps: Generator[None, None, Any] | None = None


_Result = tuple["Strand", _Job, Any, list[Any]]


class Strand:
    """One home's jobs, in order."""

    __slots__ = ("_closing", "_jobs", "_on_changes", "_running", "_strands", "place")

    def __init__(self, strands: Strands, place: Workplace, on_changes: Callable[[list[Any]], None]) -> None:
        self._strands = strands
        self._jobs: deque[_Job] = deque()
        self._running = False
        self._closing = 0
        self._on_changes = on_changes
        self.place = place

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._running

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Do the work after all that was asked before."""
        return self._add(work)

    def slices(self, work: Callable[[], Generator[None, None, T]]) -> Deferred[T]:
        """Do work that is long: after each ``yield`` others have their turn."""
        return self._add(work)

    def _add(self, work: Callable[[], Any]) -> Deferred[Any]:
        if self._strands.stopped:
            return fail(TemporaryError(NOT_NOW, "the store has stopped"))
        done: Deferred[Any] = Deferred()
        self._jobs.append(_Job(work, done))
        if not self._running:
            self._running = True
            self._strands.ready(self)
        return done

    def close(self, for_good: bool) -> None:
        """In the reactor thread: have the workplace closed, in a thread. Only while idle."""
        self._closing = 2 if for_good else 1
        self._running = True
        self._strands.ready(self, False)

    def announce(self, changes: list[Any]) -> None:
        """In the reactor thread."""
        self._on_changes(changes)

    def rest(self) -> None:
        """In the reactor thread, after a batch: go on, or stop."""
        if self._jobs:
            self._strands.ready(self)
        else:
            self._running = False
            self._strands.rested(self)

    def turn(self) -> list[_Result]:
        """In a thread: one batch."""
        place = self.place
        results: list[_Result] = []
        if self._closing:
            closing, self._closing = self._closing, 0
            try:
                place.close(closing == 2)
            except Exception as error:
                _log.warn("closing an index: {error}", error=error)
            return results
        try:
            found = place.begin()
        except Exception as error:
            count = len(self._jobs)
            failure = _public(error)
            return [(self, self._jobs.popleft(), failure, []) for _ in range(count)]
        deadline = time.monotonic() + TURN
        while self._jobs and len(results) < BATCH:
            job = self._jobs[0]
            try:
                place.job_begins()
                if job.steps is None:
                    outcome = job.work()
                    if isinstance(outcome, Generator):
                        job.steps = outcome
                if job.steps is not None:
                    try:
                        next(job.steps)
                        # More slices follow: what this one did is committed with the batch.
                        results.append((self, job, _MORE, place.job_ends()))
                        break
                    except StopIteration as end:
                        outcome = end.value
                changes = place.job_ends()
                self._jobs.popleft()
                results.append((self, job, outcome, changes))
            except Exception as error:
                if self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()
                try:
                    place.job_failed(error)
                    results.append((self, job, _public(error), []))
                except Exception as worse:
                    results.append((self, job, _public(error), []))
                    return self._broken(results, worse, found)
            if time.monotonic() > deadline:
                break
        try:
            place.commit()
        except Exception as error:
            return self._broken(results, error, found)
        if found:
            strand, job, outcome, changes = results[0]
            results[0] = (strand, job, outcome, found + changes)
        return results

    def _broken(self, results: list[_Result], error: Exception, found: list[Any]) -> list[_Result]:
        """The batch is lost: everybody in it hears of it."""
        announced = found + self.place.batch_failed(error)
        failure = _public(error)
        out: list[_Result] = []
        for strand, job, outcome, _changes in results:
            if outcome is _MORE and self._jobs and self._jobs[0] is job:
                self._jobs.popleft()
            out.append((strand, job, outcome if isinstance(outcome, Failure) else failure, []))
        if out:
            strand, job, outcome, _ = out[0]
            out[0] = (strand, job, outcome, announced)
        return out


class _More:
    """The job is not finished."""


_MORE: Final = _More()


class Strands:
    """The threads, and which strands are ready for one."""

    def __init__(self, reactor: ReactorForThreads, threads: int = THREADS, max_open: int = MAX_OPEN) -> None:
        self._reactor = reactor
        self._count = threads
        self._max_open = max_open
        self._ready: SimpleQueue[Strand | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open: OrderedDict[Strand, None] = OrderedDict()
        self._busy = 0
        self._finished: deque[tuple[Strand, list[_Result]]] = deque()
        self._waking = False
        self._quiet: Deferred[None] | None = None
        self.stopped = False

    def start(self) -> None:
        """Start the threads; what was asked before begins now."""
        self.stopped = False
        for number in range(self._count):
            thread = threading.Thread(target=self._work, name=f"store-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> Deferred[None]:
        """Finish what was asked, close every index, end the threads."""
        quiet: Deferred[None] = Deferred()
        if self._busy and self._threads:
            self._quiet = quiet
        else:
            quiet.callback(None)
        return quiet.addCallback(self._close_all).addCallback(self._end)

    def _close_all(self, _: None) -> Deferred[None]:
        self.stopped = True
        strands, self._open = list(self._open), OrderedDict()
        quiet: Deferred[None] = Deferred()
        if not strands or not self._threads:
            quiet.callback(None)
            return quiet
        self._quiet = quiet
        for strand in strands:
            strand.close(True)
        return quiet

    def _end(self, _: None) -> None:
        for _thread in self._threads:
            self._ready.put(None)
        for thread in self._threads:  # idle: they end at once
            thread.join()
        self._threads.clear()

    def ready(self, strand: Strand, opens: bool = True) -> None:
        """In the reactor thread: the strand has work."""
        self._busy += 1
        if opens:
            self._open[strand] = None
            self._open.move_to_end(strand)
        self._ready.put(strand)

    def rested(self, strand: Strand) -> None:
        """In the reactor thread: the strand has no more work; close the index unused for longest."""
        if len(self._open) <= self._max_open:
            return
        for old in self._open:
            if old.idle:
                del self._open[old]
                old.close(False)
                return

    def forget(self, strand: Strand) -> None:
        """The home is let go of; only for an idle strand."""
        if strand in self._open:
            del self._open[strand]
            strand.close(False)

    def _work(self) -> None:
        while True:
            strand = self._ready.get()
            if strand is None:
                return
            try:
                results = strand.turn()
            except BaseException:
                _log.failure("a mailbox's thread met something unforeseen")
                results = []
            self._finished.append((strand, results))
            if not self._waking:
                self._waking = True
                self._reactor.callFromThread(self._deliver)

    def _deliver(self) -> None:
        self._waking = False  # before the look: whoever appends after it wakes us again
        finished = self._finished
        while finished:
            strand, results = finished.popleft()
            for _strand, job, outcome, changes in results:
                if changes:
                    try:
                        strand.announce(changes)
                    except Exception:
                        _log.failure("changes of a mailbox could not be announced")
                if outcome is not _MORE:
                    job.done.callback(outcome)
            self._busy -= 1
            strand.rest()
        if not self._busy and self._quiet is not None:
            quiet, self._quiet = self._quiet, None
            quiet.callback(None)


def _public(error: BaseException) -> Failure:
    """The failure that a caller gets."""
    if isinstance(error, OSError):
        error = _with_cause(from_os(error, "mailbox"), error)
    elif isinstance(error, sqlite3.Error):
        error = _with_cause(TemporaryError(NOT_NOW, f"index: {error}"), error)
    elif not isinstance(error, MailError):
        _log.failure("work on a mailbox failed", _failure(error))
    return _failure(error)


def _failure(error: BaseException) -> Failure:
    failure = Failure(error)  # type: ignore[no-untyped-call]
    failure.cleanFailure()  # type: ignore[no-untyped-call]
    return failure


def _with_cause(error: MailError, cause: BaseException) -> MailError:
    error.__cause__ = cause
    return error
