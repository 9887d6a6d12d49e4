"""A home of our own as a source: what export writes out, and what one mailbox is restored from.

As :class:`~lorrainemail.transfer.maildirs.MaildirSource`, with what the index knows better: UIDs, dates, and
the keywords that have no letter. Only reads, also beside the running server; messages that the index has not
seen yet come without UIDs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import attrs

from lorrainemail.store import maildir
from lorrainemail.store.dovecot import UidList
from lorrainemail.store.flags import FIRST_KEYWORD_BIT, IN_NAME, Keywords
from lorrainemail.store.index import MAX_UID, MBOX
from lorrainemail.transfer.maildirs import MaildirSource
from lorrainemail.transfer.mboxes import MboxSource
from lorrainemail.transfer.sources import Mark, Message, SourceError, SourceFolder

#: (uid, flags, internal date) by base name.
Facts = dict[str, tuple[int, int, int]]


class HomeSource(MaildirSource):
    """One home.

    :param home: its directory.
    :param at_rest: nobody else works on it, and nothing there is to be touched.
    :raises SourceError: where there is none, or its index cannot be read.
    """

    def __init__(self, home: str, at_rest: bool = False) -> None:
        super().__init__(f"{home}/Maildir")
        self._home = home
        self._at_rest = at_rest
        self._mbox = MboxSource(f"{home}/mbox") if os.path.exists(f"{home}/mbox") else None
        self._rows: dict[str, tuple[int, int, int, Keywords, str]] = {}
        self._facts: tuple[str, Facts] = ("", {})
        for directory, *row in self._query(
            "SELECT directory, id, uid_validity, uid_next, keywords, special_use FROM folders"
        ):
            number, validity, following, words, use = row
            self._rows[directory] = (number, validity, following, Keywords(words.split()), use)

    def folders(self) -> Sequence[SourceFolder]:
        found = []
        for folder in super().folders():
            use = self._rows[folder.place][4] if folder.place in self._rows else ""
            found.append(attrs.evolve(folder, special_use=tuple(use.split()) or folder.special_use))
        if self._mbox is not None:
            (inbox,) = self._mbox.folders()
            found[0] = attrs.evolve(inbox, place=MBOX)
        return found

    def marks(self, folder: SourceFolder) -> Sequence[Mark]:
        if self._mbox is not None and folder.place == MBOX:
            return self._mbox.marks(self._mbox.folders()[0])
        return super().marks(folder)

    def messages(self, folder: SourceFolder, marks: Sequence[Mark]) -> Iterator[Message]:
        if self._mbox is not None and folder.place == MBOX:
            yield from self._mbox.messages(self._mbox.folders()[0], marks)
            return
        facts = self._facts_of(folder.place)
        words = self._rows[folder.place][3] if folder.place in self._rows else Keywords()
        for message in super().messages(folder, marks):
            row = facts.get(message.mark.place)
            if row is None:
                yield message
                continue
            _, bits, date = row
            # What has a letter is as the file's name says, the rest as the index does.
            unnamed = words.names_of(bits & ~IN_NAME) if bits >> FIRST_KEYWORD_BIT else frozenset()
            yield attrs.evolve(
                message,
                flags=(*message.flags, *sorted(unnamed)),
                date=date if date >= 0 else message.date,
            )

    def _keywords(self, directory: str) -> list[str]:
        row = self._rows.get(directory)
        return super()._keywords(directory) if row is None else row[3].names

    def _uids(self, directory: str) -> UidList | None:
        row = self._rows.get(directory)
        if row is None:
            return super()._uids(directory)
        uids = {base: uid for base, (uid, _, _) in self._facts_of(directory).items()}
        return UidList(row[1], row[2], uids)

    def _facts_of(self, directory: str) -> Facts:
        known, facts = self._facts
        if known == directory and facts:
            return facts
        row = self._rows.get(directory)
        facts = {}
        if row is not None:
            number = row[0]
            for base, uid, bits, date in self._query(
                "SELECT base, id & 4294967295, flags, internal_date FROM messages WHERE id BETWEEN ? AND ?",
                (number << 32, number << 32 | MAX_UID),
            ):
                facts[base] = (uid, bits, date)
        self._facts = (directory, facts)
        return facts

    def _query(self, words: str, values: Sequence[Any] = ()) -> list[Any]:
        path = f"{self._home}/index.sqlite"
        if not os.path.exists(path):
            return []
        try:
            name = f"file:{quote(path)}?immutable=1" if self._at_rest else path
            with contextlib.closing(sqlite3.connect(name, uri=self._at_rest)) as database:
                database.execute("PRAGMA query_only=1")
                return database.execute(words, values).fetchall()
        except sqlite3.Error as error:
            raise SourceError(f"{path} cannot be read: {error}") from None


class KeptHome(HomeSource):
    """A home in a backup: its messages are known by their EMAILIDs (RFC 8474), which they get back."""

    def __init__(self, home: str) -> None:
        super().__init__(home, at_rest=True)
        self._ids: dict[str, str] = {}

    def marks(self, folder: SourceFolder) -> Sequence[Mark]:
        marks = super().marks(folder)
        if folder.place == MBOX:
            return marks
        self._ids = {}
        row = self._rows.get(folder.place)
        if row is not None:
            number = row[0]
            found = self._query(
                "SELECT base, message_id FROM messages WHERE id BETWEEN ? AND ?",
                (number << 32, number << 32 | MAX_UID),
            )
            self._ids = dict(found)
        return [attrs.evolve(mark, key=self._id(mark.place)) for mark in marks]

    def messages(self, folder: SourceFolder, marks: Sequence[Mark]) -> Iterator[Message]:
        for message in super().messages(folder, marks):
            if folder.place != MBOX:
                message = attrs.evolve(message, email_id=self._id(message.mark.place))
            yield message

    def _id(self, base: str) -> str:
        return self._ids.get(base) or maildir.message_id(base)


def homes(mail: str) -> Iterator[tuple[str, str]]:
    """All homes below a mail directory: (path below it, path), in order."""
    for domain in _directories(mail):
        for local in _directories(f"{mail}/{domain}"):
            path = f"{mail}/{domain}/{local}"
            if os.path.isdir(f"{path}/Maildir") or os.path.exists(f"{path}/mbox"):
                yield f"{domain}/{local}", path


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except FileNotFoundError:
        return []
