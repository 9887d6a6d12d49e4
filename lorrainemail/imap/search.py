"""SEARCH (RFC 3501 §6.4.4), in slices: flags from memory, then index rows, then octets, each only if needed.

The index of header fields and the text index say first which messages may match at all
(:mod:`lorrainemail.imap.matching` decides about each). A search of texts that are in the text index looks
only at the messages that this names; where they are not, or a word is too short for it, all are looked at,
with word of the progress (RFC 9585).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, Literal

from lorrainemail.errors import MailError, PermanentError
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_results import ResultOptions
from lorrainemail.grammar.imap_search import SearchKey
from lorrainemail.grammar.imap_sets import print_set
from lorrainemail.imap.matching import (
    ADDRESSES,
    CONTENT,
    MAX_SCORE,
    WIRE_KEYS,
    WITHOUT_ROW,
    Candidate,
    Look,
    Sets,
    content_answers,
    header_answers,
    judge,
    needle_of,
    score,
    walk,
)
from lorrainemail.imap.octets import Source
from lorrainemail.imap.server import Bad, ImapServer
from lorrainemail.imap.view import View
from lorrainemail.message.quoting import string
from lorrainemail.message.searchable import grams
from lorrainemail.message.summary import ENVELOPE_FIELDS, Envelope

#: Messages judged in one turn by flags; by index rows; by their octets.
SLICE: Final = 1000
ROW_SLICE: Final = 500
CONTENT_SLICE: Final = 20
#: Messages from which on the index is asked first which of them may match; by so many words at most.
MIN_NARROWED: Final = 50
MAX_NARROW_WORDS: Final = 3
#: The same of the text index.
MIN_INDEXED: Final = 200


#: How well messages match, by position; those that are not there match wholly.
Scores = dict[int, int]


async def search(session: ImapServer, command: Command) -> bytes:
    """SEARCH and UID SEARCH."""
    program, options = command.arguments
    view = session.selected()
    note_modseq(session, program)
    scores: Scores | None = {} if asks_relevancy(options) else None
    found = await saving(view, options, find(session, view, program, scores))
    return results(session, view, command, program, options, found, scores)


def asks_relevancy(options: ResultOptions) -> bool:
    """Whether the client wants to hear how well messages match (RFC 6203 §4)."""
    return "RELEVANCY" in options.words


async def find(
    session: ImapServer, view: View, program: SearchKey, scores: Scores | None = None
) -> list[int]:
    """Positions, ascending, of the messages that match.

    :param scores: gets the relevancy of each that is not wholly so, where it is wanted.
    """
    if program.name == "ALL":
        return await _all(session, view)
    keys = tuple(walk(program))
    sets = _resolve(keys, view)
    narrowed = await _narrow(view, keys)
    narrowed.update(await _narrow_texts(view, keys))
    leaves = tuple(key for key in keys if key.name in CONTENT)
    wire = any(key.name in WIRE_KEYS for key in keys)
    look = Look(program, sets, narrowed, int(session.shared.clock.seconds()))
    indexes = _possible(view, look)
    found: list[int] = []
    size = max(SLICE // (1 + len(keys) // 4), 10)
    for start in range(0, len(indexes), size):
        open_ones: list[Candidate] = []
        sure: list[int] = []
        for index in indexes[start : start + size]:
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
            progress = partial(session.progress, start, len(indexes))
            matching = await _look_closer(session, view, look, open_ones, wire, leaves, progress)
            sure.extend(one.index for one in matching)
            if scores is not None:
                scores.update({one.index: score(one, look) for one in matching})
            sure.sort()
        found.extend(sure)
        if start + size < len(indexes):
            await session.breathe()
    return found


async def _all(session: ImapServer, view: View) -> list[int]:
    """Positions of all messages that are still there."""
    found: list[int] = []
    for start in range(0, len(view.uids), SLICE * 4):
        there = view.mailbox.flags_of(view.uids[start : start + SLICE * 4])
        found += [index for index, flags in enumerate(there, start) if flags is not None]
        if start + SLICE * 4 < len(view.uids):
            await session.breathe()
    return found


def _possible(view: View, look: Look) -> Sequence[int]:
    """Positions, ascending, of the messages that each key of the outermost list leaves possible."""
    program = look.program
    uids: frozenset[int] | None = None
    indexes: frozenset[int] | None = None
    for key in program.keys if program.name == "AND" else (program,):
        narrowed = look.narrowed.get(id(key))
        if narrowed is not None:
            uids = narrowed if uids is None else uids & narrowed
        chosen = look.sets.get(id(key))
        if chosen is not None:
            indexes = chosen if indexes is None else indexes & chosen
    if uids is not None:
        among = frozenset(index for uid in uids if (index := view.index_of(uid)) >= 0)
        indexes = among if indexes is None else indexes & among
    return range(len(view.uids)) if indexes is None else sorted(indexes)


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
    if any(key.name == "MODSEQ" for key in walk(program)):
        session.enable("CONDSTORE")  # RFC 7162 §3.1


def results(
    session: ImapServer,
    view: View,
    command: Command,
    program: SearchKey,
    options: ResultOptions,
    found: list[int],
    scores: Scores | None = None,
    origin: bytes = b"",
) -> bytes:
    """Answer with what was found (in its order), as SEARCH or ESEARCH, and save it where that was asked."""
    kind = command.name.encode("ascii")
    if "IMAP4rev2" in session.enabled and kind == b"SEARCH" and not options.extended:
        options = ResultOptions(frozenset({"ALL"}), None, True)  # RFC 9051 §6.4.4
    modseq = any(key.name == "MODSEQ" for key in walk(program))
    by_uid = command.uid or bool(origin)
    numbers = [view.uids[index] for index in found] if by_uid else [index + 1 for index in found]
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
        if scores is not None and asks_relevancy(options):
            listed = b" ".join([b"%d" % scores.get(index, MAX_SCORE) for index in found])
            parts.append(b"RELEVANCY (%b)" % listed)
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
        uid = b" UID" if by_uid else b""
        session.send(
            b"* ESEARCH (TAG %b%b)%b%b\r\n"
            % (string(command.tag), origin, uid, b"".join(b" " + part for part in parts))
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
        words = needle_of(key.text)[1]
        if not field or not words:
            continue
        longest = tuple(sorted(words, key=len, reverse=True)[:MAX_NARROW_WORDS])
        if (field, longest) not in asked:
            asked[field, longest] = frozenset(await view.mailbox.candidates(field, longest))
        narrowed[id(key)] = asked[field, longest]
    return narrowed


async def _narrow_texts(view: View, keys: tuple[SearchKey, ...]) -> dict[int, frozenset[int]]:
    """The same for keys about texts, from the text index; what is not in it yet stays possible, and is taken
    in later, in the background."""
    narrowed: dict[int, frozenset[int]] = {}
    if len(view.uids) < MIN_INDEXED:
        return narrowed
    asked: dict[frozenset[str], frozenset[int]] = {}
    for key in keys:
        if key.name not in CONTENT or _column(key):
            continue
        wanted = frozenset(grams(key.text))
        if not wanted:
            continue  # too short: all are looked at
        if wanted not in asked:
            found = await view.mailbox.text_candidates(tuple(wanted))
            newer = view.uids[bisect_right(view.uids, found.mark) :]
            if newer:
                view.mailbox.index_texts()
            asked[wanted] = frozenset(found.uids).union(newer)
        narrowed[id(key)] = asked[wanted]
    return narrowed


def _column(key: SearchKey) -> Literal["envelope", "references", ""]:
    """Where in the index the words of a key would be."""
    if key.name == "HEADER":
        if key.field == b"references":
            return "references"
        return "envelope" if key.field in ENVELOPE_FIELDS else ""
    return "envelope" if key.name == "SUBJECT" or key.name in ADDRESSES else ""


async def _look_closer(
    session: ImapServer,
    view: View,
    look: Look,
    candidates: list[Candidate],
    wire: bool,
    leaves: tuple[SearchKey, ...],
    progress: Callable[[int], None],
) -> list[Candidate]:
    """Those that match, by their rows and, where that is not enough, by their octets."""
    found: list[Candidate] = []
    for start in range(0, len(candidates), ROW_SLICE):
        part = candidates[start : start + ROW_SLICE]
        if _needs_rows(look, wire):
            rows = {row.uid: row for row in await view.mailbox.facts([c.uid for c in part], wire=wire)}
        else:
            rows = {}
        undecided: list[Candidate] = []
        for candidate in part:
            row = candidate.row = rows.get(candidate.uid)
            if row is None and rows:
                continue
            if wire and row is not None:
                candidate.envelope = Envelope(row.envelope)
            verdict = judge(look.program, candidate, look)
            if verdict:
                found.append(candidate)
            elif verdict is None:
                undecided.append(candidate)
        for at in range(0, len(undecided), CONTENT_SLICE):
            found += await _by_content(session, view, look, undecided[at : at + CONTENT_SLICE], leaves)
            progress(start)
            await session.breathe()
        await session.breathe()
    return found


def _needs_rows(look: Look, wire: bool) -> bool:
    """Whether any key of the program asks for more than flags and octets."""
    return wire or any(
        key.name not in CONTENT and key.name not in WITHOUT_ROW and key.messages is None
        for key in walk(look.program)
    )


async def _by_content(
    session: ImapServer,
    view: View,
    look: Look,
    candidates: list[Candidate],
    leaves: tuple[SearchKey, ...],
) -> list[Candidate]:
    """Those whose octets match."""
    headers_only = all(key.name == "HEADER" for key in leaves)
    work = partial(header_answers if headers_only else content_answers, leaves)
    said = await view.mailbox.examine([candidate.uid for candidate in candidates], work)
    found: list[Candidate] = []
    for candidate in candidates:
        if candidate.uid in said:
            candidate.content = said[candidate.uid]
        else:
            candidate.content = await _of_a_large_one(session, view, candidate.uid, leaves, headers_only)
        if candidate.content is not None and judge(look.program, candidate, look):
            found.append(candidate)
    return found


async def _of_a_large_one(
    session: ImapServer, view: View, uid: int, leaves: tuple[SearchKey, ...], headers_only: bool
) -> dict[int, int] | None:
    """What a message says that is not read whole with others; None where it is gone."""
    source = Source(session, view.mailbox, uid)
    try:
        if headers_only:
            return content_answers(leaves, await source.read(0, await source.body()))
        return await source.examine(partial(content_answers, leaves), await source.open())
    except PermanentError:
        return None
    finally:
        source.close()


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
