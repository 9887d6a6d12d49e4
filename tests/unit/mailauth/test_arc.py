"""ARC: what dkimpy seals holds here, and what was changed in between or is no chain does not."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.mailauth.arc import MAX_SETS, ArcResult, ArcVerifier
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.ops.content import Content

dkim = pytest.importorskip("dkim")

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
RECORD = (
    "v=DKIM1; p="
    + base64.b64encode(
        KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode()
)
NAMES = ("lists.example", "forward.example", "third.example")
MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: list@lists.example\r\nSubject: x\r\n"
    b"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <1@elorac.fr>\r\n\r\nBonjour\r\n"
)


def dns(name: bytes, timeout: int = 5) -> bytes:
    return RECORD.encode()


def sealed(message: bytes, domain: str) -> bytes:
    """The message with one more set, by dkimpy, whose view of the chain stands in the results."""
    before = dkim.ARC(message).verify(dnsfunc=dns)[0].decode()
    message = f"Authentication-Results: {domain}; arc={before}; spf=pass\r\n".encode() + message
    fields = dkim.arc_sign(message, b"s", domain.encode(), PEM, domain.encode())
    return b"".join(fields) + message


def chain(length: int) -> bytes:
    message = MESSAGE
    for domain in NAMES[:length]:
        message = b"Received: by " + domain.encode() + b"\r\n" + sealed(message, domain)
    return message


def verify(message: bytes, **rows: Any) -> ArcResult:
    table: dict[str, Any] = {f"s._domainkey.{name}": [("TXT", RECORD)] for name in NAMES}
    table.update(rows.pop("rows", {}))
    content = Content(message)
    verifier = ArcVerifier(MemoryResolver(table), Clock(), lambda work: succeed(work()))
    results: list[Any] = []
    Deferred.fromCoroutine(verifier.verify(content, Header(content))).addBoth(results.append)
    if not isinstance(results[0], ArcResult):
        results[0].raiseException()
    result: ArcResult = results[0]
    return result


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_chain_that_dkimpy_made_holds(length: int) -> None:
    message = chain(length)
    assert verify(message) == ArcResult("pass", length, NAMES[length - 1])
    assert dkim.ARC(message).verify(dnsfunc=dns)[0] == b"pass"


def test_a_message_without_a_chain_has_none() -> None:
    assert verify(MESSAGE).result == "none"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Bonjour", b"Bonsoir"),
        (b"Subject: x", b"Subject: y"),
        (b"ARC-Authentication-Results: i=1; lists.example", b"ARC-Authentication-Results: i=1; x.example"),
        (b"ARC-Authentication-Results: i=1;", b"ARC-Authentication-Results: "),
        (b"cv=none", b"cv=pass"),
        (b"cv=pass", b"cv=fail"),
        (b"cv=pass", b"cv=none"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=2"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=0"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=x"),
        (b"ARC-Seal: i=1", b"X-Seal: i=1"),
        (b"ARC-Seal: i=2", b"ARC-Seal: h=from; i=2"),
        (b"ARC-Message-Signature: i=1", b"ARC-Message-Signature: i=1; d=other.example"),
    ],
)
def test_a_chain_that_was_touched_does_not_hold_here_nor_there(old: bytes, new: bytes) -> None:
    message = chain(2)
    changed = message.replace(old, new, 1)
    assert changed != message
    result = verify(changed)
    assert result.result == "fail" and result.reason
    try:
        assert dkim.ARC(changed).verify(dnsfunc=dns)[0] != b"pass"
    except (dkim.DKIMException, ValueError):
        pass  # it says no in its own way


def test_a_changed_older_set_is_noticed_by_the_seals_after_it() -> None:
    message = chain(3)
    start = message.rindex(b"ARC-Message-Signature: i=1")
    place = message.index(b"b=", start) + 6
    octet = b"A" if message[place : place + 1] != b"A" else b"B"
    assert verify(message[:place] + octet + message[place + 1 :]).result == "fail"


def test_missing_revoked_and_silent_keys_end_the_chain() -> None:
    for records in ([], [("TXT", "v=DKIM1; p=")], [("TXT", "TIMEOUT")]):
        result = verify(chain(2), rows={"s._domainkey.lists.example": records})
        assert (result.result, result.sealer) == ("fail", "forward.example")


def test_a_thousand_sets_are_not_looked_at() -> None:
    flood = b"".join(
        b"ARC-Seal: i=%d; a=rsa-sha256; cv=pass; d=x.example; s=s; b=AAAA\r\n" % number
        for number in range(1, 1001)
    )
    result = verify(flood + MESSAGE)
    assert result.result == "fail" and str(MAX_SETS) in result.reason
    assert verify(chain(1).replace(b"\r\n\r\n", b"\r\n" + b"X: y\r\n" * 50_000 + b"\r\n")).result == "fail"
