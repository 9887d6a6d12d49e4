"""``lorrainemail doctor``: everything as the world sees it, each finding with what, why and what to do.

Runs the check-up (:mod:`lorrainemail.setup.doctor`) in this process, beside a running server or without one;
it changes nothing and sends no mail. Exit status 0 where nothing is bad, 1 where something is, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from lorrainemail.cli.domain import opened, parse_domain
from lorrainemail.cli.looping import run_in_reactor


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="look at everything as the world sees it; say what is wrong and what to do",
        description="The check-up: DNS records at each authoritative server, PTR, ports, certificates, DKIM "
        "keys, blocklists, relay, clock, disk, permissions, queue.",
    )
    parser.add_argument("--domain", type=parse_domain, action="append", help="only this domain (repeatable)")
    parser.add_argument("--all", action="store_true", help="show what is good too")
    parser.add_argument("--lang", choices=("en", "fr"), help="the language of the findings")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it; the exit status."""
    from lorrainemail.setup.doctor.words import line_of, words_of
    from lorrainemail.setup.new_domain import local_domains

    _, settings = opened(arguments)
    language = arguments.lang or settings.doctor.lang
    domains = arguments.domain or local_domains(settings)
    findings = _examined(settings, domains)
    sick = any(one.level == "bad" for one in findings)
    if arguments.json:
        rows = []
        for one in findings:
            words = words_of(one, language)
            row = {"case": one.case, "level": one.level, "subject": one.subject, "what": words.what}
            rows.append({**row, "why": words.why, "mend": words.mend} if words.why else row)
        print(json.dumps({"version": 1, "ok": not sick, "findings": rows}, ensure_ascii=False))
        return 1 if sick else 0
    shown = [one for one in findings if arguments.all or one.level != "good"]
    for one in shown:
        print(line_of(one, language))
    if not shown:
        print({"en": "Everything is as it should be.", "fr": "Tout est comme il faut."}[language])
    return 1 if sick else 0


def _examined(settings: Any, domains: Sequence[str]) -> Any:
    """Run the check-up in a reactor of our own."""
    from lorrainemail.setup.doctor.examine import examine

    live = _live(settings.state)
    return run_in_reactor(lambda reactor, in_thread: examine(reactor, settings, domains, live, in_thread))


def _live(state: str) -> Any:
    """What the running server says, where there is one."""
    from lorrainemail.control.client import Malformed, NotAllowed, NotRunning, Refused, call
    from lorrainemail.setup.doctor.examine import Live

    try:
        status = call(state, "status")
        items = call(state, "queue.list", limit=1)["items"]
    except (NotRunning, NotAllowed, Refused, Malformed):
        return Live(None)
    return Live(status, float(items[0]["age"]) if items else 0.0)
