"""8-bit messages made 7-bit for a next hop without 8BITMIME (RFC 6152 §3).

Each leaf of the MIME structure that holds octets over 127 is encoded by itself, text as quoted-printable and
the rest as base64; everything else is copied as it stands. What a signature or an encryption covers is never
touched (RFC 1847 §2.1), nor is what MIME forbids to encode. The remote courier is the only caller; it runs
:func:`downgraded` in a thread.

Pure, linear in time. Fails with :class:`CannotDowngrade`, whose words go into the refusal.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from typing import Final

from lorrainemail.message.header import fields
from lorrainemail.message.structure import Part, parse_structure

#: Octets of a message that callers have converted: it is held in memory for that.
MAX_OCTETS: Final = 64 << 20
#: Octets encoded at once; base64 lines are of 57 octets (RFC 2045 §6.8).
_STEP: Final = 57 * 1024

_ENCODING: Final = b"content-transfer-encoding"
_PLAIN: Final = frozenset({b"", b"7bit", b"8bit", b"binary"})
_OPAQUE: Final = frozenset({b"signed", b"encrypted"})


class CannotDowngrade(Exception):
    """The message must go as it is or not at all; the words say why."""


def downgraded(data: bytes) -> Iterator[bytes]:
    """The message as 7-bit octets, piece by piece. What fails does so before the first piece.

    :param data: a whole message in wire form.
    :raises CannotDowngrade: at the call, where a part may not be converted.
    """
    edits: list[tuple[int, int, Iterator[bytes]]] = []
    root = parse_structure(data, frozenset({b"mime-version"}))
    _convert(data, root, True, edits)
    position = 0
    for start, end, _ in edits:
        if not data[position:start].isascii():
            raise CannotDowngrade("it has 8-bit octets outside of its parts")
        position = end
    if not data[position:].isascii():
        raise CannotDowngrade("it has 8-bit octets outside of its parts")
    return _pieces(data, edits)


def _pieces(data: bytes, edits: list[tuple[int, int, Iterator[bytes]]]) -> Iterator[bytes]:
    position = 0
    for start, end, pieces in edits:
        yield data[position:start]
        yield from pieces
        position = end
    yield data[position:]


def _convert(data: bytes, part: Part, message: bool, edits: list[tuple[int, int, Iterator[bytes]]]) -> None:
    """Plan the edits of a part and of what is in it, in order.

    :param message: its header is that of a whole message.
    """
    if data[part.body : part.end].isascii():
        return
    if not data[part.start : part.body].isascii():
        raise CannotDowngrade("its header has 8-bit octets")
    declared = (part.field(b"content-type") or b"").lstrip().lower()
    if part.multipart or part.embedded:
        if part.type == b"multipart" and part.subtype in _OPAQUE:
            raise CannotDowngrade("it is signed or encrypted as it is")
        edits.append(_header(data, part, b"7bit", message))
        for inner in part.parts:
            _convert(data, inner, part.embedded, edits)
        return
    if declared.startswith((b"multipart/", b"message/")) and not declared.startswith(b"message/global"):
        # RFC 2046 §5.2: nothing but 7bit, 8bit and binary is allowed there.
        raise CannotDowngrade("its structure does not allow it")
    if part.encoding not in _PLAIN or part.start == part.body:
        raise CannotDowngrade("a part of it is malformed")
    text = part.type == b"text"
    charset = _charset(data, part) if message else b""
    edits.append(_header(data, part, b"quoted-printable" if text else b"base64", message, charset))
    body = data[part.body : part.end]
    edits.append((part.body, part.end, _quoted_printable(body) if text else _base64(body)))


def _header(
    data: bytes, part: Part, encoding: bytes, message: bool, charset: bytes = b""
) -> tuple[int, int, Iterator[bytes]]:
    """The part's header with its new Content-Transfer-Encoding, every other field as it stands."""
    kept, position = [], part.start
    found = fields(data, part.start, part.body)
    for field in found:
        if field.name == _ENCODING:
            kept.append(data[position : field.start])
            position = field.end
    kept.append(data[position : part.body - 2])  # a part with a body has an empty line before it
    names = {field.name for field in found}
    if message and b"mime-version" not in names:
        kept.append(b"MIME-Version: 1.0\r\n")
    if charset and b"content-type" not in names:
        kept.append(b"Content-Type: text/plain; charset=" + charset + b"\r\n")
    kept.append(b"Content-Transfer-Encoding: " + encoding + b"\r\n")
    return part.start, part.body, iter((*kept, b"\r\n"))


def _charset(data: bytes, part: Part) -> bytes:
    """What the text of a message without Content-Type is: RFC 1428 §3 has a word for what nobody knows."""
    try:
        data[part.body : part.end].decode("utf-8")
    except UnicodeDecodeError:
        return b"unknown-8bit"
    return b"utf-8"


def _quoted_printable(body: bytes) -> Iterator[bytes]:
    position, size = 0, len(body)
    while position < size:
        end = body.find(b"\r\n", min(size, position + _STEP))
        end = size if end < 0 else end + 2
        lines = body[position:end].replace(b"\r\n", b"\n")
        yield binascii.b2a_qp(lines, istext=True).replace(b"\n", b"\r\n")
        position = end


def _base64(body: bytes) -> Iterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), _STEP):
        step = view[start : start + _STEP]
        lines = [binascii.b2a_base64(step[at : at + 57], newline=False) for at in range(0, len(step), 57)]
        yield b"\r\n".join(lines) + b"\r\n"
