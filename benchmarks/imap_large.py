"""How fast one large folder is for one client: the whole server, over a socket, from no index to a restart.

Writes a Maildir of some 3 KiB messages (threads, several character sets and encodings, a rare word in one of
a thousand), starts a server as shipped on loopback, and measures what a client waits for: SELECT without an
index, warm and after a restart, FETCH of flags and of envelopes, searches, STORE, SORT and THREAD. Each is
printed beside its goal ("must / aim") for 100,000 messages and the server's CPU; a second client's NOOP is
timed meanwhile.

    python benchmarks/imap_large.py [--messages 100000] [--directory DIR] [--texts] [--keep]

``--texts`` also waits for the text index and searches in it. Run it on an otherwise quiet machine, on the
kind of disk that mail will lie on.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import os
import quopri
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from argon2 import PasswordHasher

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
USER = f"karl@{DOMAIN}"
PASSWORD = "correct horse battery"
PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")

RARE = "quincaillerie"
COMMON = "volet"

#: Seconds for 100,000 messages: must, aim.
GOALS = {
    "SELECT, no index": (1.0, 0.3),
    "SELECT, warm": (0.005, 0.0025),
    "SELECT, after a restart": (0.040, 0.020),
    "FETCH 1:* (UID FLAGS)": (0.100, 0.050),
    "FETCH envelopes, first sight": (6.0, 1.5),
    "FETCH envelopes, warm": (0.35, 0.2),
    "FETCH envelopes, after a restart": (0.35, 0.2),
    "SEARCH HEADER": (0.5, 0.3),
    "SEARCH SUBJECT": (0.15, 0.1),
    "SEARCH TEXT, indexed, rare": (0.5, 0.5),
    "SEARCH TEXT, indexed, nowhere": (0.5, 0.5),
    "STORE 1:* +FLAGS.SILENT": (1.4, 1.0),
    "THREAD REFERENCES": (0.5, 0.5),
    "THREAD ORDEREDSUBJECT": (0.5, 0.5),
    "SORT (SUBJECT)": (0.5, 0.5),
    "SORT (REVERSE DATE)": (0.5, 0.5),
    "SORT (FROM)": (0.5, 0.5),
}


# -- the mail --------------------------------------------------------------------------------------------


def write_maildir(path: Path, messages: int) -> None:
    """The messages, the same ones each time."""
    chance = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgk"
    words = [
        "".join(chance.choice(letters[: chance.randint(6, 22)]) for _ in range(chance.randint(2, 10)))
        for _ in range(20_000)
    ] + ["réunion", "fenêtre", "été", COMMON, "façade"] * 40
    weights = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
    names = [f"{words[n].capitalize()} {words[n + 500].capitalize()}" for n in range(400)]
    for sub in ("tmp", "new", "cur"):
        (path / sub).mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    subjects: list[str] = []
    start = 1_700_000_000
    for number in range(messages):
        answers = number > 10 and chance.random() < 0.5
        parent = chance.randrange(max(0, number - 300), number) if answers else -1
        subject = (
            "Re: " + subjects[parent].removeprefix("Re: ")
            if answers
            else " ".join(chance.choices(words, cum_weights=weights, k=4))
        )
        ident = f"<{number}.{chance.getrandbits(64):x}@{words[number % 300]}.test>"
        ids.append(ident)
        subjects.append(subject)
        name = names[chance.randrange(len(names))]
        text = "\n".join(" ".join(chance.choices(words, cum_weights=weights, k=9)) for _ in range(36))
        if number % 1000 == 500:
            text += f"\nLe devis de la {RARE} est joint.\n"
        kind = number % 10
        if kind == 0:
            body = quopri.encodestring(text.encode("iso-8859-1", "replace")).decode()
            typed = (
                "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n"
            )
        elif kind == 1:
            body = base64.encodebytes(text.encode()).decode()
            typed = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n"
        else:
            body, typed = text, "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
        encoded = (
            subject if subject.isascii() else f"=?utf-8?b?{base64.b64encode(subject.encode()).decode()}?="
        )
        when = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(start + number * 60))
        sender = (
            name if name.isascii() else f"=?utf-8?q?{quopri.encodestring(name.encode(), True).decode()}?="
        )
        lines = [
            f"Received: from mx{number % 7}.elorac.fr by mail.{DOMAIN} with ESMTPS id {number:x}; {when}",
            f"From: {sender} <{words[number % 400]}@elorac.fr>",
            f"To: Karl <{USER}>",
            f"Subject: {encoded}",
            f"Date: {when}",
            f"Message-ID: {ident}",
        ]
        if answers:
            lines += [f"In-Reply-To: {ids[parent]}", f"References: {ids[parent]}"]
        if number % 50 == 0:
            lines.append("X-Mailer: Bricoleur 2000")
        data = ("\n".join(lines) + f"\nMIME-Version: 1.0\n{typed}\n{body}\n").encode()
        flags = "S" if chance.random() < 0.9 else ""
        (path / "cur" / f"{start + number * 60}.M{number}P1.bench:2,{flags}").write_bytes(data)
    stamp = time.time() - 60
    for sub in ("new", "cur"):
        os.utime(path / sub, (stamp, stamp))


# -- the server and its clients --------------------------------------------------------------------------


class Server:
    """The server as shipped, on a state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.log = directory / "log"
        with socket.socket() as found:
            found.bind((HOST, 0))
            self.port: int = found.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        if not self.state.exists():
            self.state.mkdir(parents=True, mode=0o700)
            hashed = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
            (self.state / "accounts").write_text(f"{USER}:{{ARGON2ID}}{hashed}\n")
        (self.state / "lorrainemail.toml").write_text(
            f'hostname = "mail.{DOMAIN}"\nlocal_domains = ["{DOMAIN}"]\n'
            f"[listen]\nimap = ['tcp:{self.port}:interface={HOST}']\n"
            '[auth]\nplaintext = "loopback"\n'
        )

    @property
    def home(self) -> Path:
        return self.state / "mail" / DOMAIN / "karl"

    def start(self) -> None:
        twistd = str(Path(sys.executable).parent / "twistd")
        words = [
            twistd,
            "-n",
            "--pidfile=",
            f"--rundir={self.directory}",
            "lorrainemail",
            f"--state={self.state}",
        ]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory
            )
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with socket.create_connection((HOST, self.port), timeout=5) as connection:
                    if connection.recv(4) == b"* OK":
                        return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def cpu(self) -> float:
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident(self) -> float:
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", text)
        return int(found.group(1)) / 1024 if found else 0.0


class Client:
    """One connection that counts what it reads and keeps little of it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tail = b""
        self.socket.recv(4096)
        self.command(f"LOGIN {USER} {{{len(PASSWORD)}+}}\r\n{PASSWORD}")

    def command(self, text: str) -> tuple[float, int, bytes]:
        """Give a command; seconds, octets of the answer, and the last of them."""
        began = time.perf_counter()
        self.socket.sendall(b"t " + text.encode() + b"\r\n")
        octets = 0
        tail = b""
        while True:
            data = self.socket.recv(1 << 18)
            if not data:
                raise SystemExit(f"the server closed at {text!r}")
            octets += len(data)
            tail = (tail + data)[-4000:]
            if (tail.endswith(b"\r\n") and (at := tail.rfind(b"\r\nt ")) >= 0) or tail.startswith(b"t "):
                line = tail[at + 2 :] if at >= 0 else tail
                if line.count(b"\r\n") == 1:
                    if not line.startswith(b"t OK"):
                        raise SystemExit(f"{text!r}: {line!r}")
                    return time.perf_counter() - began, octets, tail

    def close(self) -> None:
        self.socket.close()


class Bystander(threading.Thread):
    """Another client, which asks NOOP all the time."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.client = Client(port)
        self.client.command("SELECT Drafts")
        self.times: list[float] = []
        self.going = True

    def run(self) -> None:
        while self.going:
            self.times.append(self.client.command("NOOP")[0])
            time.sleep(0.01)

    def stop(self) -> str:
        self.going = False
        self.join()
        self.times.sort()
        count = len(self.times)
        return (
            f"another client's NOOP meanwhile: p50 {self.times[count // 2] * 1000:.1f} ms, "
            f"p99 {self.times[count * 99 // 100] * 1000:.1f} ms (must 50), "
            f"worst {self.times[-1] * 1000:.1f} ms"
        )


# -- measuring -------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--directory", default="")
    parser.add_argument("--texts", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="imap-large-", dir=options.directory or None))
    server = Server(directory)
    share = options.messages / 100_000
    print(
        f"{options.messages} messages; goals are of 100,000, here {share:g} of them where they grow with it"
    )

    def measure(name: str, work: Callable[[], tuple[float, int, bytes]], times: int = 1) -> bytes:
        cpu = server.cpu()
        results = sorted((work() for _ in range(times)), key=lambda result: result[0])
        took, octets, tail = results[len(results) // 2]
        cpu = (server.cpu() - cpu) / times
        goal = GOALS.get(name)
        verdict = ""
        if goal is not None:
            must, aim = (
                (goal[0], goal[1])
                if "warm" in name and "SELECT" in name
                else (goal[0] * share, goal[1] * share)
            )
            verdict = f"must {must * 1000:8.1f}  aim {aim * 1000:8.1f}  "
            verdict += "reached" if took <= aim else ("kept" if took <= must else "MISSED")
        print(
            f"{name:34} {took * 1000:9.1f} ms  cpu {cpu * 1000:8.0f} ms  {octets:10} octets  {verdict}",
            flush=True,
        )
        return tail

    try:
        write_maildir(server.home / "Maildir", options.messages)
        server.start()
        client = Client(server.port)
        measure("SELECT, no index", lambda: client.command("SELECT INBOX"))
        bystander = Bystander(server.port)
        bystander.start()
        envelopes = "FETCH 1:* (UID FLAGS RFC822.SIZE ENVELOPE)"
        measure("FETCH 1:* (UID FLAGS)", lambda: client.command("FETCH 1:* (UID FLAGS)"), 3)
        measure("FETCH envelopes, first sight", lambda: client.command(envelopes))
        measure("FETCH envelopes, warm", lambda: client.command(envelopes), 3)

        def fresh() -> tuple[float, int, bytes]:
            other = Client(server.port)
            try:
                return other.command("SELECT INBOX")
            finally:
                other.close()

        measure("SELECT, warm", fresh, 5)
        searches(measure, client)
        measure("STORE 1:* +FLAGS.SILENT", lambda: client.command("STORE 1:* +FLAGS.SILENT (\\Flagged)"))
        measure("STORE 1:* -FLAGS", lambda: client.command("STORE 1:* -FLAGS (\\Flagged)"))
        measure("SEARCH TEXT, no index, nowhere", lambda: client.command("SEARCH TEXT zzyzzy"))
        if options.texts:
            texts(measure, server, client)
        print(bystander.stop())
        print(f"resident {server.resident():.0f} MiB")
        client.close()
        server.stop()
        server.start()
        client = Client(server.port)
        measure("SELECT, after a restart", lambda: client.command("SELECT INBOX"))
        measure("FETCH envelopes, after a restart", lambda: client.command(envelopes))
        client.close()
        index = (server.home / "index.sqlite").stat().st_size
        print(f"index.sqlite: {index / options.messages:.0f} octets a message")
    finally:
        server.stop()
        if options.keep:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory)


Measure = Callable[..., bytes]


def searches(measure: Measure, client: Client) -> None:
    measure("SEARCH HEADER", lambda: client.command('SEARCH HEADER Message-ID "777."'), 3)
    measure("SEARCH SUBJECT", lambda: client.command(f"SEARCH SUBJECT {COMMON}"), 3)
    measure("SEARCH UNSEEN", lambda: client.command("SEARCH UNSEEN"), 3)
    measure("SEARCH SINCE", lambda: client.command("SEARCH SINCE 1-Jan-2024"), 3)
    measure("THREAD REFERENCES", lambda: client.command("THREAD REFERENCES UTF-8 ALL"), 3)
    measure("THREAD ORDEREDSUBJECT", lambda: client.command("THREAD ORDEREDSUBJECT UTF-8 ALL"), 3)
    measure("SORT (SUBJECT)", lambda: client.command("SORT (SUBJECT) UTF-8 ALL"), 3)
    measure("SORT (REVERSE DATE)", lambda: client.command("SORT (REVERSE DATE) UTF-8 ALL"), 3)
    measure("SORT (FROM)", lambda: client.command("SORT (FROM) UTF-8 ALL"), 3)


def texts(measure: Measure, server: Server, client: Client) -> None:
    """Wait until the text index stands, then search in it."""
    began, cpu = time.monotonic(), server.cpu()
    size = before = -1
    quiet = 0
    while quiet < 20:
        time.sleep(0.5)
        size = sum(path.stat().st_size for path in server.home.glob("search.sqlite*"))
        quiet = quiet + 1 if size == before and server.cpu() - cpu < 0.05 else 0
        if size != before:
            quiet = 0
        before = size
        cpu, spent = server.cpu(), server.cpu() - cpu
        if spent > 0.1:
            quiet = 0
    messages = len(os.listdir(server.home / "Maildir" / "cur"))
    print(f"the text index took {time.monotonic() - began:.0f} s, {size / messages:.0f} octets a message")
    measure("SEARCH TEXT, indexed, nowhere", lambda: client.command("SEARCH TEXT zzyzzy"), 3)
    tail = measure("SEARCH TEXT, indexed, rare", lambda: client.command(f"SEARCH TEXT {RARE}"), 3)
    found = re.search(rb"\* SEARCH([ 0-9]*)", tail)
    assert found is not None and len(found.group(1).split()) == len(range(500, messages, 1000))
    measure("SEARCH BODY, indexed, common", lambda: client.command(f"SEARCH BODY {COMMON}"))
    measure("SEARCH TEXT, two letters", lambda: client.command("SEARCH TEXT zq"))


if __name__ == "__main__":
    main()
