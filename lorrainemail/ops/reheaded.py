"""A message with another beginning: a view of a content whose first octets are replaced by others."""

from __future__ import annotations

from collections.abc import Iterator

from zope.interface import implementer

from lorrainemail.interfaces import IContent


@implementer(IContent)
class Reheaded:
    """Another content with its first ``octets`` replaced by ``head``. A view: closing it does nothing."""

    __slots__ = ("_content", "_head", "_octets", "eight_bit", "size")

    def __init__(self, content: IContent, octets: int, head: bytes) -> None:
        self._content = content
        self._octets = octets
        self._head = head
        self.size = content.size - octets + len(head)
        self.eight_bit = content.eight_bit or not head.isascii()

    def head(self, limit: int) -> bytes:
        if limit <= len(self._head):
            return self._head[:limit]
        return self._head + self._content.head(self._octets + limit - len(self._head))[self._octets :]

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self._head), size):
            yield self._head[start : start + size]
        skip = self._octets
        for chunk in self._content.chunks(size):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:] if skip else chunk
            skip = 0

    def in_memory(self) -> bytes | None:
        whole = self._content.in_memory()
        return None if whole is None else self._head + whole[self._octets :]

    def close(self) -> None:
        """The content that this is a view of has its own owner."""
