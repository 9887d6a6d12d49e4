"""Tables held in memory: what the file backend makes of its files, and tests of their rows.

Plain dictionaries, immutable once made: a lookup costs the same with ten and with ten thousand rows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from zope.interface import implementer

from lorrainemail.addresses import fold_local
from lorrainemail.interfaces import Account
from lorrainemail.tables.backend import (
    AliasRow,
    AliasTarget,
    DomainRow,
    IAccountTable,
    IAliasTable,
    IDomainTable,
    IRelayNetworkTable,
    IRelayRouteTable,
    NetworkRow,
    RouteRow,
    TableSet,
)
from lorrainemail.tables.rules import RouteTable


@lru_cache(maxsize=4096)
def _parsed(address: str) -> tuple[int, int, int] | None:
    """Version, number and bits of an IP address; asked at each MAIL, by few peers much of the time."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return parsed.version, int(parsed), parsed.max_prefixlen


@implementer(IDomainTable)
class MemoryDomains:
    """Domains by name."""

    def __init__(self, rows: Iterable[DomainRow] = ()) -> None:
        self._rows = {row.name: row for row in rows}

    def domain(self, name: str) -> DomainRow | None:
        return self._rows.get(name)

    def domains(self) -> Iterable[DomainRow]:
        return self._rows.values()


@implementer(IAccountTable)
class MemoryAccounts:
    """Accounts by key, by local part, and the first of each domain."""

    def __init__(self, rows: Iterable[Account] = ()) -> None:
        self._rows = {row.address.key: row for row in rows}
        self._namesakes: dict[str, list[Account]] = {}
        self._first: dict[str, Account] = {}
        for row in self._rows.values():
            self._namesakes.setdefault(fold_local(row.address.local), []).append(row)
            self._first.setdefault(row.address.domain, row)
        self._first_of_all = next(iter(self._rows.values()), None)

    def account(self, key: str) -> Account | None:
        return self._rows.get(key)

    def namesakes(self, local: str) -> Sequence[Account]:
        return self._namesakes.get(local, ())

    def first(self, domain: str) -> Account | None:
        return self._first.get(domain, self._first_of_all)

    def accounts(self) -> Iterable[Account]:
        return self._rows.values()


@implementer(IAliasTable)
class MemoryAliases:
    """Aliases by key."""

    def __init__(self, rows: Iterable[AliasRow] = ()) -> None:
        self._rows = {row.key: row for row in rows}

    def alias(self, key: str) -> AliasRow | None:
        return self._rows.get(key)

    def aliases(self) -> Iterable[AliasRow]:
        return self._rows.values()


class Wildcards:
    """Aliases whose user begins or ends with a ``*``; the one with the longest fixed part is the best."""

    def __init__(self, rows: Iterable[AliasRow]) -> None:
        self._prefixes: dict[tuple[str, str], AliasRow] = {}
        self._suffixes: dict[tuple[str, str], AliasRow] = {}
        for row in rows:
            local, at, domain = row.key.rpartition("@")
            local, domain = (local, domain) if at else (row.key, "")
            table, fixed = (
                (self._prefixes, local[:-1]) if local.endswith("*") else (self._suffixes, local[1:])
            )
            table.setdefault((fixed, domain), row)

    def best(self, local: str, domain: str) -> AliasRow | None:
        """For a folded local part; a row of that domain comes before one of any."""
        for where in (domain, ""):
            for length in range(len(local), 0, -1):
                row = self._prefixes.get((local[:length], where))
                row = row or self._suffixes.get((local[-length:], where))
                if row is not None:
                    return row
        return None


@implementer(IRelayNetworkTable)
class MemoryNetworks:
    """Networks by length and number: a lookup costs one dictionary for each length in use."""

    def __init__(self, rows: Iterable[NetworkRow] = ()) -> None:
        self._rows = tuple(rows)
        self._by_length: dict[tuple[int, int], dict[int, NetworkRow]] = {}
        for row in self._rows:
            network = row.network
            of_length = self._by_length.setdefault((network.version, network.prefixlen), {})
            of_length.setdefault(int(network.network_address), row)
        self._lengths = sorted(self._by_length, reverse=True)

    def network(self, address: str) -> NetworkRow | None:
        if not self._lengths:
            return None
        parsed = _parsed(address)
        if parsed is None:
            return None
        of_version, number, bits = parsed
        for version, length in self._lengths:
            if version == of_version:
                row = self._by_length[version, length].get(number >> (bits - length) << (bits - length))
                if row is not None:
                    return row
        return None

    def networks(self) -> Iterable[NetworkRow]:
        return self._rows


@implementer(IRelayRouteTable)
class MemoryRoutes:
    """Relay rows by pattern."""

    def __init__(
        self, relay: Mapping[str, RouteRow] | None = None, by_sender: Mapping[str, RouteRow] | None = None
    ) -> None:
        self._tables: dict[str, Mapping[str, RouteRow]] = {
            "relay": relay or {},
            "relay_by_sender": by_sender or {},
        }

    def rows(self, table: RouteTable, patterns: Sequence[str]) -> Mapping[str, RouteRow]:
        rows = self._tables[table]
        return {pattern: rows[pattern] for pattern in patterns if pattern in rows} if rows else rows

    def routes(self, table: RouteTable) -> Iterable[RouteRow]:
        return self._tables[table].values()


def memory_set(
    domains: Iterable[DomainRow] = (),
    accounts: Iterable[Account] = (),
    aliases: Iterable[AliasRow] = (),
    secrets: Mapping[str, tuple[str, str]] | None = None,
    lists: Mapping[str, tuple[AliasTarget, ...] | None] | None = None,
) -> TableSet:
    """A table set of these rows."""
    aliases = list(aliases)
    wild = [row for row in aliases if "*" in row.key]
    return TableSet(
        MemoryDomains(domains),
        MemoryAccounts(accounts),
        MemoryAliases(aliases),
        MemoryNetworks(),
        MemoryRoutes(),
        steady=True,
        secrets=secrets or {},
        wildcards=Wildcards(wild).best if wild else None,
        lists=lists or {},
    )
