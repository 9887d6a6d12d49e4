"""Header fields by their byte offsets; the header is never re-serialised.

Works on wire form: a line ends with CRLF and with nothing else. A line that is no field (no colon) belongs to
the header but is listed under no name. Callers: :mod:`lorrainemail.message.structure` and ``summary``, the
IMAP and POP3 doors for ``HEADER.FIELDS`` and ``TOP``. Never fails; what exceeds a bound is left out of the
list of fields, never out of the header itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

#: Octets of a header that are searched for fields (RFC 5322 §2.2 sets no limit).
MAX_HEADER_OCTETS: Final = 1 << 20
#: Fields of one header that are listed.
MAX_HEADER_FIELDS: Final = 4000
#: Octets of one field's value that are looked at when it is parsed further.
MAX_VALUE_OCTETS: Final = 256 * 1024


@attrs.frozen(slots=True)
class Field:
    """One field: lower-case name, and where its line, its value (after the colon) and the field end."""

    name: bytes
    start: int
    value: int
    end: int


def body_offset(data: bytes, start: int = 0, end: int | None = None) -> int:
    """Where the body begins: after the first empty line, or ``end`` where there is none (RFC 5322 §2.1)."""
    if end is None:
        end = len(data)
    if data.startswith(b"\r\n", start, end):
        return start + 2
    blank = data.find(b"\r\n\r\n", start, end)
    return end if blank < 0 else blank + 4


def fields(data: bytes, start: int = 0, end: int | None = None) -> list[Field]:
    """The fields of ``data[start:end]`` (a header, with or without its empty line), in order."""
    if end is None:
        end = body_offset(data, start)
    found: list[Field] = []
    name = b""
    began = value = position = start
    for line in data[start : min(end, start + MAX_HEADER_OCTETS)].split(b"\r\n"):
        if line[:1] not in (b" ", b"\t"):
            if name:
                found.append(Field(name, began, value, position))
                if len(found) >= MAX_HEADER_FIELDS:
                    return found
            if not line:
                return found
            colon = line.find(b":")
            name = line[:colon].rstrip(b" \t").lower() if colon > 0 else b""
            began, value = position, position + colon + 1
        position += len(line) + 2
    if name:
        found.append(Field(name, began, value, min(position, end)))
    return found


def unfold(value: bytes) -> bytes:
    """A field's value with its folding undone (RFC 5322 §2.2.3) and outer white space gone."""
    if b"\r\n" in value:
        value = value.replace(b"\r\n", b"")
    return value.strip(b" \t\r\n")


def values(
    data: bytes, wanted: frozenset[bytes], start: int = 0, end: int | None = None
) -> dict[bytes, list[bytes]]:
    """Unfolded values of the wanted fields (lower-case names), each name's in order of appearance."""
    if end is None:
        end = body_offset(data, start)
    block = data[start : min(end, start + MAX_HEADER_OCTETS)]
    if b"\r\n " in block:
        block = block.replace(b"\r\n ", b" ")
    if b"\r\n\t" in block:
        block = block.replace(b"\r\n\t", b"\t")
    found: dict[bytes, list[bytes]] = {}
    for line in block.split(b"\r\n", MAX_HEADER_FIELDS)[:MAX_HEADER_FIELDS]:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if name not in wanted:
            name = name.rstrip(b" \t")
            if name not in wanted:
                continue
        if colon:
            value = value[:MAX_VALUE_OCTETS].strip(b" \t\r\n")
            if name in found:
                found[name].append(value)
            else:
                found[name] = [value]
    return found


def pick(
    data: bytes, names: Iterable[bytes], start: int = 0, end: int | None = None, invert: bool = False
) -> bytes:
    """The lines of the named fields (or, ``invert``, of all others) as they stand, then an empty line.

    What ``HEADER.FIELDS`` and ``HEADER.FIELDS.NOT`` answer (RFC 3501 §6.4.5): octets copied, order,
    duplicates, spelling and folding kept.
    """
    if end is None:
        end = body_offset(data, start)
    wanted = frozenset(name.lower() for name in names)
    kept: list[bytes] = []
    keeping = False
    for line in data[start:end].split(b"\r\n"):
        if not line:
            break
        if line[:1] not in (b" ", b"\t"):
            colon = line.find(b":")
            known = colon > 0 and line[:colon].rstrip(b" \t").lower() in wanted
            keeping = known is not invert
        if keeping:
            kept.append(line)
    kept.append(b"\r\n")
    return b"\r\n".join(kept) if len(kept) > 1 else b"\r\n"
