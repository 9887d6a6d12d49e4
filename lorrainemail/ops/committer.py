"""Durable writes: the one place where mail becomes safe before anybody is told so.

Owns a few threads that are fed in batches, the way a file becomes durable (write, fsync, rename, fsync of the
directory, in that order), and the alarm that stands while a file system does not keep what it is given. The
store and the queue call it; nothing else syncs mail.

How it is fed. A call returns a Deferred; its job goes into a queue at the end of the reactor's turn, or while
the reactor is busy, with others at most :data:`GATHER` seconds later. A thread that becomes free takes all
that is waiting, some more than :data:`BATCH` at most: all files are written, then synced, then renamed, then
each directory is synced once. So the more clients wait, the fewer syncs each of them costs, and a client who
is alone waits for nothing. The reactor is woken once for all that is finished, not once a job.

Invariants:

- A file that could not be written, synced or renamed is unlinked again, and only its own caller hears of it.
- A failed fsync is never repeated.
- After a failed directory sync nothing more is written to that file system (EIO at once) until a probe wrote
  a new file there, synced it and read it back. What was renamed and not synced is unlinked: its sender is
  told 4xx and will come again.
- No thread runs before :meth:`Committer.startService`; :meth:`Committer.stopService` answers when everything
  that was begun is finished. Later calls get ESHUTDOWN.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, Protocol, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.errors import Problem
from lorrainemail.interfaces import FileWrite, ICommitter
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import SYSTEM, Files
from lorrainemail.ops.metrics import Counter, Gauge

T = TypeVar("T")
Errors = list[OSError | None]

#: Jobs with which a thread is content, and the smallest share of what was gathered.
BATCH: Final = 64
SHARE: Final = 4
#: Seconds for which jobs are gathered while the reactor is busy, and how long a turn of it takes in which it
#: found nothing to do.
GATHER: Final = 0.01
IDLE_TURN: Final = 0.0003
#: Threads that write mail, and threads for other blocking file work (:meth:`Committer.run`).
THREADS: Final = 2
WORKERS: Final = 2
#: Seconds for which an answer of statvfs is believed.
SPACE_INTERVAL: Final = 1.0
#: Seconds between probes of a file system under alarm.
PROBE_INTERVAL: Final = 30.0
_PROBE_SIZE: Final = 8192

_log = Logger("lorrainemail.ops.committer")
_FILES = Counter("lorrainemail_committed_files", "Files made durable")
_ERRORS = Counter("lorrainemail_commit_errors", "Files that could not be made durable", ["errno"])
_BATCHES = Counter("lorrainemail_commit_batches", "Batches of durable writes")
_ALARMS = Gauge("lorrainemail_file_systems_failing", "File systems not written to after a failed sync")


class ReactorForThreads(Protocol):
    """What is needed of the reactor: a clock that threads may call into."""

    def callFromThread(self, function: Callable[..., object], *args: object) -> None: ...

    def callLater(self, delay: float, function: Callable[..., object], *args: object) -> IDelayedCall: ...

    def seconds(self) -> float: ...


@attrs.define(slots=True, eq=False)
class _Job:
    """One call: its writes, what is to be done, and where its answer goes."""

    writes: Sequence[FileWrite]
    what: Literal["stage", "publish", "commit", "discard"]
    done: Deferred[Any]
    errors: Errors


@attrs.define(slots=True, eq=False)
class _Work:
    call: Callable[[], Any]
    done: Deferred[Any]


@attrs.frozen(slots=True)
class _Alarm:
    """A file system that failed a directory sync. ``directory`` is where the probe writes."""

    device: int
    directory: str
    error: OSError


@implementer(ICommitter)
class Committer(Service):
    """The committer of a whole process.

    :param reactor: clock and door back from the threads.
    :param directory: the state directory; its file system is the one that :meth:`writable` speaks of.
    :param threads: threads that write mail.
    :param reserve: octets of free disk below which nothing is taken, so that deletion stays possible; may be
        changed while running.
    """

    name = "committer"

    def __init__(
        self,
        reactor: ReactorForThreads,
        directory: str,
        threads: int = THREADS,
        reserve: int = 0,
        files: Files = SYSTEM,
        workers: int = WORKERS,
    ) -> None:
        self.files = files
        self._reactor = reactor
        self._directory = directory
        self.reserve = reserve
        self._counts = (threads, workers)
        self._gathered: list[_Job] = []
        self._gather_until = self._looked = 0.0
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._works: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._finished: deque[tuple[Deferred[Any], Any]] = deque()
        self._waking = False
        self._pending = 0
        self._idle: Deferred[None] | None = None
        self._stopped = False
        self._alarms: dict[int, _Alarm] = {}
        self._probe_call: IDelayedCall | None = None
        self._free = 0
        self._free_until = -1.0
        self._umask = 0o777

    # -- calls, in the reactor thread ------------------------------------------------------------

    def stage(self, writes: Sequence[FileWrite]) -> Deferred[Errors]:
        """Write and sync the temporary files."""
        return self._enter(writes, "stage")

    def publish(self, writes: Sequence[FileWrite]) -> Deferred[Errors]:
        """Rename staged files into place and sync their directories."""
        return self._enter(writes, "publish")

    def commit(self, writes: Sequence[FileWrite]) -> Deferred[Errors]:
        """Stage and publish in one hop."""
        return self._enter(writes, "commit")

    def discard(self, writes: Sequence[FileWrite]) -> Deferred[None]:
        """Unlink staged files."""
        return self._enter(writes, "discard").addCallback(_nothing)

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Run other blocking file work; fails as the work does."""
        if self._stopped:
            return fail(_shut_down())
        self._pending += 1
        done: Deferred[T] = Deferred()
        self._works.put(_Work(work, done))
        return done

    def writable(self, octets: int) -> OSError | None:
        """Whether a message of that size may be begun now."""
        if self._alarms:
            for alarm in self._alarms.values():
                if alarm.device == _device(self._directory):
                    return _failing(alarm)
        now = self._reactor.seconds()
        if now >= self._free_until:
            try:
                facts = os.statvfs(self._directory)
            except OSError as error:
                return error
            self._free = facts.f_bavail * facts.f_frsize
            self._free_until = now + SPACE_INTERVAL
        if self._free - octets < self.reserve:
            return OSError(errno.ENOSPC, "free disk is below the reserve", self._directory)
        self._free -= octets  # until the next look: many may begin at once
        return None

    def alarms(self) -> list[Problem]:
        """File systems that are not written to now, in words."""
        return [
            Problem(
                alarm.directory,
                0,
                f"the disk did not keep what it was given: {alarm.error.strerror}",
                "look at the kernel's log and the disk; writing goes on by itself once a test write succeeds",
            )
            for alarm in self._alarms.values()
        ]

    def _enter(
        self, writes: Sequence[FileWrite], what: Literal["stage", "publish", "commit", "discard"]
    ) -> Deferred[Errors]:
        if self._stopped:
            return succeed([_shut_down() for _ in writes])
        self._pending += 1
        done: Deferred[Errors] = Deferred()
        if not self._gathered:
            self._looked = self._reactor.seconds()
            self._gather_until = self._looked + GATHER
            self._reactor.callLater(0, self._hand_over)
        self._gathered.append(_Job(writes, what, done, [None] * len(writes)))
        return done

    def _hand_over(self) -> None:
        """After a turn of the reactor: give the threads what was asked, unless it is busy and more may come.

        The first job alone would wake a thread that syncs it by itself while all the others wait. And beside
        a busy reactor a thread gets the interpreter's lock for each of its calls at the price of two switches
        of context on both sides; so they work by turns, which costs a quarter less.
        """
        now = self._reactor.seconds()
        busy = now - self._looked > IDLE_TURN
        self._looked = now
        if busy and now < self._gather_until and len(self._gathered) < BATCH:
            self._reactor.callLater(0, self._hand_over)
            return
        gathered, self._gathered = self._gathered, []
        # Shares for all threads: one waits for the disk while another writes.
        share = max(SHARE, -(-len(gathered) // self._counts[0]))
        for start in range(0, len(gathered), share):
            self._jobs.put(gathered[start : start + share])

    # -- service ---------------------------------------------------------------------------------

    def startService(self) -> None:
        """Start the threads."""
        super().startService()  # type: ignore[no-untyped-call]
        # Read where no other thread of ours can make a file at this moment.
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._stopped = False
        writers, workers = self._counts
        for number in range(writers):
            self._start(f"commit-{number}", self._write_jobs)
        for number in range(workers):
            self._start(f"files-{number}", self._do_works)

    def stopService(self) -> Deferred[None]:
        """Finish everything that was begun; then end the threads."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopped = True
        if self._probe_call is not None and self._probe_call.active():
            self._probe_call.cancel()
        idle: Deferred[None] = Deferred()
        if self._pending and self._threads:
            self._idle = idle
        else:
            idle.callback(None)
        return idle.addCallback(self._end_threads)

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end_threads(self, _: None) -> None:
        writers, workers = self._counts
        for _number in range(writers):
            self._jobs.put(None)
        for _number in range(workers):
            self._works.put(None)
        for thread in self._threads:  # each is idle and ends at once
            thread.join()
        self._threads.clear()

    # -- answers ---------------------------------------------------------------------------------

    def _finish(self, results: list[tuple[Deferred[Any], Any]]) -> None:
        """In a thread: hand results to the reactor, waking it at most once until it has looked."""
        self._finished.extend(results)
        if not self._waking:
            self._waking = True
            self._reactor.callFromThread(self._deliver)

    def _deliver(self) -> None:
        """In the reactor thread: answer all that is finished."""
        self._waking = False  # before the look: whoever appends after it wakes us again
        finished = self._finished
        while finished:
            done, result = finished.popleft()
            self._pending -= 1
            done.callback(result)
        if not self._pending and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    # -- threads ---------------------------------------------------------------------------------

    def _do_works(self) -> None:
        while True:
            work = self._works.get()
            if work is None:
                return
            result: Any
            try:
                result = work.call()
            except BaseException:
                result = Failure()  # type: ignore[no-untyped-call]
                result.cleanFailure()
            self._finish([(work.done, result)])

    def _write_jobs(self) -> None:
        jobs = self._jobs
        while True:
            first = jobs.get()
            if first is None:
                return
            batch = first
            try:
                while len(batch) < BATCH:
                    more = jobs.get_nowait()
                    if more is None:  # another thread's end; it will find it again
                        jobs.put(None)
                        break
                    batch += more
            except Empty:
                pass
            try:
                Batch(self.files, self._umask, self._refuse, self._alarm).process(batch)
            except BaseException as failure:  # no caller may wait for ever
                _log.failure("a batch of writes failed as a whole")
                error = OSError(errno.EIO, f"internal error: {failure!r}")
                for job in batch:
                    job.errors[:] = [entry or error for entry in job.errors]
            _BATCHES.inc()
            self._finish([(job.done, job.errors) for job in batch])

    # -- alarms ----------------------------------------------------------------------------------

    def _refuse(self, path: str) -> OSError | None:
        """In a thread: EIO where the file system of that path is under alarm."""
        if not self._alarms:
            return None
        alarm = self._alarms.get(_device(os.path.dirname(path)))
        return None if alarm is None else _failing(alarm)

    def _alarm(self, directory: str, error: OSError) -> None:
        """In a thread: a directory could not be synced."""
        device = _device(directory)
        if device in self._alarms:
            return
        # One assignment: the reactor thread sees it or does not.
        self._alarms = {**self._alarms, device: _Alarm(device, directory, error)}
        self._reactor.callFromThread(self._raise_alarm, directory, error)

    def _raise_alarm(self, directory: str, error: OSError) -> None:
        _ALARMS.set(len(self._alarms))
        _log.critical(
            "The disk under {directory} failed to sync ({error}); nothing is written there until it does",
            directory=directory,
            error=error,
        )
        if self._probe_call is None or not self._probe_call.active():
            self._probe_call = self._reactor.callLater(PROBE_INTERVAL, self._probe)

    def _probe(self) -> None:
        if self._stopped:
            return
        alarms = tuple(self._alarms.values())
        probes = [self.run(partial(probe, self.files, alarm.directory)) for alarm in alarms]

        def judge(errors: list[OSError | None]) -> None:
            standing = dict(self._alarms)
            for alarm, error in zip(alarms, errors, strict=True):
                if error is None:
                    standing.pop(alarm.device, None)
                    _log.warn("The disk under {directory} keeps data again", directory=alarm.directory)
            self._alarms = standing
            _ALARMS.set(len(standing))
            if standing and not self._stopped:
                self._probe_call = self._reactor.callLater(PROBE_INTERVAL, self._probe)

        gatherResults(probes).addCallback(judge).addErrback(
            lambda failure: _log.failure("the probe of a disk failed", failure)
        )


class Batch:
    """Some jobs on their way to the disk together. Runs in a thread; knows nothing of the reactor."""

    __slots__ = ("_alarm", "_files", "_refuse", "_umask")

    def __init__(
        self,
        files: Files,
        umask: int,
        refuse: Callable[[str], OSError | None],
        alarm: Callable[[str, OSError], None],
    ) -> None:
        self._files = files
        self._umask = umask
        self._refuse = refuse
        self._alarm = alarm

    def process(self, jobs: list[_Job]) -> None:
        """Bring all jobs as far as they asked; each job's ``errors`` says how it went."""
        opened: list[tuple[_Job, int, FileWrite, int]] = []
        for job in jobs:
            if job.what in ("stage", "commit"):
                for index, write in enumerate(job.writes):
                    descriptor = self._write(job, index, write)
                    if descriptor >= 0:
                        opened.append((job, index, write, descriptor))
            elif job.what == "discard":
                for write in job.writes:
                    self._unlink(write.temporary)
        if opened:
            errors = self._files.fsync_all([descriptor for _job, _index, _write, descriptor in opened])
            for (job, index, write, descriptor), error in zip(opened, errors, strict=True):
                self._synced(job, index, write, descriptor, error)
        renamed: list[tuple[_Job, int, FileWrite]] = []
        for job in jobs:
            if job.what in ("publish", "commit"):
                for index, write in enumerate(job.writes):
                    if job.errors[index] is None and self._rename(job, index, write):
                        renamed.append((job, index, write))
        if renamed:
            self._sync_directories(renamed)

    def _write(self, job: _Job, index: int, write: FileWrite) -> int:
        """Create and fill the temporary file; its descriptor, or -1."""
        refused = self._refuse(write.temporary)
        if refused is not None:
            job.errors[index] = refused
            return -1
        files = self._files
        try:
            descriptor = files.open(write.temporary, mode=write.mode)
        except OSError as error:
            self._fail(job, index, error)
            return -1
        try:
            if write.mode & self._umask:
                files.chmod(descriptor, write.mode)
            fill(files, descriptor, write)
        except Exception as error:  # also what reading a content may raise: the file must not stay
            self._close(descriptor)
            self._unlink(write.temporary)
            self._fail(job, index, error)
            return -1
        return descriptor

    def _synced(
        self, job: _Job, index: int, write: FileWrite, descriptor: int, error: OSError | None
    ) -> None:
        try:
            self._files.close(descriptor)
        except OSError as caught:
            error = error or caught  # NFS tells of lost data here
        if error is not None:
            self._unlink(write.temporary)
            self._fail(job, index, error)

    def _rename(self, job: _Job, index: int, write: FileWrite) -> bool:
        error = self._refuse(write.final)
        if error is None:
            try:
                if write.replace:
                    self._files.rename(write.temporary, write.final)
                else:
                    self._files.rename_new(write.temporary, write.final)
                return True
            except OSError as caught:
                error = caught
        self._unlink(write.temporary)
        self._fail(job, index, error)
        return False

    def _sync_directories(self, renamed: list[tuple[_Job, int, FileWrite]]) -> None:
        """Sync each directory once; new directories' parents before what is in them."""
        failed: dict[str, OSError] = {}
        above: dict[str, None] = {}
        last: dict[str, None] = {}
        directories = []
        for _job, _index, write in renamed:
            for directory in write.new_directories:
                above[os.path.dirname(directory)] = None
            directories.append(os.path.dirname(write.final))
            last[directories[-1]] = None
        for directory in above:
            self._note_directory(failed, directory, self._files.fsync_directories((directory,))[0])
        rest = [directory for directory in last if directory not in above] if above else list(last)
        for directory, error in zip(rest, self._files.fsync_directories(rest), strict=True):
            self._note_directory(failed, directory, error)
        count = 0
        for (job, index, write), directory in zip(renamed, directories, strict=True):
            error = None
            if failed:
                error = failed.get(directory)
                for made in write.new_directories:
                    error = error or failed.get(os.path.dirname(made))
            if error is None:
                count += 1
                continue
            if not write.replace:
                self._unlink(write.final)
            self._fail(job, index, error)
        _FILES.inc(count)

    def _note_directory(self, failed: dict[str, OSError], directory: str, error: OSError | None) -> None:
        if error is not None:
            failed[directory] = error
            self._alarm(directory, error)

    def _fail(self, job: _Job, index: int, error: Exception) -> None:
        if not isinstance(error, OSError):
            _log.failure("the content of a message could not be read")
            error = OSError(errno.EIO, f"content: {error!r}")
        job.errors[index] = error
        _ERRORS.labels(errno.errorcode.get(error.errno or 0, "other")).inc()

    def _unlink(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warn("could not remove {path}: {error}", path=path, error=error)

    def _close(self, descriptor: int) -> None:
        try:
            self._files.close(descriptor)
        except OSError:
            pass  # the file is given up anyway


def fill(files: Files, descriptor: int, write: FileWrite) -> None:
    """Write the parts of one file, CRLF made LF where asked; large contents pass in chunks."""
    buffers: list[bytes] = []
    for part in write.parts:
        if isinstance(part, bytes):
            buffers.append(part.replace(b"\r\n", b"\n") if write.line_feed else part)
            continue
        whole = part.in_memory()
        if whole is not None:
            if not write.line_feed:
                buffers.append(whole)
            elif isinstance(part, Content) and part.line_ends is not None:
                buffers.append(whole.translate(None, b"\r"))  # each belongs to a CRLF; twice as fast
            else:
                buffers.append(whole.replace(b"\r\n", b"\n"))
            continue
        if buffers:
            files.write(descriptor, buffers)
            buffers = []
        if not write.line_feed:
            for chunk in part.chunks():
                files.write(descriptor, (chunk,))
            continue
        held = b""
        for chunk in part.chunks():
            data = held + chunk
            held = b"\r" if data.endswith(b"\r") else b""  # its LF may stand in the next chunk
            files.write(descriptor, (data[: len(data) - len(held)].replace(b"\r\n", b"\n"),))
        if held:
            buffers.append(held)
    if buffers:
        files.write(descriptor, buffers)


def probe(files: Files, directory: str) -> OSError | None:
    """Whether the file system keeps data: a new file, written, synced, read back from the disk."""
    path = os.path.join(directory, f".probe-{os.getpid()}-{os.urandom(4).hex()}")
    data = os.urandom(_PROBE_SIZE)
    try:
        descriptor = files.open(path)
        try:
            files.write(descriptor, (data,))
            files.fsync(descriptor)
        finally:
            files.close(descriptor)
        try:
            files.fsync_directory(directory)
            reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)  # not from the page cache
                if os.read(reader, _PROBE_SIZE + 1) != data:
                    return OSError(errno.EIO, "what was written does not read back", path)
            finally:
                os.close(reader)
        finally:
            files.unlink(path)
    except OSError as error:
        return error
    return None


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1


def _failing(alarm: _Alarm) -> OSError:
    return OSError(errno.EIO, "not written to since a failed sync", alarm.directory)


def _shut_down() -> OSError:
    return OSError(errno.ESHUTDOWN, "the committer has stopped")


def _nothing(_: object) -> None:
    return None
