"""A mailbox that Dovecot or Courier served by POP3 is served here under the same unique ids."""

from __future__ import annotations

import os
import poplib
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

POP3 = "/usr/lib/dovecot/pop3"
NOBODY = 65534
BOB = "bob@ours.test"
PASSWORD = "correct horse battery"


def fill(maildir: Path, first: int, count: int) -> None:
    for part in ("new", "cur", "tmp"):
        (maildir / part).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        name = f"{1_700_000_000 + number}.M{number}P1.old:2,S"
        (maildir / "cur" / name).write_text(f"Subject: {number}\n\nbody {number}\n")


def ours(server: Any) -> dict[bytes, bytes]:
    """Unique ids by subject, from our POP3 door."""
    session = poplib.POP3(server.address, 2110, timeout=20)
    session.stls()
    session.user(BOB)
    session.pass_(PASSWORD)
    found = {}
    for line in session.uidl()[1]:
        number, unique = line.split(b" ", 1)
        subject = next(one for one in session.top(int(number), 0)[1] if one.startswith(b"Subject: "))
        found[subject] = unique
    session.quit()
    return found


def theirs(maildir: Path, place: Path) -> dict[bytes, bytes]:
    """The same from Dovecot's POP3 server on the same directory, without a daemon."""
    place.mkdir()
    root = os.getuid() == 0
    uid = NOBODY if root else os.getuid()
    configuration = place / "dovecot.conf"
    configuration.write_text(
        f"base_dir = {place}/run\nstate_dir = {place}/state\nlog_path = {place}/log\nssl = no\n"
        f"mail_location = maildir:{maildir}\nfirst_valid_uid = 1\n"
        f"mail_uid = {uid}\nmail_gid = {uid if root else os.getgid()}\n"
    )
    if root:
        for path in (place, maildir, *maildir.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        for path in (place, maildir, *place.parents, *maildir.parents):
            path.chmod(path.stat().st_mode | 0o011)
    process = subprocess.Popen(
        ["sh", "-c", f"exec env USER=bob HOME={shlex.quote(str(place))} {POP3} -c {configuration}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(b"UIDL\r\n")  # the login process would have greeted us
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"+OK")
        unique = {}
        while (line := process.stdout.readline().rstrip()) != b".":
            number, one = line.split(b" ", 1)
            unique[number] = one
        found = {}
        for number, one in unique.items():
            process.stdin.write(b"TOP %s 0\r\n" % number)
            process.stdin.flush()
            text = b""
            while not text.endswith(b"\r\n.\r\n"):
                text += process.stdout.readline()
            subject = re.search(rb"^Subject: .*(?=\r$)", text, re.MULTILINE)
            assert subject is not None
            found[subject.group()] = one
        process.stdin.write(b"QUIT\r\n")
        process.stdin.flush()
        process.stdout.read()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)
    return found


@pytest.fixture
def tmp_path(passable: Path) -> Path:
    return passable


def test_what_dovecot_called_the_messages_stays_true_here(make_server: Any, tmp_path: Path) -> None:
    if not os.path.exists(POP3):
        pytest.skip("dovecot-pop3d is not installed")
    server = make_server(start=False)
    maildir = server.maildir(BOB)
    fill(maildir, 1, 5)
    before = theirs(maildir, tmp_path / "dovecot")
    assert len(before) == 5
    subprocess.run(["chown", "-R", f"{os.getuid()}:{os.getgid()}", str(maildir)], check=True)
    fill(maildir, 6, 1)
    server.start()
    now = ours(server)
    assert {subject: now[subject] for subject in before} == before
    assert len(set(now.values())) == 6
    # They outlive the index.
    server.stop()
    for path in maildir.parent.rglob("*index*"):
        if path.is_file():
            path.unlink()
    server.start()
    assert ours(server) == now


def test_what_courier_called_the_messages_stays_true_here(make_server: Any) -> None:
    server = make_server(start=False)
    maildir = server.maildir(BOB)
    fill(maildir, 1, 3)
    names = sorted(path.name.partition(":")[0] for path in (maildir / "cur").iterdir())
    (maildir / "courierpop3dsizelist").write_text(
        "/2 3 1234\n" + f"{names[0]} 20 1:1234\n{names[1]} 20 2:1234\n"
    )
    server.start()
    now = ours(server)
    assert (now[b"Subject: 1"], now[b"Subject: 2"]) == (b"UID1-1234", b"UID2-1234")
    assert len(set(now.values())) == 3
