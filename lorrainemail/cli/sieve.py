"""``lorrainemail sieve``: filter scripts of accounts.

``check`` and ``test`` need no server and no account. The others work on the account's home; a running server
sees every change at the next message. Exit status 0 done, 1 failed (the script is none, or cannot be stored),
2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.config.load import locate
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.grammar.sieve import MAX_SCRIPT, SieveError
from lorrainemail.setup.places import directories
from lorrainemail.sieve.effects import (
    Context,
    Effect,
    Envelope,
    FileInto,
    Keep,
    Redirect,
    Reject,
    Result,
    Sent,
)
from lorrainemail.sieve.language import compile_script
from lorrainemail.sieve.message import Message
from lorrainemail.sieve.review import review
from lorrainemail.sieve.run import run_program
from lorrainemail.sieve.storage import Scripts, StorageError
from lorrainemail.store.paths import home_path
from lorrainemail.tables.edit import as_owner

#: Octets of a message that is tested.
MAX_MESSAGE: Final = 256 << 20


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "sieve",
        help="filter scripts of accounts: check, test, put, activate, list",
        description="Sieve scripts (RFC 5228): what accounts want done with their mail.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)

    check = words.add_parser("check", help="whether a file is a script that may be used")
    check.add_argument("script", metavar="SCRIPT", help="the file, - for standard input")
    _json(check)
    check.set_defaults(run=run_check)

    test = words.add_parser("test", help="what a script would do with a message, rule by rule")
    test.add_argument("script", metavar="SCRIPT", help="the file with the script")
    test.add_argument("message", metavar="MESSAGE", help="the file with the message, - for standard input")
    test.add_argument("--from", dest="sender", type=_sender, default=None, metavar="ADDRESS",
                      help='the envelope\'s sender, "" for <> (default: the From field)')  # fmt: skip
    test.add_argument("--to", dest="recipient", type=_address, default=None, metavar="ADDRESS",
                      help="the envelope's recipient (default: the To field)")  # fmt: skip
    test.add_argument("--folders", default="INBOX", metavar="NAMES", help="folders that are there, by commas")
    _json(test)
    test.set_defaults(run=run_test)

    put = words.add_parser("put", help="store a script in an account")
    put.add_argument("address", metavar="ADDRESS", type=_address)
    put.add_argument("script", metavar="SCRIPT", help="the file, - for standard input")
    put.add_argument("--name", default="", help="the script's name (default: the file's)")
    put.add_argument("--activate", action="store_true", help="use it from now on")
    put.set_defaults(run=run_put)

    activate = words.add_parser("activate", help="use a stored script from now on")
    activate.add_argument("address", metavar="ADDRESS", type=_address)
    activate.add_argument(
        "name", metavar="NAME", nargs="?", default="", help="the script; none: use no script"
    )
    activate.set_defaults(run=run_activate)

    listing = words.add_parser("list", help="an account's scripts, and whether they are in order")
    listing.add_argument("address", metavar="ADDRESS", type=_address)
    _json(listing)
    listing.set_defaults(run=run_list)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _sender(text: str) -> Address | str:
    return "" if text in ("", "<>") else _address(text)


# -- check and test -------------------------------------------------------------------------------------


def run_check(arguments: argparse.Namespace) -> int:
    warnings, error = _reviewed(_read(arguments.script, MAX_SCRIPT + 1), _beside(arguments.script))
    if arguments.json:
        facts = None
        if error is not None:
            facts = {"line": error.line, "column": error.column, "what": error.what, "script": error.script}
        answer = {"version": 1, "valid": error is None, "error": facts, "warnings": warnings}
        print(json.dumps(answer, ensure_ascii=False))
    elif error is None:
        print(f"{arguments.script}: a script that may be used")
        _warn(arguments.script, warnings)
    else:
        print(f"{arguments.script}: {error}", file=sys.stderr)
    return 0 if error is None else 1


def run_test(arguments: argparse.Namespace) -> int:
    try:
        program = compile_script(
            _read(arguments.script, MAX_SCRIPT + 1), _beside(arguments.script), noting=True
        )
    except SieveError as error:
        print(f"{arguments.script}: {error}", file=sys.stderr)
        return 1
    data = _read(arguments.message, MAX_MESSAGE)
    message = Message.of(data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    envelope = _envelope(arguments, message)
    context = Context(
        now=time.time(),
        addresses=frozenset({envelope.recipient.key}),
        folders={name: () for name in arguments.folders.split(",") if name},
        environment={"location": "MDA", "name": "lorrainemail", "phase": "during"},
    )
    result = run_program(program, message, envelope, context)
    if arguments.json:
        print(json.dumps(_as_json(result), ensure_ascii=False))
    else:
        print("\n".join(_lines(result)))
    return 1 if result.error else 0


def _envelope(arguments: argparse.Namespace, message: Message) -> Envelope:
    """As given, else as the header says."""
    sender: Address | None = arguments.sender or None
    if arguments.sender is None:
        sender = _first(message, "from")
    recipient = arguments.recipient or _first(message, "to") or Address("recipient", "example.test")
    return Envelope(sender, recipient)


def _first(message: Message, name: str) -> Address | None:
    for mailbox in message.addresses(name):
        try:
            return parse_address(str(mailbox))
        except AddressError:
            continue
    return None


def _lines(result: Result) -> Iterator[str]:
    for note in result.notes:
        script = f"{note.script}:" if note.script else ""
        yield f"{script}{note.line:>4}  {note.what}"
    yield ""
    if result.error:
        yield f"The script failed, the message is kept: {result.error}"
        return
    told = [text for text in map(_told, result.effects) if text]
    yield "What becomes of the message:"
    for text in told or ["it is thrown away"]:
        yield f"  {text}"


def _told(effect: Effect) -> str:
    flags = (
        f", flags {' '.join(effect.flags)}" if isinstance(effect, Keep | FileInto) and effect.flags else ""
    )
    edited = ", edited" if isinstance(effect, Keep | FileInto | Redirect) and effect.version else ""
    if isinstance(effect, Keep):
        return f"kept in the inbox{flags}{edited}"
    if isinstance(effect, FileInto):
        made = ", made where it is missing" if effect.create else ""
        return f"filed into {effect.folder}{flags}{made}{edited}"
    if isinstance(effect, Redirect):
        return f"redirected to {effect.address}{edited}"
    if isinstance(effect, Reject):
        return f"refused: {' '.join(effect.text.split())}"
    if isinstance(effect, Sent):
        return f"{effect.kind}: a message to {', '.join(map(str, effect.recipients))}"
    return ""


def _as_json(result: Result) -> dict[str, Any]:
    effects: list[dict[str, Any]] = []
    for effect in result.effects:
        name = type(effect).__name__.lower()
        if isinstance(effect, Keep):
            effects.append({"action": name, "flags": effect.flags, "edited": effect.version is not None})
        elif isinstance(effect, FileInto):
            effects.append(
                {
                    "action": name,
                    "folder": effect.folder,
                    "flags": effect.flags,
                    "create": effect.create,
                    "edited": effect.version is not None,
                }
            )
        elif isinstance(effect, Redirect):
            effects.append({"action": name, "to": str(effect.address), "edited": effect.version is not None})
        elif isinstance(effect, Reject):
            effects.append({"action": effect.kind, "text": effect.text})
        elif isinstance(effect, Sent):
            message = effect.message.decode("utf-8", "replace")
            effects.append(
                {"action": effect.kind, "to": list(map(str, effect.recipients)), "message": message}
            )
    notes = [{"line": note.line, "script": note.script, "what": note.what} for note in result.notes]
    return {"version": 1, "error": result.error, "effects": effects, "notes": notes}


# -- scripts of accounts --------------------------------------------------------------------------------


def run_put(arguments: argparse.Namespace) -> int:
    script = _read(arguments.script, MAX_SCRIPT + 1)
    name = arguments.name or os.path.basename(arguments.script).removesuffix(".sieve")
    if name == "-":
        print("lorrainemail sieve: a script from standard input needs --name", file=sys.stderr)
        return 2
    with _scripts(arguments) as scripts:
        warnings, error = _reviewed(script, scripts.library(arguments.address))
        if error is not None:
            print(f"{arguments.script}: {error}", file=sys.stderr)
            return 1
        _warn(arguments.script, warnings)
        scripts.put(arguments.address, name, script)
        if arguments.activate:
            scripts.activate(arguments.address, name)
    print(
        f'{arguments.address} has the script "{name}"'
        + (", in use from now on" if arguments.activate else "")
    )
    return 0


def run_activate(arguments: argparse.Namespace) -> int:
    with _scripts(arguments) as scripts:
        scripts.activate(arguments.address, arguments.name)
    if arguments.name:
        print(f'{arguments.address} uses the script "{arguments.name}" from now on')
    else:
        print(f"{arguments.address} uses no script from now on")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    with _scripts(arguments) as scripts:
        found = []
        for stored in scripts.list(arguments.address):
            octets = scripts.read(arguments.address, stored.name) or b""
            found.append((stored, _error_of(octets, scripts.library(arguments.address))))
    if arguments.json:
        rows = [
            {
                "name": stored.name,
                "size": stored.size,
                "active": stored.active,
                "error": None if error is None else str(error),
            }
            for stored, error in found
        ]
        print(json.dumps({"version": 1, "address": str(arguments.address), "scripts": rows}))
        return 0
    for stored, error in found:
        state = "in use" if stored.active else ""
        fault = f"cannot be used: {error}" if error is not None else ""
        print(f"{stored.name}  {stored.size} octets  {', '.join(filter(None, (state, fault)))}".rstrip())
    if not found:
        print(f"{arguments.address} has no scripts")
    return 0


@contextmanager
def _scripts(arguments: argparse.Namespace) -> Iterator[Scripts]:
    """The account's scripts; what is written belongs to the server's user."""
    state = locate(arguments.config, arguments.state).state
    mail = directories(state).mail
    with as_owner(state):
        home = os.path.join(mail, home_path(arguments.address))
        if not os.path.isdir(home) and not _is_account(state, arguments.address):
            what = f"there is no account {arguments.address}"
            raise ConfigurationError((Problem(state, 0, what, "lorrainemail account list shows them"),))
        os.makedirs(mail, mode=0o700, exist_ok=True)
        try:
            yield Scripts(mail, os.path.join(state, "sieve"))
        except StorageError as error:
            raise ConfigurationError((Problem(home, 0, str(error), "nothing was changed"),)) from None
        except OSError as error:
            raise ConfigurationError(
                (Problem(error.filename or home, 0, error.strerror or str(error), "nothing was changed"),)
            ) from None


def _is_account(state: str, address: Address) -> bool:
    from lorrainemail.tables.accounts import parse_accounts
    from lorrainemail.tables.textfile import read_octets

    try:
        text = read_octets(os.path.join(state, "accounts")).decode("utf-8", "replace")
    except OSError:
        return False
    rows = parse_accounts(text, "accounts")[0]
    return any(row.account.address.key == address.key for row in rows)


def _beside(path: str) -> Any:
    """Scripts that a file includes: those beside it."""
    directory = os.path.dirname(os.path.abspath(path))

    def read(where: str, name: str) -> bytes | None:
        if "/" in name or name.startswith("."):
            return None
        for candidate in (name, f"{name}.sieve"):
            try:
                with open(os.path.join(directory, candidate), "rb") as file:
                    return file.read(MAX_SCRIPT + 1)
            except OSError:
                continue
        return None

    return read


def _reviewed(script: bytes, library: Any) -> tuple[tuple[str, ...], SieveError | None]:
    """The warnings of a script, or why it is none."""
    try:
        return review(script, library), None
    except SieveError as error:
        return (), error


def _warn(script: str, warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"{script}: warning: {warning}", file=sys.stderr)


def _error_of(script: bytes, library: Any) -> SieveError | None:
    try:
        compile_script(script, library)
    except SieveError as error:
        return error
    return None


def _read(path: str, limit: int) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read(limit)
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ConfigurationError(
            (Problem(path, 0, error.strerror or str(error), "name a file that can be read"),)
        ) from None
