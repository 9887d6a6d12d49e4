"""The locks of an mbox file, taken in the one order that every program can agree on.

First the lock of this process, one a (device, inode), a queue of Deferreds; then an open-file-description
lock of the whole file (``F_OFD_SETLK``: plain fcntl locks vanish when any descriptor of the file is closed,
and do not hold between our own threads), which conflicts with the fcntl locks of mutt, Dovecot and procmail;
then the dotlock ``<file>.lock``, where the directory lets us make one (a spool directory may belong to
others; the file's own lock has to do then, as for other programs there). A dotlock is taken away from a
process of ours that was killed, and from anybody after :data:`FORGOTTEN` seconds. Attempts are short calls in
a committer's thread; between them nobody waits in the reactor or in a thread. After :data:`PATIENCE` seconds,
whichever of the three is waited for, the answer is a TemporaryError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import ICommitter
from lorrainemail.ops.files import SYSTEM, Files
from lorrainemail.store.failures import NOT_NOW, from_os

T = TypeVar("T")
#: Runs blocking work in a thread of its own choice.
Runner = Callable[[Callable[[], Any]], Awaitable[Any]]

#: Seconds for which the locks of other programs are waited for.
PATIENCE: Final = 45.0
#: Seconds between attempts, growing to the second of these.
FIRST_WAIT: Final = 0.02
LAST_WAIT: Final = 0.25
#: Seconds after which a dotlock that nobody touched is held for forgotten.
FORGOTTEN: Final = 300.0

#: Where a dotlock cannot be made.
NO_DOTLOCK: Final = "none"

_FLOCK: Final = struct.Struct("hhqqi4x")


class FileLocks:
    """All locks of this process on mbox files."""

    def __init__(self, clock: IReactorTime, committer: ICommitter, files: Files = SYSTEM) -> None:
        self._clock = clock
        self._committer = committer
        self._files = files
        self._held: dict[tuple[int, int], deque[Deferred[None]]] = {}

    async def holding(self, path: str, work: Callable[[int], T], run: Runner | None = None) -> T:
        """Do the work with the file open for reading and writing, and all locks held.

        The file is made where it is missing; its directory must be there.

        :param work: takes the descriptor, in a committer's thread.
        :param run: runs it elsewhere (in a home's strand).
        """
        deadline = self._clock.seconds() + PATIENCE
        while True:
            descriptor = await self._run(partial(_open, self._files, path), path)
            try:
                key = _key(descriptor)
                await self._enter(key, path, deadline)
                try:
                    if await self._run(partial(_is_there, path, descriptor), path):
                        return await self._locked(path, descriptor, deadline, partial(work, descriptor), run)
                finally:
                    self._leave(key)
            finally:
                self._files.close(descriptor)
            # Another program put another file in its place.
            if self._clock.seconds() > deadline:
                raise TemporaryError(NOT_NOW, f"{path} is replaced again and again")

    async def _locked(
        self, path: str, descriptor: int, deadline: float, work: Callable[[], T], run: Runner | None
    ) -> T:
        """With the process's own lock held: take the other two, work, let go of them."""
        try:
            made = await self._wait_for(partial(_lock_both, descriptor, path), path, deadline)
            try:
                result: T = await (run(work) if run is not None else self._run(work, path))
                return result
            finally:
                if made is not NO_DOTLOCK:
                    await self._run(partial(_undotlock, path), path)
        finally:
            await self._run(partial(_unlock, descriptor), path)

    async def _run(self, work: Callable[[], T], path: str) -> T:
        try:
            return await self._committer.run(work)
        except OSError as error:
            raise from_os(error, path) from error

    async def _enter(self, key: tuple[int, int], path: str, deadline: float) -> None:
        queue = self._held.get(key)
        if queue is None:
            self._held[key] = deque()
            return
        turn: Deferred[None] = Deferred()
        queue.append(turn)

        def give_up() -> None:
            queue.remove(turn)
            turn.errback(TemporaryError(NOT_NOW, f"{path} is in use here for too long"))

        limit = self._clock.callLater(max(deadline - self._clock.seconds(), 0), give_up)
        try:
            await turn
        finally:
            if limit.active():
                limit.cancel()

    def _leave(self, key: tuple[int, int]) -> None:
        queue = self._held[key]
        if queue:
            queue.popleft().callback(None)
        else:
            del self._held[key]

    async def _wait_for(self, attempt: Callable[[], object], path: str, deadline: float) -> object:
        wait = FIRST_WAIT
        while not (got := await self._run(attempt, path)):
            if self._clock.seconds() + wait > deadline:
                raise TemporaryError(NOT_NOW, f"{path} is locked by another program")
            pause: Deferred[None] = Deferred()
            self._clock.callLater(wait, pause.callback, None)
            await pause
            wait = min(wait * 2, LAST_WAIT)
        return got


def _open(files: Files, path: str) -> int:
    """The time of access stays what it is: by it other programs tell new mail."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return files.open(path, flags | os.O_NOATIME, 0o600)
    except PermissionError:  # not the owner
        return files.open(path, flags, 0o600)


def _key(descriptor: int) -> tuple[int, int]:
    facts = os.fstat(descriptor)
    return facts.st_dev, facts.st_ino


def _is_there(path: str, descriptor: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _lock_both(descriptor: int, path: str) -> object:
    """Both or neither: some programs take them the other way round, and would wait for us as we for them."""
    if not _lock(descriptor):
        return False
    try:
        made = _dotlock(path)
    except OSError:
        _unlock(descriptor)
        raise
    if not made:
        _unlock(descriptor)
    return made


def _unlock(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))


def _dotlock(path: str) -> object:
    """Made, not yet, or not to be had here."""
    name = path + ".lock"
    try:
        _make(name, f"{os.getpid()}:{socket.gethostname()}\n".encode())
    except FileExistsError:
        try:
            seen = os.lstat(name)
            if time.time() - seen.st_mtime > FORGOTTEN or _left_by_the_dead(name):
                _remove(name, seen)
        except FileNotFoundError:
            pass  # let go of this very moment
        return False
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return NO_DOTLOCK
        raise
    return True


def _make(name: str, octets: bytes) -> None:
    """A file that is whole from the first moment on, or FileExistsError: of one that a kill left empty nobody
    could tell whose it was."""
    try:
        descriptor = os.open(os.path.dirname(name), os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        made = True
    else:
        made = False
    try:
        os.write(descriptor, octets)
        if not made:
            # only with a directory's descriptor (which an absolute path leaves unused) are links followed
            os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)
    finally:
        os.close(descriptor)


def _left_by_the_dead(name: str) -> bool:
    """Whether a process of this host that is no more made the dotlock: a server of ours that was killed. Our
    own process's number, too, can only be that of one before us: we hold none of this file now."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        number, _, host = os.read(descriptor, 300).decode("ascii", "replace").strip().partition(":")
    finally:
        os.close(descriptor)
    if not (number.isdecimal() and len(number) < 10 and int(number)) or host != socket.gethostname():
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _remove(name: str, seen: os.stat_result) -> None:
    """Remove a dead dotlock, not the one that somebody else made when he removed it a moment ago."""
    aside = f"{name}.{os.getpid()}.{threading.get_ident()}"
    os.rename(name, aside)
    try:
        if not os.path.samestat(os.lstat(aside), seen):
            os.link(aside, name)
    except FileExistsError:
        pass  # and a third one was quicker still: he waits for the file's own lock, which we hold
    finally:
        os.unlink(aside)


def _undotlock(path: str) -> None:
    try:
        os.unlink(path + ".lock")
    except FileNotFoundError:
        pass
