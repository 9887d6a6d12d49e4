"""The packets of the milter protocol, version 6, as sendmail's libmilter defines them. Pure.

Each is a length (4 octets, network order), a command, and that many octets less one. :func:`packet` makes
them; the answers' contents are read by the functions below, which raise :class:`FilterError` for what is
none.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from typing import Final

from lorrainemail.errors import Reply
from lorrainemail.filters.asking import harmless
from lorrainemail.filters.stream import FilterError

VERSION: Final = 6
#: The oldest that is spoken with.
LEAST_VERSION: Final = 2
#: Octets of one packet that a filter sends (a piece of a body, at most 64 KiB and a little).
MAX_PACKET: Final = 128 * 1024

# Commands to the filter.
NEGOTIATE, MACROS, CONNECT, HELO, MAIL, RCPT = b"O", b"D", b"C", b"H", b"M", b"R"
DATA, HEADER, END_OF_HEADERS, BODY, END_OF_BODY, ABORT, QUIT = b"T", b"L", b"N", b"B", b"E", b"A", b"Q"

# Its answers.
ACCEPT, CONTINUE, DISCARD, REJECT, DEFER, REPLY = b"a", b"c", b"d", b"r", b"t", b"y"
SKIP, PROGRESS, SHUTDOWN, CONNECTION_FAILED = b"s", b"p", b"4", b"f"
ADD_HEADER, INSERT_HEADER, CHANGE_HEADER, REPLACE_BODY, QUARANTINE = b"h", b"i", b"m", b"b", b"q"
ADD_RECIPIENT, ADD_RECIPIENT_PAR, DELETE_RECIPIENT, CHANGE_SENDER = b"+", b"2", b"-", b"e"

# What a filter may do (SMFIF_*): add headers, change the body, change headers, quarantine. Never offered:
# other recipients, another sender; the envelope is the tables' business.
MAY_ADD: Final = 0x01
MAY_BODY: Final = 0x02
MAY_CHANGE: Final = 0x10
MAY_QUARANTINE: Final = 0x20

# Steps that a filter does not want (SMFIP_NO*), or does not answer (SMFIP_NR_*).
NOT: Final = {
    CONNECT: 0x01,
    HELO: 0x02,
    MAIL: 0x04,
    RCPT: 0x08,
    BODY: 0x10,
    HEADER: 0x20,
    END_OF_HEADERS: 0x40,
    DATA: 0x200,
}
SILENT: Final = {
    HEADER: 0x80,
    CONNECT: 0x1000,
    HELO: 0x2000,
    MAIL: 0x4000,
    RCPT: 0x8000,
    DATA: 0x10000,
    END_OF_HEADERS: 0x40000,
    BODY: 0x80000,
}
MAY_SKIP: Final = 0x400
LEADING_SPACE: Final = 0x100000
#: All steps that we let a filter choose.
STEPS: Final = sum(NOT.values()) + sum(SILENT.values()) + MAY_SKIP + LEADING_SPACE

_REPLY = re.compile(rb"([45][0-9]{2})(?: ([245]\.[0-9]{1,3}\.[0-9]{1,3}))?(?:[ -](.*))?", re.DOTALL)


def packet(command: bytes, content: bytes = b"") -> bytes:
    """One packet."""
    return struct.pack("!I", 1 + len(content)) + command + content


def strings(*words: str | bytes) -> bytes:
    """Words, each ended by a null octet; nulls inside them are left out."""
    octets = (word.encode("utf-8", "replace") if isinstance(word, str) else word for word in words)
    return b"".join(word.replace(b"\0", b"") + b"\0" for word in octets)


def negotiation(actions: int) -> bytes:
    """What we speak and allow."""
    return packet(NEGOTIATE, struct.pack("!III", VERSION, actions, STEPS))


def negotiated(content: bytes, offered: int) -> tuple[int, int]:
    """The filter's actions and steps, of those that were offered."""
    if len(content) < 12:
        raise FilterError("the milter's negotiation is too short")
    version, actions, steps = struct.unpack("!III", content[:12])
    if not LEAST_VERSION <= version <= VERSION:
        raise FilterError(f"the milter speaks version {version}")
    return actions & offered, steps & STEPS


def macros(command: bytes, values: Mapping[str, str]) -> bytes:
    """The macros that go before a command; empty ones are left out."""
    words = [word for name, value in values.items() if value for word in (name, value)]
    return packet(MACROS, command + strings(*words))


def connection(name: str, address: str, port: int) -> bytes:
    """Who the client is."""
    if not address:
        return packet(CONNECT, strings(name) + b"U")
    family, text = (b"6", f"IPv6:{address}") if ":" in address else (b"4", address)
    return packet(CONNECT, strings(name) + family + struct.pack("!H", port) + strings(text))


def header(name: bytes, value: bytes, leading_space: bool) -> bytes:
    """One header field; folded lines end with LF alone, as filters know them."""
    value = value.replace(b"\r\n", b"\n").rstrip(b"\n")
    if not leading_space and value.startswith(b" "):
        value = value[1:]
    return packet(HEADER, strings(name, value))


def two_strings(content: bytes) -> tuple[bytes, bytes]:
    """Name and value of a field that is added."""
    words = content.split(b"\0")
    if len(words) != 3 or words[2]:
        raise FilterError("the milter's header field is malformed")
    return words[0], words[1]


def indexed(content: bytes) -> tuple[int, bytes, bytes]:
    """Position, name and value of a field that is inserted or changed."""
    if len(content) < 4:
        raise FilterError("the milter's header field is malformed")
    (index,) = struct.unpack("!I", content[:4])
    return (index, *two_strings(content[4:]))


def reply_of(content: bytes) -> Reply:
    """A reply in the filter's own words."""
    match = _REPLY.fullmatch(content.partition(b"\0")[0])
    if match is None:
        raise FilterError("the milter's reply is malformed")
    code = int(match[1])
    usual = "4.7.1" if code < 500 else "5.7.1"
    enhanced = match[2].decode("ascii") if match[2] else usual
    if enhanced[0] != str(code)[0]:
        enhanced = usual
    # A milter writes % as %%.
    words = harmless((match[3] or b"").replace(b"%%", b"%")) or "Refused by a filter"
    return Reply(code, enhanced, words)


def joined(packets: Iterable[bytes]) -> bytes:
    """Packets that go out together."""
    return b"".join(packets)
