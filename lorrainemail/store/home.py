"""An account's home in the reactor thread: its strand, its open mailboxes, what waits for the index.

:class:`LiveHome` is shared by everybody who has to do with the account and lives while somebody does;
:class:`MailHome` is what a session holds (:class:`IMailHome`), the same home with the account as its tables
snapshot shows it. Deliveries are told to the index in groups: at once while somebody watches the folder,
otherwise after a moment or before the home's next job. While nobody reads in the home, they are not told at
all: the first reader's look finds them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import MailError
from lorrainemail.interfaces import (
    Account,
    FolderFacts,
    FolderStatus,
    HomeEvent,
    ICommitter,
    IMailbox,
    IMailHome,
)
from lorrainemail.ops.files import make_directories
from lorrainemail.store import folders, mboxfile, notes, sync
from lorrainemail.store.copies import Copy
from lorrainemail.store.failures import from_os
from lorrainemail.store.index import MBOX
from lorrainemail.store.locks import FileLocks
from lorrainemail.store.mailbox import Mailbox, notices_of
from lorrainemail.store.mboxbox import MboxMailbox
from lorrainemail.store.paths import canonical_name, folder_directory, folder_name
from lorrainemail.store.rights import ALL, rights_of
from lorrainemail.store.shares import Registry
from lorrainemail.store.strands import Strand
from lorrainemail.store.tree import Arrived, Change, Opened, Tree
from lorrainemail.store.watching import Inotify

if TYPE_CHECKING:
    from lorrainemail.store.mailstore import MailStore

T = TypeVar("T")

#: Messages of one home that wait for the index.
MAX_WAITING: Final = 256
#: Folders of one home that are known to take mail.
MAX_READY: Final = 64

#: Percents of a quota at which the account's owner is told.
WARN_AT: Final = (80, 95)

#: Directories of the folders that every home has.
_SPECIAL: Final = frozenset(folder_directory(name) for name, _use in folders.SPECIAL_FOLDERS)

#: What a change of an open folder is to those who follow the home, whoever made it.
_HEARD: Final[dict[str, Literal["delivered", "flagged", "expunged"]]] = {
    "added": "delivered",
    "flags": "flagged",
    "expunged": "expunged",
}

_log = Logger("lorrainemail.store")


class LiveHome:
    """One account's home."""

    def __init__(self, store: MailStore, account: Account, tree: Tree) -> None:
        self._store = store
        self.account = account
        self.key = account.address.key
        self.tree = tree
        self.strand = Strand(store.strands, tree, self._apply)
        self._mailboxes: dict[int, Mailbox] = {}
        self._ready: dict[str, str] = {}  # folder as asked for -> directory
        self._waiting: list[Arrived] = []
        self._usage: tuple[int, int] | None = None
        self._level: int | None = None  # the highest of WARN_AT that is reached
        self._listeners: list[Callable[[HomeEvent], None]] = []

    # -- what mailboxes and placements use of the store --------------------------------------------

    @property
    def committer(self) -> ICommitter:
        """Makes files durable."""
        return self._store.committer

    @property
    def registry(self) -> Registry:
        """Who shares folders with whom."""
        return self._store.registry

    @property
    def clock(self) -> IReactorTime:
        """The injected clock."""
        return self._store.clock

    @property
    def inotify(self) -> Inotify | None:
        """Notices of other programs, None where there are none."""
        return self._store.inotify

    @property
    def idle(self) -> bool:
        """Whether it can be let go of."""
        return not self._mailboxes and not self._waiting and not self._listeners and self.strand.idle

    def tell(self, event: Literal["delivered", "flagged", "expunged", "copied"], folder: str) -> None:
        """One store event."""
        self._store.tell(event, self.key, folder)
        if self._listeners:
            self.announce(HomeEvent(event, folder))

    def announce(self, event: HomeEvent) -> None:
        """Tell those who follow this home."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                _log.failure("somebody could not take a notice of a home")

    def watch(self, listener: Callable[[HomeEvent], None]) -> Callable[[], None]:
        """Be told what happens here; returns the call that ends it."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """A job on the home, after the index knows every delivery."""
        self.flush()
        return self.strand.run(work)

    def slices(self, work: Callable[[], Generator[None, None, T]]) -> Deferred[T]:
        """The same for long work."""
        self.flush()
        return self.strand.slices(work)

    def settled(self) -> Deferred[None]:
        """When everything asked so far is done."""
        self.flush()
        if self.strand.idle:
            return succeed(None)
        return self.strand.run(_nothing)

    # -- deliveries --------------------------------------------------------------------------------

    def ready_directory(self, folder: str) -> str | None:
        """The directory of a folder that takes mail; None where that must be found out."""
        return self._ready.get(folder)

    async def make_ready(self, folder: str, anew: bool = False) -> str:
        """The same, looked for on disk. A missing home is made, and so are the folders that every home has;
        any other missing folder becomes INBOX."""
        if anew:
            self._ready.clear()
        known = self._ready.get(folder)
        if known is not None:
            return known
        wanted = ""
        if folder:
            try:
                wanted = folder_directory(canonical_name(folder))
            except MailError:
                wanted = ""
        try:
            directory = await self.committer.run(lambda: self._make(wanted))
        except OSError as error:
            raise from_os(error, "mailbox directories") from error
        if directory == wanted and len(self._ready) < MAX_READY:
            self._ready[folder] = directory  # not where it fell back: the folder may come
        return directory

    def existing(self, folders: Sequence[str]) -> Deferred[frozenset[str]]:
        """Those of the folders that a delivery finds."""
        if self.account.format == "mbox":
            return succeed(frozenset(name for name in folders if name and self.has_folder(name)))
        return self.committer.run(lambda: frozenset(name for name in folders if name and self._takes(name)))

    def _takes(self, folder: str) -> bool:
        """In a thread: whether a delivery would not fall back to INBOX."""
        try:
            directory = folder_directory(canonical_name(folder))
        except MailError:
            return False
        return bool(directory) and (
            directory in _SPECIAL or os.path.isdir(f"{self.tree.maildir}/{directory}/cur")
        )

    def _make(self, directory: str) -> str:
        """In a thread."""
        if directory and os.path.isdir(f"{self.tree.maildir}/{directory}/cur"):
            make_directories(self.tree.files, self._store.root, f"{self.tree.maildir}/{directory}/tmp")
            make_directories(self.tree.files, self._store.root, f"{self.tree.maildir}/{directory}/new")
            return directory
        for sub in ("tmp", "new", "cur"):
            make_directories(self.tree.files, self._store.root, f"{self.tree.maildir}/{sub}")
        if directory in _SPECIAL:
            # What was judged to be junk must not land in INBOX because nobody has opened the home yet.
            folders.make_directory(self.tree, directory)
            return directory
        return ""

    def delivered(self, directory: str, base: str, size: int, copy: Copy | None) -> str:
        """A message is in new/: the index shall know, and the folder's name is answered."""
        mailbox = next((m for m in self._mailboxes.values() if m.directory == directory), None)
        if mailbox is not None:
            mailbox.delivered(base)
        if self._is_warm():
            now = self.tree.now()
            if copy is not None and not self._store.keep(copy):
                copy = None
            self._waiting.append(Arrived(directory, base, 0, "", 0, size, now, now, copy))
            if self._usage is not None:
                self._counted((self._usage[0] + size, self._usage[1] + 1))
            if len(self._waiting) >= MAX_WAITING or (mailbox is not None and mailbox.watched):
                self.flush()
            else:
                self._store.flush_soon(self)
        name = folder_name(directory) or "INBOX"
        self.tell("delivered", name)
        return name

    async def make_mbox(self) -> None:
        """Make the home of an account that is kept as mbox."""
        if "mbox" not in self._ready:
            try:
                await self.committer.run(
                    lambda: make_directories(self.tree.files, self._store.root, self.tree.home)
                )
            except OSError as error:
                raise from_os(error, "home") from error
            self._ready["mbox"] = ""

    def mbox_delivered(self, size: int) -> None:
        """A message is in the mbox file."""
        if self._usage is not None:
            self._counted((self._usage[0] + size, self._usage[1] + 1))
        self.tell("delivered", "INBOX")
        mailbox = self._mbox()
        if mailbox is not None:
            mailbox.refresh().addErrback(_unasked)
        elif self.limited:
            Deferred.fromCoroutine(self.open_mbox()).addCallbacks(Mailbox.close, _unasked)

    def _mbox(self) -> Mailbox | None:
        """The open mbox."""
        return next((m for m in self._mailboxes.values() if m.directory == MBOX), None)

    async def open_mbox(self) -> Mailbox:
        """Open the INBOX of an account that is kept as mbox."""
        mailbox = self._mbox()
        if mailbox is None:
            await self.make_mbox()
            opened = await self.slices(self._opened_mbox)
            mailbox = self._mbox()
            if mailbox is None:
                mailbox = MboxMailbox(self, MBOX, opened)
                self._mailboxes[opened.folder] = mailbox
        self._store.used(mailbox)
        mailbox.users += 1
        try:
            await mailbox.refresh()
        except BaseException:
            mailbox.close()
            raise
        return mailbox

    async def status(self, name: str) -> FolderStatus:
        """Counts of a Maildir folder; an open one need not be scanned."""
        name = canonical_name(name)
        opened = self._known(name)
        if opened is None:
            return await self.slices(lambda: folders.status(self.tree, name))
        await opened.refresh()
        return await self.slices(lambda: folders.counts(self.tree, opened.number))

    def _opened_mbox(self) -> Generator[None, None, Opened]:
        """In the strand."""
        yield from ()
        folders.furnish(self.tree)
        return self.tree.opening(mboxfile.folder_of(self.tree), "INBOX")

    @property
    def locks(self) -> FileLocks:
        """The locks of mbox files."""
        return self._store.locks

    def has_folder(self, folder: str) -> bool:
        """Whether there is, or shall be, a Maildir folder of that name: one look at the disk."""
        try:
            directory = folder_directory(canonical_name(folder))
        except MailError:
            return False
        if directory in _SPECIAL:
            return True
        return bool(directory) and os.path.isdir(f"{self.tree.maildir}/{directory}/cur")

    def _is_warm(self) -> bool:
        """Whether the index is to hear of deliveries. While nobody reads, opening it for each of many
        accounts would cost more than the look that the first reader takes."""
        return bool(self._mailboxes) or self.limited or self.tree.is_open

    def flush(self) -> Deferred[None] | None:
        """Let the index know what was delivered; None where it knows. The Deferred never fails."""
        if not self._waiting:
            return None
        waiting, self._waiting = self._waiting, []

        def done(result: object) -> None:
            self._store.let_go(one.copy for one in waiting if one.copy is not None)
            if not isinstance(result, list):
                # The files are safe; the next look at the folder gives them their UIDs.
                _log.warn("index of {account}: {failure}", account=self.key, failure=result)

        return self.strand.run(lambda: self.tree.arrived(waiting)).addBoth(done)

    # -- quota -------------------------------------------------------------------------------------

    @property
    def limited(self) -> bool:
        """Whether the account has a quota."""
        return bool(self.account.quota or self.account.quota_messages)

    @property
    def usage(self) -> tuple[int, int] | None:
        """(octets, messages), None where not counted yet."""
        return self._usage

    async def known_usage(self) -> tuple[int, int]:
        """The same, counted where it must be. Without a quota nobody counts."""
        if not self.limited:
            return (0, 0)
        if self._usage is None and self.account.format == "mbox":
            (await self.open_mbox()).close()
        if self._usage is None:
            self._counted(await self.slices(lambda: folders.usage(self.tree)))
        assert self._usage is not None
        return self._usage

    def _counted(self, usage: tuple[int, int]) -> None:
        """So much is used now; the owner is told when it comes near to what he may."""
        self._usage = usage
        if not self.limited:
            return
        if self.account.format != "mbox":
            self._store.sizes.soon(self)
        quota, count = self.account.quota, self.account.quota_messages
        percent = max(usage[0] * 100 // quota if quota else 0, usage[1] * 100 // count if count else 0)
        level = max((level for level in WARN_AT if percent >= level), default=0)
        before, self._level = self._level, level
        if before is not None and level > before:  # None: nobody knew, so nothing was crossed
            self._store.fills(self.account, level)

    def over_quota(self, octets: int, usage: tuple[int, int], messages: int = 1) -> bool:
        """Whether so much more is too much."""
        quota, count = self.account.quota, self.account.quota_messages
        return bool((quota and usage[0] + octets > quota) or (count and usage[1] + messages > count))

    # -- mailboxes ---------------------------------------------------------------------------------

    async def open(self, name: str) -> IMailbox:
        """Open a folder, newly looked at."""
        name = canonical_name(name)
        if name == "INBOX" and self.account.format == "mbox":
            return await self.open_mbox()
        known = self._known(name)
        if known is not None:
            self._store.used(known)
            known.users += 1
            try:
                await known.refresh()
            except BaseException:
                if not known.vanished:
                    known.close()
                    raise
            if not known.vanished:
                return known
            known.close()
        mailbox = await self._open(name)
        self._store.used(mailbox)
        mailbox.users += 1
        return mailbox

    def _known(self, name: str) -> Mailbox | None:
        """The folder where it is in memory."""
        return next((m for m in self._mailboxes.values() if m.name == name and not m.vanished), None)

    async def _open(self, name: str) -> Mailbox:
        """Load a folder; it is listened to before it is looked at."""
        notices = notices_of(self.inotify, self.tree.folder_path(folder_directory(name)))
        try:
            opened = await self.slices(lambda: self._opened(name))
        except BaseException:
            notices.close()
            raise
        mailbox = self._mailboxes.get(opened.folder)
        if mailbox is not None:
            notices.close()
            return mailbox
        mailbox = self._mailboxes[opened.folder] = Mailbox(self, folder_directory(name), opened, notices)
        return mailbox

    def _opened(self, name: str) -> Generator[None, None, Opened]:
        """In the strand."""
        folders.furnish(self.tree)
        folder = self.tree.present(name)
        yield from sync.refresh(self.tree, folder.id)
        return self.tree.opened(name)

    def rests(self, mailbox: Mailbox) -> None:
        """Nobody has it open any more."""
        if mailbox.vanished:
            self.drop(mailbox)
        else:
            self._store.rests(mailbox)

    def index_texts(self, mailbox: Mailbox) -> None:
        """Take its texts into the text index, in the background."""
        self._store.indexing.ask(mailbox)

    def drop(self, mailbox: Mailbox) -> None:
        """Let its memory go."""
        if self._mailboxes.get(mailbox.number) is mailbox:
            del self._mailboxes[mailbox.number]

    def quiet(self) -> None:
        """The server ends: no more looks of our own accord, and what is known of each folder is kept."""
        for mailbox in self._mailboxes.values():
            mailbox.end_watching()
            mailbox.mirror()

    def write_flags(self) -> Deferred[None]:
        """The server ends: flags that an mbox does not have yet go into it."""
        mailbox = self._mbox()
        return mailbox.write_if_quick() if isinstance(mailbox, MboxMailbox) else succeed(None)

    def mirror(self, mailbox: Mailbox) -> None:
        """Write the folder's UIDs where other programs look for them."""
        if not mailbox.vanished:
            self.slices(lambda: sync.rest(self.tree, mailbox.number)).addErrback(
                lambda failure: _log.info("no uidlist for {account}: {why}", account=self.key, why=failure)
            )

    def _apply(self, changes: list[Any]) -> None:
        """What a job changed, in order."""
        for change in changes:
            assert isinstance(change, Change)
            if change.kind == "usage":
                self._counted((change.uids[0], change.uids[1]))
            elif change.kind == "gone":
                self._gone(change)
            else:
                mailbox = self._mailboxes.get(change.folder)
                if mailbox is not None:
                    mailbox.apply(change)
                    if self._listeners and change.kind in _HEARD:
                        self.announce(HomeEvent(_HEARD[change.kind], mailbox.name))

    def _gone(self, change: Change) -> None:
        """A folder went; folder 0 says that all of them begin anew."""
        self._ready.clear()
        lost = [m for m in self._mailboxes.values() if change.folder in (0, m.number)]
        for mailbox in lost:
            del self._mailboxes[mailbox.number]
            mailbox.apply(change)


def _nothing() -> None:
    return None


def _unasked(failure: object) -> None:
    """Nobody waits for it; the next one who asks will hear of it himself."""
    _log.debug("background work on a home: {failure}", failure=failure)


@implementer(IMailHome)
class MailHome:
    """All folders of one account."""

    __slots__ = ("_live", "account")

    def __init__(self, live: LiveHome, account: Account) -> None:
        self._live = live
        self.account = account

    def folders(self) -> Deferred[list[FolderFacts]]:
        return self._live.run(lambda: folders.listing(self._live.tree))

    def open(self, name: str) -> Deferred[IMailbox]:
        return Deferred.fromCoroutine(self._live.open(name))

    def status(self, name: str) -> Deferred[FolderStatus]:
        if self.account.format == "mbox" and name.upper() == "INBOX":
            return Deferred.fromCoroutine(self._mbox_status())
        return Deferred.fromCoroutine(self._live.status(name))

    async def _mbox_status(self) -> FolderStatus:
        mailbox = await self._live.open_mbox()
        try:
            return await self._live.slices(lambda: folders.counts(self._live.tree, mailbox.number))
        finally:
            mailbox.close()

    def create(self, name: str, special_use: Sequence[str] = ()) -> Deferred[None]:
        done = self._live.run(lambda: folders.create(self._live.tree, name, special_use))
        return self._then(done, HomeEvent("created", name))

    def delete(self, name: str) -> Deferred[None]:
        def delete() -> None:
            folders.delete(self._live.tree, name)
            notes.forget(self._live.tree, name)

        done = self._live.run(delete)
        return self._then(done, HomeEvent("deleted", name))

    def _then(self, done: Deferred[None], event: HomeEvent) -> Deferred[None]:
        """Tell of it when it is done."""

        def tell(_: None) -> None:
            self._live.announce(event)

        return done.addCallback(tell)

    def rename(self, old: str, new: str) -> Deferred[None]:
        if self.account.format == "mbox" and old.upper() == "INBOX":
            return Deferred.fromCoroutine(self._rename_mbox(new))

        def move() -> Generator[None, None, None]:
            yield from folders.rename(self._live.tree, old, new)
            notes.move(self._live.tree, old, new)

        done = self._live.slices(move)
        return self._then(done, HomeEvent("renamed", new, old))

    async def _rename_mbox(self, new: str) -> None:
        """INBOX gives its mail away and stays (RFC 3501 §6.3.5)."""
        await self.create(new)
        source = await self.open("INBOX")
        try:
            target = await self.open(new)
            try:
                await source.move_to(source.uids(), target)
            finally:
                target.close()
        finally:
            source.close()

    def subscribe(self, name: str, subscribed: bool) -> Deferred[None]:
        done = self._live.run(lambda: folders.subscribe(self._live.tree, name, subscribed))
        return self._then(done, HomeEvent("subscribed" if subscribed else "unsubscribed", name))

    def rights(self, name: str, user: str = "") -> Deferred[str]:
        if user in ("", self._live.key):
            return self.acl(name).addCallback(lambda _: ALL)  # it must be there
        return self.acl(name).addCallback(rights_of, user)

    def acl(self, name: str) -> Deferred[dict[str, str]]:
        return self._live.run(lambda: notes.acl(self._live.tree, name))

    def acls(self) -> Deferred[dict[str, dict[str, str]]]:
        return self._live.run(lambda: notes.acls(self._live.tree))

    def set_acl(self, name: str, identifier: str, rights: str) -> Deferred[None]:
        return self._live.run(lambda: self._set_acl(name, identifier, rights))

    def _set_acl(self, name: str, identifier: str, rights: str) -> None:
        """In the strand."""
        self._live.registry.note(self._live.key, notes.set_acl(self._live.tree, name, identifier, rights))

    def metadata(self, name: str) -> Deferred[dict[str, bytes]]:
        return self._live.run(lambda: notes.read(self._live.tree, name))

    def set_metadata(self, name: str, entries: Mapping[str, bytes | None]) -> Deferred[None]:
        wanted = dict(entries)
        done = self._live.run(lambda: notes.change(self._live.tree, name, wanted))
        for entry in wanted:
            done = self._then(done, HomeEvent("metadata", name, entry))
        return done

    def watch(self, listener: Callable[[HomeEvent], None]) -> Callable[[], None]:
        return self._live.watch(listener)

    def usage(self) -> Deferred[tuple[int, int]]:
        return Deferred.fromCoroutine(self._live.known_usage())

    def on_tree(self, work: Callable[[Tree], Generator[None, None, T]]) -> Deferred[T]:
        """A job of those who move mailboxes in and out as a whole, in order with all others of this home."""
        return self._live.slices(lambda: work(self._live.tree))

    async def with_mbox(self, work: Callable[[Tree, int], Generator[None, None, T]]) -> T:
        """The same with the mbox file open (its descriptor) and locked, of an account that is kept so."""
        mailbox = await self._live.open_mbox()
        try:
            assert isinstance(mailbox, MboxMailbox)
            done: T = await mailbox.holding(work)
            return done
        finally:
            mailbox.close()
