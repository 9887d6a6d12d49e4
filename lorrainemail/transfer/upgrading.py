"""What taking over the state of an older version means, and doing it at once.

The server does all of this by itself, each mailbox at its first opening; an operator who wants to know
before, or to have it behind him before the doors open, uses ``lorrainemail upgrade``. :func:`plan` only
reads. Blocking. Failures: OSError, ``sqlite3.Error`` of one file become a line, and stop nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import attrs

from lorrainemail.queue.format import FORMAT, MAX_OCTETS
from lorrainemail.setup.places import directories
from lorrainemail.setup.state_version import PARTS, newer, note, read
from lorrainemail.store.index import Index
from lorrainemail.store.schema import CHANGES, SCHEMA_VERSION
from lorrainemail.transfer.homes import homes
from lorrainemail.version import VERSION

_INDEX: Final = "index.sqlite"


@attrs.frozen(slots=True)
class Step:
    """One file, or kind of files, that is older or newer than this version.

    :ivar possible: False for what a newer version wrote, or what cannot be read.
    """

    what: str
    found: int
    wanted: int
    means: str
    possible: bool = True


def plan(state: str) -> list[Step]:
    """What is not as this version writes it."""
    said = read(state)
    steps = [
        Step("state-version", 0, 0, f"written by lorrainemail {said.written_by}: {words}", False)
        for words in newer(said)
    ]
    if not said.written_by:
        steps.append(Step("state-version", 0, 1, f"notes that lorrainemail {VERSION} serves this state"))
    elif said.written_by != VERSION or said.parts != PARTS:
        steps.append(Step("state-version", 1, 1, f"{said.written_by} becomes {VERSION}"))
    for below, home in homes(directories(state).mail):
        step = _index(f"mail/{below}/{_INDEX}", f"{home}/{_INDEX}")
        if step is not None:
            steps.append(step)
    step = _database("trace.sqlite", os.path.join(state, "trace.sqlite"), PARTS["trace"])
    if step is not None:
        steps.append(step)
    steps.extend(_queue(directories(state).queue))
    return steps


def upgrade(state: str, steps: list[Step]) -> list[str]:
    """Carry the plan out, the state's lock held; what went wrong, in words."""
    faults = []
    for step in steps:
        if step.what.endswith("/" + _INDEX):
            path = os.path.join(state, step.what)
            try:
                Index(path, secrets.token_hex(16)).close()
            except (OSError, sqlite3.Error) as error:
                faults.append(f"{step.what}: {error}")
    note(state)
    return faults


def _index(name: str, path: str) -> Step | None:
    if not os.path.exists(path):
        return None
    return _database(name, path, SCHEMA_VERSION)


def _database(name: str, path: str, wanted: int) -> Step | None:
    """How a database differs from what this version writes."""
    if not os.path.exists(path):
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=5)
        ) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        return Step(name, 0, wanted, f"it cannot be read: {error}", False)
    if version == wanted or version == 0:
        return None
    if version > wanted:
        return Step(name, version, wanted, "a newer version wrote it", False)
    means = [CHANGES.get(step, "") for step in range(version, wanted)] if name.endswith(_INDEX) else []
    return Step(name, version, wanted, "; ".join(filter(None, means)) or "taken over")


def _queue(path: str) -> Iterator[Step]:
    """Items by their form: older ones are read as they are."""
    counts: dict[int, int] = {}
    try:
        names = [name for name in os.listdir(path) if name.endswith(".json")]
    except FileNotFoundError:
        return
    for name in names:
        form = _form(f"{path}/{name}")
        counts[form] = counts.get(form, 0) + 1
    for form, count in sorted(counts.items()):
        if form > FORMAT:
            yield Step("queue", form, FORMAT, f"{count} messages were queued by a newer version", False)
        elif 0 < form < FORMAT:
            yield Step("queue", form, FORMAT, f"{count} messages are read as they are")


def _form(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(json.loads(file.read(MAX_OCTETS))["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # the server says what is wrong with it
