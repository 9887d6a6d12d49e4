"""Back-pressure towards a POP3 client: what the transport tells a producer, as something to await.

Owned by one connection each (:mod:`lorrainemail.pop3.server`). Registered with the transport for the whole
connection, so that many small answers wait for a slow reader just as one big message does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class Outflow:
    """A transport's word on whether more may be written.

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
        """Return when more may be written; ConnectionLost where that will never be."""
        if self._lost:
            raise ConnectionLost()
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
            waiting.errback(ConnectionLost())
