"""``lorrainemail tls-report``: how other servers found TLS with ours, as their reports say (RFC 8460).

``list`` has one line a report; ``show`` says in words what failed, by domain, or all of one report; ``read``
takes report files that were saved from elsewhere. All work on ``tls-reports.sqlite``, with or without a
running server. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from lorrainemail.config.load import load, locate
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.tables.edit import as_owner

if TYPE_CHECKING:
    from lorrainemail.tlspolicy.report import Failed, PolicyResults
    from lorrainemail.tlspolicy.report_file import Reported, TlsReportFile

#: Days that are shown where nothing is said.
DAYS: Final = 30

#: The faults of RFC 8460 §4.3 in plain words, and what to look at.
FAULTS: Final = {
    "starttls-not-supported": "our server did not offer STARTTLS (or somebody on the way removed it)",
    "certificate-host-mismatch": "the certificate was not for the name of the server",
    "certificate-expired": "the certificate had expired",
    "certificate-not-trusted": "the certificate was not of a known authority",
    "validation-failure": "TLS failed, or the server was not the one that the policy names",
    "tlsa-invalid": "the TLSA records were not valid",
    "dnssec-invalid": "the DNS answers were not valid by DNSSEC",
    "dane-required": "the sender wanted DANE and there was none",
    "sts-policy-fetch-error": "the MTA-STS policy could not be fetched",
    "sts-policy-invalid": "the MTA-STS policy could not be understood",
    "sts-webpki-invalid": "the web server of the MTA-STS policy had no valid certificate",
}
_POLICIES: Final = {"tlsa": "DANE", "sts": "MTA-STS", "no-policy-found": "no policy"}


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "tls-report",
        help="how other servers found TLS with ours",
        description="TLS reports that other servers sent us: how many sessions with ours were well, and why "
        "others were not.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)
    for word, run, about in (
        ("list", run_list, "one line a report"),
        ("show", run_show, "what failed, by domain; or all of one report"),
    ):
        one = words.add_parser(word, help=about)
        one.add_argument(
            "what", metavar="DOMAIN" if word == "list" else "DOMAIN|NUMBER", nargs="?", default=""
        )
        one.add_argument("--days", type=int, default=DAYS, help=f"how far back (default: {DAYS})")
        one.add_argument("--json", action="store_true", help="one JSON object")
        one.set_defaults(run=run)
    read = words.add_parser("read", help="take reports from files: JSON, gzip, or whole messages")
    read.add_argument("files", metavar="FILE", nargs="+")
    read.set_defaults(run=run_read)


def run_list(arguments: argparse.Namespace) -> int:
    rows = _reported(arguments)
    if arguments.json:
        print(json.dumps({"version": 1, "days": arguments.days, "reports": [_as_json(row) for row in rows]}))
        return 0
    for row in rows:
        state = "all well" if not row.bad else f"{row.bad} FAILED"
        print(
            f"{row.number:>5}  {_date(row.report.begin)}  {', '.join(row.domains)}  "
            f"{row.report.organization}: {row.good} well, {state}"
        )
    if not rows:
        print(_NOTHING)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    rows = _reported(arguments)
    if arguments.json:
        print(json.dumps({"version": 1, "days": arguments.days, "reports": [_as_json(row) for row in rows]}))
    elif rows:
        print("\n".join(as_text(rows)))
    else:
        print(f"There is no report {arguments.what}." if arguments.what.isdigit() else _NOTHING)
    return 1 if arguments.what.isdigit() and not rows else 0


def run_read(arguments: argparse.Namespace) -> int:
    from lorrainemail.tlspolicy.report import MAX_PACKED, ReportFault, from_octets
    from lorrainemail.tlspolicy.report_mail import reports_in

    located = locate(arguments.config, arguments.state)
    hostname = load(located).hostname
    failed = False

    def take(file: TlsReportFile) -> None:
        nonlocal failed
        for name in arguments.files:
            try:
                with open(name, "rb") as stream:
                    octets = stream.read(2 * MAX_PACKED)
                found = [from_octets(octets)]
            except OSError as error:
                failed = True
                print(f"{name}: {error.strerror}", file=sys.stderr)
                continue
            except ReportFault as fault:
                found = [report for report, _ in reports_in(octets, hostname)]
                if not found:
                    failed = True
                    print(f"{name}: {fault}", file=sys.stderr)
            for report in found:
                words = "taken" if file.add(report, False) else "is here already"
                print(f"{name}: report of {report.organization} {words}")

    _with_file(located.state, take)
    return 1 if failed else 0


def _reported(arguments: argparse.Namespace) -> list[Reported]:
    from lorrainemail.tlspolicy.report_file import FILE

    state = locate(arguments.config, arguments.state).state
    found: list[Reported] = []
    if os.path.exists(os.path.join(state, FILE)):
        what = arguments.what.lower().rstrip(".")
        since = int(time.time()) - arguments.days * 86400
        number = int(what) if what.isdigit() and len(what) < 18 else 0

        def take(file: TlsReportFile) -> None:
            found.extend(file.reported(number=number) if number else file.reported(what, since))

        _with_file(state, take)
    return found


def _with_file(state: str, work: Callable[[TlsReportFile], None]) -> None:
    from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile

    path = os.path.join(state, FILE)
    with as_owner(state):
        file = TlsReportFile(path)
        try:
            work(file)
        except sqlite3.Error as error:
            problem = Problem(path, 0, f"cannot be used: {error}", "move it away")
            raise ConfigurationError((problem,)) from None
        finally:
            file.close()


# -- for people ------------------------------------------------------------------------------------------

_NOTHING: Final = (
    'There are no reports. The record _smtp._tls asks for them ("lorrainemail domain dns" has it); '
    "[tls_reports] mailbox names the account where they arrive."
)


def as_text(rows: list[Reported]) -> Iterator[str]:
    """By domain: how many sessions, who says so, and what failed."""
    domains = dict.fromkeys(domain for row in rows for domain in row.domains)
    for number, domain in enumerate(sorted(domains)):
        of_domain = [(row, one) for row in rows for one in row.report.policies if one.domain == domain]
        good, bad = (sum(getattr(one, name) for _, one in of_domain) for name in ("good", "bad"))
        first = _date(min(row.report.begin for row, _ in of_domain))
        last = _date(max(row.report.end for row, _ in of_domain))
        yield from [""] if number else []
        yield f"{domain}, {first} to {last}: {good} sessions were well, {bad} failed"
        for row, one in of_domain:
            kind = _POLICIES.get(one.type, one.type)
            proved = "" if row.proved else ", sender not proved"
            yield (
                f"  {row.number}. {row.report.organization}, {_date(row.report.begin)}, {kind}: "
                f"{one.good} well, {one.bad} failed{proved}"
            )
            yield from _failures(one)


def _failures(one: PolicyResults) -> Iterator[str]:
    for failed in one.failures:
        yield f"    {failed.count:>6}  {FAULTS.get(failed.type, failed.type)}"
        where = _where(failed)
        if where:
            yield f"            {where}"
    if one.bad and one.type == "sts" and one.strings:
        yield f"    they went by this policy: {'; '.join(one.strings)}"


def _where(failed: Failed) -> str:
    at = f"at {failed.host or failed.address}" if failed.host or failed.address else ""
    address = f" [{failed.address}]" if failed.host and failed.address else ""
    sender = f" from {failed.sender}" if failed.sender else ""
    return f"{at}{address}{sender}{f': {failed.info}' if failed.info else ''}".strip()


def _date(when: int) -> str:
    return time.strftime("%d %b %Y", time.gmtime(when))


def _as_json(row: Reported) -> dict[str, Any]:
    from lorrainemail.tlspolicy.report import to_json

    return {
        "number": row.number,
        "proved": row.proved,
        "good": row.good,
        "bad": row.bad,
        "report": json.loads(to_json(row.report)),
    }
