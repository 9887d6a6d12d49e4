"""``lorrainemail dmarc``: what other servers report of mail in the name of our domains.

``report`` shows it by domain and source; ``read`` takes report files that were saved from elsewhere. Both
work on ``dmarc.sqlite``, with or without a running server. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from lorrainemail.config.load import locate
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.tables.edit import as_owner

if TYPE_CHECKING:
    from lorrainemail.mailauth.report import Report
    from lorrainemail.mailauth.report_file import Reported

#: Days that are shown where nothing is said, and sources of one domain.
DAYS: Final = 30
MAX_SOURCES: Final = 50


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "dmarc",
        help="what other servers report of mail in the name of our domains",
        description="DMARC reports that other servers sent us: who sends in the name of our domains, and "
        "whether SPF and DKIM vouch for it.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)

    report = words.add_parser("report", help="by domain and source")
    report.add_argument("domain", metavar="DOMAIN", nargs="?", default="", help="only this one")
    report.add_argument("--days", type=int, default=DAYS, help=f"how far back (default: {DAYS})")
    report.add_argument("--json", action="store_true", help="one JSON object")
    report.set_defaults(run=run_report)

    read = words.add_parser("read", help="take reports from files: XML, gzip, zip, or whole messages")
    read.add_argument("files", metavar="FILE", nargs="+")
    read.set_defaults(run=run_read)


def run_report(arguments: argparse.Namespace) -> int:
    from lorrainemail.mailauth.report_file import FILE, ReportFile

    state = locate(arguments.config, arguments.state).state
    path = os.path.join(state, FILE)
    rows: list[Reported] = []
    if os.path.exists(path):
        try:
            with as_owner(state):
                file = ReportFile(path)
                since = max(0, int(time.time()) - arguments.days * 86400)
                rows = file.reported(arguments.domain.lower().rstrip("."), since)
                file.close()
        except sqlite3.Error as error:
            raise ConfigurationError(
                (Problem(path, 0, f"cannot be read: {error}", "move it away"),)
            ) from None
    if arguments.json:
        print(json.dumps({"version": 1, "days": arguments.days, "rows": [_as_json(one) for one in rows]}))
    else:
        print("\n".join(as_text(rows)))
    return 0


def run_read(arguments: argparse.Namespace) -> int:
    from lorrainemail.config.load import load
    from lorrainemail.mailauth.report import MAX_PACKED, ReportFault, from_octets
    from lorrainemail.mailauth.report_file import FILE, ReportFile

    located = locate(arguments.config, arguments.state)
    hostname = load(located).hostname
    failed = False
    path = os.path.join(located.state, FILE)
    with as_owner(located.state):
        file = ReportFile(path)
        for name in arguments.files:
            try:
                with open(name, "rb") as stream:
                    octets = stream.read(2 * MAX_PACKED)
            except OSError as error:
                failed = True
                print(f"{name}: cannot be read: {error.strerror}", file=sys.stderr)
                continue
            try:
                found = [from_octets(octets)]
            except ReportFault as fault:
                found = _attached(octets, hostname)
                if not found:
                    failed = True
                    print(f"{name}: {fault}", file=sys.stderr)
            try:
                for report in found:
                    new = file.add(report, False)
                    words = "taken" if new else "is here already"
                    print(f"{name}: report of {report.organization} on {report.published.domain} {words}")
            except (sqlite3.Error, OSError) as error:
                mend = "run as the server's user, or see whether the disk is full"
                raise ConfigurationError((Problem(path, 0, f"cannot be written: {error}", mend),)) from None
        file.close()
    return 1 if failed else 0


def _attached(octets: bytes, hostname: str) -> list[Report]:
    """The reports in a message; none where that is no message."""
    from lorrainemail.mailauth.report_mail import reports_in

    try:
        return [report for report, _ in reports_in(octets, hostname)]
    except RecursionError:
        return []


# -- for people ------------------------------------------------------------------------------------------


def as_text(rows: Iterable[Reported]) -> Iterator[str]:
    """By domain: how much, from when to when; by source: how much passed, who says so, what was done."""
    told = False
    for domain, group in groupby(rows, lambda row: row.domain):
        of_domain = list(group)
        yield from [""] if told else []
        told = True
        count = sum(row.count for row in of_domain)
        passed = sum(row.count for row in of_domain if row.dkim or row.spf)
        organizations = sorted({row.organization for row in of_domain})
        first = _date(min(row.begins for row in of_domain))
        last = _date(max(row.ends for row in of_domain))
        yield f"{domain}, {first} to {last}: {count} messages, {passed} passed, {count - passed} failed"
        yield f"  reported by {', '.join(organizations[:10])}" + (" and others" if organizations[10:] else "")
        by_source: dict[str, list[Reported]] = {}
        for row in of_domain:
            by_source.setdefault(row.source, []).append(row)
        ordered = sorted(by_source.items(), key=lambda one: -sum(row.count for row in one[1]))
        for source, of_source in ordered[:MAX_SOURCES]:
            yield from _source(source, of_source)
        if ordered[MAX_SOURCES:]:
            yield f"  and {len(ordered) - MAX_SOURCES} more sources (--json has all)"
    if not told:
        yield "There are no reports. Records ask for them with rua=; [dmarc] mailbox names where they arrive."


def _source(source: str, rows: list[Reported]) -> Iterator[str]:
    yield f"  {source}: {sum(row.count for row in rows)} messages"
    groups: dict[tuple[str, ...], int] = {}
    for row in rows:
        groups[_verdict(row)] = groups.get(_verdict(row), 0) + row.count
    for (verdict, detail, done), count in sorted(groups.items(), key=lambda one: -one[1]):
        yield f"    {count:>7}  {verdict}{f' ({detail})' if detail else ''}{f', {done}' if done else ''}"


def _verdict(row: Reported) -> tuple[str, str, str]:
    vouch = [name for name, passed in (("SPF", row.spf), ("DKIM", row.dkim)) if passed]
    done = {"none": "", "pass": "", "quarantine": "put aside", "reject": "refused"}.get(row.disposition, "")
    if row.reason:
        done = f"{done or 'delivered'}: {row.reason.replace('_', ' ')}"
    if vouch:
        return f"pass by {' and '.join(vouch)}", "", done
    others = [f"{one.method} {one.result} for {one.domain}" for one in row.results if one.domain]
    return f"FAIL in the name of {row.header_from}", "; ".join(others[:4]), done or "delivered"


def _date(when: int) -> str:
    return time.strftime("%d %b %Y", time.gmtime(when))


def _as_json(row: Reported) -> dict[str, Any]:
    return {
        "domain": row.domain,
        "source": row.source,
        "organization": row.organization,
        "count": row.count,
        "disposition": row.disposition,
        "dkim": row.dkim,
        "spf": row.spf,
        "header_from": row.header_from,
        "reason": row.reason,
        "results": [
            {"method": one.method, "domain": one.domain, "result": one.result, "name": one.name}
            for one in row.results
        ],
        "begins": row.begins,
        "ends": row.ends,
        "proved": row.proved,
    }
