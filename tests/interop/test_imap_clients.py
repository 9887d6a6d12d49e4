"""Mail programs that keep, sort and collect mail by IMAP, against a real server."""

from __future__ import annotations

import os
import select
import smtplib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
PATIENCE = 60.0
PLAIN = '[auth]\nplaintext = "loopback"\n'
Tool = Callable[[str], str]


def send(server: Any, subject: str, body: str = "text") -> None:
    text = f"From: carole@elorac.test\r\nTo: bob@ours.test\r\nSubject: {subject}\r\n\r\n{body}\r\n"
    with smtplib.SMTP(server.address, 2525, timeout=30) as client:
        client.sendmail("carole@elorac.test", ["bob@ours.test"], text)


def run(command: list[str], home: Path) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(home)},
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-3000:]
    return done


def folder(server: Any, name: str) -> list[bytes]:
    """The messages of a folder of Bob's, from the disk."""
    path = server.state / "mail" / "ours.test" / "bob" / "Maildir" / (f".{name}" if name else "")
    return [file.read_bytes() for part in ("new", "cur") for file in sorted((path / part).glob("*"))]


def test_imapfilter_sorts_a_mailbox(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    imapfilter = tool("imapfilter")
    server = make_server(configuration=PLAIN)
    send(server, "offer one", "buy the réunion".replace("é", "e"))
    send(server, "paint")
    send(server, "offer two")
    script = tmp_path / "config.lua"
    script.write_text(
        f"""
options.timeout = 30
options.starttls = false
options.create = true
options.subscribe = true
account = IMAP {{ server = '{server.address}', port = 2143, username = 'bob@ours.test',
                  password = '{PASSWORD}' }}
offers = account.INBOX:contain_subject('offer')
print(#offers)
offers:move_messages(account['Work/Offers'])
account.INBOX:contain_body('text'):mark_flagged()
print(#account['Work/Offers']:is_unseen())
print(#account['Work/Offers']:match_body('reunion'))
exists, unread = account.INBOX:check_status()
print(exists)
"""
    )
    done = run([imapfilter, "-c", str(script)], tmp_path)
    numbers = [line for line in done.stdout.decode().split("\n") if line.strip().isdigit()]
    assert numbers == ["2", "2", "1", "1"], done.stdout
    assert sorted(b"offer" in text for text in folder(server, "Work.Offers")) == [True, True]
    (kept,) = (server.state / "mail/ours.test/bob/Maildir/cur").glob("*")
    assert "F" in kept.name.rpartition(",")[2]


def test_offlineimap_mirrors_both_ways(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    offlineimap = tool("offlineimap")
    server = make_server(configuration=PLAIN)
    send(server, "first")
    send(server, "second")
    (tmp_path / "rc").write_text(
        f"""[general]
accounts = bob
metadata = {tmp_path}/meta
ui = quiet
[Account bob]
localrepository = here
remoterepository = there
[Repository here]
type = Maildir
localfolders = {tmp_path}/mail
[Repository there]
type = IMAP
remotehost = {server.address}
remoteport = 2143
remoteuser = bob@ours.test
remotepass = {PASSWORD}
ssl = no
starttls = no
auth_mechanisms = PLAIN
"""
    )
    command = [offlineimap, "-o", "-c", str(tmp_path / "rc")]
    run(command, tmp_path)
    mail = tmp_path / "mail" / "INBOX"
    fetched = [file for part in ("new", "cur") for file in (mail / part).glob("*")]
    assert len(fetched) == 2
    # here: one is read, one is deleted, one is new
    first = next(file for file in fetched if b"Subject: first" in file.read_bytes())
    next(file for file in fetched if file != first).unlink()
    first.rename(mail / "cur" / (first.name.partition(":")[0] + ":2,S"))
    (mail / "new" / "1.mine.here").write_bytes(b"From: bob@ours.test\nSubject: mine\n\nx\n")
    # there: a folder more
    (server.state / "mail/ours.test/bob/Maildir/.Work").mkdir(mode=0o700)
    for part in ("tmp", "new", "cur"):
        (server.state / "mail/ours.test/bob/Maildir/.Work" / part).mkdir(mode=0o700)
    run(command, tmp_path)
    subjects = sorted(text.split(b"Subject: ")[1].split(b"\n")[0] for text in folder(server, ""))
    assert subjects == [b"first", b"mine"]
    kept = [path.name for path in (server.state / "mail/ours.test/bob/Maildir/cur").glob("*")]
    assert any(name.rpartition(",")[2] == "S" for name in kept)
    assert (tmp_path / "mail" / "Work" / "cur").is_dir()


def test_fetchmail_hears_of_mail_by_idle(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    fetchmail = tool("fetchmail")
    server = make_server(configuration=PLAIN)
    out = tmp_path / "out"
    rc = tmp_path / "rc"
    rc.write_text(
        f"poll {server.address} with proto imap service 2143\n"
        f' user "bob@ours.test" there with password "{PASSWORD}"\n'
        f' sslproto "" idle mda "cat >> {out}" no keep no rewrite fetchall\n'
    )
    rc.chmod(0o600)
    send(server, "before")
    process = subprocess.Popen(
        [fetchmail, "-f", str(rc), "--nosyslog", "--nodetach", "-v"],
        env={**os.environ, "HOME": str(tmp_path), "FETCHMAILHOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    said = b""
    deadline = time.monotonic() + PATIENCE
    sent = False
    try:
        while time.monotonic() < deadline and not (out.exists() and b"afterwards" in out.read_bytes()):
            if select.select([process.stdout], [], [], 0.1)[0]:
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    break
                said += chunk
            if not sent and b"idling" in said:
                send(server, "afterwards")
                sent = True
        assert sent, said.decode(errors="replace")[-3000:]
        assert b"before" in out.read_bytes() and b"afterwards" in out.read_bytes()
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
