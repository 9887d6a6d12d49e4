"""How fast mail for local mailboxes is taken, and what it costs: the whole server against many SMTP clients.

Starts a server as shipped (``twistd -n lorrainemail``; trace and index on) on loopback with some accounts,
reads each mailbox once by IMAP (an index that nobody has asked for waits for its first reader; ``--cold``
leaves it so), and a load client in a process of its own: many clients, a new connection for each message,
each message safe in its mailbox before its 250. Then counts what lies in the mailboxes, and says the rate,
the server's CPU for each message, and how long a client waits.
``--postfix`` measures Debian's Postfix with virtual(8) beside it.

    python benchmarks/smtp_local.py [--messages 6000] [--clients 50] [--size 4096] [--postfix] [--callbacks]

Run it on an otherwise quiet machine, on the kind of disk that mail will lie on (``--directory``).
"""

from __future__ import annotations

import argparse
import imaplib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
PASSWORD = "correct horse battery"
PATIENCE = 60.0
#: Seconds in which a server brings its index up to date.
SETTLE = 4.0
TICKS = os.sysconf("SC_CLK_TCK")

GOAL_RATE = 1200.0
GOAL_CPU = 0.7


# -- the clients -----------------------------------------------------------------------------------------


def load(port: int, clients: int, messages: int, size: int, accounts: int, pipelined: bool) -> dict[str, Any]:
    """Send; one process, one epoll, no library: what it costs must not hide what the server costs."""
    body = (b"x" * 70 + b"\r\n") * ((size - 300) // 72)
    steps = [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    poll = select.epoll()
    sessions: dict[int, list[Any]] = {}
    times: list[float] = []
    started = failed = 0

    def script(number: int) -> list[bytes]:
        header = (
            f"From: Carole <carole@elorac.fr>\r\nTo: u{number % accounts}@{DOMAIN}\r\n"
            f"Subject: message {number}\r\n"
            f"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <{number}.{os.getpid()}@elorac.fr>\r\n\r\n"
        ).encode()
        verbs = [
            b"EHLO client.elorac.fr\r\n",
            b"MAIL FROM:<carole@elorac.fr>\r\n",
            b"RCPT TO:<u%d@%s>\r\n" % (number % accounts, DOMAIN.encode()),
            b"DATA\r\n",
            header + body + b".\r\n",
            b"QUIT\r\n",
        ]
        if pipelined:  # RFC 2920
            verbs = [verbs[0], verbs[1] + verbs[2] + verbs[3], b"", b"", verbs[4], verbs[5]]
        return verbs

    def begin() -> None:
        nonlocal started
        if started >= messages:
            return
        started += 1
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        connection.connect((HOST, port))
        connection.setblocking(False)
        sessions[connection.fileno()] = [connection, script(started), 0, began, b""]
        poll.register(connection, select.EPOLLIN)

    def end(descriptor: int) -> None:
        poll.unregister(descriptor)
        sessions.pop(descriptor)[0].close()
        begin()

    first = time.perf_counter()
    for _ in range(clients):
        begin()
    while sessions:
        events = poll.poll(PATIENCE)
        if not events:
            raise SystemExit("the server does not answer")
        for descriptor, _event in events:
            session = sessions[descriptor]
            connection, verbs, _step, began, _held = session
            data = session[4] + connection.recv(8192)
            if not data:
                failed += 1
                end(descriptor)
                continue
            *lines, session[4] = data.split(b"\r\n")
            for line in lines:
                if line[3:4] == b"-":
                    continue
                step = session[2]
                session[2] += 1
                if line[:3] != steps[step]:
                    failed += 1
                    if failed <= 3:
                        sys.stderr.write(f"step {step}: {line!r}\n")
                    end(descriptor)
                    break
                if step == 5:
                    times.append(time.perf_counter() - began)
                if step == 6:
                    end(descriptor)
                    break
                if verbs[step]:
                    connection.sendall(verbs[step])
    took = time.perf_counter() - first
    times.sort()
    count = len(times) or 1
    return {
        "sent": len(times),
        "failed": failed,
        "rate": len(times) / took,
        "p50": times[count // 2] * 1000 if times else 0.0,
        "p99": times[min(count - 1, count * 99 // 100)] * 1000 if times else 0.0,
        "client_cpu": time.process_time() / count * 1000,
    }


# -- the server ------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes and of their ended children."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(fields[index]) for index in (11, 12, 13, 14))
    return total / TICKS


def resident(pid: int) -> float:
    """RSS in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def wait_for_greeting(port: int, process: subprocess.Popen[bytes] | None, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            break
        try:
            with socket.create_connection((HOST, port), timeout=5) as connection:
                if connection.recv(3) == b"220":
                    return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:] if log.exists() else ''}")


class Lorrainemail:
    """The server as shipped."""

    name = "lorrainemail"

    def __init__(self, directory: Path, accounts: int, callbacks: bool, command: str) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.state.mkdir(parents=True, mode=0o700)
        self.port = free_port()
        self.imap = free_port()
        self.log = directory / "log"
        configuration = (
            f'hostname = "mail.{DOMAIN}"\nlocal_domains = ["{DOMAIN}"]\n'
            f"[listen]\nsmtp = ['tcp:{self.port}:interface={HOST}']\n"
            f"imap = ['tcp:{self.imap}:interface={HOST}']\n"
            '[auth]\nplaintext = "loopback"\n'
            "[limits]\nconnections_per_peer = 2000\n"
            # Without the one check that asks the DNS: what the world's name servers need is not measured.
            '[policy]\nchecks = ["limits", "helo", "loops"]\n'
        )
        (self.state / "lorrainemail.toml").write_text(configuration)
        hashed = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
        lines = [f"u{number}@{DOMAIN}:{{ARGON2ID}}{hashed}\n" for number in range(accounts)]
        (self.state / "accounts").write_text("".join(lines))
        words = (
            command.format(state=self.state, port=self.port).split()
            if command
            else [
                str(Path(sys.executable).parent / "twistd"),
                "-n",
                "--pidfile=",
                f"--rundir={directory}",
                "lorrainemail",
                f"--state={self.state}",
            ]
        )
        environment = {**os.environ, **({"LORRAINEMAIL_MEASURE_CALLBACKS": "1"} if callbacks else {})}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=directory, env=environment
            )
        wait_for_greeting(self.port, self.process, self.log)

    def read_once(self, accounts: int) -> None:
        """Open every mailbox, as its owner's client would: from then on its index hears of each delivery."""
        for number in range(accounts):
            with imaplib.IMAP4(HOST, self.imap, timeout=PATIENCE) as session:
                session.login(f"u{number}@{DOMAIN}", PASSWORD)
                session.select("INBOX")

    def pids(self) -> list[int]:
        return [self.process.pid]

    def resident(self) -> float:
        return resident(self.process.pid)

    def delivered(self) -> int:
        homes = self.state.glob(f"mail/{DOMAIN}/*/Maildir")
        return sum(len(os.listdir(home / part)) for home in homes for part in ("new", "cur"))

    def stop(self) -> str:
        """End it; what it says of its callbacks."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        found = re.search(r"reactor: (longest callback.*)", self.log.read_text(errors="replace"))
        return found.group(1) if found else ""


class Postfix:
    """Debian's Postfix, its virtual(8) writing the same mailboxes; its own configuration, loopback only."""

    name = "postfix"

    def __init__(self, directory: Path, accounts: int) -> None:
        self.directory = directory
        self.port = free_port()
        self.etc, spool, data = directory / "etc", directory / "spool", directory / "data"
        self.mail = directory / "mail"
        for path in (self.etc, spool, data, self.mail):
            path.mkdir(parents=True)
        os.chmod(directory, 0o755)
        os.chmod(directory.parent, 0o755)
        shutil.chown(data, "postfix")
        shutil.chown(self.mail, "nobody")
        self.log = directory / "log"
        master = Path("/usr/share/postfix/master.cf.dist")
        source = (master if master.exists() else Path("/etc/postfix/master.cf")).read_text()
        lines = [
            line
            for line in source.splitlines()
            if not line.startswith(("smtp      inet", "#")) and not re.match(r"\S+\s+inet", line)
        ]
        lines.insert(0, f"{HOST}:{self.port} inet n - n - - smtpd")
        lines = [re.sub(r"^(\S+\s+unix\s+\S+\s+\S+\s+)[y-](\s)", r"\1n\2", line) for line in lines]
        (self.etc / "master.cf").write_text("\n".join(lines) + "\n")
        (self.etc / "vmail").write_text(
            "".join(f"u{number}@{DOMAIN} u{number}/\n" for number in range(accounts))
        )
        (self.etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {self.log}
maillog_file_prefixes = {directory}
myhostname = mail.{DOMAIN}
mydestination =
inet_interfaces = {HOST}
inet_protocols = ipv4
mynetworks =
local_recipient_maps =
alias_maps =
virtual_mailbox_domains = {DOMAIN}
virtual_mailbox_maps = texthash:{self.etc}/vmail
virtual_mailbox_base = {self.mail}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_minimum_uid = 100
smtpd_recipient_restrictions = reject_unauth_destination
default_process_limit = 100
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
"""
        )
        self._postfix("start")
        wait_for_greeting(self.port, None, self.log)

    def _postfix(self, word: str) -> None:
        subprocess.run(
            ["postfix", "-c", str(self.etc), word], check=True, capture_output=True, timeout=PATIENCE
        )

    def pids(self) -> list[int]:
        """The master and everything that it started."""
        master = int((self.directory / "spool/pid/master.pid").read_text().strip())
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry)] = int(fields[1])
        return [pid for pid, parent in parents.items() if pid == master or parent == master]

    def resident(self) -> float:
        return sum(resident(pid) for pid in self.pids())

    def delivered(self) -> int:
        return sum(len(os.listdir(new)) for new in self.mail.glob("*/new"))

    def stop(self) -> str:
        self._postfix("stop")
        return ""


def measure(server: Lorrainemail | Postfix, options: argparse.Namespace) -> dict[str, Any]:
    """Warm up, then measure."""

    def run(messages: int) -> dict[str, Any]:
        words = [sys.executable, __file__, "--load", str(server.port), "--messages", str(messages)]
        words += ["--clients", str(options.clients), "--size", str(options.size)]
        words += ["--accounts", str(options.accounts)] + (["--pipelined"] if options.pipelined else [])
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE * 10, check=False)
        if done.returncode:
            raise SystemExit(f"the load client failed:\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(done.stdout)
        if result["failed"]:
            sys.stderr.write(done.stderr[-2000:])
        return result

    warm = max(options.accounts * 2, options.messages // 10)
    run(warm)
    if isinstance(server, Lorrainemail) and not options.cold and not options.command:
        server.read_once(options.accounts)
    time.sleep(SETTLE)
    before = cpu_seconds(server.pids())
    result = run(options.messages)
    # What a server does after its 250 (an index, a queue) is part of its price.
    deadline = time.monotonic() + PATIENCE
    while server.delivered() < warm + result["sent"] and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(SETTLE)
    result["cpu"] = (cpu_seconds(server.pids()) - before) / max(1, result["sent"]) * 1000
    result["resident"] = server.resident()
    result["missing"] = warm + result["sent"] - server.delivered()
    return result


def report(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name:14} {result['rate']:7.0f} messages/s   {result['cpu']:.3f} ms CPU each   "
        f"p50 {result['p50']:.1f} ms   p99 {result['p99']:.1f} ms   RSS {result['resident']:.0f} MiB   "
        f"failed {result['failed']}   missing {result['missing']}   "
        f"(client {result['client_cpu']:.3f} ms)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--accounts", type=int, default=50)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument(
        "--pipelined", action="store_true", help="MAIL, RCPT and DATA in one packet (RFC 2920)"
    )
    parser.add_argument("--cold", action="store_true", help="nobody has read the mailboxes: no index is kept")
    parser.add_argument("--postfix", action="store_true", help="measure Postfix beside it (needs root)")
    parser.add_argument("--callbacks", action="store_true", help="a second run that times every callback")
    parser.add_argument(
        "--directory", default="", help="where state is made (default: the temporary directory)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    parser.add_argument("--command", default="", help="another server: {state} and {port} are replaced")
    parser.add_argument("--load", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(
            json.dumps(
                load(
                    options.load,
                    options.clients,
                    options.messages,
                    options.size,
                    options.accounts,
                    options.pipelined,
                )
            )
        )
        return 0
    root = Path(tempfile.mkdtemp(prefix="lorrainemail-bench-", dir=options.directory or None))
    good = True
    try:
        server = Lorrainemail(root / "ours", options.accounts, False, options.command)
        try:
            result = measure(server, options)
        finally:
            server.stop()
        report(server.name, result)
        good = result["rate"] >= GOAL_RATE and result["cpu"] <= GOAL_CPU
        good = good and not result["missing"] and not result["failed"]
        print(f"{'':14} goal: {GOAL_RATE:.0f}/s and {GOAL_CPU} ms: {'reached' if good else 'NOT reached'}")
        if options.callbacks:
            server = Lorrainemail(root / "timed", options.accounts, True, options.command)
            try:
                measure(server, options)
            finally:
                print(f"{'':14} {server.stop() or 'no word of the callbacks'}")
        if options.postfix:
            if shutil.which("postfix") is None or os.geteuid() != 0:
                print("postfix        skipped: it is not installed, or this is not root")
            else:
                other = Postfix(root / "postfix", options.accounts)
                try:
                    report(other.name, measure(other, options))
                finally:
                    other.stop()
    finally:
        if options.keep:
            print(f"left behind: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
