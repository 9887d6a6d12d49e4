"""No address and no folder name leaves its home; different ones never share a path."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.addresses import Address, fold_local
from lorrainemail.errors import PermanentError
from lorrainemail.store.paths import (
    MAX_COMPONENT,
    canonical_name,
    decode_utf7,
    encode_component,
    encode_utf7,
    folder_directory,
    folder_name,
    home_path,
)

WICKED = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="./\\%&~\x00 -_aA", max_size=30),
    st.sampled_from(["", ".", "..", "../..", "a/../b", "%2e", "%2E", ".%2e", "%_", "%-", "&AC4-", "&-"]),
)


@given(WICKED)
def test_a_component_stays_one_plain_name(text: str) -> None:
    encoded = encode_component(text)
    assert encoded not in ("", ".", "..")
    assert not encoded.startswith(".")
    assert len(encoded.encode()) <= MAX_COMPONENT
    assert set(encoded) <= set("abcdefghijklmnopqrstuvwxyz0123456789._+-%")


@given(WICKED, WICKED)
def test_two_components_are_never_mixed_up(one: str, other: str) -> None:
    assert (encode_component(one) == encode_component(other)) == (one == other)


def test_long_components_with_the_same_beginning_differ() -> None:
    assert encode_component("é" * 100 + "a") != encode_component("é" * 100 + "b")
    assert len(encode_component("é" * 500)) <= MAX_COMPONENT


@given(WICKED, WICKED)
def test_a_home_is_two_levels_below_the_mail_directory(local: str, domain: str) -> None:
    path = home_path(Address(local, domain))
    assert os.path.normpath(path) == path
    assert path.count("/") == 1
    assert not path.startswith("/")


@given(WICKED, WICKED)
def test_two_accounts_share_a_home_only_when_tables_hold_them_for_one(one: str, other: str) -> None:
    same = home_path(Address(one, "x.test")) == home_path(Address(other, "x.test"))
    assert same == (fold_local(one) == fold_local(other))


@given(WICKED)
def test_a_folder_is_one_directory_in_the_maildir_and_comes_back(text: str) -> None:
    try:
        name = canonical_name(text)
    except PermanentError as failure:
        assert failure.detail == "CANNOT"
        return
    directory = folder_directory(name)
    assert "/" not in directory and "\x00" not in directory
    assert directory not in (".", "..")
    assert (directory == "") == (name == "INBOX")
    if directory:
        assert directory.startswith(".") and not directory.startswith("..") and directory.isascii()
        assert folder_name(directory) == name
    assert canonical_name(name) == name


@given(st.text(alphabet="./ab&-,+é☃\U0001f4e7", max_size=20), st.text(alphabet="./ab&-,+é", max_size=20))
def test_two_folders_never_share_a_directory(one: str, other: str) -> None:
    try:
        one, other = canonical_name(one), canonical_name(other)
    except PermanentError:
        return
    assert (folder_directory(one) == folder_directory(other)) == (one == other)


@given(st.text(alphabet=".&-AC4é", max_size=12))
def test_a_foreign_directory_is_shown_only_when_its_name_leads_back_to_it(text: str) -> None:
    name = folder_name("." + text)
    assert name is None or folder_directory(name) == "." + text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_modified_utf7_comes_back(text: str) -> None:
    assert decode_utf7(encode_utf7(text)) == text


@pytest.mark.parametrize("wrong", ["&", "&AGE", "&A-", "&2AA-", "é", "&AGE=-", "&!-"])
def test_wrong_modified_utf7_is_refused(wrong: str) -> None:
    assert decode_utf7(wrong) is None


@pytest.mark.parametrize(
    ("written", "disk"), [("Entwürfe", ".Entw&APw-rfe"), ("a.b/c", ".a&AC4-b.c"), ("R&D", ".R&-D")]
)
def test_names_on_disk_are_those_of_dovecot_and_courier(written: str, disk: str) -> None:
    assert folder_directory(written) == disk
