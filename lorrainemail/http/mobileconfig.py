"""Apple's configuration profile: a link that sets up Mail on an iPhone, iPad or Mac.

A property list of one mail account, without a password (the device asks for it). Its identifiers depend on
the address alone, so that a second installation replaces the first. Signed with the server's own certificate
where that is one of a known authority: the device then says who it is from. Pure.
"""

from __future__ import annotations

import plistlib
import uuid
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from lorrainemail.http.exchange import Answer
from lorrainemail.http.offers import Offer
from lorrainemail.net.certificates import Loaded

PATHS: Final = ("/profile.mobileconfig", "/mail/profile.mobileconfig")
_TYPE: Final = "application/x-apple-aspen-config"
#: The namespace of our identifiers.
_OURS: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "profile.lorrainemail")


def profile(address: str, host: str, offered: Sequence[Offer], signer: Loaded | None = None) -> Answer | None:
    """The profile of an account, or None where no door lets its owner read and send.

    :param host: our name, for the profile's own.
    :param signer: a certificate that devices trust.
    """
    incoming = next((offer for offer in offered if offer.protocol != "smtp"), None)
    outgoing = next((offer for offer in offered if offer.protocol == "smtp"), None)
    if incoming is None or outgoing is None:
        return None
    identifier = ".".join(reversed(host.split(".")))
    account = {
        "PayloadType": "com.apple.mail.managed",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{identifier}.mail.{_identity(address, 'account')}",
        "PayloadUUID": _identity(address, "account"),
        "PayloadDisplayName": address,
        "EmailAccountType": "EmailTypeIMAP" if incoming.protocol == "imap" else "EmailTypePOP",
        "EmailAccountDescription": address,
        "EmailAddress": address,
        "SMIMEEnabled": False,
        **_server("Incoming", incoming, address),
        **_server("Outgoing", outgoing, address),
        "OutgoingPasswordSameAsIncomingPassword": True,
    }
    whole = {
        "PayloadType": "Configuration",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"{identifier}.mail.{_identity(address, 'profile')}",
        "PayloadUUID": _identity(address, "profile"),
        "PayloadDisplayName": f"Mail {address}",
        "PayloadDescription": f"Sets up {address} at {host}.",
        "PayloadOrganization": host,
        "PayloadRemovalDisallowed": False,
        "PayloadContent": [account],
    }
    content = plistlib.dumps(whole)
    if signer is not None:
        content = _signed(content, signer)
    return Answer(200, _TYPE, content, (("Content-Disposition", 'attachment; filename="mail.mobileconfig"'),))


def _identity(address: str, part: str) -> str:
    return str(uuid.uuid5(_OURS, f"{part}:{address}")).upper()


def _server(which: str, offer: Offer, address: str) -> dict[str, object]:
    return {
        f"{which}MailServerAuthentication": "EmailAuthPassword",
        f"{which}MailServerHostName": offer.host,
        f"{which}MailServerPortNumber": offer.port,
        f"{which}MailServerUseSSL": True,  # STARTTLS too: the port decides
        f"{which}MailServerUsername": address,
    }


def _signed(content: bytes, signer: Loaded) -> bytes:
    leaf, *others = x509.load_pem_x509_certificates(signer.chain)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
    builder = builder.add_signer(leaf, signer.private_key, hashes.SHA256())
    for certificate in others:
        builder = builder.add_certificate(certificate)
    return builder.sign(serialization.Encoding.DER, [pkcs7.PKCS7Options.Binary])
