"""``tls-reports.sqlite`` in the state directory: sessions of ours to be reported, and what others report
of us.

Owns that file. All methods block and are called in threads, or by commands; a lock makes them one after the
other. Raises sqlite3.Error and OSError. Bounded: :data:`MAX_SEEN` rows of what was seen, :data:`MAX_REPORTS`
reports; what is sent or too old is deleted.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import attrs

from lorrainemail.ops.database import make_private
from lorrainemail.tlspolicy.plan import Observed, Published
from lorrainemail.tlspolicy.report import Failed, PolicyResults, TlsReport, from_json, to_json

FILE: Final = "tls-reports.sqlite"
#: Rows that are kept of what was seen, of one domain and day, and in all; reports that are kept of others.
MAX_ROWS: Final = 500
MAX_SEEN: Final = 50_000
MAX_REPORTS: Final = 20_000
#: Days after which what was not sent is not worth sending (RFC 8460 §5.3 says one day of trying).
MAX_UNSENT: Final = 3

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS seen (
    day INTEGER NOT NULL, domain TEXT NOT NULL, published TEXT NOT NULL, fault TEXT NOT NULL,
    host TEXT NOT NULL, address TEXT NOT NULL, ours TEXT NOT NULL, words TEXT NOT NULL, count INTEGER NOT
    NULL, PRIMARY KEY (day, domain, published, fault, host, address, ours, words)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS report (
    id INTEGER PRIMARY KEY, organization TEXT NOT NULL, name TEXT NOT NULL, domains TEXT NOT NULL,
    begins INTEGER NOT NULL, ends INTEGER NOT NULL, good INTEGER NOT NULL, bad INTEGER NOT NULL,
    proved INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (organization, name)
);
CREATE TABLE IF NOT EXISTS mark (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


_COUNT: Final = "SELECT count(*) FROM seen WHERE day = ? AND domain = ?"


@attrs.frozen(slots=True)
class Reported:
    """One report that was received. ``number``: how people call it here; ``proved``: DMARC vouches for it."""

    number: int
    report: TlsReport
    proved: bool

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.domain for one in self.report.policies))

    @property
    def good(self) -> int:
        return sum(one.good for one in self.report.policies)

    @property
    def bad(self) -> int:
        return sum(one.bad for one in self.report.policies)


class TlsReportFile:
    """The file.

    :param path: made with mode 0600 at the first write.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- what we saw -----------------------------------------------------------------------------

    def see(self, counts: Mapping[tuple[int, Observed], int]) -> None:
        """Add up sessions of a day (since the epoch)."""
        with self._writing() as connection:
            (held,) = connection.execute("SELECT count(*) FROM seen").fetchone()
            if held >= MAX_SEEN:
                return
            full = {
                (day, domain)
                for day, domain in {(day, one.published.domain) for day, one in counts}
                if connection.execute(_COUNT, (day, domain)).fetchone()[0] >= MAX_ROWS
            }
            connection.executemany(
                "INSERT INTO seen VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [
                    (
                        day,
                        one.published.domain,
                        _packed(one.published),
                        one.fault,
                        # RFC 8460 §4.4: of what went well only the number is told.
                        *((one.host, one.address, one.ours, one.words) if one.fault else ("", "", "", "")),
                        count,
                    )
                    for (day, one), count in counts.items()
                    if (day, one.published.domain) not in full
                ],
            )

    def due(self, today: int) -> list[tuple[int, str]]:
        """(day, domain) of days before today; what is too old is forgotten."""
        if self._connection is None and not os.path.exists(self._path):
            return []  # nobody has asked for a report yet
        with self._writing() as connection:
            connection.execute("DELETE FROM seen WHERE day < ?", (today - MAX_UNSENT,))
            rows = connection.execute(
                "SELECT DISTINCT day, domain FROM seen WHERE day < ? ORDER BY day, domain", (today,)
            )
            return [(day, domain) for day, domain in rows.fetchall()]

    def results(self, day: int, domain: str) -> tuple[PolicyResults, ...]:
        """What was seen of a domain on a day."""
        with self._lock:
            rows = self._open().execute(
                "SELECT published, fault, host, address, ours, words, count FROM seen "
                "WHERE day = ? AND domain = ? ORDER BY published, count DESC LIMIT ?",
                (day, domain, MAX_ROWS),
            )
            found: dict[str, PolicyResults] = {}
            for published, fault, host, address, ours, words, count in rows.fetchall():
                policy = found.get(published) or _empty(published)
                if fault:
                    failed = Failed(fault, count, host, address, ours, words)
                    policy = attrs.evolve(policy, bad=policy.bad + count, failures=(*policy.failures, failed))
                else:
                    policy = attrs.evolve(policy, good=policy.good + count)
                found[published] = policy
        return tuple(found.values())

    def sent(self, day: int, domain: str) -> None:
        """A report is on its way, or nobody wants it."""
        with self._writing() as connection:
            connection.execute("DELETE FROM seen WHERE day = ? AND domain = ?", (day, domain))

    # -- what others report ----------------------------------------------------------------------

    def add(self, report: TlsReport, proved: bool) -> bool:
        """Keep a report; False where it is here already.

        :param proved: the message that brought it is its organization's, as far as DMARC can say.
        """
        with self._writing() as connection:
            (held,) = connection.execute("SELECT count(*) FROM report").fetchone()
            if held >= MAX_REPORTS:
                connection.execute(
                    "DELETE FROM report WHERE id IN (SELECT id FROM report ORDER BY ends LIMIT 100)"
                )
            row = Reported(0, report, proved)
            cursor = connection.execute(
                "INSERT OR IGNORE INTO report (organization, name, domains, begins, ends, good, bad, proved, "
                "body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    report.organization,
                    report.id,
                    f" {' '.join(row.domains)} ",
                    report.begin,
                    report.end,
                    row.good,
                    row.bad,
                    proved,
                    to_json(report),
                ),
            )
            return bool(cursor.rowcount)

    def expire(self, before: int) -> None:
        """Forget reports that end before then."""
        with self._writing() as connection:
            connection.execute("DELETE FROM report WHERE ends < ?", (before,))

    def reported(self, domain: str = "", since: int = 0, number: int = 0) -> list[Reported]:
        """Reports of days after ``since``, the newest first: on one domain, or on all; or the one of that
        number."""
        with self._lock:
            rows = self._open().execute(
                "SELECT id, proved, body FROM report WHERE ends > ? AND (? = '' OR instr(domains, ?) > 0) "
                "AND (? = 0 OR id = ?) ORDER BY ends DESC, id DESC",
                (since, domain, f" {domain} ", number, number),
            )
            return [Reported(id_, from_json(body), bool(proved)) for id_, proved, body in rows.fetchall()]

    # -- Reports of MailboxReader ----------------------------------------------------------------

    def mark(self, name: str) -> str:
        """A value that was set, "" where none was."""
        with self._lock:
            row = self._open().execute("SELECT value FROM mark WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_mark(self, name: str, value: str) -> None:
        """Keep a value."""
        with self._writing() as connection:
            connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (name, value))

    # -- the connection --------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            make_private(self._path)
            connection = sqlite3.connect(
                self._path, isolation_level=None, timeout=10, check_same_thread=False, cached_statements=16
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _packed(published: Published) -> str:
    return json.dumps([published.type, published.domain, published.strings, published.hosts])


def _empty(packed: str) -> PolicyResults:
    kind, domain, strings, hosts = json.loads(packed)
    return PolicyResults(kind, domain, 0, 0, tuple(strings), tuple(hosts))
