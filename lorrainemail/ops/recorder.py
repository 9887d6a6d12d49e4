"""File operations recorded, and the disks that a crash could leave of them: a double for tests.

:class:`Recorder` stands where :class:`lorrainemail.ops.files.Files` stands, does the work and writes down
each operation in order, with its data, and the marks that a test puts between them ("this message was
answered"). :class:`Disk` plays such a log back up to any point and says what may stand on the disk after a
crash there:

- a file holds what its last fsync saw, or that with any part of what was written since, or zeros;
- a directory holds the entries of its last fsync, and of later changes any that happened to be written;
- a rename is one change (of a file system with a journal): it is never half done, but until one of the two
  directories is synced it may be undone;
- what hangs on a directory that was lost is lost with it.

:class:`Faults` fails chosen operations, as full, broken or read-only disks do.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import attrs

from lorrainemail.ops.files import CREATE, SYSTEM, Files

#: What of the changes that were not synced a crash leaves.
Mercy = Literal["none", "all", "some"]


@attrs.frozen(slots=True)
class Operation:
    """One line of a log.

    :ivar kind: the method of Files, or "mark".
    :ivar path: relative to the recorder's root; ``target`` likewise, for rename and link.
    :ivar file: for data operations the number under which the file was opened.
    :ivar offset: of a write, or the length of a truncation. ``data``: what was written.
    :ivar mark: what a test wants to know of this moment.
    """

    kind: str
    path: str = ""
    target: str = ""
    file: int = 0
    offset: int = 0
    data: bytes = b""
    mark: Any = None


class Recorder(Files):
    """Does and writes down. Thread-safe; operations are serialised, so that their order is the log's."""

    __slots__ = ("_files", "_lock", "_open", "_root", "log")

    def __init__(self, root: str, files: Files = SYSTEM) -> None:
        super().__init__()
        self.log: list[Operation] = []
        self._root = os.path.realpath(root)
        self._files = files
        self._open: dict[int, str] = {}
        self._lock = threading.RLock()

    def mark(self, mark: Any) -> None:
        """Put a mark here."""
        with self._lock:
            self.log.append(Operation("mark", mark=mark))

    def _relative(self, path: str) -> str:
        directory, name = os.path.split(os.path.abspath(path))
        relative = os.path.relpath(os.path.join(os.path.realpath(directory), name), self._root)
        if relative.startswith(".."):
            raise ValueError(f"{path} is outside {self._root}")
        return "" if relative == "." else relative

    def open(self, path: str, flags: int = CREATE, mode: int = 0o600) -> int:
        with self._lock:
            existed = os.path.lexists(path)
            descriptor = self._files.open(path, flags, mode)
            relative = self._relative(path)
            self._open[descriptor] = relative
            if not existed:
                self.log.append(Operation("create", relative))
            if flags & os.O_TRUNC and existed:
                self.log.append(Operation("truncate", relative, file=descriptor))
            self.log.append(Operation("open", relative, file=descriptor))
            return descriptor

    def chmod(self, descriptor: int, mode: int) -> None:
        self._files.chmod(descriptor, mode)

    def write(self, descriptor: int, buffers: Sequence[bytes]) -> None:
        with self._lock:
            data = b"".join(buffers)
            self._files.write(descriptor, buffers)
            offset = os.lseek(descriptor, 0, os.SEEK_CUR) - len(data)
            self.log.append(Operation("write", self._open[descriptor], "", descriptor, offset, data))

    def truncate(self, descriptor: int, length: int) -> None:
        with self._lock:
            self._files.truncate(descriptor, length)
            self.log.append(Operation("truncate", self._open[descriptor], "", descriptor, length))

    def begin_sync(self, descriptor: int) -> None:
        """Promises nothing, so nothing is written down."""

    def fsync(self, descriptor: int) -> None:
        with self._lock:
            self._files.fsync(descriptor)
            self.log.append(Operation("fsync", self._open[descriptor], file=descriptor))

    def close(self, descriptor: int) -> None:
        with self._lock:
            self.log.append(Operation("close", self._open.pop(descriptor, ""), file=descriptor))
            self._files.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            self._files.rename(source, target)
            self.log.append(Operation("rename", self._relative(source), self._relative(target)))

    def rename_new(self, source: str, target: str) -> None:
        with self._lock:
            self._files.rename_new(source, target)
            self.log.append(Operation("rename", self._relative(source), self._relative(target)))

    def link(self, source: str, target: str) -> None:
        with self._lock:
            self._files.link(source, target)
            self.log.append(Operation("link", self._relative(source), self._relative(target)))

    def unlink(self, path: str) -> None:
        with self._lock:
            self._files.unlink(path)
            self.log.append(Operation("unlink", self._relative(path)))

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        with self._lock:
            self._files.mkdir(path, mode)
            self.log.append(Operation("mkdir", self._relative(path)))

    def rmdir(self, path: str) -> None:
        with self._lock:
            self._files.rmdir(path)
            self.log.append(Operation("unlink", self._relative(path)))

    def fsync_directory(self, path: str) -> None:
        with self._lock:
            self._files.fsync_directory(path)
            self.log.append(Operation("fsync_directory", self._relative(path)))


@attrs.define(slots=True, eq=False)
class _File:
    """``safe`` is what the last sync saw; ``changes`` are (offset, data or None for a truncation) since."""

    live: bytearray = attrs.Factory(bytearray)
    safe: bytes = b""
    changes: list[tuple[int, bytes | None]] = attrs.Factory(list)

    def left(self, mercy: Mercy, dice: random.Random) -> bytes:
        """What a crash leaves of it."""
        if mercy == "all" or not self.changes:
            return bytes(self.live)
        if mercy == "none":
            return self.safe
        fate = dice.randrange(4)
        if fate == 0:
            return self.safe
        if fate == 1:
            return self.safe + bytes(max(0, len(self.live) - len(self.safe)))  # the size, not the data
        result = bytearray(self.safe)
        count = dice.randint(0, len(self.changes))
        for offset, data in self.changes[:count]:
            _change(result, offset, data)
        if count < len(self.changes):
            offset, data = self.changes[count]
            if data:
                _change(result, offset, data[: dice.randint(0, len(data))])  # torn
        return bytes(result)


@attrs.define(slots=True, eq=False)
class _Entry:
    """One change of one name: to a node, or to None. ``after``: of a rename's removal, the other half;
    ``removal``: of the other half."""

    directory: _Directory
    name: str
    node: _File | _Directory | None
    after: _Entry | None = None
    removal: _Entry | None = None
    done: bool = False


@attrs.define(slots=True, eq=False)
class _Directory:
    live: dict[str, _File | _Directory] = attrs.Factory(dict)
    safe: dict[str, _File | _Directory] = attrs.Factory(dict)
    changes: list[_Entry] = attrs.Factory(list)

    def change(self, entry: _Entry) -> None:
        _set(self.live, entry.name, entry.node)
        self.changes.append(entry)

    def sync(self) -> None:
        for entry in self.changes:
            if entry.done:
                continue
            entry.done = True
            _set(self.safe, entry.name, entry.node)
            if entry.after is not None and not entry.after.done:
                entry.after.done = True
                _set(entry.after.directory.safe, entry.after.name, entry.after.node)
            if entry.removal is not None and not entry.removal.done:
                entry.removal.directory.settle(entry.removal)
        self.changes = []

    def settle(self, last: _Entry) -> None:
        """One change is durable, and with it those of the same name before it."""
        for entry in self.changes:
            if entry.name == last.name and not last.done:
                entry.done = True
        _set(self.safe, last.name, last.node)


class Disk:
    """A disk that a log is played onto.

    :param initial: directories (relative paths) that were there, durable, when the log began.
    """

    def __init__(self, initial: Sequence[str] = ()) -> None:
        self._root = _Directory()
        self._files: dict[int, _File] = {}
        for path in sorted(initial):
            self.play(Operation("mkdir", path))
        self._settle(self._root)

    def _settle(self, directory: _Directory) -> None:
        directory.sync()
        for node in directory.live.values():
            if isinstance(node, _Directory):
                self._settle(node)

    def play(self, operation: Operation) -> None:
        """One more operation of the log."""
        kind = operation.kind
        if kind == "create":
            self._change(operation.path, _File())
        elif kind == "open":
            node = self._find(operation.path)
            assert isinstance(node, _File)
            self._files[operation.file] = node
        elif kind == "write":
            file = self._files[operation.file]
            _change(file.live, operation.offset, operation.data)
            file.changes.append((operation.offset, operation.data))
        elif kind == "truncate":
            found = self._find(operation.path)
            assert isinstance(found, _File)
            _change(found.live, operation.offset, None)
            found.changes.append((operation.offset, None))
        elif kind == "fsync":
            file = self._files[operation.file]
            file.safe = bytes(file.live)
            file.changes = []
        elif kind == "close":
            self._files.pop(operation.file, None)
        elif kind == "rename":
            node = self._find(operation.path)
            added = self._change(operation.target, node)
            removed = self._change(operation.path, None)
            removed.after = added
            added.removal = removed
        elif kind == "link":
            self._change(operation.target, self._find(operation.path))
        elif kind == "unlink":
            self._change(operation.path, None)
        elif kind == "mkdir":
            self._change(operation.path, _Directory())
        elif kind == "fsync_directory":
            directory = self._find(operation.path)
            assert isinstance(directory, _Directory)
            directory.sync()

    def needs(self, operation: Operation) -> bool:
        """Whether a sync has anything to make durable now."""
        if operation.kind == "fsync":
            return bool(self._files[operation.file].changes)
        if operation.kind == "fsync_directory":
            directory = self._find(operation.path)
            return isinstance(directory, _Directory) and any(not e.done for e in directory.changes)
        return False

    def after_crash(self, mercy: Mercy, dice: random.Random) -> dict[str, bytes | None]:
        """Path → content (None for a directory) of everything that is left."""
        result: dict[str, bytes | None] = {}
        happened: dict[int, bool] = {}
        pending: dict[int, list[_Entry]] = {}
        seen: set[int] = set()
        stack = [self._root]
        while stack:  # all directories that ever were reachable, live or safe
            directory = stack.pop()
            if id(directory) in seen:
                continue
            seen.add(id(directory))
            pending[id(directory)] = [e for e in directory.changes if not e.done]
            nodes = (*directory.live.values(), *directory.safe.values())
            stack.extend(node for node in nodes if isinstance(node, _Directory))
        for entries in pending.values():
            for entry in entries:
                happened[id(entry)] = mercy == "all" or (mercy == "some" and dice.random() < 0.5)
        _agree(pending, happened)
        self._collect(self._root, "", pending, happened, mercy, dice, result)
        return result

    def _collect(
        self,
        directory: _Directory,
        prefix: str,
        pending: dict[int, list[_Entry]],
        happened: dict[int, bool],
        mercy: Mercy,
        dice: random.Random,
        result: dict[str, bytes | None],
    ) -> None:
        entries = dict(directory.safe)
        for entry in pending.get(id(directory), ()):
            if not happened[id(entry)]:
                continue
            if entry.after is not None and not entry.after.done and not happened.get(id(entry.after), False):
                continue  # the other half of the rename was lost
            _set(entries, entry.name, entry.node)
        for name, node in entries.items():
            path = f"{prefix}{name}"
            if isinstance(node, _Directory):
                result[path] = None
                self._collect(node, path + "/", pending, happened, mercy, dice, result)
            else:
                result[path] = node.left(mercy, dice)

    def _find(self, path: str) -> _File | _Directory:
        node: _File | _Directory = self._root
        for name in path.split("/") if path else ():
            assert isinstance(node, _Directory)
            node = node.live[name]
        return node

    def _change(self, path: str, node: _File | _Directory | None) -> _Entry:
        parent, _, name = path.rpartition("/")
        directory = self._find(parent)
        assert isinstance(directory, _Directory)
        entry = _Entry(directory, name, node)
        directory.change(entry)
        return entry


def crashes(
    log: Sequence[Operation],
    initial: Sequence[str] = (),
    seed: int = 0,
    rounds: int = 2,
    ignore: int = -1,
) -> Iterator[tuple[int, str, dict[str, bytes | None], list[Any]]]:
    """Every point of the log at which a crash could come, and what it could leave.

    :param rounds: random outcomes at each point, beside the two extremes.
    :param ignore: the index of a sync that is to count as never done.
    :returns: (index after which it crashes, which outcome, tree, marks until then).
    """
    disk = Disk(initial)
    marks: list[Any] = []
    for index, operation in enumerate(log):
        if operation.kind == "mark":
            marks.append(operation.mark)
        elif index != ignore:
            disk.play(operation)
        if operation.kind in ("open", "close"):
            continue
        outcomes: list[tuple[str, Mercy]] = [("none", "none"), ("all", "all")]
        outcomes += [(f"seed {seed}.{index}.{number}", "some") for number in range(rounds)]
        for name, mercy in outcomes:
            yield index, name, disk.after_crash(mercy, random.Random(name)), list(marks)


def needed_syncs(log: Sequence[Operation], initial: Sequence[str] = ()) -> list[int]:
    """The indices of all syncs without which some answer (mark) would have been given too early: they had
    something to make durable, and no later one did it before the next answer."""
    disk = Disk(initial)
    found = []
    for index, operation in enumerate(log):
        if operation.kind in ("fsync", "fsync_directory") and disk.needs(operation):
            found.append(index)
        disk.play(operation)
    return [index for index in found if not _repeated(log, index)]


def _repeated(log: Sequence[Operation], index: int) -> bool:
    for operation in log[index + 1 :]:
        if operation.kind == "mark":
            return False
        if operation.kind == log[index].kind and operation.path == log[index].path:
            return True
    return True  # nobody was told anything after it


def build(tree: dict[str, bytes | None], root: str) -> None:
    """Make a tree of files below an empty directory."""
    for path in sorted(tree):
        content = tree[path]
        full = os.path.join(root, path)
        if content is None:
            os.mkdir(full, 0o700)
        else:
            with open(full, "wb") as file:
                file.write(content)


class Faults(Files):
    """Fails operations that a test chose; everything else is handed on.

    :ivar fail: asked before each operation with (method, path); an errno to fail with, or 0.
    """

    __slots__ = ("_files", "_names", "fail")

    def __init__(self, fail: Callable[[str, str], int], files: Files = SYSTEM) -> None:
        super().__init__()
        self.fail = fail
        self._files = files
        self._names: dict[int, str] = {}

    def _maybe(self, method: str, path: str) -> None:
        number = self.fail(method, path)
        if number:
            raise OSError(number, os.strerror(number), path)

    def open(self, path: str, flags: int = CREATE, mode: int = 0o600) -> int:
        self._maybe("open", path)
        descriptor = self._files.open(path, flags, mode)
        self._names[descriptor] = path
        return descriptor

    def chmod(self, descriptor: int, mode: int) -> None:
        self._files.chmod(descriptor, mode)

    def write(self, descriptor: int, buffers: Sequence[bytes]) -> None:
        """A full disk takes the first half of it."""
        number = self.fail("write", self._names.get(descriptor, ""))
        if number == errno.ENOSPC:
            data = b"".join(buffers)
            self._files.write(descriptor, (data[: len(data) // 2],))
        if number:
            raise OSError(number, os.strerror(number))
        self._files.write(descriptor, buffers)

    def truncate(self, descriptor: int, length: int) -> None:
        self._maybe("truncate", self._names.get(descriptor, ""))
        self._files.truncate(descriptor, length)

    def fsync(self, descriptor: int) -> None:
        self._maybe("fsync", self._names.get(descriptor, ""))
        self._files.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        self._names.pop(descriptor, None)
        self._files.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        self._maybe("rename", target)
        self._files.rename(source, target)

    def rename_new(self, source: str, target: str) -> None:
        self._maybe("rename", target)
        self._files.rename_new(source, target)

    def link(self, source: str, target: str) -> None:
        self._maybe("link", target)
        self._files.link(source, target)

    def unlink(self, path: str) -> None:
        self._maybe("unlink", path)
        self._files.unlink(path)

    def mkdir(self, path: str, mode: int = 0o700) -> None:
        self._maybe("mkdir", path)
        self._files.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        self._maybe("rmdir", path)
        self._files.rmdir(path)

    def fsync_directory(self, path: str) -> None:
        self._maybe("fsync_directory", path)
        self._files.fsync_directory(path)


def _agree(pending: dict[int, list[_Entry]], happened: dict[int, bool]) -> None:
    """Take back what cannot have happened: of one name, a later change before an earlier one; one half of a
    rename."""
    going = True
    while going:
        going = False
        for entries in pending.values():
            lost: set[str] = set()
            for entry in entries:
                twin = entry.after or entry.removal
                torn = twin is not None and not twin.done and not happened.get(id(twin), False)
                if happened[id(entry)] and (torn or entry.name in lost):
                    happened[id(entry)] = False
                    going = True
                if not happened[id(entry)]:
                    lost.add(entry.name)


def _change(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(max(0, offset - len(content))))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _set(entries: dict[str, _File | _Directory], name: str, node: _File | _Directory | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


#: The errors that fault injection runs through.
DISK_ERRORS: Final = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EROFS)
