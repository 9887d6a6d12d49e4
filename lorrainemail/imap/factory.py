"""Makes IMAP sessions for one door (imap or imaps), counts them, and holds what they share.

Composed by :mod:`lorrainemail.service`, one factory for each listener.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Literal, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IAddress, IReactorTime

from lorrainemail.envelope import Door
from lorrainemail.grammar.imap_input import AppendMessage
from lorrainemail.imap.server import ImapServer, Verb
from lorrainemail.imap.verbs import VERBS, append
from lorrainemail.interfaces import IAuthenticator, IMailboxScripts, IServerTls
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.sessions import SessionFactory

T = TypeVar("T")

#: Large messages that all sessions of a door hold in memory at once to parse or search them.
HEAVY_AT_ONCE: Final = 4


class ImapFactory(SessionFactory[ImapServer]):
    """The sessions of one listener.

    :param door: "imap", or "imaps" where the listener speaks TLS at once.
    :param authenticator: the one login.
    :param clock: time-outs and turns.
    :param counter: connections at once; shared by the listeners of a door.
    :param run: runs long work (parsing, searching large messages) in a thread: ``deferToThreadPool`` with its
        first two arguments bound.
    :param spill_directory: where a large APPEND is kept until it is stored (on the state's file system).
    :param message_size: octets of the largest APPEND; may be changed while running.
    :param tls: for STARTTLS, None where there is none.
    :param plaintext: logins without TLS are allowed on this listener (``[auth] plaintext``).
    :param hostname: our name in the greeting.
    :param scripts: run after what users do to messages (RFC 6785), None for none.
    :ivar sieve_host: where users look after their scripts by ManageSieve, "" for nowhere.
    """

    verbs: Mapping[str, Verb] = VERBS

    def __init__(
        self,
        door: Literal["imap", "imaps"],
        authenticator: IAuthenticator,
        clock: IReactorTime,
        counter: ConnectionCounter,
        run: Callable[..., Deferred[Any]],
        spill_directory: str,
        message_size: int,
        tls: IServerTls | None = None,
        plaintext: bool = False,
        hostname: str = "",
        scripts: IMailboxScripts | None = None,
    ) -> None:
        super().__init__(counter)
        self.door: Door = door
        self.authenticator = authenticator
        self.clock = clock
        self.run = run
        self.spill_directory = spill_directory
        self.message_size = message_size
        self.tls = tls
        self.plaintext = plaintext
        self.hostname = hostname
        self.scripts = scripts
        self.sieve_host = ""
        self._heavy = DeferredSemaphore(HEAVY_AT_ONCE)

    @property
    def implicit_tls(self) -> bool:
        """TLS is there before the first octet of IMAP."""
        return self.door == "imaps"

    def buildProtocol(self, addr: IAddress | None) -> ImapServer:
        return ImapServer(self)

    def append(self, session: ImapServer, event: AppendMessage) -> Coroutine[Any, Any, bytes]:
        """The handler of APPEND, whose message follows as octets."""
        return append(session, event)

    async def heavy(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run work on a large message in a thread."""
        result: T = await self.run(work, *arguments)
        return result

    async def reserve(self) -> Callable[[], None]:
        """A place among the few that may hold a large message; returns the call that gives it back."""
        await self._heavy.acquire()
        return self._heavy.release
