"""Mailbox names on the IMAP wire: modified UTF-7, and the wildcards of LIST.

Inside, a name is text with "/" between levels; on the wire it is modified UTF-7 (RFC 3501 §5.1.3). Decoding
is strict: each name has one spelling only. Patterns are matched in linear time (one bit a pattern character).
Callers: the IMAP door. Fails with ValueError alone.
"""

from __future__ import annotations

import binascii
import unicodedata
from typing import Final

from lorrainemail.message.quoting import astring

#: The one hierarchy separator.
DELIMITER: Final = "/"
#: Octets of a mailbox name on the wire.
MAX_NAME: Final = 1000
#: Characters of a LIST pattern that count, after runs of wildcards are joined.
MAX_PATTERN: Final = 1000


def decode_name(wire: bytes, utf8: bool = False) -> str:
    """A name as text; INBOX in any case is "INBOX" (RFC 3501 §5.1).

    :param utf8: it is UTF-8 (RFC 6855 §3), else modified UTF-7.
    :raises ValueError: for anything but the one right spelling of a name.
    """
    if len(wire) > MAX_NAME:
        raise ValueError("mailbox name too long")
    if utf8:
        try:
            text = unicodedata.normalize("NFC", wire.decode("utf-8"))
        except UnicodeError:
            raise ValueError("mailbox name is not UTF-8") from None
    else:
        if not wire.isascii():
            raise ValueError("mailbox name is not modified UTF-7")
        text = wire.decode("ascii")
        if "&" in text:
            text = _decode_shifts(text)
    if any(c < " " or c == "\x7f" for c in text):
        raise ValueError("control character in a mailbox name")
    if text[:5].upper() == "INBOX" and (len(text) == 5 or text[5] == DELIMITER):
        text = "INBOX" + text[5:]
    return text


def _decode_shifts(text: str) -> str:
    out: list[str] = []
    position = 0
    while (shift := text.find("&", position)) >= 0:
        out.append(text[position:shift])
        end = text.find("-", shift)
        if end < 0:
            raise ValueError("unended & in a mailbox name")
        out.append(_decode_run(text[shift + 1 : end]) if end > shift + 1 else "&")
        position = end + 1
    out.append(text[position:])
    decoded = "".join(out)
    if encode_name(decoded) != text.encode("ascii"):
        raise ValueError("mailbox name is not modified UTF-7")
    return decoded


def _decode_run(run: str) -> str:
    try:
        octets = binascii.a2b_base64(run.replace(",", "/") + "=" * (-len(run) % 4))
        return octets.decode("utf-16-be")
    except (binascii.Error, UnicodeError):
        raise ValueError("mailbox name is not modified UTF-7") from None


def encode_name(name: str) -> bytes:
    """Text as modified UTF-7 (RFC 3501 §5.1.3)."""
    if name.isascii() and "&" not in name and name.isprintable():
        return name.encode("ascii")
    out: list[bytes] = []
    run = ""
    for character in [*name, ""]:
        plain = character == "" or " " <= character <= "~"
        if not plain:
            run += character
            continue
        if run:
            octets = run.encode("utf-16-be", "surrogatepass")
            out.append(
                b"&" + binascii.b2a_base64(octets, newline=False).rstrip(b"=").replace(b"/", b",") + b"-"
            )
            run = ""
        out.append(b"&-" if character == "&" else character.encode("ascii"))
    return b"".join(out)


def wire_name(name: str, utf8: bool = False) -> bytes:
    """A name as it stands in a response: an astring of modified UTF-7, or a quoted string of UTF-8."""
    if utf8 and not name.isascii():
        return b'"%b"' % name.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "replace")
    if utf8:
        return astring(name.encode("ascii"))
    return astring(encode_name(name))


class Pattern:
    """A LIST pattern: "*" is anything, "%" anything without "/" (RFC 3501 §6.3.8).

    :param text: reference and pattern joined, decoded.
    """

    __slots__ = ("_accept", "_any", "_inbox", "_level", "_masks", "_start", "text")

    def __init__(self, text: str) -> None:
        collapsed: list[str] = []
        for character in text:
            if character in "*%" and collapsed and collapsed[-1] in "*%":
                if character == "*":
                    collapsed[-1] = "*"
                continue
            collapsed.append(character)
        if len(collapsed) > MAX_PATTERN:
            raise ValueError("pattern too long")
        self.text = "".join(collapsed)
        # one state a position; "*" and "%" are states that stay
        self._masks: dict[str, int] = {}
        self._any = 0
        self._level = 0
        for index, character in enumerate(collapsed):
            bit = 1 << index
            if character == "*":
                self._any |= bit
            elif character == "%":
                self._level |= bit
            else:
                self._masks[character] = self._masks.get(character, 0) | bit
        self._accept = 1 << len(collapsed)
        self._start = self._skip(1)
        self._inbox = Pattern(self.text.upper()) if self.text.upper() != self.text else self

    def _skip(self, states: int) -> int:
        """States reached without a character: over one wildcard (two never stand side by side)."""
        return states | (states & (self._any | self._level)) << 1

    def matches(self, name: str) -> bool:
        """Whether the name fits; INBOX in any case (RFC 3501 §5.1)."""
        if name == "INBOX" and self._inbox is not self:
            return self._inbox.matches(name)
        states = self._start
        masks = self._masks
        for character in name:
            stay = states & self._any
            if character != DELIMITER:
                stay |= states & self._level
            states = self._skip((states & masks.get(character, 0)) << 1 | stay)
            if not states:
                return False
        return bool(states & self._accept)
