"""The lab plays its story to the end, in both languages, says clearly what failed, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.interfaces import IListeningPort

from lorrainemail.lab.story import play
from lorrainemail.lab.world import World

LORRAINEMAIL = str(Path(sys.executable).parent / "lorrainemail")
#: Bound on the whole story, in seconds; it takes one or two.
PATIENCE = 60.0


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "PYTHONUTF8": "1"}


@pytest.mark.parametrize(("language", "last"), [("en", "octet for octet"), ("fr", "à l'octet près")])
def test_the_story_comes_to_its_good_end(language: str, last: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [LORRAINEMAIL, "lab", "--lang", language],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
        env=environment(tmp_path),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert last in done.stdout.splitlines()[-1]
    assert re.findall(r"^(\d+)\. ", done.stdout, re.M) == [str(step) for step in range(1, 9)]
    for line in (
        "C: AUTH PLAIN ********",
        "DNS: bricoleur.com MX ? → 10 mail.bricoleur.com.",
        "C: MAIL FROM:<carole@elorac.fr> ",
        "C: PASS ********",
        "C: a1 LOGIN bob@bricoleur.com ********",
    ):
        assert f"     {line}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_kept_servers_can_be_tried_until_they_are_stopped(tmp_path: Path) -> None:
    lab = subprocess.Popen(
        [LORRAINEMAIL, "lab", "--keep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=environment(tmp_path),
    )
    try:
        assert lab.stdout is not None
        lines = []
        for line in lab.stdout:  # ends with the process
            lines.append(line)
            if "MAILINDEX=2" in line:
                break
        printed = "".join(lines)
        directory = re.search(r"all is in (\S+)\. ", printed)
        assert directory is not None, printed[-2000:]
        assert Path(directory[1]).is_dir()
        passwords = re.findall(r"password (\w+):", printed)
        assert len(passwords) == 2
        lab.send_signal(signal.SIGINT)
        rest, _ = lab.communicate(timeout=PATIENCE)
    finally:
        if lab.poll() is None:
            lab.kill()
            lab.wait(PATIENCE)
    assert rest.splitlines()[-1] == "All of it is gone again."
    assert lab.returncode == 0, rest
    assert not Path(directory[1]).exists()


@pytest_twisted.ensureDeferred
async def test_a_story_that_fails_says_at_which_step_and_why(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorrainemail.lab.story.PATIENCE", 2.0)
    world = World(reactor, str(tmp_path))
    begun = world.start

    def start_without_dns() -> None:
        begun()
        port: IListeningPort
        for port in world._dns:
            port.stopListening()

    world.start = start_without_dns  # type: ignore[method-assign]
    shown: list[str] = []
    try:
        good = await play(reactor, world, "en", shown.append)
    finally:
        await world.stop()
    assert not good
    assert re.fullmatch(r"FAILED at step \d: .+", shown[-1])


@pytest_twisted.ensureDeferred
async def test_two_labs_can_stand_side_by_side(tmp_path: Any) -> None:
    worlds = [World(reactor, str(tmp_path / name)) for name in ("a", "b")]
    try:
        for world in worlds:
            os.mkdir(world.directory)
            shown: list[str] = []
            assert await play(reactor, world, "en", shown.append), shown[-1]
    finally:
        for world in worlds:
            await world.stop()
