"""Signed tokens (JWT, RFC 7519) and the key sets that they are checked against (JWKS, RFC 7517). Pure.

Called by :mod:`lorrainemail.sasl.oauth`. Three algorithms (RFC 7518, RFC 8037): RS256, ES256, EdDSA with
Ed25519. The algorithm must fit the key, never the other way round (RFC 8725 §3.1), "none" and HMAC do not
exist here, and a header that asks for an extension is refused (RFC 7515 §4.1.11). Everything wrong is
:class:`Rejected`, whose text is for the log.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

#: A token in octets; those with many claims have four thousand.
MAX_TOKEN: Final = 8192
#: Keys of a set; providers have two or three.
MAX_KEYS: Final = 64
#: RFC 7518 §3.3.
LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 8192
#: Clocks differ by so many seconds (RFC 7519 §4.1.4).
LEEWAY: Final = 60.0
_P256_OCTETS: Final = 32

Algorithm = Literal["RS256", "ES256", "EdDSA"]


class Rejected(Exception):
    """Not a good token.

    :ivar unknown_key: no key of the set is meant: a newer set may have it.
    :ivar ended: it was good once: whoever shows it guesses nothing.
    """

    def __init__(self, reason: str, unknown_key: bool = False, ended: bool = False) -> None:
        super().__init__(reason)
        self.unknown_key = unknown_key
        self.ended = ended


class Tokens(Protocol):
    """Knows whose a token is (:mod:`lorrainemail.sasl.oauth`)."""

    async def account_name(self, token: bytes) -> str:
        """The account's name.

        :raises Rejected: for a token that is not good.
        :raises TemporaryError: where that cannot be known now.
        """


@attrs.frozen(slots=True)
class Key:
    """One public key of a set."""

    kid: str
    algorithm: Algorithm
    check: Callable[[bytes, bytes], None] = attrs.field(repr=False)


def parse_keys(document: bytes) -> tuple[Key, ...]:
    """The keys of a set that we can use; others in it are passed over (RFC 7517 §5).

    :raises ValueError: where it is no key set.
    """
    parsed = json.loads(document)
    listed = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(listed, list):
        raise ValueError("no list of keys")
    keys: list[Key] = []
    for entry in listed[:MAX_KEYS]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            algorithm, check = _key(entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if entry.get("alg", algorithm) in (algorithm, "Ed25519" if algorithm == "EdDSA" else algorithm):
            kid = entry.get("kid", "")
            keys.append(Key(kid if isinstance(kid, str) else "", algorithm, check))
    return tuple(keys)


def _key(entry: dict[str, Any]) -> tuple[Algorithm, Callable[[bytes, bytes], None]]:
    kind = entry["kty"]
    if kind == "RSA":
        modulus, exponent = (int.from_bytes(_unbase64(entry[name]), "big") for name in ("n", "e"))
        if not LEAST_RSA_BITS <= modulus.bit_length() <= MOST_RSA_BITS or exponent.bit_length() > 64:
            raise ValueError("a key of another size")
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        return "RS256", lambda signature, data: public.verify(signature, data, padding.PKCS1v15(), SHA256())
    if kind == "EC" and entry["crv"] == "P-256":
        x, y = (int.from_bytes(_unbase64(entry[name]), "big") for name in ("x", "y"))
        point = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()

        def check(signature: bytes, data: bytes) -> None:
            # RFC 7518 §3.4: both numbers one after the other.
            if len(signature) != 2 * _P256_OCTETS:
                raise InvalidSignature()
            r = int.from_bytes(signature[:_P256_OCTETS], "big")
            s = int.from_bytes(signature[_P256_OCTETS:], "big")
            point.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))

        return "ES256", check
    if kind == "OKP" and entry["crv"] == "Ed25519":
        return "EdDSA", ed25519.Ed25519PublicKey.from_public_bytes(_unbase64(entry["x"])).verify
    raise ValueError("a key of another kind")


def verified_claims(token: bytes, keys: Sequence[Key]) -> dict[str, Any]:
    """What a token says, its signature checked and nothing else.

    :raises Rejected: where it is malformed, or signed by nobody of the set.
    """
    parts = token.split(b".")
    if len(token) > MAX_TOKEN or len(parts) != 3:
        raise Rejected("it is no signed token")
    try:
        header = _object(_unbase64(parts[0]))
        signature = _unbase64(parts[2])
    except (ValueError, RecursionError):
        raise Rejected("its header or signature is malformed") from None
    if "crit" in header:
        raise Rejected("it asks for an extension")
    algorithm, kid = header.get("alg"), header.get("kid", "")
    fitting = [key for key in keys if key.algorithm == algorithm and (not kid or key.kid == kid)]
    if algorithm not in ("RS256", "ES256", "EdDSA"):
        raise Rejected("it is signed by an algorithm that is not believed here")
    if not fitting:
        raise Rejected("the key that it names is not in the set", unknown_key=True)
    signed = parts[0] + b"." + parts[1]
    for key in fitting:
        try:
            key.check(signature, signed)
        except (InvalidSignature, ValueError):
            continue
        try:
            return _object(_unbase64(parts[1]))
        except (ValueError, RecursionError):
            raise Rejected("its claims are malformed") from None
    raise Rejected("its signature is wrong")


@attrs.frozen(slots=True)
class Expected:
    """What a token must say.

    :ivar issuer: who made it; ``audience`` whom it is for: one of these.
    :ivar scopes: what it must allow, all of it.
    :ivar claim: where the account's name stands.
    """

    issuer: str
    audience: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    claim: str = "email"


def check_claims(claims: dict[str, Any], expected: Expected, now: float, asked: bool = False) -> str:
    """The name of the account that the claims are for (RFC 7519 §4.1, RFC 8725 §3.8 to §3.10).

    :param now: wall-clock seconds.
    :param asked: they are the issuer's own answer (RFC 7662 §2.2), which need not name it or an end.
    :raises Rejected: with the reason.
    """
    issuer = claims.get("iss", expected.issuer if asked else None)
    if issuer != expected.issuer:
        raise Rejected("it is of another issuer")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(one, str) and one in expected.audience for one in named):
        raise Rejected("it is for another audience")
    ends: Any = claims.get("exp", now + 1 if asked else None)
    if not _is_time(ends):
        raise Rejected("it has no end")
    if ends <= now - LEEWAY:
        raise Rejected("it has ended", ended=True)
    for name in ("nbf", "iat"):
        begins: Any = claims.get(name, now)
        if not _is_time(begins) or begins > now + LEEWAY:
            raise Rejected("it is not valid yet", ended=True)
    allowed = claims.get("scope", claims.get("scp", ""))
    words = allowed.split() if isinstance(allowed, str) else allowed if isinstance(allowed, list) else []
    if not all(scope in words for scope in expected.scopes):
        raise Rejected("it does not allow mail", ended=True)
    owner = claims.get(expected.claim)
    if not isinstance(owner, str) or not owner:
        raise Rejected(f"it has no claim {expected.claim}", ended=True)
    if expected.claim == "email" and claims.get("email_verified", True) not in (True, "true"):
        raise Rejected("its e-mail address was never verified", ended=True)
    return owner


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53


def _object(octets: bytes) -> dict[str, Any]:
    parsed = json.loads(octets)
    if not isinstance(parsed, dict):
        raise ValueError("no object")
    return parsed


def _unbase64(text: str | bytes) -> bytes:
    """Base64url without padding (RFC 7515 §2)."""
    octets = text.encode("ascii") if isinstance(text, str) else text
    try:
        return base64.b64decode(octets + b"=" * (-len(octets) % 4), b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
