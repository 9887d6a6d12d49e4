"""``lorrainemail certificate``: what the server shows, until when, and what the authority said.

Asks the running server; ``list`` and ``keys`` read the files themselves where none runs. Exit status 0 done,
1 failed (also where a certificate has ended or could not be fetched), 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from lorrainemail.config.load import load, locate
from lorrainemail.control.client import NotRunning, call

#: Seconds between looks at how a renewal goes, and for which it is waited for.
POLL: Final = 0.5
PATIENCE: Final = 600.0


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "certificate",
        help="certificates: list, renew",
        description="The certificates that clients and other servers are shown.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)
    listing = words.add_parser("list", help="all certificates, and how fetching them goes")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    listing.set_defaults(run=run_list)
    renew = words.add_parser("renew", help="fetch what is due or failed, now")
    renew.add_argument("name", metavar="NAME", nargs="?", default="", help="of one certificate; default: all")
    renew.add_argument("--force", action="store_true", help="also what is not due")
    renew.add_argument("--json", action="store_true", help="one JSON object")
    renew.set_defaults(run=run_renew)
    keys = words.add_parser("keys", help="digests for TLSA records: keys in use, and those that come next")
    keys.add_argument("--json", action="store_true", help="one JSON object")
    keys.set_defaults(run=run_keys)


def run_list(arguments: argparse.Namespace) -> int:
    located = locate(arguments.config, arguments.state)
    try:
        found = call(located.state, "certificate.list")
    except NotRunning:
        found = {"certificates": _offline(arguments), "acme": None}
    failed = [row for row in (found["acme"] or {}).get("wanted", ()) if row["failures"]]
    ended = [row for row in found["certificates"] if row["days_left"] <= 0]
    if arguments.json:
        print(json.dumps({"version": 1, **found}))
        return 1 if failed or ended else 0
    for row in found["certificates"]:
        print(f"{' '.join(row['names']) or '(no name)'}")
        print(f"    {row['key']}, {_origin(row)}, {_left(row)}")
        print(f"    {row['file']}")
    for row in failed:
        print(f"{row['name']}: no {row['key']} certificate in {row['failures']} tries")
        print(f"    {row['error']}")
        print(f"    next try {_day(row['next_try'])}")
    if not found["certificates"]:
        print("There is no certificate yet: the first start makes one.")
    return 1 if failed or ended else 0


def run_renew(arguments: argparse.Namespace) -> int:
    state = locate(arguments.config, arguments.state).state
    end = time.monotonic() + PATIENCE
    answer = call(state, "certificate.renew", name=arguments.name, force=arguments.force)
    if not answer["directory"]:
        print("lorrainemail certificate: [acme] names no directory to fetch from", file=sys.stderr)
        return 1
    while not answer["begun"] and time.monotonic() < end:
        time.sleep(POLL)  # a round is under way; ours comes after it
        answer = call(state, "certificate.renew", name=arguments.name, force=arguments.force)
    while True:
        found = call(state, "certificate.list")
        if not found["acme"]["busy"]:
            break
        if time.monotonic() > end:
            print("lorrainemail certificate: it takes long; see certificate list", file=sys.stderr)
            return 1
        time.sleep(POLL)
    rows = [row for row in found["acme"]["wanted"] if arguments.name in ("", row["name"], *row["names"])]
    if arguments.json:
        print(json.dumps({"version": 1, "certificates": rows}))
    else:
        _print_rows(rows, arguments.name)
    return 1 if not rows or any(row["failures"] for row in rows) else 0


def _print_rows(rows: Sequence[dict[str, Any]], name: str) -> None:
    for row in rows:
        if row["failures"]:
            print(f"{row['name']}: no {row['key']} certificate: {row['error']}", file=sys.stderr)
        else:
            print(
                f"{row['name']}: the {row['key']} certificate is in order, renewed at {_day(row['renew_at'])}"
            )
    if not rows:
        print(f"lorrainemail certificate: none is fetched for {name}", file=sys.stderr)


def run_keys(arguments: argparse.Namespace) -> int:
    from lorrainemail.certs.acme_state import key_digests
    from lorrainemail.certs.sources import Sources
    from lorrainemail.tables.edit import as_owner

    settings = load(locate(arguments.config, arguments.state))
    with as_owner(settings.state):
        digests = list(key_digests(Sources.of(settings)))
    if arguments.json:
        print(json.dumps({"version": 1, "sha256": digests}))
    else:
        print("\n".join(digests))
    return 0


def _offline(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What the files say."""
    from twisted.internet.task import Clock

    from lorrainemail.certs.sources import Sources
    from lorrainemail.certs.store import CertificateStore
    from lorrainemail.net.tls import ServerTls
    from lorrainemail.tables.edit import as_owner

    settings = load(locate(arguments.config, arguments.state))
    clock = Clock()
    clock.advance(time.time())
    with as_owner(settings.state):
        return CertificateStore(ServerTls(), Sources.of(settings), clock).describe()


def _origin(row: dict[str, Any]) -> str:
    if row["origin"] == "self-signed":
        return "self-signed"
    kept = {"configured": "from [tls]", "folder": "kept by another program", "acme": "fetched by ACME"}
    return f"{kept[row['origin']]}, issued by {row['issuer']}"


def _left(row: dict[str, Any]) -> str:
    until = str(row["not_after"])[:10]
    return f"ended on {until}" if row["days_left"] <= 0 else f"until {until} ({row['days_left']:.0f} days)"


def _day(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
