"""Carole's mail is believed directly, forwarded and by a list; who writes in her name is sent away.

What came of it is told by the one server to the other, in a DMARC report.
"""

from __future__ import annotations

import imaplib
import smtplib
import sqlite3
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

PASSWORD = "correct horse battery"
MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: Bob <bob@bricoleur.com>\r\nSubject: The shelf\r\n"
    b"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <1@elorac.fr>\r\n\r\nIt  holds. \r\n\r\n\r\n"
)

#: As small as a mailing list's manager can be; it seals by dkimpy, as Mailman 3 does.
LIST = """#!{python}
import re, subprocess, sys
import dkim
how, sealer = sys.argv[1:]
header, _, body = sys.stdin.buffer.read().replace(b"\\r\\n", b"\\n").partition(b"\\n\\n")
header = re.sub(rb"(?m)^(From |Return-Path:|Delivered-To:).*\\n", b"", header + b"\\n")
header = header.replace(b"\\nSubject: ", b"\\nSubject: [Shelves] ")
if how == "rewritten":
    own = rb"From: Carole by Shelves <shelves@bricoleur.com>\\nReply-To: \\1"
    header = re.sub(rb"(?m)^From: Carole <(.*)>$", own, header)
message = header + b"List-Id: <shelves.bricoleur.com>\\n\\n" + body + b"-- \\nThe list of shelves\\n"
message = message.replace(b"\\n", b"\\r\\n")
key = open("{key}", "rb").read()
seal = dkim.arc_sign(message, b"{selector}", sealer.encode(), key, b"mail.bricoleur.com")
assert seal
sendmail = ["{python}", "-c", "import sys; from lorrainemail.cli.sendmail import main; sys.exit(main())"]
sendmail += ["--state", "{state}", "-i", "-f", "shelves-bounces@bricoleur.com", "anne@elorac.fr"]
subprocess.run(sendmail, input=b"".join(seal) + message, check=True)
"""


class World:
    """The DNS, Carole's server and Bob's, each a process of its own with the default checks but one."""

    def __init__(self, make_server: Any, directory: Path) -> None:
        names = make_server(hostname="ns.example.test", domains=("example.test",), accounts=(), start=False)
        checks = '[policy]\nchecks = ["limits", "helo", "sender_domain", "loops", "mailauth"]\n'
        asks = f'[dns]\nresolvers = ["{names.address}:5353"]\n\n[queue]\nport = 2525\n\n{checks}'
        self.elorac = make_server(
            hostname="mail.elorac.fr",
            domains=("elorac.fr",),
            accounts=("carole@elorac.fr", "anne@elorac.fr", "dmarc@elorac.fr"),
            configuration=f'{asks}trusted_sealers = ["bricoleur.com"]\n\n'
            '[dmarc]\nmailbox = "dmarc@elorac.fr"\n',
            start=False,
        )
        self.bricoleur = make_server(
            hostname="mail.bricoleur.com",
            domains=("bricoleur.com",),
            accounts=("bob@bricoleur.com",),
            configuration=f"{asks}[dmarc]\nsend_reports = true\n",
            start=False,
        )
        made = self.elorac.command("dkim", "generate", "elorac.fr")
        assert made.returncode == 0, made.stderr
        keys = self.elorac.command("dkim", "record", "elorac.fr").stdout
        made = self.bricoleur.command("dkim", "generate", "bricoleur.com")
        assert made.returncode == 0, made.stderr
        seals = self.bricoleur.command("dkim", "record", "bricoleur.com").stdout
        self._make_lists(directory / "list")
        drawers = seals.replace("._domainkey.", "._domainkey.drawers.")
        zones = []
        for domain, more in (
            (
                "elorac.fr",
                f'@ MX 10 mail\nmail A {self.elorac.address}\n@ TXT "v=spf1 ip4:127.0.0.1 -all"\n'
                f'_dmarc TXT "v=DMARC1; p=reject; adkim=s; rua=mailto:dmarc@elorac.fr"\n{keys}',
            ),
            (
                "bricoleur.com",
                f"@ MX 10 mail\nmail A {self.bricoleur.address}\n"
                f'_dmarc TXT "v=DMARC1; p=quarantine"\n{seals}{drawers}',
            ),
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

    def _make_lists(self, program: Path) -> None:
        """Lists of Bob's: the author kept or rewritten, sealed by who is trusted or by who is not."""
        made = next(self.bricoleur.state.glob("dkim/bricoleur.com/r*.pem"))
        private = load_pem_private_key(made.read_bytes(), None)
        key = program.with_suffix(".pem")
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        facts = {"python": sys.executable, "key": key, "selector": made.stem, "state": self.bricoleur.state}
        program.write_text(LIST.format(**facts))
        program.chmod(0o755)
        (self.bricoleur.state / "aliases").write_text(
            "away@bricoleur.com: carole@elorac.fr\n"
            f'kept@bricoleur.com: "|{program} kept bricoleur.com"\n'
            f'rewritten@bricoleur.com: "|{program} rewritten bricoleur.com"\n'
            f'drawers@bricoleur.com: "|{program} kept drawers.bricoleur.com"\n'
        )

    def make_junk(self, server: Any, account: str) -> Path:
        context = ssl.create_default_context(cafile=str(server.ca))
        context.check_hostname = False
        with imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context, timeout=30) as imap:
            imap.login(account, PASSWORD)
            imap.create("Junk")
        return Path(server.maildir(account)) / ".Junk" / "new"

    def forge(self, message: bytes) -> None:
        """Servers of this test send from 127.0.0.1, the forger from another address."""
        where = self.bricoleur.address
        with smtplib.SMTP(where, 2525, timeout=30, source_address=("127.200.0.1", 0)) as client:
            client.ehlo("mail.forger.example")
            client.sendmail("carole@elorac.fr", ["bob@bricoleur.com"], message)

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
    junk = world.make_junk(world.bricoleur, "bob@bricoleur.com")
    with pytest.raises(smtplib.SMTPDataError) as caught:
        world.forge(MESSAGE)
    assert caught.value.smtp_code == 550
    words = caught.value.smtp_error.decode()
    assert words.startswith("5.7.26 elorac.fr wants mail in its name refused") and "DKIM" in words
    claimed = b"Authentication-Results: mail.bricoleur.com; dmarc=pass\r\nList-Id: <shelves.example>\r\n"
    world.forge(claimed + MESSAGE)
    world.bricoleur.wait(lambda: list(junk.glob("*")), "the message in Junk")
    (stored,) = [file.read_bytes() for file in junk.glob("*")]
    assert stored.count(b"Authentication-Results:") == 1 and "dmarc=fail" in results(stored)
    assert b"X-Lorrainemail-Policy: junk mailauth (DMARC: elorac.fr wants such mail refused" in stored
    assert world.bricoleur.messages("bob@bricoleur.com") == []
    world.bricoleur.wait(
        lambda: "mailauth: JUNK" in world.bricoleur.command("trace", "bob@bricoleur.com").stdout,
        "the verdict in the trace",
    )


def test_what_a_list_changed_is_believed_for_its_seal_or_as_its_own(world: World) -> None:
    junk = world.make_junk(world.elorac, "anne@elorac.fr")
    world.submit("kept@bricoleur.com")
    (kept,) = world.elorac.wait_for_messages("anne@elorac.fr", 1)
    told = results(kept)
    assert "dkim=fail" in told and "dmarc=fail (p=reject) reason=" in told
    assert told.endswith("arc=pass (i=1 d=bricoleur.com)") and b"\nSubject: [Shelves] The shelf" in kept
    world.elorac.wait(
        lambda: (
            "whose seals are trusted, saw it pass" in world.elorac.command("trace", "anne@elorac.fr").stdout
        ),
        "the reason in the trace",
    )

    world.submit("drawers@bricoleur.com")  # the same, sealed by somebody else
    world.elorac.wait(lambda: list(junk.glob("*")), "the message in Junk")
    (doubted,) = [file.read_bytes() for file in junk.glob("*")]
    assert results(doubted).endswith("arc=pass (i=1 d=drawers.bricoleur.com)")

    world.submit("rewritten@bricoleur.com")
    world.elorac.wait_for_messages("anne@elorac.fr", 2)
    (own,) = [one for one in world.elorac.messages("anne@elorac.fr") if b"Carole by Shelves" in one]
    assert "dmarc=pass (p=quarantine) header.from=bricoleur.com" in results(own)


def test_the_report_of_a_day_arrives_and_is_read(world: World) -> None:
    world.submit("bob@bricoleur.com")
    world.bricoleur.wait_for_messages("bob@bricoleur.com", 1)
    with pytest.raises(smtplib.SMTPDataError):
        world.forge(MESSAGE)
    world.bricoleur.stop()
    with sqlite3.connect(world.bricoleur.state / "dmarc.sqlite") as seen:  # it was yesterday
        for table in ("seen", "wanted"):
            seen.execute(f"UPDATE {table} SET day = day - 1")
    seen.close()
    world.bricoleur.start()

    (report,) = world.elorac.wait_for_messages("dmarc@elorac.fr", 1)
    assert b"Report Domain: elorac.fr Submitter: mail.bricoleur.com" in report

    def shown() -> Any:
        text = world.elorac.command("dmarc", "report", "elorac.fr").stdout
        return text if "reported by" in text else ""

    text = str(world.elorac.wait(shown, "the report in the list"))
    assert ": 2 messages, 1 passed, 1 failed\n  reported by mail.bricoleur.com" in text
    assert "  127.0.0.1: 1 messages\n          1  pass by SPF and DKIM\n" in text
    assert "  127.200.0.1: 1 messages\n          1  FAIL in the name of elorac.fr" in text
    assert text.rstrip().endswith(", refused")
