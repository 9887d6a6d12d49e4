"""ARC seals of our own: dkimpy believes them, we believe dkimpy's, and trusted sealers are heard."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Recipient, Session
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Action,
    Circumstances,
    Expansion,
    LocalMailbox,
    RelayRight,
    Verdict,
)
from lorrainemail.mailauth.arc import ArcResult, ArcVerifier
from lorrainemail.mailauth.check import MailAuth
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.keys import KeyRing, generate
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.sealing import Sealer
from lorrainemail.ops.content import Content

dkim = pytest.importorskip("dkim")

MESSAGE = (
    b"From: Carole <carole@elorac.fr>\r\nTo: list@lists.example\r\nSubject: x\r\n"
    b"Date: Wed, 29 Jul 2026 08:00:00 +0000\r\nMessage-ID: <1@elorac.fr>\r\n\r\nBonjour \r\n\r\n"
)
NO: Any = None


@attrs.frozen
class Forwarder:
    """A domain with a key that seals, by us or by dkimpy."""

    name: str
    state: str
    dns: MemoryResolver

    @property
    def key(self) -> Any:
        (key,) = [one for one in KeyRing(self.state).keys(self.name) if one.kind == "rsa"]
        return key

    def ours(self, message: bytes, results: str = "spf=pass; dmarc=pass header.from=elorac.fr") -> bytes:
        sealer = Sealer(
            KeyRing(self.state), self.dns, Clock(), lambda work: succeed(work()), f"mail.{self.name}"
        )
        with_results = f"Authentication-Results: mail.{self.name};\r\n\t{results}\r\n".encode() + message
        return _now(sealer.seal(Content(with_results), ["nowhere.example", self.name])) + with_results

    def dkimpys(self, message: bytes, results: str = "spf=pass") -> bytes:
        before = dkim.ARC(message).verify(dnsfunc=self.lookup)[0].decode()
        whole = f"Authentication-Results: {self.name}; arc={before}; {results}\r\n".encode() + message
        pem = self.key.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        assert load_pem_private_key(pem, None)
        fields = dkim.arc_sign(whole, self.key.selector.encode(), self.name.encode(), pem, self.name.encode())
        return b"".join(fields) + whole

    def lookup(self, name: bytes, timeout: int = 5) -> bytes:
        rows = self.dns.rows.get(name.decode().rstrip("."), [])
        return rows[0][1].encode() if rows else b""


def _now(coroutine: Any) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    if hasattr(found[0], "raiseException"):
        found[0].raiseException()
    return found[0]


@pytest.fixture(scope="module")
def forwarders(tmp_path_factory: pytest.TempPathFactory) -> list[Forwarder]:
    dns = MemoryResolver()
    made = []
    for name in ("one.example", "two.example", "three.example"):
        state = str(tmp_path_factory.mktemp(name))
        for one in generate(state, name, "20260729", waits=False):
            dns.rows[one.key.name] = [("TXT", one.key.record())]
        made.append(Forwarder(name, state, dns))
    return made


def verify(message: bytes, dns: MemoryResolver) -> ArcResult:
    content = Content(message)
    verifier = ArcVerifier(dns, Clock(), lambda work: succeed(work()))
    result: ArcResult = _now(verifier.verify(content, Header(content)))
    return result


@pytest.mark.parametrize("order", ["o", "oo", "do", "od", "odo", "dod", "ooo"])
def test_chains_of_ours_and_dkimpys_sets_hold_for_both(forwarders: list[Forwarder], order: str) -> None:
    message = MESSAGE
    for who, one in zip(order, forwarders, strict=False):
        message = b"Received: by x\r\n" + (one.ours(message) if who == "o" else one.dkimpys(message))
    last = forwarders[len(order) - 1]
    assert verify(message, last.dns) == ArcResult("pass", len(order), last.name)
    assert dkim.ARC(message).verify(dnsfunc=last.lookup)[0] == b"pass"


def test_what_a_set_tells_is_our_own_field_and_no_other(forwarders: list[Forwarder]) -> None:
    foreign = b"Authentication-Results: evil.example; dmarc=pass header.from=elorac.fr\r\n"
    sealed = forwarders[0].ours(foreign + MESSAGE, "spf=fail")
    unfolded = sealed.replace(b"\r\n\t", b" ")
    assert b"ARC-Authentication-Results: i=1; mail.one.example; spf=fail\r\n" in unfolded
    assert unfolded.startswith(b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=one.example; ")


def test_a_broken_chain_is_not_sealed_and_a_changed_message_breaks_ours(forwarders: list[Forwarder]) -> None:
    one, two, _ = forwarders
    sealed = one.ours(MESSAGE)
    changed = sealed.replace(b"Bonjour", b"Bonsoir")
    assert verify(changed, one.dns).result == "fail"
    assert two.ours(changed).count(b"ARC-Seal:") == 1


def test_without_a_key_nothing_is_done(tmp_path: Path) -> None:
    sealer = Sealer(KeyRing(str(tmp_path)), None, Clock(), lambda work: succeed(work()), "mx")
    assert _now(sealer.seal(Content(MESSAGE), ["one.example"])) == b""


def judge(
    message: bytes,
    dns: MemoryResolver,
    accounts: tuple[str, ...] = ("bob@x.org",),
    rows: dict[str, Any] | None = None,
    **more: Any,
) -> Verdict:
    dns.rows |= {
        "elorac.fr": [("TXT", "v=spf1 -all")],
        "_dmarc.elorac.fr": [("TXT", "v=DMARC1; p=reject")],
        "1.2.0.192.in-addr.arpa": [("PTR", "out.alumni.example")],
        "out.alumni.example": [("A", "192.0.2.1")],
        **(rows or {}),
    }
    check = MailAuth(dns, Clock(), lambda work: succeed(work()), "mail.bricoleur.com", **more)
    finals = [LocalMailbox(Account(parse_address(one)), "", parse_address(one)) for one in accounts]
    accepted = tuple(Accepted(Recipient(one.address), Expansion(True, (one,))) for one in finals)
    circumstances = Circumstances(
        "data",
        Session("s", "smtp", "192.0.2.1", helo="x"),
        NO,
        parse_address("carole@elorac.fr"),
        relay=RelayRight(False, ""),
        content=Content(message),
        accepted=accepted,
    )
    answer: Any = check.judge(circumstances)
    found: list[Any] = []
    answer.addBoth(found.append)
    if not isinstance(found[0], Verdict):
        found[0].raiseException()
    verdict: Verdict = found[0]
    return verdict


def test_what_a_trusted_sealer_saw_pass_is_not_held_against_the_author(forwarders: list[Forwarder]) -> None:
    one, two, _ = forwarders
    trusted = frozenset({"one.example", "two.example"})
    good = two.ours(one.ours(MESSAGE), "arc=pass; dmarc=fail header.from=elorac.fr")
    verdict = judge(good, one.dns, trusted_sealers=trusted)
    assert verdict.action is Action.CONTINUE and "one.example, whose seals are trusted" in verdict.reason
    assert b"dmarc=fail" in verdict.field and b"arc=pass" in verdict.field
    # The last link is not trusted, so he may have made up the first.
    verdict = judge(good, one.dns, trusted_sealers=frozenset({"one.example"}))
    assert verdict.action is Action.JUNK
    # He saw another author pass, or wrote it where it does not count.
    for told in (
        "dmarc=pass header.from=evil.example",
        "spf=pass (dmarc=pass header.from=elorac.fr)",
        'spf=pass reason="; dmarc=pass header.from=elorac.fr"',
        "x-dmarc=pass header.from=elorac.fr",
    ):
        verdict = judge(one.ours(MESSAGE, told), one.dns, trusted_sealers=trusted)
        assert verdict.action is Action.JUNK, told


def test_a_chain_that_is_forged_spares_nobody_from_refusal(forwarders: list[Forwarder]) -> None:
    dns = MemoryResolver(forwarders[0].dns.rows)
    nameless: dict[str, Any] = {"out.alumni.example": [("A", "192.0.2.99")]}
    sealed = forwarders[0].ours(MESSAGE)
    assert judge(sealed, dns, rows=nameless).action is Action.JUNK
    assert judge(sealed.replace(b"Bonjour", b"Bonsoir"), dns, rows=nameless).action is Action.REFUSE


@pytest.mark.parametrize("named", ["192.0.2.0/24", "alumni.example", "out.alumni.example"])
def test_a_forwarder_that_all_recipients_named_delivers_what_its_author_would_not(
    forwarders: list[Forwarder], named: str
) -> None:
    dns = MemoryResolver(forwarders[0].dns.rows)
    verdict = judge(MESSAGE, dns, forwarders={"bob@x.org": (named,)})
    assert verdict.action is Action.CONTINUE and "named this peer as a forwarder" in verdict.reason
    verdict = judge(MESSAGE, dns, ("bob@x.org", "eve@x.org"), forwarders={"bob@x.org": (named,)})
    assert verdict.action is Action.JUNK
    verdict = judge(MESSAGE, dns, forwarders={"bob@x.org": ("198.51.100.0/24", "other.example")})
    assert verdict.action is Action.JUNK


def test_the_fields_are_well_formed(forwarders: list[Forwarder]) -> None:
    sealed = forwarders[0].ours(MESSAGE)
    fields, _, _ = sealed.partition(b"Authentication-Results: mail")
    assert all(len(line) < 998 for line in fields.split(b"\r\n"))
    seal = fields.partition(b"\r\nARC-Message")[0].replace(b"\r\n\t", b" ").replace(b" ", b"")
    assert len(base64.b64decode(seal.rpartition(b";b=")[2])) == 256  # RSA, 2,048 bits
