"""Debian's opendkim as an oracle: the same verdict on every message of a corpus, whole and broken."""

from __future__ import annotations

import base64
import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.filters.asking import Means, Question
from lorrainemail.filters.milter import ask
from lorrainemail.filters.stream import FilterError, connect
from lorrainemail.mailauth.dkim import Verifier
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, generate
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.signing import Signer
from lorrainemail.ops.content import Content

pytestmark = pytest.mark.interop

dkim = pytest.importorskip("dkim")
MESSAGES = 300


def messages(seed: int = 3) -> list[bytes]:
    """Messages with folding, white space and empty lines in every place where they matter."""
    pick = random.Random(seed)
    found = []
    for number in range(MESSAGES):
        subject = pick.choice(
            ["x", "a  b", "fold\r\n\tme", " lead", "trail  ", "é".encode().decode("latin-1")]
        )
        lines = [
            pick.choice(["", "text", "text  ", "a\tb", ".", " lead", "-- "])
            for _ in range(pick.randint(0, 9))
        ]
        end = pick.choice(["\r\n", "\r\n\r\n", "\r\n\r\n\r\n", " \r\n"])  # as SMTP carries it
        found.append(
            (
                f"From: Carole <carole@elorac.fr>\r\nTo: bob@bricoleur.com\r\nSubject: {subject}\r\n"
                f"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <{number}@elorac.fr>\r\n\r\n"
            ).encode("latin-1")
            + "\r\n".join(lines).encode()
            + end.encode()
        )
    return found


def broken(message: bytes, pick: random.Random) -> bytes:
    """The message as it is, or changed in a way that may or may not matter."""
    how = pick.randint(0, 9)
    if how == 0:
        return message.replace(b"Subject: ", b"Subject: Re ", 1)
    if how == 1:
        return message.replace(b"\r\n\r\n", b"\r\n\r\nadded\r\n", 1)
    if how == 2:
        return message + b"\r\n\r\n"
    if how == 3:
        return message.replace(b"To: bob", b"to:  bob", 1)
    if how == 4:
        return b"Subject: second\r\n" + message
    if how == 5:
        return message.replace(b"text", b"text ", 1)
    if how == 6:
        return re.sub(rb"(\tb=\S{10})\S", rb"\1A", message, count=1)
    if how == 7:
        return b"Received: from x by y; Wed, 29 Jul 2026 08:00:00 +0000\r\n" + message
    return message


@pytest_twisted.ensureDeferred
async def test_opendkim_gives_the_same_verdict_on_a_corpus(tool: Any, tmp_path: Path) -> None:
    program = tool("opendkim")
    generate(str(tmp_path), "elorac.fr", "20260729", waits=False)
    (key,) = [one for one in KeyRing(str(tmp_path)).keys("elorac.fr") if one.kind == "rsa"]
    dns = MemoryResolver({key.name: [("TXT", key.record())]})
    (tmp_path / "keys").write_text(f"{key.name} {key.record()}\n")
    sock = tmp_path / "v.sock"
    (tmp_path / "v.conf").write_text(
        f"Mode v\nSocket local:{sock}\nBackground no\nTestPublicKeys {tmp_path}/keys\nAlwaysAddARHeader yes\n"
        "AuthservID oracle.example\nUMask 000\nOn-BadSignature accept\nOn-NoSignature accept\n"
        "On-DNSError accept\nOn-KeyNotFound accept\nOn-Security accept\nOn-SignatureError accept\n"
    )
    process = start([program, "-f", "-x", str(tmp_path / "v.conf")])
    try:
        await _listening(f"unix:{sock}", process)
        differences = []
        counts = {"pass": 0, "fail": 0}
        pick = random.Random(11)
        for number, message in enumerate(messages()):
            signed = broken(await _signed(tmp_path, key, message, number), pick)
            ours = await _ours(dns, signed)
            theirs = await _theirs(f"unix:{sock}", signed)
            counts[ours] = counts.get(ours, 0) + 1
            if ours != theirs:
                differences.append((number, ours, theirs, signed))
        assert differences == []
        assert counts["pass"] > MESSAGES // 3 and counts["fail"] > MESSAGES // 10
    finally:
        process.terminate()
        process.wait(20)


def start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def _listening(address: str, process: Any) -> None:
    for _ in range(200):
        assert process.poll() is None
        try:
            (await connect(reactor, address)).abort()
            return
        except FilterError:
            await _pause(0.05)
    raise AssertionError("opendkim does not listen")


def _pause(seconds: float) -> Any:
    from twisted.internet.task import deferLater

    return deferLater(reactor, seconds, lambda: None)  # type: ignore[arg-type]


async def _signed(state: Path, key: Any, message: bytes, number: int) -> bytes:
    """By us, or by dkimpy in each of the four pairs of canonical forms."""
    if number % 5 == 0:
        ring = KeyRing(str(state))
        rsa = [one for one in ring.keys("elorac.fr") if one.kind == "rsa"]
        signer = Signer(ring, lambda work: succeed(work()))
        signer._keys_for = lambda domain: tuple(rsa)  # type: ignore[method-assign]
        return await signer.sign(Content(message)) + message
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = key.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    forms = [(one.encode(), two.encode()) for one in ("simple", "relaxed") for two in ("simple", "relaxed")]
    fields: bytes = dkim.sign(
        message, key.selector.encode(), b"elorac.fr", pem, canonicalize=forms[number % 4]
    )
    return fields + message


async def _ours(dns: MemoryResolver, message: bytes) -> str:
    content = Content(message)
    (result,) = await Verifier(dns, Clock(), lambda work: succeed(work())).verify(content, Header(content))
    return "pass" if result.result == "pass" else "fail"


async def _theirs(address: str, message: bytes) -> str:
    session = Session("s", "smtp", "192.0.2.7", 4711, helo="mail.elorac.fr", esmtp=True)
    recipients = (Recipient(parse_address("bob@bricoleur.com")),)
    question = Question(
        session, Envelope("m1", parse_address("carole@elorac.fr"), recipients), Content(message), "mx.example"
    )
    opinion = await ask(question, Means(reactor, address, None, "", 10**6))
    results = re.findall(rb"dkim=([a-z]+)", opinion.field)
    assert results, (opinion, base64.b64encode(message))
    return "pass" if results[0] == b"pass" else "fail"
