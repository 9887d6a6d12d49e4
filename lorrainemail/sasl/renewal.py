"""Credentials written anew at a login: only then is the password at hand.

Called by the checker of :mod:`lorrainemail.sasl.portal` after each password that was right. A hash made
elsewhere becomes ours, and SCRAM verifiers come or go as the operator chose
(:func:`lorrainemail.sasl.credentials.renewed`). The login never waits for it and never fails by it. One edit
of the table is made at a time, for all accounts that came meanwhile; what cannot be written is in the log,
and the next login tries again. A row that somebody changed meanwhile is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.addresses import Address
from lorrainemail.errors import ConfigurationError
from lorrainemail.interfaces import Account, Credential
from lorrainemail.sasl.credentials import is_stale, renewed
from lorrainemail.sasl.mechanisms import prepare_password

log = Logger(namespace="lorrainemail.sasl")

#: Accounts that wait for the next edit; others wait for their next login.
MAX_WAITING: Final = 100
#: Accounts of which is remembered what we wrote.
MAX_WRITTEN: Final = 10_000

Credentials = tuple[Credential, ...]
Change = Callable[[Credentials], Sequence[Credential]]
#: Replaces accounts' credentials by what functions make of those that they have now. Blocks.
Amend = Callable[[Mapping[Address, Change]], None]


class Renewals:
    """See the module.

    :param in_thread: runs blocking work.
    :param amend: None where accounts are kept by somebody else (a backend that is only read).
    :param with_scram: whether verifiers are wanted; may be changed while running.
    """

    def __init__(
        self, in_thread: Callable[..., Deferred[Any]], amend: Amend | None, with_scram: bool
    ) -> None:
        self._in_thread = in_thread
        self._amend = amend
        self.with_scram = with_scram
        #: What we wrote last, by account, and instead of what: no password has changed by it.
        self.written: dict[str, tuple[frozenset[Credential], frozenset[Credential]]] = {}
        self._waiting: dict[Address, Change] = {}
        self._working: frozenset[Address] = frozenset()

    def proved(self, account: Account, credential: Credential, password: bytes) -> None:
        """A password was right: write its credential anew where that is due."""
        with_scram, before, address = self.with_scram, account.credentials, account.address
        if self._amend is None or not is_stale(before, credential, with_scram):
            return
        if address in self._waiting or address in self._working or len(self._waiting) >= MAX_WAITING:
            return
        prepared = prepare_password(password)
        assert prepared is not None

        def change(now: Credentials) -> Sequence[Credential]:
            # A row that changed since the login is somebody's fresher will.
            if now != before:
                return now
            anew = renewed(before, credential, prepared, with_scram)
            if len(self.written) >= MAX_WRITTEN:
                self.written.clear()
            self.written[address.key] = frozenset(now), frozenset(anew)
            return anew

        self._waiting[address] = change
        if not self._working:
            self._edit()

    def _edit(self) -> None:
        changes, self._waiting = self._waiting, {}
        self._working = frozenset(changes)
        editing: Deferred[Any] = self._in_thread(self._amend, changes)
        editing.addCallbacks(
            lambda _: log.info("Stored passwords were made anew: {accounts}", accounts=_names(changes)),
            lambda failure: _told(_names(changes), failure),
        ).addBoth(self._edited)

    def _edited(self, _: object) -> None:
        self._working = frozenset()
        if self._waiting:
            self._edit()


def _names(changes: Mapping[Address, Change]) -> str:
    return ", ".join(address.key for address in changes)


def _told(accounts: str, failure: Failure) -> None:
    if isinstance(failure.value, ConfigurationError | OSError):
        log.error(
            "Stored passwords could not be made anew ({accounts}): {reason}",
            accounts=accounts,
            reason=str(failure.value),
        )
    else:
        log.failure("Stored passwords could not be made anew", failure)
