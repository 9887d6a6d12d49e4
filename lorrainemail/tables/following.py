"""Following aliases: from a row, a list or a user's own file to the addresses, commands and files it names.

The middle part of :mod:`lorrainemail.tables.expand`. Addresses go on its work list; commands and files become
final recipients where the file that names them may do so (:mod:`lorrainemail.tables.trust`), and are noted
where it may not. Users' own files are read in a thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred

from lorrainemail.addresses import Address, AddressError, fold_local, parse_address
from lorrainemail.errors import Origin
from lorrainemail.interfaces import Account, Handed, Step, later
from lorrainemail.ops.commandline import words_of
from lorrainemail.tables.backend import AliasRow, AliasTarget, TableSet
from lorrainemail.tables.lists import path_of
from lorrainemail.tables.reached import BAD_TABLES, NO_ROUTES, ROUTING, Reached, Visit
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.userfiles import UserFileError, read_own
from lorrainemail.tables.virtual import fill

#: Runs blocking work in a thread.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]
#: What is thrown away.
DEV_NULL: Final = "/dev/null"
#: An alias that leads to an alias that leads to ...
MAX_DEPTH: Final = 20


class Following(Reached):
    """What aliases and users' own files lead to."""

    def __init__(self, tables: TableSet, rules: Rules, in_thread: InThread) -> None:
        super().__init__(tables, rules)
        self._in_thread = in_thread
        self._todo: deque[Visit] = deque()

    async def _alias(self, visit: Visit, row: AliasRow, address: Address, folder: str) -> None:
        """Put an alias's targets on the work list. ``address`` is what matched, without a subaddress."""
        if len(visit.chain) >= MAX_DEPTH:
            step = Step(f"more than {MAX_DEPTH} aliases one after the other", row.origin)
            self._refuse(BAD_TABLES, visit.path, step)
            return
        chain = (*visit.chain, address.key if not row.key.startswith("@") else row.key)
        inner = attrs.evolve(visit, chain=chain, used=visit.used | {use_of(row, address)}, forwarded=True)
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
        visit: Visit,
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
        visit: Visit,
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
        visit: Visit,
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
        if target.kind == "domain" and ROUTING.search(visit.address.local):
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

    async def _own_file(self, visit: Visit, account: Account, address: Address, folder: str) -> bool:
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


def use_of(row: AliasRow, address: Address) -> str:
    """How it is remembered that an alias was used: those of a bare user once a domain."""
    return row.key if "@" in row.key else f"{row.key} {address.domain}"
