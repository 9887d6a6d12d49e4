"""Backups of a running server: under load, incremental, checked, restored whole and by one mailbox."""

from __future__ import annotations

import imaplib
import json
import os
import random
import re
import smtplib
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "correct horse battery"
USERS = ("ann@ours.test", "bob@ours.test", "eve@ours.test")
PLAIN = '[auth]\nplaintext = "loopback"\n[relay]\n"far.test" = "127.0.0.1:1"\n'

#: UID → (flags, octets).
Seen = dict[int, tuple[frozenset[bytes], bytes]]


def login(server: Any, user: str) -> imaplib.IMAP4:
    client = imaplib.IMAP4(server.address, 2143, timeout=30)
    client.login(user, PASSWORD)
    return client


def view(client: imaplib.IMAP4, folder: str) -> Seen:
    """What a client sees in a folder, messages by their subjects."""
    assert client.select(folder, readonly=True)[0] == "OK"
    rows: Seen = {}
    for part in client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]:
        if isinstance(part, tuple):
            uid = int(re.search(rb"UID (\d+)", part[0]).group(1))  # type: ignore[union-attr]
            flags = re.search(rb"FLAGS \(([^)]*)\)", part[0]).group(1).split()  # type: ignore[union-attr]
            rows[uid] = (frozenset(flags) - {b"\\Recent"}, part[1].strip())
    client.select("Drafts")  # elsewhere, so that the next look is a new one
    return rows


def mail(number: int, user: str) -> bytes:
    return f"From: a@far.test\r\nTo: {user}\r\nSubject: {number}\r\n\r\nbody {number}\r\n".encode()


class Owner(threading.Thread):
    """One account's only user: changes its INBOX, one step after the other, and remembers every state."""

    def __init__(self, server: Any, user: str) -> None:
        super().__init__()
        self.server, self.user = server, user
        self.states: list[tuple[float, Seen]] = []
        self.stopped = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except BaseException as failure:
            self.failure = failure

    def _work(self) -> None:
        dice = random.Random(self.user)
        client = login(self.server, self.user)
        state: Seen = {}
        self.states.append((time.monotonic(), dict(state)))
        number = 0
        while not self.stopped.is_set():
            step = dice.random()
            number += 1
            if step < 0.45 or len(state) < 5:
                if dice.random() < 0.5:
                    with smtplib.SMTP(self.server.address, 2525, timeout=30) as door:
                        door.sendmail("a@far.test", [self.user], mail(number, self.user))
                else:
                    client.append("INBOX", "(\\Seen)", None, mail(number, self.user))  # type: ignore[arg-type]
                client.select("INBOX")
                uid = int(client.uid("SEARCH", "UID", "*")[1][0])
                flags = client.uid("FETCH", str(uid), "(FLAGS)")[1][0]
                assert isinstance(flags, bytes)
                state[uid] = (
                    frozenset({b"\\Seen"} if b"\\Seen" in flags else ()),
                    f"Subject: {number}".encode(),
                )
            elif step < 0.85:
                client.select("INBOX")
                uid = dice.choice(list(state))
                flag = dice.choice((b"\\Seen", b"\\Flagged", b"\\Answered", b"project"))
                client.uid(
                    "STORE", str(uid), "+FLAGS" if dice.random() < 0.7 else "-FLAGS", f"({flag.decode()})"
                )
                answer = client.uid("FETCH", str(uid), "(FLAGS)")[1][0]
                assert isinstance(answer, bytes)
                words = re.search(rb"FLAGS \(([^)]*)\)", answer).group(1).split()  # type: ignore[union-attr]
                state[uid] = (frozenset(words) - {b"\\Recent"}, state[uid][1])
            else:
                client.select("INBOX")
                uid = dice.choice(list(state))
                client.uid("STORE", str(uid), "+FLAGS.SILENT", "(\\Deleted)")
                self.states.append(
                    (time.monotonic(), {**state, uid: (state[uid][0] | {b"\\Deleted"}, state[uid][1])})
                )
                client.expunge()
                del state[uid]
            self.states.append((time.monotonic(), dict(state)))
        client.logout()


def busy(owners: list[Owner], steps: int) -> bool:
    return all(len(one.states) > steps or one.failure for one in owners)


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    made = make_server(accounts=USERS[:2], configuration=PLAIN, start=False)
    added = made.command("account", "add", USERS[2], "--format", "mbox", "--password-stdin", input=PASSWORD)
    assert added.returncode == 0, added.stderr
    return made.start()


def restored(make_server: Callable[..., Any], backup: Path, server: Any) -> Any:
    """Another server on the restored state."""
    other = make_server(accounts=(), start=False)
    for path in other.state.iterdir():
        path.unlink()
    done = server.command("restore", str(backup), "--state", str(other.state))
    assert done.returncode == 0, done.stderr
    text = (other.state / "lorrainemail.toml").read_text().replace(server.address, other.address)
    (other.state / "lorrainemail.toml").write_text(text)
    return other.start()


def test_a_backup_under_load_is_what_every_mailbox_was_at_one_moment(
    server: Any, make_server: Callable[..., Any], tmp_path: Path
) -> None:
    owners = [Owner(server, user) for user in USERS]
    for owner in owners:
        owner.start()
    times = []
    try:
        for turn in range(2):
            enough = 25 * (turn + 1)
            server.wait(partial(busy, owners, enough), "load")
            began = time.monotonic()
            done = server.command("backup", str(tmp_path / "kept"), "--json")
            assert done.returncode == 0, done.stderr
            times.append((began, time.monotonic()))
            report = json.loads(done.stdout)
            assert report["homes"] == 3 and not report["faults"]
        server.wait(partial(busy, owners, 60), "load")
    finally:
        for owner in owners:
            owner.stopped.set()
        for owner in owners:
            owner.join(60)
    assert [owner.failure for owner in owners] == [None, None, None]
    assert report["linked"] > 0  # the second has messages of the first
    checked = server.command("backup", "--check", str(tmp_path / "kept"))
    assert checked.returncode == 0, checked.stdout
    other = restored(make_server, tmp_path / "kept", server)
    began, ended = times[-1]
    for owner in owners:
        client = login(other, owner.user)
        found = view(client, "INBOX")
        client.logout()
        before = [state for at, state in owner.states if at <= began][-1:]
        within = before + [state for at, state in owner.states if began <= at]
        assert found in within[: sum(1 for at, _ in owner.states if began <= at <= ended) + 2], owner.user
    # What comes now has UIDs that nobody has seen.
    highest = max(uid for owner in owners for _, state in owner.states for uid in state)
    client = login(other, USERS[0])
    client.append("INBOX", "", None, mail(1, USERS[0]))  # type: ignore[arg-type]
    assert max(view(client, "INBOX")) > highest
    client.logout()


def test_a_backup_holds_tables_keys_and_queue_and_nobody_else_can_read_them(
    server: Any, make_server: Callable[..., Any], tmp_path: Path
) -> None:
    assert server.command("dkim", "generate", "ours.test").returncode == 0
    with smtplib.SMTP(server.address, 2587, timeout=30) as door:
        door.starttls()
        door.login(USERS[0], PASSWORD)
        door.sendmail(USERS[0], ["x@far.test"], mail(1, "x").replace(b"a@far.test", USERS[0].encode()))
    server.wait(lambda: server.queued(), "the queue")
    done = server.command("backup", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    for folder, folders, files in os.walk(tmp_path / "kept"):
        for name in files + folders:
            path = Path(folder, name)
            if not path.is_symlink() and name != "README":
                assert stat.S_IMODE(path.stat().st_mode) in (0o600, 0o700), path
    kept = tmp_path / "kept" / "latest" / "state"
    for name in ("accounts", "lorrainemail.toml", "trace.sqlite", "dkim", "tls"):
        assert (kept / name).exists(), name
    assert not (kept / "lock").exists() and not (kept / "control.sock").exists()
    assert [path.suffix for path in sorted((kept / "queue").glob("*.*"))] == [".json", ".msg"]
    server.stop()
    other = restored(make_server, tmp_path / "kept", server)
    assert len(other.queued()) == 2
    assert (other.state / "dkim").is_dir()


def test_one_mailbox_comes_back_into_a_running_server(server: Any, tmp_path: Path) -> None:
    user = USERS[0]
    client = login(server, user)
    for number in range(6):
        client.append("INBOX", "(\\Flagged project)", '"01-Feb-2020 10:00:00 +0000"', mail(number, user))  # type: ignore[arg-type]
    before = view(client, "INBOX")
    assert server.command("backup", str(tmp_path / "kept")).returncode == 0
    client.select("INBOX")
    first, second, third, *_ = before
    client.uid("STORE", f"{first},{second}", "+FLAGS.SILENT", "(\\Deleted)")
    client.expunge()
    client.uid("MOVE", str(third), "Archive")
    done = server.command("restore", str(tmp_path / "kept"), user, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["taken"] == 2
    after = view(client, "INBOX")
    assert sorted(row[1] for row in after.values()) == sorted(
        row[1] for uid, row in before.items() if uid != third
    )
    assert {row[0] for row in after.values()} == {frozenset((b"\\Flagged", b"project"))}
    assert not {first, second} & set(after)  # a UID is never used again
    again = server.command("restore", str(tmp_path / "kept"), user, "--json")
    assert json.loads(again.stdout)["taken"] == 0
    client.logout()


def test_what_a_disk_damaged_is_found_and_not_restored(server: Any, tmp_path: Path) -> None:
    client = login(server, USERS[0])
    client.append("INBOX", "", None, mail(1, USERS[0]))  # type: ignore[arg-type]
    client.logout()
    kept = tmp_path / "kept"
    assert server.command("backup", str(kept)).returncode == 0
    (message,) = (kept / "latest" / "state" / "mail" / "ours.test" / "ann" / "Maildir" / "cur").iterdir()
    octets = message.read_bytes()
    message.write_bytes(octets[:-3] + b"x\r\n"[: len(octets)][:3])
    checked = server.command("backup", "--check", str(kept))
    assert checked.returncode == 1 and "not as it was written" in checked.stdout
    done = server.command("restore", str(kept), "--state", str(tmp_path / "new"))
    assert done.returncode == 1 and "not as it was written" in done.stderr
    assert not (tmp_path / "new").exists()


def test_old_backups_go_and_the_rest_stays_whole(server: Any, tmp_path: Path) -> None:
    client = login(server, USERS[0])
    client.append("INBOX", "", None, mail(1, USERS[0]))  # type: ignore[arg-type]
    client.logout()
    kept = tmp_path / "kept"
    for _ in range(3):
        assert server.command("backup", str(kept), "--keep", "2").returncode == 0
    listed = json.loads(server.command("backup", str(kept), "--list", "--json").stdout)
    assert len(listed["backups"]) == 2
    assert server.command("backup", "--check", str(kept)).returncode == 0
    inside = server.command("backup", str(server.state / "kept"))
    assert inside.returncode == 1 and "another disk" in inside.stderr


def test_a_server_does_not_start_on_the_state_of_a_newer_one(server: Any) -> None:
    server.stop()
    note = server.state / "state-version"
    note.write_text(json.dumps({"version": "99.0", "parts": {"state": 2}}))
    index = (server.state / "mail").stat().st_mtime_ns
    twistd = [str(Path(server.command_line("x")[0]).parent / "twistd"), "-n", "--pidfile=", "lorrainemail"]
    done = subprocess.run(
        [*twistd, "--state", str(server.state)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=server.directory,
    )
    assert done.returncode == 1
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line]
    assert "was written by lorrainemail 99.0" in line
    assert (server.state / "mail").stat().st_mtime_ns == index
    refused = server.command("import", "mbox", "/dev/null", USERS[0])
    assert refused.returncode == 1 and "99.0" in refused.stderr
