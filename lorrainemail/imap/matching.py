"""Whether a message matches a SEARCH program (RFC 3501 §6.4.4), as far as what was looked at tells.

A program is judged with three values: true, false, and None for "not known from what was looked at so far".
So a message's row is read only where its flags do not decide, and its octets only where the row does not.
Pure. Text is compared by i;unicode-casemap (RFC 5051); under FUZZY (RFC 6203) accents are taken off, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import attrs

from lorrainemail.grammar.imap_search import FLAG_KEYS, SearchKey
from lorrainemail.interfaces import MessageFacts
from lorrainemail.message.charsets import decode_words
from lorrainemail.message.collation import fold, plain
from lorrainemail.message.dates import parse_day
from lorrainemail.message.header import body_offset
from lorrainemail.message.searchable import body_texts, header_text, header_values
from lorrainemail.message.structure import parse_structure
from lorrainemail.message.summary import Envelope

ADDRESSES: Final = frozenset({"FROM", "TO", "CC", "BCC"})
_SENT: Final = {"SENTBEFORE": "BEFORE", "SENTON": "ON", "SENTSINCE": "SINCE"}
CONTENT: Final = frozenset({"BODY", "TEXT", "HEADER"})
_DATES: Final = frozenset({"BEFORE", "ON", "SINCE"})
_SAVED: Final = {"SAVEDBEFORE": "BEFORE", "SAVEDON": "ON", "SAVEDSINCE": "SINCE"}  # RFC 8514 §4.3
#: RFC 6203 §4.
MAX_SCORE: Final = 100
#: Keys that need the wire bytes of a row, and all that need a row.
WIRE_KEYS: Final = frozenset({"SUBJECT", *ADDRESSES, *_SENT})
#: Keys that are decided without row and octets, from memory.
WITHOUT_ROW: Final = frozenset(
    {"AND", "OR", "NOT", "ALL", "SAVEDATESUPPORTED", "NEW", "RECENT", "OLD", "KEYWORD", "UNKEYWORD", "MODSEQ"}
    | {"THREADID"}
    | FLAG_KEYS.keys()
)
_SIZES: Final = frozenset({"LARGER", "SMALLER"})
_PLAIN_WORDS = re.compile(rb"[a-z0-9._-]+")


#: Positions of each message set of a program, by the id() of its key: hashing a key means hashing its tree.
Sets = dict[int, frozenset[int]]


@attrs.frozen(slots=True)
class Look:
    """A program and what is known before any message is looked at.

    :ivar narrowed: UIDs that a key may match, by the key's id(), where the index knows.
    :ivar now: seconds since the epoch, for OLDER and YOUNGER.
    """

    program: SearchKey
    sets: Sets
    narrowed: dict[int, frozenset[int]]
    now: int


@attrs.define(slots=True)
class Candidate:
    """A message that may match, and what was looked at of it."""

    index: int
    uid: int
    flags: frozenset[str]
    recent: bool
    modseq: int = 0
    row: MessageFacts | None = None
    envelope: Envelope | None = None
    content: dict[int, int] | None = None


def walk(key: SearchKey) -> Iterator[SearchKey]:
    """A key and all below it."""
    yield key
    for inner in key.keys:
        yield from walk(inner)


def judge(key: SearchKey, message: Candidate, look: Look) -> bool | None:
    """Whether a message matches, as far as can be said from what was looked at."""
    name = key.name
    if name == "AND":
        verdict: bool | None = True
        for inner in key.keys:
            one = judge(inner, message, look)
            if one is False:
                return False
            if one is None:
                verdict = None
        return verdict
    if name == "OR":
        first = judge(key.keys[0], message, look)
        if first:
            return True
        second = judge(key.keys[1], message, look)
        return True if second else (None if first is None or second is None else False)
    if name == "NOT":
        inner_verdict = judge(key.keys[0], message, look)
        return None if inner_verdict is None else not inner_verdict
    if key.messages is not None:
        return message.index in look.sets[id(key)]
    known = FLAG_KEYS.get(name)
    if known is not None:
        return (known[0] in message.flags) is known[1]
    possible = look.narrowed.get(id(key))
    if possible is not None and message.uid not in possible:
        return False
    return _judge_leaf(key, message, look)


def _judge_leaf(key: SearchKey, message: Candidate, look: Look) -> bool | None:
    name = key.name
    if name in ("ALL", "SAVEDATESUPPORTED"):
        return True
    if name == "NEW":
        return message.recent and "\\Seen" not in message.flags
    if name == "RECENT":
        return message.recent
    if name == "OLD":
        return not message.recent
    if name in ("KEYWORD", "UNKEYWORD"):
        there = any(flag.lower() == key.text for flag in message.flags)
        return there is (name == "KEYWORD")
    if name == "MODSEQ":
        return message.modseq >= key.number
    if name == "THREADID":
        return False  # RFC 8474 §6: none has one
    if name in CONTENT:
        return None if message.content is None else bool(message.content[id(key)])
    row = message.row
    if row is None:
        return None
    if name in _SIZES:
        return row.size > key.number if name == "LARGER" else row.size < key.number
    if name == "YOUNGER":
        return row.internal_date >= look.now - key.number
    if name == "OLDER":
        return row.internal_date <= look.now - key.number
    if name == "EMAILID":
        return row.message_id == key.text
    if name in _SAVED:
        return _compare(_SAVED[name], row.save_date // 86400, key.number)
    if name in _DATES:
        return _compare(name, row.internal_date // 86400, key.number)
    envelope = message.envelope
    if envelope is None:
        return None
    if name in _SENT:
        day = parse_day(envelope.date)
        return day is not None and _compare(_SENT[name], day, key.number)
    needle, probes = needle_of(key.text)
    if envelope.plain and not envelope.may_hold(probes):
        return False
    text = decode_words(envelope.subject if name == "SUBJECT" else envelope.addresses(name))
    return plain(needle) in plain(text) if key.fuzzy else needle in fold(text)


@lru_cache(maxsize=256)
def needle_of(text: str) -> tuple[str, tuple[bytes, ...]]:
    """What is searched for, folded, and the plain words in it that must occur in the wire bytes.

    An accent in it ends such a word, so they hold under FUZZY, too.
    """
    return fold(text), tuple(_PLAIN_WORDS.findall(text.lower().encode("utf-8")))


def _compare(name: str, day: int, wanted: int) -> bool:
    if name == "BEFORE":
        return day < wanted
    return day == wanted if name == "ON" else day >= wanted


def score(message: Candidate, look: Look) -> int:
    """How well a message that matches does so (RFC 6203 §4): what it holds letter by letter, accents and all,
    counts whole, what was forgiven half."""
    values: list[int] = []
    for key in walk(look.program):
        if not key.fuzzy:
            continue
        if key.name in CONTENT:
            values.append(0 if message.content is None else message.content[id(key)])
        elif message.envelope is not None:
            text = decode_words(
                message.envelope.subject if key.name == "SUBJECT" else message.envelope.addresses(key.name)
            )
            values.append((fold(key.text) in fold(text)) + (plain(key.text) in plain(text)))
    return max(MAX_SCORE * sum(values) // (2 * len(values)), 1) if values else MAX_SCORE


def content_answers(leaves: Sequence[SearchKey], data: bytes) -> dict[int, int]:
    """What HEADER, BODY and TEXT keys say to a message, by the keys' id(): 0 for no, 1 for a match that FUZZY
    forgives something, 2 for one without.

    Pure; runs in a thread.
    """
    answers = _surely(leaves, data)
    leaves = [key for key in leaves if id(key) not in answers]
    if not leaves:
        return answers
    names = {key.name for key in leaves}
    root = parse_structure(data)
    header = header_text(data, root) if "TEXT" in names else ""
    bodies = list(body_texts(data, root)) if names & {"BODY", "TEXT"} else []
    values = header_values(data, root, {key.field for key in leaves if key.field})
    answers.update({key: 2 * said for key, said in _compared(leaves, fold, header, bodies, values).items()})
    fuzzy = [key for key in leaves if key.fuzzy and not answers[id(key)]]
    if fuzzy:
        answers.update(_compared(fuzzy, plain, header, bodies, values))
    return answers


def _compared(
    keys: Sequence[SearchKey],
    form: Callable[[str], str],
    header: str,
    bodies: Sequence[str],
    values: dict[bytes, list[str]],
) -> dict[int, int]:
    """The answers, 0 or 1, under one way of comparing."""
    answers: dict[int, int] = {}
    header = form(header)
    bodies = [form(text) for text in bodies]
    for key in keys:
        needle = form(key.text)
        if key.name == "HEADER":
            # RFC 3501 §6.4.4: an empty string asks whether the field is there
            answers[id(key)] = int(any(needle in form(value) for value in values.get(key.field, ())))
            continue
        there = any(needle in text for text in bodies) or not needle
        answers[id(key)] = int(there or (key.name == "TEXT" and needle in header))
    return answers


def header_answers(leaves: Sequence[SearchKey], data: bytes) -> dict[int, int]:
    """The same where only HEADER is asked for: the body is not looked at."""
    return content_answers(leaves, data[: body_offset(data)])


#: Character sets whose ASCII octets are ASCII, as a Content-Type names them.
_KNOWN_CHARSET = re.compile(rb'charset="?(?:us-ascii|utf-8|iso-8859-[0-9]{1,2}|windows-125[0-9])["\s;]')


def _surely(leaves: Sequence[SearchKey], data: bytes) -> dict[int, int]:
    """What can be said without looking at the structure, as far as nothing in the message is encoded: no, of
    keys that lack a word of theirs in plain ASCII; yes, of plain words in the one text of a message."""
    wanted = [(key, words) for key in leaves if (words := needle_of(key.text)[1])]
    if not wanted:
        return {}
    lower = data.lower()
    if b"base64" in lower or b"quoted-printable" in lower:
        return {}
    if lower.count(b"charset") != len(_KNOWN_CHARSET.findall(lower)):
        return {}
    said: dict[int, int] = {}
    if data.isascii() and b"=?" not in data:
        said = {id(key): 0 for key, words in wanted if not all(word in lower for word in words)}
    body = -1
    for key, _ in wanted:
        if key.name == "HEADER" or id(key) in said or not key.text.isascii():
            continue
        if body < 0:
            if not _is_one_text(lower):
                break
            body = body_offset(data)
        if lower.find(key.text.lower().encode("ascii"), body) >= 0:
            said[id(key)] = 2
    return said


def _is_one_text(lower: bytes) -> bool:
    """Whether a message, in lower case, is surely nothing but one text."""
    types = lower.count(b"content-type")
    return types == lower.count(b"\ncontent-type: text/") and b"content-transfer-encoding: x" not in lower
