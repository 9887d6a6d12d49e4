"""Inotify for open mailboxes: what other programs do in new/ and cur/ is told by name.

Twisted's own INotify ends as a whole when one watched directory is deleted, so this is a small reader of ours
on the reactor given. Used by :mod:`lorrainemail.store.home` while somebody watches a mailbox. Where the
system has no inotify or no watch is left, :meth:`Inotify.add` answers None and the mailbox relies on being
asked.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

_CLOSE_WRITE: Final = 0x8
_MOVED_FROM: Final = 0x40
_MOVED_TO: Final = 0x80
_CREATE: Final = 0x100
_DELETE: Final = 0x200
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x01000000
_DONT_FOLLOW: Final = 0x02000000
_REMOVED: Final = _MOVED_FROM | _DELETE
_MASK: Final = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLYDIR | _DONT_FOLLOW
#: Octets of events that one turn of the reactor takes.
_READ: Final = 16384
#: Names that are kept until somebody looks; with more, all is looked at.
MAX_NAMES: Final = 500
_EVENT: Final = struct.Struct("iIII")

_log = Logger("lorrainemail.store")

#: Called with a file's name, or None where names were lost (or the directory itself went), and whether the
#: file is no longer there under that name.
Listener = Callable[[str | None, bool], None]


@implementer(IReadDescriptor)
class Inotify:
    """One inotify descriptor for the whole store."""

    def __init__(self, reactor: IReactorFDSet) -> None:
        self._reactor = reactor
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._listeners: dict[int, list[Listener]] = {}
        if self._fd >= 0:
            reactor.addReader(self)

    def add(self, path: str, listener: Listener) -> Callable[[], None] | None:
        """Be told of names in the directory; returns the call that ends it, None where it cannot be."""
        if self._fd < 0:
            return None
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), _MASK)
        if number < 0:
            return None
        self._listeners.setdefault(number, []).append(listener)

        def end() -> None:
            listeners = self._listeners.get(number)
            if listeners is None or listener not in listeners:
                return
            listeners.remove(listener)
            if not listeners:
                del self._listeners[number]
                if self._fd >= 0:
                    self._libc.inotify_rm_watch(self._fd, number)

        return end

    def close(self) -> None:
        """No more notices."""
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1
        self._listeners.clear()

    def fileno(self) -> int:
        return int(self._fd)

    def logPrefix(self) -> str:
        return "inotify"

    def doRead(self) -> None:
        self.drain()

    def drain(self) -> None:
        """Tell what is there to be told; one read, which never waits."""
        try:
            data = os.read(self._fd, _READ) if self._fd >= 0 else b""
        except OSError:
            return
        position, end = 0, len(data)
        while position + _EVENT.size <= end:
            number, mask, _cookie, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            if mask & _OVERFLOW:
                for listeners in tuple(self._listeners.values()):
                    self._tell(listeners, None)
            elif mask & _IGNORED:
                self._tell(self._listeners.pop(number, []), None)
            elif number in self._listeners:
                name = os.fsdecode(data[position - length : position].rstrip(b"\0"))
                self._tell(self._listeners[number], name, mask & _REMOVED != 0)

    def connectionLost(self, reason: Failure) -> None:
        _log.warn("inotify ended: {reason}", reason=reason)
        self.close()

    @staticmethod
    def _tell(listeners: list[Listener], name: str | None, removed: bool = False) -> None:
        for listener in listeners if len(listeners) == 1 else tuple(listeners):
            try:
                listener(name, removed)
            except Exception:
                _log.failure("a mailbox could not take a notice of inotify")


class Notices:
    """What is heard of some directories until somebody looks: names, as ``<label>/<name>``.

    :ivar active: whether all of the directories are watched; if not, nothing may be concluded from silence.
    :ivar listener: called when there is something to look at.
    """

    __slots__ = ("_ends", "_expected", "_inotify", "_names", "_removed", "active", "listener")

    def __init__(self, inotify: Inotify | None, directories: dict[str, str]) -> None:
        self._inotify = inotify
        self._ends: list[Callable[[], None]] = []
        self._names: set[str] | None = set()
        self._removed: set[str] = set()
        self._expected: set[str] = set()
        self.active = inotify is not None
        self.listener: Callable[[], None] | None = None
        for label, path in directories.items():
            end = None if inotify is None else inotify.add(path, partial(self._heard, label))
            if end is None:
                self.active = False
            else:
                self._ends.append(end)

    def expect(self, name: str) -> None:
        """A file of our own: its coming is no news, whether it was heard of already or will be."""
        if self._names is not None and name in self._names:
            if name not in self._removed:  # else somebody was quick to take it away, and that is news
                self._names.discard(name)
        elif self.active and len(self._expected) < MAX_NAMES:
            self._expected.add(name)

    def _heard(self, label: str, name: str | None, removed: bool) -> None:
        place = f"{label}/{name}"
        if not removed and place in self._expected and name is not None:
            self._expected.remove(place)
            return
        if name is None or (self._names is not None and len(self._names) >= MAX_NAMES):
            self._names = None
        elif self._names is not None:
            self._names.add(place)
            if removed:
                self._removed.add(place)
        if self.listener is not None:
            self.listener()

    def drain(self) -> None:
        """Hear now what the system already knows."""
        if self._inotify is not None:
            self._inotify.drain()

    def pending(self) -> bool:
        """Whether there is something to look at."""
        return self._names is None or bool(self._names)

    def take(self) -> set[str] | None:
        """The names heard, None where some were lost; they are the caller's now."""
        names, self._names = self._names, set()
        self._removed.clear()
        return names

    def close(self) -> None:
        """Hear no more."""
        for end in self._ends:
            end()
        self._ends.clear()
        self.active = False
        self.listener = None
