"""Makes POP3 sessions for one door (pop3 or pop3s) and counts them.

Composed by :mod:`lorrainemail.service`, one factory for each listener; a limit is a value of the counter that
is handed in and may be changed while running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory

from lorrainemail.interfaces import Account, IAuthenticator, IServerTls
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.pop3.server import Pop3Server


class Pop3Factory(ServerFactory):
    """The sessions of one listener.

    :param door: "pop3", or "pop3s" where the listener speaks TLS at once.
    :param clock: time-outs and turns.
    :param counter: connections at once; shared by the listeners of a door.
    :param tls: for STLS, None where there is none.
    :param plaintext: logins without TLS are allowed on this listener (``[auth] plaintext``).
    """

    noisy = False

    def __init__(
        self,
        door: Literal["pop3", "pop3s"],
        authenticator: IAuthenticator,
        clock: IReactorTime,
        counter: ConnectionCounter,
        tls: IServerTls | None = None,
        plaintext: bool = False,
    ) -> None:
        self.door = door
        self.authenticator = authenticator
        self.clock = clock
        self.counter = counter
        self.tls = tls
        self.plaintext = plaintext
        self._sessions: set[Pop3Server] = set()
        self._stopped: Deferred[None] | None = None

    @property
    def implicit_tls(self) -> bool:
        """TLS is there before the first octet of POP3."""
        return self.door == "pop3s"

    def buildProtocol(self, addr: IAddress | None) -> Pop3Server:  # type: ignore[override]
        return Pop3Server(self)

    def enter(self, session: Pop3Server) -> bytes | None:
        """Count a session in; or the words why not."""
        if self._stopped is not None:
            return b"The server is stopping"
        too_many = self.counter.enter(session.facts.peer)
        if too_many == "banned":
            return b"Connections from your network are refused"
        if too_many is not None:
            where = b" from your network" if too_many == "peer" else b""
            return b"Too many connections" + where
        self._sessions.add(session)
        return None

    def leave(self, session: Pop3Server) -> None:
        """A session that was counted in has ended."""
        self._sessions.discard(session)
        self.counter.leave(session.facts.peer)
        if self._stopped is not None and not self._sessions and not self._stopped.called:
            self._stopped.callback(None)

    def end_logins(self, may_stay: Callable[[Account], bool]) -> None:
        """End the sessions of those who would not be let in any more."""
        for session in tuple(self._sessions):
            account = session.account
            if account is not None and not may_stay(account):
                session.close_soon()

    def close_sessions(self) -> Deferred[None]:
        """End every session, each after the answer that is under way; fires when all are gone. Cancelling
        it ends them at once."""
        if self._stopped is None:
            self._stopped = Deferred(lambda _: self._abort_sessions())
            for session in tuple(self._sessions):
                session.close_soon()
            if not self._sessions:
                self._stopped.callback(None)
        return self._stopped

    def _abort_sessions(self) -> None:
        for session in tuple(self._sessions):
            session.timeoutConnection()
