"""A few words of a message's text, as mail programs show them in a list (RFC 8970 §3.1).

Pure, of bounded cost: only the beginning of the message is looked at. Never fails.
"""

from __future__ import annotations

import html
import re
from typing import Final

from lorrainemail.message.charsets import ENCODINGS, decode, decode_body
from lorrainemail.message.structure import Part, parse_structure

#: Octets of a message, and of one part, that are looked at.
MAX_LOOKED: Final = 64 * 1024
MAX_PART: Final = 16 * 1024
#: Characters of a preview; RFC 8970 §3.1 allows 256.
MAX_PREVIEW: Final = 200

_HIDDEN = re.compile(r"<(script|style|head|title)\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>?")


def preview(data: bytes) -> str:
    """The beginning of the first text; "" where there is none.

    :param data: the message's beginning, :data:`MAX_LOOKED` octets suffice.
    """
    part = _first_text(parse_structure(data))
    if part is None:
        return ""
    octets = data[part.body : min(part.end, part.body + MAX_PART)]
    octets = decode_body(octets, part.encoding)
    text = decode(octets, (part.parameter(b"charset") or b"").decode("ascii", "replace"))
    if part.subtype == b"html":
        text = _without_tags(text)
    else:
        lines = [line for line in text.splitlines() if not line.startswith(">")]
        text = " ".join(lines)
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return words[:MAX_PREVIEW].rstrip()


def _first_text(root: Part) -> Part | None:
    """The first text/plain, else the first text/html; parts of embedded messages do not count."""
    found: Part | None = None
    todo = [root]
    while todo:
        part = todo.pop()
        if part.multipart:
            todo.extend(reversed(part.parts))
        elif part.type == b"text":
            disposition = part.field(b"content-disposition") or b""
            if disposition[:10].lower() == b"attachment" or part.encoding not in ENCODINGS:
                continue
            if part.subtype == b"plain":
                return part
            if part.subtype == b"html" and found is None:
                found = part
    return found


def _without_tags(text: str) -> str:
    """What a reader would see of HTML, roughly."""
    seen: list[str] = []
    position = 0
    lower = text.lower()
    while (match := _HIDDEN.search(text, position)) is not None:
        seen.append(text[position : match.start()])
        end = lower.find(f"</{match.group(1).lower()}", match.end())
        if end < 0:
            position = len(text)
            break
        position = end
    seen.append(text[position:])
    return html.unescape(_TAG.sub(" ", "".join(seen)))
