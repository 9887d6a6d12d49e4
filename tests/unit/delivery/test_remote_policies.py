"""The remote courier under the TLS policies of other domains, with real connections and made certificates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from lorrainemail.addresses import Address, parse_address
from lorrainemail.delivery.hops import OurEnds
from lorrainemail.delivery.remote import RemoteCourier
from lorrainemail.delivery.sessions import Sessions
from lorrainemail.envelope import Envelope, Parameter, Recipient
from lorrainemail.interfaces import IResolver, MxHost, Outcome, QueueItem, QueueRecipient, Route
from lorrainemail.net.tls import ClientTls
from lorrainemail.ops.content import Content
from lorrainemail.tlspolicy.plan import HostPolicy, Observed, Plan, Published
from lorrainemail.tlspolicy.tlsa import Tlsa, TlsaCheck

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
FIRST, SECOND = "mx1.theirs.test", "mx2.theirs.test"
STS = Published("sts", "theirs.test", ("mode: enforce",), (FIRST,))
DANE = Published("tlsa", "theirs.test")
NONE = Published("no-policy-found", "theirs.test")


@implementer(IResolver)
class TwoHosts:
    """Two mail servers, at 127.0.0.2 and 127.0.0.3."""

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        return succeed([MxHost(10, FIRST), MxHost(20, SECOND)])

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        return succeed(["127.0.0.2" if host == FIRST else "127.0.0.3"])

    def txt(self, name: str) -> Deferred[list[bytes]]:
        raise NotImplementedError

    def ptr(self, address: str) -> Deferred[list[str]]:
        raise NotImplementedError


class OnlyMx:
    """Tables in which every domain has its MX."""

    def __init__(self) -> None:
        self.found = Route("mx", "theirs.test")

    def current(self) -> OnlyMx:
        return self

    def route(self, recipient: Address, sender: Address | None) -> Route:
        return self.found

    def secret(self, name: str) -> None:
        return None


@attrs.define
class Decided:
    """Policies as a test says."""

    hosts: dict[str, HostPolicy] = attrs.field(factory=dict)
    fault: str = ""
    unsure: bool = False
    asked: int = 0

    async def plan(self, domain: str, hosts: Any) -> Plan:
        self.asked += 1
        published = Published("sts", domain)
        return Plan(domain, self.hosts, published, self.fault, "words", self.unsure)


@attrs.define
class Field:
    courier: RemoteCourier
    tables: OnlyMx
    policies: Decided
    make_peer: Callable[..., Any]
    authority: trustme.CA
    observed: list[Observed]

    def peers(self, first: Any, second: Any = None, **facts: Any) -> tuple[Any, Any]:
        """The two servers, with these certificates (None: without TLS)."""
        one = self.make_peer(interface="127.0.0.2", tls=server_context(first), **facts)
        two = self.make_peer(interface="127.0.0.3", port=one.port, tls=server_context(second), **facts)
        self.courier.port = one.port
        return one, two

    async def deliver(self, *parameters: str, message: bytes = MESSAGE) -> Outcome:
        recipients = [QueueRecipient("remote", Recipient(parse_address("bob@theirs.test")))]
        envelope = Envelope(
            id="id1",
            sender=parse_address("carole@elorac.fr"),
            recipients=(),
            parameters=tuple(Parameter(one) for one in parameters),
        )
        item = QueueItem(envelope, tuple(recipients), 0.0, len(message))
        (one,) = await self.courier.deliver(item, recipients, Content(message))
        return one

    def faults(self) -> list[tuple[str, str, str]]:
        return [(one.published.type, one.host, one.fault) for one in self.observed]


def server_context(certificate: Any) -> Any:
    if certificate is None:
        return None
    from twisted.internet import ssl

    return ssl.PrivateCertificate.loadPEM(certificate.private_key_and_cert_chain_pem.bytes()).options()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def field(make_peer: Any, authority: trustme.CA, tmp_path: Path) -> Any:
    authority.cert_pem.write_to_path(str(tmp_path / "trust.pem"))
    tables: Any = OnlyMx()
    sessions = Sessions(reactor, "mail.ours.test", ClientTls(str(tmp_path / "trust.pem")), deferToThread)
    courier = RemoteCourier(tables, TwoHosts(), sessions, OurEnds("mail.ours.test"), shuffle=lambda _: None)
    policies: Any = Decided()
    courier.policies = policies
    observed: list[Observed] = []
    sessions.observe = observed.append
    yield Field(courier, tables, policies, make_peer, authority, observed)
    pytest_twisted.blockon(courier.close())


def record(certificate: Any, usage: int = 3) -> Tlsa:
    loaded = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    key = loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Tlsa(usage, 1, 1, hashlib.sha256(key).digest())


def by_dane(*records: Tlsa) -> HostPolicy:
    return HostPolicy("check", "DANE", DANE, True, TlsaCheck(records, (FIRST,)), short="DANE")


VERIFIED = HostPolicy("verified", "enforce", STS, True, short="MTA-STS")
WATCHED = HostPolicy("watched", "testing", STS, True)
ANY = HostPolicy("any", "nothing", NONE)


@pytest_twisted.ensureDeferred
async def test_the_certificate_that_the_dns_names_is_enough(field: Field) -> None:
    stranger = trustme.CA().issue_cert("elsewhere.test")
    first, _ = field.peers(stranger)
    field.policies.hosts = {FIRST: by_dane(record(stranger))}
    one = await field.deliver()
    assert one.kind == "delivered" and one.tls.startswith("TLSv1.3 ") and one.tls.endswith(", DANE")
    assert first.behaviour.messages and field.faults() == [("tlsa", FIRST, "")]
    assert field.observed[0].ours == "127.0.0.1"


@pytest_twisted.ensureDeferred
async def test_another_certificate_keeps_mail_away_though_an_authority_vouches_for_it(field: Field) -> None:
    good = field.authority.issue_cert(FIRST)
    first, second = field.peers(good, None)
    wanted = record(trustme.CA().issue_cert(FIRST))
    field.policies.hosts = {FIRST: by_dane(wanted), SECOND: by_dane(wanted)}
    one = await field.deliver()
    assert (one.kind, one.ours, one.host, one.tls) == ("deferred", False, "", "")
    assert first.behaviour.messages == second.behaviour.messages == []
    assert "MAIL" not in first.behaviour.verbs()
    assert field.faults() == [
        ("tlsa", FIRST, "validation-failure"),
        ("tlsa", SECOND, "starttls-not-supported"),
    ]


@pytest_twisted.ensureDeferred
async def test_the_next_host_is_tried_where_one_does_not_prove_itself(field: Field) -> None:
    first, _ = field.peers(trustme.CA().issue_cert(FIRST), field.authority.issue_cert(SECOND))
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    one = await field.deliver()
    assert one.kind == "delivered" and SECOND in one.host and one.tls.endswith(", MTA-STS")
    assert first.behaviour.messages == []
    assert field.faults() == [("sts", FIRST, "certificate-not-trusted"), ("sts", SECOND, "")]


@pytest_twisted.ensureDeferred
async def test_a_certificate_of_another_name_is_said_so(field: Field) -> None:
    field.peers(field.authority.issue_cert("other.test"))
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    one = await field.deliver()
    assert one.kind == "deferred"
    assert field.faults()[0] == ("sts", FIRST, "certificate-host-mismatch")
    assert f"not for {FIRST}" in field.observed[0].words


@pytest_twisted.ensureDeferred
async def test_an_expired_certificate_is_said_so(field: Field) -> None:
    import datetime

    old = field.authority.issue_cert(FIRST, not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    field.peers(old)
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    one = await field.deliver()
    assert field.faults()[0] == ("sts", FIRST, "certificate-expired")
    assert one.kind == "deferred"


@pytest_twisted.ensureDeferred
async def test_a_policy_that_is_tried_out_is_reported_and_keeps_nobody_away(field: Field) -> None:
    first, _ = field.peers(trustme.CA().issue_cert("other.test"))
    field.policies.hosts = {FIRST: WATCHED}
    one = await field.deliver()
    assert one.kind == "delivered" and one.tls.startswith("TLS")
    assert "MTA-STS testing: the certificate is of an unknown authority" in one.tls
    assert first.behaviour.messages and field.faults() == [("sts", FIRST, "certificate-not-trusted")]


@pytest_twisted.ensureDeferred
async def test_a_good_certificate_under_a_policy_that_is_tried_out_is_no_fault(field: Field) -> None:
    field.peers(field.authority.issue_cert(FIRST))
    field.policies.hosts = {FIRST: WATCHED}
    one = await field.deliver()
    assert one.kind == "delivered" and one.tls.endswith(", MTA-STS testing: verified")
    assert field.faults() == [("sts", FIRST, "")]


@pytest_twisted.ensureDeferred
async def test_a_session_that_nobody_looked_at_proves_nothing_to_who_looks(field: Field) -> None:
    field.peers(trustme.CA().issue_cert("other.test"))
    field.policies.hosts = {FIRST: ANY}
    assert (await field.deliver()).tls.startswith("TLS")
    field.policies.hosts = {FIRST: WATCHED}
    assert "verified" not in (await field.deliver()).tls


@pytest_twisted.ensureDeferred
async def test_a_host_that_may_not_be_used_is_not_even_connected_to(field: Field) -> None:
    first, second = field.peers(field.authority.issue_cert(FIRST), field.authority.issue_cert(SECOND))
    wait = HostPolicy("wait", "the policy does not name it", STS, fault="validation-failure")
    field.policies.hosts = {FIRST: wait, SECOND: wait}
    one = await field.deliver()
    assert (one.kind, one.ours, one.reply.enhanced) == ("deferred", False, "4.7.5")
    assert "does not name it" in one.reply.text
    assert first.behaviour.connections == second.behaviour.connections == 0
    assert field.faults() == [("sts", host, "validation-failure") for host in (FIRST, SECOND)]


@pytest_twisted.ensureDeferred
async def test_records_without_use_demand_tls_with_any_certificate(field: Field) -> None:
    first, _ = field.peers(None, trustme.CA().issue_cert("elsewhere.test"))
    encrypted = HostPolicy("encrypted", "unusable", DANE, True, short="TLSA without use")
    field.policies.hosts = {FIRST: encrypted, SECOND: encrypted}
    one = await field.deliver()
    assert one.kind == "delivered" and SECOND in one.host
    assert "MAIL" not in first.behaviour.verbs()


@pytest_twisted.ensureDeferred
async def test_without_a_policy_clear_text_is_counted(field: Field) -> None:
    field.peers(None)
    field.policies.hosts = {FIRST: ANY}
    assert (await field.deliver()).kind == "delivered"
    assert field.faults() == [("no-policy-found", FIRST, "starttls-not-supported")]


@pytest_twisted.ensureDeferred
async def test_a_session_that_carries_two_messages_is_counted_once(field: Field) -> None:
    field.peers(field.authority.issue_cert(FIRST))
    field.policies.hosts = {FIRST: VERIFIED}
    assert [(await field.deliver()).kind for _ in range(2)] == ["delivered"] * 2
    assert field.faults() == [("sts", FIRST, "")]


@pytest_twisted.ensureDeferred
async def test_a_session_without_proof_is_not_kept_for_mail_that_wants_one(field: Field) -> None:
    first, _ = field.peers(trustme.CA().issue_cert(FIRST))
    field.policies.hosts = {FIRST: ANY, SECOND: ANY}
    assert (await field.deliver()).kind == "delivered"
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    assert (await field.deliver()).kind == "deferred"
    assert len(first.behaviour.messages) == 1


@pytest_twisted.ensureDeferred
async def test_a_row_of_ours_decides_before_any_policy(field: Field) -> None:
    first, _ = field.peers(None)
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    field.tables.found = Route("mx", "theirs.test", tls="none", pattern="theirs.test")
    assert (await field.deliver()).kind == "delivered"
    assert field.policies.asked == 0 and first.behaviour.messages


@pytest_twisted.ensureDeferred
async def test_a_policy_that_cannot_be_had_is_counted(field: Field) -> None:
    field.peers(None)
    field.policies.hosts = {FIRST: ANY}
    field.policies.fault = "sts-policy-fetch-error"
    assert (await field.deliver()).kind == "delivered"
    assert ("sts", FIRST, "sts-policy-fetch-error") in field.faults()


# -- REQUIRETLS ------------------------------------------------------------------ RFC 8689 §4.2.1 --


@pytest_twisted.ensureDeferred
async def test_requiretls_goes_where_dnssec_or_a_policy_proves_the_name(field: Field) -> None:
    first, _ = field.peers(field.authority.issue_cert(FIRST), extensions=("REQUIRETLS",))
    proved = HostPolicy("any", "signed", NONE, authentic=True)
    for policy in (proved, WATCHED, VERIFIED):
        field.policies.hosts = {FIRST: policy}
        assert (await field.deliver("REQUIRETLS")).kind == "delivered"
    assert len(first.behaviour.messages) == 3


@pytest_twisted.ensureDeferred
async def test_requiretls_goes_by_dane_without_an_authority(field: Field) -> None:
    stranger = trustme.CA().issue_cert("elsewhere.test")
    field.peers(stranger, extensions=("REQUIRETLS",))
    field.policies.hosts = {FIRST: by_dane(record(stranger))}
    assert (await field.deliver("REQUIRETLS")).kind == "delivered"


@pytest_twisted.ensureDeferred
async def test_requiretls_comes_back_where_nothing_proves_the_name(field: Field) -> None:
    first, _ = field.peers(field.authority.issue_cert(FIRST), extensions=("REQUIRETLS",))
    one = await field.deliver("REQUIRETLS")
    assert (one.kind, one.ours, one.reply.code, one.reply.enhanced) == ("failed", False, 550, "5.7.30")
    assert "DNSSEC" in one.reply.text and first.behaviour.connections == 0


@pytest_twisted.ensureDeferred
async def test_requiretls_waits_while_it_is_not_known_whether_there_is_a_policy(field: Field) -> None:
    field.peers(field.authority.issue_cert(FIRST), extensions=("REQUIRETLS",))
    field.policies.unsure = True
    one = await field.deliver("REQUIRETLS")
    assert (one.kind, one.ours, one.reply.enhanced) == ("deferred", False, "4.7.30")


@pytest_twisted.ensureDeferred
async def test_requiretls_is_never_content_with_any_certificate(field: Field) -> None:
    first, _ = field.peers(trustme.CA().issue_cert(FIRST), extensions=("REQUIRETLS",))
    for policy in (
        HostPolicy("encrypted", "unusable", DANE, True),
        HostPolicy("any", "signed", NONE, authentic=True),
        WATCHED,
    ):
        field.policies.hosts = {FIRST: policy, SECOND: policy}
        one = await field.deliver("REQUIRETLS")
        assert (one.kind, one.ours) == ("deferred", False)
    assert "MAIL" not in first.behaviour.verbs()


# -- TLS-Required: No ----------------------------------------------------------------- RFC 8689 §5 --


@pytest_twisted.ensureDeferred
async def test_a_message_that_waives_tls_arrives_in_spite_of_every_policy(field: Field) -> None:
    first, _ = field.peers(None)
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    one = await field.deliver(message=b"Subject: x\r\ntls-required:  no\r\n\r\nhello\r\n")
    assert one.kind == "delivered" and first.behaviour.messages


@pytest.mark.parametrize(
    "message",
    [
        b"Subject: x\r\n\r\nTLS-Required: No\r\n",
        b"Subject: TLS-Required: No\r\n\r\nhello\r\n",
        b"TLS-Required: Not yet\r\n\r\nhello\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_nothing_but_the_header_field_waives_it(field: Field, message: bytes) -> None:
    first, _ = field.peers(None)
    field.policies.hosts = {FIRST: VERIFIED, SECOND: VERIFIED}
    assert (await field.deliver(message=message)).kind == "deferred"
    assert not first.behaviour.messages


@pytest_twisted.ensureDeferred
async def test_who_requires_tls_does_not_waive_it(field: Field) -> None:
    first, _ = field.peers(None)
    one = await field.deliver("REQUIRETLS", message=b"TLS-Required: No\r\n\r\nhello\r\n")
    assert one.kind == "failed" and not first.behaviour.messages
