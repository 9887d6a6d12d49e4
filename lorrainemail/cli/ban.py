"""``lorrainemail ban``: networks that are refused at connect.

Asks the running server through its control socket; where none runs, works on ``logins.sqlite`` under the lock
of the state directory (looking needs no lock). Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from lorrainemail.cli.queue import spell
from lorrainemail.config.load import locate
from lorrainemail.config.values import Wrong, parse_duration
from lorrainemail.control.client import NotRunning, call
from lorrainemail.errors import PermanentError

Answer = dict[str, Any]


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "ban",
        help="networks that are refused: list, add, remove",
        description="Networks that are refused at connect: those that guessed passwords (for a while, at the "
        "doors of users), and those that you name.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run_list)
    words = parser.add_subparsers(metavar="WORD")
    listing = words.add_parser("list", help="all of them, until when and why")
    _json(listing)
    listing.set_defaults(run=run_list)
    add = words.add_parser("add", help="refuse a network at every door")
    add.add_argument("network", metavar="NETWORK", help="an address, or a network as 192.0.2.0/24")
    add.add_argument("--for", dest="seconds", type=_duration, default=0, metavar="TIME", help='as "2h", "7d"')
    add.add_argument(
        "--logins", action="store_true", help="at the doors of users alone: its mail still comes"
    )
    add.add_argument("--reason", default="", help="for the list")
    _json(add)
    add.set_defaults(run=run_add)
    remove = words.add_parser("remove", help="let a network in again")
    remove.add_argument("network", metavar="NETWORK", help="exactly as in the list")
    _json(remove)
    remove.set_defaults(run=run_remove)


def run_list(arguments: argparse.Namespace) -> int:
    state = locate(arguments.config, arguments.state).state
    try:
        answer: Answer = call(state, "ban.list")
    except NotRunning:
        answer = _offline(state, _listing)
    if arguments.json:
        print(json.dumps({"version": 1, **answer}, ensure_ascii=False))
        return 0
    for ban in answer["bans"]:
        left = "for good" if ban["until"] is None else f"for {spell(max(1, ban['until'] - time.time()))} more"
        where = "every door" if ban["scope"] == "all" else "the doors of users"
        who = "" if ban["automatic"] else " (yours)"
        print(
            f"{ban['network']}  refused at {where} {left}{who}{': ' if ban['reason'] else ''}{ban['reason']}"
        )
    if not answer["bans"]:
        print("No network is refused.")
    return 0


def run_add(arguments: argparse.Namespace) -> int:
    scope = "logins" if arguments.logins else "all"
    wanted = {
        "network": arguments.network,
        "seconds": arguments.seconds,
        "scope": scope,
        "reason": arguments.reason,
    }

    def offline(connection: sqlite3.Connection) -> Answer:
        from lorrainemail.sasl.bans import MAX_BANS, operators_ban, store, stored_bans

        ban = operators_ban(arguments.network, arguments.seconds, scope, arguments.reason, time.time())
        if len(stored_bans(connection)) >= MAX_BANS:
            raise ValueError(f"there are {MAX_BANS} bans already; remove some")
        store(connection, ban)
        return ban.as_json()

    return _change(arguments, "ban.add", wanted, offline, "is refused from now on")


def run_remove(arguments: argparse.Namespace) -> int:
    def offline(connection: sqlite3.Connection) -> Answer:
        from lorrainemail.sasl.bans import erase, parse_network, written

        network = parse_network(arguments.network)
        if not erase(connection, network):
            raise ValueError(f"{written(network)} is not banned")
        return {"network": written(network)}

    return _change(arguments, "ban.remove", {"network": arguments.network}, offline, "may come in again")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON object")


def _duration(text: str) -> int:
    try:
        return parse_duration(text)
    except Wrong as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def _change(
    arguments: argparse.Namespace,
    command: str,
    wanted: Answer,
    offline: Callable[[sqlite3.Connection], Answer],
    done: str,
) -> int:
    """Have the server do it, or do it under its lock."""
    state = locate(arguments.config, arguments.state).state
    try:
        try:
            answer: Answer = call(state, command, **wanted)
        except NotRunning:
            from lorrainemail.setup.lock import Locked, StateLock

            try:
                lock = StateLock.acquire(state)
            except Locked as held:
                raise NotRunning(f"process {held.pid} holds {state} and does not listen (yet)") from None
            try:
                answer = _offline(state, offline)
            finally:
                lock.undo()
    except (PermanentError, ValueError, sqlite3.Error) as error:
        words = error.detail or error.reply.text if isinstance(error, PermanentError) else str(error)
        print(f"lorrainemail ban: {words}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({"version": 1, **answer}, ensure_ascii=False))
    else:
        print(f"{answer['network']} {done}.")
    return 0


def _offline(state: str, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
    from lorrainemail.sasl.book import opened
    from lorrainemail.tables.edit import as_owner

    with as_owner(state), opened(state) as connection:
        connection.execute("PRAGMA synchronous=FULL")
        return work(connection)


def _listing(connection: sqlite3.Connection) -> Answer:
    from lorrainemail.sasl.bans import stored_bans

    now = time.time()
    return {"bans": [ban.as_json() for ban in stored_bans(connection) if ban.holds(now)]}
