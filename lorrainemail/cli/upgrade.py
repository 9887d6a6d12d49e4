"""``lorrainemail upgrade``: take over the state of an older version at once, or say what that would do.

The server takes it over by itself; this command is for who wants to know before. ``--dry-run`` only reads and
works beside a running server. Exit status 0 done (or possible), 1 where something stands against it, 2 wrong
usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import attrs

from lorrainemail.config.load import locate
from lorrainemail.errors import ConfigurationError, Problem


def configure(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "upgrade",
        help="take over the state of an older version, or say what that would do",
        description="Take over the state of an older version at once. The server does it by itself, each "
        "mailbox at its first opening; make a backup before, for there is no way back.",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run_upgrade)


def run_upgrade(arguments: argparse.Namespace) -> int:
    from lorrainemail.setup.failure import StartError
    from lorrainemail.setup.lock import Locked, StateLock
    from lorrainemail.tables.edit import as_owner
    from lorrainemail.transfer.upgrading import plan, upgrade

    state = locate(arguments.config, arguments.state).state
    faults: list[str] = []
    try:
        if arguments.dry_run:
            steps = plan(state)
        else:
            with as_owner(state):
                try:
                    lock = StateLock.acquire(state)
                except Locked as error:
                    what = f"a server is running on this state (process {error.pid})"
                    mend = "stop it first, or use --dry-run"
                    raise ConfigurationError((Problem(state, 0, what, mend),)) from None
                try:
                    steps = plan(state)
                    if all(step.possible for step in steps):
                        faults = upgrade(state, steps)
                finally:
                    lock.release()
    except StartError as error:
        print(f"lorrainemail: {error}", file=sys.stderr)
        return 1
    possible = all(step.possible for step in steps)
    if arguments.json:
        rows = [attrs.asdict(step) for step in steps]
        done = {"version": 1, "possible": possible, "done": possible and not arguments.dry_run and not faults}
        print(json.dumps({**done, "steps": rows, "faults": faults}))
    else:
        for step in steps:
            versions = f" {step.found} → {step.wanted}" if step.found != step.wanted else ""
            print(f"{step.what}{versions}: {step.means}")
        if not steps:
            print("The state is of this version; there is nothing to do.")
        elif not possible:
            print("This version cannot go on with this state.")
        elif not arguments.dry_run and not faults:
            print("Done.")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults or not possible else 0
