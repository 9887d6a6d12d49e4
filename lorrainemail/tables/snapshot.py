"""One frozen version of all tables, as the rest of the house asks them: :class:`Snapshot`.

Made by the table service at start and after each change; a transaction keeps the one it began with. Lookups
answer at once where the backend is in memory, and what a recipient comes to is remembered within a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import Address, AddressError, fold_local, parse_address
from lorrainemail.envelope import Session
from lorrainemail.interfaces import (
    Account,
    DeliveryRow,
    Expansion,
    Handed,
    ITables,
    LocalMailbox,
    RelayRight,
    Route,
    later,
)
from lorrainemail.tables.backend import TableSet
from lorrainemail.tables.expand import domain_row, expand
from lorrainemail.tables.following import InThread
from lorrainemail.tables.memory import MemoryNetworks
from lorrainemail.tables.reached import delivery_row
from lorrainemail.tables.route import patterns_of, route
from lorrainemail.tables.rules import DomainRow, Rules

#: Expansions remembered; a flood of unknown recipients only makes it begin anew.
MAX_REMEMBERED: Final = 16_384
#: Routes remembered: of the messages that are on their way now.
MAX_ROUTES: Final = 1024
#: A login name longer than any address.
MAX_LOGIN: Final = 512

T = TypeVar("T")


def now_or_later(work: Coroutine[Deferred[Any], Any, T]) -> T | Deferred[T]:
    """Run a coroutine; its result at once where nothing in it had to be awaited."""
    deferred = Deferred.fromCoroutine(work)
    if not deferred.called or deferred.paused:
        return deferred
    outcome: list[Any] = []
    deferred.addBoth(outcome.append)
    if not outcome:
        return deferred
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    value: T = outcome[0]
    return value


@implementer(ITables)
class Snapshot:
    """All tables of one moment."""

    def __init__(self, tables: TableSet, rules: Rules, in_thread: InThread = execute) -> None:
        """:param in_thread: runs what reads users' own files; by default in the caller's own thread."""
        self.tables = tables
        self.rules = rules
        self._in_thread = in_thread
        self._networks = MemoryNetworks(rules.networks)
        self._expansions: dict[Address, Expansion] = {}
        self._routes: dict[tuple[Address, Address | None], Route] = {}
        self._of_every: dict[Callable[[Account], bool], bool] = {}

    def is_local(self, domain: str) -> bool | Deferred[bool]:
        row = self.rules.domains.get(domain)
        if row is not None:
            return row.kind == "local"
        found = self.tables.domains.domain(domain)
        if isinstance(found, Deferred):
            return found.addCallback(_is_local)
        return _is_local(found)

    def account(self, address: Address) -> Account | None | Deferred[Account | None]:
        return self.tables.accounts.account(address.key)

    def login(self, name: str) -> Account | None | Deferred[Account | None]:
        if not name or len(name) > MAX_LOGIN or not name.isprintable():
            return None
        if "@" in name:
            try:
                return self.account(parse_address(name))
            except AddressError:
                return None
        found = self.tables.accounts.namesakes(fold_local(name))
        if isinstance(found, Deferred):
            return found.addCallback(_only)
        return _only(found)

    def every_account(self, test: Callable[[Account], bool]) -> bool:
        known = self._of_every.get(test)
        if known is None:
            known = self.tables.steady and all(map(test, self.tables.accounts.accounts()))
            self._of_every[test] = known
        return known

    def expand(self, address: Address) -> Expansion | Deferred[Expansion]:
        known = self._expansions.get(address)
        if known is not None:
            return known
        found = now_or_later(expand(self.tables, self.rules, address, self._in_thread))
        steady = self.tables.steady and not self.rules.aliases.user_files
        if steady and isinstance(found, Expansion) and not found.reversed:
            if len(self._expansions) >= MAX_REMEMBERED:
                self._expansions.clear()
            self._expansions[address] = found
        return found

    def relay_right(self, session: Session) -> RelayRight:
        if session.door == "local":
            return RelayRight(True, "handed over on this machine")
        if session.door in ("submission", "submissions", "smtp") and session.account:
            # On the smtp door only where [auth] on_smtp lets anybody log in there.
            return RelayRight(True, f"logged in as {session.account}")
        if session.door != "smtp":
            return RelayRight(False, "not logged in")
        if not session.peer:
            return RelayRight(False, "a UNIX socket's peer has no address that could be listed")
        row = self._networks.network(session.peer) or self.tables.networks.network(session.peer)
        if row is not None:
            return RelayRight(True, f"{session.peer} is in relay_networks {row.network} ({row.origin})")
        return RelayRight(False, f"{session.peer} is not in relay_networks and not logged in")

    def route(self, recipient: Address, sender: Address | None) -> Route | Deferred[Route]:
        known = self._routes.get((recipient, sender))
        if known is not None:
            return known
        found = now_or_later(self._route(recipient, sender))
        if self.tables.steady and isinstance(found, Route):
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[recipient, sender] = found
        return found

    async def _route(self, recipient: Address, sender: Address | None) -> Route:
        row = await domain_row(self.tables, self.rules, recipient.domain)
        routes = self.tables.routes
        by_recipient = await later(routes.rows("relay", patterns_of(recipient)))
        by_sender = await later(routes.rows("relay_by_sender", patterns_of(sender)))
        return route(
            {**by_recipient, **self.rules.relay} if by_recipient else self.rules.relay,
            {**by_sender, **self.rules.relay_by_sender} if by_sender else self.rules.relay_by_sender,
            recipient,
            sender,
            row is not None and row.kind == "local",
            self.rules.unknown_users,
            self.rules.source,
        )

    def rewrites(self, sender: Address) -> bool | Deferred[bool]:
        if self.rules.srs is None or not sender.domain:
            return False
        local = self.is_local(sender.domain)
        return local.addCallback(lambda ours: not ours) if isinstance(local, Deferred) else not local

    def return_path(
        self, sender: Address, original: str, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    ) -> Deferred[Address]:
        return Deferred.fromCoroutine(self._return_path(sender, original, in_thread))

    async def _return_path(
        self, sender: Address, original: str, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    ) -> Address:
        srs = self.rules.srs
        if srs is None or not await later(self.rewrites(sender)):
            return sender
        ours = self.rules.srs_domain
        if not ours:
            # The domain whose mail it is has its SPF record name this server, if any has.
            ours = original.rpartition("@")[2].lower()
            if not ours or not await later(self.is_local(ours)):
                ours = next((row.name for row in self.local_domains()), "")
        if not ours:
            return sender
        if not srs.ready:
            await in_thread(srs.prepare)
        return srs.forward(sender, ours) or sender

    def local_domains(self) -> Iterator[DomainRow]:
        """Local domains, the configuration's first."""
        for rows in (self.rules.domains.values(), self.tables.domains.domains()):
            yield from (row for row in rows if row.kind == "local")

    def delivery(self, address: Address) -> DeliveryRow | None:
        return delivery_row(self.rules, address)

    def owns(self, account: Account, address: Address) -> bool | Deferred[bool]:
        key = address.key
        if key == account.address.key or key in account.may_send_as:
            return True
        if f"@{address.domain}" in account.may_send_as:
            return True
        expansion = self.expand(address)
        if isinstance(expansion, Deferred):
            return expansion.addCallback(_leads_to, account)
        return _leads_to(expansion, account)


def _is_local(row: DomainRow | None) -> bool:
    return row is not None and row.kind == "local"


def _only(accounts: Any) -> Account | None:
    return accounts[0] if len(accounts) == 1 else None


def _leads_to(expansion: Expansion, account: Account) -> bool:
    """Whether an address (an alias, a subaddress, a catch-all) delivers to the account."""
    key = account.address.key
    reached = (f.account for f in expansion.finals if isinstance(f, LocalMailbox | Handed))
    return any(account is not None and account.address.key == key for account in reached)
