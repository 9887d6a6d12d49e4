"""What sender authentication costs: CPU of one message received, of one sent, and of large ones.

In one process: a DNS door with the zone of the sender, the resolver of the server with its cache, and the
check and signer as the server makes them. Received: SPF, DKIM (RSA-2048, or RSA and Ed25519 with ``--both``)
and DMARC of a 4 KiB message, DNS cached. Sent: both signatures. Large: 30 MB signed and verified, with the
longest CPU time that the reactor's thread was held in one piece.

    python benchmarks/mailauth.py [--messages 2000] [--both] [--large 30]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from lorrainemail.addresses import parse_address
from lorrainemail.dns.responder import Responder
from lorrainemail.dns.server import listen
from lorrainemail.dns.zonefile import load_zones
from lorrainemail.envelope import Session
from lorrainemail.interfaces import Circumstances, IContent, RelayRight, Verdict
from lorrainemail.mailauth.check import MailAuth
from lorrainemail.mailauth.dkim import Verifier
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, generate
from lorrainemail.mailauth.signing import Signer
from lorrainemail.net.resolver import Resolver
from lorrainemail.ops.content import Content, ContentWriter

GOAL_RECEIVED = 1.0
GOAL_SENT = 0.7
GOAL_CALLBACK = 20.0

PEER = "192.0.2.1"
HEADER = (
    b"Received: from client.elorac.fr ([192.0.2.7]) by mail.elorac.fr with ESMTPSA id 1m816v;\r\n"
    b"\tWed, 29 Jul 2026 08:00:00 +0000\r\n"
    b"From: Carole <carole@elorac.fr>\r\nTo: Bob <bob@bricoleur.com>\r\nSubject: The shelf\r\n"
    b"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <1@elorac.fr>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
)
LINE = b"The shelf of which I wrote to you holds,  and I thank you for it.  \r\n"
ZONE = """$ORIGIN elorac.fr.
$TTL 3600
@ SOA ns postmaster 1 3600 600 86400 300
@ NS ns
ns A 127.0.0.1
@ MX 10 mail
mail A 192.0.2.1
@ TXT "v=spf1 mx include:spf.elorac.fr -all"
spf TXT "v=spf1 ip4:198.51.100.0/24 -all"
_dmarc TXT "v=DMARC1; p=reject; rua=mailto:dmarc@elorac.fr"
"""


def message(size: int) -> bytes:
    return HEADER + LINE * max(1, (size - len(HEADER)) // len(LINE))


class Bench:
    """Everything that is measured."""

    def __init__(self, reactor: Any, directory: str) -> None:
        self.reactor = reactor
        self.directory = directory
        keys = generate(directory, "elorac.fr", "20260729", waits=False)
        zone = os.path.join(directory, "zone")
        with open(zone, "w") as file:
            file.write(ZONE + "".join(one.key.zone_line() + "\n" for one in keys))
        self.ports = listen(reactor, Responder(load_zones([zone]), reactor), "127.0.0.1", 0)
        resolver = Resolver(reactor, [f"127.0.0.1:{self.ports[0].getHost().port}"])
        in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
        self.check = MailAuth(resolver, reactor, in_thread, "mail.bricoleur.com")
        self.verifier = Verifier(resolver, reactor, in_thread)
        self.ring = KeyRing(directory)
        self.signer = Signer(self.ring, in_thread)

    async def judge(self, content: IContent) -> Verdict:
        session = Session("s", "smtp", PEER, helo="mail.elorac.fr", esmtp=True)
        answer = self.check.judge(
            Circumstances(
                "data",
                session,
                None,  # type: ignore[arg-type]
                parse_address("carole@elorac.fr"),
                relay=RelayRight(False, ""),
                content=content,
            )
        )
        assert answer is not None
        verdict = await answer
        assert verdict is not None
        return verdict

    async def small(self, count: int, both: bool) -> None:
        await task.deferLater(self.reactor, 1.1)  # keys that have just changed are read anew each time
        plain = message(4096)
        fields = await self.signer.sign(Content(plain))
        if not both:
            fields = fields[: fields.index(b"DKIM-Signature:", 1)]
        received = Content(fields + plain)
        verdict = await self.judge(received)
        assert b"dmarc=pass" in verdict.field and b"dkim=pass" in verdict.field, verdict
        began = time.process_time()
        for _ in range(count):
            await self.judge(received)
        spent = (time.process_time() - began) / count * 1e3
        _say("received, 4 KiB: SPF, DKIM, DMARC", spent, GOAL_RECEIVED)
        content = Content(plain)
        began = time.process_time()
        for _ in range(count):
            await self.signer.sign(content)
        spent = (time.process_time() - began) / count * 1e3
        _say("sent, 4 KiB: both signatures", spent, GOAL_SENT)

    async def large(self, megabytes: int) -> None:
        fields = b""
        for what in ("signed", "verified"):
            writer = ContentWriter(self.directory)
            writer.write(fields + HEADER)
            for _ in range(megabytes * 16):
                writer.write(LINE * (65536 // len(LINE)))
            content = writer.finish()
            watch = Watch(self.reactor)
            began, cpu = time.perf_counter(), time.process_time()
            if what == "signed":
                fields = await self.signer.sign(content)
                assert fields.count(b"DKIM-Signature:") == 2
            else:
                results = await self.verifier.verify(content, Header(content))
                assert [one.result for one in results] == ["pass", "pass"], results
            seconds, spent = time.perf_counter() - began, time.process_time() - cpu
            longest = watch.stop()
            content.close()
            print(f"{content.size / 1e6:.0f} MB {what}: {seconds:.2f} s, {spent:.2f} s of CPU")
            _say("  longest piece of the reactor's thread", longest * 1e3, GOAL_CALLBACK)


class Watch:
    """The longest CPU time of the reactor's thread between two of its rounds."""

    def __init__(self, reactor: Any) -> None:
        self._last = time.thread_time()
        self._longest = 0.0
        self._call = task.LoopingCall(self._look)
        self._call.clock = reactor
        self._call.start(0.0005)

    def _look(self) -> None:
        now = time.thread_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def stop(self) -> float:
        self._look()
        self._call.stop()
        return self._longest


def _say(what: str, value: float, goal: float) -> None:
    print(f"{what}: {value:.3f} ms (goal {goal:g} ms: {'reached' if value <= goal else 'MISSED'})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--both", action="store_true", help="the received message has both signatures")
    parser.add_argument("--large", type=int, default=30, metavar="MB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:

        async def run(reactor: Any) -> None:
            bench = Bench(reactor, directory)
            await bench.small(arguments.messages, arguments.both)
            await bench.large(arguments.large)
            for port in bench.ports:
                port.stopListening()

        task.react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
