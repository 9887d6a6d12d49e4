"""``lorrainemail backup`` and ``restore``: the whole server kept elsewhere, and put back.

``backup`` works beside the running server, or without one. ``restore`` of everything makes a new state
directory; ``restore`` of one address puts back what that mailbox lacks, also into a running server. Exit
status 0 done, 1 failed, or a backup is not as it was written, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from typing import Any

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.cli.transfer import Progress
from lorrainemail.config.load import locate
from lorrainemail.setup.places import directories


def configure(subparsers: Any) -> None:
    """Add both commands."""
    backup = subparsers.add_parser(
        "backup",
        help="keep everything elsewhere: mail, queue, tables, keys, configuration",
        description="Keep everything elsewhere: mail, queue, tables, keys, configuration. The server may be "
        "running. What an earlier backup in the same directory has is not copied again.",
    )
    backup.add_argument("directory", metavar="DIRECTORY", help="where the backups are; on another disk")
    backup.add_argument("--full", action="store_true", help="copy everything anew")
    backup.add_argument("--keep", type=_count, metavar="NUMBER", help="remove all but the newest so many")
    backup.add_argument("--check", action="store_true", help="make none: read the newest one through")
    backup.add_argument("--list", action="store_true", help="make none: say which there are")
    _common(backup)
    backup.set_defaults(run=run_backup)

    restore = subparsers.add_parser(
        "restore",
        help="put a backup back, whole or one mailbox",
        description="Put a backup back: everything, into a new state directory (--state), or what the "
        "mailbox of one address lacks, also into a running server.",
    )
    restore.add_argument("directory", metavar="DIRECTORY", help="where the backups are, or one of them")
    restore.add_argument("address", metavar="ADDRESS", nargs="?", type=_address, help="this mailbox alone")
    restore.add_argument("--backup", metavar="NAME", default="", help="not the newest one, but this")
    restore.add_argument(
        "--folder", metavar="NAME", action="append", default=[], help="of a mailbox, this folder alone"
    )
    restore.add_argument("--without-queue", action="store_true", help="nothing that waited to be sent")
    _common(restore)
    restore.set_defaults(run=run_restore, usage_error=restore.error)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run_backup(arguments: argparse.Namespace) -> int:
    from lorrainemail.transfer.snapshot import Damaged
    from lorrainemail.transfer.sources import SourceError

    try:
        if arguments.list or arguments.check:
            return _look(arguments)
        return _back_up(arguments)
    except (Damaged, SourceError) as error:
        print(f"lorrainemail: {error}", file=sys.stderr)
        return 1
    except sqlite3.Error as error:
        print(f"lorrainemail: a database could not be copied: {error}", file=sys.stderr)
        return 1


def _back_up(arguments: argparse.Namespace) -> int:
    from lorrainemail.transfer.access import is_served, locked, through_server
    from lorrainemail.transfer.backup import back_up, forget_old

    located = locate(arguments.config, arguments.state)
    target = os.path.abspath(arguments.directory)
    progress = Progress(arguments.quiet)

    tell = progress.of("backup")
    if is_served(located.state):
        access = through_server(located.state)
        report = back_up(access, located.state, located.file, target, tell, arguments.full)
    else:
        with locked(located):
            report = back_up(None, located.state, located.file, target, tell, arguments.full)
    progress.end()
    gone = forget_old(target, arguments.keep) if arguments.keep and not report.faults else []
    if arguments.json:
        print(json.dumps({"version": 1, **attrs.asdict(report), "removed": gone}))
    else:
        print(
            f"{report.path}: {report.messages} messages of {report.homes} mailboxes, {report.files} files; "
            f"{report.octets} octets written, {report.linked} files were there already."
        )
        for name in gone:
            print(f"{name} removed.")
    for fault in report.faults:
        print(fault, file=sys.stderr)
    return 1 if report.faults else 0


def _look(arguments: argparse.Namespace) -> int:
    from lorrainemail.transfer.snapshot import backups, check, facts_of, newest

    target = os.path.abspath(arguments.directory)
    names = backups(target)
    if arguments.list:
        rows = [{"name": name, **facts_of(f"{target}/{name}")} for name in names]
        if arguments.json:
            print(json.dumps({"version": 1, "backups": rows}))
        else:
            for row in rows:
                what = f"{row['messages']} messages, {row['homes']} mailboxes, {row['files']} files"
                print(f"{row['name']}  {what}")
        return 0
    path = newest(target, names, "")
    count, faults = check(path)
    if arguments.json:
        print(json.dumps({"version": 1, "backup": path, "files": count, "faults": faults}))
    else:
        for fault in faults:
            print(fault)
        if not faults:
            print(f"{path}: {count} files, all as they were written.")
    return 1 if faults else 0


def run_restore(arguments: argparse.Namespace) -> int:
    from lorrainemail.control.words import Refused
    from lorrainemail.transfer.snapshot import Damaged, backups, newest
    from lorrainemail.transfer.sources import SourceError

    target = os.path.abspath(arguments.directory)
    try:
        path = newest(target, backups(target), arguments.backup)
        if arguments.address is not None:
            return _restore_mailbox(arguments, path)
        if arguments.folder:
            arguments.usage_error("--folder goes with an ADDRESS")
        return _restore_all(arguments, path)
    except (Damaged, SourceError, Refused) as error:
        print(f"lorrainemail: {error}", file=sys.stderr)
        return 1
    except sqlite3.Error as error:
        print(f"lorrainemail: a database of the backup cannot be used: {error}", file=sys.stderr)
        return 1


def _restore_all(arguments: argparse.Namespace, path: str) -> int:
    from lorrainemail.transfer.restoring import restore_all
    from lorrainemail.transfer.snapshot import facts_of

    state = os.path.abspath(arguments.state) if arguments.state else str(facts_of(path)["state"])
    progress = Progress(arguments.quiet)
    tell = progress.of("restore")
    facts = restore_all(path, state, not arguments.without_queue, lambda done, all_: tell("file", done, all_))
    progress.end()
    if arguments.json:
        print(json.dumps({"version": 1, "backup": path, "state": state, "messages": facts["messages"]}))
        return 0
    print(f"{facts['messages']} messages of {facts['homes']} mailboxes are in {state}")
    if facts["configuration"]:
        print(f"The configuration is {state}/{facts['configuration']}; it lay elsewhere when it was kept.")
    return 0


def _restore_mailbox(arguments: argparse.Namespace, path: str) -> int:
    from lorrainemail.transfer.access import Access, with_access
    from lorrainemail.transfer.importing import Tally, summary
    from lorrainemail.transfer.restoring import restore_mailbox
    from lorrainemail.transfer.staging import Stage

    located = locate(arguments.config, arguments.state)
    progress = Progress(arguments.quiet)
    wanted = _wanted(arguments.folder)

    def work(access: Access) -> Tally:
        with Stage(directories(located.state).spill) as stage:
            tell = progress.of(str(arguments.address))
            return restore_mailbox(access, stage, path, arguments.address, wanted, tell)

    tally = with_access(located, work)
    progress.end()
    if arguments.json:
        print(json.dumps({"version": 1, "backup": path, **summary(tally)}))
    else:
        print(f"{tally.taken} messages came back, {tally.known} were there.")
    for fault in tally.faults:
        print(fault, file=sys.stderr)
    return 1 if tally.faults else 0


def _wanted(folders: list[str]) -> Callable[[str], bool]:
    return lambda name: not folders or any(fnmatch.fnmatchcase(name, one) for one in folders)


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(f'"{text}": {error}') from None


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 100_000:
        raise argparse.ArgumentTypeError(f'"{text}" is no number of backups')
    return int(text)
