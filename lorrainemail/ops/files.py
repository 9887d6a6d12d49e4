"""The calls to the operating system that change files, in one object that can be replaced.

Owns nothing; :data:`SYSTEM` is the real one. The committer, the store and the queue make every change of a
mail or queue file through a :class:`Files` that they were handed, so that a test can put a recorder or a
fault injector under all of them. Every method may block and is called in a committer's thread; every one
fails with :class:`OSError` and nothing else.

Reading needs no seam and goes to :mod:`os` directly.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from lorrainemail.ops.aio import DEPTH, SyncQueue, make_queue

T = TypeVar("T")

#: How new files are opened: never an existing one, never through a link, never inherited by a child.
CREATE: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: writev takes no more buffers at once (POSIX allows 16, Linux 1024).
_IOV_MAX: Final = 512

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1


def _find_renameat2() -> ctypes._NamedFuncPointer | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None  # a C library without it (musl before 1.2.6, other systems): link and unlink serve
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    function.restype = ctypes.c_int
    return function


class Files:
    """The operating system's own calls."""

    __slots__ = ("_renameat2",)

    def __init__(self) -> None:
        self._renameat2 = _find_renameat2()

    def open(self, path: str, flags: int = CREATE, mode: int = 0o600) -> int:
        """A descriptor. ``mode`` is cut by the umask; :meth:`chmod` where that matters."""
        return os.open(path, flags, mode)

    def chmod(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)

    def write(self, descriptor: int, buffers: Sequence[bytes]) -> None:
        """Write all of the buffers, in order, at the descriptor's position."""
        if len(buffers) > _IOV_MAX:
            for start in range(0, len(buffers), _IOV_MAX):
                self.write(descriptor, buffers[start : start + _IOV_MAX])
            return
        wanted = sum(map(len, buffers))
        written = os.writev(descriptor, buffers)
        if written == wanted:
            return
        rest = memoryview(b"".join(buffers))[written:]
        while rest:
            written = os.write(descriptor, rest)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[written:]

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def begin_sync(self, descriptor: int) -> None:
        """Let the kernel begin to write the file out, without waiting. Promises nothing; before the syncs of
        several files it gives them one journal commit instead of one each."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def fsync(self, descriptor: int) -> None:
        """Data and size on stable storage. Never repeated after a failure: the kernel has already marked the
        lost pages as clean, so that a second call would succeed without them."""
        os.fsync(descriptor)

    def fsync_all(self, descriptors: Sequence[int]) -> list[OSError | None]:
        """As :meth:`fsync` of each, once, whatever became of the others; how each of them went."""
        if len(descriptors) > 1:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):  # it is only advice; the sync itself will tell
                    self.begin_sync(descriptor)
        return [_caught(self.fsync, descriptor) for descriptor in descriptors]

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Rename, replacing what is there."""
        os.rename(source, target)

    def rename_new(self, source: str, target: str) -> None:
        """Rename; EEXIST where the target is there.

        One ``renameat2(RENAME_NOREPLACE)``: cheaper than link and unlink (two changes of directories), and
        safe where a check before a plain rename would race. Where the file system does not know it, link and
        unlink do the same, with a moment in which both names exist.
        """
        if self._renameat2 is not None:
            if (
                self._renameat2(
                    _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
                )
                == 0
            ):
                return
            number = ctypes.get_errno()
            if number not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
                raise OSError(number, os.strerror(number), source, None, target)
        os.link(source, target, follow_symlinks=False)
        os.unlink(source)

    def link(self, source: str, target: str) -> None:
        """A second name; EEXIST where the target is there."""
        os.link(source, target, follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        """A directory with exactly that mode, whatever the umask."""
        os.mkdir(path, mode)
        if os.stat(path, follow_symlinks=False).st_mode & 0o7777 != mode:
            os.chmod(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def fsync_directory(self, path: str) -> None:
        """The directory's entries on stable storage."""
        descriptor = os.open(path, _DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def fsync_directories(self, paths: Sequence[str]) -> list[OSError | None]:
        """As :meth:`fsync_directory` of each, in any order; how each of them went."""
        return [_caught(self.fsync_directory, path) for path in paths]


class SystemFiles(Files):
    """The same, several syncs at once where the kernel can do that."""

    __slots__ = ("_own",)

    def __init__(self) -> None:
        super().__init__()
        self._own = threading.local()

    def fsync_all(self, descriptors: Sequence[int]) -> list[OSError | None]:
        if len(descriptors) < 2:
            return super().fsync_all(descriptors)
        results: list[OSError | None] = []
        while len(results) < len(descriptors):
            start = len(results)
            part = descriptors[start : start + DEPTH]
            queue = self._queue()
            done: list[OSError | None] = []
            if queue is not None:
                try:
                    done = queue.fsync(part)
                except OSError as error:
                    # Nobody knows how they went, and a sync is never repeated.
                    self._own.queue = None
                    done = [error] * len(part)
            results += done
            if len(done) < len(part):
                results += super().fsync_all(part[len(done) :])
        return results

    def _queue(self) -> SyncQueue | None:
        """This thread's, made at its first use."""
        try:
            queue: SyncQueue | None = self._own.queue
        except AttributeError:
            queue = self._own.queue = make_queue()
        return queue

    def fsync_directories(self, paths: Sequence[str]) -> list[OSError | None]:
        if len(paths) < 2 or self._queue() is None:
            return super().fsync_directories(paths)
        results: list[OSError | None] = []
        for start in range(0, len(paths), DEPTH):
            results += self._fsync_directories(paths[start : start + DEPTH])
        return results

    def _fsync_directories(self, paths: Sequence[str]) -> list[OSError | None]:
        results: list[OSError | None] = [None] * len(paths)
        opened: dict[int, int] = {}  # index -> descriptor
        try:
            for index, path in enumerate(paths):
                try:
                    opened[index] = os.open(path, _DIRECTORY)
                except OSError as error:
                    results[index] = error
            for index, error_ in zip(opened, self.fsync_all(list(opened.values())), strict=True):
                results[index] = error_
        finally:
            for descriptor in opened.values():
                os.close(descriptor)
        return results


def _caught(sync: Callable[[T], None], what: T) -> OSError | None:
    try:
        sync(what)
    except OSError as error:
        return error
    return None


#: The real thing.
SYSTEM: Final = SystemFiles()


def make_directories(files: Files, root: str, path: str, mode: int = 0o700) -> None:
    """Make what is missing of ``path`` below ``root`` (which exists), and all of it durable.

    Every directory from ``root`` down to the parent of ``path`` is synced even where it exists already: it
    may have been made by a process that was killed before its sync. So whoever calls this once in a
    process's life for each mailbox (and waits for it before the first delivery there) owes a delivery only
    the sync of the directory that it renames into. Safe against itself in another thread.
    """
    missing = []
    directory = path
    while directory != root:
        parent = os.path.dirname(directory)
        if parent == directory:
            raise OSError(errno.EINVAL, f"not below {root}", path)
        missing.append(directory)
        directory = parent
    for directory in reversed(missing):
        try:
            files.mkdir(directory, mode)
        except FileExistsError:
            pass  # somebody else's, or an earlier process's: synced below all the same
        files.fsync_directory(os.path.dirname(directory))


def replace_file(files: Files, path: str, octets: bytes) -> None:
    """Put a small state file in another's place, durable when it returns; it belongs to its directory's
    owner, whoever does this. Blocks; fails with OSError, and the old one stays then."""
    directory = os.path.dirname(path)
    temporary = f"{path}.{os.getpid()}.new"
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass  # as it should be: an earlier process of that number left none
    descriptor = files.open(temporary)
    try:
        try:
            files.write(descriptor, [octets])
            files.fsync(descriptor)
            if os.geteuid() == 0:  # a command of root's must not take the file from the server
                owner = os.stat(directory)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        finally:
            files.close(descriptor)
        files.rename(temporary, path)
    except OSError:
        files.unlink(temporary)
        raise
    files.fsync_directory(directory)
