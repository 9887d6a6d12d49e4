"""What a crash at any point leaves of files that the committer said were safe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from lorrainemail.interfaces import FileWrite
from lorrainemail.ops.committer import Committer
from lorrainemail.ops.files import make_directories
from lorrainemail.ops.recorder import Operation, Recorder, crashes, needed_syncs

SEED = int(os.environ.get("LORRAINEMAIL_SEED", "20260729"))


def body(name: str) -> bytes:
    return f"{name}\n".encode() * 50


async def record(root: Path, messages: int = 6) -> list[Operation]:
    """Deliveries into three directories, some together, each marked when it was answered."""
    recorder = Recorder(str(root))
    committer = Committer(reactor, str(root), threads=2, files=recorder)
    committer.startService()
    for box in range(3):
        for part in ("tmp", "new"):
            path = str(root / f"box{box}" / part)
            await committer.run(lambda path=path: make_directories(recorder, str(root), path))

    def answered(errors: list[OSError | None], names: tuple[str, ...], way: str) -> None:
        assert errors == [None] * len(errors)
        recorder.mark(names)

    def writes(names: tuple[str, ...]) -> list[FileWrite]:
        return [FileWrite(str(root / n.replace("new", "tmp")), str(root / n), (body(n),)) for n in names]

    running = []
    for number in range(messages):
        names = (f"box{number % 3}/new/m{number}",)
        running.append(committer.commit(writes(names)).addCallback(answered, names, "commit"))
    names = ("box0/new/two", "box1/new/two")
    await committer.stage(writes(names))
    await committer.publish(writes(names)).addCallback(answered, names, "publish")
    await gatherResults(running)
    await committer.stopService()
    return recorder.log


def faults(log: list[Operation], ignore: int = -1, rounds: int = 2) -> list[str]:
    """What is wrong after any crash."""
    wrong = []
    for index, outcome, tree, marks in crashes(log, seed=SEED, rounds=rounds, ignore=ignore):
        for names in marks:
            wrong += [f"{index} {outcome}: {n} lost or torn" for n in names if tree.get(n) != body(n)]
        for path, content in tree.items():
            if "/new/" in path and content != body(path):
                wrong.append(f"{index} {outcome}: {path} is visible and not whole")
    return wrong


@pytest_twisted.ensureDeferred
async def test_whatever_the_committer_answered_survives_a_crash_at_any_point(tmp_path: Path) -> None:
    log = await record(tmp_path)
    assert faults(log, rounds=20) == [], f"seed {SEED}"


@pytest_twisted.ensureDeferred
async def test_without_any_single_one_of_its_syncs_mail_would_be_lost(tmp_path: Path) -> None:
    log = await record(tmp_path)
    needed = needed_syncs(log)
    assert len(needed) >= 8
    for index in needed:
        assert faults(log, ignore=index, rounds=0), f"{log[index]} is not needed, or the check is blind"
