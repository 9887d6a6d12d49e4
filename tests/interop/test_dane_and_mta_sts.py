"""Mail to domains that say how it must come: two of our servers, zones of knot's, unbound validating them.

Postfix's posttls-finger, behind the same resolver, is asked for its opinion of the same domains.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import random
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.dnssec
import dns.dnssectypes
import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rdataset
import dns.rdatatype
import dns.zone
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

pytestmark = pytest.mark.interop

BIN = Path(sys.executable).parent

KNOT = """\
server:
    rundir: "{directory}"
    listen: {address}@5356
    user: {user}
database:
    storage: "{directory}"
log:
  - target: stderr
    any: warning
"""
ZONE_OF_KNOT = """\
  - domain: {name}
    storage: "{directory}"
    file: "{name}.zone"
    semantic-checks: off
"""
UNBOUND = """\
server:
    interface: {address}@5355
    interface: {address}@53
    do-daemonize: no
    use-syslog: no
    logfile: ""
    chroot: ""
    username: ""
    directory: "{directory}"
    pidfile: "{directory}/unbound.pid"
    do-not-query-localhost: no
    module-config: "validator iterator"
    local-zone: "test." nodefault
    val-bogus-ttl: 1
    access-control: 127.0.0.0/8 allow
{anchors}
remote-control:
    control-enable: no
{stubs}
"""
HEAD = """\
$TTL 60
@ SOA ns.{name}. h.{name}. 1 3600 600 604800 60
@ NS ns.{name}.
ns A {dns}
@ MX 10 mail.{name}.
mail A {receiver}
"""
#: Domains that are signed, and their TLSA records; those that are not, and what else they have.
SIGNED = ("dane.test", "ta.test", "wrong.test", "unusable.test", "broken.test", "bogus.test", "notlsa.test")
UNSIGNED = ("plain.test", "sts.test", "stray.test")


class Peers:
    """Everything that runs beside the sender."""

    def __init__(self, directory: Path, receiver: Any, authority: trustme.CA, chain: Path) -> None:
        dice = random.SystemRandom()
        self.address = f"127.{dice.randint(10, 250)}.{dice.randint(1, 254)}.{dice.randint(1, 254)}"
        self.directory = directory
        self.processes: list[subprocess.Popen[bytes]] = []
        leaf, root = x509.load_pem_x509_certificates(chain.read_bytes())
        key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        own, ca = hashlib.sha256(key).hexdigest(), hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest()
        other = "ab" * 32
        port = 2525
        tlsa = {
            "dane.test": [f"3 1 1 {other}", f"3 1 1 {own}"],  # the next key beside the one in use
            "ta.test": [f"2 0 1 {ca}"],
            "wrong.test": [f"3 1 1 {other}"],
            "unusable.test": [f"1 1 1 {own}"],
            "broken.test": [f"3 1 1 {own}"],
            "bogus.test": [f"3 1 1 {own}"],
        }
        anchors, stubs = [], []
        for name in (*SIGNED, *UNSIGNED):
            text = HEAD.format(name=name, dns=self.address, receiver=receiver.address)
            text += "".join(f"_{port}._tcp.mail TLSA {record}\n" for record in tlsa.get(name, ()))
            if name in ("sts.test", "stray.test"):
                text += f'_mta-sts TXT "v=STSv1; id=1;"\nmta-sts A {receiver.address}\n'
            zone = dns.zone.from_text(text, origin=f"{name}.", relativize=False)
            if name in SIGNED:
                anchors.append(f'    trust-anchor: "{name}. DS {signed(zone, name)}"')
            else:
                anchors.append(f'    domain-insecure: "{name}"')
            zone.to_file(str(directory / f"{name}.zone"), relativize=False)
            stubs.append(f"stub-zone:\n    name: {name}\n    stub-addr: {self.address}@5356")
        (directory / "unbound.conf").write_text(
            UNBOUND.format(
                address=self.address, directory=directory, anchors="\n".join(anchors), stubs="\n".join(stubs)
            )
        )
        (directory / "knot.conf").write_text(
            KNOT.format(directory=directory, address=self.address, user="root")
            + "zone:\n"
            + "".join(ZONE_OF_KNOT.format(name=name, directory=directory) for name in (*SIGNED, *UNSIGNED))
        )
        self.resolv = directory / "resolv.conf"
        self.resolv.write_text(f"nameserver {self.address}\noptions trust-ad\n")

    def start(self, *command: str) -> None:
        with open(self.directory / f"{Path(command[0]).name}.log", "wb") as log:
            self.processes.append(
                subprocess.Popen(list(command), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while not self.knows("dane.test"):
            logs = "\n".join(file.read_text() for file in self.directory.glob("*.log"))
            assert time.monotonic() < deadline, logs
            time.sleep(0.1)

    def knows(self, name: str) -> bool:
        query = dns.message.make_query(name, "MX", want_dnssec=True)
        try:
            answer = dns.query.udp(query, self.address, port=5355, timeout=1)
        except (OSError, dns.exception.DNSException):
            return False
        return bool(answer.answer and answer.flags & dns.flags.AD)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(30)

    def finger(self, tool: Callable[[str], str], domain: str, directory: Path) -> str:
        """What posttls-finger says of a domain, behind the same resolver."""
        etc = directory / "postfix"
        etc.mkdir(exist_ok=True)
        (etc / "main.cf").write_text("compatibility_level = 3.6\ninet_protocols = ipv4\n")
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        command = [tool("posttls-finger"), "-c", "-l", "dane", "-t", "20", f"{domain}:2525"]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", str(self.resolv), *command],
            capture_output=True, text=True, timeout=90, check=False,
            env={**os.environ, "MAIL_CONFIG": str(etc)},
        )  # fmt: skip
        if "mount" in done.stderr and ("permission" in done.stderr or "failed" in done.stderr):
            pytest.skip("a mount namespace needs root")
        return done.stdout + done.stderr


def signed(zone: dns.zone.Zone, name: str) -> str:
    """Sign the zone in place; its DS record. What "broken" and "bogus" mean is done here, too."""
    private = ec.generate_private_key(ec.SECP256R1())
    key = dns.dnssec.make_dnskey(private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
    now = datetime.datetime.now(datetime.UTC)
    with zone.writer() as transaction:
        dns.dnssec.sign_zone(
            zone,
            transaction,
            keys=[(private, key)],
            inception=now - datetime.timedelta(hours=1),
            expiration=now + datetime.timedelta(days=2),
            add_dnskey=True,
        )
    if name == "broken.test":
        records = zone.find_rdataset(f"_2525._tcp.mail.{name}.", "TLSA")
        (record,) = list(records)
        records.clear()  # type: ignore[no-untyped-call]
        records.add(dns.rdata.from_text("IN", "TLSA", record.to_text().replace("3 1 1", "3 0 1")), 60)
    if name == "bogus.test":
        private = ec.generate_private_key(ec.SECP256R1())
        key = dns.dnssec.make_dnskey(
            private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257
        )
    return dns.dnssec.make_ds(f"{name}.", key, "SHA256").to_text()


def can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def world(
    make_server: Any, tool: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Any, Peers]]:
    """(sender, receiver, the others)."""
    knotd, unbound = tool("knotd"), tool("unbound")
    if os.geteuid() != 0 and not can_bind(443):
        pytest.skip("ports 53 and 443 need root")
    directory = tmp_path_factory.mktemp("peers")
    authority = trustme.CA()
    names = [f"mail.{name}" for name in (*SIGNED, *UNSIGNED)]
    leaf = authority.issue_cert(*names, "mta-sts.sts.test", "mta-sts.stray.test")
    chain, key, trust = (directory / name for name in ("chain.pem", "key.pem", "trust.pem"))
    chain.write_bytes(leaf.cert_chain_pems[0].bytes() + authority.cert_pem.bytes())
    key.write_bytes(leaf.private_key_pem.bytes())
    trust.write_bytes(authority.cert_pem.bytes())

    domains = (*SIGNED, *UNSIGNED)
    receiver = make_server(
        "mail.theirs.test", domains, tuple(f"bob@{name}" for name in domains), start=False,
        configuration=f'[tls]\ncertificate = "{chain}"\nkey = "{key}"\n'
        '[mta_sts]\nmode = "enforce"\nmx = ["mail.sts.test"]\n',
    )  # fmt: skip
    text = receiver.configuration.read_text()
    receiver.configuration.write_text(
        text.replace("[listen]\n", f"[listen]\nhttps = ['tcp:443:interface={receiver.address}']\n")
    )
    receiver.start()
    peers = Peers(directory, receiver, authority, chain)
    with contextlib.ExitStack() as stack:
        stack.callback(peers.stop)
        peers.start(knotd, "-c", str(directory / "knot.conf"))
        peers.start(unbound, "-d", "-c", str(directory / "unbound.conf"))
        peers.wait()
        sender = make_server(
            configuration='relay_networks = ["127.0.0.0/8"]\n'
            f'[dns]\nresolvers = ["{peers.address}:5355"]\ntrusted = true\nipv6 = false\n'
            f'[tls]\ntrust = "{trust}"\n[queue]\nport = 2525\n',
        )
        yield sender, receiver, peers


def send(sender: Any, *recipients: str, options: tuple[str, ...] = ()) -> None:
    context = ssl.create_default_context(cafile=str(sender.ca))
    context.check_hostname = False
    with smtplib.SMTP(sender.address, 2525, timeout=30) as smtp:
        smtp.starttls(context=context)
        for one in recipients:
            smtp.sendmail("bob@ours.test", [one], "Subject: hello\r\n\r\nhello\r\n", mail_options=options)


def explained(sender: Any, domain: str) -> dict[str, Any]:
    done = sender.command("explain", f"bob@{domain}", "--as", "bob@ours.test", "--json")
    assert done.returncode == 0, done.stderr
    hop: dict[str, Any] = json.loads(done.stdout)["finals"][0]["hops"][0]
    security: dict[str, Any] = hop["security"]
    return security


def waiting(sender: Any) -> dict[str, str]:
    """Recipients that wait, with the last reply."""
    listed = json.loads(sender.command("queue", "list", "--json").stdout)
    found: dict[str, str] = {}
    for message in listed["items"]:
        for one in message["recipients"]:
            if one.get("last_reply"):
                found[one["address"]] = one["last_reply"]
    return found


def test_mail_goes_as_each_domain_publishes(world: tuple[Any, Any, Peers]) -> None:
    sender, receiver, _ = world
    good = ("dane.test", "ta.test", "unusable.test", "notlsa.test", "plain.test", "sts.test")
    bad = ("wrong.test", "broken.test", "bogus.test", "stray.test")
    send(sender, *(f"bob@{name}" for name in (*good, *bad)))
    for name in good:
        receiver.wait_for_messages(f"bob@{name}", 1)
    sender.wait(lambda: len(waiting(sender)) == len(bad), "replies for all that waits")
    replies = waiting(sender)
    assert set(replies) == {f"bob@{name}" for name in bad}
    assert "none of those that the TLSA records name" in replies["bob@wrong.test"]
    assert "TLSA records cannot be had" in replies["bob@broken.test"]
    assert "name servers do not answer" in replies["bob@bogus.test"]
    assert "MTA-STS policy of stray.test" in replies["bob@stray.test"]
    assert "does not name it" in replies["bob@stray.test"]
    for name in bad:
        assert receiver.messages(f"bob@{name}") == []

    for name, proof in (("dane.test", ", DANE"), ("ta.test", ", DANE"), ("sts.test", ", MTA-STS")):
        events = sender.command("trace", f"bob@{name}", "--json").stdout
        assert proof in events, events
    assert ", DANE" not in sender.command("trace", "bob@plain.test", "--json").stdout

    uses = {
        name: explained(sender, name)["use"] for name in (*good, "wrong.test", "broken.test", "stray.test")
    }
    assert uses == {
        "dane.test": "check",
        "ta.test": "check",
        "unusable.test": "encrypted",
        "notlsa.test": "any",
        "plain.test": "any",
        "sts.test": "verified",
        "wrong.test": "check",
        "broken.test": "wait",
        "stray.test": "wait",
    }
    assert explained(sender, "notlsa.test")["authentic"] and not explained(sender, "plain.test")["authentic"]
    text = sender.command("explain", "bob@sts.test", "--as", "bob@ours.test").stdout
    assert "MTA-STS policy of sts.test (enforce" in text and "verified TLS" in text

    # the policy is on the disk, and holds without its web server
    assert (sender.state / "tls-policies" / "sts.test").exists()
    receiver.stop()
    sender.stop()
    sender.start()
    assert explained(sender, "sts.test")["use"] == "verified"
    receiver.start()


def test_requiretls_goes_only_where_a_name_is_proved(world: tuple[Any, Any, Peers]) -> None:
    sender, receiver, _ = world
    good = ("dane.test", "notlsa.test", "sts.test")
    send(sender, *(f"bob@{name}" for name in (*good, "plain.test")), options=("REQUIRETLS",))
    for name in good:
        receiver.wait_for_messages(f"bob@{name}", 1)
    (notice,) = sender.wait_for_messages("bob@ours.test", 1)
    assert b"5.7.30" in notice and b"plain.test" in notice
    assert receiver.messages("bob@plain.test") == []


def test_postfix_is_of_the_same_opinion(
    world: tuple[Any, Any, Peers], tool: Callable[[str], str], tmp_path: Path
) -> None:
    sender, _, peers = world
    said = {name: peers.finger(tool, name, tmp_path) for name in SIGNED if name != "bogus.test"}
    verified = {name for name, words in said.items() if "Verified TLS connection" in words}
    assert verified == {"dane.test", "ta.test"}, said
    assert verified == {name for name in said if delivered_by_dane(sender, name)}
    # of records without use it demands TLS alone, and of a domain without records nothing
    for name in ("unusable.test", "notlsa.test"):
        assert "TLS connection established" in said[name], said[name]
    assert "TLS connection established" not in said["broken.test"], said["broken.test"]


def delivered_by_dane(sender: Any, name: str) -> bool:
    """Whether the sender has a session with that domain's server under DANE; it tries, if need be."""
    send(sender, f"bob@{name}")

    def told() -> str:
        events = json.loads(sender.command("trace", f"bob@{name}", "--json").stdout)
        return next(
            (
                json.dumps(event)
                for message in events["messages"]
                for event in message["events"]
                if event["kind"] in ("relayed", "deferred")
            ),
            "",
        )

    return ", DANE" in str(sender.wait(told, f"the fate of mail to {name}"))
