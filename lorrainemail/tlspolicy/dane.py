"""Which TLSA records hold for a mail server (RFC 7672 §2), as far as DNSSEC proves the way to them.

The resolver's verdict counts where the configuration trusts it (``[dns] trusted``); without that nothing is
asked here. The way: the MX records must be authentic, then the host's addresses, then the TLSA records.
Anything insecure on the way means that the domain does not use DANE, which needs no further question; what is
bogus, or not answered, means that the host must not be used now (RFC 7672 §2.1.1): an attacker who could make
records vanish would win otherwise.

Called by :mod:`lorrainemail.tlspolicy.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol, cast

import attrs
import dns.rdatatype
from dns.rdtypes.ANY.TLSA import TLSA
from twisted.internet.defer import Deferred

from lorrainemail.interfaces import DnsFailure
from lorrainemail.net.resolver import Answer
from lorrainemail.tlspolicy.tlsa import Tlsa, TlsaCheck, usable

#: Types of the records that make a host reachable.
_ADDRESSES: Final = (dns.rdatatype.AAAA, dns.rdatatype.A)


class Validating(Protocol):
    """The resolver, as far as it is used here."""

    trusted: bool

    def query(self, name: str, rdtype: dns.rdatatype.RdataType) -> Deferred[Answer]: ...


@attrs.frozen(slots=True)
class DaneHost:
    """What DANE says of one host.

    :ivar kind: "insecure": DNSSEC does not prove it, or it has no records; "records": one of them must fit;
        "unusable": it has records, none of which can be used: TLS without verification; "wait": not now.
    :ivar words: why it must wait.
    """

    kind: Literal["insecure", "records", "unusable", "wait"]
    check: TlsaCheck | None = None
    base: str = ""
    words: str = ""


_INSECURE: Final = DaneHost("insecure")


class Dane:
    """Asks.

    :param resolver: whose word on DNSSEC counts where it is trusted.
    :param ipv6: whether IPv6 addresses are used.
    """

    def __init__(self, resolver: Validating, ipv6: bool = True) -> None:
        self._resolver = resolver
        self.ipv6 = ipv6

    @property
    def possible(self) -> bool:
        return self._resolver.trusted

    async def exchanges(self, domain: str) -> frozenset[str]:
        """The hosts that authentic MX records of the domain name (RFC 7672 §2.2.1); the domain itself
        where it has none, whose addresses then decide.

        :raises DnsFailure: "temporary".
        """
        if not self.possible:
            return frozenset()
        try:
            answer = await self._resolver.query(domain, dns.rdatatype.MX)
        except DnsFailure as failure:
            if failure.kind == "temporary":
                raise
            return frozenset({domain}) if failure.kind == "nodata" else frozenset()
        if not answer.authentic:
            return frozenset()
        names = (record.exchange for record in answer.records)  # type: ignore[attr-defined]
        return frozenset(name.canonicalize().to_text(omit_final_dot=True) for name in names)

    async def host(self, host: str, port: int, domain: str) -> DaneHost:
        """What holds for a host that authentic records name.

        :param domain: the recipients'; under DANE-TA a certificate may be for it, too.
        """
        try:
            bases = await self._bases(host)
        except DnsFailure as failure:
            return DaneHost("wait", words=f"the DNS does not answer for it ({failure})")
        for base in bases:
            try:
                answer = await self._resolver.query(f"_{port}._tcp.{base}", dns.rdatatype.TLSA)
            except DnsFailure as failure:
                if failure.kind != "temporary":
                    continue
                return DaneHost("wait", words=f"its TLSA records cannot be had ({failure})")
            if not answer.authentic:
                continue
            records = usable(_record(cast(TLSA, one)) for one in answer.records)
            if not records:
                return DaneHost("unusable", base=base)
            # RFC 7672 §3.2.2: the name that has the records comes first.
            names = tuple(dict.fromkeys((base, host, domain)))
            return DaneHost("records", TlsaCheck(records, names), base)
        return _INSECURE

    async def _bases(self, host: str) -> Sequence[str]:
        """The names that may have TLSA records, in order (RFC 7672 §2.2.2, §2.2.3); none where DNSSEC does
        not prove the addresses.

        :raises DnsFailure: "temporary".
        """
        answers: list[Answer] = []
        for rdtype in _ADDRESSES if self.ipv6 else _ADDRESSES[1:]:
            try:
                answers.append(await self._resolver.query(host, rdtype))
            except DnsFailure as failure:
                if failure.kind == "temporary":
                    raise
        if not answers:
            return ()
        end = answers[0].name.canonicalize().to_text(omit_final_dot=True)
        if all(one.authentic for one in answers):
            return (host,) if end == host else (end, host)
        if end == host:
            return ()
        # An alias: it may be authentic itself although what it leads to is not.
        try:
            alias = await self._resolver.query(host, dns.rdatatype.CNAME)
        except DnsFailure as failure:
            if failure.kind == "temporary":
                raise
            return ()
        return (host,) if alias.authentic else ()


def _record(record: TLSA) -> Tlsa:
    return Tlsa(int(record.usage), int(record.selector), int(record.mtype), bytes(record.cert))
