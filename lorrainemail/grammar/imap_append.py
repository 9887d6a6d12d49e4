"""APPEND and REPLACE up to a message's literal (RFC 3501 §6.3.11, RFC 3502, RFC 8508): the message itself
never passes through the grammar. And the tag of whatever a client sent."""

from __future__ import annotations

import re
from typing import Final

import attrs

from lorrainemail.grammar.imap_commands import AppendArguments, BadCommand
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.message.dates import parse_date_time

#: Octets of a tag; a longer one is a syntax error.
MAX_TAG: Final = 100

#: URLs of one CATENATE between two literals.
MAX_URLS: Final = 100

_QUOTED_DATE = re.compile(rb'"([^"]{26})"')


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
        before = AppendArguments(tag, mailbox, (), None, name.decode("ascii"), False, replaces, by_uid)
        return _append_options(scanner, before)
    except SyntaxFault as fault:
        raise BadCommand(tag, str(fault)) from None


def parse_append_options(data: bytes, before: AppendArguments) -> AppendArguments:
    """What stands before a further message of an APPEND (RFC 3502 §6.3.11).

    :param before: the arguments of the message before it.
    :raises BadCommand: where it is wrong.
    """
    scanner = Scanner(data)
    try:
        scanner.space()
        return _append_options(scanner, before)
    except SyntaxFault as fault:
        raise BadCommand(b"", str(fault)) from None


def is_catenated(line: bytes) -> bool:
    """Whether a line without a literal may be an APPEND all the same: one of URLs alone (RFC 4469)."""
    return line.endswith(b")") and b" CATENATE (" in line.upper()


def parse_pieces(data: bytes, before: AppendArguments) -> AppendArguments:
    """What stands behind a literal within CATENATE's parentheses, up to the next one or their end.

    :raises BadCommand: where it is wrong.
    """
    scanner = Scanner(data)
    try:
        if not scanner.at(b")"):
            scanner.space()
        return _pieces(scanner, before)
    except SyntaxFault as fault:
        raise BadCommand(b"", str(fault)) from None


def _pieces(scanner: Scanner, before: AppendArguments) -> AppendArguments:
    """RFC 4469 §5 ``cat-part *(SP cat-part) ")"``, up to a literal or the parenthesis."""
    urls: list[bytes] = []
    while not scanner.skip(b")"):
        if urls:
            scanner.space()
        kind = scanner.keyword()
        scanner.space()
        if kind not in (b"URL", b"TEXT") or len(urls) >= MAX_URLS:
            raise SyntaxFault("URL or TEXT is missing, or too many of them")
        if scanner.at_end():
            return attrs.evolve(before, catenates="URL" if kind == b"URL" else "TEXT", urls=tuple(urls))
        if kind == b"TEXT":
            raise SyntaxFault("a literal is missing")
        urls.append(scanner.astring())
    return attrs.evolve(before, catenates="END", urls=tuple(urls), behind=scanner.data[scanner.position :])


def _append_options(scanner: Scanner, before: AppendArguments) -> AppendArguments:
    """Flags, date, and whether ``UTF8 (`` (RFC 6855 §4) or ``CATENATE (`` (RFC 4469) stands there."""
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
    found = attrs.evolve(before, flags=flags, date=date, utf8=in_utf8, catenates="", urls=(), behind=b"")
    if scanner.data[scanner.position : scanner.position + 10].upper() == b"CATENATE (":
        scanner.position += 10
        if scanner.at(b")"):
            raise SyntaxFault("nothing to put together")
        found = _pieces(scanner, found)
    if not found.behind:
        scanner.end()
    return found
