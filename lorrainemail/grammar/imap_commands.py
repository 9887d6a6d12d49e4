"""What IMAP commands become: one value each, as :mod:`lorrainemail.grammar.imap` reads them from the wire."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from lorrainemail.grammar.imap_names import Pattern
from lorrainemail.grammar.imap_sets import SequenceSet


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
    :ivar catenates: the message is put together (RFC 4469); what this literal is of it: "TEXT", "URL", or
        "END" where none follows. ``urls``: those that stand before it.
    :ivar behind: what stands behind that end.
    """

    tag: bytes
    mailbox: str
    flags: tuple[str, ...]
    date: int | None
    name: str = "APPEND"
    utf8: bool = False
    replaces: int = 0
    by_uid: bool = False
    catenates: Literal["", "TEXT", "URL", "END"] = ""
    urls: tuple[bytes, ...] = ()
    behind: bytes = b""
