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
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.ops.files import SYSTEM
from lorrainemail.store import mboxfile, mboxjournal

SEED = int(os.environ.get("LORRAINEMAIL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
CLIENTS = 4
RECIPIENTS = ("x@far.test", "bob@ours.test", "ann@ours.test")  # relayed, a Maildir, an mbox
FAULTS = str(Path(__file__).parent / "faults")
LINES = 60


class NextHop(socketserver.ThreadingTCPServer):
    """A host that takes all mail and remembers it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        #: Each message with the life of the server in which its connection began.
        self.taken: list[tuple[int, bytes]] = []
        self.life = 0
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
        life = self.server.life  # type: ignore[attr-defined]
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
                self.server.taken.append((life, text))  # type: ignore[attr-defined]
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


def run(
    make_server: Callable[..., Any], next_hop: NextHop, messages: int, kills: int, faults: float = 0.0
) -> None:
    """Send, kill, send again; then look for every message.

    :param faults: how many of the calls that change files fail, in every second life of the server.
    """
    print(f"seed {SEED}")
    dice = random.Random(SEED)
    server = make_server(
        hostname="mail.ours.test",
        accounts=("bob@ours.test",),
        configuration='relay_networks = ["127.0.0.0/8"]\n[relay]\n'
        f'"*" = "[127.0.0.1]:{next_hop.port}"\n'
        '[queue]\nretry = ["1s", "2s"]\n'
        '[policy]\nchecks = ["limits", "helo", "loops"]\n',
    )
    added = server.command(
        "account",
        "add",
        "ann@ours.test",
        "--format",
        "mbox",
        "--password-stdin",
        input="correct horse battery",
    )
    assert added.returncode == 0, added.stderr
    address = (server.address, 2525)
    path = os.pathsep.join(filter(None, (FAULTS, os.environ.get("PYTHONPATH"))))
    faulty = {"PYTHONPATH": path, "LORRAINEMAIL_FAULTS": str(faults)}
    answered: list[int] = []
    waiting = list(range(messages))
    waiting.reverse()
    lock = threading.Lock()
    again: list[int] = []

    def client() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop()
            if send(address, number, RECIPIENTS[number % 3]):
                answered.append(number)
            else:
                # As a sender does, again; its first copy may have been kept although no 250 came through.
                with lock:
                    waiting.insert(0, number)
                    again.append(number)
                time.sleep(0.05)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for kill in range(kills):
        goal = messages * (kill + 1) // (kills + 1)
        wait_for(lambda goal=goal: len(answered) >= goal, f"{goal} answers", server)
        time.sleep(dice.random() * 0.05)
        server.process.kill()
        server.process.wait()
        server.process = None
        next_hop.life += 1
        server.start(faulty if faults and not kill % 2 else None)
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), f"seed {SEED}"
    if faults:
        server.stop()
        next_hop.life += 1
        server.start()
    assert sorted(answered) == list(range(messages))
    look(server, next_hop, messages, Counter(again))


def wait_for(condition: Callable[[], object], what: str, server: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"no {what}, seed {SEED}:\n{server.log_text()[-6000:]}"
        time.sleep(0.01)


def look(server: Any, next_hop: NextHop, messages: int, again: Counter[int]) -> None:
    """Every message is where it was sent, whole, and as often as can be explained."""
    relayed = {number for number in range(messages) if number % 3 == 0}
    wait_for(lambda: {number_of(text) for _, text in tuple(next_hop.taken)} >= relayed, "relays", server)
    server.stop()
    maildir = Counter(number_of(text) for text in server.messages("bob@ours.test"))
    mbox = Counter(number_of(text) for text in mbox_messages(server.maildir("ann@ours.test").parent / "mbox"))
    taken = Counter(number_of(text) for _, text in next_hop.taken)
    for kind, found in enumerate((taken, maildir, mbox)):
        assert -1 not in found, f"a torn message for {RECIPIENTS[kind]}, seed {SEED}"
        lost = {number for number in range(messages) if number % 3 == kind} ^ set(found)
        assert not lost, f"lost, or elsewhere: {sorted(lost)[:10]} for {RECIPIENTS[kind]}, seed {SEED}"
    for number, count in (maildir + mbox).items():
        assert count <= 1 + again[number], f"{number} was delivered {count} times, seed {SEED}"
    # One that was on its way when the server was killed may be sent once more by the next.
    lives = Counter((life, number_of(text)) for life, text in next_hop.taken)
    for (life, number), count in lives.items():
        assert count <= 1 + again[number], f"{number} was relayed {count} times in life {life}, seed {SEED}"


def mbox_messages(path: Path) -> list[bytes]:
    """As they are read after the recovery that comes first."""
    with path.open("r+b") as file:
        mboxjournal.settle(SYSTEM, str(path), file.fileno())
        entries = mboxfile.parse(file.fileno()).entries.values()
        return [mboxfile.wire_form(mboxfile.segment_of(file.fileno(), entry)) for entry in entries]


def test_killed_server_keeps_every_message_that_it_answered(
    make_server: Callable[..., Any], next_hop: NextHop
) -> None:
    run(make_server, next_hop, messages=150, kills=3)


def test_so_does_one_whose_disk_fails_now_and_then(
    make_server: Callable[..., Any], next_hop: NextHop
) -> None:
    run(make_server, next_hop, messages=120, kills=2, faults=0.02)


@pytest.mark.long
def test_killed_server_keeps_every_one_of_10000_messages(
    make_server: Callable[..., Any], next_hop: NextHop
) -> None:
    run(make_server, next_hop, messages=10_000, kills=200, faults=0.005)
