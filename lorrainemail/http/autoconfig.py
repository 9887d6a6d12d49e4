"""Thunderbird's autoconfig, which K-9, Evolution and KMail read too: ``config-v1.1.xml``.

Format: the "clientConfig" of Mozilla's ISPDB, version 1.1. Asked for at ``autoconfig.DOMAIN/mail/...`` and at
``DOMAIN/.well-known/autoconfig/mail/...``, with or without ``emailaddress``. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from lorrainemail.http.exchange import XML, Answer
from lorrainemail.http.offers import Offer

PATHS: Final = ("/mail/config-v1.1.xml", "/.well-known/autoconfig/mail/config-v1.1.xml")
#: What the program fills in itself where it did not say whose settings it wants.
_PLACEHOLDER: Final = "%EMAILADDRESS%"
_SOCKETS: Final = {"at once": "SSL", "starttls": "STARTTLS"}


def autoconfig(domain: str, username: str, offered: Sequence[Offer]) -> Answer:
    """The settings for one domain.

    :param username: the whole address, "" where nobody said.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<clientConfig version="1.1">',
        f"  <emailProvider id={quoteattr(domain)}>",
        f"    <domain>{escape(domain)}</domain>",
        f"    <displayName>{escape(domain)}</displayName>",
        f"    <displayShortName>{escape(domain)}</displayShortName>",
    ]
    for offer in offered:
        tag = "outgoingServer" if offer.protocol == "smtp" else "incomingServer"
        lines += [
            f'    <{tag} type="{offer.protocol}">',
            f"      <hostname>{escape(offer.host)}</hostname>",
            f"      <port>{offer.port}</port>",
            f"      <socketType>{_SOCKETS[offer.tls]}</socketType>",
            "      <authentication>password-cleartext</authentication>",
            f"      <username>{escape(username or _PLACEHOLDER)}</username>",
            f"    </{tag}>",
        ]
    lines += ["  </emailProvider>", "</clientConfig>", ""]
    return Answer(200, XML, "\n".join(lines).encode())
