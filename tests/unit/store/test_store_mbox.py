"""Delivery into mbox files: what other programs read there, locks, interrupted appends."""

import fcntl
import itertools
import json
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor, task
from twisted.internet.defer import gatherResults

from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import Account
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import Files
from lorrainemail.store import locks
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.mbox import as_stored, from_line

MESSAGE = b"Subject: x\r\n\r\nFrom here\r\n>From there\r\nend\r\n"


@pytest.fixture
def ann(bob: Account) -> Account:
    return attrs.evolve(bob, format="mbox")


def mbox(tmp_path: Path) -> Path:
    return tmp_path / "mail" / "bricoleur.test" / "bob" / "mbox"


def dotlock(tmp_path: Path) -> Path:
    return Path(f"{mbox(tmp_path)}.lock")


def note(tmp_path: Path) -> Path:
    return Path(f"{mbox(tmp_path)}.append")


def place(store: MailStore, account: Account, data: bytes = MESSAGE, folder: str = "") -> Any:
    return store.placement(account, folder, b"Return-Path: <carole@elorac.test>\r\n", Content(data), "id")


@pytest_twisted.ensureDeferred
async def test_messages_stand_as_mboxrd_one_after_the_other(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    placed = await place(disk_store, ann).commit()
    staged = place(disk_store, ann)
    await staged.stage()
    assert mbox(tmp_path).read_bytes().count(b"\nSubject: x\n") == 1
    await staged.publish()
    data = mbox(tmp_path).read_bytes()
    assert data.startswith(b"From carole@elorac.test ")
    assert data.count(b"\nFrom carole@elorac.test ") == 1
    assert data.count(b"\n>From here\n>>From there\nend\n\n") == 2
    assert b"\r" not in data
    assert placed.where == f"{mbox(tmp_path)}:0"
    assert mbox(tmp_path).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in mbox(tmp_path).parent.iterdir() if p.name.startswith("mbox")] == ["mbox"]


@pytest_twisted.ensureDeferred
async def test_an_aborted_delivery_leaves_nothing(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    staged = place(disk_store, ann)
    await staged.stage()
    await staged.abort()
    assert not list(mbox(tmp_path).parent.iterdir())


@pytest_twisted.ensureDeferred
async def test_deliveries_at_the_same_time_do_not_mix(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    bodies = [b"Subject: %d\r\n\r\n%s\r\n" % (n, b"%d" % n * 5000) for n in range(20)]
    await gatherResults([place(disk_store, ann, body).commit() for body in bodies])
    data = mbox(tmp_path).read_bytes()
    messages = data.split(b"\nFrom carole@elorac.test ")
    assert len(messages) == 20
    for body in bodies:
        assert body.replace(b"\r\n", b"\n") in data


@pytest_twisted.ensureDeferred
async def test_what_an_interrupted_append_left_is_cut_off(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    await place(disk_store, ann).commit()
    good = mbox(tmp_path).read_bytes()
    line = "From carole@elorac.test Sun Nov 22 07:00:00 2026\n"
    facts = {"start": len(good), "line": line, "length": 300, "digest": "of what was to come"}
    note(tmp_path).write_text(json.dumps(facts))
    mbox(tmp_path).write_bytes(good + line.encode() + b"Subject: half a me")
    await place(disk_store, ann).commit()
    data = mbox(tmp_path).read_bytes()
    assert data.startswith(good) and b"half a me" not in data
    assert data.count(b"Subject: x\n") == 2


@pytest_twisted.ensureDeferred
async def test_an_old_note_never_cuts_what_another_program_wrote(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    await place(disk_store, ann).commit()
    good = mbox(tmp_path).read_bytes()
    note(tmp_path).write_text(json.dumps({"start": 10, "line": "From a b\n", "length": 30, "digest": ""}))
    await place(disk_store, ann).commit()
    assert mbox(tmp_path).read_bytes().startswith(good)


class FullDisk(Files):
    """Writes half, then fails."""

    __slots__ = ("broken",)

    def write(self, descriptor: int, buffers: Any) -> None:
        if getattr(self, "broken", False) and b"".join(buffers).startswith(b"Return-Path"):
            os.write(descriptor, b"".join(buffers)[:5])
            raise OSError(28, "No space left on device")
        super().write(descriptor, buffers)


@pytest_twisted.ensureDeferred
async def test_a_full_disk_leaves_the_file_as_it_was(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    await place(disk_store, ann).commit()
    good = mbox(tmp_path).read_bytes()
    files = FullDisk()
    files.broken = True
    disk_store._live(ann).tree.files = files
    with pytest.raises(TemporaryError) as caught:
        await place(disk_store, ann).commit()
    assert caught.value.reply.code == 452
    assert mbox(tmp_path).read_bytes() == good
    files.broken = False
    await place(disk_store, ann).commit()
    assert mbox(tmp_path).read_bytes().startswith(good)


@pytest.mark.parametrize("kind", ["fcntl", "dotlock"])
@pytest_twisted.ensureDeferred
async def test_a_delivery_waits_for_another_programs_lock(
    disk_store: MailStore, ann: Account, tmp_path: Path, kind: str
) -> None:
    await place(disk_store, ann).commit()
    before = mbox(tmp_path).stat().st_size
    file = mbox(tmp_path).open("r+b")
    if kind == "fcntl":
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, whole)
    else:
        dotlock(tmp_path).write_text("1")
    waiting = place(disk_store, ann).commit()
    await task.deferLater(reactor, 0.1, lambda: None)  # type: ignore[arg-type]
    assert mbox(tmp_path).stat().st_size == before and not waiting.called
    if kind == "fcntl":
        file.close()
    else:
        dotlock(tmp_path).unlink()
    await waiting
    assert mbox(tmp_path).stat().st_size > before
    assert not dotlock(tmp_path).exists()


@pytest_twisted.ensureDeferred
async def test_a_lock_that_is_never_let_go_becomes_a_temporary_failure(
    disk_store: MailStore, ann: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    await place(disk_store, ann).commit()
    dotlock(tmp_path).write_text("1")
    with pytest.raises(TemporaryError):
        await place(disk_store, ann).commit()
    assert dotlock(tmp_path).exists()
    os.utime(f"{mbox(tmp_path)}.lock", (1, 1))
    await place(disk_store, ann).commit()


def number_of_the_dead() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("whose", ["dead", "ours before", "alive", "another host"])
@pytest_twisted.ensureDeferred
async def test_the_lock_of_a_server_that_was_killed_holds_nobody_up(
    disk_store: MailStore, ann: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    await place(disk_store, ann).commit()
    number = {"ours before": os.getpid(), "alive": os.getppid()}.get(whose) or number_of_the_dead()
    host = "elsewhere" if whose == "another host" else socket.gethostname()
    dotlock(tmp_path).write_text(f"{number}:{host}\n")
    if whose in ("dead", "ours before"):
        await place(disk_store, ann).commit()
        assert [path.name for path in mbox(tmp_path).parent.glob("mbox*")] == ["mbox"]
    else:
        with pytest.raises(TemporaryError):
            await place(disk_store, ann).commit()
        assert dotlock(tmp_path).exists()


@pytest_twisted.ensureDeferred
async def test_mail_for_a_folder_of_an_mbox_account_goes_there(
    disk_store: MailStore, ann: Account, tmp_path: Path
) -> None:
    await disk_store.home(ann).create("Listes")
    assert (await place(disk_store, ann, folder="Listes").commit()).folder == "Listes"
    assert not mbox(tmp_path).exists()
    assert (await place(disk_store, ann, folder="Nirgends").commit()).folder == "INBOX"
    assert mbox(tmp_path).exists()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_quoting_is_the_same_however_the_message_is_cut(data: bytes, cuts: list[int]) -> None:
    data = data.replace(b"\x00", b"\nFrom ").replace(b"\x01", b"\r\n>From ")
    points = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    pieces = tuple(data[a:b] for a, b in itertools.pairwise(points))
    assert b"".join(as_stored(pieces)) == b"".join(as_stored((data,)))
    assert not any(line.startswith(b"From ") for line in b"".join(as_stored((data,))).split(b"\n"))


@pytest.mark.parametrize(
    ("prefix", "sender"),
    [
        (b"Return-Path: <>\r\n", b"MAILER-DAEMON"),
        (b"", b"MAILER-DAEMON"),
        (b"Return-Path: <a@b>\r\n", b"a@b"),
        (b'Return-Path: <"a b"@c>\r\n', b"MAILER-DAEMON"),
    ],
)
def test_the_from_line_is_one_that_programs_parse(prefix: bytes, sender: bytes) -> None:
    assert from_line(prefix, 0) == b"From " + sender + b" Thu Jan  1 00:00:00 1970\n"
