"""A resolver whose answers stand in a table: the double of :class:`lorrainemail.net.resolver.Resolver`.

For tests, benchmarks and examples of this package; no server uses it. Rows are ``name -> [(type, value)]``
with the types A, AAAA, MX (a pair), TXT, PTR and CNAME; the value "TIMEOUT", or the type "*", stands for a
server that does not answer. Counts what it is asked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from lorrainemail.interfaces import DnsFailure, IResolver, MxHost
from lorrainemail.net.peers import canonical

#: CNAMEs from a name to its records.
MAX_CHAIN: Final = 10


@implementer(IResolver)
class MemoryResolver:
    """See the module."""

    def __init__(self, rows: Mapping[str, Iterable[tuple[str, Any]]] | None = None) -> None:
        self.rows: dict[str, list[tuple[str, Any]]] = {}
        self.asked: list[tuple[str, str]] = []
        for name, records in (rows or {}).items():
            self.rows.setdefault(name.lower(), []).extend((kind, value) for kind, value in records)

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        return self._answer(domain, "MX", lambda value: MxHost(int(value[0]), value[1].lower().rstrip(".")))

    def txt(self, name: str) -> Deferred[list[bytes]]:
        return self._answer(
            name, "TXT", lambda value: value if isinstance(value, bytes) else value.encode("utf-8")
        )

    def ptr(self, address: str) -> Deferred[list[str]]:
        name = ipaddress.ip_address(address).reverse_pointer
        return self._answer(name, "PTR", lambda value: value.lower().rstrip("."))

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        found: list[str] = []
        failures: list[DnsFailure] = []
        for kind in ["AAAA"] * ipv6 + ["A"] * ipv4:
            try:
                found += [canonical(value) for value in self._records(host, kind)]
            except DnsFailure as failure:
                failures.append(failure)
        if found:
            return succeed(found)
        failures.sort(key=lambda one: one.kind != "temporary")
        return fail(failures[0] if failures else DnsFailure("nodata", host))

    def _answer(self, name: str, kind: str, value: Any) -> Deferred[Any]:
        try:
            return succeed([value(record) for record in self._records(name, kind)])
        except DnsFailure as failure:
            return fail(failure)

    def _records(self, name: str, kind: str) -> list[Any]:
        self.asked.append((name, kind))
        labels = name.rstrip(".").split(".")
        if not all(0 < len(label) < 64 for label in labels):
            raise DnsFailure("nxdomain", name, "malformed name")
        key = ".".join(labels).lower()
        for _ in range(MAX_CHAIN):
            rows = self.rows.get(key)
            if rows is None:
                below = "." + key
                exists = any(other.endswith(below) for other in self.rows)
                raise DnsFailure("nodata" if exists else "nxdomain", name)
            if any(row == "*" or (row == kind and value == "TIMEOUT") for row, value in rows):
                found = [v for row, v in rows if row == kind and v != "TIMEOUT"]
                if not found:
                    raise DnsFailure("temporary", name)
                return found
            found = [value for row, value in rows if row == kind]
            if found:
                return found
            alias = [value for row, value in rows if row == "CNAME"]
            if not alias:
                raise DnsFailure("nodata", name)
            key = alias[0].rstrip(".").lower()
        raise DnsFailure("temporary", name, "CNAME chain without end")
