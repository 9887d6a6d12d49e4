"""``lorrainemail dkim``: the keys that sign our users' mail, and what the DNS must say of them.

Works on the files of :mod:`lorrainemail.mailauth.keys`, with or without a running server, which sees a change
at its next message. A domain's first keys sign at once; later ones wait until ``activate``, so that their
records can be published first. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from lorrainemail.addresses import AddressError, normalise_domain
from lorrainemail.config.load import locate
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.tables.edit import as_owner

T = TypeVar("T")


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "dkim",
        help="keys that sign the mail of our users, and their DNS records",
        description="DKIM keys: an RSA and an Ed25519 key for each domain sign what its users send.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)

    generate = words.add_parser("generate", help="new keys for a domain; prints their DNS records")
    _domain(generate)
    generate.set_defaults(run=run_generate)

    activate = words.add_parser("activate", help="sign with the keys that wait, once the DNS has them")
    _domain(activate)
    activate.set_defaults(run=run_activate)

    listing = words.add_parser("list", help="all keys")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    listing.set_defaults(run=run_list, domain=None)

    record = words.add_parser("record", help="the DNS records of a domain's keys, as lines of a zone file")
    _domain(record)
    record.set_defaults(run=run_record)


def run_generate(arguments: argparse.Namespace) -> int:
    from lorrainemail.mailauth import keys

    state, domain = _state(arguments), arguments.domain
    day = datetime.now(UTC).strftime("%Y%m%d")

    def make() -> list[keys.StoredKey]:
        waits = any(one.state == "signs" for one in keys.stored_keys(state, domain))
        return keys.generate(state, domain, day, waits)

    made = _guarded(state, make)
    if arguments.json:
        return _print_json(made)
    print(f"Publish these records in the DNS of {domain}:\n")
    for one in made:
        print(one.key.zone_line())
    if made[0].state == "waits":
        print(
            f'\nThe old keys sign until "lorrainemail dkim activate {domain}"; the DNS must have these first.'
        )
    else:
        print(f"\nMail from {domain} is signed from now on; it is believed once the DNS has these.")
    return 0


def run_activate(arguments: argparse.Namespace) -> int:
    from lorrainemail.mailauth import keys

    state, domain = _state(arguments), arguments.domain
    activated = _guarded(state, lambda: keys.activate(state, domain))
    if not activated:
        _fail(state, f"no keys of {domain} wait", f'"lorrainemail dkim generate {domain}" makes some')
    if arguments.json:
        return _print_json(activated)
    selectors = " and ".join(one.key.selector for one in activated)
    print(f"Mail from {domain} is signed with {selectors}. Leave the old records in the DNS for a week.")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    stored = _stored(arguments)
    if arguments.json:
        return _print_json(stored)
    for one in stored:
        print(f"{one.key.domain}  {one.key.selector}  {one.key.kind}  {one.state}  {one.path}")
    if not stored:
        print('There are no keys yet: "lorrainemail dkim generate DOMAIN" makes some.')
    return 0


def run_record(arguments: argparse.Namespace) -> int:
    stored = _stored(arguments)
    if not stored:
        _fail(
            _state(arguments),
            f"{arguments.domain} has no keys",
            f'"lorrainemail dkim generate {arguments.domain}" makes some',
        )
    if arguments.json:
        return _print_json(stored)
    for one in stored:
        print(one.key.zone_line())
    return 0


# -- help ------------------------------------------------------------------------------------------------


def _domain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", metavar="DOMAIN", type=_parse_domain)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _parse_domain(text: str) -> str:
    try:
        domain = normalise_domain(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(f'"{text}": {error}') from None
    if domain.startswith("["):
        raise argparse.ArgumentTypeError(f'"{text}" is an address')
    return domain


def _state(arguments: argparse.Namespace) -> str:
    return locate(arguments.config, arguments.state).state


def _stored(arguments: argparse.Namespace) -> Sequence[Any]:
    from lorrainemail.mailauth import keys

    state = _state(arguments)
    return _guarded(state, lambda: keys.stored_keys(state, arguments.domain))


def _print_json(stored: Sequence[Any]) -> int:
    rows = [
        {
            "domain": one.key.domain,
            "selector": one.key.selector,
            "kind": one.key.kind,
            "state": one.state,
            "path": one.path,
            "name": one.key.name,
            "record": one.key.record(),
        }
        for one in stored
    ]
    print(json.dumps({"version": 1, "keys": rows}))
    return 0


def _guarded(state: str, work: Callable[[], T]) -> T:
    from lorrainemail.mailauth.keys import KeyFault

    try:
        with as_owner(state):
            return work()
    except KeyFault as error:
        _fail("", str(error), "move the file away")
    except OSError as error:
        _fail(error.filename or state, error.strerror or str(error), "run as the server's user")


def _fail(where: str, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(where, 0, what, mend),))
