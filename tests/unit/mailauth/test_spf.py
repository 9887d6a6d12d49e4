"""SPF: the published suite, and what a hostile record may not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.addresses import Address, AddressError, normalise_domain
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.spf import MAX_LOOKUPS, TOTAL_TIME, Spf, SpfResult
from lorrainemail.mailauth.spf_record import RecordError, parse_record
from lorrainemail.net.peers import canonical

SUITE = json.loads((Path(__file__).parent / "data" / "rfc7208-tests.json").read_text())
CASES = [
    pytest.param(scenario, case, id=f"{scenario['description']}-{name}".replace(" ", "_"))
    for scenario in SUITE
    for name, case in scenario["tests"].items()
]


def check(
    rows: Any, peer: str, helo: str, sender: Address | None, clock: Clock | None = None
) -> tuple[SpfResult, MemoryResolver]:
    resolver = rows if isinstance(rows, MemoryResolver) else MemoryResolver(rows)
    spf = Spf(resolver, clock or Clock(), "mx.receiver.example", lambda: 1_000_000_000.0)
    results: list[SpfResult] = []
    Deferred.fromCoroutine(spf.check(peer, helo, sender)).addCallback(results.append)
    return results[0], resolver


def address(text: str) -> Address | None:
    """Leniently: the suite's senders are not all what a door would let pass."""
    if not text:
        return None
    local, _, domain = text.rpartition("@")
    try:
        return Address(local, normalise_domain(domain))
    except AddressError:
        return Address(local, domain.lower())


@pytest.mark.parametrize(("scenario", "case"), CASES)
def test_the_published_suite(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    result, _ = check(scenario["zone"], canonical(case["host"]), case["helo"], address(case["mailfrom"]))
    assert result.result in case["result"], result
    wanted = case.get("explanation")
    if wanted is not None and result.result == "fail":
        assert result.explanation.lower() == ("" if wanted == "DEFAULT" else wanted.lower())


def nested(depth: int, width: int) -> dict[str, list[tuple[str, str]]]:
    """Records that include ``width`` others each, ``depth`` deep."""
    rows: dict[str, list[tuple[str, str]]] = {}

    def grow(name: str, level: int) -> None:
        children = [f"{index}.{name}" for index in range(width)] if level < depth else []
        rows[name] = [("TXT", "v=spf1 " + " ".join(f"include:{child}" for child in children) + " -all")]
        for child in children:
            grow(child, level + 1)

    grow("bomb.example", 0)
    return rows


def test_a_bomb_of_includes_asks_no_more_than_the_bound() -> None:
    result, resolver = check(nested(4, 4), "192.0.2.1", "x.example", address("a@bomb.example"))
    assert result.result == "permerror"
    assert len(resolver.asked) <= MAX_LOOKUPS + 1


def test_a_record_that_includes_itself_ends() -> None:
    rows = {"loop.example": [("TXT", "v=spf1 include:loop.example -all")]}
    result, resolver = check(rows, "192.0.2.1", "x.example", address("a@loop.example"))
    assert result.result == "permerror"
    assert len(resolver.asked) <= MAX_LOOKUPS + 1
    rows = {"loop.example": [("TXT", "v=spf1 redirect=loop.example")]}
    assert check(rows, "192.0.2.1", "x.example", address("a@loop.example"))[0].result == "permerror"


def test_ten_mx_sets_of_ten_names_stay_within_a_hundred_questions() -> None:
    rows: dict[str, list[tuple[str, Any]]] = {
        "wide.example": [("TXT", "v=spf1 " + " ".join(f"mx:m{n}.wide.example" for n in range(10)) + " -all")]
    }
    for n in range(10):
        rows[f"m{n}.wide.example"] = [("MX", (10, f"h{k}.m{n}.wide.example")) for k in range(10)]
        for k in range(10):
            rows[f"h{k}.m{n}.wide.example"] = [("A", "198.51.100.1")]
    result, resolver = check(rows, "192.0.2.1", "x.example", address("a@wide.example"))
    assert result.result == "fail"
    assert len(resolver.asked) <= 1 + 10 + 100


def test_names_that_do_not_exist_end_the_check_after_two() -> None:
    rows = {"void.example": [("TXT", "v=spf1 a:a.void.test a:b.void.test a:c.void.test a:d.void.test -all")]}
    result, resolver = check(rows, "192.0.2.1", "x.example", address("a@void.example"))
    assert result.result == "permerror"
    assert len(resolver.asked) == 4


def test_a_dns_that_never_answers_is_a_temporary_error_in_bounded_time() -> None:
    class Silent(MemoryResolver):
        def txt(self, name: str) -> Deferred[list[bytes]]:
            return Deferred()

    clock = Clock()
    spf = Spf(Silent(), clock, "mx.receiver.example")
    results: list[SpfResult] = []
    Deferred.fromCoroutine(spf.check("192.0.2.1", "x.example", address("a@b.example"))).addCallback(
        results.append
    )
    clock.advance(TOTAL_TIME + 1)
    assert results[0].result == "temperror"
    assert not clock.getDelayedCalls()


def test_a_bounce_is_checked_by_its_greeting() -> None:
    rows = {"mail.sender.example": [("TXT", "v=spf1 ip4:192.0.2.1 -all")]}
    result, _ = check(rows, "192.0.2.1", "mail.sender.example", None)
    assert (result.result, result.identity, result.domain) == ("pass", "helo", "mail.sender.example")
    assert check(rows, "192.0.2.1", "[192.0.2.1]", None)[0].result == "none"


def test_an_ipv6_client_is_found_by_network_and_name() -> None:
    rows = {
        "six.example": [("TXT", "v=spf1 ip6:2001:db8:1::/48 a:host.six.example -all")],
        "host.six.example": [("AAAA", "2001:db8:2::1"), ("A", "192.0.2.1")],
    }
    for peer, word in (
        ("2001:db8:1::25", "pass"),
        ("2001:db8:2::1", "pass"),
        ("2001:db8:3::1", "fail"),
        ("192.0.2.1", "pass"),
    ):
        assert check(rows, peer, "x.example", address("a@six.example"))[0].result == word


def test_a_local_part_beyond_ascii_matches_no_macro_of_it() -> None:
    # RFC 8616 §4.
    rows = {
        "eai.example": [("TXT", "v=spf1 exists:%{l}.eai.example ?all")],
        "jörg.eai.example": [("A", "127.0.0.2")],
    }
    assert check(rows, "192.0.2.1", "x.example", Address("jörg", "eai.example"))[0].result == "neutral"


def test_the_reason_names_the_term_that_decided() -> None:
    rows = {"said.example": [("TXT", "v=spf1 ip4:198.51.100.0/24 ~all")]}
    result, _ = check(rows, "192.0.2.1", "x.example", address("a@said.example"))
    assert result.result == "softfail"
    assert "said.example" in result.reason and "'~all'" in result.reason and "192.0.2.1" in result.reason


@pytest.mark.parametrize(
    "record",
    [
        b"v=spf1 " + b"a" * 9000,
        b"v=spf1 ip4:1.2.3.4/33",
        b"v=spf1 ip4:1.2.3",
        b"v=spf1 ip6:::1%eth0",
        b"v=spf1 a:example.com/99999",
        b"v=spf1 exists:%{l",
        b"v=spf1 exists:%{l0}.x.example",
        b"v=spf1 exists:%{l99999999999999999999z}.x.example",
        b"v=spf1 \xff",
        b"v=spf1 redirect=a.example redirect=b.example",
    ],
)
def test_a_faulty_record_is_refused_whole(record: bytes) -> None:
    with pytest.raises(RecordError):
        parse_record(record)
