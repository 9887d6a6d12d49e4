"""Carole's mail is signed and believed, through a forwarder too; who writes in her name is sent away."""

from __future__ import annotations

import imaplib
import smtplib
import ssl
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "correct horse battery"
MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: Bob <bob@bricoleur.com>\r\nSubject: The shelf\r\n"
    b"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <1@elorac.fr>\r\n\r\nIt  holds. \r\n\r\n\r\n"
)


class World:
    """The DNS, Carole's server and Bob's, each a process of its own with the default checks but one."""

    def __init__(self, make_server: Any, directory: Path) -> None:
        names = make_server(hostname="ns.example.test", domains=("example.test",), accounts=(), start=False)
        checks = '[policy]\nchecks = ["limits", "helo", "sender_domain", "loops", "mailauth"]\n'
        asks = f'[dns]\nresolvers = ["{names.address}:5353"]\n\n[queue]\nport = 2525\n\n{checks}'
        self.elorac = make_server(
            hostname="mail.elorac.fr",
            domains=("elorac.fr",),
            accounts=("carole@elorac.fr",),
            configuration=asks,
            start=False,
        )
        self.bricoleur = make_server(
            hostname="mail.bricoleur.com",
            domains=("bricoleur.com",),
            accounts=("bob@bricoleur.com",),
            configuration=asks,
            start=False,
        )
        (self.bricoleur.state / "aliases").write_text("away@bricoleur.com: carole@elorac.fr\n")
        made = self.elorac.command("dkim", "generate", "elorac.fr")
        assert made.returncode == 0, made.stderr
        keys = self.elorac.command("dkim", "record", "elorac.fr").stdout
        made = self.bricoleur.command("dkim", "generate", "bricoleur.com")
        assert made.returncode == 0, made.stderr
        seals = self.bricoleur.command("dkim", "record", "bricoleur.com").stdout
        zones = []
        for domain, more in (
            (
                "elorac.fr",
                f'@ MX 10 mail\nmail A {self.elorac.address}\n@ TXT "v=spf1 ip4:127.0.0.1 -all"\n'
                f'_dmarc TXT "v=DMARC1; p=reject; adkim=s"\n{keys}',
            ),
            ("bricoleur.com", f"@ MX 10 mail\nmail A {self.bricoleur.address}\n{seals}"),
            ("127.in-addr.arpa", ""),
        ):
            zone = directory / f"{domain}.zone"
            zone.write_text(
                f"$ORIGIN {domain}.\n$TTL 60\n@ SOA ns.elorac.fr. postmaster.elorac.fr. 1 60 60 60 60\n"
                f"@ NS ns.elorac.fr.\n{more}"
            )
            zones.append(str(zone))
        text = names.configuration.read_text()
        text = text.replace("[listen]\n", f"[listen]\ndns = ['tcp:5353:interface={names.address}']\n")
        names.configuration.write_text(f"{text}\n[dns]\nzones = {zones!r}\n")
        for server in (names, self.elorac, self.bricoleur):
            server.start()

    def submit(self, recipient: str, message: bytes = MESSAGE) -> None:
        context = ssl.create_default_context(cafile=str(self.elorac.ca))
        context.check_hostname = False  # we connect by an address that no certificate names
        with smtplib.SMTP_SSL(self.elorac.address, 2465, timeout=30, context=context) as client:
            client.login("carole@elorac.fr", PASSWORD)
            client.sendmail("carole@elorac.fr", [recipient], message)


@pytest.fixture
def world(make_server: Any, tmp_path: Path) -> World:
    return World(make_server, tmp_path)


def results(message: bytes) -> str:
    """The uppermost Authentication-Results field, unfolded."""
    _, _, rest = message.partition(b"\nAuthentication-Results: ")
    lines = rest.split(b"\n")
    end = next(number for number, line in enumerate(lines[1:], 1) if line[:1] not in (b" ", b"\t"))
    return " ".join(b" ".join(lines[:end]).decode().split())


def test_what_carole_sends_is_believed_directly_through_a_forwarder_and_when_it_is_large(
    world: World,
) -> None:
    world.submit("bob@bricoleur.com")
    (direct,) = world.bricoleur.wait_for_messages("bob@bricoleur.com", 1)
    told = results(direct)
    assert told.startswith("mail.bricoleur.com; spf=pass smtp.mailfrom=carole@elorac.fr; dkim=pass ")
    assert told.count("dkim=pass") == 2 and "header.a=ed25519-sha256" in told
    assert told.endswith("dmarc=pass (p=reject) header.from=elorac.fr")

    world.submit("away@bricoleur.com")
    (forwarded,) = world.elorac.wait_for_messages("carole@elorac.fr", 1)
    told = results(forwarded)
    assert told.startswith("mail.elorac.fr; spf=") and told.count("dkim=pass") == 2
    assert "dmarc=pass (p=reject) header.from=elorac.fr" in told
    # The forwarder sealed what it saw, and the receiver believes the seal.
    assert told.endswith("arc=pass (i=1 d=bricoleur.com)")
    seal = " ".join(forwarded.partition(b"ARC-Authentication-Results: ")[2][:400].decode().split())
    assert seal.startswith("i=1; mail.bricoleur.com; spf=pass smtp.mailfrom=carole@elorac.fr; dkim=pass ")

    line = b"A line of the long story of a shelf,  which holds. \r\n"
    world.submit("bob@bricoleur.com", MESSAGE + line * 40_000)
    world.bricoleur.wait_for_messages("bob@bricoleur.com", 2)
    large = max(world.bricoleur.messages("bob@bricoleur.com"), key=len)
    assert results(large).count("dkim=pass") == 2 and "dmarc=pass" in results(large)


def test_a_forger_is_refused_with_the_reason_and_a_doubtful_message_goes_to_junk(world: World) -> None:
    context = ssl.create_default_context(cafile=str(world.bricoleur.ca))
    context.check_hostname = False
    with imaplib.IMAP4_SSL(world.bricoleur.address, 2993, ssl_context=context, timeout=30) as imap:
        imap.login("bob@bricoleur.com", PASSWORD)
        imap.create("Junk")
    # Servers of this test send from 127.0.0.1, the forger from another address.
    with smtplib.SMTP(world.bricoleur.address, 2525, timeout=30, source_address=("127.200.0.1", 0)) as client:
        client.ehlo("mail.forger.example")
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.sendmail("carole@elorac.fr", ["bob@bricoleur.com"], MESSAGE)
        assert caught.value.smtp_code == 550
        words = caught.value.smtp_error.decode()
        assert words.startswith("5.7.26 elorac.fr wants mail in its name refused") and "DKIM" in words
        listed = (
            b"Authentication-Results: mail.bricoleur.com; dmarc=pass\r\nList-Id: <shelves.example>\r\n"
            + MESSAGE
        )
        client.sendmail("carole@elorac.fr", ["bob@bricoleur.com"], listed)
    junk = world.bricoleur.maildir("bob@bricoleur.com") / ".Junk" / "new"
    world.bricoleur.wait(lambda: list(junk.glob("*")), "the message in Junk")
    (stored,) = [file.read_bytes() for file in junk.glob("*")]
    assert stored.count(b"Authentication-Results:") == 1 and "dmarc=fail" in results(stored)
    assert b"X-Lorrainemail-Policy: junk mailauth (DMARC: elorac.fr wants such mail refused" in stored
    assert world.bricoleur.messages("bob@bricoleur.com") == []
    world.bricoleur.wait(
        lambda: "mailauth: JUNK" in world.bricoleur.command("trace", "bob@bricoleur.com").stdout,
        "the verdict in the trace",
    )
