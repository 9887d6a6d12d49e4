"""Tag lists: the ``a=b; c=d`` of DKIM signatures, keys, ARC and DMARC (RFC 6376 §3.2)."""

from __future__ import annotations

import re
from typing import Final

#: Tags of one list; more make it faulty.
MAX_TAGS: Final = 64

_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*\Z")
_SPACE: Final = b" \t\r\n"


class TagError(ValueError):
    """The list is malformed; the text says how."""


def parse_tags(text: bytes) -> dict[str, bytes]:
    """The tags by name in order, values with their outer white space gone.

    :raises TagError: for a part that is no tag, and for a tag given twice.
    """
    parts = text.split(b";", MAX_TAGS)
    if len(parts) > MAX_TAGS:
        raise TagError("too many tags")
    if not parts[-1].strip(_SPACE):
        parts.pop()
    tags: dict[str, bytes] = {}
    for part in parts:
        name, equals, value = part.partition(b"=")
        name = name.strip(_SPACE)
        if not equals or not _NAME.match(name):
            raise TagError("a part is no tag")
        key = name.decode("ascii")
        if key in tags:
            raise TagError(f"{key}= is given twice")
        tags[key] = value.strip(_SPACE)
    return tags


def without_space(value: bytes) -> bytes:
    """A value with the white space gone that folding may have put anywhere into it."""
    return b"".join(value.split())


def emptied(value: bytes, name: bytes) -> bytes:
    """A tag list with one tag's value taken out and every other octet left (RFC 6376 §3.7)."""
    parts = value.split(b";")
    for index, part in enumerate(parts):
        tag, equals, _ = part.partition(b"=")
        if equals and tag.strip(_SPACE) == name:
            parts[index] = tag + equals
            break
    return b";".join(parts)
