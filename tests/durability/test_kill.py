"""Kill -9 of a real server at random moments: nothing that it answered with 250 is lost or torn."""

from __future__ import annotations

import os
import random
import re
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SEED = int(os.environ.get("LORRAINEMAIL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
CLIENTS = 4
LINES = 60


class NextHop(socketserver.ThreadingTCPServer):
    """A host that takes all mail and remembers it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.taken: list[bytes] = []
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Session(socketserver.StreamRequestHandler):
    timeout = 60

    def handle(self) -> None:
        try:
            self._talk()
        except OSError:
            pass  # the other end was killed

    def _talk(self) -> None:
        self.wfile.write(b"220 far.test\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go\r\n")
                text = b""
                while (line := self.rfile.readline()) != b".\r\n":
                    if not line:
                        return
                    text += line
                self.server.taken.append(text)  # type: ignore[attr-defined]
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 far.test\r\n")


@pytest.fixture
def next_hop() -> Iterator[NextHop]:
    server = NextHop()
    yield server
    server.shutdown()
    server.server_close()


def text_of(number: int) -> bytes:
    return f"Subject: number {number};\r\n\r\n".encode() + b"line\r\n" * LINES + f"end {number};\r\n".encode()


def number_of(text: bytes) -> int:
    """Which message this is; -1 for one that is not whole."""
    found = re.search(rb"Subject: number (\d+);\r?\n\r?\n((?:line\r?\n)+)end (\d+);\r?\n\Z", text)
    if found is None or found.group(1) != found.group(3) or found.group(2).count(b"line") != LINES:
        return -1
    return int(found.group(1))


def send(address: tuple[str, int], number: int, recipient: str) -> bool:
    """Send one message; whether its 250 came."""
    try:
        with (
            socket.create_connection(address, timeout=30) as connection,
            connection.makefile("rwb") as stream,
        ):

            def say(words: bytes, code: bytes) -> None:
                if words:
                    stream.write(words)
                    stream.flush()
                while True:
                    line = stream.readline()
                    if line[:3] != code:
                        raise ConnectionError(line)
                    if line[3:4] == b" ":
                        return

            say(b"", b"220")
            say(b"EHLO client.far.test\r\n", b"250")
            say(b"MAIL FROM:<carole@far.test>\r\n", b"250")
            say(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
            say(b"DATA\r\n", b"354")
            say(text_of(number) + b".\r\n", b"250")
            return True
    except OSError:
        return False


def run(make_server: Callable[..., Any], next_hop: NextHop, messages: int, kills: int) -> None:
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    server = make_server(
        hostname="mail.ours.test",
        configuration='relay_networks = ["127.0.0.0/8"]\n[relay]\n'
        f'"*" = "[127.0.0.1]:{next_hop.port}"\n'
        '[policy]\nchecks = ["limits", "helo", "loops"]\n',
    )
    address = (server.address, 2525)
    answered: list[int] = []
    waiting = list(range(messages))
    waiting.reverse()
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop()
            recipient = "bob@ours.test" if number % 2 else "x@far.test"
            if send(address, number, recipient):
                answered.append(number)
            else:
                # As a sender does, again; its first copy may have been kept although no 250 came through.
                with lock:
                    waiting.insert(0, number)
                    again.append(number)
                time.sleep(0.05)

    again: list[int] = []
    threads = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for kill in range(kills):
        goal = messages * (kill + 1) // (kills + 1)
        server.wait(lambda goal=goal: len(answered) >= goal, f"{goal} answers")
        time.sleep(dice.random() * 0.05)
        server.process.kill()
        server.process.wait()
        server.process = None
        server.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), f"seed {SEED}"
    expected = set(range(messages))
    assert set(answered) == expected
    server.wait(
        lambda: {number_of(text) for text in next_hop.taken} >= {n for n in expected if not n % 2}, "relays"
    )
    local = Counter(number_of(text) for text in server.messages("bob@ours.test"))
    relayed = Counter(number_of(text) for text in next_hop.taken)
    assert -1 not in local and -1 not in relayed, f"a torn message, seed {SEED}"
    assert set(local) == {n for n in expected if n % 2}, f"lost, seed {SEED}"
    assert set(relayed) == {n for n in expected if not n % 2}, f"lost, seed {SEED}"
    for number, count in local.items():
        assert count <= 1 + again.count(number), f"{number} was delivered {count} times, seed {SEED}"


def test_killed_server_keeps_every_message_that_it_answered(
    make_server: Callable[..., Any], next_hop: NextHop
) -> None:
    run(make_server, next_hop, messages=120, kills=3)


@pytest.mark.long
def test_killed_server_keeps_every_one_of_2000_messages(
    make_server: Callable[..., Any], next_hop: NextHop
) -> None:
    run(make_server, next_hop, messages=4000, kills=60)
