"""SORT (RFC 5256, RFC 5957): the messages of a search in an order, by what the index knows of them.

Everything goes in slices, the sorting itself too: parts are sorted and then joined pair by pair, so that no
step takes long whatever the size of the mailbox.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_order import Criterion
from lorrainemail.imap.matching import MAX_SCORE
from lorrainemail.imap.search import Scores, asks_relevancy, find, note_modseq, results, saving
from lorrainemail.imap.server import ImapServer
from lorrainemail.imap.view import View
from lorrainemail.interfaces import Column
from lorrainemail.message.charsets import decode, decode_words
from lorrainemail.message.collation import ordering
from lorrainemail.message.summary import Address, Envelope, address_of, first_sender

#: Messages whose facts are gathered in one turn; entries that are sorted in one turn.
SLICE: Final = 2000
PART: Final = 4000

RELEVANCY: Final = Criterion("RELEVANCY")
_ADDRESSES: Final = {"FROM": "FROM", "TO": "TO", "CC": "CC", "DISPLAYFROM": "FROM", "DISPLAYTO": "TO"}
#: What of the index each criterion looks at.
_COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "ARRIVAL": ("internal_date",),
    "DATE": ("sent", "internal_date"),
    "SIZE": ("size",),
    "SUBJECT": ("base_subject",),
    "RELEVANCY": (),
    **{key: ("envelope",) for key in _ADDRESSES},
}


async def sort(session: ImapServer, command: Command) -> bytes:
    """SORT and UID SORT."""
    criteria, program, options = command.arguments
    view = session.selected()
    note_modseq(session, program)
    scores: Scores | None = {} if asks_relevancy(options) or RELEVANCY in criteria else None
    found = await saving(view, options, find(session, view, program, scores))
    ordered = await in_order(session, view, found, criteria, scores)
    return results(session, view, command, program, options, ordered, scores)


async def in_order(
    session: ImapServer,
    view: View,
    found: list[int],
    criteria: tuple[Criterion, ...],
    scores: Scores | None = None,
) -> list[int]:
    """Positions by the criteria, then by their numbers (RFC 5256 §3); those that are gone are left out."""
    columns: list[list[Any]] = [[] for _ in criteria]
    indexes: list[int] = []
    names: list[Column] = []
    for criterion in criteria:
        names += [name for name in _COLUMNS[criterion.key] if name not in names]
    for start in range(0, len(found), SLICE):
        part = {view.uids[index]: index for index in found[start : start + SLICE]}
        rows = await view.mailbox.columns(tuple(part), names)
        here = [part[row[0]] for row in rows]
        indexes += here
        for criterion, column in zip(criteria, columns, strict=True):
            if criterion == RELEVANCY:  # RFC 6203 §5: the most relevant first
                column += [-(scores or {}).get(index, MAX_SCORE) for index in here]
            else:
                pick = itemgetter(*[names.index(name) + 1 for name in _COLUMNS[criterion.key]])
                column += _values(criterion.key, list(map(pick, rows)))
        await session.breathe()
    keys = columns[0] if columns else []
    if len(criteria) > 1 or any(criterion.reverse for criterion in criteria):
        keys = [0] * len(indexes)
        for criterion, column in zip(criteria, columns, strict=True):
            ranks = await _ranked(session, column, criterion.reverse)
            keys = [key * (len(indexes) + 1) + rank for key, rank in zip(keys, ranks, strict=True)]
            await session.breathe()
    return [indexes[at] for at in await sliced_order(session, keys)]


async def sliced_order(session: ImapServer, keys: list[Any]) -> list[int]:
    """The places of the keys in their order, equal ones as they stand, in bounded turns."""
    key = keys.__getitem__
    parts: list[list[int]] = []
    for start in range(0, len(keys), PART):
        parts.append(sorted(range(start, min(start + PART, len(keys))), key=key))
        if len(keys) > PART:
            await session.breathe()
    while len(parts) > 1:
        joined = []
        for left in range(0, len(parts), 2):
            pair = [place for part in parts[left : left + 2] for place in part]
            pair.sort(key=key)  # two runs that ascend: linear
            joined.append(pair)
            await session.breathe()
        parts = joined
    return parts[0] if parts else []


async def _ranked(session: ImapServer, column: list[Any], reverse: bool) -> list[int]:
    """Numbers that compare as the values do, or the other way round."""
    values = list(set(column))
    ranks = {values[at]: rank for rank, at in enumerate(await sliced_order(session, values))}
    await session.breathe()
    sign = -1 if reverse else 1
    return [sign * ranks[value] for value in column]


def _values(key: str, found: list[Any]) -> list[Any]:
    """What messages are compared by, from the columns of their criterion."""
    if key in _ADDRESSES:
        return [_by_address(key, wire) for wire in found]
    if key == "SUBJECT":
        return [ordering(subject) for subject in found]
    if key == "DATE":
        return [arrived if sent is None else sent for sent, arrived in found]
    return found


def _by_address(key: str, wire: bytes) -> str:
    if _ADDRESSES[key] == "FROM":
        parts = first_sender(wire)
        if parts is not None:
            return _by_sender(key, parts)
    first = Envelope(wire).first(_ADDRESSES[key])
    return "" if first is None else _compared(key, first)


@lru_cache(maxsize=2048)
def _by_sender(key: str, parts: tuple[bytes, bytes, bytes]) -> str:
    return _compared(key, address_of(parts))


def _compared(key: str, address: Address) -> str:
    return ordering(display(address) if key.startswith("DISPLAY") else decode(address.mailbox))


def display(address: Address) -> str:
    """RFC 5957 §3: the name that people see, or the address."""
    if address.name:
        return decode_words(address.name)
    return decode(b"%b@%b" % (address.mailbox, address.host) if address.host else address.mailbox)
