"""Programs that people use, against a real server: what they send arrives, what they read was sent."""

from __future__ import annotations

import os
import pty
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
#: A body with the lines that careless servers damage: dots, From, trailing blanks, 8-bit, a long line.
BODY = (
    "Bonjour Bob,\r\n"
    ".\r\n"
    "..two dots\r\n"
    ".one dot\r\n"
    "From the beginning\r\n"
    ">From quoted\r\n"
    "trailing blanks   \r\n"
    "é à ü 漢字\r\n" + "x" * 900 + "\r\n"
    "\r\n"
    "the end\r\n"
).encode()
Tool = Callable[[str], str]


def run(command: list[str], timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a foreign program; its output is the message when it fails."""
    done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, **options)
    assert done.returncode == 0, (
        f"{command[0]}: {done.returncode}\n{done.stdout.decode(errors='replace')[-3000:]}"
        f"\n{done.stderr.decode(errors='replace')[-3000:]}"
    )
    return done


def run_on_terminal(command: list[str], environment: dict[str, str], seconds: float = 60) -> None:
    """Run a full-screen program on a terminal of its own; its screen is the message when it fails."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    screen = b""
    deadline = time.monotonic() + seconds
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    screen += os.read(ours, 65536)
                except OSError:  # the program closed the terminal
                    break
        assert process.wait(5) == 0, screen.decode(errors="replace")[-3000:]
    except subprocess.TimeoutExpired:
        pytest.fail(f"{command[0]} did not end:\n{screen.decode(errors='replace')[-3000:]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(5)
        os.close(ours)


def message(subject: str = "Grüße", sender: str = "carole@elorac.test") -> bytes:
    return (
        f"From: Carole <{sender}>\r\nTo: bob@ours.test\r\nSubject: =?utf-8?B?R3LDvMOfZQ==?=\r\n"
        f"Message-ID: <{subject.encode().hex()}@elorac.test>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0100\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\n"
    ).encode() + BODY


def send(server: Any, data: bytes, sender: str = "carole@elorac.test") -> None:
    """Hand a message to the MX door, for tests whose subject is another door."""
    with smtplib.SMTP(server.address, 2525, timeout=30) as client:
        client.sendmail(sender, ["bob@ours.test"], data, mail_options=["BODY=8BITMIME"])


def body_of(stored: bytes) -> bytes:
    """The body as sent, from a message as a Unix program keeps it."""
    return stored.partition(b"\n\n")[2].replace(b"\n", b"\r\n")


def test_swaks_delivers_to_the_mx_door_over_starttls(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server()
    file = tmp_path / "message"
    # swaks dots lines itself but sends the file's line ends as they are after making them CRLF.
    file.write_bytes(message().replace(b"\r\n", b"\n"))
    done = run(
        [
            tool("swaks"),
            *("--server", f"{server.address}:2525", "--from", "carole@elorac.test"),
            *("--to", "bob@ours.test", "--data", f"@{file}", "-tls"),
        ]
    )
    assert b"250 2.0.0" in done.stdout
    (stored,) = server.wait_for_messages("bob@ours.test", 1)
    # swaks ends its data with an empty line of its own.
    assert body_of(stored).rstrip() == BODY.rstrip()
    assert b"TLSv1.3" in stored and b"with ESMTPS" in stored


def test_swaks_is_refused_as_an_open_relay_would_not(make_server: Any, tool: Tool) -> None:
    server = make_server()
    done = subprocess.run(
        [
            tool("swaks"),
            *("--server", f"{server.address}:2525", "--from", "carole@elorac.test"),
            *("--to", "victim@elsewhere.test"),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 24, done.stdout  # swaks: no RCPT was accepted
    assert b"550 5.7.1" in done.stdout


def test_swaks_submits_with_a_login_and_the_message_is_completed(make_server: Any, tool: Tool) -> None:
    server = make_server(accounts=("bob@ours.test", "carole@ours.test"))
    run(
        [
            tool("swaks"),
            *("--server", f"{server.address}:2465", "-tlsc", "--auth", "PLAIN"),
            *("--auth-user", "carole@ours.test", "--auth-password", PASSWORD),
            *("--from", "carole@ours.test", "--to", "bob@ours.test"),
            *("--data", "From: carole@ours.test\nTo: bob@ours.test\nSubject: hello\n\nhello Bob\n"),
        ]
    )
    (stored,) = server.wait_for_messages("bob@ours.test", 1)
    assert b"\nMessage-ID: " in stored and b"\nDate: " in stored
    assert b"with ESMTPSA" in stored
    assert PASSWORD not in server.log_text()


def test_curl_sends_and_reads_byte_for_byte(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server()
    curl = tool("curl")
    file = tmp_path / "message"
    file.write_bytes(message())
    run(
        [
            curl,
            *("-sS", "--url", f"smtp://{server.address}:2525", "--mail-from", "carole@elorac.test"),
            *("--mail-rcpt", "bob@ours.test", "--upload-file", str(file)),
        ]
    )
    server.wait_for_messages("bob@ours.test", 1)
    login = ["-sS", "-k", "--user", f"bob@ours.test:{PASSWORD}"]
    by_imap = run([curl, *login, f"imaps://{server.address}:2993/INBOX;MAILINDEX=1"]).stdout
    by_pop = run([curl, *login, f"pop3s://{server.address}:2995/1"]).stdout
    assert by_imap.partition(b"\r\n\r\n")[2] == BODY
    assert by_pop.partition(b"\r\n\r\n")[2] == BODY
    assert by_imap == by_pop


def test_curl_verifies_our_certificate_with_our_small_ca(make_server: Any, tool: Tool) -> None:
    server = make_server(hostname="localhost")
    listing = run(
        [
            tool("curl"),
            *("-sS", "--cacert", str(server.ca), "--user", f"bob@ours.test:{PASSWORD}"),
            *("--connect-to", f"localhost:2993:{server.address}:2993", "imaps://localhost:2993/"),
        ]
    ).stdout
    assert b"INBOX" in listing


def test_mutt_reads_and_deletes_by_imap(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server()
    mutt = tool("mutt")
    send(server, message())
    copy = tmp_path / "copy"
    rc = tmp_path / "muttrc"
    rc.write_text(
        f"""set folder="imaps://{server.address}:2993/"
set spoolfile="imaps://{server.address}:2993/INBOX"
set imap_user="bob@ours.test"
set imap_pass="{PASSWORD}"
set ssl_starttls=no
set ssl_verify_host=no
set ssl_verify_dates=no
set certificate_file="{server.ca}"
set mbox_type=mbox
set quit=yes
set delete=yes
set copy=no
set move=no
set confirmappend=no
set confirmcreate=no
set header_cache="{tmp_path}/cache"
set sleep_time=0
"""
    )
    run_on_terminal(
        [
            mutt,
            *("-n", "-F", str(rc), "-e"),
            f'push "<copy-message>{copy}<enter><delete-message><sync-mailbox><quit>"',
        ],
        {**os.environ, "TERM": "xterm", "HOME": str(tmp_path)},
    )
    stored = copy.read_bytes().replace(b"\n>From the", b"\nFrom the").replace(b"\n>>From", b"\n>From")
    assert BODY.replace(b"\r\n", b"\n") in stored
    assert server.messages("bob@ours.test") == []


def fetchmailrc(server: Any, protocol: str, port: int, options: str, tail: str) -> str:
    return (
        f"poll {server.address} with proto {protocol} service {port} {options}\n"
        f' user "bob@ours.test" there with password "{PASSWORD}"\n'
        f" ssl no sslcertck {tail}\n"
    )


@pytest.mark.parametrize(("protocol", "port"), [("pop3", 2995), ("imap", 2993)])
def test_fetchmail_collects_once_and_leaves_nothing(
    make_server: Any, tool: Tool, tmp_path: Path, protocol: str, port: int
) -> None:
    server = make_server()
    fetchmail = tool("fetchmail")
    send(server, message())
    rc = tmp_path / "fetchmailrc"
    out = tmp_path / "out"
    rc.write_text(
        fetchmailrc(server, protocol, port, "", f"""mda "cat >> {out}" no keep no rewrite fetchall""")
    )
    rc.chmod(0o600)
    environment = {**os.environ, "HOME": str(tmp_path), "FETCHMAILHOME": str(tmp_path)}
    run([fetchmail, "-f", str(rc), "--nosyslog", "-v"], env=environment)
    assert BODY.replace(b"\r\n", b"\n") in out.read_bytes().replace(b"\r\n", b"\n")
    assert server.messages("bob@ours.test") == []
    # Exit status 1 of fetchmail: there was no mail.
    again = subprocess.run(
        [fetchmail, "-f", str(rc), "--nosyslog"],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 1, again.stderr


def test_fetchmail_with_keep_sees_a_message_once_by_its_uidl(
    make_server: Any, tool: Tool, tmp_path: Path
) -> None:
    server = make_server()
    fetchmail = tool("fetchmail")
    rc = tmp_path / "fetchmailrc"
    out = tmp_path / "out"
    rc.write_text(fetchmailrc(server, "pop3", 2995, "uidl", f"""mda "cat >> {out}" keep no rewrite"""))
    rc.chmod(0o600)
    environment = {**os.environ, "HOME": str(tmp_path), "FETCHMAILHOME": str(tmp_path)}
    send(server, message("first"))
    run([fetchmail, "-f", str(rc), "--nosyslog"], env=environment)
    server.stop()
    server.start()
    send(server, message("second"))
    run([fetchmail, "-f", str(rc), "--nosyslog"], env=environment)
    assert out.read_bytes().count(b"the end") == 2
    assert len(server.messages("bob@ours.test")) == 2


def test_mbsync_mirrors_both_ways(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server()
    mbsync = tool("mbsync")
    for subject in ("one", "two", "three"):
        send(server, message(subject))
    local = tmp_path / "mirror"
    local.mkdir()
    rc = tmp_path / "mbsyncrc"
    rc.write_text(
        f"""IMAPAccount ours
Host {server.address}
Port 2993
User bob@ours.test
Pass "{PASSWORD}"
SSLType IMAPS
SSLVersions TLSv1.2 TLSv1.3
CertificateFile {server.state}/tls/self-signed.pem

IMAPStore far
Account ours

MaildirStore near
Path {local}/
Inbox {local}/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
"""
    )
    run([mbsync, "-c", str(rc), "-a"])
    copies = sorted((local / "INBOX" / "new").iterdir()) + sorted((local / "INBOX" / "cur").iterdir())
    assert len(copies) == 3
    assert all(body_of(copy.read_bytes()) == BODY for copy in copies)
    # A deletion there is a deletion here; a new message there arrives here.
    copies[0].unlink()
    (local / "INBOX" / "new" / "1.made-by-hand.host").write_bytes(
        b"From: bob@ours.test\nSubject: draft\n\nwritten by the fireside\n"
    )
    run([mbsync, "-c", str(rc), "-a"])
    bodies = [body_of(stored) for stored in server.messages("bob@ours.test")]
    assert sorted(bodies) == sorted([BODY, BODY, b"written by the fireside\r\n"])


def test_msmtp_submits_as_the_mailer_of_mutt_would(make_server: Any, tool: Tool, tmp_path: Path) -> None:
    server = make_server(accounts=("bob@ours.test", "carole@ours.test"))
    run(
        [
            tool("msmtp"),
            *("--file=/dev/null", f"--host={server.address}", "--port=2587", "--tls=on", "--auth=plain"),
            *("--user=carole@ours.test", f"--passwordeval=echo '{PASSWORD}'", "--tls-certcheck=off"),
            *("--from=carole@ours.test", "bob@ours.test"),
        ],
        input=b"From: carole@ours.test\nTo: bob@ours.test\nSubject: hi\n\nhi\n",
        env={**os.environ, "HOME": str(tmp_path)},
    )
    server.wait_for_messages("bob@ours.test", 1)
