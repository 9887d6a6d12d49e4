"""Mailboxes moved in and out, by the operator's command, with and without a running server."""

from __future__ import annotations

import imaplib
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "correct horse battery"
BOB = "bob@ours.test"
CAROL = "carol@ours.test"
PLAIN = '[auth]\nplaintext = "loopback"\n'

#: By folder: UID → (flags, internal date, octets).
Seen = dict[str, dict[int, tuple[frozenset[bytes], bytes, bytes]]]


def message(number: int, tail: bytes = b"") -> bytes:
    return f"Subject: message {number}\nFrom: a@b.test\n\nbody {number}\n".encode() + tail


def foreign_maildir(path: Path) -> Path:
    """A tree as Dovecot leaves it: folders, flags, keywords, dates, UIDs."""
    for folder in ("", ".Sent", ".Lists.python&AOk-"):
        for sub in ("cur", "new", "tmp"):
            (path / folder / sub).mkdir(parents=True)
    (path / "subscriptions").write_text("V\t2\n\nSent\nLists\tpython&AOk-\n")
    (path / "dovecot-keywords").write_text("0 $Label1\n1 project-x\n")
    lines = []
    for number in range(1, 6):
        name = f"{1_500_000_000 + number}.M1P1.old"
        letters = ("", "S", "FS", "Sab", "RST")[number - 1]
        file = path / "cur" / f"{name}:2,{letters}"
        file.write_bytes(message(number))
        os.utime(file, (1_400_000_000 + number,) * 2)
        lines.append(f"{number * 10} W{number} :{name}\n")
    (path / "dovecot-uidlist").write_text(
        f"3 V1234567 N77 G0123456789abcdef0123456789abcdef\n{''.join(lines)}"
    )
    (path / "new" / "1600000000.M1P1.old").write_bytes(message(6))
    (path / ".Sent" / "cur" / "1600000001.M2P1.old:2,S").write_bytes(b"Subject: bare\r\r\n\r\nx\r\n")
    (path / ".Lists.python&AOk-" / "cur" / "1600000002.M2P1.old:2,F").write_bytes(message(8, b"no end"))
    return path


def seen(server: Any, user: str) -> Seen:
    """What a client of that account sees."""
    client = imaplib.IMAP4(server.address, 2143)
    client.login(user, PASSWORD)
    try:
        found: Seen = {}
        for line in client.list()[1]:
            assert isinstance(line, bytes)
            name = line.split(b' "/" ')[1].decode()
            if b"\\Noselect" in line or b"\\NonExistent" in line:
                continue
            assert client.select(name, readonly=True)[0] == "OK"
            rows = {}
            for part in client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")[1]:
                if isinstance(part, tuple):
                    head, octets = part
                    uid = int(re.search(rb"UID (\d+)", head).group(1))  # type: ignore[union-attr]
                    flags = frozenset(re.search(rb"FLAGS \(([^)]*)\)", head).group(1).split())  # type: ignore[union-attr]
                    date = re.search(rb'INTERNALDATE "([^"]*)"', head).group(1)  # type: ignore[union-attr]
                    rows[uid] = (flags - {b"\\Recent"}, date, octets)
            found[name.strip('"')] = rows
        return found
    finally:
        client.logout()


def contents(found: Seen) -> dict[str, list[Any]]:
    """The same without UIDs, and without empty folders."""
    return {name: sorted(rows.values(), key=repr) for name, rows in found.items() if rows}


@pytest.fixture
def server(make_server: Callable[..., Any]) -> Any:
    return make_server(accounts=(BOB, CAROL), configuration=PLAIN, start=False)


def check_bob(found: Seen) -> None:
    inbox = found["INBOX"]
    assert list(inbox) == [10, 20, 30, 40, 50, 77]
    assert inbox[10][0] == frozenset()
    assert inbox[30][0] == {b"\\Seen", b"\\Flagged"}
    assert inbox[40][0] == {b"\\Seen", b"$Label1", b"project-x"}
    assert inbox[50][0] == {b"\\Seen", b"\\Answered", b"\\Deleted"}
    assert inbox[20][1] == b"13-May-2014 16:53:22 +0000"
    assert inbox[10][2] == message(1).replace(b"\n", b"\r\n")
    (sent,) = found["Sent"].values()
    assert sent[2] == b"Subject: bare\r\r\n\r\nx\r\n"
    (listed,) = found["Lists/python&AOk-"].values()
    assert listed[0] == {b"\\Flagged"} and listed[2].endswith(b"no end")


@pytest.mark.parametrize("running", [True, False])
def test_a_maildir_is_taken_over_with_flags_dates_and_uids_and_never_twice(
    server: Any, tmp_path: Path, running: bool
) -> None:
    tree = foreign_maildir(tmp_path / "old")
    if running:
        server.start()
    done = server.command("import", "maildir", str(tree), BOB, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "version": 1, "folders": 3, "taken": 8, "known": 0, "gone": 0, "kept": 1, "faults": [],
    }  # fmt: skip
    again = server.command("import", "maildir", str(tree), BOB, "--json")
    assert json.loads(again.stdout)["taken"] == 0 and json.loads(again.stdout)["known"] == 8
    if not running:
        server.start()
    check_bob(seen(server, BOB))
    # What was deleted here does not come back; what is new there does.
    client = imaplib.IMAP4(server.address, 2143)
    client.login(BOB, PASSWORD)
    client.select("INBOX")
    client.expunge()
    client.logout()
    (tree / "new" / "1700000000.M1P1.old").write_bytes(message(9))
    last = server.command("import", "maildir", str(tree), BOB)
    assert last.returncode == 0 and last.stdout.startswith("1 messages taken, 8 were here already"), (
        last.stderr
    )
    assert list(seen(server, BOB)["INBOX"]) == [10, 20, 30, 40, 77, 78]


@pytest.mark.parametrize("form", ["maildir", "mbox"])
def test_what_is_exported_is_the_same_after_an_import(server: Any, tmp_path: Path, form: str) -> None:
    tree = foreign_maildir(tmp_path / "old")
    server.start()
    assert server.command("import", "maildir", str(tree), BOB).returncode == 0
    before = seen(server, BOB)
    out = tmp_path / "out"
    done = server.command("export", form, BOB, str(out))
    assert done.returncode == 0, done.stderr
    done = server.command("import", form, str(out), CAROL)
    assert done.returncode == 0, done.stderr
    after = seen(server, CAROL)
    assert contents(after) == contents(before)
    assert list(after["INBOX"]) == list(before["INBOX"])


def test_a_running_server_is_a_source(server: Any, tmp_path: Path, make_server: Callable[..., Any]) -> None:
    tree = foreign_maildir(tmp_path / "old")
    server.start()
    assert server.command("import", "maildir", str(tree), BOB).returncode == 0
    other = make_server("mail.new.test", ("new.test",), ("dan@new.test",), PLAIN)
    words = ("import", "imap", f"{server.address}:2143", "dan@new.test", "--login", BOB, "--password-stdin")
    refused = other.command(*words, "--security", "tls", input=f"{PASSWORD}\n")
    assert refused.returncode == 1
    wrong = other.command(*words, "--security", "starttls", input=f"{PASSWORD}\n")
    assert wrong.returncode == 1 and "cannot be trusted" in wrong.stderr
    other_words = (*words, "--security", "none")
    done = other.command(*other_words, input=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    before, after = seen(server, BOB), seen(other, "dan@new.test")
    assert contents(after) == contents(before)
    assert list(after["INBOX"]) == list(before["INBOX"])
    again = other.command(*other_words, "--json", input=f"{PASSWORD}\n")
    assert json.loads(again.stdout)["taken"] == 0


def test_an_import_that_is_killed_goes_on_where_it_was(server: Any, tmp_path: Path) -> None:
    tree = tmp_path / "old"
    for sub in ("cur", "new", "tmp"):
        (tree / sub).mkdir(parents=True)
    for number in range(1200):
        (tree / "cur" / f"{1_500_000_000 + number}.M1P1.old:2,S").write_bytes(message(number))
    server.start()
    words = [*server.command_line("import"), "maildir", str(tree), BOB, "--quiet"]
    cur = server.maildir(BOB) / "cur"
    for enough in (200, 600):
        process = subprocess.Popen(words, cwd=server.directory, stdout=subprocess.DEVNULL)
        server.wait(lambda: cur.is_dir() and len(os.listdir(cur)) >= enough, "messages to be taken")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(os.listdir(cur)) < 1200
    done = server.command("import", "maildir", str(tree), BOB, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["taken"] + found["known"] == 1200
    subjects = [octets for _, _, octets in seen(server, BOB)["INBOX"].values()]
    assert len(subjects) == len(set(subjects)) == 1200
    assert not [name for name in os.listdir(server.state / "spill") if name.startswith("import-")]


def test_many_accounts_by_a_pattern_and_by_a_mapping_file(server: Any, tmp_path: Path) -> None:
    for user in ("bob", "carol", "nobody"):
        foreign_maildir(tmp_path / "vmail" / "ours.test" / user / "Maildir")
    done = server.command("import", "maildir", "--pattern", f"{tmp_path}/vmail/%d/%n/Maildir", "--json")
    assert done.returncode == 1 and "nobody@ours.test: there is no such account" in done.stderr
    assert json.loads(done.stdout)["taken"] == 16
    mapping = tmp_path / "map"
    mapping.write_text(f"# who, from where\n{BOB} '{tmp_path}/vmail/ours.test/bob/Maildir'\n")
    done = server.command("import", "maildir", "--map", str(mapping), "--folder", "Sent", "--json")
    assert json.loads(done.stdout) | {"faults": []} == {
        "version": 1, "folders": 1, "taken": 0, "known": 1, "gone": 0, "kept": 0, "faults": [],
    }  # fmt: skip
    server.start()
    check_bob(seen(server, BOB))
    check_bob(seen(server, CAROL))
    out = tmp_path / "all"
    assert server.command("export", "mbox", "all", str(out)).returncode == 0
    assert (out / "ours.test" / "bob" / "INBOX.mbox").exists()


def test_an_account_kept_as_mbox_takes_messages(server: Any, tmp_path: Path) -> None:
    added = server.command(
        "account", "add", "eve@ours.test", "--format", "mbox", "--password-stdin", input=PASSWORD
    )
    assert added.returncode == 0, added.stderr
    tree = foreign_maildir(tmp_path / "old")
    server.start()
    for account in ("eve@ours.test", BOB):
        done = server.command("import", "maildir", str(tree), account)
        assert done.returncode == 0, done.stderr
    assert contents(seen(server, "eve@ours.test")) == contents(seen(server, BOB))
    again = server.command("import", "maildir", str(tree), "eve@ours.test", "--json")
    assert json.loads(again.stdout)["taken"] == 0


def test_an_import_without_a_server_ends_quietly_at_a_ctrl_c(server: Any, tmp_path: Path) -> None:
    tree = tmp_path / "old"
    for sub in ("cur", "new", "tmp"):
        (tree / sub).mkdir(parents=True)
    for number in range(900):
        (tree / "cur" / f"{1_500_000_000 + number}.M1P1.old:2,S").write_bytes(message(number))
    words = [*server.command_line("import"), "maildir", str(tree), BOB, "--quiet"]
    process = subprocess.Popen(words, cwd=server.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    cur = server.maildir(BOB) / "cur"
    server.wait(lambda: cur.is_dir() and len(os.listdir(cur)) >= 200, "messages to be taken")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (130, b"", b"")
    done = server.command("import", "maildir", str(tree), BOB, "--json", "--quiet")
    found = json.loads(done.stdout)
    assert found["taken"] + found["known"] == 900 and found["known"] >= 200
