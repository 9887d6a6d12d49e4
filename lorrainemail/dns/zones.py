"""Zones in memory, and what they answer (RFC 1034 §4.3.2, RFC 2308, RFC 4592); signed ones with their proofs
(RFC 4035 §3.1).

Owns the lookup: :meth:`Zones.answer` is pure and says what belongs into each section. Called by
:mod:`lorrainemail.dns.responder`; filled by :mod:`lorrainemail.dns.zonefile`. Never fails: a name of none of
the zones is REFUSED.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

import attrs
import dns.name
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.rrset

#: CNAMEs followed in one answer; a loop ends here too.
MAX_ALIASES: Final = 8

Node = dict[dns.rdatatype.RdataType, dns.rdataset.Rdataset]
#: The signatures of each set, by name and the type that they cover.
Signatures = dict[dns.name.Name, Node]

_STAR: Final = dns.name.Name((b"*",))
_ADDRESSES: Final = (dns.rdatatype.A, dns.rdatatype.AAAA)

#: Where the records that name hosts name them.
_HOSTS: Final = {dns.rdatatype.MX: "exchange", dns.rdatatype.NS: "target", dns.rdatatype.SRV: "target"}


@attrs.define(slots=True)
class Answer:
    """What goes into a response."""

    rcode: dns.rcode.Rcode = dns.rcode.NOERROR
    authoritative: bool = True
    answer: list[dns.rrset.RRset] = attrs.Factory(list)
    authority: list[dns.rrset.RRset] = attrs.Factory(list)
    additional: list[dns.rrset.RRset] = attrs.Factory(list)


class Zone:
    """One zone, not changed after it is made.

    :param nodes: records by name and type; the apex has SOA and NS.
    :param signatures: of a signed zone; none: it is not signed.
    :param chain: the names of its NSEC records in canonical order.
    """

    def __init__(
        self,
        origin: dns.name.Name,
        nodes: dict[dns.name.Name, Node],
        signatures: Signatures | None = None,
        chain: tuple[dns.name.Name, ...] = (),
    ) -> None:
        self.origin = origin
        self.nodes = nodes
        self.signatures = signatures or {}
        self.chain = chain
        #: All names that exist, also those that only have names below them (RFC 4592 §2.2.2).
        self.names = frozenset(
            dns.name.Name(name.labels[start:])
            for name in nodes
            for start in range(len(name.labels) - len(origin.labels) + 1)
        )

    def cut(self, name: dns.name.Name) -> dns.name.Name | None:
        """The delegation at or above the name, the highest one; None inside the zone's own part."""
        depth = len(self.origin.labels)
        for length in range(depth + 1, len(name.labels) + 1):
            ancestor = dns.name.Name(name.labels[-length:])
            if dns.rdatatype.NS in self.nodes.get(ancestor, {}):
                return ancestor
        return None

    def node(self, name: dns.name.Name) -> Node | None:
        """The records that the name has, from a wildcard where that applies; None: no such name."""
        found = self.nodes.get(name)
        if found is not None:
            return found
        if name in self.names:
            return {}
        # RFC 4592 §3.3.1: only the closest encloser's own wildcard counts.
        return self.nodes.get(self.wildcard(name))

    def wildcard(self, name: dns.name.Name) -> dns.name.Name:
        """The wildcard at the closest encloser of a name that does not exist."""
        encloser = name.parent()
        while encloser not in self.names:
            encloser = encloser.parent()
        return _STAR.concatenate(encloser)

    def signature(
        self, owner: dns.name.Name, kind: dns.rdatatype.RdataType, shown: dns.name.Name
    ) -> list[dns.rrset.RRset]:
        """The signatures of a set, under the name that is answered; none where there are none."""
        found = self.signatures.get(owner, {}).get(kind)
        return [_rrset(shown, found)] if found is not None else []

    def proof(self, name: dns.name.Name) -> list[dns.rrset.RRset]:
        """The NSEC at a name, or else the one that covers it, with its signature."""
        if not self.chain:
            return []
        owner = self.chain[max(0, bisect_right(self.chain, name) - 1)]
        records = self.nodes[owner][dns.rdatatype.NSEC]
        return [_rrset(owner, records), *self.signature(owner, dns.rdatatype.NSEC, owner)]

    def negative(self) -> dns.rrset.RRset:
        """The SOA of a negative answer, its TTL as RFC 2308 §5 wants it."""
        soa = self.nodes[self.origin][dns.rdatatype.SOA]
        minimum: int = soa[0].minimum
        record = _rrset(self.origin, soa)
        record.ttl = min(soa.ttl, minimum)
        return record


class Zones:
    """All zones of the door."""

    def __init__(self, zones: Iterable[Zone] = ()) -> None:
        self._zones = {zone.origin: zone for zone in zones}

    def __iter__(self) -> Iterator[Zone]:
        return iter(self._zones.values())

    def of(self, name: dns.name.Name) -> Zone | None:
        """The zone that a name belongs to: the longest origin above it."""
        for start in range(len(name.labels)):
            zone = self._zones.get(dns.name.Name(name.labels[start:]))
            if zone is not None:
                return zone
        return None

    def answer(self, name: dns.name.Name, kind: dns.rdatatype.RdataType, dnssec: bool = False) -> Answer:
        """What we know of that name and type.

        :param dnssec: with signatures and proofs, where the zone is signed.
        """
        result = Answer()
        for _ in range(MAX_ALIASES):
            zone = self.of(name)
            if zone is not None and kind == dns.rdatatype.DS and name == zone.origin:
                # RFC 4035 §3.1.4.1: DS lives on the parent's side.
                zone = self.of(name.parent()) or zone if name != dns.name.root else zone
            if zone is None:
                if not result.answer:
                    result.rcode, result.authoritative = dns.rcode.REFUSED, False
                return result
            alias = self._in_zone(zone, name, kind, result, dnssec and bool(zone.signatures))
            if alias is None:
                return result
            name = alias
        # A loop, or a chain that nobody meant: what was found so far stands.
        return result

    def _in_zone(
        self,
        zone: Zone,
        name: dns.name.Name,
        kind: dns.rdatatype.RdataType,
        result: Answer,
        dnssec: bool,
    ) -> dns.name.Name | None:
        """Put into the result what the zone says; the name to go on with where it is an alias."""
        cut = zone.cut(name)
        if cut is not None and not (name == cut and kind == dns.rdatatype.DS):
            self._refer(zone, cut, result, dnssec)
            return None
        node = zone.node(name)
        owner = name if name in zone.names else zone.wildcard(name)
        if node is None:
            result.rcode = dns.rcode.NXDOMAIN
            self._deny(zone, name, owner, result, dnssec)
            return None
        if kind == dns.rdatatype.ANY and node:
            # RFC 8482 §4.1: one of the sets is answer enough.
            kind = next(iter(node))
        found = node.get(kind)
        alias = node.get(dns.rdatatype.CNAME) if found is None else None
        if found is None and alias is None:
            self._deny(zone, name, owner, result, dnssec)
            return None
        if dnssec and owner != name:
            # RFC 4035 §3.1.3.3: nothing closer than the wildcard exists.
            _add(result.authority, zone.proof(name))
        if found is not None:
            result.answer.append(_rrset(name, found))
            result.answer += zone.signature(owner, kind, name) if dnssec else []
            self._add_addresses(found, result)
            return None
        assert alias is not None
        result.answer.append(_rrset(name, alias))
        result.answer += zone.signature(owner, dns.rdatatype.CNAME, name) if dnssec else []
        target: dns.name.Name = alias[0].target
        return target

    def _deny(
        self, zone: Zone, name: dns.name.Name, owner: dns.name.Name, result: Answer, dnssec: bool
    ) -> None:
        """No such name, or no such type there (RFC 4035 §3.1.3.1, §3.1.3.2, §3.1.3.4)."""
        result.authority.append(zone.negative())
        if dnssec:
            result.authority += zone.signature(zone.origin, dns.rdatatype.SOA, zone.origin)
            _add(result.authority, zone.proof(name))
            if owner != name:
                _add(result.authority, zone.proof(owner))

    def _refer(self, zone: Zone, cut: dns.name.Name, result: Answer, dnssec: bool) -> None:
        """A delegation: its NS records, and the addresses of servers that only we can tell."""
        servers = zone.nodes[cut][dns.rdatatype.NS]
        if not result.answer:
            result.authoritative = False
        result.authority.append(_rrset(cut, servers))
        if dnssec:
            signer = zone.nodes[cut].get(dns.rdatatype.DS)
            if signer is not None:
                result.authority += [_rrset(cut, signer), *zone.signature(cut, dns.rdatatype.DS, cut)]
            else:
                _add(result.authority, zone.proof(cut))
        self._add_addresses(servers, result)

    def _add_addresses(self, records: dns.rdataset.Rdataset, result: Answer) -> None:
        """Addresses of the hosts that MX, NS and SRV records name, where a zone of ours has them."""
        field = _HOSTS.get(records.rdtype)
        if field is None:
            return
        for host in dict.fromkeys(getattr(record, field) for record in records):
            zone = self.of(host)
            node = zone.nodes.get(host, {}) if zone is not None else {}
            for kind in _ADDRESSES:
                if kind in node:
                    result.additional.append(_rrset(host, node[kind]))


def _add(section: list[dns.rrset.RRset], sets: Iterable[dns.rrset.RRset]) -> None:
    """A proof may serve for two things; it stands there once."""
    section += [one for one in sets if one not in section]


def _rrset(name: dns.name.Name, records: dns.rdataset.Rdataset) -> dns.rrset.RRset:
    return dns.rrset.from_rdata_list(name, records.ttl, list(records))
