"""``dmarc.sqlite`` in the state directory: what we saw, for reports of ours, and what others report of us.

Owns that file. All methods block and are called in threads, or by commands; a lock makes them one after the
other. Raises sqlite3.Error and OSError. Bounded: :data:`MAX_SEEN` rows of what was seen, :data:`MAX_REPORTED`
of what was reported; what is sent or too old is deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import attrs

from lorrainemail.mailauth.report import AuthResult, Published, Record, Report
from lorrainemail.ops.statefile import MARKS, StateFile

FILE: Final = "dmarc.sqlite"
#: Rows that are kept of what was seen, and of what was reported.
MAX_SEEN: Final = 500_000
MAX_REPORTED: Final = 1_000_000
#: Days after which what was not sent is not worth sending.
MAX_UNSENT: Final = 7

_SCHEMA: Final = (
    MARKS
    + """
CREATE TABLE IF NOT EXISTS seen (
    day INTEGER NOT NULL, domain TEXT NOT NULL, published TEXT NOT NULL, record TEXT NOT NULL,
    count INTEGER NOT NULL, PRIMARY KEY (day, domain, published, record)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wanted (
    day INTEGER NOT NULL, domain TEXT NOT NULL, addresses TEXT NOT NULL, PRIMARY KEY (day, domain)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS report (
    id INTEGER PRIMARY KEY, organization TEXT NOT NULL, name TEXT NOT NULL, domain TEXT NOT NULL,
    begins INTEGER NOT NULL, ends INTEGER NOT NULL, policy TEXT NOT NULL, proved INTEGER NOT NULL,
    UNIQUE (organization, name, domain)
);
CREATE TABLE IF NOT EXISTS reported (
    report INTEGER NOT NULL REFERENCES report ON DELETE CASCADE, source TEXT NOT NULL, count INTEGER NOT NULL,
    disposition TEXT NOT NULL, dkim INTEGER NOT NULL, spf INTEGER NOT NULL, header_from TEXT NOT NULL,
    reason TEXT NOT NULL, results TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS reported_report ON reported (report);
"""
)


@attrs.frozen(slots=True)
class Reported:
    """One source of one domain's mail, as others saw it, added up."""

    domain: str
    source: str
    organization: str
    count: int
    disposition: str
    dkim: bool
    spf: bool
    header_from: str
    reason: str
    results: tuple[AuthResult, ...]
    begins: int
    ends: int
    proved: bool


class ReportFile(StateFile):
    """The file.

    :param path: made with mode 0600 at the first write.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, _SCHEMA)

    # -- what we saw -----------------------------------------------------------------------------

    def see(self, rows: Sequence[tuple[int, Published, Record]], wanted: dict[tuple[int, str], str]) -> None:
        """Add up records of a day (since the epoch); ``wanted`` says where reports on them go."""
        with self.writing() as connection:
            (held,) = connection.execute("SELECT count(*) FROM seen").fetchone()
            if held >= MAX_SEEN:
                return
            connection.executemany(
                "INSERT INTO seen VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET count = count + excluded.count",
                [
                    (
                        day,
                        published.domain,
                        _packed(published),
                        _packed(attrs.evolve(record, count=0)),
                        record.count,
                    )
                    for day, published, record in rows
                ],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO wanted VALUES (?, ?, ?)",
                [(day, domain, addresses) for (day, domain), addresses in wanted.items()],
            )

    def due(self, today: int) -> list[tuple[int, str, tuple[str, ...]]]:
        """(day, domain, addresses) of reports on days before today; what is too old is forgotten."""
        with self.writing() as connection:
            for table in ("seen", "wanted"):
                connection.execute(f"DELETE FROM {table} WHERE day < ?", (today - MAX_UNSENT,))
            rows = connection.execute(
                "SELECT day, domain, addresses FROM wanted WHERE day < ? ORDER BY day, domain", (today,)
            )
            return [(day, domain, tuple(addresses.split())) for day, domain, addresses in rows.fetchall()]

    def records(self, day: int, domain: str, most: int) -> tuple[Published, tuple[Record, ...]] | None:
        """What was seen of a domain on a day under the policy that held for most of it."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT published, record, count FROM seen WHERE day = ? AND domain = ? "
                "ORDER BY count DESC LIMIT ?",
                (day, domain, most),
            ).fetchall()
        if not rows:
            return None
        published = Published(**json.loads(rows[0][0]))
        return published, tuple(_record(text, count) for _, text, count in rows)

    def sent(self, day: int, domain: str) -> None:
        """A report is on its way, or nobody may have it."""
        with self.writing() as connection:
            for table in ("seen", "wanted"):
                connection.execute(f"DELETE FROM {table} WHERE day = ? AND domain = ?", (day, domain))

    # -- what others report ----------------------------------------------------------------------

    def add(self, report: Report, proved: bool) -> bool:
        """Keep a report; False where it is here already.

        :param proved: the message that brought it is its organization's, as far as DMARC can say.
        """
        with self.writing() as connection:
            (held,) = connection.execute("SELECT count(*) FROM reported").fetchone()
            if held + len(report.records) > MAX_REPORTED:
                oldest = "SELECT id FROM report ORDER BY ends LIMIT 100"
                connection.execute(f"DELETE FROM reported WHERE report IN ({oldest})")
                connection.execute(f"DELETE FROM report WHERE id IN ({oldest})")
            cursor = connection.execute(
                "INSERT OR IGNORE INTO report (organization, name, domain, begins, ends, policy, proved) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    report.organization,
                    report.id,
                    report.published.domain,
                    report.begin,
                    report.end,
                    report.published.p,
                    proved,
                ),
            )
            if not cursor.rowcount:
                return False
            connection.executemany(
                "INSERT INTO reported VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        cursor.lastrowid,
                        one.source,
                        one.count,
                        one.disposition,
                        one.dkim,
                        one.spf,
                        one.header_from,
                        one.reason[0],
                        json.dumps([attrs.astuple(result) for result in one.results]),
                    )
                    for one in report.records
                ],
            )
            return True

    def expire(self, before: int) -> None:
        """Forget reports that end before then."""
        with self.writing() as connection:
            old = "SELECT id FROM report WHERE ends < ?"
            connection.execute(f"DELETE FROM reported WHERE report IN ({old})", (before,))
            connection.execute("DELETE FROM report WHERE ends < ?", (before,))

    def reported(self, domain: str, since: int) -> list[Reported]:
        """What was reported of a domain ("" for all) for days after then; the most messages first."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT domain, source, organization, sum(count), disposition, dkim, spf, header_from, "
                "reason, results, min(begins), max(ends), proved FROM reported JOIN report "
                "ON report.id = reported.report WHERE ends > ? AND (? = '' OR domain = ?) "
                "GROUP BY domain, source, organization, disposition, dkim, spf, header_from, reason, "
                "results, proved ORDER BY domain, sum(count) DESC",
                (since, domain, domain),
            ).fetchall()
        return [_reported(row) for row in rows]


def _packed(value: Published | Record) -> str:
    return json.dumps(attrs.asdict(value), sort_keys=True, separators=(",", ":"))


def _record(text: str, count: int) -> Record:
    facts = json.loads(text)
    facts |= {
        "count": count,
        "reason": tuple(facts["reason"]),
        "results": tuple(AuthResult(**one) for one in facts["results"]),
    }
    return Record(**facts)


def _reported(row: tuple[Any, ...]) -> Reported:
    domain, source, organization, count, disposition, dkim, spf, author, reason, results, *rest = row
    begins, ends, proved = rest
    told = tuple(AuthResult(*one) for one in json.loads(results))
    return Reported(
        domain,
        source,
        organization,
        count,
        disposition,
        bool(dkim),
        bool(spf),
        author,
        reason,
        told,
        begins,
        ends,
        bool(proved),
    )
