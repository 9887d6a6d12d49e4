"""How fast mail is relayed, and what that costs: from many SMTP clients through the server to a next hop.

Starts a server as shipped (``twistd -n lorrainemail``; trace, history and synced queue), whose clients on
loopback may relay, and a next hop in a process of its own that takes everything and counts. The rate is that
of the next hop: from the clients' first connection to the last message that it took. ``--postfix`` measures
Debian's Postfix with a relayhost beside it, by turns.

    python benchmarks/smtp_relay.py [--messages 4000] [--clients 50] [--size 4096] [--recipients 1] [--kept]
        [--postfix] [--runs 1]

Run it on an otherwise quiet machine, on the kind of disk that mail will lie on (``--directory``).
"""

from __future__ import annotations

import argparse
import mmap
import re
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from smtp_load import HOST, PATIENCE, Load, run_load
from smtp_servers import Lorrainemail, Postfix, cpu_seconds, may_run_postfix

DOMAIN = "relayed.example"
#: Seconds in which a server finishes what it does after its last message.
SETTLE = 3.0
#: Of Postfix's rate and CPU: what must be reached.
GOAL_RATE = 1.0
GOAL_CPU = 0.5

_GREETING = b"220 sink.example ESMTP\r\n"
_EXTENSIONS = (
    b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n"
    b"250-DSN\r\n%s250 SMTPUTF8\r\n"
)
_REPLIES = {
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"NOOP": b"250 2.0.0 Ok\r\n",
    b"HELO": b"250 sink.example\r\n",
}
_BDAT = re.compile(rb"BDAT (\d+)( LAST)?\Z", re.IGNORECASE)
_END = b"\r\n.\r\n"
_TALLY = struct.Struct("=QQQd")


# -- the next hop ----------------------------------------------------------------------------------------


class Sink:
    """One connection of the next hop."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.data = b""
        self.in_data = False
        self.counted = 0  # octets of BDAT that are still to come
        self.last = False
        self.recipients = 0


def sink(listener: socket.socket, tally: mmap.mmap, chunking: bool) -> None:
    """Take everything until killed. ``tally``: messages, recipients, connections, and when the last came."""
    extensions = _EXTENSIONS % (b"250-CHUNKING\r\n" if chunking else b"")
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_: dict[int, Sink] = {}
    messages = recipients = connections = 0

    def took(one: Sink) -> bytes:
        nonlocal messages, recipients
        messages += 1
        recipients += one.recipients
        one.recipients = 0
        tally[: _TALLY.size] = _TALLY.pack(messages, recipients, connections, time.perf_counter())
        return b"250 2.0.0 Ok: queued as %012d\r\n" % messages

    def heard(one: Sink) -> bytes | None:
        """The replies to all that is there; None where the client quits."""
        replies = []
        while one.data:
            if one.in_data:
                end = one.data.find(_END)
                if end < 0:
                    one.data = one.data[-4:]
                    break
                one.data = one.data[end + len(_END) :]
                one.in_data = False
                replies.append(took(one))
                continue
            if one.counted:
                taken = min(one.counted, len(one.data))
                one.data = one.data[taken:]
                one.counted -= taken
                if not one.counted:
                    replies.append(took(one) if one.last else b"250 2.0.0 Ok\r\n")
                continue
            line, newline, rest = one.data.partition(b"\r\n")
            if not newline:
                break
            one.data = rest
            verb = line[:4].upper()
            chunk = _BDAT.match(line)
            if chunk is not None:
                one.counted, one.last = int(chunk.group(1)), bool(chunk.group(2))
                if not one.counted:
                    replies.append(took(one) if one.last else b"250 2.0.0 Ok\r\n")
            elif verb == b"DATA":
                one.in_data = True
                one.data = b"\r\n" + one.data  # an end may come at once
                replies.append(b"354 go ahead\r\n")
                if one.data == b"\r\n":
                    break
            elif verb == b"EHLO":
                replies.append(extensions)
            elif verb == b"QUIT":
                one.socket.send(b"".join(replies) + b"221 2.0.0 Bye\r\n")
                return None
            else:
                one.recipients += verb == b"RCPT"
                replies.append(_REPLIES.get(verb, b"502 5.5.2 what?\r\n"))
        return b"".join(replies)

    while True:
        for descriptor, _event in poll.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections += 1
                open_[connection.fileno()] = Sink(connection)
                poll.register(connection, select.EPOLLIN)
                connection.send(_GREETING)
                continue
            one = open_[descriptor]
            try:
                data = one.socket.recv(1 << 18)
                one.data += data
                replies = heard(one) if data else None
                if replies:
                    one.socket.send(replies)
            except OSError:
                replies = None
            if replies is None:
                poll.unregister(descriptor)
                one.socket.close()
                del open_[descriptor]


@attrs.frozen
class NextHop:
    """The next hop as its process: where it listens, what it has taken."""

    process: subprocess.Popen[bytes]
    port: int
    tally: mmap.mmap

    @classmethod
    def start(cls, directory: Path, chunking: bool) -> NextHop:
        path = directory / "tally"
        path.write_bytes(bytes(_TALLY.size))
        with open(path, "r+b") as file:
            tally = mmap.mmap(file.fileno(), _TALLY.size)
        listener = socket.create_server((HOST, 0), backlog=512)
        words = [sys.executable, __file__, "--sink", str(listener.fileno()), "--tally", str(path)]
        if chunking:
            words.append("--chunking")
        process = subprocess.Popen(words, pass_fds=[listener.fileno()])
        port = listener.getsockname()[1]
        listener.close()
        return cls(process, port, tally)

    def taken(self) -> tuple[int, int, int, float]:
        """Messages, recipients, connections, and when the last message came."""
        found: tuple[int, int, int, float] = _TALLY.unpack(self.tally[: _TALLY.size])
        return found

    def wait_for(self, messages: int) -> None:
        """Until it has taken so many; gives up when nothing comes for long."""
        before, since = self.taken()[0], time.monotonic()
        while before < messages and time.monotonic() - since < PATIENCE:
            time.sleep(0.02)
            now = self.taken()[0]
            if now != before:
                before, since = now, time.monotonic()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


# -- measuring -------------------------------------------------------------------------------------------


def measure(server: Lorrainemail | Postfix, hop: NextHop, wanted: Load) -> dict[str, Any]:
    """Warm up, then measure."""
    start = hop.taken()[0]
    warm = run_load(
        server.port, attrs.evolve(wanted, messages=max(wanted.clients * 2, wanted.messages // 10))
    )
    hop.wait_for(start + warm["sent"])
    time.sleep(SETTLE)
    first, first_recipients, first_connections, _ = hop.taken()
    spent = cpu_seconds(server.pids())
    result = run_load(server.port, wanted)
    hop.wait_for(first + result["sent"])
    time.sleep(SETTLE)
    result["cpu"] = (cpu_seconds(server.pids()) - spent) / max(1, result["sent"]) * 1000
    messages, recipients, connections, last = hop.taken()
    result["took"] = last - result["began"]
    result["rate"] = (messages - first) / result["took"]
    result["connections"] = connections - first_connections
    result["missing"] = result["sent"] - (messages - first)
    result["astray"] = result["sent"] * wanted.recipients - (recipients - first_recipients)
    result["resident"] = server.resident()
    return result


def report(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name:14} {result['rate']:7.0f} messages/s out   {result['cpu']:.3f} ms CPU each   "
        f"p50 {result['p50']:.1f} ms   p99 {result['p99']:.1f} ms   RSS {result['resident']:.0f} MiB   "
        f"failed {result['failed']}   missing {result['missing']}   recipients missing {result['astray']}   "
        f"({result['connections']} connections out, client {result['client_cpu']:.3f} ms)",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--recipients", type=int, default=1, help="of each message")
    parser.add_argument("--kept", action="store_true", help="a client keeps its connection")
    parser.add_argument(
        "--pipelined", action="store_true", help="MAIL, RCPT and DATA in one packet (RFC 2920)"
    )
    parser.add_argument("--chunking", action="store_true", help="the next hop takes BDAT (RFC 3030)")
    parser.add_argument("--runs", type=int, default=1, help="of each server, by turns; medians at the end")
    parser.add_argument("--postfix", action="store_true", help="measure Postfix beside it (needs root)")
    parser.add_argument(
        "--directory", default="", help="where state is made (default: the temporary directory)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the directory behind")
    parser.add_argument("--sink", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--tally", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sink >= 0:
        with open(options.tally, "r+b") as file:
            sink(socket.socket(fileno=options.sink), mmap.mmap(file.fileno(), _TALLY.size), options.chunking)
    wanted = Load(
        clients=options.clients,
        messages=options.messages,
        size=options.size,
        recipients=options.recipients,
        pipelined=options.pipelined,
        kept=options.kept,
        domain=DOMAIN,
    )
    root = Path(tempfile.mkdtemp(prefix="lorrainemail-bench-", dir=options.directory or None))
    postfix = options.postfix and may_run_postfix()
    hop = NextHop.start(root, options.chunking)
    ours: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    try:
        for run in range(options.runs):
            server = Lorrainemail(root / f"ours{run}", 1, next_hop=hop.port)
            try:
                ours.append(measure(server, hop, wanted))
            finally:
                server.stop()
            report(server.name, ours[-1])
            if postfix:
                other = Postfix(root / f"postfix{run}", 1, next_hop=hop.port)
                try:
                    others.append(measure(other, hop, wanted))
                finally:
                    other.stop()
                report(other.name, others[-1])
    finally:
        hop.stop()
        if options.keep:
            print(f"left behind: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0 if judge(ours, others) else 1


def judge(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Say whether nothing was lost, and whether the medians reach the goal."""

    def median(results: list[dict[str, Any]], fact: str) -> float:
        return float(statistics.median(result[fact] for result in results))

    good = not any(result["missing"] or result["astray"] or result["failed"] for result in ours)
    rate, cpu = median(ours, "rate"), median(ours, "cpu")
    print(f"median         {rate:.0f} messages/s, {cpu:.3f} ms CPU each")
    if others:
        faster, cheaper = rate / median(others, "rate"), cpu / median(others, "cpu")
        good = good and faster >= GOAL_RATE and cheaper <= GOAL_CPU
        print(f"beside Postfix {faster:.2f} times its rate, {cheaper:.2f} of its CPU")
        print(f"goal           {GOAL_RATE} and {GOAL_CPU}: {'reached' if good else 'NOT reached'}")
    return good


if __name__ == "__main__":
    sys.exit(main())
