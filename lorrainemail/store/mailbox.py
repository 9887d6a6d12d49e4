"""An open folder: what all sessions that have it open share, in the reactor thread.

Owns the newest view (UIDs, MODSEQs and flags in flat arrays, some 20 octets a message) and its watchers. All
changes come one way: a job of the home's strand commits, its changes are applied here in order, the watchers
are told, and then the caller gets his answer. Made by :class:`lorrainemail.store.home.LiveHome` alone; kept
for a while after the last :meth:`Mailbox.close`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import (
    Column,
    FileWrite,
    IContent,
    IMailbox,
    IMessage,
    MailboxChange,
    MessageFacts,
    StoreResult,
    TextCandidates,
)
from lorrainemail.ops.content import Content
from lorrainemail.store import changes, maildir, sync, texts
from lorrainemail.store.copies import copy_of
from lorrainemail.store.failures import from_os, gone, nonexistent, over_quota
from lorrainemail.store.flags import IN_NAME, SEEN, Keywords
from lorrainemail.store.placement import measure
from lorrainemail.store.reading import LargeFile, LargeMessage, SmallMessage
from lorrainemail.store.rights import ALL
from lorrainemail.store.tree import Arrived, Change, Opened
from lorrainemail.store.watching import Inotify, Notices

if TYPE_CHECKING:
    from lorrainemail.store.home import LiveHome

#: Seconds for which names told by inotify are gathered.
GATHER: Final = 0.02
#: Seconds after a change of many files until we look at what others did meanwhile.
SETTLE: Final = 0.5
#: Seconds between looks at a watched mailbox where the system tells nothing.
POLL: Final = 15.0
#: Files that we change at once without listening to inotify meanwhile.
BULK: Final = 200

T = TypeVar("T")

_log = Logger("lorrainemail.store")


@implementer(IMailbox)
class Mailbox:
    """One folder of one account."""

    rights = ALL  # of its owner; see lorrainemail.store.shares

    __slots__ = (
        "_bits",
        "_claimed",
        "_dirty",
        "_home",
        "_keywords",
        "_modseqs",
        "_notice",
        "_notices",
        "_overview",
        "_snapshot",
        "_uids",
        "_watchers",
        "directory",
        "highest_modseq",
        "mailbox_id",
        "name",
        "number",
        "uid_next",
        "uid_validity",
        "users",
        "vanished",
    )

    def __init__(self, home: LiveHome, directory: str, opened: Opened, notices: Notices) -> None:
        self._home = home
        self.directory = directory
        self.number = opened.folder
        self.name = opened.name
        self.mailbox_id = opened.mailbox_id
        self.uid_validity = opened.uid_validity
        self.uid_next = opened.uid_next
        self.highest_modseq = opened.modseq
        self.users = 0
        self.vanished = False
        self._claimed = opened.recent
        self._keywords = Keywords(opened.keywords)
        self._uids, self._modseqs, self._bits = opened.view
        self._snapshot: array[int] | None = None
        self._overview: tuple[int, frozenset[str]] | None = None
        self._watchers: list[Callable[[MailboxChange], None]] = []
        self._dirty = not notices.active
        self._notice: IDelayedCall | None = None
        self._notices = Notices(None, {})
        self._listen(notices)

    # -- the view ----------------------------------------------------------------------------------

    def uids(self) -> Sequence[int]:
        if self._snapshot is None:
            self._snapshot = self._uids[:]
        return self._snapshot

    def flags(self, uid: int) -> frozenset[str] | None:
        at = self._at(uid)
        return None if at < 0 else self._keywords.names_of(self._bits[at])

    def modseq(self, uid: int) -> int:
        at = self._at(uid)
        if at < 0:
            raise KeyError(uid)
        return self._modseqs[at]

    def flags_of(self, uids: Sequence[int]) -> list[frozenset[str] | None]:
        if not uids:
            return []
        at = self._at(uids[0])
        if at >= 0 and isinstance(uids, array) and self._uids[at : at + len(uids)] == uids:
            names_of = self._keywords.names_of
            return [names_of(bits) for bits in self._bits[at : at + len(uids)]]
        return [self.flags(uid) for uid in uids]

    def overview(self) -> tuple[int, frozenset[str]]:
        if self._overview is None:
            # each combination of flags once: quick however many messages there are
            combinations = set(self._bits)
            unseen = 0
            if any(not bits & SEEN for bits in combinations):
                unseen = next(
                    uid for uid, bits in zip(self._uids, self._bits, strict=True) if not bits & SEEN
                )
            names = (self._keywords.names_of(bits) for bits in combinations)
            self._overview = unseen, frozenset().union(*names)
        return self._overview

    def __len__(self) -> int:
        return len(self._uids)

    def claim_recent(self, uids: Sequence[int], peek: bool = False) -> frozenset[int]:
        first = bisect_right(uids, self._claimed)
        recent = [uid for uid in uids[first:] if self._at(uid) >= 0]
        if recent and not peek:
            self._claimed = max(recent)
            self._background(lambda: changes.take_in(self._home.tree, self.number, sorted(recent)))
        return frozenset(recent)

    def _at(self, uid: int) -> int:
        """Where a UID is in the arrays, -1 where it is not."""
        at = bisect_left(self._uids, uid)
        return at if at < len(self._uids) and self._uids[at] == uid else -1

    # -- changes from the strand -------------------------------------------------------------------

    def apply(self, change: Change) -> None:
        """Bring the view up to date and tell the watchers."""
        kind = change.kind
        self._overview = None
        if kind == "added":
            self._apply_added(change)
        elif kind == "flags":
            for uid, bits in zip(change.uids, change.bits, strict=True):
                at = self._at(uid)
                if at >= 0:
                    self._bits[at] = bits
                    self._modseqs[at] = change.modseq
        elif kind == "expunged":
            self._apply_expunged(change.uids)
        elif kind == "keywords":
            self._keywords = Keywords(change.words)
            return
        elif kind == "renamed":
            self.name, self.directory = change.words
            self._listen(self._make_notices())
            return
        elif kind == "gone":
            self.vanished = True
            self.end_watching()
            self._notices.close()
        self.highest_modseq = max(self.highest_modseq, change.modseq)
        if kind in ("added", "flags", "expunged", "gone"):
            notice = MailboxChange(kind, change.uids, change.modseq)
            for watcher in tuple(self._watchers):
                try:
                    watcher(notice)
                except Exception:
                    _log.failure("a session could not take a notice of its mailbox")

    def _apply_added(self, change: Change) -> None:
        self._snapshot = None
        for uid, bits in zip(change.uids, change.bits, strict=True):
            at = len(self._uids)
            if at and self._uids[-1] >= uid:
                at = bisect_left(self._uids, uid)
            self._uids.insert(at, uid)
            self._modseqs.insert(at, change.modseq)
            self._bits.insert(at, bits)
            self.uid_next = max(self.uid_next, uid + 1)

    def _apply_expunged(self, uids: Sequence[int]) -> None:
        self._snapshot = None
        gone = {at for uid in uids if (at := self._at(uid)) >= 0}
        if not gone:
            return
        # only what lies between the first and the last of them is looked at
        first, last = min(gone), max(gone)
        keep = [at for at in range(first, last) if at not in gone]
        for column in (self._uids, self._modseqs, self._bits):
            column[first : last + 1] = array(column.typecode, [column[at] for at in keep])

    # -- reading -----------------------------------------------------------------------------------

    def facts(self, uids: Sequence[int], wire: bool = False) -> Deferred[list[MessageFacts]]:
        wanted = tuple(uids)
        return self._run(lambda: self._home.tree.facts(self.number, wanted, wire))

    def columns(self, uids: Sequence[int], names: Sequence[Column]) -> Deferred[list[tuple[Any, ...]]]:
        wanted = uids[:] if isinstance(uids, array) else tuple(uids)
        return self._run(lambda: self._home.tree.columns(self.number, wanted, names))

    def candidates(
        self, field: Literal["envelope", "references"], words: Sequence[bytes]
    ) -> Deferred[list[int]]:
        return self._slices(lambda: self._home.tree.candidates(self.number, field, words))

    def text_candidates(self, grams: Sequence[str]) -> Deferred[TextCandidates]:
        wanted = tuple(grams)
        return self._slices(lambda: texts.candidates(self._home.tree, self.number, wanted))

    def index_texts(self) -> None:
        self._home.index_texts(self)

    def take_in(self, mark: int) -> Deferred[int]:
        """Take the next few messages above that UID into the text index; the new mark, 0 for the end."""
        at = bisect_right(self._uids, mark)
        wanted = tuple(self._uids[at : at + texts.TAKEN_IN])
        return self._run(lambda: texts.take_in(self._home.tree, self.number, wanted))

    def examine(self, uids: Sequence[int], work: Callable[[bytes], T]) -> Deferred[dict[int, T | None]]:
        wanted = tuple(uids)
        return self._run(lambda: texts.examine(self._home.tree, self.number, wanted, work))

    def expunged_since(self, since: int) -> Deferred[list[int] | None]:
        return self._run(lambda: self._home.tree.expunged_since(self.number, since))

    def message(self, uid: int) -> Deferred[IMessage]:
        if self._at(uid) < 0:
            return fail(gone())
        if self._home.strand.idle:
            data = self._home.tree.at_hand(self.number, uid)
            if data is not None:
                return succeed(SmallMessage(data))

        async def open_it() -> IMessage:
            try:
                found = await self._run(lambda: self._home.tree.open_message(self.number, uid))
            except PermanentError:
                self._dirty = True  # its file went, and we were not told: look at all of them
                raise
            return self._as_message(found)

        return Deferred.fromCoroutine(open_it())

    def _as_message(self, found: bytes | LargeFile) -> IMessage:
        if isinstance(found, bytes):
            return SmallMessage(found)
        return LargeMessage(found, self._home.strand.run)

    # -- changing ----------------------------------------------------------------------------------

    def change_flags(
        self,
        uids: Sequence[int],
        operation: Literal["add", "remove", "set"],
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> Deferred[StoreResult]:
        wanted, words = once(uids), tuple(flags)

        async def change() -> StoreResult:
            result = await self._loudly(
                len(wanted),
                lambda: changes.change_flags(
                    self._home.tree, self.number, wanted, operation, words, unchanged_since
                ),
            )
            if result.changed:
                self._home.tell("flagged", self.name)
            return result

        return Deferred.fromCoroutine(change())

    def expunge(self, uids: Sequence[int]) -> Deferred[tuple[int, ...]]:
        wanted = once(uids)

        async def expunge() -> tuple[int, ...]:
            removed = await self._loudly(
                len(wanted),
                lambda: changes.expunge(self._home.tree, self.number, wanted),
            )
            if removed:
                self._home.tell("expunged", self.name)
            return removed

        return Deferred.fromCoroutine(expunge())

    def append(self, content: IContent, flags: Iterable[str], internal_date: int | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._append(content, tuple(flags), internal_date))

    async def _append(
        self, content: IContent, flags: tuple[str, ...], internal_date: int | None, message_id: str = ""
    ) -> int:
        """``message_id``: the EMAILID of what this is a copy of."""
        home = self._home
        if self.vanished:
            raise nonexistent(self.name)
        if home.over_quota(content.size, await home.known_usage()):
            raise over_quota()
        bits = await self._run(lambda: changes.flag_bits(home.tree, self.number, flags))
        measured = await measure(home.committer, (content,))
        stem = home.tree.names.stem()
        base = home.tree.names.with_sizes(stem, measured.disk, measured.wire, measured.raw)
        if message_id:
            base += f",E={message_id}"
        info = maildir.make_info(bits & IN_NAME)
        path = home.tree.folder_path(self.directory)
        write = FileWrite(
            f"{path}/tmp/{stem}", f"{path}/cur/{base}{info}", (content,), line_feed=not measured.raw
        )
        (error,) = await home.committer.commit([write])
        if error is not None:
            raise from_os(error, "append")
        now = home.tree.now()
        arrived = Arrived(
            self.directory,
            base,
            1,
            info,
            bits,
            measured.wire,
            now if internal_date is None else max(internal_date, 0),
            now,
            copy_of(b"", content),
            internal_date is not None,
        )
        (uid,) = await self._run(lambda: home.tree.arrived([arrived]))
        if not uid:
            raise nonexistent(self.name)
        home.tell("copied", self.name)
        return uid

    def copy_to(self, uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        return self._copy(uids, target, False)

    def move_to(self, uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        return self._copy(uids, target, True)

    def _copy(self, uids: Sequence[int], target: IMailbox, move: bool) -> Deferred[list[tuple[int, int]]]:
        if not isinstance(target, Mailbox) or target._home is not self._home:
            return Deferred.fromCoroutine(self._copy_elsewhere(once(uids), target, move))
        wanted, into = once(uids), target
        if type(self) is not Mailbox or type(into) is not Mailbox:
            return Deferred.fromCoroutine(self._copy_by_append(wanted, into, move))

        async def copy() -> list[tuple[int, int]]:
            if not move and self._home.limited:
                octets = sum(fact.size for fact in await self.facts(wanted))
                if self._home.over_quota(octets, await self._home.known_usage(), len(wanted)):
                    raise over_quota()
            pairs = await self._slices(
                lambda: changes.copy(self._home.tree, self.number, wanted, into.number, move)
            )
            if pairs:
                self._home.tell("copied", into.name)
                if move:
                    self._home.tell("expunged", self.name)
            return pairs

        return Deferred.fromCoroutine(copy())

    async def _copy_elsewhere(
        self, uids: Sequence[int], target: IMailbox, move: bool
    ) -> list[tuple[int, int]]:
        """Copy into another account's folder, one by one: all or none. What may be done there, it says."""
        pairs: list[tuple[int, int]] = []
        try:
            for uid in uids:
                flags = self.flags(uid)
                if flags is None:
                    continue
                (facts,) = await self.facts((uid,))
                message = await self.message(uid)
                try:
                    data = await message.read()
                finally:
                    message.close()
                pairs.append((uid, await target.append(Content(data), flags, facts.internal_date)))
        except BaseException:
            await target.expunge([new for _, new in pairs])
            raise
        if move:
            await self.expunge([old for old, _ in pairs])
        return pairs

    async def _copy_by_append(self, uids: Sequence[int], into: Mailbox, move: bool) -> list[tuple[int, int]]:
        """Copy between folders that are kept in different ways: all or none."""
        pairs: list[tuple[int, int]] = []
        try:
            for uid in uids:
                flags = self.flags(uid)
                if flags is None:
                    continue
                (facts,) = await self.facts((uid,))
                message = await self.message(uid)
                data = await message.read()
                message.close()
                copied = await into._append(
                    Content(data), tuple(flags), facts.internal_date, facts.message_id
                )
                pairs.append((uid, copied))
        except BaseException:
            await into.expunge([new for _, new in pairs])
            raise
        if move:
            await self.expunge([old for old, _ in pairs])
        return pairs

    def refresh(self) -> Deferred[None]:
        if self.vanished:
            return fail(nonexistent(self.name))
        notices = self._notices
        if notices.active and not self._dirty:
            notices.drain()
            if not notices.pending():
                return self._home.settled()  # nobody else was there
            return Deferred.fromCoroutine(self._look_at_names())
        if not notices.active and self._home.inotify is not None:
            self._listen(self._make_notices())  # the folder was new, or there was no watch left
        self._dirty = not self._notices.active
        return self._slices(lambda: sync.refresh(self._home.tree, self.number))

    # -- watching ----------------------------------------------------------------------------------

    @property
    def watched(self) -> bool:
        """Whether anybody waits for news."""
        return bool(self._watchers)

    def watch(self, listener: Callable[[MailboxChange], None]) -> Callable[[], None]:
        self._watchers.append(listener)
        if len(self._watchers) == 1:
            self._begin_watching()

        def end() -> None:
            if listener in self._watchers:
                self._watchers.remove(listener)
                if not self._watchers:
                    self.end_watching()

        return end

    def _begin_watching(self) -> None:
        """The first watcher came: what happened until now is looked for, the rest is told by inotify."""
        if not self._notices.active:
            self._listen(self._make_notices())
        if self._notices.pending() or self._dirty or not self._notices.active:
            self._poll()

    def end_watching(self) -> None:
        """No more looks of our own accord."""
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    def _make_notices(self) -> Notices:
        self._dirty = True
        return notices_of(self._home.inotify, self._home.tree.folder_path(self.directory))

    def _listen(self, notices: Notices) -> None:
        """Take over notices."""
        self._notices.close()
        self._notices = notices
        notices.listener = self._noticed

    def _noticed(self) -> None:
        """Something is to be looked at: soon where somebody watches, else when asked."""
        if self._watchers and self._notice is None:
            self._notice = self._home.clock.callLater(GATHER, self._poll)

    def _poll(self) -> None:
        self._notice = None
        if self.vanished or not self._watchers:
            return
        self.refresh().addErrback(self._ignore)
        if not self._notices.active:
            self._notice = self._home.clock.callLater(POLL, self._poll)

    def delivered(self, base: str) -> None:
        """A delivery of ours is in new/."""
        self._notices.expect(f"new/{base}")

    async def _loudly(self, count: int, work: Callable[[], Generator[None, None, T]]) -> T:
        """Work that changes so many files. Of many we would be told, each twice: so we do not listen
        meanwhile, and look once afterwards, when it is quiet, at what others did."""
        if count > BULK:
            self._notices.close()
            self._dirty = True
        try:
            return await self._slices(work)
        finally:
            if count > BULK and not self.vanished and self._home.inotify is not None:
                self._listen_again()

    def _listen_again(self) -> None:
        """Soon; not between two of many changes."""
        if self._notice is not None:
            self._notice.cancel()
        self._notice = self._home.clock.callLater(SETTLE, self._poll) if self._watchers else None

    async def _look_at_names(self) -> None:
        """Look at what inotify told of."""
        names = self._notices.take()
        if names is not None and not await self._run(
            lambda: sync.look_at_names(self._home.tree, self.number, sorted(names))
        ):
            return
        await self._slices(lambda: sync.refresh(self._home.tree, self.number, True))

    def close(self) -> None:
        self.users -= 1
        if self.users <= 0:
            self._home.rests(self)

    def drop(self) -> None:
        """Let go of it; the next opening makes another."""
        self.end_watching()
        self._notices.close()
        self._home.drop(self)

    def mirror(self) -> None:
        """Write its UIDs for other programs."""
        self._home.mirror(self)

    def _run(self, work: Callable[[], T]) -> Deferred[T]:
        if self.vanished:
            return fail(nonexistent(self.name))
        return self._home.run(work)

    def _slices(self, work: Callable[[], Generator[None, None, T]]) -> Deferred[T]:
        if self.vanished:
            return fail(nonexistent(self.name))
        return self._home.slices(work)

    def _background(self, work: Callable[[], Generator[None, None, None]]) -> None:
        if not self.vanished:
            self._home.slices(work).addErrback(self._ignore)

    @staticmethod
    def _ignore(failure: object) -> None:
        """Nobody asked; the next one who does will hear of it himself."""
        _log.debug("background work on a mailbox: {failure}", failure=failure)


def notices_of(inotify: Inotify | None, path: str) -> Notices:
    """What is heard of a Maildir folder."""
    return Notices(inotify, {"new": f"{path}/new", "cur": f"{path}/cur"})


def once(uids: Sequence[int]) -> tuple[int, ...]:
    """The UIDs in their order, none twice."""
    return tuple(dict.fromkeys(uids))
