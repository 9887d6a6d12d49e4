"""What other programs did to a folder: adoption at first sight, complete scans, single names.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs. The rules: a file without a UID gets
one, in order of arrival; a file's flags win over the index's; and a UID is expunged only when its base name
was absent from two complete scans of new/ and cur/, with no change of the two directories during the second
(a directory being read while files move in it may show a file under neither name).
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Final

from twisted.logger import Logger

from lorrainemail.errors import MailError
from lorrainemail.store import maildir
from lorrainemail.store.dovecot import (
    COURIER_UIDS,
    KEYWORDS,
    MAX_UIDLIST,
    UIDLIST,
    UidList,
    parse_keywords,
    parse_uidlist,
    print_lines,
    print_uidlist,
)
from lorrainemail.store.flags import IN_NAME, MAX_KEYWORD, MAX_KEYWORDS
from lorrainemail.store.index import MAX_UID, SIZE, Folder, Row
from lorrainemail.store.tree import Change, Tree
from lorrainemail.store.uidls import COURIER_SIZES, FILE, MAX_FILE, GivenUidls, parse_courier, parse_dovecot

#: Messages that one slice gives UIDs to.
SLICE: Final = 2000
#: Attempts at a scan during which nothing moves; then the question waits for the next look.
STABLE_SCANS: Final = 3
#: The kernel's clock for mtimes is coarse; a change within one tick of the last one would not show.
_TICK_NS: Final = 25_000_000
#: A directory beside new/ and cur/ in which a copy of several messages is made, until it is whole, and then.
COPYING: Final = "lorrainemail-copy."
PART: Final = ".part"
#: Octets of dovecot-keywords that are read.
_MAX_KEYWORDS_FILE: Final = 64 * 1024

_log = Logger("lorrainemail.store")


def adopt(tree: Tree, directory: str) -> Folder:
    """The row of a folder that has none yet, with the UIDs and keywords that Dovecot or an earlier index of
    ours left beside the mail. Its messages get their rows here too."""
    path = tree.folder_path(directory)
    finish_copies(tree, path)
    words = _keywords_beside(path)
    theirs = _read(f"{path}/{UIDLIST}", MAX_UIDLIST)
    listed = parse_uidlist(theirs)
    couriers = listed is None
    if couriers:
        listed = parse_uidlist(_read(f"{path}/{COURIER_UIDS}", MAX_UIDLIST))
        if listed is not None:
            _log.info("{path}: took over the UIDs that Courier gave", path=path)
    seen = maildir.scan(path)
    if listed is None or listed.uid_next > MAX_UID - len(seen.files):
        folder = tree.index.add_folder(directory, tree.now(), keywords=words)
        listed = UidList(folder.uid_validity, 1, {})
    else:
        folder = tree.index.add_folder(directory, tree.now(), listed.uid_validity, listed.uid_next, words)
        folder.mirrored = 0 if couriers else listed.uid_next  # of Courier's we write one of our own
        # HIGHESTMODSEQ never falls, and how far the lost index had come is not known.
        folder.modseq = folder.modseq_reserved = tree.now() * 1000
        folder.dirty = True
    old = [base for base in seen.files if base in listed.uids]
    if old:
        old.sort(key=listed.uids.__getitem__)
        modseq = tree.index.next_modseq(folder)
        uids = [listed.uids[base] for base in old]
        _add(tree, folder, old, uids, seen, modseq)
        folder.recent = uids[-1]
        folder.dirty = True
    new = sorted((base for base in seen.files if base not in listed.uids), key=maildir.arrival)
    if directory == "" and old and not couriers:
        _keep_uidls(tree, folder, path, theirs)  # before new UIDs, for which the list may have to go
    if new:
        first = tree.allocate(folder, len(new))
        modseq = tree.index.next_modseq(folder)
        for start in range(0, len(new), SLICE):  # few objects at once: many cost their tidying up
            part = new[start : start + SLICE]
            _add(tree, folder, part, range(first + start, first + start + len(part)), seen, modseq)
    _note_scan(folder, seen)
    if directory == "":
        _keep_uidls(tree, folder, path, "")
    tree.lists_agree(folder, folder.uid_next)
    return folder


def _keep_uidls(tree: Tree, folder: Folder, path: str, uidlist: str) -> None:
    """Write down what POP3 clients know the messages by from another server, once in the life of a tree.

    :param uidlist: Dovecot's, "" for none.
    """
    if os.path.lexists(f"{path}/{FILE}"):
        return
    given = parse_courier(_read(f"{path}/{COURIER_SIZES}", MAX_FILE))
    by_base = {**given, **parse_dovecot(uidlist)}
    names = tree.index.names(folder) if by_base else {}
    by_uid = {names[base][0]: unique for base, unique in by_base.items() if base in names}
    # Courier calls its IMAP UIDs by a list of its own; a tree that has both was Courier's at last.
    kept = GivenUidls(folder.uid_validity, folder.uid_next, bool(uidlist) and not given, by_uid)
    tree.uidls = kept
    try:
        tree.replace_file(f"{path}/{FILE}", kept.printed(), sync=folder.uid_next > 1)
    except OSError as error:
        _log.warn("{path}: what POP3 clients know was not written down: {error}", path=path, error=str(error))


def look_at_lists(tree: Tree, folder: Folder) -> bool:
    """Take in what another server wrote beside the mail since we last looked, a Dovecot that served the tree
    while we did not: its UIDs, where they continue ours, and its keywords. Where its UIDs contradict ours the
    folder begins anew with a higher UIDVALIDITY. Whether the folder's row is still there."""
    stamps = tree.list_stamps(folder)
    before = tree.lists.get(folder.id)
    if before == stamps:
        return True
    path = tree.path(folder)
    if before is None:
        finish_copies(tree, path)
        before, _ = tree.index.lists_seen(folder)
        if before == stamps:
            tree.lists[folder.id] = stamps
            return True
    if before[1:] != stamps[1:]:
        _take_keywords(tree, folder, _keywords_beside(path))
    if before[:1] == stamps[:1]:
        tree.lists_agree(folder)
        return True
    if not _take_uids(tree, folder, path):
        return False
    tree.lists_agree(folder, folder.uid_next)
    return True


def _take_uids(tree: Tree, folder: Folder, path: str) -> bool:
    listed = parse_uidlist(_read(f"{path}/{UIDLIST}", MAX_UIDLIST))
    folder.mirrored = 0
    folder.dirty = True
    if listed is None:
        return True  # none, or none to be trusted: ours is written in its place
    names = tree.index.names(folder)
    given = {uid for uid, _, _ in names.values()}
    unknown = {base: uid for base, uid in listed.uids.items() if base not in names}
    seen = maildir.scan(path) if unknown else maildir.Scan({}, 0, 0, False)
    new = sorted((base for base in unknown if base in seen.files), key=unknown.__getitem__)
    if (
        listed.uid_validity != folder.uid_validity
        or listed.uid_next > MAX_UID - len(seen.files)
        or any(names[base][0] != uid for base, uid in listed.uids.items() if base in names)
        or not given.isdisjoint(unknown.values())
        or any(tree.index.was_expunged(folder, unknown[base]) for base in new)
    ):
        _log.warn(
            "{path}: another server gave UIDs that contradict those given here; UIDVALIDITY rises, and "
            "clients fetch the folder again",
            path=path,
        )
        if listed.uid_validity <= folder.uid_validity:
            tree.drop_mirror(folder)
        tree.lost(folder)
        return False
    tree.index.advance(folder, listed.uid_next)
    if new:
        _log.info("{path}: took over {count} UIDs of another server", path=path, count=len(new))
        _add(tree, folder, new, [unknown[base] for base in new], seen, tree.index.next_modseq(folder))
    folder.mirrored = listed.uid_next
    if not names.keys() <= listed.uids.keys():
        tree.drop_mirror(folder)  # it lacks some of ours
    return True


def _take_keywords(tree: Tree, folder: Folder, theirs: Sequence[str]) -> None:
    """Keywords behind ours: the same letters mean the same words, or the file is not believed."""
    ours = folder.keywords.names
    shared = min(len(ours), len(theirs))
    if [word.lower() for word in theirs[:shared]] != [word.lower() for word in ours[:shared]]:
        _log.warn("{path}: the keywords there are not ours; not used", path=tree.path(folder))
        return
    try:
        for word in theirs[shared:]:
            folder.keywords.add(word)
    except MailError:
        pass  # a word that can be none here: its letter and those behind it mean nothing to us
    if len(ours) == shared:
        return
    folder.dirty = True
    tree.index.sync_at_commit()
    tree.note(Change(folder.id, "keywords", words=tuple(ours)))
    found = {base: maildir.Found(place, info) for base, (_, place, info) in tree.index.names(folder).items()}
    _take_names(tree, folder, found, maildir.Scan(found, 0, 0, False))


def _keywords_beside(path: str) -> list[str]:
    words = parse_keywords(_read(f"{path}/{KEYWORDS}", _MAX_KEYWORDS_FILE))
    return [word for word in words[:MAX_KEYWORDS] if len(word) <= MAX_KEYWORD]


def finish_copies(tree: Tree, path: str) -> None:
    """Copies of several messages that the end of an earlier run interrupted: those that were whole are
    completed, the others leave nothing."""
    try:
        found = [name for name in os.listdir(path) if name.startswith(COPYING)]
    except FileNotFoundError:
        return
    for name in found:
        for file in os.listdir(f"{path}/{name}"):
            if name.endswith(PART):
                tree.files.unlink(f"{path}/{name}/{file}")
                continue
            try:
                tree.files.rename_new(f"{path}/{name}/{file}", f"{path}/cur/{file}")
            except FileExistsError:
                tree.files.unlink(f"{path}/{name}/{file}")
        tree.files.fsync_directory(f"{path}/cur")
        tree.files.rmdir(f"{path}/{name}")


def refresh(tree: Tree, number: int, force: bool = False) -> Generator[None, None, None]:
    """Bring the index up to date with the folder's directories; nothing is read where they did not change."""
    folder = tree.known(number)
    path = tree.path(folder)
    try:
        if not look_at_lists(tree, folder):
            return
        if not force and folder.new_seen and (folder.new_seen, folder.cur_seen) == maildir.mtimes(path):
            return
        seen = maildir.scan(path)
    except (FileNotFoundError, NotADirectoryError):
        tree.lost(folder)
        return
    names = tree.index.names(folder)
    missing = names.keys() - seen.files.keys()
    if missing:
        again = _scan_undisturbed(path)
        if again is None:
            seen = maildir.Scan(seen.files, 0, 0, False)  # the question stays open
            missing = set()
        else:
            missing -= again.files.keys()
            seen = again
    new = sorted(seen.files.keys() - names.keys(), key=maildir.arrival)
    moved = [
        base
        for base, found in seen.files.items()
        if base in names and names[base][1:] != (found.place, found.info)
    ]
    _take_names(tree, folder, moved, seen)
    gone = sorted(names[base][0] for base in missing)
    for start in range(0, len(gone), SLICE):
        folder = tree.known(number)
        forget(tree, folder, gone[start : start + SLICE])
        yield
    for start in range(0, len(new), SLICE):
        folder = tree.known(number)
        part = new[start : start + SLICE]
        first = tree.allocate(folder, len(part))
        modseq = tree.index.next_modseq(folder)
        _add(tree, folder, part, range(first, first + len(part)), seen, modseq)
        yield
    folder = tree.known(number)
    _note_scan(folder, seen)


def look_at_names(tree: Tree, number: int, names: Iterable[str]) -> bool:
    """Names that inotify told of: take in what is there. Answers whether a complete scan is needed."""
    folder = tree.known(number)
    path = tree.path(folder)
    scan_needed = False
    for name in names:
        base, info = maildir.split(name.partition("/")[2])
        place = int(name.startswith("cur/"))
        if not base or base.startswith(".") or len(base) > maildir.MAX_BASE:
            continue
        row = tree.index.by_base(folder, base)
        there = maildir.is_message(f"{path}/{name}")
        if row is None:
            if there:
                found = maildir.Scan({base: maildir.Found(place, info)}, 0, 0, False)
                uid = tree.allocate(folder, 1)
                _add(tree, folder, [base], [uid], found, tree.index.next_modseq(folder))
        elif there:
            if (row.place, row.info) != (place, info):
                tree.seen_elsewhere(folder, row, maildir.Found(place, info))
        elif (row.place, row.info) == (place, info):
            scan_needed = True
    return scan_needed


def forget(tree: Tree, folder: Folder, uids: Sequence[int]) -> None:
    """The messages are gone."""
    if not uids:
        return
    found = tree.index.facts(folder, uids)
    modseq = tree.index.next_modseq(folder)
    tree.index.expunge(folder, uids, modseq)
    tree.count(-sum(max(row[SIZE], 0) for row in found.values()), -len(found))
    tree.note(Change(folder.id, "expunged", tuple(uids), modseq))


def rest(tree: Tree, number: int) -> Generator[None, None, None]:
    """Nobody has the folder open any more: look at it where the last look cannot be relied on later, keep its
    view for the next opening, and its UIDs for other programs."""
    if not tree.known(number).new_seen:
        yield from refresh(tree, number)
    if tree.index.folder(number) is not None:
        mirror(tree, number)


def mirror(tree: Tree, number: int) -> None:
    """Write dovecot-uidlist, for other programs and for an index made anew; what is new since is appended."""
    folder = tree.known(number)
    if not look_at_lists(tree, folder):
        return
    tree.index.keep_view(folder)
    path = f"{tree.path(folder)}/{UIDLIST}"
    if folder.mirrored:
        _, listed = tree.index.lists_seen(folder)
        lines = print_lines(tree.index.rows_from(folder, listed))
        if not lines:
            return
        descriptor = tree.files.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            tree.files.write(descriptor, (lines,))
            tree.files.fsync(descriptor)
        finally:
            tree.files.close(descriptor)
    else:
        following = folder.uid_reserved + 1
        pairs = ((row.uid, row.base) for row in tree.index.rows(folder))
        data = print_uidlist(folder.uid_validity, following, folder.mailbox_id.ljust(32, "0"), pairs)
        tree.replace_file(path, data, sync=True)
        folder.mirrored = following
        folder.dirty = True
    tree.lists_agree(folder, folder.uid_next)


def _scan_undisturbed(path: str) -> maildir.Scan | None:
    """A complete scan during which the directories did not change, None where they will not rest."""
    for _ in range(STABLE_SCANS):
        age = time.time_ns() - max(maildir.mtimes(path))
        if 0 <= age < _TICK_NS:
            time.sleep((_TICK_NS - age) / 1e9)
        seen = maildir.scan(path)
        if seen.stable:
            return seen
    return None


def _add(
    tree: Tree, folder: Folder, bases: Sequence[str], uids: Sequence[int], seen: maildir.Scan, modseq: int
) -> None:
    now = tree.now()
    rows = []
    for uid, base in zip(uids, bases, strict=True):
        found = seen.files[base]
        size = maildir.wire_size(base)
        rows.append(
            Row(
                uid,
                base,
                found.place,
                found.info,
                modseq,
                tree.file_bits(folder, found.info),
                size,
                -1,
                now,
                maildir.message_id(base),
            )
        )
        tree.count(max(size, 0), 1)
    tree.add(folder, rows)


def _take_names(tree: Tree, folder: Folder, bases: Iterable[str], seen: maildir.Scan) -> None:
    """Files that have other names now: their flags win."""
    changed: list[tuple[int, int, int, str]] = []
    for base in bases:
        row = tree.index.by_base(folder, base)
        if row is None:
            continue
        found = seen.files[base]
        bits = tree.file_bits(folder, found.info) | row.flags & ~IN_NAME
        if bits == row.flags:
            tree.index.move_file(folder, row.uid, found.place, found.info)
        else:
            changed.append((row.uid, bits, found.place, found.info))
    if changed:
        changed.sort()
        modseq = tree.index.next_modseq(folder)
        tree.index.change(folder, changed, modseq)
        tree.note(
            Change(folder.id, "flags", tuple(c[0] for c in changed), modseq, tuple(c[1] for c in changed))
        )


def _note_scan(folder: Folder, seen: maildir.Scan) -> None:
    """Remember what was seen, where the directories' times can be believed."""
    believed = seen.stable and time.time_ns() - max(seen.new_mtime, seen.cur_mtime) > maildir.SETTLED_NS
    times = (seen.new_mtime, seen.cur_mtime) if believed else (0, 0)
    if times != (folder.new_seen, folder.cur_seen):
        folder.new_seen, folder.cur_seen = times
        folder.dirty = True


def _read(path: str, limit: int) -> str:
    """A small file of another program; "" where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit).decode("utf-8", "surrogateescape")
