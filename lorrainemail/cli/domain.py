"""``lorrainemail domain``: the domains of this server, and what the DNS should say of them.

``add`` makes a domain local and its DKIM keys; ``dns`` prints its records, for a zone file and in words, or
writes them by RFC 2136 to the name server of ``[dns_update]``. With or without a running server, which sees
the change by itself. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from lorrainemail.addresses import AddressError, normalise_domain
from lorrainemail.config.load import Located, load, locate
from lorrainemail.config.model import Settings
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.setup.record_words import Language, explained, zone_fragment
from lorrainemail.setup.records import Facts, Record, facts_of, records_of


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "domain",
        help="domains of this server, and their DNS records",
        description="The domains whose mail is delivered here, and the DNS records that they should have.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)

    add = words.add_parser("add", help="a further domain: local from now on, with DKIM keys")
    domain_argument(add)
    add.add_argument("--lang", choices=("en", "fr"), default="en", help="the language of the explanations")
    add.set_defaults(run=run_add)

    remove = words.add_parser("remove", help="no mail for it any more; accounts, mail and keys stay")
    domain_argument(remove)
    remove.set_defaults(run=run_remove)

    listing = words.add_parser("list", help="all domains")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    listing.set_defaults(run=run_list)

    parent = words.add_parser("ds", help="the DS record of a zone that this server signs, for the parent")
    domain_argument(parent)
    parent.add_argument("--roll", action="store_true", help="begin to change the zone's key")
    parent.set_defaults(run=run_ds)

    records = words.add_parser("dns", help="the DNS records that a domain should have")
    domain_argument(records)
    records.add_argument(
        "--lang", choices=("en", "fr"), default="en", help="the language of the explanations"
    )
    records.add_argument("--zone", action="store_true", help="only the lines for a zone file")
    records.add_argument(
        "--publish", action="store_true", help="write them to the name server of [dns_update] (RFC 2136)"
    )
    records.set_defaults(run=run_dns)


def run_add(arguments: argparse.Namespace) -> int:
    from lorrainemail.setup.new_domain import add_domain

    _, settings = opened(arguments)
    steps = list(add_domain(settings, arguments.domain))
    facts = facts_of(settings, arguments.domain)
    records = records_of(facts)
    if arguments.json:
        done = any(step.new for step in steps)
        print(json.dumps({"version": 1, "domain": facts.domain, "added": done, **as_json(records)}))
        return 0
    new = steps[0].new
    print(f"{facts.domain} is {'now' if new else 'already'} a domain of this server. Its DNS records:\n")
    print("\n".join(explained(facts, records, arguments.lang)))
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    from lorrainemail.tables.edit import remove_domain

    located, settings = opened(arguments)
    if arguments.domain in settings.local_domains:
        what = f"{arguments.domain} stands in local_domains of the configuration"
        fail(
            located.file or "", settings.origin("local_domains").line, what, "take it out there, then reload"
        )
    remove_domain(located.state, arguments.domain)
    if arguments.json:
        print(json.dumps({"version": 1, "domain": arguments.domain, "removed": True}))
    else:
        print(f"Mail for {arguments.domain} is no longer taken. Its accounts, their mail and its keys stay.")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    from lorrainemail.mailauth.keys import stored_keys
    from lorrainemail.setup.new_domain import local_domains

    _, settings = opened(arguments)
    rows = [(name, len(stored_keys(settings.state, name))) for name in local_domains(settings)]
    if arguments.json:
        listed = [{"domain": name, "dkim_keys": count} for name, count in rows]
        print(json.dumps({"version": 1, "domains": listed}))
        return 0
    for name, count in rows:
        print(f"{name}  {f'{count} DKIM keys' if count else 'no DKIM keys'}")
    return 0


def run_dns(arguments: argparse.Namespace) -> int:
    from lorrainemail.setup.new_domain import local_domains

    _, settings = opened(arguments)
    if arguments.domain not in local_domains(settings):
        mend = f'"lorrainemail domain add {arguments.domain}" makes it one'
        fail("", 0, f"{arguments.domain} is not a domain of this server", mend)
    facts = facts_of(settings, arguments.domain)
    records = records_of(facts)
    if arguments.publish:
        return _publish(arguments, settings, records)
    if arguments.json:
        print(json.dumps({"version": 1, "domain": facts.domain, **as_json(records)}))
    elif arguments.zone:
        print("\n".join(zone_fragment(facts, records, arguments.lang)))
    else:
        print("\n".join(both(facts, records, arguments.lang)))
    return 0


def _publish(arguments: argparse.Namespace, settings: Settings, records: Sequence[Record]) -> int:
    """Write them, then say which were left for other hands."""
    from lorrainemail.cli.looping import run_in_reactor
    from lorrainemail.net.resolver import Resolver
    from lorrainemail.net.update import UpdateError
    from lorrainemail.setup.doctor.authority import Authority
    from lorrainemail.setup.publishing import publish_records, updater_of

    async def write(reactor: Any, in_thread: Any) -> list[Record]:
        updater = updater_of(reactor, settings)
        if updater is None:
            raise UpdateError("no name server takes our updates: name one in [dns_update]")
        resolver = Resolver(reactor, settings.dns.resolvers)
        return await publish_records(
            Authority(reactor, resolver, settings.dns.port), updater, settings, records
        )

    try:
        done = run_in_reactor(write)
    except UpdateError as error:
        fail("", 0, str(error), "see [dns_update] in the configuration")
    left = [record for record in records if record not in done]
    if arguments.json:
        answer = {"version": 1, "domain": arguments.domain, "published": as_json(done)["records"]}
        print(json.dumps({**answer, "left": as_json(left)["records"]}))
        return 0
    print(f"{len(done)} records of {arguments.domain} are published.")
    for record in left:
        print(f"not ours to write: {record.zone_line()}")
    return 0


def run_ds(arguments: argparse.Namespace) -> int:
    """The DS for the registrar; with ``--roll`` also a new key's, which signs once the parent has it."""
    import time

    from lorrainemail.control.client import NotRunning, call
    from lorrainemail.dns.keys import ZoneKeyFault, begin_roll, directory_of, load_or_make, plan
    from lorrainemail.tables.edit import as_owner

    located, settings = opened(arguments)
    zone, now = arguments.domain, time.time()
    if zone not in settings.dns.serve:
        fail(located.file or "", 0, f"{zone} is not in serve under [dns]", "name it there to have it signed")
    directory = directory_of(settings.state, zone)
    try:
        with as_owner(settings.state):
            if arguments.roll:
                begin_roll(directory, now)
            keys = load_or_make(directory, now)
    except ZoneKeyFault as error:
        fail(directory, 0, str(error), "see what the parent has for a DS")
    if arguments.roll:
        try:
            call(settings.state, "reload")
        except NotRunning:
            pass  # it will be read at the start
    current = plan(keys, now)
    rows = [
        {
            "ds": key.ds(zone),
            "signs": key is current.signs,
            "parent_has_it": bool(key.seen),
            "parent_should_have_it": key is current.wanted,
        }
        for key in current.published
    ]
    if arguments.json:
        print(json.dumps({"version": 1, "zone": zone, "keys": rows}))
        return 0
    for row in rows:
        words = [
            "signs" if row["signs"] else "is published, does not sign yet",
            "the parent has its DS" if row["parent_has_it"] else "the parent's DS has not been seen",
        ]
        print(f"{zone}. IN DS {row['ds']}   ; {', '.join(words)}")
    if not any(row["parent_has_it"] for row in rows):
        print("\nGive the DS to your registrar, where the domain's name servers are set.")
    return 0


# -- shared with init ------------------------------------------------------------------------------------


def both(facts: Facts, records: Sequence[Record], language: Language) -> Iterator[str]:
    """In words, then as lines of a zone file."""
    yield from explained(facts, records, language)
    yield ""
    yield from zone_fragment(facts, records, language)


def as_json(records: Sequence[Record]) -> dict[str, Any]:
    rows = [
        {"name": one.name, "type": one.type, "data": one.data, "topic": one.topic, "need": one.need}
        for one in records
    ]
    return {"records": rows}


def domain_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("domain", metavar="DOMAIN", type=parse_domain)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def parse_domain(text: str) -> str:
    try:
        domain = normalise_domain(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(f'"{text}": {error}') from None
    if domain.startswith("[") or "." not in domain:
        raise argparse.ArgumentTypeError(f'"{text}" is no domain such as bricoleur.com')
    return domain


def opened(arguments: argparse.Namespace) -> tuple[Located, Settings]:
    """The server that is meant.

    :raises ConfigurationError: where nothing is configured yet.
    """
    located = locate(arguments.config, arguments.state)
    if located.embedded:
        fail(located.state, 0, "there is no server yet", '"lorrainemail init DOMAIN" makes one')
    settings = load(located)
    if settings.tables != "files":
        what = f'domains are kept by the table backend "{settings.tables}"'
        fail(located.file or "", 0, what, "change them there")
    return located, settings


def fail(where: str, line: int, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(where, line, what, mend),))
