"""SPF records as values: what a domain's TXT record says, parsed once and kept (RFC 7208 §4.6, §5, §6, §7).

Pure. :func:`parse_record` is called by :mod:`lorrainemail.mailauth.spf` for every record that the DNS
answers; a record with an error anywhere is no record at all (RFC 7208 §4.6), so nothing is evaluated before
the whole is parsed. Fails with :class:`RecordError`, whose text names the faulty term.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final, Literal

import attrs

Qualifier = Literal["pass", "fail", "softfail", "neutral"]
Mechanism = Literal["all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists"]

#: Octets of one record that are parsed; larger ones are faulty (RFC 7208 §3.4 recommends 450).
MAX_RECORD: Final = 8192

_QUALIFIERS: Final[dict[str, Qualifier]] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}
_MECHANISMS: Final[dict[str, Mechanism]] = {
    "all": "all",
    "include": "include",
    "a": "a",
    "mx": "mx",
    "ptr": "ptr",
    "ip4": "ip4",
    "ip6": "ip6",
    "exists": "exists",
}
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)\Z")
_MECHANISM = re.compile(r"([-+~?]?)([A-Za-z][A-Za-z0-9]*)(.*)\Z")
_CIDR = re.compile(r"(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_ONE_CIDR = re.compile(r"([^/]*)(?:/(0|[1-9][0-9]{0,2}))?\Z")
_MACRO = re.compile(r"%(?:([%_-])|\{([A-Za-z])([0-9]*)([rR]?)([.+,/_=-]*)\})")
# RFC 7208 §7.1 toplabel: alphanumeric with a letter, or with a hyphen inside.
_TOP_LABEL = re.compile(r"\.(?:[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*|[A-Za-z0-9]+-[A-Za-z0-9-]*[A-Za-z0-9])\.?\Z")
_ESCAPES: Final = {"%": "%", "_": " ", "-": "%20"}


class RecordError(ValueError):
    """The record cannot be used; the text says which term is wrong."""


@attrs.frozen(slots=True)
class Macro:
    """One ``%{...}`` (RFC 7208 §7.1).

    :ivar letter: lower case. ``escape``: the letter was in upper case, the value is URL-escaped.
    :ivar keep: how many right-hand parts are kept, 0 for all. ``reverse``: their order is turned first.
    """

    letter: str
    escape: bool
    keep: int
    reverse: bool
    delimiters: str


MacroString = tuple[str | Macro, ...]


@attrs.frozen(slots=True)
class Directive:
    """One mechanism with its qualifier.

    :ivar text: as written, for people.
    :ivar domain: its domain-spec; None means the domain that is asked about.
    :ivar network: of ip4 and ip6.
    """

    text: str
    qualifier: Qualifier
    mechanism: Mechanism
    domain: MacroString | None = None
    cidr4: int = 32
    cidr6: int = 128
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None


@attrs.frozen(slots=True)
class Record:
    """One whole record."""

    directives: tuple[Directive, ...]
    redirect: MacroString | None = None
    explanation: MacroString | None = None


def is_record(text: bytes) -> bool:
    """Whether a TXT record claims to be SPF (RFC 7208 §4.5)."""
    return text[:6].lower() == b"v=spf1" and text[6:7] in (b"", b" ")


@lru_cache(maxsize=2048)
def parse_record(text: bytes) -> Record:
    """A whole record.

    :raises RecordError: where any term is wrong.
    """
    if len(text) > MAX_RECORD:
        raise RecordError(f"the record has more than {MAX_RECORD} octets")
    try:
        terms = text.decode("ascii")[6:].split(" ")
    except UnicodeDecodeError:
        raise RecordError("the record is not ASCII") from None
    directives: list[Directive] = []
    modifiers: dict[str, MacroString] = {}
    for term in terms:
        if not term:
            continue
        match = _MODIFIER.match(term)
        if match is None:
            directives.append(_directive(term))
            continue
        name = match.group(1).lower()
        if name in ("redirect", "exp"):
            if name in modifiers:
                raise RecordError(f"{name} is given twice")  # RFC 7208 §6
            modifiers[name] = _domain_spec(match.group(2), term)
        else:
            macro_string(match.group(2), term)
    return Record(tuple(directives), modifiers.get("redirect"), modifiers.get("exp"))


def _directive(term: str) -> Directive:
    match = _MECHANISM.match(term)
    if match is None:
        raise RecordError(f"{_shown(term)} is no mechanism")
    qualifier = _QUALIFIERS[match.group(1) or "+"]
    name = _MECHANISMS.get(match.group(2).lower())
    rest: str = match.group(3)
    if name == "all" and not rest:
        return Directive(term, qualifier, "all")
    if (name == "include" or name == "exists") and rest.startswith(":"):
        return Directive(term, qualifier, name, _domain_spec(rest[1:], term))
    if name == "a" or name == "mx":
        cidr = _CIDR.search(rest)
        assert cidr is not None  # it matches the empty end
        spec, cidr4, cidr6 = rest[: cidr.start()], int(cidr.group(1) or 32), int(cidr.group(2) or 128)
        if cidr4 <= 32 and cidr6 <= 128 and (not spec or spec.startswith(":")):
            domain = _domain_spec(spec[1:], term) if spec else None
            return Directive(term, qualifier, name, domain, cidr4, cidr6)
    if name == "ptr" and (not rest or rest.startswith(":")):
        return Directive(term, qualifier, "ptr", _domain_spec(rest[1:], term) if rest else None)
    if (name == "ip4" or name == "ip6") and rest.startswith(":"):
        return Directive(term, qualifier, name, network=_network(name, rest[1:], term))
    raise RecordError(f"{_shown(term)} is no mechanism")


def _network(name: str, text: str, term: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    match = _ONE_CIDR.match(text)
    if match is not None:
        try:
            if name == "ip4":
                return ipaddress.IPv4Network((match.group(1), int(match.group(2) or 32)), strict=False)
            if "%" not in text:
                return ipaddress.IPv6Network((match.group(1), int(match.group(2) or 128)), strict=False)
        except ValueError:
            pass  # said below
    raise RecordError(f"{_shown(term)} names no network")


def _domain_spec(text: str, term: str) -> MacroString:
    """RFC 7208 §7.1: a macro-string that ends in a top label or in a macro."""
    parsed = macro_string(text, term)
    if not parsed:
        raise RecordError(f"{_shown(term)} names no domain")
    ends_in_macro = text.endswith("}") or text.endswith(("%%", "%_", "%-"))
    if not ends_in_macro and _TOP_LABEL.search("." + text if "." not in text else text) is None:
        raise RecordError(f"{_shown(term)} does not end in a domain")
    if not ends_in_macro and "." not in text.rstrip("."):
        raise RecordError(f"{_shown(term)} does not end in a domain")
    return parsed


def macro_string(text: str, term: str, explanation: bool = False) -> MacroString:
    """The parts of a macro-string.

    :param explanation: it is the text of an explanation: spaces, and the letters c, r and t, are allowed.
    """
    parts: list[str | Macro] = []
    literal = ""
    position = 0
    letters = "slodiphvcrt" if explanation else "slodiphv"
    while position < len(text):
        percent = text.find("%", position)
        if percent < 0:
            percent = len(text)
        piece = text[position:percent]
        least = " " if explanation else "!"
        if any(not least <= character <= "~" for character in piece):
            raise RecordError(f"{_shown(term)} has a character that may not be there")
        literal += piece
        position = percent
        if percent == len(text):
            break
        match = _MACRO.match(text, percent)
        if match is None:
            raise RecordError(f"{_shown(term)} has a malformed macro")
        position = match.end()
        escape, letter, digits, reverse, delimiters = match.groups()
        if escape is not None:
            literal += _ESCAPES[escape]
            continue
        if letter.lower() not in letters or (digits and int(digits[:9]) == 0):
            raise RecordError(f"{_shown(term)} has a malformed macro")
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(
            Macro(letter.lower(), letter.isupper(), int(digits[:9] or 0), bool(reverse), delimiters or ".")
        )
    if literal:
        parts.append(literal)
    return tuple(parts)


def _shown(term: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in term[:60])
    return f"'{text}'"
