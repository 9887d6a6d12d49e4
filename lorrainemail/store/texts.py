"""The jobs on a home's text index: what may hold a text, what is in, and taking in what is not.

Works on a :class:`lorrainemail.store.tree.Tree` in its strand's jobs. The text index is opened at the first
text search of the home and closed with the index; whatever goes wrong with it, it is removed and the search
goes without it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Sequence
from typing import Final, TypeVar

from twisted.logger import Logger

from lorrainemail.errors import MailError
from lorrainemail.interfaces import TextCandidates
from lorrainemail.message.searchable import message_grams
from lorrainemail.store.fulltext import MAX_STALE, TextIndex
from lorrainemail.store.index import MBOX, Folder
from lorrainemail.store.reading import LargeFile
from lorrainemail.store.tree import Tree

T = TypeVar("T")

#: Messages taken in by one job, and octets of them after which it ends.
TAKEN_IN: Final = 16
MAX_TAKEN_OCTETS: Final = 512 * 1024
#: Octets of a message that is read whole to be taken in.
MAX_READ: Final = 2 * 1024 * 1024
#: UIDs that one slice of a question covers.
ASKED: Final = 50_000

_log = Logger("lorrainemail.store")


def text_index(tree: Tree) -> TextIndex:
    """The home's text index, opened where it is closed."""
    if tree.texts is None:
        tree.texts = TextIndex(f"{tree.home}/search.sqlite")
    return tree.texts


def give_up(tree: Tree, error: Exception) -> None:
    """The text index failed: it goes, where it is its own fault, and is begun anew when it is asked for."""
    texts, tree.texts = tree.texts, None
    _log.warn("text index of {home}: {error}", home=tree.home, error=error)
    if texts is None:
        return
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        texts.discard()
    else:
        texts.close()


def candidates(tree: Tree, number: int, grams: Sequence[str]) -> Generator[None, None, TextCandidates]:
    """UIDs of messages that may hold a text with these grams, as far as they are in."""
    folder = tree.known(number)
    try:
        texts = text_index(tree)
        place = texts.place(folder.mailbox_id, folder.uid_validity)
        if place is None:
            return TextCandidates(0, ())
        found: list[int] = []
        for first in range(1, place.mark + 1, ASKED):
            last = min(first + ASKED - 1, place.mark)
            found += texts.candidates(place, grams, first, last)
            if last < place.mark:
                yield
                if tree.texts is not texts:
                    return TextCandidates(0, ())
        return TextCandidates(place.mark, tuple(found))
    except sqlite3.Error as error:
        give_up(tree, error)
        return TextCandidates(0, ())


def take_in(tree: Tree, number: int, uids: Sequence[int]) -> int:
    """Take some of these messages in, which are all that is above some UID, ascending; answers up to which
    one the folder is in now, 0 where it cannot be done or nothing is left."""
    folder = tree.known(number)
    if folder.directory == MBOX:
        return 0
    try:
        texts = text_index(tree)
        if not uids:
            return 0
        _begin_anew_where_stale(tree, texts)
        texts = text_index(tree)
        place = texts.place(folder.mailbox_id, folder.uid_validity)
        mark = 0 if place is None else place.mark
        rows: list[tuple[int, set[str] | None]] = []
        octets = 0
        for uid in uids:
            if uid <= mark:
                continue
            found = _octets(tree, folder, uid)
            octets += len(found)
            rows.append((uid, message_grams(found) if found else None))
            mark = uid
            if len(rows) >= TAKEN_IN or octets > MAX_TAKEN_OCTETS:
                break
        if place is None or mark > place.mark:
            texts.add(folder.mailbox_id, folder.uid_validity, rows, mark)
        return mark
    except sqlite3.Error as error:
        give_up(tree, error)
        return 0


def _begin_anew_where_stale(tree: Tree, texts: TextIndex) -> None:
    """Where most of what is in speaks of messages that are gone."""
    total = texts.totals()
    if total > MAX_STALE and total > 2 * tree.counted()[1] + MAX_STALE:
        texts.discard()
        tree.texts = None


def _octets(tree: Tree, folder: Folder, uid: int) -> bytes:
    """A message whole; b"" for one that is too large to be, or cannot be found now."""
    try:
        found = tree.open_message(folder.id, uid)
    except (MailError, FileNotFoundError):
        return b""
    if isinstance(found, LargeFile):
        try:
            return found.read(0, found.size) if found.size <= MAX_READ else b""
        finally:
            found.close()
    return found


def examine(tree: Tree, number: int, uids: Sequence[int], work: Callable[[bytes], T]) -> dict[int, T | None]:
    """What ``work`` says of each of these messages; None where one is gone, nothing of large ones."""
    said: dict[int, T | None] = {}
    for uid in uids:
        try:
            found = tree.open_message(number, uid)
        except (MailError, FileNotFoundError):
            said[uid] = None
            continue
        if isinstance(found, LargeFile):
            found.close()
        else:
            said[uid] = work(found)
    return said
