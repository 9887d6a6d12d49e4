"""EXTERNAL (RFC 4422 appendix A): the certificate that a client showed in its TLS handshake is its login.

A :class:`~lorrainemail.sasl.portal.Method` of the one authenticator, offered to a client whose certificate
was signed by one of the operator's authorities (``[auth] client_ca``) and carries an e-mail address. The
handshake proved that the client holds its key; :class:`Authorities` checks at each login who signed it, that
it has not ended, is meant for clients, and was not taken back. Fails with ConfigurationError where the file
of the authorities cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto
from twisted.cred.error import UnauthorizedLogin

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import ConfigurationError, PermanentError, Problem
from lorrainemail.interfaces import Account, IChannel, IPrincipal, ITableService, later
from lorrainemail.net.certificates import read_pem
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.mechanisms import CANNOT_DECODE, prepare_name
from lorrainemail.sasl.portal import Admit, Proof

NAME: Final = "EXTERNAL"
#: RFC 9598 §3: an address with letters beyond ASCII.
_SMTP_UTF8_MAILBOX: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9")
#: Addresses looked at in one certificate.
MAX_ADDRESSES: Final = 16

_CRL = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


class Authorities:
    """Those whose signature under a client's certificate is believed."""

    def __init__(self, pem: bytes) -> None:
        """:raises ValueError: where that is no list of certificates and CRLs."""
        self._store = crypto.X509Store()
        for authority in x509.load_pem_x509_certificates(pem):
            self._store.add_cert(crypto.X509.from_cryptography(authority))
        lists = _CRL.findall(pem)
        for text in lists:
            self._store.add_crl(x509.load_pem_x509_crl(text))
        if lists:
            self._store.set_flags(crypto.X509StoreFlags.CRL_CHECK)

    @classmethod
    def read(cls, path: str) -> Authorities:
        """From a file.

        :raises ConfigurationError: where it cannot be used.
        """
        try:
            return cls(read_pem(path))
        except OSError as error:
            what = f"cannot be read: {error.strerror or error}"
        except (ValueError, crypto.Error):
            what = "holds no certificates in PEM"
        mend = "name a file of certificates in [auth] client_ca"
        raise ConfigurationError((Problem(path, 0, what, mend),))

    def vouch_for(self, certificates: Sequence[x509.Certificate]) -> bool:
        """Whether the first of the certificates is a client's and good now; the others may lead to it."""
        if not certificates or not _for_clients(certificates[0]):
            return False
        leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in certificates)
        try:
            crypto.X509StoreContext(self._store, leaf, others).verify_certificate()
        except crypto.X509StoreContextError:
            return False
        return True


def _for_clients(certificate: x509.Certificate) -> bool:
    """RFC 5280 §4.2.1.12: not meant for something else alone."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return any(
        word in (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        for word in usage
    )


def addresses_of(certificate: x509.Certificate) -> list[Address]:
    """The e-mail addresses in a certificate: of its alternative names, else (as old ones have it, RFC 5280
    §4.1.2.6) of its subject."""
    texts: list[str] = []
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        texts += names.get_values_for_type(x509.RFC822Name)
        for other in names.get_values_for_type(x509.OtherName):
            if other.type_id == _SMTP_UTF8_MAILBOX:
                texts.append(_utf8_string(other.value))
    except (x509.ExtensionNotFound, ValueError):
        pass
    if not texts:
        named = certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS)
        texts = [str(attribute.value) for attribute in named]
    found: dict[str, Address] = {}
    for text in texts[:MAX_ADDRESSES]:
        try:
            address = parse_address(text)
        except AddressError:
            continue
        if address.domain:
            found.setdefault(address.key, address)
    return list(found.values())


def _utf8_string(der: bytes) -> str:
    """A DER UTF8String with a short or a two-octet length, "" for anything else."""
    if len(der) >= 2 and der[0] == 0x0C:
        octets = der[2:] if der[1] < 0x80 else der[3:] if der[1] == 0x81 else b""
        if len(octets) == (der[1] if der[1] < 0x80 else der[2] if len(der) > 2 else -1):
            return octets.decode("utf-8", "replace")
    return ""


class External:
    """The method.

    :ivar authorities: None where nobody logs in so; may be exchanged while running.
    """

    def __init__(self, tables: ITableService, gate: Gate, authorities: Authorities | None) -> None:
        self._tables = tables
        self._gate = gate
        self.authorities = authorities

    def names(self, channel: IChannel | None) -> tuple[str, ...]:
        return (NAME,) if self.proven(channel) else ()

    def proven(self, channel: IChannel | None) -> list[Address]:
        """The addresses that the client's certificate proves."""
        if self.authorities is None or channel is None:
            return []
        certificates = channel.client_certificates()
        if not certificates:
            return []
        addresses = addresses_of(certificates[0])
        return addresses if addresses and self.authorities.vouch_for(certificates) else []

    def begin(
        self, name: str, session: Session, channel: IChannel | None, admit: Admit
    ) -> ExternalConversation:
        return ExternalConversation(self, session, channel, admit)

    async def account(self, session: Session, channel: IChannel | None, wanted: str) -> tuple[Account, str]:
        """Whose login that is, and the folded name.

        :param wanted: the account that the client asks for, "" where the certificate says it alone.
        :raises UnauthorizedLogin: where it is nobody's, or could be that of several.
        """
        addresses = self.proven(channel)
        tables = self._tables.current()
        name = addresses[0].key if addresses else ""
        await self._gate.wait(session, name)
        found = [await later(tables.account(address)) for address in addresses]
        accounts = {account.address.key: account for account in found if account is not None}
        if wanted:
            asked = await later(tables.login(wanted))
            accounts = {asked.address.key: asked} if asked and asked.address.key in accounts else {}
        guess = channel.client_certificates()[0].tbs_certificate_bytes if channel and addresses else b""
        if len(accounts) != 1:
            reason = (
                "its certificate names several accounts" if accounts else "its certificate is no account's"
            )
            self._gate.refused(session, name, guess, next(iter(accounts.values()), None), reason)
            raise UnauthorizedLogin(reason)
        (account,) = accounts.values()
        if not account.enabled:
            raise UnauthorizedLogin(self._gate.refused(session, name, guess, account))
        return account, account.address.key


class ExternalConversation:
    """One exchange: an empty challenge where the client did not speak at once, then its wish."""

    def __init__(self, external: External, session: Session, channel: IChannel | None, admit: Admit) -> None:
        self._external = external
        self._session = session
        self._channel = channel
        self._admit = admit

    async def respond(self, response: bytes | None) -> bytes | IPrincipal:
        if response is None:
            return b""
        wanted = prepare_name(response) if response else ""
        if wanted is None:
            raise PermanentError(CANNOT_DECODE, "malformed name")
        account, name = await self._external.account(self._session, self._channel, wanted)
        return await self._admit(Proof(account, self._session, NAME, name))
