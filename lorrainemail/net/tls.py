"""TLS contexts: ours as a server, with SNI and certificates swapped while connections live, and as a client.

Callers: the doors take :meth:`ServerTls.context_factory`, the remote courier :meth:`ClientTls.creator`;
``service`` makes both, and :mod:`lorrainemail.certs` tells :meth:`ServerTls.use` what to show. Whoever wants
to say what a session runs under asks :func:`tls_facts`.

Invariants. A connection keeps the context it was made with; new ones get the newest. A reload that fails
changes nothing and raises :class:`~lorrainemail.errors.ConfigurationError` naming the file. For each name the
client may choose between one certificate of each kind of key (RSA beside ECDSA).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Iterable, Sequence
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
from lorrainemail.net.certificates import (
    MAX_CHAIN,
    MODERN,
    NO_RENEGOTIATION,
    RELEASE_BUFFERS,
    Loaded,
    load,
    read_pem,
    server_context,
)
from lorrainemail.net.certificates import CertificatePair as CertificatePair
from lorrainemail.net.client_hello import MAX_HELLO, offered_protocols

#: As a client without verification, weak keys of the other side are still better than clear text.
_OPPORTUNISTIC: Final = b"DEFAULT:!aNULL:!eNULL:@SECLEVEL=1"
#: The protocol of RFC 8737 §6.2.
ACME_TLS: Final = b"acme-tls/1"
#: What one answer to a client's name comes to: a context for the smtp door and one for all others.
_Contexts = dict[str, SSL.Context]


class _DoorConnection(SSL.Connection):
    """A server connection that knows whose it is: OpenSSL tells its callbacks nothing else."""

    tls: ServerTls
    kind: str


#: Where users log in.
_LOGIN_DOORS: Final = frozenset(
    {"submission", "submissions", "pop3", "pop3s", "imap", "imaps", "managesieve"}
)


class _WatchedConnection(_DoorConnection):
    """Keeps the beginning of what the client sends: made only while a challenge waits."""

    hello = b""

    def bio_write(self, buf: Any) -> int:
        if len(self.hello) < MAX_HELLO:
            self.hello += bytes(buf[: MAX_HELLO - len(self.hello)])
        return super().bio_write(buf)


@implementer(IOpenSSLServerConnectionCreator)
class _DoorContexts:
    """What ``startTLS`` and ``TLSMemoryBIOFactory`` take: asks for the newest context at each connection."""

    def __init__(self, tls: ServerTls, kind: str, logins: bool) -> None:
        self._tls = tls
        self._kind = kind
        self._logins = logins

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        make = _WatchedConnection if self._tls.challenged else _DoorConnection
        connection = make(self._tls.context_for(self._kind, None), None)
        connection.tls, connection.kind = self._tls, self._kind
        if self._logins and self._tls.ask_clients:
            # Whom to believe is asked at the login: a stray certificate ends no connection. Without tickets,
            # for those would forget by whom it was signed.
            connection.set_verify(SSL.VERIFY_PEER, _any_certificate)
            connection.set_options(SSL.OP_NO_TICKET)
        connection.set_app_data(tlsProtocol)
        return connection


@implementer(IServerTls)
class ServerTls:
    """Server contexts with SNI.

    :param pairs: certificates; the first is the default for clients whose name no other one covers.
    :param old_peers: accept TLS 1.0 and 1.1 on the smtp door.
    :ivar ask_clients: at the doors where users log in, clients are asked for a certificate.
    :raises ConfigurationError: where a file cannot be used.
    """

    ask_clients = False

    def __init__(self, pairs: Sequence[CertificatePair] = (), old_peers: bool = False) -> None:
        self._certificates: tuple[Loaded, ...] = ()
        self._by_name: dict[str, _Contexts] = {}
        self._default: _Contexts = {}
        self._made: dict[tuple[object, ...], _Contexts] = {}
        self._challenges: dict[str, SSL.Context] = {}
        if pairs:
            self.reload(pairs, old_peers)

    def reload(self, pairs: Sequence[CertificatePair], old_peers: bool = False) -> None:
        """Read all files again; connections that live keep what they have.

        :raises ConfigurationError: and nothing has changed.
        """
        self.use([load(pair) for pair in pairs], old_peers)

    def use(self, certificates: Sequence[Loaded], old_peers: bool = False) -> None:
        """Show these to new connections. For a name the first of each kind of key that covers it counts.

        :raises ConfigurationError: where OpenSSL does not take them; nothing has changed.
        """
        covering: dict[str, list[int]] = {}
        for number, one in enumerate(certificates):
            for name in one.names:
                covering.setdefault(name, []).append(number)
        used: dict[tuple[object, ...], _Contexts] = {}

        def contexts(numbers: Iterable[int]) -> _Contexts:
            shown = _one_of_each_kind(certificates[number] for number in numbers)
            key = (old_peers, *(one.fingerprint for one in shown))
            if key not in used:
                # What has not changed keeps its context: a server of many names exchanges one certificate.
                used[key] = self._made.get(key) or self._contexts(shown, old_peers)
            return used[key]

        try:
            by_name = {
                name: contexts(sorted({*numbers, *covering.get("*." + name.partition(".")[2], ())}))
                for name, numbers in covering.items()
            }
            first = certificates[0]
            default = contexts(
                number for number, one in enumerate(certificates) if one is first or one.names & first.names
            )
        except SSL.Error as error:
            words = "TLS does not take this certificate beside the others"
            problem = Problem(certificates[0].pair.certificate, 0, words, "check [tls] in the configuration")
            raise ConfigurationError((problem,)) from error
        self._certificates, self._by_name, self._default = tuple(certificates), by_name, default
        self._made = used

    def _contexts(self, shown: Sequence[Loaded], old_peers: bool) -> _Contexts:
        contexts = {"": server_context(shown, old=False)}
        contexts["smtp"] = server_context(shown, old=True) if old_peers else contexts[""]
        for context in contexts.values():
            context.set_tlsext_servername_callback(_by_server_name)
        return contexts

    def certificates(self) -> tuple[Loaded, ...]:
        """What is shown, the default first."""
        return self._certificates

    def expires(self) -> datetime:
        """When the first of the certificates ends."""
        return min(certificate.not_after for certificate in self._certificates)

    def context_factory(self, door: str) -> object:
        return _DoorContexts(self, "smtp" if door == "smtp" else "", door in _LOGIN_DOORS)

    def context_for(self, kind: str, name: str | None) -> SSL.Context:
        """The context for a server name (RFC 6066 §3); the default one where none covers it."""
        contexts = None
        if name:
            name = name.lower().rstrip(".")
            # RFC 9525 §6.3: a wildcard stands for exactly the left-most label.
            contexts = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        return (contexts or self._default)[kind]

    # -- ACME challenges -----------------------------------------------------------------------------

    @property
    def challenged(self) -> bool:
        """Whether an answer to a challenge waits for its question."""
        return bool(self._challenges)

    def answer_challenge(self, name: str, certificate: x509.Certificate, key: Any) -> None:
        """Show that certificate to whoever asks for the name by ``acme-tls/1`` alone (RFC 8737 §3)."""
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_alpn_select_callback(_acme_tls)
        context.use_certificate(certificate)
        context.use_privatekey(key)
        self._challenges[name] = context

    def forget_challenge(self, name: str) -> None:
        self._challenges.pop(name, None)

    def challenge_for(self, name: str, hello: bytes) -> SSL.Context | None:
        """The answer to a challenge, where the client's first message is the question."""
        context = self._challenges.get(name.lower())
        return context if context is not None and offered_protocols(hello) == (ACME_TLS,) else None


def _one_of_each_kind(certificates: Iterable[Loaded]) -> tuple[Loaded, ...]:
    kinds: dict[str, Loaded] = {}
    for one in certificates:
        kinds.setdefault(one.kind, one)
    return tuple(kinds.values())


def _by_server_name(connection: SSL.Connection) -> None:
    # OpenSSL swallows an exception of this callback and goes on with the default certificate.
    sent = connection.get_servername()
    if not sent or not isinstance(connection, _DoorConnection):
        return
    name, tls = sent.decode("ascii", "replace"), connection.tls
    if isinstance(connection, _WatchedConnection):
        challenge = tls.challenge_for(name, connection.hello)
        if challenge is not None:
            connection.set_context(challenge)
            return
    wanted = tls.context_for(connection.kind, name)
    if wanted is not connection.get_context():
        connection.set_context(wanted)


def _any_certificate(*_: object) -> bool:
    return True


def _acme_tls(_connection: SSL.Connection, _offered: list[bytes]) -> bytes:
    return ACME_TLS


class PeerNotVerified(Exception):
    """The server at the other end is not who it has to be; the message says why.

    ``fault``: the same in the vocabulary of RFC 8460 §4.3, which reports are made of.
    """

    def __init__(self, words: str, fault: str = "validation-failure") -> None:
        super().__init__(words)
        self.fault = fault


#: Whoever knows what a server's certificates must be: given them as shown, leaf first, raises
#: PeerNotVerified.
PeerCheck = Callable[[Sequence[x509.Certificate]], None]


@attrs.define(slots=True, eq=False)
class Heard:
    """What was found wrong with the other side's certificate: ``fault`` as above, "" for nothing, and
    words."""

    fault: str = ""
    words: str = ""


#: OpenSSL's verdicts that people can do something about (X509_V_ERR_...).
_VERDICTS: Final = {
    9: ("certificate-expired", "the certificate is not valid yet"),
    10: ("certificate-expired", "the certificate has expired"),
    18: ("certificate-not-trusted", "the certificate is self-signed"),
    19: ("certificate-not-trusted", "the certificate is of an unknown authority"),
    20: ("certificate-not-trusted", "the certificate is of an unknown authority"),
    21: ("certificate-not-trusted", "the certificate is of an unknown authority"),
}
_OTHER_VERDICT: Final = ("certificate-not-trusted", "the certificate is not acceptable")


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
    #: Asked in place of the above; whether what is wrong is only noted; what was found.
    peer_check: PeerCheck | None = None
    watched: bool = False
    heard: Heard = attrs.field(factory=Heard)

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
        try:
            if self.peer_check is not None:
                shown = connection.get_peer_cert_chain() or []
                self.peer_check([one.to_cryptography() for one in shown[:MAX_CHAIN]])
            else:
                self._verify(connection)
        except PeerNotVerified as wrong:
            self.note(wrong.fault, str(wrong))
            if not self.watched:
                raise

    def note(self, fault: str, words: str) -> None:
        """The first thing that is wrong is what is told."""
        if not self.heard.fault:
            self.heard.fault, self.heard.words = fault, words

    def _verify(self, connection: SSL.Connection) -> None:
        if self.check == "name":
            try:
                if _ip_or_none(self.host):
                    verify_ip_address(connection, self.host)
                else:
                    verify_hostname(connection, self.host)
            except (VerificationError, CertificateError):
                words = f"the certificate is not for {self.host}"
                raise PeerNotVerified(words, "certificate-host-mismatch") from None
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


def _on_verdict(connection: SSL.Connection, _certificate: Any, error: int, _depth: int, good: int) -> bool:
    """OpenSSL's verdict on one certificate of the chain; whether to go on."""
    if good or not isinstance(connection, _CheckedConnection):
        return bool(good)
    connection.creator.note(*_VERDICTS.get(error, _OTHER_VERDICT))
    return connection.creator.watched


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
        self._watching: SSL.Context | None = None
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

    def checking(self, host: str, check: PeerCheck) -> object:
        """A creator that asks ``check`` about the server's certificates, and nobody else."""
        return _Creator(self._opportunistic, host, "none", peer_check=check)

    def watching(self, host: str) -> object:
        """A creator that goes on whatever the certificate; its ``heard`` tells what was wrong with it."""
        if self._watching is None:
            self._watching = self._verifying(_OPPORTUNISTIC)
        return _Creator(self._watching, host, "name", watched=True)

    def take(self, other: ClientTls) -> None:
        """Use another one's authorities from now on (a reload, which had them checked in the other one)."""
        self._trust, self._verified, self._watching = other._trust, other._verified, other._watching

    def _verifying(self, ciphers: bytes = MODERN) -> SSL.Context:
        context = self._context(ciphers)
        context.set_verify(SSL.VERIFY_PEER, _on_verdict)
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
        context.set_options(SSL.OP_NO_COMPRESSION | NO_RENEGOTIATION)
        context.set_mode(RELEASE_BUFFERS)
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
