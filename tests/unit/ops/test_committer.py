"""The committer: what it answers, what it leaves on the disk, and in which order it does things."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults

from lorrainemail.interfaces import FileWrite
from lorrainemail.ops.committer import PROBE_INTERVAL, Committer
from lorrainemail.ops.content import ContentWriter
from lorrainemail.ops.files import SYSTEM, Files, make_directories
from lorrainemail.ops.recorder import DISK_ERRORS, Faults, Recorder


class ClockedReactor(task.Clock):
    """Time stands still until it is advanced, but turns pass; threads reach the real reactor."""

    def callLater(self, when: float, what: Any, *args: Any, **kw: Any) -> Any:
        if not when:
            return reactor.callLater(0, what, *args, **kw)
        return super().callLater(when, what, *args, **kw)

    def callFromThread(self, function: Any, *args: object) -> None:
        reactor.callFromThread(function, *args)


@pytest.fixture
def clock() -> ClockedReactor:
    return ClockedReactor()


@pytest.fixture
def make(tmp_path: Path, clock: ClockedReactor) -> Iterator[Any]:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "new").mkdir()
    made = []

    def make(files: Files = SYSTEM, **more: Any) -> Committer:
        committer = Committer(clock, str(tmp_path), files=files, **more)
        committer.startService()
        made.append(committer)
        return committer

    yield make
    for committer in made:
        if committer.running:
            pytest_twisted.blockon(committer.stopService())


def write(root: Path, name: str, *parts: Any, **more: Any) -> FileWrite:
    return FileWrite(str(root / "tmp" / name), str(root / "new" / name), parts or (b"text\r\n",), **more)


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest_twisted.ensureDeferred
async def test_committed_file_has_its_octets_its_mode_and_no_temporary_twin(
    make: Any, tmp_path: Path
) -> None:
    old = os.umask(0o077)
    try:
        committer = make()
    finally:
        os.umask(old)
    writes = [
        write(tmp_path, "a", b"one\r\n", b"two\r\n"),
        write(tmp_path, "b", b"x\r\ny\rz\n", line_feed=True),
    ]
    assert await committer.commit([*writes, write(tmp_path, "c", mode=0o640)]) == [None, None, None]
    assert (tmp_path / "new/a").read_bytes() == b"one\r\ntwo\r\n"
    assert (tmp_path / "new/b").read_bytes() == b"x\ny\rz\n"
    assert stat.S_IMODE((tmp_path / "new/a").stat().st_mode) == 0o600
    assert everything(tmp_path) == ["new/a", "new/b", "new/c"]


@pytest_twisted.ensureDeferred
async def test_a_narrow_umask_does_not_take_rights_from_a_file_shared_on_purpose(
    make: Any, tmp_path: Path
) -> None:
    old = os.umask(0o077)
    try:
        committer = make()
        assert await committer.commit([write(tmp_path, "c", mode=0o640)]) == [None]
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new/c").stat().st_mode) == 0o640


@pytest_twisted.ensureDeferred
async def test_line_ends_split_between_chunks_of_a_large_message_become_one_line_feed(
    make: Any, tmp_path: Path
) -> None:
    committer = make()
    writer = ContentWriter(str(tmp_path), memory=10)
    data = (b"x" * 65535 + b"\r\n") * 5 + b"end\r"
    writer.write(data)
    content = writer.finish()
    assert await committer.commit([write(tmp_path, "big", b"A: b\r\n", content, line_feed=True)]) == [None]
    content.close()
    assert (tmp_path / "new/big").read_bytes() == (b"A: b\r\n" + data).replace(b"\r\n", b"\n")


@pytest_twisted.ensureDeferred
async def test_order_on_the_disk_is_write_sync_rename_sync_directory(make: Any, tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path))
    committer = make(recorder)
    await committer.commit([write(tmp_path, "a", new_directories=(str(tmp_path / "new"),))])
    kinds = [(op.kind, op.path) for op in recorder.log if op.kind not in ("open", "close")]
    assert kinds == [
        ("create", "tmp/a"),
        ("write", "tmp/a"),
        ("fsync", "tmp/a"),
        ("rename", "tmp/a"),
        ("fsync_directory", ""),
        ("fsync_directory", "new"),
    ]


@pytest_twisted.ensureDeferred
async def test_files_that_wait_together_share_the_sync_of_their_directory(make: Any, tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path))
    gate = threading.Event()
    committer = make(
        Faults(lambda method, path: gate.wait(10) and 0 if path.endswith("first") else 0, recorder), threads=1
    )
    first = committer.commit([write(tmp_path, "first")])
    rest = [committer.commit([write(tmp_path, f"m{n}")]) for n in range(20)]
    gate.set()
    assert await gatherResults([first, *rest]) == [[None]] * 21
    syncs = [op for op in recorder.log if op.kind == "fsync_directory"]
    assert len(syncs) <= 3
    assert len([op for op in recorder.log if op.kind == "fsync"]) == 21


@pytest_twisted.ensureDeferred
async def test_staged_file_is_invisible_until_published_and_gone_when_discarded(
    make: Any, tmp_path: Path
) -> None:
    committer = make()
    writes = [write(tmp_path, "a"), write(tmp_path, "b")]
    assert await committer.stage(writes) == [None, None]
    assert everything(tmp_path) == ["tmp/a", "tmp/b"]
    assert await committer.publish(writes[:1]) == [None]
    assert await committer.discard(writes[1:]) is None
    assert everything(tmp_path) == ["new/a"]


@pytest.mark.parametrize("renameat2", [True, False])
@pytest_twisted.ensureDeferred
async def test_mail_never_overwrites_what_is_there(make: Any, tmp_path: Path, renameat2: bool) -> None:
    files = Files()
    if not renameat2:
        files._renameat2 = None
    committer = make(files)
    (tmp_path / "new/a").write_bytes(b"old")
    (tmp_path / "tmp/b").symlink_to(tmp_path / "new/elsewhere")
    errors = await committer.commit([write(tmp_path, "a"), write(tmp_path, "b"), write(tmp_path, "c")])
    assert [error and error.errno for error in errors] == [errno.EEXIST, errno.EEXIST, None]
    assert (tmp_path / "new/a").read_bytes() == b"old"
    assert not (tmp_path / "new/elsewhere").exists()
    assert await committer.commit([write(tmp_path, "a", b"new", replace=True)]) == [None]
    assert (tmp_path / "new/a").read_bytes() == b"new"


@pytest.mark.parametrize("number", DISK_ERRORS)
@pytest.mark.parametrize("method", ["open", "write", "fsync", "rename"])
@pytest_twisted.ensureDeferred
async def test_a_disk_that_fails_one_file_leaves_nothing_of_it_and_harms_no_other(
    make: Any, tmp_path: Path, method: str, number: int
) -> None:
    committer = make(Faults(lambda m, path: number if m == method and path.endswith("bad") else 0))
    errors = await committer.commit([write(tmp_path, "a"), write(tmp_path, "bad"), write(tmp_path, "c")])
    assert [error and error.errno for error in errors] == [None, number, None]
    assert everything(tmp_path) == ["new/a", "new/c"]
    assert committer.alarms() == []


@pytest_twisted.ensureDeferred
async def test_a_failed_sync_is_never_tried_again_on_the_same_file(make: Any, tmp_path: Path) -> None:
    calls: list[str] = []

    def fail(method: str, path: str) -> int:
        if method == "fsync":
            calls.append(path)
            return errno.EIO if len(calls) == 1 else 0
        return 0

    committer = make(Faults(fail))
    errors = await committer.commit([write(tmp_path, "a")])
    assert [error and error.errno for error in errors] == [errno.EIO]
    assert len(calls) == 1


@pytest_twisted.ensureDeferred
async def test_after_a_failed_directory_sync_nothing_is_written_until_a_probe_succeeds(
    make: Any, tmp_path: Path, clock: ClockedReactor
) -> None:
    broken = True
    faults = Faults(lambda m, path: errno.EIO if broken and m == "fsync_directory" else 0)
    committer = make(faults, workers=1)  # one, so that what is asked after a probe waits for it
    (error,) = await committer.commit([write(tmp_path, "a")])
    assert error is not None and error.errno == errno.EIO
    assert everything(tmp_path) == []  # the sender was told 4xx
    (error,) = await committer.stage([write(tmp_path, "b")])
    assert error is not None and error.errno == errno.EIO
    assert everything(tmp_path) == []
    refused = committer.writable(1)
    assert refused is not None and refused.errno == errno.EIO
    assert len(committer.alarms()) == 1
    clock.advance(PROBE_INTERVAL)  # the disk is still broken
    await committer.run(lambda: None)
    await committer.run(lambda: None)
    await task.deferLater(reactor, 0, lambda: None)
    assert len(committer.alarms()) == 1
    broken = False
    for _ in range(100):
        clock.advance(PROBE_INTERVAL)
        await committer.run(lambda: None)
        if not committer.alarms():
            break
    assert committer.alarms() == []
    assert committer.writable(1) is None
    assert await committer.commit([write(tmp_path, "c")]) == [None]
    assert everything(tmp_path) == ["new/c"]


@pytest_twisted.ensureDeferred
async def test_content_that_cannot_be_read_fails_its_own_file_alone(make: Any, tmp_path: Path) -> None:
    class Broken:
        size = 5
        eight_bit = False

        def in_memory(self) -> bytes | None:
            return None

        def chunks(self, size: int = 65536) -> Iterator[bytes]:
            yield b"part"
            raise ValueError("closed")

    committer = make()
    errors = await committer.commit([write(tmp_path, "bad", Broken()), write(tmp_path, "good")])
    assert errors[0] is not None and errors[0].errno == errno.EIO
    assert errors[1] is None
    assert everything(tmp_path) == ["new/good"]


def test_space_below_the_reserve_is_refused_before_anything_is_written(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    facts = os.statvfs(tmp_path)
    free = facts.f_bavail * facts.f_frsize
    committer = Committer(clock, str(tmp_path), reserve=free // 2)
    assert committer.writable(1000) is None
    error = committer.writable(free)
    assert error is not None and error.errno == errno.ENOSPC


def test_many_messages_begun_at_once_are_counted_against_the_same_free_space(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    facts = os.statvfs(tmp_path)
    committer = Committer(clock, str(tmp_path), reserve=0)
    third = facts.f_bavail * facts.f_frsize // 3
    answers = [committer.writable(third) for _ in range(5)]
    assert answers[0] is None and answers[1] is None
    assert answers[4] is not None


@pytest_twisted.ensureDeferred
async def test_stopping_finishes_what_was_begun_and_refuses_what_comes_later(
    make: Any, tmp_path: Path
) -> None:
    committer = make(threads=1)
    begun = [committer.commit([write(tmp_path, f"m{n}")]) for n in range(50)]
    before = threading.active_count()
    await committer.stopService()
    assert [d.called for d in begun] == [True] * 50
    assert len(everything(tmp_path)) == 50
    assert threading.active_count() < before
    (error,) = await committer.commit([write(tmp_path, "late")])
    assert error is not None
    failed: Deferred[Any] = committer.run(lambda: None)
    with pytest.raises(OSError):
        await failed


@pytest_twisted.ensureDeferred
async def test_jobs_given_before_the_start_wait_and_start_no_thread(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "new").mkdir()
    before = threading.active_count()
    committer = Committer(clock, str(tmp_path))
    waiting = committer.commit([write(tmp_path, "a")])
    assert threading.active_count() == before
    committer.startService()
    assert await waiting == [None]
    await committer.stopService()


@pytest_twisted.ensureDeferred
async def test_other_file_work_fails_as_itself_and_does_not_hold_up_mail(make: Any, tmp_path: Path) -> None:
    committer = make()
    gate = threading.Event()
    slow = [committer.run(lambda: gate.wait(10)) for _ in range(4)]
    assert await committer.commit([write(tmp_path, "a")]) == [None]
    gate.set()
    await gatherResults(slow)

    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await committer.run(broken)


def test_directories_are_made_with_their_mode_and_synced_even_when_there_already(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path))
    old = os.umask(0o777)
    try:
        make_directories(recorder, str(tmp_path), str(tmp_path / "a/b/c"), 0o700)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700
    recorder.log.clear()
    make_directories(recorder, str(tmp_path), str(tmp_path / "a/b/c"), 0o700)
    assert [(op.kind, op.path) for op in recorder.log] == [
        ("fsync_directory", ""),
        ("fsync_directory", "a"),
        ("fsync_directory", "a/b"),
    ]
    with pytest.raises(OSError):
        make_directories(recorder, str(tmp_path / "a"), str(tmp_path / "elsewhere"))
