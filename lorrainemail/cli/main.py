"""``lorrainemail``: the operator's command.

One module a command (:data:`COMMANDS`), each with ``configure(subparsers)``, which adds its parser and
sets ``run``, a function of the parsed arguments that answers the exit status: 0 done, 1 failed, 2 wrong
usage. Only the module of the command that was given is imported, so that ``--version`` and ``--help`` are
quick.

``--config`` and ``--state`` may stand after any word; they say which server is meant, as for
``twistd lorrainemail``. No command needs a terminal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Final, NamedTuple

from lorrainemail.version import VERSION


class Command(NamedTuple):
    """One command: the module that knows it, and its line in ``--help``."""

    module: str
    help: str


#: In the order of ``--help``.
COMMANDS: Final = {
    "init": Command("init", "the server of a real domain, on an empty machine or after a first trial"),
    "domain": Command("domain", "domains of this server, and their DNS records"),
    "doctor": Command("doctor", "look at everything as the world sees it; say what is wrong and what to do"),
    "check": Command("check", "check configuration and tables; show what the server goes by"),
    "explain": Command("explain", "what would happen to a message, and why"),
    "account": Command("account", "add, list, disable and remove accounts; set passwords"),
    "ban": Command("ban", "networks that are refused: list, add, remove"),
    "queue": Command("queue", "mail that waits: list, retry, drop, bounce"),
    "trace": Command("trace", "what happened to a message"),
    "dkim": Command("dkim", "keys that sign the mail of our users, and their DNS records"),
    "certificate": Command("certificate", "certificates: list, renew"),
    "mta-sts": Command("mta_sts", "what our MTA-STS policies say, and whether they may enforce"),
    "dmarc": Command("dmarc", "what other servers report of mail in the name of our domains"),
    "tls-report": Command("tls_report", "how other servers found TLS with ours: list, show, read"),
    "mailbox": Command("mailbox", "mailboxes on disk: what is in them, whether their index is sound"),
    "import": Command("transfer", "take mailboxes over: Maildirs, mbox files, or from a running IMAP server"),
    "export": Command("transfer", "write mailboxes out, as Maildirs or mbox files"),
    "backup": Command("backup", "keep everything elsewhere: mail, queue, tables, keys, configuration"),
    "restore": Command("backup", "put a backup back, whole or one mailbox"),
    "upgrade": Command("upgrade", "take over the state of an older version, or say what that would do"),
    "sieve": Command("sieve", "filter scripts of accounts: check, test, put, activate, list"),
    "lab": Command("lab", "see one message travel through two complete servers"),
    "completion": Command("completion", "a script that completes commands and options in a shell"),
    "status": Command("server", "whether the server runs, and how it is"),
    "reload": Command("server", "have the server take its configuration anew"),
    "stop": Command("server", "stop the server"),
}

_GLOBAL: Final = ("config", "state")


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words (by default those of the command line) name; the exit status."""
    given, rest = _take_global(list(sys.argv[1:] if words is None else words))
    parser = make_parser(next((word for word in rest if not word.startswith("-")), ""))
    for word, value in given.items():
        if value is None:
            parser.error(f"--{word} needs a value")
    arguments = parser.parse_args(rest, argparse.Namespace(**{name: given.get(name) for name in _GLOBAL}))
    if not hasattr(arguments, "run"):
        parser.print_help(sys.stderr)
        return 2
    return _run(arguments)


def make_parser(chosen: str) -> argparse.ArgumentParser:
    """The parser: the chosen command as its module has it, of the others their name and line."""
    parser = argparse.ArgumentParser(
        prog="lorrainemail",
        description="The operator's command of the mail server. The server itself: twistd -n lorrainemail",
        epilog='"lorrainemail COMMAND --help" says more. --config and --state may stand after any word.',
    )
    parser.add_argument("--version", action="version", version=f"lorrainemail {VERSION}")
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration file")
    parser.add_argument("--state", metavar="DIRECTORY", default=argparse.SUPPRESS, help="the state directory")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    module = COMMANDS[chosen].module if chosen in COMMANDS else ""
    configured = False
    for name, command in COMMANDS.items():
        if command.module != module:
            if find_spec(f"lorrainemail.cli.{command.module}") is not None:
                subparsers.add_parser(name, help=command.help, add_help=False)
        elif not configured:
            configured = True
            import_module(f"lorrainemail.cli.{module}").configure(subparsers)
    return parser


def _take_global(words: list[str]) -> tuple[dict[str, str | None], list[str]]:
    """``--config`` and ``--state`` wherever they stand (before a lone ``--``), and the words without them."""
    given: dict[str, str | None] = {}
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            rest += [word, *words]
            break
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in _GLOBAL:
            rest.append(word)
        elif equals:
            given[name] = value
        else:
            given[name] = words.pop(0) if words else None
    return given, rest


def _run(arguments: argparse.Namespace) -> int:
    from lorrainemail.control.client import Malformed, NotAllowed, NotRunning, Refused
    from lorrainemail.errors import ConfigurationError

    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except ConfigurationError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 1
    except (NotRunning, NotAllowed, Refused, Malformed) as error:
        print(f"lorrainemail: {error}", file=sys.stderr)
        return 1
    except PermissionError as error:
        print(f"lorrainemail: {error.filename}: {error.strerror} (run as the server's user)", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has enough; the interpreter must not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
