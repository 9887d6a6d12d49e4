"""The tables' part of the configuration, as rows.

Made by :func:`Rules.of` from the settings at start and at each reload; frozen. No file is read here.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Literal

import attrs

from lorrainemail.config.model import Aliases, RelayRow, Settings
from lorrainemail.config.values import Network
from lorrainemail.errors import Origin
from lorrainemail.interfaces import DeliveryRow
from lorrainemail.tables.srs import Srs

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
    :ivar deliver: rows by pattern. ``aliases``: further files, and what aliases may lead to.
    :ivar helper: whether commands can be run as the user in whose file they stand.
    :ivar unknown_users: by domain or pattern, where its users go that we do not know.
    :ivar source: our addresses to connect from, where a row names none.
    :ivar srs: rewrites the senders of mail that is sent on, None where that is off; ``srs_domain``: to
        addresses in that domain, "" for the alias's own.
    """

    domains: Mapping[str, DomainRow] = attrs.field(factory=dict)
    networks: tuple[NetworkRow, ...] = ()
    relay: Mapping[str, RouteRow] = attrs.field(factory=dict)
    relay_by_sender: Mapping[str, RouteRow] = attrs.field(factory=dict)
    separators: str = "+"
    format: Literal["maildir", "mbox"] = "maildir"
    mbox_domains: frozenset[str] = frozenset()
    hostname: str = ""
    unknown_users: Mapping[str, RouteRow] = attrs.field(factory=dict)
    source: tuple[str, ...] = ()
    srs: Srs | None = None
    srs_domain: str = ""
    deliver: Mapping[str, DeliveryRow] = attrs.field(factory=dict)
    aliases: Aliases = attrs.field(factory=Aliases)
    helper: bool = False

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
            deliver={
                pattern: DeliveryRow(
                    pattern, row.courier, row.argument, row.accounts, row.tls, Origin(settings.file, row.line)
                )
                for pattern, row in settings.deliver.items()
            },
            aliases=settings.aliases,
            helper=bool(settings.commands.helper),
            unknown_users=_routes(settings.unknown_users, settings.file),
            source=settings.queue.source,
            srs=Srs(os.path.join(settings.state, "srs.keys")) if settings.forwarding.srs else None,
            srs_domain=settings.forwarding.srs_domain,
        )

    def format_of(self, domain: str) -> Literal["maildir", "mbox"]:
        """How mail of an account in that domain is kept, where its row does not say."""
        return "mbox" if domain in self.mbox_domains else self.format


def _routes(rows: Mapping[str, RelayRow], file: str) -> dict[str, RouteRow]:
    return {pattern: RouteRow(pattern, row, Origin(file, row.line)) for pattern, row in rows.items()}
