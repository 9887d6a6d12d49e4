"""What a session has to tell of its own accord and cannot tell at once (it must look first).

Owns the queue of such tellings. One at a time, never between the parts of a command's answer: while no
command is under way, in which case the session counts as busy meanwhile, or while the client idles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from lorrainemail.errors import MailError
from lorrainemail.net.flow import Gone

if TYPE_CHECKING:
    from lorrainemail.imap.server import ImapServer

#: Tellings that wait; a client that is so far behind is told nothing more.
MAX_WAITING: Final = 100

Telling = Callable[[], Coroutine[Any, Any, None]]

log = Logger(namespace="lorrainemail.imap")


class Asides:
    """The queue of one session."""

    __slots__ = ("_session", "_under_way", "_waiting")

    def __init__(self, session: ImapServer) -> None:
        self._session = session
        self._waiting: deque[Telling] = deque()
        self._under_way: Deferred[None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._waiting)

    def add(self, telling: Telling) -> bool:
        """Tell that as soon as may be; whether there was room for it."""
        if len(self._waiting) >= MAX_WAITING:
            return False
        self._waiting.append(telling)
        return True

    def forget(self) -> None:
        """What waits is told no more."""
        self._waiting.clear()

    def begin(self) -> Deferred[None]:
        """Tell all that waits; fires when it is told. Never fails but with Gone."""
        if self._under_way is None and self._waiting:
            under_way = self._under_way = Deferred.fromCoroutine(self._tell())
            under_way.addBoth(self._told)
            return under_way
        return self.told()

    def told(self) -> Deferred[None]:
        """When what is being told is told."""
        if self._under_way is None:
            return succeed(None)
        waiter: Deferred[None] = Deferred()

        def pass_on(result: Any) -> Any:
            waiter.callback(None)
            return result

        self._under_way.addBoth(pass_on)
        return waiter

    def _told(self, result: Any) -> Any:
        self._under_way = None
        return result

    async def _tell(self) -> None:
        while self._waiting and not self._session.closed:
            telling = self._waiting.popleft()
            try:
                await telling()
            except Gone:
                self._waiting.clear()
                raise
            except MailError as failure:
                log.debug("something is not told: {detail}", detail=failure.detail)
            except Exception:
                log.failure("a session could not tell something (session {id})", id=self._session.facts.id)
            self._session.write_out()
