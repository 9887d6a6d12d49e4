"""Passwords hashed by other servers open the door here, and nothing that only looks like them does."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account, Credential
from lorrainemail.sasl import foreign
from lorrainemail.sasl.credentials import faults, is_stale, matches, renewed, to_be_tried

PASSWORD = "pässword".encode()


@pytest.fixture
def fresh() -> Iterator[None]:
    """What was found of the system is looked for anew, before and after."""
    foreign._verifier.cache_clear()
    foreign._crypt_r.cache_clear()
    yield
    foreign._verifier.cache_clear()
    foreign._crypt_r.cache_clear()


#: The password "x" by crypt(3).
CRYPTED = {
    "sha512-crypt": "$6$rounds=1000$abcdefgh$4TrI6cXa4n9N0SC1fS0MHCSOjLGo8LvKKddTcWCgNfCi7WcWMCAoAaYAPNlItHgu"
    "68UaJgvsZH7rlRtu1l5rW/",
    "sha256-crypt": "$5$rounds=1000$abcdefgh$u9otfMRaLa8naphuhy/dT1CAmGtji1ACymPmfnH5lv7",
    "blf-crypt": "$2b$04$YqFF0hxnyNoCqmVeFDC2N.9YR5X3O5wukkc34G7VjPr8knFA.vjm6",
    "md5-crypt": "$1$abcdefgh$znAnv9M.XU2pRYfmSs46h/",
    "des-crypt": "abiQ6Ep3EYTHc",
}


@pytest.mark.parametrize("scheme", CRYPTED)
@pytest.mark.parametrize("system", [True, False])
def test_crypt_is_checked_by_the_system_or_by_the_extra(
    fresh: None, scheme: str, system: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not system:
        monkeypatch.setattr(foreign, "_crypt_r", lambda: None)
        monkeypatch.setattr(foreign._crypt_r, "cache_clear", lambda: None, raising=False)
    for credential in (Credential(scheme, CRYPTED[scheme]), Credential("crypt", CRYPTED[scheme])):
        assert foreign.fault(credential) is None
        assert matches(credential, b"x") and not matches(credential, b"y")


def test_without_libcrypt_and_extra_check_says_what_to_install(
    fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "_crypt_r", lambda: None)
    monkeypatch.setattr(foreign._crypt_r, "cache_clear", lambda: None, raising=False)
    for name in ("passlib", "passlib.hash", "bcrypt"):
        monkeypatch.setitem(sys.modules, name, None)
    for scheme in ("sha512-crypt", "blf-crypt"):
        fault = foreign.fault(Credential(scheme, CRYPTED[scheme]))
        assert fault is not None and fault[1] == "pip install 'lorrainemail[migrate]'"
        assert not matches(Credential(scheme, CRYPTED[scheme]), b"x")


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


SIMPLE = {
    "sha": b64(hashlib.sha1(PASSWORD).digest()),
    "sha.hex": hashlib.sha1(PASSWORD).hexdigest(),
    "ssha": b64(hashlib.sha1(PASSWORD + b"salt").digest() + b"salt"),
    "ssha.hex": (hashlib.sha1(PASSWORD + b"salt").digest() + b"salt").hex(),
    "ssha256.b64": b64(hashlib.sha256(PASSWORD + b"salt").digest() + b"salt"),
    "ssha512": b64(hashlib.sha512(PASSWORD + b"salty").digest() + b"salty"),
    "plain-md5": hashlib.md5(PASSWORD).hexdigest(),
    "ldap-md5": b64(hashlib.md5(PASSWORD).digest()),
    "smd5": b64(hashlib.md5(PASSWORD + b"s").digest() + b"s"),
    "plain": "pässword",
    "pbkdf2": f"$1$salt$1000${hashlib.pbkdf2_hmac('sha1', PASSWORD, b'salt', 1000, 20).hex()}",
}


@pytest.mark.parametrize("scheme", SIMPLE)
def test_simple_hashes_are_checked_and_replaced(scheme: str) -> None:
    credential = Credential(scheme, SIMPLE[scheme])
    assert foreign.fault(credential) is None
    assert matches(credential, PASSWORD) and not matches(credential, b"password")
    assert is_stale((credential,), credential, False)
    (ours,) = renewed((credential,), credential, PASSWORD, False)
    assert ours.scheme == "argon2id" and matches(ours, PASSWORD) and not is_stale((ours,), ours, False)


@pytest.mark.parametrize("value", ["", "*", "!", "!!", "!$6$abcdefgh$x", "x"])
def test_a_locked_row_of_shadow_lets_nobody_in_and_alarms_nobody(value: str) -> None:
    credential = Credential("crypt", value)
    account = Account(parse_address("bob@x.org"), credentials=(credential,))
    assert to_be_tried((credential,)) == () and faults(account) == []
    assert not matches(credential, b"") and not matches(credential, value.encode())


@pytest.mark.parametrize(
    ("scheme", "value", "words"),
    [
        ("cram-md5", "00", "unknown"),
        ("crypt", "$9$what", "none of the kinds"),
        ("sha512-crypt", "$6$rounds=999999999$abcdefgh$x", "too many rounds"),
        ("blf-crypt", "$2b$31$YqFF0hxnyNoCqmVeFDC2N.9YR5X3O5wukkc34G7VjPr8knFA.vjm6", "too many rounds"),
        ("ssha", "x" * 2000, "too long"),
    ],
)
def test_what_cannot_be_checked_has_a_reason(scheme: str, value: str, words: str) -> None:
    account = Account(parse_address("bob@x.org"), credentials=(Credential(scheme, value),))
    ((what, mend),) = faults(account)
    assert words in what and mend == "set a new password"
    assert not matches(account.credentials[0], b"x")


@given(
    st.sampled_from(
        ["sha", "ssha", "ssha512", "sha256.hex", "pbkdf2", "argon2i", "crypt", "plain.b64", "sha512-crypt"]
    ),
    st.text(max_size=60)
    | st.from_regex(r"\A\$[125y]\$[a-z./$0-9]{0,40}\Z")
    | st.from_regex(r"\A[A-Za-z0-9+/]{0,40}={0,2}\Z"),
)
def test_no_value_in_the_table_raises_or_opens(scheme: str, value: str) -> None:
    credential = Credential(scheme, value)
    if foreign.fault(credential) is None:
        assert not matches(credential, b"the right password, never stored")
