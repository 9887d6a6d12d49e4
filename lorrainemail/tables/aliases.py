"""aliases(5) files: those of Sendmail and Postfix as they are, and ours with whole addresses as keys too.

``name: target, target``; a line that begins with white space goes on with the one before; ``#`` begins a
comment line; names and targets may be quoted. A key is a bare user (of any local domain), ``user@domain``,
either of them with one ``*`` (any characters), or ``@domain`` for all else of a domain. What a target may be
is told in :mod:`lorrainemail.tables.targets`. Pure. Called by the file backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lorrainemail.addresses import AddressError, fold_local, normalise_domain, parse_address
from lorrainemail.errors import Origin, Problem
from lorrainemail.ops.commandline import words_of
from lorrainemail.tables.backend import AliasRow
from lorrainemail.tables.targets import parse_targets, unquoted

#: Longest entry with its continuation lines.
MAX_ENTRY: Final = 2**20

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_KEY_END = re.compile(r"\s*:")


def parse_aliases(text: str, file: str) -> tuple[list[AliasRow], list[Problem], list[Problem]]:
    """All rows in order, every problem, and warnings (duplicates; commands that cannot be run)."""
    rows: list[AliasRow] = []
    problems: list[Problem] = []
    for number, entry in entries(text):
        try:
            rows.append(_row(entry, Origin(file, number)))
        except ValueError as error:
            what, _, mend = str(error).partition("; ")
            problems.append(Problem(file, number, what, mend))
    kept, warnings = without_duplicates(rows)
    for row in kept:
        warnings.extend(not_runnable(row))
    return kept, problems, warnings


def without_duplicates(rows: list[AliasRow]) -> tuple[list[AliasRow], list[Problem]]:
    """The first row of each key, and a warning for every other one."""
    first: dict[str, AliasRow] = {}
    warnings: list[Problem] = []
    for row in rows:
        before = first.setdefault(row.key, row)
        if before is not row:
            line = before.origin.line
            where = f"on line {line}" if before.origin.file == row.origin.file else f"in {before.origin}"
            what = f'the alias "{row.key}" stands {where} already; this one is not used'
            mend = "put all its targets into one of them"
            warnings.append(Problem(row.origin.file, row.origin.line, what, mend))
    return list(first.values()), warnings


def not_runnable(row: AliasRow) -> Iterator[Problem]:
    """Commands of a row that only a shell would understand."""
    for target in row.targets:
        if target.kind == "command":
            try:
                words_of(target.text[1:])
            except ValueError as error:
                what, _, mend = str(error).partition("; ")
                place = target.origin or row.origin
                yield Problem(place.file, place.line, f'the alias "{row.key}": {what}', mend)


def entries(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines with the number of their first line."""
    first, pieces = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        if line[0] in " \t" and pieces:
            pieces.append(bare)
            continue
        if pieces:
            yield first, " ".join(pieces)
        first, pieces = number, [bare]
    if pieces:
        yield first, " ".join(pieces)


def _row(entry: str, origin: Origin) -> AliasRow:
    if len(entry) > MAX_ENTRY:
        raise ValueError(
            f"the alias is longer than {MAX_ENTRY} characters; a list of that size needs its own place"
        )
    quoted = _QUOTED.match(entry)
    if quoted and (end := _KEY_END.match(entry, quoted.end())):
        name, rest = unquoted(quoted.group(1)), entry[end.end() :]
        key = fold_local(name)
    else:
        name, colon, rest = _split_key(entry)
        if not colon:
            raise ValueError("no colon after the name; write name: target, target")
        key = parse_key(name)
    targets = parse_targets(rest)
    if not targets:
        raise ValueError(f'the alias "{name}" has no target; write name: target, target')
    return AliasRow(key, targets, origin)


def _split_key(entry: str) -> tuple[str, str, str]:
    """At the first colon outside quotes and brackets (``user@[IPv6:...]`` has some inside)."""
    depth, quoted = 0, False
    for position, character in enumerate(entry):
        if character == '"' and entry[position - 1 : position] != "\\":
            quoted = not quoted
        elif character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif character == ":" and depth <= 0 and not quoted:
            return entry[:position].strip(), ":", entry[position + 1 :]
    return entry, "", ""


def parse_key(name: str) -> str:
    """A name in the form in which rows are looked up.

    :raises ValueError: where it is none.
    """
    try:
        if name.startswith("@"):
            return "@" + normalise_domain(name[1:])
        bare = "@" not in name
        parsed = parse_address(name + "@x.invalid" if bare else name)
        key = fold_local(parsed.local) if bare else parsed.key
    except AddressError as error:
        raise ValueError(f'"{name}": {error}; a name is user, user@domain or @domain') from None
    local = key.rpartition("@")[0] or key
    if "*" in local and (local.count("*") > 1 or not (local.startswith("*") or local.endswith("*"))):
        raise ValueError(f'"{name}": a star stands alone, first or last in a name; write sales-*@x.org')
    if local == "*":
        raise ValueError(f'"{name}": everybody is written without a star; write @domain')
    return key
