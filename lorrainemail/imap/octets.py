"""The octets of one message as FETCH and SEARCH need them: ranges by offsets, read only as far as asked.

A small message is read once and kept while it is served; of a large one only the ranges wanted are read, and
its structure is found in a thread. Owned by one command at a time; :meth:`Source.close` lets the file go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import attrs

from lorrainemail.grammar.imap_fetch import FetchItem
from lorrainemail.imap.server import ImapServer, No
from lorrainemail.interfaces import IMailbox, IMessage
from lorrainemail.message.charsets import ENCODINGS, decode_body
from lorrainemail.message.header import body_offset, pick
from lorrainemail.message.preview import MAX_LOOKED, preview
from lorrainemail.message.quoting import string
from lorrainemail.message.structure import Part, parse_structure

T = TypeVar("T")

#: Octets up to which a message is read whole, and looked at in the reactor's thread.
SMALL: Final = 64 * 1024


@attrs.frozen(slots=True)
class Span:
    """A range of the message's octets."""

    start: int
    end: int


class ShortRead(Exception):
    """The store gave fewer octets than the message has."""


class Source:
    """One message, opened when first needed."""

    __slots__ = ("_body", "_data", "_message", "_session", "_structure", "mailbox", "uid")

    def __init__(self, session: ImapServer, mailbox: IMailbox, uid: int) -> None:
        self.mailbox = mailbox
        self.uid = uid
        self._session = session
        self._message: IMessage | None = None
        self._data: bytes | None = None
        self._body = -1
        self._structure: Part | None = None

    async def open(self) -> int:
        """Its size. Fails with PermanentError where the message is gone."""
        if self._message is None:
            self._message = await self.mailbox.message(self.uid)
        return self._message.size

    def close(self) -> None:
        message, self._message = self._message, None
        if message is not None:
            message.close()

    async def read(self, start: int, end: int) -> bytes:
        """Exactly that range.

        :raises ShortRead: where the store has less.
        """
        if self._data is not None:
            return self._data[start:end]
        size = await self.open()
        assert self._message is not None
        if size <= SMALL:
            data = await self._message.read(0, size)
            if len(data) != size:
                raise ShortRead(f"UID {self.uid}: {len(data)} of {size} octets")
            self._data = data
            return data[start:end]
        found = await self._message.read(start, end - start)
        if len(found) != end - start:
            raise ShortRead(f"UID {self.uid}: {len(found)} of {end - start} octets at {start}")
        return found

    async def body(self) -> int:
        """Where the body begins."""
        if self._body < 0:
            size = await self.open()
            reach = SMALL
            while True:
                head = await self.read(0, min(reach, size))
                found = body_offset(head)
                # a header that fills what was read may go on beyond it
                if found < len(head) or len(head) == size or head.endswith(b"\r\n\r\n"):
                    break
                reach *= 8
            self._body = found
        return self._body

    async def structure(self) -> Part:
        """Its MIME structure; that of the last message looked at is remembered by the session."""
        if self._structure is not None:
            return self._structure
        key = (self.mailbox.mailbox_id, self.mailbox.uid_validity, self.uid)
        known = self._session.structures
        if known is not None and known[0] == key:
            part: Part = known[1]
            self._structure = part
            return part
        size = await self.open()
        found = await self.examine(parse_structure, size)
        self._structure = found
        self._session.structures = (key, found)
        return found

    async def examine(self, work: Callable[[bytes], T], size: int) -> T:
        """``work`` on all octets: here where they are few, else in a thread, few sessions at a time."""
        if size <= SMALL:
            return work(await self.read(0, size))
        release = await self._session.shared.reserve()
        try:
            return await self._session.shared.heavy(work, await self.read(0, size))
        finally:
            release()

    async def section(self, item: FetchItem) -> Span | bytes | None:
        """What ``BODY[section]<partial>`` and the like mean: a range, octets made for it, or None for no such
        part.

        :raises No: for a part whose encoding is unknown (RFC 3516 §4.3).
        """
        if item.kind == "PREVIEW":
            return string(preview(await self.read(0, min(await self.open(), MAX_LOOKED))).encode("utf-8"))
        found: Span | bytes | None
        if item.kind == "BINARY.SIZE":
            decoded = await self._decoded(item.path)
            return b"%d" % (0 if decoded is None else len(decoded))
        if item.kind == "SECTION":
            found = await self._whole(item)
        else:
            found = await self._decoded(item.path)
        if item.offset is None or found is None:
            return found
        if isinstance(found, bytes):
            return found[item.offset : item.offset + item.count]
        start = min(found.start + item.offset, found.end)
        return Span(start, min(start + item.count, found.end))

    async def _whole(self, item: FetchItem) -> Span | bytes | None:
        """RFC 3501 §6.4.5, ``BODY[<section>]``."""
        if not item.path:
            size = await self.open()
            if not item.text:
                return Span(0, size)
            body = await self.body()
            return await self._text(item, 0, body, size)
        part = find_part(await self.structure(), item.path)
        if part is None:
            return None
        if not item.text:
            return Span(part.body, part.end)
        if item.text == "MIME":
            return Span(part.start, part.body)
        if not part.embedded:
            return None  # HEADER and TEXT are of messages only
        inner = part.parts[0]
        return await self._text(item, inner.start, inner.body, inner.end)

    async def _decoded(self, path: tuple[int, ...]) -> bytes | None:
        """The octets of a part without its transfer encoding (RFC 3516 §4.2); one large part at a time."""
        size = await self.open()
        if not path:
            return await self.examine(bytes, size)  # the whole message has none
        part = find_part(await self.structure(), path)
        if part is None:
            return None
        encoding = part.encoding
        if encoding not in ENCODINGS:
            raise No(b"[UNKNOWN-CTE] The part's encoding is not known")
        start, end = part.body, part.end
        if part.multipart or part.embedded:
            encoding = b"8bit"  # RFC 2045 §6.4: no other is allowed for these
        if end - start <= SMALL:
            return decode_body(await self.read(start, end), encoding)
        release = await self._session.shared.reserve()
        try:
            return await self._session.shared.heavy(decode_body, await self.read(start, end), encoding)
        finally:
            release()

    async def _text(self, item: FetchItem, start: int, body: int, end: int) -> Span | bytes:
        if item.text == "HEADER":
            return Span(start, body)
        if item.text == "TEXT":
            return Span(body, end)
        header = await self.read(start, body)
        return pick(header, item.fields, invert=item.text == "HEADER.FIELDS.NOT")


def find_part(root: Part, path: tuple[int, ...]) -> Part | None:
    """The part that a section's numbers name (RFC 3501 §6.4.5), None where there is none.

    A message that is no multipart has one part, number 1, which is its body.
    """
    node, numbered = root, False
    for number in path:
        if numbered and node.embedded:
            node, numbered = node.parts[0], False
        if node.multipart:
            if number > len(node.parts):
                return None
            node, numbered = node.parts[number - 1], True
        elif number == 1 and not numbered:
            numbered = True
        else:
            return None
    return node
