"""The MIME structure of a message by byte offsets (RFC 2045, RFC 2046).

One pass over the octets in linear time; nothing is decoded and nothing copied but the Content-* values. The
numbers of parts, levels and delimiters are bounded: past a bound what is left of a multipart is
not told apart any more. Never fails, whatever the octets.

Callers: :mod:`lorrainemail.message.summary` (ready wire bytes), the IMAP door for ``BODY[1.2]`` and searches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import attrs

from lorrainemail.message.header import body_offset, values

#: Levels of nesting that are looked into; a deeper multipart is shown as one opaque part.
MAX_DEPTH: Final = 40
#: Parts of one message.
MAX_PARTS: Final = 1000
#: Lines of one message that begin like a delimiter of an open multipart, true or not.
MAX_DELIMITERS: Final = 10_000
#: RFC 2046 §5.1.1 says 70; some mailers make longer ones.
MAX_BOUNDARY: Final = 200
#: Parameters of one Content-* field.
MAX_PARAMETERS: Final = 60
#: Octets of one Content-* value that are parsed for parameters.
MAX_PARAMETER_OCTETS: Final = 16 * 1024
#: Octets of a Content-Type that is remembered: most mail has one of a few.
MAX_REMEMBERED: Final = 100

Parameters = tuple[tuple[bytes, bytes], ...]

CONTENT_FIELDS: Final = frozenset(
    b"content-" + name
    for name in (
        b"type", b"transfer-encoding", b"id", b"description", b"disposition", b"language", b"location",
        b"md5",
    )
)  # fmt: skip

_TEXT_DEFAULT: Final = (b"text", b"plain", ((b"charset", b"US-ASCII"),))
_MESSAGE_DEFAULT: Final = (b"message", b"rfc822", ())
_OPAQUE: Final = (b"application", b"octet-stream", ())

_TYPE = re.compile(
    rb"[ \t]*([!#-'*+.0-9A-Z^-z{|}~-]+)[ \t]*/[ \t]*([!#-'*+.0-9A-Z^-z{|}~-]+)[ \t]*(?=[;(]|\Z)"
)
_SIMPLE = re.compile(rb"[ \t]*;[ \t]*([A-Za-z0-9*._-]+)=(?:\"([^\"\\\r\n]*)\"|([^\"\s;()\\]+))[ \t]*(?=;|\Z)")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)', re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)


@attrs.frozen(slots=True)
class Part:
    """One entity: the message itself, a part of a multipart, or the message within a message/rfc822.

    :ivar start: where its header begins; ``body`` where its body begins; ``end`` where it ends.
    :ivar lines: line ends in the body (counted for text and message/rfc822).
    :ivar type: lower case; ``subtype`` likewise; ``parameters`` in order, values unquoted but else raw.
    :ivar fields: unfolded Content-* values by lower-case name (of a message also what ``also`` asked for).
    :ivar parts: of a multipart its parts (at least one), of a message/rfc822 the message.
    """

    start: int
    body: int
    end: int
    type: bytes
    subtype: bytes
    parameters: Parameters
    fields: dict[bytes, list[bytes]]
    lines: int = 0
    parts: tuple[Part, ...] = ()

    @property
    def multipart(self) -> bool:
        return self.type == b"multipart"

    @property
    def embedded(self) -> bool:
        """Whether it is a message/rfc822 that was looked into."""
        return self.type == b"message" and bool(self.parts)

    def field(self, name: bytes) -> bytes | None:
        """The first value of one of its fields."""
        found = self.fields.get(name)
        return found[0] if found else None

    @property
    def encoding(self) -> bytes:
        """Its Content-Transfer-Encoding, lower case, b"" for none."""
        return (self.field(b"content-transfer-encoding") or b"").partition(b";")[0].strip().lower()

    def parameter(self, name: bytes) -> bytes | None:
        """The first value of a Content-Type parameter (lower-case name)."""
        return next((value for key, value in self.parameters if key.lower() == name), None)

    def walk(self) -> Iterator[Part]:
        """It and all below it, in order."""
        yield self
        for part in self.parts:
            yield from part.walk()


def _is_encoded(fields: dict[bytes, list[bytes]]) -> bool:
    """RFC 6532 §3.7: a message/global may be encoded, then it is not looked into."""
    encoding = fields.get(b"content-transfer-encoding", [b"8bit"])[0].strip().lower()
    return encoding not in (b"7bit", b"8bit", b"binary")


def parse_parameters(value: bytes, position: int = 0) -> Parameters:
    """``;name=value`` lists of Content-Type and Content-Disposition (RFC 2045 §5.1), leniently."""
    found: list[tuple[bytes, bytes]] = []
    size = min(len(value), MAX_PARAMETER_OCTETS)
    while position < size and len(found) < MAX_PARAMETERS:
        match = _SIMPLE.match(value, position)
        if match is not None:
            name, quoted, plain = match.groups()
            found.append((name, plain if quoted is None else quoted))
            position = match.end()
            continue
        stop = _semicolon(value, position + 1)
        name, equals, raw = value[position:stop].lstrip(b"; \t").partition(b"=")
        name = name.strip(b" \t")
        if equals and name and name.isascii() and b'"' not in name and b"(" not in name:
            found.append((name, _unquote(raw.strip(b" \t"))))
        position = stop
    return tuple(found)


def _semicolon(value: bytes, position: int) -> int:
    """The next semicolon outside quotes and comments, or the end."""
    quoted = False
    comment = 0
    size = len(value)
    while position < size:
        octet = value[position]
        if octet == 0x5C and (quoted or comment):  # backslash
            position += 1
        elif octet == 0x22 and not comment:
            quoted = not quoted
        elif octet == 0x28 and not quoted:
            comment += 1
        elif octet == 0x29 and comment:
            comment -= 1
        elif octet == 0x3B and not quoted and not comment:
            return position
        position += 1
    return size


def _unquote(raw: bytes) -> bytes:
    quoted = _QUOTED.match(raw)
    if quoted is not None:
        return _QUOTED_PAIR.sub(rb"\1", quoted.group(1))
    return raw.partition(b"(")[0].rstrip(b" \t")


def parse_content_type(value: bytes | None) -> tuple[bytes, bytes, Parameters] | None:
    """(type, subtype, parameters) in lower case; None where the value is missing or malformed."""
    if value is None:
        return None
    return _read_content_type(value) if len(value) > MAX_REMEMBERED else _known_content_type(value)


@lru_cache(maxsize=512)
def _known_content_type(value: bytes) -> tuple[bytes, bytes, Parameters] | None:
    return _read_content_type(value)


def _read_content_type(value: bytes) -> tuple[bytes, bytes, Parameters] | None:
    match = _TYPE.match(value)
    if match is None:
        return None
    return match.group(1).lower(), match.group(2).lower(), parse_parameters(value, match.end())


def parse_structure(data: bytes, also: frozenset[bytes] = frozenset()) -> Part:
    """The structure of a message in wire form.

    :param also: names of other fields whose values are kept for it and for each embedded message.
    """
    return _Scanner(data, also | CONTENT_FIELDS if also else CONTENT_FIELDS).message(0, 0)


class _Open:
    """One multipart that is being read: its delimiter and where that occurs next."""

    __slots__ = ("delimiter", "next")

    def __init__(self, boundary: bytes) -> None:
        self.delimiter = b"\r\n--" + boundary
        self.next = -1


class _Scanner:
    """Recursive descent, bounded by MAX_DEPTH; each open delimiter is searched for once over the octets."""

    __slots__ = ("also", "data", "delimiters", "open", "parts", "size")

    def __init__(self, data: bytes, also: frozenset[bytes]) -> None:
        self.data = data
        self.also = also
        self.size = len(data)
        self.open: list[_Open] = []
        self.parts = 0
        self.delimiters = 0

    def message(self, start: int, depth: int) -> Part:
        return self.entity(start, depth, _TEXT_DEFAULT, self.also)

    def entity(
        self, start: int, depth: int, default: tuple[bytes, bytes, Parameters], wanted: frozenset[bytes]
    ) -> Part:
        """The entity that begins there and ends at the next delimiter of any open multipart."""
        self.parts += 1
        data = self.data
        limit = max(start, self.next_delimiter(start - 2))
        body = body_offset(data, start, limit)
        found = values(data, wanted, start, body)
        content_type = found.get(b"content-type")
        kind = parse_content_type(content_type[0]) if content_type else None
        if kind is None:
            kind = default if content_type is None else _TEXT_DEFAULT
        main, sub, parameters = kind
        parts: tuple[Part, ...] = ()
        lines = 0
        if main == b"multipart":
            if depth >= MAX_DEPTH or self.parts >= MAX_PARTS:
                main, sub, parameters = _OPAQUE
            else:
                parts, limit = self.multipart(body, limit, depth, sub, parameters)
        elif main == b"message" and (sub == b"rfc822" or (sub == b"global" and not _is_encoded(found))):
            if depth >= MAX_DEPTH or self.parts >= MAX_PARTS:
                main, sub, parameters = _OPAQUE
            else:
                inner = self.message(body, depth + 1)
                parts, limit = (inner,), inner.end
        if main == b"text" or main == b"message":
            lines = data.count(b"\n", body, limit)
        return Part(start, body, limit, main, sub, parameters, found, lines, parts)

    def multipart(
        self, body: int, limit: int, depth: int, subtype: bytes, parameters: Parameters
    ) -> tuple[tuple[Part, ...], int]:
        """The parts of a multipart, and where it ends (its epilogue included)."""
        boundary = next((value for name, value in parameters if name.lower() == b"boundary"), b"")
        boundary = boundary.rstrip(b" \t")
        found: list[Part] = []
        if boundary and len(boundary) <= MAX_BOUNDARY:
            mine = _Open(boundary)
            level = len(self.open)
            self.open.append(mine)
            default = _MESSAGE_DEFAULT if subtype == b"digest" else _TEXT_DEFAULT
            position = self.next_delimiter(body - 2)
            while position < self.size and self.owner(position) == level:
                closing, after = self.delimiter_line(position, mine)
                if closing or self.parts >= MAX_PARTS:
                    break
                part = self.entity(after, depth + 1, default, CONTENT_FIELDS)
                found.append(part)
                position = self.next_delimiter(part.end - 2)
            self.open.pop()
            last = found[-1].end if found else body
            limit = max(body, self.next_delimiter(last - 2))
        if not found:
            # RFC 3501 §7.4.2 wants a part; the body as plain text is what a person can still read
            self.parts += 1
            lines = self.data.count(b"\n", body, limit)
            found.append(Part(body, body, limit, *_TEXT_DEFAULT, {}, lines))
        return tuple(found), limit

    def next_delimiter(self, position: int) -> int:
        """Where the next delimiter line (its CRLF) of any open multipart is, or the end of the data."""
        nearest = self.size
        for entry in self.open:
            if entry.next < position:
                entry.next = self.find(entry.delimiter, position)
            if entry.next < nearest:
                nearest = entry.next
        return nearest

    def find(self, delimiter: bytes, position: int) -> int:
        data = self.data
        while self.delimiters < MAX_DELIMITERS:
            at = data.find(delimiter, position)
            if at < 0:
                break
            self.delimiters += 1
            if self.line_kind(data, at + len(delimiter)) is not None:
                return at
            position = at + 2
        return self.size

    @staticmethod
    def line_kind(data: bytes, position: int) -> tuple[bool, int] | None:
        """After the boundary: (whether it closes, where the next line begins), None if it is no delimiter."""
        closing = data.startswith(b"--", position)
        if closing:
            position += 2
        stop = data.find(b"\r\n", position, position + MAX_BOUNDARY)
        after = stop + 2
        if stop < 0:
            stop = after = len(data)
            if stop - position > MAX_BOUNDARY:
                return None
        if data[position:stop].strip(b" \t"):
            return None
        return closing, after

    def owner(self, position: int) -> int:
        """Which open multipart a delimiter at that place belongs to: the innermost that has it."""
        for level in range(len(self.open) - 1, -1, -1):
            if self.open[level].next == position:
                return level
        return -1

    def delimiter_line(self, position: int, entry: _Open) -> tuple[bool, int]:
        found = self.line_kind(self.data, position + len(entry.delimiter))
        return found if found is not None else (True, position)
