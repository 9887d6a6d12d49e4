"""Messages with forged senders through every way that makes other servers write to those who never sent them.

One real server, a next hop that refuses, and strangers who send. Nothing with a null reverse-path may leave,
and nothing for the forged senders, whatever fails after the message was taken.
"""

from __future__ import annotations

import json
import smtplib
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

PATIENCE = 60.0
SMTP = 2525
VICTIMS = "victim.test"
#: Received fields after which a message loops.
HOPS = 8

MakeServer = Callable[..., Any]

CONFIGURATION = """relay_domains = ["backup.test"]
[limits]
hops = {hops}
connections = 50
[queue]
retry = ["1s"]
expire = "3s"
delay_notice = "1s"
concurrency = 200
per_destination = 100
[relay]
"*" = "[127.0.0.1]:{port}"
[listen]
"""


class Hop(socketserver.ThreadingTCPServer):
    """Refuses ``no-...`` for good and ``later-...`` for now; hands ``loop-...`` back to where it came from;
    takes the rest. ``back`` is the server that it hands back to."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.port = self.server_address[1]
        self.taken: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str]] = []
        self.rounds = 0
        self.ended = threading.Event()
        self.back = ""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def hand_back(self, sender: str, text: bytes) -> None:
        """As a forwarder would that leads back to us."""
        self.rounds += 1
        try:
            with smtplib.SMTP(self.back, SMTP, timeout=PATIENCE) as client:
                client.sendmail(sender, ["round@ours.test"], text)
        except smtplib.SMTPException:
            self.ended.set()  # refused: it ends


class _Session(socketserver.StreamRequestHandler):
    server: Hop
    timeout: ClassVar[float] = PATIENCE

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self) -> None:
        try:
            self.serve()
        except OSError:
            pass  # it went away

    def serve(self) -> None:
        sender, recipients = "", []
        self.say("220 hop.test ESMTP")
        while line := self.rfile.readline().decode().strip():
            verb, path = line[:4].upper(), line[line.find("<") + 1 : line.find(">")]
            if verb == "EHLO":
                self.say("250-hop.test\r\n250 8BITMIME")
            elif verb == "MAIL":
                sender, recipients = path, []
                self.say("250 ok")
            elif verb == "RCPT":
                self.server.asked.append((sender, path))
                if path.startswith("no-"):
                    self.say("550 5.1.1 no such user")
                elif path.startswith("later-"):
                    self.say("451 4.2.1 come back later")
                else:
                    recipients.append(path)
                    self.say("250 ok")
            elif verb == "DATA" and recipients:
                self.say("354 go")
                text = b"".join(iter(self.rfile.readline, b".\r\n"))
                self.server.taken += [(sender, one) for one in recipients]
                self.say("250 2.0.0 taken")
                if recipients[0].startswith("loop-"):
                    self.server.hand_back(sender, text)
            elif verb == "DATA":
                self.say("554 5.5.1 for nobody")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")


@pytest.fixture
def hop() -> Iterator[Hop]:
    server = Hop()
    yield server
    server.shutdown()
    server.server_close()


ALIASES = """\
away: no-one@else.test
two: no-one@else.test, ann
slow: later-one@else.test
round: loop-one@else.test
broken: "|/bin/false"
circle: spiral
spiral: circle
"""
#: What strangers send to: the recipients of one transaction, the MAIL and RCPT parameters, the size.
WAYS: tuple[tuple[tuple[str, ...], str, int], ...] = (
    (("away@ours.test",), "", 100),  # forwarded to a host that refuses
    (("two@ours.test",), "", 100),  # the same, with a mailbox beside it
    (("slow@ours.test",), "", 100),  # late, then expired
    (("away@ours.test",), " NOTIFY=SUCCESS,FAILURE,DELAY", 100),
    (("ann@ours.test",), " NOTIFY=SUCCESS", 100),
    (("small@ours.test", "ann@ours.test"), "", 30_000),  # a quota that is full at the final dot
    (("picky@ours.test", "ann@ours.test"), "", 100),  # one of two refuses, by its filter
    (("hidden@ours.test",), "", 100),  # redirected by a filter to a host that refuses
    (("broken@ours.test",), "", 100),  # a command that fails
    (("no-one@backup.test",), "", 100),  # a backup MX learns later who does not exist
    (("nobody@ours.test", "ann@ours.test"), "", 100),
    (("circle@ours.test", "ann@ours.test"), "", 100),
)


@pytest.fixture
def server(make_server: MakeServer, hop: Hop) -> Any:
    server = make_server(
        start=False, accounts=(), configuration=CONFIGURATION.format(hops=HOPS, port=hop.port)
    )
    text = server.configuration.read_text()
    before, _, after = text.partition("[listen]\n")
    server.configuration.write_text(before + "[listen]\n" + after.replace("\n[listen]\n\n", "\n", 1))
    for name in ("ann", "picky", "hidden"):
        server.add_account(f"{name}@ours.test")
    with open(server.state / "accounts", "a", encoding="utf-8") as accounts:
        accounts.write("small@ours.test:{ARGON2ID}none::::::userdb_quota_rule=*:storage=20K\n")
    (server.state / "aliases").write_text(ALIASES)
    hop.back = server.address
    server.start()
    for name, script in (
        ("picky", 'require "reject"; reject "no";'),
        ("hidden", 'redirect "no-one@else.test";'),
    ):
        path = server.directory / f"{name}.sieve"
        path.write_text(script)
        done = server.command("sieve", "put", f"{name}@ours.test", str(path), "--activate")
        assert done.returncode == 0, done.stderr
    return server


def send(client: smtplib.SMTP, sender: str, recipients: tuple[str, ...], options: str, size: int) -> int:
    """One transaction; the code of its end."""
    client.rset()
    assert client.docmd(f"MAIL FROM:<{sender}>")[0] == 250
    codes = [client.docmd(f"RCPT TO:<{one}>{options}")[0] for one in recipients]
    if 250 not in codes:
        return max(codes)
    return client.data(f"From: {sender}\r\nSubject: x\r\n\r\n" + "a line of it\r\n" * (size // 14))[0]


def run(server: Any, hop: Hop, count: int) -> None:
    taken = 0
    with smtplib.SMTP(server.address, SMTP, timeout=PATIENCE) as client:
        client.ehlo("stranger.test")
        for number in range(count):
            recipients, options, size = WAYS[number % len(WAYS)]
            taken += send(client, f"forged{number}@{VICTIMS}", recipients, options, size) == 250
        assert send(client, f"forged@{VICTIMS}", ("round@ours.test",), "", 100) == 250
    assert taken >= count // 2, "the ways are not ways any more: nearly all was refused at once"
    server.wait(lambda: hop.ended.is_set(), "the end of the loop")
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.rounds <= HOPS + 1
    wrong = [pair for pair in hop.asked if not pair[0] or pair[1].endswith(f"@{VICTIMS}")]
    assert wrong == []
    told = json.loads(server.command("trace", "--all", "--json").stdout)
    kinds = {event["kind"] for message in told["messages"] for event in message["events"]}
    assert "notice" not in kinds and {"bounced", "expired"} <= kinds
    senders = [
        event["facts"].get("sender")
        for message in told["messages"]
        for event in message["events"]
        if event["kind"] == "injected"
    ]
    assert "" not in senders  # of our own making nothing but what filters redirected
    assert len(server.messages("ann@ours.test")) >= count // len(WAYS) * 5


def test_forged_senders_hear_nothing(server: Any, hop: Hop) -> None:
    run(server, hop, 3 * len(WAYS))


@pytest.mark.long
def test_a_thousand_forged_senders_hear_nothing(server: Any, hop: Hop) -> None:
    run(server, hop, 1000)
