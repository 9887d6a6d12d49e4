"""Makes ManageSieve sessions for one listener, and counts them.

Composed by :mod:`lorrainemail.service`; a limit is a value of the counter that is handed in and may be
changed while running.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory

from lorrainemail.interfaces import Account, IAuthenticator, IServerTls
from lorrainemail.managesieve.scripts import ScriptKeeper
from lorrainemail.managesieve.server import ManageSieveServer
from lorrainemail.net.limits import ConnectionCounter


class ManageSieveFactory(ServerFactory):
    """The sessions of one listener.

    :param clock: time-outs and turns.
    :param counter: connections at once; shared by the listeners of the door.
    :param scripts: the scripts of all accounts.
    :param tls: for STARTTLS, None where there is none.
    :param plaintext: logins without TLS are allowed on this listener (``[auth] plaintext``).
    """

    noisy = False

    def __init__(
        self,
        authenticator: IAuthenticator,
        clock: IReactorTime,
        counter: ConnectionCounter,
        scripts: ScriptKeeper,
        tls: IServerTls | None = None,
        plaintext: bool = False,
    ) -> None:
        self.authenticator = authenticator
        self.clock = clock
        self.counter = counter
        self.scripts = scripts
        self.tls = tls
        self.plaintext = plaintext
        self._sessions: set[ManageSieveServer] = set()
        self._stopped: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> ManageSieveServer:
        return ManageSieveServer(self)

    def enter(self, session: ManageSieveServer) -> str | None:
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

    def leave(self, session: ManageSieveServer) -> None:
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
                session.close_soon("Your login is no longer good", "")

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
            session.abort()
