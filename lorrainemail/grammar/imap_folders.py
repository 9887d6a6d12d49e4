"""Arguments of the commands about mailboxes as such: CREATE, RENAME, STATUS, LSUB, and LIST with its options.

Each production begins after the command's name. Pure; fails with SyntaxFault.
"""

from __future__ import annotations

from typing import Any, Final

from lorrainemail.grammar.imap_commands import ListArguments
from lorrainemail.grammar.imap_metadata import entry_names
from lorrainemail.grammar.imap_names import Pattern, decode_name
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault

#: Patterns of one LIST (RFC 5258).
MAX_PATTERNS: Final = 20
STATUS_ITEMS: Final = frozenset(
    {
        "MESSAGES",
        "RECENT",
        "UIDNEXT",
        "UIDVALIDITY",
        "UNSEEN",
        "SIZE",
        "DELETED",
        "HIGHESTMODSEQ",
        "MAILBOXID",
        "DELETED-STORAGE",
    }
)
_SELECT_OPTIONS: Final = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_RETURN_OPTIONS: Final = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "MYRIGHTS"})


def rename(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    old = scanner.mailbox()
    scanner.space()
    return old, scanner.mailbox()


def create(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    name = scanner.mailbox()
    uses: tuple[str, ...] = ()
    if scanner.skip(b" ("):  # RFC 6154 §3
        if scanner.keyword() != b"USE":
            raise SyntaxFault("unknown CREATE parameter")
        scanner.space()
        uses = scanner.flag_list()
        scanner.expect(b")")
    return name, uses


def _status_items(scanner: Scanner) -> tuple[str, ...]:
    scanner.expect(b"(")
    items = [scanner.keyword().decode("ascii")]
    while not scanner.skip(b")"):
        scanner.space()
        items.append(scanner.keyword().decode("ascii"))
    if not STATUS_ITEMS.issuperset(items):
        raise SyntaxFault("unknown STATUS item")
    return tuple(dict.fromkeys(items))


def status_of(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    name = scanner.mailbox()
    scanner.space()
    return name, _status_items(scanner)


def _pattern(scanner: Scanner, reference: bytes, wire: bytes) -> Pattern:
    try:
        return Pattern(decode_name(reference + wire, scanner.utf8))
    except ValueError as error:
        raise SyntaxFault(str(error)) from None


def lsub(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    reference = scanner.astring()
    scanner.space()
    wire = scanner.list_mailbox()
    return (ListArguments((_pattern(scanner, reference, wire),), empty=not wire),)


def _words(scanner: Scanner, known: frozenset[str]) -> frozenset[str]:
    """A parenthesised list of option words after its "(", which may be empty."""
    words: set[str] = set()
    while not scanner.skip(b")"):
        if words:
            scanner.space()
        word = scanner.keyword().decode("ascii")
        if word not in known:
            raise SyntaxFault("unknown LIST option")
        words.add(word)
    return frozenset(words)


def list_mailboxes(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    select: frozenset[str] = frozenset()
    give: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    extended = False
    if scanner.skip(b"("):
        select = _words(scanner, _SELECT_OPTIONS)
        scanner.space()
        extended = True
        if "RECURSIVEMATCH" in select and not select & {"SUBSCRIBED", "SPECIAL-USE"}:
            raise SyntaxFault("RECURSIVEMATCH needs something to match")  # RFC 5258 §3
    reference = scanner.astring()
    scanner.space()
    wires: list[bytes] = []
    if scanner.skip(b"("):
        extended = True
        wires.append(scanner.list_mailbox())
        while not scanner.skip(b")"):
            scanner.space()
            wires.append(scanner.list_mailbox())
            if len(wires) > MAX_PATTERNS:
                raise SyntaxFault("too many patterns")
    else:
        wires.append(scanner.list_mailbox())
    if scanner.skip(b" "):
        if scanner.keyword() != b"RETURN":
            raise SyntaxFault("unknown LIST argument")
        scanner.space()
        scanner.expect(b"(")
        extended = True
        words: set[str] = set()
        while not scanner.skip(b")"):
            if words:
                scanner.space()
            word = scanner.keyword().decode("ascii")
            words.add(word)
            if word == "STATUS":  # RFC 5819
                scanner.space()
                status = _status_items(scanner)
            elif word == "METADATA":  # RFC 9590
                scanner.space()
                metadata = entry_names(scanner)
            elif word not in _RETURN_OPTIONS:
                raise SyntaxFault("unknown LIST option")
        give = frozenset(words)
    patterns = tuple(_pattern(scanner, reference, wire) for wire in wires)
    return (ListArguments(patterns, select, give, status, extended, not any(wires), metadata),)
