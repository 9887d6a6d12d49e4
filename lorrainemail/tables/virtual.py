"""virtual(5) files of Postfix and virtusertable of Sendmail, as they are.

``pattern target, target``: a pattern and, after white space, where its mail goes; continuation lines and
comments as in aliases(5). A pattern is ``user@domain``, ``@domain`` (all else), ``user`` (of every local
domain), ``user+*@domain`` (with any detail), or a domain alone, with anything behind it, which makes it a
local domain: one that other patterns of the file have, too. A target is an address, a user, ``@domain``
(the same user there), ``%1@domain`` (``%1`` the user, ``%2`` the detail, ``%3`` the detail with its plus), or
``error:5.1.1 words``. No commands, files or lists: those are for aliases alone. Pure. Called by the file
backend.
"""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.addresses import AddressError, normalise_domain, parse_address
from lorrainemail.errors import Origin, Problem
from lorrainemail.tables.aliases import entries, parse_key, without_duplicates
from lorrainemail.tables.backend import AliasRow, AliasTarget
from lorrainemail.tables.rules import DomainRow
from lorrainemail.tables.targets import error_target, parse_targets, parted

_SPACE: Final = re.compile(r"\s+")
_TEMPLATE: Final = re.compile(r"%[123]")


def parse_virtual(text: str, file: str) -> tuple[list[AliasRow | DomainRow], list[Problem], list[Problem]]:
    """Aliases and domains in order, every problem, and warnings (duplicates)."""
    rows: list[AliasRow] = []
    names: dict[str, Origin] = {}
    problems: list[Problem] = []
    for number, entry in entries(text):
        origin = Origin(file, number)
        try:
            pattern, *rest = _SPACE.split(entry, maxsplit=1)
            if not rest:
                raise ValueError(f'"{pattern}" leads nowhere; write a target after white space')
            if "@" not in pattern and "." in pattern:
                _note_domain(names, pattern, origin)
            rows.append(AliasRow(parse_key(pattern), _targets(rest[0]), origin, "virtual"))
        except ValueError as error:
            what, _, mend = str(error).partition("; ")
            problems.append(Problem(file, number, what, mend))
    kept, warnings = without_duplicates(rows)
    used = {row.key.rpartition("@")[2] for row in kept if "@" in row.key}
    domains = {name: DomainRow(name, "local", origin) for name, origin in names.items() if name in used}
    # "example.com anything" says that the domain is ours; it is no user of that name.
    aliases = [row for row in kept if row.key not in domains]
    return [*domains.values(), *aliases], problems, warnings


def _note_domain(names: dict[str, Origin], text: str, origin: Origin) -> None:
    try:
        names.setdefault(normalise_domain(text), origin)
    except AddressError:
        pass  # a user with a dot in his name


def _targets(text: str) -> tuple[AliasTarget, ...]:
    if text.lower().startswith("error:"):
        return (error_target(text),)
    if not _TEMPLATE.search(text):
        found = parse_targets(text)
    else:
        found = tuple(_template(word) if "%" in word else parse_targets(word)[0] for word in parted(text))
    for target in found:
        if target.kind in ("command", "file", "include"):
            raise ValueError(f"{target.text} cannot stand here; put it into an alias and name that")
    if not found:
        raise ValueError("it leads nowhere; write a target after white space")
    return found


def _template(word: str) -> AliasTarget:
    """Checked with words in its places; they are put in when a recipient is expanded."""
    try:
        tried = fill(word, "user", "detail")
        parse_address(tried if "@" in tried else tried + "@x.invalid")
    except AddressError as error:
        raise ValueError(f'"{word}": {error}; write %1@domain') from None
    return AliasTarget("template", word)


def fill(template: str, user: str, detail: str) -> str:
    """Sendmail's places filled: the user, the detail, the detail with its plus."""
    words = {"%1": user, "%2": detail, "%3": f"+{detail}" if detail else ""}
    return _TEMPLATE.sub(lambda match: words[match.group()], template)
