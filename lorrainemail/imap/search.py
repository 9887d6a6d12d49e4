"""SEARCH (RFC 3501 §6.4.4), in slices: flags from memory, then index rows, then octets, each only if needed.

A program is judged with three values: true, false, and None for "not known from what was looked at so far".
So a message's row is read only where its flags do not decide, and its octets only where the row does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Final

import attrs

from lorrainemail.errors import PermanentError
from lorrainemail.grammar.imap import Command
from lorrainemail.grammar.imap_search import FLAG_KEYS, SearchKey
from lorrainemail.imap.octets import Source
from lorrainemail.imap.server import Bad, ImapServer
from lorrainemail.imap.view import View
from lorrainemail.interfaces import MessageFacts
from lorrainemail.message.charsets import decode, decode_body, decode_words, fold
from lorrainemail.message.dates import parse_day
from lorrainemail.message.header import fields, unfold
from lorrainemail.message.structure import Part, parse_structure
from lorrainemail.message.summary import Envelope

#: Messages judged in one turn by flags; by index rows; by their octets.
SLICE: Final = 1000
ROW_SLICE: Final = 200
CONTENT_SLICE: Final = 10

_ADDRESSES: Final = frozenset({"FROM", "TO", "CC", "BCC"})
_SENT: Final = {"SENTBEFORE": "BEFORE", "SENTON": "ON", "SENTSINCE": "SINCE"}
_CONTENT: Final = frozenset({"BODY", "TEXT", "HEADER"})
_DATES: Final = frozenset({"BEFORE", "ON", "SINCE"})
#: Keys that need the wire bytes of a row, and all that need a row.
_WIRE_KEYS: Final = frozenset({"SUBJECT", *_ADDRESSES, *_SENT})
_SIZES: Final = frozenset({"LARGER", "SMALLER"})
_PLAIN_WORDS = re.compile(rb"[a-z0-9._-]+")


#: Positions of each message set of a program, by the id() of its key: hashing a key means hashing its tree.
Sets = dict[int, frozenset[int]]


@attrs.define(slots=True)
class Candidate:
    """A message that may match, and what was looked at of it."""

    index: int
    uid: int
    flags: frozenset[str]
    recent: bool
    row: MessageFacts | None = None
    envelope: Envelope | None = None
    content: dict[int, bool] | None = None


async def search(session: ImapServer, command: Command) -> bytes:
    """SEARCH and UID SEARCH."""
    program: SearchKey = command.arguments[0]
    view = session.selected()
    sets = _resolve(program, view)
    leaves = tuple(key for key in _walk(program) if key.name in _CONTENT)
    wire = any(key.name in _WIRE_KEYS for key in _walk(program))
    found: list[int] = []
    size = max(SLICE // (1 + sum(1 for _ in _walk(program)) // 4), 10)
    for start in range(0, len(view.uids), size):
        open_ones: list[Candidate] = []
        sure: list[int] = []
        for index in range(start, min(start + size, len(view.uids))):
            uid = view.uids[index]
            flags = view.mailbox.flags(uid)
            if flags is None:
                continue  # expunged by another session: it matches nothing any more
            candidate = Candidate(index, uid, flags, uid in view.recent)
            verdict = judge(program, candidate, sets)
            if verdict:
                sure.append(index)
            elif verdict is None:
                open_ones.append(candidate)
        sure.extend(await _look_closer(session, view, program, sets, open_ones, wire, leaves))
        sure.sort()
        found.extend(sure)
        if start + size < len(view.uids):
            await session.breathe()
    numbers = [view.uids[index] for index in found] if command.uid else [index + 1 for index in found]
    session.send(b"* SEARCH%b\r\n" % b"".join([b" %d" % number for number in numbers]))
    return b"OK SEARCH completed"


async def _look_closer(
    session: ImapServer,
    view: View,
    program: SearchKey,
    sets: Sets,
    candidates: list[Candidate],
    wire: bool,
    leaves: tuple[SearchKey, ...],
) -> list[int]:
    """Positions of those that match, by their rows and, where that is not enough, by their octets."""
    found: list[int] = []
    for start in range(0, len(candidates), ROW_SLICE):
        part = candidates[start : start + ROW_SLICE]
        rows = {row.uid: row for row in await view.mailbox.facts([c.uid for c in part], wire=wire)}
        read = 0
        for candidate in part:
            row = rows.get(candidate.uid)
            if row is None:
                continue
            candidate.row = row
            if wire:
                candidate.envelope = Envelope(row.envelope)
            verdict = judge(program, candidate, sets)
            if verdict is None:
                verdict = await _by_content(session, view, program, candidate, sets, leaves)
                read += 1
                if read % CONTENT_SLICE == 0:
                    await session.breathe()
            if verdict:
                found.append(candidate.index)
        await session.breathe()
    return found


async def _by_content(
    session: ImapServer,
    view: View,
    program: SearchKey,
    candidate: Candidate,
    sets: Sets,
    leaves: tuple[SearchKey, ...],
) -> bool | None:
    source = Source(session, view.mailbox, candidate.uid)
    try:
        if all(key.name == "HEADER" for key in leaves):
            header = await source.read(0, await source.body())
            candidate.content = content_answers(leaves, header)
        else:
            candidate.content = await source.examine(partial(content_answers, leaves), await source.open())
    except PermanentError:
        return False  # gone meanwhile
    finally:
        source.close()
    return judge(program, candidate, sets)


# -- the program -------------------------------------------------------------------------------------


def _walk(key: SearchKey) -> Iterator[SearchKey]:
    yield key
    for inner in key.keys:
        yield from _walk(inner)


def _resolve(program: SearchKey, view: View) -> Sets:
    """The message sets of a program as positions."""
    sets: Sets = {}
    for key in _walk(program):
        if key.messages is not None:
            indexes = view.indexes(key.messages, key.name == "UID")
            if indexes is None:
                raise Bad(b"No such message")
            sets[id(key)] = frozenset(indexes)
    return sets


def judge(key: SearchKey, message: Candidate, sets: Sets) -> bool | None:
    """Whether a message matches, as far as can be said from what was looked at."""
    name = key.name
    if name == "AND":
        verdict: bool | None = True
        for inner in key.keys:
            one = judge(inner, message, sets)
            if one is False:
                return False
            if one is None:
                verdict = None
        return verdict
    if name == "OR":
        first = judge(key.keys[0], message, sets)
        if first:
            return True
        second = judge(key.keys[1], message, sets)
        return True if second else (None if first is None or second is None else False)
    if name == "NOT":
        inner_verdict = judge(key.keys[0], message, sets)
        return None if inner_verdict is None else not inner_verdict
    if key.messages is not None:
        return message.index in sets[id(key)]
    known = FLAG_KEYS.get(name)
    if known is not None:
        return (known[0] in message.flags) is known[1]
    return _judge_leaf(key, message)


def _judge_leaf(key: SearchKey, message: Candidate) -> bool | None:
    name = key.name
    if name == "ALL":
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
    if name in _CONTENT:
        return None if message.content is None else message.content[id(key)]
    row = message.row
    if row is None:
        return None
    if name in _SIZES:
        return row.size > key.number if name == "LARGER" else row.size < key.number
    if name in _DATES:
        return _compare(name, row.internal_date // 86400, key.number)
    envelope = message.envelope
    if envelope is None:
        return None
    if name in _SENT:
        day = parse_day(envelope.date)
        return day is not None and _compare(_SENT[name], day, key.number)
    needle, probes = _needle(key.text)
    if envelope.plain and not envelope.may_hold(probes):
        return False
    text = envelope.subject if name == "SUBJECT" else envelope.addresses(name)
    return needle in fold(decode_words(text))


@lru_cache(maxsize=256)
def _needle(text: str) -> tuple[str, tuple[bytes, ...]]:
    """What is searched for, folded, and the plain words in it that must occur in the wire bytes."""
    return fold(text), tuple(_PLAIN_WORDS.findall(text.lower().encode("utf-8")))


def _compare(name: str, day: int, wanted: int) -> bool:
    if name == "BEFORE":
        return day < wanted
    return day == wanted if name == "ON" else day >= wanted


# -- octets ------------------------------------------------------------------------------------------


def content_answers(leaves: Sequence[SearchKey], data: bytes) -> dict[int, bool]:
    """What HEADER, BODY and TEXT keys say to a message, by the keys' id().

    Pure; runs in a thread for large ones.
    """
    answers: dict[int, bool] = {}
    names = {key.name for key in leaves}
    root = parse_structure(data)
    header = _header_text(data, root) if "TEXT" in names else ""
    bodies = list(_body_texts(data, root)) if names & {"BODY", "TEXT"} else []
    values = _header_values(data, root, {key.field for key in leaves if key.field})
    for key in leaves:
        if key.name == "HEADER":
            # RFC 3501 §6.4.4: an empty string asks whether the field is there
            answers[id(key)] = any(fold(key.text) in value for value in values.get(key.field, ()))
            continue
        needle = fold(key.text)
        there = any(needle in text for text in bodies) or not needle
        answers[id(key)] = there or (key.name == "TEXT" and needle in header)
    return answers


def _header_text(data: bytes, part: Part) -> str:
    return fold(decode_words(data[part.start : part.body].replace(b"\r\n ", b" ").replace(b"\r\n\t", b"\t")))


def _body_texts(data: bytes, root: Part) -> Iterator[str]:
    """Every text that a person would read: text parts decoded, headers of parts and embedded messages."""
    for part in root.walk():
        if part is not root and part.body > part.start:
            yield _header_text(data, part)
        if part.type != b"text":
            continue
        octets = decode_body(data[part.body : part.end], part.field(b"content-transfer-encoding") or b"")
        yield fold(decode(octets, (part.parameter(b"charset") or b"").decode("ascii", "replace")))


def _header_values(data: bytes, root: Part, wanted: set[bytes]) -> dict[bytes, list[str]]:
    """The decoded values of the fields asked for, each decoded once."""
    found: dict[bytes, list[str]] = {}
    for field in fields(data, root.start, root.body) if wanted else ():
        if field.name in wanted:
            text = fold(decode_words(unfold(data[field.value : field.end])))
            found.setdefault(field.name, []).append(text)
    return found
