"""Zones that we sign: every answer can be verified, every denial proved, and a roll never leaves a gap."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.task import Clock

from lorrainemail.config.load import load_text
from lorrainemail.dns import keys
from lorrainemail.dns.keys import READY, RETIRE, ZoneKeyFault, plan
from lorrainemail.dns.responder import Responder
from lorrainemail.dns.signing import VALID, sign
from lorrainemail.dns.zonefile import parse_zone
from lorrainemail.dns.zones import Zones
from lorrainemail.setup.served import ServedZones, challenges_of

NOW = 1_800_000_000
TEXT = """\
$ORIGIN a.test.
$TTL 60
@ SOA ns h 1 1h 10m 1w 5m
@ NS ns
@ MX 10 mail
ns A 127.0.0.1
mail A 127.0.0.2
alias CNAME mail
*.wild TXT "any"
*.walias CNAME mail
deep.empty.inner A 127.0.0.3
sub NS ns.sub
ns.sub A 127.0.0.4
safe NS ns.safe
safe DS 1 13 2 aabbccddeeff00112233445566778899aabbccddeeff00112233445566778899
ns.safe A 127.0.0.5
"""


class Signed:
    def __init__(self, directory: Path) -> None:
        self.keys = keys.load_or_make(str(directory), NOW)
        self.zone = sign(parse_zone(TEXT), plan(self.keys, NOW), NOW)
        self.responder = Responder(Zones(), Clock())
        self.responder.made = Zones([self.zone])
        origin = self.zone.origin
        self.trusted = {origin: dns.rrset.from_rdata(origin, 3600, *(key.dnskey for key in self.keys))}

    def ask(self, name: str, kind: str, dnssec: bool = True) -> dns.message.Message:
        query = dns.message.make_query(name, kind, want_dnssec=dnssec)
        wire = self.responder.tcp(query.to_wire())
        assert wire is not None
        return dns.message.from_wire(wire)

    def verified(
        self, section: list[dns.rrset.RRset], skip: frozenset[str] = frozenset()
    ) -> list[dns.rrset.RRset]:
        """All sets of a section, each of which has a good signature."""
        found = [one for one in section if one.rdtype != dns.rdatatype.RRSIG]
        for one in found:
            if dns.rdatatype.to_text(one.rdtype) in skip:
                continue
            signatures = [
                other for other in section if other.rdtype == dns.rdatatype.RRSIG
                and other.name == one.name and other.covers == one.rdtype
            ]  # fmt: skip
            assert signatures, f"{one} is not signed"
            dns.dnssec.validate(one, signatures[0], self.trusted, now=NOW)
        return found


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("keys"))


def covers(signed: Signed, proofs: list[dns.rrset.RRset], name: str) -> bool:
    """Whether an NSEC proves that a name does not exist (RFC 4034 §4.1)."""
    asked = dns.name.from_text(name)
    for one in proofs:
        if one.rdtype == dns.rdatatype.NSEC:
            following = one[0].next
            last = following == signed.zone.origin
            if one.name < asked and (asked < following or last):
                return True
    return False


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.test", "MX"), ("a.test", "SOA"), ("a.test", "DNSKEY"), ("a.test", "CDS"), ("a.test", "CDNSKEY"),
     ("mail.a.test", "A"), ("alias.a.test", "A"), ("x.wild.a.test", "TXT"), ("y.x.wild.a.test", "TXT"),
     ("z.walias.a.test", "A"), ("safe.a.test", "DS")],
)  # fmt: skip
def test_every_answer_has_signatures_that_hold(signed: Signed, name: str, kind: str) -> None:
    answer = signed.ask(name, kind)
    assert answer.flags & dns.flags.AA and answer.ednsflags & dns.flags.DO
    assert signed.verified(answer.answer)
    signed.verified(answer.authority)
    if "wild" in name or "walias" in name:
        assert covers(signed, answer.authority, name), "nothing closer than the wildcard exists"


def test_who_does_not_ask_for_proofs_gets_none(signed: Signed) -> None:
    for name, kind in (("mail.a.test", "A"), ("no.a.test", "A"), ("sub.a.test", "A")):
        answer = signed.ask(name, kind, dnssec=False)
        kinds = {one.rdtype for one in (*answer.answer, *answer.authority)}
        assert not kinds & {dns.rdatatype.RRSIG, dns.rdatatype.NSEC}


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.from_regex(r"[a-z0-9_-]{1,8}", fullmatch=True), min_size=1, max_size=3))
def test_every_name_that_does_not_exist_is_proved_not_to(signed: Signed, labels: list[str]) -> None:
    name = ".".join(labels) + ".a.test"
    parsed = dns.name.from_text(name)
    if parsed in signed.zone.names or signed.zone.node(parsed) is not None or signed.zone.cut(parsed):
        return
    answer = signed.ask(name, "A")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    proofs = signed.verified(answer.authority)
    assert covers(signed, proofs, name)
    assert covers(signed, proofs, signed.zone.wildcard(parsed).to_text()), "nor a wildcard for it"


@pytest.mark.parametrize("name", ["mail.a.test", "x.wild.a.test", "empty.inner.a.test", "inner.a.test"])
def test_a_type_that_is_not_there_is_proved_not_to_be(signed: Signed, name: str) -> None:
    answer = signed.ask(name, "AAAA")
    assert answer.rcode() == dns.rcode.NOERROR and not answer.answer
    proofs = [one for one in signed.verified(answer.authority) if one.rdtype == dns.rdatatype.NSEC]
    assert proofs
    own = [one for one in proofs if one.name == dns.name.from_text(name)]
    if own:
        assert "AAAA" not in own[0][0].to_text().split()
    elif "wild" not in name:
        # An empty name is between the one before it and one below it (RFC 4592 §2.2.2).
        assert proofs[0].name < dns.name.from_text(name) < proofs[0][0].next
        assert proofs[0][0].next.is_subdomain(dns.name.from_text(name))


def test_an_unsigned_delegation_is_proved_to_be_unsigned(signed: Signed) -> None:
    answer = signed.ask("www.sub.a.test", "A")
    assert not answer.flags & dns.flags.AA
    (proof,) = [
        one
        for one in signed.verified(answer.authority, frozenset({"NS"}))
        if one.rdtype == dns.rdatatype.NSEC
    ]
    words = proof[0].to_text().split()
    assert proof.name == dns.name.from_text("sub.a.test") and "NS" in words and "DS" not in words
    secure = signed.verified(signed.ask("www.safe.a.test", "A").authority, frozenset({"NS"}))
    assert any(one.rdtype == dns.rdatatype.DS for one in secure)


def test_glue_is_neither_signed_nor_in_the_chain(signed: Signed) -> None:
    assert dns.name.from_text("ns.sub.a.test") not in signed.zone.chain
    assert len(signed.zone.chain) == len(set(signed.zone.chain))


def test_signatures_hold_for_a_week_without_us(signed: Signed) -> None:
    answer = signed.ask("a.test", "MX")
    dns.dnssec.validate(answer.answer[0], answer.answer[1], signed.trusted, now=NOW + VALID / 2)
    with pytest.raises(dns.dnssec.ValidationFailure):
        dns.dnssec.validate(answer.answer[0], answer.answer[1], signed.trusted, now=NOW + VALID + 1)


# -- one key, and its roll -------------------------------------------------------------------------------


def test_a_key_is_made_once_and_only_we_may_read_it(tmp_path: Path) -> None:
    first = keys.load_or_make(str(tmp_path / "a.test"), NOW)
    again = keys.load_or_make(str(tmp_path / "a.test"), NOW + 5)
    assert [key.dnskey for key in first] == [key.dnskey for key in again]
    (file,) = (tmp_path / "a.test").glob("*.pem")
    assert file.stat().st_mode & 0o077 == 0


def test_a_new_key_signs_only_after_the_parent_has_its_ds(tmp_path: Path) -> None:
    directory = str(tmp_path)
    (old,) = keys.load_or_make(directory, NOW)
    old = keys.note_seen(directory, old, NOW)
    new = keys.begin_roll(directory, NOW + 100)
    with pytest.raises(ZoneKeyFault):
        keys.begin_roll(directory, NOW + 200)

    def at(seconds: float) -> tuple[list[int], int, int]:
        now = plan(keys.load(directory), NOW + seconds)
        return [key.made for key in now.published], now.signs.made, now.wanted.made

    both = [old.made, new.made]
    assert at(100) == (both, old.made, old.made), "caches do not have the new key yet: the parent must wait"
    assert at(100 + READY) == (both, old.made, new.made), "now CDS asks the parent"
    assert at(100 + 365 * 86400) == (both, old.made, new.made), "however long the parent takes"
    keys.note_seen(directory, new, NOW + 20_000)
    assert at(20_000) == (both, new.made, new.made)
    assert at(20_000 + RETIRE - 1) == (both, new.made, new.made), "caches may still have the old DS"
    assert at(20_000 + RETIRE) == ([new.made], new.made, new.made)


def test_both_keys_sign_the_set_of_keys_while_they_change(tmp_path: Path) -> None:
    directory = str(tmp_path)
    (old,) = keys.load_or_make(directory, NOW)
    new = keys.begin_roll(directory, NOW + 1)
    zone = sign(parse_zone(TEXT), plan(keys.load(directory), NOW + 2), NOW + 2)
    origin = zone.origin
    records = dns.rrset.from_rdata_list(origin, 3600, list(zone.nodes[origin][dns.rdatatype.DNSKEY]))
    signatures = dns.rrset.from_rdata_list(origin, 3600, list(zone.signatures[origin][dns.rdatatype.DNSKEY]))
    for key in (old, new):
        alone = {origin: dns.rrset.from_rdata(origin, 3600, key.dnskey)}
        dns.dnssec.validate(records, signatures, alone, now=NOW + 2)


@pytest.mark.parametrize("content", ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_broken_key_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "1800000000.pem").write_text(content)
    with pytest.raises(ZoneKeyFault, match=r"1800000000\.pem"):
        keys.load(str(tmp_path))


# -- zones made from the configuration -------------------------------------------------------------------


class Served:
    def __init__(self, directory: Path, more: str = "") -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        text = f"""
hostname = "mail.a.test"
local_domains = ["a.test", "b.test"]
[listen]
smtp = ['tcp:25']
[dns]
serve = ["a.test"]
name_servers = ["ns1.a.test"]
addresses = ["192.0.2.7"]
{more}
"""
        self.settings = load_text(text, "f", str(directory))
        self.now = float(NOW)
        self.zones = Zones()
        self.parent: frozenset[str] | None = None
        self.service = ServedZones(
            Clock(), lambda: self.settings, self.serve, self.ask_parent, self.in_thread, lambda: self.now
        )

    def serve(self, zones: Zones) -> None:
        self.zones = zones

    def ask_parent(self, zone: str) -> Deferred[frozenset[str] | None]:
        return succeed(self.parent)

    def in_thread(self, work: Any, *arguments: Any) -> Deferred[Any]:
        return execute(work, *arguments)

    def run(self, coroutine: Any) -> None:
        done: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(done.append)
        assert done == [None]

    def records(self, name: str, kind: str) -> set[str]:
        answer = self.zones.answer(dns.name.from_text(name), dns.rdatatype.from_text(kind))
        return {record.to_text() for rrset in answer.answer for record in rrset}


def test_a_delegated_zone_holds_what_the_domain_should_have_and_nobody_else_s(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert served.records("a.test", "MX") == {"10 mail.a.test."}
    assert served.records("mail.a.test", "A") == {"192.0.2.7"}
    assert served.records("_dmarc.a.test", "TXT")
    assert served.records("a.test", "NS") == {"ns1.a.test."}
    assert served.zones.of(dns.name.from_text("b.test")) is None
    assert served.records("7.2.0.192.in-addr.arpa", "PTR") == set()


def test_a_zone_file_of_the_same_zone_adds_to_it_and_has_the_last_word(tmp_path: Path) -> None:
    file = tmp_path / "a.test.zone"
    file.write_text(
        "$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns\nns1 A 192.0.2.7\n"
        'www A 192.0.2.9\n_dmarc TXT "v=DMARC1; p=none"\n'
    )
    served = Served(tmp_path, f'zones = ["{file}"]')
    assert served.records("www.a.test", "A") == {"192.0.2.9"}
    assert served.records("_dmarc.a.test", "TXT") == {'"v=DMARC1; p=none"'}
    assert served.records("a.test", "MX") == {"10 mail.a.test."}


def test_the_serial_of_a_file_rises_with_what_we_add_to_it(tmp_path: Path) -> None:
    from lorrainemail.mailauth.keys import generate

    def serial() -> int:
        return int(next(iter(served.records("a.test", "SOA"))).split()[2])

    file = tmp_path / "a.test.zone"
    file.write_text("$TTL 60\n@ SOA ns h 2026112201 1 1 1 1\n@ NS ns1\nns1 A 192.0.2.7\n")
    served = Served(tmp_path, f'zones = ["{file}"]')
    first = serial()
    assert first > 2026112201
    generate(str(tmp_path), "a.test", "20260101", waits=False)
    served.run(served.service.look())
    assert serial() > first


def test_an_alias_of_the_file_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.test.zone"
    file.write_text("$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns1\nmail CNAME www\nwww A 192.0.2.9\n")
    served = Served(tmp_path, f'zones = ["{file}"]')
    (zone,) = served.zones
    assert set(zone.nodes[dns.name.from_text("mail.a.test.")]) == {dns.rdatatype.CNAME, dns.rdatatype.NSEC}


def test_a_challenge_is_in_the_zone_while_it_lasts_and_the_serial_grows(tmp_path: Path) -> None:
    served = Served(tmp_path)

    def serial() -> int:
        return int(next(iter(served.records("a.test", "SOA"))).split()[2])

    first, name = serial(), "_acme-challenge.mail.a.test"
    assert served.service.has(name) and not served.service.has("_acme-challenge.b.test")
    served.service.publish(name, "one")
    served.service.publish(name, "two")
    assert served.records(name, "TXT") == {'"one"', '"two"'}
    served.service.withdraw(name, "one")
    served.service.withdraw(name, "two")
    assert served.records(name, "TXT") == set()
    assert serial() >= first + 4


def test_a_new_key_of_dkim_is_served_at_the_next_look(tmp_path: Path) -> None:
    from lorrainemail.mailauth.keys import generate

    served = Served(tmp_path)
    generate(str(tmp_path), "a.test", "20261122", waits=True)
    served.run(served.service.look())
    assert served.records("e20261122._domainkey.a.test", "TXT")


def test_signatures_are_made_anew_each_day_and_not_each_minute(tmp_path: Path) -> None:
    served = Served(tmp_path)
    before = served.zones
    served.now += 3600
    served.run(served.service.look())
    assert served.zones is before
    served.now += 86400
    served.run(served.service.look())
    assert served.zones is not before


def test_the_parent_s_ds_moves_the_roll_on(tmp_path: Path) -> None:
    served = Served(tmp_path)
    directory = keys.directory_of(str(tmp_path), "a.test")
    (old,) = keys.load(directory)
    served.parent = frozenset({old.ds("a.test").lower()})
    served.run(served.service.ask_parents())
    new = keys.begin_roll(directory, served.now + 1)
    served.now += READY + 10
    served.run(served.service.ask_parents())
    assert len(served.records("a.test", "DNSKEY")) == 2
    assert served.records("a.test", "CDS") == {new.ds("a.test")}
    assert keys.load(directory)[1].seen == 0, "the parent has not moved"
    served.parent = frozenset({new.ds("a.test").lower()})
    served.run(served.service.ask_parents())
    assert keys.load(directory)[1].seen == served.now
    served.now += RETIRE + 1
    served.run(served.service.look())
    assert served.records("a.test", "DNSKEY") == {new.dnskey.to_text()}
    assert [key.made for key in keys.load(directory)] == [new.made]


def test_a_zone_that_cannot_be_made_keeps_its_form_and_raises_an_alarm(tmp_path: Path) -> None:
    served = Served(tmp_path)
    (file,) = Path(keys.directory_of(str(tmp_path), "a.test")).glob("*.pem")
    whole = file.read_bytes()
    file.write_bytes(b"broken")
    served.now += 90_000
    served.run(served.service.look())
    assert served.records("a.test", "MX") and served.service.alarms()
    file.write_bytes(whole)
    served.run(served.service.look())
    assert not served.service.alarms()


def test_a_challenge_goes_where_its_zone_is_and_nowhere_where_nobody_writes(tmp_path: Path) -> None:
    served = Served(tmp_path)

    server = SimpleNamespace(settings=served.settings, resolver=None, served=served.service)
    challenges = challenges_of(server, Clock())
    assert challenges is not None
    challenges.publish("_acme-challenge.mail.a.test", "one")
    assert served.records("_acme-challenge.mail.a.test", "TXT") == {'"one"'}
    ended: list[Any] = []
    challenges.publish("_acme-challenge.b.test", "one").addErrback(ended.append)
    assert "dns_update" in ended[0].getErrorMessage(), "that zone is not here, and nobody takes updates"
    server.settings = attrs.evolve(server.settings, dns=attrs.evolve(server.settings.dns, serve=()))
    assert challenges_of(server, Clock()) is None
