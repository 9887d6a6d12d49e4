"""Whose message it says it is: the domains of From, as safely as a forger deserves (RFC 9989 §5.3.1).

Pure. A message has one From field (RFC 5322 §3.6); one with several, with none or with one that cannot be
read as one list of addresses has no author that could be proved, and :func:`author_domain` says so instead
of choosing the one that a reader's program may not show.
"""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.addresses import AddressError, normalise_domain
from lorrainemail.mailauth.header import Header
from lorrainemail.message.addresslist import parse_addresses
from lorrainemail.message.header import unfold

#: Octets of a From field, and addresses in it, that are looked at.
MAX_FROM: Final = 16 * 1024
MAX_AUTHORS: Final = 50
#: From fields that are looked at for signatures that could matter.
MAX_FIELDS: Final = 4


_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"?|\((?:[^()\\]|\\.)*\)', re.DOTALL)
_PHRASE = re.compile(rb"([^<>,;:]+)(<?)")
_HOST = re.compile(rb"@([^\s,;:<>()@\"\[\]]+)")


class NoAuthor(ValueError):
    """There is no one domain that the message is from; the text says why.

    :ivar deceitful: what is there is forbidden, and may show a reader another author than it shows us.
    """

    def __init__(self, reason: str, deceitful: bool = False) -> None:
        super().__init__(reason)
        self.deceitful = deceitful


def author_domains(header: Header) -> list[str]:
    """The domains of the first From fields, normalised, in order, none twice; unreadable ones left out."""
    found: list[str] = []
    for field in [field for field in header.fields if field.name == b"from"][:MAX_FIELDS]:
        for mailbox in parse_addresses(unfold(header.data[field.value : field.end][:MAX_FROM]))[:MAX_AUTHORS]:
            if mailbox.mailbox and mailbox.host:
                domain = _domain(mailbox.host)
                if domain and domain not in found:
                    found.append(domain)
    return found


def author_domain(header: Header) -> str:
    """The one domain of From.

    :raises NoAuthor: where there is not exactly one.
    """
    if not header.whole:
        raise NoAuthor("the header is too large to be checked", True)
    froms = [field for field in header.fields if field.name == b"from"]
    if not froms:
        raise NoAuthor("there is no From field")
    if len(froms) > 1:
        raise NoAuthor("there is more than one From field", True)
    value = unfold(header.data[froms[0].value : froms[0].end])
    if len(value) > MAX_FROM:
        raise NoAuthor("the From field is too long", True)
    mailboxes = [mailbox for mailbox in parse_addresses(value) if mailbox.host is not None]
    if not mailboxes:
        raise NoAuthor("the From field names nobody")
    if len(mailboxes) > MAX_AUTHORS:
        raise NoAuthor("the From field names too many addresses", True)
    domains = {_domain(mailbox.host or b"") if mailbox.mailbox else "" for mailbox in mailboxes}
    if "" in domains:
        raise NoAuthor("the From field has an address that cannot be read", True)
    if len(domains) > 1:
        # RFC 9989 §5.3.1: allowed by RFC 5322 §3.6.2, and exempt.
        raise NoAuthor("the From field names several domains")
    # Where a program for reading might take another part of a malformed field for the address.
    # What stands before "<" is a name that is shown, however badly quoted.
    addresses = _PHRASE.sub(lambda run: run[2] or run[1], _QUOTED.sub(b" ", value))
    named = {_domain(host) for host in _HOST.findall(addresses)}
    if not named <= domains:
        raise NoAuthor("the From field is malformed and names several domains", True)
    (domain,) = domains
    if domain.startswith("["):
        raise NoAuthor("the From field has an address literal")
    return domain


def _domain(host: bytes) -> str:
    try:
        return normalise_domain(host.decode("utf-8"))
    except (AddressError, UnicodeDecodeError):
        return ""
