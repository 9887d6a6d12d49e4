"""The file backend: ``domains``, ``accounts``, ``aliases`` and ``credentials`` in the state directory, and
the aliases(5) and virtual(5) files elsewhere that the configuration names.

The Twisted plugin is :class:`FileBackend`; relay networks and routes stand in the configuration and need no
file. Reading blocks; :meth:`FileSource.changed` is a ``stat`` a file. A file that broke keeps its old rows
(:mod:`lorrainemail.tables.textfile`) and the others are not held up by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs
from twisted.plugin import IPlugin
from zope.interface import implementer

from lorrainemail.config.values import Wrong, parse_domain
from lorrainemail.errors import ConfigurationError, Origin, Problem
from lorrainemail.interfaces import Account, ITableBackend
from lorrainemail.tables.accounts import AccountRow, parse_accounts
from lorrainemail.tables.aliases import parse_aliases, without_duplicates
from lorrainemail.tables.backend import AliasRow, DomainRow, IBackend, ITableSource, TableSet
from lorrainemail.tables.edit import note_in_use
from lorrainemail.tables.lists import Lists
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.stamp import read_stamps
from lorrainemail.tables.textfile import TableFile
from lorrainemail.tables.trust import is_trusted
from lorrainemail.tables.virtual import parse_virtual

#: Octets of all tables together that are read and parsed without a thread: a few milliseconds.
SMALL: Final = 64 * 1024


@attrs.frozen(slots=True)
class SecretRow:
    """One row of ``credentials``: for a next hop that asks for a login."""

    name: str
    user: str
    secret: str = attrs.field(repr=False)
    origin: Origin = attrs.field(factory=Origin)


@implementer(IPlugin, ITableBackend, IBackend)
class FileBackend:
    """Opens the text files of a state directory."""

    name = "files"

    def open(self, state: str) -> FileSource:
        return FileSource(state)


@implementer(ITableSource)
class FileSource:
    """The four files of one state directory, and those that the configuration names."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._domains = TableFile(state, "domains", parse_domains)
        self._accounts = TableFile(state, "accounts", _accounts)
        self._aliases: TableFile[AliasRow] = TableFile(state, "aliases", parse_aliases)
        self._secrets = TableFile(state, "credentials", parse_secrets, secret=True)
        self._current: tuple[Rules, TableSet] | None = None
        self._own: tuple[TableFile[Any], ...] = (
            self._domains,
            self._accounts,
            self._aliases,
            self._secrets,
        )
        self._files: tuple[TableFile[Any], ...] = self._own
        self._named: dict[tuple[str, str], TableFile[Any]] = {}
        self._lists = Lists()
        self._doubts: list[Problem] = []

    def load(self, rules: Rules) -> TableSet:
        self._follow(rules)
        stamps = read_stamps(self._state)
        problems: list[Problem] = []
        for file in self._files:
            try:
                file.load(stamps.get(file.name))
            except ConfigurationError as error:
                problems.extend(error.problems)
        for (kind, path), file in self._named.items():
            if not file.size and not os.path.exists(path):
                problems.append(_missing(kind, path))
        if problems:
            raise ConfigurationError(tuple(problems))
        return self._set(rules)

    def _follow(self, rules: Rules) -> None:
        """Hold the files that the configuration names, those that are new to us not read yet."""
        wanted = [("virtual", path) for path in rules.aliases.virtual]
        wanted += [("local", path) for path in rules.aliases.local]
        self._named = {key: self._named.get(key) or self._opened(*key) for key in dict.fromkeys(wanted)}
        self._files = (*self._own, *self._named.values())

    def _opened(self, kind: str, path: str) -> TableFile[Any]:
        # A path from the root stands for itself beside the state directory.
        return TableFile(self._state, path, parse_virtual if kind == "virtual" else parse_aliases)

    def changed(self, closely: bool = True) -> bool:
        return any(file.changed(closely) for file in self._files) or self._lists.changed()

    def small(self) -> bool:
        return sum(file.size for file in self._files) + self._lists.size <= SMALL

    def refresh(self, rules: Rules, confirmed: bool = False) -> TableSet:
        self._follow(rules)
        stamps = read_stamps(self._state)
        changed = [file.refresh(stamps.get(file.name), confirmed) for file in self._files]
        changed.append(self._lists.changed())
        if self._current is not None and self._current[0] is rules and not any(changed):
            return self._current[1]
        return self._set(rules)

    def note(self) -> None:
        note_in_use(self._state, {file.name: file.stamp for file in self._files})

    def alarms(self) -> Sequence[Problem]:
        gone = [_missing(kind, path) for kind, path in self._named if not os.path.exists(path)]
        broken = [problem for file in self._files for problem in file.problems]
        return [*broken, *(problem for problem in gone if not broken), *self._lists.problems]

    def warnings(self) -> Sequence[Problem]:
        of_files = [problem for file in self._files for problem in file.warnings]
        return [*of_files, *self._lists.warnings, *self._lists.problems, *self._doubts]

    def _set(self, rules: Rules) -> TableSet:
        self._doubts = []
        aliases = list(self._believed(self._aliases))
        domains = list(self._domains.rows)
        for file in self._named.values():
            domains += [row for row in file.rows if isinstance(row, DomainRow)]
            aliases += self._believed(file)
        aliases, twice = without_duplicates(aliases)
        self._doubts += twice
        self._lists.load(aliases)
        first: dict[str, DomainRow] = {}
        for row in domains:
            first.setdefault(row.name, row)
        tables = memory_set(
            first.values(),
            [_kept(row, rules) for row in self._accounts.rows],
            aliases,
            {row.name: (row.user, row.secret) for row in self._secrets.rows},
            self._lists.targets,
        )
        self._current = rules, tables
        return tables

    def _believed(self, file: TableFile[Any]) -> Iterator[AliasRow]:
        """A file's aliases; those that lead to commands and files are marked where it is the operator's."""
        trusted: bool | None = None
        for row in file.rows:
            if not isinstance(row, AliasRow):
                continue
            if not any(target.kind in ("command", "file") for target in row.targets):
                yield row
                continue
            if trusted is None:
                trusted = is_trusted(file.path, _owner(self._state))
            if not trusted:
                what = f'the alias "{row.key}" leads to a command or a file, and others could have written it'
                mend = f"give {file.path} and its directory to root, writable by nobody else"
                self._doubts.append(Problem(row.origin.file, row.origin.line, what, mend))
            yield attrs.evolve(row, trusted=trusted)


def _missing(kind: str, path: str) -> Problem:
    return Problem(path, 0, "there is no such file", f"[aliases] {kind} names it")


def _owner(state: str) -> int:
    """The server's user, also while it is being started by root."""
    try:
        return os.stat(state).st_uid
    except OSError:
        return os.geteuid()


def _kept(row: AccountRow, rules: Rules) -> Account:
    """The account, with the format that the configuration gives where its row gives none."""
    if row.format is None:
        format_ = rules.format_of(row.account.address.domain)
        if format_ != row.account.format:
            return attrs.evolve(row.account, format=format_)
    return row.account


def _accounts(text: str, file: str) -> tuple[list[AccountRow], list[Problem], list[Problem]]:
    return (*parse_accounts(text, file), [])


def parse_domains(text: str, file: str) -> tuple[list[DomainRow], list[Problem], list[Problem]]:
    """``domains``: one a line, ``#`` begins a comment."""
    rows: dict[str, DomainRow] = {}
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            name = parse_domain(word)
        except Wrong as error:
            problems.append(Problem(file, number, error.what, error.mend))
            continue
        if name in rows:
            what = f"{word} stands on line {rows[name].origin.line} already"
            warnings.append(Problem(file, number, what, "keep one of them"))
        rows.setdefault(name, DomainRow(name, "local", Origin(file, number)))
    return list(rows.values()), problems, warnings


def parse_secrets(text: str, file: str) -> tuple[list[SecretRow], list[Problem], list[Problem]]:
    """``credentials``: name, user and secret on a line; the secret is the rest of it."""
    rows: dict[str, SecretRow] = {}
    problems: list[Problem] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.strip().split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            problems.append(Problem(file, number, "this row lacks a part", "write: name user secret"))
        elif words[0] in rows:
            what = f'"{words[0]}" stands on line {rows[words[0]].origin.line} already'
            problems.append(Problem(file, number, what, "keep one of them"))
        else:
            rows[words[0]] = SecretRow(words[0], words[1], words[2], Origin(file, number))
    return list(rows.values()), problems, []
