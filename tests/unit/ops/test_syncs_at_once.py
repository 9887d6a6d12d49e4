"""Several syncs by one call: each file's own result, with the kernel's help and without it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorrainemail.ops import aio, files
from lorrainemail.ops.files import Files, SystemFiles


@pytest.fixture(params=["at once", "one by one"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SystemFiles:
    if request.param == "one by one":
        monkeypatch.setattr(files, "make_queue", lambda: None)
    return SystemFiles()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[int]]:
    """More files than the kernel takes at once."""
    descriptors = [os.open(tmp_path / str(n), os.O_CREAT | os.O_WRONLY) for n in range(aio.DEPTH + 7)]
    for descriptor in descriptors:
        os.write(descriptor, b"x")
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def test_all_are_synced_also_more_than_the_kernel_takes(system: SystemFiles, opened: list[int]) -> None:
    assert system.fsync_all(opened) == [None] * len(opened)
    assert system.fsync_all(opened[:1]) == [None]
    assert system.fsync_all([]) == []


def test_a_file_that_cannot_be_synced_fails_alone(system: SystemFiles, opened: list[int]) -> None:
    reader, writer = os.pipe()
    try:
        mixed = [opened[0], reader, opened[1], opened[2]]
        errors = system.fsync_all(mixed)
    finally:
        os.close(reader)
        os.close(writer)
    assert [error.errno if error else 0 for error in errors] == [0, errno.EINVAL, 0, 0]


def test_a_directory_that_is_gone_fails_alone(system: SystemFiles, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    errors = system.fsync_directories([f"{tmp_path}/{name}" for name in ("a", "gone", "b")])
    assert [error.errno if error else 0 for error in errors] == [0, errno.ENOENT, 0]
    assert system.fsync_directories([str(tmp_path)]) == [None]


def test_an_error_of_the_disk_is_told_of_its_file_and_the_sync_not_repeated(
    opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Queue:
        def fsync(self, descriptors: list[int]) -> list[OSError | None]:
            calls.extend(descriptors)
            return [OSError(errno.EIO, "disk") if one == opened[1] else None for one in descriptors[:3]]

    monkeypatch.setattr(files, "make_queue", Queue)
    monkeypatch.setattr(os, "fsync", calls.append)
    errors = SystemFiles().fsync_all(opened[:4])
    assert [error.errno if error else 0 for error in errors] == [0, errno.EIO, 0, 0]
    assert calls == [*opened[:4], opened[3]]  # the last one the kernel had not begun


def test_where_nobody_knows_how_it_went_nothing_counts_as_safe(
    opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Queue:
        def fsync(self, descriptors: list[int]) -> list[OSError | None]:
            raise OSError(errno.EFAULT, "lost")

    monkeypatch.setattr(files, "make_queue", Queue)
    system = SystemFiles()
    assert all(error is not None for error in system.fsync_all(opened[:4]))
    assert system.fsync_all(opened[:4]) == [None] * 4  # one by one from then on


def test_a_recorder_under_the_committer_sees_every_sync(opened: list[int]) -> None:
    seen: list[int] = []

    class Watching(Files):
        def fsync(self, descriptor: int) -> None:
            seen.append(descriptor)

    assert Watching().fsync_all(opened[:3]) == [None] * 3
    assert seen == opened[:3]
