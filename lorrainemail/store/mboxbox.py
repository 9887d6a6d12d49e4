"""The INBOX of an account that is kept as mbox, open: the same :class:`Mailbox` over another kind of file.

Every operation that touches the file holds its locks meanwhile and looks first what other programs did. Flags
are in the index at once and go into the file with the next expunge or when the last session closes the
mailbox, in one rewrite. Other folders of such an account are Maildir; copies between the two are appends.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from lorrainemail.errors import MailError
from lorrainemail.interfaces import IContent, IMailbox, IMessage, StoreResult
from lorrainemail.store import mbox, mboxfile
from lorrainemail.store.changes import flag_bits, retag
from lorrainemail.store.failures import over_quota
from lorrainemail.store.mailbox import Mailbox, once
from lorrainemail.store.reading import SmallMessage
from lorrainemail.store.sync import forget
from lorrainemail.store.tree import Change, Opened, Tree
from lorrainemail.store.watching import Notices

if TYPE_CHECKING:
    from lorrainemail.store.home import LiveHome

T = TypeVar("T")


@implementer(IMailbox)
class MboxMailbox(Mailbox):
    """An mbox file as a folder."""

    __slots__ = ("_unwritten",)

    def __init__(self, home: LiveHome, directory: str, opened: Opened) -> None:
        super().__init__(home, directory, opened, Notices(None, {}))
        self._unwritten = False

    def _holding(self, work: Callable[[Tree, int], Generator[None, None, T]]) -> Deferred[T]:
        """Do the work in the strand, the locks held, the index in step with the file."""
        tree = self._home.tree

        def in_step(descriptor: int) -> Generator[None, None, T]:
            yield from mboxfile.sync(tree, descriptor)
            return (yield from work(tree, descriptor))

        holding: Any = self._home.locks.holding(tree.mbox, in_step, self._slices)
        return Deferred.fromCoroutine(holding)

    def refresh(self) -> Deferred[None]:
        return self._holding(_nothing)

    def message(self, uid: int) -> Deferred[IMessage]:
        def read(tree: Tree, descriptor: int) -> Generator[None, None, IMessage]:
            yield from ()
            return SmallMessage(mboxfile.read(tree, self.number, uid, descriptor))

        return self._holding(read)

    def index_texts(self) -> None:
        """An mbox has no text index: its messages are read one behind the other anyway."""

    def examine(self, uids: Sequence[int], work: Callable[[bytes], T]) -> Deferred[dict[int, T | None]]:
        wanted = tuple(uids)

        def look(tree: Tree, descriptor: int) -> Generator[None, None, dict[int, T | None]]:
            yield from ()
            said: dict[int, T | None] = {}
            for uid in wanted:
                try:
                    said[uid] = work(mboxfile.read(tree, self.number, uid, descriptor))
                except MailError:
                    said[uid] = None
            return said

        return self._holding(look)

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
                self._unwritten = True
                self._home.tell("flagged", self.name)
            return result

        return Deferred.fromCoroutine(change())

    def expunge(self, uids: Sequence[int]) -> Deferred[tuple[int, ...]]:
        wanted = once(uids)

        def remove(tree: Tree, descriptor: int) -> Generator[None, None, tuple[int, ...]]:
            folder = tree.known(self.number)
            rows = [row for uid in wanted if (row := tree.index.row(folder, uid)) is not None]
            mboxfile.rewrite(tree, descriptor, {row.base for row in rows})
            removed = tuple(row.uid for row in rows)
            forget(tree, folder, removed)
            tree.box = None
            yield from mboxfile.sync(tree, descriptor)  # equal messages are counted anew
            return removed

        async def expunge() -> tuple[int, ...]:
            removed = await self._holding(remove)
            self._unwritten = False
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
            mbox.append(tree.files, tree.mbox, descriptor, line, mbox.as_stored((content,)))
            yield from mboxfile.sync(tree, descriptor)
            assert tree.box is not None
            row = tree.index.by_base(tree.known(self.number), list(tree.box.entries)[-1])
            assert row is not None
            _change(tree, self.number, (row.uid,), "set", flags, None)
            return row.uid

        uid = await self._holding(add)
        self._unwritten = self._unwritten or bool(flags)
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
        """The mbox has its own place for everything."""

    def close(self) -> None:
        super().close()
        if self.users <= 0 and self._unwritten and not self.vanished:
            self._unwritten = False
            self._holding(_write_flags).addErrback(self._ignore)


def _nothing(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    yield from ()


def _write_flags(tree: Tree, descriptor: int) -> Generator[None, None, None]:
    yield from ()
    mboxfile.rewrite(tree, descriptor, ())


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
