"""The tables' part of the configuration, as rows.

Made by :func:`Rules.of` from the settings at start and at each reload; frozen. No file is read here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Literal

import attrs

from lorrainemail.config.model import RelayRow, Settings
from lorrainemail.config.values import Network
from lorrainemail.interfaces import Origin

RouteTable = Literal["relay", "relay_by_sender"]


@attrs.frozen(slots=True)
class DomainRow:
    """A domain: "local" (delivered here) or "backup" (accepted here, delivered elsewhere)."""

    name: str
    kind: Literal["local", "backup"] = "local"
    origin: Origin = attrs.field(factory=Origin)


@attrs.frozen(slots=True)
class NetworkRow:
    """A network that may relay without login."""

    network: Network
    origin: Origin = attrs.field(factory=Origin)


@attrs.frozen(slots=True)
class RouteRow:
    """One relay row with its pattern."""

    pattern: str
    row: RelayRow
    origin: Origin = attrs.field(factory=Origin)


@attrs.frozen(slots=True)
class Rules:
    """What the configuration says to the tables.

    :ivar hostname: the server's own name.
    :ivar domains: by normalised name, local domains first, in the order of the file.
    :ivar format: how mail of an account without a word of its own is kept.
    """

    domains: Mapping[str, DomainRow] = attrs.field(factory=dict)
    networks: tuple[NetworkRow, ...] = ()
    relay: Mapping[str, RouteRow] = attrs.field(factory=dict)
    relay_by_sender: Mapping[str, RouteRow] = attrs.field(factory=dict)
    separators: str = "+"
    format: Literal["maildir", "mbox"] = "maildir"
    mbox_domains: frozenset[str] = frozenset()
    hostname: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """The tables' part of the settings; a domain that is local and backup is local."""
        domains: dict[str, DomainRow] = {}
        for index, name in enumerate(settings.local_domains):
            domains.setdefault(name, DomainRow(name, "local", settings.origin("local_domains", index)))
        for index, name in enumerate(settings.relay_domains):
            domains.setdefault(name, DomainRow(name, "backup", settings.origin("relay_domains", index)))
        return cls(
            domains=domains,
            networks=tuple(
                NetworkRow(ipaddress.ip_network(text), settings.origin("relay_networks", index))
                for index, text in enumerate(settings.relay_networks)
            ),
            relay=_routes(settings.relay, settings.file),
            relay_by_sender=_routes(settings.relay_by_sender, settings.file),
            separators=settings.subaddress,
            format=settings.store.format,
            mbox_domains=frozenset(settings.store.mbox_domains),
            hostname=settings.hostname.lower(),
        )

    def format_of(self, domain: str) -> Literal["maildir", "mbox"]:
        """How mail of an account in that domain is kept, where its row does not say."""
        return "mbox" if domain in self.mbox_domains else self.format


def _routes(rows: Mapping[str, RelayRow], file: str) -> dict[str, RouteRow]:
    return {pattern: RouteRow(pattern, row, Origin(file, row.line)) for pattern, row in rows.items()}
