"""The servers that ``imap_clients.py`` measures: ours as shipped, and Debian's Dovecot tuned by its manual.

Each lives in a directory of its own, listens on loopback only, has the same accounts, passwords and messages,
and tells the CPU time and the memory of all its processes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pwd
import random
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from argon2 import PasswordHasher

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
PASSWORD = "correct horse battery"
PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


def address(number: int) -> str:
    return f"user{number}@{DOMAIN}"


def message(number: int) -> bytes:
    """A message of 4 KiB in wire form."""
    chance = random.Random(number)
    lines = ["".join(chance.choices("abcdefghij klmnop", k=70)) for _ in range(55)]
    header = (
        f"From: a@elorac.fr\r\nTo: {address(0)}\r\nSubject: {number}\r\nMessage-ID: <{number}@elorac.fr>\r\n"
    )
    return (header + "\r\n" + "\r\n".join(lines) + "\r\n").encode()


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def fill(maildir: Path, messages: int, like: Path | None) -> None:
    """Messages in cur/, as links to another folder's where there is one (nothing changes their octets)."""
    for sub in ("tmp", "new", "cur"):
        (maildir / sub).mkdir(parents=True)
    if like is not None:
        for entry in os.scandir(like / "cur"):
            os.link(entry.path, maildir / "cur" / entry.name)
        return
    for number in range(messages):
        data = message(number).replace(b"\r\n", b"\n")
        (maildir / "cur" / f"{1_700_000_000 + number}.M{number}P1.bench:2,S").write_bytes(data)


class Server:
    """One server.

    :ivar port: IMAP without TLS; ``tls_port`` with it from the start.
    """

    name = ""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.tls_port = free_port()
        self.door = free_port()
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def maildir(self, number: int) -> Path:
        raise NotImplementedError

    def prepare(self, clients: int, messages: int, idle_accounts: int, idle_messages: int) -> None:
        """Write the mail of all accounts: those of the clients, and from the thousandth on the idle ones."""
        for number in range(clients):
            fill(self.maildir(number), messages, None)
        first: Path | None = None
        for number in range(idle_accounts):
            fill(self.maildir(1000 + number), idle_messages, first)
            first = first or self.maildir(1000)
        self.numbers = [*range(clients), *range(1000, 1000 + idle_accounts)]

    def start(self) -> None:
        raise NotImplementedError

    def courier(self) -> Callable[[str, bytes], float]:
        """What delivers a message and tells when it was accepted."""
        raise NotImplementedError

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
            try:
                with socket.create_connection((HOST, self.port), timeout=5) as connection:
                    if connection.recv(4) == b"* OK":
                        return
            except OSError:
                time.sleep(0.05)
        text = self.log.read_text()[-3000:] if self.log.exists() else ""
        raise SystemExit(f"{self.name} did not start:\n{text}")

    def pids(self) -> list[int]:
        """Its process and all below it."""
        assert self.process is not None
        children: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                children.setdefault(int(fields[1]), []).append(int(entry))
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu(self) -> float:
        """Seconds, those of children that ended among them."""
        total = 0
        for pid in self.pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            total += sum(map(int, fields[11:15]))
        return total / TICKS

    def memory(self) -> float:
        """KiB of all processes, what they share counted once (PSS)."""
        total = 0
        for pid in self.pids():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return float(total)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Ours(Server):
    """The server as shipped; limits raised only as far as all clients come from one address."""

    name = "ours"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def maildir(self, number: int) -> Path:
        return self.state / "mail" / DOMAIN / f"user{number}" / "Maildir"

    def start(self) -> None:
        self.state.mkdir(mode=0o700, exist_ok=True)
        hashed = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
        lines = [f"{address(number)}:{{ARGON2ID}}{hashed}\n" for number in self.numbers]
        (self.state / "accounts").write_text("".join(lines))
        (self.state / "lorrainemail.toml").write_text(
            f'hostname = "mail.{DOMAIN}"\nlocal_domains = ["{DOMAIN}"]\n'
            f"[listen]\nimap = ['tcp:{self.port}:interface={HOST}']\n"
            f"imaps = ['tcp:{self.tls_port}:interface={HOST}']\nsmtp = ['tcp:{self.door}:interface={HOST}']\n"
            '[auth]\nplaintext = "loopback"\n'
            "[limits]\nconnections = 20000\nconnections_per_peer = 20000\n"
        )
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
        self.wait()

    def courier(self) -> Callable[[str, bytes], float]:
        client = smtplib.SMTP(HOST, self.door, timeout=PATIENCE)

        def deliver(recipient: str, data: bytes) -> float:
            client.sendmail("", [recipient], data)  # nobody looks its domain up
            return time.monotonic()

        return deliver


class Dovecot(Server):
    """Debian's Dovecot with the configuration beside this file."""

    name = "dovecot"
    PROGRAM = "/usr/sbin/dovecot"

    def maildir(self, number: int) -> Path:
        return self.directory / "mail" / address(number).partition("@")[0]

    def start(self) -> None:
        user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        digest = base64.b64encode(hashlib.sha256(PASSWORD.encode()).digest()).decode()
        lines = [f"{address(number)}:{{SHA256}}{digest}\n" for number in self.numbers]
        (self.directory / "users").write_text("".join(lines))
        words = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
        )
        files = ["-keyout", str(self.directory / "key.pem"), "-out", str(self.directory / "certificate.pem")]
        subprocess.run([*words.split(), *files], check=True, capture_output=True)
        text = (Path(__file__).parent / "dovecot.conf").read_text()
        for name, value in {
            "DIRECTORY": self.directory,
            "USER": user.pw_name,
            "GROUP": subprocess.check_output(["id", "-gn", user.pw_name], text=True).strip(),
            "TLS_PORT": self.tls_port,
            "LMTP_PORT": self.door,
            "PORT": self.port,
        }.items():
            text = text.replace(f"@{name}@", str(value))
        configuration = self.directory / "dovecot.conf"
        configuration.write_text(text)
        (self.directory / "home").mkdir()
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)
        self.directory.chmod(0o755)
        self.process = subprocess.Popen(
            [shutil.which("dovecot") or self.PROGRAM, "-F", "-c", str(configuration)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.wait()

    def courier(self) -> Callable[[str, bytes], float]:
        client = smtplib.LMTP(HOST, self.door, timeout=PATIENCE)

        def deliver(recipient: str, data: bytes) -> float:
            client.sendmail("", [recipient], data)  # nobody looks its domain up
            return time.monotonic()

        return deliver
