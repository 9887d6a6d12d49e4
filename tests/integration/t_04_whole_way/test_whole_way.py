"""carole@elorac.fr writes to bob@bricoleur.com, and he reads it: three processes, one of them the DNS."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "correct horse battery"
BODY = b"Bonjour Bob,\r\n.\r\n..\r\nl'\xc3\xa9tag\xc3\xa8re tient.\r\nFrom here on: fin\r\n"
MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: Bob <bob@bricoleur.com>\r\nSubject: etagere\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n" + BODY
)


class World:
    """The DNS, Carole's server and Bob's, each a process of its own with the default policy."""

    def __init__(self, make_server: Any, directory: Path) -> None:
        names = make_server(hostname="ns.example.test", domains=("example.test",), accounts=(), start=False)
        self.resolver = f"{names.address}:5353"
        asks = f'[dns]\nresolvers = ["{self.resolver}"]\n\n[queue]\nport = 2525\n\n[policy]\n'
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
        zones = []
        for server in (self.elorac, self.bricoleur):
            (domain,) = server.domains
            zone = directory / f"{domain}.zone"
            zone.write_text(
                f"$ORIGIN {domain}.\n$TTL 60\n@ SOA ns.{domain}. postmaster.{domain}. 1 60 60 60 60\n"
                f"@ NS ns.{domain}.\nns A {names.address}\n@ MX 10 mail.{domain}.\nmail A {server.address}\n"
            )
            zones.append(str(zone))
        text = names.configuration.read_text()
        text = text.replace("[listen]\n", f"[listen]\ndns = ['tcp:5353:interface={names.address}']\n")
        names.configuration.write_text(f"{text}\n[dns]\nzones = {zones!r}\n")
        self.names = names.start()
        self.elorac.start()

    def submit(self, recipient: str = "bob@bricoleur.com") -> None:
        context = ssl.create_default_context(cafile=str(self.elorac.ca))
        context.check_hostname = False  # we connect by an address that no certificate names
        with smtplib.SMTP_SSL(self.elorac.address, 2465, timeout=30, context=context) as client:
            client.login("carole@elorac.fr", PASSWORD)
            client.sendmail("carole@elorac.fr", [recipient], MESSAGE, mail_options=["BODY=8BITMIME"])


@pytest.fixture
def world(make_server: Any, tmp_path: Path) -> World:
    return World(make_server, tmp_path)


def tls(server: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(server.ca))
    context.check_hostname = False
    return context


def test_bob_reads_by_pop_and_by_imap_what_carole_wrote(world: World) -> None:
    world.bricoleur.start()
    world.submit()
    (stored,) = world.bricoleur.wait_for_messages("bob@bricoleur.com", 1)
    assert stored.startswith(b"Return-Path: <carole@elorac.fr>\nDelivered-To: bob@bricoleur.com\n")
    assert stored.count(b"\nReceived: from mail.elorac.fr") == 2, "one Received from each server"
    pop = poplib.POP3_SSL(world.bricoleur.address, 2995, timeout=30, context=tls(world.bricoleur))
    pop.user("bob@bricoleur.com")
    pop.pass_(PASSWORD)
    lines = pop.retr(1)[1]
    pop.quit()
    assert b"\r\n".join(lines).partition(b"\r\n\r\n")[2] + b"\r\n" == BODY
    with imaplib.IMAP4_SSL(
        world.bricoleur.address, 2993, ssl_context=tls(world.bricoleur), timeout=30
    ) as imap:
        imap.login("bob@bricoleur.com", PASSWORD)
        imap.select("INBOX")
        (answer, _) = imap.fetch("1", "(BODY.PEEK[TEXT])")[1]
        assert isinstance(answer, tuple) and answer[1] == BODY
    world.elorac.wait(lambda: not world.elorac.queued(), "Carole's queue to be empty")
    told = world.elorac.command("trace", "bob@bricoleur.com").stdout
    assert "mail.bricoleur.com" in told and "250" in told


def test_a_message_waits_for_bobs_server_and_survives_a_restart_of_carols(world: World) -> None:
    world.submit()
    world.elorac.wait(
        lambda: "refused" in world.elorac.command("queue", "list").stdout, "the first try to fail"
    )
    world.elorac.stop()
    assert world.elorac.queued(), "what was accepted is on disk"
    world.elorac.start()
    world.bricoleur.start()
    assert world.elorac.command("queue", "retry", "--all").returncode == 0
    world.bricoleur.wait_for_messages("bob@bricoleur.com", 1)
    world.elorac.wait(lambda: not world.elorac.queued(), "Carole's queue to be empty")


def test_carole_hears_at_once_of_an_unknown_user_and_of_an_unknown_domain(world: World) -> None:
    world.bricoleur.start()
    world.submit("bbo@bricoleur.com")
    (bounce,) = world.elorac.wait_for_messages("carole@elorac.fr", 1)
    assert b"bbo@bricoleur.com" in bounce and b"5.1.1" in bounce
    world.submit("bob@no-such-domain.bricoleur.com")
    bounces = world.elorac.wait_for_messages("carole@elorac.fr", 2)
    assert any(b"no-such-domain" in found and b"5.1.2" in found for found in bounces)


def test_a_dns_server_that_is_down_delays_mail_and_never_bounces_it(world: World) -> None:
    world.bricoleur.start()
    world.names.stop()
    world.submit()
    world.elorac.wait(lambda: "4.4" in world.elorac.command("queue", "list").stdout, "a deferral")
    world.names.start()

    def arrived() -> bool:
        # That the DNS failed is remembered for a few seconds; so ask again until it is forgotten.
        world.elorac.command("queue", "retry", "--all")
        return bool(world.bricoleur.messages("bob@bricoleur.com"))

    world.elorac.wait(arrived, "the message at Bob's")
    assert world.elorac.messages("carole@elorac.fr") == []


def test_the_dns_door_answers_by_udp_and_tcp(world: World) -> None:
    import dns.message
    import dns.query

    host, _, port = world.resolver.partition(":")
    question = dns.message.make_query("bricoleur.com", "MX")
    for ask in (dns.query.udp, dns.query.tcp):
        answer = ask(question, host, timeout=10, port=int(port))
        assert "mail.bricoleur.com." in answer.answer[0].to_text()
    # Nobody's resolver: what is not ours is refused.
    other = dns.query.udp(dns.message.make_query("example.org", "A"), host, timeout=10, port=int(port))
    assert other.rcode() == 5
