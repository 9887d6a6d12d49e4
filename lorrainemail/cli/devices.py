"""``lorrainemail account password`` and ``account logins``: passwords of single devices, and who logged in.

Words of :mod:`lorrainemail.cli.account`, which adds them. A device's password is a credential with a label;
the record of logins is read from ``logins.sqlite`` after the running server, if any, has written down what
it knows. Exit status 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Final

from lorrainemail.addresses import Address
from lorrainemail.cli.account import (
    address_argument,
    credentials_of_account,
    fail,
    new_password,
    open_tables,
    password_options,
    require_account,
    tell_done,
)
from lorrainemail.config.load import Located
from lorrainemail.control.client import Malformed, NotAllowed, NotRunning, Refused, call
from lorrainemail.interfaces import Credential
from lorrainemail.sasl.book import FILE_NAME, opened
from lorrainemail.sasl.record import Row, logins_of
from lorrainemail.tables import edit
from lorrainemail.tables.accounts import MAX_CREDENTIALS

#: Characters of a device's name.
MAX_LABEL: Final = 64


def add_words(words: Any) -> None:
    """Add ``password`` and ``logins`` to the words of ``account``."""
    password = words.add_parser("password", help="passwords of single devices: add, list, remove")
    _device_passwords(password.add_subparsers(metavar="WORD", required=True))
    logins = words.add_parser("logins", help="from where the account was logged in to, and refused")
    address_argument(logins)
    logins.set_defaults(run=run_logins)


def _device_passwords(words: Any) -> None:
    add = words.add_parser("add", help="a further password, for one device; made up unless it is given")
    address_argument(add)
    _label(add)
    password_options(add)
    add.set_defaults(run=run_password_add)
    listing = words.add_parser("list", help="the account's passwords, and when each was used")
    address_argument(listing)
    listing.set_defaults(run=run_password_list)
    remove = words.add_parser("remove", help="end the password of one device")
    address_argument(remove)
    _label(remove)
    remove.set_defaults(run=run_password_remove)


def run_password_add(arguments: argparse.Namespace) -> int:
    located, settings = open_tables(arguments)
    address, label = arguments.address, arguments.label
    kin = credentials_of_account(located, address)
    _require_free(located, address, kin, label)
    if not arguments.password_stdin:
        arguments.generate = True
    fresh, shown = new_password(arguments, settings, label, kin)

    def add(now: tuple[Credential, ...]) -> tuple[Credential, ...]:
        _require_free(located, address, now, label)
        return (*now, *fresh)

    edit.change_credentials(located.state, address, add)
    tell_done(arguments, "added", f'A password for "{label}" was added to {address}.', shown)
    return 0


def run_password_list(arguments: argparse.Namespace) -> int:
    located, _ = open_tables(arguments)
    schemes: dict[str, list[str]] = {}
    for credential in credentials_of_account(located, arguments.address):
        schemes.setdefault(credential.label, []).append(credential.scheme)
    used: dict[str, Row] = {}
    for row in _login_rows(located, arguments.address):
        if row.good:
            used.setdefault(row.label, row)
    facts: list[dict[str, Any]] = [
        {
            "label": label,
            "schemes": of,
            "last_used": used[label].last if label in used else None,
            "last_peer": used[label].peer if label in used else None,
        }
        for label, of in schemes.items()
    ]
    if arguments.json:
        print(json.dumps({"version": 1, "account": str(arguments.address), "passwords": facts}))
        return 0
    for fact in facts:
        when = "not used lately"
        if fact["last_used"] is not None:
            when = f"last used {_moment(fact['last_used'])} from {fact['last_peer'] or 'this machine'}"
        print(f"{fact['label'] or '(the account itself)'}  {', '.join(fact['schemes'])}, {when}")
    if not facts:
        print(f"{arguments.address} has no password.")
    return 0


def run_password_remove(arguments: argparse.Namespace) -> int:
    located, _ = open_tables(arguments)

    def remove(now: tuple[Credential, ...]) -> tuple[Credential, ...]:
        kept = tuple(credential for credential in now if credential.label != arguments.label)
        if len(kept) == len(now):
            mend = f'"lorrainemail account password list {arguments.address}" shows them'
            path = os.path.join(located.state, "accounts")
            fail(path, 0, f'{arguments.address} has no password for "{arguments.label}"', mend)
        return kept

    edit.change_credentials(located.state, arguments.address, remove)
    tell_done(arguments, "removed", f'The password for "{arguments.label}" is no longer good.')
    return 0


def run_logins(arguments: argparse.Namespace) -> int:
    located, _ = open_tables(arguments)
    require_account(located, arguments.address)
    rows = _login_rows(located, arguments.address)
    if arguments.json:
        facts = [
            {
                "good": row.good, "peer": row.peer, "door": row.door, "how": row.how, "label": row.label,
                "first": row.first, "last": row.last, "count": row.count,
            }
            for row in rows
        ]  # fmt: skip
        print(json.dumps({"version": 1, "account": str(arguments.address), "logins": facts}))
        return 0
    for row in rows:
        device = f' with the password for "{row.label}"' if row.label else ""
        what = f"logged in by {row.how}{device}" if row.good else f"REFUSED: {row.how}"
        times = f" ({row.count} times since {_moment(row.first)})" if row.count > 1 else ""
        print(f"{_moment(row.last)}  {row.peer or 'this machine'} at {row.door}: {what}{times}")
    if not rows:
        print(f"Nobody tried to log in as {arguments.address} lately.")
    return 0


def _label(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("label", metavar="DEVICE", type=_parse_label, help='what it is for, as "my phone"')


def _parse_label(text: str) -> str:
    if not text.strip() or len(text) > MAX_LABEL or not text.isprintable():
        raise argparse.ArgumentTypeError(f"a name of 1 to {MAX_LABEL} characters is expected")
    return text.strip()


def _require_free(located: Located, address: Address, kin: Sequence[Credential], label: str) -> None:
    path = os.path.join(located.state, "accounts")
    if any(credential.label == label for credential in kin):
        mend = "choose another name, or remove that one first"
        fail(path, 0, f'{address} has a password for "{label}" already', mend)
    # A SCRAM verifier may come beside each.
    if len(kin) + 2 > MAX_CREDENTIALS:
        fail(path, 0, f"{address} has as many passwords as an account can have", "remove some")


def _login_rows(located: Located, address: Address) -> list[Row]:
    """What is recorded of logins to an account, the newest first; of a running server all that it knows."""
    with contextlib.suppress(NotRunning, NotAllowed, Refused, Malformed):
        call(located.state, "logins.flush")
    if not os.path.exists(os.path.join(located.state, FILE_NAME)):
        return []
    try:
        with edit.as_owner(located.state), opened(located.state) as connection:
            return logins_of(connection, address.key)
    except (sqlite3.Error, OSError) as error:
        path = os.path.join(located.state, FILE_NAME)
        fail(path, 0, f"cannot be read: {error}", "run as the server's user")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
