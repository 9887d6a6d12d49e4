"""The words and facts of a message that the classifier goes by. Pure; blocks for some milliseconds.

Facts say where they come from ("from:elorac.fr", "auth:spf=fail", "host:evil.example"), words of the subject
begin with "subject:", those of the text stand for themselves. Looked at are :data:`MAX_OCTETS` of the
message; kept are :data:`MAX_WORDS` different words.
"""

from __future__ import annotations

import email.policy
import html
import re
from email.message import Message
from email.parser import BytesParser
from typing import Final

from lorrainemail.message.charsets import decode, decode_words

#: Octets of a message that are looked at, words that are kept, and characters of one.
MAX_OCTETS: Final = 128 * 1024
MAX_WORDS: Final = 1000
LONGEST: Final = 30
#: Parts of a message, and characters of its text.
MAX_PARTS: Final = 30
MAX_TEXT: Final = 60_000

_WORD = re.compile(r"[^\W_][\w'$€£%-]{1,60}")
# None of these looks at a character more than a few times, whatever strangers send: a pattern that does holds
# up the whole server, in a thread too.
_TAG = re.compile(r"<[^<>]{0,2000}>")
_BLOCK = re.compile(r"<(/?)(?:style|script)\b[^<>]{0,2000}>?", re.IGNORECASE)
_LINK = re.compile(r"https?://([A-Za-z0-9.-]{1,253})", re.IGNORECASE)
_ADDRESS = re.compile(r"([^\s<>@\"]{1,64})@([A-Za-z0-9.-]{1,253})")
_RESULT = re.compile(r"\b(spf|dkim|dmarc)=([a-z]{2,12})")


def words_of(octets: bytes) -> frozenset[str]:
    """All words and facts.

    :param octets: a message, or its beginning.
    """
    parser = BytesParser(policy=email.policy.compat32)
    try:
        message = parser.parsebytes(octets[:MAX_OCTETS])
        body = _body(message)
    except RecursionError:
        # Nested more deeply than any mail is: its header has to do.
        message, body = parser.parsebytes(octets[:MAX_OCTETS], headersonly=True), {}
    found: dict[str, None] = {}
    for name in ("From", "Reply-To", "Return-Path", "Sender"):
        for local, domain in _ADDRESS.findall(str(message.get(name, "")))[:3]:
            found[f"{name.lower()}:{domain.lower()}"] = None
            if name == "From":
                found[f"from:{local.lower()}@{domain.lower()}"[: 2 * LONGEST]] = None
    for field in ("List-Id", "X-Mailer", "Content-Type"):
        value = str(message.get(field, "")).partition(";")[0].strip().lower()
        if value:
            found[f"{field.lower()}:{value[:LONGEST]}"] = None
    results = str(message.get("Authentication-Results", ""))[:4000]
    found.update(dict.fromkeys(f"auth:{method}={result}" for method, result in _RESULT.findall(results)))
    subject = str(message.get("Subject", ""))[:2000].encode("utf-8", "replace")
    for word in _split(decode_words(subject)):
        found[f"subject:{word}"] = None
    for word in body:
        if len(found) >= MAX_WORDS:
            break
        found[word] = None
    return frozenset(found)


def _split(text: str) -> list[str]:
    return [word.lower()[:LONGEST] for word in _WORD.findall(text) if len(word) > 2]


def _body(message: Message) -> dict[str, None]:
    found: dict[str, None] = {}
    room = MAX_TEXT
    for number, part in enumerate(message.walk()):
        if number >= MAX_PARTS or room <= 0:
            break
        kind = part.get_content_type()
        name = part.get_filename()
        if name:
            found[f"file:{str(name).rpartition('.')[2].lower()[:10]}"] = None
        if not kind.startswith("text/"):
            continue
        payload = part.get_payload(decode=True)
        if not isinstance(payload, bytes):
            continue
        text = decode(payload, part.get_content_charset() or "")[:room]
        room -= len(text)
        found.update(dict.fromkeys(f"host:{host.lower()[:60]}" for host in _LINK.findall(text)[:50]))
        if kind == "text/html":
            text = html.unescape(_TAG.sub(" ", _shown(text)))
        found.update(dict.fromkeys(_split(text)))
    return found


def _shown(text: str) -> str:
    """HTML without its styles and scripts; one that is never closed hides nothing."""
    parts: list[str] = []
    position, hidden = 0, False
    for tag in _BLOCK.finditer(text):
        if hidden == bool(tag[1]):
            if not hidden:
                parts.append(text[position : tag.start()])
            position, hidden = tag.end(), not hidden
    parts.append(text[position:])
    return " ".join(parts)
