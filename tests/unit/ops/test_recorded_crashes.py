"""The model of what a crash leaves: were it too kind or too hard, the durability tests would say nothing."""

import random
from pathlib import Path

from lorrainemail.ops.recorder import Disk, Recorder

PLACES = ("a", "b")


def left(recorder: Recorder) -> set[frozenset[str]]:
    """The sets of names that crashes at the end of the record can leave."""
    disk = Disk(PLACES)
    for operation in recorder.log:
        disk.play(operation)
    outcomes = [disk.after_crash("none", random.Random(0)), disk.after_crash("all", random.Random(0))]
    outcomes += [disk.after_crash("some", random.Random(seed)) for seed in range(60)]
    return {frozenset(name for name in tree if name not in PLACES) for tree in outcomes}


def recorded(root: Path) -> Recorder:
    for place in PLACES:
        (root / place).mkdir()
    recorder = Recorder(str(root))
    descriptor = recorder.open(str(root / "a" / "old"))
    recorder.write(descriptor, (b"text",))
    recorder.fsync(descriptor)
    recorder.close(descriptor)
    return recorder


def test_a_new_name_may_be_lost_until_its_directory_is_synced(tmp_path: Path) -> None:
    recorder = recorded(tmp_path)
    assert left(recorder) == {frozenset(), frozenset({"a/old"})}
    recorder.fsync_directory(str(tmp_path / "a"))
    assert left(recorder) == {frozenset({"a/old"})}


def test_a_rename_is_never_half_done(tmp_path: Path) -> None:
    recorder = recorded(tmp_path)
    recorder.fsync_directory(str(tmp_path / "a"))
    recorder.rename(str(tmp_path / "a" / "old"), str(tmp_path / "b" / "new"))
    assert left(recorder) == {frozenset({"a/old"}), frozenset({"b/new"})}
    recorder.fsync_directory(str(tmp_path / "b"))
    assert left(recorder) == {frozenset({"b/new"})}


def test_what_was_written_after_the_last_sync_may_be_lost_torn_or_zero(tmp_path: Path) -> None:
    recorder = recorded(tmp_path)
    recorder.fsync_directory(str(tmp_path / "a"))
    descriptor = recorder.open(str(tmp_path / "a" / "old"), 0o1)
    recorder.truncate(descriptor, 0)
    recorder.write(descriptor, (b"newer text",))
    disk = Disk(PLACES)
    for operation in recorder.log:
        disk.play(operation)
    contents = {disk.after_crash("some", random.Random(seed))["a/old"] for seed in range(200)}
    recorder.close(descriptor)
    assert {b"text", b"", b"newer text", b"text" + bytes(6)} <= contents
    assert any(content and b"newer text".startswith(content) for content in contents)
