"""What a message gets and loses on its way into a mailbox.

Owns the removal of fields that only a mailbox may write (an outsider's ``Status: RO`` would mark mail as
read, his ``Return-Path`` would lie about the sender) and the two fields that stand above every delivered
message. Called by intake for direct deliveries and by the local courier for retried ones. Everything else of
the message stays octet for octet. Pure but for one bounded read of the content's head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lorrainemail.addresses import Address
from lorrainemail.interfaces import IContent
from lorrainemail.message.received import delivered_to_field, return_path_field
from lorrainemail.ops.reheaded import Reheaded

#: Octets in which the end of a header is looked for at first, and at most.
FIRST_LOOK: Final = 64 << 10
MAX_HEADER: Final = 1 << 20

#: Verdicts of ours are written into this field.
VERDICT_FIELD: Final = "X-Lorrainemail-Policy"

_NAMES = (
    rb"(?:Status|X-Status|X-Keywords|X-UID|X-IMAP|X-IMAPbase|Content-Length|Return-Path|"
    + VERDICT_FIELD.encode()
    + rb")[ \t]*:"
)
# The line feed in front is a fixed first octet, which makes the search a memchr.
_INNER = re.compile(rb"\n" + _NAMES, re.IGNORECASE)
_AT_START = re.compile(_NAMES, re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"\nMessage-ID[ \t]*:[ \t\r\n]*(<[\x21-\x3d\x3f-\x7e]{1,250}>)", re.IGNORECASE)


def header_of(content: IContent) -> bytes:
    """The header with the line end of its last line, without the empty line after it."""
    head = content.head(FIRST_LOOK)
    end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n") + 2
    if end == 1:  # not found
        if len(head) < FIRST_LOOK:
            return head
        head = content.head(MAX_HEADER)
        end = head.find(b"\r\n\r\n") + 2
        if end == 1:
            end = head.rfind(b"\r\n") + 2 if b"\r\n" in head else len(head)
    return head[:end]


def message_id_of(header: bytes) -> str:
    """The Message-ID with its brackets, "" where there is none that is well formed."""
    match = _MESSAGE_ID.search(header)
    if match is None:
        match = _MESSAGE_ID.match(b"\n" + header[:512])
    return match.group(1).decode("ascii") if match else ""


def for_mailbox(content: IContent, header: bytes) -> IContent:
    """The content without the fields that only the mailbox itself may write.

    :param header: of the content, from :func:`header_of`.
    :returns: the content itself in the common case; it stays the owner of what is returned.
    """
    if _INNER.search(header) is None and _AT_START.match(header) is None:
        return content
    kept: list[bytes] = []
    keeping = True
    for line in _lines(header):
        if line[:1] not in (b" ", b"\t"):
            keeping = _AT_START.match(line) is None
        if keeping:
            kept.append(line)
    return with_header(content, header, b"".join(kept))


def with_header(content: IContent, header: bytes, other: bytes) -> IContent:
    """The content with another header in place of its own; it stays the owner of what is returned.

    :param header: of the content, from :func:`header_of`.
    """
    return Reheaded(content, len(header), other)


def mailbox_prefix(sender: Address | None, address: Address) -> bytes:
    """The fields at the top of a delivered message: Return-Path and Delivered-To."""
    return return_path_field(sender) + delivered_to_field(address)


def _lines(header: bytes) -> Iterator[bytes]:
    """Lines as CRLF ends them; a lone CR or LF ends none."""
    lines = header.split(b"\r\n")
    for line in lines[:-1]:
        yield line + b"\r\n"
    if lines[-1]:
        yield lines[-1]
