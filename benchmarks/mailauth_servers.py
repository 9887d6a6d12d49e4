"""What sender authentication costs a whole server, beside Postfix with opendkim and opendmarc as milters.

Two loads of many SMTP clients. Received: a message with a DKIM signature (RSA-2048), verified, judged by
DMARC and laid into mailboxes; our server evaluates SPF too, which the milters are spared. Sent: a message of
our own domain, signed and relayed to a next hop; our server signs twice (RSA and Ed25519), opendkim once. The
DNS of our server is a process of its own, asked once and then remembered; the milters have their records in
files. CPU is that of the whole process tree. Each load is measured without authentication as well.

    python benchmarks/mailauth_servers.py [--messages 2000] [--clients 20] [--size 4096] [--runs 1]
        [--postfix]

Run it on an otherwise quiet machine, on the kind of disk that mail will lie on (``--directory``).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
import smtp_local
import smtp_relay
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from mailauth import message
from smtp_load import DOMAIN, HOST, PATIENCE, Load
from smtp_servers import Lorrainemail, Postfix, free_port, may_run_postfix
from twisted.internet.defer import Deferred, succeed

from lorrainemail.mailauth.keys import KeyRing, StoredKey, generate
from lorrainemail.mailauth.signing import Signer
from lorrainemail.ops.content import Content

AUTHOR = "elorac.fr"
ACCOUNTS = 50
#: Of Postfix's rate and CPU: what must be reached.
GOAL_RATE = 1.0
GOAL_CPU = 1.0

CHECKS = ("limits", "helo", "loops", "mailauth")
SPF = f"v=spf1 ip4:{HOST} -all"
DMARC = "v=DMARC1; p=reject"


class World:
    """Keys, messages and a DNS that all servers use.

    :ivar rsa: the author's RSA key.
    """

    def __init__(self, root: Path, size: int) -> None:
        self.root = root
        for name in ("author", "sender"):
            (root / name).mkdir()
        (self.rsa,) = [
            one for one in generate(str(root / "author"), AUTHOR, "20260729", False) if _is_rsa(one)
        ]
        generate(str(root / "sender"), DOMAIN, "20260729", False)
        (self.own,) = [one for one in KeyRing(str(root / "sender")).keys(DOMAIN) if one.kind == "rsa"]
        plain = message(size)
        for one in (root / "author" / "dkim" / AUTHOR).glob("e*"):
            one.unlink()  # one signature, as most have
        signer = Signer(KeyRing(str(root / "author")), lambda work: succeed(work()))
        found: list[bytes] = []
        Deferred.fromCoroutine(signer.sign(Content(plain))).addBoth(found.append)
        self.received = root / "received"
        self.received.write_bytes(found[0] + plain)
        self.sent = root / "sent"
        self.sent.write_bytes(plain.replace(f"@{AUTHOR}>".encode(), f"@{DOMAIN}>".encode()))
        zone = root / "zone"
        zone.write_text(
            f"$ORIGIN {AUTHOR}.\n$TTL 3600\n@ SOA ns postmaster 1 3600 600 86400 300\n@ NS ns\nns A {HOST}\n"
            f'@ TXT "{SPF}"\n_dmarc TXT "{DMARC}"\n{self.rsa.key.zone_line()}\n'
        )
        self.dns = free_port()
        self.process = subprocess.Popen([sys.executable, __file__, "--dns", str(self.dns), str(zone)])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


def _is_rsa(one: StoredKey) -> bool:
    return one.key.kind == "rsa"


def serve_dns(port: int, zone: str) -> None:
    from twisted.internet import reactor

    from lorrainemail.dns.responder import Responder
    from lorrainemail.dns.server import listen
    from lorrainemail.dns.zonefile import load_zones

    running: Any = reactor
    listen(running, Responder(load_zones([zone]), running), HOST, port)
    running.run()


class WithMilters(Postfix):
    """Postfix, and the milters that it asks."""

    name = "postfix+"

    def __init__(self, world: World, directory: Path, next_hop: int = 0) -> None:
        self.milters: list[subprocess.Popen[bytes]] = []
        directory.mkdir()
        directory.chmod(0o755)
        world.root.chmod(0o755)
        sockets = [self._opendkim(world, directory, bool(next_hop))]
        if not next_hop:
            sockets.append(self._opendmarc(directory))
        deadline = time.monotonic() + PATIENCE
        while not all(one.exists() for one in sockets):
            if time.monotonic() > deadline or any(one.poll() is not None for one in self.milters):
                raise SystemExit("a milter does not start")
            time.sleep(0.05)
        listed = " ".join(f"unix:{one}" for one in sockets)
        more = f"smtpd_milters = {listed}\nmilter_default_action = tempfail\n"
        super().__init__(directory / "postfix", ACCOUNTS, next_hop, more)

    def _opendkim(self, world: World, directory: Path, signs: bool) -> Path:
        path = directory / "opendkim.sock"
        lines = [f"Socket local:{path}", "Background no", "UMask 000", "Syslog no", "RequireSafeKeys no"]
        if signs:
            key = directory / "key.pem"
            key.write_bytes(
                world.own.private.private_bytes(
                    Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
                )
            )
            key.chmod(0o600)
            lines += ["Mode s", f"Domain {DOMAIN}", f"Selector {world.own.selector}", f"KeyFile {key}"]
            lines += ["Canonicalization relaxed/relaxed", f"InternalHosts {HOST}", "OversignHeaders From"]
        else:
            keys = directory / "keys"
            keys.write_text(f"{world.rsa.key.name} {world.rsa.key.record()}\n")
            lines += [
                "Mode v",
                f"TestPublicKeys {keys}",
                "InternalHosts 192.0.2.1",
                f"AuthservID mail.{DOMAIN}",
            ]
            lines.append("AlwaysAddARHeader yes")
        return self._start("opendkim", "-x", directory, path, lines)

    def _opendmarc(self, directory: Path) -> Path:
        path = directory / "opendmarc.sock"
        (directory / "records").write_text(f"_dmarc.{AUTHOR} {DMARC}\n")
        (directory / "nobody").write_text("")
        lines = [f"Socket local:{path}", "Background false", "UMask 000", "Syslog false"]
        lines += [f"AuthservID mail.{DOMAIN}", f"TestDNSData {directory}/records", "RejectFailures true"]
        lines += [f"IgnoreHosts {directory}/nobody", "SPFSelfValidate false"]
        return self._start("opendmarc", "-c", directory, path, lines)

    def _start(self, name: str, option: str, directory: Path, path: Path, lines: list[str]) -> Path:
        file = directory / f"{name}.conf"
        file.write_text("\n".join(lines) + "\n")
        program = shutil.which(name) or f"/usr/sbin/{name}"
        words = [program, "-f", option, str(file)]
        nowhere = subprocess.DEVNULL
        self.milters.append(subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere))
        return path

    def pids(self) -> list[int]:
        return super().pids() + [one.pid for one in self.milters]

    def stop(self) -> str:
        words = super().stop()
        for one in self.milters:
            one.terminate()
            one.wait(PATIENCE)
        return words


def sample(server: Lorrainemail | Postfix) -> bytes:
    """One message that was delivered."""
    where = server.state / "mail" if isinstance(server, Lorrainemail) else server.mail
    return next(file for file in where.rglob("new/*") if file.is_file()).read_bytes()


def receive(world: World, name: str, wanted: Load) -> dict[str, Any]:
    """One server takes mail."""
    server: Lorrainemail | Postfix
    where = world.root / f"receive-{name}-{time.monotonic_ns()}"
    if name == "lorrainemail+":
        more = f'[dns]\nresolvers = ["{HOST}:{world.dns}"]\n'
        server = Lorrainemail(where, ACCOUNTS, checks=CHECKS, more=more)
    elif name == "lorrainemail":
        server = Lorrainemail(where, ACCOUNTS)
    else:
        server = WithMilters(world, where) if name == "postfix+" else Postfix(where, ACCOUNTS)
    try:
        load = attrs.evolve(wanted, message=str(world.received), sender=f"carole@{AUTHOR}")
        result = smtp_local.measure(server, load)
        stored = sample(server)
    finally:
        server.stop()
    assert (b"dkim=pass" in stored and b"dmarc=pass" in stored) == name.endswith("+"), stored[:2000]
    smtp_local.report(name, result)
    return result


def send(world: World, name: str, wanted: Load, hop: smtp_relay.NextHop) -> dict[str, Any]:
    """One server sends mail on."""
    server: Lorrainemail | Postfix
    where = world.root / f"send-{name}-{time.monotonic_ns()}"
    if name.startswith("lorrainemail"):
        keys = world.root / "sender" / "dkim" if name.endswith("+") else None
        server = Lorrainemail(where, 1, next_hop=hop.port, keys=keys)
    elif name == "postfix+":
        server = WithMilters(world, where, hop.port)
    else:
        server = Postfix(where, 1, next_hop=hop.port)
    try:
        load = attrs.evolve(
            wanted, message=str(world.sent), sender=f"carole@{DOMAIN}", domain=smtp_relay.DOMAIN
        )
        result = smtp_relay.measure(server, hop, load)
    finally:
        server.stop()
    smtp_relay.report(name, result)
    return result


def judge(what: str, results: dict[str, list[dict[str, Any]]]) -> bool:
    """Say the medians as ratios, and whether the goal is reached."""

    def median(name: str, fact: str) -> float:
        return float(statistics.median(result[fact] for result in results[name]))

    more = median("lorrainemail+", "cpu") - median("lorrainemail", "cpu")
    print(f"{what}: authentication costs {more:.2f} ms CPU each")
    good = not any(one["failed"] or one["missing"] for one in results["lorrainemail+"])
    if "postfix+" in results:
        rate = median("lorrainemail+", "rate") / median("postfix+", "rate")
        cpu = median("lorrainemail+", "cpu") / median("postfix+", "cpu")
        good = good and rate >= GOAL_RATE and cpu <= GOAL_CPU
        print(f"{what}: {rate:.2f} times the rate of Postfix with milters, {cpu:.2f} of its CPU")
        print(f"{what}: goal {GOAL_RATE} and {GOAL_CPU}: {'reached' if good else 'NOT reached'}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--runs", type=int, default=1, help="of each server, by turns; medians at the end")
    parser.add_argument("--postfix", action="store_true", help="measure Postfix beside it (needs root)")
    parser.add_argument("--directory", default="", help="where state is made (default: the temporary one)")
    parser.add_argument("--dns", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dns:
        serve_dns(int(options.dns[0]), options.dns[1])
        return 0
    names = ["lorrainemail", "lorrainemail+"]
    if options.postfix and may_run_postfix():
        names += ["postfix", "postfix+"]
    wanted = Load(options.clients, options.messages, options.size, ACCOUNTS, kept=True)
    root = Path(tempfile.mkdtemp(prefix="lorrainemail-bench-", dir=options.directory or None))
    world = World(root, options.size)
    hop = smtp_relay.NextHop.start(root, False)
    received: dict[str, list[dict[str, Any]]] = {}
    sent: dict[str, list[dict[str, Any]]] = {}
    try:
        for _ in range(options.runs):
            for name in names:
                received.setdefault(name, []).append(receive(world, name, wanted))
        for _ in range(options.runs):
            for name in names:
                sent.setdefault(name, []).append(send(world, name, wanted, hop))
    finally:
        hop.stop()
        world.stop()
        shutil.rmtree(root, ignore_errors=True)
    return 0 if judge("received", received) & judge("sent", sent) else 1


if __name__ == "__main__":
    sys.exit(main())
