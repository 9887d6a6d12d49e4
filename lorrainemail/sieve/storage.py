"""Where accounts keep their scripts: ``sieve/<name>.sieve`` in the home, the active one named by
``sieve/active``; what their scripts remember (whom vacation answered, ids that were seen) in
``sieve/remembered``.

Blocking file work, for threads and for the command line; the one look that stays inline is
:meth:`Scripts.stamp`. No symlink is followed. Every change is a new file, synced and renamed, the directory
synced: a script is whole or not there. Fails with OSError, and with :class:`StorageError` for what may not
be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import attrs

from lorrainemail.addresses import Address
from lorrainemail.grammar.sieve import MAX_SCRIPT
from lorrainemail.ops.files import SYSTEM, Files, make_directories
from lorrainemail.store.paths import encode_component, home_path

#: The operator's scripts (among those for all accounts) that run before and after each account's own.
BEFORE: Final = "before"
AFTER: Final = "after"
#: Seconds for which it is believed that those two are there, or not.
COMMON_INTERVAL: Final = 1.0
#: Scripts of one account (RFC 5804 §1.6 leaves it to us), characters of a name.
MAX_SCRIPTS: Final = 64
MAX_NAME: Final = 128
#: Octets of a file name that says the script's; what others begin with (no encoded name does).
MAX_STEM: Final = 190
LONG: Final = "="
#: Keys that one account's scripts may have remembered; octets of their file.
MAX_REMEMBERED: Final = 4096
MAX_LEDGER: Final = 1 << 20

_ESCAPE = re.compile(r"%([0-9a-f]{2})")
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

#: What a file was when it was looked at: None where it is missing.
Stamp = tuple[int, int, int] | None


class StorageError(ValueError):
    """It cannot be stored; the text says why.

    :ivar code: the response code of RFC 5804 §1.3, "" where none says it.
    """

    def __init__(self, what: str, code: str = "") -> None:
        super().__init__(what)
        self.code = code


@attrs.frozen(slots=True)
class Stored:
    """One script of an account."""

    name: str
    size: int
    active: bool


@lru_cache(maxsize=16384)
def _home(address: Address) -> str:
    return home_path(address)


def check_name(name: str) -> None:
    """RFC 5804 §1.6: no control characters, nothing that breaks lines.

    :raises StorageError: where a script cannot have that name.
    """
    if not name or len(name) > MAX_NAME:
        raise StorageError("a script's name is 1 to 128 characters long")
    if any(
        c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029" or "\ud800" <= c <= "\udfff" for c in name
    ):
        raise StorageError("a script's name cannot have control characters")


def stem_of(name: str) -> str:
    """What a script's files are called. A name that is too long for that has a digest, and a file beside it
    that says the name: RFC 5804 §1.6 promises 128 characters of any script of the world."""
    stem = encode_component(name)
    if len(stem) <= MAX_STEM:
        return stem
    return LONG + hashlib.sha256(name.encode("utf-8")).hexdigest()[:40]


class Scripts:
    """The scripts of all accounts.

    :param root: the mail directory. ``shared``: a directory of scripts for all (``include :global``), or "".
    """

    def __init__(
        self,
        root: str,
        shared: str = "",
        files: Files = SYSTEM,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self.root = root
        self.shared = shared
        self._files = files
        self._has_common = False
        self._common_until = 0.0

    def directory(self, address: Address) -> str:
        return f"{self.root}/{_home(address)}/sieve"

    def path(self, address: Address, name: str) -> str:
        return f"{self.directory(address)}/{stem_of(name)}.sieve"

    # -- looking -----------------------------------------------------------------------------------

    def stamp(self, address: Address) -> Stamp:
        """Of the marker of the active script; None where the account has none."""
        return stamp_of(f"{self.directory(address)}/active")

    def has_common(self) -> bool:
        """Whether there is a script of the operator's before or after the accounts' own; one that comes is
        seen within :data:`COMMON_INTERVAL` seconds."""
        now = self._now()
        if now >= self._common_until:
            self._common_until = now + COMMON_INTERVAL
            self._has_common = bool(self.shared) and (
                stamp_of(f"{self.shared}/{BEFORE}.sieve") is not None
                or stamp_of(f"{self.shared}/{AFTER}.sieve") is not None
            )
        return self._has_common

    def active(self, address: Address) -> str:
        """The active script's name, "" where there is none."""
        octets = self._read(f"{self.directory(address)}/active", MAX_NAME * 4 + 1)
        name = "" if octets is None else octets.decode("utf-8", "replace").strip()
        try:
            check_name(name)
        except StorageError:
            return ""
        return name

    def read(self, address: Address, name: str) -> bytes | None:
        """A script's octets, None where it is not there."""
        check_name(name)
        return self._read(self.path(address, name), MAX_SCRIPT + 1)

    def read_shared(self, name: str) -> bytes | None:
        """A script for all accounts."""
        check_name(name)
        if not self.shared:
            return None
        return self._read(self.shared_path(name), MAX_SCRIPT + 1)

    def shared_path(self, name: str) -> str:
        return f"{self.shared}/{stem_of(name)}.sieve"

    def list(self, address: Address) -> list[Stored]:
        """All scripts, by name."""
        directory, active = self.directory(address), self.active(address)
        found = []
        try:
            entries = os.listdir(directory)
        except FileNotFoundError:
            return []
        for entry in entries:
            name = self._long_name(directory, entry) if entry.startswith(LONG) else _name_of(entry)
            if name is not None:
                size = os.lstat(f"{directory}/{entry}").st_size
                found.append(Stored(name, size, name == active))
        return sorted(found, key=lambda stored: stored.name)

    # -- changing ----------------------------------------------------------------------------------

    def may_put(self, address: Address, name: str, size: int) -> None:
        """Whether a script of that size could be stored.

        :raises StorageError: where not.
        """
        check_name(name)
        if size > MAX_SCRIPT:
            raise StorageError(f"a script is {MAX_SCRIPT} octets long at most", "QUOTA/MAXSIZE")
        names = {stored.name for stored in self.list(address)}
        if name not in names and len(names) >= MAX_SCRIPTS:
            raise StorageError(f"an account has {MAX_SCRIPTS} scripts at most", "QUOTA/MAXSCRIPTS")

    def put(self, address: Address, name: str, script: bytes) -> None:
        """Store a script, new or instead of an old one. Its maker has checked that it is one."""
        self.may_put(address, name, len(script))
        self._store(address, name, script)

    def library(self, address: Address) -> Callable[[str, str], bytes | None]:
        """What looks for scripts that the account's include (RFC 6609)."""

        def read(where: str, name: str) -> bytes | None:
            try:
                return self.read_shared(name) if where == "global" else self.read(address, name)
            except (StorageError, OSError):
                return None

        return read

    def activate(self, address: Address, name: str) -> None:
        """Make a script the active one, or none ("")."""
        if name:
            if self.read(address, name) is None:
                raise StorageError(f'there is no script "{name}"', "NONEXISTENT")
            self._write(address, "active", name.encode("utf-8") + b"\n")
        else:
            self._unlink(f"{self.directory(address)}/active")

    def delete(self, address: Address, name: str) -> None:
        """Remove a script; the active one stays (RFC 5804 §2.10)."""
        if self.read(address, name) is None:
            raise StorageError(f'there is no script "{name}"', "NONEXISTENT")
        if self.active(address) == name:
            raise StorageError("the active script cannot be removed", "ACTIVE")
        self._remove(address, name)

    def rename(self, address: Address, old: str, new: str) -> None:
        """Another name; the active script stays active (RFC 5804 §2.11.1)."""
        script = self.read(address, old)
        if script is None:
            raise StorageError(f'there is no script "{old}"', "NONEXISTENT")
        if self.read(address, new) is not None:
            raise StorageError(f'there is a script "{new}" already', "ALREADYEXISTS")
        # Both are there until the new one is in use, so that a crash leaves no account without its script.
        self._store(address, new, script)
        if self.active(address) == old:
            self.activate(address, new)
        self._remove(address, old)

    def _store(self, address: Address, name: str, script: bytes) -> None:
        stem = stem_of(name)
        if stem.startswith(LONG):  # the name first: a script without one would be nobody's
            self._write(address, f"{stem}.name", name.encode("utf-8"))
        self._write(address, f"{stem}.sieve", script)

    def _remove(self, address: Address, name: str) -> None:
        path = self.path(address, name)
        self._unlink(path)
        if stem_of(name).startswith(LONG):
            self._unlink(f"{path.removesuffix('.sieve')}.name")

    def _long_name(self, directory: str, entry: str) -> str | None:
        """The name of a script whose file name does not say it."""
        if not entry.endswith(".sieve"):
            return None
        octets = self._read(f"{directory}/{entry.removesuffix('.sieve')}.name", MAX_NAME * 4 + 1)
        name = "" if octets is None else octets.decode("utf-8", "replace")
        try:
            check_name(name)
        except StorageError:
            return None
        return name if f"{stem_of(name)}.sieve" == entry else None

    # -- what scripts remember ---------------------------------------------------------------------

    def remembered(self, address: Address) -> dict[str, float]:
        """Keys and when each is forgotten. A damaged file is an empty one."""
        octets = self._read(f"{self.directory(address)}/remembered", MAX_LEDGER)
        try:
            found = json.loads(octets or b"{}")
            return {str(key): float(until) for key, until in found.items()}
        except (ValueError, AttributeError, TypeError, RecursionError):
            return {}

    def remember(self, address: Address, keys: Mapping[str, float], now: float) -> None:
        """Replace what is remembered; what is over, and the oldest beyond the bound, is left out."""
        alive = sorted(((until, key) for key, until in keys.items() if until > now), reverse=True)
        kept = {key: round(until) for until, key in alive[:MAX_REMEMBERED]}
        self._write(address, "remembered", json.dumps(kept, separators=(",", ":")).encode("ascii") + b"\n")

    # -- files -------------------------------------------------------------------------------------

    def _read(self, path: str, limit: int) -> bytes | None:
        try:
            descriptor = os.open(path, _READ)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(descriptor, "rb") as file:
            return file.read(limit)

    def _write(self, address: Address, name: str, octets: bytes) -> None:
        files, directory = self._files, self.directory(address)
        make_directories(files, self.root, directory)
        temporary = f"{directory}/.tmp-{secrets.token_hex(8)}"
        descriptor = files.open(temporary)
        try:
            try:
                files.chmod(descriptor, 0o600)
                files.write(descriptor, [octets])
                files.fsync(descriptor)
            finally:
                files.close(descriptor)
            files.rename(temporary, f"{directory}/{name}")
        except BaseException:
            try:
                files.unlink(temporary)
            except OSError:
                pass  # the error that brought us here is the one to tell
            raise
        files.fsync_directory(directory)

    def _unlink(self, path: str) -> None:
        try:
            self._files.unlink(path)
        except FileNotFoundError:
            return
        self._files.fsync_directory(os.path.dirname(path))


def stamp_of(path: str) -> Stamp:
    """What tells whether a file has changed."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size, facts.st_ino


def _name_of(entry: str) -> str | None:
    """The script's name behind a file name, None where no script of ours has it."""
    if not entry.endswith(".sieve"):
        return None
    stem = entry.removesuffix(".sieve")
    octets = bytearray()
    position = 0
    for match in _ESCAPE.finditer(stem):
        octets += stem[position : match.start()].encode("utf-8", "surrogateescape")
        octets.append(int(match.group(1), 16))
        position = match.end()
    octets += stem[position:].encode("utf-8", "surrogateescape")
    try:
        name = octets.decode("utf-8")
        check_name(name)
    except (UnicodeDecodeError, StorageError):
        return None
    return name if encode_component(name) == stem else None
