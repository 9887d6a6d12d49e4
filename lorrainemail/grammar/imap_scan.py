"""The tokens of IMAP commands: a cursor over one whole command, literals in their places.

A command is one bytes object as :mod:`lorrainemail.grammar.imap_input` gathered it: ``{3}\\r\\nabc`` stands
in it just as the client sent it. The methods are named as the productions of RFC 3501 §9. Fails with
:class:`SyntaxFault`, which the door answers with a tagged BAD; the session goes on.
"""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.grammar.imap_names import decode_name
from lorrainemail.grammar.imap_sets import SAVED, SequenceSet, parse_set

#: Flags in one list.
MAX_FLAGS: Final = 100

_ATOM = re.compile(rb"[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]+")
_ASTRING = re.compile(rb"[!#$&'+,\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+")
_LIST_ATOM = re.compile(rb"[!#$%&'*+,\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+")
_QUOTED = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"')
_LITERAL = re.compile(rb"~?\{([0-9]{1,10})\+?\}\r?\n")
_SET = re.compile(rb"[0-9*:,]+")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_OBJECT_ID = re.compile(rb"[A-Za-z0-9_-]{1,255}")
_FLAG = re.compile(rb"\\?[!#$&'+,\-./0-9:;<=>?@A-Z\[^_`a-z|}~]+")
_TAG = re.compile(rb"[!#$&',\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+")
_ESCAPE = re.compile(rb'\\(["\\])')


class SyntaxFault(Exception):
    """The command is not IMAP; the text says why, fit for a reply."""


class Scanner:
    """A cursor over a command.

    :param utf8: mailbox names are UTF-8 (RFC 6855 §3), else modified UTF-7.
    :param charsets: a SEARCH may name its character set.
    """

    __slots__ = ("charsets", "data", "position", "utf8")

    def __init__(self, data: bytes, position: int = 0, utf8: bool = False, charsets: bool = True) -> None:
        self.data = data
        self.utf8 = utf8
        self.charsets = charsets
        self.position = position

    # -- single octets --

    def at(self, octet: bytes) -> bool:
        return self.data.startswith(octet, self.position)

    def at_end(self) -> bool:
        return self.position >= len(self.data)

    def skip(self, text: bytes) -> bool:
        """Step over the text if it is next."""
        if self.data.startswith(text, self.position):
            self.position += len(text)
            return True
        return False

    def expect(self, text: bytes) -> None:
        if not self.skip(text):
            what = "a space" if text == b" " else f'"{text.decode("ascii")}"'
            raise SyntaxFault(f"{what} is missing")

    def space(self) -> None:
        self.expect(b" ")

    def end(self) -> None:
        if self.position < len(self.data):
            raise SyntaxFault("unexpected text after the command's arguments")

    def _take(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        match = pattern.match(self.data, self.position)
        if match is None:
            raise SyntaxFault(f"{what} is missing or malformed")
        self.position = match.end()
        return match.group()

    # -- productions --

    def tag(self) -> bytes:
        return self._take(_TAG, "tag")

    def atom(self) -> bytes:
        return self._take(_ATOM, "an atom")

    def string(self) -> bytes:
        """``string``: quoted or literal."""
        if self.at(b'"'):
            match = _QUOTED.match(self.data, self.position)
            if match is None:
                raise SyntaxFault("malformed quoted string")
            self.position = match.end()
            text = match.group(1)
            return _ESCAPE.sub(rb"\1", text) if b"\\" in text else text
        match = _LITERAL.match(self.data, self.position)
        if match is None:
            raise SyntaxFault("a string is missing or malformed")
        end = match.end() + int(match.group(1))
        if end > len(self.data):
            raise SyntaxFault("a literal is cut off")
        text = self.data[match.end() : end]
        if b"\0" in text:
            raise SyntaxFault("NUL in a literal")  # RFC 3501 §9 CHAR8
        self.position = end
        return text

    def _at_string(self) -> bool:
        return self.data[self.position : self.position + 1] in (b'"', b"{")

    def astring(self) -> bytes:
        return self.string() if self._at_string() else self._take(_ASTRING, "a string")

    def list_mailbox(self) -> bytes:
        return self.string() if self._at_string() else self._take(_LIST_ATOM, "a mailbox pattern")

    def nstring(self) -> bytes | None:
        """``nstring``."""
        if self._at_string():
            return self.string()
        if self.data[self.position : self.position + 3].upper() == b"NIL":
            self.position += 3
            return None
        raise SyntaxFault("a string or NIL is missing")

    def mailbox(self) -> str:
        """A mailbox name, decoded."""
        try:
            name = decode_name(self.astring(), self.utf8)
        except ValueError as error:
            raise SyntaxFault(str(error)) from None
        if not name:
            raise SyntaxFault("empty mailbox name")
        return name

    def number(self) -> int:
        value = int(self._take(_NUMBER, "a number"))
        if value > 0xFFFFFFFF:
            raise SyntaxFault("number too large")
        return value

    def mod_sequence(self) -> int:
        """RFC 7162 §7 ``mod-sequence-valzer``: 63 bits."""
        value = int(self._take(_NUMBER, "a mod-sequence"))
        if value > 0x7FFFFFFFFFFFFFFF:
            raise SyntaxFault("mod-sequence too large")
        return value

    def object_id(self) -> str:
        """RFC 8474 §7 ``objectid``."""
        return self._take(_OBJECT_ID, "an object id").decode("ascii")

    def sequence_set(self) -> SequenceSet:
        """A set of message numbers or UIDs, or "$" (RFC 5182)."""
        if self.skip(b"$"):
            return SAVED
        return self.known_set()

    def known_set(self) -> SequenceSet:
        """A set without "$"."""
        found = parse_set(self._take(_SET, "a message set"))
        if found is None:
            raise SyntaxFault("malformed message set")
        return found

    def flag(self) -> str:
        return self._take(_FLAG, "a flag").decode("ascii")

    def flag_list(self) -> tuple[str, ...]:
        """``flag-list``: in parentheses, may be empty."""
        self.expect(b"(")
        flags: list[str] = []
        while not self.skip(b")"):
            if flags:
                self.space()
            flags.append(self.flag())
            if len(flags) > MAX_FLAGS:
                raise SyntaxFault("too many flags")
        return tuple(flags)

    def keyword(self) -> bytes:
        """An atom in upper case: a word of the protocol."""
        return self.atom().upper()
