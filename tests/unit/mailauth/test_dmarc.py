"""DMARC: the walk, alignment, policies, and From fields that try to slip past it."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.mailauth.authors import NoAuthor, author_domain
from lorrainemail.mailauth.dkim import DkimResult
from lorrainemail.mailauth.dmarc import MAX_WALK, TOTAL_TIME, Dmarc, DmarcResult, above
from lorrainemail.mailauth.dmarc_record import is_dmarc, parse_dmarc
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.spf import SpfResult
from lorrainemail.ops.content import Content


def header(author: bytes) -> Header:
    return Header(Content(b"From: " + author + b"\r\nSubject: x\r\n\r\n"))


def spf(domain: str, word: Any = "pass") -> SpfResult:
    return SpfResult(word, domain, "mailfrom", f"x@{domain}", "")


def dkim(domain: str, word: Any = "pass") -> DkimResult:
    return DkimResult(word, domain)


def evaluate(
    rows: dict[str, str],
    author: str,
    by_spf: SpfResult | None = None,
    by_dkim: tuple[DkimResult, ...] = (),
    **more: list[tuple[str, Any]],
) -> tuple[DmarcResult, list[tuple[str, str]]]:
    table: dict[str, Any] = {f"_dmarc.{name}": [("TXT", text)] for name, text in rows.items()}
    table.update({name.replace("__", "."): value for name, value in more.items()})
    resolver = MemoryResolver(table)
    results: list[DmarcResult] = []
    done = Deferred.fromCoroutine(Dmarc(resolver, Clock()).evaluate(header(author.encode()), by_spf, by_dkim))
    done.addCallback(results.append)
    return results[0], resolver.asked


# -- alignment -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "author", "by_spf", "by_dkim", "result", "aligned"),
    [
        ("p=reject", "a@x.example", "x.example", (), "pass", ("spf",)),
        ("p=reject", "a@x.example", None, ("x.example",), "pass", ("dkim",)),
        ("p=reject", "a@x.example", "x.example", ("x.example",), "pass", ("spf", "dkim")),
        ("p=reject", "a@x.example", "bounce.x.example", (), "pass", ("spf",)),
        ("p=reject; aspf=s", "a@x.example", "bounce.x.example", (), "fail", ()),
        ("p=reject; adkim=s", "a@x.example", None, ("m.x.example",), "fail", ()),
        ("p=reject; adkim=s", "a@x.example", None, ("x.example",), "pass", ("dkim",)),
        ("p=reject", "a@x.example", "evil.example", ("evil.example",), "fail", ()),
        ("p=reject", "a@x.example", "notx.example", ("example",), "fail", ()),
        ("p=reject", "a@sub.x.example", None, ("x.example",), "pass", ("dkim",)),
        ("p=reject", "a@one.x.example", None, ("two.x.example",), "pass", ("dkim",)),
        ("p=reject", "a@x.example", None, (), "fail", ()),
    ],
)
def test_alignment(
    record: str,
    author: str,
    by_spf: str | None,
    by_dkim: tuple[str, ...],
    result: str,
    aligned: tuple[str, ...],
) -> None:
    found, _ = evaluate(
        {"x.example": "v=DMARC1; " + record},
        author,
        spf(by_spf) if by_spf else None,
        tuple(dkim(one) for one in by_dkim),
    )
    assert (found.result, found.aligned) == (result, aligned), found


def test_only_a_pass_counts() -> None:
    rows = {"x.example": "v=DMARC1; p=reject"}
    for word in ("fail", "policy", "neutral", "permerror"):
        assert evaluate(rows, "a@x.example", None, (dkim("x.example", word),))[0].result == "fail"
    for word in ("fail", "softfail", "neutral", "none", "permerror"):
        assert evaluate(rows, "a@x.example", spf("x.example", word))[0].result == "fail"


def test_what_may_yet_pass_has_not_failed_but_a_strangers_silence_saves_no_forger() -> None:
    rows = {"x.example": "v=DMARC1; p=reject"}
    assert evaluate(rows, "a@x.example", None, (dkim("x.example", "temperror"),))[0].result == "temperror"
    assert evaluate(rows, "a@x.example", spf("b.x.example", "temperror"))[0].result == "temperror"
    assert evaluate(rows, "a@x.example", None, (dkim("evil.example", "temperror"),))[0].result == "fail"


# -- policies and the walk -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "author", "policy", "disposition"),
    [
        ("p=reject", "x.example", "reject", "reject"),
        ("p=reject; sp=quarantine", "x.example", "reject", "reject"),
        ("p=reject; sp=quarantine", "here.x.example", "quarantine", "quarantine"),
        ("p=none; np=reject", "here.x.example", "none", "none"),
        ("p=none; np=reject", "gone.x.example", "reject", "reject"),
        ("p=none; sp=quarantine; np=reject", "gone.x.example", "reject", "reject"),
        ("p=none; sp=quarantine", "gone.x.example", "quarantine", "quarantine"),
        ("p=reject; t=y", "x.example", "reject", "none"),
        ("p=wrong; rua=mailto:d@x.example", "x.example", "none", "none"),
        ("p=reject; sp=wrong; rua=mailto:d@x.example", "x.example", "none", "none"),
        ("rua=mailto:d@x.example", "x.example", "none", "none"),
        ("P=REJECT", "x.example", "reject", "reject"),
        (" ;;  p = reject ; nonsense ; pct=0", "x.example", "reject", "reject"),
    ],
)
def test_policy_of_a_failing_message(record: str, author: str, policy: str, disposition: str) -> None:
    found, _ = evaluate(
        {"x.example": "v=DMARC1; " + record}, "a@" + author, here__x__example=[("A", "192.0.2.1")]
    )
    assert (found.result, found.policy, found.disposition) == ("fail", policy, disposition), found


@pytest.mark.parametrize(
    "record",
    ["v=DMARC1; p=wrong", "v=DMARC1", "v=DMARC2; p=reject", "p=reject; v=DMARC1", "v=dmarc1; p=reject"],
)
def test_a_record_that_says_nothing_usable_applies_to_nothing(record: str) -> None:
    assert evaluate({"x.example": record}, "a@x.example")[0].result == "none"


def test_several_records_are_none() -> None:
    more = {"_dmarc__x__example": [("TXT", "v=DMARC1; p=reject"), ("TXT", "v=DMARC1; p=none")]}
    assert evaluate({}, "a@x.example", **more)[0].result == "none"  # type: ignore[arg-type]


def test_a_walk_asks_eight_names_at_most() -> None:
    name = ".".join(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "mail", "x", "example"])
    found, asked = evaluate({"x.example": "v=DMARC1; p=reject"}, "a@" + name)
    assert (found.result, found.policy_domain) == ("fail", "x.example")
    assert len(asked) == MAX_WALK
    assert above("a.mail.example.com") == ["mail.example.com", "example.com", "com"]
    assert above("com") == []
    assert above("1.2.3.4.5.6.7.8")[0] == "2.3.4.5.6.7.8"
    assert above("0.1.2.3.4.5.6.7.8")[0] == "2.3.4.5.6.7.8"


def test_the_public_suffix_ends_alignment() -> None:
    rows = {"gov.test": "v=DMARC1; p=reject; psd=y"}
    found, _ = evaluate(rows, "a@one.gov.test", None, (dkim("two.gov.test"),))
    assert (found.result, found.policy_domain) == ("fail", "gov.test")
    found, _ = evaluate(rows, "a@m.one.gov.test", None, (dkim("one.gov.test"),))
    assert found.result == "pass"
    # The suffix itself may send mail.
    assert evaluate(rows, "a@gov.test", spf("gov.test"))[0].result == "pass"


def test_psd_n_is_an_organization_of_its_own() -> None:
    rows = {"x.example": "v=DMARC1; p=reject", "own.x.example": "v=DMARC1; p=quarantine; psd=n"}
    found, _ = evaluate(rows, "a@m.own.x.example", None, (dkim("x.example"),))
    assert (found.result, found.policy_domain, found.disposition) == ("fail", "own.x.example", "quarantine")
    assert evaluate(rows, "a@m.own.x.example", None, (dkim("own.x.example"),))[0].result == "pass"
    assert evaluate(rows, "a@x.example", None, (dkim("own.x.example"),))[0].result == "fail"


def test_the_usual_message_costs_one_question() -> None:
    for by_spf in (spf("x.example"), spf("other.test"), None):
        _, asked = evaluate({"x.example": "v=DMARC1; p=reject"}, "a@x.example", by_spf)
        assert asked == [("_dmarc.x.example", "TXT")]


def test_a_silent_parent_does_not_shield_a_forger() -> None:
    more: Any = {"_dmarc__example": [("TXT", "TIMEOUT")]}
    rows = {"x.example": "v=DMARC1; p=reject"}
    assert evaluate(rows, "a@x.example", spf("other.test"), **more)[0].result == "fail"
    assert evaluate(rows, "a@x.example", spf("b.x.example"), **more)[0].result == "temperror"


def test_a_dns_without_answer_applies_no_policy() -> None:
    more: Any = {"_dmarc__x__example": [("TXT", "TIMEOUT")]}
    assert evaluate({}, "a@x.example", **more)[0].result == "temperror"

    class Silent(MemoryResolver):
        def txt(self, name: str) -> Deferred[list[bytes]]:
            return Deferred()

    clock = Clock()
    results: list[DmarcResult] = []
    done = Deferred.fromCoroutine(Dmarc(Silent(), clock).evaluate(header(b"a@x.example"), None, ()))
    done.addCallback(results.append)
    clock.advance(TOTAL_TIME + 1)
    assert results[0].result == "temperror"
    assert not clock.getDelayedCalls()


def test_addresses_for_reports_are_read() -> None:
    record = parse_dmarc(
        b"v=DMARC1; p=none; rua=mailto:a@x.example!10m, https://y, mailto:b@x.example; ruf=x"
    )
    assert record.reports == ("a@x.example", "b@x.example")
    assert record.failures == ()


# -- From ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b"carole@elorac.fr", "elorac.fr"),
        (b'"Bank <service@bank.example>" <x@Evil.Example>', "evil.example"),
        (b"a@good.example via b <b@evil.example>", "evil.example"),
        (b"Carole (at home) <carole@elorac.fr>", "elorac.fr"),
        (b"a@elorac.fr, b@ELORAC.fr", "elorac.fr"),
        (b"Group: a@elorac.fr, b@elorac.fr;", "elorac.fr"),
        ("Zoé <zoé@bücher.example>".encode(), "xn--bcher-kva.example"),
        (b"=?utf-8?q?a=40bank.example?= <x@evil.example>", "evil.example"),
        (b"<@relay.example:x@evil.example>", None),
    ],
)
def test_the_author_is_the_one_that_stands_there(value: bytes, domain: str | None) -> None:
    if domain is None:
        with pytest.raises(NoAuthor):
            author_domain(header(value))
    else:
        assert author_domain(header(value)) == domain


@pytest.mark.parametrize(
    ("fields", "deceitful"),
    [
        (b"From: a@good.example\r\nFrom: b@evil.example\r\n", True),
        (b"From: a@good.example\r\nX: y\r\nfrom : a@good.example\r\n", True),
        (b"From: <b@evil.example> a@good.example\r\n", True),
        (b"From: <a@good.example><b@evil.example>\r\n", True),
        (b"From: a@good.example b@evil.example\r\n", True),
        (b"From: a@\r\n", True),
        (b"From: @good.example\r\n", True),
        (b"From: a@good_.example-\r\n", True),
        (b"From: a@[192.0.2.1]\r\n", False),
        (b"From: a@good.example, b@other.example\r\n", False),
        (b"From:\r\n", False),
        (b"From: undisclosed:;\r\n", False),
        (b"Subject: none\r\n", False),
        (b"From: " + b"a@good.example, " * 100 + b"a@good.example\r\n", True),
        (b"From: " + b"x" * 20_000 + b"@good.example\r\n", True),
        (b"X: y\r\n" * 5000 + b"From: a@good.example\r\n", True),
    ],
)
def test_a_from_that_means_two_things_is_nobodys(fields: bytes, deceitful: bool) -> None:
    with pytest.raises(NoAuthor) as caught:
        author_domain(Header(Content(fields + b"\r\n")))
    assert caught.value.deceitful is deceitful, caught.value


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (b"v=DMARC1; p=none", True),
        (b"V = DMARC1;P=none", True),
        (b"v=dmarc1; p=none", False),
        (b"v=DMARC10; p=none", False),
        (b" v=DMARC1; p=none", False),
    ],
)
def test_a_record_is_known_by_its_beginning(text: bytes, is_one: bool) -> None:
    assert is_dmarc(text) is is_one
