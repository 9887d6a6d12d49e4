"""All local mail: the store as the rest of the house knows it (:class:`IStore`), and as a service.

Owns what is shared by all homes: the threads, the clock, the committer, the notices of other programs, how
much waits for the index, and which mailboxes stay in memory after their last reader. A home is found by the
account's address alone. Composed by :mod:`lorrainemail.service`; stops after every door has.
"""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Account, ICommitter, IContent, IPlacement, IStore
from lorrainemail.ops.files import SYSTEM, Files
from lorrainemail.store.copies import Copy
from lorrainemail.store.failures import OVER_QUOTA
from lorrainemail.store.home import LiveHome, MailHome
from lorrainemail.store.indexing import TextIndexing
from lorrainemail.store.locks import FileLocks
from lorrainemail.store.mailbox import Mailbox
from lorrainemail.store.mbox import MboxPlacement
from lorrainemail.store.names import UniqueNames
from lorrainemail.store.paths import home_path
from lorrainemail.store.placement import MaildirPlacement
from lorrainemail.store.shares import Registry
from lorrainemail.store.sizes import SizeFiles
from lorrainemail.store.strands import Strands
from lorrainemail.store.tree import Tree
from lorrainemail.store.watching import Inotify

#: Seconds that a delivery may wait for the index while nobody looks: the more come together, the less each
#: of them costs.
FLUSH_DELAY: Final = 2.0
#: Octets of messages that wait in memory for their summaries; what is more is read from its file.
MAX_KEPT: Final = 16 << 20
#: Homes in memory that nobody uses.
MAX_HOMES: Final = 4096
#: Mailboxes kept for their next opening, and their messages together.
MAX_RESTING: Final = 256
MAX_RESTING_MESSAGES: Final = 1_000_000
#: Seconds after which a mailbox that nobody opened again has its UIDs written for other programs.
MIRROR_DELAY: Final = 30.0

_log = Logger("lorrainemail.store")


@implementer(IStore)
class MailStore(Service):
    """All local mail.

    :param reactor: clock, and door back from the threads (``callFromThread``); with descriptors
        (``addReader``) other programs' changes are noticed at once.
    :param root: the mail directory, made at start.
    :param committer: makes files durable.
    :param hostname: our name, in file names.
    """

    name = "store"

    def __init__(
        self,
        reactor: Any,
        root: str,
        committer: ICommitter,
        hostname: str,
        files: Files = SYSTEM,
    ) -> None:
        self.root = os.path.abspath(root)
        self.committer = committer
        self.clock: IReactorTime = reactor
        self.locks = FileLocks(reactor, committer, files)
        self.strands = Strands(reactor)
        self.inotify: Inotify | None = None
        self._reactor = reactor
        self._files = files
        self._names = UniqueNames(hostname)
        self._run = secrets.token_hex(16)
        self._homes: OrderedDict[str, LiveHome] = OrderedDict()
        self._watchers: list[Callable[[str, str, str], None]] = []
        self._unflushed: dict[LiveHome, None] = {}
        self._flushing: dict[LiveHome, None] = {}
        self._flush_call: IDelayedCall | None = None
        self._kept = 0
        self.registry = Registry(os.path.join(self.root, ".shares.json"))
        self.indexing = TextIndexing(reactor)
        self.sizes = SizeFiles(self.clock)
        #: Told (account, percent) when a mailbox reaches a level of its quota.
        self.filling: Callable[[Account, int], None] | None = None
        self._resting: OrderedDict[Mailbox, IDelayedCall | None] = OrderedDict()
        self._resting_messages = 0

    # -- service -----------------------------------------------------------------------------------

    def startService(self) -> None:
        """Make the mail directory, start the threads."""
        super().startService()  # type: ignore[no-untyped-call]
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        self._files.fsync_directory(os.path.dirname(self.root))
        if IReactorFDSet.providedBy(self._reactor):
            self.inotify = Inotify(self._reactor)
        self.strands.start()

    def stopService(self) -> Deferred[None]:
        """Bring the index up to date, close every home, end the threads."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        self.indexing.stop()
        for home in (*self._flushing, *self._unflushed):
            home.flush()
        self._flushing, self._unflushed = {}, {}
        for call in self._resting.values():
            if call is not None:
                call.cancel()
        self._resting.clear()
        for home in self._homes.values():
            home.quiet()
        self.sizes.stop()
        if self.inotify is not None:
            self.inotify.close()
            self.inotify = None
        written = gatherResults([home.write_flags() for home in self._homes.values()])
        return written.addBoth(lambda _: self.strands.stop())

    # -- IStore ------------------------------------------------------------------------------------

    def placement(
        self, account: Account, folder: str, prefix: bytes, content: IContent, id: str
    ) -> IPlacement:
        live = self._live(account)
        if account.format == "mbox" and not (folder and live.has_folder(folder)):
            return MboxPlacement(live, self.locks, prefix, content)
        return MaildirPlacement(live, folder, prefix, content, id)

    def existing(self, account: Account, folders: Sequence[str]) -> Deferred[frozenset[str]]:
        return self._live(account).existing(folders)

    def may_accept(self, account: Account, octets: int) -> Reply | None | Deferred[Reply | None]:
        if not account.quota and not account.quota_messages:
            return None
        live = self._live(account)
        if live.usage is not None:
            return OVER_QUOTA if live.over_quota(octets, live.usage) else None

        async def ask() -> Reply | None:
            return OVER_QUOTA if live.over_quota(octets, await live.known_usage()) else None

        return Deferred.fromCoroutine(ask())

    def home(self, account: Account) -> MailHome:
        return MailHome(self._live(account), account)

    def watch(self, listener: Callable[[str, str, str], None]) -> None:
        self._watchers.append(listener)

    # -- for homes ---------------------------------------------------------------------------------

    def tell(self, event: str, account: str, folder: str) -> None:
        """Send one store event out."""
        for listener in tuple(self._watchers):
            try:
                listener(event, account, folder)
            except Exception:
                _log.failure("somebody could not take a notice of the store")

    def fills(self, account: Account, percent: int) -> None:
        """An account's mail reached so much of its quota."""
        if self.filling is not None:
            try:
                self.filling(account, percent)
            except Exception:
                _log.failure("somebody could not take a notice of a quota")

    def keep(self, copy: Copy) -> bool:
        """Whether one more message may wait in memory; copies of one share theirs."""
        octets = len(copy.prefix) + (0 if copy.body.holders else len(copy.body.octets))
        if self._kept + octets > MAX_KEPT:
            return False
        self._kept += octets
        copy.body.holders += 1
        return True

    def let_go(self, copies: Iterable[Copy]) -> None:
        """They wait no more."""
        for copy in copies:
            copy.body.holders -= 1
            self._kept -= len(copy.prefix) + (0 if copy.body.holders else len(copy.body.octets))

    def flush_soon(self, home: LiveHome) -> None:
        """The home has deliveries that the index does not know."""
        self._unflushed[home] = None
        if self._flush_call is None and not self._flushing:
            self._flush_call = self.clock.callLater(FLUSH_DELAY, self._flush)

    def _flush(self) -> None:
        self._flush_call = None
        self._flushing, self._unflushed = self._unflushed, {}
        self._flush_next()

    def _flush_next(self, _: object = None) -> None:
        """One home after the other: nobody waits for it, and several threads at once would take the
        interpreter's lock from the reactor for most of that time."""
        while self._flushing:
            flushed = self._flushing.popitem()[0].flush()
            if flushed is not None:
                flushed.addCallback(self._flush_next)
                return
        if self._unflushed and self._flush_call is None and self.running:
            self._flush_call = self.clock.callLater(FLUSH_DELAY, self._flush)

    def used(self, mailbox: Mailbox) -> None:
        """Somebody opens it (again)."""
        if mailbox in self._resting:
            call = self._resting.pop(mailbox)
            if call is not None:
                call.cancel()

    def rests(self, mailbox: Mailbox) -> None:
        """Its last reader went: keep it for a while, within bounds."""
        self._resting[mailbox] = self.clock.callLater(MIRROR_DELAY, self._mirror, mailbox)
        messages = sum(len(resting) for resting in self._resting)
        while self._resting and (len(self._resting) > MAX_RESTING or messages > MAX_RESTING_MESSAGES):
            old, call = self._resting.popitem(last=False)
            messages -= len(old)
            if call is not None:
                call.cancel()
            old.drop()

    def _mirror(self, mailbox: Mailbox) -> None:
        self._resting[mailbox] = None
        mailbox.mirror()

    def _live(self, account: Account) -> LiveHome:
        """The account's home, made at first use."""
        key = account.address.key
        live = self._homes.get(key)
        if live is None:
            path = f"{self.root}/{home_path(account.address)}"
            tree = Tree(self.root, path, self._run, self._files, self._names, self.clock.seconds)
            live = self._homes[key] = LiveHome(self, account, tree)
            if len(self._homes) > MAX_HOMES:
                self._let_homes_go()
        elif live.account is not account:
            live.account = account
        return live

    def _let_homes_go(self) -> None:
        """Drop some homes that nobody uses, oldest first."""
        for key, live in list(self._homes.items())[: MAX_HOMES // 8]:
            if live.idle and live not in self._unflushed and live not in self._flushing:
                del self._homes[key]
                self.strands.forget(live.strand)
