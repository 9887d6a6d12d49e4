"""What ``init`` says, done word for word on two empty machines: they exchange mail, and doctor is content.

A third server is the world's DNS: it has what ``init`` printed, and the PTR records as a provider sets them.
"""

from __future__ import annotations

import functools
import imaplib
import json
import os
import re
import shlex
import signal
import smtplib
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
DNS = 5354
HIGH = {"smtp": 2525, "submissions": 2465, "imaps": 2993}

ROOT = """\
$ORIGIN .
$TTL 60
@ SOA ns1.root.test. h.root.test. 1 3600 600 604800 60
@ NS ns1.root.test.
"""
HEAD = """\
$TTL 60
@ SOA ns1.{domain}. h.{domain}. 1 3600 600 604800 60
@ NS ns1.{domain}.
@ NS ns2.{domain}.
ns1.{domain}. A {dns}
ns2.{domain}. A {dns}
"""
REVERSE = """\
$ORIGIN 127.in-addr.arpa.
$TTL 60
@ SOA ns1.elorac.fr. h.elorac.fr. 1 3600 600 604800 60
@ NS ns1.elorac.fr.
@ NS ns2.elorac.fr.
"""
#: What a lab changes: its servers do not stand at ports 25 and 53, and ask nobody outside.
LAB = {
    "[dns]\n": f"[dns]\nport = {DNS}\n",
    "[queue]\n": '[queue]\nport = 2525\nretry = ["1s"]\n',
    "[doctor]\n": '[doctor]\nblocklists = ["list.test"]\ntime = ""\nprobes = ["@other@"]\n',
}


class Machine:
    """An empty machine, and somebody who does what he reads."""

    def __init__(self, directory: Path, domain: str, user: str, address: str, resolver: str) -> None:
        directory.mkdir()
        self.directory = directory
        self.domain = domain
        self.user = f"{user}@{domain}"
        self.address = address
        self.state = directory / "state"
        self.process: subprocess.Popen[bytes] | None = None
        self.said = self.run(
            f"{shlex.quote(str(BIN / 'lorrainemail'))} init {domain} --yes --account {self.user} "
            f"--state {shlex.quote(str(self.state))} --high-ports --interface {address} "
            f"--address {address} --resolver {resolver} --no-probe"
        )
        found = re.search(r"The password of \S+ is (\S+)", self.said)
        assert found is not None
        self.password = found.group(1)

    def run(self, command: str, good: int = 0) -> str:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == good, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def zone(self) -> str:
        """The lines that it said to put into the zone file."""
        return "\n".join(line for line in self.said.splitlines() if re.match(r"\S+\. 3600 IN ", line)) + "\n"

    @property
    def pointers(self) -> str:
        """What it said to ask the provider for."""
        return (
            "\n".join(
                line.removeprefix("; ")
                for line in self.said.splitlines()
                if re.match(r"; \S+\. 3600 IN PTR", line)
            )
            + "\n"
        )

    def command(self, what: str) -> str:
        """The command that it said to give for that."""
        found = re.search(rf"- {what}:  (.*)", self.said)
        assert found is not None, self.said
        return found.group(1)

    def begin(self, other: str) -> None:
        """Start it, in the lab: ``other`` is the rest of the world."""
        file = self.state / "lorrainemail.toml"
        text = file.read_text()
        for table, more in LAB.items():
            assert table in text
            text = text.replace(table, more.replace("@other@", other))
        file.write_text(text)
        with open(self.directory / "log", "wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f"exec {self.command('start the server')}"],
                cwd=self.directory, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def end(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def doctor(self) -> dict[str, Any]:
        done = subprocess.run(
            ["sh", "-c", self.command("see whether all is well") + " --json"],
            cwd=self.directory, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if answer["ok"] else 1), done.stderr
        return answer

    def verifying(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.state / "tls" / "ca.pem"))

    def send(self, to: str, subject: str) -> None:
        with smtplib.SMTP_SSL(
            self.address, HIGH["submissions"], context=_by_name(self), timeout=30
        ) as session:
            session.login(self.user, self.password)
            message = f"From: {self.user}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\nGood day.\r\n"
            session.sendmail(self.user, [to], message)

    def mail(self) -> list[bytes]:
        with imaplib.IMAP4_SSL(
            self.address, HIGH["imaps"], ssl_context=_by_name(self), timeout=30
        ) as session:
            session.login(self.user, self.password)
            session.select("INBOX")
            numbers = session.search(None, "ALL")[1][0].split()
            parts = [session.fetch(number, "(RFC822)")[1][0] for number in numbers]
            return [part[1] for part in parts if isinstance(part, tuple)]


def _by_name(machine: Machine) -> ssl.SSLContext:
    """Verified against the server's own authority; by address, so the name is not compared."""
    context = machine.verifying()
    context.check_hostname = False
    return context


@pytest.fixture
def machines(tmp_path: Path, make_server: Any) -> Iterator[tuple[Machine, Machine]]:
    world = make_server(hostname="ns.root.test", domains=("root.test",), accounts=(), start=False)
    resolver = f"{world.address}:{DNS}"
    one, other = (f"127.{n}.{world.address.partition('.')[2].partition('.')[2]}" for n in (3, 4))
    carole = Machine(tmp_path / "carole", "elorac.fr", "carole", one, resolver)
    bob = Machine(tmp_path / "bob", "bricoleur.com", "bob", other, resolver)
    zones = {"root": ROOT, "127.in-addr.arpa": REVERSE + carole.pointers + bob.pointers}
    for machine in (carole, bob):
        head = f"$ORIGIN {machine.domain}.\n" + HEAD.format(domain=machine.domain, dns=world.address)
        zones[machine.domain] = head + machine.zone
    paths = []
    for name, text in zones.items():
        paths.append(str(tmp_path / f"{name}.zone"))
        Path(paths[-1]).write_text(text)
    text = world.configuration.read_text()
    world.configuration.write_text(
        text.replace("[listen]\n", f"[listen]\ndns = ['tcp:{DNS}:interface={world.address}']\n")
        + f"\n[dns]\nzones = {json.dumps(paths)}\n"
    )
    world.start()
    try:
        for machine, peer in ((carole, bob), (bob, carole)):
            machine.begin(peer.domain)
        for machine in (carole, bob):
            world.wait(functools.partial(_open, machine), "the server")
        yield carole, bob
    finally:
        for machine in (carole, bob):
            machine.end()


def _open(machine: Machine) -> bool:
    try:
        with smtplib.SMTP(machine.address, HIGH["smtp"], timeout=10):
            return True
    except OSError:
        return False


def test_two_servers_as_init_makes_them_exchange_mail_and_doctor_is_content(
    machines: tuple[Machine, Machine],
) -> None:
    carole, bob = machines
    carole.send(bob.user, "The shelf")
    deadline = time.monotonic() + 30
    while not bob.mail():
        assert time.monotonic() < deadline, (carole.directory / "log").read_text()
        time.sleep(0.1)
    (received,) = bob.mail()
    results = re.sub(rb"\s+", b" ", received.partition(b"\r\n\r\n")[0])
    assert b"dkim=pass" in results and b"spf=pass" in results and b"dmarc=pass" in results
    bob.send(f"postmaster@{carole.domain}", "Thanks")
    while not carole.mail():
        assert time.monotonic() < deadline, (bob.directory / "log").read_text()
        time.sleep(0.1)
    for machine in (carole, bob):
        answer = machine.doctor()
        ill = [one for one in answer["findings"] if one["level"] != "good"]
        # What a lab cannot have is a certificate of an authority that the world knows.
        assert {one["case"] for one in ill} == {"certificate.self_signed", "mta_sts.certificate"}, ill
        assert answer["ok"]
        well = {one["case"] for one in answer["findings"] if one["level"] == "good"}
        assert {
            "mx.good", "address.good", "ptr.good", "spf.good", "dkim.good", "dmarc.good", "relay.good",
            "door.good", "outgoing.good", "queue.good", "permissions.good", "blocklist.good",
        } <= well  # fmt: skip
    # And init once more changes nothing of a running server.
    before = {path: path.read_bytes() for path in (bob.state / "dkim").rglob("*.pem")}
    said = bob.run(
        f"{shlex.quote(str(BIN / 'lorrainemail'))} init {bob.domain} --yes --account {bob.user} "
        f"--state {shlex.quote(str(bob.state))} --no-probe --json"
    )
    assert not any(step["new"] for step in json.loads(said)["steps"])
    assert before == {path: path.read_bytes() for path in (bob.state / "dkim").rglob("*.pem")}
    assert os.stat(bob.state).st_mode & 0o077 == 0
