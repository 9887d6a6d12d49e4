"""What the authoritative servers of a name say, each asked by itself: no cache stands between.

:class:`Authority` finds the zone of a name with the configured resolver (whose servers are those, and where)
and then asks all of them; the checks of the DNS use it. Hostile answers cost a bounded number of questions:
servers of a zone, addresses of a server, labels climbed, aliases followed and the time of each question have
named limits. Fails never: what does not come stands in :class:`Told` as its trouble.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from lorrainemail.interfaces import DnsFailure, IResolver, MxHost
from lorrainemail.net.exchange import ExchangeError, Server, exchange, make_query
from lorrainemail.net.resolver import MAX_RECORDS, Resolver

#: Servers of one zone that are asked, and addresses of one of them.
MAX_SERVERS: Final = 8
MAX_ADDRESSES: Final = 2
#: Labels from a name up to its zone.
MAX_CLIMB: Final = 12
#: Aliases from a name to its records.
MAX_CHAIN: Final = 8
#: Seconds for one answer of one server; it is asked twice.
PATIENCE: Final = (3.0, 5.0)
#: Questions of one check-up, all together.
MAX_QUESTIONS: Final = 2000

Trouble = Literal["", "silent", "loop", "no_zone", "too_many"]


@attrs.frozen(slots=True)
class NameServer:
    """One server of a zone; without addresses where its name has none."""

    name: str
    addresses: tuple[str, ...]


@attrs.frozen(slots=True)
class Zone:
    """A zone and its servers."""

    origin: str
    servers: tuple[NameServer, ...]


@attrs.frozen(slots=True)
class Said:
    """What one server said.

    :ivar records: in the form of a zone file; of TXT the whole text.
    :ivar alias: where its CNAME leads, "" for none.
    :ivar fault: why there is no answer: "refused", "not authoritative", "no answer", "no address".
    """

    server: str
    records: frozenset[str] = frozenset()
    alias: str = ""
    exists: bool = True
    fault: str = ""


@attrs.frozen(slots=True)
class Told:
    """What all servers together said of a name and type, at the end of its aliases.

    :ivar records: of the first server that answered.
    :ivar end: the name where they are.
    :ivar differ: servers that said something else than the first one.
    :ivar faults: servers that said nothing of use, and why.
    """

    name: str
    end: str
    records: frozenset[str] = frozenset()
    exists: bool = False
    trouble: Trouble = ""
    differ: tuple[str, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def aliased(self) -> bool:
        return self.end != self.name


class Authority:
    """Asks. One for each check-up: what it has learned of zones it does not ask again.

    :param resolver: finds the zones and the addresses of their servers.
    :param port: at which those answer.
    """

    def __init__(self, reactor: Any, resolver: Resolver, port: int) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._port = port
        self._zones: dict[str, Deferred[Zone | DnsFailure | None]] = {}
        self._questions = 0
        #: Whether the resolver has answered nothing so far.
        self.mute = True

    async def zone(self, name: str) -> Zone | None:
        """The zone that a name is in; None where there is none.

        :raises DnsFailure: where the resolver does not say.
        """
        labels = name.split(".")
        failure: DnsFailure | None = None
        for start in range(min(len(labels), MAX_CLIMB)):
            try:
                found = await self._apex(".".join(labels[start:]))
            except DnsFailure as error:
                failure = error  # a loop of aliases there hides nothing of the zone above it
                continue
            if found is not None and (failure is None or "." in found.origin):
                return found
        if failure is not None:
            raise failure
        return None

    async def _apex(self, name: str) -> Zone | None:
        """The zone that begins at that very name."""
        known = self._zones.get(name)
        if known is None:
            known = self._zones[name] = Deferred()
            found: Zone | DnsFailure | None = None
            try:
                found = await self._look(name)
            except DnsFailure as failure:
                found = failure
            finally:
                known.callback(found)
        else:
            waiting: Deferred[Zone | DnsFailure | None] = Deferred()

            def pass_on(zone: Zone | DnsFailure | None) -> Zone | DnsFailure | None:
                waiting.callback(zone)
                return zone

            known.addCallback(pass_on)
            found = await waiting
        if isinstance(found, DnsFailure):
            raise DnsFailure(found.kind, found.question)
        return found

    async def _look(self, name: str) -> Zone | None:
        try:
            answer = await self._resolver.query(name, dns.rdatatype.NS)
        except DnsFailure as failure:
            self.mute = self.mute and failure.kind == "temporary"
            if failure.kind == "temporary":
                raise
            return None
        self.mute = False
        if answer.name.to_text(omit_final_dot=True) != name:
            return None  # an alias led elsewhere
        hosts = [record.target.to_text(omit_final_dot=True).lower() for record in answer.records]  # type: ignore[attr-defined]
        wanted = sorted(set(hosts))[:MAX_SERVERS]
        return Zone(name, tuple([NameServer(host, await self._addresses(host)) for host in wanted]))

    async def _addresses(self, host: str) -> tuple[str, ...]:
        try:
            return tuple(await self._resolver.addresses(host))[:MAX_ADDRESSES]
        except DnsFailure:
            return ()

    # -- questions -----------------------------------------------------------------------------------

    async def find(self, name: str, kind: str) -> Told:
        """All servers of the name's zone, aliases followed."""
        end, rdtype = name.lower(), dns.rdatatype.from_text(kind)
        for _ in range(MAX_CHAIN):
            try:
                # RFC 4035 §3.1.4.1: DS is the parent's to say.
                zone = await self.zone(end.partition(".")[2] if rdtype == dns.rdatatype.DS else end)
            except DnsFailure:
                return Told(name, end, trouble="silent")
            if zone is None:
                return Told(name, end, trouble="no_zone")
            said = await self.ask(zone, end, rdtype)
            if not said:
                return Told(name, end, trouble="too_many")
            good = [one for one in said if not one.fault]
            faults = tuple((one.server, one.fault) for one in said if one.fault)
            if not good:
                return Told(name, end, trouble="silent", faults=faults)
            first = good[0]
            if first.alias and not first.records:
                end = first.alias
                continue
            differ = tuple(one.server for one in good if one.records != first.records)
            return Told(name, end, first.records, first.exists, "", differ, faults)
        return Told(name, end, trouble="loop")

    async def ask(self, zone: Zone, name: str, rdtype: dns.rdatatype.RdataType) -> Sequence[Said]:
        """Each server of a zone, all at once; nothing where the check-up has asked too much."""
        self._questions += len(zone.servers)
        if self._questions > MAX_QUESTIONS:
            return ()
        asked = [
            Deferred.fromCoroutine(self._server(server, name, rdtype))
            for server in zone.servers[:MAX_SERVERS]
        ]
        results: list[tuple[bool, Said]] = await DeferredList(asked, fireOnOneErrback=True)
        return [said for _, said in results]

    async def _server(self, server: NameServer, name: str, rdtype: dns.rdatatype.RdataType) -> Said:
        if not server.addresses:
            return Said(server.name, fault="no address")
        try:
            parsed = dns.name.from_text(name, idna_codec=None)
        except (dns.exception.DNSException, ValueError):
            return Said(server.name, exists=False)
        fault = "no answer"
        for patience in PATIENCE:
            for address in server.addresses:
                query = make_query(parsed, rdtype, False, True)
                query.flags &= ~dns.flags.RD
                try:
                    answer = await exchange(self._reactor, Server(address, self._port), query, patience)
                except ExchangeError:
                    continue
                if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                    fault = "refused"
                elif not answer.flags & dns.flags.AA:
                    fault = "not authoritative"
                else:
                    return _said(server.name, answer, parsed, rdtype)
            if fault != "no answer":
                break
        return Said(server.name, fault=fault)


def _said(
    server: str, answer: dns.message.Message, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
) -> Said:
    records: set[str] = set()
    alias = ""
    for rrset in answer.answer[:MAX_RECORDS]:
        if rrset.rdclass != dns.rdataclass.IN or rrset.name != name:
            continue
        if rrset.rdtype == rdtype:
            records.update(text_of(record) for record in list(rrset)[:MAX_RECORDS])
        elif rrset.rdtype == dns.rdatatype.CNAME:
            alias = rrset[0].target.to_text(omit_final_dot=True).lower()
    return Said(server, frozenset(records), alias, answer.rcode() != dns.rcode.NXDOMAIN)


def text_of(record: Any) -> str:
    """A record's data as it is compared: a zone file's form, names in lower case; of TXT the whole text."""
    if record.rdtype == dns.rdatatype.TXT:
        return b"".join(record.strings).decode("utf-8", "replace")
    text: str = record.to_text()
    return text.lower()


@implementer(IResolver)
class Uncached:
    """A resolver without memory, for evaluations such as SPF: every answer from the authoritative servers."""

    def __init__(self, authority: Authority, resolver: IResolver) -> None:
        self._authority = authority
        self._resolver = resolver

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        return Deferred.fromCoroutine(self._mx(domain))

    async def _mx(self, domain: str) -> list[MxHost]:
        records = (text.partition(" ") for text in await self._records(domain, "MX"))
        return [MxHost(int(preference), host.rstrip(".") or ".") for preference, _, host in records]

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        return Deferred.fromCoroutine(self._addresses(host, ipv6, ipv4))

    async def _addresses(self, host: str, ipv6: bool, ipv4: bool) -> list[str]:
        found: list[str] = []
        failure: DnsFailure | None = None
        for kind in ["AAAA"] * ipv6 + ["A"] * ipv4:
            try:
                found += await self._records(host, kind)
            except DnsFailure as error:
                failure = error if failure is None or error.kind == "temporary" else failure
        if not found and failure is not None:
            raise failure
        return found

    def txt(self, name: str) -> Deferred[list[bytes]]:
        return Deferred.fromCoroutine(self._txt(name))

    async def _txt(self, name: str) -> list[bytes]:
        return [text.encode("utf-8", "replace") for text in await self._records(name, "TXT")]

    def ptr(self, address: str) -> Deferred[list[str]]:
        return self._resolver.ptr(address)

    async def _records(self, name: str, kind: str) -> list[str]:
        told = await self._authority.find(name, kind)
        if told.trouble == "no_zone":
            raise DnsFailure("nxdomain", name, "no zone")
        if told.trouble:
            raise DnsFailure("temporary", name, told.trouble)
        if not told.records:
            raise DnsFailure("nodata" if told.exists else "nxdomain", name)
        return sorted(told.records)
