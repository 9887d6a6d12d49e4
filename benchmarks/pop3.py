"""POP3: the messages that 50 clients retrieve a second, and the CPU that each costs, beside Dovecot.

Every client is logged in; then all of them, at once, LIST, UIDL and RETR the same 200 messages one by one,
as mail programs do. Ours is a whole server as shipped, on loopback; Dovecot's, where it is installed, serves
a copy of the same Maildir. The CPU is that of all of a server's processes, login left out.

    python benchmarks/pop3.py [--clients 50] [--messages 200] [--size 4096] [--rounds 5] [--pipelined]

Goals: half of Dovecot's rate must be, all of it is the aim, at no more than 1.2 times its CPU a message.
Run it on an otherwise quiet machine.
"""

from __future__ import annotations

import argparse
import base64
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
from argon2 import PasswordHasher

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
USER = f"karl@{DOMAIN}"
PASSWORD = "correct horse battery"
PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")
DOVECOT = "/usr/sbin/dovecot"
#: Dovecot's mail processes refuse to run as root.
NOBODY = 65534


def write_maildir(path: Path, messages: int, size: int) -> None:
    """Messages of that many octets, the same ones each time."""
    chance = random.Random(1)
    for sub in ("tmp", "new", "cur"):
        (path / sub).mkdir(parents=True, exist_ok=True)
    for number in range(messages):
        header = (
            f"From: carole@elorac.fr\nTo: {USER}\nSubject: message {number}\n"
            f"Message-ID: <{number}@elorac.fr>\nDate: Sun, 22 Nov 2026 08:15:30 +0100\n\n"
        )
        lines = base64.encodebytes(chance.randbytes(size)).decode().splitlines()
        text = (header + "\n".join(lines))[: size - 1] + "\n"
        (path / "cur" / f"{1700000000 + number}.M{number}P1.bench:2,S").write_text(text)


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def cpu_of(pid: int) -> float:
    """Seconds of CPU of a process and of all that came from it."""
    total = 0.0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{one}/task/{one}/children").read_text()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15]) / TICKS
        waiting += [int(child) for child in children.split()]
    return total


class Ours:
    name = "lorrainemail"

    def __init__(self, directory: Path, messages: int, size: int) -> None:
        self.port = free_port()
        state = directory / "state"
        state.mkdir(mode=0o700)
        hashed = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
        (state / "accounts").write_text(f"{USER}:{{ARGON2ID}}{hashed}\n")
        (state / "lorrainemail.toml").write_text(
            f'hostname = "mail.{DOMAIN}"\nlocal_domains = ["{DOMAIN}"]\n'
            f"[listen]\npop3 = ['tcp:{self.port}:interface={HOST}']\n"
            '[auth]\nplaintext = "loopback"\n[limits]\nconnections_per_peer = 1000\n'
        )
        write_maildir(state / "mail" / DOMAIN / "karl" / "Maildir", messages, size)
        twistd = str(Path(sys.executable).parent / "twistd")
        words = [twistd, "-n", "--pidfile=", f"--rundir={directory}", "lorrainemail", f"--state={state}"]
        with open(directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory
            )


class Theirs:
    name = "Dovecot"

    def __init__(self, directory: Path, messages: int, size: int) -> None:
        self.port = free_port()
        root = os.getuid() == 0
        user = "nobody" if root else os.environ.get("USER", "")
        maildir = directory / "Maildir"
        write_maildir(maildir, messages, size)
        (directory / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        configuration = directory / "dovecot.conf"
        configuration.write_text(
            f"base_dir = {directory}/run\nstate_dir = {directory}/lib\nlog_path = {directory}/log\n"
            f"protocols = pop3\nlisten = {HOST}\nssl = no\ndisable_plaintext_auth = no\nfirst_valid_uid = 1\n"
            f"mail_location = maildir:{maildir}\nmail_uid = {user}\nmail_gid = nogroup\n"
            "mail_max_userip_connections = 1000\n"
            f"passdb {{\n  driver = passwd-file\n  args = {directory}/users\n}}\n"
            f"userdb {{\n  driver = static\n  args = home={directory} allow_all_users=yes\n}}\n"
            f"service pop3-login {{\n  inet_listener pop3 {{\n    port = {self.port}\n  }}\n"
            "  inet_listener pop3s {\n    port = 0\n  }\n}\n"
        )
        if root:
            for path in (directory, maildir, *maildir.rglob("*")):
                os.chown(path, NOBODY, -1)
            directory.chmod(0o755)
        self.process = subprocess.Popen([DOVECOT, "-F", "-c", str(configuration)], stdin=subprocess.DEVNULL)


@attrs.define(eq=False)
class Client:
    """One connection: what it waits for and what it asks next."""

    socket: socket.socket
    queue: list[bytes]
    octets: int = 0
    waiting: int = 0
    tail: bytes = b""


def connect(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    """A session that is logged in."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection = socket.create_connection((HOST, port), timeout=PATIENCE)
            break
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("the server did not start") from None
            time.sleep(0.05)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for line in ("", f"USER {USER}\r\n", f"PASS {PASSWORD}\r\n"):
        connection.sendall(line.encode())
        answer = connection.recv(4096)
        if not answer.startswith(b"+OK"):
            raise SystemExit(f"{line!r}: {answer!r}")
    return connection


def retrieve(
    port: int, clients: int, messages: int, rounds: int, pipelined: bool, process: subprocess.Popen[bytes]
) -> tuple[float, float, int]:
    """Seconds, seconds of the server's CPU, and octets that came."""
    commands = [b"LIST\r\n", b"UIDL\r\n", *(b"RETR %d\r\n" % (n + 1) for n in range(messages))] * rounds
    selector = selectors.DefaultSelector()
    sessions = [Client(connect(port, process), commands[::-1]) for _ in range(clients)]
    for session in sessions:
        session.socket.setblocking(False)
        selector.register(session.socket, selectors.EVENT_READ, session)
    cpu, began = cpu_of(process.pid), time.perf_counter()
    for session in sessions:
        ask(session, pipelined)
    left = clients
    octets = 0
    while left:
        for key, _ in selector.select(PATIENCE):
            session = key.data
            data = session.socket.recv(1 << 18)
            if not data:
                raise SystemExit("the server closed the connection")
            octets += len(data)
            if not pipelined:
                session.tail = data if len(data) > 5 else session.tail[-5:] + data
                if not session.tail.endswith(b"\r\n.\r\n"):
                    continue
                done = 1
            else:
                joined = session.tail + data
                done = joined.count(b"\r\n.\r\n")
                at = joined.rfind(b"\r\n.\r\n")
                session.tail = joined[max(at + 5, len(joined) - 4) :]
            session.waiting -= done
            if session.waiting == 0:
                if session.queue:
                    ask(session, pipelined)
                else:
                    selector.unregister(session.socket)
                    left -= 1
    took = time.perf_counter() - began
    cpu = cpu_of(process.pid) - cpu
    for session in sessions:
        session.socket.close()
    return took, cpu, octets


def ask(session: Client, pipelined: bool) -> None:
    count = min(50, len(session.queue)) if pipelined else 1
    session.socket.sendall(b"".join(session.queue.pop() for _ in range(count)))
    session.waiting = count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipelined", action="store_true")
    options = parser.parse_args()
    figures: dict[str, tuple[float, float]] = {}
    for kind in (Ours, Theirs):
        if kind is Theirs and not os.path.exists("/usr/lib/dovecot/pop3"):
            print("Dovecot's POP3 server is not installed (Debian: dovecot-pop3d)")
            continue
        directory = Path(tempfile.mkdtemp(prefix="pop3-"))
        server = kind(directory, options.messages, options.size)
        try:
            connect(server.port, server.process).close()  # the index is made, the login remembered
            took, cpu, octets = retrieve(
                server.port,
                options.clients,
                options.messages,
                options.rounds,
                options.pipelined,
                server.process,
            )
        finally:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(PATIENCE)
            shutil.rmtree(directory, ignore_errors=True)
        count = options.clients * options.messages * options.rounds
        figures[kind.name] = (count / took, cpu / count)
        print(
            f"{kind.name:13} {count / took:8.0f} messages/s  CPU {cpu / count * 1000:.3f} ms each  "
            f"({octets / 1e6:.0f} MB in {took:.2f} s)",
            flush=True,
        )
    if len(figures) == 2:
        (rate, cpu), (their_rate, their_cpu) = figures[Ours.name], figures[Theirs.name]
        verdict = "reached" if rate >= their_rate else ("kept" if rate >= their_rate / 2 else "MISSED")
        spent = "kept" if cpu <= 1.2 * their_cpu else "MISSED"
        print(f"rate {rate / their_rate:.2f} of Dovecot's (must 0.5, aim 1): {verdict}")
        print(f"CPU {cpu / their_cpu:.2f} of Dovecot's (must 1.2): {spent}")


if __name__ == "__main__":
    main()
