"""What sessions do to messages: flags, expunge, copy, move, taking new ones in.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs, long ones in slices (they are
generators). The file comes first, the index after it: a crash between the two is healed by the next scan.
Deletions and copies are synced before they are answered; flags are not, as in other Maildir programs.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import Final, Literal

import attrs

from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import StoreResult
from lorrainemail.store import maildir
from lorrainemail.store.flags import IN_NAME
from lorrainemail.store.index import Folder, Row
from lorrainemail.store.sync import COPYING, PART, forget
from lorrainemail.store.tree import Change, Tree

#: Messages of one slice.
SLICE: Final = 200
#: How often a rename follows a file that other programs rename meanwhile.
CHASES: Final = 4

Operation = Literal["add", "remove", "set"]
Retag = Callable[[int], int]


def change_flags(
    tree: Tree,
    number: int,
    uids: Sequence[int],
    operation: Operation,
    flags: Sequence[str],
    unchanged_since: int | None,
) -> Generator[None, None, StoreResult]:
    """Change flags in file names and index."""
    if operation == "remove":
        bits = tree.known(number).keywords.bits_of(flags, create=False)
    else:
        bits = flag_bits(tree, number, flags)
    changed: list[int] = []
    modified: list[int] = []
    for start in range(0, len(uids), SLICE):
        folder = tree.known(number)
        _change_slice(
            tree,
            folder,
            uids[start : start + SLICE],
            retag(operation, bits),
            unchanged_since,
            changed,
            modified,
        )
        if start + SLICE < len(uids):
            yield
    return StoreResult(tuple(changed), tuple(modified))


def flag_bits(tree: Tree, number: int, flags: Sequence[str]) -> int:
    """The bits of flags that a new message is to have; new keywords are kept."""
    folder = tree.known(number)
    before = len(folder.keywords.names)
    bits = folder.keywords.bits_of(flags)
    if len(folder.keywords.names) != before:
        tree.keywords_changed(folder)
    return bits


def retag(operation: Operation, bits: int) -> Retag:
    """What an operation makes of a message's flags."""
    if operation == "add":
        return lambda old: old | bits
    if operation == "remove":
        return lambda old: old & ~bits
    return lambda old: bits


def _change_slice(
    tree: Tree,
    folder: Folder,
    uids: Sequence[int],
    change: Retag,
    unchanged_since: int | None,
    changed: list[int],
    modified: list[int],
) -> None:
    updates: list[tuple[int, int, int, str]] = []
    mine: list[int] = []
    found = tree.index.facts(folder, uids)
    cur = tree.path(folder) + "/cur/"
    rename = tree.files.rename
    for uid in uids:
        row = found.get(uid)
        if row is None:
            continue
        _, base, place, info, modseq, before, *_ = row
        if unchanged_since is not None and modseq > unchanged_since:
            modified.append(uid)
            continue
        bits = change(before)
        wanted = _info_for(bits & IN_NAME, info)
        if place == 1 and bits != before:  # the common case, without ceremony: there are many
            try:
                if wanted != info:
                    rename(f"{cur}{base}{info}", f"{cur}{base}{wanted}")
                updates.append((uid, bits, 1, wanted))
                mine.append(uid)
                continue
            except FileNotFoundError:
                pass
        after = rename_for(tree, folder, Row(*row), change)
        if after is not None and after.flags != before:
            updates.append((uid, after.flags, after.place, after.info))
            mine.append(uid)
        elif after is not None and (after.place, after.info) != (place, info):
            tree.index.move_file(folder, uid, after.place, after.info)
    if updates:
        modseq = tree.index.next_modseq(folder)
        tree.index.change(folder, updates, modseq)
        tree.note(Change(folder.id, "flags", tuple(mine), modseq, tuple(u[1] for u in updates)))
        changed += mine


@lru_cache(maxsize=4096)
def _info_for(bits: int, old: str) -> str:
    return maildir.make_info(bits, old)


def rename_for(tree: Tree, folder: Folder, row: Row, change: Retag) -> Row | None:
    """Give the message's file the name that its new flags ask for, in cur/; None where it is gone.

    Where another program renamed it meanwhile, its flags are read again and ours are applied to those.
    """
    directory = tree.path(folder)
    for _ in range(CHASES):
        bits = change(row.flags)
        if bits == row.flags and row.place == 0:
            return row  # nothing to say: it may stay in new/
        info = maildir.make_info(bits & IN_NAME, row.info)
        if row.place == 1 and info == row.info:
            return attrs.evolve(row, flags=bits)
        try:
            tree.files.rename(f"{directory}/{row.file}", f"{directory}/cur/{row.base}{info}")
            return attrs.evolve(row, flags=bits, place=1, info=info)
        except FileNotFoundError:
            found = maildir.find(directory, row.base)
            if found is None:
                tree.forget([folder])
                return None
            theirs = tree.file_bits(folder, found.info) | row.flags & ~IN_NAME
            row = attrs.evolve(row, flags=theirs, place=found.place, info=found.info)
    return None


def take_in(tree: Tree, number: int, uids: Sequence[int]) -> Generator[None, None, None]:
    """A session has seen them: from new/ to cur/, and no longer recent."""
    folder = tree.known(number)
    if uids and max(uids) > folder.recent:
        folder.recent = max(uids)
        folder.dirty = True
    for start in range(0, len(uids), SLICE):
        folder = tree.known(number)
        directory = tree.path(folder)
        for uid in uids[start : start + SLICE]:
            row = tree.index.row(folder, uid)
            if row is None or row.place == 1:
                continue
            info = maildir.make_info(row.flags & IN_NAME)
            try:
                tree.files.rename(f"{directory}/{row.file}", f"{directory}/cur/{row.base}{info}")
            except FileNotFoundError:
                continue  # another program was quicker; the next scan sees what it did
            tree.index.move_file(folder, uid, 1, info)
        if start + SLICE < len(uids):
            yield


def expunge(tree: Tree, number: int, uids: Sequence[int]) -> Generator[None, None, tuple[int, ...]]:
    """Remove messages for good; each slice is synced before it is announced."""
    removed: list[int] = []
    for start in range(0, len(uids), SLICE):
        folder = tree.known(number)
        rows = [
            row for uid in uids[start : start + SLICE] if (row := tree.index.row(folder, uid)) is not None
        ]
        mine: list[int] = []
        try:
            for row in rows:
                _unlink(tree, folder, row)
                mine.append(row.uid)
        finally:
            # Also where one of them failed: what is unlinked is gone.
            _sync_places(tree, folder, rows)
            forget(tree, folder, mine)
            removed += mine
        tree.index.prune(folder)
        if start + SLICE < len(uids):
            yield
    return tuple(removed)


def _unlink(tree: Tree, folder: Folder, row: Row) -> None:
    """Remove the message's file, wherever other programs renamed it to."""
    directory = tree.path(folder)
    for _ in range(CHASES):
        try:
            tree.files.unlink(f"{directory}/{row.file}")
            return
        except FileNotFoundError:
            found = maildir.find(directory, row.base)
            if found is None:
                return
            row = attrs.evolve(row, place=found.place, info=found.info)
    raise OSError(errno.EBUSY, "the file is renamed again and again", row.base)


def _sync_places(tree: Tree, folder: Folder, rows: Sequence[Row]) -> None:
    directory = tree.path(folder)
    for place in {row.place for row in rows}:
        tree.files.fsync_directory(directory + ("/cur" if place else "/new"))


def copy(
    tree: Tree, number: int, uids: Sequence[int], target: int, move: bool
) -> Generator[None, None, list[tuple[int, int]]]:
    """Copy all or none of the messages that are still there, or move each of them (:func:`_move`).

    Several copies are linked in a directory beside the folder's own, which is renamed when it is whole; so a
    server that ends in between leaves all or none of them (:func:`lorrainemail.store.sync.finish_copies`).
    """
    if move:
        return (yield from _move(tree, number, uids, target))
    source = tree.known(number)
    into = tree.known(target)
    rows: list[Row] = []
    made: list[Row] = []
    path = tree.path(into)
    whole = f"{path}/{COPYING}{tree.names.stem()}" if len(uids) > 1 else ""
    place = whole + PART if whole else f"{path}/cur"
    try:
        if whole:
            tree.files.mkdir(place)
        for start in range(0, len(uids), SLICE):
            source, into = tree.known(number), tree.known(target)
            for uid in uids[start : start + SLICE]:
                row = tree.index.row(source, uid)
                if row is not None:
                    made.append(_link(tree, source, into, row, place))
                    rows.append(row)
            if start + SLICE < len(uids):
                yield
        if whole:
            yield from _publish(tree, path, whole, made)
        if made:
            tree.files.fsync_directory(f"{path}/cur")
    except BaseException:  # also when the batch is lost under us
        _undo(tree, path, whole, made)
        raise
    if whole:
        tree.files.rmdir(whole)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(made), SLICE):
        source, into = tree.known(number), tree.known(target)
        part = made[start : start + SLICE]
        first = tree.allocate(into, len(part))
        modseq = tree.index.next_modseq(into)
        numbered = [attrs.evolve(row, uid=first + index, modseq=modseq) for index, row in enumerate(part)]
        tree.add(into, numbered)
        step = [(old.uid, new.uid) for old, new in zip(rows[start : start + SLICE], numbered, strict=True)]
        tree.index.copy_wire((source.key(old), into.key(new)) for old, new in step)
        tree.count(sum(max(row.size, 0) for row in part), len(part))
        pairs += step
        if start + SLICE < len(made):
            yield
    return pairs


def _move(
    tree: Tree, number: int, uids: Sequence[int], target: int
) -> Generator[None, None, list[tuple[int, int]]]:
    """Rename each message into the other folder: at any moment, also after a crash, it is in one of the two,
    never in both (RFC 6851 §3.3). Where one fails, those before it have moved."""
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(uids), SLICE):
        source, into = tree.known(number), tree.known(target)
        rows: list[Row] = []
        made: list[Row] = []
        try:
            for uid in uids[start : start + SLICE]:
                row = tree.index.row(source, uid)
                if row is None:
                    continue
                try:
                    made.append(_rename_into(tree, source, into, row))
                except PermanentError:
                    continue  # another program removed it; the next scan sees that
                rows.append(row)
        except OSError as error:
            if error.errno != errno.EXDEV or made:
                raise
            # Folders on different file systems: a copy, and then the other goes.
            rest = uids[start:]
            copied = yield from copy(tree, number, rest, target, False)
            yield from expunge(tree, number, [old for old, _ in copied])
            return pairs + copied
        finally:
            if made:
                tree.files.fsync_directory(f"{tree.path(into)}/cur")  # a rename is one change: both ends
                pairs += _moved(tree, source, into, rows, made)
        if start + SLICE < len(uids):
            yield
    return pairs


def _moved(
    tree: Tree, source: Folder, into: Folder, rows: Sequence[Row], made: Sequence[Row]
) -> list[tuple[int, int]]:
    """The index hears of it."""
    first = tree.allocate(into, len(made))
    modseq = tree.index.next_modseq(into)
    numbered = [attrs.evolve(row, uid=first + index, modseq=modseq) for index, row in enumerate(made)]
    tree.add(into, numbered)
    pairs = [(old.uid, new.uid) for old, new in zip(rows, numbered, strict=True)]
    tree.index.copy_wire((source.key(old), into.key(new)) for old, new in pairs)
    tree.count(sum(max(row.size, 0) for row in made), len(made))
    forget(tree, source, [row.uid for row in rows])
    return pairs


def _publish(tree: Tree, path: str, whole: str, made: Sequence[Row]) -> Generator[None, None, None]:
    """The copies are all there: let it be known that they are, then put them in their place."""
    tree.files.fsync_directory(whole + PART)
    tree.files.rename(whole + PART, whole)
    tree.files.fsync_directory(path)
    for count, row in enumerate(made, 1):
        tree.files.rename_new(f"{whole}/{row.base}{row.info}", f"{path}/{row.file}")
        if count % SLICE == 0:
            yield


def _undo(tree: Tree, path: str, whole: str, made: Sequence[Row]) -> None:
    """Remove every trace of copies that failed."""
    places = [whole + PART, whole, f"{path}/cur"] if whole else [f"{path}/cur"]
    for place in places:
        for row in made:
            try:
                tree.files.unlink(f"{place}/{row.base}{row.info}")
            except FileNotFoundError:
                continue
    for place in places[:-1]:
        try:
            tree.files.rmdir(place)
        except FileNotFoundError:
            continue


def _link(tree: Tree, source: Folder, into: Folder, row: Row, place: str) -> Row:
    """A second name for the message's file in that directory; its row in the other folder, without UID."""
    copied = _row_in(tree, source, into, row)
    final = f"{place}/{copied.base}{copied.info}"
    for attempt in range(CHASES):
        path, row = tree.locate(source, row)
        try:
            _link_or_copy(tree, path, final)
            break
        except FileNotFoundError:
            if attempt == CHASES - 1 or not os.path.isdir(os.path.dirname(final)):
                raise
    return copied


def _rename_into(tree: Tree, source: Folder, into: Folder, row: Row) -> Row:
    """Another name, in the other folder; its row there, without UID."""
    moved = _row_in(tree, source, into, row)
    final = f"{tree.path(into)}/{moved.file}"
    for attempt in range(CHASES):
        path, row = tree.locate(source, row)
        try:
            tree.files.rename_new(path, final)
            break
        except FileNotFoundError:
            if attempt == CHASES - 1 or not os.path.isdir(os.path.dirname(final)):
                raise
    return moved


def _row_in(tree: Tree, source: Folder, into: Folder, row: Row) -> Row:
    """A message's row as it is to be in the other folder, in cur/, without UID."""
    words = source.keywords.names_of(row.flags)
    before = len(into.keywords.names)
    bits = into.keywords.bits_of(words)
    if len(into.keywords.names) != before:
        tree.keywords_changed(into)
    base = tree.names.stem() + "".join(
        f",{key}={value}" for key, value in maildir.fields(row.base).items() if key != "E"
    )
    base += f",E={row.message_id}"  # RFC 8474 §5.1: the copy is the same message
    info = maildir.make_info(bits & IN_NAME)
    return attrs.evolve(
        row,
        base=base,
        place=1,
        info=info,
        flags=bits,
        save_date=tree.now(),
        message_id=maildir.message_id(base),
    )


def _link_or_copy(tree: Tree, path: str, final: str) -> None:
    """A hard link; a copy where the file system or the file's link count does not allow one."""
    try:
        tree.files.link(path, final)
        return
    except OSError as error:
        if error.errno not in (errno.EMLINK, errno.EPERM, errno.ENOTSUP, errno.EXDEV):
            raise
    temporary = os.path.join(os.path.dirname(os.path.dirname(final)), "tmp", os.path.basename(final))
    descriptor = tree.files.open(temporary)
    try:
        with open(path, "rb") as original:
            while chunk := original.read(1 << 20):
                tree.files.write(descriptor, (chunk,))
        tree.files.fsync(descriptor)
    except BaseException:
        tree.files.close(descriptor)
        tree.files.unlink(temporary)
        raise
    tree.files.close(descriptor)
    shutil.copystat(path, temporary)
    tree.files.rename_new(temporary, final)
