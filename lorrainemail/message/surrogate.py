"""A header for readers that know no UTF-8 in header fields: the surrogate of an internationalized message.

RFC 6858: what can be said by encoded words is said so; an address beyond ASCII cannot, so it is shown in its
display name above an address that leads nowhere. The body and all other fields stay as they are; so does a
field whose octets are no UTF-8, which was never more than somebody's mistake. Called by the POP3 door for
clients that did not ask for UTF-8 (RFC 6856). Pure.
"""

from __future__ import annotations

import re
from email.header import Header
from typing import Final

from lorrainemail.message.addresslist import Mailbox, parse_addresses
from lorrainemail.message.charsets import decode_words
from lorrainemail.message.header import fields, unfold

#: RFC 6858 §3.1.1 (its example's spelling).
NOWHERE: Final = "invalid@internationalized-address.invalid"
#: Octets of one line of an encoded field (RFC 2047 §2).
_LINE: Final = 75
#: Octets of a value that are told; a longer one ends there.
_MAX_VALUE: Final = 16 * 1024

_ATOMS = re.compile(rb"[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*\Z", re.ASCII)

_ADDRESSES: Final = frozenset(
    {b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc", b"return-path", b"disposition-notification-to"}
)
#: Where an encoded word would mean something else: what is beyond ASCII becomes "?".
_TOKENS: Final = frozenset(
    {b"message-id", b"in-reply-to", b"references", b"received", b"delivered-to", b"content-type",
     b"content-disposition", b"content-id", b"content-transfer-encoding", b"date"}
)  # fmt: skip


def surrogate(header: bytes) -> bytes:
    """The header in ASCII as far as that can be.

    :param header: in wire form, up to the end of its empty line.
    """
    if header.isascii():
        return header
    pieces: list[bytes] = []
    position = 0
    for field in fields(header):
        value = header[field.value : field.end]
        if value.isascii():
            continue
        try:
            text = unfold(value).decode("utf-8")[:_MAX_VALUE]
        except UnicodeDecodeError:
            continue
        name = field.name.removeprefix(b"resent-")
        if name in _ADDRESSES:
            shown = _addresses(unfold(value)[:_MAX_VALUE])
        elif name in _TOKENS:
            shown = text.encode("ascii", "replace")
        else:
            shown = _encoded(decode_words(text.encode("utf-8")), field.value - field.start)
        pieces += [header[position : field.value], b" ", shown, b"\r\n"]
        position = field.end
    pieces.append(header[position:])
    return b"".join(pieces)


def _addresses(value: bytes) -> bytes:
    """All of them, those of groups too, one a line."""
    found = [
        _address(mailbox, mailbox.host) for mailbox in parse_addresses(value) if mailbox.host is not None
    ]
    return b",\r\n ".join(found) or b"undisclosed-recipients:;"


def _address(mailbox: Mailbox, host: bytes) -> bytes:
    display, local = decode_words(mailbox.name or b""), mailbox.mailbox or b""
    if local.isascii() and not _ATOMS.match(local):
        local = b'"%b"' % local.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    address = b"%b@%b" % (local, host)
    if address.isascii():
        return b"%b\r\n <%b>" % (_encoded(display, 1), address) if display else b"<%b>" % address
    shown = f"{display} {_text(address)}".strip()
    return b"%b\r\n <%b>" % (_encoded(shown, 1), NOWHERE.encode("ascii"))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


def _encoded(text: str, used: int) -> bytes:
    """Encoded words, folded."""
    return Header(text, "utf-8", _LINE - used).encode(linesep="\r\n").encode("ascii", "replace")
