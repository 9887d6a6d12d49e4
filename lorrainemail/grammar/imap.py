"""IMAP commands (RFC 3501 §9 and the extensions that we speak): octets of one command in, values out.

:func:`parse_command` turns what :mod:`lorrainemail.grammar.imap_input` gathered into a :class:`Command`.
Pure; fails with :class:`BadCommand`, which carries the tag where there was one, so that the door can answer a
tagged BAD and go on. Printers for responses stand at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import attrs

from lorrainemail.grammar import imap_acl, imap_order
from lorrainemail.grammar.imap_fetch import fetch_items
from lorrainemail.grammar.imap_metadata import entry_names, get_metadata, set_metadata
from lorrainemail.grammar.imap_multisearch import esearch
from lorrainemail.grammar.imap_names import Pattern, decode_name
from lorrainemail.grammar.imap_notify import notify
from lorrainemail.grammar.imap_results import fetch_modifiers, result_options
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.grammar.imap_search import UnknownCharset, is_fuzzy, search_program
from lorrainemail.grammar.imap_sets import SequenceSet
from lorrainemail.message.dates import parse_date_time

#: Octets of a tag; a longer one is a syntax error.
MAX_TAG: Final = 100
#: Patterns of one LIST (RFC 5258).
MAX_PATTERNS: Final = 20
#: Pairs of one ID (RFC 2971 §3.3).
MAX_ID_PAIRS: Final = 30


class BadCommand(Exception):
    """A command that is not IMAP: its tag (b"" where there was none) and the words for the BAD."""

    def __init__(self, tag: bytes, text: str) -> None:
        super().__init__(text)
        self.tag = tag
        self.text = text


@attrs.frozen(slots=True)
class Command:
    """One command. ``name`` in upper case without "UID "; ``arguments`` as the production's parser made
    them."""

    tag: bytes
    name: str
    uid: bool
    arguments: tuple[Any, ...]


@attrs.frozen(slots=True)
class StoreArguments:
    """STORE: "add", "remove" or "set"; ``unchanged_since`` of RFC 7162 §3.1.3, None where not given."""

    messages: SequenceSet
    operation: str
    silent: bool
    flags: tuple[str, ...]
    unchanged_since: int | None = None


@attrs.frozen(slots=True)
class Resync:
    """What a client knows of a mailbox (RFC 7162 §3.2.5).

    :ivar numbers: message numbers, ascending, and in ``uids`` what they were; as the client remembers them.
    """

    uid_validity: int
    modseq: int
    known: SequenceSet | None = None
    numbers: SequenceSet | None = None
    uids: SequenceSet | None = None


@attrs.frozen(slots=True)
class SelectArguments:
    """SELECT and EXAMINE (RFC 7162 §3.1.8, §3.2.5)."""

    mailbox: str
    condstore: bool = False
    resync: Resync | None = None


@attrs.frozen(slots=True)
class ListArguments:
    """LIST, plain or extended (RFC 5258), and LSUB."""

    patterns: tuple[Pattern, ...]
    select: frozenset[str] = frozenset()
    give: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    extended: bool = False
    empty: bool = False
    metadata: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class AppendArguments:
    """APPEND or REPLACE up to its literal; the message itself follows as octets.

    :ivar utf8: the message is announced as one with UTF-8 in its header (RFC 6855 §4).
    :ivar replaces: number or UID of the message that goes for it (RFC 8508), 0 for APPEND.
    """

    tag: bytes
    mailbox: str
    flags: tuple[str, ...]
    date: int | None
    name: str = "APPEND"
    utf8: bool = False
    replaces: int = 0
    by_uid: bool = False


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

_QUOTED_DATE = re.compile(rb'"([^"]{26})"')


def _nothing(scanner: Scanner) -> tuple[Any, ...]:
    return ()


def _login(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    user = scanner.astring()
    scanner.space()
    return user, scanner.astring()


def _authenticate(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    mechanism = scanner.keyword()
    initial: bytes | None = None
    if scanner.skip(b" "):  # RFC 4959
        initial = scanner.data[scanner.position :]
        scanner.position = len(scanner.data)
    return mechanism, initial


def _mailbox(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    return (scanner.mailbox(),)


def _select(scanner: Scanner) -> tuple[Any, ...]:
    """RFC 4466 §2.1: parameters in parentheses."""
    scanner.space()
    name = scanner.mailbox()
    condstore = False
    resync: Resync | None = None
    if scanner.skip(b" ("):
        while True:
            word = scanner.keyword()
            if word == b"CONDSTORE":
                condstore = True
            elif word == b"QRESYNC" and resync is None:
                scanner.space()
                resync = _resync(scanner)
            else:
                raise SyntaxFault("unknown SELECT parameter")
            if scanner.skip(b")"):
                break
            scanner.space()
    return (SelectArguments(name, condstore, resync),)


def _resync(scanner: Scanner) -> Resync:
    """RFC 7162 §7 ``select-param`` QRESYNC."""
    scanner.expect(b"(")
    validity = scanner.number()
    scanner.space()
    modseq = scanner.mod_sequence()
    known: SequenceSet | None = None
    numbers: SequenceSet | None = None
    uids: SequenceSet | None = None
    if not validity or not modseq:
        raise SyntaxFault("malformed QRESYNC")
    if scanner.at(b" ") and not scanner.at(b" ("):
        scanner.space()
        known = _plain_set(scanner)
    if scanner.skip(b" ("):
        numbers = _plain_set(scanner)
        scanner.space()
        uids = _plain_set(scanner)
        scanner.expect(b")")
    scanner.expect(b")")
    return Resync(validity, modseq, known, numbers, uids)


def _plain_set(scanner: Scanner) -> SequenceSet:
    found = scanner.known_set()
    if found.has_star:
        raise SyntaxFault('"*" is not known')  # RFC 7162 §7 ``known-uids``
    return found


def _rename(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    old = scanner.mailbox()
    scanner.space()
    return old, scanner.mailbox()


def _create(scanner: Scanner) -> tuple[Any, ...]:
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


def _status(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    name = scanner.mailbox()
    scanner.space()
    return name, _status_items(scanner)


def _pattern(scanner: Scanner, reference: bytes, wire: bytes) -> Pattern:
    try:
        return Pattern(decode_name(reference + wire, scanner.utf8))
    except ValueError as error:
        raise SyntaxFault(str(error)) from None


def _lsub(scanner: Scanner) -> tuple[Any, ...]:
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


def _list(scanner: Scanner) -> tuple[Any, ...]:
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


def _fetch(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    messages = scanner.sequence_set()
    scanner.space()
    return messages, fetch_items(scanner), fetch_modifiers(scanner, by_uid=False)


def _uid_fetch(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    messages = scanner.sequence_set()
    scanner.space()
    return messages, fetch_items(scanner), fetch_modifiers(scanner, by_uid=True)


def _store(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    messages = scanner.sequence_set()
    scanner.space()
    unchanged_since: int | None = None
    if scanner.skip(b"("):  # RFC 7162 §3.1.3
        if scanner.keyword() != b"UNCHANGEDSINCE":
            raise SyntaxFault("unknown STORE modifier")
        scanner.space()
        unchanged_since = scanner.mod_sequence()
        scanner.expect(b")")
        scanner.space()
    sign = "set"
    if scanner.skip(b"+"):
        sign = "add"
    elif scanner.skip(b"-"):
        sign = "remove"
    word = scanner.keyword()
    if word not in (b"FLAGS", b"FLAGS.SILENT"):
        raise SyntaxFault("unknown STORE item")
    scanner.space()
    if scanner.at(b"("):
        flags = scanner.flag_list()
    else:
        found = [scanner.flag()]
        while scanner.skip(b" "):
            found.append(scanner.flag())
        flags = tuple(found)
    return (StoreArguments(messages, sign, word == b"FLAGS.SILENT", flags, unchanged_since),)


def _copy(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    messages = scanner.sequence_set()
    scanner.space()
    return messages, scanner.mailbox()


def _search(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    options = result_options(scanner)
    try:
        program = search_program(scanner)
        if "RELEVANCY" in options.words and not is_fuzzy(program):
            raise SyntaxFault("RELEVANCY without FUZZY")  # RFC 6203 §4
        return program, options
    except UnknownCharset:
        raise UnknownCharset(options.saves) from None


def _uid_expunge(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    return (scanner.sequence_set(),)


def _quota_root(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    return (scanner.astring(),)


def _set_quota(scanner: Scanner) -> tuple[Any, ...]:
    """RFC 9208 §4.1.1."""
    (root,) = _quota_root(scanner)
    scanner.space()
    scanner.expect(b"(")
    limits: list[tuple[bytes, int]] = []
    while not scanner.skip(b")"):
        if limits:
            scanner.space()
        name = scanner.keyword()
        scanner.space()
        limits.append((name, scanner.mod_sequence()))
    return root, tuple(limits)


def _word(scanner: Scanner) -> tuple[Any, ...]:
    scanner.space()
    return (scanner.keyword(),)


def _enable(scanner: Scanner) -> tuple[Any, ...]:
    words: list[str] = []
    while scanner.skip(b" "):
        words.append(scanner.keyword().decode("ascii"))
    if not words:
        raise SyntaxFault("ENABLE needs a capability")
    return (tuple(words),)


def _id(scanner: Scanner) -> tuple[Any, ...]:
    """RFC 2971 §3.1."""
    scanner.space()
    pairs: list[tuple[bytes, bytes | None]] = []
    if not scanner.skip(b"("):
        if scanner.nstring() is not None:
            raise SyntaxFault("malformed ID")
        return (tuple(pairs),)
    while not scanner.skip(b")"):
        if pairs:
            scanner.space()
        name = scanner.string()
        scanner.space()
        pairs.append((name, scanner.nstring()))
        if len(pairs) > MAX_ID_PAIRS:
            raise SyntaxFault("too many ID fields")
    return (tuple(pairs),)


_PARSERS: Final[dict[bytes, Callable[[Scanner], tuple[Any, ...]]]] = {
    b"CAPABILITY": _nothing,
    b"NOOP": _nothing,
    b"LOGOUT": _nothing,
    b"STARTTLS": _nothing,
    b"AUTHENTICATE": _authenticate,
    b"LOGIN": _login,
    b"ENABLE": _enable,
    b"ID": _id,
    b"NAMESPACE": _nothing,
    b"SELECT": _select,
    b"EXAMINE": _select,
    b"CREATE": _create,
    b"DELETE": _mailbox,
    b"RENAME": _rename,
    b"SUBSCRIBE": _mailbox,
    b"UNSUBSCRIBE": _mailbox,
    b"LIST": _list,
    b"LSUB": _lsub,
    b"STATUS": _status,
    b"IDLE": _nothing,
    b"NOTIFY": notify,
    b"CHECK": _nothing,
    b"CLOSE": _nothing,
    b"UNSELECT": _nothing,
    b"EXPUNGE": _nothing,
    b"SEARCH": _search,
    b"ESEARCH": esearch,
    b"SORT": imap_order.sort,
    b"THREAD": imap_order.thread,
    b"FETCH": _fetch,
    b"STORE": _store,
    b"COPY": _copy,
    b"MOVE": _copy,
    b"COMPRESS": _word,
    b"GETQUOTA": _quota_root,
    b"GETQUOTAROOT": _mailbox,
    b"SETQUOTA": _set_quota,
    b"SETACL": imap_acl.set_acl,
    b"DELETEACL": imap_acl.of_identifier,
    b"LISTRIGHTS": imap_acl.of_identifier,
    b"GETACL": imap_acl.of_mailbox,
    b"MYRIGHTS": imap_acl.of_mailbox,
    b"GETMETADATA": get_metadata,
    b"SETMETADATA": set_metadata,
}
_UID_PARSERS: Final[dict[bytes, Callable[[Scanner], tuple[Any, ...]]]] = {
    b"SEARCH": _search,
    b"SORT": imap_order.sort,
    b"THREAD": imap_order.thread,
    b"FETCH": _uid_fetch,
    b"STORE": _store,
    b"COPY": _copy,
    b"MOVE": _copy,
    b"EXPUNGE": _uid_expunge,
}


def parse_command(data: bytes, utf8: bool = False, charsets: bool = True) -> Command:
    """One command without its final line end.

    :param utf8: mailbox names are UTF-8, not modified UTF-7 (RFC 6855 §3).
    :param charsets: a SEARCH may name its character set.

    :raises BadCommand: saying what is wrong.
    :raises lorrainemail.grammar.imap_search.UnknownCharset: from a SEARCH; use :func:`tag_of` for the tag.
    """
    scanner = Scanner(data, utf8=utf8, charsets=charsets)
    tag = b""
    try:
        tag = scanner.tag()
        if len(tag) > MAX_TAG:
            tag = b""
            raise SyntaxFault("tag too long")
        scanner.space()
        name = scanner.keyword()
        uid = False
        parsers = _PARSERS
        if name == b"UID":
            scanner.space()
            name = scanner.keyword()
            uid = True
            parsers = _UID_PARSERS
        parser = parsers.get(name)
        if parser is None:
            if name in (b"APPEND", b"REPLACE"):
                raise SyntaxFault(f"{name.decode('ascii')} needs a mailbox, then a literal")
            raise SyntaxFault("unknown command")
        arguments = parser(scanner)
        scanner.end()
    except SyntaxFault as fault:
        raise BadCommand(tag, str(fault)) from None
    return Command(tag, name.decode("ascii"), uid, arguments)


def tag_of(data: bytes) -> bytes:
    """The tag of a command that may be no command, b"" where there is none."""
    try:
        tag = Scanner(data[: MAX_TAG + 1]).tag()
    except SyntaxFault:
        return b""
    return tag if len(tag) <= MAX_TAG and data[len(tag) : len(tag) + 1] == b" " else b""


def parse_append(data: bytes, utf8: bool = False) -> AppendArguments | None:
    """What stands before a literal, if that literal is the message of an APPEND or REPLACE; else None.

    :param data: the command up to the literal's "{".
    :raises BadCommand: where it is one whose arguments are wrong.
    """
    scanner = Scanner(data, utf8=utf8)
    by_uid = False
    try:
        tag = scanner.tag()
        scanner.space()
        name = scanner.keyword()
        if name == b"UID":
            scanner.space()
            name = scanner.keyword()
            by_uid = True
        if name not in ((b"REPLACE",) if by_uid else (b"APPEND", b"REPLACE")) or len(tag) > MAX_TAG:
            return None
    except SyntaxFault:
        return None
    try:
        scanner.space()
        replaces = 0
        if name == b"REPLACE":
            replaces = scanner.number()
            if not replaces:
                raise SyntaxFault("message 0")
            scanner.space()
        if scanner.at_end():
            return None  # the mailbox is a literal
        mailbox = scanner.mailbox()
        scanner.space()
        flags, date, in_utf8 = _append_options(scanner)
    except SyntaxFault as fault:
        raise BadCommand(tag, str(fault)) from None
    return AppendArguments(tag, mailbox, flags, date, name.decode("ascii"), in_utf8, replaces, by_uid)


def parse_append_options(data: bytes) -> tuple[tuple[str, ...], int | None, bool]:
    """What stands before a further message of an APPEND (RFC 3502 §6.3.11).

    :raises BadCommand: where it is wrong.
    """
    scanner = Scanner(data)
    try:
        scanner.space()
        return _append_options(scanner)
    except SyntaxFault as fault:
        raise BadCommand(b"", str(fault)) from None


def _append_options(scanner: Scanner) -> tuple[tuple[str, ...], int | None, bool]:
    """Flags, date, and whether ``UTF8 (`` stands before the literal (RFC 6855 §4)."""
    flags: tuple[str, ...] = ()
    date: int | None = None
    if scanner.at(b"("):
        flags = scanner.flag_list()
        scanner.space()
    if scanner.at(b'"'):
        match = _QUOTED_DATE.match(scanner.data, scanner.position)
        date = parse_date_time(match.group(1)) if match is not None else None
        if match is None or date is None:
            raise SyntaxFault("malformed date-time")
        scanner.position = match.end()
        scanner.space()
    in_utf8 = scanner.data[scanner.position : scanner.position + 6].upper() == b"UTF8 ("
    if in_utf8:
        scanner.position += 6
    scanner.end()
    return flags, date, in_utf8


# -- printers ----------------------------------------------------------------------------------------


@lru_cache(maxsize=2048)
def flag_list(flags: frozenset[str], recent: bool = False) -> bytes:
    """Flags in parentheses, in a stable order."""
    words = sorted(flags)
    if recent:
        words.append("\\Recent")
    return b"(%b)" % " ".join(words).encode("ascii")


_UNPRINTABLE = re.compile(rb"[^ -~]")


def human(text: str) -> bytes:
    """Words for a response line: printable ASCII, bounded (RFC 3501 §9 ``text``)."""
    return _UNPRINTABLE.sub(b"?", text.encode("ascii", "replace"))[:200]
