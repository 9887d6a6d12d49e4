"""Addresses that only we understand, written as the world knows them: ``[rewrite]``, at rows that ask for it.

Pure but for reading the message's header. The remote courier asks for mail of our own users that leaves by a
relay row with ``rewrite = true``: the reverse-path, and every address in the header fields :data:`FIELDS`, is
replaced as the rows say; no other octet changes. Signatures over a header that changed are taken off (the
caller makes another). Mail of others that is sent on is never touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.interfaces import IContent
from lorrainemail.message.header import body_offset, fields
from lorrainemail.ops.reheaded import Reheaded

#: Octets of a header that is looked at; a larger one goes as it is.
MAX_HEADER: Final = 256 * 1024
#: Fields whose addresses are replaced.
FIELDS: Final = frozenset(
    (
        b"from", b"sender", b"reply-to", b"to", b"cc", b"resent-from", b"resent-sender", b"resent-reply-to",
        b"resent-to", b"resent-cc", b"return-receipt-to", b"disposition-notification-to", b"errors-to",
    )
)  # fmt: skip

_ATOM: Final = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]"
_HOST: Final = rb"[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff.-]*[A-Za-z0-9\x80-\xff])?"
_ADDRESS: Final = re.compile(
    rb"(?:" + _ATOM + rb"+(?:\." + _ATOM + rb'+)*|"(?:[^"\\\r\n]|\\[^\r\n])*")@' + _HOST
)
# A whole dotted word at once: one that is no address is not looked at again from each of its dots.
_NEXT: Final = re.compile(rb'[("]|' + _ATOM + rb"+(?:\." + _ATOM + rb"+)*")
_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_IN_COMMENT: Final = re.compile(rb"\\.|[()]", re.DOTALL)


class Rewriting:
    """The rows of ``[rewrite]``.

    :param rows: an address by an address, a domain by a domain.
    """

    def __init__(self, rows: Mapping[str, str]) -> None:
        self._rows = dict(rows)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def address(self, address: Address) -> Address:
        """As the world knows it."""
        whole = self._rows.get(address.key)
        if whole is not None:
            return parse_address(whole)
        domain = self._rows.get(address.domain)
        return address if domain is None else Address(address.local, domain)

    def content(self, content: IContent) -> tuple[IContent, bool]:
        """The message with its header as the world should see it, and whether that differs. Reads a file."""
        head = content.head(MAX_HEADER)
        end = body_offset(head)
        if end >= len(head) and content.size > len(head):
            return content, False
        parts, kept, changed = [], 0, False
        for field in fields(head, 0, end):
            if field.name not in FIELDS:
                continue
            old = head[field.value : field.end]
            new = b"".join(self._value(old))
            if new != old:
                parts += [head[kept : field.value], new]
                kept, changed = field.end, True
        if not changed:
            return content, False
        return Reheaded(content, end, _without_signatures(b"".join([*parts, head[kept:end]]))), True

    def _value(self, value: bytes) -> Iterator[bytes]:
        """A field's value in pieces, its addresses replaced; comments, quoted names and folding stay."""
        position = 0
        while True:
            match = _NEXT.search(value, position)
            if match is None:
                yield value[position:]
                return
            start = match.start()
            yield value[position:start]
            address = _ADDRESS.match(value, start)
            if address is not None:
                yield self._spelt(address.group())
                position = address.end()
            elif match.group() == b"(":
                position = _comment_end(value, start)
                yield value[start:position]
            elif match.group() == b'"':
                quoted = _QUOTED.match(value, start)
                assert quoted is not None
                yield quoted.group()
                position = quoted.end()
            else:
                yield match.group()
                position = match.end()

    def _spelt(self, octets: bytes) -> bytes:
        try:
            old = parse_address(octets.decode("utf-8"))
        except (AddressError, UnicodeDecodeError):
            return octets
        new = self.address(old)
        return octets if new == old else str(new).encode("utf-8")


def _comment_end(value: bytes, start: int) -> int:
    """After the comment that begins there; comments nest (RFC 5322 §3.2.2)."""
    depth = 0
    for match in _IN_COMMENT.finditer(value, start):
        if match.group() == b"(":
            depth += 1
        elif match.group() == b")":
            depth -= 1
            if not depth:
                return match.end()
    return len(value)


def _without_signatures(header: bytes) -> bytes:
    """A header without DKIM-Signature: what they signed is not there any more."""
    parts, kept = [], 0
    for field in fields(header, 0, body_offset(header)):
        if field.name == b"dkim-signature":
            parts.append(header[kept : field.start])
            kept = field.end
    return b"".join([*parts, header[kept:]])
