"""The certificate of a server that nobody gave one: a small authority of its own and what it signs.

``setup.first_start`` calls :func:`ensure` at every start that has no ``[tls] certificate``,
:mod:`lorrainemail.certs.store` while there is no better one. Files, in one directory of mode 0700: ``ca.pem``
(clients verify us with it), ``ca-key.pem``, ``self-signed.pem`` (chain, leaf first) and
``self-signed-key.pem``; keys are 0600.

Invariants. The authority may sign for our own names alone (name constraints), so that trusting it trusts
nobody else. A file that is still good is kept as it is: clients that trust ``ca.pem`` are not asked again
when the server's certificate is renewed. New files are written aside, synced and renamed. Fails with OSError.
"""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lorrainemail.certs.files import write

AUTHORITY_DAYS: Final = 20 * 365
#: Some clients refuse a server's certificate that is valid for longer than 825 days.
SERVER_DAYS: Final = 800
#: A certificate that ends sooner than this is made anew.
RENEW_DAYS: Final = 60
#: A clock of a client may be behind ours.
_BACKDATED: Final = timedelta(days=1)

_LOOPBACK_NAMES: Final = ("localhost",)
_LOOPBACK_NETWORKS: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_LOOPBACK_ADDRESSES: Final = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))


@attrs.frozen(slots=True)
class SelfSigned:
    """The files, and whether this call made any of them."""

    authority: str
    certificate: str
    key: str
    created: bool


def ensure(directory: str, hostname: str, now: datetime, addresses: tuple[str, ...] = ()) -> SelfSigned:
    """Make what is missing, unreadable, near its end or for another name; keep the rest.

    :param hostname: our name; ``localhost`` and the loopback addresses are always added.
    :param addresses: loopback addresses to add (a listener bound to 127.0.0.5, say).
    :raises OSError: where the directory or a file cannot be written.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    files = SelfSigned(
        authority=os.path.join(directory, "ca.pem"),
        certificate=os.path.join(directory, "self-signed.pem"),
        key=os.path.join(directory, "self-signed-key.pem"),
        created=False,
    )
    authority_key = os.path.join(directory, "ca-key.pem")
    names = tuple(dict.fromkeys((hostname, *_LOOPBACK_NAMES)))
    hosts = tuple(dict.fromkeys((*_LOOPBACK_ADDRESSES, *map(ipaddress.ip_address, addresses))))
    wanted = frozenset((*names, *map(str, hosts)))

    authority = _readable(files.authority, authority_key, now)
    if authority is None or not _may_sign(authority[0], names):
        authority = _make_authority(hostname, names, now)
        write(authority_key, _key_pem(authority[1]), 0o600)
        write(files.authority, _pem(authority[0]), 0o644)
    else:
        server = _readable(files.certificate, files.key, now)
        if server is not None and server[0].issuer == authority[0].subject and wanted <= _names(server[0]):
            return files
    certificate, key = _make_server(authority, names, hosts, now)
    # The key first: a start that is cut off in between finds a pair that does not fit, and makes it anew.
    write(files.key, _key_pem(key), 0o600)
    write(files.certificate, _pem(certificate) + _pem(authority[0]), 0o644)
    return attrs.evolve(files, created=True)


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _readable(certificate_file: str, key_file: str, now: datetime) -> _Pair | None:
    """Certificate and key, where both can be read, belong together and last for a while."""
    try:
        with open(certificate_file, "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read())
        with open(key_file, "rb") as file:
            key = serialization.load_pem_private_key(file.read(), None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    if certificate.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        return None
    return certificate, key


def _may_sign(authority: x509.Certificate, names: tuple[str, ...]) -> bool:
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    permitted = {
        tree.value for tree in constraints.permitted_subtrees or () if isinstance(tree, x509.DNSName)
    }
    return all(name in permitted for name in names)


def _names(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    addresses = names.get_values_for_type(x509.IPAddress)
    return frozenset((*names.get_values_for_type(x509.DNSName), *map(str, addresses)))


def _builder(subject: x509.Name, now: datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _make_authority(hostname: str, names: tuple[str, ...], now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial in the name keeps an older authority of the same host apart in a client's list.
    label = f"lorrainemail on {hostname[:40]} {now.astimezone(UTC):%Y-%m-%d}"[:64]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, label)])
    permitted: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    permitted += [x509.IPAddress(network) for network in _LOOPBACK_NETWORKS]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(subject, now, AUTHORITY_DAYS)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)  # RFC 5280 §4.2.1.10
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_server(
    authority: _Pair,
    names: tuple[str, ...],
    hosts: tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...],
    now: datetime,
) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(host) for host in hosts]
    identifier = authority[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(subject, now, SERVER_DAYS)
        .issuer_name(authority[0].subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(authority[1], hashes.SHA256())
    )
    return certificate, key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
