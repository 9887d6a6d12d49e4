"""What clients may send in AUTH, and what becomes of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.mechanisms import (
    CANCELLED,
    CANNOT_DECODE,
    CREDENTIALS_INVALID,
    MAX_LINE,
    MAX_NAME,
    MAX_PASSWORD,
    TOO_LONG,
    UNKNOWN_MECHANISM,
    Claim,
    prepare_name,
    prepare_password,
)

SESSION = Session(id="s", door="submission")


class Anybody(PasswordLogins):
    """Answers with the claim itself."""

    async def authenticate(self, username: bytes, password: bytes, session: Any, mechanism: str = "") -> Any:
        return Claim(username, password, mechanism)


class Exchange:
    """An exchange whose answers come at once."""

    def __init__(self, mechanism: bytes, initial: bytes | None = None) -> None:
        self._exchange = Anybody().exchange(mechanism, initial, SESSION)

    def start(self) -> Any:
        return result_of(self._exchange.start())

    def receive(self, line: bytes) -> Any:
        return result_of(self._exchange.receive(line))


def result_of(work: Any) -> Any:
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result


def b64(octets: bytes) -> bytes:
    return base64.b64encode(octets)


def test_plain_with_initial_response_is_done_in_one_step() -> None:
    claim = Exchange(b"plain", b64(b"\0bob\0secret")).start()
    assert claim == Claim(b"bob", b"secret", "PLAIN")


def test_plain_without_initial_response_gets_an_empty_challenge() -> None:
    exchange = Exchange(b"PLAIN")
    assert exchange.start() == b""
    assert exchange.receive(b64(b"bob\0bob\0secret")) == Claim(b"bob", b"secret", "PLAIN")


def test_plain_authzid_in_another_writing_of_the_same_name_is_accepted() -> None:
    claim = Exchange(b"PLAIN", b64("BÉ@x.org\0be\u0301@x.org\0pw".encode())).start()
    assert isinstance(claim, Claim)


def test_plain_acting_as_somebody_else_is_refused() -> None:
    with pytest.raises(PermanentError) as refusal:
        Exchange(b"PLAIN", b64(b"alice\0bob\0secret")).start()
    assert refusal.value.reply == CREDENTIALS_INVALID


@pytest.mark.parametrize(
    "message", [b"", b"bob", b"\0bob", b"\0\0pw", b"\0bob\0", b"\0bob\0pw\0", b"a\0b\0c\0d"]
)
def test_plain_with_wrong_nuls_or_empty_parts_is_malformed_not_a_login(message: bytes) -> None:
    with pytest.raises(PermanentError) as refusal:
        Exchange(b"PLAIN", b64(message) or b"=").start()
    assert refusal.value.reply == CANNOT_DECODE


def test_login_asks_for_name_and_password() -> None:
    exchange = Exchange(b"LOGIN")
    assert exchange.start() == b64(b"Username:")
    assert exchange.receive(b64(b"bob")) == b64(b"Password:")
    assert exchange.receive(b64(b"se\xc3\xa9")) == Claim(b"bob", b"se\xc3\xa9", "LOGIN")


def test_login_takes_the_name_as_initial_response() -> None:
    exchange = Exchange(b"LOGIN", b64(b"bob"))
    assert exchange.start() == b64(b"Password:")
    assert exchange.receive(b64(b"pw")) == Claim(b"bob", b"pw", "LOGIN")


@pytest.mark.parametrize("line", [b"!!!!", b"YQ", b"Y Q==", b"=", b"YQ==\0", "é".encode(), b"YQ==YQ=="])
def test_bad_base64_is_refused_with_501(line: bytes) -> None:
    exchange = Exchange(b"LOGIN")
    exchange.start()
    with pytest.raises(PermanentError) as refusal:
        exchange.receive(line)
    assert refusal.value.reply == CANNOT_DECODE


def test_a_star_cancels_the_exchange() -> None:
    exchange = Exchange(b"PLAIN")
    exchange.start()
    with pytest.raises(PermanentError) as refusal:
        exchange.receive(b"*")
    assert refusal.value.reply == CANCELLED


def test_an_endless_line_is_refused() -> None:
    exchange = Exchange(b"PLAIN")
    exchange.start()
    with pytest.raises(PermanentError) as refusal:
        exchange.receive(b"A" * (MAX_LINE + 4))
    assert refusal.value.reply == TOO_LONG


@pytest.mark.parametrize("name", [b"CRAM-MD5", b"", b"PL\xc3\xa4IN", b"X" * 1000])
def test_unknown_mechanism_is_504(name: bytes) -> None:
    with pytest.raises(PermanentError) as refusal:
        Exchange(name)
    assert refusal.value.reply == UNKNOWN_MECHANISM


def test_password_is_the_same_whichever_way_its_accents_were_typed() -> None:
    composed = prepare_password("é\u00a0x".encode())
    assert composed == prepare_password("e\u0301 x".encode()) == "é x".encode()


@pytest.mark.parametrize("password", [b"", b"a\0b", b"tab\t", b"\xff\xfe", b"x" * (MAX_PASSWORD + 1)])
def test_what_is_no_password_is_none(password: bytes) -> None:
    assert prepare_password(password) is None


@pytest.mark.parametrize("name", [b"", b"a\nb", b"\xff", b"x" * (MAX_NAME + 1)])
def test_what_is_no_name_is_none(name: bytes) -> None:
    assert prepare_name(name) is None


def test_a_claim_shows_no_password() -> None:
    assert "secret" not in repr(Claim(b"bob", b"secret", "PLAIN"))


@given(
    st.binary(max_size=200),
    st.lists(st.binary(max_size=80), max_size=4),
    st.sampled_from([b"PLAIN", b"LOGIN"]),
)
def test_no_octets_raise_anything_but_a_reply(initial: bytes, lines: list[bytes], mechanism: bytes) -> None:
    try:
        exchange = Exchange(mechanism, initial or None)
        answer = exchange.start()
        for line in lines:
            if isinstance(answer, Claim):
                break
            answer = exchange.receive(line)
    except PermanentError:
        pass


@given(st.text(min_size=1, max_size=60))
def test_preparing_a_password_twice_changes_nothing(text: str) -> None:
    try:
        once = prepare_password(text.encode())
    except UnicodeEncodeError:
        return
    if once is not None:
        assert prepare_password(once) == once
