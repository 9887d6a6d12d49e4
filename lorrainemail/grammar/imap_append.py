"""APPEND and REPLACE up to a message's literal (RFC 3501 §6.3.11, RFC 3502, RFC 8508): the message itself
never passes through the grammar. And the tag of whatever a client sent."""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.grammar.imap_commands import AppendArguments, BadCommand
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.message.dates import parse_date_time

#: Octets of a tag; a longer one is a syntax error.
MAX_TAG: Final = 100

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
