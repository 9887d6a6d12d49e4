"""From one recipient to the final ones: aliases, subaddresses, catch-all, users' own files, postmaster.

Pure but for the lookups, which may be asynchronous; the snapshot calls it once at RCPT, and nobody expands
again later. Loops are found, everything is bounded. One address is looked up in this order: a relay row for
exactly that address (it goes elsewhere), the alias ``user@domain``, the alias ``user``, the account; then
aliases with a ``*``; then the same without its subaddress, whose detail names a folder; then ``@domain``;
then, for the postmaster, the first account. An account's mail goes to its mailbox, or where its user's own
file or a row of ``[deliver]`` says. The postmaster without a domain, or at the server's own name, is that of
the first local domain. The local part is never read as a route: ``user%host``, ``host!user`` and ``"a@b"``
are just names, of nobody as a rule.

Failures on our side (a loop, an alias that leads only to what cannot be delivered to) are temporary, so that
no mail is lost while the operator mends the table; only a table that answered says that a user is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import attrs
from twisted.internet.defer import execute

from lorrainemail.addresses import Address, fold_local
from lorrainemail.interfaces import Expansion, Refused, Step, later
from lorrainemail.tables.backend import TableSet
from lorrainemail.tables.following import Following, InThread, use_of
from lorrainemail.tables.reached import BAD_TABLES, NO_ROUTES, ROUTING, UNKNOWN_USER, Visit, delivery_row
from lorrainemail.tables.rules import DomainRow, Rules

#: Final recipients of one address.
MAX_FINALS: Final = 5000
#: Addresses looked at for one recipient.
MAX_VISITS: Final = 20_000
#: Places at which one local part may be parted into user and detail.
MAX_SPLITS: Final = 4

# A folder that a subaddress may name: no separator, no leading dot, nothing that a path could mean.
_FOLDER = re.compile(r"[\w-][\w.-]{0,63}\Z")
_POSTMASTER = "postmaster"
#: Who is reached at the server's own name, whatever its domains: he whom our notices name, and their sender.
_OF_THE_SERVER: Final = frozenset({_POSTMASTER, "mailer-daemon"})


async def expand(
    tables: TableSet, rules: Rules, address: Address, in_thread: InThread = execute
) -> Expansion:
    """All final recipients of an address, none twice, each with the steps that led to it.

    :param in_thread: runs what reads users' own files.
    """
    return await _Expander(tables, rules, in_thread).run(address)


async def domain_row(tables: TableSet, rules: Rules, name: str) -> DomainRow | None:
    """The row of a domain: the configuration's own, else the backend's."""
    return rules.domains.get(name) or await later(tables.domains.domain(name))


def is_postmaster(address: Address) -> bool:
    """RFC 5321 §4.5.1: the one name that every domain has."""
    return fold_local(address.local) == _POSTMASTER


class _Expander(Following):
    """One expansion: a work list of addresses, and what came of them."""

    def __init__(self, tables: TableSet, rules: Rules, in_thread: InThread) -> None:
        super().__init__(tables, rules, in_thread)
        self._seen: set[str] = set()

    async def run(self, address: Address) -> Expansion:
        start = Visit(address)
        row = None
        if address.domain:
            row = await domain_row(self._tables, self._rules, address.domain)
        if not address.domain or (row is None and self._is_the_servers(address)):
            start = await self._bare(address)
            row = await domain_row(self._tables, self._rules, start.address.domain)
        outside = row is None and bool(start.address.domain)
        self._todo.append(start)
        visits = 0
        while self._todo:
            visits += 1
            if visits > MAX_VISITS or len(self._finals) > MAX_FINALS:
                step = Step(f"{address} comes to more than {MAX_FINALS} recipients")
                return Expansion(not outside, refused=Refused(BAD_TABLES, (step,)))
            await self._visit(self._todo.popleft())
        if self._finals:
            finals, notes = tuple(self._finals.values()), tuple(self._notes)
            return Expansion(not outside, finals, notes=notes, reversed=self._reversed)
        refused = Refused(self._reply or UNKNOWN_USER, self._refused_path)
        return Expansion(not outside, refused=refused, notes=tuple(self._notes))

    def _is_the_servers(self, address: Address) -> bool:
        return address.domain == self._rules.hostname and fold_local(address.local) in _OF_THE_SERVER

    async def _bare(self, address: Address) -> Visit:
        """``RCPT TO:<postmaster>`` (RFC 5321 §4.1.1.3, §4.5.1): the first local domain's."""
        for row in self._local_domains():
            meant = Address(address.local if not address.domain else _POSTMASTER, row.name)
            which = "without a domain" if not address.domain else "at the server's own name"
            step = Step(f"{address} {which} means {meant}", row.origin)
            return Visit(meant, (step,))
        return Visit(address)

    def _local_domains(self) -> Iterator[DomainRow]:
        yield from (row for row in self._rules.domains.values() if row.kind == "local")
        yield from (row for row in self._tables.domains.domains() if row.kind == "local")

    async def _visit(self, visit: Visit) -> None:
        address, key = visit.address, visit.address.key
        row = await domain_row(self._tables, self._rules, address.domain)
        if row is None:
            if address.domain:
                await self._remote(visit)
            else:
                self._refuse(BAD_TABLES, visit.path, Step(f"there is no local domain for {address}"))
            return
        step = Step(_ours(row), row.origin)
        if step not in visit.path:
            path = (*visit.path, step)
            visit = attrs.evolve(visit, path=path)
        if row.kind == "backup":
            if ROUTING.search(address.local):
                # The relay that we trust would see a route in it and relay for a stranger through us.
                self._refuse(NO_ROUTES, visit.path, Step(f"{address} looks like a source route"))
            else:
                await self._remote(visit)
            return
        if key in self._seen and key not in visit.chain and not visit.plain:
            return  # reached another way already
        self._seen.add(key)
        if not visit.plain and await self._elsewhere(visit):
            return
        if not visit.chain and self._leads_back(visit):
            return
        if not await self._by_name(visit) and not self._passed_on(visit):
            self._refuse(UNKNOWN_USER, visit.path, Step(f"{address} is nobody here"))

    async def _by_name(self, visit: Visit) -> bool:
        """The address as it is, then a ``*`` that covers it, then without its subaddress, then the catch-all,
        then the postmaster's."""
        address = visit.address
        if await self._named(visit, address, visit.folder):
            return True
        if self._tables.wildcards is not None and not visit.plain:
            row = self._tables.wildcards(fold_local(address.local), address.domain)
            if row is not None and use_of(row, address) not in visit.used:
                await self._alias(visit, row, address, "")
                return True
        for user, detail in _splits(address.local, self._rules.separators):
            folder = detail if _FOLDER.match(detail) else ""
            if await self._named(visit, Address(user, address.domain), folder):
                return True
        if visit.plain:
            return False
        row = await later(self._tables.aliases.alias("@" + address.domain))
        if row is not None and row.key not in visit.used:
            await self._alias(visit, row, address, "")
            return True
        deliver = delivery_row(self._rules, address)
        if deliver is not None and not deliver.accounts:
            self._handed(visit, deliver, "")
            return True
        if is_postmaster(address):
            await self._postmaster(visit)
            return True
        return False

    async def _named(self, visit: Visit, address: Address, folder: str) -> bool:
        key = address.key
        if not visit.plain:
            for name in (key, fold_local(address.local)):
                row = await later(self._tables.aliases.alias(name))
                if row is not None and use_of(row, address) not in visit.used:
                    await self._alias(visit, row, address, folder)
                    return True
        account = await later(self._tables.accounts.account(key))
        if account is None:
            if key in visit.chain:
                self._refuse(BAD_TABLES, visit.path, Step(f"the aliases lead back to {address}: a loop"))
                return True
            return False
        if await self._own_file(visit, account, address, folder):
            return True
        self._mailbox(visit, account, folder)
        return True

    async def _postmaster(self, visit: Visit) -> None:
        account = await later(self._tables.accounts.first(visit.address.domain))
        if account is None:
            self._refuse(
                BAD_TABLES, visit.path, Step("there is no account at all to read the postmaster's mail")
            )
        else:
            why = f"the postmaster's mail goes to the first account, {account.address}"
            self._mailbox(visit, account, "", why)


def _ours(row: DomainRow) -> str:
    return f"{row.name} is a local domain" if row.kind == "local" else f"we are a backup MX of {row.name}"


def _splits(local: str, separators: str) -> list[tuple[str, str]]:
    """Ways to part a local part into user and detail, the longest user first."""
    places = [i for i in range(len(local) - 1, 0, -1) if local[i] in separators]
    return [(local[:i], local[i + 1 :]) for i in places[:MAX_SPLITS]]
