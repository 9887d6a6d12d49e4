"""IMAP strings as they go over the line: quoted where that is allowed, literal where it is not.

Owned here because the index keeps ready wire bytes (:mod:`lorrainemail.message.summary`);
:mod:`lorrainemail.grammar.imap` prints with the same functions. Pure; never fails.
"""

from __future__ import annotations

import re

NIL = b"NIL"

# RFC 3501 §9: QUOTED-CHAR without the two that need a backslash. TAB is a TEXT-CHAR.
_NOT_PLAIN = re.compile(rb"[^\t !#-\[\]-~]")
_NOT_QUOTABLE = re.compile(rb"[^\t -~]")
# RFC 3501 §9: ATOM-CHAR, and "]" which ASTRING-CHAR adds.
_ASTRING_ATOM = re.compile(rb"[!#$&'+-\[\]^-z|}~]+\Z")


def string(value: bytes) -> bytes:
    """``string`` of RFC 3501 §4.3; what a quoted string cannot hold (8 bit, CR, LF) becomes a literal.

    NUL cannot stand even in a literal (``CHAR8``); it is shown as 0x80, as other servers do.
    """
    if _NOT_PLAIN.search(value) is None:
        return b'"%b"' % value
    if _NOT_QUOTABLE.search(value) is None:
        return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b"{%d}\r\n%b" % (len(value), value.replace(b"\0", b"\x80"))


def nstring(value: bytes | None) -> bytes:
    """``nstring``: NIL for None."""
    return NIL if value is None else string(value)


def astring(value: bytes) -> bytes:
    """``astring``: an atom where it can be one and is not taken for NIL."""
    if _ASTRING_ATOM.match(value) is not None and value.upper() != NIL:
        return value
    return string(value)
