"""What a table backend provides: one interface a table, and the rows that cross them.

A backend (files, SQL, LDAP) is a Twisted plugin that provides :class:`IBackend`. It opens to a
:class:`ITableSource`, which yields a :class:`TableSet`. Every lookup may answer at once or with a Deferred;
one that fails raises :class:`lorrainemail.errors.TemporaryError` and never answers "no such row".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Literal

import attrs
from twisted.internet.defer import Deferred
from twisted.plugin import getPlugins
from zope.interface import Attribute, Interface

from lorrainemail.addresses import Address
from lorrainemail.config.model import RelayRow
from lorrainemail.errors import ConfigurationError, Origin, Problem, Reply
from lorrainemail.interfaces import Account, ITableBackend
from lorrainemail.tables.rules import DomainRow, NetworkRow, RouteRow, Rules

__all__ = [
    "AliasRow",
    "AliasTarget",
    "DomainRow",
    "IAccountTable",
    "IAliasTable",
    "IBackend",
    "IDomainTable",
    "IRelayNetworkTable",
    "IRelayRouteTable",
    "ITableSource",
    "NetworkRow",
    "RelayRow",
    "RouteRow",
    "TableSet",
    "find_backend",
]


@attrs.frozen(slots=True)
class AliasTarget:
    """One target of an alias.

    :ivar kind: "address" (a whole address), "user" (a bare name), "mailbox" (``\\name``: no further alias),
        "domain" (``@domain``: the same user there), "command", "file", "include" (a list), "template" (an
        address with Sendmail's %1), "reply" (those who write there are told so).
    :ivar text: as written, for people.
    :ivar address: for "address"; its local part for "user" and "mailbox", its domain for "domain".
    :ivar origin: where it stands, for targets of a list.
    """

    kind: Literal["address", "user", "mailbox", "domain", "command", "file", "include", "template", "reply"]
    text: str
    address: Address | None = None
    origin: Origin | None = None
    reply: Reply | None = None


@attrs.frozen(slots=True)
class AliasRow:
    """One alias: ``user@domain``, ``@domain`` (all else of a domain), or a bare user of any local domain; the
    user may begin or end with ``*``.

    :ivar kind: "virtual" for rows of virtual(5) files, in which details go along with the address.
    :ivar trusted: nobody but root and the server can have written it: it may lead to commands and files.
    """

    key: str
    targets: tuple[AliasTarget, ...]
    origin: Origin = attrs.field(factory=Origin)
    kind: Literal["local", "virtual"] = "local"
    trusted: bool = False


class IDomainTable(Interface):
    """Local domains and domains for which we are a backup."""

    def domain(name: str) -> DomainRow | None | Deferred[DomainRow | None]:
        """The row of exactly that domain (normalised)."""

    def domains() -> Iterable[DomainRow]:
        """All rows, for check; a backend that cannot list answers nothing."""


class IAccountTable(Interface):
    """Local accounts."""

    def account(key: str) -> Account | None | Deferred[Account | None]:
        """The account with that :attr:`lorrainemail.addresses.Address.key`."""

    def namesakes(local: str) -> Sequence[Account] | Deferred[Sequence[Account]]:
        """Accounts with that folded local part in any domain; two are enough to know it is ambiguous."""

    def first(domain: str) -> Account | None | Deferred[Account | None]:
        """The account that answers for the postmaster: the domain's first, else the first of all."""

    def accounts() -> Iterable[Account]:
        """All rows, for check and listings."""


class IAliasTable(Interface):
    """Aliases."""

    def alias(key: str) -> AliasRow | None | Deferred[AliasRow | None]:
        """The row of exactly that key, without a ``*``."""

    def aliases() -> Iterable[AliasRow]:
        """All rows, for check."""


class IRelayNetworkTable(Interface):
    """Networks that may relay without login. Always in memory: it is asked for every transaction."""

    def network(address: str) -> NetworkRow | None:
        """The narrowest row that holds an IP address (canonical text)."""

    def networks() -> Iterable[NetworkRow]:
        """All rows."""


class IRelayRouteTable(Interface):
    """Relay rows by recipient or by sender."""

    def rows(
        table: Literal["relay", "relay_by_sender"], patterns: Sequence[str]
    ) -> Mapping[str, RouteRow] | Deferred[Mapping[str, RouteRow]]:
        """Those rows whose pattern is among ``patterns``."""

    def routes(table: Literal["relay", "relay_by_sender"]) -> Iterable[RouteRow]:
        """All rows, for check."""


@attrs.frozen(slots=True)
class TableSet:
    """One consistent version of a backend's tables.

    :ivar steady: every lookup answers at once and the same for as long as the set lives, so that results may
        be kept.
    :ivar secrets: user and secret by name, for next hops that ask for a login.
    :ivar wildcards: aliases whose user has a ``*``: the best for a folded local part and a domain.
    :ivar lists: the targets of each ``:include:`` file that aliases name; None where it cannot be read.
    """

    domains: IDomainTable
    accounts: IAccountTable
    aliases: IAliasTable
    networks: IRelayNetworkTable
    routes: IRelayRouteTable
    steady: bool = False
    secrets: Mapping[str, tuple[str, str]] = attrs.field(factory=dict, repr=False)
    wildcards: Callable[[str, str], AliasRow | None] | None = None
    lists: Mapping[str, tuple[AliasTarget, ...] | None] = attrs.field(factory=dict)


class ITableSource(Interface):
    """An open backend. :meth:`load` and :meth:`refresh` may block; while serving a thread calls them."""

    def load(rules: Rules) -> TableSet:
        """The tables at start. ConfigurationError with every problem where they cannot be used."""

    def changed(closely: bool = True) -> bool:
        """Whether a refresh would find something new. Cheap: called in the reactor thread, several times a
        second.

        :param closely: also where only a confirmation may have come for what was seen already.
        """

    def small() -> bool:
        """Whether a refresh is so short that it may run in the reactor thread."""

    def refresh(rules: Rules, confirmed: bool = False) -> TableSet:
        """The tables now; of a table that broke, the old version. The same object where nothing changed.
        Never fails.

        :param confirmed: the operator says that what vanished was meant to go.
        """

    def note() -> None:
        """Remember across a restart what is in use, so that a start can see that rows are gone. Blocks.

        :raises ConfigurationError: where that is not possible now.
        """

    def alarms() -> Sequence[Problem]:
        """Tables that serve an old version, and why."""

    def warnings() -> Sequence[Problem]:
        """Rows that are loaded but cannot mean what was meant, for check."""


class IBackend(ITableBackend):
    """The plugin."""

    name: str = Attribute("the word that selects it in the configuration")

    def open(state: str) -> ITableSource:
        """Open the tables of a state directory; reads nothing yet."""


def find_backend(name: str, package: ModuleType, where: Origin | None = None) -> IBackend:
    """The plugin of that name.

    :param package: where plugins are looked for: ``lorrainemail.plugins``.
    :param where: the name stands, for the problem.
    :raises ConfigurationError: naming those that there are.
    """
    found: dict[str, IBackend] = {}
    for plugin in getPlugins(ITableBackend, package):
        found.setdefault(plugin.name, IBackend(plugin))
    if name in found:
        return found[name]
    known = ", ".join(sorted(found)) or "none"
    where = where or Origin()
    what = f'there is no table backend "{name}"'
    raise ConfigurationError((Problem(where.file, where.line, what, f"installed: {known}"),))
