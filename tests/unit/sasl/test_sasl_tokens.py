"""Tokens: whose they are, and everything that is no good token."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.errors import TemporaryError
from lorrainemail.net.web import Answer, Unanswered
from lorrainemail.sasl.bearer import Claim, parse_claim
from lorrainemail.sasl.oauth import ANSWER_FRESH, KEYS_FRESH, KEYS_GAP, KEYS_KEPT, Introspection, KeySet
from lorrainemail.sasl.tokens import (
    Expected,
    Rejected,
    check_claims,
    parse_keys,
    verified_claims,
)

NOW = 1_800_000_000.0
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
EXPECTED = Expected("https://id.test", ("mail",), ("mail.read",))
GOOD = {
    "iss": "https://id.test",
    "aud": ["other", "mail"],
    "exp": NOW + 600,
    "iat": NOW - 5,
    "scope": "openid mail.read",
    "email": "bob@x.org",
    "email_verified": True,
}


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwks(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


RSA_KEY = {
    "kty": "RSA",
    "kid": "r",
    "use": "sig",
    "alg": "RS256",
    "n": number(RSA.public_key().public_numbers().n),
    "e": "AQAB",
}
EC_KEY = {
    "kty": "EC",
    "kid": "e",
    "crv": "P-256",
    "x": b64(EC.public_key().public_numbers().x.to_bytes(32, "big")),
    "y": b64(EC.public_key().public_numbers().y.to_bytes(32, "big")),
}
ED_KEY = {"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": b64(ED.public_key().public_bytes_raw())}
KEYS = parse_keys(jwks(RSA_KEY, EC_KEY, ED_KEY))


def sign(algorithm: str, data: bytes) -> bytes:
    if algorithm == "RS256":
        return RSA.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if algorithm == "ES256":
        r, s = decode_dss_signature(EC.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return ED.sign(data)


def token(claims: Any = GOOD, algorithm: str = "RS256", kid: str = "r", **header: Any) -> bytes:
    head = {"alg": algorithm, "typ": "JWT", **({"kid": kid} if kid else {}), **header}
    signed = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}".encode()
    return signed + b"." + b64(sign(algorithm, signed)).encode()


@pytest.mark.parametrize(
    ("algorithm", "kid"), [("RS256", "r"), ("ES256", "e"), ("EdDSA", "d"), ("RS256", "")]
)
def test_each_algorithm_proves_a_token(algorithm: str, kid: str) -> None:
    claims = verified_claims(token(algorithm=algorithm, kid=kid), KEYS)
    assert check_claims(claims, EXPECTED, NOW) == "bob@x.org"


def test_the_ed25519_example_of_rfc_8037_is_good() -> None:
    # RFC 8037 appendix A.4: the payload is no object, so it is refused only after its signature was right.
    keys = parse_keys(
        jwks({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    )
    example = (
        b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        b"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    with pytest.raises(Rejected, match="claims are malformed"):
        verified_claims(example, keys)
    with pytest.raises(Rejected, match="signature is wrong"):
        verified_claims(example[:-4] + b"AAAA", keys)


def hmac_by_public_key() -> bytes:
    """The old trick: an HMAC whose key is the public one."""
    return token(algorithm="RS256").replace(
        b64(b'{"alg": "RS256"').encode()[:20], b64(b'{"alg": "HS256"').encode()[:20]
    )


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"a.b",
        b"a.b.c.d",
        token()[:-6] + b"AAAAAA",
        token(kid="e"),
        token(algorithm="ES256", kid="r"),
        token(crit=["exp"]),
        b"x" * 9000,
        hmac_by_public_key(),
        b64(b'{"alg":"none"}').encode() + b"." + b64(json.dumps(GOOD).encode()).encode() + b".",
        token(GOOD).replace(b".", b".A", 1),
        token(["no", "object"]),
        b64(b"[" * 100_000).encode()[:8000] + b"..",
        "é.é.é".encode(),
    ],
)
def test_what_is_not_signed_by_a_key_of_the_set_is_refused(bad: bytes) -> None:
    with pytest.raises(Rejected):
        verified_claims(bad, KEYS)


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        ({"iss": "https://id.test/"}, False),
        ({"iss": None}, False),
        ({"aud": "mail2"}, False),
        ({"aud": None}, False),
        ({"exp": NOW - 61}, True),
        ({"exp": None}, False),
        ({"exp": True}, False),
        ({"exp": "never"}, False),
        ({"exp": float("nan")}, False),
        ({"nbf": NOW + 61}, True),
        ({"iat": NOW + 3600}, True),
        ({"scope": "openid"}, True),
        ({"email": ""}, True),
        ({"email": ["bob@x.org"]}, True),
        ({"email_verified": False}, True),
    ],
)
def test_what_a_token_must_say_is_asked_for(change: dict[str, Any], ended: bool) -> None:
    with pytest.raises(Rejected) as rejected:
        check_claims({**GOOD, **change}, EXPECTED, NOW)
    assert rejected.value.ended is ended


def test_clocks_may_differ_by_a_minute_and_scopes_may_be_a_list() -> None:
    claims = {**GOOD, "exp": NOW - 59, "nbf": NOW + 59, "scp": ["mail.read"], "aud": "mail"}
    del claims["scope"]
    assert check_claims(claims, EXPECTED, NOW) == "bob@x.org"


def test_weak_foreign_and_broken_keys_are_passed_over() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    entries: list[Any] = [
        {**RSA_KEY, "n": number(weak.n)},
        {**RSA_KEY, "use": "enc"},
        {**RSA_KEY, "alg": "RS512"},
        {**EC_KEY, "y": EC_KEY["x"]},
        {**ED_KEY, "x": "AAAA"},
        {"kty": "oct", "k": "c2VjcmV0"},
        "text",
        EC_KEY,
    ]
    assert [key.kid for key in parse_keys(jwks(*entries))] == ["e"]
    for document in (b"[]", b"{}", b"no json", b'{"keys": {}}'):
        with pytest.raises(ValueError):
            parse_keys(document)


@given(
    st.binary(max_size=300)
    | st.text(alphabet="n,a=bob@x.org\x01authBearer xyz.", max_size=80).map(str.encode)
)
def test_no_octets_of_a_client_raise_anything_but_value_error(message: bytes) -> None:
    for mechanism in ("OAUTHBEARER", "XOAUTH2"):
        try:
            parse_claim(mechanism, message)
        except ValueError:
            pass


def test_the_examples_of_rfc_7628_are_understood() -> None:
    # RFC 7628 §4.1.
    message = b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01"
    message += b"auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"
    claim = parse_claim("OAUTHBEARER", message)
    assert claim == Claim(b"user@example.com", b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")
    assert parse_claim("XOAUTH2", b"user=a@b\x01auth=Bearer t\x01\x01") == Claim(b"a@b", b"t")
    assert "vF9" not in repr(claim)
    for broken in (
        b"n,,\x01auth=\x01\x01",
        b"p=x,,\x01auth=Bearer t\x01\x01",
        b"n,,",
        b"n,,\x01auth=Basic t\x01\x01",
    ):
        with pytest.raises(ValueError):
            parse_claim("OAUTHBEARER", broken)


# -- keys and answers over time --------------------------------------------------------------------------


class Provider:
    """Answers, or does not; counts."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, bytes | None, Any]] = []

    async def __call__(self, url: str, body: bytes | None = None, headers: Any = None) -> Answer:
        self.asked.append((url, body, headers))
        return self.answer()


def silent() -> Answer:
    raise Unanswered("no route to host")


def outcome(work: Any) -> Any:
    results: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(results.append)
    (result,) = results
    return getattr(result, "value", result)


def test_keys_are_fetched_once_and_again_when_they_changed_or_grew_old() -> None:
    clock = Clock()
    provider = Provider(lambda: Answer(200, jwks(RSA_KEY)))
    keys = KeySet("https://id.test/keys", EXPECTED, provider, clock, lambda: NOW)
    for _ in range(5):
        assert outcome(keys.account_name(token())) == "bob@x.org"
    assert len(provider.asked) == 1
    # A key that is new to us: asked for at once, but not for every forged token.
    clock.advance(KEYS_GAP)
    provider.answer = lambda: Answer(200, jwks(RSA_KEY, EC_KEY))
    assert outcome(keys.account_name(token(algorithm="ES256", kid="e"))) == "bob@x.org"
    for _ in range(50):
        assert isinstance(outcome(keys.account_name(token(kid="forged"))), Rejected)
    assert len(provider.asked) == 2
    clock.advance(KEYS_FRESH + 1)
    outcome(keys.account_name(token()))
    assert len(provider.asked) == 3


def test_a_provider_that_is_away_keeps_nobody_out_for_a_day() -> None:
    clock = Clock()
    provider = Provider(lambda: Answer(200, jwks(RSA_KEY)))
    keys = KeySet("https://id.test/keys", EXPECTED, provider, clock, lambda: NOW)
    outcome(keys.account_name(token()))
    for answer in (
        silent,
        lambda: Answer(500, b""),
        lambda: Answer(200, b"<html>"),
        lambda: Answer(200, jwks()),
    ):
        provider.answer = answer
        clock.advance(KEYS_FRESH + 1)
        assert outcome(keys.account_name(token())) == "bob@x.org"
    clock.advance(KEYS_KEPT)
    failure = outcome(keys.account_name(token()))
    assert isinstance(failure, TemporaryError) and failure.reply.code == 454


def test_logins_at_the_same_moment_wait_for_one_question() -> None:
    waiting: list[Deferred[Answer]] = []

    async def ask(url: str, body: bytes | None = None, headers: Any = None) -> Answer:
        waiting.append(Deferred())
        return await waiting[-1]

    keys = KeySet("https://id.test/keys", EXPECTED, ask, Clock(), lambda: NOW)
    results: list[Any] = []
    for _ in range(3):
        Deferred.fromCoroutine(keys.account_name(token())).addBoth(results.append)
    assert len(waiting) == 1 and results == []
    waiting[0].callback(Answer(200, jwks(RSA_KEY)))
    assert results == ["bob@x.org"] * 3


def test_introspection_asks_as_the_client_that_we_are_and_remembers_for_a_minute() -> None:
    clock = Clock()
    said = {"active": True, "aud": "mail", "scope": "mail.read", "email": "bob@x.org", "exp": NOW + 9}
    provider = Provider(lambda: Answer(200, json.dumps(said).encode()))
    tokens = Introspection(
        "https://id.test/i", EXPECTED, lambda: ("m:l", "p w"), provider, clock, lambda: NOW
    )
    for _ in range(3):
        assert outcome(tokens.account_name(b"opaque+/=")) == "bob@x.org"
    ((url, body, headers),) = provider.asked
    assert url == "https://id.test/i" and body == b"token=opaque%2B%2F%3D&token_type_hint=access_token"
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"m%3Al:p%20w"
    said["active"] = False
    clock.advance(ANSWER_FRESH + 1)
    assert isinstance(outcome(tokens.account_name(b"opaque+/=")), Rejected)


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (Answer(200, b'{"active": true, "email": "bob@x.org", "scope": "mail.read"}'), Rejected),
        (Answer(200, b'{"active": "true", "aud": "mail", "email": "bob@x.org"}'), Rejected),
        (Answer(401, b""), TemporaryError),
        (Answer(200, b"[]"), TemporaryError),
        (Answer(200, b"[" * 100_000), TemporaryError),
    ],
)
def test_an_answer_that_does_not_say_yes_lets_nobody_in(answer: Answer, failure: type) -> None:
    tokens = Introspection(
        "https://id.test/i", EXPECTED, lambda: None, Provider(lambda: answer), Clock(), lambda: NOW
    )
    assert isinstance(outcome(tokens.account_name(b"opaque")), failure)
