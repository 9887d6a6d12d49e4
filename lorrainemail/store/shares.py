"""Folders of other accounts, as far as their owners gave rights to them (RFC 4314): the namespace ``user/``.

:class:`Shares` makes the homes that sessions hold: an account's own folders, and under ``user/ADDRESS/``
those that it may see of others. Rights are checked here, before the owner's home is asked; doors only say
what the store answers. Who shares with whom is also noted in one small file, ``.shares.json`` in the mail
directory, so that a LIST looks only into the homes that it must; while nobody shares anything, nothing is
asked at all.
"""

from __future__ import annotations

import json
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import MailError
from lorrainemail.interfaces import (
    Account,
    Column,
    FolderFacts,
    FolderStatus,
    HomeEvent,
    IContent,
    IMailbox,
    IMailHome,
    IMessage,
    MessageFacts,
    StoreResult,
    TextCandidates,
)
from lorrainemail.ops.files import SYSTEM
from lorrainemail.store.failures import cannot, nonexistent
from lorrainemail.store.paths import canonical_name
from lorrainemail.store.rights import ALL, ANYONE, refused, rights_of

T = TypeVar("T")

PREFIX: Final = "user/"
#: Accounts whose folders one LIST looks into.
MAX_OWNERS: Final = 500
#: Identifiers of one owner that are noted: nobody fills the file for all others.
MAX_GIVEN: Final = 500
_MAX_FILE: Final = 64 << 20

#: The account's annotations that remember such subscriptions.
_SUBSCRIBED: Final = "/private/vendor/lorrainemail/subscribed/"
_FLAG_RIGHTS: Final = {"\\seen": "s", "\\deleted": "t"}

_log = Logger("lorrainemail.store")


class Registry:
    """Which owners gave rights, and to whom; thread-safe, as jobs of different homes write it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._given: dict[str, list[str]] | None = None

    def owners(self, user: str) -> list[str]:
        """Accounts that gave the user, or everybody, some right."""
        given = self._load()
        return sorted(
            owner
            for owner, identifiers in given.items()
            if owner != user and (user in identifiers or ANYONE in identifiers)
        )

    def note(self, owner: str, identifiers: Iterable[str]) -> None:
        """These have rights to something of the owner's. In a thread."""
        given_to = {identifier for identifier in identifiers if not identifier.startswith("-")}
        wanted = sorted(given_to, key=lambda one: (one != ANYONE, one))[:MAX_GIVEN]
        with self._lock:
            given = dict(self._load())
            if given.get(owner, []) == wanted:
                return
            given.pop(owner, None)
            if wanted:
                given[owner] = wanted
            self._write(json.dumps(given, indent=1).encode())
            self._given = given

    def _write(self, data: bytes) -> None:
        temporary = self._path + ".new"
        descriptor = os.open(
            temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            SYSTEM.write(descriptor, (data,))
            SYSTEM.fsync(descriptor)
        finally:
            SYSTEM.close(descriptor)
        SYSTEM.rename(temporary, self._path)
        SYSTEM.fsync_directory(os.path.dirname(self._path))

    def _load(self) -> dict[str, list[str]]:
        if self._given is None:
            self._given = {}
            try:
                with open(self._path, "rb") as file:
                    found = json.loads(file.read(_MAX_FILE))
                self._given = {str(owner): [str(one) for one in given] for owner, given in found.items()}
            except FileNotFoundError:
                pass
            except (OSError, ValueError, AttributeError, TypeError) as error:
                _log.error("{path} cannot be read: {error}", path=self._path, error=error)
        return self._given


class Shares:
    """The homes that sessions hold.

    :param home: an account's own folders (``store.home``).
    :param find: the account of an address, None where there is none.
    """

    def __init__(
        self,
        home: Callable[[Account], IMailHome],
        find: Callable[[str], Awaitable[Account | None]],
        registry: Registry,
    ) -> None:
        self.own = home
        self.find = find
        self.registry = registry
        #: What sessions have open: rights that are taken away are gone for these too.
        self.opened: weakref.WeakSet[SharedMailbox] = weakref.WeakSet()

    async def set_acl(self, home: IMailHome, folder: str, identifier: str, rights: str) -> None:
        """Give rights to a folder of that home, or take them; for who has it open as well."""
        await home.set_acl(folder, identifier, rights)
        owner, name = home.account.address.key, canonical_name(folder)
        affected = [one for one in self.opened if one.owner == owner and one.folder == name]
        if affected:
            acl = await home.acl(folder)
            for one in affected:
                one.rights = ALL if one.user == owner else rights_of(acl, one.user)

    def home(self, account: Account) -> IMailHome:
        """What an account may see."""
        found: IMailHome = SharedHome(self, account)
        return found


@implementer(IMailHome)
class SharedHome:
    """An account's own folders, and those of others that it may see."""

    __slots__ = ("_own", "_shares", "_user", "account")

    def __init__(self, shares: Shares, account: Account) -> None:
        self.account = account
        self._shares = shares
        self._own = shares.own(account)
        self._user = account.address.key

    # -- names --

    def _is_shared(self, name: str) -> bool:
        return name.startswith(PREFIX) and "@" in name.split("/")[1]

    async def _resolve(self, name: str, need: str) -> tuple[IMailHome, str, str]:
        """The owner's home, the folder's name there, the user's rights.

        :raises MailError: ``NONEXISTENT`` where he may not even know of it; ``NOPERM`` where a right is
            missing.
        """
        _, _, path = name.partition("/")
        key, _, folder = path.partition("/")
        if not folder:
            raise nonexistent(name)
        owner = await self._shares.find(key)
        if owner is None:
            raise nonexistent(name)
        home = self._shares.own(owner)
        rights = ALL if owner.address.key == self._user else await home.rights(folder, self._user)
        if "l" not in rights and not (set(need) & set(rights)):
            raise nonexistent(name)  # RFC 4314 §6: as if it were not there
        if not set(need) <= set(rights):
            raise refused()
        return home, folder, rights

    # -- IMailHome --

    def folders(self) -> Deferred[list[FolderFacts]]:
        if not self._shares.registry.owners(self._user):
            return self._own.folders()
        return Deferred.fromCoroutine(self._all_folders())

    async def _all_folders(self) -> list[FolderFacts]:
        own = await self._own.folders()
        subscribed = await self._subscribed()
        found: dict[str, FolderFacts] = {}
        for key in self._shares.registry.owners(self._user)[:MAX_OWNERS]:
            owner = await self._shares.find(key)
            if owner is None:
                continue
            home = self._shares.own(owner)
            try:
                theirs = await home.folders()
                acls = await home.acls()
            except MailError as failure:
                _log.warn("shared folders of {owner}: {why}", owner=key, why=failure.detail)
                continue
            for folder in theirs:
                name = f"{PREFIX}{key}/{folder.name}"
                if folder.selectable and "l" in rights_of(acls.get(folder.name, {}), self._user):
                    found[name] = FolderFacts(name, True, name in subscribed)
        for name in tuple(found):
            parts = name.split("/")
            for cut in range(1, len(parts)):
                parent = "/".join(parts[:cut])
                found.setdefault(parent, FolderFacts(parent, False, parent in subscribed))
        mine = [folder for folder in own if folder.name not in found]
        return mine + [found[name] for name in sorted(found)]

    def open(self, name: str) -> Deferred[IMailbox]:
        if not self._is_shared(name):
            return self._own.open(name)

        async def open_shared() -> IMailbox:
            home, folder, _ = await self._resolve(name, "r")
            found = SharedMailbox(await home.open(folder), name, home.account.address.key, self._user)
            self._shares.opened.add(found)
            try:
                # As they are now: they may have gone while it was opened.
                found.rights = (await self._resolve(name, "r"))[2]
            except BaseException:
                found.close()
                raise
            return cast(IMailbox, found)

        return Deferred.fromCoroutine(open_shared())

    def status(self, name: str) -> Deferred[FolderStatus]:
        if not self._is_shared(name):
            return self._own.status(name)

        async def status() -> FolderStatus:
            home, folder, _ = await self._resolve(name, "r")
            return await home.status(folder)

        return Deferred.fromCoroutine(status())

    def create(self, name: str, special_use: Sequence[str] = ()) -> Deferred[None]:
        if not self._is_shared(name):
            return self._own.create(name, special_use)

        async def create() -> None:
            parent = name.rpartition("/")[0]
            home, above, _ = await self._resolve(parent, "k")
            folder = f"{above}/{name.rpartition('/')[2]}"
            await home.create(folder)
            for identifier, rights in (await home.acl(above)).items():
                await home.set_acl(folder, identifier, rights)

        return Deferred.fromCoroutine(create())

    def delete(self, name: str) -> Deferred[None]:
        if not self._is_shared(name):
            return self._own.delete(name)

        async def delete() -> None:
            home, folder, _ = await self._resolve(name, "x")
            await home.delete(folder)

        return Deferred.fromCoroutine(delete())

    def rename(self, old: str, new: str) -> Deferred[None]:
        if not self._is_shared(old) and not self._is_shared(new):
            return self._own.rename(old, new)

        async def rename() -> None:
            if not (self._is_shared(old) and self._is_shared(new)):
                raise cannot("folders do not change their owner")
            home, folder, _ = await self._resolve(old, "x")
            other, above, _ = await self._resolve(new.rpartition("/")[0], "k")
            if other.account.address.key != home.account.address.key:
                raise cannot("folders do not change their owner")
            await home.rename(folder, f"{above}/{new.rpartition('/')[2]}")

        return Deferred.fromCoroutine(rename())

    def subscribe(self, name: str, subscribed: bool) -> Deferred[None]:
        if not self._is_shared(name):
            return self._own.subscribe(name, subscribed)
        # not in the file that other programs read: there these names would be folders of ours
        entry = _SUBSCRIBED + name.encode("utf-8").hex()
        return self._own.set_metadata("", {entry: b"1" if subscribed else None})

    async def _subscribed(self) -> set[str]:
        """Names of others' folders that the account subscribed to."""
        found: set[str] = set()
        for entry in await self._own.metadata(""):
            if entry.startswith(_SUBSCRIBED):
                try:
                    found.add(bytes.fromhex(entry[len(_SUBSCRIBED) :]).decode("utf-8"))
                except ValueError:
                    continue  # a client's own invention
        return found

    def metadata(self, name: str) -> Deferred[dict[str, bytes]]:
        if not self._is_shared(name):
            return self._own.metadata(name)

        async def metadata() -> dict[str, bytes]:
            home, folder, _ = await self._resolve(name, "r")
            found = await home.metadata(folder)
            return {entry: value for entry, value in found.items() if entry.startswith("/shared/")}

        return Deferred.fromCoroutine(metadata())

    def set_metadata(self, name: str, entries: Mapping[str, bytes | None]) -> Deferred[None]:
        if not self._is_shared(name):
            return self._own.set_metadata(name, entries)

        async def set_metadata() -> None:
            home, folder, _ = await self._resolve(name, "rw")
            if not all(entry.startswith("/shared/") for entry in entries):
                raise refused()  # RFC 5464 §4.3: of others' folders only what is shared
            await home.set_metadata(folder, entries)

        return Deferred.fromCoroutine(set_metadata())

    def rights(self, name: str, user: str = "") -> Deferred[str]:
        if not self._is_shared(name):
            return self._own.rights(name)

        async def rights() -> str:
            return (await self._resolve(name, ""))[2]

        return Deferred.fromCoroutine(rights())

    def acl(self, name: str) -> Deferred[dict[str, str]]:
        if not self._is_shared(name):
            return self._own.acl(name)

        async def acl() -> dict[str, str]:
            home, folder, _ = await self._resolve(name, "a")
            return await home.acl(folder)

        return Deferred.fromCoroutine(acl())

    def acls(self) -> Deferred[dict[str, dict[str, str]]]:
        return self._own.acls()

    def set_acl(self, name: str, identifier: str, rights: str) -> Deferred[None]:
        async def set_acl() -> None:
            home, folder = self._own, name
            if self._is_shared(name):
                home, folder, _ = await self._resolve(name, "a")
            await self._shares.set_acl(home, folder, identifier, rights)

        return Deferred.fromCoroutine(set_acl())

    def watch(self, listener: Callable[[HomeEvent], None]) -> Callable[[], None]:
        return self._own.watch(listener)

    def usage(self) -> Deferred[tuple[int, int]]:
        return self._own.usage()


@implementer(IMailbox)
class SharedMailbox:
    """A folder of another account: what its rights do not allow is refused; all else goes to the folder.

    :ivar rights: as they are now; :class:`Shares` keeps them so.
    :ivar owner: whose folder it is, and ``user``, who opened it, by their keys.
    """

    def __init__(self, mailbox: IMailbox, name: str, owner: str, user: str) -> None:
        self._mailbox = mailbox
        self.name = name
        self.rights = ""
        self.owner = owner
        self.user = user

    @property
    def folder(self) -> str:
        """Its name in the owner's home."""
        return self._mailbox.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mailbox, name)

    def _need(self, rights: str) -> None:
        if not set(rights) <= set(self.rights):
            raise refused()

    def _allowed(self, flags: Iterable[str]) -> list[str]:
        """Those of the flags that the user may set (RFC 4314 §4)."""
        return [flag for flag in flags if _FLAG_RIGHTS.get(flag.lower(), "w") in self.rights]

    def _readable(self, read: Callable[[], Deferred[T]]) -> Deferred[T]:
        return read() if "r" in self.rights else fail(refused())

    def message(self, uid: int) -> Deferred[IMessage]:
        return self._readable(lambda: self._mailbox.message(uid))

    def facts(self, uids: Sequence[int], wire: bool = False) -> Deferred[list[MessageFacts]]:
        return self._readable(lambda: self._mailbox.facts(uids, wire))

    def columns(self, uids: Sequence[int], names: Sequence[Column]) -> Deferred[list[tuple[Any, ...]]]:
        return self._readable(lambda: self._mailbox.columns(uids, names))

    def candidates(
        self, field: Literal["envelope", "references"], words: Sequence[bytes]
    ) -> Deferred[list[int]]:
        return self._readable(lambda: self._mailbox.candidates(field, words))

    def text_candidates(self, grams: Sequence[str]) -> Deferred[TextCandidates]:
        return self._readable(lambda: self._mailbox.text_candidates(grams))

    def examine(self, uids: Sequence[int], work: Callable[[bytes], T]) -> Deferred[dict[int, T | None]]:
        return self._readable(lambda: self._mailbox.examine(uids, work))

    def change_flags(
        self,
        uids: Sequence[int],
        operation: Literal["add", "remove", "set"],
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> Deferred[StoreResult]:
        return Deferred.fromCoroutine(self._change(uids, operation, tuple(flags), unchanged_since))

    async def _change(
        self,
        uids: Sequence[int],
        operation: Literal["add", "remove", "set"],
        flags: tuple[str, ...],
        unchanged_since: int | None,
    ) -> StoreResult:
        if not set("swt") & set(self.rights):
            raise refused()
        allowed = self._allowed(flags)
        if operation != "set":
            if flags and not allowed:
                raise refused()
            return await self._mailbox.change_flags(uids, operation, allowed, unchanged_since)
        if set("swt") <= set(self.rights):
            return await self._mailbox.change_flags(uids, operation, flags, unchanged_since)
        # what the user may not touch stays as it is, message by message
        changed: list[int] = []
        modified: list[int] = []
        for uid in uids:
            before = self._mailbox.flags(uid)
            if before is None:
                continue
            kept = before - set(self._allowed(before))
            result = await self._mailbox.change_flags([uid], "set", [*allowed, *kept], unchanged_since)
            changed += result.changed
            modified += result.modified
        return StoreResult(tuple(changed), tuple(modified))

    def claim_recent(self, uids: Sequence[int], peek: bool = False) -> frozenset[int]:
        return self._mailbox.claim_recent(uids, peek=True)  # they are the owner's

    def expunge(self, uids: Sequence[int]) -> Deferred[tuple[int, ...]]:
        async def expunge() -> tuple[int, ...]:
            self._need("e")
            return await self._mailbox.expunge(uids)

        return Deferred.fromCoroutine(expunge())

    def append(self, content: IContent, flags: Iterable[str], internal_date: int | None) -> Deferred[int]:
        async def append() -> int:
            self._need("i")
            return await self._mailbox.append(content, self._allowed(flags), internal_date)

        return Deferred.fromCoroutine(append())

    def copy_to(self, uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        return self._readable(lambda: self._mailbox.copy_to(uids, self._plain(target)))

    def move_to(self, uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        async def move() -> list[tuple[int, int]]:
            self._need("rte")  # RFC 6851 §3.1, RFC 4314 §4
            return await self._mailbox.move_to(uids, self._plain(target))

        return Deferred.fromCoroutine(move())

    def _plain(self, target: IMailbox) -> IMailbox:
        """Within one account's folders, with every right, the store's own way is the quick one."""
        if isinstance(target, SharedMailbox) and set("iswt") <= set(target.rights):
            return target._mailbox
        return target
