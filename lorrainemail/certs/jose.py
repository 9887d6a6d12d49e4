"""What ACME needs of JOSE: signed requests, the thumbprint of a key, the binding to an outside account.

Account keys are ECDSA on P-256, signatures ES256 (RFC 7518 §3.4). Pure; works on cryptography's keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def b64(data: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    """:raises ValueError: where that is no base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public key (RFC 7518 §6.2.1)."""
    numbers = key.public_key().public_numbers()
    return {
        "crv": "P-256",
        "kty": "EC",
        "x": b64(numbers.x.to_bytes(32, "big")),
        "y": b64(numbers.y.to_bytes(32, "big")),
    }


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """RFC 7638 §3: names in order, no white space."""
    return b64(hashlib.sha256(_compact(jwk(key))).digest())


def signed(
    key: ec.EllipticCurvePrivateKey, url: str, payload: Any, nonce: str | None = None, account: str = ""
) -> bytes:
    """A request's body (RFC 8555 §6.2).

    :param payload: what JSON can hold; None for POST-as-GET (RFC 8555 §6.3).
    :param account: the account's address; without one the public key itself says who asks.
    """
    head: dict[str, Any] = {"alg": "ES256", "url": url}
    if nonce is not None:
        head["nonce"] = nonce
    head.update({"kid": account} if account else {"jwk": jwk(key)})
    protected = b64(_compact(head))
    content = "" if payload is None else b64(_compact(payload))
    r, s = decode_dss_signature(key.sign(f"{protected}.{content}".encode(), ec.ECDSA(hashes.SHA256())))
    signature = b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    return _compact({"protected": protected, "payload": content, "signature": signature})


def bound(key: ec.EllipticCurvePrivateKey, url: str, identity: str, secret: bytes) -> dict[str, str]:
    """The binding to an account outside (RFC 8555 §7.3.4): our key, signed with theirs (HS256)."""
    protected = b64(_compact({"alg": "HS256", "kid": identity, "url": url}))
    payload = b64(_compact(jwk(key)))
    digest = hmac.new(secret, f"{protected}.{payload}".encode(), hashlib.sha256).digest()
    return {"protected": protected, "payload": payload, "signature": b64(digest)}


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
