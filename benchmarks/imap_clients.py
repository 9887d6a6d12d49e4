"""Many IMAP clients at once: bodies, flags, APPEND, logins, notices in IDLE, thousands of idle connections.

Starts the server as shipped on loopback, and with ``--dovecot`` Debian's Dovecot after it, tuned by its own
manual (``dovecot.conf`` beside this file), with mailboxes of the same messages. Each figure is a rate, the
server's CPU an operation (its whole process tree), and, for ours, the goal ("must" and "aim"), a part of what
Dovecot reaches on a machine with two cores.

    python benchmarks/imap_clients.py [--dovecot] [--seconds 5] [--clients 20] [--idle 500]
        [--idle-accounts 50]

``--idle 5000 --idle-accounts 500`` is the goal's own size; the memory of an idle connection hardly depends on
it. Run it on an otherwise quiet machine: the clients take CPU, too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import selectors
import shutil
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imap_servers import HOST, PASSWORD, PATIENCE, Dovecot, Ours, Server, address, message

MESSAGES = 200
#: Messages in each folder of the idle connections.
IDLE_MESSAGES = 1000

#: (must, aim): operations a second, and milliseconds of CPU each; from Dovecot's figures with room to 12,000,
#: 8,800, 2,000 and 390 a second.
GOALS = {
    "body": ((6000, 12000), (0.143, 0.095)),
    "STORE": ((4400, 8800), (0.27, 0.18)),
    "APPEND": ((2000, 3000), (1.2, 0.8)),
    "login": ((570, 1900), None),
}
NOTICE_GOALS = (0.004, 0.020)
#: KiB of an idle connection: must, aim; without TLS and with it.
IDLE_GOALS = {False: (16.0, 6.0), True: (45.0, 35.0)}


class Connection:
    """One client: commands out of an iterator, each when the last was answered."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket: socket.socket = socket.create_connection((HOST, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.commands: Iterator[bytes] = iter(())
        self.buffer = b""
        greeting = self.socket.recv(4096)
        if not greeting.startswith(b"* OK"):
            raise SystemExit(f"greeting: {greeting!r}")

    def ask(self, command: bytes) -> bytes:
        """The whole answer to one command."""
        self.socket.sendall(b"a " + command + b"\r\n")
        answer = b""
        while not _is_whole(answer):
            part = self.socket.recv(1 << 16)
            if not part:
                raise SystemExit(f"closed after {command!r}: {answer!r}")
            answer += part
        if b"a OK" not in answer[-2000:]:
            raise SystemExit(f"{command!r}: {answer[-300:]!r}")
        return answer

    def login(self, user: str) -> None:
        self.ask(f'LOGIN {user} "{PASSWORD}"'.encode())

    def wait_for(self, words: bytes) -> None:
        while words not in self.buffer:
            part = self.socket.recv(1 << 16)
            if not part:
                raise SystemExit("the server closed")
            self.buffer += part
        self.buffer = b""

    def close(self) -> None:
        self.socket.close()


def _is_whole(answer: bytes) -> bool:
    """Whether the last line is there and is the tagged one."""
    if not answer.endswith(b"\r\n"):
        return False
    before = answer.rfind(b"\r\n", 0, -2)
    return answer.startswith(b"a ", before + 2 if before >= 0 else 0)


def drive(connections: list[Connection], seconds: float) -> int:
    """Let them all work; how many commands were answered."""
    selector = selectors.DefaultSelector()
    for one in connections:
        selector.register(one.socket, selectors.EVENT_READ, one)
        one.buffer = b""
        one.socket.sendall(next(one.commands))
    done = 0
    running = len(connections)
    end = time.monotonic() + seconds
    while running:
        for key, _ in selector.select(PATIENCE):
            one = key.data
            part = one.socket.recv(1 << 18)
            if not part:
                raise SystemExit("the server closed")
            one.buffer += part
            if not _is_whole(one.buffer):
                continue
            if b"a OK" not in one.buffer[-600:]:
                raise SystemExit(f"refused: {one.buffer[-300:]!r}")
            one.buffer = b""
            done += 1
            if time.monotonic() < end:
                one.socket.sendall(next(one.commands))
            else:
                selector.unregister(one.socket)
                running -= 1
    selector.close()
    return done


def report(server: Server, name: str, done: int, took: float, cpu: float) -> None:
    rate, each = done / took, cpu / done * 1000
    line = f"{server.name:8} {name:10} {rate:8.0f}/s   {each:6.3f} ms CPU each"
    goals = GOALS.get(name)
    if goals is not None and server.name == "ours":
        rates, cpus = goals
        line += f"   must {rates[0]}/s aim {rates[1]}/s: {_verdict(rate, *rates)}"
        if cpus is not None:
            line += f"; CPU must {cpus[0]} aim {cpus[1]}: {_verdict(-each, -cpus[0], -cpus[1])}"
    print(line, flush=True)


def _verdict(value: float, must: float, aim: float) -> str:
    return "reached" if value >= aim else ("kept" if value >= must else "MISSED")


# -- what is measured --------------------------------------------------------------------------------------


def bodies(number: int) -> Iterator[bytes]:
    for uid in itertools.cycle(range(1, MESSAGES + 1)):
        yield b"a UID FETCH %d BODY.PEEK[]\r\n" % ((uid + number * 7) % MESSAGES + 1)


def flags(number: int) -> Iterator[bytes]:
    for sign in itertools.cycle((b"+", b"-")):
        for uid in range(1, MESSAGES + 1):
            yield b"a UID STORE %d %bFLAGS.SILENT (\\Flagged)\r\n" % (uid, sign)


def appends(number: int) -> Iterator[bytes]:
    data = message(number)
    command = b"a APPEND INBOX {%d+}\r\n%b\r\n" % (len(data), data)
    return itertools.repeat(command)


def throughput(server: Server, clients: int, seconds: float) -> None:
    """Bodies, flags and APPEND, each client with an account of its own."""
    makers: dict[str, Callable[[int], Iterator[bytes]]] = {"body": bodies, "STORE": flags, "APPEND": appends}
    for name, make in makers.items():
        connections = []
        for number in range(clients):
            one = Connection(server.port)
            one.login(address(number))
            one.ask(b"SELECT INBOX")
            one.commands = make(number)
            connections.append(one)
        drive(connections, 0.3)
        for number, one in enumerate(connections):
            one.commands = make(number)
        cpu, began = server.cpu(), time.monotonic()
        done = drive(connections, seconds)
        report(server, name, done, time.monotonic() - began, server.cpu() - cpu)
        for one in connections:
            one.close()


def logins(server: Server, clients: int, seconds: float) -> None:
    """A new connection and a login each time, of accounts whose password was proven before."""
    for number in range(clients):
        one = Connection(server.port)
        one.login(address(number))
        one.close()
    cpu, began, done = server.cpu(), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for number in range(clients):
            one = Connection(server.port)
            one.login(address(number))
            one.close()
            done += 1
    report(server, "login", done, time.monotonic() - began, server.cpu() - cpu)


def notices(server: Server, count: int) -> None:
    """How long after the 250 of a delivery a client in IDLE hears of it."""
    one = Connection(server.port)
    one.login(address(0))
    one.ask(b"SELECT INBOX")
    one.socket.sendall(b"a IDLE\r\n")
    one.wait_for(b"+ ")
    took: list[float] = []
    deliver = server.courier()
    for number in range(count):
        accepted = deliver(address(0), message(number))
        one.wait_for(b" EXISTS")
        took.append(max(time.monotonic() - accepted, 0.0))
    one.close()
    took.sort()
    p50, p99 = took[count // 2], took[min(count * 99 // 100, count - 1)]
    line = f"{server.name:8} notice     p50 {p50 * 1000:7.2f} ms   p99 {p99 * 1000:7.2f} ms"
    if server.name == "ours":
        kept = "kept" if p50 <= NOTICE_GOALS[0] and p99 <= NOTICE_GOALS[1] else "MISSED"
        line += f"   must 4 and 20 ms: {kept}"
    print(line, flush=True)


def idle(server: Server, count: int, accounts: int, tls: bool) -> None:
    """Memory of connections in IDLE, each with a folder of a thousand messages selected."""
    context = None
    if tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for number in range(accounts):  # the folder once, so that its index is not counted
        one = Connection(server.port)
        one.login(address(1000 + number))
        one.ask(b"SELECT INBOX")
        one.close()
    before, began = server.memory(), time.monotonic()
    connections = []
    for number in range(count):
        one = Connection(server.tls_port if tls else server.port, context)
        one.login(address(1000 + number % accounts))
        one.ask(b"SELECT INBOX")
        one.socket.sendall(b"a IDLE\r\n")
        one.wait_for(b"+ ")
        connections.append(one)
    took = time.monotonic() - began
    time.sleep(1)
    each = (server.memory() - before) / count
    resting = server.cpu()
    time.sleep(5)
    resting = server.cpu() - resting
    for one in connections:
        one.close()
    name = "idle, TLS" if tls else "idle"
    line = f"{server.name:8} {name:10} {each:8.1f} KiB each   ({count} over {accounts} accounts, "
    line += f"made in {took:.0f} s; {resting / 5 * 100:.1f} % CPU while idle)"
    if server.name == "ours":
        must, aim = IDLE_GOALS[tls]
        line += f"   must {must:.0f} aim {aim:.0f}: {_verdict(-each, -must, -aim)}"
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dovecot", action="store_true", help="Debian's Dovecot too")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--notices", type=int, default=200)
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--idle-accounts", type=int, default=50)
    parser.add_argument("--only", default="", help="throughput, logins, notices or idle")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for kind in (Ours, Dovecot) if options.dovecot else (Ours,):
        if kind is Dovecot and not os.path.exists(Dovecot.PROGRAM):
            print("Dovecot is not installed", file=sys.stderr)
            continue
        directory = Path(tempfile.mkdtemp(prefix="imap-clients-"))
        server = kind(directory)
        try:
            server.prepare(
                options.clients, MESSAGES, options.idle_accounts if options.idle else 0, IDLE_MESSAGES
            )
            server.start()
            if options.only in ("", "throughput"):
                throughput(server, options.clients, options.seconds)
            if options.only in ("", "logins"):
                logins(server, options.clients, options.seconds)
            if options.only in ("", "notices"):
                notices(server, options.notices)
            if options.idle and options.only in ("", "idle"):
                for tls in (False, True):
                    idle(server, options.idle, options.idle_accounts, tls)
        finally:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
