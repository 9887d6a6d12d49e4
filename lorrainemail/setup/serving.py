"""How the parts of a server begin and end together.

:class:`Ordered` starts its services in their order and ends them in the opposite one, each only when the one
before has ended or its time is over: doors close before the queue, the queue before the threads that write.
:class:`Doors` has the reactor accept connections at the ports that were opened at the start, and closes them
politely. Used by :mod:`lorrainemail.service`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.logger import Logger

from lorrainemail.setup.ports import BoundPort

_log = Logger(namespace="lorrainemail")

#: Seconds in which the sessions that are open may end what they are at.
SESSIONS_END: Final = 5.0
#: Seconds in which any one part may end.
PART_ENDS: Final = 10.0


class Ordered(MultiService):
    """Services that stand on those before them."""

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._clock = clock

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            ended: Deferred[Any] = maybeDeferred(service.stopService)
            try:
                await ended.addTimeout(PART_ENDS, self._clock)
            except TimeoutError:
                _log.error("{part} did not end in {seconds} s", part=service.name, seconds=PART_ENDS)
            except Exception:
                _log.failure("{part} did not end well", part=service.name)


@attrs.frozen(slots=True, eq=False)
class Open:
    """One port and what serves it.

    :ivar close: ends the factory's sessions politely; its Deferred fires when they are gone, and cancelling
        it ends them at once.
    :ivar datagrams: what reads the UDP socket beside it.
    """

    port: BoundPort
    factory: Factory
    close: Callable[[], Deferred[None]] | None = None
    datagrams: DatagramProtocol | None = None


class Doors(Service):
    """All listeners of a server."""

    name = "doors"

    def __init__(self, reactor: Any, doors: Sequence[Open]) -> None:
        self._reactor = reactor
        self._doors = tuple(doors)
        self._listening: list[IListeningPort] = []

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for door in self._doors:
            self._listening.append(door.port.serve(self._reactor, door.factory))
            if door.datagrams is not None:
                beside = door.port.serve_datagrams(self._reactor, door.datagrams)
                self._listening += [beside] if beside is not None else []

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        listening, self._listening = self._listening, []
        await DeferredList([maybeDeferred(port.stopListening) for port in listening], consumeErrors=True)
        closes = dict.fromkeys(door.close for door in self._doors if door.close is not None)
        ends = [close().addTimeout(SESSIONS_END, self._reactor) for close in closes]
        await DeferredList(ends, consumeErrors=True)  # those that were cut off have been aborted by it
