"""The zone that the running server makes and signs, seen through a validating resolver (unbound)."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.update
import pytest

from lorrainemail.dns import keys

pytestmark = pytest.mark.interop

CONFIGURATION = """\
server:
    interface: {address}@5355
    port: 5355
    do-daemonize: no
    use-syslog: no
    logfile: ""
    verbosity: 1
    chroot: ""
    username: ""
    directory: "{directory}"
    pidfile: "{directory}/pid"
    do-not-query-localhost: no
    module-config: "validator iterator"
    local-zone: "test." nodefault
    trust-anchor: "ours.test. DS {ds}"
    access-control: 127.0.0.0/8 allow
remote-control:
    control-enable: no
stub-zone:
    name: ours.test
    stub-addr: {server}@5356
"""


class Unbound:
    def __init__(self, program: str, directory: Path, server: str, ds: str) -> None:
        dice = random.SystemRandom()
        self.address = f"127.{dice.randint(10, 250)}.{dice.randint(1, 254)}.{dice.randint(1, 254)}"
        file = directory / "unbound.conf"
        file.write_text(CONFIGURATION.format(address=self.address, directory=directory, ds=ds, server=server))
        self.log = directory / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [program, "-d", "-c", str(file)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        while self.ask("ours.test", "SOA", 0.3) is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def ask(self, name: str, kind: str, patience: float = 10) -> dns.message.Message | None:
        query = dns.message.make_query(name, kind, want_dnssec=True)
        try:
            return dns.query.udp_with_fallback(query, self.address, port=5355, timeout=patience)[0]
        except (OSError, dns.exception.DNSException):
            return None

    def verified(self, name: str, kind: str) -> tuple[str, set[str]]:
        answer = self.ask(name, kind)
        assert answer is not None
        found = {record.to_text() for one in answer.answer if one.rdtype != 46 for record in one}
        assert answer.flags & dns.flags.AD, f"{name} {kind} is not believed: {answer}\n{self.log.read_text()}"
        return dns.rcode.to_text(answer.rcode()), found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture
def start_unbound(tool: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., Unbound]]:
    running: list[Unbound] = []

    def start(server: str, ds: str) -> Unbound:
        directory = tmp_path / f"unbound{len(running)}"
        directory.mkdir()
        running.append(Unbound(tool("unbound"), directory, server, ds))
        running[-1].wait()
        return running[-1]

    yield start
    for one in running:
        one.stop()


def served(make_server: Any) -> Any:
    """A running server to which ours.test is delegated."""
    server = make_server(start=False)
    with open(server.configuration, "a") as file:
        file.write(
            '\n[dns]\nserve = ["ours.test"]\nname_servers = ["mail.ours.test"]\n'
            f'addresses = ["{server.address}"]\n'
        )
    text = server.configuration.read_text()
    server.configuration.write_text(
        text.replace("[listen]\n", f"[listen]\ndns = ['tcp:5356:interface={server.address}']\n")
    )
    return server.start()


def key_of(server: Any) -> keys.ZoneKey:
    return keys.load(keys.directory_of(str(server.state), "ours.test"))[-1]


def test_a_validating_resolver_believes_our_answers_and_denials(
    make_server: Any, start_unbound: Callable[..., Unbound]
) -> None:
    server = served(make_server)
    unbound = start_unbound(server.address, key_of(server).ds("ours.test"))
    assert unbound.verified("ours.test", "MX") == ("NOERROR", {"10 mail.ours.test."})
    assert unbound.verified("mail.ours.test", "A") == ("NOERROR", {server.address})
    assert unbound.verified("ours.test", "CDS") == ("NOERROR", {key_of(server).ds("ours.test")})
    assert unbound.verified("nobody.ours.test", "A") == ("NXDOMAIN", set())
    assert unbound.verified("mail.ours.test", "AAAA") == ("NOERROR", set())
    assert unbound.verified("_tls.ours.test", "TXT") == ("NOERROR", set()), "a name with only names below it"
    tlsa = (
        unbound.verified("_25._tcp.mail.ours.test", "TLSA")[1]
        or unbound.verified("_2525._tcp.mail.ours.test", "TLSA")[1]
    )
    assert len(tlsa) == 1 and next(iter(tlsa)).startswith("3 1 1 ")


def test_it_does_not_believe_another_key(
    make_server: Any, start_unbound: Callable[..., Unbound], tmp_path: Path
) -> None:
    server = served(make_server)
    stranger = keys.make(str(tmp_path / "other"), time.time())
    unbound = start_unbound(server.address, stranger.ds("ours.test"))
    answer = unbound.ask("ours.test", "MX")
    assert answer is not None and answer.rcode() == dns.rcode.SERVFAIL


def test_the_door_gives_no_transfer_no_recursion_and_takes_no_update(make_server: Any) -> None:
    server = served(make_server)

    def rcode(query: dns.message.Message) -> str:
        answer = dns.query.tcp(query, server.address, port=5356, timeout=10)
        assert not answer.answer
        return dns.rcode.to_text(answer.rcode())

    assert rcode(dns.message.make_query("ours.test", "AXFR")) == "REFUSED"
    assert rcode(dns.message.make_query("example.org", "A")) == "REFUSED"
    update = dns.update.UpdateMessage("ours.test")
    update.add("evil", 60, "A", "192.0.2.66")
    with socket.create_connection((server.address, 5356), 10) as connection:
        wire = update.to_wire()
        connection.sendall(len(wire).to_bytes(2, "big") + wire)
        assert connection.recv(64)[2 + 3] & 15 == dns.rcode.NOTIMP


def test_a_roll_under_way_is_believed_by_who_trusts_either_key(
    make_server: Any, start_unbound: Callable[..., Unbound]
) -> None:
    server = served(make_server)
    old = key_of(server)
    keys.begin_roll(keys.directory_of(str(server.state), "ours.test"), time.time())
    assert server.command("reload").returncode == 0
    new = key_of(server)
    assert new.made != old.made
    for key in (old, new):
        unbound = start_unbound(server.address, key.ds("ours.test"))
        assert unbound.verified("ours.test", "MX")[0] == "NOERROR"
