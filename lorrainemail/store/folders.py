"""The folders of a home: list, create, delete, rename, status, subscriptions, special uses.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs. Maildir++ has no directory for a level
that holds no mail, so such parents are only shown. Subscriptions are in ``subscriptions`` beside the folders,
one a line with "." between levels, as Dovecot writes it for this layout; while that file is missing the home
was never opened, and it and the usual folders are made then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from typing import Final

from twisted.logger import Logger

from lorrainemail.interfaces import FolderFacts, FolderStatus
from lorrainemail.ops.files import make_directories
from lorrainemail.store import maildir
from lorrainemail.store.changes import copy
from lorrainemail.store.dovecot import COURIER_SUBSCRIPTIONS, parse_courier_subscriptions
from lorrainemail.store.failures import already_exists, cannot, limit, nonexistent
from lorrainemail.store.index import Folder
from lorrainemail.store.paths import MAX_DEPTH, canonical_name, folder_directory, folder_name
from lorrainemail.store.sync import adopt, refresh
from lorrainemail.store.tree import Change, Tree

#: The folders that every home has, with their special use (RFC 6154).
SPECIAL_FOLDERS: Final = (
    ("Archive", "\\Archive"),
    ("Drafts", "\\Drafts"),
    ("Junk", "\\Junk"),
    ("Sent", "\\Sent"),
    ("Trash", "\\Trash"),
)
#: RFC 6154 §2: what CREATE may ask for.
SPECIAL_USES: Final = frozenset(
    ("\\all", "\\archive", "\\drafts", "\\flagged", "\\junk", "\\sent", "\\trash")
)
#: Folders of one home.
MAX_FOLDERS: Final = 10_000
SUBSCRIPTIONS: Final = "subscriptions"
#: Messages that one slice looks at.
SLICE: Final = 100
#: Messages that one STATUS looks at for their size.
MAX_LOOKED: Final = 2000
_MAX_SUBSCRIPTIONS: Final = 4 << 20
#: Seconds after which a file in tmp/ is nobody's any more.
ABANDONED: Final = 36 * 3600
_STAGED: Final = re.compile(r"mbox\.[0-9]+\.M")
#: Directories of folders that are being deleted; swept at the next opening.
_DOOMED: Final = "..lorrainemail-doomed-"

_log = Logger("lorrainemail.store")


def furnish(tree: Tree) -> None:
    """Make what every home has, at its first opening."""
    if tree.furnished:
        return
    path = f"{tree.maildir}/{SUBSCRIPTIONS}"
    for name in os.listdir(tree.maildir):
        if name.startswith(_DOOMED):
            _remove(tree, f"{tree.maildir}/{name}")
    _sweep(tree)
    if not os.path.exists(path):
        names = ["INBOX"]
        for name, _use in SPECIAL_FOLDERS:
            make_directory(tree, folder_directory(name))
            names.append(name)
        write_subscriptions(
            tree, names + [name for name in _courier_subscriptions(tree) if name not in names]
        )
    tree.furnished = True


def _courier_subscriptions(tree: Tree) -> list[str]:
    """What a Courier that kept the tree before us knew of subscriptions."""
    try:
        with open(f"{tree.maildir}/{COURIER_SUBSCRIPTIONS}", encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_SUBSCRIPTIONS)
    except OSError:
        return []
    names = (folder_name("." + plain) for plain in parse_courier_subscriptions(text) if plain)
    return [name for name in names if name is not None][:MAX_FOLDERS]


def _sweep(tree: Tree) -> None:
    """Remove what deliveries that never ended left behind, as the Maildir format asks of readers."""
    limit = tree.now() - ABANDONED
    places = [f"{tree.maildir}/tmp", *(f"{tree.maildir}/{d}/tmp" for d in maildir.subfolders(tree.maildir))]
    paths = [f"{place}/{name}" for place in places if os.path.isdir(place) for name in os.listdir(place)]
    paths += [f"{tree.home}/{name}" for name in os.listdir(tree.home) if _STAGED.match(name)]
    for path in paths:
        try:
            if os.lstat(path).st_mtime < limit and maildir.is_message(path):
                tree.files.unlink(path)
        except FileNotFoundError:
            continue  # somebody else swept


def listing(tree: Tree) -> list[FolderFacts]:
    """Every folder, INBOX first, with the parents that have no mail of their own."""
    furnish(tree)
    subscribed = set(read_subscriptions(tree))
    rows = tree.index.folders()
    names: dict[str, bool] = {}
    uses: dict[str, tuple[str, ...]] = {}
    defaults = dict(SPECIAL_FOLDERS)
    for directory in maildir.subfolders(tree.maildir)[:MAX_FOLDERS]:
        name = folder_name(directory)
        if name is None:
            _log.info("folder {directory} has a name that cannot be shown", directory=directory)
            continue
        for end in [index for index, character in enumerate(name) if character == "/"]:
            names.setdefault(name[:end], False)
        names[name] = True
        row = rows.get(directory)
        if row is not None and row.special_use:
            uses[name] = tuple(row.special_use.split())
        elif name in defaults:
            uses[name] = (defaults[name],)
    taken = {use for row in rows.values() for use in row.special_use.split()}
    names.pop("INBOX", None)
    out = [FolderFacts("INBOX", True, "INBOX" in subscribed)]
    for name in sorted(names):
        use = uses.get(name, ())
        if use and use[0] in taken and not _own_use(rows.get(folder_directory(name))):
            use = ()  # somebody asked for another folder to serve
        out.append(FolderFacts(name, names[name], name in subscribed, use))
    return out


def _own_use(row: Folder | None) -> bool:
    return row is not None and bool(row.special_use)


def status(tree: Tree, name: str) -> Generator[None, None, FolderStatus]:
    """STATUS, after a cheap look at what others did."""
    furnish(tree)
    folder = tree.present(name)
    yield from refresh(tree, folder.id)
    return (yield from counts(tree, tree.present(name).id))


def counts(tree: Tree, number: int) -> Generator[None, None, FolderStatus]:
    """STATUS as the index knows it. Messages of other programs that nobody looked at yet are looked at for
    their size, up to a bound; those beyond it are left out of the size until a later call."""
    looked = 0
    seen: list[int] = []
    while looked < MAX_LOOKED:
        unknown = tree.index.unknown(tree.known(number), SLICE)
        if not unknown or unknown == seen:
            break  # all are known, or cannot be read now
        tree.facts(number, unknown, False)
        seen = unknown
        looked += len(unknown)
        yield
    folder = tree.known(number)
    messages, unseen, deleted, recent, octets, _ = tree.index.counts(folder)
    return FolderStatus(
        messages=messages,
        recent=recent,
        unseen=unseen,
        deleted=deleted,
        size=octets,
        uid_next=folder.uid_next,
        uid_validity=folder.uid_validity,
        highest_modseq=folder.modseq,
        mailbox_id=folder.mailbox_id,
    )


def usage(tree: Tree) -> Generator[None, None, tuple[int, int]]:
    """(octets, messages) of the whole home, newly looked at."""
    names = ["INBOX", *(folder_name(directory) or "" for directory in maildir.subfolders(tree.maildir))]
    for name in names:
        if name:
            yield from status(tree, name)
    return tree.counted()


def create(tree: Tree, name: str, special_use: Sequence[str]) -> None:
    """Make a folder and its missing parents."""
    furnish(tree)
    name = canonical_name(name)
    for use in special_use:
        if use.lower() not in SPECIAL_USES:
            raise cannot("no such special use")
    directory = folder_directory(name)
    if not directory or _exists(tree, directory):
        raise already_exists(name)
    _make_with_parents(tree, name)
    if special_use:
        folder = tree.index.folders().get(directory) or adopt(tree, directory)
        folder.special_use = " ".join(special_use)
        folder.dirty = True
        tree.index.sync_at_commit()


def delete(tree: Tree, name: str) -> None:
    """Delete a folder and its mail; folders below it stay."""
    name = canonical_name(name)
    directory = folder_directory(name)
    if not directory:
        raise cannot("INBOX cannot be deleted")
    if not _exists(tree, directory):
        if any(other.startswith(directory + ".") for other in maildir.subfolders(tree.maildir)):
            raise cannot("the folder only holds other folders")  # RFC 9051 §6.3.5
        raise nonexistent(name)
    doomed = f"{tree.maildir}/{_DOOMED}{tree.names.stem()}"
    tree.files.rename(f"{tree.maildir}/{directory}", doomed)
    tree.files.fsync_directory(tree.maildir)
    folder = tree.index.folders().get(directory)
    if folder is not None:
        tree.lost(folder)
    _remove(tree, doomed)


def rename(tree: Tree, old: str, new: str) -> Generator[None, None, None]:
    """Rename with everything below; INBOX gives its mail away and stays (RFC 3501 §6.3.5)."""
    furnish(tree)
    old, new = canonical_name(old), canonical_name(new)
    source, target = folder_directory(old), folder_directory(new)
    if not target or _exists(tree, target):
        raise already_exists(new)
    if not source:
        inbox = tree.present("INBOX")
        yield from refresh(tree, inbox.id)
        _make_with_parents(tree, new)
        into = tree.present(new)
        uids = [row.uid for row in tree.index.rows(tree.known(inbox.id))]
        yield from copy(tree, inbox.id, uids, into.id, True)
        return
    if new.startswith(old + "/"):
        raise cannot("a folder cannot go below itself")
    moving = [
        directory
        for directory in maildir.subfolders(tree.maildir)
        if directory == source or directory.startswith(source + ".")
    ]
    if not moving:
        raise nonexistent(old)
    renames = [(directory, target + directory[len(source) :]) for directory in moving]
    for _, directory in renames:
        name = folder_name(directory)
        if name is None or name.count("/") >= MAX_DEPTH:
            raise cannot("the new name is too long for a folder below")
        if _exists(tree, directory):
            raise already_exists(name)
    if "/" in new:
        parent = new.rpartition("/")[0]
        if not _exists(tree, folder_directory(parent)):
            _make_with_parents(tree, parent)
    done: list[tuple[str, str]] = []
    try:
        for before, after in renames:
            tree.files.rename(f"{tree.maildir}/{before}", f"{tree.maildir}/{after}")
            done.append((before, after))
        tree.files.fsync_directory(tree.maildir)
    except OSError:
        for before, after in reversed(done):
            tree.files.rename(f"{tree.maildir}/{after}", f"{tree.maildir}/{before}")
        raise
    rows = tree.index.folders()
    for before, after in done:
        folder = rows.get(before)
        if folder is not None:
            stale = rows.get(after)
            if stale is not None:
                tree.lost(stale)
            tree.index.rename_folder(folder, after)
            tree.note(Change(folder.id, "renamed", words=(folder_name(after) or "", after)))
    tree.index.sync_at_commit()


def subscribe(tree: Tree, name: str, subscribed: bool) -> None:
    """Set or clear a subscription; the folder need not exist (RFC 3501 §6.3.6)."""
    furnish(tree)
    name = canonical_name(name)
    names = read_subscriptions(tree)
    if subscribed == (name in names):
        return
    if subscribed:
        if len(names) >= MAX_FOLDERS:
            raise limit("too many subscriptions")
        names.append(name)
    else:
        names.remove(name)
    write_subscriptions(tree, names)


def read_subscriptions(tree: Tree) -> list[str]:
    """The subscribed names in the file's order."""
    try:
        with open(f"{tree.maildir}/{SUBSCRIPTIONS}", encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_SUBSCRIPTIONS)
    except FileNotFoundError:
        return []
    return parse_subscriptions(text)


def parse_subscriptions(text: str) -> list[str]:
    """The names in such a file, in its order."""
    lines = text.split("\n")
    tabbed = lines[0] == "V\t2"  # Dovecot 2.3's second form: levels between tabs
    names = []
    for line in lines[2:] if tabbed else lines:
        line = line.rstrip("\r")
        if not line:
            continue
        plain = line.replace("\t", ".") if tabbed else line
        name = "INBOX" if plain.upper() == "INBOX" else folder_name("." + plain)
        if name is not None and name not in names:
            names.append(name)
    return names


def write_subscriptions(tree: Tree, names: Sequence[str]) -> None:
    """Write the file, durably."""
    lines = "".join(f"{folder_directory(name)[1:] or 'INBOX'}\n" for name in names)
    tree.replace_file(f"{tree.maildir}/{SUBSCRIPTIONS}", lines.encode("ascii"), sync=True)


def make_directory(tree: Tree, directory: str) -> None:
    """Make one folder's directories, durably."""
    path = f"{tree.maildir}/{directory}"
    for sub in ("tmp", "new", "cur"):
        make_directories(tree.files, tree.maildir, f"{path}/{sub}")
    try:
        tree.files.close(tree.files.open(f"{path}/maildirfolder"))
    except FileExistsError:
        pass


def _make_with_parents(tree: Tree, name: str) -> None:
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        directory = folder_directory("/".join(parts[:depth]))
        if directory and not _exists(tree, directory):
            stale = tree.index.folders().get(directory)
            if stale is not None:
                tree.lost(stale)
            make_directory(tree, directory)


def _exists(tree: Tree, directory: str) -> bool:
    return os.path.isdir(f"{tree.folder_path(directory)}/cur")


def _remove(tree: Tree, path: str) -> None:
    """Remove a folder's directory with what is in it (one level of directories, no links followed)."""
    for base, directories, files in os.walk(path, topdown=False, followlinks=False):
        for name in files:
            tree.files.unlink(f"{base}/{name}")
        for name in directories:
            if os.path.islink(f"{base}/{name}"):
                tree.files.unlink(f"{base}/{name}")
            else:
                tree.files.rmdir(f"{base}/{name}")
    tree.files.rmdir(path)
