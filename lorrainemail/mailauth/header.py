"""The header of a message as its checks see it: read once, in bounds, its canonical fields remembered.

Made once a message by the policy check and by the signer, in the reactor thread: :data:`MAX_HEADER` bounds
the read. A header that is larger, or has more fields than are listed, is not ``whole``: nothing about it can
be proved, because what is missing might be another From.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lorrainemail.interfaces import IContent
from lorrainemail.mailauth.canonical import Form, canonical_field
from lorrainemail.message.header import MAX_HEADER_FIELDS, Field, body_offset, fields

#: Octets of a header that are looked at.
MAX_HEADER: Final = 256 * 1024


class Header:
    """The header of a message and what is needed of it to check signatures.

    :ivar data: its octets with the empty line. ``body``: where the body begins.
    :ivar fields: its fields in order.
    :ivar whole: it was not too large to be looked at.
    :ivar hashes: of the body below it, as far as they are known.
    """

    __slots__ = ("_canonical", "body", "data", "fields", "hashes", "whole")

    def __init__(self, content: IContent) -> None:
        data = content.head(MAX_HEADER)
        self.body = body_offset(data)
        self.fields = fields(data, 0, self.body)
        self.whole = (self.body < len(data) or content.size == len(data)) and len(
            self.fields
        ) < MAX_HEADER_FIELDS
        self.data = data[: self.body]
        self.hashes: dict[Form, bytes] = {}
        self._canonical: dict[tuple[int, Form], bytes] = {}

    def canonical(self, field: Field, form: Form) -> bytes:
        """A field in that form; remembered, as several signatures sign the same."""
        key = (field.start, form)
        known = self._canonical.get(key)
        if known is None:
            data = self.data
            known = self._canonical[key] = canonical_field(
                data[field.start : field.end], field.name, data[field.value : field.end], form
            )
        return known

    def selected(self, names: Iterable[bytes], form: Form) -> list[bytes]:
        """The fields that a signature covers, from the last of each name upwards (RFC 6376 §5.4.2)."""
        remaining: dict[bytes, list[Field]] = {}
        for field in self.fields:
            remaining.setdefault(field.name, []).append(field)
        chosen = []
        for name in names:
            left = remaining.get(name)
            if left:
                chosen.append(self.canonical(left.pop(), form))
        return chosen
