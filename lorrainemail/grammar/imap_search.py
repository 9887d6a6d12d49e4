"""SEARCH programs (RFC 3501 §6.4.4) as trees of keys, bounded in depth and number."""

from __future__ import annotations

from typing import Final

import attrs

from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.grammar.imap_sets import SequenceSet
from lorrainemail.message.charsets import codec_name
from lorrainemail.message.dates import parse_search_date

#: Levels of NOT, OR and parentheses.
MAX_DEPTH: Final = 40
#: Keys of one program.
MAX_KEYS: Final = 500
#: Octets of one string that is searched for.
MAX_NEEDLE: Final = 4000


class UnknownCharset(Exception):
    """The CHARSET of a search is none that we can read (answered NO [BADCHARSET]).

    :ivar saves: the search was to save its result, which is nothing now (RFC 5182 §2.1).
    """

    def __init__(self, saves: bool = False) -> None:
        super().__init__()
        self.saves = saves


@attrs.frozen(slots=True)
class SearchKey:
    """One key.

    :ivar name: as RFC 3501 names it; "AND" for a list of keys, "SET" and "UID" for message sets.
    :ivar keys: of AND, OR (two), NOT (one).
    :ivar text: what is searched for, decoded; ``field`` the header field's name, lower case.
    :ivar fuzzy: compared more loosely (RFC 6203).
    :ivar number: of LARGER, SMALLER, MODSEQ; seconds of OLDER, YOUNGER; of dates the day (days since the
        epoch).
    """

    name: str
    keys: tuple[SearchKey, ...] = ()
    text: str = ""
    field: bytes = b""
    number: int = 0
    messages: SequenceSet | None = None
    fuzzy: bool = False


#: Keys that only look at flags, each with the flag and whether it must be there.
FLAG_KEYS: Final = {
    "ANSWERED": ("\\Answered", True),
    "DELETED": ("\\Deleted", True),
    "DRAFT": ("\\Draft", True),
    "FLAGGED": ("\\Flagged", True),
    "SEEN": ("\\Seen", True),
    "UNANSWERED": ("\\Answered", False),
    "UNDELETED": ("\\Deleted", False),
    "UNDRAFT": ("\\Draft", False),
    "UNFLAGGED": ("\\Flagged", False),
    "UNSEEN": ("\\Seen", False),
}
_BARE: Final = frozenset(FLAG_KEYS) | {"ALL", "NEW", "OLD", "RECENT", "SAVEDATESUPPORTED"}
_STRINGS: Final = frozenset({"BCC", "BODY", "CC", "FROM", "SUBJECT", "TEXT", "TO"})
_DATES: Final = frozenset(
    {"BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE", "SAVEDBEFORE", "SAVEDON", "SAVEDSINCE"}
)
_INTERVALS: Final = frozenset({"OLDER", "YOUNGER"})
_OBJECT_IDS: Final = frozenset({"EMAILID", "THREADID"})


def search_program(scanner: Scanner) -> SearchKey:
    """``[CHARSET SP astring SP] search-key *(SP search-key)``, to the end of the command.

    :raises UnknownCharset: where the program is right but for its character set.
    """
    charset = "utf-8"
    if scanner.data[scanner.position : scanner.position + 8].upper() == b"CHARSET ":
        if not scanner.charsets:
            raise SyntaxFault("CHARSET after UTF8 was enabled")  # RFC 6855 §3
        scanner.position += 8
        charset = charset_name(scanner)
        scanner.space()
    return search_keys(scanner, charset)


def charset_name(scanner: Scanner) -> str:
    """The character set of a program.

    :raises UnknownCharset: where it is none of ours.
    """
    name = codec_name(scanner.astring().decode("ascii", "replace"))
    if name is None:
        raise UnknownCharset()
    return name


def search_keys(scanner: Scanner, charset: str) -> SearchKey:
    """``search-key *(SP search-key)``, to the end of the command."""
    reader = _Reader(scanner, charset)
    keys = [reader.key(0)]
    while not scanner.at_end():
        scanner.space()
        keys.append(reader.key(0))
    return keys[0] if len(keys) == 1 else SearchKey("AND", tuple(keys))


def is_fuzzy(key: SearchKey) -> bool:
    """Whether any part of the program stands under FUZZY."""
    return key.fuzzy or any(is_fuzzy(inner) for inner in key.keys)


class _Reader:
    __slots__ = ("charset", "count", "fuzzy", "scanner")

    def __init__(self, scanner: Scanner, charset: str) -> None:
        self.scanner = scanner
        self.charset = charset
        self.count = 0
        self.fuzzy = False

    def key(self, depth: int) -> SearchKey:
        self.count += 1
        if self.count > MAX_KEYS or depth > MAX_DEPTH:
            raise SyntaxFault("search too complex")
        scanner = self.scanner
        if scanner.skip(b"("):
            keys = [self.key(depth + 1)]
            while not scanner.skip(b")"):
                scanner.space()
                keys.append(self.key(depth + 1))
            return SearchKey("AND", tuple(keys))
        if scanner.data[scanner.position : scanner.position + 1] in b"0123456789*$":
            return SearchKey("SET", messages=scanner.sequence_set())
        name = scanner.keyword().decode("ascii")
        if name in _BARE:
            return SearchKey(name)
        scanner_step = self.argument(name, depth)
        if scanner_step is None:
            raise SyntaxFault("unknown search key")
        return scanner_step

    def argument(self, name: str, depth: int) -> SearchKey | None:
        """A key that has arguments; None for a word that is no key."""
        scanner = self.scanner
        if name == "NOT":
            scanner.space()
            return SearchKey("NOT", (self.key(depth + 1),))
        if name == "FUZZY":  # RFC 6203 §4
            scanner.space()
            outer, self.fuzzy = self.fuzzy, True
            inner = self.key(depth + 1)
            self.fuzzy = outer
            return inner
        if name == "OR":
            scanner.space()
            first = self.key(depth + 1)
            scanner.space()
            return SearchKey("OR", (first, self.key(depth + 1)))
        if name == "UID":
            scanner.space()
            return SearchKey("UID", messages=scanner.sequence_set())
        if name in _STRINGS:
            scanner.space()
            return SearchKey(name, text=self.text(), fuzzy=self.fuzzy)
        if name == "HEADER":
            scanner.space()
            field = scanner.astring().lower()
            scanner.space()
            return SearchKey("HEADER", field=field, text=self.text(), fuzzy=self.fuzzy)
        if name in ("KEYWORD", "UNKEYWORD"):
            scanner.space()
            return SearchKey(name, text=scanner.flag().lower())
        if name in ("LARGER", "SMALLER"):
            scanner.space()
            return SearchKey(name, number=scanner.number())
        if name in _INTERVALS:  # RFC 5032 §3
            scanner.space()
            number = scanner.number()
            if not number:
                raise SyntaxFault("an interval of nothing")
            return SearchKey(name, number=number)
        if name == "MODSEQ":  # RFC 7162 §3.1.5; the metadata item that it may name has no MODSEQ of its own
            scanner.space()
            if scanner.at(b'"'):
                scanner.string()
                scanner.space()
                if scanner.keyword() not in (b"ALL", b"SHARED", b"PRIV"):
                    raise SyntaxFault("malformed MODSEQ")
                scanner.space()
            return SearchKey(name, number=scanner.mod_sequence())
        if name in _OBJECT_IDS:  # RFC 8474 §6
            scanner.space()
            return SearchKey(name, text=scanner.object_id())
        if name in _DATES:
            scanner.space()
            day = parse_search_date(scanner.astring())
            if day is None:
                raise SyntaxFault("malformed date")
            return SearchKey(name, number=day)
        return None

    def text(self) -> str:
        octets = self.scanner.astring()
        if len(octets) > MAX_NEEDLE:
            raise SyntaxFault("search string too long")
        try:
            return octets.decode(self.charset)
        except UnicodeError:
            raise SyntaxFault("search string is not in its character set") from None
