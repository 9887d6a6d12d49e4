"""The two canonical forms of DKIM, and the hash of a body in chunks (RFC 6376 §3.4).

Pure, for signer and verifier alike (and ARC). A body is taken in chunks of any size, cut anywhere; what is
held between two chunks is a few octets and a count of empty lines, however many of them somebody sends. All
work on octets is done by whole-chunk operations of the interpreter. Lines end with CRLF and nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

Form = Literal["simple", "relaxed"]

_TABS: Final = bytes.maketrans(b"\t", b" ")
_EMPTY_LINES: Final = b"\r\n" * 16384


def canonical_field(field: bytes, name: bytes, value: bytes, form: Form) -> bytes:
    """One header field without its last CRLF.

    :param field: the whole field as it stands, with its last CRLF.
    :param name: its name in lower case. ``value``: what follows the colon.
    """
    if form == "simple":
        return field.removesuffix(b"\r\n")
    # RFC 6376 §3.4.2
    return name + b":" + single_spaced(value.replace(b"\r\n", b"")).strip(b" ")


def single_spaced(octets: bytes) -> bytes:
    """Every run of white space as one space."""
    if b"\t" in octets:
        octets = octets.translate(_TABS)
    while b"  " in octets:
        octets = octets.replace(b"  ", b" ")
    return octets


class BodyHash:
    """SHA-256 of a body in one of the canonical forms.

    :ivar octets: of the canonical body so far (all of it after :meth:`digest`).
    """

    __slots__ = ("_blank", "_carry", "_hash", "_relaxed", "octets")

    def __init__(self, form: Form) -> None:
        self._relaxed = form == "relaxed"
        self._hash = hashlib.sha256()
        self._carry = b""
        self._blank = 0
        self.octets = 0

    def update(self, chunk: bytes) -> None:
        """Take the next octets."""
        if self._carry:
            chunk = self._carry + chunk
            self._carry = b""
        if chunk.endswith(b"\r"):
            chunk, self._carry = chunk[:-1], b"\r"
        if self._relaxed:
            chunk = single_spaced(chunk)
            if b" \r\n" in chunk:
                chunk = chunk.replace(b" \r\n", b"\r\n")
            if chunk.endswith(b" "):
                # the end of a line may follow
                chunk, self._carry = chunk[:-1], b" " + self._carry
        self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        """Octets in their final form; empty lines at their end wait for what follows (RFC 6376 §3.4.3)."""
        kept = chunk.rstrip(b"\r\n")
        lines, odd = divmod(len(chunk) - len(kept), 2)
        if odd or (lines and chunk.count(b"\r\n", len(kept)) != lines):
            kept, lines = _bare(chunk, len(kept))
        if kept:
            self._flush_lines()
            self._emit(kept)
        self._blank += lines

    def _flush_lines(self) -> None:
        while self._blank:
            lines = min(self._blank, len(_EMPTY_LINES) // 2)
            self._emit(_EMPTY_LINES[: 2 * lines])
            self._blank -= lines

    def _emit(self, octets: bytes) -> None:
        self._hash.update(octets)
        self.octets += len(octets)

    def digest(self) -> bytes:
        """The hash of the whole. Once."""
        if b"\r" in self._carry:
            self._take(self._carry)
        self._blank = 0
        if self.octets or not self._relaxed:
            self._emit(b"\r\n")
        return self._hash.digest()


def _bare(chunk: bytes, start: int) -> tuple[bytes, int]:
    """A chunk that ends in CR and LF of which not all are pairs: what is kept, and the empty lines after."""
    end = len(chunk)
    while end - 2 >= start and chunk.startswith(b"\r\n", end - 2):
        end -= 2
    return chunk[:end], (len(chunk) - end) // 2
