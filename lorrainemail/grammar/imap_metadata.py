"""GETMETADATA and SETMETADATA (RFC 5464 §5): entries, values, options."""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from lorrainemail.grammar.imap_names import decode_name
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault

#: Entries of one command; octets of an entry's name.
MAX_ENTRIES: Final = 100
MAX_NAME: Final = 255

#: RFC 5464 §3.2: components of printable ASCII without "*" and "%".
_ENTRY = re.compile(r"/(?:private|shared)(?:/[!-$&-)+-.0-~]+)+", re.IGNORECASE)


@attrs.frozen(slots=True)
class MetadataArguments:
    """GETMETADATA. ``depth``: 0, 1, or -1 for all below; ``max_size`` None where not given."""

    mailbox: str
    entries: tuple[str, ...]
    depth: int = 0
    max_size: int | None = None


def get_metadata(scanner: Scanner) -> tuple[Any, ...]:
    """``GETMETADATA [options] mailbox [options] entries``: the ABNF and the examples put the options in
    different places (RFC 5464 §4.2, §5)."""
    scanner.space()
    options: dict[str, int] = {}
    if scanner.at(b"("):
        options = _options(scanner)
        scanner.space()
    name = mailbox(scanner)
    scanner.space()
    if not options and re.match(rb"\((?:MAXSIZE|DEPTH) ", scanner.data[scanner.position :][:10], re.I):
        options = _options(scanner)
        scanner.space()
    entries = entry_names(scanner)
    return (MetadataArguments(name, entries, options.get("DEPTH", 0), options.get("MAXSIZE")),)


def set_metadata(scanner: Scanner) -> tuple[Any, ...]:
    """``SETMETADATA mailbox (entry value *(SP entry value))``: mailbox, {entry: value}."""
    scanner.space()
    name = mailbox(scanner)
    scanner.space()
    scanner.expect(b"(")
    values: dict[str, bytes | None] = {}
    while True:
        entry = _entry(scanner)
        scanner.space()
        values[entry] = scanner.nstring()
        if scanner.skip(b")"):
            return name, values
        scanner.space()
        if len(values) >= MAX_ENTRIES:
            raise SyntaxFault("too many entries")


def mailbox(scanner: Scanner) -> str:
    """A mailbox's name, or "" for the server."""
    try:
        return decode_name(scanner.astring(), scanner.utf8)
    except ValueError as error:
        raise SyntaxFault(str(error)) from None


def entry_names(scanner: Scanner) -> tuple[str, ...]:
    """One entry, or several in parentheses."""
    if not scanner.skip(b"("):
        return (_entry(scanner),)
    found = [_entry(scanner)]
    while not scanner.skip(b")"):
        scanner.space()
        found.append(_entry(scanner))
        if len(found) > MAX_ENTRIES:
            raise SyntaxFault("too many entries")
    return tuple(dict.fromkeys(found))


def _entry(scanner: Scanner) -> str:
    name = scanner.astring().decode("ascii", "replace")
    if len(name) > MAX_NAME or not _ENTRY.fullmatch(name):
        raise SyntaxFault("malformed entry name")
    return name.lower()  # RFC 5464 §3.2: compared without case


def _options(scanner: Scanner) -> dict[str, int]:
    scanner.expect(b"(")
    found: dict[str, int] = {}
    while True:
        word = scanner.keyword()
        scanner.space()
        if word == b"MAXSIZE":
            found["MAXSIZE"] = scanner.number()
        elif word == b"DEPTH":
            depth = scanner.keyword()
            if depth not in (b"0", b"1", b"INFINITY"):
                raise SyntaxFault("malformed DEPTH")
            found["DEPTH"] = {b"0": 0, b"1": 1}.get(depth, -1)
        else:
            raise SyntaxFault("unknown GETMETADATA option")
        if scanner.skip(b")"):
            return found
        scanner.space()
