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
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, execute

from lorrainemail.addresses import Address, AddressError, fold_local, parse_address
from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Account,
    DeliveryRow,
    Expansion,
    Handed,
    LocalMailbox,
    Origin,
    Refused,
    RemoteMailbox,
    Step,
    later,
)
from lorrainemail.interfaces import (
    Final as FinalRecipient,
)
from lorrainemail.ops.commandline import words_of
from lorrainemail.tables.backend import AliasRow, AliasTarget, TableSet
from lorrainemail.tables.lists import path_of
from lorrainemail.tables.route import best, patterns_of, rejection
from lorrainemail.tables.rules import DomainRow, RouteRow, Rules
from lorrainemail.tables.srs import NotReversed, is_srs
from lorrainemail.tables.userfiles import UserFileError, read_own
from lorrainemail.tables.virtual import fill

#: Runs blocking work in a thread.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]
#: What is thrown away.
DEV_NULL: Final = "/dev/null"
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
    """An address on the way, with how it was reached.

    :ivar chain: the addresses before it. ``used``: the aliases that led here, none of which is used again.
    :ivar plain: no alias and no user's file is asked any more.
    :ivar owner: of the list that led here.
    """

    address: Address
    path: tuple[Step, ...] = ()
    chain: tuple[str, ...] = ()
    forwarded: bool = False
    plain: bool = False
    folder: str = ""
    used: frozenset[str] = frozenset()
    owner: Address | None = None


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


class _Expander:
    """One expansion: a work list of addresses, and what came of them."""

    def __init__(self, tables: TableSet, rules: Rules, in_thread: InThread) -> None:
        self._tables = tables
        self._rules = rules
        self._in_thread = in_thread
        self._finals: dict[tuple[str, str], FinalRecipient] = {}
        self._notes: list[Step] = []
        self._reply: Reply | None = None
        self._refused_path: tuple[Step, ...] = ()
        self._seen: set[str] = set()
        self._todo: deque[_Visit] = deque()
        self._reversed = False

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
            finals, notes = tuple(self._finals.values()), tuple(self._notes)
            return Expansion(not outside, finals, notes=notes, reversed=self._reversed)
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
            visit = attrs.evolve(visit, path=path)
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
        if not visit.chain and self._leads_back(visit):
            return
        if not await self._by_name(visit) and not self._passed_on(visit):
            self._refuse(UNKNOWN_USER, visit.path, Step(f"{address} is nobody here"))

    def _leads_back(self, visit: _Visit) -> bool:
        """An address that we made for somebody else's mail: bounces to it go back to him."""
        srs, address = self._rules.srs, visit.address
        if srs is None or not is_srs(address.local):
            return False
        try:
            sender = srs.reverse(address.local)
        except NotReversed as error:
            self._notes.append(Step(f"{address} leads nowhere: {error}"))
            return False
        step = Step(f"{address} was made here for mail of {sender} that was sent on")
        self._final(("", sender.key), RemoteMailbox(sender, (*visit.path, step), forwarded=True))
        self._reversed = True
        return True

    def _passed_on(self, visit: _Visit) -> bool:
        """A row of ``[unknown_users]``: another host knows the users of the domain that we do not."""
        address = visit.address
        row = best(self._rules.unknown_users, patterns_of(address)[1:])
        if row is None or visit.plain:
            return False
        if _ROUTING.search(address.local):
            # That host trusts us, and would see a route in it.
            self._refuse(NO_ROUTES, visit.path, Step(f"{address} looks like a source route", row.origin))
        elif row.row.reject:
            step = Step(f'unknown_users."{row.pattern}" refuses {address}', row.origin)
            self._refuse(rejection(row), visit.path, step)
        else:
            step = Step(f'unknown_users."{row.pattern}" sends unknown users elsewhere', row.origin)
            path = (*visit.path, step)
            self._final(("", address.key), RemoteMailbox(address, path, visit.forwarded))
        return True

    async def _remote(self, visit: _Visit) -> None:
        """An address outside, unless a relay row refuses it."""
        address = visit.address
        patterns = patterns_of(address)
        rows = await later(self._tables.routes.rows("relay", patterns))
        found = best({**rows, **self._rules.relay} if rows else self._rules.relay, patterns)
        if found is not None and found.row.reject:
            self._rejected(visit, found)
        else:
            self._final(("", address.key), RemoteMailbox(address, visit.path, visit.forwarded, visit.owner))

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
            remote = RemoteMailbox(address, (*visit.path, step), visit.forwarded, visit.owner)
            self._final(("", address.key), remote)
        return True

    async def _by_name(self, visit: _Visit) -> bool:
        """The address as it is, then a ``*`` that covers it, then without its subaddress, then the catch-all,
        then the postmaster's."""
        address = visit.address
        if await self._named(visit, address, visit.folder):
            return True
        if self._tables.wildcards is not None and not visit.plain:
            row = self._tables.wildcards(fold_local(address.local), address.domain)
            if row is not None and _use(row, address) not in visit.used:
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

    async def _named(self, visit: _Visit, address: Address, folder: str) -> bool:
        key = address.key
        if not visit.plain:
            for name in (key, fold_local(address.local)):
                row = await later(self._tables.aliases.alias(name))
                if row is not None and _use(row, address) not in visit.used:
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

    def _mailbox(self, visit: _Visit, account: Account, folder: str, why: str = "") -> None:
        deliver = delivery_row(self._rules, account.address)
        if deliver is not None:
            self._handed(visit, deliver, why or f"account {account.address}", account)
            return
        words = why or f"account {account.address}" + (f", folder {folder} if it exists" if folder else "")
        path = (*visit.path, Step(words, account.origin))
        key = account.address.key, folder
        self._final(key, LocalMailbox(account, folder, visit.address, path, visit.owner))

    def _handed(self, visit: _Visit, row: DeliveryRow, why: str, account: Account | None = None) -> None:
        """A row of ``[deliver]`` gives the mail to a courier, which asks the row again when it tries."""
        step = Step(f'deliver."{row.pattern}" hands it to {row.courier} {row.argument}'.rstrip(), row.origin)
        path = (*visit.path, *([Step(why, account.origin)] if account is not None else []), step)
        final = Handed(
            row.courier, "", visit.address, path, visit.owner, forwarded=visit.forwarded, account=account
        )
        self._final((f"|{row.courier}", visit.address.key), final)

    # -- users' own files --------------------------------------------------------------------------

    async def _own_file(self, visit: _Visit, account: Account, address: Address, folder: str) -> bool:
        """What the account's user says in ``.forward`` or ``.qmail``, where he says anything."""
        kinds, system = self._rules.aliases.user_files, account.system
        mark = f"~{account.address.key}"
        if not kinds or system is None or visit.plain or mark in visit.used:
            return False
        detail = visit.address.local[len(address.local) :]
        separator, detail = detail[:1], detail[1:]
        try:
            found = await self._in_thread(partial(read_own, system, kinds, detail, separator))
        except UserFileError as error:
            self._refuse(BAD_TABLES, visit.path, Step(f"{error}: the mail waits", account.origin))
            return True
        if found is None:
            return False
        used = visit.used | {mark}
        inner = attrs.evolve(visit, used=used, chain=(*visit.chain, account.address.key))
        if found.keeps:
            self._mailbox(visit, account, folder, f"{found.path} keeps it")
        for target in found.targets:
            place = target.origin or Origin(found.path)
            if target.kind == "command" and self._rules.helper:
                step = Step(f"{account.address} → {target.text}, as that user", place)
                argument = target.text[1:].strip()
                final = Handed(
                    "pipe",
                    argument,
                    visit.address,
                    (*visit.path, step),
                    visit.owner,
                    account.address.key,
                )
                self._final((f"|{account.address.key}", argument), final)
            elif target.kind in ("command", "file", "include"):
                why = {
                    "command": "commands.helper is not set, and only it may act as that user",
                    "file": "only a command of the helper may write files of that user",
                    "include": "lists are for aliases alone",
                }[target.kind]
                step = Step(f"{account.address} → {target.text}: left out, {why}", place)
                self._refuse(BAD_TABLES, visit.path, step)
            else:
                await self._follow(inner, target, address, place, str(account.address), folder)
        if not found.keeps and not found.targets:
            self._final(
                ("|discard", account.address.key),
                Handed("file", DEV_NULL, visit.address, (*visit.path, Step(f"{found.path} keeps nothing"))),
            )
        return True

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
        inner = attrs.evolve(visit, chain=chain, used=visit.used | {_use(row, address)}, forwarded=True)
        owner = await self._owner(row, address)
        if owner is not None:
            inner = attrs.evolve(inner, owner=owner)
        for target in row.targets:
            if target.kind == "include" and row.kind == "local":
                await self._list(inner, target, address, row, folder, frozenset())
            else:
                await self._one(inner, target, address, row, folder, row.trusted)

    async def _owner(self, row: AliasRow, address: Address) -> Address | None:
        """aliases(5): where there is an ``owner-NAME`` beside ``NAME``, failures are its affair."""
        local = fold_local(address.local)
        if row.kind != "local" or row.key.startswith("@") or "*" in row.key or local.startswith("owner-"):
            return None
        owner = Address(f"owner-{address.local}", address.domain)
        for name in (owner.key, fold_local(owner.local)):
            if await later(self._tables.aliases.alias(name)) is not None:
                return owner
        return None

    async def _list(
        self,
        visit: _Visit,
        target: AliasTarget,
        address: Address,
        row: AliasRow,
        folder: str,
        above: frozenset[str],
    ) -> None:
        """The members of a list, and of the lists in it."""
        path = path_of(target)
        members = self._tables.lists.get(path)
        place = target.origin or row.origin
        if members is None:
            self._refuse(BAD_TABLES, visit.path, Step(f"alias {row.key}: {path} cannot be read", place))
            return
        if path in above or len(above) >= MAX_DEPTH:
            self._notes.append(Step(f"alias {row.key}: the list {path} names itself", place))
            return
        for member in members:
            if member.kind == "include":
                await self._list(visit, member, address, row, folder, above | {path})
            else:
                await self._one(visit, member, address, row, folder, False)

    async def _one(
        self,
        visit: _Visit,
        target: AliasTarget,
        address: Address,
        row: AliasRow,
        folder: str,
        trusted: bool,
    ) -> None:
        """One target of an alias."""
        place = target.origin or row.origin
        if target.kind in ("command", "file"):
            why = "" if trusted else "it stands where others than the operator may write"
            argument = target.text[1:].strip() if target.kind == "command" else target.text
            if trusted and target.kind == "command":
                why = _not_runnable(argument)
            elif trusted and not is_below(argument, self._rules.aliases.file_directories):
                why = "it is not below a directory of aliases.file_directories"
            if why:
                step = Step(f"alias {row.key} → {target.text}: left out, {why}", place)
                self._refuse(BAD_TABLES, visit.path, step)
                return
            courier = "pipe" if target.kind == "command" else "file"
            step = Step(f"alias {row.key} → {target.text}", place)
            final = Handed(courier, argument, visit.address, (*visit.path, step), visit.owner)
            self._final((f"|{courier}", argument), final)
            return
        if target.kind == "reply" and target.reply is not None:
            step = Step(f"{row.key} → {target.text}", place)
            self._refuse(target.reply, visit.path, step)
            return
        await self._follow(visit, target, address, place, f"alias {row.key}", folder, row.kind == "virtual")

    async def _follow(
        self,
        visit: _Visit,
        target: AliasTarget,
        address: Address,
        place: Origin,
        what: str,
        folder: str,
        virtual: bool = False,
    ) -> None:
        """An address that a target names goes on the work list.

        :param address: what matched. ``folder``: what its detail asks for.
        """
        if target.kind == "domain" and _ROUTING.search(visit.address.local):
            step = Step(f"{visit.address} looks like a source route, not sent on", place)
            self._refuse(NO_ROUTES, visit.path, step)
            return
        if target.kind == "template":
            target = await self._filled(target, visit.address)
        if target.address is None:
            self._refuse(BAD_TABLES, visit.path, Step(f"{what} → {target.text} is no address here", place))
            return
        reached = await self._target(target.kind, target.address, visit.address)
        detail = visit.address.local[len(address.local) :]
        if virtual and detail and target.kind in ("address", "user"):
            # Postfix's propagate_unmatched_extensions.
            reached = Address(reached.local + detail, reached.domain)
        same = reached.key == address.key
        self._todo.append(
            attrs.evolve(
                visit,
                address=reached,
                path=(*visit.path, Step(f"{what} → {reached}", place)),
                forwarded=True,
                plain=target.kind == "mailbox",
                folder=folder if same else "",
            )
        )

    async def _filled(self, target: AliasTarget, source: Address) -> AliasTarget:
        """Sendmail's %1: the recipient's own words in the places of a target."""
        user, plus, detail = source.local.partition("+")
        text = fill(target.text, user, detail if plus else "")
        try:
            if "@" in text:
                local, _, domain = text.rpartition("@")
                return AliasTarget(
                    "address", target.text, Address(local, parse_address(f"x@{domain}").domain)
                )
            return AliasTarget("user", target.text, Address(text, ""))
        except AddressError:
            return AliasTarget("template", target.text)

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


def delivery_row(rules: Rules, address: Address) -> DeliveryRow | None:
    """The most specific row of ``[deliver]``."""
    if not rules.deliver:
        return None
    return next((rules.deliver[p] for p in patterns_of(address) if p in rules.deliver), None)


def is_below(path: str, directories: tuple[str, ...]) -> bool:
    """Whether a target ``/file`` is below one of the directories, by its words alone; the courier looks at
    what really stands there. ``/dev/null`` is everybody's."""
    if path == DEV_NULL:
        return True
    if ".." in path.split("/") or not path.isprintable():
        return False
    return any(path.startswith(directory.rstrip("/") + "/") for directory in directories)


def _not_runnable(command: str) -> str:
    try:
        words_of(command)
    except ValueError as error:
        return str(error).partition(";")[0]
    return ""


def _use(row: AliasRow, address: Address) -> str:
    """How it is remembered that an alias was used: those of a bare user once a domain."""
    return row.key if "@" in row.key else f"{row.key} {address.domain}"


def _ours(row: DomainRow) -> str:
    return f"{row.name} is a local domain" if row.kind == "local" else f"we are a backup MX of {row.name}"


def _splits(local: str, separators: str) -> list[tuple[str, str]]:
    """Ways to part a local part into user and detail, the longest user first."""
    places = [i for i in range(len(local) - 1, 0, -1) if local[i] in separators]
    return [(local[:i], local[i + 1 :]) for i in places[:MAX_SPLITS]]
