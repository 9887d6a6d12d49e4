"""What a start finds missing in the state directory and makes: certificate, first account, configuration.

:func:`prepare` is called by :mod:`lorrainemail.tap` at every start, with the state locked and all ports open.
Everything it makes is recorded in an :class:`~lorrainemail.setup.state.Undo` and handed to the user that will
serve. Where nothing was configured anywhere (the embedded default), it also makes the first account, whose
password stands in ``<state>/first-account`` and nowhere else, and, last, ``lorrainemail.toml``: from then on
the configuration is the operator's. Fails with :class:`~lorrainemail.setup.failure.StartError`.
"""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from typing import Final

import attrs

from lorrainemail.addresses import parse_address
from lorrainemail.certs import selfsigned
from lorrainemail.config.default import ACCOUNT, default_toml
from lorrainemail.config.load import FILE_NAME, Located
from lorrainemail.config.model import Settings
from lorrainemail.errors import ConfigurationError
from lorrainemail.net.tls import CertificatePair
from lorrainemail.ops.files import SYSTEM
from lorrainemail.queue import files as queue
from lorrainemail.sasl.credentials import hash_password
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.places import PASSWORD_FILE, directories
from lorrainemail.setup.state import Owner, Undo
from lorrainemail.store.filesystem import network_type
from lorrainemail.tables.edit import add_account

#: Letters and digits without look-alikes; 20 of them are 100 bits.
_PASSWORD_LETTERS: Final = "23456789abcdefghjkmnpqrstuvwxyz2"
_PASSWORD_LENGTH: Final = 20


@attrs.frozen(slots=True)
class Prepared:
    """What the server runs with.

    :ivar located: where the configuration is now.
    :ivar certificate: the pair in use.
    :ivar authority: what clients verify us with, "" where the operator gave a certificate.
    """

    located: Located
    certificate: CertificatePair
    authority: str


def certificate_of(settings: Settings, addresses: tuple[str, ...] = ()) -> tuple[CertificatePair, str]:
    """The operator's certificate, or the self-signed one, made or renewed where that is needed.

    :param addresses: loopback addresses that we listen on.
    :returns: the pair, and the authority's file ("" for the operator's).
    :raises OSError: where a file cannot be written.
    """
    if settings.tls.certificate:
        return CertificatePair(settings.tls.certificate, settings.tls.key or settings.tls.certificate), ""
    directory = os.path.join(settings.state, "tls")
    made = selfsigned.ensure(directory, settings.hostname, datetime.now(UTC), addresses)
    return CertificatePair(made.certificate, made.key), made.authority


def prepare(
    settings: Settings, located: Located, owner: Owner, undo: Undo, addresses: tuple[str, ...] = ()
) -> Prepared:
    """Make what is missing."""
    state = settings.state
    try:
        places = directories(state)
        kind = network_type(places.mail)
        if kind:
            raise StartError(
                f"the mail directory {places.mail} lies on a network file system ({kind})",
                "give the server a state directory on a local disk: its index would not be safe there",
            )
        for path in attrs.astuple(places):
            _directory(path, owner, undo)
        with _Creation(places.queue, owner, undo):
            queue.Directory(places.queue, SYSTEM).prepare()
        with _Creation(os.path.join(state, "tls"), owner, undo):
            pair, authority = certificate_of(settings, addresses)
        if located.embedded:
            with _Creation(state, owner, undo):
                _first_account(state)
                write_small(os.path.join(state, FILE_NAME), default_toml(), 0o600)
            located = attrs.evolve(located, file=os.path.join(state, FILE_NAME), embedded=False)
    except OSError as error:
        raise StartError(
            f"cannot write to the state directory {state} ({error.strerror})",
            "make room or mend its permissions, or name another directory with --state",
        ) from None
    except ConfigurationError as error:
        problem = error.problems[0]
        raise StartError(f"{problem.where}: {problem.what}", problem.mend) from None
    return Prepared(located, pair, authority)


def _directory(path: str, owner: Owner, undo: Undo) -> None:
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
        undo.created(path)
        owner.take(path)


class _Creation:
    """Notes which files of one directory came into being: theirs is the owner, and a failure undoes them."""

    def __init__(self, directory: str, owner: Owner, undo: Undo) -> None:
        self._directory = directory
        self._owner = owner
        self._undo = undo
        self._before: set[str] | None = None

    def __enter__(self) -> None:
        if os.path.isdir(self._directory):
            self._before = set(os.listdir(self._directory))

    def __exit__(self, *_failure: object) -> None:
        if not os.path.isdir(self._directory):
            return
        if self._before is None:
            self._undo.created(self._directory)
            self._owner.take(self._directory)
        for name in set(os.listdir(self._directory)) - (self._before or set()):
            path = os.path.join(self._directory, name)
            self._undo.created(path)
            self._owner.take(path)


def _first_account(state: str) -> None:
    """The account of the embedded default with a random password, told in a file that only we can read."""
    address = parse_address(ACCOUNT)
    if os.path.exists(os.path.join(state, "accounts")):
        # Somebody made accounts before the first start, or an earlier first start was cut off after this.
        return
    password = "".join(secrets.choice(_PASSWORD_LETTERS) for _ in range(_PASSWORD_LENGTH))
    write_small(os.path.join(state, PASSWORD_FILE), password + "\n", 0o600)
    add_account(state, address, [hash_password(password.encode("ascii"))])


def write_small(path: str, text: str, mode: int) -> None:
    """A new small file, synced, whole or not at all."""
    temporary = f"{path}.new"
    descriptor = os.open(
        temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    os.rename(temporary, path)
