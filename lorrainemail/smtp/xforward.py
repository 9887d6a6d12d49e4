"""XFORWARD (Postfix's XFORWARD_README): a listed server in front says whom a message came from.

Pure: attributes in, a tuple for the session out. What is said is for people: it stands in the trace and goes
on to next hops whose row wants it, and changes nobody's rights (XCLIENT does that). Whose word is taken is
the door's setting; the command is a method of :class:`~lorrainemail.smtp.session.SmtpSession`.
"""

from __future__ import annotations

from typing import Final, NoReturn

from lorrainemail.errors import PermanentError, Reply
from lorrainemail.grammar.smtp import decode_xtext
from lorrainemail.grammar.smtp_xforward import ATTRIBUTES, LONGEST_VALUE, UNAVAILABLE

Origin = tuple[tuple[str, str], ...]

_LINE: Final = f"XFORWARD {' '.join(ATTRIBUTES)}"


def announcing(hello: bytes) -> bytes:
    """A reply to EHLO with one more line."""
    head, _, last = hello.removesuffix(b"\r\n").rpartition(b"\r\n")
    lines = (head, b"250-" + last[4:], b"250 " + _LINE.encode("ascii"), b"")
    return b"\r\n".join(lines[1:] if not head else lines)


def merged(origin: Origin, argument: bytes) -> Origin:
    """What was said before and what is said now; an attribute that is not known is left out.

    :raises PermanentError: 501 for what is malformed.
    """
    said = dict(origin)
    seen = set()
    for word in argument.split():
        keyword, equals, value = word.decode("ascii", "replace").partition("=")
        keyword = keyword.upper()
        if not equals or keyword not in ATTRIBUTES or keyword in seen:
            _malformed(f"Syntax: XFORWARD attribute=value, with the attributes {' '.join(ATTRIBUTES)}")
        seen.add(keyword)
        try:
            text = decode_xtext(value)
        except ValueError:
            _malformed(f"Malformed {keyword}")
        if not text or not text.isprintable() or len(text) > LONGEST_VALUE:
            _malformed(f"Malformed {keyword}")
        if keyword == "SOURCE" and text.upper() not in ("LOCAL", "REMOTE", UNAVAILABLE):
            _malformed("SOURCE must be LOCAL or REMOTE")
        said.pop(keyword, None)
        if text.upper() != UNAVAILABLE:
            said[keyword] = text
    if not seen:
        _malformed("Syntax: XFORWARD attribute=value")
    return tuple(said.items())


def _malformed(words: str) -> NoReturn:
    raise PermanentError(Reply(501, "5.5.4", words))
