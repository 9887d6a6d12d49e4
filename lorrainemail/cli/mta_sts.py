"""``lorrainemail mta-sts``: what our MTA-STS policies say, how the checks went, and what to let them say.

Works on the state directory with or without a running server, which sees a change at the next request. ``set
DOMAIN enforce`` wants a week of clean checks, unless ``--now`` is given. Exit status 0 done, 1 failed, 2
usage.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any, NoReturn

from lorrainemail.addresses import AddressError, normalise_domain
from lorrainemail.config.load import load, locate
from lorrainemail.config.model import Settings
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.tables.edit import as_owner


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "mta-sts",
        help="what our MTA-STS policies say, and whether they may enforce",
        description="MTA-STS: a policy tells other servers to deliver to a domain by verified TLS alone.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)
    listing = words.add_parser("list", help="each domain's mode, the id for its record, and the checks")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    listing.set_defaults(run=run_list)
    setting = words.add_parser("set", help="let the policy of a domain say testing, enforce or none")
    setting.add_argument("domain", metavar="DOMAIN")
    setting.add_argument("mode", metavar="MODE", choices=("testing", "enforce", "none"))
    setting.add_argument("--now", action="store_true", help="enforce without a week of clean checks")
    setting.add_argument("--json", action="store_true", help="one JSON object")
    setting.set_defaults(run=run_set)


def run_list(arguments: argparse.Namespace) -> int:
    from lorrainemail.http.mta_sts import Policies
    from lorrainemail.setup.new_domain import local_domains

    settings = _settings(arguments)
    policies = Policies(settings)
    rows = [_row(policies, domain) for domain in local_domains(settings)]
    if arguments.json:
        print(json.dumps({"version": 1, "domains": rows}))
        return 0
    for row in rows:
        print(f"{row['domain']}  {row['mode']}  id={row['id']}")
        print(f"    {_words(row)}")
        for reason in row["reasons"]:
            print(f"    - {reason}")
    if not rows:
        print("There is no domain yet.")
    return 0


def run_set(arguments: argparse.Namespace) -> int:
    from lorrainemail.http.mta_sts import Policies
    from lorrainemail.setup.new_domain import local_domains

    settings = _settings(arguments)
    try:
        domain = normalise_domain(arguments.domain)
    except AddressError as error:
        _fail("", 0, f'"{arguments.domain}": {error}', "give a domain such as bricoleur.com")
    if domain not in local_domains(settings):
        _fail(
            settings.file,
            0,
            f"{domain} is no domain of this server",
            '"lorrainemail domain list" says which are',
        )
    if settings.mta_sts.mode != "by domain":
        line = settings.origin("mta_sts", "mode").line
        what = f'the configuration says "{settings.mta_sts.mode}" for all domains'
        _fail(settings.file, line, what, "take mode out of [mta_sts], then reload")
    policies = Policies(settings)
    if arguments.mode == "enforce" and not (arguments.now or policies.standing(domain).enforce_offered()):
        what = f"{domain} has not had a week of clean checks yet"
        _fail("", 0, what, '"lorrainemail mta-sts list" says what they found; --now does it all the same')
    try:
        with as_owner(settings.state):
            policies.choose(domain, arguments.mode)
    except OSError as error:
        _fail(error.filename or settings.state, 0, error.strerror or str(error), "run as the server's user")
    row = _row(policies, domain)
    if arguments.json:
        print(json.dumps({"version": 1, **row}))
    else:
        print(f"The policy of {domain} says {row['mode']} now. Its record in the DNS must change with it:\n")
        print(f'_mta-sts.{domain}. IN TXT "v=STSv1; id={row["id"]}"')
    return 0


def _row(policies: Any, domain: str) -> dict[str, Any]:
    standing = policies.standing(domain)
    return {
        "domain": domain,
        "mode": policies.mode(domain),
        "id": policies.id(domain),
        "checked": standing.checked,
        "clean_since": standing.clean_since,
        "enforce_offered": standing.enforce_offered(),
        "reasons": list(standing.reasons),
    }


def _words(row: dict[str, Any]) -> str:
    if not row["checked"]:
        return "not checked yet"
    when = _day(row["checked"])
    if not row["clean_since"]:
        return f"the check of {when} found:"
    clean = f"clean at every check from {_day(row['clean_since'])} to {when}"
    if row["enforce_offered"] and row["mode"] == "testing":
        return f'{clean}: "lorrainemail mta-sts set {row["domain"]} enforce" may be said'
    return clean


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _settings(arguments: argparse.Namespace) -> Settings:
    return load(locate(arguments.config, arguments.state))


def _fail(where: str, line: int, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(where, line, what, mend),))
