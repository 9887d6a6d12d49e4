"""``lorrainemail import`` and ``export``: mailboxes in from elsewhere, and out.

``import`` goes through the running server, or, where none runs, takes the state's lock and does the work
itself. It may be ended at any moment and given again: what was taken once is not taken twice. ``export`` only
reads. Exit status 0 done, 1 where anything failed (the rest is done), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import glob
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import attrs

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.config.load import Located, locate
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.setup.places import directories
from lorrainemail.store.paths import home_path

#: Octets of a mapping file.
MAX_MAP: Final = 64 << 20
#: Seconds between lines of progress where there is no terminal.
PROGRESS: Final = 10.0


@attrs.frozen(slots=True)
class Job:
    """One account, and where its mail comes from (a path, or "LOGIN PASSWORD" of a server)."""

    address: str
    source: str
    password: str = attrs.field(default="", repr=False)


def configure(subparsers: Any) -> None:
    """Add both commands."""
    moving_in = subparsers.add_parser(
        "import",
        help="take mailboxes over: Maildirs, mbox files, or from a running IMAP server",
        description="Take mailboxes over, with folders, flags, dates and, where possible, UIDs. May be given "
        "again at any time: what was taken once is not taken twice.",
    )
    kinds = moving_in.add_subparsers(metavar="KIND", required=True)
    for name, words in (("maildir", "a Maildir tree"), ("mbox", "an mbox file, or a directory of them")):
        kind = kinds.add_parser(name, help=words)
        kind.add_argument("source", metavar="SOURCE", nargs="?", help="where it is")
        kind.add_argument("address", metavar="ADDRESS", nargs="?", help="the account here")
        kind.add_argument("--map", metavar="FILE", help='many accounts: lines of "ADDRESS SOURCE"')
        kind.add_argument(
            "--pattern",
            metavar="PATH",
            help="many accounts: a path with %%d for the domain, %%n for the user",
        )
        _common(kind)
        kind.set_defaults(run=run_import, kind=name, usage_error=kind.error)
    kind = kinds.add_parser("imap", help="from a running IMAP server")
    kind.add_argument("server", metavar="HOST[:PORT]", help="the other server")
    kind.add_argument("address", metavar="ADDRESS", nargs="?", help="the account here")
    kind.add_argument("--login", metavar="NAME", help="the user there (default: ADDRESS)")
    kind.add_argument("--password-stdin", action="store_true", help="read his password from standard input")
    kind.add_argument("--map", metavar="FILE", help='many accounts: lines of "ADDRESS LOGIN PASSWORD"')
    kind.add_argument(
        "--security", choices=("tls", "starttls", "none"), default="tls", help="none: this machine alone"
    )
    kind.add_argument("--ca", metavar="FILE", default="", help="authorities to trust, besides the system's")
    _common(kind)
    kind.set_defaults(run=run_import, kind="imap", usage_error=kind.error)

    out = subparsers.add_parser(
        "export",
        help="write mailboxes out, as Maildirs or mbox files",
        description="Write mailboxes out, with folders, flags, dates and UIDs. The server may be running.",
    )
    kinds = out.add_subparsers(metavar="KIND", required=True)
    for name, words in (("maildir", "as a Maildir tree"), ("mbox", "as mbox files, one a folder")):
        kind = kinds.add_parser(name, help=words)
        kind.add_argument("address", metavar="ADDRESS", help='the account, or "all"')
        kind.add_argument(
            "directory", metavar="DIRECTORY", help="new or empty; of all accounts: DIRECTORY/DOMAIN/USER"
        )
        _choices(kind)
        kind.set_defaults(run=run_export, kind=name)


def _common(parser: argparse.ArgumentParser) -> None:
    _choices(parser)
    parser.add_argument(
        "--again", action="store_true", help="also what was taken before and has been deleted here"
    )


def _choices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", metavar="NAME", action="append", default=[], help="this folder alone (may be repeated, *)"
    )
    parser.add_argument(
        "--exclude", metavar="NAME", action="append", default=[], help="not this folder (may be repeated, *)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="one JSON object")


# -- import ------------------------------------------------------------------------------------------------


def run_import(arguments: argparse.Namespace) -> int:
    from lorrainemail.transfer.access import Access, with_access
    from lorrainemail.transfer.importing import Tally, summary

    located = locate(arguments.config, arguments.state)
    jobs = list(_jobs(arguments))
    if not jobs:
        _fail(located, "there is nothing to import", "check the pattern or the mapping file")
    progress = Progress(arguments.quiet)

    def work(access: Access) -> Tally:
        done: Tally = _import_all(access, located, arguments, jobs, progress)
        return done

    tally: Tally = with_access(located, work)
    progress.end()
    if arguments.json:
        print(json.dumps({"version": 1, **summary(tally)}))
    else:
        there = f", {tally.known} were here already" if tally.known else ""
        gone = f", {tally.gone} could not be read" if tally.gone else ""
        folders = f"{tally.folders} folders, {tally.kept} with their UIDs"
        print(f"{tally.taken} messages taken{there}{gone}; {folders}.")
    for fault in tally.faults:
        print(fault, file=sys.stderr)
    return 1 if tally.faults else 0


def _import_all(
    access: Any, located: Located, arguments: argparse.Namespace, jobs: list[Job], progress: Progress
) -> Any:
    from lorrainemail.control.words import Refused
    from lorrainemail.transfer.importing import Tally, import_account, nothing, taken_before
    from lorrainemail.transfer.sources import SourceError
    from lorrainemail.transfer.staging import Stage

    tally = Tally()
    spill = directories(located.state).spill
    with Stage(spill) as stage:
        for job in jobs:
            if access("import.account", address=job.address) is None:
                tally.faults.append(
                    f"{job.address}: there is no such account (lorrainemail account add makes it)"
                )
                continue
            try:
                with contextlib.closing(_source(arguments, job, spill)) as source:
                    tally.add(
                        import_account(
                            access,
                            stage,
                            source,
                            job.address,
                            _wanted(arguments),
                            progress.of(job.address),
                            nothing if arguments.again else taken_before(access, job.address),
                        )
                    )
            except (SourceError, Refused) as error:
                tally.faults.append(f"{job.address}: {error}")
            except OSError as error:
                tally.faults.append(f"{job.address}: {error.filename or job.source}: {error.strerror}")
    return tally


def _source(arguments: argparse.Namespace, job: Job, spill: str) -> Any:
    if arguments.kind == "maildir":
        from lorrainemail.transfer.maildirs import MaildirSource

        return MaildirSource(job.source)
    if arguments.kind == "mbox":
        from lorrainemail.transfer.mboxes import MboxSource

        return MboxSource(job.source)
    from lorrainemail.transfer.imap import ImapSource, Login

    host, port = _host(arguments)
    return ImapSource(Login(host, port, arguments.security, job.source, job.password, arguments.ca), spill)


def _host(arguments: argparse.Namespace) -> tuple[str, int]:
    default = 993 if arguments.security == "tls" else 143
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?", arguments.server)
    if match is None:
        _usage_error(arguments, f'"{arguments.server}" is no HOST[:PORT]')
    return match.group(1) or match.group(2), int(match.group(3) or default)


def _jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """Whose mail is to be taken, checked as far as that can be done at once."""
    many = [name for name in ("map", "pattern") if getattr(arguments, name, None)]
    if len(many) > 1 or bool(many) == bool(arguments.address):
        _usage_error(
            arguments,
            "name one account, or many by --map" + ("" if arguments.kind == "imap" else " or --pattern"),
        )
    if arguments.kind == "imap":
        _host(arguments)
    if arguments.map:
        yield from _mapped(arguments)
    elif getattr(arguments, "pattern", None):
        if arguments.source:
            _usage_error(arguments, "--pattern stands in place of SOURCE and ADDRESS")
        yield from _matching(arguments, os.path.abspath(arguments.pattern))
    elif arguments.kind == "imap":
        address = _address(arguments, arguments.address)
        if not arguments.password_stdin:
            _usage_error(arguments, "the password comes by --password-stdin")
        password = sys.stdin.readline(4096).rstrip("\r\n")
        if not password:
            _usage_error(arguments, "there is no password on standard input")
        yield Job(address, arguments.login or address, password)
    else:
        yield Job(_address(arguments, arguments.address), os.path.abspath(arguments.source))


def _mapped(arguments: argparse.Namespace) -> Iterator[Job]:
    wanted = 3 if arguments.kind == "imap" else 2
    try:
        with open(arguments.map, encoding="utf-8") as file:
            lines = file.read(MAX_MAP).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        _usage_error(arguments, f"{arguments.map}: {error}")
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            _usage_error(arguments, f"{arguments.map}, line {number}: {error}")
        if not words:
            continue
        if len(words) != wanted:
            form = "ADDRESS LOGIN PASSWORD" if wanted == 3 else "ADDRESS SOURCE"
            _usage_error(
                arguments, f"{arguments.map}, line {number}: a line is {form}, in quotes where needed"
            )
        source = words[1] if wanted == 3 else os.path.abspath(words[1])
        yield Job(_address(arguments, words[0]), source, words[2] if wanted == 3 else "")


def _matching(arguments: argparse.Namespace, pattern: str) -> Iterator[Job]:
    """Every path that fits the pattern, and the address that it stands for."""
    if "%n" not in pattern or "%d" not in pattern:
        _usage_error(arguments, "a pattern has %d for the domain and %n for the user")
    parts = re.split("(%[dn])", pattern)
    named = {"%d": "d", "%n": "n"}
    seen: set[str] = set()
    expression = ""
    for part in parts:
        if part not in named:
            expression += re.escape(part)
        elif part in seen:
            expression += f"(?P={named[part]})"
        else:
            seen.add(part)
            expression += f"(?P<{named[part]}>[^/]+)"
    for path in sorted(glob.glob("".join("*" if part in named else glob.escape(part) for part in parts))):
        match = re.fullmatch(expression, path)
        if match is not None:
            name = f"{unquote(match.group('n'))}@{unquote(match.group('d'))}"
            try:
                yield Job(str(parse_address(name)), path)
            except AddressError:
                print(f"{path}: {name} is no address", file=sys.stderr)


def _address(arguments: argparse.Namespace, text: str) -> str:
    try:
        return str(parse_address(text))
    except AddressError as error:
        _usage_error(arguments, f'"{text}": {error}')


# -- export ------------------------------------------------------------------------------------------------


def run_export(arguments: argparse.Namespace) -> int:
    from lorrainemail.transfer.exporting import export
    from lorrainemail.transfer.homes import HomeSource, homes
    from lorrainemail.transfer.sources import SourceError

    located = locate(arguments.config, arguments.state)
    mail = directories(located.state).mail
    target = os.path.abspath(arguments.directory)
    progress = Progress(arguments.quiet)
    wanted = list(_wanted_homes(located, arguments.address, mail, target, homes))
    totals = [0, 0]
    faults: list[str] = []
    for name, home, directory in wanted:
        try:
            with contextlib.closing(HomeSource(home)) as source:
                counts = export(source, directory, arguments.kind, _wanted(arguments), progress.of(name))
        except SourceError as error:
            faults.append(f"{name}: {error}")
        except OSError as error:
            faults.append(f"{name}: {error.filename or directory}: {error.strerror}")
        else:
            totals = [total + count for total, count in zip(totals, counts, strict=True)]
    progress.end()
    if arguments.json:
        print(json.dumps({"version": 1, "folders": totals[0], "messages": totals[1], "faults": faults}))
    else:
        print(f"{totals[1]} messages of {totals[0]} folders are in {target}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def _wanted_homes(
    located: Located, address: str, mail: str, target: str, homes: Callable[[str], Iterator[tuple[str, str]]]
) -> Iterator[tuple[str, str, str]]:
    """(name, home, where to) of what is to be written out."""
    if address == "all":
        for below, home in homes(mail):
            os.makedirs(os.path.dirname(f"{target}/{below}"), mode=0o700, exist_ok=True)
            yield below, home, f"{target}/{below}"
        return
    try:
        parsed: Address = parse_address(address)
    except AddressError as error:
        _fail(located, f'"{address}": {error}', "give the address of an account")
    home = os.path.join(mail, home_path(parsed))
    if not os.path.isdir(home):
        _fail(located, f"{parsed} has no mail here", "a home is made with the first message or login")
    yield str(parsed), home, target


# -- both --------------------------------------------------------------------------------------------------


def _wanted(arguments: argparse.Namespace) -> Callable[[str], bool]:
    def wanted(name: str) -> bool:
        if arguments.folder and not any(fnmatch.fnmatchcase(name, one) for one in arguments.folder):
            return False
        return not any(fnmatch.fnmatchcase(name, one) for one in arguments.exclude)

    return wanted


class Progress:
    """What is being done, on standard error: one line that changes on a terminal, else one now and then."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()
        self._shown = False

    def of(self, name: str) -> Callable[[str, int, int], None]:
        def tell(folder: str, count: int, total: int) -> None:
            if self._quiet:
                return
            now = time.monotonic()
            if now - self._last < (0.2 if self._terminal else PROGRESS):
                return
            self._last = now
            line = f"{name}: {folder} {count} of {total}"
            if self._terminal:
                sys.stderr.write(f"\r\x1b[K{line}")
                self._shown = True
            else:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()

        return tell

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _usage_error(arguments: argparse.Namespace, words: str) -> NoReturn:
    arguments.usage_error(words)
    raise AssertionError("unreachable")


def _fail(located: Located, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(located.state, 0, what, mend),))
