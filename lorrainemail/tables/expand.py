"""From one recipient to the final ones: aliases, subaddresses, catch-all, postmaster.

Pure but for the lookups, which may be asynchronous; the snapshot calls it once at RCPT, and nobody expands
again later. Loops are found, everything is bounded. One address is looked up in this order: a relay row for
exactly that address (it goes elsewhere), the alias ``user@domain``, the alias ``user``, the account; then the
same without its subaddress, whose detail names a folder; then ``@domain``; then, for the postmaster, the
first account. The postmaster without a domain, or at the server's own name, is that of the first local
domain. The local part is never read as a route: ``user%host``, ``host!user`` and ``"a@b"`` are just names, of
nobody as a rule.

Failures on our side (a loop, an alias that leads only to what cannot be delivered to) are temporary, so that
no mail is lost while the operator mends the table; only a table that answered says that a user is unknown.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Final

import attrs

from lorrainemail.addresses import Address, fold_local
from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Account,
    Expansion,
    LocalMailbox,
    Refused,
    RemoteMailbox,
    Step,
    later,
)
from lorrainemail.interfaces import (
    Final as FinalRecipient,
)
from lorrainemail.tables.backend import AliasRow, TableSet
from lorrainemail.tables.route import best, patterns_of, rejection
from lorrainemail.tables.rules import DomainRow, RouteRow, Rules

#: An alias that leads to an alias that leads to ...
MAX_DEPTH: Final = 20
#: Final recipients of one address.
MAX_FINALS: Final = 5000
#: Addresses looked at for one recipient.
MAX_VISITS: Final = 20_000
#: Places at which one local part may be parted into user and detail.
MAX_SPLITS: Final = 4

UNKNOWN_USER: Final = Reply(550, "5.1.1", "No such user here")
NO_ROUTES: Final = Reply(550, "5.7.1", "Source routes are not followed")
#: The tables themselves are at fault: the sender keeps the mail until they are mended (RFC 3463 §3.4).
BAD_TABLES: Final = Reply(451, "4.3.5", "Mail system configuration error, try again later")

# A folder that a subaddress may name: no separator, no leading dot, nothing that a path could mean.
_FOLDER = re.compile(r"[\w-][\w.-]{0,63}\Z")
_ROUTING = re.compile(r"[%!@]")
_POSTMASTER = "postmaster"
#: Who is reached at the server's own name, whatever its domains: he whom our notices name, and their sender.
_OF_THE_SERVER: Final = frozenset({_POSTMASTER, "mailer-daemon"})


@attrs.frozen(slots=True)
class _Visit:
    """An address on the way, with how it was reached."""

    address: Address
    path: tuple[Step, ...] = ()
    chain: tuple[str, ...] = ()
    forwarded: bool = False
    plain: bool = False
    folder: str = ""


async def expand(tables: TableSet, rules: Rules, address: Address) -> Expansion:
    """All final recipients of an address, none twice, each with the steps that led to it."""
    return await _Expander(tables, rules).run(address)


async def domain_row(tables: TableSet, rules: Rules, name: str) -> DomainRow | None:
    """The row of a domain: the configuration's own, else the backend's."""
    return rules.domains.get(name) or await later(tables.domains.domain(name))


def is_postmaster(address: Address) -> bool:
    """RFC 5321 §4.5.1: the one name that every domain has."""
    return fold_local(address.local) == _POSTMASTER


class _Expander:
    """One expansion: a work list of addresses, and what came of them."""

    def __init__(self, tables: TableSet, rules: Rules) -> None:
        self._tables = tables
        self._rules = rules
        self._finals: dict[tuple[str, str], FinalRecipient] = {}
        self._notes: list[Step] = []
        self._reply: Reply | None = None
        self._refused_path: tuple[Step, ...] = ()
        self._seen: set[str] = set()
        self._todo: deque[_Visit] = deque()

    async def run(self, address: Address) -> Expansion:
        start = _Visit(address)
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
            return Expansion(not outside, tuple(self._finals.values()), notes=tuple(self._notes))
        refused = Refused(self._reply or UNKNOWN_USER, self._refused_path)
        return Expansion(not outside, refused=refused, notes=tuple(self._notes))

    def _is_the_servers(self, address: Address) -> bool:
        return address.domain == self._rules.hostname and fold_local(address.local) in _OF_THE_SERVER

    async def _bare(self, address: Address) -> _Visit:
        """``RCPT TO:<postmaster>`` (RFC 5321 §4.1.1.3, §4.5.1): the first local domain's."""
        for row in self._local_domains():
            meant = Address(address.local if not address.domain else _POSTMASTER, row.name)
            which = "without a domain" if not address.domain else "at the server's own name"
            step = Step(f"{address} {which} means {meant}", row.origin)
            return _Visit(meant, (step,))
        return _Visit(address)

    def _local_domains(self) -> Iterator[DomainRow]:
        yield from (row for row in self._rules.domains.values() if row.kind == "local")
        yield from (row for row in self._tables.domains.domains() if row.kind == "local")

    def _refuse(self, reply: Reply, path: tuple[Step, ...], note: Step) -> None:
        """Nothing comes of this branch. The reply counts where nothing comes of any; a fault of ours (4xx)
        outweighs an unknown user."""
        self._notes.append(note)
        if self._reply is None or (reply.temporary and not self._reply.temporary):
            self._reply = reply
            self._refused_path = (*path, note)

    def _final(self, key: tuple[str, str], final: FinalRecipient) -> None:
        self._finals.setdefault(key, final)

    async def _visit(self, visit: _Visit) -> None:
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
            visit = _Visit(address, path, visit.chain, visit.forwarded, visit.plain, visit.folder)
        if row.kind == "backup":
            if _ROUTING.search(address.local):
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
        if not await self._by_name(visit):
            self._refuse(UNKNOWN_USER, visit.path, Step(f"{address} is nobody here"))

    async def _remote(self, visit: _Visit) -> None:
        """An address outside, unless a relay row refuses it."""
        address = visit.address
        patterns = patterns_of(address)
        rows = await later(self._tables.routes.rows("relay", patterns))
        found = best({**rows, **self._rules.relay} if rows else self._rules.relay, patterns)
        if found is not None and found.row.reject:
            self._rejected(visit, found)
        else:
            self._final(("", address.key), RemoteMailbox(address, visit.path, visit.forwarded))

    def _rejected(self, visit: _Visit, found: RouteRow) -> None:
        step = Step(f'relay."{found.pattern}" refuses {visit.address}', found.origin)
        self._refuse(rejection(found), visit.path, step)

    async def _elsewhere(self, visit: _Visit) -> bool:
        """A relay row for exactly this address overrides the local domain."""
        address = visit.address
        rows = await later(self._tables.routes.rows("relay", (address.key,)))
        found = self._rules.relay.get(address.key) or rows.get(address.key)
        if found is None:
            return False
        if found.row.reject:
            self._rejected(visit, found)
        else:
            step = Step(f'relay."{found.pattern}" sends this one address elsewhere', found.origin)
            remote = RemoteMailbox(address, (*visit.path, step), visit.forwarded)
            self._final(("", address.key), remote)
        return True

    async def _by_name(self, visit: _Visit) -> bool:
        """The address as it is, then without its subaddress, then the catch-all, then the postmaster's."""
        address = visit.address
        if await self._named(visit, address, visit.folder):
            return True
        for user, detail in _splits(address.local, self._rules.separators):
            folder = detail if _FOLDER.match(detail) else ""
            if await self._named(visit, Address(user, address.domain), folder):
                return True
        if visit.plain:
            return False
        row = await later(self._tables.aliases.alias("@" + address.domain))
        if row is not None and row.key not in visit.chain:
            await self._alias(visit, row, address, "")
            return True
        if is_postmaster(address):
            await self._postmaster(visit)
            return True
        return False

    async def _named(self, visit: _Visit, address: Address, folder: str) -> bool:
        key = address.key
        if not visit.plain and key not in visit.chain:
            row = await later(self._tables.aliases.alias(key))
            if row is None:
                row = await later(self._tables.aliases.alias(fold_local(address.local)))
            if row is not None:
                await self._alias(visit, row, address, folder)
                return True
        account = await later(self._tables.accounts.account(key))
        if account is None:
            if key in visit.chain:
                self._refuse(BAD_TABLES, visit.path, Step(f"the aliases lead back to {address}: a loop"))
                return True
            return False
        self._mailbox(visit, account, folder)
        return True

    def _mailbox(self, visit: _Visit, account: Account, folder: str, why: str = "") -> None:
        words = why or f"account {account.address}" + (f", folder {folder} if it exists" if folder else "")
        path = (*visit.path, Step(words, account.origin))
        key = account.address.key, folder
        self._final(key, LocalMailbox(account, folder, visit.address, path))

    async def _postmaster(self, visit: _Visit) -> None:
        account = await later(self._tables.accounts.first(visit.address.domain))
        if account is None:
            self._refuse(
                BAD_TABLES, visit.path, Step("there is no account at all to read the postmaster's mail")
            )
        else:
            why = f"the postmaster's mail goes to the first account, {account.address}"
            self._mailbox(visit, account, "", why)

    async def _alias(self, visit: _Visit, row: AliasRow, address: Address, folder: str) -> None:
        """Put an alias's targets on the work list. ``address`` is what matched, without a subaddress."""
        if len(visit.chain) >= MAX_DEPTH:
            step = Step(f"more than {MAX_DEPTH} aliases one after the other", row.origin)
            self._refuse(BAD_TABLES, visit.path, step)
            return
        chain = (*visit.chain, address.key if not row.key.startswith("@") else row.key)
        for target in row.targets:
            if target.address is None:
                step = Step(f"alias {row.key} → {target.text}: not supported, left out", row.origin)
                self._refuse(BAD_TABLES, visit.path, step)
                continue
            if target.kind == "domain" and _ROUTING.search(visit.address.local):
                step = Step(f"{visit.address} looks like a source route, not sent on", row.origin)
                self._refuse(NO_ROUTES, visit.path, step)
                continue
            reached = await self._target(target.kind, target.address, visit.address)
            step = Step(f"alias {row.key} → {reached}", row.origin)
            self._todo.append(
                _Visit(
                    reached,
                    (*visit.path, step),
                    chain,
                    forwarded=True,
                    plain=target.kind == "mailbox" or reached.key == address.key,
                    folder=folder if reached.key == address.key else "",
                )
            )

    async def _target(self, kind: str, target: Address, source: Address) -> Address:
        """The whole address that an alias's target means for a recipient."""
        if kind == "domain":
            return Address(source.local, target.domain)
        if kind in ("user", "mailbox"):
            return await self._local_user(target.local, source.domain)
        return target

    async def _local_user(self, local: str, domain: str) -> Address:
        """A bare name in an alias: that user of the same domain, else the only one of that name."""
        here = Address(local, domain)
        if await later(self._tables.accounts.account(here.key)) is not None:
            return here
        for key in (here.key, fold_local(local)):
            if await later(self._tables.aliases.alias(key)) is not None:
                return here
        namesakes = await later(self._tables.accounts.namesakes(fold_local(local)))
        return namesakes[0].address if len(namesakes) == 1 else here


def _ours(row: DomainRow) -> str:
    return f"{row.name} is a local domain" if row.kind == "local" else f"we are a backup MX of {row.name}"


def _splits(local: str, separators: str) -> list[tuple[str, str]]:
    """Ways to part a local part into user and detail, the longest user first."""
    places = [i for i in range(len(local) - 1, 0, -1) if local[i] in separators]
    return [(local[:i], local[i + 1 :]) for i in places[:MAX_SPLITS]]
