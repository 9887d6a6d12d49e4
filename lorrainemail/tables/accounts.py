"""The ``accounts`` file: Dovecot passwd-file lines, read and written.

``user:password:uid:gid:gecos:home:shell:extra fields``, the fields after the password optional. Of the extra
fields we read ``nologin``, ``userdb_mail``, ``userdb_quota_rule`` (and 2.4's ``userdb_quota_storage_size``,
``userdb_quota_message_count``) and our own ``label=``, ``credential=LABEL:{SCHEME}value`` (more credentials)
and ``send_as=``; all others stay as they are, so that one file serves Dovecot too. Pure. Called by the file
backend, which keeps the old version of a file with problems, and by :mod:`lorrainemail.tables.edit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal
from urllib.parse import quote, unquote

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.errors import Origin, Problem
from lorrainemail.interfaces import Account, Credential, SystemUser

#: Longest line; a row with a dozen credentials has about 2 KiB.
MAX_LINE: Final = 64 * 2**10
#: More would make every login slow.
MAX_CREDENTIALS: Final = 32

_SCHEME = re.compile(r"\{([A-Za-z0-9_.-]{1,32})\}(.*)\Z", re.DOTALL)
_QUOTA = re.compile(r"(\d{1,15})([bBkKmMgGtT]?)[bB]?\Z")
_QUOTA_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
Format = Literal["maildir", "mbox"]


@attrs.frozen(slots=True)
class AccountLine:
    """One line as it stands in the file.

    :ivar fields: uid, gid, gecos, home, shell: kept for Dovecot; uid and home tell a user of this machine.
    :ivar extras: words of the last field, in order.
    """

    user: str
    password: str = attrs.field(default="", repr=False)
    fields: tuple[str, ...] = ("",) * 5
    extras: tuple[str, ...] = attrs.field(default=(), repr=False)

    @classmethod
    def parse(cls, text: str) -> AccountLine:
        parts = text.split(":", 7)
        parts += [""] * (8 - len(parts))
        return cls(parts[0], parts[1], tuple(parts[2:7]), tuple(parts[7].split()))

    def __str__(self) -> str:
        return ":".join((self.user, self.password, *self.fields, " ".join(self.extras)))

    def extra(self, name: str) -> Iterator[str]:
        """Values of an extra field; a word without ``=`` has the value "yes"."""
        for word in self.extras:
            key, equals, value = word.partition("=")
            if key == name:
                yield value if equals else "yes"

    def without(self, *names: str) -> AccountLine:
        return attrs.evolve(self, extras=tuple(w for w in self.extras if w.partition("=")[0] not in names))

    def with_extras(self, *words: str) -> AccountLine:
        return attrs.evolve(self, extras=(*self.extras, *words))

    def with_credentials(self, credentials: Sequence[Credential]) -> AccountLine:
        """The same line with these credentials and no others."""
        bare = attrs.evolve(self.without("label", "credential"), password="")
        if not credentials:
            return bare
        first, *more = credentials
        words = [f"label={quote(first.label, safe='')}"] if first.label else []
        words += [f"credential={quote(c.label, safe='')}:{_stored(c)}" for c in more]
        return attrs.evolve(bare, password=_stored(first)).with_extras(*words)

    def with_enabled(self, enabled: bool) -> AccountLine:
        bare = self.without("nologin")
        return bare if enabled else bare.with_extras("nologin=y")


def _stored(credential: Credential) -> str:
    return f"{{{credential.scheme.upper()}}}{credential.value}"


@attrs.frozen(slots=True)
class AccountRow:
    """One account; ``format`` is None where the row does not say how its mail is kept."""

    account: Account
    format: Format | None


def parse_accounts(text: str, file: str) -> tuple[list[AccountRow], list[Problem]]:
    """All accounts of a file in order, and every problem."""
    accounts: list[AccountRow] = []
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    for number, line in account_lines(text):
        try:
            row = _account(line, Origin(file, number))
            key = row.account.address.key
            if key in lines:
                raise ValueError(
                    f"{row.account.address} has a row already on line {lines[key]}; keep one of them"
                )
            lines[key] = number
            accounts.append(row)
        except ValueError as error:
            what, _, mend = str(error).partition("; ")
            problems.append(Problem(file, number, what, mend))
    return accounts, problems


def account_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are rows, with their numbers: comments and blank lines are none."""
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if bare and not bare.startswith("#"):
            yield number, bare


def _account(text: str, origin: Origin) -> AccountRow:
    if len(text) > MAX_LINE:
        raise ValueError(f"the line is longer than {MAX_LINE} characters; shorten it")
    if ":" not in text:
        raise ValueError("this is no account row; write address:{SCHEME}hash")
    line = AccountLine.parse(text)
    address = account_address(line.user)
    kept: Format | None = None
    quota = messages = 0
    for value in line.extra("userdb_mail"):
        driver = value.partition(":")[0]
        if driver not in ("maildir", "mbox"):
            raise ValueError(f"userdb_mail={value}: mail is kept as maildir or mbox; write one of them")
        kept = "mbox" if driver == "mbox" else "maildir"
    for value in line.extra("userdb_quota_rule"):
        # Rules for single folders (Trash:storage=+100M) narrow or widen nothing here.
        if value.startswith("*:"):
            storage, count = _quota_rule(value)
            quota, messages = storage or quota, count or messages
    for value in line.extra("userdb_quota_storage_size"):
        quota = _octets(value)
    for value in line.extra("userdb_quota_message_count"):
        messages = _count(value)
    account = Account(
        address=address,
        enabled=all(value in ("n", "no") for value in line.extra("nologin")),
        format=kept or "maildir",
        credentials=credentials_of(line),
        quota=quota,
        quota_messages=messages,
        may_send_as=tuple(
            _send_as(word) for value in line.extra("send_as") for word in value.split(",") if word
        ),
        origin=origin,
        system=_system(line),
    )
    return AccountRow(account, kept)


def _system(line: AccountLine) -> SystemUser | None:
    """The user of this machine that a row with uid and home means; root is nobody's mailbox."""
    uid, home = line.fields[0], line.fields[3]
    if not (uid.isascii() and uid.isdigit() and len(uid) <= 10 and int(uid)):
        return None
    if not home.startswith("/") or not home.isprintable() or ".." in home.split("/"):
        return None
    return SystemUser(int(uid), home.rstrip("/") or "/")


def account_address(user: str) -> Address:
    """The address that a row's first field names."""
    if "@" not in user:
        raise ValueError(f'"{user}" has no domain; write user@domain')
    try:
        return parse_address(user)
    except AddressError as error:
        raise ValueError(f'"{user}": {error}; write user@domain') from None


def credentials_of(line: AccountLine) -> tuple[Credential, ...]:
    """The credentials of a row, in order.

    :raises ValueError: where one is malformed.
    """
    return tuple(_credentials(line))


def _credentials(line: AccountLine) -> Iterator[Credential]:
    if line.password:
        yield _credential(line.password, unquote(next(line.extra("label"), "")))
    for number, value in enumerate(line.extra("credential"), 2):
        if number > MAX_CREDENTIALS:
            raise ValueError(f"more than {MAX_CREDENTIALS} credentials; remove some")
        label, colon, stored = value.partition(":")
        if not colon:
            raise ValueError(f"credential={label}: no value; write credential=LABEL:{{SCHEME}}hash")
        yield _credential(stored, unquote(label))


def _credential(stored: str, label: str) -> Credential:
    match = _SCHEME.match(stored)
    if match is None:
        # Dovecot's default scheme of passwd-files.
        return Credential("crypt", stored, label)
    return Credential(match.group(1).lower(), match.group(2), label)


def _send_as(word: str) -> str:
    if word.startswith("@"):
        return account_address("x" + word).key[1:]
    return account_address(word).key


def _quota_rule(value: str) -> tuple[int, int]:
    storage = messages = 0
    for limit in value[2:].split(":"):
        name, _, amount = limit.partition("=")
        if name in ("storage", "bytes"):
            storage = _octets(amount if name == "bytes" or amount[-1:].isalpha() else amount + "k")
        elif name == "messages":
            messages = _count(amount)
        elif name and name not in ("ignore", "backend"):
            raise ValueError(f'userdb_quota_rule={value}: "{name}" is unknown; write *:storage=1G')
    return storage, messages


def _octets(text: str) -> int:
    match = _QUOTA.match(text)
    if match is None:
        raise ValueError(f'"{text}" is no quota; write for example 500M or 1G')
    return int(match.group(1)) * _QUOTA_UNITS[match.group(2).lower()]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f'"{text}" is no number of messages; write digits only')
    return int(text)
