"""One home on disk as its strand's jobs see it: folders, index, and the way between a UID and its file.

A :class:`Tree` is the workplace (:mod:`lorrainemail.store.strands`) of one account: every method runs in one
thread at a time, inside the batch's transaction. What it changes it notes as :class:`Change` values, which
the reactor side (:mod:`lorrainemail.store.home`) applies to open mailboxes after the commit.

Neighbours that work on a tree: :mod:`lorrainemail.store.sync` (what other programs did),
:mod:`lorrainemail.store.changes` (flags, expunge, copy, move), :mod:`lorrainemail.store.folders` (create,
delete, rename, subscriptions).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
from twisted.logger import Logger

from lorrainemail.interfaces import Column, MessageFacts
from lorrainemail.message.summary import (
    UNSURE_ENVELOPE,
    UNSURE_REFERENCES,
    Summary,
    summarize,
)
from lorrainemail.ops.files import Files, make_directories
from lorrainemail.store import maildir
from lorrainemail.store.copies import Copy
from lorrainemail.store.dovecot import KEYWORDS, UIDLIST, print_keywords
from lorrainemail.store.failures import gone, nonexistent
from lorrainemail.store.flags import FIRST_KEYWORD_BIT, IN_NAME
from lorrainemail.store.index import MBOX, SIZE, Folder, Index, Row, View, unusable
from lorrainemail.store.names import UniqueNames
from lorrainemail.store.paths import canonical_name, folder_directory
from lorrainemail.store.reading import (
    AT_HAND,
    SMALL,
    LargeFile,
    NotAMessage,
    open_file,
    read_at_hand,
    read_dated,
    read_whole,
)
from lorrainemail.store.uidls import FILE, MAX_FILE, GivenUidls

if TYPE_CHECKING:
    from lorrainemail.store.fulltext import TextIndex
    from lorrainemail.store.mboxoffsets import Offsets
    from lorrainemail.store.mboxstamp import Stamp

#: Messages summarised at most; of a larger one only so much is looked at.
MAX_SUMMARISED: Final = 256 << 20
#: UIDs that one slice of a search in the index covers.
SEARCHED: Final = 20_000
#: Appends to an mbox that are remembered until the index hears of them.
MAX_OWN_APPENDS: Final = 1000

_log = Logger("lorrainemail.store")


@attrs.frozen(slots=True)
class Change:
    """What a job did to a folder, for open mailboxes.

    :ivar kind: as MailboxChange; besides "keywords" (their list changed), "renamed", and "usage" of the home.
    :ivar bits: the flags, in the order of ``uids`` ("added", "flags").
    """

    folder: int
    kind: Literal["added", "flags", "expunged", "gone", "keywords", "renamed", "usage"]
    uids: tuple[int, ...] = ()
    modseq: int = 0
    bits: tuple[int, ...] = ()
    words: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class Arrived:
    """A file of ours that is in a folder now and has no UID yet.

    :ivar copy: the message where it is at hand, for its summary.
    :ivar dated: the file's mtime is to be the internal date, so that it survives the loss of the index.
    """

    directory: str
    base: str
    place: int
    info: str
    bits: int
    size: int
    internal_date: int
    save_date: int
    copy: Copy | None = None
    dated: bool = False


@attrs.frozen(slots=True)
class Opened:
    """What a mailbox begins with."""

    folder: int
    name: str
    mailbox_id: str
    uid_validity: int
    uid_next: int
    modseq: int
    recent: int
    keywords: tuple[str, ...]
    view: View


class Tree:
    """One account's home.

    :param root: the mail directory, which exists; ``home`` is below it.
    :param run: what tells this run of the server from every other one.
    :param now: the wall clock.
    """

    def __init__(
        self, root: str, home: str, run: str, files: Files, names: UniqueNames, now: Callable[[], float]
    ) -> None:
        self.home = home
        self.maildir = home + "/Maildir"
        self.mbox = home + "/mbox"
        self.files = files
        self.names = names
        self.box: Offsets | None = None
        self.own_appends: dict[Stamp, Stamp] = {}
        self._root = root
        self._run = run
        self._now = now
        self._index: Index | None = None
        self.uidls: GivenUidls | None = None
        self.texts: TextIndex | None = None  # see lorrainemail.store.texts
        self._made = False
        self.furnished = False
        self.lists: dict[int, tuple[str, ...]] = {}  # of folders looked at in this run, as in the index
        self._changes: list[Change] = []
        self._identity = ""
        self._usage: tuple[int, int] | None = None
        self._usage_changed = False

    # -- workplace ---------------------------------------------------------------------------------

    @property
    def index(self) -> Index:
        """The open index."""
        assert self._index is not None, "outside of a batch"
        return self._index

    @property
    def is_open(self) -> bool:
        """Whether the index is open; any thread may ask."""
        return self._index is not None

    def begin(self) -> list[Any]:
        """Open the index where it is closed, and begin a transaction. Another index than before means that
        the account was removed under us, or its index: what is open begins anew."""
        if self._index is not None and not self._index.in_place():
            self.batch_failed(FileNotFoundError(self.home))
            self._made = self.furnished = False
        if self._index is None:
            self.make_home()
            self._index = Index(self.home + "/index.sqlite", self._run)
            self.lists.clear()
        try:
            self._index.begin()
        except Exception as error:
            self.batch_failed(error)
            raise
        known, self._identity = self._identity, self._index.identity
        if known in ("", self._identity):
            return []
        self.box = None
        return [Change(0, "gone")]

    def job_begins(self) -> None:
        self._changes = []
        self.index.savepoint()

    def job_ends(self) -> list[Any]:
        self.index.release()
        if self._usage_changed and self._usage is not None:
            self._usage_changed = False
            self._changes.append(Change(0, "usage", self._usage))
        changes, self._changes = self._changes, []
        return changes

    def job_failed(self, error: BaseException) -> None:
        self._changes = []
        self._usage = None
        self.lists.clear()
        self.box = None
        if unusable(error):
            raise error
        self.index.undo()

    def commit(self) -> None:
        self.index.commit()

    def batch_failed(self, error: BaseException) -> list[Any]:
        """The index did not take it. Where it is broken, it goes, and open mailboxes end."""
        index, self._index = self._index, None
        self.box = None
        self._close_texts()
        self._changes = []
        self.lists.clear()
        self._usage = None
        if index is None:
            return []
        try:
            index.rollback()
            index.close()
        except Exception as worse:
            _log.warn("closing the index of {home}: {worse}", home=self.home, worse=worse)
        if unusable(error):
            index.set_aside(str(error))
            return [Change(0, "gone")]
        return []

    def close(self, for_good: bool) -> None:
        if self._index is not None:
            if for_good:
                self._index.give_back()
            self._index.close()
            self._index = None
        self._close_texts()

    def _close_texts(self) -> None:
        texts, self.texts = self.texts, None
        if texts is not None:
            texts.close()

    def make_home(self) -> None:
        """Make the home and its INBOX, durably, at first use."""
        if not self._made:
            for sub in ("tmp", "new", "cur"):
                make_directories(self.files, self._root, f"{self.maildir}/{sub}")
            self._made = True

    def appended(self, before: Stamp, after: Stamp) -> None:
        """In a committer's thread, the mbox file locked: it went from one stamp to the other by an append of
        ours."""
        if len(self.own_appends) >= MAX_OWN_APPENDS:
            self.own_appends.clear()
        self.own_appends[before] = after

    def now(self) -> int:
        """Whole seconds."""
        return int(self._now())

    # -- folders -----------------------------------------------------------------------------------

    def path(self, folder: Folder) -> str:
        """A folder's directory."""
        return f"{self.maildir}/{folder.directory}" if folder.directory else self.maildir

    def folder_path(self, directory: str) -> str:
        """The same by its name on disk."""
        return f"{self.maildir}/{directory}" if directory else self.maildir

    def known(self, folder: int) -> Folder:
        """A folder by its id, as it is in this transaction."""
        row = self.index.folder(folder)
        if row is None:
            raise nonexistent("any more")
        return row

    def present(self, name: str) -> Folder:
        """A folder by its name, adopted at first sight.

        :raises PermanentError: ``NONEXISTENT``.
        """
        from lorrainemail.store.sync import adopt

        name = canonical_name(name)
        directory = folder_directory(name)
        row = self.index.folders().get(directory)
        if not os.path.isdir(self.folder_path(directory) + "/cur"):
            if row is not None and directory:
                self.lost(row)
            if directory:
                raise nonexistent(name)
            self._made = False
            self.make_home()
        return row if row is not None else adopt(self, directory)

    def lost(self, folder: Folder) -> None:
        """The folder's directory is no more."""
        self.index.remove_folder(folder)
        self._usage = None
        self.note(Change(folder.id, "gone"))

    def note(self, change: Change) -> None:
        """Have it announced after the commit."""
        self._changes.append(change)

    def count(self, octets: int, messages: int) -> None:
        """Keep the home's usage up to date."""
        if self._usage is not None:
            self._usage = (self._usage[0] + octets, self._usage[1] + messages)
            self._usage_changed = True

    def counted(self) -> tuple[int, int]:
        """(octets, messages) of the home."""
        if self._usage is None:
            self._usage = self.index.usage()
            self._usage_changed = True
        return self._usage

    def keywords_changed(self, folder: Folder) -> None:
        """A keyword was added: keep it, also where Dovecot looks for it."""
        folder.dirty = True
        self.index.sync_at_commit()
        self.note(Change(folder.id, "keywords", words=tuple(folder.keywords.names)))
        if folder.directory != MBOX:
            self.replace_file(f"{self.path(folder)}/{KEYWORDS}", print_keywords(folder.keywords.names))
            self.lists_agree(folder)

    def replace_file(self, path: str, data: bytes, sync: bool = False) -> None:
        """Put a small file in place of an older one."""
        temporary = f"{path}.{self.names.stem()}"
        descriptor = self.files.open(temporary)
        try:
            try:
                self.files.write(descriptor, (data,))
                if sync:
                    self.files.fsync(descriptor)
            finally:
                self.files.close(descriptor)
            self.files.rename(temporary, path)
        except OSError:
            try:
                self.files.unlink(temporary)
            except OSError:
                pass  # it was renamed, or the disk is beyond us; the first error says why
            raise
        if sync:
            self.files.fsync_directory(os.path.dirname(path))

    def file_bits(self, folder: Folder, info: str) -> int:
        """The flags that a file's name carries; letters without a word of ours mean nothing."""
        return maildir.info_bits(info) & ((1 << (FIRST_KEYWORD_BIT + len(folder.keywords.names))) - 1)

    def allocate(self, folder: Folder, count: int) -> int:
        """New UIDs; a uidlist that would promise one of them to somebody else goes first."""
        if folder.mirrored and folder.uid_next + count > folder.mirrored:
            self.drop_mirror(folder)
        return self.index.allocate(folder, count)

    def drop_mirror(self, folder: Folder) -> None:
        """Our uidlist is no longer true: without it another index would not trust its UIDs."""
        path = self.path(folder)
        try:
            self.files.unlink(f"{path}/{UIDLIST}")
            self.files.fsync_directory(path)
        except FileNotFoundError:
            pass
        folder.mirrored = 0
        folder.dirty = True
        self.lists_agree(folder)

    def list_stamps(self, folder: Folder) -> tuple[str, ...]:
        """What tells the uidlist and the keywords file, as they are now, from any later ones."""
        return tuple(_stamp(f"{self.path(folder)}/{name}") for name in (UIDLIST, KEYWORDS))

    def lists_agree(self, folder: Folder, uid_next: int = 0) -> None:
        """The files of other servers say what the index says; the uidlist up to that UID, 0 for as before."""
        stamps = self.lists[folder.id] = self.list_stamps(folder)
        self.index.note_lists(folder, stamps, uid_next or self.index.lists_seen(folder)[1])

    # -- messages ----------------------------------------------------------------------------------

    def arrived(self, arrivals: Sequence[Arrived]) -> list[int]:
        """Give UIDs to files that we put there; 0 for one whose folder is gone."""
        uids: list[int] = []
        by_folder: dict[int, tuple[list[Row], list[tuple[Any, ...]]]] = {}
        bases: dict[str, list[str]] = {}
        for one in arrivals:
            bases.setdefault(one.directory, []).append(one.base)
        folders = {directory: self._folder_of(directory) for directory in bases}
        seen = {
            directory: self.index.known(folder, bases[directory])
            for directory, folder in folders.items()
            if folder is not None
        }
        for one in arrivals:
            folder = folders[one.directory]
            if folder is None:
                uids.append(0)
                continue
            known = self.index.by_base(folder, one.base) if one.base in seen[one.directory] else None
            if known is not None:  # a scan was quicker
                uids.append(known.uid)
                if one.copy is not None and self.index.wire_of(folder, known.uid) is None:
                    self.complete(folder, known, one.copy.octets, one.internal_date)
                continue
            rows, wires = by_folder.setdefault(folder.id, ([], []))
            uid = self.allocate(folder, 1)
            modseq = rows[0].modseq if rows else self.index.next_modseq(folder)
            name_id = maildir.message_id(one.base)
            rows.append(
                Row(
                    uid,
                    one.base,
                    one.place,
                    one.info,
                    modseq,
                    one.bits,
                    one.size,
                    one.internal_date,
                    one.save_date,
                    name_id,
                )
            )
            if one.dated:
                os.utime(f"{self.path(folder)}/cur/{one.base}{one.info}", (one.internal_date,) * 2)
            if one.copy is not None:
                wires.append(wire_row(folder.key(uid), one.copy.summary()))
            self.count(one.size, 1)
            uids.append(uid)
        for number, (rows, wires) in by_folder.items():
            folder = self.known(number)
            self.add(folder, rows)
            if wires:
                self.index.add_wire(wires)
        return uids

    def add(self, folder: Folder, rows: Sequence[Row]) -> None:
        """New rows, noted as one change."""
        if rows:
            self.index.add(folder, rows)
            self.note(
                Change(
                    folder.id,
                    "added",
                    tuple(row.uid for row in rows),
                    rows[-1].modseq,
                    tuple(row.flags for row in rows),
                )
            )

    def _folder_of(self, directory: str) -> Folder | None:
        from lorrainemail.store.sync import adopt, look_at_lists

        folder = self.index.folders().get(directory)
        if folder is not None and folder.id not in self.lists and not look_at_lists(self, folder):
            folder = None
        if folder is None and os.path.isdir(self.folder_path(directory) + "/cur"):
            folder = adopt(self, directory)
        return folder

    def complete(self, folder: Folder, row: Row, data: bytes, internal_date: int) -> Row:
        """Note what the message's octets say."""
        self.index.add_wire([wire_row(folder.key(row.uid), summarize(data[:MAX_SUMMARISED]))])
        if row.size != len(data) or row.internal_date < 0:  # a file's name may tell a wrong size
            self.count(len(data) - max(row.size, 0), 0)
            row = attrs.evolve(row, size=len(data), internal_date=internal_date)
            self.index.complete(folder, row.uid, row.size, internal_date)
        return row

    def look_at_all(self, folder: Folder, rows: Sequence[Row]) -> None:
        """Read messages for their facts, where they are not known yet; those that are gone stay unknown."""
        wires: list[tuple[Any, ...]] = []
        completed: list[tuple[int, int, int]] = []
        directory = self.path(folder)
        for row in rows:
            try:
                date, data = self._read(folder, directory, row)
            except Exception as error:
                if not _is_gone(error):
                    raise
                continue
            wires.append(wire_row(folder.key(row.uid), summarize(data[:MAX_SUMMARISED])))
            if row.size != len(data) or row.internal_date < 0:  # a file's name may tell a wrong size
                self.count(len(data) - max(row.size, 0), 0)
                completed.append((len(data), date, folder.key(row.uid)))
        self.index.add_wire(wires)
        self.index.complete_all(completed)

    def _read(self, folder: Folder, directory: str, row: Row) -> tuple[int, bytes]:
        """A message's internal date and octets."""
        try:
            path = f"{directory}/{row.file}"
            data, date = read_dated(path, _raw(row))
        except (FileNotFoundError, NotAMessage):
            path, row = self.locate(folder, row)
            data, date = read_dated(path, _raw(row))
        return row.internal_date if row.internal_date >= 0 else date, data

    def locate(self, folder: Folder, row: Row) -> tuple[str, Row]:
        """Where the message's file is now.

        :raises PermanentError: where it is gone.
        """
        directory = self.path(folder)
        path = f"{directory}/{row.file}"
        if maildir.is_message(path):
            return path, row
        found = maildir.find(directory, row.base)
        if found is None:
            folder.new_seen = folder.cur_seen = 0
            folder.dirty = True
            raise gone()
        row = self.seen_elsewhere(folder, row, found)
        return f"{directory}/{row.file}", row

    def seen_elsewhere(self, folder: Folder, row: Row, found: maildir.Found) -> Row:
        """Another program renamed the file: take its flags."""
        bits = self.file_bits(folder, found.info) | row.flags & ~IN_NAME
        if bits == row.flags:
            self.index.move_file(folder, row.uid, found.place, found.info)
            return attrs.evolve(row, place=found.place, info=found.info)
        modseq = self.index.next_modseq(folder)
        self.index.change(folder, [(row.uid, bits, found.place, found.info)], modseq)
        self.note(Change(folder.id, "flags", (row.uid,), modseq, (bits,)))
        return attrs.evolve(row, place=found.place, info=found.info, flags=bits, modseq=modseq)

    def facts(self, number: int, uids: Sequence[int], wire: bool) -> list[MessageFacts]:
        """Index rows in the order asked; what is not known yet is looked at."""
        if wire:
            return self._wire_facts(number, uids)
        folder = self.known(number)
        found = self.index.facts(folder, uids)
        wanted = set(uids)
        unknown = [
            Row(*row) for row in found.values() if (row[SIZE] < 0 or row[SIZE + 1] < 0) and row[0] in wanted
        ]
        if unknown:
            self.look_at_all(folder, unknown)
            found.update(self.index.facts(folder, [row.uid for row in unknown]))
        words = folder.keywords.names_of
        others = self.given_uidls() if folder.directory == "" else None
        out: list[MessageFacts] = []
        for row in map(found.get, uids):
            if row is None or row[SIZE] < 0:
                continue  # gone meanwhile
            uid, base, _, _, modseq, flags, size, date, saved, message_id = row
            unique = "" if others is None else others.of(uid, folder.uid_validity)
            if not unique:
                unique = maildir.unique_id(base) if ",E=" in base else message_id
            out.append(
                MessageFacts(uid, modseq, words(flags), size, date, saved, message_id, unique_id=unique)
            )
        return out

    def given_uidls(self) -> GivenUidls:
        """What POP3 clients know INBOX's messages by from another server; read once."""
        if self.uidls is None:
            try:
                with open(f"{self.folder_path('')}/{FILE}", encoding="ascii", errors="replace") as file:
                    self.uidls = GivenUidls.parse(file.read(MAX_FILE))
            except OSError:
                pass
            if self.uidls is None:
                self.uidls = GivenUidls()
        return self.uidls

    def _wire_facts(self, number: int, uids: Sequence[int]) -> list[MessageFacts]:
        """The same with ENVELOPE and BODYSTRUCTURE."""
        folder = self.known(number)
        found = self.index.wire_facts(folder, uids)
        unknown = [uid for uid, row in found.items() if row[7] is None or row[3] < 0 or row[4] < 0]
        if unknown:
            wanted = set(uids)
            rows = self.index.facts(folder, unknown)
            self.look_at_all(folder, [Row(*rows[uid]) for uid in unknown if uid in wanted])
            found.update(self.index.wire_facts(folder, unknown))
        words = folder.keywords.names_of
        return [
            MessageFacts(row[0], row[1], words(row[2]), *row[3:])
            for row in map(found.get, uids)
            if row is not None and row[7] is not None
        ]

    def columns(self, number: int, uids: Sequence[int], names: Sequence[Column]) -> list[tuple[Any, ...]]:
        """(uid, and what the names say) in the order asked; what is not known yet is looked at."""
        folder = self.known(number)
        found = self.index.columns(folder, uids, names)
        if len(found) == len(uids):
            return found
        unknown = set(uids).difference([row[0] for row in found])
        rows = self.index.facts(folder, sorted(unknown))
        self.look_at_all(folder, [Row(*row) for uid, row in rows.items() if uid in unknown])
        return self.index.columns(folder, uids, names)

    def candidates(
        self, number: int, field: Literal["envelope", "references"], words: Sequence[bytes]
    ) -> Generator[None, None, list[int]]:
        """UIDs of messages that may hold all these words in those fields."""
        column, unsure = ("envelope", UNSURE_ENVELOPE) if field == "envelope" else ("refs", UNSURE_REFERENCES)
        found: list[int] = []
        for first in range(1, self.known(number).uid_next, SEARCHED):
            folder = self.known(number)
            found += self.index.candidates(folder, column, words, unsure, first, first + SEARCHED - 1)
            yield
        return found

    def expunged_since(self, number: int, since: int) -> list[int] | None:
        """UIDs expunged after that MODSEQ, None where that is not known."""
        return self.index.expunged_since(self.known(number), since)

    def open_message(self, number: int, uid: int) -> bytes | LargeFile:
        """A message's octets where it is small, else its file.

        :raises PermanentError: where it is gone.
        """
        folder = self.known(number)
        row = self.index.row(folder, uid)
        if row is None:
            raise gone()
        for _ in range(3):
            path, row = self.locate(folder, row)
            try:
                if max(row.size, os.stat(path).st_size) <= SMALL:
                    return read_whole(path, _raw(row))
                descriptor = open_file(path)
            except FileNotFoundError:
                continue  # renamed this very moment
            try:
                return LargeFile(descriptor, _raw(row))
            except BaseException:
                os.close(descriptor)
                raise
        raise gone()

    def at_hand(self, number: int, uid: int) -> bytes | None:
        """A small message's octets where nothing has to be waited for, None where it has to be opened.

        The one method for the reactor's thread, and only while the strand is idle: a thread's turn would cost
        several times what this does.
        """
        if self._index is None:
            return None
        try:
            folder = self._index.folder(number)
            row = None if folder is None else self._index.row(folder, uid)
        except sqlite3.Error:
            return None
        if folder is None or row is None or row.size > AT_HAND:
            return None
        return read_at_hand(f"{self.path(folder)}/{row.file}", _raw(row))

    def opened(self, name: str) -> Opened:
        """What a mailbox begins with."""
        return self.opening(self.present(name), canonical_name(name))

    def opening(self, folder: Folder, name: str) -> Opened:
        """The same of a folder that is known."""
        return Opened(
            folder.id,
            name,
            folder.mailbox_id,
            folder.uid_validity,
            folder.uid_next,
            folder.modseq,
            folder.recent,
            tuple(folder.keywords.names),
            self.index.view(folder),
        )

    def forget(self, folders: Iterable[Folder]) -> None:
        """Believe nothing of the last scan of these."""
        for folder in folders:
            folder.new_seen = folder.cur_seen = 0
            folder.dirty = True


def _stamp(path: str) -> str:
    try:
        facts = os.lstat(path)
    except OSError:
        return "-"
    return f"{facts.st_ino}.{facts.st_size}.{facts.st_mtime_ns}"


def _raw(row: Row) -> bool:
    return ",C=1" in row.base


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError) or getattr(error, "detail", "") == "EXPUNGEISSUED"


def wire_row(key: int, summary: Summary) -> tuple[Any, ...]:
    """A row of ``wire``."""
    return (
        key,
        summary.envelope,
        summary.structure,
        summary.header_octets,
        summary.sent,
        summary.base_subject,
        summary.message_id,
        summary.in_reply_to,
        b" ".join(summary.references),
        summary.marks,
    )
