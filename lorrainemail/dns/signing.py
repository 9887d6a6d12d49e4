"""A zone, signed: DNSKEY, CDS, CDNSKEY, the NSEC chain and all signatures (RFC 4034, RFC 4035 §2).

:func:`sign` makes a :class:`~lorrainemail.dns.zones.Zone` out of an unsigned one; some 0.2 ms CPU a record
set, so for a thread. Pure but for the time that it is given. Signatures are good for :data:`VALID` and are
made anew long before (:data:`RENEW`), so that a server that stands still for a week is still believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.rrset

from lorrainemail.dns.keys import DNSKEY_TTL, Plan, ZoneKey
from lorrainemail.dns.zones import Node, Signatures, Zone

#: Seconds for which a signature is good; how far it is dated back, for clocks that are behind; and after how
#: long all are made anew.
VALID: Final = 14 * 86400
BACK: Final = 3 * 3600
RENEW: Final = 86400

_IN: Final = dns.rdataclass.IN


def sign(zone: Zone, plan: Plan, now: float) -> Zone:
    """The same zone with everything that proves it."""
    nodes: dict[dns.name.Name, Node] = {name: dict(node) for name, node in zone.nodes.items()}
    apex = nodes[zone.origin]
    keys = [key.dnskey for key in plan.published]
    apex[dns.rdatatype.DNSKEY] = dns.rdataset.from_rdata_list(DNSKEY_TTL, keys)
    # RFC 7344 §4: what the parent should have.
    wanted = plan.wanted.dnskey
    digest: Any = dns.dnssec.make_cds(zone.origin, wanted, "SHA256")
    apex[dns.rdatatype.CDS] = dns.rdataset.from_rdata_list(DNSKEY_TTL, [digest])
    copy = dns.rdata.from_text(_IN, dns.rdatatype.CDNSKEY, wanted.to_text())
    apex[dns.rdatatype.CDNSKEY] = dns.rdataset.from_rdata_list(DNSKEY_TTL, [copy])
    authoritative = sorted(name for name in nodes if not _below_cut(zone, name))
    _chain(zone, nodes, authoritative)
    signatures: Signatures = {}
    for name in authoritative:
        signatures[name] = dict(_signed(zone, name, nodes[name], plan, now))
    return Zone(zone.origin, nodes, signatures, tuple(authoritative))


def _below_cut(zone: Zone, name: dns.name.Name) -> bool:
    """Whether a name is glue: below a delegation, not the delegation itself."""
    cut = zone.cut(name)
    return cut is not None and cut != name


def _chain(zone: Zone, nodes: dict[dns.name.Name, Node], names: list[dns.name.Name]) -> None:
    """An NSEC at each name that we answer for (RFC 4034 §4), for as long as a negative answer."""
    soa = nodes[zone.origin][dns.rdatatype.SOA]
    ttl = min(soa.ttl, soa[0].minimum)  # RFC 9077 §3
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        node = nodes[name]
        if zone.cut(name) is not None:
            kinds = {kind for kind in node if kind in (dns.rdatatype.NS, dns.rdatatype.DS)}
        else:
            kinds = set(node)
        kinds |= {dns.rdatatype.RRSIG, dns.rdatatype.NSEC}
        words = " ".join(dns.rdatatype.to_text(kind) for kind in sorted(kinds))
        data = dns.rdata.from_text(_IN, dns.rdatatype.NSEC, f"{following.to_text()} {words}")
        node[dns.rdatatype.NSEC] = dns.rdataset.from_rdata_list(ttl, [data])


def _signed(
    zone: Zone, name: dns.name.Name, node: Node, plan: Plan, now: float
) -> Iterator[tuple[dns.rdatatype.RdataType, dns.rdataset.Rdataset]]:
    """The signatures of each set of a name; of a delegation only those of DS and NSEC (RFC 4035 §2.2)."""
    delegation = zone.cut(name) is not None
    for kind, records in node.items():
        if delegation and kind not in (dns.rdatatype.DS, dns.rdatatype.NSEC):
            continue
        signers = plan.published if kind == dns.rdatatype.DNSKEY else (plan.signs,)
        made = [_signature(zone, name, records, key, now) for key in signers]
        yield kind, dns.rdataset.from_rdata_list(records.ttl, made)


def _signature(
    zone: Zone, name: dns.name.Name, records: dns.rdataset.Rdataset, key: ZoneKey, now: float
) -> Any:
    rrset = dns.rrset.from_rdata_list(name, records.ttl, list(records))
    return dns.dnssec.sign(
        rrset, key.private, zone.origin, key.dnskey, inception=int(now - BACK), expiration=int(now + VALID)
    )
