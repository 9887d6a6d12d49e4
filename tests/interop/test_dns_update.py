"""Our records on a real name server (Knot) that takes updates by TSIG: published, checked, challenged."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor

from lorrainemail.config.load import load_text
from lorrainemail.mailauth.keys import generate
from lorrainemail.net.exchange import Server
from lorrainemail.net.resolver import Resolver
from lorrainemail.net.update import Change, UpdateError, Updater, parse_key
from lorrainemail.setup.doctor.authority import Authority
from lorrainemail.setup.publishing import UpdatePublisher, publish_keys, updater_of

reactor: Any = installed_reactor
pytestmark = pytest.mark.interop

SECRET = "Zm9yIHRoZSB0ZXN0cyBvbmx5LCBvZiAzMiBvY3RldHM="
KEY = f'key "ours" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'
KNOT = """\
server:
    rundir: {directory}
    listen: {address}@{port}
log:
  - target: {directory}/log
    any: info
database:
    storage: {directory}
key:
  - id: ours
    algorithm: hmac-sha256
    secret: {secret}
acl:
  - id: ours
    key: ours
    action: update
zone:
  - domain: bricoleur.com
    file: {directory}/bricoleur.com.zone
    zonefile-sync: -1
    journal-content: changes
    acl: ours
"""
ZONE = """\
$ORIGIN bricoleur.com.
$TTL 60
@ SOA ns1 hostmaster 1 3600 600 604800 300
@ NS ns1
@ MX 20 mx.oldprovider.example.
@ TXT "v=spf1 include:oldprovider.example -all"
@ TXT "site-verification=12345"
ns1 A {address}
"""


class Knot:
    def __init__(self, program: str, directory: Path) -> None:
        dice = random.SystemRandom()
        self.address = f"127.{dice.randint(10, 250)}.{dice.randint(1, 254)}.{dice.randint(1, 254)}"
        self.port = 5353
        self.directory = directory
        facts = {"directory": directory, "address": self.address, "port": self.port, "secret": SECRET}
        (directory / "knot.conf").write_text(KNOT.format(**facts))
        (directory / "bricoleur.com.zone").write_text(ZONE.format(**facts))
        (directory / "ours.key").write_text(KEY)
        with open(directory / "out", "wb") as out:
            self.process = subprocess.Popen(
                [program, "-c", str(directory / "knot.conf")],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + 20
        while not self.texts("bricoleur.com", "NS"):
            assert time.monotonic() < deadline, (directory / "log").read_text()

    def texts(self, name: str, kind: str) -> set[str]:
        query = dns.message.make_query(name, kind)
        try:
            answer = dns.query.tcp(query, self.address, port=self.port, timeout=5)
        except (OSError, EOFError, dns.exception.DNSException):
            time.sleep(0.05)
            return set()
        return {record.to_text() for rrset in answer.answer for record in rrset}

    def settings(self, state: Path) -> str:
        return f"""
hostname = "mail.bricoleur.com"
local_domains = ["bricoleur.com"]
[listen]
smtp = ['tcp:25']
[dns]
resolvers = ["{self.address}:{self.port}"]
port = {self.port}
addresses = ["192.0.2.7"]
[dns_update]
server = "{self.address}:{self.port}"
key = "{self.directory}/ours.key"
"""

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture
def knot(tool: Callable[[str], str], tmp_path: Path) -> Iterator[Knot]:
    directory = tmp_path / "knot"
    directory.mkdir()
    server = Knot(tool("knotd"), directory)
    yield server
    server.stop()


def command(state: Path, *words: str) -> Any:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lorrainemail"), *words, "--state", str(state), "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_one_command_writes_all_records_and_touches_no_others(knot: Knot, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "lorrainemail.toml").write_text(knot.settings(state))
    command(state, "dkim", "generate", "bricoleur.com")
    for _ in range(2):  # and once more: nothing is there twice
        answer = command(state, "domain", "dns", "bricoleur.com", "--publish")
        assert {record["type"] for record in answer["left"]} == {"PTR"}
    assert knot.texts("bricoleur.com", "MX") == {"10 mail.bricoleur.com."}, "the old provider's is gone"
    assert knot.texts("bricoleur.com", "TXT") == {'"v=spf1 mx -all"', '"site-verification=12345"'}
    assert knot.texts("mail.bricoleur.com", "A") == {"192.0.2.7"}
    for record in answer["published"]:
        found = knot.texts(record["name"], record["type"])
        assert len(found) >= 1, record
        if record["topic"] == "dkim":
            assert record["data"] in {text.replace('" "', "").strip('"') for text in found}


@pytest_twisted.ensureDeferred
async def test_a_challenge_is_in_the_dns_when_publish_is_done_and_gone_after_withdraw(
    knot: Knot, tmp_path: Path
) -> None:
    settings = load_text(knot.settings(tmp_path), "f", str(tmp_path))
    publisher = UpdatePublisher(
        reactor,
        Resolver(reactor, settings.dns.resolvers),
        lambda: settings,
        lambda: updater_of(reactor, settings),
    )
    name = "_acme-challenge.mail.bricoleur.com"
    await publisher.publish(name, "one")
    await publisher.publish(name, "two")
    assert knot.texts(name, "TXT") == {'"one"', '"two"'}
    await publisher.withdraw(name, "one")
    assert knot.texts(name, "TXT") == {'"two"'}
    await publisher.withdraw(name, "never was")


@pytest_twisted.ensureDeferred
async def test_records_of_new_dkim_keys_come_and_those_of_old_ones_go(knot: Knot, tmp_path: Path) -> None:
    settings = load_text(knot.settings(tmp_path), "f", str(tmp_path))
    keys = [one.key for one in generate(str(tmp_path), "bricoleur.com", "20261122", waits=True)]
    authority = Authority(reactor, Resolver(reactor, settings.dns.resolvers), settings.dns.port)
    updater = updater_of(reactor, settings)
    assert updater is not None
    serial = soa_serial(knot)
    assert await publish_keys(authority, updater, settings, keys, True)
    for key in keys:
        (text,) = knot.texts(key.name, "TXT")
        assert text.replace('" "', "").strip('"') == key.record()
    assert soa_serial(knot) > serial
    assert await publish_keys(authority, updater, settings, keys[:1], False)
    assert [len(knot.texts(key.name, "TXT")) for key in keys] == [0, 1]


def soa_serial(knot: Knot) -> int:
    (soa,) = knot.texts("bricoleur.com", "SOA")
    return int(soa.split()[2])


@pytest_twisted.ensureDeferred
async def test_a_wrong_key_and_a_foreign_zone_are_told_in_words(knot: Knot) -> None:
    server = Server(knot.address, knot.port)
    change = [Change("add", "x.bricoleur.com", "TXT", '"x"')]
    wrong = parse_key(KEY.replace(SECRET, "d3Jvbmc="))
    with pytest.raises(UpdateError, match="key"):
        await Updater(reactor, server, wrong).send("bricoleur.com", change)
    assert knot.texts("x.bricoleur.com", "TXT") == set()
    with pytest.raises(UpdateError, match=r"NOTAUTH to a change of elsewhere\.test"):
        await Updater(reactor, server, parse_key(KEY)).send("elsewhere.test", change)


@pytest_twisted.ensureDeferred
async def test_an_unsigned_answer_is_not_believed() -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                wire = connection.recv(65536)[2:]
                # The same id, "done", and no signature.
                answer = wire[:2] + bytes((0xA8, 0)) + bytes(8)
                connection.sendall(len(answer).to_bytes(2, "big") + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        server = Server("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(UpdateError, match=r"without a good signature|not signed"):
            await Updater(reactor, server, parse_key(KEY)).send(
                "bricoleur.com", [Change("add", "x.bricoleur.com", "TXT", '"x"')]
            )
        thread.join(10)


def test_keys_of_bind_and_of_knot_are_read() -> None:
    bind = parse_key(KEY)
    knot = parse_key(
        f"# hmac-sha256:ours:{SECRET}\nkey:\n  - id: ours\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"
    )
    assert bind == knot
    for text in ("", "key:\n - id: x\n", 'key "x" { algorithm hmac-sha256; secret "***"; };'):
        with pytest.raises(ValueError, match="TSIG"):
            parse_key(text)
