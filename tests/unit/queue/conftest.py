"""A committer that works at once, and a spool on a clock that the test moves."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from lorrainemail.interfaces import FileWrite, ICommitter
from lorrainemail.ops.files import SYSTEM
from lorrainemail.queue.schedule import Schedule
from lorrainemail.queue.spool import Spool


@implementer(ICommitter)
class DirectCommitter:
    """Does its work in the caller's thread. ``broken`` is the error that every write gets while it is set;
    ``held`` keeps answers back until :meth:`let_go`."""

    def __init__(self) -> None:
        self.broken: OSError | None = None
        self.hold = False
        self.commits = 0
        self._held: list[tuple[Deferred[Any], Any]] = []

    def _answer(self, value: Any) -> Deferred[Any]:
        if not self.hold:
            return succeed(value)
        done: Deferred[Any] = Deferred()
        self._held.append((done, value))
        return done

    def let_go(self) -> None:
        self.hold = False
        held, self._held = self._held, []
        for done, value in held:
            done.callback(value)

    def stage(self, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        if self.broken:
            return self._answer([self.broken for _ in writes])
        for write in writes:
            with open(write.temporary, "xb") as file:
                for part in write.parts:
                    if isinstance(part, bytes):
                        file.write(part)
                    else:
                        file.writelines(part.chunks())
        return self._answer([None for _ in writes])

    def publish(self, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        errors: list[OSError | None] = []
        for write in writes:
            if self.broken:
                errors.append(self.broken)
                continue
            assert write.replace or not os.path.exists(write.final)
            os.rename(write.temporary, write.final)
            errors.append(None)
        return self._answer(errors)

    def commit(self, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        self.commits += 1
        hold, self.hold = self.hold, False
        self.stage(writes)
        published = self.publish(writes)
        self.hold = hold
        return self._answer(published.result)

    def discard(self, writes: Sequence[FileWrite]) -> Deferred[None]:
        for write in writes:
            if os.path.exists(write.temporary):
                os.unlink(write.temporary)
        return succeed(None)

    def run(self, work: Callable[[], Any]) -> Deferred[Any]:
        if self.broken and getattr(work, "func", None) is not None and work.func.__name__ == "remove":  # type: ignore[attr-defined]
            return maybeDeferred(self._fail)
        return maybeDeferred(work)

    def _fail(self) -> None:
        assert self.broken is not None
        raise self.broken

    def writable(self, octets: int) -> OSError | None:
        return None


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(1_790_000_000.0)
    return clock


@pytest.fixture
def committer() -> DirectCommitter:
    return DirectCommitter()


MakeSpool = Callable[..., Spool]


@pytest.fixture
def make_spool(tmp_path: Path, clock: Clock, committer: DirectCommitter) -> MakeSpool:
    """A started spool on the same directory; every call stands for a new process."""

    def make(**more: Any) -> Spool:
        facts: dict[str, Any] = {
            "schedule": Schedule(waits=(300, 600), expire=86400),
            "wall": clock.seconds,
            "monotonic": clock.seconds,
            "files": SYSTEM,
        }
        facts.update(more)
        spool = Spool(clock, str(tmp_path / "queue"), committer, **facts)
        spool.prepare()
        spool.startService()
        return spool

    return make
