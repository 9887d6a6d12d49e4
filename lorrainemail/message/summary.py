"""What the index keeps of a message: ready wire bytes of ENVELOPE and BODYSTRUCTURE, and sorting facts.

:func:`summarize` is called once for each delivery (and for each message that is indexed later), in whatever
thread; it is pure, in linear time, and never fails, whatever the octets are.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import attrs

from lorrainemail.message.addresslist import parse_addresses
from lorrainemail.message.dates import parse_date
from lorrainemail.message.header import unfold
from lorrainemail.message.quoting import NIL, nstring, string
from lorrainemail.message.structure import CONTENT_FIELDS, Parameters, Part, parse_parameters, parse_structure
from lorrainemail.message.subject import split_subject

#: Message-ids of one References field that are kept.
MAX_REFERENCES: Final = 500
#: Octets of a message-id that are compared.
MAX_MESSAGE_ID: Final = 1000

#: The fields that :func:`envelope` needs (lower case).
ENVELOPE_FIELDS: Final = frozenset(
    (
        b"date",
        b"subject",
        b"from",
        b"sender",
        b"reply-to",
        b"to",
        b"cc",
        b"bcc",
        b"in-reply-to",
        b"message-id",
    )
)
#: Marks of a summary. The subject says that it answers or forwards something (RFC 5256 §2.1).
REPLY: Final = 1
#: A plain word that is in one of :data:`ENVELOPE_FIELDS` may be missing in the envelope's wire bytes: a field
#: occurs twice, text is encoded, or addresses do not show all that stands there.
UNSURE_ENVELOPE: Final = 2
#: The same of References and the message-ids kept of it.
UNSURE_REFERENCES: Final = 4
#: Headers larger than this are not relied upon.
MAX_SURE_HEADER: Final = 64 * 1024
#: Octets of an address field that is remembered: the same people write to the same people.
MAX_REMEMBERED: Final = 160

_WANTED: Final = ENVELOPE_FIELDS | {b"references"}
_MESSAGE_ID = re.compile(rb"<[^<>\s]*>")
_LANGUAGE = re.compile(rb"[A-Za-z0-9*-]+")


@attrs.frozen(slots=True)
class Summary:
    """One message's facts.

    :ivar envelope: ready wire bytes of ENVELOPE (RFC 3501 §7.4.2); ``structure`` of BODYSTRUCTURE.
    :ivar header_octets: where the body begins.
    :ivar sent: the Date field as seconds since the epoch, None where there is none to read.
    :ivar base_subject: RFC 5256 §2.1, upper case.
    :ivar message_id: with its angle brackets, "" where there is none; ``in_reply_to`` the first there.
    :ivar references: of the References field, in order.
    :ivar marks: :data:`REPLY` and the like.
    """

    envelope: bytes
    structure: bytes
    header_octets: int
    sent: int | None
    base_subject: str
    message_id: bytes
    in_reply_to: bytes
    references: tuple[bytes, ...]
    marks: int

    @property
    def body(self) -> bytes:
        """Ready wire bytes of BODY: the structure without its extension data."""
        return body_of(self.structure)


def summarize(data: bytes) -> Summary:
    """The facts of a message in wire form."""
    part = parse_structure(data, _WANTED)
    subject = part.field(b"subject")
    date = part.field(b"date")
    references = part.fields.get(b"references")
    base, reply = split_subject(subject) if subject else ("", False)
    wire = envelope(part.fields)
    ids = message_ids(references[0]) if references else ()
    marks = (REPLY if reply else 0) | _doubts(part, wire, ids)
    return Summary(
        wire,
        structure(data, part),
        part.body,
        None if date is None else parse_date(date),
        base,
        _message_id(part.field(b"message-id")),
        _message_id(part.field(b"in-reply-to")),
        ids,
        marks,
    )


_ADDRESS_FIELDS: Final = (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc")
#: What is certainly shown as it stands, the common case.
_ATOMS = rb"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*"
_ONE_ADDRESS = re.compile(rb"%b|(?:[A-Za-z0-9]+ )*<%b>" % (_ATOMS, _ATOMS))
_ADDRESS_GAP = re.compile(rb"[ \t\"<>,]+")


def _doubts(part: Part, wire: bytes, ids: tuple[bytes, ...]) -> int:
    """:data:`UNSURE_ENVELOPE` and :data:`UNSURE_REFERENCES` where they hold."""
    found = part.fields
    twice = [name for name, values in found.items() if len(values) > 1]
    if part.body > MAX_SURE_HEADER or not _WANTED.isdisjoint(twice):
        return UNSURE_ENVELOPE | UNSURE_REFERENCES
    doubts = 0
    # a literal holds 8 bit; NUL would be changed in it
    if (
        b"=?" in wire
        or b"\r\n" in wire
        or any([_hides(found[name][0]) for name in _ADDRESS_FIELDS if name in found])
    ):
        doubts |= UNSURE_ENVELOPE
    if b"references" in found:
        value = found[b"references"][0]
        if not value or value.split() != list(ids) or not value.isascii() or b"=?" in value:
            doubts |= UNSURE_REFERENCES
    return doubts


def _hides(value: bytes) -> bool:
    """Whether an address field holds more than its address structures show."""
    return _looks_hiding(value) if len(value) > MAX_REMEMBERED else _known_hiding(value)


@lru_cache(maxsize=2048)
def _known_hiding(value: bytes) -> bool:
    return _looks_hiding(value)


def _looks_hiding(value: bytes) -> bool:
    if b"\\" in value or b"=?" in value:
        return True
    if _ONE_ADDRESS.fullmatch(value):
        return False
    shown: list[bytes] = []
    for one in parse_addresses(value):
        if one.host is None:
            return True  # a group
        shown.append(b"%b %b@%b" % (one.name or b"", one.mailbox or b"", one.host))
    said = _ADDRESS_GAP.split(value)
    return list(filter(None, said)) != list(filter(None, _ADDRESS_GAP.split(b",".join(shown))))


def message_ids(value: bytes) -> tuple[bytes, ...]:
    """The message-ids in a field's value, in order."""
    found = [match.group()[:MAX_MESSAGE_ID] for match in _MESSAGE_ID.finditer(value)]
    return tuple(found if len(found) <= MAX_REFERENCES else found[:1] + found[1 - MAX_REFERENCES :])


def _message_id(value: bytes | None) -> bytes:
    if not value:
        return b""
    match = _MESSAGE_ID.search(value)
    return match.group()[:MAX_MESSAGE_ID] if match is not None else b""


# -- ENVELOPE ---------------------------------------------------------------------- RFC 3501 §7.4.2 --


def envelope(fields: dict[bytes, list[bytes]]) -> bytes:
    """ENVELOPE from unfolded values of :data:`ENVELOPE_FIELDS`."""
    get = fields.get
    sender = _addresses(get(b"from"))
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        _first(get(b"date")),
        _first(get(b"subject")),
        sender,
        # RFC 3501 §7.4.2: an absent or empty Sender or Reply-To is the From
        _addresses(get(b"sender"), sender),
        _addresses(get(b"reply-to"), sender),
        _addresses(get(b"to")),
        _addresses(get(b"cc")),
        _addresses(get(b"bcc")),
        _first(get(b"in-reply-to")),
        _first(get(b"message-id")),
    )


def _first(found: list[bytes] | None) -> bytes:
    return string(found[0]) if found else NIL


def _addresses(found: list[bytes] | None, default: bytes = NIL) -> bytes:
    if found is None:
        return default
    value = found[0] if len(found) == 1 else b",".join(found)
    return (_printed_addresses if len(value) > MAX_REMEMBERED else _known_addresses)(value) or default


@lru_cache(maxsize=2048)
def _known_addresses(value: bytes) -> bytes:
    return _printed_addresses(value)


def _printed_addresses(value: bytes) -> bytes:
    """The address structures of a field, b"" for none."""
    parts = [
        b"(%b %b %b %b)" % (nstring(one.name), nstring(one.route), nstring(one.mailbox), nstring(one.host))
        for one in parse_addresses(value)
    ]
    return b"(%b)" % b"".join(parts) if parts else b""


# -- BODYSTRUCTURE ----------------------------------------------------------------- RFC 3501 §7.4.2 --


def structure(data: bytes, part: Part) -> bytes:
    """BODYSTRUCTURE of an entity, extension data included."""
    if part.multipart:
        return b"(%b %b %b %b %b %b)" % (
            b"".join(structure(data, inner) for inner in part.parts),
            string(part.subtype.upper()),
            _parameters(part.parameters),
            _disposition(part.field(b"content-disposition")),
            _language(part.field(b"content-language")),
            nstring(part.field(b"content-location")),
        )
    encoding = part.field(b"content-transfer-encoding")
    remembered = len(part.field(b"content-type") or b"") + len(encoding or b"") <= MAX_REMEMBERED
    if remembered and part.type == b"text" and _SPOKEN.isdisjoint(part.fields):
        beginning = _beginning(part.subtype, part.parameters, encoding)
        return b"%b %d %d NIL NIL NIL NIL)" % (beginning, part.end - part.body, part.lines)
    common = b"%b %b %b %b %b %b %d" % (
        string(part.type.upper()),
        string(part.subtype.upper()),
        _parameters(part.parameters),
        nstring(part.field(b"content-id")),
        nstring(part.field(b"content-description")),
        _encoding(encoding),
        part.end - part.body,
    )
    if part.embedded:
        inner = part.parts[0]
        common += b" %b %b %d" % (envelope(_embedded_fields(part)), structure(data, inner), part.lines)
    elif part.type == b"text":
        common += b" %d" % part.lines
    return b"(%b %b %b %b %b)" % (
        common,
        nstring(part.field(b"content-md5")),
        _disposition(part.field(b"content-disposition")),
        _language(part.field(b"content-language")),
        nstring(part.field(b"content-location")),
    )


#: Fields of a text without which its structure is told by its type and encoding.
_SPOKEN: Final = CONTENT_FIELDS - {b"content-type", b"content-transfer-encoding"}


@lru_cache(maxsize=256)
def _beginning(subtype: bytes, parameters: Parameters, encoding: bytes | None) -> bytes:
    """BODYSTRUCTURE of a text without anything special, up to its encoding."""
    return b'("TEXT" %b %b NIL NIL %b' % (
        string(subtype.upper()),
        _parameters(parameters),
        _encoding(encoding),
    )


def _encoding(value: bytes | None) -> bytes:
    return string(value.partition(b";")[0].strip().upper()) if value else b'"7BIT"'


def _embedded_fields(part: Part) -> dict[bytes, list[bytes]]:
    return part.parts[0].fields


def _parameters(parameters: Parameters) -> bytes:
    if not parameters:
        return NIL
    return b"(%b)" % b" ".join(
        b"%b %b" % (string(name.upper()), string(unfold(value))) for name, value in parameters
    )


def _disposition(value: bytes | None) -> bytes:
    if not value:
        return NIL
    kind, semicolon, _ = value.partition(b";")
    kind = kind.strip(b" \t")
    if not kind:
        return NIL
    parameters = parse_parameters(value, value.index(b";")) if semicolon else ()
    return b"(%b %b)" % (string(kind.upper()), _parameters(parameters))


def _language(value: bytes | None) -> bytes:
    tags = _LANGUAGE.findall(value) if value else []
    if not tags:
        return NIL
    if len(tags) == 1:
        return string(tags[0])
    return b"(%b)" % b" ".join(string(tag) for tag in tags)


# -- reading wire bytes again --------------------------------------------------------------------------

_WIRE = re.compile(rb'\(|\)|"(?:[^"\\]|\\.)*"|\{([0-9]+)\}\r\n|[^ ()"{]+', re.DOTALL)

_ESCAPE = re.compile(rb'\\(["\\])')

_Node = bytes | list["_Node"]


def _read(wire: bytes) -> _Node:
    """Wire bytes as nested lists of tokens."""
    stack: list[list[_Node]] = [[]]
    position = 0
    while (match := _WIRE.search(wire, position)) is not None:
        position = match.end()
        token = match.group()
        if token == b"(":
            inner: list[_Node] = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token == b")":
            stack.pop()
        elif match.group(1) is not None:
            size = int(match.group(1))
            stack[-1].append(wire[match.start() : position + size])
            position += size
        else:
            stack[-1].append(token)
    return stack[0][0]


def body_of(wire: bytes) -> bytes:
    """BODY (RFC 3501 §6.4.5: "non-extensible") from the wire bytes of a BODYSTRUCTURE."""
    root = _read(wire)
    assert isinstance(root, list)
    return _basic(root)


#: The usual beginning of an envelope, up to its first From.
_FIRST_FROM = re.compile(
    rb'\((?:NIL|"[^"\\]*") (?:NIL|"[^"\\]*") \(\((NIL|"[^"\\]*") NIL (NIL|"[^"\\]*") (NIL|"[^"\\]*")\)'
)


def first_sender(wire: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The first From of an envelope's wire bytes as it stands there: name, mailbox and host, for
    :func:`address_of`; None where :meth:`Envelope.first` has to look closer."""
    match = _FIRST_FROM.match(wire)
    if match is None:
        return None
    name, mailbox, host = match.groups()
    return name, mailbox, host


@attrs.frozen(slots=True)
class Address:
    """An address as it stands in an envelope; of a group's name ``host`` is empty."""

    name: bytes
    mailbox: bytes
    host: bytes


def address_of(parts: tuple[bytes, bytes, bytes]) -> Address:
    """What :func:`first_sender` found, read."""
    return Address(*map(_value, parts))


class Envelope:
    """An ENVELOPE's wire bytes, read again as far as a search asks: values as they stood in the header.

    :ivar wire: the bytes; ``plain``: no encoded words and no 8 bit in them, so they can be searched as they
        are.
    """

    __slots__ = ("_addresses", "_lower", "_subject_at", "date", "plain", "wire")

    def __init__(self, wire: bytes) -> None:
        self.wire = wire
        self.plain = b"=?" not in wire and wire.isascii()
        self.date, self._subject_at = _value_at(wire, 1)
        self._lower: bytes | None = None
        self._addresses: dict[str, bytes] | None = None

    def may_hold(self, probes: tuple[bytes, ...]) -> bool:
        """Whether all these lower-case words occur anywhere in it; False is sure where it is ``plain``."""
        if self._lower is None:
            self._lower = self.wire.lower()
        lower = self._lower
        return all(probe in lower for probe in probes)

    @property
    def subject(self) -> bytes:
        return _value_at(self.wire, self._subject_at)[0]

    def first(self, name: str) -> Address | None:
        """The first address of FROM, TO or CC; None where there is none."""
        if name == "FROM":
            parts = first_sender(self.wire)
            if parts is not None:
                return address_of(parts)
        root = _read(self.wire)
        assert isinstance(root, list)
        found = root[{"FROM": 2, "TO": 5, "CC": 6}[name]]
        if not isinstance(found, list):
            return None
        one = found[0]
        assert isinstance(one, list)
        return Address(_value(one[0]), _value(one[2]), _value(one[3]))

    def addresses(self, name: str) -> bytes:
        """The addresses of FROM, TO, CC or BCC as "name <local@host>" texts."""
        if self._addresses is None:
            root = _read(self.wire)
            assert isinstance(root, list) and len(root) == 10
            self._addresses = {
                word: _address_text(root[index])
                for word, index in (("FROM", 2), ("TO", 5), ("CC", 6), ("BCC", 7))
            }
        return self._addresses[name]


def _value_at(wire: bytes, position: int) -> tuple[bytes, int]:
    """An nstring's octets (b"" for NIL) and where the next token begins."""
    match = _WIRE.match(wire, position)
    if match is None:
        return b"", position
    end = match.end()
    if match.group(1) is not None:
        start, end = end, end + int(match.group(1))
        return wire[start:end], end + 1
    return _value(match.group()), end + 1


def _value(node: _Node) -> bytes:
    """An nstring's octets; b"" for NIL."""
    assert isinstance(node, bytes)
    if node.startswith(b'"'):
        text = node[1:-1]
        return _ESCAPE.sub(rb"\1", text) if b"\\" in text else text
    return node.partition(b"\r\n")[2] if node.startswith(b"{") else b""


def _address_text(node: _Node) -> bytes:
    if not isinstance(node, list):
        return b""
    texts = []
    for one in node:
        assert isinstance(one, list)
        name, _, mailbox, host = (_value(part) for part in one)
        texts.append(b"%b <%b@%b>" % (name, mailbox, host) if host else mailbox)
    return b", ".join(texts)


def _basic(node: list[_Node]) -> bytes:
    if isinstance(node[0], list):
        parts = [child for child in node if isinstance(child, list)]
        count = next(index for index, child in enumerate(node) if not isinstance(child, list))
        subtype = node[count]
        assert isinstance(subtype, bytes)
        return b"(%b %b)" % (b"".join(_basic(child) for child in parts[:count]), subtype)
    if _holds_message(node):
        inner = node[8]
        assert isinstance(inner, list)
        return b"(%b %b %b)" % (b" ".join(map(_flat, node[:8])), _basic(inner), _flat(node[9]))
    return b"(%b)" % b" ".join(map(_flat, node[: 8 if node[0] == b'"TEXT"' else 7]))


def _holds_message(node: list[_Node]) -> bool:
    return node[0] == b'"MESSAGE"' and len(node) > 8 and isinstance(node[7], list) and len(node[7]) == 10


def without_global(wire: bytes) -> bytes:
    """A BODYSTRUCTURE for clients to whom message/global is a type like any other (RFC 3501 §7.4.2)."""
    return _printed(_read(wire)) if _GLOBAL in wire else wire


_GLOBAL: Final = b'"MESSAGE" "GLOBAL"'


def _printed(node: _Node) -> bytes:
    if isinstance(node, bytes):
        return node
    if _holds_message(node) and node[1] == b'"GLOBAL"':
        node = node[:7] + node[10:]
    lists = next((at for at, child in enumerate(node) if not isinstance(child, list)), len(node))
    parts = [b"".join(map(_printed, node[:lists]))] if lists else []
    return b"(%b)" % b" ".join(parts + [_printed(child) for child in node[lists:]])


def _flat(node: _Node) -> bytes:
    if isinstance(node, bytes):
        return node
    if node and all(isinstance(child, list) for child in node):
        return b"(%b)" % b"".join(map(_flat, node))  # address lists stand without a space between
    return b"(%b)" % b" ".join(map(_flat, node))
