"""From a running Dovecot to us by IMAP over TLS, and out again into a Maildir that Dovecot serves."""

from __future__ import annotations

import imaplib
import importlib.util
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
BOB = "bob@ours.test"
ROOT = Path(__file__).parents[2]

Seen = dict[str, tuple[bytes, dict[int, tuple[frozenset[bytes], bytes, bytes]]]]


def benchmark() -> Any:
    """The benchmark of imports, which knows how to start a Dovecot."""
    found = importlib.util.spec_from_file_location("import_large", ROOT / "benchmarks" / "import_large.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture
def dovecot(passable: Path, tool: Callable[[str], str]) -> Iterator[tuple[int, Path]]:
    tool("dovecot")
    if os.getuid() != 0:
        pytest.skip("a mount namespace needs root")
    maildir = passable / "old"
    for sub in ("cur", "new", "tmp"):
        (maildir / sub).mkdir(parents=True)
    process, port = benchmark().start_dovecot(passable, maildir)
    yield port, passable
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def seen(client: imaplib.IMAP4) -> Seen:
    """(UIDVALIDITY, by UID flags, date, octets) of every folder that has messages."""
    found: Seen = {}
    for line in client.list()[1]:
        assert isinstance(line, bytes)
        match = re.match(rb'\(([^)]*)\) "(.)" "?([^"]*)"?$', line)
        assert match is not None
        if b"\\Noselect" in match.group(1):
            continue
        name = match.group(3)
        assert client.select(b'"' + name + b'"', readonly=True)[0] == "OK"  # type: ignore[arg-type]
        validity = client.response("UIDVALIDITY")[1][0]
        rows = {}
        for part in client.uid("FETCH", "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])")[1]:
            if isinstance(part, tuple):
                uid = int(re.search(rb"UID (\d+)", part[0]).group(1))  # type: ignore[union-attr]
                words = re.search(rb"FLAGS \(([^)]*)\)", part[0]).group(1).split()  # type: ignore[union-attr]
                date = re.search(rb'INTERNALDATE "([^"]*)"', part[0]).group(1)  # type: ignore[union-attr]
                rows[uid] = (frozenset(words) - {b"\\Recent"}, date, part[1])
        if rows:
            found[name.decode().replace(match.group(2).decode(), "/")] = (validity or b"", rows)  # type: ignore[assignment]
    client.logout()
    return found


def test_all_that_dovecot_has_is_here_and_dovecot_can_have_it_back(
    dovecot: tuple[int, Path], make_server: Callable[..., Any]
) -> None:
    port, directory = dovecot
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    client = imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=60)
    client.login(BOB, "secret")
    for folder in ("Sent", "Projets.&AOk-t&AOk-", '"a b"'):
        assert client.create(folder)[0] == "OK"
        client.subscribe(folder)
    flags = ("", "\\Seen", "\\Flagged \\Answered $Label1", "\\Draft projet-x", "\\Deleted \\Seen")
    for number in range(40):
        folder = ("INBOX", "Sent", "Projets.&AOk-t&AOk-", '"a b"')[number % 4]
        octets = f"Subject: {number}\r\nFrom: a@b.test\r\n\r\n".encode() + b"x" * (number * 397) + b"\r\n"
        date = f'"{number % 28 + 1:2d}-Feb-2019 10:00:{number:02d} +0100"'
        client.append(folder, f"({flags[number % 5]})", date, octets)  # type: ignore[arg-type]
    big = b"Subject: big\r\n\r\n" + b"a line of some length, again and again\r\n" * 250_000
    client.append("INBOX", "", '" 1-Mar-2019 00:00:00 +0000"', big)  # type: ignore[arg-type]
    client.select("INBOX")
    client.uid("STORE", "2,5", "+FLAGS", "(\\Deleted)")
    client.expunge()
    before = seen(client)
    assert len(before) == 4

    server = make_server(configuration='[auth]\nplaintext = "loopback"\n')
    words = (
        "import",
        "imap",
        f"localhost:{port}",
        BOB,
        "--password-stdin",
        "--ca",
        str(directory / "ca.pem"),
    )
    done = server.command(*words, "--json", input="secret\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["taken"] == sum(len(rows) for _, rows in before.values())
    ours = imaplib.IMAP4(server.address, 2143, timeout=60)
    ours.login(BOB, PASSWORD)
    after = seen(ours)
    utc = {name: {uid: (row[0], row[2]) for uid, row in rows.items()} for name, (_, rows) in before.items()}
    assert {
        name: {uid: (row[0], row[2]) for uid, row in rows.items()} for name, (_, rows) in after.items()
    } == utc
    assert {name: validity for name, (validity, _) in after.items()} == {
        name: validity for name, (validity, _) in before.items()
    }
    dates = {imaplib.Internaldate2tuple(b'INTERNALDATE "%b"' % row[1]) for row in before["INBOX"][1].values()}
    assert dates == {
        imaplib.Internaldate2tuple(b'INTERNALDATE "%b"' % row[1]) for row in after["INBOX"][1].values()
    }
    again = server.command(*words, "--json", input="secret\n")
    assert json.loads(again.stdout)["taken"] == 0

    # Back: Dovecot serves what was exported, UIDs and all.
    out = directory / "out"
    assert server.command("export", "maildir", BOB, str(out)).returncode == 0
    os.rename(directory / "old", directory / "older")
    os.rename(out, directory / "old")
    subprocess.run(["chown", "-R", "nobody:nogroup", str(directory / "old")], check=True)
    client = imaplib.IMAP4_SSL("localhost", port, ssl_context=context, timeout=60)
    client.login(BOB, "secret")
    assert seen(client) == before


def test_fail2ban_finds_refused_logins(tool: Callable[[str], str], make_server: Callable[..., Any]) -> None:
    regex = tool("fail2ban-regex")
    server = make_server(configuration='[auth]\nplaintext = "loopback"\n')
    for name in (BOB, "nobody@ours.test"):
        client = imaplib.IMAP4(server.address, 2143, timeout=60)
        with pytest.raises(imaplib.IMAP4.error):
            client.login(name, "wrong")
        client.logout()
    with socket.create_connection((server.address, 2110), timeout=30) as pop:
        pop.sendall(b"USER bob@ours.test\r\nPASS Login refused at imap from 192.0.2.1: x\r\nQUIT\r\n")
        while pop.recv(4096):
            pass
    server.wait(lambda: server.log_text().count("Login refused") >= 3, "the log")
    jail = ROOT / "etc" / "fail2ban" / "filter.d" / "lorrainemail.conf"
    done = subprocess.run(
        [regex, str(server.log), str(jail), "--print-all-matched"], capture_output=True, text=True, timeout=60
    )
    assert "3 matched" in done.stdout, done.stdout
    assert "192.0.2.1" not in done.stdout
