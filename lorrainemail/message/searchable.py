"""The text of a message as a search sees it: header and parts decoded, each a stretch of its own.

Pure; used by SEARCH (:mod:`lorrainemail.imap.search`) and by the text index
(:mod:`lorrainemail.store.fulltext`), which must see the same text. Nothing is folded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import Final

from lorrainemail.message.charsets import decode, decode_body, decode_words
from lorrainemail.message.collation import plain
from lorrainemail.message.header import fields, unfold
from lorrainemail.message.structure import Part, parse_structure

#: Letters of a gram of the text index.
GRAM: Final = 3
#: Octets of a message of which grams are made; a larger one is looked at whole by every search.
MAX_GRAMMED: Final = 2 * 1024 * 1024

_WORDS = re.compile(rf"\w{{{GRAM},}}")


def header_text(data: bytes, part: Part) -> str:
    """The header of a message or part, decoded."""
    return decode_words(data[part.start : part.body].replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t"))


def body_texts(data: bytes, root: Part) -> Iterator[str]:
    """Every text that a person would read: text parts decoded, headers of parts and embedded messages."""
    for part in root.walk():
        if part is not root and part.body > part.start:
            yield header_text(data, part)
        if part.type != b"text":
            continue
        octets = decode_body(data[part.body : part.end], part.field(b"content-transfer-encoding") or b"")
        yield decode(octets, (part.parameter(b"charset") or b"").decode("ascii", "replace"))


def header_values(data: bytes, root: Part, wanted: Set[bytes]) -> dict[bytes, list[str]]:
    """The decoded values of the fields asked for (lower-case names), each decoded once."""
    found: dict[bytes, list[str]] = {}
    for field in fields(data, root.start, root.body) if wanted else ():
        if field.name in wanted:
            found.setdefault(field.name, []).append(decode_words(unfold(data[field.value : field.end])))
    return found


def grams(text: str) -> set[str]:
    """All runs of three letters within the words of a text, accents and case folded.

    A text that holds another one, under the comparator, has all of its grams.
    """
    found: set[str] = set()
    for word in set(_WORDS.findall(plain(text))):
        found.update([word[at : at + GRAM] for at in range(len(word) - GRAM + 1)])
    return found


def message_grams(data: bytes) -> set[str] | None:
    """The grams of everything that TEXT searches; None where the message is too large to say."""
    if len(data) > MAX_GRAMMED:
        return None
    root = parse_structure(data)
    found = grams(header_text(data, root))
    for text in body_texts(data, root):
        found |= grams(text)
    if not data[root.start : root.body].isascii():
        # octets that are no UTF-8 make the header as a whole be read otherwise than each field alone
        for field in fields(data, root.start, root.body):
            found |= grams(decode_words(unfold(data[field.value : field.end])))
    return found
