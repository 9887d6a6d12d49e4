"""IMAP's extensions as foreign clients use them."""

from __future__ import annotations

import imaplib
import os
import pty
import re
import select
import smtplib
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

PASSWORD = "correct horse battery"
Tool = Callable[[str], str]


def send(server: Any, subject: str, more: str = "") -> None:
    text = (
        f"From: Carole <carole@elorac.test>\r\nTo: bob@ours.test\r\nSubject: {subject}\r\n{more}\r\ntext\r\n"
    )
    with smtplib.SMTP(server.address, 2525, timeout=30) as client:
        client.sendmail("carole@elorac.test", ["bob@ours.test"], text)


def connect(server: Any) -> imaplib.IMAP4:
    context = ssl.create_default_context(cafile=server.ca)
    context.check_hostname = False
    client = imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=30)
    client.login("bob@ours.test", PASSWORD)
    return client


def terminal(command: list[str], environment: dict[str, str]) -> None:
    """Run a full-screen program on a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    screen = b""
    deadline = time.monotonic() + 60
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    screen += os.read(ours, 65536)
                except OSError:
                    break
        assert process.wait(5) == 0, screen.decode(errors="replace")[-3000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(5)
        os.close(ours)


def test_neomutt_comes_back_with_qresync(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server()
    neomutt = tool("neomutt")
    for number in range(4):
        send(server, f"message {number}")
    rc = tmp_path / "neomuttrc"
    (tmp_path / "cache").mkdir()
    rc.write_text(
        f"""set folder="imaps://{server.address}:2993/"
set spoolfile="imaps://{server.address}:2993/INBOX"
set imap_user="bob@ours.test"
set imap_pass="{PASSWORD}"
set ssl_starttls=no
set ssl_verify_host=no
set certificate_file="{server.ca}"
set imap_condstore=yes
set imap_qresync=yes
set header_cache="{tmp_path}/cache/"
set quit=yes
set delete=yes
set sleep_time=0
"""
    )
    environment = {**os.environ, "TERM": "xterm", "HOME": str(tmp_path)}

    def visit(keys: str, log: str) -> str:
        debug = tmp_path / log
        keys = f'push "{keys}"'
        terminal([neomutt, "-n", "-F", str(rc), "-d", "3", "-l", str(debug), "-e", keys], environment)
        return Path(f"{debug}0").read_text(errors="replace")

    first = visit("<quit>", "first")
    assert "ENABLE QRESYNC" in first and "ENABLE UTF8=ACCEPT" in first
    other = connect(server)
    other.select()
    other.store("2", "+FLAGS", "(\\Deleted)")
    other.expunge()
    other.store("1", "+FLAGS", "(\\Flagged)")
    other.logout()
    second = visit("<first-entry><delete-message><sync-mailbox><quit>", "second")
    assert re.search(r"UID FETCH 1:4 \(FLAGS\) \(CHANGEDSINCE \d+ VANISHED\)", second), second[-2000:]
    assert "Handling VANISHED" in second
    assert len(server.messages("bob@ours.test")) == 2


def test_imaplib_sorts_threads_and_asks_for_its_quota(make_server: Any) -> None:
    server = make_server()
    send(server, "b", "Message-ID: <1@elorac.test>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0100\r\n")
    send(server, "a", "Message-ID: <2@elorac.test>\r\nDate: Sun, 22 Nov 2026 09:00:00 +0100\r\n")
    send(server, "Re: b", "Message-ID: <3@elorac.test>\r\nReferences: <1@elorac.test>\r\n")
    client = connect(server)
    client.select()
    assert client.sort("(SUBJECT DATE)", "UTF-8", "ALL")[1] == [b"2 1 3"]
    assert client.thread("REFERENCES", "UTF-8", "ALL")[1] == [b"(2)(1 3)"]
    assert client.uid("SORT", "(REVERSE SUBJECT)", "UTF-8", "ALL")[1] == [b"1 3 2"]
    assert client.getquotaroot("INBOX")[0] == "OK"
    kind, data = client.fetch("1", "(EMAILID SAVEDATE MODSEQ PREVIEW BINARY.SIZE[1])")
    assert kind == "OK" and b"MODSEQ (" in b"".join(part for part in data if isinstance(part, bytes))
    assert client.append("INBOX", None, None, "Subject: é\r\n\r\nx\r\n".encode())[0] == "OK"
    client.close()
    assert client.enable("UTF8=ACCEPT")[0] == "OK"
    client.select()
    assert client.search(None, 'SUBJECT "é"')[1] == [b"4"]
    client.logout()


def test_imaplib_puts_a_message_together_from_another(make_server: Any) -> None:
    server = make_server()
    send(server, "old", "Message-ID: <1@elorac.test>\r\n")
    client = connect(server)
    together = 'CATENATE (URL "/INBOX/;UID=1/;SECTION=HEADER" URL "/INBOX/;UID=1")'
    kind, data = client._simple_command("APPEND", "INBOX", together)
    assert kind == "OK", data
    assert client._simple_command("APPEND", "INBOX", 'CATENATE (URL "/INBOX/;UID=9")')[0] == "NO"
    client.select()
    found = client.fetch("1:2", "(BODY.PEEK[HEADER] BODY.PEEK[])")[1]
    parts = [item[1] for item in found if isinstance(item, tuple)]
    assert parts[3] == parts[0] + parts[1]
    client.logout()


def test_imaplib_shares_a_folder_notes_metadata_and_searches_everywhere(make_server: Any) -> None:
    server = make_server()
    send(server, "=?utf-8?q?R=C3=A9union?=")
    client = connect(server)
    assert client.create("Shared")[0] == "OK"
    assert client.setacl("Shared", "anyone", "lr")[0] == "OK"
    assert b"anyone lr" in client.getacl("Shared")[1][0]
    assert client.myrights("Shared")[0] == "OK"
    assert client.xatom("SETMETADATA", "INBOX", '(/private/comment "mine")')[0] == "OK"
    assert client.xatom("GETMETADATA", "INBOX", "/private/comment")[0] == "OK"
    assert b'"mine"' in b"".join(client.untagged_responses["METADATA"])
    assert client.xatom("ESEARCH", "IN (personal) RETURN (COUNT)", "SUBJECT", "message")[0] == "OK"
    assert client.xatom("NOTIFY", "SET (selected (MessageNew MessageExpunge))")[0] == "OK"
    client.select()
    assert client.search(None, 'FUZZY SUBJECT "reunion"')[1] == [b"1"]
    client.logout()
