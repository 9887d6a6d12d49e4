"""Mail that must leave: real servers, next hops that misbehave, what the sender and the operator are told."""

from __future__ import annotations

import email
import email.policy
import json
import re
import smtplib
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any, ClassVar

import pytest

PATIENCE = 20.0
#: As in conftest.py, which gives it to every account.
PASSWORD = "correct horse battery"
SMTP, SUBMISSION, DNS = 2525, 2587, 2053
MESSAGE = b"From: bob@ours.test\r\nMessage-ID: <one@ours.test>\r\nSubject: hi\r\n\r\nhello\r\n.dot\r\n"

MakeServer = Callable[..., Any]


class NextHop(socketserver.ThreadingTCPServer):
    """An SMTP server whose answers go by the recipient's name: ``no-...`` 550, ``later-...`` 451 until
    ``friendly``."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((address, port), _Session)
        self.host, self.port = self.server_address[:2]
        self.friendly = threading.Event()
        self.messages: list[tuple[str, tuple[str, ...], bytes]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def recipients(self) -> list[str]:
        """Who was delivered to, once a delivery."""
        return sorted(one for _, recipients, _ in self.messages for one in recipients)


class _Session(socketserver.StreamRequestHandler):
    server: NextHop
    timeout: ClassVar[float] = PATIENCE

    def handle(self) -> None:
        try:
            self.serve()
        except OSError:
            pass  # it went away

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def serve(self) -> None:
        sender, recipients = "", []
        self.say("220 hop.test ESMTP")
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            path = line[line.find("<") + 1 : line.find(">")]
            if verb == "EHLO":
                self.say("250-hop.test\r\n250-PIPELINING\r\n250 8BITMIME")
            elif verb == "MAIL":
                sender, recipients = path, []
                self.say("250 2.1.0 ok")
            elif verb == "RCPT" and path.startswith("no-"):
                self.say("550 5.1.1 no such user")
            elif verb == "RCPT" and path.startswith("later-") and not self.server.friendly.is_set():
                self.say("451 4.2.1 come back later")
            elif verb == "RCPT":
                recipients.append(path)
                self.say("250 2.1.5 ok")
            elif verb == "DATA" and recipients:
                self.say("354 go")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.messages.append((sender, tuple(recipients), b"".join(lines)))
                self.say("250 2.0.0 taken")
            elif verb == "DATA":
                self.say("554 5.5.1 for nobody")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 ok")


@pytest.fixture
def make_hop() -> Iterator[Callable[..., NextHop]]:
    hops: list[NextHop] = []

    def make(*where: Any) -> NextHop:
        hops.append(NextHop(*where))
        return hops[-1]

    yield make
    for hop in hops:
        hop.shutdown()
        hop.server_close()


def submit(server: Any, *recipients: str, message: bytes = MESSAGE) -> None:
    context = ssl.create_default_context(cafile=str(server.ca))
    context.check_hostname = False  # the certificate is for its name, we came by its address
    with smtplib.SMTP(server.address, SUBMISSION, timeout=PATIENCE) as client:
        client.starttls(context=context)
        client.login("bob@ours.test", PASSWORD)
        assert client.sendmail("bob@ours.test", list(recipients), message) == {}


def reports(server: Any, count: int) -> list[EmailMessage]:
    """The delivery status notices in Bob's mailbox, parsed by the standard library."""
    found = [
        email.message_from_bytes(octets, policy=email.policy.default)
        for octets in server.wait_for_messages("bob@ours.test", count)
    ]
    for report in found:
        assert report.get_content_type() == "multipart/report"
        assert report.get_param("report-type") == "delivery-status"
        assert report["Return-Path"] == "<>" and report["Auto-Submitted"] == "auto-replied"
        assert not [part.defects for part in report.walk() if part.defects]
    return found


def statuses(report: EmailMessage) -> dict[str, tuple[str, str]]:
    """Action and status of each recipient that a report names."""
    (status,) = [part for part in report.walk() if part.get_content_type() == "message/delivery-status"]
    return {
        str(block["Final-Recipient"]).partition("; ")[2]: (block["Action"], block["Status"])
        for block in status.get_payload()[1:]
    }


def waiting(server: Any) -> dict[str, dict[str, Any]]:
    """What ``queue list --json`` says of each recipient that waits."""
    listed = json.loads(server.command("queue", "list", "--json").stdout)
    return {
        one["address"]: {"id": item["id"], **one}
        for item in listed["items"]
        for one in item["recipients"]
        if one["state"] != "done"
    }


def relay(*rows: str, more: str = "") -> str:
    return "\n[queue]\nretry = ['1h']\n" + more + "[relay]\n" + "".join(f"{row}\n" for row in rows)


def test_one_message_whose_recipients_fare_differently(make_server: MakeServer, make_hop: Any) -> None:
    hop = make_hop()
    server = make_server(configuration=relay(f'"*" = "[127.0.0.1]:{hop.port}"'))
    submit(server, "no-one@else.test", "later-one@else.test", "one@else.test")

    (report,) = reports(server, 1)
    assert statuses(report) == {"no-one@else.test": ("failed", "5.1.1")}
    assert "no such user" in report.get_body().get_content()
    told = server.command("trace", "one@ours.test")  # at once
    assert "received  from <bob@ours.test>" in told.stdout
    assert "bounced   no-one@else.test: 550 5.1.1 no such user" in told.stdout

    server.wait(lambda: set(waiting(server)) == {"later-one@else.test"}, "the one that waits")
    (item,) = waiting(server).values()
    assert item["last_reply"] == "451 4.2.1 come back later"
    assert item["attempts"] == 1 and 3000 < item["next_try"] < 4200
    listed = server.command("queue", "list").stdout
    assert re.search(r"to later-one@else\.test: 1 try so far, next try in [0-9hmin ]+\n", listed)
    (_, recipients, octets) = hop.messages[0]
    assert recipients == ("one@else.test",)
    assert octets.endswith(b"\r\n\r\nhello\r\n..dot\r\n")
    assert re.search(rb"\tid " + item["id"].encode() + rb"\r\n", octets)
    assert b"127." not in octets  # the submitter's address is nobody's business

    hop.friendly.set()
    done = server.command("queue", "retry", item["id"])
    assert (done.returncode, done.stdout) == (0, f"{item['id']} is tried now\n")
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.recipients() == ["later-one@else.test", "one@else.test"]
    server.wait(lambda: "delivered to later-one@else.test by " in server.log_text(), "its line in the log")
    lines = [line for line in server.log_text().splitlines() if f" {item['id']}: " in line]
    for words in (
        "from <bob@ours.test> for no-one@else.test, later-one@else.test, one@else.test, ",
        "deferred for later-one@else.test by ",
        "delivered to later-one@else.test by ",
        "given up for no-one@else.test (notice to the sender)",
    ):
        assert sum(words in line for line in lines) == 1, words


def test_a_restart_resumes_the_queue_and_delivers_once(make_server: MakeServer, make_hop: Any) -> None:
    hop = make_hop()
    server = make_server(configuration=relay(f'"*" = "[127.0.0.1]:{hop.port}"').replace("1h", "1s"))
    for number in range(5):
        submit(server, f"later-{number}@else.test", f"now-{number}@else.test")
    server.wait(lambda: len(hop.messages) == 5, "the first deliveries")
    server.stop()
    hop.friendly.set()
    server.start()
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.recipients() == [
        f"{word}-{number}@else.test" for word in ("later", "now") for number in range(5)
    ]


def test_the_operator_gives_up_and_drops(make_server: MakeServer, make_hop: Any) -> None:
    hop = make_hop()
    server = make_server(configuration=relay(f'"*" = "[127.0.0.1]:{hop.port}"'))
    submit(server, "later-a@else.test")
    submit(server, "later-b@else.test")
    server.wait(lambda: {one["attempts"] for one in waiting(server).values()} == {1}, "the tries")
    ids = {address: one["id"] for address, one in waiting(server).items()}
    assert server.command("queue", "drop", ids["later-b@else.test"]).returncode == 0
    assert server.command("queue", "bounce", ids["later-a@else.test"]).returncode == 0
    assert server.command("queue").stdout == "The queue is empty.\n"
    (report,) = reports(server, 1)
    assert statuses(report) == {"later-a@else.test": ("failed", "5.0.0")}
    assert server.command("queue", "show", ids["later-a@else.test"]).returncode == 1
    assert server.queued() == []


def test_the_most_specific_row_is_the_way_whatever_the_order(make_server: MakeServer, make_hop: Any) -> None:
    far, suffix, longer, exact, person = (make_hop() for _ in range(5))
    server = make_server(
        configuration=relay(
            f'"*" = "[127.0.0.1]:{far.port}"',
            f'"vip@mail.else.test" = "[127.0.0.1]:{person.port}"',
            f'"*.else.test" = "[127.0.0.1]:{suffix.port}"',
            f'"mail.else.test" = "[127.0.0.1]:{exact.port}"',
            f'"*.deep.else.test" = ["[127.0.0.1]:1", "[127.0.0.1]:{longer.port}"]',
            '"closed.test" = { reject = "Not from here" }',
        )
    )
    submit(
        server, "a@far.test", "b@else.test", "c@x.deep.else.test", "d@mail.else.test", "vip@mail.else.test"
    )
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert [hop.recipients() for hop in (far, suffix, longer, exact, person)] == [
        ["a@far.test"],
        ["b@else.test"],
        ["c@x.deep.else.test"],
        ["d@mail.else.test"],
        ["vip@mail.else.test"],
    ]
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="Not from here"):
        submit(server, "e@closed.test")


def test_strangers_are_sent_no_notices(make_server: MakeServer, make_hop: Any) -> None:
    hop = make_hop()
    server = make_server(configuration=relay(f'"*" = "[127.0.0.1]:{hop.port}"'), start=False)
    (server.state / "aliases").write_text("away: no-one@else.test\n")
    server.start()
    for sender in ("victim@stranger.test", ""):
        with smtplib.SMTP(server.address, SMTP, timeout=PATIENCE) as client:
            client.sendmail(sender, ["away@ours.test"], MESSAGE)
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.messages == []
    assert server.messages("bob@ours.test") == []
    told = server.command("trace", "away@ours.test").stdout
    assert "notice none, the sender is not verified" in told
    assert "notice none, the reverse-path is null" in told


def test_required_tls_that_is_not_to_be_had_keeps_the_mail_and_alarms(
    make_server: MakeServer, make_hop: Any
) -> None:
    hop = make_hop()
    server = make_server(
        configuration=relay(
            f'"*" = "[127.0.0.1]:{hop.port}"',
            f'"safe.test" = {{ host = "[127.0.0.1]:{hop.port}", tls = "verified" }}',
        )
    )
    submit(server, "a@open.test", "b@safe.test")
    server.wait(lambda: set(waiting(server)) == {"b@safe.test"}, "the mail that needs TLS")
    server.wait(lambda: waiting(server)["b@safe.test"]["attempts"], "the try")
    assert hop.recipients() == ["a@open.test"]
    assert "ALARM          mail for b@safe.test cannot be delivered" in server.command("status").stdout
    # Mending the table mends the queue.
    text = server.configuration.read_text()
    server.configuration.write_text(text.replace("verified", "opportunistic"))
    assert server.command("reload").returncode == 0
    server.command("queue", "retry", "--all")
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.recipients() == ["a@open.test", "b@safe.test"]


ZONE = """\
$TTL 60
@ SOA ns hostmaster 1 3600 600 86400 60
@ NS ns
ns A {address}
dead.hosts A 127.0.0.1
good.hosts A {hop}
two MX 10 dead.hosts
two MX 20 good.hosts
plain A {hop}
null MX 0 .
text TXT "no mail here"
alias CNAME two
"""


def test_next_hops_from_the_dns(make_server: MakeServer, make_hop: Any) -> None:
    server = make_server(start=False)
    hop_address = f"127.{server.address.partition('.')[2].rpartition('.')[0]}.255"
    hop = make_hop(hop_address, 0)
    (server.state / "net.zone").write_text(
        "$ORIGIN net.test.\n" + ZONE.format(address=server.address, hop=hop_address)
    )
    text = server.configuration.read_text()
    listen, zone = f"dns = ['tcp:{DNS}:interface={server.address}']", str(server.state / "net.zone")
    server.configuration.write_text(
        text.replace("[listen]\n", f"[listen]\n{listen}\n")
        + f'[dns]\nresolvers = ["{server.address}:{DNS}"]\nzones = ["{zone}"]\nipv6 = false\n'
        + f"[queue]\nport = {hop.port}\n"
    )
    server.start()
    submit(server, "a@two.net.test", "b@plain.net.test", "c@alias.net.test")
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.recipients() == ["a@two.net.test", "b@plain.net.test", "c@alias.net.test"]
    expected = {"null": "5.1.10", "text": "5.1.2", "nothing": "5.1.2"}
    for name in expected:
        submit(server, f"x@{name}.net.test")
    told = [pair for report in reports(server, 3) for pair in statuses(report).items()]
    assert sorted(told) == sorted((f"x@{name}.net.test", ("failed", s)) for name, s in expected.items())
    server.wait(lambda: not server.queued(), "the queue to be empty")


def test_a_full_queue_is_said_before_the_message(make_server: MakeServer) -> None:
    server = make_server(configuration=relay('"*" = "[127.0.0.1]:1"', more="[limits]\nqueue_messages = 1\n"))
    submit(server, "a@else.test")
    with smtplib.SMTP(server.address, SMTP, timeout=PATIENCE) as client:
        client.ehlo()
        assert client.docmd("MAIL FROM:<x@far.test>")[0] == 452
    assert server.command("queue", "drop", "--all").returncode == 0
    with smtplib.SMTP(server.address, SMTP, timeout=PATIENCE) as client:
        client.sendmail("x@far.test", ["bob@ours.test"], MESSAGE)


def test_the_operator_chooses_holds_releases_and_looks_back(make_server: MakeServer, make_hop: Any) -> None:
    hop = make_hop()
    server = make_server(configuration=relay(f'"*" = "[127.0.0.1]:{hop.port}"'))
    submit(server, "later-a@else.test")
    submit(server, "later-b@other.test")
    server.wait(
        lambda: all(one["last_reply"] for one in waiting(server).values()) and len(waiting(server)) == 2,
        "an attempt for both",
    )

    def chosen(*words: str) -> list[str]:
        items = json.loads(server.command("queue", "list", "--json", *words).stdout)["items"]
        return [item["recipients"][0]["address"] for item in items]

    assert chosen("--to", "else.test") == ["later-a@else.test"]
    assert chosen("--reason", "come back later", "--sender", "bob@ours.test") == [*waiting(server)]
    assert chosen("--sender", "ours.test", "--newer", "1h", "--to", "other.test") == ["later-b@other.test"]
    assert chosen("--older", "1h") == []
    assert server.command("queue", "hold", "--to", "else.test").returncode == 0
    assert chosen("--held") == ["later-a@else.test"]
    hop.friendly.set()
    held = waiting(server)["later-a@else.test"]["id"]
    refused = server.command("queue", "retry", held)
    assert refused.returncode == 1 and "release it first" in refused.stderr
    assert server.command("queue", "retry", "--reason", "come back", "--to", "other.test").returncode == 0
    server.wait(lambda: hop.recipients() == ["later-b@other.test"], "the one that was not held")
    assert chosen() == ["later-a@else.test"]
    assert server.command("queue", "release", held).returncode == 0
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert hop.recipients() == ["later-a@else.test", "later-b@other.test"]
    submit(server, "no-one@else.test")
    server.wait(lambda: not server.queued(), "the queue to be empty")
    # What became of it outlives the server.
    assert server.stop() in (0, -15)
    told = json.loads(server.command("queue", "history", "else.test", "--json").stdout)["records"]
    assert [(one["recipient"], one["outcome"]) for one in told] == [
        ("later-a@else.test", "delivered"),
        ("no-one@else.test", "bounced"),
    ]
    assert told[0]["attempts"] == 2 and told[0]["reply"] == "250 2.0.0 taken"
    assert told[1]["reply"] == "550 5.1.1 no such user" and told[1]["notice"] == "to the sender"
    found = server.command(
        "queue", "history", "bob@ours.test", "--outcome", "bounced", "--since", "1h"
    ).stdout
    assert "no-one@else.test" in found and "later" not in found
