"""TLSA records against the certificates that a mail server shows (RFC 6698, RFC 7671, RFC 7672 §3). Pure.

A record of usage DANE-EE(3) names the server's own certificate or key: nothing else of the certificate counts
then, neither names nor dates nor who signed it. One of usage DANE-TA(2) names an authority: the certificates
that were shown must lead from it to the server's, be valid now, and name the server. Of several records one
that fits is enough, so the next key can be published before it is used.

Called by :mod:`lorrainemail.tlspolicy.dane`, which finds the records, and, as a
:data:`~lorrainemail.net.tls.PeerCheck`, by the TLS handshake. Fails with
:class:`~lorrainemail.net.tls.PeerNotVerified`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from OpenSSL import crypto

from lorrainemail.net.certificates import names_of
from lorrainemail.net.tls import PeerNotVerified

#: Records of one name that are used.
MAX_RECORDS: Final = 24

DANE_TA: Final = 2
DANE_EE: Final = 3
FULL, SHA256, SHA512 = 0, 1, 2
_LENGTHS: Final = {SHA256: 32, SHA512: 64}


@attrs.frozen(slots=True)
class Tlsa:
    """One record (RFC 6698 §2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    @property
    def usable(self) -> bool:
        """Whether it can be used for mail: usages 0 and 1 cannot (RFC 7672 §3.1.3)."""
        if self.usage not in (DANE_TA, DANE_EE) or self.selector not in (0, 1):
            return False
        if self.matching != FULL:
            return len(self.data) == _LENGTHS.get(self.matching, -1)
        try:
            if self.selector == 0:
                x509.load_der_x509_certificate(self.data)
            else:
                load_der_public_key(self.data)
        except (ValueError, UnsupportedAlgorithm):
            return False
        return True

    def fits(self, certificate: x509.Certificate) -> bool:
        """Whether it names this certificate, or its key."""
        # The key as it stands there: another encoder may write it otherwise.
        subject = certificate.public_bytes(Encoding.DER) if self.selector == 0 else _spki(certificate)
        if self.matching == SHA256:
            subject = hashlib.sha256(subject).digest()
        elif self.matching == SHA512:
            subject = hashlib.sha512(subject).digest()
        return hmac.compare_digest(subject, self.data)


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Those that can be used, of each usage and selector with the strongest digest alone (RFC 7671 §9)."""
    good = [one for one in dict.fromkeys(records) if one.usable][:MAX_RECORDS]
    strong = {(one.usage, one.selector) for one in good if one.matching == SHA512}
    return tuple(one for one in good if one.matching != SHA256 or (one.usage, one.selector) not in strong)


@attrs.frozen(slots=True)
class TlsaCheck:
    """Whether shown certificates, leaf first, are those that records name.

    :ivar records: usable ones.
    :ivar names: any of which a certificate under DANE-TA must be for (RFC 7672 §3.2.2), lower case.
    """

    records: tuple[Tlsa, ...]
    names: tuple[str, ...]

    def __call__(self, chain: Sequence[x509.Certificate]) -> None:
        """:raises PeerNotVerified: where none of the records is fulfilled."""
        if not chain:
            raise PeerNotVerified("the server showed no certificate")
        leaf, *others = chain
        if any(one.usage == DANE_EE and one.fits(leaf) for one in self.records):
            return
        authorities = [one for one in self.records if one.usage == DANE_TA]
        if not authorities:
            raise PeerNotVerified("the certificate is none of those that the TLSA records name")
        anchors = list(_anchors(authorities, leaf, others))
        if not anchors:
            raise PeerNotVerified(
                "none of the certificates is one that the TLSA records name", "certificate-not-trusted"
            )
        _verify_path(leaf, others, anchors)
        if not any(is_for(leaf, name) for name in self.names):
            raise PeerNotVerified(f"the certificate is not for {self.names[0]}", "certificate-host-mismatch")


def is_for(certificate: x509.Certificate, name: str) -> bool:
    """Whether it names a server (RFC 9525 §6.3; its common name counts where it has no other, RFC 7672
    §3.2.3)."""
    names = names_of(certificate) or {
        str(one.value).lower() for one in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    }
    return name in names or "*." + name.partition(".")[2] in names


def _anchors(
    records: Sequence[Tlsa], leaf: x509.Certificate, others: Sequence[x509.Certificate]
) -> Iterable[x509.Certificate]:
    """Certificates that may be trusted because a record says so."""
    for record in records:
        yield from (one for one in others if record.fits(one))
        if record.matching != FULL:
            continue
        if record.selector == 0:  # the authority itself, which need not be shown
            yield x509.load_der_x509_certificate(record.data)
        else:  # its key: what that has signed is as good as itself
            key = load_der_public_key(record.data)
            yield from (one for one in (leaf, *others) if _signed_by(one, key))


def _verify_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> None:
    """That the certificates lead from one of the anchors to the leaf, and are valid now."""
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # an anchor need not be a root
    for one in anchors:
        store.add_cert(crypto.X509.from_cryptography(one))
    shown = [crypto.X509.from_cryptography(one) for one in others]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), shown)
    try:
        context.verify_certificate()
    except crypto.X509StoreContextError as error:
        code, words = (error.errors[0], str(error.errors[-1])) if error.errors else (0, str(error))
        fault = "certificate-expired" if code in (9, 10) else "certificate-not-trusted"
        raise PeerNotVerified(f"the chain to the TLSA record's authority: {words}", fault) from None


def _signed_by(certificate: x509.Certificate, key: Any) -> bool:
    try:
        signature, body = certificate.signature, certificate.tbs_certificate_bytes
        digest = certificate.signature_hash_algorithm
        if isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(signature, body, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and digest is not None:
            parameters = certificate.signature_algorithm_parameters
            scheme = parameters if isinstance(parameters, padding.PSS) else padding.PKCS1v15()
            key.verify(signature, body, scheme, digest)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, body)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _spki(certificate: x509.Certificate) -> bytes:
    """The SubjectPublicKeyInfo, octet for octet (RFC 5280 §4.1)."""
    body = certificate.tbs_certificate_bytes
    at, _ = _element(body, 0)
    # version, serial number, signature, issuer, validity, subject; the version may be left out
    for _ in range(6 if body[at] == 0xA0 else 5):
        _, at = _element(body, at)
    return body[at : _element(body, at)[1]]


def _element(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of a DER element begins and ends; the whole was parsed before, so it is sound."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, start = int.from_bytes(data[start : start + octets], "big"), start + octets
    return start, start + length
