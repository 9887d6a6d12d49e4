"""``lorrainemail account``: who has mail here, by which passwords, and who logged in.

Edits the table file ``accounts`` through :mod:`lorrainemail.tables.edit`, with or without a running server,
which sees the change by itself. A password comes from standard input, is made up, or is asked for where
there is a terminal; it never stands on the command line. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.config.default import ACCOUNT
from lorrainemail.config.load import Located, load, locate
from lorrainemail.config.model import Settings
from lorrainemail.config.values import Wrong, parse_size
from lorrainemail.errors import ConfigurationError, PermanentError, Problem
from lorrainemail.interfaces import Credential
from lorrainemail.ops.ids import new_id
from lorrainemail.setup.places import PASSWORD_FILE, directories
from lorrainemail.store.paths import home_path
from lorrainemail.tables import edit
from lorrainemail.tables.accounts import AccountRow, parse_accounts
from lorrainemail.tables.files import parse_domains
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.textfile import read_octets

#: Longest line read from standard input; longer is no password.
MAX_INPUT: Final = 4096
#: Letters and digits without look-alikes; 20 of them are 99 bits.
_LETTERS: Final = "23456789abcdefghjkmnpqrstuvwxyz"
_LENGTH: Final = 20


def configure(subparsers: Any) -> None:
    """Add the command and its words."""
    parser = subparsers.add_parser(
        "account",
        help="add, list, disable and remove accounts; set passwords",
        description="Accounts: who may log in and has a mailbox here. A running server sees every change.",
    )
    words = parser.add_subparsers(metavar="WORD", required=True)

    add = words.add_parser("add", help="a new account")
    address_argument(add)
    password_options(add)
    add.add_argument("--format", choices=("maildir", "mbox"), help="how its mail is kept")
    add.add_argument("--quota", type=_size, default=0, metavar="SIZE", help='room for its mail, as "2 GB"')
    add.set_defaults(run=run_add)

    passwd = words.add_parser("passwd", help="a new password, instead of all the account has")
    address_argument(passwd)
    password_options(passwd)
    passwd.add_argument("--keep-devices", action="store_true", help="keep the passwords of devices")
    passwd.set_defaults(run=run_passwd)

    # That module stands on this one.
    from lorrainemail.cli.devices import add_words

    add_words(words)

    listing = words.add_parser("list", help="all accounts")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    listing.set_defaults(run=run_list)

    disable = words.add_parser("disable", help="no more logins; its mail is still accepted")
    address_argument(disable)
    disable.set_defaults(run=run_disable)
    enable = words.add_parser("enable", help="logins again")
    address_argument(enable)
    enable.set_defaults(run=run_enable)

    remove = words.add_parser("remove", help="remove an account; its mail stays unless --delete-mail")
    address_argument(remove)
    remove.add_argument("--delete-mail", action="store_true", help="delete all its mail too, for good")
    remove.set_defaults(run=run_remove)


def run_add(arguments: argparse.Namespace) -> int:
    located, settings = open_tables(arguments)
    address: Address = arguments.address
    _require_local(located, settings, address)
    credentials, shown = new_password(arguments, settings)
    kept: Literal["maildir", "mbox"] = arguments.format or Rules.of(settings).format_of(address.domain)
    edit.add_account(located.state, address, credentials, format=kept, quota=arguments.quota)
    tell_done(arguments, "added", f"Account {address} added.", shown)
    return 0


def run_passwd(arguments: argparse.Namespace) -> int:
    located, settings = open_tables(arguments)
    require_account(located, arguments.address)
    kept = credentials_of_account(located, arguments.address) if arguments.keep_devices else ()
    devices = tuple(credential for credential in kept if credential.label)
    credentials, shown = new_password(arguments, settings, "", devices)
    edit.change_credentials(
        located.state,
        arguments.address,
        lambda now: (*credentials, *(c for c in now if c.label and arguments.keep_devices)),
    )
    _forget_first_password(located, arguments.address)
    tell_done(arguments, "changed", f"The password of {arguments.address} was changed.", shown)
    return 0


def run_disable(arguments: argparse.Namespace) -> int:
    located, _ = open_tables(arguments)
    edit.set_enabled(located.state, arguments.address, False)
    tell_done(arguments, "disabled", f"{arguments.address} can no longer log in; its mail is still accepted.")
    return 0


def run_enable(arguments: argparse.Namespace) -> int:
    located, _ = open_tables(arguments)
    edit.set_enabled(located.state, arguments.address, True)
    tell_done(arguments, "enabled", f"{arguments.address} can log in.")
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    located, _ = open_tables(arguments)
    address: Address = arguments.address
    edit.remove_account(located.state, address)
    _forget_first_password(located, address)
    mail = directories(located.state).mail
    home = os.path.join(mail, home_path(address))
    if not arguments.delete_mail:
        kept = f" Its mail stays in {home}" if os.path.isdir(home) else ""
        tell_done(arguments, "removed", f"Account {address} removed.{kept}")
        return 0
    # Out of the way in one step, so that an account made anew never finds half of the old mail.
    doomed = os.path.join(mail, f".removed-{new_id()}")
    try:
        os.rename(home, doomed)
        shutil.rmtree(doomed)
    except FileNotFoundError:
        pass
    except OSError as error:
        left = doomed if os.path.isdir(doomed) else home
        fail(left, 0, f"the account is removed, its mail not: {error.strerror}", "delete the directory")
    tell_done(arguments, "removed", f"Account {address} and its mail removed.")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    located, settings = open_tables(arguments)
    rows, problems = _accounts(located)
    if arguments.json:
        print(json.dumps({"version": 1, "accounts": [_as_json(row, settings) for row in rows]}))
    else:
        width = max((len(str(row.account.address)) for row in rows), default=0)
        for row in rows:
            print(f"{row.account.address!s:<{width}}  {_described(row, settings)}")
        if not rows:
            print('There are no accounts yet: "lorrainemail account add ADDRESS --generate" makes one.')
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


# -- arguments -------------------------------------------------------------------------------------------


def address_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", type=_parse_address)
    parser.add_argument("--json", action="store_true", help="one JSON object")


def password_options(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--password-stdin", action="store_true", help="read it from standard input (one line)")
    how.add_argument("--generate", action="store_true", help="make one up and print it")
    parser.set_defaults(usage_error=parser.error)


def _parse_address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(f'"{text}": {error}') from None


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except Wrong as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# -- passwords -------------------------------------------------------------------------------------------


def new_password(
    arguments: argparse.Namespace, settings: Settings, label: str = "", kin: Sequence[Credential] = ()
) -> tuple[tuple[Credential, ...], str]:
    """The credentials of the new password, and the password itself where it was made up.

    :param kin: credentials that the account keeps.
    """
    # Argon2 takes its time to load; a list does not need it.
    from lorrainemail.sasl.credentials import new_credentials

    shown = ""
    if arguments.generate:
        shown = made_up_password()
        password = shown.encode("ascii")
    elif arguments.password_stdin:
        password = _first_line()
    elif sys.stdin.isatty():
        password = _asked(arguments)
    else:
        _usage_error(arguments, "say where the password comes from: --password-stdin or --generate")
    try:
        return new_credentials(password, label, settings.auth.scram, kin), shown
    except PermanentError as refusal:
        _usage_error(arguments, refusal.reply.text)


def made_up_password() -> str:
    """A password that nobody guesses and anybody can type."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


def _usage_error(arguments: argparse.Namespace, words: str) -> NoReturn:
    arguments.usage_error(words)
    raise SystemExit(2)


def _first_line() -> bytes:
    line = sys.stdin.buffer.readline(MAX_INPUT)
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _asked(arguments: argparse.Namespace) -> bytes:
    try:
        password = getpass.getpass("New password: ")
        if getpass.getpass("Once more: ") != password:
            _usage_error(arguments, "the two are not the same")
    except EOFError:
        _usage_error(arguments, "no password was typed")
    return password.encode("utf-8", "surrogateescape")


def _forget_first_password(located: Located, address: Address) -> None:
    """The file that told the first account's password has done its work."""
    if address.key == ACCOUNT:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(located.state, PASSWORD_FILE))


# -- tables ----------------------------------------------------------------------------------------------


def open_tables(arguments: argparse.Namespace) -> tuple[Located, Settings]:
    """Where the server's state is, and its configuration.

    :raises ConfigurationError: where there is none, or accounts are not kept in files.
    """
    located = locate(arguments.config, arguments.state)
    settings = load(located)
    if settings.tables != "files":
        what = f'accounts are kept by the table backend "{settings.tables}"'
        fail(located.file or "", 0, what, "add and change them there")
    if not os.path.isdir(located.state):
        mend = 'start the server once ("twistd -n lorrainemail"), or say where it is with --state'
        fail(located.state, 0, "there is no such state directory", mend)
    return located, settings


def _read(located: Located, name: str) -> tuple[str, str]:
    """A table file's path and text; a missing one is empty."""
    path = os.path.join(located.state, name)
    try:
        return path, read_octets(path).decode("utf-8")
    except FileNotFoundError:
        return path, ""
    except UnicodeDecodeError:
        fail(path, 0, "is not UTF-8 text", "save the file as UTF-8")
    except (OSError, ValueError) as error:
        fail(path, 0, getattr(error, "strerror", None) or str(error), "run as the server's user")


def _accounts(located: Located) -> tuple[list[AccountRow], list[Problem]]:
    path, text = _read(located, "accounts")
    return parse_accounts(text, path)


def require_account(located: Located, address: Address) -> None:
    """Say so before a password is asked for."""
    rows, _ = _accounts(located)
    if all(row.account.address.key != address.key for row in rows):
        mend = '"lorrainemail account list" shows them'
        fail(os.path.join(located.state, "accounts"), 0, f"there is no account {address}", mend)


def credentials_of_account(located: Located, address: Address) -> tuple[Credential, ...]:
    """The account's credentials; it must be there."""
    require_account(located, address)
    rows, _ = _accounts(located)
    return next(row.account.credentials for row in rows if row.account.address.key == address.key)


def _require_local(located: Located, settings: Settings, address: Address) -> None:
    path, text = _read(located, "domains")
    rows, _, _ = parse_domains(text, path)
    domains = {*settings.local_domains, *(row.name for row in rows)}
    if address.domain not in domains:
        mend = f"add the line {address.domain} to {path}"
        if located.file:
            mend += f", or the domain to local_domains in {located.file}"
        fail("", 0, f"{address.domain} is not a domain of this server, so it gets no mail here", mend)


def fail(where: str, line: int, what: str, mend: str) -> NoReturn:
    raise ConfigurationError((Problem(where, line, what, mend),))


# -- output ----------------------------------------------------------------------------------------------


def tell_done(arguments: argparse.Namespace, done: str, words: str, password: str = "") -> None:
    if arguments.json:
        facts = {"version": 1, "account": str(arguments.address), "done": done}
        print(json.dumps({**facts, "password": password} if password else facts))
        return
    print(words)
    if password:
        print(f"Password: {password}")


def _as_json(row: AccountRow, settings: Settings) -> dict[str, Any]:
    account = row.account
    return {
        "address": str(account.address),
        "enabled": account.enabled,
        "format": row.format or Rules.of(settings).format_of(account.address.domain),
        "quota": account.quota,
        "quota_messages": account.quota_messages,
        "credentials": [{"scheme": c.scheme, "label": c.label} for c in account.credentials],
        "may_send_as": list(account.may_send_as),
        "file": account.origin.file,
        "line": account.origin.line,
    }


def _described(row: AccountRow, settings: Settings) -> str:
    account = row.account
    words: list[str] = [row.format or Rules.of(settings).format_of(account.address.domain)]
    if not account.enabled:
        words.append("disabled")
    if not account.credentials:
        words.append("no password")
    if account.quota:
        words.append(f"quota {account.quota // 10**6} MB")
    if account.quota_messages:
        words.append(f"at most {account.quota_messages} messages")
    if account.may_send_as:
        words.append("also sends as " + ", ".join(account.may_send_as))
    return ", ".join(words)
