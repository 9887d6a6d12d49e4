"""SEARCH (RFC 3501 §6.4.4), in slices: flags from memory, then index rows, then octets, each only if needed.

A program is judged with three values: true, false, and None for "not known from what was looked at so far".
So a message's row is read only where its flags do not decide, and its octets only where the row does not.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, Final, Literal

import attrs

from lorrainemail.errors import MailError, PermanentError
from lorrainemail.grammar.imap import Command
from lorrainemail.grammar.imap_results import ResultOptions
from lorrainemail.grammar.imap_search import FLAG_KEYS, SearchKey
from lorrainemail.grammar.imap_sets import print_set
from lorrainemail.imap.octets import Source
from lorrainemail.imap.server import Bad, ImapServer
from lorrainemail.imap.view import View
from lorrainemail.interfaces import MessageFacts
from lorrainemail.message.charsets import decode, decode_body, decode_words, fold
from lorrainemail.message.dates import parse_day
from lorrainemail.message.header import fields, unfold
from lorrainemail.message.quoting import string
from lorrainemail.message.structure import Part, parse_structure
from lorrainemail.message.summary import ENVELOPE_FIELDS, Envelope

#: Messages judged in one turn by flags; by index rows; by their octets.
SLICE: Final = 1000
ROW_SLICE: Final = 200
CONTENT_SLICE: Final = 10
#: Messages from which on the index is asked first which of them may match; by so many words at most.
MIN_NARROWED: Final = 50
MAX_NARROW_WORDS: Final = 3

_ADDRESSES: Final = frozenset({"FROM", "TO", "CC", "BCC"})
_SENT: Final = {"SENTBEFORE": "BEFORE", "SENTON": "ON", "SENTSINCE": "SINCE"}
_CONTENT: Final = frozenset({"BODY", "TEXT", "HEADER"})
_DATES: Final = frozenset({"BEFORE", "ON", "SINCE"})
_SAVED: Final = {"SAVEDBEFORE": "BEFORE", "SAVEDON": "ON", "SAVEDSINCE": "SINCE"}  # RFC 8514 §4.3
#: Keys that need the wire bytes of a row, and all that need a row.
_WIRE_KEYS: Final = frozenset({"SUBJECT", *_ADDRESSES, *_SENT})
_SIZES: Final = frozenset({"LARGER", "SMALLER"})
_PLAIN_WORDS = re.compile(rb"[a-z0-9._-]+")


#: Positions of each message set of a program, by the id() of its key: hashing a key means hashing its tree.
Sets = dict[int, frozenset[int]]


@attrs.frozen(slots=True)
class Look:
    """A program and what is known before any message is looked at.

    :ivar narrowed: see :func:`_narrow`. ``now``: seconds since the epoch, for OLDER and YOUNGER.
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
    content: dict[int, bool] | None = None


async def search(session: ImapServer, command: Command) -> bytes:
    """SEARCH and UID SEARCH."""
    program, options = command.arguments
    view = session.selected()
    note_modseq(session, program)
    found = await saving(view, options, find(session, view, program))
    return results(session, view, command, program, options, found)


async def find(session: ImapServer, view: View, program: SearchKey) -> list[int]:
    """Positions, ascending, of the messages that match."""
    keys = tuple(_walk(program))
    sets = _resolve(keys, view)
    narrowed = await _narrow(view, keys)
    leaves = tuple(key for key in keys if key.name in _CONTENT)
    wire = any(key.name in _WIRE_KEYS for key in keys)
    look = Look(program, sets, narrowed, int(session.shared.clock.seconds()))
    found: list[int] = []
    size = max(SLICE // (1 + len(keys) // 4), 10)
    for start in range(0, len(view.uids), size):
        open_ones: list[Candidate] = []
        sure: list[int] = []
        for index in range(start, min(start + size, len(view.uids))):
            uid = view.uids[index]
            flags = view.mailbox.flags(uid)
            if flags is None:
                continue  # expunged by another session: it matches nothing any more
            candidate = Candidate(index, uid, flags, uid in view.recent, view.mailbox.modseq(uid))
            verdict = judge(program, candidate, look)
            if verdict:
                sure.append(index)
            elif verdict is None:
                open_ones.append(candidate)
        if open_ones:
            sure.extend(await _look_closer(session, view, look, open_ones, wire, leaves))
            sure.sort()
        found.extend(sure)
        if start + size < len(view.uids):
            await session.breathe()
    return found


async def saving(view: View, options: ResultOptions, work: Coroutine[Any, Any, list[int]]) -> list[int]:
    """What the search finds; where it fails, nothing is saved any more (RFC 5182 §2.1)."""
    try:
        return await work
    except MailError:
        if options.saves:
            view.saved = array("I")
        raise


def note_modseq(session: ImapServer, program: SearchKey) -> None:
    """A search for MODSEQ shows that the client knows CONDSTORE."""
    if any(key.name == "MODSEQ" for key in _walk(program)):
        session.enable("CONDSTORE")  # RFC 7162 §3.1


def results(
    session: ImapServer,
    view: View,
    command: Command,
    program: SearchKey,
    options: ResultOptions,
    found: list[int],
) -> bytes:
    """Answer with what was found (in its order), as SEARCH or ESEARCH, and save it where that was asked."""
    kind = command.name.encode("ascii")
    if "IMAP4rev2" in session.enabled and kind == b"SEARCH" and not options.extended:
        options = ResultOptions(frozenset({"ALL"}), None, True)  # RFC 9051 §6.4.4
    modseq = any(key.name == "MODSEQ" for key in _walk(program))
    numbers = [view.uids[index] for index in found] if command.uid else [index + 1 for index in found]
    if not options.extended:
        more = b""
        if modseq and found:
            more = b" (MODSEQ %d)" % _highest(view, found)
        session.send(b"* %b%b%b\r\n" % (kind, b"".join([b" %d" % number for number in numbers]), more))
        return b"OK %b completed" % kind
    words = options.words
    parts: list[bytes] = []
    shown: set[int] = set()  # positions that the client hears of, as far as they are not all
    if found:
        if "MIN" in words:
            parts.append(b"MIN %d" % numbers[0])
            shown.add(found[0])
        if "MAX" in words:
            parts.append(b"MAX %d" % numbers[-1])
            shown.add(found[-1])
        if "ALL" in words:
            parts.append(b"ALL " + print_set(numbers))
    if "COUNT" in words:
        parts.append(b"COUNT %d" % len(numbers))
    if options.window is not None:
        part = print_set(options.window.of(numbers)) or b"NIL"
        parts.append(b"PARTIAL (%b %b)" % (options.window.text, part))
        shown.update(options.window.of(found))
    whole = bool(words & {"ALL", "COUNT"}) or not (words & {"MIN", "MAX"} or options.window is not None)
    if modseq and found:
        parts.append(b"MODSEQ %d" % _highest(view, found if whole else sorted(shown)))  # RFC 7162 §3.1.10
    if options.saves:
        # RFC 5182 §2.4: with MIN and MAX alone only these; RFC 9394 §3.1: of a window what it shows
        kept = found if whole else shown
        view.saved = array("I", sorted(view.uids[index] for index in kept))
    if words != {"SAVE"} or options.window is not None:
        uid = b" UID" if command.uid else b""
        session.send(
            b"* ESEARCH (TAG %b)%b%b\r\n"
            % (string(command.tag), uid, b"".join(b" " + part for part in parts))
        )
    return b"OK %b completed" % kind


def _highest(view: View, indexes: Iterable[int]) -> int:
    """The highest MODSEQ of these messages (1 where all are gone meanwhile)."""
    there = (uid for index in indexes if view.mailbox.flags(uid := view.uids[index]) is not None)
    return max(map(view.mailbox.modseq, there), default=1)


async def _narrow(view: View, keys: tuple[SearchKey, ...]) -> dict[int, frozenset[int]]:
    """UIDs of the messages that a key about header fields may match, by the key's id(), from the index.

    Those left out surely do not match: a word without which the text cannot be there is not there.
    """
    narrowed: dict[int, frozenset[int]] = {}
    asked: dict[tuple[str, tuple[bytes, ...]], frozenset[int]] = {}
    if len(view.uids) < MIN_NARROWED:
        return narrowed
    for key in keys:
        field = _column(key)
        words = _needle(key.text)[1]
        if not field or not words:
            continue
        longest = tuple(sorted(words, key=len, reverse=True)[:MAX_NARROW_WORDS])
        if (field, longest) not in asked:
            asked[field, longest] = frozenset(await view.mailbox.candidates(field, longest))
        narrowed[id(key)] = asked[field, longest]
    return narrowed


def _column(key: SearchKey) -> Literal["envelope", "references", ""]:
    """Where in the index the words of a key would be."""
    if key.name == "HEADER":
        if key.field == b"references":
            return "references"
        return "envelope" if key.field in ENVELOPE_FIELDS else ""
    return "envelope" if key.name == "SUBJECT" or key.name in _ADDRESSES else ""


async def _look_closer(
    session: ImapServer,
    view: View,
    look: Look,
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
            verdict = judge(look.program, candidate, look)
            if verdict is None:
                verdict = await _by_content(session, view, look, candidate, leaves)
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
    look: Look,
    candidate: Candidate,
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
    return judge(look.program, candidate, look)


# -- the program -------------------------------------------------------------------------------------


def _walk(key: SearchKey) -> Iterator[SearchKey]:
    yield key
    for inner in key.keys:
        yield from _walk(inner)


def _resolve(keys: tuple[SearchKey, ...], view: View) -> Sets:
    """The message sets of a program as positions."""
    sets: Sets = {}
    for key in keys:
        if key.messages is not None:
            if key.name == "SET" and not key.messages.saved and "UIDONLY" in view.enabled:
                raise Bad(b"[UIDREQUIRED] Message numbers are not used here")  # RFC 9586 §3.2
            indexes = view.indexes(key.messages, key.name == "UID")
            if indexes is None:
                raise Bad(b"No such message")
            sets[id(key)] = frozenset(indexes)
    return sets


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
    if name in _CONTENT:
        return None if message.content is None else message.content[id(key)]
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
    answers = dict.fromkeys(_surely_not(leaves, data), False)
    leaves = [key for key in leaves if id(key) not in answers]
    if not leaves:
        return answers
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


#: Character sets whose ASCII octets are ASCII, as a Content-Type names them.
_KNOWN_CHARSET = re.compile(rb'charset="?(?:us-ascii|utf-8|iso-8859-[0-9]{1,2}|windows-125[0-9])["\s;]')


def _surely_not(leaves: Sequence[SearchKey], data: bytes) -> list[int]:
    """Keys, by id(), that cannot match because a word of theirs is not in the octets; only of messages in
    which nothing is encoded, and without looking at their structure."""
    wanted = [(key, words) for key in leaves if (words := _needle(key.text)[1])]
    if not wanted or not data.isascii() or b"=?" in data:
        return []
    lower = data.lower()
    if b"base64" in lower or b"quoted-printable" in lower:
        return []
    if lower.count(b"charset") != len(_KNOWN_CHARSET.findall(lower)):
        return []
    return [id(key) for key, words in wanted if not all(word in lower for word in words)]


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
