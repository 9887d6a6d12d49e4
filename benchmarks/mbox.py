"""How fast a large mbox is: the whole server, POP3 and IMAP over a socket, from no index to a restart.

Writes one mbox file (1 GB of 100,000 messages unless told otherwise), starts a server as shipped on loopback
and measures what a client waits for, beside the goals for that size ("must"): the first opening, later ones,
after a restart, one message by RETR, and what a delivery by another program, one of ours, a flag and an
expunge at the end cost an open mailbox.

    python benchmarks/mbox.py [--messages 100000] [--size 10000] [--directory DIR] [--keep]
"""

from __future__ import annotations

import argparse
import fcntl
import imaplib
import os
import poplib
import random
import re
import shutil
import signal
import smtplib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from argon2 import PasswordHasher

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
USER = f"karl@{DOMAIN}"
PASSWORD = "correct horse battery"
PATIENCE = 300.0
RETRIEVED = 50

#: Seconds for 1 GB of 100,000 messages.
MUST = {
    "first opening": 5.0,
    "next opening": 0.050,
    "after a restart": 0.050,
    "one message by RETR": 0.005,
}


def write_mbox(path: Path, messages: int, size: int) -> None:
    """The messages, the same ones each time."""
    chance = random.Random(1)
    lines = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz     ", k=70)) for _ in range(997)]
    with open(path, "wb", buffering=1 << 20) as file:
        for number in range(messages):
            when = time.gmtime(1_700_000_000 + number * 60)
            head = (
                f"From carole@elorac.fr {time.asctime(when)}\n"
                f"Received: from mx{number % 7}.elorac.fr by mail.{DOMAIN} with ESMTPS id {number:x};\n"
                f"\t{time.strftime('%a, %d %b %Y %H:%M:%S +0000', when)}\n"
                f"From: Carole <carole{number % 400}@elorac.fr>\nTo: Karl <{USER}>\n"
                f"Subject: Devis numero {number}\n"
                f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S +0000', when)}\n"
                f"Message-ID: <{number}.{chance.getrandbits(64):x}@elorac.fr>\n"
                "MIME-Version: 1.0\nContent-Type: text/plain; charset=us-ascii\n\n"
            )
            count = max(0, size - len(head)) // 71
            first = number % 997
            body = "\n".join(lines[(first + at) % 997] for at in range(count))
            file.write(f"{head}{body}\n\n".encode())
        file.flush()
        os.fsync(file.fileno())  # its writing out is not what is measured


class Server:
    """The server as shipped, on a state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "log"
        self.ports = {name: _free_port() for name in ("smtp", "pop3", "imap")}
        self.process: subprocess.Popen[bytes] | None = None
        self.home.mkdir(parents=True, mode=0o700)
        hashed = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
        (self.state / "accounts").write_text(f"{USER}:{{ARGON2ID}}{hashed}::::::userdb_mail=mbox:~/mbox\n")
        doors = "".join(f"{name} = ['tcp:{port}:interface={HOST}']\n" for name, port in self.ports.items())
        (self.state / "lorrainemail.toml").write_text(
            f'hostname = "mail.{DOMAIN}"\nlocal_domains = ["{DOMAIN}"]\n[listen]\n{doors}'
            '[auth]\nplaintext = "loopback"\n'
        )

    @property
    def home(self) -> Path:
        return self.state / "mail" / DOMAIN / "karl"

    def start(self) -> None:
        words = [str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile="]
        words += [f"--rundir={self.directory}", "lorrainemail", f"--state={self.state}"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with socket.create_connection((HOST, self.ports["imap"]), timeout=5) as connection:
                    if connection.recv(4) == b"* OK":
                        return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE)

    def cpu(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        assert self.process is not None
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        return int(found.group(1)) / 1024 if found else 0.0

    def pop3(self) -> poplib.POP3:
        session = poplib.POP3(HOST, self.ports["pop3"], timeout=PATIENCE)
        session.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session.user(USER)
        return session


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def opening(server: Server) -> float:
    """Seconds that the password's answer takes, which opens the mailbox (a proven login is quick)."""
    session = server.pop3()
    seconds = timed(lambda: session.pass_(PASSWORD))
    session.quit()
    return seconds


def tell(what: str, seconds: float) -> None:
    must = MUST.get(what)
    words = "" if must is None else f"   must {must * 1000:,.0f}: {'kept' if seconds <= must else 'MISSED'}"
    print(f"{what:40} {seconds * 1000:10,.1f} ms{words}", flush=True)


def measure(server: Server, messages: int) -> None:
    mbox = server.home / "mbox"
    server.start()
    connection = imaplib.IMAP4(HOST, server.ports["imap"])
    connection.login(USER, PASSWORD)  # pays for the password
    before = server.resident()
    began = server.cpu()
    tell("first opening", timed(lambda: connection.select("INBOX")))
    tell("  of it CPU", server.cpu() - began)
    print(f"{'memory, grown by':40} {server.resident() - before:10,.1f} MiB")
    tell("next opening", statistics.median(timed(lambda: connection.select("INBOX")) for _ in range(5)))
    tell("next opening by POP3", statistics.median(opening(server) for _ in range(5)))
    session = server.pop3()
    session.pass_(PASSWORD)
    assert session.stat()[0] == messages
    chosen = random.Random(2).sample(range(1, messages + 1), min(RETRIEVED, messages))
    tell("one message by RETR", statistics.median(timed(lambda n=n: session.retr(n)) for n in chosen))
    session.quit()
    session.close()
    with open(mbox, "ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(b"From x@y.test Mon Jan  5 10:11:12 2026\nSubject: by another program\n\ntext\n\n")
    tell("NOOP after another program's append", timed(connection.noop))
    with smtplib.SMTP(HOST, server.ports["smtp"], timeout=PATIENCE) as client:
        letter = "Subject: ours\r\n\r\ntext\r\n"
        tell("a delivery of ours", timed(lambda: client.sendmail("", [USER], letter)))
    tell("NOOP after it", timed(connection.noop))
    last = str(messages + 2)
    tell("STORE", timed(lambda: connection.store(last, "+FLAGS", "(\\Deleted)")))
    tell("EXPUNGE of the last message", timed(connection.expunge))
    connection.logout()
    server.stop()
    server.start()
    connection = imaplib.IMAP4(HOST, server.ports["imap"])
    connection.login(USER, PASSWORD)
    tell("after a restart", timed(lambda: connection.select("INBOX")))
    connection.store("1", "+FLAGS", "(\\Deleted)")
    tell("EXPUNGE of the first message", timed(connection.expunge))
    connection.logout()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=10_000, help="octets of a message")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="lorrainemail-mbox-"))
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(directory)
    try:
        write_mbox(server.home / "mbox", arguments.messages, arguments.size)
        measure(server, arguments.messages)
    finally:
        server.stop()
        if not arguments.keep:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
