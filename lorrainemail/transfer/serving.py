"""What the server does for an import: folders made ready, staged messages put in their place.

:func:`commands` are commands of the control socket; an import that runs without a server calls the same ones
on a store of its own (:mod:`lorrainemail.transfer.access`). All arguments come from the operator's command;
they are checked all the same, as the server acts on files that they name.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from lorrainemail.control.words import Refused
from lorrainemail.interfaces import Account

if TYPE_CHECKING:
    from lorrainemail.store.mailstore import MailStore
    from lorrainemail.store.tree import Tree

#: Messages of one call.
MAX_MESSAGES: Final = 1000

#: Finds the account of an address as its owner writes it.
FindAccount = Callable[[str], Awaitable[Account | None]]


def commands(store: MailStore, find: FindAccount, spill: str) -> Mapping[str, Callable[..., Any]]:
    """The commands by name."""
    moving = MovingIn(store, find, spill)
    return {
        "import.account": moving.account,
        "import.prepare": moving.prepare,
        "import.known": moving.known,
        "import.place": moving.place,
        "import.finish": moving.finish,
        "restore.present": moving.present,
        "backup.freeze": moving.freeze,
    }


class MovingIn:
    """The server's side of an import."""

    def __init__(self, store: MailStore, find: FindAccount, spill: str) -> None:
        self._store = store
        self._find = find
        self._spill = spill

    def account(self, address: str) -> Deferred[dict[str, Any] | None]:
        """How an account's mail is kept; None where there is no such account."""

        async def ask() -> dict[str, Any] | None:
            account = await self._find(address)
            return None if account is None else {"format": account.format}

        return Deferred.fromCoroutine(ask())

    def prepare(
        self, address: str, folder: str, uid_validity: int, special_use: Sequence[str], subscribed: bool
    ) -> Deferred[dict[str, Any]]:
        """Make a folder ready."""

        def work(tree: Tree) -> Generator[None, None, dict[str, Any]]:
            from lorrainemail.store import taking

            found = yield from taking.prepare(tree, folder, int(uid_validity), special_use, bool(subscribed))
            return {
                "uid_validity": found.uid_validity,
                "uid_next": found.uid_next,
                "keeps": found.keeps,
                "mbox": False,
            }

        async def prepare() -> dict[str, Any]:
            account = await self._account(address)
            if _in_mbox(account, folder):
                return {"uid_validity": 0, "uid_next": 0, "keeps": False, "mbox": True}
            return await self._store.home(account).on_tree(work)

        return Deferred.fromCoroutine(prepare())

    def known(self, address: str, folder: str, keys: Sequence[str]) -> Deferred[list[int]]:
        """Which of these messages were taken before."""

        def work(tree: Tree) -> Generator[None, None, list[int]]:
            from lorrainemail.store import taking

            yield from ()
            return taking.known(tree, folder, [str(key) for key in keys])

        async def ask() -> list[int]:
            return await self._store.home(await self._account(address)).on_tree(work)

        return Deferred.fromCoroutine(ask())

    def place(
        self,
        address: str,
        folder: str,
        stage: str,
        messages: Sequence[Sequence[Any]],
        keep: bool,
        uid_next: int = 0,
    ) -> Deferred[int]:
        """Put staged messages in their place; how many of them are new."""
        from lorrainemail.store.taking import Incoming, place
        from lorrainemail.transfer.staging import STAGE, STAGED

        if not STAGE.match(stage) or len(messages) > MAX_MESSAGES:
            raise Refused("that is no import")
        incoming: list[Incoming] = []
        for key, name, base, flags, date, size, uid in messages:
            if not STAGED.match(name) or "/" in base or len(base) > 220 or base.startswith("."):
                raise Refused("that is no import")
            path = os.path.join(self._spill, stage, name)
            incoming.append(Incoming(key, path, base, tuple(flags), int(date), int(size), int(uid)))

        def work(tree: Tree) -> Generator[None, None, int]:
            return (yield from place(tree, folder, incoming, bool(keep), int(uid_next)))

        async def put() -> int:
            account = await self._account(address)
            if _in_mbox(account, folder):
                return await self._append(account, folder, incoming)
            home = self._store.home(account)
            placed = await home.on_tree(work)
            if placed:
                self._store.tell("copied", account.address.key, folder)
            return placed

        return Deferred.fromCoroutine(put())

    async def _append(self, account: Account, folder: str, incoming: Sequence[Any]) -> int:
        """Into an mbox file, one behind the other."""
        from lorrainemail.ops.content import Content
        from lorrainemail.store import taking
        from lorrainemail.store.reading import read_whole

        home = self._store.home(account)
        mailbox = await home.open("INBOX")
        try:
            for one in incoming:

                def remember(tree: Tree, key: str = one.key) -> Generator[None, None, None]:
                    yield from ()
                    taking.remember(tree, folder, [key])

                raw = ",C=1" in one.base
                data = await self._store.committer.run(lambda path=one.path, raw=raw: read_whole(path, raw))  # type: ignore[misc]
                flags = await home.on_tree(lambda tree, flags=one.flags: _fitting(tree, flags))  # type: ignore[misc]
                await mailbox.append(Content(data), flags, one.date)
                await home.on_tree(remember)
                os.unlink(one.path)
        finally:
            mailbox.close()
        return len(incoming)

    def finish(self, address: str, folder: str, uid_next: int, keep: bool) -> Deferred[None]:
        """All of a folder is in."""

        def work(tree: Tree) -> Generator[None, None, None]:
            from lorrainemail.store import taking

            yield from ()
            taking.finish(tree, folder, int(uid_next), bool(keep))

        async def finish() -> None:
            account = await self._account(address)
            if not _in_mbox(account, folder):
                await self._store.home(account).on_tree(work)

        return Deferred.fromCoroutine(finish())

    def present(self, address: str, ids: Sequence[str]) -> Deferred[list[int]]:
        """Which messages, by EMAILID, the account has in any of its folders; by their places in the list."""

        def work(tree: Tree) -> Generator[None, None, list[int]]:
            yield from ()
            return tree.index.present([str(one) for one in ids])

        async def ask() -> list[int]:
            return await self._store.home(await self._account(address)).on_tree(work)

        return Deferred.fromCoroutine(ask())

    def freeze(self, address: str, stage: str, place: str) -> Deferred[int | None]:
        """Hold an account's home fast in a directory of the stage, which may hold a list of base names that
        need no link; the number of messages, None where there is no such account."""
        from lorrainemail.transfer.snapshot import KNOWN, PLACE, STAGE

        if not STAGE.match(stage) or not PLACE.match(place):
            raise Refused("that is no backup")
        target = os.path.join(self._spill, stage, place)

        def work(tree: Tree, descriptor: int = -1) -> Generator[None, None, int]:
            from lorrainemail.store.freezing import freeze

            with open(f"{target}/{KNOWN}", encoding="utf-8", errors="surrogateescape") as file:
                known = frozenset(file.read().split("\n"))
            return (yield from freeze(tree, target, known, descriptor))

        async def hold() -> int | None:
            account = await self._find(address)
            if account is None:
                return None
            home = self._store.home(account)
            if account.format == "mbox":
                return await home.with_mbox(work)
            return await home.on_tree(work)

        return Deferred.fromCoroutine(hold())

    async def _account(self, address: str) -> Account:
        account = await self._find(address)
        if account is None:
            raise Refused(f"there is no account {address}")
        return account


def _in_mbox(account: Account, folder: str) -> bool:
    return account.format == "mbox" and folder == "INBOX"


def _fitting(tree: Tree, flags: Sequence[str]) -> Generator[None, None, list[str]]:
    """The flags without those that can be none here."""
    from lorrainemail.store import mboxfile
    from lorrainemail.store.taking import fitting

    yield from ()
    return fitting(tree, mboxfile.folder_of(tree), flags)
