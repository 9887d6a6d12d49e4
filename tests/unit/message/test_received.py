"""Received, Return-Path and Delivered-To."""

from __future__ import annotations

import email
import email.policy
import re

import attrs
import pytest

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Session, TlsFacts
from lorrainemail.message.received import (
    delivered_to_field,
    protocol,
    received_field,
    return_path_field,
    rfc5322_date,
)

BOB = Address("bob", "bricoleur.com")
SESSION = Session("s1", "smtp", "192.0.2.7", 4242, "192.0.2.1", "mail.elorac.fr", True)
ENVELOPE = Envelope("m1", Address("carole", "elorac.fr"), ())
TLS = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
WHEN = 1_700_000_000.9


def received(session: Session, **more: object) -> str:
    wire = received_field(session, ENVELOPE, "mx.bricoleur.com", WHEN, **more)  # type: ignore[arg-type]
    assert wire.endswith(b"\r\n")
    assert all(line.startswith(b"\t") for line in wire.split(b"\r\n")[1:-1])
    assert all(len(line) < 998 for line in wire.split(b"\r\n"))
    return re.sub(r"\s+", " ", wire.decode()).strip()


def test_received_names_client_server_id_tls_recipient_and_date() -> None:
    assert received(attrs.evolve(SESSION, tls=TLS), for_recipient=BOB) == (
        "Received: from mail.elorac.fr ([192.0.2.7]) by mx.bricoleur.com (lorrainemail) with ESMTPS id m1 "
        "(version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384 bits=256) for <bob@bricoleur.com>; "
        "Tue, 14 Nov 2023 22:13:20 +0000"
    )


def test_several_recipients_are_not_told_of_each_other() -> None:
    assert " for " not in received(SESSION)


def test_ipv6_peer_and_its_confirmed_name() -> None:
    text = received(attrs.evolve(SESSION, peer="2001:db8::7", reverse_name="out.elorac.fr"))
    assert "from mail.elorac.fr (out.elorac.fr [IPv6:2001:db8::7])" in text


def test_hidden_submitter_leaves_neither_address_nor_name() -> None:
    session = attrs.evolve(SESSION, door="submission", account="carole@elorac.fr", tls=TLS, helo="laptop")
    text = received(session, hide_submitter=True)
    assert "192.0.2.7" not in text
    assert "laptop" not in text
    assert "with ESMTPSA" in text
    assert "192.0.2.7" in received(session)


def test_client_without_login_is_never_hidden() -> None:
    assert "192.0.2.7" in received(SESSION, hide_submitter=True)


@pytest.mark.parametrize("helo", ["evil) by x; now\r\nBcc: y", "(", "a b", "é.example", ""])
def test_greeting_cannot_write_into_the_header(helo: str) -> None:
    wire = received_field(attrs.evolve(SESSION, helo=helo), ENVELOPE, "mx", WHEN)
    parsed = email.message_from_bytes(wire + b"\r\n", policy=email.policy.SMTP)
    assert parsed.keys() == ["Received"]
    text = wire.decode()
    assert text.count("(") == text.count(")")
    assert text.startswith("Received: from [192.0.2.7] ([192.0.2.7])")


@pytest.mark.parametrize(
    ("changes", "smtputf8", "keyword"),
    [
        ({"esmtp": False}, False, "SMTP"),
        ({}, False, "ESMTP"),
        ({"account": "a@b"}, False, "ESMTPA"),
        ({"tls": TLS}, False, "ESMTPS"),
        ({"tls": TLS, "account": "a@b"}, False, "ESMTPSA"),
        ({"tls": TLS, "account": "a@b"}, True, "UTF8SMTPSA"),
        ({}, True, "UTF8SMTP"),
        ({"door": "lmtp", "tls": TLS}, False, "LMTPS"),
        ({"door": "lmtp"}, True, "UTF8LMTP"),
    ],
)
def test_with_keyword(changes: dict[str, object], smtputf8: bool, keyword: str) -> None:
    assert protocol(attrs.evolve(SESSION, **changes), smtputf8) == keyword  # type: ignore[arg-type]


def test_local_hand_over_has_no_from_clause() -> None:
    assert received(Session("s", "local")).startswith("Received: by mx.bricoleur.com (lorrainemail) id m1;")


def test_return_path_of_a_bounce_is_empty_brackets() -> None:
    assert return_path_field(None) == b"Return-Path: <>\r\n"
    assert return_path_field(Address('a "b', "x.org")) == b'Return-Path: <"a \\"b"@x.org>\r\n'


def test_delivered_to() -> None:
    assert delivered_to_field(BOB) == b"Delivered-To: bob@bricoleur.com\r\n"


def test_dates_follow_the_second() -> None:
    assert rfc5322_date(0.9) == "Thu, 01 Jan 1970 00:00:00 +0000"
    assert rfc5322_date(1.0) == "Thu, 01 Jan 1970 00:00:01 +0000"
