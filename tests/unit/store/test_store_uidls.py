"""POP3 clients download nothing again when their mailbox moves here from Dovecot or Courier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.store.uidls import GivenUidls, parse_courier, parse_dovecot


def test_dovecots_name_is_made_of_uid_and_validity_for_what_it_had() -> None:
    kept = GivenUidls(1795348435, 4, True)
    assert kept.of(1, 1795348435) == "000000016b02d7d3"
    assert kept.of(4, 1795348435) == ""  # came later
    assert kept.of(1, 1795348436) == ""  # the folder began anew


def test_names_that_dovecot_kept_one_by_one_are_read() -> None:
    text = "3 V5 N4 Gabc\n1 P0123abc W17 :1700.M1.host\n2 W17 Pxyz :1701.M2.host:2,S\n3 :1702.M3.host\n"
    assert parse_dovecot(text) == {"1700.M1.host": "0123abc", "1701.M2.host": "xyz"}
    assert parse_dovecot("1 5 4\n1 Pfoo :x\n") == {}


def test_couriers_list_is_read() -> None:
    text = "/2 3 1234\n1700.M1.host:2,S 17 1:1234\ncur/1701.M2.host 17 2:1234\n1702.M3.host 17 0:0\nbroken\n"
    assert parse_courier(text) == {
        "1700.M1.host": "UID1-1234",
        "1701.M2.host": "UID2-1234",
        "1702.M3.host": "1702.M3.host",
    }
    assert parse_courier("/1 2\nx 1 2\n") == {}


@pytest.mark.parametrize("text", ["", "2 1 1 -\n", "1 x 1 -\n", "1 1 1 -\nx y\n", "garbage"])
def test_a_damaged_file_is_no_file(text: str) -> None:
    assert GivenUidls.parse(text) is None


@given(
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.booleans(),
    st.dictionaries(st.integers(1, 100), st.from_regex(r"\A[!-~]{1,70}\Z")),
)
def test_what_is_written_is_read_back(
    validity: int, following: int, dovecot: bool, given: dict[int, str]
) -> None:
    kept = GivenUidls(validity, following, dovecot, given)
    assert GivenUidls.parse(kept.printed().decode()) == kept


@given(st.text(max_size=200))
def test_any_text_is_read_without_failing(text: str) -> None:
    for unique in (*parse_dovecot("3 V1 N1\n" + text).values(), *parse_courier("/2 1 1\n" + text).values()):
        assert 0 < len(unique) <= 70
    GivenUidls.parse("1 1 1 dovecot\n" + text)
