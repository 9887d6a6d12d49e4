"""A service that looks now and then whether there is something to do, and does it, one round at a time."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class Rounds(Service):
    """Give it a :meth:`look` that begins a round where one is wanted. A round ends with the service.

    :param first: seconds from the start to the first look.
    :param every: seconds between looks.
    """

    _log: ClassVar[Logger]

    def __init__(self, clock: IReactorTime, first: float, every: float) -> None:
        self._clock = clock
        self._after, self._every = first, every
        self._round: Deferred[None] | None = None
        self._first: IDelayedCall | None = None
        self._looks = LoopingCall(self.look)
        self._looks.clock = clock

    def look(self) -> None:
        """See whether a round is wanted; called also while one is under way."""
        raise NotImplementedError

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._looks.start(self._every, now=False)
        self._first = self._clock.callLater(self._after, self.look)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._looks.running:
            self._looks.stop()
        if self._first is not None and self._first.active():
            self._first.cancel()
        if self._round is None:
            return None
        ended: Deferred[None] = Deferred()
        self._round.addBoth(lambda _: ended.callback(None))
        self._round.cancel()
        return ended

    @property
    def under_way(self) -> bool:
        """Whether a round is."""
        return self._round is not None

    def begin(self, work: Coroutine[Any, Any, None], failed: str) -> None:
        """Begin a round, which none is under way.

        :param failed: what the log says where it fails.
        """
        self._round = Deferred.fromCoroutine(work)

        def ended(failure: Any) -> None:
            self._round = None
            if failure is not None and self.running:
                self._log.failure(failed, failure)

        self._round.addBoth(ended)
