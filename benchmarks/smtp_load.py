"""Many SMTP clients in one process, as the benchmarks use them.

Called by :mod:`smtp_local` and :mod:`smtp_relay`: :func:`run_load` runs this file as a process of its own and
answers what the clients saw.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from typing import Any

import attrs

HOST = "127.0.0.1"
DOMAIN = "bricoleur.com"
PATIENCE = 60.0
SEND_BUFFER = 1 << 20


@attrs.frozen
class Load:
    """What the clients do.

    :ivar recipients: of each message, one account after the other.
    :ivar pipelined: MAIL, RCPT and DATA in one packet (RFC 2920).
    :ivar kept: a client keeps its connection for its next message.
    :ivar domain: where the recipients are. ``sender``: the reverse-path.
    :ivar message: a file with the message, as it is said after DATA but for its dot; "" for one of that size.
    """

    clients: int = 50
    messages: int = 6000
    size: int = 4096
    accounts: int = 50
    recipients: int = 1
    pipelined: bool = False
    kept: bool = False
    domain: str = DOMAIN
    sender: str = "carole@elorac.fr"
    message: str = ""


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
    given = b""
    if wanted.message:
        with open(wanted.message, "rb") as file:
            given = file.read()
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
            b"MAIL FROM:<%s>\r\n" % wanted.sender.encode(),
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
        client.steps.append(((given or header + body) + b".\r\n", 1))

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
        "began": first,
        "p50": times[count // 2] * 1000 if times else 0.0,
        "p99": times[min(count - 1, count * 99 // 100)] * 1000 if times else 0.0,
        "client_cpu": time.process_time() / count * 1000,
    }


def run_load(port: int, wanted: Load) -> dict[str, Any]:
    """The clients, in a process of their own."""
    words = [sys.executable, __file__, str(port), json.dumps(attrs.asdict(wanted))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE * 10, check=False)
    if done.returncode:
        raise SystemExit(f"the load client failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    if result["failed"]:
        sys.stderr.write(done.stderr[-2000:])
    return result


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), Load(**json.loads(sys.argv[2])))))
