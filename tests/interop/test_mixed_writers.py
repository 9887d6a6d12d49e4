"""Eight writers on one mailbox at once: three clients by SMTP, two procmails, mutt, an IMAP and a POP3
session; the server is killed in the middle. Nothing that was acknowledged is lost, doubled or damaged."""

from __future__ import annotations

import imaplib
import os
import poplib
import pty
import random
import re
import select
import smtplib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.ops.files import SYSTEM
from lorrainemail.store import mboxfile, mboxjournal

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
#: Of ten messages, whom three are for; the others stay.
FOR = {0: "mutt", 1: "imap", 2: "pop3"}
USER = "ann@ours.test"


def text_of(number: int) -> bytes:
    lines = b"".join(b"%d and so on\r\n" % number for _ in range(30 + number % 50))
    whom = FOR.get(number % 10, "nobody").encode()
    return b"Subject: number %d for-%b\r\n\r\n%bFrom me\r\nend %d\r\n" % (number, whom, lines, number)


def number_of(text: bytes) -> int:
    """Which message this is; -1 for one that is not whole."""
    text = text.replace(b"\r\n", b"\n")
    found = re.search(rb"(?m)^Subject: number (\d+) for-\w+\n", text)
    if found is None:
        return -1
    number = int(found.group(1))
    body = text_of(number).replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    return number if text.partition(b"\n\n")[2] == body else -1


class Fray:
    """The mailbox, those who write to it, and what they were told."""

    def __init__(self, server: Any, box: Path, directory: Path, messages: int) -> None:
        self.server = server
        self.box = box
        self.directory = directory
        self.waiting = list(range(messages))
        self.accepted: set[int] = set()
        self.again: Counter[int] = Counter()
        self.removed: set[int] = set()
        self.damaged: list[bytes] = []
        self.errors: list[str] = []
        self.done = threading.Event()
        self.lock = threading.Lock()

    def take(self) -> int | None:
        with self.lock:
            return self.waiting.pop() if self.waiting else None

    def deliver(self, send: Callable[[int], None]) -> None:
        while (number := self.take()) is not None:
            try:
                send(number)
                self.accepted.add(number)
            except (OSError, smtplib.SMTPException):
                with self.lock:
                    self.again[number] += 1
                    self.waiting.insert(0, number)
                time.sleep(0.1)

    def by_smtp(self, number: int) -> None:
        with smtplib.SMTP(self.server.address, 2525, timeout=70) as client:
            client.sendmail("carole@far.test", [USER], text_of(number))

    def by_procmail(self, number: int) -> None:
        words = ["procmail", "-f", "carole@far.test", "-m", str(self.directory / "procmailrc")]
        text = text_of(number).replace(b"\r\n", b"\n")
        subprocess.run(words, input=text, check=True, timeout=100, cwd=self.directory)

    def until_done(self, once: Callable[[], None], pause: float) -> None:
        while not self.done.wait(pause):
            try:
                once()
            except (OSError, EOFError, imaplib.IMAP4.error, poplib.error_proto):
                continue  # the server was killed
            except Exception as error:
                self.errors.append(repr(error))
                return

    def whole(self, text: bytes) -> int:
        number = number_of(text)
        if number < 0:
            self.damaged.append(text)
        return number

    def by_imap(self) -> None:
        client = imaplib.IMAP4(self.server.address, 2143, timeout=60)
        try:
            client.login(USER, PASSWORD)
            client.select("INBOX")
            uids = client.uid("SEARCH", "SUBJECT", "for-imap")[1][0].split()
            mine = []
            for uid in uids[:20]:
                parts = client.uid("FETCH", uid.decode(), "(BODY.PEEK[])")[1]
                mine += [self.whole(part[1]) for part in parts if isinstance(part, tuple)]
            client.store("1:*", "+FLAGS.SILENT", "(\\Seen)")
            if mine:
                client.uid("STORE", b",".join(uids[:20]).decode(), "+FLAGS.SILENT", "(\\Deleted)")
                if client.expunge()[0] == "OK":
                    self.removed |= set(mine)
            client.logout()
        finally:
            client.shutdown()

    def by_pop3(self) -> None:
        client = poplib.POP3(self.server.address, 2110, timeout=60)
        try:
            client.user(USER)
            client.pass_(PASSWORD)
            mine = []
            count = client.stat()[0]
            for index in random.sample(range(1, count + 1), min(count, 30)):
                try:
                    text = b"\r\n".join(client.retr(index)[1]) + b"\r\n"
                except poplib.error_proto:
                    continue  # somebody else removed it meanwhile
                number = self.whole(text)
                if number % 10 == 2:
                    client.dele(index)
                    mine.append(number)
            client.quit()
            self.removed |= set(mine)
        finally:
            client.close()

    def by_mutt(self) -> None:
        """Deletes what is for it, on a terminal of its own."""
        keys = 'push "<delete-pattern>~s for-mutt<enter><sync-mailbox><quit>"'
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["mutt", "-n", "-F", str(self.directory / "muttrc"), "-f", str(self.box), "-e", keys],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "HOME": str(self.directory)},
        )
        os.close(theirs)
        began = time.monotonic()
        asked = 2.0
        while process.poll() is None and time.monotonic() < began + 30:
            if time.monotonic() > began + asked:  # where nothing was for it, it forgets the other keys
                asked += 1.0
                os.write(ours, b"q")
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    os.read(ours, 65536)
                except OSError:
                    break
        os.close(ours)
        process.wait(60)


def run(
    make_server: Any, tool: Callable[[str], str], tmp_path: Path, kind: str, messages: int, kills: int
) -> None:
    for name in ("procmail", "mutt"):
        tool(name)
    server = make_server(
        accounts=(),
        configuration='[auth]\nplaintext = "loopback"\n[policy]\nchecks = ["limits", "helo", "loops"]\n',
    )
    added = server.command("account", "add", USER, "--format", kind, "--password-stdin", input=PASSWORD)
    assert added.returncode == 0, added.stderr
    with smtplib.SMTP(server.address, 2525) as client:
        client.sendmail("carole@far.test", [USER], text_of(messages + 3))
    home = server.maildir(USER).parent
    box = home / ("mbox" if kind == "mbox" else "Maildir")
    default = str(box) if kind == "mbox" else f"{box}/"
    (tmp_path / "procmailrc").write_text(f"DEFAULT={default}\nLOCKSLEEP=1\n:0:\n{default}\n")
    (tmp_path / "procmailrc").chmod(0o600)
    (tmp_path / "muttrc").write_text(
        "set mbox_type=mbox\nset quit=yes\nset delete=yes\nset move=no\nset sleep_time=0\nset wait_key=no\n"
        'set folder="/nowhere"\n'
    )
    fray = Fray(server, box, tmp_path, messages)
    senders = [fray.by_smtp] * 3 + [fray.by_procmail] * 2
    threads = [threading.Thread(target=fray.deliver, args=(send,), daemon=True) for send in senders]
    others = [
        threading.Thread(target=fray.until_done, args=(once, pause), daemon=True)
        for once, pause in ((fray.by_imap, 0.2), (fray.by_pop3, 0.3), (fray.by_mutt, 1.0))
    ]
    for thread in (*threads, *others):
        thread.start()
    for kill in range(kills):
        goal = messages * (kill + 1) // (kills + 1)
        deadline = time.monotonic() + 300
        while len(fray.accepted) < goal and time.monotonic() < deadline:
            time.sleep(0.02)
        server.process.kill()
        server.process.wait()
        server.process = None
        server.start()
    for thread in threads:
        thread.join(900)
        assert not thread.is_alive(), "a writer never came to an end"
    fray.done.set()
    for thread in others:
        thread.join(120)
        assert not thread.is_alive(), "a session never came to an end"
    server.stop()
    assert not fray.errors, fray.errors
    assert not fray.damaged, fray.damaged[0][:2000]
    found = Counter(map(number_of, mbox_messages(box) if kind == "mbox" else server.messages(USER)))
    assert found.pop(messages + 3) == 1
    assert -1 not in found, "a damaged message"
    stay = {number for number in range(messages) if number % 10 not in FOR}
    assert fray.accepted == set(range(messages))
    assert not stay - set(found), f"lost: {sorted(stay - set(found))[:10]}"
    for number, count in found.items():
        assert count <= 1 + fray.again[number], f"{number} is there {count} times"
    back = {number for number in fray.removed & set(found) if not fray.again[number]}
    assert not back, f"removed, and there again: {sorted(back)[:10]}"


def mbox_messages(path: Path) -> list[bytes]:
    with path.open("r+b") as file:
        mboxjournal.settle(SYSTEM, str(path), file.fileno())
        entries = mboxfile.parse(file.fileno()).entries.values()
        return [mboxfile.wire_form(mboxfile.segment_of(file.fileno(), entry)) for entry in entries]


@pytest.mark.parametrize("kind", ["mbox", "maildir"])
def test_eight_writers_lose_and_damage_nothing(
    make_server: Any, tool: Any, tmp_path: Path, kind: str
) -> None:
    run(make_server, tool, tmp_path, kind, messages=100, kills=1)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["mbox", "maildir"])
def test_eight_writers_of_10000_messages(make_server: Any, tool: Any, tmp_path: Path, kind: str) -> None:
    run(make_server, tool, tmp_path, kind, messages=10_000, kills=20)
