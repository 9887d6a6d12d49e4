"""The sessions of one listener where users log in: counted in and out, ended together or one by one.

POP3's, IMAP's and ManageSieve's factories are made of it. A limit is a value of the counter that is handed
in, which the listeners of a door share, and may be changed while running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ServerFactory

from lorrainemail.interfaces import Account
from lorrainemail.net.limits import ConnectionCounter


class Session(Protocol):
    """What ends a session. ``facts.peer`` is who speaks."""

    facts: Any

    def close_soon(self) -> None:
        """The server is stopping: leave now, or after the answer that is under way."""

    def check_login(self, may_stay: Callable[[Account], bool]) -> None:
        """The same, where somebody is logged in who may not stay."""

    def abort(self) -> None:
        """Leave at once."""


S = TypeVar("S", bound=Session)


class SessionFactory(ServerFactory, Generic[S]):
    """Those sessions."""

    noisy = False

    def __init__(self, counter: ConnectionCounter) -> None:
        self.counter = counter
        self._sessions: set[S] = set()
        self._stopped: Deferred[None] | None = None

    def enter(self, session: S) -> str | None:
        """Count a session in; or the words why not."""
        if self._stopped is not None:
            return "The server is stopping"
        too_many = self.counter.enter(session.facts.peer)
        if too_many == "banned":
            return "Connections from your network are refused"
        if too_many is not None:
            return "Too many connections" + (" from your network" if too_many == "peer" else "")
        self._sessions.add(session)
        return None

    def leave(self, session: S) -> None:
        """A session has ended; one that was not counted in does not matter."""
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        self.counter.leave(session.facts.peer)
        if self._stopped is not None and not self._sessions and not self._stopped.called:
            self._stopped.callback(None)

    def end_logins(self, may_stay: Callable[[Account], bool]) -> None:
        """End the sessions of those who would not be let in any more."""
        for session in tuple(self._sessions):
            session.check_login(may_stay)

    def close_sessions(self) -> Deferred[None]:
        """End every session, each after the answer that is under way; fires when all are gone. Cancelling
        it ends them at once."""
        if self._stopped is None:
            self._stopped = Deferred(lambda _: self._abort_sessions())
            for session in tuple(self._sessions):
                session.close_soon()
            if not self._sessions and not self._stopped.called:
                self._stopped.callback(None)
        return self._stopped

    def _abort_sessions(self) -> None:
        for session in tuple(self._sessions):
            session.abort()
