"""A home as it is at one moment, held fast for a backup while everything goes on.

One job of the home's strand, without a break: what other programs did is taken in, the index is copied, and
every message that the index knows then gets a second name (a hard link) in a directory of the same file
system. What is delivered or changed afterwards is in neither. So the copy holds exactly the messages, flags
and UIDs of that moment, and the job takes milliseconds a thousand messages; the octets are read later, from
the links, by whoever asked. Failures: OSError, ``sqlite3.Error``; the directory is to be removed then.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Generator
from typing import Final

from lorrainemail.store import folders, maildir
from lorrainemail.store.paths import folder_name
from lorrainemail.store.reading import open_file
from lorrainemail.store.sync import refresh
from lorrainemail.store.tree import Tree

#: In the directory: the copy of the index, links by number, and what they are: [place below the Maildir,
#: name, link], one a line.
INDEX: Final = "index.sqlite"
LINKS: Final = "links"
LIST: Final = "list"
#: Files beside the mail that belong to the moment; larger ones are none of ours.
MAX_SMALL: Final = 64 << 20
#: Links of one directory.
_SPREAD: Final = 10_000


def freeze(
    tree: Tree, target: str, known: frozenset[str], descriptor: int = -1
) -> Generator[None, None, int]:
    """Hold the home fast in a directory, which is there and empty; how many messages it has.

    :param known: base names of messages whose octets the caller has; they get no link.
    :param descriptor: of the mbox file, all its locks held, where the account has one; it is copied.
    """
    folders.furnish(tree)
    names = _names(tree)
    for name in names:  # what takes long, in slices
        yield from refresh(tree, tree.present(name).id)
    for name in _names(tree):
        for _ in refresh(tree, tree.present(name).id, force=True):
            pass  # from here on nobody else is let in
    tree.index.copy_to(f"{target}/{INDEX}")
    if descriptor >= 0:
        _copy_descriptor(descriptor, f"{target}/mbox")
    count = linked = 0
    with open(f"{target}/{LIST}", "w", encoding="utf-8", errors="surrogateescape") as listed:
        for name in _names(tree):
            folder = tree.present(name)
            path = tree.path(folder)
            for row in list(tree.index.rows(folder)):
                link = ""
                if row.base not in known:
                    if linked % _SPREAD == 0:
                        os.mkdir(f"{target}/{LINKS}{linked // _SPREAD}", 0o700)
                    link = f"{LINKS}{linked // _SPREAD}/{linked}"
                    linked += 1
                    found, row = tree.locate(folder, row)
                    os.link(found, f"{target}/{link}", follow_symlinks=False)
                below = f"{folder.directory}/{row.file}" if folder.directory else row.file
                listed.write(json.dumps([below, link]) + "\n")
                count += 1
            small_files(path, f"{target}/small/{folder.directory or 'INBOX'}")
    return count


def _names(tree: Tree) -> list[str]:
    """All Maildir folders that have names of ours."""
    found = [folder_name(directory) for directory in maildir.subfolders(tree.maildir)]
    return ["INBOX", *(name for name in found if name is not None and name != "INBOX")]


def small_files(path: str, target: str) -> None:
    """Copy what lies beside the messages: UID lists, subscriptions, keywords."""
    os.makedirs(target, mode=0o700)
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size < MAX_SMALL:
                try:
                    descriptor = open_file(entry.path)
                except FileNotFoundError:
                    continue  # replaced this very moment by another program
                try:
                    _copy_descriptor(descriptor, f"{target}/{entry.name}")
                finally:
                    os.close(descriptor)


def _copy_descriptor(descriptor: int, target: str) -> None:
    """Copy a whole file, by its descriptor, which keeps its position."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return
    with open(target, "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        at = 0
        while chunk := os.pread(descriptor, 1 << 20, at):
            file.write(chunk)
            at += len(chunk)
    facts = os.fstat(descriptor)
    os.utime(target, ns=(facts.st_mtime_ns, facts.st_mtime_ns))


def thaw(target: str) -> None:
    """Remove what was held fast."""
    shutil.rmtree(target, ignore_errors=True)
