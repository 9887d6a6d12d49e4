"""What a search is to answer: result options (RFC 4731, RFC 5182), windows of it (RFC 9394); FETCH modifiers.

Pure. The words of SEARCH, SORT and FETCH that say how much of the result is wanted, and in which form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, TypeVar

import attrs

from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault

T = TypeVar("T")

_WINDOW = re.compile(rb"(-?)([1-9][0-9]{0,9}):(-?)([1-9][0-9]{0,9})")
#: RFC 4731 §3.1, RFC 5182 §2.1, RFC 6203 §4.
_OPTIONS: Final = frozenset({"MIN", "MAX", "ALL", "COUNT", "SAVE", "RELEVANCY"})


@attrs.frozen(slots=True)
class Window:
    """RFC 9394 §4 ``partial-range``: from the first of the results on, or back from the last.

    :ivar text: as the client wrote it.
    """

    text: bytes
    first: int
    last: int
    backwards: bool

    def of(self, results: Sequence[T]) -> Sequence[T]:
        """Those of the results that it shows, in their order."""
        if not self.backwards:
            return results[self.first - 1 : self.last]
        size = len(results)
        return results[max(size - self.last, 0) : max(size - self.first + 1, 0)]


@attrs.frozen(slots=True)
class ResultOptions:
    """``RETURN (...)``; "ALL" is in it where the client named nothing else.

    :ivar extended: the answer is an ESEARCH.
    """

    words: frozenset[str] = frozenset()
    window: Window | None = None
    extended: bool = False

    @property
    def saves(self) -> bool:
        """The result is kept as "$"."""
        return "SAVE" in self.words


@attrs.frozen(slots=True)
class FetchModifiers:
    """RFC 7162 §3.1.4.1 and §3.2.6, RFC 9394 §3.3."""

    changed_since: int | None = None
    vanished: bool = False
    window: Window | None = None


def window(scanner: Scanner) -> Window:
    """``partial-range``."""
    match = _WINDOW.match(scanner.data, scanner.position)
    if match is None or match.group(1) != match.group(3):
        raise SyntaxFault("malformed PARTIAL")
    scanner.position = match.end()
    first, last = sorted((int(match.group(2)), int(match.group(4))))
    if last > 0xFFFFFFFF:
        raise SyntaxFault("malformed PARTIAL")
    return Window(match.group(), first, last, bool(match.group(1)))


def result_options(scanner: Scanner) -> ResultOptions:
    """``["RETURN" SP "(" [options] ")" SP]``, before a program."""
    if scanner.data[scanner.position : scanner.position + 8].upper() != b"RETURN (":
        return ResultOptions()
    scanner.position += 8
    words: set[str] = set()
    part: Window | None = None
    first = True
    while not scanner.skip(b")"):
        if not first:
            scanner.space()
        first = False
        word = scanner.keyword().decode("ascii")
        if word == "PARTIAL":
            scanner.space()
            if part is not None:
                raise SyntaxFault("PARTIAL twice")
            part = window(scanner)
        elif word in _OPTIONS:
            words.add(word)
        else:
            raise SyntaxFault("unknown result option")
    if part is not None and "ALL" in words:
        raise SyntaxFault("PARTIAL and ALL exclude each other")  # RFC 9394 §3.1
    if words <= {"RELEVANCY"} and part is None:
        words.add("ALL")  # RFC 4731 §3.1
    scanner.space()
    return ResultOptions(frozenset(words), part, True)


def fetch_modifiers(scanner: Scanner, by_uid: bool) -> FetchModifiers:
    """``[SP "(" modifier *(SP modifier) ")"]`` (RFC 4466 §2.4)."""
    if not scanner.skip(b" ("):
        return FetchModifiers()
    since: int | None = None
    vanished = False
    part: Window | None = None
    while True:
        word = scanner.keyword()
        if word == b"CHANGEDSINCE":
            scanner.space()
            since = scanner.mod_sequence()
        elif word == b"VANISHED":
            vanished = True
        elif word == b"PARTIAL" and by_uid:
            scanner.space()
            part = window(scanner)
        else:
            raise SyntaxFault("unknown FETCH modifier")
        if scanner.skip(b")"):
            break
        scanner.space()
    if vanished and (since is None or not by_uid):
        raise SyntaxFault("VANISHED needs UID FETCH and CHANGEDSINCE")  # RFC 7162 §3.2.6
    return FetchModifiers(since, vanished, part)
