"""What a message from one of our own users still needs (RFC 6409 §8), and what its From may say.

Owns the one edit of a message that is done here: a bounded change of its header block in which Bcc fields go
and missing Date, Message-ID and From come, and no other octet changes. Called by the doors at the final dot
of a session that logged in. Fails with PermanentError: 550 5.7.1 naming the address that is not the
account's, 554 5.6.0 for a header too large to be looked at whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from twisted.internet.defer import Deferred

from lorrainemail.addresses import Address, AddressError, normalise_domain
from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import Account, ITables
from lorrainemail.message.addresslist import parse_addresses
from lorrainemail.message.header import MAX_HEADER_FIELDS, Field, body_offset, fields, unfold
from lorrainemail.message.received import rfc5322_date
from lorrainemail.ops.content import Content, SpilledContent, replace_head

#: Octets of a header that is looked at; a larger one is refused.
MAX_HEADER: Final = 256 * 1024
#: Octets of From that are taken apart (while nobody else is served), and addresses in it that are asked for,
#: one by one.
MAX_FROM: Final = 16 * 1024
MAX_AUTHORS: Final = 50

_REMOVED: Final = frozenset({b"bcc", b"resent-bcc"})


class Header:
    """The header block of a submitted message."""

    __slots__ = ("_data", "_fields", "_names")

    def __init__(self, content: Content | SpilledContent) -> None:
        data = content.head(MAX_HEADER)
        end = body_offset(data)
        self._fields: list[Field] = fields(data, 0, end)
        whole = end < len(data) or content.size == len(data)
        if not whole or len(self._fields) >= MAX_HEADER_FIELDS:
            raise PermanentError(Reply(554, "5.6.0", "The header of the message is too large"))
        self._data = data[:end]
        self._names = frozenset(field.name for field in self._fields)

    def authors(self) -> list[Address | str]:
        """Every address of every From field; a text where it is no address.

        :raises PermanentError: where there is more of it than anybody reads.
        """
        if sum(field.end - field.value for field in self._fields if field.name == b"from") > MAX_FROM:
            raise PermanentError(Reply(550, "5.7.1", "The From field is too long"))
        return list(self._authors())

    def _authors(self) -> Iterator[Address | str]:
        for field in self._fields:
            if field.name != b"from":
                continue
            nobody = True
            for mailbox in parse_addresses(unfold(self._data[field.value : field.end])):
                if mailbox.mailbox is None or mailbox.host is None:
                    continue
                nobody = False
                local = mailbox.mailbox.decode("utf-8", "replace")
                domain = mailbox.host.decode("utf-8", "replace")
                try:
                    yield Address(local, normalise_domain(domain))
                except AddressError:
                    yield f"{local}@{domain}"
            if nobody:
                yield "nobody"

    def edit(
        self, content: Content | SpilledContent, id: str, hostname: str, author: Address, when: float
    ) -> Content | SpilledContent:
        """The message as it goes on: ``content`` itself where nothing is to be done."""
        added = []
        if b"from" not in self._names:
            added.append(f"From: {author}\r\n")
        if b"date" not in self._names:
            added.append(f"Date: {rfc5322_date(when)}\r\n")
        if b"message-id" not in self._names:
            added.append(f"Message-ID: <{id}@{hostname}>\r\n")
        if not added and not self._names & _REMOVED:
            return content
        parts = ["".join(added).encode("utf-8")]
        if not self._fields and not self._data.startswith(b"\r\n") and added:
            # A message that is all body: the empty line after the header is missing too.
            return replace_head(content, 0, parts[0] + b"\r\n")
        kept = 0
        for field in self._fields:
            if field.name in _REMOVED:
                parts.append(self._data[kept : field.start])
                kept = field.end
        parts.append(self._data[kept:])
        return replace_head(content, len(self._data), b"".join(parts))


async def submitted(
    content: Content | SpilledContent,
    tables: ITables,
    account: Account,
    sender: Address | None,
    id: str,
    hostname: str,
    when: float,
) -> Content | SpilledContent:
    """Check and complete a message of ``account``; the old content is not to be used after it.

    :param sender: the envelope's, which becomes From where there is none.
    """
    header = Header(content)
    authors = header.authors()
    if len(authors) > MAX_AUTHORS:
        raise PermanentError(Reply(550, "5.7.1", "The From field names too many addresses"))
    for author in authors:
        owned: bool | Deferred[bool] = False
        if isinstance(author, Address):
            owned = tables.owns(account, author)
            if isinstance(owned, Deferred):
                owned = await owned
        if not owned:
            raise PermanentError(
                Reply(
                    550,
                    "5.7.1",
                    f"You are logged in as {account.address}, but From names {_shown(author)}, "
                    "which is not yours",
                )
            )
    return header.edit(content, id, hostname, sender or account.address, when)


def _shown(author: Address | str) -> str:
    text = str(author)[:100]
    return "".join(c if c.isprintable() else "?" for c in text)
