"""What a TLS channel says of itself to a login: its bindings, and the certificate that the client showed.

Called by the doors (:func:`channel_of`) for the mechanisms of :mod:`lorrainemail.sasl`. Nothing is computed
before it is asked for; before the end of the handshake there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet.interfaces import ISSLTransport
from zope.interface import implementer

from lorrainemail.interfaces import IChannel

#: RFC 9266 §4.1.
_EXPORTER: Final = b"EXPORTER-Channel-Binding"
_EXPORTER_OCTETS: Final = 32

#: In the order of preference.
BINDINGS: Final = ("tls-exporter", "tls-unique", "tls-server-end-point")


@implementer(IChannel)
class TlsChannel:
    """One connection's TLS, its handshake done."""

    __slots__ = ("_connection",)

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def bindings(self) -> tuple[str, ...]:
        """The channel bindings that exist here; none of them weak."""
        version = self._connection.get_protocol_version_name()
        if version == "TLSv1.3":
            # RFC 9266 §3: tls-unique is not defined here.
            return ("tls-exporter", "tls-server-end-point")
        if version == "TLSv1.2" and self._extended_master_secret():
            return BINDINGS
        return ("tls-server-end-point",)

    def binding(self, kind: str) -> bytes | None:
        """The octets of a channel binding, None where there is none of that kind."""
        if kind not in self.bindings():
            return None
        if kind == "tls-exporter":
            return self._connection.export_keying_material(_EXPORTER, _EXPORTER_OCTETS, b"")
        if kind == "tls-unique":
            # RFC 5929 §3.1: the first Finished message, which a resumed handshake begins with the server's.
            resumed = SSL._lib.SSL_session_reused(self._connection._ssl)  # type: ignore[attr-defined]
            return self._connection.get_finished() if resumed else self._connection.get_peer_finished()
        return _end_point(self._connection.get_certificate(as_cryptography=True))

    def client_certificates(self) -> Sequence[x509.Certificate]:
        """See :class:`~lorrainemail.interfaces.IChannel`."""
        # The chain begins with the client's own (on OpenSSL's server side it is told apart).
        leaf = self._connection.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            return ()
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or ()
        return (leaf, *(certificate for certificate in chain if certificate != leaf))

    def _extended_master_secret(self) -> bool:
        """RFC 7627: without it two TLS 1.2 connections can have the same secrets."""
        return bool(SSL._lib.SSL_get_extms_support(self._connection._ssl) == 1)  # type: ignore[attr-defined]


def _end_point(certificate: x509.Certificate | None) -> bytes | None:
    """RFC 5929 §4.1: the certificate's hash by its own algorithm, SHA-256 in place of the weak ones."""
    if certificate is None:
        return None
    try:
        algorithm = certificate.signature_hash_algorithm
    except Exception:  # an algorithm that cryptography does not know
        return None
    if algorithm is None:
        return None  # Ed25519 has none: this binding is undefined
    if algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def channel_of(transport: Any) -> TlsChannel | None:
    """The TLS under a transport; None where there is none or its handshake is not done."""
    if not ISSLTransport.providedBy(transport):
        return None
    connection: Any = getattr(transport, "getHandle", lambda: None)()
    if not isinstance(connection, SSL.Connection) or connection.get_cipher_name() is None:
        return None
    return TlsChannel(connection)
