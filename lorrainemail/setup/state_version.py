"""Which version wrote a state directory, and whether this one can go on with it.

``<state>/state-version`` holds one JSON object: the version that last served the state, and the version of
each part of it that has one (the mailboxes' index, the queue, the trace). A server refuses a state of which
any part is newer than it knows, before it touches anything: an older version would misread it. An older part
is taken over: each mailbox's index at its first opening, the rest at the start, or all of it before by
``lorrainemail upgrade``. A state without the file is older than the file. Fails with StartError, OSError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Final

import attrs

from lorrainemail.ops.files import SYSTEM, replace_file
from lorrainemail.ops.trace import SCHEMA_VERSION as TRACE
from lorrainemail.queue.format import FORMAT as QUEUE
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.state import Owner, Undo
from lorrainemail.store.schema import SCHEMA_VERSION as INDEX
from lorrainemail.version import VERSION

FILE_NAME: Final = "state-version"
#: What this version writes. "state" is the form of the directory itself: names, and what lies where.
PARTS: Final[Mapping[str, int]] = {"state": 1, "index": INDEX, "queue": QUEUE, "trace": TRACE}
_MAX_OCTETS: Final = 65536


@attrs.frozen(slots=True)
class StateVersion:
    """What a state says of itself; ``written_by`` is "" where it says nothing."""

    written_by: str
    parts: Mapping[str, int]


def read(state: str) -> StateVersion:
    """What stands in the file.

    :raises StartError: where it cannot be understood.
    """
    path = os.path.join(state, FILE_NAME)
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(_MAX_OCTETS))
        parts = {str(name): int(number) for name, number in found["parts"].items()}
        return StateVersion(str(found["version"]), parts)
    except FileNotFoundError:
        return StateVersion("", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StartError(
            f"{path} cannot be understood",
            "restore it from a backup, or remove it if nothing newer ran here",
        ) from None


def newer(found: StateVersion) -> list[str]:
    """Parts that this version does not know, or not so new, in words."""
    return [
        f"{name} {number}" + (f" (known here: {PARTS[name]})" if name in PARTS else " (not known here)")
        for name, number in sorted(found.parts.items())
        if number > PARTS.get(name, 0)
    ]


def require_known(state: str) -> StateVersion:
    """What stands in the file, where this version can go on with it.

    :raises StartError: where a newer version wrote the state.
    """
    found = read(state)
    unknown = newer(found)
    if unknown:
        raise StartError(
            f"{state} was written by lorrainemail {found.written_by}, which is newer than this one, "
            f"{VERSION}: " + ", ".join(unknown),
            "install that version, or restore a backup of the time before",
        )
    return found


def note(state: str) -> bool:
    """Write down that this version serves the state; whether the file is new. Durable when it returns."""
    found = read(state)
    if found.written_by == VERSION and found.parts == PARTS:
        return False
    # Parts that are older on disk are so until they are opened; nobody older may serve them from now on.
    text = json.dumps({"version": VERSION, "parts": dict(PARTS)}) + "\n"
    replace_file(SYSTEM, os.path.join(state, FILE_NAME), text.encode("ascii"))
    return not found.written_by


def take_note(state: str, owner: Owner, undo: Undo) -> None:
    """The same at a start, which may fail yet."""
    if note(state):
        undo.created(os.path.join(state, FILE_NAME))
    owner.take(os.path.join(state, FILE_NAME))
