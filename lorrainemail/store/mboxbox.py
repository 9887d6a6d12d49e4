"""The INBOX of an account that is kept as mbox, open: the same :class:`Mailbox` over another kind of file.

Every operation that touches the file holds its locks meanwhile and looks first what other programs did. Flags
are in the index at once and go into the file together: with the next expunge, when the last session closes
the mailbox or the server ends (if it is not large: the first flags in one that other programs made move much
of it), or after :data:`UNWRITTEN` seconds (longer for a large file). What a server that was killed left
unwritten is found at the next opening. Other folders of such an account are Maildir; copies between the two
are appends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.errors import MailError
from lorrainemail.interfaces import (
    IContent,
    IMailbox,
    IMessage,
    MessageFacts,
    StoreResult,
)
from lorrainemail.store import mbox, mboxfile, mboxsync
from lorrainemail.store.changes import flag_bits, retag
from lorrainemail.store.failures import over_quota
from lorrainemail.store.mailbox import Mailbox, once
from lorrainemail.store.mboxoffsets import save
from lorrainemail.store.mboxrewrite import rewrite
from lorrainemail.store.reading import LargeFile
from lorrainemail.store.sync import forget
from lorrainemail.store.tree import Change, Opened, Tree
from lorrainemail.store.watching import Notices

if TYPE_CHECKING:
    from lorrainemail.store.home import LiveHome

T = TypeVar("T")

_log = Logger("lorrainemail.store")

#: Seconds after which flags are written into the file, and octets of it that make them one more.
UNWRITTEN: Final = 30.0
OCTETS_A_SECOND: Final = 4 << 20
#: Octets of a file up to which they are written as soon as nobody has it open.
AT_ONCE: Final = 64 << 20


@implementer(IMailbox)
class MboxMailbox(Mailbox):
    """An mbox file as a folder."""

    __slots__ = ("_unwritten", "_writing")

    def __init__(self, home: LiveHome, directory: str, opened: Opened) -> None:
        super().__init__(home, directory, opened, Notices(None, {}))
        self._unwritten = False
        self._writing: IDelayedCall | None = None
        unwritten = self._run(lambda: home.tree.index.unwritten(home.tree.known(self.number), 1))
        unwritten.addCallbacks(self._found_unwritten, self._ignore)

    def _found_unwritten(self, rows: Sequence[object]) -> None:
        if rows:
            self._write_later()

    def holding(self, work: Callable[[Tree, int], Generator[None, None, T]]) -> Deferred[T]:
        """Do the work in the strand, the locks held, the index in step with the file."""
        tree = self._home.tree

        def in_step(descriptor: int) -> Generator[None, None, T]:
            yield from mboxsync.sync(tree, descriptor)
            return (yield from work(tree, descriptor))

        holding: Any = self._home.locks.holding(tree.mbox, in_step, self._slices)
        return Deferred.fromCoroutine(holding)

    def refresh(self) -> Deferred[None]:
        return self.holding(_nothing)

    def message(self, uid: int) -> Deferred[IMessage]:
        def read(tree: Tree, descriptor: int) -> Generator[None, None, bytes | LargeFile]:
            yield from ()
            return mboxsync.read(tree, self.number, uid, descriptor)

        return self.holding(read).addCallback(self._as_message)

    def facts(self, uids: Sequence[int], wire: bool = False) -> Deferred[list[MessageFacts]]:
        wanted = tuple(uids)
        if not wire:
            return super().facts(wanted)

        async def facts() -> list[MessageFacts]:
            await self._look_into(wanted)
            return await super(MboxMailbox, self).facts(wanted, True)

        return Deferred.fromCoroutine(facts())

    def columns(self, uids: Sequence[int], names: Sequence[Any]) -> Deferred[list[tuple[Any, ...]]]:
        wanted = tuple(uids)

        async def columns() -> list[tuple[Any, ...]]:
            await self._look_into(wanted)
            return await super(MboxMailbox, self).columns(wanted, names)

        return Deferred.fromCoroutine(columns())

    async def _look_into(self, uids: Sequence[int]) -> None:
        """Find out ENVELOPE and the like where nobody has."""
        tree = self._home.tree
        unknown = await self._run(lambda: tree.index.unsummarised(tree.known(self.number), uids))
        if unknown:
            await self.holding(
                lambda tree, descriptor: mboxsync.complete(tree, descriptor, self.number, unknown)
            )

    def index_texts(self) -> None:
        """An mbox has no text index: its messages are read one behind the other anyway."""

    def examine(self, uids: Sequence[int], work: Callable[[bytes], T]) -> Deferred[dict[int, T | None]]:
        wanted = tuple(uids)

        def look(tree: Tree, descriptor: int) -> Generator[None, None, dict[int, T | None]]:
            yield from ()
            said: dict[int, T | None] = {}
            for uid in wanted:
                try:
                    found = mboxsync.read(tree, self.number, uid, descriptor)
                except MailError:
                    said[uid] = None
                    continue
                if isinstance(found, LargeFile):
                    found.close()  # for whoever asks to read by ranges
                else:
                    said[uid] = work(found)
            return said

        return self.holding(look)

    def change_flags(
        self,
        uids: Sequence[int],
        operation: Literal["add", "remove", "set"],
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> Deferred[StoreResult]:
        wanted, words = once(uids), tuple(flags)

        async def change() -> StoreResult:
            result = await self._run(
                lambda: _change(self._home.tree, self.number, wanted, operation, words, unchanged_since)
            )
            if result.changed:
                self._write_later()
                self._home.tell("flagged", self.name)
            return result

        return Deferred.fromCoroutine(change())

    def expunge(self, uids: Sequence[int]) -> Deferred[tuple[int, ...]]:
        wanted = once(uids)

        def remove(tree: Tree, descriptor: int) -> Generator[None, None, tuple[int, ...]]:
            yield from ()
            folder = tree.known(self.number)
            rows = [row for uid in wanted if (row := tree.index.row(folder, uid)) is not None]
            removed = tuple(row.uid for row in rows)
            rewrite(tree, descriptor, frozenset(removed))
            forget(tree, folder, removed)
            tree.index.prune(folder)
            return removed

        async def expunge() -> tuple[int, ...]:
            removed = await self.holding(remove) if wanted else ()
            if removed:
                self._home.tell("expunged", self.name)
            return removed

        return Deferred.fromCoroutine(expunge())

    async def _append(
        self, content: IContent, flags: tuple[str, ...], internal_date: int | None, message_id: str = ""
    ) -> int:
        home = self._home
        if home.over_quota(content.size, await home.known_usage()):
            raise over_quota()
        line = mbox.from_line(b"", home.tree.now() if internal_date is None else internal_date)

        def add(tree: Tree, descriptor: int) -> Generator[None, None, int]:
            flag_bits(tree, self.number, flags)  # wrong flags fail before anything is written
            before = len(tree.box) if tree.box is not None else 0
            done = mbox.append(
                tree.files, tree.mbox, descriptor, line, lambda: mbox.as_stored((content,), mbox.ROOM)
            )
            tree.appended(done.before, done.after)
            yield from mboxsync.sync(tree, descriptor)
            assert tree.box is not None and len(tree.box) > before
            uid = tree.box.uids[-1]
            _change(tree, self.number, (uid,), "set", flags, None)
            return uid

        uid = await self.holding(add)
        if flags:
            self._write_later()
        home.tell("copied", self.name)
        return uid

    def claim_recent(self, uids: Sequence[int], peek: bool = False) -> frozenset[int]:
        recent = [uid for uid in uids if uid > self._claimed and self._at(uid) >= 0]
        if recent and not peek:
            self._claimed = max(recent)
            claimed = self._claimed
            self._run(lambda: _claimed(self._home.tree, self.number, claimed)).addErrback(self._ignore)
        return frozenset(recent)

    def _make_notices(self) -> Notices:
        """The home's directory is watched only while somebody watches the mailbox."""
        return Notices(self._home.inotify if self._watchers else None, {"home": self._home.tree.home})

    def end_watching(self) -> None:
        super().end_watching()
        self._notices.close()

    def _noticed(self) -> None:
        names = self._notices.take()
        if names is None or "home/mbox" in names:
            super()._noticed()

    def mirror(self) -> None:
        """Where its messages begin is kept for the next opening."""
        if not self.vanished:
            tree = self._home.tree
            self._run(lambda: _keep(tree, self.number)).addErrback(self._ignore)

    def close(self) -> None:
        super().close()
        if self.users <= 0:
            self.write_if_quick()

    def apply(self, change: Change) -> None:
        super().apply(change)
        if self.vanished:
            self._all_written()

    def _write_later(self) -> None:
        """Flags are in the index alone: bound how long."""
        self._unwritten = True
        if self._writing is None:
            size = 0 if self._home.tree.box is None else self._home.tree.box.size
            self._writing = self._home.clock.callLater(UNWRITTEN + size / OCTETS_A_SECOND, self._write_now)

    def _write_now(self) -> None:
        self._writing = None
        self.write_flags()

    def _all_written(self) -> None:
        self._unwritten = False
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def write_flags(self) -> Deferred[None]:
        """Write flags into the file, where there are any to write; it never fails."""
        if not self._unwritten or self.vanished:
            self._all_written()
            return succeed(None)
        self._all_written()
        return self.holding(_write_flags).addErrback(self._not_written)

    def write_if_quick(self) -> Deferred[None]:
        """The same of a file that is not large; the flags of another wait for their time."""
        box = self._home.tree.box
        return self.write_flags() if box is None or box.size <= AT_ONCE else succeed(None)

    def _not_written(self, failure: Failure) -> None:
        """They stay in the index; the next opening tries again."""
        _log.warn(
            "flags could not be written into the mbox of {account}: {why}",
            account=self._home.key,
            why=failure.getErrorMessage(),
        )

    def drop(self) -> None:
        self.write_flags()
        self.mirror()
        super().drop()


def _nothing(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    yield from ()


def _keep(tree: Tree, number: int) -> None:
    """What makes the next opening quick."""
    folder = tree.known(number)
    save(tree, folder)
    tree.index.keep_view(folder)


def _write_flags(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    yield from ()
    rewrite(tree, descriptor, ())
    save(tree, mboxfile.folder_of(tree))


def _claimed(tree: Tree, number: int, uid: int) -> None:
    folder = tree.known(number)
    folder.recent = max(folder.recent, uid)
    folder.dirty = True


def _change(
    tree: Tree,
    number: int,
    uids: Sequence[int],
    operation: Literal["add", "remove", "set"],
    flags: Sequence[str],
    unchanged_since: int | None,
) -> StoreResult:
    """Change flags in the index."""
    if operation == "remove":
        bits = tree.known(number).keywords.bits_of(flags, create=False)
    else:
        bits = flag_bits(tree, number, flags)
    folder = tree.known(number)
    change = retag(operation, bits)
    updates: list[tuple[int, int, int, str]] = []
    modified: list[int] = []
    for uid in uids:
        row = tree.index.row(folder, uid)
        if row is None:
            continue
        if unchanged_since is not None and row.modseq > unchanged_since:
            modified.append(uid)
        elif change(row.flags) != row.flags:
            updates.append((uid, change(row.flags), row.place, row.info))
    changed = tuple(update[0] for update in updates)
    if updates:
        modseq = tree.index.next_modseq(folder)
        tree.index.change(folder, updates, modseq)
        tree.note(Change(folder.id, "flags", changed, modseq, tuple(update[1] for update in updates)))
    return StoreResult(changed, tuple(modified))
