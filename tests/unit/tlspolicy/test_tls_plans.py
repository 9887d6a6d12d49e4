"""Which policy holds for which host: DNSSEC on the way, aliases, silence, and MTA-STS beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from twisted.internet.defer import Deferred, fail, succeed

from lorrainemail.interfaces import DnsFailure
from lorrainemail.net.resolver import Answer
from lorrainemail.tlspolicy.dane import Dane
from lorrainemail.tlspolicy.plan import HostPolicy, Plan, TlsPolicies
from lorrainemail.tlspolicy.sts import StsFound
from lorrainemail.tlspolicy.sts_policy import StsPolicy

DIGEST = "ab" * 32
HOST = "mx.theirs.test"


class Dns:
    """A validating resolver; rows are (records, authentic, end of the alias) or the kind of a failure."""

    def __init__(self) -> None:
        self.trusted = True
        self.asked: list[str] = []
        self.rows: dict[tuple[str, str], Any] = {}
        self.put("theirs.test", "MX", f"10 {HOST}.")
        self.put(HOST, "A", "192.0.2.1")
        self.put(f"_25._tcp.{HOST}", "TLSA", f"3 1 1 {DIGEST}")

    def put(self, name: str, kind: str, *records: str, authentic: bool = True, end: str = "") -> None:
        self.rows[name, kind] = (records, authentic, end or name)

    def fail(self, name: str, kind: str, failure: str = "temporary") -> None:
        self.rows[name, kind] = failure

    def query(self, name: str, rdtype: dns.rdatatype.RdataType) -> Deferred[Answer]:
        kind = dns.rdatatype.to_text(rdtype)
        self.asked.append(f"{name} {kind}")
        row = self.rows.get((name, kind), "nodata")
        if isinstance(row, str):
            failure: Any = row
            return fail(DnsFailure(failure, name))
        records, authentic, end = row
        made = tuple(dns.rdata.from_text(dns.rdataclass.IN, rdtype, text) for text in records)
        return succeed(Answer(made, dns.name.from_text(end), authentic and self.trusted))


class Sts:
    def __init__(self) -> None:
        self.found = StsFound()
        self.asked = 0

    async def find(self, domain: str) -> StsFound:
        self.asked += 1
        return self.found

    def says(self, mode: Any, *patterns: str) -> None:
        self.found = StsFound(StsPolicy(mode, patterns or (HOST,), 86400), ends=1_800_000_000.0)


class Field:
    def __init__(self) -> None:
        self.dns, self.sts = Dns(), Sts()
        sts: Any = self.sts
        self.policies = TlsPolicies(sts, Dane(self.dns))

    def plan(self, *hosts: str, domain: str = "theirs.test") -> Plan:
        found: list[Plan] = []
        asked = self.policies.plan(domain, [(host, 25) for host in hosts or (HOST,)])
        Deferred.fromCoroutine(asked).addCallback(found.append)
        return found[0]

    def of(self, host: str = HOST, domain: str = "theirs.test") -> HostPolicy:
        return self.plan(host, domain=domain).of(host)


@pytest.fixture
def field() -> Field:
    return Field()


def test_authentic_records_decide(field: Field) -> None:
    policy = field.of()
    assert (policy.use, policy.authentic, policy.requirement, policy.short) == ("check", True, "dane", "DANE")
    assert policy.check is not None and policy.check.names == (HOST, "theirs.test")
    assert policy.published.type == "tlsa" and policy.published.strings == (f"3 1 1 {DIGEST}",)
    assert "DANE" in policy.words and HOST in policy.words


def test_without_a_trusted_resolver_nothing_more_is_asked(field: Field) -> None:
    field.dns.trusted = False
    assert field.of().use == "any"
    assert field.dns.asked == [] and field.sts.asked == 1


INSECURE: dict[str, Callable[[Dns], None]] = {
    "mx": lambda dns: dns.put("theirs.test", "MX", f"10 {HOST}.", authentic=False),
    "address": lambda dns: dns.put(HOST, "A", "192.0.2.1", authentic=False),
    "one address of two": lambda dns: dns.put(HOST, "AAAA", "2001:db8::1", authentic=False),
    "tlsa": lambda dns: dns.put(f"_25._tcp.{HOST}", "TLSA", f"3 1 1 {DIGEST}", authentic=False),
    "no tlsa": lambda dns: dns.fail(f"_25._tcp.{HOST}", "TLSA", "nodata"),
    "no such name": lambda dns: dns.fail(f"_25._tcp.{HOST}", "TLSA", "nxdomain"),
}


@pytest.mark.parametrize("link", INSECURE)
def test_what_dnssec_does_not_prove_is_no_policy(field: Field, link: str) -> None:
    INSECURE[link](field.dns)
    assert field.of().use == "any"


def test_of_an_unsigned_domain_no_tlsa_is_asked(field: Field) -> None:
    INSECURE["mx"](field.dns)
    field.plan()
    assert field.dns.asked == ["theirs.test MX"]
    field = Field()
    INSECURE["address"](field.dns)
    field.plan()
    assert not [one for one in field.dns.asked if "TLSA" in one], "their servers may not know the question"


@pytest.mark.parametrize(
    ("name", "kind"), [("theirs.test", "MX"), (HOST, "A"), (HOST, "AAAA"), (f"_25._tcp.{HOST}", "TLSA")]
)
def test_what_is_bogus_or_silent_makes_mail_wait(field: Field, name: str, kind: str) -> None:
    """An attacker who suppresses records must not get the mail in clear text."""
    field.sts.says("enforce")
    field.dns.fail(name, kind)
    policy = field.of()
    assert (policy.use, policy.fault) == ("wait", "dnssec-invalid") and "DANE" in policy.words


def test_one_silent_host_does_not_keep_mail_from_another(field: Field) -> None:
    field.dns.put("theirs.test", "MX", f"10 {HOST}.", "20 other.theirs.test.")
    field.dns.put("other.theirs.test", "A", "192.0.2.2")
    field.dns.fail(f"_25._tcp.{HOST}", "TLSA")
    plan = field.plan(HOST, "other.theirs.test")
    assert [plan.of(host).use for host in (HOST, "other.theirs.test")] == ["wait", "any"]


def test_records_that_cannot_be_used_still_demand_tls(field: Field) -> None:
    field.dns.put(f"_25._tcp.{HOST}", "TLSA", f"1 1 1 {DIGEST}", f"3 1 9 {DIGEST}")
    field.sts.says("testing")
    policy = field.of()
    assert (policy.use, policy.requirement, policy.check) == ("encrypted", "encrypted", None)


def test_a_host_that_no_authentic_record_names_has_no_dane(field: Field) -> None:
    field.dns.put("evil.test", "A", "192.0.2.66")
    field.dns.put("_25._tcp.evil.test", "TLSA", f"3 1 1 {DIGEST}")
    policy = field.of("evil.test")
    assert (policy.use, policy.authentic) == ("any", False)


def test_a_domain_without_mx_is_its_own_host(field: Field) -> None:
    field.dns.fail("theirs.test", "MX", "nodata")
    field.dns.put("theirs.test", "A", "192.0.2.1")
    field.dns.put("_25._tcp.theirs.test", "TLSA", f"3 1 1 {DIGEST}")
    assert field.of("theirs.test").use == "check"


def test_the_port_is_part_of_the_name(field: Field) -> None:
    field.dns.put(f"_2525._tcp.{HOST}", "TLSA", f"3 1 1 {DIGEST}")
    field.dns.fail(f"_25._tcp.{HOST}", "TLSA")
    found: list[Plan] = []
    Deferred.fromCoroutine(field.policies.plan("theirs.test", [(HOST, 2525)])).addCallback(found.append)
    assert found[0].of(HOST).use == "check"


class TestAliases:
    """A mail server whose name is an alias (RFC 7672 §2.2.3)."""

    def test_the_end_of_an_authentic_alias_comes_first(self, field: Field) -> None:
        field.dns.put(HOST, "A", "192.0.2.1", end="real.test")
        field.dns.put("_25._tcp.real.test", "TLSA", f"3 1 1 {'cd' * 32}")
        check = field.of().check
        assert check is not None and check.names == ("real.test", HOST, "theirs.test")
        assert check.records[0].data.hex() == "cd" * 32

    def test_then_the_name_itself(self, field: Field) -> None:
        field.dns.put(HOST, "A", "192.0.2.1", end="real.test")
        check = field.of().check
        assert check is not None and check.names[0] == HOST

    def test_an_authentic_alias_into_an_unsigned_zone_leaves_the_name_itself(self, field: Field) -> None:
        field.dns.put(HOST, "A", "192.0.2.1", end="real.test", authentic=False)
        field.dns.put("_25._tcp.real.test", "TLSA", f"3 1 1 {'cd' * 32}", authentic=False)
        assert field.of().use == "any"
        field.dns.put(HOST, "CNAME", "real.test.")
        check = field.of().check
        assert check is not None and check.names[0] == HOST

    def test_an_alias_about_which_nothing_can_be_said_makes_mail_wait(self, field: Field) -> None:
        field.dns.put(HOST, "A", "192.0.2.1", end="real.test", authentic=False)
        field.dns.fail(HOST, "CNAME")
        assert field.of().use == "wait"


class TestMtaSts:
    """What MTA-STS makes of hosts without DANE."""

    @pytest.fixture(autouse=True)
    def unsigned(self, field: Field) -> None:
        field.dns.trusted = False

    def test_enforce_wants_the_name(self, field: Field) -> None:
        field.sts.says("enforce")
        policy = field.of()
        assert (policy.use, policy.requirement, policy.authentic) == ("verified", "verified", True)
        assert policy.published.hosts == (HOST,) and "mode: enforce" in policy.published.strings

    def test_a_host_that_is_not_named_is_not_used(self, field: Field) -> None:
        field.sts.says("enforce", "*.other.test")
        policy = field.of()
        assert (policy.use, policy.fault) == ("wait", "validation-failure")
        assert "does not name it" in policy.words

    def test_testing_keeps_nobody_from_anything(self, field: Field) -> None:
        field.sts.says("testing")
        policy = field.of()
        assert (policy.use, policy.requirement) == ("watched", "opportunistic")
        field.sts.says("testing", "*.other.test")
        policy = field.of()
        assert (policy.use, policy.fault, policy.authentic) == ("any", "validation-failure", False)

    def test_none_is_as_good_as_nothing(self, field: Field) -> None:
        field.sts.says("none")
        policy = field.of()
        assert (policy.use, policy.published.type) == ("any", "no-policy-found") and '"none"' in policy.words

    def test_a_policy_that_cannot_be_had_is_told_of(self, field: Field) -> None:
        field.sts.found = StsFound(None, "sts-webpki-invalid", "another name", unsure=True)
        plan = field.plan()
        assert (plan.of(HOST).use, plan.fault, plan.unsure) == ("any", "sts-webpki-invalid", True)
        assert plan.published.type == "sts"

    def test_an_address_has_no_policy(self, field: Field) -> None:
        field.sts.says("enforce")
        assert field.of("192.0.2.1", domain="[192.0.2.1]").use == "any"
        assert field.sts.asked == 0


def test_dane_comes_before_mta_sts(field: Field) -> None:
    field.sts.says("enforce", "*.other.test")
    assert field.of().use == "check", "also where the policy does not name the host"
    field.sts.says("testing")
    assert field.of().use == "check"


def test_mta_sts_holds_where_a_host_has_no_dane(field: Field) -> None:
    INSECURE["no tlsa"](field.dns)
    field.sts.says("enforce")
    assert field.of().use == "verified"


def test_signed_mx_records_prove_a_name_without_tlsa(field: Field) -> None:
    INSECURE["no tlsa"](field.dns)
    policy = field.of()
    assert (policy.use, policy.authentic) == ("any", True)


def test_either_may_be_off(field: Field) -> None:
    field.sts.says("enforce")
    field.policies.dane = None
    assert field.of().use == "verified" and not field.dns.asked
    field.policies.sts = None
    assert field.of().use == "any" and field.sts.asked == 1
