"""Mail addresses: parse, normalise, compare.

Owns what a mailbox, a domain and a local part are for every other package. A domain is held as lower-case
A-labels (IDNA) or as an address literal in canonical form; a local part as the unquoted text that the sender
wrote, compared after NFC and case folding. Pure: no I/O. Fails with :class:`AddressError`, whose text says
what is wrong in words fit for a reply.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from typing import Final

import attrs
import idna

#: RFC 5321 §4.5.3.1.1, in octets.
MAX_LOCAL_PART: Final = 64
#: RFC 5321 §4.5.3.1.2, in octets.
MAX_DOMAIN: Final = 255
#: RFC 5321 §4.5.3.1.3 is 256 octets with the brackets; RFC 6531 keeps it.
MAX_PATH: Final = 256

# RFC 5321 §4.1.2 Dot-string, RFC 6531 §3.3 adding UTF-8 beyond ASCII.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z")
_QUOTED = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e\u0080-\U0010ffff]|\\[\x20-\x7e])*)"')
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_LDH_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
# Beyond ASCII the standards allow any character (RFC 6531 §3.3); these deceive readers and logs (RFC 6532
# §5): controls, surrogates, spaces, line ends, invisible and direction-changing marks. The joiners belong to
# the letters of some scripts.
_DECEIVING = frozenset({"Cc", "Cs", "Cf", "Zs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
_LITERAL = re.compile(r"\[(?:(IPv6):)?([0-9A-Fa-f:.]+)\]\Z", re.IGNORECASE)


class AddressError(ValueError):
    """The text is no address; the message says why, in words that may stand in a reply."""


def normalise_domain(text: str) -> str:
    """A domain or address literal in the one form that tables compare.

    :param text: U-labels or A-labels, any case, or ``[192.0.2.1]`` / ``[IPv6:...]``.
    :returns: lower-case A-labels without a trailing dot, or the literal in canonical form.
    :raises AddressError: where it is neither (RFC 5321 §4.1.2, §4.1.3, RFC 5890).
    """
    if text.startswith("["):
        match = _LITERAL.match(text)
        if match is None:
            raise AddressError("malformed address literal")
        try:
            if match.group(1):
                return f"[IPv6:{ipaddress.IPv6Address(match.group(2)).compressed}]"
            return f"[{ipaddress.IPv4Address(match.group(2))}]"
        except ValueError:
            raise AddressError("malformed address literal") from None
    if len(text) > MAX_DOMAIN:  # before IDNA, whose cost grows faster than its input
        raise AddressError("malformed domain name")
    lowered = text.lower()
    if not lowered.isascii():
        try:
            lowered = idna.encode(unicodedata.normalize("NFC", lowered), uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise AddressError("malformed international domain name") from None
    if len(lowered) > MAX_DOMAIN or not _LDH_DOMAIN.match(lowered):
        raise AddressError("malformed domain name")
    return lowered


def display_domain(domain: str) -> str:
    """The domain as a person reads it: U-labels where it has them."""
    if "xn--" not in domain:
        return domain
    try:
        return idna.decode(domain)
    except (idna.IDNAError, UnicodeError):
        return domain


def fold_local(local: str) -> str:
    """A local part as tables compare it: NFC, then case folding."""
    if local.isascii():
        return local.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).casefold())


@attrs.frozen(slots=True)
class Address:
    """A mailbox: local part (unquoted, as written) and domain (normalised).

    ``domain`` is "" only for the bare ``postmaster`` (RFC 5321 §4.1.1.3).
    """

    local: str
    domain: str

    @property
    def key(self) -> str:
        """The form under which tables find it: folded local part, "@", domain."""
        return f"{fold_local(self.local)}@{self.domain}"

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent to a host without SMTPUTF8 (RFC 6531)."""
        return self.local.isascii()

    def __str__(self) -> str:
        """As it stands in MAIL and RCPT, without brackets; quoted where the local part needs it."""
        local = self.local
        if not local.isalnum() and not _DOT_STRING.match(local):
            local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"{local}@{self.domain}" if self.domain else local

    @property
    def shown(self) -> str:
        """As a person reads it: U-labels in the domain."""
        if "xn--" not in self.domain:
            return str(self)
        return str(Address(self.local, "")) + "@" + display_domain(self.domain)


def _deceives(local: str) -> bool:
    """Whether a local part beyond ASCII has a character that people and logs would not see as it is."""
    return any(unicodedata.category(c) in _DECEIVING and c not in _JOINERS for c in local if not c.isascii())


def parse_address(text: str) -> Address:
    """Parse ``local@domain``, the local part dot-string or quoted (RFC 5321 §4.1.2, RFC 6531).

    :raises AddressError: saying what is wrong.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_PATH - 2:
        raise AddressError("address too long")
    if text.startswith('"'):
        match = _QUOTED.match(text)
        if match is None or text[match.end() : match.end() + 1] != "@":
            raise AddressError("malformed quoted local part")
        local = re.sub(r"\\(.)", r"\1", match.group(1))
        domain = text[match.end() + 1 :]
    else:
        local, at, domain = text.rpartition("@")
        if not at:
            raise AddressError("address without a domain")
        if not _DOT_STRING.match(local):
            raise AddressError("malformed local part")
    if not local:
        raise AddressError("empty local part")
    if not local.isascii() and _deceives(local):
        raise AddressError("local part with a control or invisible character")
    if len(local.encode("utf-8", "surrogatepass")) > MAX_LOCAL_PART:
        raise AddressError("local part too long")
    if not domain:
        raise AddressError("address without a domain")
    return Address(local, normalise_domain(domain))
