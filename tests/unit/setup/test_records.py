"""The records that a domain should have, as others will read them."""

from __future__ import annotations

from pathlib import Path

import attrs
import dns.name
import dns.rdatatype
import pytest

from lorrainemail.config.load import load_text
from lorrainemail.dns.zonefile import parse_zone
from lorrainemail.mailauth.dmarc_record import parse_dmarc
from lorrainemail.mailauth.spf_record import parse_record
from lorrainemail.setup.record_words import explained, zone_fragment
from lorrainemail.setup.records import Facts, facts_of, records_of

FACTS = Facts(
    "mail.bricoleur.com",
    "bricoleur.com",
    ("192.0.2.7", "2001:db8::7"),
    {"smtp": 25, "submission": 587, "submissions": 465, "imaps": 993},
    (("r1._domainkey.bricoleur.com", "v=DKIM1; k=rsa; p=" + "A" * 392),),
    ("ab" * 32,),
    web=True,
    sts_id="20261122",
)


def test_the_zone_fragment_is_a_zone_that_a_name_server_takes() -> None:
    lines = [
        "$ORIGIN bricoleur.com.",
        "@ 3600 IN SOA ns hostmaster 1 1h 10m 1w 5m",
        "@ 3600 IN NS ns",
        *zone_fragment(FACTS, records_of(FACTS), "en"),
    ]
    zone = parse_zone("\n".join(lines))
    txt = zone.nodes[dns.name.from_text("r1._domainkey.bricoleur.com.")][dns.rdatatype.TXT]
    assert b"".join(txt[0].strings).decode() == FACTS.dkim[0][1], "a long key is whole again when joined"
    tlsa = zone.nodes[dns.name.from_text("_25._tcp.mail.bricoleur.com.")][dns.rdatatype.TLSA]
    assert (tlsa[0].usage, tlsa[0].selector, tlsa[0].mtype) == (3, 1, 1)
    srv = zone.nodes[dns.name.from_text("_submissions._tcp.bricoleur.com.")][dns.rdatatype.SRV]
    assert (srv[0].port, srv[0].target.to_text()) == (465, "mail.bricoleur.com.")
    assert dns.name.from_text("mta-sts.bricoleur.com.") in zone.nodes


def test_records_of_other_peoples_zones_stand_in_the_fragment_as_comments_only() -> None:
    lines = list(zone_fragment(FACTS, records_of(FACTS), "en"))
    pointers = [line for line in lines if " PTR " in line]
    assert pointers == [
        "; 7.2.0.192.in-addr.arpa. 3600 IN PTR mail.bricoleur.com.",
        "; " + "7" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa. 3600 IN PTR mail.bricoleur.com.",
    ]


def test_what_we_tell_people_to_publish_our_own_parsers_accept() -> None:
    by_topic = {record.topic: record for record in records_of(FACTS)}
    parse_record(b"v=spf1 mx -all")
    for record in records_of(FACTS):
        if record.topic == "spf":
            parse_record(record.data.encode())
    assert parse_dmarc(by_topic["dmarc"].data.encode()).policy == "quarantine"


def test_a_smarthost_stands_in_the_spf_record_and_the_words_say_that_it_is_a_guess() -> None:
    facts = attrs.evolve(FACTS, smarthosts=("smtp.provider.example",))
    spf = [record.data for record in records_of(facts) if record.topic == "spf"]
    assert spf[0] == "v=spf1 include:provider.example mx -all"
    assert "provider" in " ".join(explained(facts, records_of(facts), "en"))


@pytest.mark.parametrize("language", ["en", "fr"])
def test_a_beginner_gets_every_record_with_its_words_in_both_languages(language: str) -> None:
    text = "\n".join(explained(FACTS, records_of(FACTS), language))  # type: ignore[arg-type]
    for record in records_of(FACTS):
        assert f"{record.name}  {record.type}  {record.data}" in text
    assert "{" not in text


def test_without_addresses_and_keys_the_words_say_what_is_missing() -> None:
    facts = attrs.evolve(FACTS, addresses=(), dkim=())
    text = "\n".join(explained(facts, records_of(facts), "en"))
    assert "--address" in text
    assert "lorrainemail dkim generate bricoleur.com" in text


def test_only_open_doors_are_announced_to_mail_programs(tmp_path: Path) -> None:
    text = """
hostname = "mail.bricoleur.com"
local_domains = ["bricoleur.com"]
[listen]
smtp = ['tcp:25']
imaps = ['haproxy:tcp:993']
[dns]
addresses = ["192.0.2.7"]
"""
    settings = load_text(text, "lorrainemail.toml", str(tmp_path))
    facts = facts_of(settings, "bricoleur.com")
    services = [record.name for record in records_of(facts) if record.topic == "srv"]
    assert services == ["_imaps._tcp.bricoleur.com"]
    assert not any(record.topic in ("autoconfig", "mta_sts", "tlsa") for record in records_of(facts))
