"""Credentials written anew at a login: only then is the password at hand.

Called by the checker of :mod:`lorrainemail.sasl.portal` after each password that was right. A hash made
elsewhere becomes ours, and SCRAM verifiers come or go as the operator chose
(:func:`lorrainemail.sasl.credentials.renewed`). The login never waits for it and never fails by it: what
cannot be written is in the log, and the next login tries again. A row that somebody changed meanwhile is left
as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.addresses import Address
from lorrainemail.errors import ConfigurationError
from lorrainemail.interfaces import Account, Credential
from lorrainemail.sasl.credentials import is_stale, renewed
from lorrainemail.sasl.mechanisms import prepare_password

log = Logger(namespace="lorrainemail.sasl")

#: Accounts whose credentials are being written at one moment; others wait for their next login.
MAX_AT_ONCE: Final = 4

Credentials = tuple[Credential, ...]
#: Replaces an account's credentials by what a function makes of those that it has now. Blocks.
Amend = Callable[[Address, Callable[[Credentials], Sequence[Credential]]], None]


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
        self._busy: set[str] = set()

    def proved(self, account: Account, credential: Credential, password: bytes) -> None:
        """A password was right: write its credential anew where that is due."""
        amend, with_scram, key = self._amend, self.with_scram, account.address.key
        if amend is None or key in self._busy or len(self._busy) >= MAX_AT_ONCE:
            return
        if not is_stale(account.credentials, credential, with_scram):
            return
        prepared = prepare_password(password)
        assert prepared is not None
        before = account.credentials

        def work() -> None:
            after = renewed(before, credential, prepared, with_scram)
            # A row that changed since the login is somebody's fresher will.
            amend(account.address, lambda now: after if now == before else now)

        def done(result: object) -> object:
            self._busy.discard(key)
            return result

        self._busy.add(key)
        working: Deferred[Any] = self._in_thread(work)
        working.addBoth(done)
        working.addCallbacks(
            lambda _: log.info("The stored password of {account} was made anew", account=key),
            lambda failure: _told(key, failure),
        )


def _told(account: str, failure: Any) -> None:
    if failure.check(ConfigurationError, OSError):
        log.error(
            "The stored password of {account} could not be made anew: {reason}",
            account=account,
            reason=str(failure.value),
        )
    else:
        log.failure("The stored password of {account} could not be made anew", failure, account=account)
