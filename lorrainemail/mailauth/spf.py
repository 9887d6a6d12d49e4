"""SPF: whether a domain lets a host send mail in its name (RFC 7208).

One call, :meth:`Spf.check`, by the policy check at MAIL; nothing is kept between two calls but parsed
records. An evaluator of our own, because the one that exists (pyspf, the oracle of the tests) asks the DNS
synchronously: every question here is awaited, counted and bounded.

Bounds (RFC 7208 §4.6.4): ten terms that ask the DNS, ten names of an MX or PTR set, two answers that come to
nothing, and :data:`TOTAL_TIME` for the whole. Never fails: whatever goes wrong is one of the seven results.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import quote

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from lorrainemail.addresses import Address, AddressError, normalise_domain
from lorrainemail.interfaces import DnsFailure, IResolver
from lorrainemail.mailauth.spf_record import (
    Directive,
    Macro,
    MacroString,
    Record,
    RecordError,
    is_record,
    macro_string,
    parse_record,
)

SpfWord = Literal["none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"]

#: Terms that ask the DNS, in the record and all that it includes (RFC 7208 §4.6.4).
MAX_LOOKUPS: Final = 10
#: Answers without records (RFC 7208 §4.6.4).
MAX_VOID: Final = 2
#: Names of one MX or PTR answer whose addresses are asked for (RFC 7208 §4.6.4).
MAX_NAMES: Final = 10
#: Seconds for a whole check (RFC 7208 §4.6.4 wants 20 at least).
TOTAL_TIME: Final = 20.0
#: Characters of a domain after macro expansion (RFC 7208 §7.3), and of an explanation.
MAX_DOMAIN: Final = 253
MAX_EXPLANATION: Final = 400
#: Characters of a term that are shown.
MAX_TERM: Final = 60

_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
_SPLIT: Final[dict[str, re.Pattern[str]]] = {}


@attrs.frozen(slots=True)
class SpfResult:
    """What a check came to.

    :ivar domain: whose record decided: of the reverse-path, or of the greeting where that is null.
    :ivar identity: "mailfrom" or "helo".
    :ivar sender: the identity as it was checked.
    :ivar reason: one sentence for people.
    :ivar explanation: the domain's own words at "fail", "" where it has none. Not ours: quote it.
    """

    result: SpfWord
    domain: str
    identity: Literal["mailfrom", "helo"]
    sender: str
    reason: str
    explanation: str = ""


class _Ends(Exception):
    """The evaluation ends with an error."""

    def __init__(self, result: Literal["temperror", "permerror"], reason: str) -> None:
        super().__init__(reason)
        self.result: Literal["temperror", "permerror"] = result


class _NoMatch(Exception):
    """A macro cannot be expanded; its mechanism does not match (RFC 8616 §4)."""


class Spf:
    """Makes checks.

    :param clock: for the bound in time.
    :param hostname: our name, for the macro ``%{r}``.
    :param wall_clock: for the macro ``%{t}``.
    """

    def __init__(
        self,
        resolver: IResolver,
        clock: IReactorTime,
        hostname: str,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._clock = clock
        self._hostname = hostname
        self._wall_clock = wall_clock

    async def check(self, peer: str, helo: str, sender: Address | None) -> SpfResult:
        """Whether ``peer`` may send for ``sender``, or, of a null reverse-path, for its greeting's domain.

        :param peer: the client's address in canonical text.
        """
        # RFC 7208 §2.4: the null reverse-path is postmaster at the greeting's name.
        identity: Literal["mailfrom", "helo"] = "helo" if sender is None else "mailfrom"
        local, domain = ("postmaster", _greeting(helo)) if sender is None else (sender.local, sender.domain)
        shown = domain if sender is None else str(sender)

        def result(word: SpfWord, reason: str, explanation: str = "") -> SpfResult:
            return SpfResult(word, domain, identity, shown, reason, explanation)

        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return result("none", "the client has no IP address")
        if not _checkable(domain):
            return result("none", f"{domain or 'the greeting'} is no domain that could have a record")
        run = _Run(self._resolver, address, local or "postmaster", domain, helo, self)
        evaluation = Deferred.fromCoroutine(run.check_host(domain))
        try:
            word, reason = await evaluation.addTimeout(TOTAL_TIME, self._clock)
            explanation = ""
            if word == "fail" and run.explanation is not None:
                said = Deferred.fromCoroutine(run.explain(*run.explanation))
                explanation = await said.addTimeout(TOTAL_TIME, self._clock)
        except TimeoutError:
            return result("temperror", f"the DNS did not answer within {TOTAL_TIME:g} s")
        except _Ends as end:
            return result(end.result, str(end))
        return result(word, reason, explanation)

    def macro(self, letter: str) -> str:
        """What only an explanation may say of us."""
        return self._hostname if letter == "r" else str(int(self._wall_clock()))


def _greeting(helo: str) -> str:
    if helo.startswith("["):
        return ""
    try:
        return normalise_domain(helo.rstrip("."))
    except AddressError:
        return ""


def _checkable(domain: str) -> bool:
    """RFC 7208 §4.3: no empty or overlong label, and more than one."""
    labels = domain.split(".")
    return len(labels) > 1 and len(domain) <= MAX_DOMAIN and all(0 < len(label) < 64 for label in labels)


class _Run:
    """One evaluation; counts what is asked."""

    __slots__ = (
        "_domain",
        "_helo",
        "_ip",
        "_local",
        "_lookups",
        "_resolver",
        "_spf",
        "_validated",
        "_void",
        "explanation",
    )

    def __init__(self, resolver: IResolver, ip: _Ip, local: str, domain: str, helo: str, spf: Spf) -> None:
        self._resolver = resolver
        self._ip = ip
        self._local = local
        self._domain = domain
        self._helo = helo
        self._spf = spf
        self._lookups = 0
        self._void = 0
        self._validated: list[str] | None = None
        self.explanation: tuple[MacroString, str] | None = None

    async def check_host(self, domain: str, included: bool = False) -> tuple[SpfWord, str]:
        """RFC 7208 §4. Whose explanation counts is left in ``explanation`` (not an included one's)."""
        record = await self._record(domain)
        if record is None:
            return "none", f"{domain} has no SPF record"
        for directive in record.directives:
            try:
                matches = await self._matches(directive, domain)
            except _NoMatch:
                matches = False
            if matches:
                if not included and record.explanation is not None:
                    self.explanation = (record.explanation, domain)
                return directive.qualifier, f"{domain} says '{directive.text[:MAX_TERM]}' of {self._ip}"
        if record.redirect is None:
            # RFC 7208 §4.7
            return "neutral", f"the SPF record of {domain} says nothing of {self._ip}"
        self._count()
        target = await self._expand_domain(record.redirect, domain)
        word, reason = await self.check_host(target, included) if _checkable(target) else ("none", "")
        if word == "none":
            # RFC 7208 §6.1
            raise _Ends("permerror", f"{domain} redirects to {target}, which has no SPF record")
        return word, reason

    async def _record(self, domain: str) -> Record | None:
        """RFC 7208 §4.4, §4.5, §4.6."""
        try:
            texts = await self._resolver.txt(domain)
        except DnsFailure as failure:
            if failure.kind == "temporary":
                raise _Ends("temperror", f"the SPF record of {domain} cannot be looked up now") from None
            return None
        records = [text for text in texts if is_record(text)]
        if not records:
            return None
        if len(records) > 1:
            raise _Ends("permerror", f"{domain} has more than one SPF record")
        try:
            return parse_record(records[0])
        except RecordError as error:
            raise _Ends("permerror", f"the SPF record of {domain} is faulty: {error}") from None

    # -- mechanisms (RFC 7208 §5) ----------------------------------------------------------------

    async def _matches(self, directive: Directive, domain: str) -> bool:
        mechanism, ip = directive.mechanism, self._ip
        if mechanism == "all":
            return True
        if mechanism == "ip4" or mechanism == "ip6":
            return directive.network is not None and ip in directive.network
        self._count()
        target = domain
        if directive.domain is not None:
            target = await self._expand_domain(directive.domain, domain)
        if mechanism == "include":
            return await self._include(directive, target, domain)
        if mechanism == "a":
            return self._among(await self._addresses(target), directive)
        if mechanism == "mx":
            for host in await self._mx(target, domain):
                if self._among(await self._addresses(host), directive):
                    return True
            return False
        if mechanism == "exists":
            return bool(await self._addresses(target, ipv4=True))
        names = await self._names()
        return any(name == target.lower() or name.endswith("." + target.lower()) for name in names)

    async def _include(self, directive: Directive, target: str, domain: str) -> bool:
        word = "none"
        if _checkable(target):
            word, _ = await self.check_host(target, True)
        if word == "none":
            # RFC 7208 §5.2
            raise _Ends(
                "permerror", f"{domain} says '{directive.text[:MAX_TERM]}', but {target} has no SPF record"
            )
        return word == "pass"

    def _among(self, addresses: list[str], directive: Directive) -> bool:
        ip = self._ip
        length = directive.cidr4 if ip.version == 4 else directive.cidr6
        shift = ip.max_prefixlen - length
        ours = int(ip) >> shift
        return any(int(ipaddress.ip_address(one)) >> shift == ours for one in addresses)

    # -- DNS -------------------------------------------------------------------------------------

    def _count(self) -> None:
        self._lookups += 1
        if self._lookups > MAX_LOOKUPS:
            raise _Ends("permerror", f"more than {MAX_LOOKUPS} terms of the record ask the DNS")

    def _failed(self, failure: DnsFailure, name: str) -> None:
        if failure.kind == "temporary":
            raise _Ends("temperror", f"{name} cannot be looked up now") from None
        self._void += 1
        if self._void > MAX_VOID:
            raise _Ends("permerror", f"more than {MAX_VOID} terms of the record come to nothing") from None

    async def _addresses(self, host: str, ipv4: bool | None = None) -> list[str]:
        """Addresses of the client's family, or of IPv4."""
        four = self._ip.version == 4 if ipv4 is None else ipv4
        try:
            return await self._resolver.addresses(host, ipv6=not four, ipv4=four)
        except DnsFailure as failure:
            self._failed(failure, host)
            return []

    async def _mx(self, name: str, domain: str) -> list[str]:
        try:
            records = await self._resolver.mx(name)
        except DnsFailure as failure:
            self._failed(failure, name)
            return []
        if len(records) > MAX_NAMES:
            raise _Ends("permerror", f"{name} has more than {MAX_NAMES} MX records")
        records.sort(key=lambda record: record.preference)
        return [record.host for record in records if record.host not in (".", "")]

    async def _names(self) -> list[str]:
        """RFC 7208 §5.5: names of the client whose addresses lead back to it."""
        if self._validated is not None:
            return self._validated
        self._validated = []
        try:
            names = await self._resolver.ptr(str(self._ip))
        except DnsFailure as failure:
            if failure.kind != "temporary":
                self._failed(failure, str(self._ip))
            return []
        found = []
        four = self._ip.version == 4
        for name in names[:MAX_NAMES]:
            try:
                addresses = await self._resolver.addresses(name, ipv6=not four, ipv4=four)
            except DnsFailure:
                continue
            if any(ipaddress.ip_address(one) == self._ip for one in addresses):
                found.append(name.lower())
        self._validated = found
        return found

    # -- macros (RFC 7208 §7) --------------------------------------------------------------------

    async def _expand_domain(self, spec: MacroString, domain: str) -> str:
        text = (await self._expand(spec, domain, False)).removesuffix(".")
        while len(text) > MAX_DOMAIN:
            _, dot, text = text.partition(".")
            if not dot:
                break
        return text

    async def _expand(self, parts: MacroString, domain: str, explaining: bool) -> str:
        expanded = []
        for part in parts:
            if isinstance(part, Macro):
                value = _transform(await self._value(part.letter, domain, explaining), part)
                expanded.append(quote(value, safe="-._~") if part.escape else value)
            else:
                expanded.append(part)
        return "".join(expanded)

    async def _value(self, letter: str, domain: str, explaining: bool) -> str:
        if letter in "sl" and not self._local.isascii() and not explaining:
            raise _NoMatch
        match letter:
            case "s":
                return f"{self._local}@{self._domain}"
            case "l":
                return self._local
            case "o":
                return self._domain
            case "d":
                return domain
            case "i":
                if self._ip.version == 4:
                    return str(self._ip)
                return ".".join(self._ip.exploded.replace(":", ""))
            case "v":
                return "in-addr" if self._ip.version == 4 else "ip6"
            case "h":
                return self._helo
            case "c":
                return str(self._ip)
            case "p":
                return await self._name(domain)
            case _:
                return self._spf.macro(letter)

    async def _name(self, domain: str) -> str:
        """RFC 7208 §7.3: a validated name, that of the domain before one below it before any other."""
        names = await self._names()
        if domain in names:
            return domain
        for name in names:
            if name.endswith("." + domain):
                return name
        return names[0] if names else "unknown"

    async def explain(self, spec: MacroString, domain: str) -> str:
        """RFC 7208 §6.2: the domain's words, "" where anything is wrong with them."""
        try:
            texts = await self._resolver.txt(await self._expand_domain(spec, domain))
            if len(texts) != 1:
                return ""
            parts = macro_string(texts[0].decode("ascii"), "the explanation", explanation=True)
            return (await self._expand(parts, domain, True))[:MAX_EXPLANATION]
        except (DnsFailure, UnicodeDecodeError, RecordError, _Ends, _NoMatch):
            return ""


def _transform(value: str, macro: Macro) -> str:
    """RFC 7208 §7.1: split at the delimiters, turn, keep the right-hand parts, join with dots."""
    if not (macro.keep or macro.reverse or macro.delimiters != "."):
        return value
    pattern = _SPLIT.get(macro.delimiters)
    if pattern is None:
        pattern = re.compile("[" + re.escape(macro.delimiters) + "]")
        if len(_SPLIT) < 128:
            _SPLIT[macro.delimiters] = pattern
    parts = pattern.split(value)
    if macro.reverse:
        parts.reverse()
    return ".".join(parts[-macro.keep :] if macro.keep else parts)
