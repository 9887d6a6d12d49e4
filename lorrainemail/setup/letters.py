"""What the server itself has to say to people, as mail: to its postmaster, and to owners of accounts.

Composed by :mod:`lorrainemail.service`. A letter enters by the injector, like any other mail of ours; one
that cannot be kept is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.addresses import Address
from lorrainemail.interfaces import Account, Inject
from lorrainemail.message.note import note
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id

_log = Logger(namespace="lorrainemail")


class Letters:
    """Writes them.

    :param inject: of :class:`lorrainemail.interfaces.IInjector`.
    :param wall: seconds since the epoch.
    """

    def __init__(self, hostname: str, inject: Inject, wall: Callable[[], float]) -> None:
        self._hostname = hostname
        self._inject = inject
        self._wall = wall

    def send(self, subject: str, text: str) -> Deferred[str]:
        """A letter to the postmaster; its Deferred fires when it is kept, and fails where it is not."""
        words = note(self._hostname, new_id(), subject, text, self._wall())
        return self._inject(None, [Address("postmaster", "")], Content(words), 1, "")

    def tell_operator(self, subject: str, text: str) -> None:
        """The same for those who cannot wait."""
        self.send(subject, text).addErrback(_lost, "the postmaster")

    def warn_of_quota(self, account: Account, percent: int) -> None:
        """To an account's owner, before mail is refused for him."""
        subject = f"Your mailbox is {percent} % full"
        text = (
            f"The mailbox {account.address} holds more than {percent} % of what it may. When it is full, "
            "mail for it is refused.\n\nDelete messages that are no longer needed, also in Trash and Junk, "
            "or ask the operator of the server for more room.\n"
        )
        words = note(self._hostname, new_id(), subject, text, self._wall(), str(account.address))
        sent = self._inject(None, [account.address], Content(words), 1, "")
        sent.addErrback(_lost, str(account.address))


def _lost(failure: Any, whom: str) -> None:
    _log.failure("A letter to {whom} was not kept", failure, whom=whom)
