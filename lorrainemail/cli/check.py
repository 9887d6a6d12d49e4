"""``lorrainemail check``: every error at once, then what the server would go by, then what is unwise.

Reads configuration and tables exactly as the server does at start (the same functions), and changes nothing;
with ``--confirm`` it notes that the table files are meant as they stand. Exit status 1 where the server would
not start or a table would not be used. Needs no running server.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import attrs
from twisted.internet.task import Clock

import lorrainemail.plugins
from lorrainemail.config.load import Located, load, locate
from lorrainemail.config.model import DOORS, OAuth, Settings
from lorrainemail.config.review import Finding, finding, review_settings
from lorrainemail.delivery.agents import find_plugins
from lorrainemail.delivery.hops import is_local
from lorrainemail.errors import ConfigurationError, Origin, Problem
from lorrainemail.setup.policy import make_policy
from lorrainemail.tables.backend import AliasRow, find_backend
from lorrainemail.tables.edit import confirm
from lorrainemail.tables.review import local_domains, review_tables, routes
from lorrainemail.tables.rules import RouteRow, RouteTable, Rules
from lorrainemail.tables.snapshot import Snapshot

#: Rows of one table that are shown to a person; ``--json`` has them all.
MAX_SHOWN: Final = 50
#: Accounts named in one finding.
MAX_NAMED: Final = 5
#: The order in which findings are shown, and the word for each.
_KINDS: Final = {
    "broken": "cannot work",
    "dangerous": "dangerous",
    "shadowed": "never reached",
    "useless": "without effect",
}


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="check configuration and tables; show what the server goes by",
        description="Check configuration and tables: every error with its line, the tables in the order in "
        "which they are tried, and rows that are shadowed, useless or dangerous.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--confirm",
        action="store_true",
        help="say that the table files are meant as they stand now, however many rows have gone",
    )
    parser.set_defaults(run=run)


@attrs.frozen(slots=True)
class Report:
    """What was found; ``snapshot`` and ``settings`` are None where errors kept them from being made."""

    located: Located | None
    errors: tuple[Problem, ...]
    settings: Settings | None = None
    snapshot: Snapshot | None = None
    warnings: tuple[Problem, ...] = ()


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    if arguments.confirm:
        try:
            confirm(locate(arguments.config, arguments.state).state)
        except ConfigurationError as error:
            _print_problems(error.problems)
            return 1
    report = examine(arguments.config, arguments.state)
    findings = review(report)
    if arguments.json:
        print(json.dumps(as_json(report, findings), ensure_ascii=False))
    else:
        print("\n".join(as_text(report, findings)))
    return 1 if report.errors else 0


def examine(config: str | None, state: str | None) -> Report:
    """Load everything, as the server does."""
    located: Located | None = None
    settings: Settings | None = None
    errors: list[Problem] = []
    try:
        located = locate(config, state)
        settings = load(located)
    except ConfigurationError as error:
        return Report(located, error.problems)
    try:
        make_policy(settings, Clock(), None)
    except ConfigurationError as error:
        errors += error.problems
    errors += _file_problems(settings)
    try:
        find_plugins(Rules.of(settings).deliver.values(), lorrainemail.plugins)
    except ConfigurationError as error:
        errors += error.problems
    try:
        backend = find_backend(settings.tables, lorrainemail.plugins, settings.origin("tables"))
        source = backend.open(settings.state)
        rules = Rules.of(settings)
        snapshot = Snapshot(source.load(rules), rules)
    except ConfigurationError as error:
        return Report(located, (*errors, *error.problems), settings)
    return Report(located, tuple(errors), settings, snapshot, tuple(source.warnings()))


def _file_problems(settings: Settings) -> Iterator[Problem]:
    """What keeps files that the configuration names from being used: certificate, authorities, zones. (The
    self-signed certificate is made at a start.)"""
    tls = settings.tls
    attempts: list[Callable[[], object]] = []
    if tls.certificate or tls.folders or tls.trust:
        from lorrainemail.certs.sources import Sources, load_all
        from lorrainemail.net.tls import ClientTls

        attempts += [lambda: load_all(Sources.of(settings)), lambda: ClientTls(tls.trust)]
    if settings.auth.client_ca or settings.oauth != OAuth():
        from lorrainemail.setup.logins import prepare_logins

        attempts.append(lambda: prepare_logins(settings, Clock()))
    if settings.dns.zones:
        from lorrainemail.dns.zonefile import load_zones

        attempts.append(lambda: load_zones(settings.dns.zones))
    for attempt in attempts:
        try:
            attempt()
        except ConfigurationError as error:
            yield from error.problems


def review(report: Report) -> list[Finding]:
    """All findings, the worst kinds first, then by file and line."""
    findings: list[Finding] = [Finding("broken", problem) for problem in report.warnings]
    if report.located is not None and report.located.embedded:
        return findings  # nothing is there yet: the first start makes it
    if report.settings is not None:
        findings += review_settings(report.settings)
        findings += _mailbox_scripts(report.settings)
        if report.snapshot is not None:
            findings += review_tables(report.snapshot, report.settings.hostname)
            findings += _credentials(report.snapshot)
            findings += _scram(report.settings, report.snapshot)
            findings += _sources(report.settings, report.snapshot)
    order = list(_KINDS)
    return sorted(findings, key=lambda f: (order.index(f.kind), f.problem.where, f.problem.line))


def _sources(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    """Addresses to connect from that this machine does not have."""
    tables: tuple[RouteTable | Literal["unknown_users"], ...] = ("relay", "relay_by_sender", "unknown_users")
    named = [(row.row.source, row.origin) for table in tables for row in routes(snapshot, table).values()]
    for addresses, origin in [(settings.queue.source, settings.origin("queue", "source")), *named]:
        for address in addresses:
            if not is_local(address):
                what = f"source: {address} is no address of this machine; mail would wait"
                yield finding("broken", origin, what, "give one that it has")


def _mailbox_scripts(settings: Settings) -> Iterator[Finding]:
    """Rows of [mailbox_scripts] whose script is missing or none."""
    if not settings.mailbox_scripts:
        return
    from lorrainemail.grammar.sieve import SieveError
    from lorrainemail.sieve.review import review as review_script
    from lorrainemail.sieve.storage import Scripts

    scripts = Scripts("", os.path.join(settings.state, "sieve"))
    for key, name in settings.mailbox_scripts.items():
        origin = settings.origin("mailbox_scripts", key)
        path = scripts.shared_path(name)
        try:
            octets = scripts.read_shared(name)
            if octets is None:
                yield finding("broken", origin, f"{path} is not there: nothing runs", "write the script")
            else:
                review_script(octets, lambda where, other: scripts.read_shared(other))
        except (SieveError, OSError) as error:
            yield finding("broken", origin, f"{path} cannot be used: {error}", "mend the script")


def _credentials(snapshot: Snapshot) -> Iterator[Finding]:
    """Passwords that nobody can log in with."""
    # Hashes take their time to load.
    from lorrainemail.sasl.credentials import faults
    from lorrainemail.sasl.passwords import credential_problem

    for account in snapshot.tables.accounts.accounts():
        for what, mend in faults(account):
            yield Finding("broken", credential_problem(account, what, mend))


def _scram(settings: Settings, snapshot: Snapshot) -> Iterator[Finding]:
    """Why SCRAM, which the operator wants, is not offered (yet)."""
    if not settings.auth.scram:
        return
    from lorrainemail.sasl.credentials import is_ready_for_scram

    where = settings.origin("auth", "scram")
    if not snapshot.tables.steady:
        what = f'SCRAM is never offered with the table backend "{settings.tables}"'
        yield Finding("useless", Problem(where.file, where.line, what, "accounts in files can have it"))
        return
    late = [one for one in snapshot.tables.accounts.accounts() if not is_ready_for_scram(one)]
    if late:
        names = ", ".join(one.address.key for one in late[:MAX_NAMED]) + (", ..." if late[MAX_NAMED:] else "")
        what = f"SCRAM is not offered yet: {len(late)} accounts have passwords without verifier ({names})"
        mend = "each gets it at its next login by PLAIN, and a new password has one"
        yield Finding("useless", Problem(where.file, where.line, what, mend))


def _print_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem)


# -- for people ------------------------------------------------------------------------------------------


def as_text(report: Report, findings: Sequence[Finding]) -> Iterator[str]:
    """Errors, tables, findings, one line each."""
    if report.errors:
        yield "Errors:"
        yield from (f"  {problem}" for problem in report.errors)
        yield ""
    if report.located is not None:
        default = "none: the embedded default, which the first start writes"
        yield f"Configuration: {report.located.file or default}"
        yield f"State: {report.located.state}"
    if report.settings is not None:
        yield ""
        yield from _doors(report.settings)
    if report.snapshot is not None:
        yield ""
        yield from _tables(report.snapshot)
    for kind, word in _KINDS.items():
        of_kind = [f.problem for f in findings if f.kind == kind]
        if of_kind:
            yield ""
            yield f"Rows and settings that are {word}:" if kind != "broken" else "What cannot work:"
            yield from _cut([f"  {problem}" for problem in of_kind])
    yield ""
    yield "The server would not use this." if report.errors else "No errors."


def _doors(settings: Settings) -> Iterator[str]:
    yield "Doors:"
    for door in DOORS:
        endpoints = getattr(settings.listen, door)
        yield f"  {door}: {', '.join(endpoints) if endpoints else 'closed'}"


def _tables(snapshot: Snapshot) -> Iterator[str]:
    """In the order in which a recipient meets them."""
    yield "A recipient is looked up in this order:"
    exact = [row for row in _sorted(routes(snapshot, "relay").values()) if "@" in row.pattern]
    domains = local_domains(snapshot)
    yield from _section(
        "1. relay rows for one whole address of a local domain",
        [_route(row) for row in exact if row.pattern.rpartition("@")[2] in domains],
    )
    yield from _section("2. local domains", [_at(row.name, row.origin) for row in domains.values()])
    yield from _section("3. aliases", [_alias(row) for row in snapshot.tables.aliases.aliases()])
    yield from _section(
        "4. accounts",
        [
            _at(f"{a.address.shown}{'' if a.enabled else ' (disabled)'}", a.origin)
            for a in snapshot.tables.accounts.accounts()
        ],
    )
    deliver = snapshot.rules.deliver.values()
    yield from _section(
        "   of which rows of [deliver] hand on",
        [_at(f"{row.pattern} → {row.courier} {row.argument}".rstrip(), row.origin) for row in deliver],
    )
    backup = [row for row in snapshot.rules.domains.values() if row.kind == "backup"]
    yield from _section(
        "5. other servers for unknown users of local domains",
        [_route(row) for row in _sorted(routes(snapshot, "unknown_users").values())],
    )
    yield from _section("6. relay domains (backup MX)", [_at(row.name, row.origin) for row in backup])
    yield ""
    yield "Who may send anywhere: whoever logged in, and without login:"
    networks = [*snapshot.rules.networks, *snapshot.tables.networks.networks()]
    yield from _section("relay networks", [_at(str(row.network), row.origin) for row in networks])
    yield ""
    yield "Mail for elsewhere goes, the first match wins:"
    yield from _section(
        "1. by sender", [_route(row) for row in _sorted(routes(snapshot, "relay_by_sender").values())]
    )
    yield from _section(
        "2. by recipient", [_route(row) for row in _sorted(routes(snapshot, "relay").values())]
    )
    yield "  3. else: as the DNS says (MX)"


def _section(title: str, rows: Sequence[str]) -> Iterator[str]:
    yield f"  {title}{'' if rows else ': none'}"
    yield from _cut([f"    {row}" for row in rows])


def _cut(rows: Sequence[str]) -> Iterator[str]:
    yield from rows[:MAX_SHOWN]
    if len(rows) > MAX_SHOWN:
        yield f"    and {len(rows) - MAX_SHOWN} more (--json shows all)"


def _at(text: str, origin: Origin) -> str:
    return f"{text}  [{origin}]"


def _alias(row: AliasRow) -> str:
    return _at(f"{row.key} → {', '.join(target.text for target in row.targets)}", row.origin)


def specificity(pattern: str) -> tuple[int, int, str]:
    """Sorts patterns as they are tried: addresses, domains, the longest suffix, ``*``."""
    if pattern == "*":
        return 3, 0, pattern
    if "@" in pattern or pattern == "<>":
        return 0, 0, pattern
    if pattern.startswith("*."):
        return 2, -pattern.count("."), pattern
    return 1, 0, pattern


def _sorted(rows: Any) -> list[RouteRow]:
    return sorted(rows, key=lambda row: specificity(row.pattern))


def next_hop_words(row: RouteRow) -> str:
    """What a relay row does, in words."""
    relay = row.row
    if relay.reject:
        return f'refused: "{relay.reject}"'
    joint = " or " if relay.share else ", then "
    words = "as the DNS says (MX)" if relay.mx else joint.join(relay.host)
    extras = [f"TLS {relay.tls}"] if relay.tls != "opportunistic" else []
    extras += [f"as {relay.credentials}"] if relay.credentials else []
    extras += [f"from {' and '.join(relay.source)}"] if relay.source else []
    extras += ["our addresses rewritten"] if relay.rewrite else []
    extras += [f"at most {relay.concurrency} at once"] if relay.concurrency else []
    extras += [f"at most {relay.rate} a minute"] if relay.rate else []
    return words + (f" ({', '.join(extras)})" if extras else "")


def _route(row: RouteRow) -> str:
    return _at(f"{row.pattern} → {next_hop_words(row)}", row.origin)


# -- for programs ----------------------------------------------------------------------------------------


def as_json(report: Report, findings: Sequence[Finding]) -> dict[str, Any]:
    """The same as one object."""
    answer: dict[str, Any] = {
        "version": 1,
        "ok": not report.errors,
        "errors": [_problem(problem) for problem in report.errors],
        "findings": [{"kind": f.kind, **_problem(f.problem)} for f in findings],
    }
    if report.located is not None:
        answer["file"] = report.located.file
        answer["state"] = report.located.state
    if report.settings is not None:
        answer["listen"] = {door: list(getattr(report.settings.listen, door)) for door in DOORS}
    if report.snapshot is not None:
        answer["tables"] = _tables_json(report.snapshot)
    return answer


def _tables_json(snapshot: Snapshot) -> dict[str, Any]:
    tables = snapshot.tables
    backup = [row for row in snapshot.rules.domains.values() if row.kind == "backup"]
    return {
        "local_domains": [_row(row.origin, name=name) for name, row in local_domains(snapshot).items()],
        "relay_domains": [_row(row.origin, name=row.name) for row in backup],
        "aliases": [
            _row(row.origin, name=row.key, targets=[target.text for target in row.targets])
            for row in tables.aliases.aliases()
        ],
        "accounts": [
            _row(a.origin, address=a.address.key, enabled=a.enabled, format=a.format, quota=a.quota)
            for a in tables.accounts.accounts()
        ],
        "relay_networks": [
            _row(row.origin, network=str(row.network))
            for row in (*snapshot.rules.networks, *tables.networks.networks())
        ],
        "deliver": [
            _row(row.origin, pattern=row.pattern, courier=row.courier, argument=row.argument)
            for row in snapshot.rules.deliver.values()
        ],
        "relay": [_route_json(row) for row in _sorted(routes(snapshot, "relay").values())],
        "relay_by_sender": [
            _route_json(row) for row in _sorted(routes(snapshot, "relay_by_sender").values())
        ],
        "unknown_users": [_route_json(row) for row in _sorted(routes(snapshot, "unknown_users").values())],
    }


def _route_json(row: RouteRow) -> dict[str, Any]:
    relay = row.row
    return _row(
        row.origin,
        pattern=row.pattern,
        hosts=list(relay.host),
        mx=relay.mx,
        share=relay.share,
        tls=relay.tls,
        credentials=relay.credentials,
        reject=relay.reject,
        source=list(relay.source),
        concurrency=relay.concurrency,
        rate=relay.rate,
        rewrite=relay.rewrite,
    )


def _row(origin: Origin, **values: Any) -> dict[str, Any]:
    return {**values, "file": origin.file, "line": origin.line}


def _problem(problem: Problem) -> dict[str, Any]:
    return {"file": problem.where, "line": problem.line, "what": problem.what, "mend": problem.mend}
