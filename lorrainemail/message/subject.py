"""The base subject of RFC 5256 §2.1, by which SORT and THREAD compare. Pure, linear time."""

from __future__ import annotations

import re
from typing import Final

from lorrainemail.message.charsets import decode_words

#: Octets of a subject that are compared.
MAX_SUBJECT: Final = 2000
#: Rounds of removing leaders; each removes something.
MAX_ROUNDS: Final = 200

_REFWD = re.compile(r"(?:re|fwd?)[ ]*", re.IGNORECASE)
_WORD = re.compile(r"[^\[\]]*\][ ]*")


def base_subject(subject: bytes) -> str:
    """The subject without "Re:", "Fwd:", "[list]" and the like, decoded, upper case."""
    return split_subject(subject)[0]


def split_subject(subject: bytes) -> tuple[str, bool]:
    """The same, and whether what was taken off says that it is a reply or was forwarded."""
    reply = False
    text = " ".join(decode_words(subject[:MAX_SUBJECT]).split())
    for _ in range(MAX_ROUNDS):
        before = text
        while text[-5:].lower() == "(fwd)":
            text = text[:-5].rstrip(" ")
            reply = True
        text, leader = _without_leaders(text)
        reply = reply or leader
        if text[:5].lower() == "[fwd:" and text.endswith("]"):
            text = text[5:-1].strip(" ")
            reply = True
        if text == before:
            break
    return text.upper(), reply


def _without_leaders(text: str) -> tuple[str, bool]:
    """Without ``[blob]`` and "Re:" at its beginning while something stays; whether there was a "Re:"."""
    found = False
    while True:
        blobs = last = 0
        while end := _blob(text, blobs):
            last, blobs = blobs, end
        leader = _REFWD.match(text, blobs)
        if leader is not None:
            colon = _blob(text, leader.end()) or leader.end()
            if text[colon : colon + 1] == ":":
                text = text[colon + 1 :].lstrip(" ")
                found = True
                continue
        return text[blobs:] or text[last:], found


def _blob(text: str, position: int) -> int:
    """Where a ``[...]`` that begins there ends with the white space after it; 0 where there is none."""
    if text[position : position + 1] != "[":
        return 0
    match = _WORD.match(text, position + 1)
    return match.end() if match is not None else 0
