"""``lorrainemail mailbox``: folders of an account, whether their index is sound, and a new one.

``stat`` and ``check`` only read and work beside a running server; ``rebuild`` takes the state's lock, so the
server must be stopped. Exit status 0 done (and sound), 1 failed or faults found, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from typing import Any

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.config.load import locate
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.setup.lock import Locked, StateLock
from lorrainemail.setup.places import directories
from lorrainemail.store import inspection
from lorrainemail.store.inspection import FolderReport
from lorrainemail.store.paths import home_path
from lorrainemail.tables.edit import as_owner


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "mailbox",
        help="folders of an account and what is in them",
        description="Mailboxes on disk: what is in them, and whether their index is sound.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)
    for name, run, words_of_help in (
        ("stat", run_stat, "folders, messages and sizes"),
        ("check", run_check, "compare the index with the files"),
        ("rebuild", run_rebuild, "make the index anew from the files (the server must be stopped)"),
    ):
        word = words.add_parser(name, help=words_of_help)
        word.add_argument("address", metavar="ADDRESS", type=_parse_address)
        word.add_argument("--json", action="store_true", help="one JSON object")
        word.set_defaults(run=run)


def run_stat(arguments: argparse.Namespace) -> int:
    state, home = _home(arguments)
    try:
        with as_owner(state):
            reports = inspection.stat(home)
    except sqlite3.Error as error:
        raise _broken(home, error) from error
    _print_reports(arguments, reports)
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    state, home = _home(arguments)
    with as_owner(state):
        faults = inspection.check(home)
    if arguments.json:
        print(json.dumps({"version": 1, "address": str(arguments.address), "faults": faults}))
    else:
        for fault in faults:
            print(fault)
        if not faults:
            print(f"The index of {arguments.address} is sound.")
        else:
            print("The server mends this by itself when the folder is opened; a broken index is made anew.")
    return 1 if faults else 0


def run_rebuild(arguments: argparse.Namespace) -> int:
    state, home = _home(arguments)
    try:
        lock = StateLock.acquire(state)
    except Locked as error:
        what = f"a server is running on this state (process {error.pid})"
        raise ConfigurationError((Problem(state, 0, what, 'stop it first: "lorrainemail stop"'),)) from None
    try:
        # The server's user must be able to use what root made.
        with as_owner(state):
            reports = inspection.rebuild(directories(state).mail, home)
    finally:
        lock.undo()
    _print_reports(arguments, reports)
    return 0


def _home(arguments: argparse.Namespace) -> tuple[str, str]:
    """The state directory and the account's home.

    :raises ConfigurationError: where there is no such home.
    """
    state = locate(arguments.config, arguments.state).state
    home = os.path.join(directories(state).mail, home_path(arguments.address))
    if not os.path.isdir(home):
        what = f"{arguments.address} has no mail here"
        raise ConfigurationError(
            (Problem(home, 0, what, "a home is made with the first message or the first login"),)
        )
    return state, home


def _broken(home: str, error: sqlite3.Error) -> ConfigurationError:
    mend = "stop the server and use: lorrainemail mailbox rebuild ADDRESS"
    return ConfigurationError((Problem(f"{home}/index.sqlite", 0, str(error), mend),))


def _print_reports(arguments: argparse.Namespace, reports: list[FolderReport]) -> None:
    if arguments.json:
        folders = [attrs.asdict(report) for report in reports]
        print(json.dumps({"version": 1, "address": str(arguments.address), "folders": folders}))
        return
    width = max((len(report.name) for report in reports), default=0)
    for report in reports:
        words = f"{report.messages} messages, {report.unseen} unread, {report.octets} octets"
        if report.files > report.messages:
            words += f"; {report.files - report.messages} more wait for their first reader"
        print(f"{report.name:<{width}}  {words}")
    if not reports:
        print("There is no folder yet.", file=sys.stderr)


def _parse_address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(f'"{text}": {error}') from None
