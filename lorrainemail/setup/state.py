"""The state directory at a start: made, owned by the user that the server will be, writable by it, undone.

:mod:`lorrainemail.tap` opens it before anything else is touched. :class:`Owner` is the user that twistd will
turn into (``--uid``, ``--gid``); everything that a start creates is handed to it. :class:`Undo` remembers
what a start created, so that a start that fails leaves nothing behind. Runs before threads exist: it may
fork. Fails with :class:`~lorrainemail.setup.failure.StartError`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Callable
from typing import Final, Self

import attrs
from twisted.python.util import switchUID

from lorrainemail.setup.failure import StartError

#: Entries of the state directory that are checked for their owner; more are never there.
MAX_ENTRIES: Final = 1000
#: What is looked into beside the top level.
_ALSO: Final = ("tls", "queue")


@attrs.frozen(slots=True)
class Owner:
    """Who will serve; None means: as we are."""

    uid: int | None = None
    gid: int | None = None

    @property
    def changes(self) -> bool:
        """Whether the server will be somebody else than we are now."""
        return (self.uid is not None and self.uid != os.geteuid()) or (
            self.gid is not None and self.gid != os.getegid()
        )

    @property
    def name(self) -> str:
        uid = os.geteuid() if self.uid is None else self.uid
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"uid {uid}"

    def take(self, path: str) -> None:
        """Hand a path that we created to the owner."""
        if self.changes:
            os.chown(path, self._uid, self._gid, follow_symlinks=False)

    def take_tree(self, path: str) -> None:
        """Hand a directory that we created, and all in it, to the owner."""
        if not self.changes:
            return
        self.take(path)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                self.take(os.path.join(folder, name))

    @property
    def _uid(self) -> int:
        return -1 if self.uid is None else self.uid

    @property
    def _gid(self) -> int:
        return -1 if self.gid is None else self.gid


class Undo:
    """What to take back, newest first, if the start fails."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        self._steps.append(step)

    def created(self, path: str) -> None:
        """A file that was not there before, or a directory, which goes only if it is empty by then."""
        self.add(lambda: os.rmdir(path) if os.path.isdir(path) else os.unlink(path))

    def keep_all(self) -> None:
        """The start succeeded."""
        self._steps.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        """Take everything back, unless :meth:`keep_all` was said."""
        while self._steps:
            with contextlib.suppress(OSError):  # what cannot be taken back must not hide why
                self._steps.pop()()


def open_state(state: str, owner: Owner, undo: Undo) -> None:
    """Make the directory where it is missing (0700) and make sure that the server can write to it."""
    try:
        for path in _missing(state):
            os.mkdir(path, 0o700)
            undo.created(path)
            owner.take(path)
        status = os.stat(state)
    except OSError as error:
        raise StartError(
            f"cannot make the state directory {state} ({error.strerror})",
            "name a directory that you may write with --state",
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise StartError(f"{state} is not a directory", "name another one with --state")
    refused = _as_owner(owner, lambda: _not_writable(state))
    if refused:
        raise StartError(
            f"user {owner.name} cannot write to {refused}",
            f"chown -R {owner.name} {state}, or name another directory with --state",
        )


def _missing(path: str) -> list[str]:
    """Directories to make, outermost first."""
    found: list[str] = []
    while not os.path.lexists(path):
        found.append(path)
        path = os.path.dirname(path)
    return found[::-1]


def _not_writable(state: str) -> str:
    """The first path that this process cannot use, "" where all is well."""
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        return state
    for folder in (state, *(os.path.join(state, name) for name in _ALSO)):
        try:
            names = sorted(os.listdir(folder))[:MAX_ENTRIES]
        except FileNotFoundError:
            continue
        except OSError:
            return folder
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.stat(path).st_mode
            except FileNotFoundError:
                continue  # a link to nowhere; whoever needs it says so better
            except OSError:
                return path
            if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                return path
            # What an operator edits may be kept read-only for the server.
            if stat.S_ISREG(mode) and not os.access(path, os.R_OK):
                return path
    return ""


def _as_owner(owner: Owner, question: Callable[[], str]) -> str:
    """Ask in a child that has become the owner, as twistd will (before any thread exists)."""
    if not owner.changes:
        return question()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"?"
        try:
            switchUID(owner.uid, owner.gid)  # type: ignore[no-untyped-call]
            answer = b"=" + question().encode("utf-8", "surrogateescape")
        finally:
            os.write(writing, answer[:4096])
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer.startswith(b"="):
        raise StartError(
            f"cannot become user {owner.name}", "only root may use --uid and --gid; start as root or without"
        )
    return answer[1:].decode("utf-8", "surrogateescape")
