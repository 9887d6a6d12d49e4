"""Zone files and what is answered from them."""

from __future__ import annotations

from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from lorrainemail.dns.responder import BURST, LARGEST_QUERY, LARGEST_UDP, PLAIN_UDP, Responder
from lorrainemail.dns.zonefile import load_zones, parse_zone
from lorrainemail.dns.zones import Zones
from lorrainemail.errors import ConfigurationError

ELORAC = """\
$ORIGIN elorac.fr.
$TTL 1h
@       IN SOA ns hostmaster 2026010101 1h 10m 1w 300
        IN NS  ns
        MX 10  mx
ns      A      127.0.0.1
mx      A      127.0.0.2
        AAAA   ::1
www     CNAME  mx
loop    CNAME  pool
pool    CNAME  loop
out     CNAME  mx.bricoleur.com.
far     CNAME  www.example.org.
gone    CNAME  nothing
a.b.c   A      192.0.2.1
*.wild  TXT    "any ; of it"
sub     NS     ns.sub
ns.sub  A      192.0.2.53
two     TXT    ( "one" ; a comment with ( in it
                 "two" )
"""
BRICOLEUR = """\
$TTL 60
$ORIGIN bricoleur.com.
@ SOA ns hostmaster 1 1h 10m 1w 5m
@ NS ns
@ 30 IN MX 10 mx
@ IN 40 MX 20 mx.elorac.fr.
ns A 127.0.0.1
mx A 127.0.0.3
"""


@pytest.fixture
def zones() -> Zones:
    return Zones([parse_zone(ELORAC), parse_zone(BRICOLEUR)])


@pytest.fixture
def responder(zones: Zones) -> Responder:
    return Responder(zones, Clock())


def ask(responder: Responder, name: str, kind: str, **options: object) -> dns.message.Message:
    query = dns.message.make_query(name, kind, **options)  # type: ignore[arg-type]
    wire = responder.udp(query.to_wire(), "127.0.0.1")
    assert wire is not None
    response = dns.message.from_wire(wire)
    assert query.is_response(response)
    assert not response.flags & dns.flags.RA
    return response


def shown(section: list[object]) -> list[str]:
    return [line for rrset in section for line in str(rrset).splitlines()]


def test_mx_comes_with_the_addresses_of_its_host(responder: Responder) -> None:
    response = ask(responder, "elorac.fr", "MX")
    assert shown(response.answer) == ["elorac.fr. 3600 IN MX 10 mx.elorac.fr."]
    assert set(shown(response.additional)) == {
        "mx.elorac.fr. 3600 IN A 127.0.0.2",
        "mx.elorac.fr. 3600 IN AAAA ::1",
    }
    assert response.flags & dns.flags.AA


def test_ttl_and_class_stand_in_either_order_and_sets_take_the_smallest(responder: Responder) -> None:
    response = ask(responder, "BRICOLEUR.com", "MX")
    assert sorted(line.lower() for line in shown(response.answer)) == [
        "bricoleur.com. 30 in mx 10 mx.bricoleur.com.",
        "bricoleur.com. 30 in mx 20 mx.elorac.fr.",
    ]


def test_a_missing_type_is_nodata_with_the_soa(responder: Responder) -> None:
    response = ask(responder, "mx.elorac.fr", "MX")
    assert response.rcode() == dns.rcode.NOERROR and not response.answer
    # RFC 2308 §5: the smaller of TTL and minimum.
    assert shown(response.authority) == [
        "elorac.fr. 300 IN SOA ns.elorac.fr. hostmaster.elorac.fr. 2026010101 3600 600 604800 300"
    ]


def test_a_missing_name_is_nxdomain_with_the_soa(responder: Responder) -> None:
    response = ask(responder, "nothing.elorac.fr", "A")
    assert response.rcode() == dns.rcode.NXDOMAIN and response.authority


@pytest.mark.parametrize("name", ["b.c.elorac.fr", "c.elorac.fr", "wild.elorac.fr"])
def test_a_name_that_only_has_names_below_it_exists(responder: Responder, name: str) -> None:
    response = ask(responder, name, "A")
    assert response.rcode() == dns.rcode.NOERROR and not response.answer and response.authority


@pytest.mark.parametrize(("name", "kind"), [("example.org", "A"), ("fr", "NS"), (".", "NS"), ("org", "DS")])
def test_names_of_others_are_refused(responder: Responder, name: str, kind: str) -> None:
    response = ask(responder, name, kind)
    assert response.rcode() == dns.rcode.REFUSED
    assert not response.flags & dns.flags.AA
    assert not (response.answer or response.authority or response.additional)


def test_aliases_are_followed_within_our_zones(responder: Responder) -> None:
    assert shown(ask(responder, "www.elorac.fr", "A").answer) == [
        "www.elorac.fr. 3600 IN CNAME mx.elorac.fr.",
        "mx.elorac.fr. 3600 IN A 127.0.0.2",
    ]
    assert shown(ask(responder, "out.elorac.fr", "A").answer)[-1] == "mx.bricoleur.com. 60 IN A 127.0.0.3"
    assert shown(ask(responder, "www.elorac.fr", "CNAME").answer) == [
        "www.elorac.fr. 3600 IN CNAME mx.elorac.fr."
    ]


def test_an_alias_to_elsewhere_or_to_nothing_or_to_itself_ends(responder: Responder) -> None:
    far = ask(responder, "far.elorac.fr", "A")
    assert far.rcode() == dns.rcode.NOERROR and len(far.answer) == 1 and far.flags & dns.flags.AA
    # RFC 6604 §3: the code is that of the last name.
    gone = ask(responder, "gone.elorac.fr", "A")
    assert gone.rcode() == dns.rcode.NXDOMAIN and len(gone.answer) == 1 and gone.authority
    assert ask(responder, "loop.elorac.fr", "A").rcode() == dns.rcode.NOERROR


def test_a_wildcard_answers_in_the_name_that_was_asked(responder: Responder) -> None:
    assert shown(ask(responder, "x.y.wild.elorac.fr", "TXT").answer) == [
        'x.y.wild.elorac.fr. 3600 IN TXT "any ; of it"'
    ]
    assert ask(responder, "x.wild.elorac.fr", "A").rcode() == dns.rcode.NOERROR


def test_a_delegation_is_referred_with_its_glue(responder: Responder) -> None:
    response = ask(responder, "www.sub.elorac.fr", "A")
    assert not response.answer and not response.flags & dns.flags.AA
    assert shown(response.authority) == ["sub.elorac.fr. 3600 IN NS ns.sub.elorac.fr."]
    assert shown(response.additional) == ["ns.sub.elorac.fr. 3600 IN A 192.0.2.53"]
    assert ask(responder, "sub.elorac.fr", "DS").authority[0].rdtype == dns.rdatatype.SOA


def test_an_entry_may_go_over_lines_in_parentheses(responder: Responder) -> None:
    assert shown(ask(responder, "two.elorac.fr", "TXT").answer) == ['two.elorac.fr. 3600 IN TXT "one" "two"']


def test_any_gets_one_set(responder: Responder) -> None:
    assert len(ask(responder, "mx.elorac.fr", "ANY").answer) == 1


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_transfers_are_refused(responder: Responder, kind: str) -> None:
    query = dns.message.make_query("elorac.fr", kind)
    wire = responder.tcp(query.to_wire())
    assert wire is not None and dns.message.from_wire(wire).rcode() == dns.rcode.REFUSED


def test_version_questions_are_refused(responder: Responder) -> None:
    assert ask(responder, "version.bind", "TXT", rdclass="CH").rcode() == dns.rcode.REFUSED


# -- sizes --


def many(count: int) -> Responder:
    text = "$ORIGIN many.fr.\n$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns\n" + "".join(
        f"@ MX {n} m{n}\nm{n} A 192.0.2.{n % 250}\n" for n in range(count)
    )
    return Responder(Zones([parse_zone(text)]), Clock())


def test_without_edns_512_octets_with_edns_1232_and_tcp_has_it_all() -> None:
    responder = many(60)
    plain = ask(responder, "many.fr", "MX", use_edns=False)
    assert plain.flags & dns.flags.TC and not plain.answer and plain.opt is None
    assert not ask(responder, "many.fr", "MX", payload=4096).flags & dns.flags.TC
    large = many(400)
    query = dns.message.make_query("many.fr", "MX", use_edns=0, payload=65000)
    wire = large.udp(query.to_wire(), "127.0.0.1")
    assert wire is not None and len(wire) <= LARGEST_UDP and dns.message.from_wire(wire).flags & dns.flags.TC
    whole = large.tcp(query.to_wire())
    assert whole is not None and len(dns.message.from_wire(whole).answer[0]) == 400


def test_additional_records_go_first_and_without_tc() -> None:
    responder = many(24)
    query = dns.message.make_query("many.fr", "MX", use_edns=False)
    wire = responder.udp(query.to_wire(), "127.0.0.1")
    assert wire is not None and len(wire) <= PLAIN_UDP
    response = dns.message.from_wire(wire)
    assert len(response.answer[0]) == 24 and not response.additional and not response.flags & dns.flags.TC


# -- hostile octets --


def test_what_is_no_query_gets_no_answer(responder: Responder) -> None:
    query = dns.message.make_query("elorac.fr", "MX")
    response = dns.message.make_response(query)
    assert responder.udp(response.to_wire(), "127.0.0.1") is None
    assert responder.udp(b"short", "127.0.0.1") is None
    assert responder.tcp(b"") is None


def test_a_broken_query_is_formerr_with_its_id(responder: Responder) -> None:
    for wire in (
        b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6,
        b"\x12\x34" + b"\x01\0" + b"\xff" * 60,
        b"\x12\x34\0\0" + b"\0" * (LARGEST_QUERY + 1),
    ):
        answer = responder.udp(wire, "127.0.0.1")
        assert answer is not None
        assert answer[:2] == b"\x12\x34" and answer[3] & 15 == dns.rcode.FORMERR


def test_other_opcodes_versions_and_no_question(responder: Responder) -> None:
    query = dns.message.make_query("elorac.fr", "MX", use_edns=1)
    wire = responder.udp(query.to_wire(), "127.0.0.1")
    assert wire is not None and dns.message.from_wire(wire).rcode() == dns.rcode.BADVERS
    notify = dns.message.make_query("elorac.fr", "SOA")
    notify.set_opcode(4)  # type: ignore[arg-type]
    wire = responder.udp(notify.to_wire(), "127.0.0.1")
    assert wire is not None and dns.message.from_wire(wire).rcode() == dns.rcode.NOTIMP
    wire = responder.udp(b"\0\1" + b"\0" * 10, "127.0.0.1")
    assert wire is not None and wire[3] & 15 == dns.rcode.FORMERR


@given(st.binary(min_size=0, max_size=120))
def test_no_octets_make_it_fail(wire: bytes) -> None:
    responder = Responder(Zones([parse_zone(BRICOLEUR)]), Clock())
    responder.udp(wire, "127.0.0.1")
    responder.tcp(wire)


def test_a_flood_is_answered_up_to_the_rate_then_by_truncation_or_silence(zones: Zones) -> None:
    clock = Clock()
    responder = Responder(zones, clock, rate=1, burst=5)
    wire = dns.message.make_query("elorac.fr", "MX").to_wire()
    answers = [responder.udp(wire, "192.0.2.9") for _ in range(25)]
    full = [a for a in answers if a is not None and not a[2] & 2]
    cut = [a for a in answers if a is not None and a[2] & 2]
    assert (len(full), len(cut)) == (5, 10)
    assert all(len(a) <= len(wire) + 11 for a in cut)
    # Another address of the same line is no other victim.
    assert not any(a is not None and not a[2] & 2 for a in [responder.udp(wire, "192.0.2.10")] * 3)
    assert responder.udp(wire, "198.51.100.1") is not None
    clock.advance(2)
    again = responder.udp(wire, "192.0.2.9")
    assert again is not None and not again[2] & 2
    assert BURST > 0 and all(responder.udp(wire, "127.0.0.1") for _ in range(50))


# -- zone files --


def problems_of(text: str, where: str = "x.zone") -> list[tuple[int, str]]:
    with pytest.raises(ConfigurationError) as failure:
        parse_zone(text, where)
    return [(problem.line, problem.what) for problem in failure.value.problems]


def test_every_fault_is_told_with_its_line() -> None:
    text = """\
$ORIGIN x.fr.
$TTL 60
@ SOA ns h 1 1 1 1 1
@ NS ns
a A 300.1.1.1
b NOSUCH data
c MX mx
$INCLUDE /etc/passwd
www.y.fr. A 192.0.2.1
d CH TXT hello
e A
f TXT "open
g A 192.0.2.7
h TXT (
   "never closed"
i A 192.0.2.8
"""
    assert [line for line, _ in problems_of(text)] == [5, 6, 7, 8, 9, 10, 11, 12, 14]


def test_a_fault_does_not_swallow_the_line_after_it() -> None:
    found = problems_of("$ORIGIN x.fr.\n$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns\na MX\nb MX\nc A 192.0.2.1\n")
    assert [line for line, _ in found] == [5, 6]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no SOA"),
        ("$TTL 60\n@ SOA ns h 1 1 1 1 1\n", "no NS"),
        ("$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns\na CNAME b\na A 192.0.2.1\n", "CNAME and other"),
        ("$TTL 60\n@ SOA ns h 1 1 1 1 1\n@ NS ns\na CNAME b\na CNAME c\n", "more than one CNAME"),
        ("  A 192.0.2.1\n", "no name"),
        ("a A 192.0.2.1\n", "no TTL"),
        ("$TTL x\n", "TTL"),
    ],
)
def test_a_zone_that_cannot_work_is_refused(text: str, what: str) -> None:
    assert any(what in said for _, said in problems_of(text, "x.fr.zone"))


def test_the_file_name_is_the_origin_where_none_is_given(tmp_path: Path) -> None:
    path = tmp_path / "elorac.fr.zone"
    path.write_text("@ 60 SOA ns h 1 1 1 1 1\n@ NS ns\n")
    (zone,) = load_zones([str(path)])
    assert zone.origin == dns.name.from_text("elorac.fr")


def test_every_file_is_read_before_anything_is_said(tmp_path: Path) -> None:
    one, two = tmp_path / "one.zone", tmp_path / "two.zone"
    one.write_text("@ 60 SOA ns h 1 1 1 1 1\n")
    two.write_bytes(b"\xff\n")
    with pytest.raises(ConfigurationError) as failure:
        load_zones([str(one), str(two), str(tmp_path / "none.zone")])
    assert [Path(p.where).name for p in failure.value.problems] == ["one.zone", "two.zone", "none.zone"]


def test_the_same_zone_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(ELORAC)
    with pytest.raises(ConfigurationError) as failure:
        load_zones([str(tmp_path / "a"), str(tmp_path / "b")])
    assert "another file" in failure.value.problems[0].what


@given(st.text(alphabet='@ \t\n()";$\\IN SOAMX.a1', max_size=80))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        parse_zone(text, "x.zone")
    except ConfigurationError:
        pass
