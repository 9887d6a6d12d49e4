"""A Maildir tree of another server as a source: Courier's, Dovecot's, qmail's, or one of our own.

Folders are the dot directories of Maildir++, or, where there are none, directories below one another
(Dovecot's ``LAYOUT=fs``). UIDs come from ``dovecot-uidlist`` or Courier's ``courierimapuiddb``, keywords from
``dovecot-keywords``, subscriptions from ``subscriptions`` or ``courierimapsubscribed``. Only reads, and works
beside whatever writes there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from lorrainemail.store import maildir
from lorrainemail.store.dovecot import (
    KEYWORDS,
    MAX_UIDLIST,
    UIDLIST,
    UidList,
    parse_keywords,
    parse_uidlist,
)
from lorrainemail.store.flags import LETTERS, SYSTEM
from lorrainemail.store.folders import SPECIAL_FOLDERS, SUBSCRIPTIONS, parse_subscriptions
from lorrainemail.store.paths import MAX_DEPTH, decode_utf7
from lorrainemail.store.reading import open_file
from lorrainemail.transfer.sources import CHUNK, Mark, Message, SourceError, SourceFolder, fitting_name

#: What helps where a file of another user may not be read; without a server root acts as the state's owner.
AS_ROOT: Final = "start the server, and give the command as root"
#: Keywords of messages that have no letter of their own: "BASE WORD WORD ...", one message a line.
FURTHER: Final = "lorrainemail-keywords"
_COURIER_UIDS: Final = "courierimapuiddb"
_COURIER_SUBSCRIBED: Final = "courierimapsubscribed"
_SYSTEM_LETTERS: Final = {letter: name for _, name, letter in SYSTEM}
#: Times at which a file that is renamed meanwhile is looked for again.
_CHASES: Final = 3
_USES: Final = dict(SPECIAL_FOLDERS)


class MaildirSource:
    """One Maildir tree.

    :param path: the Maildir, or a home directory that holds one named ``Maildir``.
    :raises SourceError: where there is none.
    """

    def __init__(self, path: str) -> None:
        self._root = path.rstrip("/") or "/"
        if not os.path.isdir(f"{self._root}/cur"):
            self._root += "/Maildir"
        if not os.path.isdir(f"{self._root}/cur"):
            if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
                raise SourceError(f"{path} may not be read by this user: {AS_ROOT}")
            raise SourceError(f"{path} is no Maildir (it has no directory cur)")
        self._words: dict[str, list[str]] = {}
        self._found: dict[str, maildir.Found] = {}
        self._more: dict[str, list[str]] = {}

    def folders(self) -> Sequence[SourceFolder]:
        subscribed = self._subscriptions()
        found = [self._folder("INBOX", "", subscribed)]
        names = {"INBOX"}
        for directory, parts in self._directories():
            name = fitting_name(parts)
            while name in names:  # two names that were made to fit
                name += "_"
            names.add(name)
            found.append(self._folder(name, directory, subscribed))
        return found

    def _directories(self) -> Iterator[tuple[str, list[str]]]:
        dotted = maildir.subfolders(self._root)
        for directory in dotted:
            parts = [decode_utf7(part) or part for part in directory[1:].split(".")]
            yield directory, parts
        if not dotted:
            yield from self._below("", [])

    def _below(self, directory: str, parts: list[str]) -> Iterator[tuple[str, list[str]]]:
        """Folders of the fs layout."""
        if len(parts) > MAX_DEPTH:
            return
        with os.scandir(os.path.join(self._root, directory)) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith(".")
                and entry.name not in ("cur", "new", "tmp")
            )
        for name in names:
            path = os.path.join(directory, name)
            below = [*parts, decode_utf7(name) or name]
            if os.path.isdir(f"{self._root}/{path}/cur"):
                yield path, below
            yield from self._below(path, below)

    def _folder(self, name: str, directory: str, subscribed: frozenset[str]) -> SourceFolder:
        listed = self._uids(directory)
        return SourceFolder(
            name,
            directory,
            listed.uid_validity if listed is not None else 0,
            listed.uid_next if listed is not None else 0,
            (_USES[name],) if name in _USES else (),
            name in subscribed,
        )

    def marks(self, folder: SourceFolder) -> Sequence[Mark]:
        path = self._path(folder.place)
        self._words[folder.place] = self._keywords(folder.place)
        self._more = self._further_flags(path)
        listed = self._uids(folder.place)
        uids = listed.uids if listed is not None else {}
        try:
            found = maildir.scan(path).files
        except OSError as error:
            raise SourceError(f"{path} cannot be read ({error.strerror}): {AS_ROOT}") from None
        self._found = found
        order = sorted(found, key=lambda base: (uids.get(base, 1 << 32), *maildir.arrival(base)))
        return [Mark(f"maildir {base}", base, uids.get(base, 0)) for base in order]

    def messages(self, folder: SourceFolder, marks: Sequence[Mark]) -> Iterator[Message]:
        path = self._path(folder.place)
        words = self._words.get(folder.place, [])
        for mark in marks:
            base = mark.place
            found = self._found.get(base)
            for _ in range(_CHASES):
                if found is None:
                    break
                file = f"{path}/{'cur' if found.place else 'new'}/{base}{found.info}"
                try:
                    facts = os.lstat(file)
                except FileNotFoundError:
                    found = maildir.find(path, base)  # renamed meanwhile, or gone
                    continue
                except OSError as error:
                    raise SourceError(f"{file} cannot be read: {error.strerror}") from None
                if stat.S_ISREG(facts.st_mode):
                    yield Message(
                        mark,
                        (*flags_of(found.info, words), *self._more.get(base, ())),
                        int(facts.st_mtime),
                        maildir.arrival(base)[1],
                        mark.uid,
                        "C" in maildir.fields(base),
                        partial(read_file, file),
                    )
                break

    def close(self) -> None:
        self._found = {}

    def _path(self, directory: str) -> str:
        return f"{self._root}/{directory}" if directory else self._root

    def _keywords(self, directory: str) -> list[str]:
        return parse_keywords(_text(f"{self._path(directory)}/{KEYWORDS}", 1 << 16))

    @staticmethod
    def _further_flags(path: str) -> dict[str, list[str]]:
        """Keywords beyond the letters, where an export of ours wrote them down."""
        lines = _text(f"{path}/{FURTHER}", MAX_UIDLIST).splitlines()
        return {base: words.split() for base, _, words in (line.partition(" ") for line in lines)}

    def _uids(self, directory: str) -> UidList | None:
        path = self._path(directory)
        listed = parse_uidlist(_text(f"{path}/{UIDLIST}", MAX_UIDLIST))
        if listed is None:
            # "1 <uidvalidity> <next>", then "<uid> <base name>": the form of Dovecot's first version.
            listed = parse_uidlist(_text(f"{path}/{_COURIER_UIDS}", MAX_UIDLIST))
        return listed

    def _subscriptions(self) -> frozenset[str]:
        text = _text(f"{self._root}/{SUBSCRIPTIONS}", 4 << 20)
        if text:
            return frozenset(parse_subscriptions(text))
        names = set()
        for line in _text(f"{self._root}/{_COURIER_SUBSCRIBED}", 4 << 20).splitlines():
            parts = [decode_utf7(part) or part for part in line.split(".")]
            if parts[0] == "INBOX" and len(parts) > 1:
                del parts[0]
            names.add("/".join(parts))
        return frozenset(names)


def flags_of(info: str, words: Sequence[str]) -> tuple[str, ...]:
    """The flags that a file's name carries."""
    flags = []
    for letter in maildir.info_letters(info):
        if letter in _SYSTEM_LETTERS:
            flags.append(_SYSTEM_LETTERS[letter])
        elif letter == "P":  # passed on, says the format
            flags.append("$Forwarded")
        elif letter in LETTERS and LETTERS.index(letter) < len(words):
            flags.append(words[LETTERS.index(letter)])
    return tuple(flags)


def read_file(path: str) -> Iterator[bytes]:
    """A file's octets; never through a link."""
    descriptor = open_file(path)
    try:
        while chunk := os.read(descriptor, CHUNK):
            yield chunk
    finally:
        os.close(descriptor)


def _text(path: str, limit: int) -> str:
    """A small file of the other server; "" where there is none, or it may not be read."""
    try:
        descriptor = open_file(path)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit).decode("utf-8", "surrogateescape")
