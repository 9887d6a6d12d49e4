"""The records of our own DKIM keys in the zones that our own DNS door serves, so that nobody needs to copy
them.

Pure but for reading the keys, which blocks for as long as a few small files take. What a zone file says of
such a name itself stays as it is. Called at start, at a reload, and when keys were exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import dns.name
import dns.rdataclass
import dns.rdataset
import dns.rdatatype

from lorrainemail.dns.zones import Zone, Zones
from lorrainemail.mailauth.keys import TXT_STRING, StoredKey

#: Since when changes of keys are counted in serials: 1 January 2026, in seconds since the epoch.
BEGIN: Final = 1767225600
#: Seconds for which such a record may be remembered.
TTL: Final = 3600


def with_keys(zones: Zones, keys: Iterable[StoredKey], changes: Mapping[str, float]) -> Zones:
    """The zones, with the records of those of the keys that belong into them.

    The serial of a zone with keys is that of its file and the seconds from :data:`BEGIN` to the last change
    of a key: it rises with either (RFC 1982), and a restart does not lower it.

    :param changes: when the keys of a domain last changed, in seconds since the epoch.
    """
    added: dict[dns.name.Name, dict[dns.name.Name, dns.rdataset.Rdataset]] = {}
    for one in keys:
        name = dns.name.from_text(one.key.name)
        zone = zones.of(name)
        if zone is None or zone.cut(name) is not None or name in zone.nodes:
            continue
        text = one.key.record()
        strings = [text[start : start + TXT_STRING] for start in range(0, len(text), TXT_STRING)]
        words = " ".join(f'"{string}"' for string in strings)
        added.setdefault(zone.origin, {})[name] = dns.rdataset.from_text(
            dns.rdataclass.IN, dns.rdatatype.TXT, TTL, words
        )
    changed: dict[dns.name.Name, float] = {}
    for domain, when in changes.items():
        zone = zones.of(dns.name.from_text(domain))
        if zone is not None:
            changed[zone.origin] = max(when, changed.get(zone.origin, BEGIN))
    if not added and not changed:
        return zones
    return Zones(
        Zone(zone.origin, _nodes(zone, added.get(zone.origin, {}), changed.get(zone.origin, BEGIN)))
        for zone in zones
    )


def _nodes(
    zone: Zone, added: Mapping[dns.name.Name, dns.rdataset.Rdataset], changed: float
) -> dict[dns.name.Name, dict[dns.rdatatype.RdataType, dns.rdataset.Rdataset]]:
    nodes = {**zone.nodes, **{name: {dns.rdatatype.TXT: data} for name, data in added.items()}}
    apex = zone.nodes[zone.origin]
    nodes[zone.origin] = {**apex, dns.rdatatype.SOA: risen(apex[dns.rdatatype.SOA], changed)}
    return nodes


def risen(soa: dns.rdataset.Rdataset, changed: float) -> dns.rdataset.Rdataset:
    """The SOA of a zone file, beside which something else last changed then: later in either, larger."""
    serial = (soa[0].serial + max(0, int(changed) - BEGIN)) % 2**32
    return dns.rdataset.from_rdata(soa.ttl, soa[0].replace(serial=serial))
