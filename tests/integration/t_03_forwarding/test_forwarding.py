"""Mail that aliases, filters and tables send on: real servers, a next hop, and what a stranger cannot do."""

from __future__ import annotations

import json
import re
import smtplib
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

PATIENCE = 20.0
SMTP = 2525
#: Odd, but mail: folded, oddly spaced, 8-bit, a dot, white space at a line's end, no Date.
MESSAGE = (
    b"From: ann@far.test\r\nSubject:  odd\r\n\tfolded \r\nX-8: caf\xe9\r\nMessage-ID: <m@far.test>\r\n"
    b"DKIM-Signature: v=1; d=far.test; b=zz==\r\n\r\nbody \r\n.dot\r\n\r\nlast"
)

MakeServer = Callable[..., Any]


class NextHop(socketserver.ThreadingTCPServer):
    """Takes everything but for ``no-...``, and remembers it, with the address that its client came from."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.port = self.server_address[1]
        self.messages: list[tuple[str, str, bytes]] = []
        self.clients: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Session(socketserver.StreamRequestHandler):
    server: NextHop
    timeout: ClassVar[float] = PATIENCE

    def say(self, line: str) -> None:
        self.wfile.write(line.encode() + b"\r\n")

    def handle(self) -> None:
        self.server.clients.append(self.client_address[0])
        sender = recipient = ""
        try:
            self.say("220 hop.test ESMTP")
            while line := self.rfile.readline().decode().strip():
                verb, path = line[:4].upper(), line[line.find("<") + 1 : line.find(">")]
                if verb == "EHLO":
                    self.say("250-hop.test\r\n250 8BITMIME")
                elif verb == "DATA":
                    self.say("354 go")
                    text = b"".join(iter(self.rfile.readline, b".\r\n"))
                    self.server.messages.append((sender, recipient, re.sub(rb"(?m)^\.\.", b".", text)))
                    self.say("250 2.0.0 Ok: queued as HOP42")
                elif verb == "RCPT" and path.startswith("no-"):
                    self.say("550 5.1.1 no such user")
                elif verb == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    sender = path if verb == "MAIL" else sender
                    recipient = path if verb == "RCPT" else recipient
                    self.say("250 ok")
        except OSError:
            pass  # it went away


@pytest.fixture
def hop() -> Iterator[NextHop]:
    server = NextHop()
    yield server
    server.shutdown()
    server.server_close()


def send(server: Any, sender: str, *recipients: str, message: bytes = MESSAGE) -> None:
    with smtplib.SMTP(server.address, SMTP, timeout=PATIENCE) as client:
        options = ["BODY=8BITMIME"]
        assert client.sendmail(sender, list(recipients), message, options) == {}


def configuration(hop: NextHop, more: str = "") -> str:
    return f'{more}\n[queue]\nretry = ["1h"]\n[relay]\n"*" = "[127.0.0.1]:{hop.port}"\n'


def taken(server: Any, hop: NextHop, count: int) -> list[tuple[str, str, bytes]]:
    server.wait(lambda: len(hop.messages) >= count, f"{count} message(s) at the next hop")
    server.wait(lambda: not server.queued(), "the queue to be empty")
    assert len(hop.messages) == count
    return hop.messages


def test_a_forwarded_message_leaves_unchanged_and_its_bounce_finds_the_sender(
    make_server: MakeServer, hop: NextHop
) -> None:
    server = make_server(configuration=configuration(hop), start=False)
    (server.state / "aliases").write_text("away@ours.test: friend@else.test\n")
    server.start()
    assert not (server.state / "srs.keys").exists()
    send(server, "ann@far.test", "away@ours.test")
    ((sender, recipient, octets),) = taken(server, hop, 1)
    assert recipient == "friend@else.test"
    assert sender.startswith("SRS0=") and sender.endswith("=far.test=ann@ours.test")
    assert (server.state / "srs.keys").stat().st_mode & 0o777 == 0o600
    assert octets.startswith(b"Received: ") and octets.endswith(MESSAGE + b"\r\n")
    # A stranger may send a bounce to it, and nothing else, and to nobody else by it.
    send(server, "", sender, message=b"Subject: bounce\r\n\r\nno\r\n")
    back = taken(server, hop, 2)[1]
    assert back[:2] == ("", "ann@far.test")
    for who, whom in (("eve@far.test", sender), ("", sender.replace("=ann@", "=eve@"))):
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send(server, who, whom)
    told = json.loads(server.command("explain", "away@ours.test", "--from", "ann@far.test", "--json").stdout)
    assert told["finals"][0]["rewritten"] is True
    told = server.command("explain", sender, "--from", "").stdout
    assert "mail of ann@far.test that was sent on" in told
    # What left is remembered, with the other server's id.
    line = json.loads(server.command("queue", "history", "friend@else.test", "--json").stdout)["records"][0]
    assert (line["outcome"], line["remote_id"], line["original"]) == ("delivered", "HOP42", "away@ours.test")


def test_our_own_users_mail_is_sent_on_under_their_own_address(make_server: MakeServer, hop: NextHop) -> None:
    server = make_server(configuration=configuration(hop), start=False)
    (server.state / "aliases").write_text("away@ours.test: friend@else.test\n")
    server.start()
    send(server, "bob@ours.test", "away@ours.test")
    send(server, "", "away@ours.test")
    assert [sender for sender, _, _ in taken(server, hop, 2)] == ["bob@ours.test", ""]


def test_a_filters_redirect_leads_back_too(make_server: MakeServer, hop: NextHop, tmp_path: Path) -> None:
    server = make_server(configuration=configuration(hop))
    script = tmp_path / "script.sieve"
    script.write_text('redirect "friend@else.test";')
    assert server.command("sieve", "put", "bob@ours.test", str(script), "--activate").returncode == 0
    send(server, "ann@far.test", "bob@ours.test")
    ((sender, recipient, octets),) = taken(server, hop, 1)
    assert recipient == "friend@else.test" and sender.endswith("=far.test=ann@ours.test")
    assert octets.endswith(MESSAGE + b"\r\n")


def test_a_sender_does_not_learn_where_a_filter_sent_his_mail(
    make_server: MakeServer, hop: NextHop, tmp_path: Path
) -> None:
    server = make_server(accounts=("bob@ours.test", "ann@ours.test"), configuration=configuration(hop))
    script = tmp_path / "script.sieve"
    script.write_text('redirect "no-friend@secret.test";')
    assert server.command("sieve", "put", "bob@ours.test", str(script), "--activate").returncode == 0
    send(server, "ann@ours.test", "bob@ours.test")
    (notice,) = server.wait_for_messages("ann@ours.test", 1)
    assert b"Final-Recipient: rfc822; bob@ours.test" in notice and b"secret.test" not in notice


def test_rewriting_can_be_turned_off(make_server: MakeServer, hop: NextHop) -> None:
    server = make_server(configuration=configuration(hop, "[forwarding]\nsrs = false\n"), start=False)
    (server.state / "aliases").write_text("away@ours.test: friend@else.test\n")
    server.start()
    send(server, "ann@far.test", "away@ours.test")
    assert taken(server, hop, 1)[0][0] == "ann@far.test"


def test_unknown_users_of_a_domain_go_on_to_another_host(make_server: MakeServer, hop: NextHop) -> None:
    more = f'[unknown_users]\n"ours.test" = "[127.0.0.1]:{hop.port}"\n'
    server = make_server(configuration=more)
    send(server, "ann@far.test", "bob@ours.test")
    send(server, "ann@far.test", "carol@ours.test")
    assert [(sender, to) for sender, to, _ in taken(server, hop, 1)] == [("ann@far.test", "carol@ours.test")]
    server.wait_for_messages("bob@ours.test", 1)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(server, "ann@far.test", "eve%else.test@ours.test")
    told = server.command("explain", "carol@ours.test").stdout
    assert 'unknown_users."ours.test"' in told and f"127.0.0.1:{hop.port}" in told
    assert f"ours.test → 127.0.0.1:{hop.port}" in server.command("check").stdout


def test_a_row_says_from_which_address_and_one_that_is_not_ours_keeps_the_mail(
    make_server: MakeServer, hop: NextHop
) -> None:
    rows = (
        f'"a.test" = {{ host = "[127.0.0.1]:{hop.port}", source = ["127.0.0.77"], rate = 600 }}\n'
        f'"b.test" = {{ host = "[127.0.0.1]:{hop.port}", source = ["192.0.2.99"] }}\n'
    )
    server = make_server(
        configuration=f'relay_networks = ["127.0.0.0/8"]\n[queue]\nretry = ["1h"]\n[relay]\n{rows}'
    )
    send(server, "bob@ours.test", "x@b.test")
    send(server, "bob@ours.test", "x@a.test")
    server.wait(lambda: hop.messages, "the message at the next hop")
    assert hop.clients == ["127.0.0.77"]

    def reply() -> str:
        (item,) = json.loads(server.command("queue", "list", "--to", "b.test", "--json").stdout)["items"]
        return str(item["recipients"][0]["last_reply"])

    server.wait(reply, "an attempt")
    assert "192.0.2.99 is no address of this machine" in reply()
    assert "192.0.2.99 is no address of this machine" in server.command("check").stdout
    assert "from 127.0.0.77, at most 600 a minute" in server.command("check").stdout


def test_archives_get_a_copy_that_decides_nothing(make_server: MakeServer, hop: NextHop) -> None:
    archive = '[archive]\n"to:ours.test" = "keep@ours.test"\n"from:far.test" = "vault@else.test"\n'
    server = make_server(
        accounts=("bob@ours.test", "keep@ours.test"), configuration=configuration(hop, archive)
    )
    send(server, "ann@far.test", "bob@ours.test")
    server.wait_for_messages("bob@ours.test", 1)
    (kept,) = server.wait_for_messages("keep@ours.test", 1)
    assert b"Delivered-To: keep@ours.test\n" in kept
    ((sender, recipient, octets),) = taken(server, hop, 1)
    assert (sender, recipient) == ("ann@far.test", "vault@else.test")
    assert octets.endswith(MESSAGE + b"\r\n")
    # Mail to the archive itself is there once.
    send(server, "eve@other.test", "keep@ours.test")
    server.wait_for_messages("keep@ours.test", 2)


def test_our_users_leave_by_a_smarthost_under_the_addresses_that_the_world_knows(
    make_server: MakeServer, hop: NextHop
) -> None:
    rewrite = (
        'relay_networks = ["127.0.0.0/8"]\n'
        '[rewrite]\n"bob@ours.test" = "robert@provider.test"\n"ours.test" = "bricoleur.test"\n'
        f'[relay]\n"*" = {{ host = "[127.0.0.1]:{hop.port}", rewrite = true }}\n'
        f'"plain.test" = "[127.0.0.1]:{hop.port}"\n'
    )
    server = make_server(configuration=rewrite)
    text = (
        b"From: Bob <bob@ours.test>\r\nCc: carol@ours.test\r\nSubject: bob@ours.test\r\n\r\nbob@ours.test\r\n"
    )
    send(server, "bob@ours.test", "x@far.test", message=text)
    send(server, "bob@ours.test", "x@plain.test", message=text)
    found = {recipient: (sender, octets) for sender, recipient, octets in taken(server, hop, 2)}
    sender, octets = found["x@far.test"]
    assert sender == "robert@provider.test"
    assert octets.endswith(
        b"From: Bob <robert@provider.test>\r\nCc: carol@bricoleur.test\r\nSubject: bob@ours.test\r\n\r\n"
        b"bob@ours.test\r\n"
    )
    sender, octets = found["x@plain.test"]
    assert sender == "bob@ours.test" and octets.endswith(text)
