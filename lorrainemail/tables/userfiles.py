"""Users' own files: ``~/.forward`` of Sendmail and Postfix, ``~/.qmail`` and its extensions of qmail.

Read at RCPT, in a thread, where the operator turned them on (``[aliases] user_files``) for accounts that are
users of this machine. A file is believed only where nobody but its owner could have written it: directory and
file belong to him or to root and others cannot write there (qmail does the same). Opened below the home
without following links; bounded. Fails with :class:`UserFileError`: the mail waits until it is mended.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final

import attrs

from lorrainemail.addresses import fold_local
from lorrainemail.errors import Origin
from lorrainemail.interfaces import SystemUser
from lorrainemail.tables.aliases import entries
from lorrainemail.tables.backend import AliasTarget
from lorrainemail.tables.targets import MAX_TARGETS, parse_targets

#: Octets of one file.
MAX_OCTETS: Final = 64 * 1024
#: What a detail may be that names a file: never a path, never hidden.
_DETAIL: Final = re.compile(r"[a-z0-9_=+][a-z0-9_=+.-]{0,63}\Z")
#: qmail's words for the user's own mailbox.
_OWN: Final = frozenset({"./maildir/", "./maildir", "./mailbox", "~/maildir/", "~/mailbox"})


class UserFileError(Exception):
    """The file is there and cannot be used; says why, and whose it is."""


@attrs.frozen(slots=True)
class OwnFile:
    """What a user's file says.

    :ivar path: the file. ``keeps``: a copy lies in the user's own mailbox.
    """

    path: str
    targets: tuple[AliasTarget, ...]
    keeps: bool = False


def read_own(system: SystemUser, kinds: tuple[str, ...], detail: str, separator: str) -> OwnFile | None:
    """The file that directs this mail, None where there is none.

    :param kinds: "forward", "qmail", or both, tried in this order.
    :param detail: what stands behind the separator, "" for nothing.
    """
    try:
        home = os.open(system.home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserFileError(f"{system.home} cannot be looked into: {error.strerror}") from None
    try:
        facts = os.fstat(home)
        folded = fold_local(detail)
        if detail and not _DETAIL.match(folded):
            folded = ""
        for kind in kinds:
            names = _forward_names(folded, separator) if kind == "forward" else _qmail_names(folded)
            for name in names:
                text = _read(home, system, name)
                if text is None:
                    continue
                if not _safe(facts, system):
                    raise UserFileError(f"{system.home} can be written by others than its owner")
                path = f"{system.home}/{name}"
                return _forward(path, text) if kind == "forward" else _qmail(path, text)
        return None
    finally:
        os.close(home)


def _forward_names(detail: str, separator: str) -> list[str]:
    # Postfix's forward_path.
    return [f".forward{separator}{detail}", ".forward"] if detail else [".forward"]


def _qmail_names(detail: str) -> list[str]:
    """dot-qmail(5): the extension whole, then ever shorter with "default" behind it. A detail without any of
    these is an address as any other: the user's ``.qmail`` is not for it."""
    if not detail:
        return [".qmail"]
    safe = detail.replace(".", ":")
    ends = [at for at in range(len(safe), 0, -1) if safe[at - 1] == "-"]
    return [f".qmail-{safe}", *(f".qmail-{safe[:at]}default" for at in ends), ".qmail-default"]


def _safe(facts: os.stat_result, system: SystemUser) -> bool:
    return facts.st_uid in (0, system.uid) and not facts.st_mode & 0o022


def _read(home: int, system: SystemUser, name: str) -> str | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=home)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserFileError(f"{system.home}/{name} cannot be read: {error.strerror}") from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or not _safe(facts, system):
            raise UserFileError(f"{system.home}/{name} is not its owner's alone")
        octets = os.read(descriptor, MAX_OCTETS + 1)
    except OSError as error:
        raise UserFileError(f"{system.home}/{name} cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(octets) > MAX_OCTETS:
        raise UserFileError(f"{system.home}/{name} is larger than {MAX_OCTETS} octets")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserFileError(f"{system.home}/{name} is not UTF-8 text") from None


def _forward(path: str, text: str) -> OwnFile | None:
    """Targets parted by commas and line ends; an empty file is none (Postfix, Sendmail)."""
    found: list[AliasTarget] = []
    for number, entry in entries(text):
        found += _parsed(path, number, entry)
    return OwnFile(path, tuple(found)) if found else None


def _qmail(path: str, text: str) -> OwnFile | None:
    """dot-qmail(5): one instruction a line. An empty file: as if there were none; one of comments alone: the
    mail is thrown away."""
    if not text:
        return OwnFile(path, (), keeps=True)
    found: list[AliasTarget] = []
    keeps = False
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip()
        if number == 1 and not line:
            raise UserFileError(f"{path}:1: the first line is empty")
        if not line or line.startswith(("#", "+")):
            continue
        if line.startswith("|"):
            found.append(AliasTarget("command", "|" + line[1:].strip(), origin=Origin(path, number)))
        elif line.lower() in _OWN:
            keeps = True
        elif line.startswith(("/", ".", "~")):
            found.append(AliasTarget("file", line, origin=Origin(path, number)))
        else:
            found += _parsed(path, number, line.removeprefix("&").strip())
    return OwnFile(path, tuple(found), keeps)


def _parsed(path: str, number: int, entry: str) -> tuple[AliasTarget, ...]:
    try:
        found = parse_targets(entry, Origin(path, number))
    except ValueError as error:
        raise UserFileError(f"{path}:{number}: {error}") from None
    if len(found) > MAX_TARGETS:
        raise UserFileError(f"{path} has more than {MAX_TARGETS} targets")
    return found
