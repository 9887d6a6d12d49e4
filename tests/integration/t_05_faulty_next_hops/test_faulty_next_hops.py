"""A real server whose next hops fail in every way at every stage: nothing is lost, and nothing is delivered
twice where SMTP lets us know. Each fault has a peer of its own, which fails once and then behaves."""

from __future__ import annotations

import contextlib
import email
import json
import smtplib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

#: Seconds within which everything has its end.
PATIENCE = 90.0

STAGES = ("greeting", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "body", "dot")
#: What a peer does at its stage, once: a reply, or "drop", "reset", or octets that are no reply.
FAULTS = {
    "drop": b"",
    "4xx": b"451 4.3.2 not now\r\n",
    "5xx": b"554 5.7.0 never\r\n",
    "421": b"421 4.3.2 going down\r\n",
    "malformed": b"hello, who is there?\r\n",
    "two codes": b"250-one\r\n550 two\r\n",
    "endless line": b"250 " + b"x" * 100_000,
    "endless lines": b"250-and so on\r\n" * 10_000,
}
EXTENSIONS = {"plain": (), "pipelined": ("PIPELINING",), "chunked": ("PIPELINING", "CHUNKING", "8BITMIME")}


@attrs.define
class Peer:
    """One next hop. ``accepted``: messages that it took for good, and said so."""

    stage: str
    fault: str
    kind: str
    accepted: list[bytes] = attrs.field(factory=list)
    failed: bool = False
    listener: Any = None

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.fault}-{self.kind}".lower().replace(" ", "-") + ".test"

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE)
                self.talk(connection)

    def breaks(self, stage: str, connection: socket.socket) -> bool:
        """Fail where it is time to; whether the connection is over."""
        if self.failed or stage != self.stage:
            return False
        self.failed = True
        octets = FAULTS[self.fault]
        if octets:
            connection.sendall(octets)
        return self.fault not in ("4xx", "5xx")

    def talk(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        if self.breaks("greeting", connection):
            return
        connection.sendall(b"220 peer\r\n")
        ready = False
        while line := file.readline():
            verb = line.split(b" ")[0].strip().upper().decode("latin-1")
            failing = not self.failed and verb == self.stage
            if self.breaks(verb, connection):
                return
            if failing:
                ready = False
                continue
            if verb == "EHLO":
                words = ["peer", *EXTENSIONS[self.kind]]
                if self.stage == "STARTTLS":
                    words.append("STARTTLS")
                last = len(words) - 1
                connection.sendall(
                    b"".join(
                        b"250%b%b\r\n" % (b" " if n == last else b"-", word.encode())
                        for n, word in enumerate(words)
                    )
                )
            elif verb == "STARTTLS":
                connection.sendall(b"454 4.7.0 not any more\r\n")
            elif verb == "DATA" and not ready:
                connection.sendall(b"503 5.5.1 nobody wants it\r\n")
            elif verb in ("DATA", "BDAT"):
                if verb == "DATA":
                    connection.sendall(b"354 go on\r\n")
                failing = not self.failed and self.stage in ("body", "dot")
                begun = file.read(40) if failing and self.stage == "body" else b""
                if self.breaks("body", connection):
                    return
                message = begun + self.rest(verb, line, file, len(begun))
                if self.breaks("dot", connection):
                    return
                if failing:
                    continue
                self.accepted.append(message)
                connection.sendall(b"250 2.0.0 taken\r\n")
            elif verb == "QUIT":
                connection.sendall(b"221 2.0.0 bye\r\n")
                return
            else:
                ready = verb == "MAIL" or (verb == "RCPT" and ready)
                connection.sendall(b"250 2.0.0 ok\r\n")

    def rest(self, verb: str, line: bytes, file: Any, begun: int) -> bytes:
        """The message behind DATA or BDAT, but for its first octets."""
        if verb == "BDAT":
            return bytes(file.read(int(line.split()[1]) - begun))
        found = b"\r\n"
        while not found.endswith(b"\r\n.\r\n"):
            more = file.readline()
            if not more:
                raise OSError("the client went away")
            found += more
        return found[:-3].replace(b"\r\n..", b"\r\n.")[2:]


def all_faults() -> list[tuple[str, str, str]]:
    found = []
    for kind in EXTENSIONS:
        for stage in STAGES:
            if kind == "chunked" and stage == "DATA":
                continue
            found += [(stage, fault, kind) for fault in FAULTS]
    return found


@pytest.fixture
def peers() -> Iterator[dict[str, Peer]]:
    made: dict[str, Peer] = {}
    threads = []
    for facts in all_faults():
        peer = Peer(*facts)
        peer.listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=peer.serve, daemon=True)
        thread.start()
        threads.append(thread)
        made[peer.name] = peer
    yield made
    for peer in made.values():
        peer.listener.shutdown(socket.SHUT_RDWR)
        peer.listener.close()
    for thread in threads:
        thread.join(5)


def text_for(name: str) -> str:
    return f"Subject: {name}\r\n\r\nTo {name}: Déjà vu\r\n.\r\n..\r\nend\r\n" + "filling\r\n" * 20


def test_nothing_is_lost_and_nothing_comes_twice(
    make_server: Callable[..., Any], peers: dict[str, Peer]
) -> None:
    rows = "".join(f'"{name}" = "127.0.0.1:{peer.port}"\n' for name, peer in peers.items())
    server = make_server(
        accounts=("anne@ours.test",),
        configuration='relay_networks = ["127.0.0.0/8"]\n'
        f'[queue]\nretry = ["1s"]\nconcurrency = 100\n[relay]\n{rows}',
    )
    with smtplib.SMTP(server.address, 2525, timeout=30) as smtp:
        for name in peers:
            smtp.sendmail("anne@ours.test", [f"bob@{name}"], text_for(name).encode())
    deadline = time.monotonic() + PATIENCE
    while True:
        # Those that could not be reached at all would have to wait for a minute.
        assert server.command("queue", "retry", "--all").returncode in (0, 1)
        left = json.loads(server.command("queue", "list", "--json").stdout)["total"]
        if not left:
            break
        assert time.monotonic() < deadline, f"{left} messages are still in the queue"
        time.sleep(0.3)
    told = [
        line.split(b"@")[1].strip().decode()
        for notice in server.messages("anne@ours.test")
        for line in notice.splitlines()
        if line.startswith(b"Final-Recipient:")
    ]
    assert len(told) == len(set(told))
    for name, peer in peers.items():
        assert peer.failed, f"{name} was never asked"
        final = peer.fault == "5xx" and peer.stage in ("MAIL", "RCPT", "DATA", "body", "dot")
        assert (name in told) is final, name
        assert len(peer.accepted) == (0 if final else 1), f"{name}: {len(peer.accepted)} copies"
        for message in peer.accepted:
            # Peers without 8BITMIME get it converted.
            payload = email.message_from_bytes(message).get_payload(decode=True)
            assert payload == text_for(name).partition("\r\n\r\n")[2].encode()


def test_a_peer_that_stalls_keeps_nobody_and_loses_nothing(make_server: Callable[..., Any]) -> None:
    """One that accepts and says nothing: others are served, a restart cuts it, and the mail is kept."""
    good = Peer("never", "drop", "plain", failed=True, listener=socket.create_server(("127.0.0.1", 0)))
    threading.Thread(target=good.serve, daemon=True).start()
    stalling = socket.create_server(("127.0.0.1", 0), backlog=100)
    try:
        server = make_server(
            accounts=("anne@ours.test",),
            configuration='relay_networks = ["127.0.0.0/8"]\n[queue]\nconcurrency = 3\n[relay]\n'
            f'"stalls.test" = "127.0.0.1:{stalling.getsockname()[1]}"\n'
            f'"good.test" = "127.0.0.1:{good.port}"\n',
        )
        with smtplib.SMTP(server.address, 2525, timeout=30) as smtp:
            for _ in range(5):
                smtp.sendmail("anne@ours.test", ["bob@stalls.test"], b"Subject: x\r\n\r\nx\r\n")
            smtp.sendmail("anne@ours.test", ["bob@good.test"], b"Subject: x\r\n\r\nx\r\n")
        server.wait(lambda: len(good.accepted) == 1, "the mail for the good one")
        server.stop()
        server.start()
        assert json.loads(server.command("queue", "list", "--json").stdout)["total"] == 5
        assert server.messages("anne@ours.test") == [] and len(good.accepted) == 1
    finally:
        stalling.close()
        good.listener.shutdown(socket.SHUT_RDWR)
        good.listener.close()
