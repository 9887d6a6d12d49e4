"""Makes POP3 sessions for one door (pop3 or pop3s) and counts them.

Composed by :mod:`lorrainemail.service`, one factory for each listener; a limit is a value of the counter that
is handed in and may be changed while running.
"""

from __future__ import annotations

from typing import Literal

from twisted.internet.interfaces import IAddress, IReactorTime

from lorrainemail.interfaces import IAuthenticator, IServerTls
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.sessions import SessionFactory
from lorrainemail.pop3.server import Pop3Server


class Pop3Factory(SessionFactory[Pop3Server]):
    """The sessions of one listener.

    :param door: "pop3", or "pop3s" where the listener speaks TLS at once.
    :param clock: time-outs and turns.
    :param counter: connections at once; shared by the listeners of a door.
    :param tls: for STLS, None where there is none.
    :param plaintext: logins without TLS are allowed on this listener (``[auth] plaintext``).
    """

    def __init__(
        self,
        door: Literal["pop3", "pop3s"],
        authenticator: IAuthenticator,
        clock: IReactorTime,
        counter: ConnectionCounter,
        tls: IServerTls | None = None,
        plaintext: bool = False,
    ) -> None:
        super().__init__(counter)
        self.door = door
        self.authenticator = authenticator
        self.clock = clock
        self.tls = tls
        self.plaintext = plaintext

    @property
    def implicit_tls(self) -> bool:
        """TLS is there before the first octet of POP3."""
        return self.door == "pop3s"

    def buildProtocol(self, addr: IAddress | None) -> Pop3Server:  # type: ignore[override]
        return Pop3Server(self)
