"""The ``aliases`` file: aliases(5) with whole addresses as keys too.

``name: target, target``; a line that begins with white space goes on with the one before; ``#`` begins a
comment line; names and targets may be quoted. A key is a bare user (of any local domain), ``user@domain``, or
``@domain`` for all else of a domain. A target is an address, a bare user, ``\\user`` (no further alias),
``@domain`` (the same user there); ``|command``, ``/file`` and ``:include:file`` are understood but not
delivered to. Pure. Called by the file backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lorrainemail.addresses import (
    Address,
    AddressError,
    fold_local,
    normalise_domain,
    parse_address,
)
from lorrainemail.errors import Problem
from lorrainemail.interfaces import Origin
from lorrainemail.tables.backend import AliasRow, AliasTarget

#: Longest entry with its continuation lines.
MAX_ENTRY: Final = 2**20
#: Targets of one alias; a larger list is a mailing list.
MAX_TARGETS: Final = 5000

_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_PLAIN = re.compile(r'[^,\s"]+')
_SPACE = re.compile(r"\s*")
_KEY_END = re.compile(r"\s*:")


def parse_aliases(text: str, file: str) -> tuple[list[AliasRow], list[Problem], list[Problem]]:
    """All rows in order, every problem, and warnings (duplicates; targets that are not delivered to)."""
    rows: list[AliasRow] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    lines: dict[str, int] = {}
    for number, entry in _entries(text):
        try:
            row = _row(entry, Origin(file, number))
        except ValueError as error:
            what, _, mend = str(error).partition("; ")
            problems.append(Problem(file, number, what, mend))
            continue
        if row.key in lines:
            what = f'the alias "{row.key}" stands on line {lines[row.key]} already; this one is not used'
            warnings.append(Problem(file, number, what, "put all its targets into one of them"))
            continue
        lines[row.key] = number
        rows.append(row)
        warnings.extend(_undeliverable(row))
    return rows, problems, warnings


def _undeliverable(row: AliasRow) -> Iterator[Problem]:
    words = {"command": "a command", "file": "a file", "include": "an included list"}
    for target in row.targets:
        if target.kind in words:
            what = (
                f'the alias "{row.key}" leads to {words[target.kind]} ({target.text}), which is not supported'
            )
            yield Problem(row.origin.file, row.origin.line, what, "name addresses instead")


def _entries(text: str) -> Iterator[tuple[int, str]]:
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
    if quoted and _KEY_END.match(entry, quoted.end()):
        name, rest = _unquoted(quoted.group(1)), entry[_KEY_END.match(entry, quoted.end()).end() :]  # type: ignore[union-attr]
        key = fold_local(name)
    else:
        name, colon, rest = _split_key(entry)
        if not colon:
            raise ValueError("no colon after the name; write name: target, target")
        key = _key(name)
    targets = tuple(_target(word, was_quoted) for word, was_quoted in _words(rest))
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


def _key(name: str) -> str:
    try:
        if name.startswith("@"):
            return "@" + normalise_domain(name[1:])
        if "@" in name:
            return parse_address(name).key
        return fold_local(parse_address(name + "@x.invalid").local)
    except AddressError as error:
        raise ValueError(f'"{name}": {error}; a name is user, user@domain or @domain') from None


def _words(text: str) -> Iterator[tuple[str, bool]]:
    """Targets between commas, and whether each was quoted as a whole."""
    at, count = _SPACE.match(text).end(), 0  # type: ignore[union-attr]
    while at < len(text):
        quoted = _QUOTED.match(text, at)
        if text[at] == ",":
            at += 1
        elif quoted is not None and text[quoted.end() : quoted.end() + 1] != "@":
            yield _unquoted(quoted.group(1)), True
            at = quoted.end()
            at = _after_target(text, at)
        else:
            end = quoted.end() if quoted else at
            plain = _PLAIN.match(text, end)
            if plain is None:
                raise ValueError("a quotation mark is not closed; close it")
            yield text[at : plain.end()], False
            at = _after_target(text, plain.end())
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        count += 1
        if count > 2 * MAX_TARGETS:
            raise ValueError(f"more than {MAX_TARGETS} targets; split the list")


def _after_target(text: str, at: int) -> int:
    end = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    if end < len(text) and text[end] != ",":
        if text[end] == "#":
            raise ValueError("a comment after a target; put it on a line of its own")
        raise ValueError(f'"{text[end : end + 40]}" follows without a comma; part targets by commas')
    return end


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _target(word: str, quoted: bool) -> AliasTarget:
    if word.startswith("|"):
        return AliasTarget("command", word)
    if word.startswith("/"):
        return AliasTarget("file", word)
    if word.lower().startswith(":include:"):
        return AliasTarget("include", word)
    if word.startswith(":"):
        raise ValueError(f'"{word}" is no target; write an address')
    try:
        if word.startswith("@"):
            return AliasTarget("domain", word, Address("", normalise_domain(word[1:])))
        if word.startswith("\\"):
            return AliasTarget("mailbox", word, _bare(word[1:]))
        if quoted and "@" not in word:
            if not word.isprintable():
                raise ValueError("a name has a control character; remove it")
            return AliasTarget("user", word, Address(word, ""))
        if "@" in word:
            return AliasTarget("address", word, parse_address(word))
        return AliasTarget("user", word, _bare(word))
    except AddressError as error:
        raise ValueError(f'"{word}": {error}; write user or user@domain') from None


def _bare(word: str) -> Address:
    return Address(parse_address(word + "@x.invalid").local, "")
