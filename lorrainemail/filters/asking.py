"""What a filter is asked about, and what it answers: the plain values that its clients share. Pure."""

from __future__ import annotations

from typing import Any, Final

import attrs

from lorrainemail.envelope import Envelope, Session
from lorrainemail.errors import Reply
from lorrainemail.filters.stream import InThread
from lorrainemail.interfaces import Action, IContent

#: Characters of a filter's own words that are passed on.
MAX_WORDS: Final = 300
#: Header fields that one filter may add, and octets of one.
MAX_ADDED: Final = 50
MAX_FIELD: Final = 8192


@attrs.frozen(slots=True)
class Question:
    """One message at its final dot.

    :ivar fields: what earlier checks put above it; filters see that too.
    :ivar received: our own Received field, for filters that find the peer in it.
    :ivar hostname: our name.
    """

    session: Session
    envelope: Envelope
    content: IContent
    hostname: str
    fields: bytes = b""
    received: bytes = b""


@attrs.frozen(slots=True)
class Means:
    """What a client works with.

    :ivar spill: where a message that a filter changes is written when it is large.
    :ivar limit: octets of such a message.
    """

    reactor: Any
    address: str
    in_thread: InThread | None = None
    spill: str = ""
    limit: int = 0
    modify: bool = True


@attrs.frozen(slots=True)
class Opinion:
    """What a filter answered.

    :ivar field: header fields that it wants above the message.
    :ivar content: the message as it changed it.
    """

    action: Action
    reason: str
    reply: Reply | None = None
    field: bytes = b""
    content: IContent | None = None


def harmless(words: str | bytes, most: int = MAX_WORDS) -> str:
    """A filter's words as one printable line."""
    if isinstance(words, bytes):
        words = words[: 4 * most].decode("utf-8", "replace")
    return "".join(c if " " <= c <= "~" else "?" for c in words[:most])


def header_field(name: bytes, value: bytes) -> bytes:
    """One whole field, b"" where it cannot be one: a filter ends no header by what it adds."""
    if not name or not all(33 <= octet <= 126 and octet != 58 for octet in name):
        return b""
    lines = value.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"").split(b"\n")
    kept = [lines[0].strip(b" \t")]
    kept += [line if line[:1] in (b" ", b"\t") else b"\t" + line for line in lines[1:] if line.strip()]
    field = name + b": " + b"\r\n".join(kept) + b"\r\n"
    return field if len(field) <= MAX_FIELD else b""
