"""DKIM's two texts as values: the signature field and the key record (RFC 6376 §3.5, §3.6.1; RFC 8463).

Pure but for loading a public key. Fails with :class:`SignatureError` and :class:`RecordFault`, whose texts
are reasons for an Authentication-Results field. What is well formed but may not count as a pass (RFC 8301) is
found here too, before any octet is hashed: see :attr:`Signature.unacceptable` and :attr:`Key.unacceptable`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Literal

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from lorrainemail.addresses import AddressError, normalise_domain
from lorrainemail.mailauth.canonical import Form
from lorrainemail.mailauth.tags import TagError, parse_tags, without_space

#: Octets of one signature field, and of one key record, that are looked at.
MAX_SIGNATURE: Final = 16 * 1024
MAX_KEY: Final = 4096
#: Names in h=.
MAX_NAMES: Final = 1000
#: Bits of an RSA key that can pass (RFC 8301 §3.2 wants these at least); larger ones cost us too much.
MIN_RSA: Final = 1024
MAX_RSA: Final = 4096
#: Largest public exponent: what is larger only makes verification slow.
MAX_EXPONENT: Final = 1 << 32

#: Tags without which no signature can be checked.
NEEDED: Final = ("a", "b", "bh", "d", "h", "s")

_FORMS: Final[dict[str, Form]] = {"simple": "simple", "relaxed": "relaxed"}
_DIGITS = re.compile(rb"[0-9]{1,12}\Z")
_FIELD_NAME = re.compile(rb"[!-9;-~]+\Z")
_SELECTOR = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*\Z")

PADDING: Final = padding.PKCS1v15()
PREHASHED: Final = Prehashed(hashes.SHA256())


class SignatureError(ValueError):
    """The signature field is malformed."""


class RecordFault(ValueError):
    """The key record is malformed, revoked, or no key."""


@attrs.frozen(slots=True)
class Signature:
    """One DKIM-Signature field.

    :ivar domain: d=, normalised. ``selector``: s=. ``identity``: i= as given, or "@" and the domain.
    :ivar algorithm: a=, lower case. ``signature``: b= decoded. ``body_hash``: bh= decoded.
    :ivar names: h=, lower case, in order.
    :ivar limited: it has l=.
    :ivar made, expires: t= and x=, None where not given.
    :ivar unacceptable: why it could not count as a pass whatever its key says; "" where it could.
    """

    domain: str
    selector: str
    identity: str
    algorithm: str
    header_form: Form
    body_form: Form
    names: tuple[bytes, ...]
    signature: bytes
    body_hash: bytes
    limited: bool
    made: int | None
    expires: int | None

    @property
    def unacceptable(self) -> str:
        if self.algorithm == "rsa-sha1":
            return "rsa-sha1 is no longer trusted"  # RFC 8301 §3.1
        if self.limited:
            # RFC 6376 §8.2: whatever is added to the message would be covered.
            return "only a part of the body is signed (l=)"
        return ""


def base64_of(value: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(without_space(value), validate=True)
    except binascii.Error:
        raise SignatureError(f"{what} is not base64") from None


def _number(tags: dict[str, bytes], name: str) -> int | None:
    value = tags.get(name)
    if value is None:
        return None
    if not _DIGITS.match(value):
        raise SignatureError(f"{name}= is no number")
    return int(value)


def signature_tags(value: bytes, needed: Iterable[str]) -> dict[str, bytes]:
    """The tags of a signature field.

    :raises SignatureError: where it is too long or malformed, or one that is needed is missing.
    """
    if len(value) > MAX_SIGNATURE:
        raise SignatureError("the signature field is too long")
    try:
        tags = parse_tags(value)
    except TagError as error:
        raise SignatureError(str(error)) from None
    for name in needed:
        if not tags.get(name):
            raise SignatureError(f"{name}= is missing")
    return tags


def parse_signature(value: bytes) -> Signature:
    """A signature from its field's value.

    :raises SignatureError: RFC 6376 §6.1.1.
    """
    tags = signature_tags(value, ("v", *NEEDED))
    if tags["v"] != b"1":
        raise SignatureError("unknown version")
    return signature_of(tags)


def signature_of(tags: dict[str, bytes]) -> Signature:
    """A signature from its tags, of which the needed ones are there.

    :raises SignatureError: where one of them says nothing usable.
    """
    algorithm = _text(tags["a"]).lower()
    if algorithm not in ("rsa-sha256", "ed25519-sha256", "rsa-sha1"):
        raise SignatureError("unknown algorithm")
    header_form, _, body_form = _text(tags.get("c", b"simple/simple")).lower().partition("/")
    if header_form not in _FORMS or (body_form or "simple") not in _FORMS:
        raise SignatureError("unknown canonicalization")
    names = tuple(without_space(name).lower() for name in tags["h"].split(b":", MAX_NAMES))
    if len(names) > MAX_NAMES or not all(_FIELD_NAME.match(name) for name in names):
        raise SignatureError("h= is no list of field names")
    if b"from" not in names:
        raise SignatureError("From is not signed")  # RFC 6376 §5.4
    if "q" in tags and b"dns/txt" not in [part.strip() for part in tags["q"].lower().split(b":")]:
        raise SignatureError("unknown query method")
    domain, selector = _domain(tags["d"], "d"), _text(tags["s"]).lower()
    if not _SELECTOR.match(selector):
        raise SignatureError("s= is no selector")
    identity = _text(tags["i"]) if tags.get("i") else "@" + domain
    host = _domain(identity.rpartition("@")[2].encode("utf-8", "replace"), "i")
    if "@" not in identity or not (host == domain or host.endswith("." + domain)):
        raise SignatureError("i= is not within d=")  # RFC 6376 §3.5
    limit = _number(tags, "l")
    made, expires = _number(tags, "t"), _number(tags, "x")
    if made is not None and expires is not None and expires < made:
        raise SignatureError("it expires before it was made")
    return Signature(
        domain,
        selector,
        identity,
        algorithm,
        _FORMS[header_form],
        _FORMS[body_form or "simple"],
        names,
        base64_of(tags["b"], "b="),
        base64_of(tags["bh"], "bh="),
        limit is not None,
        made,
        expires,
    )


def _text(value: bytes) -> str:
    return without_space(value).decode("utf-8", "replace")


def _domain(value: bytes, tag: str) -> str:
    try:
        return normalise_domain(_text(value))
    except AddressError:
        raise SignatureError(f"{tag}= is no domain") from None


@attrs.frozen(slots=True)
class Key:
    """One key record.

    :ivar kind: "rsa" or "ed25519"; ``bits`` of it.
    :ivar hashes: h=, None where any hash may be used.
    :ivar strict: t=s, i= must be in exactly d= (RFC 6376 §3.6.1). ``testing``: t=y.
    """

    kind: Literal["rsa", "ed25519"]
    bits: int
    public: RSAPublicKey | Ed25519PublicKey
    hashes: tuple[str, ...] | None = None
    strict: bool = False
    testing: bool = False

    @property
    def unacceptable(self) -> str:
        """Why nothing signed with it may pass (RFC 8301 §3.2), "" where it may."""
        if isinstance(self.public, RSAPublicKey):
            if self.bits < MIN_RSA:
                return f"the key has only {self.bits} bits"
            if self.bits > MAX_RSA:
                return f"the key has {self.bits} bits, more than {MAX_RSA}"
            if self.public.public_numbers().e > MAX_EXPONENT:
                return "the key's exponent is too large"
        return ""

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether it made the signature of what has this SHA-256."""
        try:
            if isinstance(self.public, RSAPublicKey):
                self.public.verify(signature, digest, PADDING, PREHASHED)
            else:
                self.public.verify(signature, digest)  # RFC 8463 §3
        except (InvalidSignature, ValueError):
            return False
        return True


def is_key(record: bytes) -> bool:
    """Whether a TXT record may be a key at all; others at the same name are not looked at."""
    return b"p=" in record.replace(b" ", b"")


@lru_cache(maxsize=2048)
def parse_key(record: bytes) -> Key:
    """A key from its TXT record.

    :raises RecordFault: RFC 6376 §6.1.2.
    """
    if len(record) > MAX_KEY:
        raise RecordFault("the key record is too long")
    try:
        tags = parse_tags(record)
    except TagError as error:
        raise RecordFault(f"the key record is malformed: {error}") from None
    if "v" in tags and (tags["v"] != b"DKIM1" or next(iter(tags)) != "v"):
        raise RecordFault("the key record has an unknown version")
    if "p" not in tags:
        raise RecordFault("the key record has no key")
    services = [_text(part) for part in tags.get("s", b"*").split(b":")]
    if "*" not in services and "email" not in services:
        raise RecordFault("the key is not meant for mail")
    encoded = without_space(tags["p"])
    if not encoded:
        raise RecordFault("the key was revoked")
    try:
        octets = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise RecordFault("the key is not base64") from None
    kind = _text(tags.get("k", b"rsa")).lower()
    public = _public(kind, octets)
    hashes_allowed = None
    if "h" in tags:
        hashes_allowed = tuple(_text(part).lower() for part in tags["h"].split(b":"))
    flags = [_text(part) for part in tags.get("t", b"").split(b":")]
    rsa = isinstance(public, RSAPublicKey)
    return Key(
        "rsa" if rsa else "ed25519",
        public.key_size if isinstance(public, RSAPublicKey) else 256,
        public,
        hashes_allowed,
        "s" in flags,
        "y" in flags,
    )


def _public(kind: str, octets: bytes) -> RSAPublicKey | Ed25519PublicKey:
    try:
        if kind == "ed25519":
            return Ed25519PublicKey.from_public_bytes(octets)
        if kind == "rsa":
            try:
                key = load_der_public_key(octets)
            except ValueError:
                # RFC 6376 §3.6.1 wants the bare RSAPublicKey; nearly everybody has SubjectPublicKeyInfo.
                key = _bare_rsa(octets)
            if isinstance(key, RSAPublicKey):
                return key
    except (ValueError, UnsupportedAlgorithm):
        raise RecordFault("the key cannot be read") from None
    raise RecordFault("the key is of an unknown kind")


def _bare_rsa(octets: bytes) -> RSAPublicKey:
    """SEQUENCE of two INTEGERs (RFC 8017 §A.1.1)."""
    content, rest = _element(octets, 0x30)
    modulus, content = _element(content, 0x02)
    exponent, content = _element(content, 0x02)
    if rest or content:
        raise ValueError("octets after the key")
    return RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")).public_key()


def _element(octets: bytes, tag: int) -> tuple[bytes, bytes]:
    """One DER element of that tag: its content, and what follows it."""
    if len(octets) < 2 or octets[0] != tag:
        raise ValueError("no such element")
    length, start = octets[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(octets[2:start], "big")
    if start + length > len(octets):
        raise ValueError("an element is cut off")
    return octets[start : start + length], octets[start + length :]
