"""The words and facts of a message that the classifier goes by. Pure; blocks for some milliseconds.

Facts say where they come from ("from:elorac.fr", "auth:spf=fail", "host:evil.example"), words of the subject
begin with "subject:", those of the text stand for themselves. Looked at are :data:`MAX_OCTETS` of the
message; kept are :data:`MAX_WORDS` different words.
"""

from __future__ import annotations

import email.policy
import html
import re
from email.header import decode_header
from email.message import Message
from email.parser import BytesParser
from typing import Final

#: Octets of a message that are looked at, words that are kept, and characters of one.
MAX_OCTETS: Final = 128 * 1024
MAX_WORDS: Final = 1000
LONGEST: Final = 30
#: Parts of a message, and characters of its text.
MAX_PARTS: Final = 30
MAX_TEXT: Final = 60_000

_WORD = re.compile(r"[^\W_][\w'$€£%-]{1,60}")
_TAG = re.compile(
    r"<(?:style|script)\b.{0,20000}?</(?:style|script)>|<[^>]{0,2000}>", re.DOTALL | re.IGNORECASE
)
_LINK = re.compile(r"https?://([A-Za-z0-9.-]{1,253})", re.IGNORECASE)
_ADDRESS = re.compile(r"([^\s<>@\"]{1,64})@([A-Za-z0-9.-]{1,253})")
_RESULT = re.compile(r"\b(spf|dkim|dmarc)=([a-z]{2,12})")


def words_of(octets: bytes) -> frozenset[str]:
    """All words and facts.

    :param octets: a message, or its beginning.
    """
    message = BytesParser(policy=email.policy.compat32).parsebytes(octets[:MAX_OCTETS])
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
    for word in _split(_decoded(str(message.get("Subject", ""))[:2000])):
        found[f"subject:{word}"] = None
    for word in _body(message):
        if len(found) >= MAX_WORDS:
            break
        found[word] = None
    return frozenset(found)


def _decoded(value: str) -> str:
    try:
        return "".join(
            part.decode(charset or "latin-1", "replace") if isinstance(part, bytes) else part
            for part, charset in decode_header(value)
        )
    except (LookupError, ValueError):
        return value


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
        try:
            text = payload.decode(part.get_content_charset() or "utf-8", "replace")[:room]
        except LookupError:
            text = payload.decode("latin-1")[:room]
        room -= len(text)
        found.update(dict.fromkeys(f"host:{host.lower()[:60]}" for host in _LINK.findall(text)[:50]))
        if kind == "text/html":
            text = html.unescape(_TAG.sub(" ", text))
        found.update(dict.fromkeys(_split(text)))
    return found
