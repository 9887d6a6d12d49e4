"""Rows that are allowed but cannot mean what was meant: for ``check``.

Pure: looks at a snapshot, asks its own ``expand`` and the patterns of ``route``, so that it never tells
another story than the server. A backend that cannot list its rows is reviewed as far as its lists go.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final, Literal

from twisted.internet.defer import Deferred

from lorrainemail.addresses import Address
from lorrainemail.config.review import WIDEST, Finding, finding
from lorrainemail.config.values import split_port
from lorrainemail.errors import Problem
from lorrainemail.interfaces import Expansion, LocalMailbox
from lorrainemail.tables.backend import AliasRow
from lorrainemail.tables.following import is_below
from lorrainemail.tables.route import best, patterns_of
from lorrainemail.tables.rules import DomainRow, RouteRow, RouteTable
from lorrainemail.tables.snapshot import Snapshot

#: Aliases looked at; each costs an expansion.
MAX_ALIASES: Final = 100_000

_LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


def review_tables(snapshot: Snapshot, hostname: str) -> Iterator[Finding]:
    """Every row that is shadowed, useless, dangerous or broken.

    :param hostname: our own name, for rows that lead back to ourselves.
    """
    domains = local_domains(snapshot)
    yield from _domains(snapshot)
    yield from _networks(snapshot)
    yield from _routes(snapshot, domains, hostname)
    yield from _unknown_users(snapshot, domains, hostname)
    yield from _deliver(snapshot, domains)
    yield from _aliases(snapshot, domains)
    yield from _accounts(snapshot, domains)


def local_domains(snapshot: Snapshot) -> dict[str, DomainRow]:
    """Local domains in the order in which they are looked up."""
    rows = [*snapshot.rules.domains.values(), *snapshot.tables.domains.domains()]
    first: dict[str, DomainRow] = {}
    for row in rows:
        first.setdefault(row.name, row)
    return {name: row for name, row in first.items() if row.kind == "local"}


def _domains(snapshot: Snapshot) -> Iterator[Finding]:
    for row in snapshot.tables.domains.domains():
        before = snapshot.rules.domains.get(row.name)
        if before is not None:
            word = "local_domains" if before.kind == "local" else "relay_domains"
            yield finding(
                "useless", row.origin, f"{row.name} is in {word} ({before.origin}) already", "keep one"
            )


def _networks(snapshot: Snapshot) -> Iterator[Finding]:
    rows = [*snapshot.rules.networks, *snapshot.tables.networks.networks()]
    for row in rows:
        network = row.network
        if network.prefixlen == 0:
            what = f"relay_networks {network} lets the whole world send anywhere through this server"
            yield finding("dangerous", row.origin, what, "take it out; name your own networks")
        elif any(network.version == own.version and network.overlaps(own) for own in _LOOPBACK):
            what = f"relay_networks {network} trusts whatever connects from this machine"
            mend = (
                "behind a proxy or a container that is everybody: take it out and let programs use sendmail"
            )
            yield finding("dangerous", row.origin, what, mend)
        elif network.prefixlen < WIDEST[network.version]:
            what = f"relay_networks {network} is wider than any one owner's network"
            yield finding("dangerous", row.origin, what, "name your own networks only")
        for other in rows:
            wider = other.network.version == network.version and other.network.prefixlen < network.prefixlen
            if wider and network.subnet_of(other.network):  # type: ignore[arg-type]
                what = f"relay_networks {network} is inside {other.network} ({other.origin})"
                yield finding("useless", row.origin, what, "take one of them out")
                break


def _routes(snapshot: Snapshot, domains: dict[str, DomainRow], hostname: str) -> Iterator[Finding]:
    by_sender = routes(snapshot, "relay_by_sender")
    everything = by_sender.get("*")
    tables: tuple[RouteTable, ...] = ("relay", "relay_by_sender")
    for table in tables:
        rows = routes(snapshot, table)
        for row in rows.values():
            yield from _route_row(snapshot, row, table, hostname)
            if table == "relay":
                yield from _against_local(row, domains)
                if everything is not None and not row.row.reject and "@" not in row.pattern:
                    what = f'relay."{row.pattern}" is never reached: relay_by_sender."*" is tried first'
                    yield finding("shadowed", row.origin, what, f"narrow {everything.origin}")
            broader = _broader(rows, row)
            if broader is not None and broader.row == row.row:
                what = f'{table}."{row.pattern}" says the same as "{broader.pattern}" ({broader.origin})'
                yield finding("useless", row.origin, what, "take it out")


def _unknown_users(snapshot: Snapshot, domains: dict[str, DomainRow], hostname: str) -> Iterator[Finding]:
    for row in routes(snapshot, "unknown_users").values():
        yield from _route_row(snapshot, row, "unknown_users", hostname)
        name = f'unknown_users."{row.pattern}"'
        covered = [domain for domain in domains if row.pattern in patterns_of(Address("x", domain))]
        if not covered:
            what = f"{name}: that is no local domain"
            yield finding("useless", row.origin, what, "name a local domain; others are for [relay]")
        elif row.row.mx:
            what = f"{name}: the MX of a local domain is this server itself"
            yield finding("broken", row.origin, what, "name the host that knows the others")
        for domain in covered:
            catch_all = snapshot.tables.aliases.alias(f"@{domain}")
            if catch_all is not None and not isinstance(catch_all, Deferred):
                what = (
                    f"{name} is never reached for {domain}, which has a catch-all alias ({catch_all.origin})"
                )
                yield finding("shadowed", row.origin, what, "take one of them out")


def routes(snapshot: Snapshot, table: RouteTable | Literal["unknown_users"]) -> dict[str, RouteRow]:
    """All rows of a relay table; the configuration's win over the backend's."""
    if table == "unknown_users":
        return dict(snapshot.rules.unknown_users)
    own = snapshot.rules.relay if table == "relay" else snapshot.rules.relay_by_sender
    return {**{row.pattern: row for row in snapshot.tables.routes.routes(table)}, **own}


def _broader(rows: dict[str, RouteRow], row: RouteRow) -> RouteRow | None:
    """The row that would win if this one were not there."""
    pattern = row.pattern
    if pattern in ("*", "<>"):
        return None
    if "@" in pattern:
        local, _, domain = pattern.rpartition("@")
        return best(rows, patterns_of(Address(local, domain))[1:])
    if pattern.startswith("*."):
        # All that it covers is covered by its parents' suffixes too.
        return best(rows, patterns_of(Address("x", pattern[2:]))[3:])
    return best(rows, patterns_of(Address("x", pattern))[2:])


def _route_row(snapshot: Snapshot, row: RouteRow, table: str, hostname: str) -> Iterator[Finding]:
    name = f'{table}."{row.pattern}"'
    wanted = row.row.credentials
    if wanted and wanted not in snapshot.tables.secrets:
        what = f'{name} asks for the credentials "{wanted}", which are not in the credentials file'
        yield finding("broken", row.origin, what, f"add the line: {wanted} USER SECRET")
    if wanted and row.row.tls in ("none", "opportunistic"):
        what = f"{name} sends a password, but anybody between may pose as the next hop"
        yield finding("dangerous", row.origin, what, 'add tls = "verified"')
    for hop in row.row.host:
        host, _ = split_port(hop, 25)
        if host == hostname:
            yield finding(
                "broken", row.origin, f"{name} leads back to this server itself", "name another host"
            )


def _against_local(row: RouteRow, domains: dict[str, DomainRow]) -> Iterator[Finding]:
    pattern = row.pattern
    if "@" in pattern:
        domain = pattern.rpartition("@")[2]
        if domain in domains and row.row.mx:
            what = f'relay."{pattern}": the MX of the local domain {domain} is this server itself'
            yield finding("broken", row.origin, what, "name the host that holds the mailbox")
        return
    if pattern == "*":
        return  # plainly means everything else
    covered = [name for name in domains if pattern in patterns_of(Address("x", name))]
    for name in covered[:5]:
        what = f'relay."{pattern}" covers the local domain {name}, whose mail stays here all the same'
        yield finding("shadowed", row.origin, what, f"take {name} out of the local domains, or the row out")


def _aliases(snapshot: Snapshot, domains: dict[str, DomainRow]) -> Iterator[Finding]:
    for count, row in enumerate(snapshot.tables.aliases.aliases()):
        if count >= MAX_ALIASES:
            what = f"only the first {MAX_ALIASES} aliases were looked at"
            yield finding("useless", row.origin, what, "use a database backend")
            return
        yield from _alias(snapshot, row, domains)


def _alias(snapshot: Snapshot, row: AliasRow, domains: dict[str, DomainRow]) -> Iterator[Finding]:
    local, at, domain = row.key.rpartition("@")
    if at and domain not in domains:
        what = f"the alias {row.key} is never used: {domain} is no local domain"
        yield finding("useless", row.origin, what, "add the domain, or take the alias out")
        return
    if not at:
        if not domains:
            return
        local, domain = row.key, next(iter(domains))
    if not local:
        # A catch-all: any user that has no row of his own.
        local = "check-of-the-catch-all"
    expansion = snapshot.expand(Address(local, domain))
    if not isinstance(expansion, Expansion):
        return
    for note in expansion.notes:
        if "others than the operator" in note.what or "left out, the " in note.what:
            continue  # named by the backend already
        what = f"the alias {row.key}: {note.what}"
        yield finding("broken", row.origin, what, "mend or take out this target")
    if not expansion.finals and not expansion.notes:
        yield finding("broken", row.origin, f"the alias {row.key} leads nowhere", "mend its targets")


def _deliver(snapshot: Snapshot, domains: dict[str, DomainRow]) -> Iterator[Finding]:
    for row in snapshot.rules.deliver.values():
        name = f'deliver."{row.pattern}"'
        covered = [d for d in domains if row.pattern.rpartition("@")[2] in patterns_of(Address("x", d))]
        if not covered:
            yield finding(
                "useless", row.origin, f"{name} is never used: it covers no local domain", "take it out"
            )
        if row.courier == "file" and not is_below(row.argument, snapshot.rules.aliases.file_directories):
            what = f"{name}: {row.argument} is not below a directory of aliases.file_directories"
            yield finding("broken", row.origin, what, "add its directory there")


def _accounts(snapshot: Snapshot, domains: dict[str, DomainRow]) -> Iterator[Finding]:
    some = False
    for account in snapshot.tables.accounts.accounts():
        some = True
        address = account.address
        if address.domain not in domains:
            what = f"{address} gets no mail: {address.domain} is no local domain"
            yield finding("useless", account.origin, what, "add the domain, or remove the account")
            continue
        if not account.credentials and account.enabled:
            what = f"{address} has no password and cannot log in"
            yield finding("useless", account.origin, what, f"lorrainemail account passwd {address}")
        expansion = snapshot.expand(address)
        if not isinstance(expansion, Expansion):
            continue
        if account.system and snapshot.rules.aliases.user_files:
            yield from _own_file(expansion, address)
            continue  # its user's own file may say where its mail goes
        if snapshot.delivery(address) is not None:
            continue  # and so may a row
        if not any(isinstance(f, LocalMailbox) and f.account is account for f in expansion.finals):
            why = next(
                (s for f in expansion.finals for s in f.path if "→" in s.what or "elsewhere" in s.what), None
            )
            how = f": {why.what} ({why.origin})" if why else ""
            what = f"mail for {address} does not reach the account{how}"
            yield finding("shadowed", account.origin, what, f"add {address} to the targets to keep a copy")
    if not some and domains:
        first = next(iter(domains.values()))
        problem = Problem(first.origin.file, first.origin.line, "there is no account at all", "account add")
        yield Finding("broken", problem)


def _own_file(expansion: Expansion, address: Address) -> Iterator[Finding]:
    """What a user's own file asks for and cannot have."""
    for note in expansion.notes:
        mend = (
            "set commands.helper, or have the user change it" if "helper" in note.what else "have him mend it"
        )
        yield finding("broken", note.origin, f"mail for {address}: {note.what}", mend)
