"""Text out of header values and parts: character sets and encoded words (RFC 2047), decoded for searching.

Only for looking at text (SEARCH, sorting, display): what is sent to a client stays raw. Never fails; an
unknown character set or a broken encoding is read as UTF-8, and if it is not that, as Latin-1.
"""

from __future__ import annotations

import binascii
import codecs
import re
from functools import lru_cache
from typing import Final

# Text codecs of Python that no mail uses and that cost more than linear time or interpret escapes.
_NOT_CHARSETS: Final = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs"}
)
# RFC 2047 §2 allows 75 octets a word; mail in the wild goes further.
_ENCODED_WORD = re.compile(rb"=\?([!->@-~]{1,60})\?([BbQq])\?([!->@-~]{0,4000})\?=")
_QP_HEX = re.compile(rb"=([0-9A-Fa-f]{2})")


@lru_cache(maxsize=256)
def codec_name(charset: str) -> str | None:
    """Python's name of a character set, None where there is none fit for mail."""
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):
        return None
    if name.replace("-", "_") in _NOT_CHARSETS or not codecs.lookup(name)._is_text_encoding:
        return None
    return "cp1252" if name == "iso8859-1" else name


def decode(value: bytes, charset: str = "") -> str:
    """Octets in that character set as text."""
    if value.isascii() and charset.lower() in ("", "us-ascii", "utf-8", "iso-8859-1", "windows-1252"):
        return value.decode("ascii")
    name = codec_name(charset.strip().lower()) if charset else "utf-8"
    if name is not None and name != "ascii":
        try:
            return value.decode(name, "replace" if charset and name != "utf-8" else "strict")
        except (UnicodeError, ValueError):
            pass
    try:
        return value.decode("utf-8")
    except UnicodeError:
        return value.decode("latin-1")


def decode_words(value: bytes) -> str:
    """A header value with its encoded words decoded (RFC 2047 §6.2: space between two of them dropped)."""
    if b"=?" not in value:
        return decode(value)
    parts: list[str] = []
    position = 0
    pending: list[bytes] = []  # octets of adjacent words of one character set: characters may be split
    pending_charset = ""

    def flush() -> None:
        if pending:
            parts.append(decode(b"".join(pending), pending_charset))
            pending.clear()

    for match in _ENCODED_WORD.finditer(value):
        between = value[position : match.start()]
        if between.strip(b" \t\r\n") or not pending:
            flush()
            parts.append(decode(between))
        charset = match.group(1).partition(b"*")[0].decode("ascii").lower()  # RFC 2231 §5: language after "*"
        if charset != pending_charset:
            flush()
            pending_charset = charset
        pending.append(_word(match.group(2), match.group(3)))
        position = match.end()
    flush()
    parts.append(decode(value[position:]))
    return "".join(parts)


def _word(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"Qq":
        return _QP_HEX.sub(lambda match: bytes((int(match.group(1), 16),)), text.replace(b"_", b" "))
    return decode_base64(text)


def decode_base64(value: bytes) -> bytes:
    """Base64 with everything outside its alphabet ignored, and a torn end left out."""
    kept = value.translate(None, _NOT_BASE64)
    kept = kept[: len(kept) // 4 * 4] if len(kept) % 4 == 1 else kept + b"=" * (-len(kept) % 4)
    try:
        return binascii.a2b_base64(kept)
    except binascii.Error:
        return b""


_NOT_BASE64: Final = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
)


#: The transfer encodings that :func:`decode_body` knows (RFC 2045 §6.1), and none at all.
ENCODINGS: Final = frozenset({b"", b"7bit", b"8bit", b"binary", b"base64", b"quoted-printable"})


def decode_body(value: bytes, encoding: bytes) -> bytes:
    """A part's octets with their content transfer encoding undone (RFC 2045 §6)."""
    encoding = encoding.lower()
    if encoding == b"base64":
        return decode_base64(value)
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(value)
    return value
