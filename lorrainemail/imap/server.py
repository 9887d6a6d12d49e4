"""One IMAP session: commands to handlers in order, answers and updates back.

A subclass of Twisted's protocol whose input path, command table and handlers are ours: what it gets wrong
(see ``docs/``) cannot be mended from outside. Kept of it: the place in Twisted's world (factory, transport,
``startTLS``, time-outs).

How a command goes. The connection (:mod:`lorrainemail.imap.connection`) gives one event at a time, which runs
as a coroutine; nothing else of the session is looked at until it has answered, so pipelined commands are
answered in order and STARTTLS, login and IDLE change the rules for all that follows. After the handler,
untagged updates are sent where RFC 3501 §7.4.1 allows them, then the tagged answer.

How it fails. A syntax error is a tagged BAD; a failure of the store NO with the response code of RFC 5530;
anything unexpected is NO [SERVERBUG] and a logged Failure. Too many errors, a line or literal beyond all
bounds, and silence end the session with BYE.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.envelope import Door, Session
from lorrainemail.errors import MailError, TemporaryError
from lorrainemail.grammar.imap import human, parse_command
from lorrainemail.grammar.imap_append import tag_of
from lorrainemail.grammar.imap_commands import BadCommand, Command
from lorrainemail.grammar.imap_input import (
    AFTER_LOGIN,
    AppendMessage,
    Continue,
    Event,
    Fault,
    Ready,
)
from lorrainemail.grammar.imap_search import UnknownCharset
from lorrainemail.imap.asides import Asides, Telling
from lorrainemail.imap.capabilities import capability
from lorrainemail.imap.connection import ImapConnection
from lorrainemail.imap.view import View
from lorrainemail.interfaces import (
    Account,
    IAuthenticator,
    IMailboxScripts,
    IMailHome,
    IPrincipal,
    IServerTls,
    MailboxEvent,
)
from lorrainemail.message.quoting import string
from lorrainemail.net.channel import TlsChannel, channel_of
from lorrainemail.net.flow import Gone
from lorrainemail.net.peers import local_of, peer_of
from lorrainemail.net.tls import tls_facts
from lorrainemail.ops.ids import new_id

if TYPE_CHECKING:
    from lorrainemail.imap.notify import Notifier

T = TypeVar("T")

log = Logger(namespace="lorrainemail.imap")

#: Seconds of silence before login; and until login in all.
PRE_LOGIN_IDLE: Final = 60
PRE_LOGIN_TOTAL: Final = 180
#: RFC 3501 §5.4: at least 30 minutes.
AUTOLOGOUT: Final = 31 * 60
#: Seconds after which, and between which, the progress of a long command is told.
PROGRESS: Final = 10
#: Commands in error one after another.
MAX_ERRORS: Final = 20
#: Failed logins on one connection.
MAX_LOGIN_FAILURES: Final = 5

#: Response codes that a store's failure may name as the first word of its detail (RFC 5530, RFC 9051 §7.1).
_CODES: Final = frozenset(
    {
        "NONEXISTENT",
        "ALREADYEXISTS",
        "TRYCREATE",
        "CANNOT",
        "OVERQUOTA",
        "LIMIT",
        "EXPUNGEISSUED",
        "INUSE",
        "NOPERM",
    }
)


#: Commands that speak of messages by number, where they are not given with UID (RFC 9586 §3).
_NUMBERED: Final = frozenset({"FETCH", "STORE", "SEARCH", "SORT", "THREAD", "COPY", "MOVE"})
#: Commands during which, given without UID, no message may lose its number.
_KEEPS_NUMBERS: Final = frozenset({"FETCH", "STORE", "SEARCH", "SORT", "THREAD"})


class No(Exception):
    """A command's refusal: the text after NO, response code included."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class Bad(Exception):
    """A command that is wrong in a way that the grammar cannot know: the text after BAD."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


class Shared(Protocol):
    """What the sessions of one listener share (:class:`lorrainemail.imap.factory.ImapFactory`)."""

    door: Door
    authenticator: IAuthenticator
    clock: IReactorTime
    spill_directory: str
    message_size: int
    tls: IServerTls | None
    plaintext: bool
    hostname: str
    scripts: IMailboxScripts | None
    sieve_host: str

    @property
    def verbs(self) -> Mapping[str, Verb]: ...

    def append(self, session: ImapServer, event: AppendMessage) -> Coroutine[Any, Any, bytes]: ...

    @property
    def implicit_tls(self) -> bool: ...

    def enter(self, session: ImapServer) -> str | None: ...

    def leave(self, session: ImapServer) -> None: ...

    async def heavy(self, work: Callable[..., T], *arguments: Any) -> T: ...

    async def reserve(self) -> Callable[[], None]: ...


#: A handler: sends untagged responses; answers the tagged one, as b"OK done".
Handler = Callable[["ImapServer", Command], Coroutine[Any, Any, bytes]]


@attrs.frozen(slots=True)
class Verb:
    """A command: in which states it may be given, and what runs it."""

    states: frozenset[str]
    handler: Handler


def refusal(failure: MailError) -> bytes:
    """What a failure of the store or of the login says to an IMAP client."""
    words = human(failure.reply.text)
    code = failure.detail.split(" ", 1)[0]
    if code in _CODES:
        return b"NO [%b] %b" % (code.encode("ascii"), words)
    if isinstance(failure, TemporaryError):
        return b"NO [UNAVAILABLE] %b" % words
    return b"NO [CANNOT] %b" % words


class ImapServer(ImapConnection):
    """One session.

    :ivar facts: the session's facts, as for login and log.
    :ivar home: the mail of who is logged in.
    :ivar view: the selected mailbox.
    :ivar enabled: what the client switched on.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared.clock)
        self.shared = shared
        self.facts = Session(id=new_id(), door=shared.door)
        self.home: IMailHome | None = None
        self.principal: IPrincipal | None = None
        self.view: View | None = None
        self.enabled: set[str] = set()
        self.login_failures = 0
        self.notifier: Notifier | None = None
        self.asides = Asides(self)
        self.structures: tuple[object, Any] | None = None  # the last message's structure (see fetch)
        self._login_deadline: IDelayedCall | None = None
        self._errors = 0
        self._counted = False
        #: Why we leave after the command that is under way, b"" where we stay.
        self._leaving = b""
        self._idling = False
        self._tag = b""
        self._said_at = 0.0

    # -- the connection --

    def connectionMade(self) -> None:
        peer, port = peer_of(self.transport)
        local, _ = local_of(self.transport)
        self.facts = attrs.evolve(self.facts, peer=peer, peer_port=port, local=local)
        set_nodelay = getattr(self.transport, "setTcpNoDelay", None)
        if set_nodelay is not None:
            set_nodelay(True)
        refused = self.shared.enter(self)
        if refused is not None:
            self.transport.write(b"* BYE [UNAVAILABLE] %b\r\n" % refused.encode("ascii"))
            self._closed = True
            self.transport.loseConnection()
            return
        self._counted = True
        self._flow.attach(self.transport)
        self.wait_for_client(PRE_LOGIN_IDLE)
        self._login_deadline = self.callLater(PRE_LOGIN_TOTAL, self._too_slow)
        host = human(self.shared.hostname)
        # Before the end of a handshake nobody knows by which mechanisms this client may log in: it asks.
        code = b"" if self.shared.implicit_tls else b"[CAPABILITY %b] " % capability(self)
        self.send(b"* OK %b%blorrainemail ready\r\n" % (code, host and host + b" "))
        self.write_out()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.end()
        if self._login_deadline is not None and self._login_deadline.active():
            self._login_deadline.cancel()
        if self.notifier is not None:
            self.notifier.close()
            self.notifier = None
        if not self._busy:
            self.close_view()
        if self._counted:
            self._counted = False
            self.shared.leave(self)
        if self.principal is not None:
            log.info(
                "{account} left the {door} door (session {session})",
                account=self.facts.account,
                door=self.facts.door,
                session=self.facts.id,
            )

    def timeoutConnection(self) -> None:
        if self._busy and not self._flow.paused and self._line is None and self._stream is None:
            self.wait_for_client(self.timeOut)  # we are the slow ones
            return
        self.bye(b"Autologout; idle for too long")

    def _too_slow(self) -> None:
        if self.state == "unauth":
            self.bye(b"Login took too long")

    def close_soon(self, words: bytes = b"[UNAVAILABLE] The server is stopping") -> None:
        """End now, or after a command under way that does not wait for the client."""
        self._leaving = words
        waits = self._line is not None or self._stream is not None or self._flow.paused
        if not self._busy or waits:
            self.bye(words)

    def check_login(self, may_stay: Callable[[Account], bool]) -> None:
        """End where the login is no longer good."""
        if self.principal is not None and not may_stay(self.principal.account):
            self.close_soon(b"Your login is no longer good")

    def close_view(self) -> None:
        """Leave the selected mailbox."""
        view, self.view = self.view, None
        self.structures = None
        if view is not None:
            view.close()
        if self.state == "select":
            self.state = "auth"

    def progress(self, done: int, goal: int, more: int = 0) -> None:
        """A long command is still under way: say so now and then (RFC 9585 §3).

        :param more: added to ``done``.
        """
        now = self.shared.clock.seconds()
        if now - self._said_at >= PROGRESS:
            self._said_at = now
            tag = string(self._tag)
            self.send(b"* OK [INPROGRESS (%b %d %d)] Still at it\r\n" % (tag, min(done + more, goal), goal))
            self.write_out()

    # -- what is told unasked --

    def set_notifier(self, notifier: Notifier | None) -> None:
        """What the client wants to be told of its own accord (RFC 5465); None for nothing but the usual."""
        if self.notifier is not None:
            self.notifier.close()
        self.notifier = notifier
        if self.view is not None:
            self.obey_notifier(self.view)

    def obey_notifier(self, view: View) -> None:
        """The view tells what the client wants to hear of it."""
        notifier = self.notifier
        view.tells_messages = notifier is None or notifier.wants("MESSAGENEW")
        view.tells_flags = notifier is None or notifier.wants("FLAGCHANGE")

    def tell_aside(self, telling: Telling, always: bool = False) -> bool:
        """Tell something when no answer is under way; False where too much waits already.

        :param always: in place of all that waits.
        """
        if self._closed:
            return True
        if always:
            self.asides.forget()
        if not self.asides.add(telling):
            return False
        if self._idling:
            self.asides.begin().addErrback(self._aside_failed)
        elif not self._busy:
            self._begin_asides()
        return True

    def _begin_asides(self) -> None:
        self._busy = True
        self.asides.begin().addBoth(self._executed)

    @staticmethod
    def _aside_failed(failure: Failure) -> None:
        failure.trap(Gone)  # type: ignore[no-untyped-call]

    def _may_write(self) -> None:
        self.notice()
        self._pump()

    # -- commands --

    def handle(self, event: Event) -> None:
        if isinstance(event, Continue):
            self.send(b"+ Ready for literal\r\n")
            self.write_out()
        elif isinstance(event, Fault):
            self._fault(event)
        else:
            self._busy = True
            Deferred.fromCoroutine(self._execute(event)).addBoth(self._executed)

    def _fault(self, fault: Fault) -> None:
        if fault.too_big and fault.tag and self.state != "unauth":
            self.send(b"%b NO [TOOBIG] %b\r\n" % (fault.tag, human(fault.text)))
        else:
            self.send(b"%b BAD %b\r\n" % (fault.tag or b"*", human(fault.text)))
        self._count_error()
        if fault.fatal:
            self.bye(b"Cannot go on after that")
        self.write_out()

    def _count_error(self) -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self.bye(b"Too many errors")

    def _executed(self, result: object) -> None:
        self._busy = False
        if isinstance(result, Failure):
            if not isinstance(result.value, Gone):
                log.failure("An IMAP session broke (session {session})", result, session=self.facts.id)
                self.bye(b"[SERVERBUG] Internal error")
            self._out.clear()
        self.write_out()
        if self._closed:
            self.close_view()
        elif self._leaving:
            self.bye(self._leaving)
        elif self.asides.waiting:
            self._begin_asides()
        elif not self._pumping:
            self._pump()

    async def _execute(self, event: Ready | AppendMessage) -> None:
        """Run one command and answer it. Fails with Gone alone (or a fault of ours)."""
        uid = False
        expunges = True
        if isinstance(event, AppendMessage):
            tag = event.arguments.tag
            work = self.shared.append(self, event)
        else:
            try:
                command = parse_command(event.data, self.utf8, "UTF8=ACCEPT" not in self.enabled)
            except BadCommand as bad:
                self.send(b"%b BAD %b\r\n" % (bad.tag or b"*", human(bad.text)))
                self._count_error()
                return
            except UnknownCharset as unknown:
                if unknown.saves and self.view is not None:
                    self.view.saved = array("I")
                # RFC 3501 §6.4.4, §7.1
                tag = tag_of(event.data)
                self.send(b"%b NO [BADCHARSET (US-ASCII UTF-8)] Unknown character set\r\n" % tag)
                return
            tag, uid = command.tag, command.uid
            verb = self.shared.verbs[command.name]
            if self.state not in verb.states:
                self.send(b"%b BAD %b not allowed now\r\n" % (tag, command.name.encode("ascii")))
                self._count_error()
                return
            if not uid and command.name in _NUMBERED and "UIDONLY" in self.enabled:
                self.send(b"%b BAD [UIDREQUIRED] Message numbers are not used here\r\n" % tag)
                return
            # RFC 3501 §7.4.1: no EXPUNGE while these use sequence numbers
            expunges = uid or command.name not in _KEEPS_NUMBERS
            work = verb.handler(self, command)
        self._tag, self._said_at = tag, self.shared.clock.seconds()
        try:
            answer = await work
            self._errors = 0
        except Gone:
            raise
        except No as no:
            answer = b"NO " + no.text
        except Bad as bad:
            answer = b"BAD " + bad.text
            self._count_error()
        except MailError as failure:
            if isinstance(failure, TemporaryError):
                log.warn(
                    "An IMAP command failed for now: {detail} (session {session})",
                    detail=failure.detail or str(failure.reply),
                    session=self.facts.id,
                )
            answer = refusal(failure)
        except Exception:
            log.failure("An IMAP command failed unexpectedly (session {session})", session=self.facts.id)
            answer = b"NO [SERVERBUG] Internal error"
        await self.tell_updates(expunges, uid)
        if self.view is not None and self.view.gone:
            self.send(b"%b %b\r\n" % (tag, answer))
            self.bye(b"The selected mailbox was deleted")
            return
        if answer:
            self.send(b"%b %b\r\n" % (tag, answer))
        if self.state == "logout":
            self.close()

    async def tell_updates(self, expunges: bool, uid: bool) -> None:
        """Everything that the client may hear now of its mailbox."""
        view = self.view
        if view is None or self.state != "select":
            return
        while lines := view.updates(expunges, uid):
            self.send(b"".join(lines))
            if view.behind:
                await self.breathe()
        if not expunges:
            self.send(view.held_back())
        if self.notifier is not None:
            self.notifier.came(view.take_fresh())

    # -- states --

    def leave_if_gone(self) -> None:
        """This session itself deleted its selected mailbox: it knows, so it is only deselected."""
        if self.view is not None and self.view.gone:
            self.close_view()

    def selected(self) -> View:
        """The selected mailbox; only in its state."""
        assert self.view is not None
        return self.view

    def writable(self) -> View:
        """The selected mailbox where it may be changed."""
        view = self.selected()
        if view.read_only:
            raise No(b"Mailbox is read-only")
        return view

    def mail(self) -> IMailHome:
        """The folders of who is logged in."""
        assert self.home is not None
        return self.home

    @property
    def scripts_run(self) -> bool:
        """Whether what is done to messages may make scripts run (RFC 6785)."""
        scripts = self.shared.scripts
        return scripts is not None and scripts.wants(self.mail().account)

    def happened(
        self,
        cause: Literal["APPEND", "COPY", "FLAG"],
        folder: str,
        uids: Iterable[int],
        source: str = "",
        changed: Mapping[int, frozenset[str]] | None = None,
    ) -> None:
        """Messages were stored, copied or flagged: scripts may run. In folders of others they do not."""
        scripts, account = self.shared.scripts, self.mail().account
        if scripts is None or folder.startswith("user/"):
            return
        source = "" if source.startswith("user/") else source
        event = MailboxEvent(account, self.facts.account, cause, folder, tuple(uids), source, changed or {})
        scripts.happened(event)

    def logged_in(self, principal: IPrincipal) -> None:
        """From here on the session belongs to an account."""
        self.principal = principal
        self.home = principal.home
        self.state = "auth"
        self.facts = attrs.evolve(
            self.facts, account=principal.account.address.key, mechanism=principal.mechanism
        )
        self._reader.limits = AFTER_LOGIN
        self.wait_for_client(AUTOLOGOUT)
        if self._login_deadline is not None and self._login_deadline.active():
            self._login_deadline.cancel()
        self._login_deadline = None

    def start_tls(self) -> None:
        """RFC 3501 §6.2.1: what was sent in clear text behind STARTTLS is not looked at."""
        assert self.shared.tls is not None
        self.write_out()
        self._reader.discard()
        self.transport.startTLS(self.shared.tls.context_factory(self.shared.door))
        self.startedTLS = True

    @property
    def encrypted(self) -> bool:
        return self.shared.implicit_tls or self.startedTLS

    @property
    def may_log_in(self) -> bool:
        """Whether a password may be sent over this connection."""
        return self.encrypted or self.shared.plaintext

    @property
    def channel(self) -> TlsChannel | None:
        """The TLS that the session runs under, its handshake done."""
        return channel_of(self.transport) if self.encrypted else None

    def know_tls(self) -> None:
        """Put what TLS the session runs under into its facts (after the handshake)."""
        if self.encrypted and self.facts.tls is None:
            self.facts = attrs.evolve(self.facts, tls=tls_facts(self.transport))

    def enable(self, *words: str) -> None:
        """Switch extensions on (RFC 5161, RFC 7162 §3.1); they stay on."""
        self.enabled.update(words)
        self._reader.utf8 = self.utf8

    @property
    def utf8(self) -> bool:
        """Names and strings of both sides are UTF-8 (RFC 6855 §3, RFC 9051 §5.1)."""
        return not self.enabled.isdisjoint({"UTF8=ACCEPT", "IMAP4rev2"})

    # -- IDLE --

    def idle(self, on: bool) -> None:
        """Whether notices of the mailbox are told at once (RFC 2177)."""
        self._idling = on
        if on:
            self.tell_idle()

    def notice(self) -> None:
        """The selected mailbox has something to tell."""
        if self._idling:
            self.tell_idle()
        elif self.notifier is not None and self.notifier.at_once and not self._busy:
            self.tell_idle(not self.notifier.delays_expunges)

    def tell_idle(self, expunges: bool = True) -> None:
        """Untagged updates now; they wait where the client does not read."""
        view = self.view
        if view is None or self._flow.paused or self._closed:
            return
        told = view.updates(expunges=expunges, with_uid=False)
        self.send(b"".join(told))
        if self.notifier is not None:
            self.notifier.came(view.take_fresh())
        if told and view.behind:
            self.callLater(0, self.notice)
        if view.gone:
            self.bye(b"The selected mailbox was deleted")
        self.write_out()
