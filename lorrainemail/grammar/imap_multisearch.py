"""ESEARCH (RFC 7377): in which mailboxes to search, then what SEARCH takes."""

from __future__ import annotations

from typing import Any, Final

import attrs

from lorrainemail.grammar.imap_notify import mailboxes
from lorrainemail.grammar.imap_results import result_options
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.grammar.imap_search import UnknownCharset, search_program

#: Sources of one command.
MAX_SOURCES: Final = 50
_NAMED: Final = frozenset({"SUBTREE", "SUBTREE-ONE", "MAILBOXES"})
_FILTERS: Final = _NAMED | {"SELECTED", "SELECTED-DELAYED", "INBOXES", "PERSONAL", "SUBSCRIBED"}


@attrs.frozen(slots=True)
class Source:
    """One ``filter-mailboxes`` (RFC 5465 §8, RFC 7377 §4), upper case, with its mailboxes."""

    filter: str
    mailboxes: tuple[str, ...] = ()


def esearch(scanner: Scanner) -> tuple[Any, ...]:
    """``ESEARCH [IN (sources)] [RETURN (options)] program``: sources, program, result options."""
    scanner.space()
    sources: tuple[Source, ...] = (Source("SELECTED"),)
    if scanner.data[scanner.position : scanner.position + 4].upper() == b"IN (":
        scanner.position += 4
        sources = _sources(scanner)
        scanner.space()
    options = result_options(scanner)
    if options.saves and any(source.filter != "SELECTED" for source in sources):
        raise SyntaxFault("SAVE is for the selected mailbox alone")  # RFC 7377 §2.2
    try:
        program = search_program(scanner)
    except UnknownCharset:
        raise UnknownCharset(options.saves) from None
    return sources, program, attrs.evolve(options, extended=True, words=options.words or frozenset({"ALL"}))


def _sources(scanner: Scanner) -> tuple[Source, ...]:
    found: list[Source] = []
    while True:
        word = scanner.keyword().decode("ascii")
        if word not in _FILTERS:
            raise SyntaxFault("unknown mailbox filter")
        names: tuple[str, ...] = ()
        if word in _NAMED:
            scanner.space()
            names = mailboxes(scanner)
        found.append(Source("SELECTED" if word == "SELECTED-DELAYED" else word, names))
        if scanner.skip(b")"):
            return tuple(found)
        scanner.space()
        if len(found) >= MAX_SOURCES:
            raise SyntaxFault("too many sources")
