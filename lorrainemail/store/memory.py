"""The store in memory: the double that doors and intake are tested with, shipped beside the real one.

Implements the same interfaces with the same failures and the same order of notices, without disk, threads or
durability. A test that passes here and fails over :class:`lorrainemail.store.mailstore.MailStore` has found a
fault in one of the two: both run the same behaviour tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from lorrainemail.errors import MailError, Reply
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
    IPlacement,
    IStore,
    MailboxChange,
    MessageFacts,
    Placed,
    StoreResult,
    TextCandidates,
)
from lorrainemail.message.searchable import message_grams
from lorrainemail.message.summary import REPLY, UNSURE_ENVELOPE, UNSURE_REFERENCES, summarize
from lorrainemail.store.failures import (
    OVER_QUOTA,
    already_exists,
    cannot,
    gone,
    limit,
    nonexistent,
    over_quota,
)
from lorrainemail.store.flags import DELETED, SEEN, Keywords
from lorrainemail.store.folders import SPECIAL_FOLDERS
from lorrainemail.store.notes import MAX_ENTRIES
from lorrainemail.store.paths import canonical_name
from lorrainemail.store.rights import ALL, rights_of

T = TypeVar("T")
StoreEvent = Literal["delivered", "flagged", "expunged", "copied"]


@implementer(IContent)
class MemoryContent:
    """Octets in memory as content."""

    __slots__ = ("_data", "eight_bit", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)
        self.eight_bit = not data.isascii()

    def head(self, limit: int) -> bytes:
        return self._data[:limit]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self._data), size):
            yield self._data[start : start + size]

    def in_memory(self) -> bytes | None:
        return self._data

    def close(self) -> None:
        """Nothing to let go of."""


@attrs.define(slots=True)
class _Stored:
    data: bytes
    modseq: int
    bits: int
    internal_date: int
    save_date: int
    message_id: str


@implementer(IMessage)
class MemoryMessage:
    """An open message."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int = 0, length: int | None = None) -> Deferred[bytes]:
        end = None if length is None else offset + length
        return succeed(self._data[offset:end])

    def close(self) -> None:
        """Nothing to let go of."""


@implementer(IMailbox)
class MemoryMailbox:
    """One folder. Everybody who opens it gets this very object."""

    rights = ALL

    def __init__(self, home: MemoryHome, name: str, uid_validity: int) -> None:
        self._home = home
        self.name = name
        self.uid_validity = uid_validity
        self.mailbox_id = f"M{uid_validity}"
        self.uid_next = 1
        self.highest_modseq = 1
        self.users = 0
        self.texts_in = 0  # UIDs up to this are in the text index
        self._stored: dict[int, _Stored] = {}
        self._expunged: dict[int, int] = {}
        self._keywords = Keywords()
        self._claimed = 0
        self._watchers: list[Callable[[MailboxChange], None]] = []

    def uids(self) -> Sequence[int]:
        return tuple(self._stored)

    def flags(self, uid: int) -> frozenset[str] | None:
        stored = self._stored.get(uid)
        return None if stored is None else self._keywords.names_of(stored.bits)

    def modseq(self, uid: int) -> int:
        return self._stored[uid].modseq

    def flags_of(self, uids: Sequence[int]) -> list[frozenset[str] | None]:
        return [self.flags(uid) for uid in uids]

    def overview(self) -> tuple[int, frozenset[str]]:
        unseen = next((uid for uid, stored in self._stored.items() if not stored.bits & SEEN), 0)
        names = (self._keywords.names_of(stored.bits) for stored in self._stored.values())
        return unseen, frozenset().union(*names)

    def claim_recent(self, uids: Sequence[int], peek: bool = False) -> frozenset[int]:
        recent = frozenset(uid for uid in uids if uid > self._claimed and uid in self._stored)
        if peek:
            return recent
        self._claimed = max((self._claimed, *uids))
        return recent

    def facts(self, uids: Sequence[int], wire: bool = False) -> Deferred[list[MessageFacts]]:
        return succeed([self._facts(uid, wire) for uid in uids if uid in self._stored])

    def _facts(self, uid: int, wire: bool) -> MessageFacts:
        stored = self._stored[uid]
        envelope = structure = b""
        if wire:
            summary = summarize(stored.data)
            envelope, structure = summary.envelope, summary.structure
        return MessageFacts(
            uid=uid,
            modseq=stored.modseq,
            flags=self._keywords.names_of(stored.bits),
            size=len(stored.data),
            internal_date=stored.internal_date,
            save_date=stored.save_date,
            message_id=stored.message_id,
            envelope=envelope,
            structure=structure,
            unique_id=f"{self.mailbox_id}.{uid}",
        )

    def columns(self, uids: Sequence[int], names: Sequence[Column]) -> Deferred[list[tuple[Any, ...]]]:
        rows: list[tuple[Any, ...]] = []
        for uid in uids:
            if uid in self._stored:
                known = self._columns(uid)
                rows.append((uid, *(known[name] for name in names)))
        return succeed(rows)

    def _columns(self, uid: int) -> dict[str, Any]:
        stored = self._stored[uid]
        summary = summarize(stored.data)
        return {
            "size": len(stored.data),
            "internal_date": stored.internal_date,
            "envelope": summary.envelope,
            "sent": summary.sent,
            "base_subject": summary.base_subject,
            "is_reply": bool(summary.marks & REPLY),
            "header_id": summary.message_id,
            "in_reply_to": summary.in_reply_to,
            "references": b" ".join(summary.references),
        }

    def candidates(
        self, field: Literal["envelope", "references"], words: Sequence[bytes]
    ) -> Deferred[list[int]]:
        found: list[int] = []
        for uid, stored in self._stored.items():
            summary = summarize(stored.data)
            if field == "envelope":
                unsure, text = summary.marks & UNSURE_ENVELOPE, summary.envelope
            else:
                unsure, text = summary.marks & UNSURE_REFERENCES, b" ".join(summary.references)
            if unsure or all(word in text.lower() for word in words):
                found.append(uid)
        return succeed(found)

    def text_candidates(self, grams: Sequence[str]) -> Deferred[TextCandidates]:
        found = []
        for uid, stored in self._stored.items():
            known = message_grams(stored.data)
            if uid <= self.texts_in and (known is None or known.issuperset(grams)):
                found.append(uid)
        return succeed(TextCandidates(self.texts_in, tuple(found)))

    def index_texts(self) -> None:
        self.texts_in = self.uid_next - 1

    def examine(self, uids: Sequence[int], work: Callable[[bytes], T]) -> Deferred[dict[int, T | None]]:
        return succeed({uid: work(self._stored[uid].data) if uid in self._stored else None for uid in uids})

    def expunged_since(self, since: int) -> Deferred[list[int] | None]:
        return succeed(sorted(uid for uid, modseq in self._expunged.items() if modseq > since))

    def message(self, uid: int) -> Deferred[IMessage]:
        stored = self._stored.get(uid)
        if stored is None:
            return fail(gone())
        message: IMessage = MemoryMessage(stored.data)
        return succeed(message)

    def change_flags(
        self,
        uids: Sequence[int],
        operation: Literal["add", "remove", "set"],
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> Deferred[StoreResult]:
        try:
            bits = self._keywords.bits_of(flags, create=operation != "remove")
        except MailError as failure:
            return fail(failure)
        changed: list[int] = []
        modified: list[int] = []
        modseq = self.highest_modseq + 1
        for uid in uids:
            stored = self._stored.get(uid)
            if stored is None:
                continue
            if unchanged_since is not None and stored.modseq > unchanged_since:
                modified.append(uid)
                continue
            before = stored.bits
            new = {"add": before | bits, "remove": before & ~bits, "set": bits}[operation]
            if new != before:
                stored.bits = new
                stored.modseq = modseq
                changed.append(uid)
        if changed:
            self.highest_modseq = modseq
            self._tell("flags", changed)
            self._home.store.tell("flagged", self._home.account, self.name)
        return succeed(StoreResult(tuple(changed), tuple(modified)))

    def expunge(self, uids: Sequence[int]) -> Deferred[tuple[int, ...]]:
        removed = [uid for uid in uids if self._stored.pop(uid, None) is not None]
        if removed:
            self.highest_modseq += 1
            self._expunged.update(dict.fromkeys(removed, self.highest_modseq))
            self._tell("expunged", removed)
            self._home.store.tell("expunged", self._home.account, self.name)
        return succeed(tuple(removed))

    def append(self, content: IContent, flags: Iterable[str], internal_date: int | None) -> Deferred[int]:
        try:
            bits = self._keywords.bits_of(flags)
        except MailError as failure:
            return fail(failure)
        data = b"".join(content.chunks())
        if self._home.store.refuses(self._home.account, len(data)):
            return fail(over_quota())
        now = self._home.store.now()
        stored = _Stored(data, 0, bits, now if internal_date is None else internal_date, now, "")
        return succeed(self.add([stored], "copied")[0])

    def copy_to(self, uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        if not isinstance(target, MemoryMailbox) or target._home is not self._home:
            return fail(cannot("copies stay within one account"))
        sources = [uid for uid in uids if uid in self._stored]
        copies = []
        for uid in sources:
            copy = attrs.evolve(self._stored[uid], save_date=self._home.store.now())
            copy.bits = target._keywords.bits_of(self._keywords.names_of(copy.bits))
            copies.append(copy)
        return succeed(list(zip(sources, target.add(copies, "copied"), strict=True)))

    def move_to(self, uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        copied = self.copy_to(uids, target)

        def remove(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
            self.expunge([source for source, _ in pairs])
            return pairs

        return copied.addCallback(remove)

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    def watch(self, listener: Callable[[MailboxChange], None]) -> Callable[[], None]:
        self._watchers.append(listener)

        def end() -> None:
            if listener in self._watchers:
                self._watchers.remove(listener)

        return end

    def close(self) -> None:
        self.users -= 1

    def add(self, messages: Sequence[_Stored], event: StoreEvent) -> list[int]:
        """Put messages in, with new UIDs; watchers hear of all of them at once."""
        if not messages:
            return []
        self.highest_modseq += 1
        uids = []
        for stored in messages:
            uid = self.uid_next
            self.uid_next += 1
            stored.modseq = self.highest_modseq
            if not stored.message_id:
                stamp = f"{self._home.account.address.key}/{self.uid_validity}/{uid}"
                stored.message_id = hashlib.sha256(stamp.encode()).hexdigest()[:20]
            self._stored[uid] = stored
            uids.append(uid)
        self._tell("added", uids)
        self._home.store.tell(event, self._home.account, self.name)
        return uids

    def counts(self) -> FolderStatus:
        """STATUS."""
        values = self._stored.values()
        return FolderStatus(
            messages=len(self._stored),
            recent=sum(uid > self._claimed for uid in self._stored),
            unseen=sum(not stored.bits & SEEN for stored in values),
            deleted=sum(bool(stored.bits & DELETED) for stored in values),
            size=sum(len(stored.data) for stored in values),
            uid_next=self.uid_next,
            uid_validity=self.uid_validity,
            highest_modseq=self.highest_modseq,
            mailbox_id=self.mailbox_id,
        )

    def vanish(self) -> None:
        """The folder itself went."""
        self._tell("gone", ())

    def _tell(self, kind: Literal["added", "flags", "expunged", "gone"], uids: Sequence[int]) -> None:
        change = MailboxChange(kind, tuple(uids), self.highest_modseq)
        for listener in tuple(self._watchers):
            listener(change)


@implementer(IMailHome)
class MemoryHome:
    """All folders of one account."""

    def __init__(self, store: MemoryStore, account: Account) -> None:
        self.store = store
        self.account = account
        self._uid_validity = 1000
        self._folders: dict[str, MemoryMailbox] = {}
        self._uses: dict[str, tuple[str, ...]] = {}
        self._subscribed: set[str] = {"INBOX"}
        self._listeners: list[Callable[[HomeEvent], None]] = []
        self._notes: dict[str, dict[str, bytes]] = {}
        self._acls: dict[str, dict[str, str]] = {}
        self._make("INBOX")
        for name, use in SPECIAL_FOLDERS:
            self._make(name)
            self._uses[name] = (use,)
            self._subscribed.add(name)

    def folders(self) -> Deferred[list[FolderFacts]]:
        names = {"INBOX": True}
        for name in sorted(self._folders):
            for end in [i for i, c in enumerate(name) if c == "/"]:
                names.setdefault(name[:end], False)
            names[name] = True
        return succeed(
            [
                FolderFacts(name, selectable, name in self._subscribed, self._uses.get(name, ()))
                for name, selectable in names.items()
            ]
        )

    def open(self, name: str) -> Deferred[IMailbox]:
        try:
            mailbox = self.folder(name)
        except MailError as failure:
            return fail(failure)
        mailbox.users += 1
        opened: IMailbox = mailbox
        return succeed(opened)

    def status(self, name: str) -> Deferred[FolderStatus]:
        try:
            return succeed(self.folder(name).counts())
        except MailError as failure:
            return fail(failure)

    def create(self, name: str, special_use: Sequence[str] = ()) -> Deferred[None]:
        try:
            name = canonical_name(name)
            if name in self._folders:
                raise already_exists(name)
        except MailError as failure:
            return fail(failure)
        self._make_path(name)
        if special_use:
            self._uses[name] = tuple(special_use)
        self.announce(HomeEvent("created", name))
        return succeed(None)

    def delete(self, name: str) -> Deferred[None]:
        try:
            mailbox = self.folder(name)
            if mailbox.name == "INBOX":
                raise cannot("INBOX cannot be deleted")
        except MailError as failure:
            return fail(failure)
        del self._folders[mailbox.name]
        self._notes.pop(mailbox.name, None)
        self._acls.pop(mailbox.name, None)
        self._uses.pop(mailbox.name, None)
        mailbox.vanish()
        self.announce(HomeEvent("deleted", name))
        return succeed(None)

    def rename(self, old: str, new: str) -> Deferred[None]:
        try:
            source = self.folder(old)
            old, new = source.name, canonical_name(new)
            if new in self._folders:
                raise already_exists(new)
            if new.startswith(old + "/") and old != "INBOX":
                raise cannot("a folder cannot go below itself")
        except MailError as failure:
            return fail(failure)
        if old == "INBOX":
            # RFC 3501 §6.3.5: the mail goes, INBOX stays, and so do the folders below it.
            self._make_path(new)
            return source.move_to(source.uids(), self._folders[new]).addCallback(lambda _: None)
        for name in [n for n in self._folders if n == old or n.startswith(old + "/")]:
            mailbox = self._folders.pop(name)
            mailbox.name = new + name[len(old) :]
            self._make_path(mailbox.name.rpartition("/")[0])
            self._folders[mailbox.name] = mailbox
            if name in self._notes:
                self._notes[mailbox.name] = self._notes.pop(name)
            if name in self._acls:
                self._acls[mailbox.name] = self._acls.pop(name)
            if name in self._uses:
                self._uses[mailbox.name] = self._uses.pop(name)
        self.announce(HomeEvent("renamed", new, old))
        return succeed(None)

    def subscribe(self, name: str, subscribed: bool) -> Deferred[None]:
        try:
            name = canonical_name(name)
        except MailError as failure:
            return fail(failure)
        (self._subscribed.add if subscribed else self._subscribed.discard)(name)
        self.announce(HomeEvent("subscribed" if subscribed else "unsubscribed", name))
        return succeed(None)

    def rights(self, name: str, user: str = "") -> Deferred[str]:
        def mine(acl: dict[str, str]) -> str:
            return ALL if user in ("", self.account.address.key) else rights_of(acl, user)

        return self.acl(name).addCallback(mine)

    def acl(self, name: str) -> Deferred[dict[str, str]]:
        try:
            return succeed(dict(self._acls.get(self.folder(name).name, {})))
        except MailError as failure:
            return fail(failure)

    def acls(self) -> Deferred[dict[str, dict[str, str]]]:
        return succeed({name: dict(acl) for name, acl in self._acls.items() if acl})

    def set_acl(self, name: str, identifier: str, rights: str) -> Deferred[None]:
        try:
            acl = self._acls.setdefault(self.folder(name).name, {})
        except MailError as failure:
            return fail(failure)
        acl.pop(identifier, None)
        if rights:
            acl[identifier] = rights
        return succeed(None)

    def metadata(self, name: str) -> Deferred[dict[str, bytes]]:
        try:
            return succeed(dict(self._notes.get(self._noted(name), {})))
        except MailError as failure:
            return fail(failure)

    def set_metadata(self, name: str, entries: Mapping[str, bytes | None]) -> Deferred[None]:
        try:
            name = self._noted(name)
            mine = {**self._notes.get(name, {}), **entries}
            if len(mine) > MAX_ENTRIES:
                raise limit("too many annotations")
        except MailError as failure:
            return fail(failure)
        self._notes[name] = {entry: value for entry, value in mine.items() if value is not None}
        for entry in entries:
            self.announce(HomeEvent("metadata", name, entry))
        return succeed(None)

    def _noted(self, name: str) -> str:
        return self.folder(name).name if name else ""

    def watch(self, listener: Callable[[HomeEvent], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def announce(self, event: HomeEvent) -> None:
        """Tell those who follow this home."""
        for listener in tuple(self._listeners):
            listener(event)

    def usage(self) -> Deferred[tuple[int, int]]:
        limited = self.account.quota or self.account.quota_messages
        return succeed(self.sizes() if limited else (0, 0))

    def folder(self, name: str) -> MemoryMailbox:
        """The folder, or a ``NONEXISTENT`` failure."""
        mailbox = self._folders.get(canonical_name(name))
        if mailbox is None:
            raise nonexistent(name)
        return mailbox

    def sizes(self) -> tuple[int, int]:
        """Octets and messages, for quota."""
        counts = [mailbox.counts() for mailbox in self._folders.values()]
        return sum(c.size for c in counts), sum(c.messages for c in counts)

    def target(self, folder: str) -> MemoryMailbox:
        """Where a delivery goes: the folder, or INBOX where it is missing."""
        try:
            return self.folder(folder or "INBOX")
        except MailError:
            return self._folders["INBOX"]

    def _make(self, name: str) -> None:
        self._uid_validity += 1
        self._folders[name] = MemoryMailbox(self, name, self._uid_validity)

    def _make_path(self, name: str) -> None:
        parts = name.split("/") if name else []
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            if path not in self._folders:
                self._make(path)


@implementer(IPlacement)
class MemoryPlacement:
    """A delivery; ``broken`` of the store makes it fail."""

    def __init__(self, store: MemoryStore, account: Account, folder: str, data: bytes) -> None:
        self._store = store
        self._account = account
        self._folder = folder
        self._data: bytes | None = data

    def stage(self) -> Deferred[None]:
        if self._store.broken is not None:
            return fail(self._store.broken)
        return succeed(None)

    def publish(self) -> Deferred[Placed]:
        if self._store.broken is not None:
            return fail(self._store.broken)
        if self._data is None:
            return fail(RuntimeError("published twice, or after abort"))
        target = self._store.memory_home(self._account).target(self._folder)
        now = self._store.now()
        uid = target.add([_Stored(self._data, 0, 0, now, now, "")], "delivered")[0]
        self._data = None
        return succeed(Placed(self._account.address.key, target.name, f"memory:{target.name}/{uid}"))

    def commit(self) -> Deferred[Placed]:
        return self.publish()

    def abort(self) -> Deferred[None]:
        self._data = None
        return succeed(None)


@implementer(IStore)
class MemoryStore:
    """All mail in memory.

    :ivar broken: a failure that every placement meets, None for none.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._homes: dict[str, MemoryHome] = {}
        self._watchers: list[Callable[[str, str, str], None]] = []
        self.broken: MailError | None = None

    def now(self) -> int:
        """Whole seconds of the wall clock."""
        return int(self._clock.seconds())

    def placement(
        self, account: Account, folder: str, prefix: bytes, content: IContent, id: str
    ) -> IPlacement:
        return MemoryPlacement(self, account, folder, prefix + b"".join(content.chunks()))

    def existing(self, account: Account, folders: Sequence[str]) -> Deferred[frozenset[str]]:
        home = self.memory_home(account)
        return succeed(frozenset(name for name in folders if name and home.target(name).name == name))

    def may_accept(self, account: Account, octets: int) -> Reply | None:
        return OVER_QUOTA if self.refuses(account, octets) else None

    def refuses(self, account: Account, octets: int) -> bool:
        """Whether so much more is over the account's quota."""
        if not account.quota and not account.quota_messages:
            return False
        used, messages = self.memory_home(account).sizes()
        over = account.quota and used + octets > account.quota
        return bool(over or (account.quota_messages and messages + 1 > account.quota_messages))

    def home(self, account: Account) -> IMailHome:
        return self.memory_home(account)

    def memory_home(self, account: Account) -> MemoryHome:
        """The home, made at first use."""
        home = self._homes.get(account.address.key)
        if home is None:
            home = self._homes[account.address.key] = MemoryHome(self, account)
        home.account = account
        return home

    def watch(self, listener: Callable[[str, str, str], None]) -> None:
        self._watchers.append(listener)

    def tell(self, event: StoreEvent, account: Account, folder: str) -> None:
        """Send one store event out."""
        for listener in tuple(self._watchers):
            listener(event, account.address.key, folder)
        self.memory_home(account).announce(HomeEvent(event, folder))
