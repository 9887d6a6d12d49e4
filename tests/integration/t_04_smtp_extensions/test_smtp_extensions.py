"""Extensions of SMTP against a real server: what a client asks for is in the mailbox afterwards."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import Any

MESSAGE = b"From: Anne <anne@ours.test>\r\nSubject: Hello\r\n\r\nHello\r\n"


def test_lmtp(make_server: Callable[..., Any]) -> None:
    """Over a UNIX socket: one reply a recipient, and the mail is there."""
    server = make_server(accounts=("bob@ours.test", "anne@ours.test"), start=False)
    text = server.configuration.read_text()
    door = "[listen]\nlmtp = ['unix:lmtp.sock:mode=600']\n"
    server.configuration.write_text(text.replace("[listen]\n", door))
    server.start()
    assert (server.state / "lmtp.sock").stat().st_mode & 0o777 == 0o600
    recipients = ["bob@ours.test", "nobody@ours.test", "anne@ours.test"]
    with smtplib.LMTP(str(server.state / "lmtp.sock")) as lmtp:
        refused = lmtp.sendmail("carole@elorac.test", recipients, MESSAGE)
        assert list(refused) == ["nobody@ours.test"] and refused["nobody@ours.test"][0] == 550
        assert lmtp.getreply()[0] == 250  # the second recipient's, which smtplib leaves there
        lmtp.docmd("MAIL FROM:<carole@elorac.test>")
        assert lmtp.docmd("RCPT TO:<bob@elsewhere.test>")[0] == 550
    for account in ("bob@ours.test", "anne@ours.test"):
        (message,) = server.wait_for_messages(account, 1)
        assert b" with LMTP\n" in message and message.endswith(b"\nHello\n")


def test_dsn(make_server: Callable[..., Any]) -> None:
    """A client of a listed network asks to hear of success; a message in chunks to an alias besides."""
    server = make_server(
        accounts=("bob@ours.test", "anne@ours.test"),
        configuration='relay_networks = ["127.0.0.0/8"]',
        start=False,
    )
    (server.state / "aliases").write_text("team: bob@ours.test, anne@ours.test\n")
    server.start()
    with smtplib.SMTP(server.address, 2525, timeout=30) as smtp:
        smtp.ehlo("client.test")
        assert smtp.has_extn("dsn") and smtp.has_extn("chunking")
        smtp.mail("anne@ours.test", ["RET=FULL", "ENVID=QQ314159"])
        smtp.rcpt("bob@ours.test", ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;bob@ours.test"])
        smtp.send(b"BDAT %d LAST\r\n" % len(MESSAGE) + MESSAGE)
        code, words = smtp.getreply()
        assert (code, words[:5]) == (250, b"2.0.0")
        (notice,) = server.wait_for_messages("anne@ours.test", 1)
        assert b"\nOriginal-Envelope-Id: QQ314159\n" in notice
        assert b"\nFinal-Recipient: rfc822; bob@ours.test\nAction: delivered\nStatus: 2.1.5\n" in notice
        smtp.mail("anne@ours.test")
        smtp.rcpt("team@ours.test", ["NOTIFY=SUCCESS"])
        assert smtp.data(MESSAGE)[0] == 250
    assert sum(b"\nAction: expanded\n" in one for one in server.wait_for_messages("anne@ours.test", 3)) == 1
    server.wait_for_messages("bob@ours.test", 2)


def test_proxy(make_server: Callable[..., Any]) -> None:
    """Behind a proxy the client's own address decides: STARTTLS, relay right and Received are his."""
    server = make_server(start=False, configuration='relay_networks = ["192.0.2.0/24"]')
    text = server.configuration.read_text()
    text = text.replace(f"smtp = ['tcp:2525:interface={server.address}']", "smtp = [ENDPOINTS]", 1)
    plain, proxied = f"tcp:2525:interface={server.address}", f"haproxy:tcp:2526:interface={server.address}"
    text = text.replace("ENDPOINTS", f"'{plain}', '{proxied}'")
    server.configuration.write_text('proxy_networks = ["127.0.0.0/8"]\n' + text)
    server.start()

    def behind(peer: str) -> smtplib.SMTP:
        smtp = smtplib.SMTP(timeout=30)
        smtp.sock = socket.create_connection((server.address, 2526), 30)
        smtp.sock.sendall(f"PROXY TCP4 {peer} 203.0.113.25 4242 25\r\n".encode())
        assert smtp.getreply()[0] == 220
        smtp._host = "mail.ours.test"  # type: ignore[attr-defined]
        smtp.starttls(context=ssl.create_default_context(cafile=str(server.ca)))
        smtp.ehlo("client.test")
        return smtp

    with behind("192.0.2.7") as friend:
        friend.mail("anne@elsewhere.test")
        assert friend.rcpt("x@elsewhere.test")[0] == 250
    with behind("198.51.100.7") as stranger:
        stranger.mail("carole@elorac.test")
        assert stranger.rcpt("x@elsewhere.test")[0] == 550
        stranger.rcpt("bob@ours.test")
        assert stranger.data(MESSAGE)[0] == 250
    (message,) = server.wait_for_messages("bob@ours.test", 1)
    assert b"([198.51.100.7])" in message


def test_account_limit(make_server: Callable[..., Any]) -> None:
    """A user who sends too much is told to wait, and the postmaster hears of it."""
    server = make_server(
        accounts=("bob@ours.test", "anne@ours.test"),
        configuration='[auth]\nplaintext = "loopback"\n[limits]\nrecipients_per_hour = 2\n'
        '[policy]\nchecks = ["account_limits"]\n',
    )
    with smtplib.SMTP(server.address, 2587, timeout=30) as smtp:
        smtp.login("anne@ours.test", "correct horse battery")
        smtp.mail("anne@ours.test")
        codes = [smtp.rcpt("anne@ours.test")[0] for _ in range(4)]
        assert codes == [250, 250, 450, 450]
        assert b"recipients an hour" in smtp.rcpt("anne@ours.test")[1]
    # The first account reads the postmaster's mail.
    (note,) = server.wait_for_messages("bob@ours.test", 1)
    assert b"\nSubject: anne@ours.test sends too much\n" in note


def test_xforward(make_server: Callable[..., Any]) -> None:
    """A server behind ours is told whom a message came from, by way of the queue; its trace says it."""
    behind = make_server(hostname="behind.ours.test", configuration='xforward_networks = ["127.0.0.0/8"]\n')
    front = make_server(
        hostname="front.ours.test",
        domains=("front.test",),
        accounts=("anne@front.test",),
        configuration='relay_networks = ["127.0.0.0/8"]\n[relay]\n'
        f'"ours.test" = {{ host = ["{behind.address}:2525"], xforward = true }}\n',
    )
    with smtplib.SMTP(front.address, 2525, timeout=30) as smtp:
        smtp.ehlo("printer.test")
        smtp.mail("carole@elorac.test")
        assert smtp.rcpt("bob@ours.test")[0] == 250
        assert smtp.data(MESSAGE)[0] == 250
    behind.wait_for_messages("bob@ours.test", 1)
    story = behind.command("trace", "bob@ours.test", "--json").stdout
    assert '"HELO": "printer.test"' in story and '"SOURCE": "REMOTE"' in story
