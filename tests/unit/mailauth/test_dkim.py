"""DKIM: what is signed verifies here and with dkimpy, and what was tampered with or is weak never passes."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.mailauth.canonical import BodyHash
from lorrainemail.mailauth.dkim import MAX_PARSED, MAX_SIGNATURES, TOTAL_TIME, DkimResult, Verifier
from lorrainemail.mailauth.dkim_record import RecordFault, SignatureError, parse_key, parse_signature
from lorrainemail.mailauth.header import MAX_HEADER, Header
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.ops.content import Content

dkim = pytest.importorskip("dkim")

MESSAGE = (
    b"Received: from a.example by b.example; Wed, 29 Jul 2026 08:00:00 +0000\r\n"
    b"From: Carole <carole@elorac.fr>\r\n"
    b"To: jean@bricoleur.com,\r\n\tmarie@bricoleur.com\r\n"
    b"Subject: Une   visite\r\n  de la  Lorraine \r\n"
    b"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\n"
    b"Message-ID: <1@elorac.fr>\r\n"
    b"\r\n"
    b"Bonjour,  \r\n\r\n\tune  ligne\t avec des  blancs \r\n\r\n\r\n"
)


def words(results: list[DkimResult]) -> list[str]:
    return [one.result for one in results]


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def public(key: rsa.RSAPrivateKey, kind: str = "info") -> str:
    form = PublicFormat.SubjectPublicKeyInfo if kind == "info" else PublicFormat.PKCS1
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, form)).decode()


# -- our own signatures ----------------------------------------------------------------------------------


def test_both_signatures_pass_here_and_with_dkimpy(elorac: Any) -> None:
    signed = elorac.sign(MESSAGE)
    results = elorac.verify(signed)
    assert words(results) == ["pass", "pass"]
    assert [one.algorithm for one in results] == ["rsa-sha256", "ed25519-sha256"]
    assert [one.bits for one in results] == [2048, 256]

    def dns(name: bytes, timeout: int = 5) -> bytes:
        return next(value for _, value in elorac.dns.rows[name.decode().rstrip(".")]).encode()

    for index in (0, 1):
        assert dkim.DKIM(signed).verify(idx=index, dnsfunc=dns)
    assert max(len(line) for line in signed.split(b"\r\n\r\n")[0].split(b"\r\n")) <= 78


@pytest.mark.parametrize(
    "field",
    [
        b"From: Mallory <mallory@evil.example>\r\n",
        b"Subject: Something else\r\n",
        b"Reply-To: mallory@evil.example\r\n",
        b"To: everybody@evil.example\r\n",
        b"Cc: everybody@evil.example\r\n",
        b"Date: Thu, 30 Jul 2026 08:00:00 +0000\r\n",
    ],
)
def test_no_field_of_the_usual_ones_can_be_added_to_a_signed_message(elorac: Any, field: bytes) -> None:
    signed = elorac.sign(MESSAGE)
    assert words(elorac.verify(field + signed)) == ["fail", "fail"]
    head, blank, body = signed.partition(b"\r\n\r\n")
    assert words(elorac.verify(head + b"\r\n" + field + blank[2:] + body)) == ["fail", "fail"]


def test_a_changed_body_or_header_fails_and_says_which(elorac: Any) -> None:
    signed = elorac.sign(MESSAGE)
    changed = elorac.verify(signed.replace(b"Bonjour", b"Bonsoir"))
    assert words(changed) == ["fail", "fail"] and "body" in changed[0].reason
    changed = elorac.verify(signed.replace(b"Une   visite", b"Une perte"))
    assert words(changed) == ["fail", "fail"] and "header" in changed[0].reason
    assert words(elorac.verify(signed + b"more\r\n")) == ["fail", "fail"]


def test_what_relays_do_to_white_space_breaks_nothing(elorac: Any) -> None:
    signed = elorac.sign(MESSAGE)
    relayed = b"Received: from x by y; z\r\n" + signed.replace(b"Une   visite\r\n  de", b"Une visite de")
    relayed = relayed.replace(b"Bonjour,  \r\n", b"Bonjour,\r\n").removesuffix(b"\r\n\r\n")
    assert words(elorac.verify(relayed)) == ["pass", "pass"]


def test_a_message_of_a_domain_without_keys_is_left_alone(elorac: Any) -> None:
    other = MESSAGE.replace(b"carole@elorac.fr", b"carole@elsewhere.example")
    assert elorac.sign(other) == other
    assert elorac.sign(MESSAGE.replace(b"carole@elorac.fr", b"x@../elorac.fr")).startswith(b"Received")


def test_a_host_below_a_domain_with_keys_signs_with_them(elorac: Any) -> None:
    notice = MESSAGE.replace(b"carole@elorac.fr", b"MAILER-DAEMON@mail.elorac.fr")
    assert {(one.result, one.domain) for one in elorac.verify(elorac.sign(notice))} == {("pass", "elorac.fr")}
    other = MESSAGE.replace(b"carole@elorac.fr", b"x@notelorac.fr")
    assert elorac.sign(other) == other


def test_an_empty_body_and_a_message_without_one_are_signed(elorac: Any) -> None:
    for message in (
        b"From: carole@elorac.fr\r\n\r\n",
        b"From: carole@elorac.fr\r\n",
        b"From: carole@elorac.fr\r\n\r\n\r\n\r\n",
    ):
        assert words(elorac.verify(elorac.sign(message))) == ["pass", "pass"]


# -- dkimpy's signatures ---------------------------------------------------------------------------------

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize("header_form", [b"simple", b"relaxed"])
@pytest.mark.parametrize("body_form", [b"simple", b"relaxed"])
@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        MESSAGE.removesuffix(b"\r\n"),
        b"from:carole@elorac.fr\r\nX-Empty:\r\nSUBJECT:  \r\n\t x\r\n\r\n",
        b"From: a@elorac.fr\r\n\r\n \r\n\t\r\n\r\n",
        b"From: a@elorac.fr\r\n\r\nno line end",
        b"From: a@elorac.fr\r\n\r\n" + bytes(range(128, 256)) + b"\r\n",
    ],
)
def test_what_dkimpy_signs_passes(message: bytes, header_form: bytes, body_form: bytes, elorac: Any) -> None:
    field = dkim.sign(
        message, b"s", b"elorac.fr", pem(KEY), canonicalize=(header_form, body_form), include_headers=None
    )
    elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", "v=DKIM1; p=" + public(KEY))]
    (result,) = elorac.verify(field + message, now=time.time())
    assert result.result == "pass", result
    elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", "p=" + public(KEY, "bare"))]
    (result,) = elorac.verify(field + message, now=time.time())
    assert result.result == "pass", result


def crafted(elorac: Any, message: bytes = MESSAGE, key: rsa.RSAPrivateKey = KEY, **options: Any) -> bytes:
    elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", "v=DKIM1; p=" + public(key))]
    return dkim.sign(message, b"s", b"elorac.fr", pem(key), **options) + message


def test_a_signature_with_a_length_never_passes(elorac: Any) -> None:
    (result,) = elorac.verify(crafted(elorac, length=True), now=2e9)
    assert result.result == "policy" and "l=" in result.reason


def test_sha1_never_passes(elorac: Any) -> None:
    signed = crafted(elorac, signature_algorithm=b"rsa-sha1")
    (result,) = elorac.verify(signed, now=2e9)
    assert result.result == "policy" and "sha1" in result.reason


def test_short_and_giant_keys_never_pass(elorac: Any) -> None:
    for bits in (512, 768, 1023, 8192):
        modulus = (1 << (bits - 1)) | 1
        octets = _bare_key(modulus, 65537)
        elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", b"p=" + base64.b64encode(octets))]
        signed = _claimed("s") + MESSAGE
        (result,) = elorac.verify(signed)
        assert result.result in ("policy", "permerror"), (bits, result)


def test_a_key_with_a_giant_exponent_is_not_computed_with(elorac: Any) -> None:
    octets = _bare_key((1 << 2047) | 1, (1 << 2000) | 1)
    elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", b"p=" + base64.b64encode(octets))]
    (result,) = elorac.verify(_claimed("s") + MESSAGE)
    assert result.result in ("policy", "permerror")


def _bare_key(modulus: int, exponent: int) -> bytes:
    def element(tag: int, content: bytes) -> bytes:
        size = len(content).to_bytes(4, "big")
        return bytes([tag, 0x84]) + size + content

    def integer(value: int) -> bytes:
        return element(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))

    return element(0x30, integer(modulus) + integer(exponent))


def _claimed(selector: str, domain: str = "elorac.fr", extra: str = "") -> bytes:
    body = hashlib.sha256(b"Bonjour,\r\n\r\n une ligne avec des blancs\r\n").digest()
    return (
        f"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d={domain}; s={selector}; h=from;{extra}"
        f" bh={base64.b64encode(body).decode()}; b={base64.b64encode(b'x' * 256).decode()}\r\n"
    ).encode()


# -- the signature's and the key's words -----------------------------------------------------------------


def test_expired_and_future_signatures_fail(elorac: Any) -> None:
    signed = elorac.sign(MESSAGE)
    assert words(elorac.verify(signed, now=1_000_000_000.0)) == ["fail", "fail"]
    elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", "v=DKIM1; p=" + public(KEY))]
    (result,) = elorac.verify(_claimed("s", extra=" t=10; x=20;") + MESSAGE)
    assert result.result == "fail" and "expired" in result.reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"v=1;", b"v=2;"),
        (b"v=1;", b""),
        (b"a=rsa-sha256", b"a=rsa-md5"),
        (b"h=from", b"h=to"),
        (b"d=elorac.fr", b"d=-.."),
        (b"s=s;", b"s=a b..c;"),
        (b"s=s;", b"s=s; s=s;"),
        (b"s=s;", b"s=s; i=x@other.example;"),
        (b"s=s;", b"s=s; i=x@notelorac.fr;"),
        (b"s=s;", b"s=s; l=many;"),
        (b"s=s;", b"s=s; t=20; x=10;"),
        (b"s=s;", b"s=s; q=carrier-pigeon;"),
        (b"s=s;", b"s=s; nonsense;"),
        (b"c=relaxed", b"c=loose"),
        (b"bh=", b"bh=!!!!"),
        (b"h=from", b"h=from:" + b":".join([b"x"] * 2000)),
        (b"s=s;", b"s=s;" + b" x=1;" * 2000),
    ],
)
def test_a_malformed_signature_is_a_permanent_error(elorac: Any, old: bytes, new: bytes) -> None:
    field = _claimed("s").replace(old, new, 1)
    assert field != _claimed("s")
    with pytest.raises(SignatureError):
        parse_signature(field.partition(b":")[2])
    (result,) = elorac.verify(field + MESSAGE)
    assert result.result == "permerror"


@pytest.mark.parametrize(
    "record",
    [
        b"v=DKIM2; p=" + public(KEY).encode(),
        b"p=; k=rsa",
        b"k=rsa",
        b"p=AAAA",
        b"k=dsa; p=" + public(KEY).encode(),
        b"s=tlsrpt; p=" + public(KEY).encode(),
        b"k=ed25519; p=" + base64.b64encode(b"x" * 31),
        b"p=" + b"A" * 10_000,
        b"p=\xff",
        b"p=" + public(KEY).encode() + b"; p=" + public(KEY).encode(),
    ],
)
def test_a_faulty_or_revoked_key_is_refused(record: bytes) -> None:
    with pytest.raises(RecordFault):
        parse_key(record)


def test_a_missing_key_is_permanent_and_a_silent_dns_temporary(elorac: Any) -> None:
    (result,) = elorac.verify(_claimed("missing") + MESSAGE)
    assert result.result == "permerror"
    elorac.dns.rows["slow._domainkey.elorac.fr"] = [("TXT", "TIMEOUT")]
    (result,) = elorac.verify(_claimed("slow") + MESSAGE)
    assert result.result == "temperror"


def test_a_dns_that_never_answers_ends_in_bounded_time() -> None:
    class Silent(MemoryResolver):
        def txt(self, name: str) -> Deferred[list[bytes]]:
            return Deferred()

    clock = Clock()
    content = Content(_claimed("a") + _claimed("b") + MESSAGE)
    results: list[Any] = []
    verifier = Verifier(Silent(), clock, lambda work: Deferred())
    Deferred.fromCoroutine(verifier.verify(content, Header(content))).addCallback(results.append)
    clock.advance(TOTAL_TIME + 1)
    assert words(results[0]) == ["temperror", "temperror"]
    assert not clock.getDelayedCalls()


def test_strict_keys_want_the_identity_in_their_very_domain(elorac: Any) -> None:
    signed = crafted(elorac, identity=b"x@sub.elorac.fr")
    assert words(elorac.verify(signed, now=time.time())) == ["pass"]
    elorac.dns.rows["s._domainkey.elorac.fr"] = [("TXT", "v=DKIM1; t=s; p=" + public(KEY))]
    assert words(elorac.verify(signed, now=time.time())) == ["permerror"]


# -- a signature that others made ------------------------------------------------------------------------

#: The message of RFC 6376 §A.2 with an Ed25519 signature of the key of RFC 8463 §A.1, and an RSA one.
SIGNED_BY_OTHERS = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=simple/simple; \r\n"
    b" d=football.example.com; i=@football.example.com; \r\n"
    b" q=dns/txt; s=brisbane; t=1518460054; h=from : to : \r\n"
    b" subject : date : message-id : from : subject : date; \r\n"
    b" bh=4bLNXImK9drULnmePzZNEBleUanJCX5PIsDIFoH4KTQ=; \r\n"
    b" b=9/dsDChY0YMTtD5Eyw3wx7x22BlSJP7M5ECbJ7GWrR45nXlTCGb8l0YB\r\n"
    b" o0wBLR++X5LqmsxXaOYLLJe46l10AQ==\r\n"
    b"DKIM-Signature: v=1; a=rsa-sha256; c=simple/simple; \r\n"
    b" d=football.example.com; i=@football.example.com; \r\n"
    b" q=dns/txt; s=test; t=1527915362; h=from : to : subject : \r\n"
    b" date : message-id : from : subject : date; \r\n"
    b" bh=4bLNXImK9drULnmePzZNEBleUanJCX5PIsDIFoH4KTQ=; \r\n"
    b" b=icKcLSEZYXJ95flvWE8FT6hl5iqd8MC/LEKYH0QjsqYy6MO/4pgVNCZH\r\n"
    b" l/RAXAuADxE/40Fg7uTlxwwD1hjN2Ple6J//cJfslBdDOq6zTVbne1dqtl\r\n"
    b" NOat7iamJ1AfRqyG+ja7a2AZsrpUuJ7VA6O+0zRYPqpwMEkEFIzI9i/Xk=\r\n"
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
    b"\r\n"
    b"Hi.\r\n"
    b"\r\n"
    b"We lost the game.  Are you hungry yet?\r\n"
    b"\r\n"
    b"Joe.\r\n"
    b"\r\n"
)


def test_the_message_of_the_standards_passes_with_both_kinds_of_key(elorac: Any) -> None:
    rows = elorac.dns.rows
    rows["brisbane._domainkey.football.example.com"] = [
        ("TXT", "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    ]
    rows["test._domainkey.football.example.com"] = [
        (
            "TXT",
            "v=DKIM1; g=*; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6N"
            "pP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+"
            "yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB",
        )
    ]
    assert words(elorac.verify(SIGNED_BY_OTHERS)) == ["pass", "pass"]
    lower = SIGNED_BY_OTHERS.replace(b"Is dinner ready", b"is dinner ready")
    assert words(elorac.verify(lower)) == ["fail", "fail"]


# -- hostile ---------------------------------------------------------------------------------------------


def test_of_a_thousand_signatures_a_few_are_verified_and_the_authors_is_among_them(elorac: Any) -> None:
    flood = b"".join(_claimed(f"s{n}", f"d{n}.evil.example") for n in range(MAX_PARSED - 2))
    elorac.dns.asked.clear()
    results = elorac.verify(flood + elorac.sign(MESSAGE), authors=("elorac.fr",))
    assert len(results) <= MAX_SIGNATURES
    assert words(results).count("pass") == 2
    assert len(elorac.dns.asked) <= MAX_SIGNATURES
    elorac.dns.asked.clear()
    flood = b"".join(_claimed(f"s{n}", f"d{n}.evil.example") for n in range(1000))
    results = elorac.verify(flood + MESSAGE, authors=("elorac.fr",))
    assert len(results) <= MAX_SIGNATURES and len(elorac.dns.asked) <= MAX_SIGNATURES


def test_a_header_of_ten_megabytes_is_not_looked_through(elorac: Any) -> None:
    huge = b"X-Filler: " + b"x" * 60 + b"\r\n"
    message = elorac.sign(MESSAGE)
    results = elorac.verify(huge * (10_000_000 // len(huge)) + message)
    assert words(results) == ["permerror"]
    assert len(Header(Content(huge * (10_000_000 // len(huge)) + message)).data) <= MAX_HEADER


def test_many_small_fields_hide_no_second_from(elorac: Any) -> None:
    signed = elorac.sign(MESSAGE)
    assert words(elorac.verify(b"X:y\r\n" * 5000 + signed)) == ["permerror"]


def test_a_body_of_nothing_but_line_ends_or_blanks_is_hashed_in_small_memory() -> None:
    for chunk in (b"\r\n" * 32768, b" " * 65536, b"\t \r\n" * 16384):
        one = BodyHash("relaxed")
        for _ in range(100):
            one.update(chunk)
            assert len(one._carry) < 4
        assert one.digest() == hashlib.sha256(b"").digest()
    one = BodyHash("relaxed")
    for _ in range(40):
        one.update(b"\r\n" * 32768)
    one.update(b"x")
    assert one.digest() == hashlib.sha256(b"\r\n" * (32768 * 40) + b"x\r\n").digest()


def test_a_large_message_is_hashed_outside_the_reactor_thread(elorac: Any) -> None:
    content = Content(elorac.sign(MESSAGE + b"x" * 70 + b"\r\n" * 200_000 + b"y\r\n"))
    asked: list[Any] = []

    def thread(work: Any) -> Deferred[Any]:
        asked.append(work)
        return Deferred()

    verifier = Verifier(elorac.dns, Clock(), thread, lambda: 1_790_000_000.0)
    done = Deferred.fromCoroutine(verifier.verify(content, Header(content)))
    assert len(asked) == 1 and not done.called
