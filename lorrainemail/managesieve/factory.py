"""Makes ManageSieve sessions for one listener, and counts them.

Composed by :mod:`lorrainemail.service`; a limit is a value of the counter that is handed in and may be
changed while running.
"""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IReactorTime

from lorrainemail.interfaces import IAuthenticator, IServerTls
from lorrainemail.managesieve.scripts import ScriptKeeper
from lorrainemail.managesieve.server import ManageSieveServer
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.sessions import SessionFactory


class ManageSieveFactory(SessionFactory[ManageSieveServer]):
    """The sessions of one listener.

    :param clock: time-outs and turns.
    :param counter: connections at once; shared by the listeners of the door.
    :param scripts: the scripts of all accounts.
    :param tls: for STARTTLS, None where there is none.
    :param plaintext: logins without TLS are allowed on this listener (``[auth] plaintext``).
    """

    def __init__(
        self,
        authenticator: IAuthenticator,
        clock: IReactorTime,
        counter: ConnectionCounter,
        scripts: ScriptKeeper,
        tls: IServerTls | None = None,
        plaintext: bool = False,
    ) -> None:
        super().__init__(counter)
        self.authenticator = authenticator
        self.clock = clock
        self.scripts = scripts
        self.tls = tls
        self.plaintext = plaintext

    def buildProtocol(self, addr: IAddress | None) -> ManageSieveServer:
        return ManageSieveServer(self)
