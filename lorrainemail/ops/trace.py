"""The story of every message, event by event, in ``trace.sqlite``; kept for a bounded time.

Owns that file: its schema, the one thread that writes it, and the questions that ``lorrainemail trace`` asks.
Everybody who handles a message calls :meth:`Trace.event`, which only appends to a queue; the thread writes
what has gathered in one transaction, at most every :data:`GATHER` seconds, and deletes what is too old in
slices.

By convention these facts make an event findable: ``sender``, ``recipient`` and ``recipients`` (addresses),
``account``, and ``message_id``. No secrets, no content of messages.

The trace may lose its last second in a crash of the machine (``synchronous=NORMAL`` under WAL: the file is
never broken); mail never depends on it. When the disk does not keep up, or fails, events are dropped and
counted, and an alarm stands; nothing waits.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import Problem
from lorrainemail.interfaces import ITrace
from lorrainemail.ops.database import make_private
from lorrainemail.ops.metrics import Counter

_log = Logger("lorrainemail.ops.trace")
_EVENTS = Counter("lorrainemail_trace_events", "Events written to the trace")
_DROPPED = Counter("lorrainemail_trace_dropped", "Events lost because the trace could not keep up")

#: Seconds in which events gather before they are written.
GATHER: Final = 0.5
#: Events in memory beyond which new ones are dropped.
MAX_WAITING: Final = 50_000
#: Characters of one fact, and addresses of one event that are findable.
MAX_TEXT: Final = 1000
MAX_ADDRESSES: Final = 100
#: Events deleted at once, and seconds between looks for old ones.
EXPIRY_SLICE: Final = 2000
EXPIRY_INTERVAL: Final = 60.0
#: Rows of one INSERT where there are as many.
_ROWS: Final = 32
#: Events that one question answers at most.
MAX_ANSWER: Final = 10_000

#: What this version writes.
SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, message TEXT NOT NULL, kind TEXT NOT NULL, facts TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS event_message ON event (message);
CREATE TABLE IF NOT EXISTS word (
    word TEXT NOT NULL, event INTEGER NOT NULL, PRIMARY KEY (word, event)
) WITHOUT ROWID;
"""


class ClockWithThreads(Protocol):
    """What is needed of the reactor."""

    def callFromThread(self, function: Any, *args: object) -> None: ...

    def seconds(self) -> float: ...


@attrs.frozen(slots=True)
class Event:
    """One event as it was noted."""

    time: float
    message: str
    kind: str
    facts: dict[str, Any]


@implementer(ITrace)
class Trace(Service):
    """Writes the trace.

    :param path: of ``trace.sqlite``; made with mode 0600.
    :param keep: seconds for which events are kept; may be changed while running.
    """

    name = "trace"

    def __init__(self, path: str, reactor: ClockWithThreads, keep: float) -> None:
        self.keep = keep
        self._path = path
        self._reactor = reactor
        self._waiting: deque[tuple[float, str, str, dict[str, object]]] = deque()
        self._flushes: deque[Deferred[None]] = deque()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stop = False
        self._thread: threading.Thread | None = None
        self._dropping = False
        self._trouble = ""
        self._ended: Deferred[None] | None = None

    def event(self, message: str, kind: str, **facts: object) -> None:
        """Note one event; never waits, never fails."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING:
            _DROPPED.inc()
            if not self._dropping:
                self._dropping = True
                _log.error("The trace cannot keep up with the mail; events are being lost")
            return
        waiting.append((self._reactor.seconds(), message, kind, facts))
        if len(waiting) == 1:
            self._wake.set()

    def flush(self) -> Deferred[None]:
        """Write what has gathered now; fires when whoever asks the trace finds it there."""
        done: Deferred[None] = Deferred()
        if self._thread is None or self._stop:
            done.callback(None)
            return done
        self._flushes.append(done)
        self._hurry.set()
        self._wake.set()
        return done

    def alarms(self) -> list[Problem]:
        """What stands in the way of the trace now."""
        if self._trouble:
            return [
                Problem(self._path, 0, f"the trace cannot be written: {self._trouble}", "look at the disk")
            ]
        if self._dropping:
            return [
                Problem(self._path, 0, "the trace cannot keep up with the mail", "look at the disk's speed")
            ]
        return []

    def startService(self) -> None:
        """Start the one thread."""
        super().startService()  # type: ignore[no-untyped-call]
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()

    def stopService(self) -> Deferred[None]:
        """Write what has gathered; then end the thread."""
        super().stopService()  # type: ignore[no-untyped-call]
        ended: Deferred[None] = Deferred()
        if self._thread is None:
            ended.callback(None)
            return ended
        self._ended = ended
        self._stop = True
        self._hurry.set()
        self._wake.set()
        return ended

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        writer = _Writer(self._path)
        expire_at = 0.0
        while True:
            self._wake.wait(EXPIRY_INTERVAL)
            self._hurry.wait(GATHER)
            self._hurry.clear()
            self._wake.clear()
            stopping = self._stop
            flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
            events = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                if events:
                    writer.write(events)
                    _EVENTS.inc(len(events))
                now = self._reactor.seconds()
                if now >= expire_at and not stopping:
                    more = writer.expire(now - self.keep)
                    expire_at = now if more else now + EXPIRY_INTERVAL
                    if more:
                        self._wake.set()
                self._trouble = ""
                self._dropping = self._dropping and len(self._waiting) >= MAX_WAITING // 2
            except (sqlite3.Error, OSError) as error:
                _DROPPED.inc(len(events))
                if str(error) != self._trouble:
                    _log.error("The trace cannot be written: {error}", error=str(error))
                self._trouble = str(error) or repr(error)
                writer.close()  # a new connection next time
            except Exception:
                _DROPPED.inc(len(events))
                _log.failure("The trace failed")
                writer.close()
            for flush in flushes:
                self._reactor.callFromThread(flush.callback, None)
            if self._waiting:
                self._wake.set()  # noted while this was written
                if stopping:
                    self._hurry.set()
            elif stopping:
                writer.close()
                self._reactor.callFromThread(self._end)
                return

    def _end(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback(None)


class _Writer:
    """The connection that writes; used by one thread alone."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._next = 1

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            # Made before SQLite makes it, so that its mode does not hang on the umask.
            make_private(self._path)
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=5, cached_statements=16)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, SCHEMA_VERSION):
                    raise sqlite3.DatabaseError(f"schema version {version} is not ours")
                if version == 0:
                    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                self._next = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM event").fetchone()[0]
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def write(self, events: list[tuple[float, str, str, dict[str, object]]]) -> None:
        connection = self._open()
        rows = []
        words = []
        known: set[tuple[str, str]] = set()
        number = self._next
        encode = _ENCODER.encode
        for time, message, kind, facts in events:
            rows.append((number, time, message, kind, encode(facts)))
            for word in _words(facts):
                # A message is found by its first event with a word; of fifty deliveries the others add none.
                if (message, word) not in known:
                    known.add((message, word))
                    words.append((word, number))
            number += 1
        connection.execute("BEGIN IMMEDIATE")
        try:
            _insert(connection, "INSERT INTO event VALUES", rows)
            _insert(connection, "INSERT OR IGNORE INTO word VALUES", words)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        self._next = number

    def expire(self, before: float) -> bool:
        """Delete one slice of what is older; whether there may be more. Ids rise with time."""
        connection = self._open()
        row = connection.execute(
            "SELECT max(id), count(*) FROM (SELECT id, time FROM event ORDER BY id LIMIT ?) WHERE time < ?",
            (EXPIRY_SLICE, before),
        ).fetchone()
        if not row[1]:
            return False
        connection.execute("BEGIN IMMEDIATE")
        try:
            old = connection.execute("SELECT id, facts FROM event WHERE id <= ?", (row[0],)).fetchall()
            words = [(word, number) for number, facts in old for word in _words(json.loads(facts))]
            connection.executemany("DELETE FROM word WHERE word = ? AND event = ?", words)
            connection.execute("DELETE FROM event WHERE id <= ?", (row[0],))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute(f"PRAGMA incremental_vacuum({EXPIRY_SLICE})")
        return bool(row[1] == EXPIRY_SLICE)

    def close(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except sqlite3.Error:
                pass  # it is given up
            self._connection = None


def _insert(connection: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows in few statements: at each one Python's lock is let go of and must be had again, which costs a
    busy server more than the row. Two fixed sizes, so that SQLite prepares them once."""
    start = 0
    for size in (_ROWS, 1):
        while len(rows) - start >= size:
            part = rows[start : start + size]
            marks = f"({','.join('?' * len(part[0]))})"
            connection.execute(
                f"{statement} {','.join([marks] * size)}", [value for row in part for value in row]
            )
            start += size


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


def _words(facts: dict[str, object]) -> set[str]:
    """Under what an event is found besides its message: addresses and the Message-ID, folded."""
    found = set()
    for name in ("sender", "recipient", "account", "message_id"):
        value = facts.get(name)
        if value:
            found.add(str(value)[:MAX_TEXT].casefold())
    recipients = facts.get("recipients")
    if isinstance(recipients, list | tuple):
        for value in recipients[:MAX_ADDRESSES]:
            found.add(str(value)[:MAX_TEXT].casefold())
    return found


# -- questions -------------------------------------------------------------------------------------------


def trace_path(state: str) -> str:
    """Where the trace of a state directory is."""
    return os.path.join(state, "trace.sqlite")


def stories(path: str, question: str = "", since: float = 0.0, newest: int = 0) -> Iterator[list[Event]]:
    """The stories of all messages that the question means, oldest first; events in order.

    For the command; opens the file for reading beside a running server.

    :param question: a message's id, a Message-ID (with or without brackets), or an address; "" for all.
    :param newest: only so many, the newest; 0 for all.
    :raises FileNotFoundError: where there is no trace.
    :raises sqlite3.Error: where it cannot be read.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    connection = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=5)
    try:
        for message in _messages(connection, question, since)[-newest:]:
            rows = connection.execute(
                "SELECT time, message, kind, facts FROM event WHERE message = ? ORDER BY id LIMIT ?",
                (message, MAX_ANSWER),
            )
            yield [Event(time, id, kind, json.loads(facts)) for time, id, kind, facts in rows]
    finally:
        connection.close()


def _messages(connection: sqlite3.Connection, question: str, since: float) -> list[str]:
    """Ids of messages, in the order in which they were first heard of.

    Each query walks an index from its newest end and stops, so that its cost hangs on the answer, not on all
    that is remembered.
    """
    first = _first(connection, since)
    if not question:
        query = "SELECT message FROM event WHERE id >= ? AND time >= ? ORDER BY id DESC LIMIT ?"
        found = [row[0] for row in connection.execute(query, (first, since, MAX_ANSWER))]
        return list(dict.fromkeys(reversed(found)))
    if connection.execute("SELECT 1 FROM event WHERE message = ? LIMIT 1", (question,)).fetchone():
        return [question]
    word = question.casefold()
    query = "SELECT event FROM word WHERE word = ? AND event >= ? ORDER BY event DESC LIMIT ?"
    numbers = {
        row[0] for form in (word, f"<{word}>") for row in connection.execute(query, (form, first, MAX_ANSWER))
    }
    messages: dict[str, None] = {}
    for number in sorted(numbers)[-MAX_ANSWER:]:
        query = "SELECT message FROM event WHERE id = ? AND time >= ?"
        for row in connection.execute(query, (number, since)):
            messages[row[0]] = None
    return list(messages)


def _first(connection: sqlite3.Connection, since: float) -> int:
    """The number of the first event at that time or later, by halving: numbers rise with time."""
    if not since:
        return 0
    bounds = "SELECT coalesce((SELECT min(id) FROM event), 0), coalesce((SELECT max(id) + 1 FROM event), 0)"
    low, high = connection.execute(bounds).fetchone()
    query = "SELECT time FROM event WHERE id >= ? ORDER BY id LIMIT 1"
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(query, (middle,)).fetchone()
        if row is not None and row[0] < since:
            low = middle + 1
        else:
            high = middle
    return int(low)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
