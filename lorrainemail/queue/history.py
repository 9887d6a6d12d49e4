"""What became of every recipient that left the queue, kept for days: ``queue/history/*.jsonl``.

Owns that directory. The spool notes an end with :meth:`History.note`; ``lorrainemail queue history`` asks
:func:`records`, beside a running server or without one. One JSON object a line, one recipient a line, so that
ordinary tools read it too::

    {"time": 1790000000.0, "id": "...", "outcome": "delivered" | "bounced" | "expired" | "dropped",
     "sender": "..." , "recipient": "...", "original": "...", "reply": "250 2.0.0 Ok: queued as 4XyZ",
     "remote_id": "4XyZ", "host": "mx.example[192.0.2.1]:25", "tls": "TLSv1.3 ...", "attempts": 1,
     "seconds": 0.4, "size": 4711, "door": "submission", "account": "...", "courier": "remote",
     "notice": "..."}

A line is written before the item that it tells of is removed, and synced within :data:`GATHER` seconds: a
crash of the process loses nothing of it, one of the machine at most those seconds. Bounded in time and in
octets: files are named by day and number, hold :data:`SEGMENT` octets, and the oldest go first. A disk that
refuses costs history, never mail; it is said once in the log.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.interfaces import ICommitter, Outcome, QueueItem, QueueRecipient

#: Seconds in which lines gather before they are synced.
GATHER: Final = 1.0
#: Octets after which the next file is begun.
SEGMENT: Final = 8 << 20
#: Seconds between looks for what is too old.
SWEEP: Final = 3600.0
#: Lines in memory beyond which new ones are dropped: the disk does not take them.
MAX_WAITING: Final = 50_000
#: A longer line is none of ours.
MAX_LINE: Final = 64 << 10
#: The number of the file that commands write where no server runs.
COMMANDS: Final = "9999"
#: How a file is named: the day in UTC, a number.
_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})\.(\d{4})\.jsonl\Z")

# How other servers say under which id they have a message: ours and Postfix; Exim; Sendmail and OpenSMTPD;
# Exchange; Gmail. What matches none is in the reply all the same.
_REMOTE_IDS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:queued|delivered|accepted|stored) (?:mail )?(?:for delivery )?as:? ?<?([\w.+-]{4,80})",
        r"\bid=([\w.-]{4,80})",
        r"\A\d{3} [\d.]+ (?:ok:? )?<?([\w.-]{8,80})>? message accepted",
        r"\bInternalId=(\d{4,40})",
        r"\A\d{3} [\d.]+ OK +\d+ ([\w.-]{8,80}) - gsmtp",
    )
)

_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

_log = Logger("lorrainemail.queue.history")


def remote_id(reply: str) -> str:
    """The id that a server says it keeps a message under, "" where it says none that we understand."""
    for pattern in _REMOTE_IDS:
        found = pattern.search(reply)
        if found is not None:
            return found.group(1).rstrip(".")
    return ""


class History:
    """Writes the history of one queue.

    :param directory: ``queue/history``; it exists.
    :param keep: seconds for which lines are kept, 0 for no history; ``most``: octets in all. Both may be
        changed while running.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        directory: str,
        committer: ICommitter,
        keep: float,
        most: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.keep = keep
        self.most = most
        self._reactor = reactor
        self._directory = directory
        self._committer = committer
        self._wall = wall
        self._waiting: list[dict[str, Any]] = []
        self._timer: IDelayedCall | None = None
        self._lock = threading.Lock()
        self._file = ""
        self._unsynced = False
        self._swept = 0.0
        self._trouble = ""

    def note(
        self,
        outcome: str,
        item: QueueItem,
        one: QueueRecipient,
        seconds: float,
        said: Outcome | None = None,
        notice: str = "",
    ) -> None:
        """A recipient has left the queue.

        :param one: as it is now: with its last reply and all attempts.
        :param seconds: for which a server was up with it.
        :param said: the last attempt's outcome, where there was one.
        """
        if not self.keep or len(self._waiting) >= MAX_WAITING:
            return
        self._waiting.append(record_of(self._wall(), outcome, item, one, seconds, said, notice))
        if self._timer is None:
            self._timer = self._reactor.callLater(GATHER, self._flush_later)

    def writing(self) -> Callable[[], None]:
        """What writes, in a thread, all lines noted so far; it is not synced then, and never fails."""
        waiting, self._waiting = self._waiting, []
        return partial(self._append, waiting)

    def flush(self) -> Deferred[None]:
        """Write and sync all that was noted; never fails."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self._waiting and not self._unsynced:
            return succeed(None)
        write = self.writing()

        def work() -> None:
            write()
            self._sync()
            self._sweep()

        return self._committer.run(work).addErrback(_lost)

    def _flush_later(self) -> None:
        self._timer = None
        self.flush()

    # -- in threads ------------------------------------------------------------------------------

    def _append(self, waiting: list[dict[str, Any]]) -> None:
        if not waiting:
            return
        octets = _lines(waiting)
        with self._lock:
            try:
                descriptor = os.open(self._segment(), _APPEND, 0o600)
                try:
                    os.write(descriptor, octets)
                finally:
                    os.close(descriptor)
                self._unsynced = True
                self._trouble = ""
            except OSError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    _log.error("The history of the queue cannot be written: {error}", error=str(error))

    def _segment(self) -> str:
        """The file that lines go to now."""
        day = time.strftime("%Y-%m-%d", time.gmtime(self._wall()))
        if not os.path.basename(self._file).startswith(day):
            names = _names(self._directory)
            numbers = [int(one.group(2)) for one in names if one.group(1) == day and one.group(2) != COMMANDS]
            self._file = f"{self._directory}/{day}.{max(numbers, default=0):04}.jsonl"
        try:
            full = os.stat(self._file).st_size >= SEGMENT
        except FileNotFoundError:
            full = False
        if full:
            number = int(self._file[-10:-6]) + 1
            self._file = f"{self._directory}/{day}.{min(number, 9998):04}.jsonl"
        return self._file

    def _sync(self) -> None:
        with self._lock:
            if not self._unsynced:
                return
            self._unsynced = False
            for path in (self._file, self._directory):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _sweep(self) -> None:
        """Remove files that are too old or too many; never the one that is written."""
        now = self._wall()
        if abs(now - self._swept) < SWEEP:
            return
        self._swept = now
        oldest = time.strftime("%Y-%m-%d", time.gmtime(now - self.keep))
        files = [f"{self._directory}/{found.group()}" for found in _names(self._directory)]
        sizes = {path: os.stat(path).st_size for path in files}
        left = sum(sizes.values())
        for path in files:
            if path == self._file or (os.path.basename(path)[:10] >= oldest and left <= self.most):
                continue
            os.unlink(path)
            left -= sizes[path]


def record_of(
    now: float,
    outcome: str,
    item: QueueItem,
    one: QueueRecipient,
    seconds: float,
    said: Outcome | None = None,
    notice: str = "",
) -> dict[str, Any]:
    """One line, as :meth:`History.note` takes it."""
    return {
        "time": round(now, 3),
        "id": item.envelope.id,
        "outcome": outcome,
        "sender": "" if item.envelope.sender is None else str(item.envelope.sender),
        "recipient": str(one.recipient.address),
        "original": one.recipient.original,
        "reply": one.last_reply,
        "remote_id": remote_id(one.last_reply) if outcome == "delivered" else "",
        "host": said.host if said is not None else "",
        "tls": said.tls if said is not None else "",
        "attempts": one.attempts,
        "seconds": round(seconds, 1),
        "size": item.size,
        "door": item.door,
        "account": item.account,
        "courier": one.courier,
        "notice": notice,
    }


def append(directory: str, records: Sequence[dict[str, Any]], now: float) -> None:
    """Write lines down, synced, where no server runs (the caller holds the lock). Fails with OSError."""
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    descriptor = os.open(f"{directory}/{day}.{COMMANDS}.jsonl", _APPEND, 0o600)
    try:
        if os.geteuid() == 0:  # a file that root's command made is the server's all the same
            owner = os.stat(directory)
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.write(descriptor, _lines(records))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lines(records: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one, separators=(",", ":")).encode("ascii") + b"\n" for one in records)


def _lost(failure: Failure) -> None:
    _log.error("The history of the queue cannot be kept: {error}", error=failure.getErrorMessage())


def _names(directory: str) -> list[re.Match[str]]:
    """The files of a history, oldest first."""
    return [found for name in sorted(os.listdir(directory)) if (found := _NAME.match(name)) is not None]


# -- questions -------------------------------------------------------------------------------------------


def records(
    directory: str, since: float = 0.0, word: str = "", wanted: Callable[[dict[str, Any]], bool] | None = None
) -> Iterator[dict[str, Any]]:
    """Lines of a history, newest first.

    :param word: an id (ours or the remote's), or an address, or a domain, of sender or recipient; "" for all.
    :param wanted: a further choice.
    :raises OSError: where a file cannot be read; a history that does not exist is empty.
    """
    try:
        names = _names(directory)
    except FileNotFoundError:
        return
    folded = word.casefold()
    first = time.strftime("%Y-%m-%d", time.gmtime(since))
    for found in reversed(names):
        if found.group(1) < first:
            return
        try:
            with open(f"{directory}/{found.group()}", "rb") as file:
                lines = file.read(2 * SEGMENT).splitlines()
        except FileNotFoundError:
            continue  # too old meanwhile
        # ASCII in the file is what was asked for, or an escape that only parsing shows.
        needle = folded.encode("ascii") if folded.isascii() else b""
        for line in reversed(lines):
            if (needle and needle not in line.lower()) or len(line) > MAX_LINE:
                continue
            record = _parse(line)
            if record is None or record["time"] < since:
                continue
            if (not folded or _means(record, folded)) and (wanted is None or wanted(record)):
                yield record


def _parse(line: bytes) -> dict[str, Any] | None:
    """A line; None for the half of one that a crash left."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    known = isinstance(record, dict) and isinstance(record.get("time"), int | float)
    return record if known else None


def _means(record: dict[str, Any], word: str) -> bool:
    if word in (str(record.get("id")).casefold(), str(record.get("remote_id")).casefold()):
        return True
    for name in ("sender", "recipient", "original", "account"):
        address = str(record.get(name, "")).casefold()
        if word == address or (word.lstrip("@") == address.rpartition("@")[2] != ""):
            return True
    return False
