"""TLS contexts: ours as a server, with SNI and certificates swapped while connections live, and as a client.

Callers: the doors take :meth:`ServerTls.context_factory`, the remote courier :meth:`ClientTls.creator`;
``service`` makes both and calls :meth:`ServerTls.reload`. Whoever wants to say what a session runs under asks
:func:`tls_facts`.

Invariants. A connection keeps the context it was made with; new ones get the newest. A reload that fails
changes nothing and raises :class:`~lorrainemail.errors.ConfigurationError` naming the file. Certificate and
key files are read here only: at start, before privileges are shed, and at a reload.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal

import attrs
from cryptography import x509
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    ISSLTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.envelope import TlsFacts
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.interfaces import IClientTls, IServerTls, TlsRequirement

#: Suites for TLS 1.2: forward secrecy and authenticated encryption (RFC 9325 §4.2). TLS 1.3 has its own.
_MODERN: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL"
#: For ``[tls] old_peers`` on the smtp door: anything that still encrypts beats clear text there.
_OLD: Final = b"HIGH:!aNULL:!eNULL:@SECLEVEL=0"
#: As a client without verification, weak keys of the other side are still better than clear text.
_OPPORTUNISTIC: Final = b"DEFAULT:!aNULL:!eNULL:@SECLEVEL=1"
#: A PEM file larger than this is not a certificate chain or a key.
MAX_PEM_OCTETS: Final = 1 << 20

# OpenSSL's SSL_OP_NO_RENEGOTIATION and SSL_MODE_RELEASE_BUFFERS; pyOpenSSL names the first one lately only.
_NO_RENEGOTIATION: Final = 1 << 30
_RELEASE_BUFFERS: Final = 0x10


@attrs.frozen(slots=True)
class CertificatePair:
    """Files of one certificate: its PEM chain, leaf first, and its private key."""

    certificate: str
    key: str


@attrs.frozen(slots=True)
class _Identity:
    """One loaded certificate: its contexts and the names that it is good for."""

    contexts: dict[str, SSL.Context]
    names: frozenset[str]
    expires: datetime


def read_pem(path: str) -> bytes:
    """A PEM file of bounded size.

    :raises OSError: where it cannot be read or is no regular small file.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_PEM_OCTETS + 1)
    if len(content) > MAX_PEM_OCTETS:
        raise OSError(f"{path} is too large for a PEM file")
    return content


def _names_of(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(name.lower().rstrip(".") for name in names.get_values_for_type(x509.DNSName))


def _server_context(pair: CertificatePair, old: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_VERSION if old else SSL.TLS1_2_VERSION)
    context.set_cipher_list(_OLD if old else _MODERN)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | _NO_RENEGOTIATION)
    context.set_mode(_RELEASE_BUFFERS)
    # Tickets carry the sessions: nothing of them is kept in memory here (RFC 8446 §4.6.1).
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(os.urandom(16))
    context.use_certificate_chain_file(pair.certificate)
    context.use_privatekey_file(pair.key)
    context.check_privatekey()
    return context


def _load(pair: CertificatePair, old_peers: bool) -> _Identity:
    """Read one pair. Raises ConfigurationError in words for the operator."""
    for path, what in ((pair.certificate, "certificate"), (pair.key, "key")):
        try:
            read_pem(path)
        except OSError as error:
            words = f"cannot read the TLS {what}: {error.strerror or error}"
            raise ConfigurationError((Problem(path, 0, words, "check [tls] in the configuration"),)) from None
    try:
        leaf = x509.load_pem_x509_certificate(read_pem(pair.certificate))
        contexts = {"": _server_context(pair, old=False)}
        contexts["smtp"] = _server_context(pair, old=True) if old_peers else contexts[""]
    except (SSL.Error, ValueError) as error:
        words = "the TLS certificate and its key do not fit together or are no PEM files"
        mend = f"put the chain, leaf first, into {pair.certificate} and its key into {pair.key}"
        raise ConfigurationError((Problem(pair.certificate, 0, words, mend),)) from error
    return _Identity(contexts, _names_of(leaf), leaf.not_valid_after_utc)


@implementer(IOpenSSLServerConnectionCreator)
class _DoorContexts:
    """What ``startTLS`` and ``TLSMemoryBIOFactory`` take: asks for the newest context at each connection."""

    def __init__(self, tls: ServerTls, kind: str) -> None:
        self._tls = tls
        self._kind = kind

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = SSL.Connection(self._tls.context_for(self._kind, None), None)
        connection.set_app_data(tlsProtocol)
        return connection


@implementer(IServerTls)
class ServerTls:
    """Server contexts with SNI.

    :param pairs: certificates; the first is the default for clients whose name no other one covers.
    :param old_peers: accept TLS 1.0 and 1.1 on the smtp door.
    :raises ConfigurationError: where a file cannot be used.
    """

    def __init__(self, pairs: Sequence[CertificatePair], old_peers: bool = False) -> None:
        self._identities: tuple[_Identity, ...] = ()
        self._by_name: dict[str, _Identity] = {}
        self.reload(pairs, old_peers)

    def reload(self, pairs: Sequence[CertificatePair], old_peers: bool = False) -> None:
        """Read all files again; connections that live keep what they have.

        :raises ConfigurationError: and nothing has changed.
        """
        identities = tuple(_load(pair, old_peers) for pair in pairs)
        by_name: dict[str, _Identity] = {}
        for identity in identities:
            for name in identity.names:
                by_name.setdefault(name, identity)
            for kind in {id(c): k for k, c in identity.contexts.items()}.values():
                identity.contexts[kind].set_tlsext_servername_callback(self._by_server_name)
        self._identities, self._by_name = identities, by_name

    def expires(self) -> datetime:
        """When the first of the certificates ends."""
        return min(identity.expires for identity in self._identities)

    def context_factory(self, door: str) -> object:
        return _DoorContexts(self, "smtp" if door == "smtp" else "")

    def context_for(self, kind: str, name: str | None) -> SSL.Context:
        """The context for a server name (RFC 6066 §3); the default one where none covers it."""
        identity = None
        if name:
            name = name.lower().rstrip(".")
            # RFC 9525 §6.3: a wildcard stands for exactly the left-most label.
            identity = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        return (identity or self._identities[0]).contexts[kind]

    def _by_server_name(self, connection: SSL.Connection) -> None:
        sent = connection.get_servername()
        if len(self._identities) < 2 or not sent:
            return
        current = connection.get_context()
        kind = "smtp" if any(i.contexts["smtp"] is current for i in self._identities) else ""
        wanted = self.context_for(kind, sent.decode("ascii", "replace"))
        if wanted is not current:
            connection.set_context(wanted)


class PeerNotVerified(Exception):
    """The server at the other end is not who it has to be; the message says why."""


class _CheckedConnection(SSL.Connection):
    """A client connection that knows who checks its peer, and the protocol to end where the check fails."""

    creator: _Creator
    protocol: Any


@implementer(IOpenSSLClientConnectionCreator)
@attrs.frozen(slots=True, eq=False)
class _Creator:
    """Makes one client connection and, when its handshake is done, checks who answered."""

    context: SSL.Context
    host: str
    check: Literal["none", "name", "fingerprint"]
    fingerprint: str = ""

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        connection = _CheckedConnection(self.context, None)
        connection.creator, connection.protocol = self, tlsProtocol
        connection.set_app_data(tlsProtocol)
        if not _ip_or_none(self.host):
            # RFC 6066 §3: a name, never an address.
            connection.set_tlsext_host_name(self.host.encode("ascii"))
        return connection

    def verify(self, connection: SSL.Connection) -> None:
        """:raises PeerNotVerified: with the reason."""
        if self.check == "name":
            try:
                if _ip_or_none(self.host):
                    verify_ip_address(connection, self.host)
                else:
                    verify_hostname(connection, self.host)
            except (VerificationError, CertificateError):
                raise PeerNotVerified(f"the certificate is not for {self.host}") from None
        elif self.check == "fingerprint":
            certificate = connection.get_peer_certificate()
            found = "" if certificate is None else certificate.digest("sha256").decode("ascii")
            if not hmac.compare_digest(_plain_fingerprint(found), self.fingerprint):
                raise PeerNotVerified("the certificate has not the configured fingerprint")


def _on_handshake(connection: SSL.Connection, where: int, _result: int) -> None:
    # OpenSSL swallows an exception of this callback, so nothing may stand before the ``try``.
    if not where & SSL.SSL_CB_HANDSHAKE_DONE or not isinstance(connection, _CheckedConnection):
        return
    try:
        connection.creator.verify(connection)
    except Exception:  # whatever it is, an unverified peer must not be talked to
        connection.protocol.failVerification(Failure())  # type: ignore[no-untyped-call]


def _ip_or_none(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _plain_fingerprint(text: str) -> str:
    return text.replace(":", "").lower()


@implementer(IClientTls)
class ClientTls:
    """TLS towards next hops.

    :param trust: PEM file of authorities for "verified"; "" for the system's.
    :raises ConfigurationError: where that file cannot be used.
    """

    def __init__(self, trust: str = "") -> None:
        self._opportunistic = self._context(_OPPORTUNISTIC)
        self._verified: SSL.Context | None = None
        self._trust = trust
        if trust:
            self._verified = self._verifying()

    def creator(self, host: str, requirement: TlsRequirement) -> object:
        if requirement == "verified":
            # The system's authorities are some hundred: read only where somebody asks for them.
            if self._verified is None:
                self._verified = self._verifying()
            return _Creator(self._verified, host, "name")
        if requirement.startswith("sha256:"):
            wanted = _plain_fingerprint(requirement.partition(":")[2])
            return _Creator(self._opportunistic, host, "fingerprint", wanted)
        return _Creator(self._opportunistic, host, "none")

    def take(self, other: ClientTls) -> None:
        """Use another one's authorities from now on (a reload, which had them checked in the other one)."""
        self._trust, self._verified = other._trust, other._verified

    def _verifying(self) -> SSL.Context:
        context = self._context(_MODERN)
        context.set_verify(SSL.VERIFY_PEER)
        if not self._trust:
            context.set_default_verify_paths()
            return context
        try:
            read_pem(self._trust)
            context.load_verify_locations(self._trust)
        except (OSError, SSL.Error) as error:
            words = "cannot read the trusted authorities"
            raise ConfigurationError(
                (Problem(self._trust, 0, words, "name a PEM file of certificates in [tls] trust"),)
            ) from error
        return context

    @staticmethod
    def _context(ciphers: bytes) -> SSL.Context:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(ciphers)
        context.set_options(SSL.OP_NO_COMPRESSION | _NO_RENEGOTIATION)
        context.set_mode(_RELEASE_BUFFERS)
        context.set_info_callback(_on_handshake)
        return context


def tls_fault(reason: Failure) -> str:
    """What TLS had against a connection that ended so, for people; "" where it was not TLS."""
    error = reason.value
    if isinstance(error, PeerNotVerified):
        return str(error)
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(str(entry[-1]) for entry in error.args[0])[:200]
    return ""


def tls_facts(transport: Any) -> TlsFacts | None:
    """What TLS the transport runs under; None without TLS or before its handshake is done."""
    if not ISSLTransport.providedBy(transport):
        return None
    connection: Any = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(connection, SSL.Connection):
        return None
    cipher = connection.get_cipher_name()
    if cipher is None:
        return None
    sent = connection.get_servername()
    return TlsFacts(
        version=connection.get_protocol_version_name(),
        cipher=cipher,
        bits=connection.get_cipher_bits() or 0,
        server_name=_printable(sent),
    )


def _printable(name: bytes | None) -> str:
    """A client's SNI fit for a log line and a header field."""
    text = (name or b"").decode("ascii", "replace")[:255]
    return text if text.isprintable() and text.isascii() and " " not in text else ""
