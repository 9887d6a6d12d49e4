"""Authentication-Results: readable by another parser, and forgeries in our name gone."""

from __future__ import annotations

import pytest

from lorrainemail.mailauth.authres import Finding, claimed_by, field, is_by

authres = pytest.importorskip("authres")

HOST = "mail.bricoleur.com"


def parsed(*findings: Finding) -> list[tuple[str, str, dict[str, str]]]:
    text = field(HOST, findings).decode()
    assert text.endswith("\r\n") and all(line[:1] in "\t " for line in text.split("\r\n")[1:-1])
    result = authres.AuthenticationResultsHeader.parse(text.replace("\r\n", ""))
    assert result.authserv_id == HOST
    return [
        (one.method, one.result, {f"{p.type}.{p.name}": p.value for p in one.properties})
        for one in result.results
    ]


def test_what_we_write_another_parser_reads() -> None:
    assert parsed(
        Finding("spf", "pass", "", (("smtp.mailfrom", "carole@elorac.fr"),)),
        Finding("dkim", "fail", "the body was changed", (("header.d", "elorac.fr"), ("header.b", "a+b/c=="))),
        Finding("dmarc", "pass", "", (("header.from", "elorac.fr"), ("policy.dmarc", "reject")), "p=reject"),
    ) == [
        ("spf", "pass", {"smtp.mailfrom": "carole@elorac.fr"}),
        ("dkim", "fail", {"header.d": "elorac.fr", "header.b": "a+b/c=="}),
        ("dmarc", "pass", {"header.from": "elorac.fr", "policy.dmarc": "reject"}),
    ]
    assert field(HOST, ()) == b"Authentication-Results: mail.bricoleur.com;\r\n\tnone\r\n"


@pytest.mark.parametrize(
    "evil",
    [
        'x"; dmarc=pass header.from=bank.example; y="@evil.example',
        "x\r\nX-Spam: no\r\n@evil.example",
        "x); dmarc=pass (@evil.example",
        'x\\"; spf=pass',
        "x" * 10_000,
        "\udcff\u202e\x00",
    ],
)
def test_no_sender_writes_a_result_of_his_own(evil: str) -> None:
    findings = (Finding("spf", "fail", evil, (("smtp.mailfrom", evil),), evil),)
    text = field(HOST, findings)
    assert len(text) < 2000 and b"\r\nX-Spam" not in text
    ((method, result, properties),) = parsed(*findings)
    assert (method, result, list(properties)) == ("spf", "fail", ["smtp.mailfrom"])


@pytest.mark.parametrize(
    "forged",
    [
        b"Authentication-Results: mail.bricoleur.com; dmarc=pass\r\n",
        b"authentication-results:MAIL.Bricoleur.COM;\r\n\tspf=pass;\r\n dkim=pass\r\n",
        b"Authentication-Results :\r\n mail.bricoleur.com 1; spf=pass\r\n",
        b"Authentication-Results: (a (nested) \\) comment) mail.bricoleur.com; spf=pass\r\n",
        b'Authentication-Results: "mail.bricoleur.com"; spf=pass\r\n',
        b'Authentication-Results: "mail.\\bricoleur.com"; spf=pass\r\n',
        b"Authentication-Results: mail.bricoleur.com(x); spf=pass\r\n",
        b"Authentication-Results: mail.bricoleur.com\r\n",
    ],
)
def test_a_result_forged_in_our_name_goes_and_nothing_else(forged: bytes) -> None:
    above = b"Received: a\r\nAuthentication-Results: mx.other.example; spf=pass\r\n"
    below = b"ARC-Authentication-Results: i=1; mail.bricoleur.com; spf=pass\r\nSubject: x\r\n\tfolded\r\n"
    assert claimed_by(above + forged + below, HOST) == above + below
    assert claimed_by(forged + below, HOST) == below
    assert claimed_by(below + forged, HOST) == below


def test_a_message_without_forgery_is_left_as_it_is() -> None:
    for header in (
        b"",
        b"Subject: x\r\n",
        b"Authentication-Results: mx.other.example; spf=pass\r\n",
        b"Authentication-Results: mail.bricoleur.com.evil.example; spf=pass\r\n",
        b"Authentication-Results:\r\n",
        b"Authentication-Results: (unclosed mail.bricoleur.com\r\n",
    ):
        assert claimed_by(header, HOST) is None


def test_of_a_header_full_of_results_none_is_kept() -> None:
    forged = b"Authentication-Results: " + b"(" * 500 + b"\r\n\tmore\r\n"
    above, below = b"Subject: x\r\n", b"To: y\r\n"
    assert claimed_by(above + forged * 200 + below, HOST) == above + below
    assert claimed_by(above + forged * 10 + below, HOST) is None


def test_a_field_with_lone_line_ends_is_one_field() -> None:
    forged = b"Authentication-Results:\r\r \n mail.bricoleur.com\r; x\r\n"
    assert claimed_by(b"A: b\r\n" + forged + b"C: d\r\n", HOST) == b"A: b\r\nC: d\r\n"


@pytest.mark.parametrize("before", [b"()", b" ", b"(", b"(a\\)b)", b"(("])
def test_a_name_far_behind_comments_is_no_way_to_be_busy(before: bytes) -> None:
    # Who hides the name so goes, whoever's it is; who says "proved" by it is not heard.
    forged = (
        b"Authentication-Results:" + before * (200_000 // len(before)) + b" mx.other.test; dmarc=pass\r\n"
    )
    assert claimed_by(b"A: b\r\n" + forged + b"C: d\r\n", HOST) == b"A: b\r\nC: d\r\n"
    assert not is_by(before * 100_000 + HOST.encode() + b"; dmarc=pass", HOST)
