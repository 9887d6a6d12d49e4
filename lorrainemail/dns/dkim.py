"""The records of our own DKIM keys in the zones that our own DNS door serves, so that nobody needs to copy
them.

Pure but for reading the keys, which blocks for as long as a few small files take. What a zone file says of
such a name itself stays as it is. Called at start, at a reload, and when keys were exchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import dns.name
import dns.rdataclass
import dns.rdataset
import dns.rdatatype

from lorrainemail.dns.zones import Zone, Zones
from lorrainemail.mailauth.keys import TXT_STRING, StoredKey

#: Seconds for which such a record may be remembered.
TTL: Final = 3600


def with_keys(zones: Zones, keys: Iterable[StoredKey]) -> Zones:
    """The zones, with the records of those of the keys that belong into them."""
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
    if not added:
        return zones
    return Zones(
        Zone(
            zone.origin,
            {
                **zone.nodes,
                **{name: {dns.rdatatype.TXT: data} for name, data in added.get(zone.origin, {}).items()},
            },
        )
        for zone in zones
    )
