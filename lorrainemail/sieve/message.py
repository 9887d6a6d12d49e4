"""One message as a script sees it: its header, which the script may edit, and, where asked for, its body.

The header is split once; the body is only loaded (and its MIME structure only looked at) when a test needs
it. A script that edits the header works on a list of fields of its own; the octets of fields that it leaves
alone stay as they are. Pure but for ``load``, which reads the octets after the header.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from email.header import Header
from typing import Final

import attrs

from lorrainemail.message import header as fields_of
from lorrainemail.message.addresslist import parse_addresses
from lorrainemail.message.charsets import decode, decode_body, decode_words
from lorrainemail.message.header import unfold
from lorrainemail.message.structure import Part, parse_structure

#: Octets of one part that are decoded for a test, and of all texts of one message.
MAX_PART: Final = 8 << 20
#: Forms of the body's text that are kept for further tests.
MAX_KEPT: Final = 4
#: Octets of one field that is added.
MAX_FIELD: Final = 16 * 1024

_MARKUP = re.compile(r"<!--.*?(?:-->|\Z)|<(?:script|style)\b[^>]*>.*?(?:</(?:script|style)>|\Z)|<[^>]*>?",
                     re.DOTALL | re.IGNORECASE)  # fmt: skip
_ENTITY: Final = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&nbsp;": " ", "&apos;": "'", "&amp;": "&"}


@attrs.frozen(slots=True)
class Mailbox:
    """An address in a header: unquoted local part and domain, as written."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local


@attrs.frozen(slots=True)
class Text:
    """One part of the body with its transfer encoding undone."""

    type: str
    text: str


class Message:
    """The message.

    :param header: with the line end of its last field, without the empty line.
    :param size: octets of the whole.
    :param load: the octets after the header's empty line.
    """

    __slots__ = (
        "_body",
        "_cache",
        "_data",
        "_edited",
        "_fields",
        "_header",
        "_load",
        "_structure",
        "_texts",
        "rewritten",
        "size",
    )

    def __init__(self, header: bytes, size: int, load: Callable[[], bytes]) -> None:
        self.size = size
        self.rewritten = False
        self._texts: dict[object, list[str]] = {}
        self._header = header
        self._load = load
        self._body: bytes | None = None
        self._data: bytes | None = None
        self._structure: Part | None = None
        self._edited: bytes | None = None
        self._fields: list[tuple[bytes, bytes]] = [
            (field.name, header[field.start : field.end])
            for field in fields_of.fields(header, 0, len(header))
        ]
        self._cache: dict[bytes, list[bytes]] | None = None

    @classmethod
    def of(cls, data: bytes) -> Message:
        """A message whose octets are at hand."""
        body = fields_of.body_offset(data)
        header = data[:body]
        if header.endswith(b"\r\n\r\n") or header == b"\r\n":
            header = header[:-2]
        return cls(header, len(data), lambda: data[body:])

    # -- the header --------------------------------------------------------------------------------

    def raw(self, name: str) -> list[bytes]:
        """Unfolded values of a field, in order."""
        cache = self._cache
        if cache is None:
            cache = self._cache = {}
            for key, line in self._fields:
                cache.setdefault(key, []).append(line)
        lines = cache.get(name.lower().encode("utf-8", "surrogateescape"))
        return [_value(line) for line in lines] if lines else []

    def values(self, name: str) -> list[str]:
        """The same as text, encoded words decoded."""
        return [text_of(value) for value in self.raw(name)]

    def exists(self, name: str) -> bool:
        return bool(self.raw(name))

    def lines(self, name: str) -> list[bytes]:
        """Whole fields of that name as they stand."""
        key = name.lower().encode("utf-8", "surrogateescape")
        return [line for found, line in self._fields if found == key]

    def add(self, name: str, value: str, last: bool) -> None:
        """Put a field at the top (or the end) of the header (RFC 5293 §4)."""
        line = field(name, value)
        key = name.lower().encode("ascii")
        self._fields.insert(len(self._fields) if last else 0, (key, line))
        self._changed()

    def delete(self, name: str, wanted: Callable[[int, str], bool]) -> int:
        """Take out fields of that name for which ``wanted(position from 0, value)`` holds; how many."""
        key = name.lower().encode("ascii")
        kept: list[tuple[bytes, bytes]] = []
        position = gone = 0
        for entry in self._fields:
            if entry[0] == key:
                if wanted(position, text_of(_value(entry[1]))):
                    gone += 1
                    position += 1
                    continue
                position += 1
            kept.append(entry)
        if gone:
            self._fields = kept
            self._changed()
        return gone

    def _changed(self) -> None:
        self._cache = self._structure = self._data = None
        self._texts.clear()
        self._edited = b"".join(line for _, line in self._fields)

    @property
    def edited(self) -> bytes | None:
        """The header as the script left it, None while it is the original."""
        return self._edited

    # -- the body ----------------------------------------------------------------------------------

    @property
    def header(self) -> bytes:
        return self._header if self._edited is None else self._edited

    @property
    def body(self) -> bytes:
        """The octets after the header's empty line."""
        if self._body is None:
            self._body = self._load()
        return self._body

    @property
    def raw_body(self) -> str:
        """The same as text, within bounds; octets that are no UTF-8 stay apart from everything else."""
        return self._kept("raw", lambda: [self.body[:MAX_PART].decode("utf-8", "surrogateescape")])[0]

    def _kept(self, key: object, make: Callable[[], list[str]]) -> list[str]:
        """A list of texts, made once: decoding is what tests of a large body cost."""
        found = self._texts.get(key)
        if found is None:
            if len(self._texts) >= MAX_KEPT:
                self._texts.clear()
            found = self._texts[key] = make()
        return found

    @property
    def data(self) -> bytes:
        """The whole."""
        if self._data is None:
            self._data = self.header + b"\r\n" + self.body
        return self._data

    @property
    def structure(self) -> Part:
        if self._structure is None:
            self._structure = parse_structure(self.data)
        return self._structure

    def rewrite(self, data: bytes) -> None:
        """Another message in the place of this one (RFC 5703 §5, §6)."""
        body = fields_of.body_offset(data)
        header = data[:body].removesuffix(b"\r\n")
        self._fields = [
            (found.name, header[found.start : found.end])
            for found in fields_of.fields(header, 0, len(header))
        ]
        self._body, self.rewritten = data[body:], True
        self._changed()

    def contents(self, types: tuple[str, ...]) -> list[str]:
        """Parts of those types as text (RFC 5173 §5.2): "" all, "text" a type, "text/plain" one subtype."""
        return self._kept(types, lambda: self._contents(types))

    def _contents(self, types: tuple[str, ...]) -> list[str]:
        found: list[str] = []
        left = MAX_PART
        for part in self.structure.walk():
            name = f"{part.type.decode('latin-1')}/{part.subtype.decode('latin-1')}"
            if not any(_is_type(name, wanted) for wanted in types):
                continue
            if part.multipart:
                text = self._around(part)
            elif part.embedded:
                inner = part.parts[0]
                text = decode(self.data[inner.start : inner.body])
            else:
                text = part_text(self.data, part)
            found.append(text[:left])
            left -= len(text)
            if left <= 0:
                break
        return found

    def _around(self, part: Part) -> str:
        """Prologue and epilogue of a multipart (RFC 5173 §5.2)."""
        if not part.parts:
            return ""
        prologue = self.data[part.body : part.parts[0].start]
        epilogue = self.data[part.parts[-1].end : part.end]
        return decode(prologue + epilogue)

    def texts(self) -> list[str]:
        """The text that a person reads (RFC 5173 §5.3): text parts, HTML without its markup."""
        return self._kept("text", self._read)

    def _read(self) -> list[str]:
        found = []
        for part in self.structure.walk():
            if part.type == b"text":
                text = part_text(self.data, part)
                found.append(without_markup(text) if part.subtype == b"html" else text)
        return found

    # -- addresses ---------------------------------------------------------------------------------

    def addresses(self, name: str) -> list[Mailbox]:
        """All addresses in the fields of that name."""
        return [mailbox for value in self.raw(name) for mailbox in mailboxes(value)]


def part_values(data: bytes, part: Part, name: str) -> list[bytes]:
    """Unfolded values of a field in a part's own header."""
    key = name.lower().encode("utf-8", "surrogateescape")
    return fields_of.values(data, frozenset({key}), part.start, part.body).get(key, [])


def part_text(data: bytes, part: Part) -> str:
    """A part as text, its transfer encoding undone."""
    encoding = (part.field(b"content-transfer-encoding") or b"").strip()
    charset = (part.parameter(b"charset") or b"").decode("ascii", "replace")
    return decode(decode_body(data[part.body : min(part.end, part.body + MAX_PART)], encoding), charset)


def mailboxes(value: bytes) -> list[Mailbox]:
    """The addresses of one field's value; group names left out."""
    found = []
    for entry in parse_addresses(value):
        if entry.host is None or entry.mailbox is None:
            continue
        found.append(Mailbox(decode(entry.mailbox), decode(entry.host)))
    return found


def text_of(value: bytes) -> str:
    """An unfolded value as text."""
    return decode_words(value) if b"=?" in value else decode(value)


def _value(line: bytes) -> bytes:
    """A field's value in one line; a tab that it was folded at is a space, as other servers have it."""
    return unfold(line[line.index(b":") + 1 :].replace(b"\r\n\t", b" "))


def _is_type(name: str, wanted: str) -> bool:
    """RFC 5173 §5.2: a malformed type matches nothing."""
    if not wanted:
        return True
    wanted = wanted.lower()
    if wanted.startswith("/") or wanted.endswith("/") or wanted.count("/") > 1:
        return False
    return name == wanted or ("/" not in wanted and name.startswith(wanted + "/"))


def without_markup(text: str) -> str:
    """HTML as what is read of it, roughly: markup out, the common entities as their characters."""
    text = _MARKUP.sub(" ", text)
    if "&" in text:
        for entity, character in _ENTITY.items():
            text = text.replace(entity, character)
    return text


def field(name: str, value: str) -> bytes:
    """A header field: encoded where it is not ASCII, folded (RFC 2047, RFC 5322 §2.1.1).

    Line ends in the value become spaces: nothing can add a second field.
    """
    value = " ".join(value.replace("\0", "").split("\r\n"))
    value = value.replace("\r", " ").replace("\n", " ").strip()
    if value.isascii():
        line = f"{name}: {value}"
        return (_folded(line) if len(line) > 78 else line).encode("ascii") + b"\r\n"
    encoded = Header(value, "utf-8", header_name=name, maxlinelen=76).encode(linesep="\r\n")
    return f"{name}: {encoded}\r\n".encode("ascii", "replace")


def _folded(line: str) -> str:
    """Folded at spaces; a word that is too long stays whole up to the limit of a line."""
    lines: list[str] = []
    current = ""
    for word in line.split(" "):
        if current and len(current) + 1 + len(word) > 76 and current.strip():
            lines.append(current)
            current = " " + word
        else:
            current = f"{current} {word}" if current else word
    lines.append(current)
    return "\r\n".join(piece[:990] for piece in lines)
