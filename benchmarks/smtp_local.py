"""How fast mail for local mailboxes is taken, and what it costs: the whole server against many SMTP clients.

Starts a server as shipped (``twistd -n lorrainemail``; trace and index on) on loopback with some accounts,
reads each mailbox once by IMAP (an index that nobody has asked for waits for its first reader; ``--cold``
leaves it so), and a load client in a process of its own: many clients, a new connection for each message
(``--kept``: one for all of a client's), each message safe in its mailbox before its 250. Then counts what
lies in the mailboxes, and says the rate, the server's CPU for each message, and how long a client waits.
``--postfix`` measures Debian's Postfix with virtual(8) beside it.

    python benchmarks/smtp_local.py [--messages 6000] [--clients 50] [--size 4096] [--recipients 1] [--kept]
        [--postfix] [--runs 1] [--callbacks]

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
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from argon2 import PasswordHasher

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
PASSWORD = "correct horse battery"
PATIENCE = 60.0
#: Seconds in which a server brings its index up to date.
SETTLE = 4.0
SEND_BUFFER = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")

GOAL_RATE = 1200.0
GOAL_CPU = 0.7


# -- the clients -----------------------------------------------------------------------------------------


@attrs.frozen
class Load:
    """What the clients do.

    :ivar recipients: of each message, one account after the other.
    :ivar pipelined: MAIL, RCPT and DATA in one packet (RFC 2920).
    :ivar kept: a client keeps its connection for its next message.
    :ivar domain: where the recipients are.
    """

    clients: int = 50
    messages: int = 6000
    size: int = 4096
    accounts: int = 50
    recipients: int = 1
    pipelined: bool = False
    kept: bool = False
    domain: str = DOMAIN


class Client:
    """One connection and what is still to be said on it: octets, and how many replies they bring."""

    def __init__(self, port: int) -> None:
        self.held = b""
        self.steps: list[tuple[bytes, int]] = [(b"EHLO client.elorac.fr\r\n", 1)]
        self.missing = 1  # the greeting
        self.began = time.perf_counter()
        self.carries = False
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A message fits: nobody waits for one server while others could be served.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.socket.connect((HOST, port))


def load(port: int, wanted: Load) -> dict[str, Any]:
    """Send; one process, one epoll, no library: what it costs must not hide what the server costs."""
    body = (b"x" * 70 + b"\r\n") * ((wanted.size - 300) // 72)
    poll = select.epoll()
    clients: dict[int, Client] = {}
    times: list[float] = []
    started = failed = 0

    def message(client: Client) -> None:
        """One more message for this client."""
        nonlocal started
        started += 1
        client.began = time.perf_counter()
        first = started * wanted.recipients
        named = [f"u{(first + one) % wanted.accounts}@{wanted.domain}" for one in range(wanted.recipients)]
        verbs = [
            b"MAIL FROM:<carole@elorac.fr>\r\n",
            *[b"RCPT TO:<%s>\r\n" % name.encode() for name in named],
            b"DATA\r\n",
        ]
        header = (
            f"From: Carole <carole@elorac.fr>\r\nTo: {named[0]}\r\n"
            f"Subject: message {started}\r\n"
            "Date: Wed, 29 Jul 2026 08:00:00 +0000\r\n"
            f"Message-ID: <{started}.{os.getpid()}@elorac.fr>\r\n\r\n"
        ).encode()
        if wanted.pipelined:
            client.steps.append((b"".join(verbs), len(verbs)))
        else:
            client.steps += [(verb, 1) for verb in verbs]
        client.steps.append((header + body + b".\r\n", 1))

    def begin() -> None:
        if started < wanted.messages:
            client = Client(port)
            clients[client.socket.fileno()] = client
            poll.register(client.socket, select.EPOLLIN)
            message(client)

    def end(client: Client, bad: bool = False) -> None:
        nonlocal failed
        failed += bad
        poll.unregister(client.socket)
        del clients[client.socket.fileno()]
        client.socket.close()
        begin()

    def answered(client: Client) -> None:
        """All that was said has its replies: say what comes next."""
        if client.carries:
            client.carries = False
            times.append(time.perf_counter() - client.began)
        if not client.steps and wanted.kept and started < wanted.messages:
            message(client)
        octets, client.missing = client.steps.pop(0) if client.steps else (b"QUIT\r\n", 1)
        client.carries = octets.endswith(b"\r\n.\r\n")
        client.socket.sendall(octets)

    first = time.perf_counter()
    for _ in range(wanted.clients):
        begin()
    while clients:
        events = poll.poll(PATIENCE)
        if not events:
            raise SystemExit("the server does not answer")
        for descriptor, _event in events:
            client = clients[descriptor]
            data = client.held + client.socket.recv(65536)
            if not data:
                end(client, True)
                continue
            *lines, client.held = data.split(b"\r\n")
            for line in lines:
                if line[3:4] == b"-":
                    continue
                if line[:3] == b"221":
                    end(client)
                    break
                if line[:1] not in b"23":
                    if failed < 3:
                        sys.stderr.write(f"{line!r}\n")
                    end(client, True)
                    break
                client.missing -= 1
                if not client.missing:
                    answered(client)
    took = time.perf_counter() - first
    times.sort()
    count = len(times) or 1
    return {
        "sent": len(times),
        "failed": failed,
        "rate": len(times) / took,
        "took": took,
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


def run_load(port: int, wanted: Load) -> dict[str, Any]:
    """The clients, in a process of their own."""
    words = [sys.executable, __file__, "--load", str(port), "--wanted", json.dumps(attrs.asdict(wanted))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE * 10, check=False)
    if done.returncode:
        raise SystemExit(f"the load client failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    if result["failed"]:
        sys.stderr.write(done.stderr[-2000:])
    return result


def measure(server: Lorrainemail | Postfix, wanted: Load, cold: bool = False) -> dict[str, Any]:
    """Warm up, then measure.

    :param cold: nobody has read the mailboxes.
    """
    warm = attrs.evolve(wanted, messages=max(wanted.clients * 2, wanted.messages // 10))
    before = run_load(server.port, warm)["sent"] * wanted.recipients
    if isinstance(server, Lorrainemail) and not cold:
        server.read_once(wanted.accounts)
    time.sleep(SETTLE)
    spent = cpu_seconds(server.pids())
    result = run_load(server.port, wanted)
    expected = before + result["sent"] * wanted.recipients
    # What a server does after its 250 (an index, a queue) is part of its price.
    deadline = time.monotonic() + PATIENCE
    while server.delivered() < expected and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(SETTLE)
    result["cpu"] = (cpu_seconds(server.pids()) - spent) / max(1, result["sent"]) * 1000
    result["resident"] = server.resident()
    result["missing"] = expected - server.delivered()
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
    parser.add_argument("--recipients", type=int, default=1, help="of each message")
    parser.add_argument("--kept", action="store_true", help="a client keeps its connection")
    parser.add_argument(
        "--pipelined", action="store_true", help="MAIL, RCPT and DATA in one packet (RFC 2920)"
    )
    parser.add_argument("--runs", type=int, default=1, help="of each server, by turns; medians at the end")
    parser.add_argument("--cold", action="store_true", help="nobody has read the mailboxes: no index is kept")
    parser.add_argument("--postfix", action="store_true", help="measure Postfix beside it (needs root)")
    parser.add_argument("--callbacks", action="store_true", help="a second run that times every callback")
    parser.add_argument(
        "--directory", default="", help="where state is made (default: the temporary directory)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    parser.add_argument("--command", default="", help="another server: {state} and {port} are replaced")
    parser.add_argument("--load", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--wanted", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        print(json.dumps(load(options.load, Load(**json.loads(options.wanted)))))
        return 0
    wanted = Load(
        options.clients,
        options.messages,
        options.size,
        options.accounts,
        options.recipients,
        options.pipelined,
        options.kept,
    )
    root = Path(tempfile.mkdtemp(prefix="lorrainemail-bench-", dir=options.directory or None))
    postfix = options.postfix
    if postfix and (shutil.which("postfix") is None or os.geteuid() != 0):
        print("postfix        skipped: it is not installed, or this is not root")
        postfix = False
    ours: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    try:
        for run in range(options.runs):
            server = Lorrainemail(root / f"ours{run}", options.accounts, False, options.command)
            try:
                ours.append(measure(server, wanted, options.cold or bool(options.command)))
            finally:
                server.stop()
            report(server.name, ours[-1])
            if postfix:
                other = Postfix(root / f"postfix{run}", options.accounts)
                try:
                    others.append(measure(other, wanted))
                finally:
                    other.stop()
                report(other.name, others[-1])
        if options.callbacks:
            server = Lorrainemail(root / "timed", options.accounts, True, options.command)
            try:
                measure(server, wanted, options.cold)
            finally:
                print(f"{'':14} {server.stop() or 'no word of the callbacks'}")
    finally:
        if options.keep:
            print(f"left behind: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0 if judge(ours, others) else 1


def judge(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Say whether the medians reach the goal."""

    def median(results: list[dict[str, Any]], fact: str) -> float:
        return float(statistics.median(result[fact] for result in results))

    rate, cpu = median(ours, "rate"), median(ours, "cpu")
    good = rate >= GOAL_RATE and cpu <= GOAL_CPU
    good = good and not any(result["missing"] or result["failed"] for result in ours)
    print(f"median         {rate:.0f} messages/s, {cpu:.3f} ms CPU each")
    print(f"goal           {GOAL_RATE:.0f}/s and {GOAL_CPU} ms: {'reached' if good else 'NOT reached'}")
    if others:
        faster, cheaper = rate / median(others, "rate"), cpu / median(others, "cpu")
        print(f"beside Postfix {faster:.2f} times its rate, {cheaper:.2f} of its CPU")
    return good


if __name__ == "__main__":
    sys.exit(main())
