"""``lorrainemail status``, ``reload`` and ``stop``: the running server, through its control socket."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, Final

from lorrainemail.config.load import locate
from lorrainemail.control.client import Malformed, NotRunning, call
from lorrainemail.setup.lock import holder

#: Seconds that ``stop`` waits for the server's end; it ends well within them.
STOP_PATIENCE: Final = 60.0


def configure(subparsers: Any) -> None:
    """Add the three commands."""
    status = subparsers.add_parser("status", help="whether the server runs, and how it is")
    status.add_argument("--json", action="store_true", help="one JSON object")
    status.set_defaults(run=run_status)
    reload = subparsers.add_parser("reload", help="have the server take its configuration anew")
    reload.set_defaults(run=run_reload)
    stop = subparsers.add_parser("stop", help="stop the server and wait until it has ended")
    stop.set_defaults(run=run_stop)


def run_status(arguments: argparse.Namespace) -> int:
    """1 where no server runs."""
    facts = call(locate(arguments.config, arguments.state).state, "status")
    if arguments.json:
        print(json.dumps({"version": 1, "server": facts}))
        return 0
    print(f"lorrainemail {facts['version']} serves {facts['hostname']} as process {facts['pid']}")
    print(f"  state          {facts['state']}")
    print(f"  configuration  {facts['configuration'] or 'the embedded default'}")
    print(f"  certificate    until {facts['certificate_ends'][:10]}")
    queued = facts["queued"]
    print(f"  queue          {queued} message{'s wait' if queued != 1 else ' waits'}")
    connections = ", ".join(f"{name} {count}" for name, count in facts["connections"].items())
    print(f"  connections    {connections}")
    for alarm in facts["alarms"]:
        print(f"  ALARM          {alarm}")
    return 0


def run_reload(arguments: argparse.Namespace) -> int:
    answer = call(locate(arguments.config, arguments.state).state, "reload")
    for name in answer["needs_restart"]:
        print(f"{name} has changed: that needs a restart")
    print("The configuration was reloaded.")
    return 0


def run_stop(arguments: argparse.Namespace) -> int:
    state = locate(arguments.config, arguments.state).state
    pid = holder(state)
    try:
        call(state, "stop")
    except NotRunning:
        if pid is None:
            raise
        print(f"lorrainemail: process {pid} holds {state} and does not listen (yet)", file=sys.stderr)
        return 1
    except Malformed:
        pass  # it was gone before it could answer
    deadline = time.monotonic() + STOP_PATIENCE
    while holder(state) is not None:
        if time.monotonic() > deadline:
            print(f"lorrainemail: process {pid} has not ended yet", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("The server has ended.")
    return 0
