"""SORT and THREAD (RFC 5256, RFC 5267 §3, RFC 5957): criteria, algorithm, character set, program."""

from __future__ import annotations

from typing import Any, Final

import attrs

from lorrainemail.grammar.imap_results import result_options
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.grammar.imap_search import UnknownCharset, charset_name, is_fuzzy, search_keys

#: Criteria of one SORT.
MAX_CRITERIA: Final = 20
_KEYS: Final = frozenset(
    {"ARRIVAL", "CC", "DATE", "FROM", "SIZE", "SUBJECT", "TO", "DISPLAYFROM", "DISPLAYTO", "RELEVANCY"}
)
_ALGORITHMS: Final = frozenset({"ORDEREDSUBJECT", "REFERENCES", "REFS"})


@attrs.frozen(slots=True)
class Criterion:
    """One sort criterion: its name, and whether the order is turned round."""

    key: str
    reverse: bool = False


def sort(scanner: Scanner) -> tuple[Any, ...]:
    """``SORT [RETURN (...)] (criteria) charset program``: criteria, program, result options."""
    scanner.space()
    options = result_options(scanner)
    criteria = _criteria(scanner)
    scanner.space()
    try:
        charset = charset_name(scanner)
    except UnknownCharset:
        raise UnknownCharset(options.saves) from None
    scanner.space()
    program = search_keys(scanner, charset)
    if any(criterion.key == "RELEVANCY" for criterion in criteria) and not is_fuzzy(program):
        raise SyntaxFault("RELEVANCY without FUZZY")  # RFC 6203 §5
    return criteria, program, options


def _criteria(scanner: Scanner) -> tuple[Criterion, ...]:
    scanner.expect(b"(")
    found: list[Criterion] = []
    while True:
        word = scanner.keyword().decode("ascii")
        reverse = word == "REVERSE"
        if reverse:
            scanner.space()
            word = scanner.keyword().decode("ascii")
        if word not in _KEYS or (reverse and word == "RELEVANCY"):
            raise SyntaxFault("unknown sort criterion")
        found.append(Criterion(word, reverse))
        if len(found) > MAX_CRITERIA:
            raise SyntaxFault("too many sort criteria")
        if scanner.skip(b")"):
            return tuple(found)
        scanner.space()


def thread(scanner: Scanner) -> tuple[Any, ...]:
    """``THREAD algorithm charset program``."""
    scanner.space()
    algorithm = scanner.keyword().decode("ascii")
    if algorithm not in _ALGORITHMS:
        raise SyntaxFault("unknown threading algorithm")
    scanner.space()
    charset = charset_name(scanner)
    scanner.space()
    return algorithm, search_keys(scanner, charset)
