"""Back-pressure towards a client: what the transport says to a producer, as something to await.

Owned by one connection each (the POP3 and IMAP doors) and registered with the transport for as long as that
lives: a client that does not read is not served, neither with one long answer nor with many short ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


class Gone(ConnectionLost):
    """The connection went away under a command; nothing is left to answer."""


@implementer(IPushProducer)
class Outflow:
    """The transport's word on whether more may be written.

    :param resumed: called when it may again.
    :ivar paused: the transport's buffer is full.
    """

    __slots__ = ("_lost", "_resumed", "_waiting", "paused")

    def __init__(self, resumed: Callable[[], None]) -> None:
        self._resumed = resumed
        self._waiting: Deferred[None] | None = None
        self._lost = False
        self.paused = False

    def attach(self, transport: Any) -> None:
        """Begin to listen to the transport."""
        transport.registerProducer(self, True)

    async def drained(self) -> None:
        """Return when more may be written.

        :raises Gone: where that will never be.
        """
        if self._lost:
            raise Gone()
        if self.paused:
            self._waiting = Deferred()
            await self._waiting

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)
        self._resumed()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._lost = True
        self.paused = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(Gone())
