"""The same Maildir tree served by Dovecot, by us, and by Dovecot again: clients notice nothing."""

from __future__ import annotations

import imaplib
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
BOB = "bob@ours.test"
#: Dovecot's IMAP server, which also serves a single user on its standard input.
IMAP = "/usr/lib/dovecot/imap"
#: It refuses to run as root.
NOBODY = 65534

Seen = dict[int, tuple[frozenset[str], bytes]]


class Dovecot:
    """Dovecot's IMAP server on one Maildir, without a daemon."""

    def __init__(self, directory: Path, maildir: Path) -> None:
        self.maildir = maildir
        self.uid = os.getuid() or NOBODY
        directory.mkdir()
        self.configuration = directory / "dovecot.conf"
        self.configuration.write_text(
            f"base_dir = {directory}/run\nstate_dir = {directory}/state\nlog_path = {directory}/log\n"
            f"ssl = no\nmail_location = maildir:{maildir}\nfirst_valid_uid = 1\n"
            f"mail_uid = {self.uid}\nmail_gid = {self.uid if self.uid == NOBODY else os.getgid()}\n"
        )
        self.home = directory
        if self.uid == NOBODY:
            for path in (directory, maildir, *directory.parents, *maildir.parents):
                path.chmod(path.stat().st_mode | 0o011)

    def connect(self) -> imaplib.IMAP4:
        """A session of the one user."""
        if self.uid == NOBODY:
            for path in (self.home, *self.home.rglob("*"), self.maildir, *self.maildir.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        return imaplib.IMAP4_stream(
            f"env USER=bob HOME={shlex.quote(str(self.home))} {IMAP} -c {self.configuration}"
        )


@pytest.fixture
def tmp_path(passable: Path) -> Path:
    return passable


@pytest.fixture
def dovecot(tmp_path: Path) -> Callable[[Path], Dovecot]:
    if not os.path.exists(IMAP):
        pytest.skip("dovecot is not installed")

    def make(maildir: Path) -> Dovecot:
        maildir.mkdir(parents=True, exist_ok=True)
        return Dovecot(tmp_path / "dovecot", maildir)

    return make


def ours(server: Any) -> imaplib.IMAP4:
    client = imaplib.IMAP4(server.address, 2143)
    client.login(BOB, PASSWORD)
    return client


def add(client: imaplib.IMAP4, folder: str, *subjects: str, flags: str = "") -> None:
    for subject in subjects:
        client.append(folder, flags, None, f"Subject: {subject}\r\n\r\nbody\r\n".encode())  # type: ignore[arg-type]


def seen(client: imaplib.IMAP4, folder: str) -> tuple[int, Seen]:
    """UIDVALIDITY, and by UID the flags (without \\Recent) and the message."""
    status, _ = client.select(folder)
    assert status == "OK"
    (validity,) = client.response("UIDVALIDITY")[1]
    found: Seen = {}
    for item in client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])")[1]:
        if isinstance(item, tuple):
            uid, flags = re.search(rb"UID (\d+)", item[0]), re.search(rb"FLAGS \(([^)]*)\)", item[0])
            assert uid is not None and flags is not None
            words = frozenset(flags.group(1).decode().split()) - {"\\Recent"}
            found[int(uid.group(1))] = (words, item[1])
    assert isinstance(validity, bytes)
    return int(validity), found


def new_server(make_server: Any) -> Any:
    return make_server(configuration='[auth]\nplaintext = "loopback"\n', start=False)


def test_a_tree_goes_from_dovecot_to_us_and_back_without_a_changed_uid_or_flag(
    make_server: Any, dovecot: Callable[[Path], Dovecot]
) -> None:
    server = new_server(make_server)
    theirs = dovecot(server.maildir(BOB))
    client = theirs.connect()
    add(client, "INBOX", "one", "two", "three", "four", flags="(\\Seen $Label1)")
    client.create("Projects.&AMk-t&AOk-")
    add(client, "Projects.&AMk-t&AOk-", "deep", flags="(\\Flagged second third)")
    client.select("INBOX")
    client.store("2", "+FLAGS", "\\Deleted")
    client.expunge()
    client.store("1", "+FLAGS", "(\\Answered other)")
    before = seen(client, "INBOX"), seen(client, "Projects.&AMk-t&AOk-")
    client.logout()

    server.start()
    client = ours(server)
    assert (seen(client, "INBOX"), seen(client, '"Projects/&AMk-t&AOk-"')) == before
    add(client, "INBOX", "five", flags="(\\Draft other brand-new)")
    client.select("INBOX")
    client.uid("STORE", "1", "-FLAGS", "\\Seen")
    after = seen(client, "INBOX")
    assert set(after[1]) == {1, 3, 4, 5}
    client.logout()
    assert server.stop() in (0, -15)

    client = theirs.connect()
    assert seen(client, "INBOX") == after
    add(client, "INBOX", "six", flags="(yet-another)")
    client.select("INBOX")
    client.uid("STORE", "3", "+FLAGS", "\\Flagged")
    last = seen(client, "INBOX")
    client.logout()

    server.start()
    client = ours(server)
    assert seen(client, "INBOX") == last
    client.logout()
