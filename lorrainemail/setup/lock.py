"""The lock on a state directory: one server, or one command that changes state while none runs.

``flock`` on ``<state>/lock``, taken in ``makeService`` and kept over fork and ``--uid`` (the lock belongs to
the open file, not to the process); the holder's pid stands in the file for whoever finds it locked. Blocks
never. Fails with :class:`Locked` or OSError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

FILE_NAME: Final = "lock"


class Locked(Exception):
    """Somebody holds the lock; ``pid`` is 0 where the file does not say who."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"held by process {pid}")
        self.pid = pid


class StateLock:
    """A held lock. Made by :meth:`acquire` only."""

    def __init__(self, path: str, descriptor: int, created: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._created = created

    @classmethod
    def acquire(cls, state: str) -> StateLock:
        """Take the lock at once.

        :raises Locked: where another process has it.
        :raises OSError: where the file cannot be made.
        """
        path = os.path.join(state, FILE_NAME)
        while True:
            created = False
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                descriptor, created = os.open(path, flags, 0o600), True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, path):
                    break
                os.close(descriptor)  # its owner gave up and removed it between our open and our lock
            except BlockingIOError:
                pid = _pid_in(descriptor)
                os.close(descriptor)
                raise Locked(pid) from None
            except BaseException:
                os.close(descriptor)
                raise
        lock = cls(path, descriptor, created)
        lock.note_pid()
        return lock

    def note_pid(self) -> None:
        """Write our pid into the file: once it is held, and again after a fork."""
        text = f"{os.getpid()}\n".encode("ascii")
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))

    def hand_to(self, uid: int, gid: int) -> None:
        """Let that user's next server take the lock."""
        os.fchown(self._descriptor, uid, gid)

    def release(self) -> None:
        """Let go; the file stays, empty."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def undo(self) -> None:
        """Let go, and remove the file if it was not there before."""
        if self._created:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
        self.release()


def holder(state: str) -> int | None:
    """The pid of the process that holds the lock (0 where it does not say), None where nobody does."""
    try:
        descriptor = os.open(os.path.join(state, FILE_NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _pid_in(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def _same_file(descriptor: int, path: str) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
