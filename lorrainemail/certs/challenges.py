"""Answers to the questions of ACME servers, in the one object that the doors read them from.

An order (:mod:`lorrainemail.certs.order`) puts an answer in before it says that it is ready, and takes it out
when the question was asked: :attr:`Challenges.http` is read by the http door (HTTP-01, RFC 8555 §8.3), the
TLS doors ask :class:`~lorrainemail.net.tls.ServerTls` (TLS-ALPN-01, RFC 8737), and the DNS is written to
through
:class:`~lorrainemail.interfaces.IDnsChallenges` (DNS-01, RFC 8555 §8.4). Answers are in memory: a restart
    begins the order anew.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from lorrainemail.interfaces import IDnsChallenges, later
from lorrainemail.net.tls import ServerTls

#: RFC 8737 §6.1.
_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
#: The DER of an OCTET STRING of 32 octets: its head.
_OCTET_STRING_32: Final = b"\x04\x20"

Kind = Literal["http-01", "tls-alpn-01", "dns-01"]
KINDS: Final[tuple[Kind, ...]] = ("http-01", "tls-alpn-01", "dns-01")


class Challenges:
    """All answers that wait for their question.

    :param dns: who writes TXT records for us, None where nobody does.
    """

    def __init__(self, tls: ServerTls, dns: IDnsChallenges | None = None) -> None:
        self.http: dict[str, str] = {}
        self.dns = dns
        self._tls = tls

    async def put(self, kind: Kind, name: str, token: str, authorization: str, now: float) -> None:
        """Have the answer ready. Fails as the DNS writer fails.

        :param name: the domain name that is to be proved, without ``*.``.
        :param authorization: the key authorization (RFC 8555 §8.1).
        :param now: seconds of the wall clock.
        """
        if kind == "http-01":
            self.http[token] = authorization
        elif kind == "tls-alpn-01":
            certificate, key = alpn_answer(name, authorization, now)
            self._tls.answer_challenge(name, certificate, key)
        else:
            if self.dns is None:
                raise RuntimeError("nobody writes to the DNS for us")
            await later(self.dns.publish(f"_acme-challenge.{name}", txt_answer(authorization)))

    async def take(self, kind: Kind, name: str, token: str, authorization: str) -> None:
        """Take the answer back. Fails as the DNS writer fails."""
        if kind == "http-01":
            self.http.pop(token, None)
        elif kind == "tls-alpn-01":
            self._tls.forget_challenge(name)
        elif self.dns is not None:
            await later(self.dns.withdraw(f"_acme-challenge.{name}", txt_answer(authorization)))


def txt_answer(authorization: str) -> str:
    """The TXT record of DNS-01."""
    digest = hashlib.sha256(authorization.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def alpn_answer(
    name: str, authorization: str, now: float
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The certificate of TLS-ALPN-01 and its key (RFC 8737 §3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")])
    day = timedelta(days=1)
    instant = datetime.fromtimestamp(now, UTC)
    digest = hashlib.sha256(authorization.encode()).digest()
    proof = x509.UnrecognizedExtension(_ACME_IDENTIFIER, _OCTET_STRING_32 + digest)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(instant - day)
        .not_valid_after(instant + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(proof, critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key
