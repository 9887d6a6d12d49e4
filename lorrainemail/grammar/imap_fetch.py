"""FETCH items (RFC 3501 §6.4.5): sections, partials, macros; and their labels in the response."""

from __future__ import annotations

import re
from typing import Final, Literal

import attrs

from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.message.quoting import astring

#: Items in one FETCH.
MAX_ITEMS: Final = 200
#: Numbers in one section, as "1.2.3".
MAX_PATH: Final = 60
#: Names in one HEADER.FIELDS list.
MAX_FIELDS: Final = 300

Text = Literal["", "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT", "MIME"]


@attrs.frozen(slots=True)
class FetchItem:
    """One thing to fetch.

    :ivar kind: "FLAGS", "UID", "ENVELOPE", "INTERNALDATE", "RFC822.SIZE", "BODY" and "BODYSTRUCTURE" (the
        structure), "MODSEQ", "EMAILID", "THREADID", "SAVEDATE", "PREVIEW", "SECTION" (octets of the
        message), "BINARY" and "BINARY.SIZE" (octets of a part, decoded; their number).
    :ivar label: how it is named in the response.
    :ivar path: part numbers; ``text`` what of that part; ``fields`` for HEADER.FIELDS.
    :ivar offset: of a partial, None where all is wanted; ``count`` its length.
    :ivar peek: does not set ``\\Seen``.
    """

    kind: str
    label: bytes
    path: tuple[int, ...] = ()
    text: Text = ""
    fields: tuple[bytes, ...] = ()
    offset: int | None = None
    count: int = 0
    peek: bool = True


_PLAIN: Final = {
    word: FetchItem(word.decode("ascii"), word)
    for word in (
        b"FLAGS", b"UID", b"ENVELOPE", b"INTERNALDATE", b"RFC822.SIZE", b"BODYSTRUCTURE",
        b"MODSEQ", b"EMAILID", b"THREADID", b"SAVEDATE",
    )
}  # fmt: skip
_PREVIEW: Final = FetchItem("PREVIEW", b"PREVIEW")
_BODY: Final = FetchItem("BODY", b"BODY")
_RFC822: Final = {
    b"RFC822": FetchItem("SECTION", b"RFC822", peek=False),
    b"RFC822.HEADER": FetchItem("SECTION", b"RFC822.HEADER", text="HEADER"),
    b"RFC822.TEXT": FetchItem("SECTION", b"RFC822.TEXT", text="TEXT", peek=False),
}
_FAST: Final = (_PLAIN[b"FLAGS"], _PLAIN[b"INTERNALDATE"], _PLAIN[b"RFC822.SIZE"])
_ALL: Final = (*_FAST, _PLAIN[b"ENVELOPE"])
_MACROS: Final = {b"FAST": _FAST, b"ALL": _ALL, b"FULL": (*_ALL, _BODY)}

_NAME = re.compile(rb"[A-Za-z0-9.]+")
_PATH = re.compile(rb"[1-9][0-9]{0,5}(?:\.[1-9][0-9]{0,5})*")
_TEXT = re.compile(rb"HEADER\.FIELDS\.NOT|HEADER\.FIELDS|HEADER|TEXT|MIME", re.IGNORECASE)
_PARTIAL = re.compile(rb"<([0-9]{1,10})\.([0-9]{1,10})>")


def fetch_items(scanner: Scanner) -> tuple[FetchItem, ...]:
    """``"ALL" / "FULL" / "FAST" / fetch-att / "(" fetch-att *(SP fetch-att) ")"``."""
    if not scanner.skip(b"("):
        return fetch_item(scanner, macros=True)
    items: list[FetchItem] = []
    while True:
        items.extend(fetch_item(scanner, macros=False))
        if len(items) > MAX_ITEMS:
            raise SyntaxFault("too many items to fetch")
        if scanner.skip(b")"):
            return tuple(dict.fromkeys(items))
        scanner.space()


def fetch_item(scanner: Scanner, macros: bool) -> tuple[FetchItem, ...]:
    match = _NAME.match(scanner.data, scanner.position)
    if match is None:
        raise SyntaxFault("an item to fetch is missing")
    name = match.group().upper()
    scanner.position = match.end()
    if name in (b"BINARY", b"BINARY.PEEK", b"BINARY.SIZE"):
        scanner.expect(b"[")
        return (_binary(scanner, name),)
    if name == b"PREVIEW":
        # RFC 8970 §4.2: LAZY asks for what costs little; all of ours does
        if scanner.data[scanner.position : scanner.position + 7].upper() == b" (LAZY)":
            scanner.position += 7
        return (_PREVIEW,)
    if name in (b"BODY", b"BODY.PEEK"):
        if scanner.skip(b"["):
            return (_section(scanner, peek=name == b"BODY.PEEK"),)
        if name == b"BODY":
            return (_BODY,)
    item = _PLAIN.get(name) or _RFC822.get(name)
    if item is not None:
        return (item,)
    if macros and name in _MACROS:
        return _MACROS[name]
    raise SyntaxFault("unknown item to fetch")


def _section(scanner: Scanner, peek: bool) -> FetchItem:
    """The rest of ``BODY[section]<partial>`` after the bracket."""
    path: tuple[int, ...] = ()
    text: Text = ""
    fields: tuple[bytes, ...] = ()
    label = b""
    numbers = _PATH.match(scanner.data, scanner.position)
    if numbers is not None:
        scanner.position = numbers.end()
        label = numbers.group()
        path = tuple(map(int, label.split(b".")))
        if len(path) > MAX_PATH:
            raise SyntaxFault("section too deep")
    if numbers is None or scanner.at(b"."):
        if numbers is not None:
            scanner.expect(b".")
            label += b"."
        word = _TEXT.match(scanner.data, scanner.position)
        if word is not None:
            scanner.position = word.end()
            text = _text_word(word.group())
            label += text.encode("ascii")
        elif numbers is not None:
            raise SyntaxFault("malformed section")
        if text == "MIME" and not path:
            raise SyntaxFault("MIME needs a part number")  # RFC 3501 §6.4.5
        if text in ("HEADER.FIELDS", "HEADER.FIELDS.NOT"):
            scanner.space()
            fields = _field_names(scanner)
            label += b" (%b)" % b" ".join(map(astring, fields))
    scanner.expect(b"]")
    offset, count = _partial(scanner)
    label = b"BODY[%b]" % label
    if offset is not None:
        label += b"<%d>" % offset
    return FetchItem("SECTION", label, path, text, fields, offset, count, peek)


def _binary(scanner: Scanner, name: bytes) -> FetchItem:
    """The rest of ``BINARY[part]<partial>`` after the bracket (RFC 3516 §4.2)."""
    numbers = _PATH.match(scanner.data, scanner.position)
    path: tuple[int, ...] = ()
    label = b""
    if numbers is not None:
        scanner.position = numbers.end()
        label = numbers.group()
        path = tuple(map(int, label.split(b".")))
        if len(path) > MAX_PATH:
            raise SyntaxFault("section too deep")
    scanner.expect(b"]")
    if name == b"BINARY.SIZE":
        return FetchItem("BINARY.SIZE", b"BINARY.SIZE[%b]" % label, path)
    offset, count = _partial(scanner)
    label = b"BINARY[%b]" % label
    if offset is not None:
        label += b"<%d>" % offset
    return FetchItem("BINARY", label, path, offset=offset, count=count, peek=name == b"BINARY.PEEK")


def _partial(scanner: Scanner) -> tuple[int | None, int]:
    """``<offset.count>`` where it stands there."""
    offset: int | None = None
    count = 0
    if scanner.at(b"<"):
        partial = _PARTIAL.match(scanner.data, scanner.position)
        if partial is None:
            raise SyntaxFault("malformed partial")
        scanner.position = partial.end()
        offset, count = int(partial.group(1)), int(partial.group(2))
        if count == 0 or max(offset, count) > 0xFFFFFFFF:
            raise SyntaxFault("malformed partial")
    return offset, count


def _text_word(word: bytes) -> Text:
    texts: dict[bytes, Text] = {
        b"HEADER": "HEADER",
        b"HEADER.FIELDS": "HEADER.FIELDS",
        b"HEADER.FIELDS.NOT": "HEADER.FIELDS.NOT",
        b"TEXT": "TEXT",
        b"MIME": "MIME",
    }
    return texts[word.upper()]


def _field_names(scanner: Scanner) -> tuple[bytes, ...]:
    scanner.expect(b"(")
    names = [scanner.astring()]
    while not scanner.skip(b")"):
        scanner.space()
        names.append(scanner.astring())
        if len(names) > MAX_FIELDS:
            raise SyntaxFault("too many header fields")
    return tuple(names)
