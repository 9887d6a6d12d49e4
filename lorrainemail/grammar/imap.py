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

from lorrainemail.grammar import imap_acl, imap_order
from lorrainemail.grammar.imap_append import MAX_TAG
from lorrainemail.grammar.imap_commands import BadCommand, Command, Resync, SelectArguments, StoreArguments
from lorrainemail.grammar.imap_fetch import fetch_items
from lorrainemail.grammar.imap_folders import create, list_mailboxes, lsub, rename, status_of
from lorrainemail.grammar.imap_metadata import get_metadata, set_metadata
from lorrainemail.grammar.imap_multisearch import esearch
from lorrainemail.grammar.imap_notify import notify
from lorrainemail.grammar.imap_results import fetch_modifiers, result_options
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.grammar.imap_search import UnknownCharset, is_fuzzy, search_program
from lorrainemail.grammar.imap_sets import SequenceSet

#: Pairs of one ID (RFC 2971 §3.3).
MAX_ID_PAIRS: Final = 30


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
    b"CREATE": create,
    b"DELETE": _mailbox,
    b"RENAME": rename,
    b"SUBSCRIBE": _mailbox,
    b"UNSUBSCRIBE": _mailbox,
    b"LIST": list_mailboxes,
    b"LSUB": lsub,
    b"STATUS": status_of,
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
