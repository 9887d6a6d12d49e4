"""Addresses: what is one, how it is compared, how it is written again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.addresses import (
    MAX_PATH,
    Address,
    AddressError,
    display_domain,
    fold_local,
    normalise_domain,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("bob@x.org", "bob", "x.org"),
        ("Bob@X.ORG", "Bob", "x.org"),
        ("a.b+c=d@x.org", "a.b+c=d", "x.org"),
        ("!#$%&'*+-/=?^_`{|}~@x.org", "!#$%&'*+-/=?^_`{|}~", "x.org"),
        ('"a b"@x.org', "a b", "x.org"),
        ('"a@b"@x.org', "a@b", "x.org"),
        ('"a\\"\\\\b"@x.org', 'a"\\b', "x.org"),
        ('"bob"@x.org', "bob", "x.org"),
        ("bob@[192.0.2.1]", "bob", "[192.0.2.1]"),
        ("bob@[ipv6:2001:DB8:0::1]", "bob", "[IPv6:2001:db8::1]"),
        ("été@Été.fr", "été", "xn--t-9fab.fr"),
        ("نام\u200cه@x.org", "نام\u200cه", "x.org"),
        ("用户@例子.广告", "用户", "xn--fsqu00a.xn--4rr70v"),
        ("a" * 64 + "@x.org", "a" * 64, "x.org"),
        ("bob@localhost", "bob", "localhost"),
        ("user%host@x.org", "user%host", "x.org"),
    ],
)
def test_addresses_are_read_as_the_standard_says(text: str, local: str, domain: str) -> None:
    assert parse_address(text) == Address(local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bob",
        "@x.org",
        "bob@",
        "a b@x.org",
        ".bob@x.org",
        "bob.@x.org",
        "a..b@x.org",
        "a@b@x.org",
        '""@x.org',
        '"a"b@x.org',
        '"a@x.org',
        'a"b"@x.org',
        '"a\nb"@x.org',
        "bob@x..org",
        "bob@.org",
        "bob@x.org.",
        "bob@-x.org",
        "bob@x-.org",
        "bob@x_y.org\n",
        "bob@x.org\r",
        "bob\n@x.org",
        "bob@[192.0.2.1",
        "bob@[192.0.2.256]",
        "bob@[::1]",
        "bob@[IPv6:1]",
        "bob@[IPv6:fe80::1%eth0]",
        "bob@[192.0.2.1]x",
        "<bob@x.org>",
        "bob@x.org bob@y.org",
        "bob@x y",
        "a" * 65 + "@x.org",
        "é" * 33 + "@x.org",
        "bob@" + "a." * 127 + "org",
        "bob@" + "a" * 64 + ".org",
        "bob\x7f@x.org",
        "bob\x00@x.org",
        "bob\x85@x.org",
        "bob\u2028@x.org",
        "bob\u202e@x.org",
        '"a\u200bb\u0085"@x.org',
        "bob\udc80@x.org",
        "bob\u00a0@x.org",
        "bob\u200b@x.org",
        "bob@\udc80.org",
        "bob@ex\u0000ample.org",
        "bob@\u2024.org",
        "bob@xn--\u00e9.org",
    ],
)
def test_what_is_no_address_is_refused_with_words(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text)
    assert str(caught.value).isprintable() and str(caught.value).isascii()


def test_local_parts_are_compared_without_case_and_in_one_normal_form() -> None:
    assert Address("Bob", "x.org").key == "bob@x.org"
    assert fold_local("E\u0301te\u0301") == fold_local("\u00e9T\u00c9")
    assert fold_local("STRASSE") == fold_local("straße")


def test_domains_are_shown_as_a_person_reads_them() -> None:
    assert Address("a", "xn--t-9fab.fr").shown == "a@été.fr"
    assert display_domain("x.org") == "x.org"
    assert display_domain("xn--zzzzzz99999.org") == "xn--zzzzzz99999.org"


def test_a_bare_postmaster_is_written_bare() -> None:
    assert str(Address("postmaster", "")) == "postmaster"


@pytest.mark.parametrize("text", ["[192.0.2.1]", "[IPv6:2001:db8::1]", "x.org", "_dmarc.x.org"])
def test_a_normal_domain_stays_as_it_is(text: str) -> None:
    assert normalise_domain(text) == text


locals_ = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)


@given(locals_, st.sampled_from(["x.org", "[192.0.2.1]", "xn--t-9fab.fr"]))
def test_whatever_is_an_address_is_written_so_that_it_is_read_again(local: str, domain: str) -> None:
    written = str(Address(local, domain))
    try:
        parsed = parse_address(written)
    except AddressError:
        return
    assert parsed == Address(local, domain)
    folded = Address(fold_local(local), domain)
    assert folded.key == parsed.key


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_refused_and_never_a_line_break(text: str) -> None:
    for candidate in (text, text + "@x.org", f'"{text}"@x.org', "a@" + text):
        try:
            address = parse_address(candidate)
        except AddressError:
            continue
        assert len(str(address).encode()) <= MAX_PATH + 64
        assert not any(ord(c) < 32 or ord(c) == 127 for c in str(address))


@given(st.text(max_size=80))
def test_normalising_a_domain_twice_changes_nothing(text: str) -> None:
    try:
        once = normalise_domain(text)
    except AddressError:
        return
    assert normalise_domain(once) == once


@given(locals_)
def test_folding_twice_changes_nothing(local: str) -> None:
    assert fold_local(fold_local(local)) == fold_local(local)
