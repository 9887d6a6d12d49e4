"""Edits of the table files by commands: locked, atomic, keeping comments and order.

Called by ``lorrainemail account ...``, by the first start and by importers, with or without a running server
(which sees the change by itself). Everything here blocks: never in the reactor thread. One lock file
(``tables.lock``, ``flock``) orders all commands; root acts as the owner of the state directory. Each edit
reads the file, changes the one row, writes a new file beside it, syncs, renames, syncs the directory, and
notes in :mod:`lorrainemail.tables.stamp` that this is what was meant. It fails with
:class:`lorrainemail.errors.ConfigurationError`; then nothing has changed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NoReturn

from lorrainemail.addresses import Address, AddressError, normalise_domain
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.interfaces import Credential
from lorrainemail.tables.accounts import (
    MAX_LINE,
    AccountLine,
    Format,
    account_address,
    account_lines,
    credentials_of,
    parse_accounts,
)
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.stamp import FILE_NAME as STAMP_FILE
from lorrainemail.tables.stamp import Stamp, digest, print_stamps, read_stamps
from lorrainemail.tables.textfile import TABLE_FILES, count_rows, read_octets

LOCK_FILE: Final = "tables.lock"
#: How long a command waits for another command's edit, in seconds; an edit takes milliseconds.
MAX_LOCK_WAIT: Final = 10.0
_LOCK_POLL: Final = 0.02
#: A table without a file.
_NOTHING: Final = Stamp(digest(b""), 0)
_MAILDIR, _MBOX = "userdb_mail=maildir:~/Maildir", "userdb_mail=mbox:~/mbox"


def add_account(
    state: str,
    address: Address,
    credentials: Sequence[Credential] = (),
    *,
    format: Format = "maildir",
    quota: int = 0,
) -> None:
    """Append an account's row; an account of that address must not exist.

    The format is written into the row, so that a later change of the default does not move anybody's mail.
    """
    words = [_MBOX if format == "mbox" else _MAILDIR]
    if quota:
        words.append(f"userdb_quota_rule=*:bytes={quota}")
    new = AccountLine(str(address)).with_extras(*words).with_credentials(credentials)
    if ":" in new.user:
        _fail(state, "accounts", 0, f"{address}: an account's name has no colon", "choose another name")

    def edit(lines: list[str]) -> None:
        number = _find_account(state, lines, address)
        if number is not None:
            _fail(
                state, "accounts", number + 1, f"{address} has an account already", "choose another address"
            )
        _append(lines, _checked(state, str(new)))

    _edit(state, "accounts", edit)


def set_credentials(state: str, address: Address, credentials: Sequence[Credential]) -> None:
    """Replace all credentials of an account by these."""
    _edit_account(state, address, lambda line: line.with_credentials(credentials))


def change_credentials(
    state: str,
    address: Address,
    change: Callable[[tuple[Credential, ...]], Sequence[Credential]],
) -> None:
    """Replace an account's credentials by what ``change`` makes of those that stand there now; the file is
    left alone where that is the same. What ``change`` raises is passed on."""
    _edit_account(state, address, lambda line: _with_changed(line, change))


def change_credentials_of(
    state: str,
    changes: Mapping[Address, Callable[[tuple[Credential, ...]], Sequence[Credential]]],
) -> None:
    """:func:`change_credentials` for several accounts in one edit; those that are gone are passed over."""

    def edit(lines: list[str]) -> None:
        for address, change in changes.items():
            number = _find_account(state, lines, address)
            if number is not None:
                line = AccountLine.parse(lines[number].strip())
                changed = _with_changed(line, change)
                if changed is not line:
                    lines[number] = _checked(state, str(changed))

    _edit(state, "accounts", edit)


def _with_changed(
    line: AccountLine, change: Callable[[tuple[Credential, ...]], Sequence[Credential]]
) -> AccountLine:
    before = credentials_of(line)
    after = tuple(change(before))
    return line if after == before else line.with_credentials(after)


def set_enabled(state: str, address: Address, enabled: bool) -> None:
    """Allow or forbid an account to log in; its mail is accepted either way."""
    _edit_account(state, address, lambda line: line.with_enabled(enabled))


def remove_account(state: str, address: Address) -> None:
    """Remove an account's row; its mail stays on disk."""

    def edit(lines: list[str]) -> None:
        del lines[_existing_account(state, lines, address)]

    _edit(state, "accounts", edit)


def add_domain(state: str, domain: str) -> None:
    """Add a local domain."""
    name = _domain(state, domain)

    def edit(lines: list[str]) -> None:
        number = _find_domain(lines, name)
        if number is not None:
            _fail(state, "domains", number + 1, f"{domain} is there already", "nothing to do")
        _append(lines, name)

    _edit(state, "domains", edit)


def remove_domain(state: str, domain: str) -> None:
    """Remove a local domain from the file ``domains`` (the configuration's own list is not touched)."""
    name = _domain(state, domain)

    def edit(lines: list[str]) -> None:
        number = _find_domain(lines, name)
        if number is None:
            mend = "if local_domains in the configuration names it, take it out there"
            _fail(state, "domains", 0, f"{domain} is not in this file", mend)
        del lines[number]

    _edit(state, "domains", edit)


def add_alias(state: str, key: str, target: str) -> bool:
    """Append an alias unless its key has a row already.

    :param key: a bare user (of every local domain), or ``user@domain``.
    :returns: whether it was added.
    """
    added = False

    def edit(lines: list[str]) -> None:
        nonlocal added
        rows, problems, _ = parse_aliases("\n".join(lines), os.path.join(state, "aliases"))
        if problems:
            raise ConfigurationError(tuple(problems))
        if all(row.key != key for row in rows):
            _append(lines, f"{key}: {target}")
            added = True

    _edit(state, "aliases", edit)
    return added


def set_secret(state: str, name: str, user: str, secret: str) -> bool:
    """The login that relay rows with ``credentials = name`` use.

    :returns: whether anything changed.
    """
    row = f"{name} {user} {secret}"
    changed = False
    if not row.isprintable() or len(row) > MAX_LINE or " " in user:
        _fail(state, "credentials", 0, "user or secret cannot stand on a line of this file", "choose others")

    def edit(lines: list[str]) -> None:
        nonlocal changed
        changed = row not in lines
        lines[:] = [line for line in lines if line.split(maxsplit=1)[:1] != [name]]
        _append(lines, row)

    _edit(state, "credentials", edit)
    return changed


def confirm(state: str) -> None:
    """Say that what stands in the table files now is meant, however much has gone."""
    with _locked(state):
        _write_stamps(state, {name: _read(state, name) for name in TABLE_FILES})


def note_in_use(state: str, used: Mapping[str, Stamp]) -> None:
    """Note which contents the server uses, where they are what stands in the files now."""
    known = read_stamps(state)
    new = {name: stamp for name, stamp in used.items() if known.get(name, _NOTHING) != stamp}
    if not new:
        return
    with _locked(state):
        stamps = read_stamps(state)
        # What a command has written meanwhile it has noted itself.
        stamps.update((n, stamp) for n, stamp in new.items() if digest(_read(state, n)) == stamp.digest)
        _replace(state, STAMP_FILE, print_stamps(stamps))


# -- rows ------------------------------------------------------------------------------------------------


def _domain(state: str, domain: str) -> str:
    try:
        return normalise_domain(domain)
    except AddressError as error:
        _fail(state, "domains", 0, f'"{domain}": {error}', "write a domain such as bricoleur.com")


def _checked(state: str, line: str) -> str:
    if len(line) > MAX_LINE or not line.isprintable():
        _fail(state, "accounts", 0, "the row is too long or has a control character", "shorten its values")
    return line


def _find_account(state: str, lines: Sequence[str], address: Address) -> int | None:
    for number, text in account_lines("\n".join(lines)):
        with contextlib.suppress(ValueError):  # a broken row of somebody else's is not our business
            if account_address(AccountLine.parse(text).user).key == address.key:
                return number - 1
    return None


def _existing_account(state: str, lines: Sequence[str], address: Address) -> int:
    number = _find_account(state, lines, address)
    if number is None:
        _fail(
            state, "accounts", 0, f"there is no account {address}", '"lorrainemail account list" shows them'
        )
    return number


def _edit_account(state: str, address: Address, change: Callable[[AccountLine], AccountLine]) -> None:
    def edit(lines: list[str]) -> None:
        number = _existing_account(state, lines, address)
        lines[number] = _checked(state, str(change(AccountLine.parse(lines[number].strip()))))

    _edit(state, "accounts", edit)


def _find_domain(lines: Sequence[str], name: str) -> int | None:
    for number, line in enumerate(lines):
        with contextlib.suppress(AddressError):
            if normalise_domain(line.partition("#")[0].strip()) == name:
                return number
    return None


def _append(lines: list[str], line: str) -> None:
    """Before the empty piece that a final line end leaves, so that the file ends as it did."""
    if lines and lines[-1] == "":
        lines.insert(len(lines) - 1, line)
    else:
        lines += [line, ""]


# -- files -----------------------------------------------------------------------------------------------


def _fail(state: str, name: str, line: int, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(os.path.join(state, name), line, what, mend),))


def _read(state: str, name: str) -> bytes:
    try:
        return read_octets(os.path.join(state, name))
    except FileNotFoundError:
        return b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        _fail(state, name, 0, f"cannot be read: {reason}", "run as the server's user")


def _edit(state: str, name: str, edit: Callable[[list[str]], None]) -> None:
    with _locked(state):
        try:
            lines = _read(state, name).decode("utf-8").split("\n")
        except UnicodeDecodeError:
            _fail(state, name, 0, "is not UTF-8 text", "save the file as UTF-8, then try again")
        before = list(lines)
        edit(lines)
        if lines == before:
            return
        text = "\n".join(lines)
        problems = parse_accounts(text, os.path.join(state, name))[1] if name == "accounts" else []
        if problems:  # the server would not take the new file either
            raise ConfigurationError(tuple(problems))
        octets = text.encode("utf-8")
        _replace(state, name, octets)
        _write_stamps(state, {name: octets})


def _write_stamps(state: str, contents: dict[str, bytes]) -> None:
    stamps = read_stamps(state)
    for name, octets in contents.items():
        stamps[name] = Stamp(digest(octets), count_rows(octets))
    _replace(state, STAMP_FILE, print_stamps(stamps))


@contextlib.contextmanager
def as_owner(state: str) -> Iterator[None]:
    """Act as the owner of the state directory where root gives the command: what is made belongs to him, and
    no link that he laid there leads root astray."""
    try:
        owner = os.stat(state)
    except OSError as error:
        raise ConfigurationError(
            (Problem(state, 0, f"the state directory cannot be used: {error.strerror}", "check --state"),)
        ) from None
    user, group = os.geteuid(), os.getegid()
    if user != 0 or owner.st_uid == 0:
        yield
        return
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)


@contextlib.contextmanager
def _locked(state: str) -> Iterator[None]:
    """Hold the lock of all commands that edit tables."""
    with as_owner(state), _flock(state):
        yield


@contextlib.contextmanager
def _flock(state: str) -> Iterator[None]:
    path = os.path.join(state, LOCK_FILE)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _fail(state, LOCK_FILE, 0, f"cannot be opened: {error.strerror}", "run as the server's user")
    try:
        deadline = time.monotonic() + MAX_LOCK_WAIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    _fail(state, LOCK_FILE, 0, "another command edits the tables and does not end", "end it")
                time.sleep(_LOCK_POLL)
        yield
    finally:
        os.close(descriptor)  # lets go of the lock


def _replace(state: str, name: str, octets: bytes) -> None:
    """Write a file anew, durably; links to it are followed, its mode kept."""
    target = os.path.realpath(os.path.join(state, name))
    directory = os.path.dirname(target)
    temporary = os.path.join(directory, f".{os.path.basename(target)}.{os.getpid()}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # left by a crash; the lock says that nobody is at it
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                exists = os.path.exists(target)
                os.fchmod(descriptor, stat.S_IMODE(os.stat(target).st_mode) if exists else 0o600)
                stream.write(octets)
                stream.flush()
                os.fsync(descriptor)
            os.rename(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        _sync_directory(directory)
    except OSError as error:
        mend = (
            "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "run as the server's user"
        )
        _fail(state, name, 0, f"cannot be written: {error.strerror}", mend)


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
