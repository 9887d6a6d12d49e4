"""Maildir on disk: names of files, complete scans of a folder, the folders of a Maildir++ tree.

Reading only, and synchronous: the jobs of a home's strand call it. What a file's name means is known here
alone: ``<base>[:2,<letters>]``, and in the base names that we make ``,S=<octets with LF>,W=<octets with
CRLF>`` as Dovecot and Courier write them, ``,C=1`` for a file that is kept with CRLF (a message with a bare
CR or LF), ``,E=<EMAILID>`` for a copy. A file in ``new/`` has no info of its own.

Opens below a home never follow a link (``O_NOFOLLOW``); a name that is a link or a directory is no message.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from functools import lru_cache
from typing import Final

import attrs

from lorrainemail.store.flags import LETTERS, from_letters, letters

#: Base names longer than this are not taken for messages; with our info they fit NAME_MAX.
MAX_BASE: Final = 220
#: A directory's mtime is believed to show all changes before it once it is older than this: two seconds for
#: file systems that count whole ones, and the kernel's own coarse clock.
SETTLED_NS: Final = 2_100_000_000

_FIELD: Final = re.compile(r",([SWCE])=([^,:]*)")
_ARRIVED: Final = re.compile(r"([0-9]{1,12})(?:\.M([0-9]{1,6}))?")
_KNOWN_LETTERS: Final = frozenset("SRFTD" + LETTERS)


@attrs.frozen(slots=True)
class Found:
    """A file as a scan saw it."""

    place: int
    info: str


@attrs.frozen(slots=True)
class Scan:
    """A complete look at new/ and cur/.

    :ivar files: by base name.
    :ivar new_mtime: of the directories, in ns, before they were read; ``stable``: they were the same after.
    """

    files: dict[str, Found]
    new_mtime: int
    cur_mtime: int
    stable: bool


def split(name: str) -> tuple[str, str]:
    """A file's name as (base, info); the info begins with its colon."""
    base, colon, rest = name.partition(":")
    return base, colon + rest


def info_letters(info: str) -> str:
    """The flag letters of an info, "" where it has none that we know how to read."""
    return info[3:] if info.startswith(":2,") else ""


@lru_cache(maxsize=4096)
def info_bits(info: str) -> int:
    """The flags that a file's name carries."""
    return from_letters(info_letters(info))


def make_info(bits: int, old: str = "") -> str:
    """The info for these flags; letters of other programs in the old one are kept."""
    foreign = "".join(letter for letter in info_letters(old) if letter not in _KNOWN_LETTERS)
    if not foreign:
        return ":2," + letters(bits)
    return ":2," + "".join(sorted(letters(bits) + foreign))


def fields(base: str) -> dict[str, str]:
    """The fields in a base name."""
    if "," not in base:
        return {}
    return dict(_FIELD.findall(base))


def wire_size(base: str) -> int:
    """Octets with CRLF as the name says, -1 where it does not."""
    value = fields(base).get("W", "") if ",W=" in base else ""
    return int(value) if value.isdigit() and len(value) < 16 else -1


def message_id(base: str) -> str:
    """The EMAILID (RFC 8474): the one a copy carries in its name, else made from the base name.

    So it survives the loss of the index.
    """
    given = fields(base).get("E", "") if ",E=" in base else ""
    if given.replace("-", "").isalnum() and given.isascii() and len(given) <= 40:
        return given
    return unique_id(base)


def unique_id(base: str) -> str:
    """What tells this file from every other one, copies of the same message too."""
    return hashlib.blake2b(os.fsencode(base), digest_size=10).hexdigest()


def arrival(base: str) -> tuple[int, int, str]:
    """What messages that have no UID yet are sorted by."""
    match = _ARRIVED.match(base)
    if match is None:
        return (0, 0, base)
    return (int(match.group(1)), int(match.group(2) or 0), base)


def mtimes(directory: str) -> tuple[int, int]:
    """The mtimes (ns) of new/ and cur/."""
    return os.stat(directory + "/new").st_mtime_ns, os.stat(directory + "/cur").st_mtime_ns


def scan(directory: str) -> Scan:
    """Read new/ and cur/ completely.

    new/ first: a file that moves to cur/ meanwhile is seen twice rather than not at all.
    """
    before = mtimes(directory)
    files: dict[str, Found] = {}
    for place, sub in enumerate(("/new", "/cur")):
        with os.scandir(directory + sub) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or "\n" in name or not entry.is_file(follow_symlinks=False):
                    continue
                base, info = split(name)
                if base and len(base) <= MAX_BASE:
                    files[base] = Found(place, info)
    return Scan(files, before[0], before[1], mtimes(directory) == before)


def is_message(path: str) -> bool:
    """Whether a plain file is there."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def find(directory: str, base: str) -> Found | None:
    """Where a file is now that is not where it was; the directories are read again if it moves meanwhile."""
    for _ in range(3):
        seen = scan(directory)
        found = seen.files.get(base)
        if found is not None or seen.stable:
            return found
    return None


def subfolders(maildir: str) -> list[str]:
    """The directories of a Maildir++ tree that are folders, without INBOX."""
    out = []
    with os.scandir(maildir) as entries:
        for entry in entries:
            name = entry.name
            if (
                name.startswith(".")
                and not name.startswith("..")
                and len(name) > 1
                and entry.is_dir(follow_symlinks=False)
                and os.path.isdir(f"{maildir}/{name}/cur")
            ):
                out.append(name)
    return sorted(out)
