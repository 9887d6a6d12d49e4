"""Whose mail is copied, and to where."""

from __future__ import annotations

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.tables.archive import Archive

ROWS = {
    "*": "all@x.org",
    "from:boss@x.org": "boss-sent@x.org",
    "to:*.far.test": "far@x.org",
    "both.test": "both@x.org",
}


@pytest.mark.parametrize(
    ("sender", "recipients", "archives"),
    [
        ("ann@a.test", ["bob@b.test"], ["all@x.org"]),
        ("boss@x.org", ["bob@b.test"], ["boss-sent@x.org", "all@x.org"]),
        ("ann@a.test", ["boss@x.org"], ["all@x.org"]),
        ("x@sub.far.test", ["y@sub.far.test", "z@far.test"], ["all@x.org", "far@x.org"]),
        ("x@both.test", ["y@both.test"], ["both@x.org"]),
        ("", ["y@b.test"], ["all@x.org"]),
    ],
)
def test_the_most_specific_row_of_each_address_counts(
    sender: str, recipients: list[str], archives: list[str]
) -> None:
    found = Archive(ROWS).of(
        parse_address(sender) if sender else None, [parse_address(one) for one in recipients]
    )
    assert [str(one) for one in found] == archives


def test_without_a_row_there_is_no_copy() -> None:
    assert Archive({"from:x.org": "a@x.org"}).of(parse_address("b@y.org"), [parse_address("c@x.org")]) == ()
