"""The world sees the addresses it knows, and every other octet as it was."""

from __future__ import annotations

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.delivery import rewriting as module
from lorrainemail.delivery.rewriting import Rewriting
from lorrainemail.ops.content import Content

ROWS = {"bob@home.lan": "robert@free.fr", "home.lan": "bricoleur.com"}


def rewritten(header: bytes, body: bytes = b"From: bob@home.lan\r\n") -> bytes:
    content, changed = Rewriting(ROWS).content(Content(header + b"\r\n" + body))
    whole = b"".join(content.chunks())
    assert content.size == len(whole) and changed == (whole != header + b"\r\n" + body)
    assert whole.endswith(b"\r\n" + body)
    return whole[: len(whole) - len(body) - 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Bob@home.lan", "robert@free.fr"),
        ("carol@HOME.lan", "carol@bricoleur.com"),
        ("carol@sub.home.lan", "carol@sub.home.lan"),
        ("x@y.org", "x@y.org"),
        ('"odd one"@home.lan', '"odd one"@bricoleur.com'),
    ],
)
def test_a_whole_address_wins_over_its_domain(old: str, new: str) -> None:
    assert Rewriting(ROWS).address(parse_address(old)) == parse_address(new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"From: bob@home.lan\r\n", b"From: robert@free.fr\r\n"),
        (b"from:  Bob <carol@home.lan>\r\n", b"from:  Bob <carol@bricoleur.com>\r\n"),
        (
            b'To: a@y,\r\n\t"bob@home.lan" <bob@home.lan> (bob@home.lan (c@home.lan)),\r\n b@home.lan \r\n',
            b'To: a@y,\r\n\t"bob@home.lan" <robert@free.fr> (bob@home.lan (c@home.lan)),\r\n '
            b"b@bricoleur.com \r\n",
        ),
        (b"Cc: us: bob@home.lan, c@home.lan;\r\n", b"Cc: us: robert@free.fr, c@bricoleur.com;\r\n"),
        (b'From: "a b"@home.lan\r\n', b'From: "a b"@bricoleur.com\r\n'),
        (b"From: caf\xc3\xa9@home.lan\r\n", b"From: caf\xc3\xa9@bricoleur.com\r\n"),
        (b"From: <bob@home.lan.>\r\n", b"From: <robert@free.fr.>\r\n"),
        (b"Subject: bob@home.lan\r\n", b"Subject: bob@home.lan\r\n"),
        (b"Message-ID: <1@home.lan>\r\n", b"Message-ID: <1@home.lan>\r\n"),
        (
            b"From: bob@home.land, =?x?y?= <xbob@home.lan>\r\n",
            b"From: bob@home.land, =?x?y?= <xbob@bricoleur.com>\r\n",
        ),
        (b"From: (unclosed bob@home.lan\r\n", b"From: (unclosed bob@home.lan\r\n"),
        (b'From: "unclosed bob@home.lan\r\n', b'From: "unclosed bob@home.lan\r\n'),
        (b"From: \xff\xfe@home.lan\r\n", b"From: \xff\xfe@home.lan\r\n"),
    ],
)
def test_only_addresses_change_in_fields_of_addresses(old: bytes, new: bytes) -> None:
    assert rewritten(b"X: y\r\n" + old + b"Z: w\r\n") == b"X: y\r\n" + new + b"Z: w\r\n"


def test_signatures_that_are_broken_by_it_go_and_others_stay() -> None:
    signature = b"DKIM-Signature: v=1;\r\n\tb=x\r\n"
    assert rewritten(signature + b"From: bob@home.lan\r\n") == b"From: robert@free.fr\r\n"
    assert rewritten(signature + b"From: a@y.org\r\n") == signature + b"From: a@y.org\r\n"


def test_a_header_too_large_to_be_seen_whole_goes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HEADER", 20)
    assert rewritten(b"From: bob@home.lan\r\nX: yyyyyyyyyyyyyyy\r\n").startswith(b"From: bob@home.lan\r\n")


def test_a_message_without_a_body_is_no_trouble() -> None:
    content, changed = Rewriting(ROWS).content(Content(b"From: bob@home.lan\r\n"))
    assert changed and b"".join(content.chunks()) == b"From: robert@free.fr\r\n"


def test_a_word_of_many_dots_is_looked_at_once() -> None:
    # Each of its dots was once a beginning: minutes for a header of the largest size.
    pieces = list(Rewriting(ROWS)._value(b" " + b"a." * 50_000 + b"b, carol@home.lan"))
    assert len(pieces) < 10
    assert b"".join(pieces).endswith(b"b, carol@bricoleur.com")
