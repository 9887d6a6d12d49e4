"""A certificate with its key, read from PEM files and looked at: is it usable, for which names, until when.

Callers: :mod:`lorrainemail.net.tls` makes server contexts of what is read here, :mod:`lorrainemail.certs`
watches the files. Files are read once, in :func:`load`, which checks that chain and key fit together and that
TLS takes them; whatever happens to the files afterwards, what was checked is what is served. Blocking, small
and bounded. Fails with :class:`~lorrainemail.errors.ConfigurationError` that names the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from OpenSSL import SSL

from lorrainemail.errors import ConfigurationError, Problem

#: Suites for TLS 1.2: forward secrecy and authenticated encryption (RFC 9325 §4.2). TLS 1.3 has its own.
MODERN: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL"
#: For ``[tls] old_peers`` on the smtp door: anything that still encrypts beats clear text there.
OLD: Final = b"HIGH:!aNULL:!eNULL:@SECLEVEL=0"
#: A PEM file larger than this is not a certificate chain or a key.
MAX_PEM_OCTETS: Final = 1 << 20
#: Certificates in one chain; public authorities send two or three.
MAX_CHAIN: Final = 16

# OpenSSL's SSL_OP_NO_RENEGOTIATION and SSL_MODE_RELEASE_BUFFERS; pyOpenSSL names the first one lately only.
NO_RENEGOTIATION: Final = 1 << 30
RELEASE_BUFFERS: Final = 0x10

#: A private key of cryptography's: RSA, EC or Ed25519.
Key = Any


@attrs.frozen(slots=True)
class CertificatePair:
    """Files of one certificate: its PEM chain, leaf first, and its private key."""

    certificate: str
    key: str


@attrs.frozen(slots=True, eq=False)
class Loaded:
    """One certificate that was read and can be served.

    :ivar kind: of its key: "ecdsa", "rsa", "ed25519". Of each kind one is shown for a name, and the client's
        abilities choose between them.
    :ivar names: DNS names that it is good for, lower case; ``*.`` in front of a wildcard.
    :ivar fingerprint: SHA-256 of the certificate, ``public_key`` of its SubjectPublicKeyInfo (the matching
        data of a TLSA record 3 1 1, RFC 6698 §2.1), both in hexadecimal.
    """

    pair: CertificatePair
    kind: str
    names: frozenset[str]
    issuer: str
    not_before: datetime
    not_after: datetime
    fingerprint: str
    public_key: str
    chain: bytes = attrs.field(repr=False)
    private_key: Key = attrs.field(repr=False)

    def covers(self, name: str) -> bool:
        """Whether a client that asks for the name accepts it (RFC 9525 §6.3)."""
        return name in self.names or "*." + name.partition(".")[2] in self.names

    def seconds_left(self, now: float) -> float:
        """Until it ends; ``now`` in seconds since 1970."""
        return self.not_after.timestamp() - now


def read_pem(path: str) -> bytes:
    """A PEM file of bounded size.

    :raises OSError: where it cannot be read or is no regular small file.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_PEM_OCTETS + 1)
    if len(content) > MAX_PEM_OCTETS:
        raise OSError(f"{path} is too large for a PEM file")
    return content


def load(pair: CertificatePair) -> Loaded:
    """Read one pair, and try whether TLS takes it.

    :raises ConfigurationError: in words for the operator.
    """
    contents = []
    for path, what in ((pair.certificate, "certificate"), (pair.key, "key")):
        try:
            contents.append(read_pem(path))
        except OSError as error:
            words = f"cannot read the TLS {what}: {error.strerror or error}"
            raise _unusable(path, words, "check [tls] in the configuration") from None
    chain, key_pem = contents
    try:
        certificates = x509.load_pem_x509_certificates(chain)[:MAX_CHAIN]
        key: Key = serialization.load_pem_private_key(key_pem, None)
        leaf = certificates[0]
        fits = leaf.public_key() == key.public_key()
        loaded = _looked_at(pair, certificates, key) if fits else None
    except (ValueError, TypeError) as error:
        raise _misfit(pair) from error
    if loaded is None:
        raise _misfit(pair)
    try:
        server_context([loaded], old=False)
    except (SSL.Error, ValueError, TypeError) as error:
        words = "TLS does not take this certificate or its key; its key may be too short or of an odd kind"
        raise _unusable(pair.certificate, words, "use RSA of 2048 bits or ECDSA on P-256") from error
    return loaded


def _unusable(path: str, words: str, mend: str) -> ConfigurationError:
    return ConfigurationError((Problem(path, 0, words, mend),))


def _misfit(pair: CertificatePair) -> ConfigurationError:
    words = "the TLS certificate and its key do not fit together or are no PEM files"
    mend = f"put the chain, leaf first, into {pair.certificate} and its key into {pair.key}"
    return _unusable(pair.certificate, words, mend)


def _looked_at(pair: CertificatePair, chain: Sequence[x509.Certificate], key: Key) -> Loaded:
    leaf = chain[0]
    return Loaded(
        pair,
        kind_of(key),
        names_of(leaf),
        _common_name(leaf.issuer),
        leaf.not_valid_before_utc,
        leaf.not_valid_after_utc,
        leaf.fingerprint(hashes.SHA256()).hex(),
        public_key_digest(key),
        b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain),
        key,
    )


def kind_of(key: Key) -> str:
    """The kind of a private key, in the words of :attr:`Loaded.kind`."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return "ecdsa"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, ed448.Ed448PrivateKey):
        return "ed448"
    raise ValueError("not a key for TLS")


def public_key_digest(key: Key) -> str:
    """SHA-256 of a key's SubjectPublicKeyInfo, hexadecimal."""
    info = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(info)
    return digest.finalize().hex()


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """Its DNS names, lower case."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(name.lower().rstrip(".") for name in names.get_values_for_type(x509.DNSName))


def _common_name(name: x509.Name) -> str:
    for attribute in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
        return str(attribute.value)[:80]
    return name.rfc4514_string()[:80]


def server_context(certificates: Sequence[Loaded], old: bool) -> SSL.Context:
    """A context that shows these certificates, of each kind of key one.

    :param old: TLS 1.0 and weak suites too.
    :raises SSL.Error: where OpenSSL does not take one of them.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_VERSION if old else SSL.TLS1_2_VERSION)
    context.set_cipher_list(OLD if old else MODERN)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | NO_RENEGOTIATION)
    context.set_mode(RELEASE_BUFFERS)
    # Tickets carry the sessions: nothing of them is kept in memory here (RFC 8446 §4.6.1).
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(os.urandom(16))
    for loaded in certificates:
        for path in _as_file(loaded.chain):
            # By file alone each certificate keeps a chain of its own.
            context.use_certificate_chain_file(path)
        context.use_privatekey(loaded.private_key)
        context.check_privatekey()
    return context


def _as_file(content: bytes) -> Iterator[str]:
    """A path, for as long as the loop lasts, under which memory can be read."""
    descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
