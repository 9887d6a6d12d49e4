"""One ManageSieve session (RFC 5804): octets to commands, answered strictly in order, one at a time.

Made by :class:`lorrainemail.managesieve.factory.ManageSieveFactory` for each connection. Twisted has no
protocol for it; the shape is that of our POP3 door: a table of verbs, a ``do_VERB`` each, a coroutine where
it takes time.

Invariants: a change is answered OK when it is durable; octets that came in plaintext never act inside TLS; no
exception text reaches the client, but for what is wrong with a script. Input is bounded by the reader, output
by the scripts' own bounds and by waiting while the client does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import Address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, TemporaryError
from lorrainemail.grammar.managesieve import Atom, Fault, Limits, Reader, Word, Words, string
from lorrainemail.grammar.sieve import MAX_SCRIPT
from lorrainemail.interfaces import Account, IExchange, IPrincipal
from lorrainemail.managesieve.scripts import Refused
from lorrainemail.net.channel import TlsChannel, channel_of
from lorrainemail.net.flow import Gone, Outflow
from lorrainemail.net.peers import local_of, peer_of
from lorrainemail.net.tls import tls_facts
from lorrainemail.ops.ids import new_id
from lorrainemail.sasl.mechanisms import CANCELLED, CREDENTIALS_INVALID, MAX_LINE
from lorrainemail.sieve.language import EXTENSIONS
from lorrainemail.sieve.run import MAX_REDIRECTS

if TYPE_CHECKING:
    from lorrainemail.managesieve.factory import ManageSieveFactory

log = Logger(namespace="lorrainemail.managesieve")

#: RFC 5804 §1.2: a client that is logged in has half an hour at least.
IDLE_TIMEOUT: Final = 31 * 60.0
#: From connection to login; silence or not.
LOGIN_TIMEOUT: Final = 180.0
#: For the last answer to reach a client that is being left.
CLOSE_TIMEOUT: Final = 30.0
#: Wrong commands, and failed logins, before the connection is closed.
MAX_ERRORS: Final = 20
MAX_LOGINS: Final = 5
#: Octets of input kept while a command is under way; then the client has to wait.
MAX_WAITING: Final = 64 * 1024
#: Commands answered before others have their turn.
COMMANDS_AT_ONCE: Final = 50
#: Before login: an AUTHENTICATE and no more. After it: a script.
BEFORE_LOGIN: Final = Limits(line=MAX_LINE + 256, literal=MAX_LINE, skip=64 * 1024)
AFTER_LOGIN: Final = Limits(line=16 * 1024, literal=MAX_SCRIPT, skip=16 * MAX_SCRIPT)

NON_AUTHENTICATED: Final = "NON-AUTHENTICATED"
AUTHENTICATED: Final = "AUTHENTICATED"


class BadCommand(Exception):
    """The client's command cannot be understood; the text may be shown."""


@attrs.frozen(slots=True)
class Verb:
    """One command: its states, and the kinds of its arguments; the last ``optional`` may be missing."""

    states: frozenset[str]
    arguments: tuple[type, ...] = ()
    optional: int = 0


_ANY: Final = frozenset({NON_AUTHENTICATED, AUTHENTICATED})
_BEFORE: Final = frozenset({NON_AUTHENTICATED})
_AFTER: Final = frozenset({AUTHENTICATED})

#: Every command of RFC 5804 §2.
VERBS: Final = {
    "AUTHENTICATE": Verb(_BEFORE, (bytes, bytes), 1),
    "STARTTLS": Verb(_BEFORE),
    "LOGOUT": Verb(_ANY),
    "CAPABILITY": Verb(_ANY),
    "HAVESPACE": Verb(_AFTER, (bytes, int)),
    "PUTSCRIPT": Verb(_AFTER, (bytes, bytes)),
    "LISTSCRIPTS": Verb(_AFTER),
    "SETACTIVE": Verb(_AFTER, (bytes,)),
    "GETSCRIPT": Verb(_AFTER, (bytes,)),
    "DELETESCRIPT": Verb(_AFTER, (bytes,)),
    "RENAMESCRIPT": Verb(_AFTER, (bytes, bytes)),
    "CHECKSCRIPT": Verb(_AFTER, (bytes,)),
    "NOOP": Verb(_ANY, (bytes,), 1),
    "UNAUTHENTICATE": Verb(_AFTER),
}


@implementer(IHandshakeListener)
class ManageSieveServer(Protocol, TimeoutMixin):
    """One connection.

    :ivar facts: the session's facts, as for login and log.
    """

    transport: Any

    def __init__(self, factory: ManageSieveFactory) -> None:
        self.shared = factory
        self.state = NON_AUTHENTICATED
        self.secure = False
        self.facts = Session(id=new_id(), door="managesieve")
        self._address: Address | None = None
        #: Who logged in.
        self.account: Account | None = None
        self._reader = Reader(BEFORE_LOGIN)
        self._flow = Outflow(self._go_on)
        self._exchange: IExchange | None = None
        #: The command that is being answered, where it takes time.
        self._command: Deferred[None] | None = None
        self._in_loop = False
        self._turn: IDelayedCall | None = None
        self._login_deadline: IDelayedCall | None = None
        self._handshaking = False
        self._reading_paused = False
        self._counted = False
        self._closing = False
        self._lost = False
        self._errors = 0
        self._logins = 0

    # -- the connection --

    def callLater(self, period: float, func: Callable[..., object]) -> IDelayedCall:
        """Of TimeoutMixin: time comes from the clock that was handed in."""
        return self.shared.clock.callLater(period, func)

    def _expect_something_within(self, seconds: float | None) -> None:
        self.setTimeout(None if self._lost else seconds)  # type: ignore[no-untyped-call]

    def connectionMade(self) -> None:
        transport = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        peer, port = peer_of(transport)
        self.facts = attrs.evolve(self.facts, peer=peer, peer_port=port, local=local_of(transport)[0])
        self._flow.attach(transport)
        refusal = self.shared.enter(self)
        if refusal is not None:
            self._write(_answer("BYE", refusal, "TRYLATER"))
            self._close()
            return
        self._counted = True
        self._await_login()
        self._greet()

    def _greet(self) -> None:
        """RFC 5804 §1.7: what is true now, and OK."""
        self._write(self._capabilities() + _answer("OK", "lorrainemail ready"))

    def _await_login(self) -> None:
        self._expect_something_within(LOGIN_TIMEOUT)
        self._login_deadline = self.shared.clock.callLater(LOGIN_TIMEOUT, self.timeoutConnection)

    def _end_login_deadline(self) -> None:
        if self._login_deadline is not None and self._login_deadline.active():
            self._login_deadline.cancel()
        self._login_deadline = None

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._lost = self._closing = True
        self._expect_something_within(None)
        self._end_login_deadline()
        self._flow.stopProducing()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._counted:
            self._counted = False
            self.shared.leave(self)

    def timeoutConnection(self) -> None:
        """RFC 5804 §2: say so and leave; who does not take that is cut off."""
        if self._closing or self._flow.paused or self._handshaking:
            self.abort()
        elif self._command is not None:
            self._expect_something_within(IDLE_TIMEOUT)  # we are the slow ones
        else:
            self._bye("Idle for too long")

    def abort(self) -> None:
        """End at once."""
        self._closing = True
        self.transport.abortConnection()

    def close_soon(self, words: str = "The server is stopping", code: str = "TRYLATER") -> None:
        """Leave now, or after the answer that is under way."""
        if self._command is None:
            self._bye(words, code)
        else:
            self._closing = True

    def check_login(self, may_stay: Callable[[Account], bool]) -> None:
        """End where the login is no longer good."""
        if self.account is not None and not may_stay(self.account):
            self.close_soon("Your login is no longer good", "")

    def _bye(self, text: str, code: str = "") -> None:
        self._write(_answer("BYE", text, code))
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._end_login_deadline()
        if self._lost:
            return
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._expect_something_within(CLOSE_TIMEOUT)

    def handshakeCompleted(self) -> None:
        """RFC 5804 §2.2: the capabilities anew, now that TLS is there."""
        self._handshaking = False
        if not self._closing:
            self._greet()

    # -- input --

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._reader.feed(data)
        self._work()

    def _go_on(self) -> None:
        """The client reads again."""
        self._touch()
        self._work()

    def _touch(self) -> None:
        """Something happened; before the login the clock runs on (slow dribble keeps no connection)."""
        if self.state == AUTHENTICATED and not self._closing:
            self.resetTimeout()  # type: ignore[no-untyped-call]

    def _work(self) -> None:
        """Answer what waits, in order, until a command takes time or the client reads no more."""
        if self._in_loop:
            return
        self._in_loop = True
        try:
            for _ in range(COMMANDS_AT_ONCE):
                busy = self._command is not None or self._turn is not None or self._handshaking
                if busy or self._flow.paused or self._closing:
                    break
                found = self._reader.next()
                self._touch()
                if found is None:
                    break
                self._take(found)
            else:
                self._turn = self.shared.clock.callLater(0, self._next_turn)
        finally:
            self._in_loop = False
        self._pause_or_resume_reading()

    def _next_turn(self) -> None:
        self._turn = None
        self._work()

    def _pause_or_resume_reading(self) -> None:
        held = self._command is not None or self._turn is not None or self._flow.paused
        full = held and self._reader.buffered > MAX_WAITING
        if full != self._reading_paused and not self._lost:
            self._reading_paused = full
            (self.transport.pauseProducing if full else self.transport.resumeProducing)()

    # -- dispatch --

    def _take(self, found: Words | Fault) -> None:
        try:
            if isinstance(found, Fault):
                self._exchange = None
                self._fault(found)
                return
            exchange, self._exchange = self._exchange, None
            result = self._start(found.words) if exchange is None else self._step(exchange, found.words)
        except BadCommand as fault:
            self._mistake(str(fault))
        except Exception:
            log.failure("A command failed unexpectedly (session {session})", session=self.facts.id)
            self._no("Internal error, try again later", "TRYLATER")
        else:
            if result is not None:
                command = self._command = Deferred.fromCoroutine(result)
                command.addErrback(self._failed)
                command.addBoth(self._finished)

    def _fault(self, fault: Fault) -> None:
        if fault.fatal:
            self._bye(fault.text)
        elif fault.too_big and self.state == AUTHENTICATED:
            self._mistake(f"a script is {MAX_SCRIPT} octets long at most", "QUOTA/MAXSIZE")
        else:
            self._mistake(fault.text)

    def _start(self, words: Sequence[Word]) -> Coroutine[Any, Any, None] | None:
        if not words or not isinstance(words[0], Atom):
            raise BadCommand("A command was expected")
        name = words[0].text.decode("ascii").upper()
        verb = VERBS.get(name)
        if verb is None:
            raise BadCommand("Unknown command")
        if self.state not in verb.states:
            raise BadCommand("Log in first" if self.state == NON_AUTHENTICATED else "Already logged in")
        arguments = words[1:]
        kinds = verb.arguments
        if not len(kinds) - verb.optional <= len(arguments) <= len(kinds):
            raise BadCommand("Wrong number of arguments")
        if any(not isinstance(one, kind) for one, kind in zip(arguments, kinds, strict=False)):
            raise BadCommand("Wrong kind of argument")
        made: Coroutine[Any, Any, None] | None = getattr(self, "do_" + name)(*arguments)
        return made

    def _failed(self, failure: Failure) -> None:
        """A command that took time ended in a failure."""
        error = failure.value
        if self._lost:
            return
        if isinstance(error, Refused):
            self._no(error.text, error.code)
        elif isinstance(error, BadCommand):
            self._mistake(str(error))
        else:
            log.failure("A command failed unexpectedly (session {session})", failure, session=self.facts.id)
            self._no("Internal error, try again later", "TRYLATER")

    def _finished(self, _: object) -> None:
        self._command = None
        if self._lost:
            return
        if self._closing:
            self._close()
        else:
            self._touch()
            self._work()

    def _mistake(self, text: str, code: str = "") -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self._bye("Too many errors")
        else:
            self._no(text, code)

    # -- output --

    def _write(self, data: bytes) -> None:
        if not self._lost:
            self.transport.write(data)

    def _ok(self, text: str = "", code: str = "") -> None:
        self._write(_answer("OK", text, code))

    def _no(self, text: str, code: str = "") -> None:
        self._write(_answer("NO", text, code))

    def _done(self, warnings: Sequence[str] = ()) -> None:
        """RFC 5804 §1.3: with what the author should know."""
        self._ok("\r\n".join(warnings), "WARNINGS" if warnings else "")

    # -- any state --

    def _capabilities(self) -> bytes:
        """RFC 5804 §1.7: exactly what is true now."""
        mechanisms = " ".join(self._mechanisms())
        rows = [
            ("IMPLEMENTATION", "lorrainemail"),
            ("SASL", mechanisms),
            ("SIEVE", " ".join(sorted(EXTENSIONS))),
            ("NOTIFY", "mailto"),
            ("MAXREDIRECTS", str(MAX_REDIRECTS)),
        ]
        lines = [b"%b %b\r\n" % (string(name.encode()), string(value.encode())) for name, value in rows]
        if self._may_start_tls:
            lines.append(b'"STARTTLS"\r\n')
        lines.append(b'"UNAUTHENTICATE"\r\n')
        if self._address is not None:
            lines.append(b'"OWNER" %b\r\n' % string(str(self._address).encode("utf-8")))
        lines.append(b'"VERSION" "1.0"\r\n')
        return b"".join(lines)

    def do_CAPABILITY(self) -> None:
        self._write(self._capabilities() + _answer("OK", "Capabilities are complete"))

    def do_NOOP(self, tag: bytes | None = None) -> None:
        """RFC 5804 §2.13."""
        if tag is None:
            self._ok("Nothing was done")
        else:
            self._write(b"OK (TAG %b) %b\r\n" % (string(tag), string(b"Nothing was done")))

    def do_LOGOUT(self) -> None:
        self._ok("Goodbye")
        self._close()

    # -- logging in --

    @property
    def _may_log_in(self) -> bool:
        return self.secure or self.shared.plaintext

    @property
    def _may_start_tls(self) -> bool:
        return self.state == NON_AUTHENTICATED and not self.secure and self.shared.tls is not None

    def do_STARTTLS(self) -> None:
        """RFC 5804 §2.2. What was pipelined behind it is dropped."""
        if not self._may_start_tls or self.shared.tls is None:
            raise BadCommand("TLS is active already" if self.secure else "TLS is not available")
        self._reader.discard()
        self._ok("Begin TLS negotiation")
        self._handshaking = self.secure = True
        self.transport.startTLS(self.shared.tls.context_factory("managesieve"))

    def do_AUTHENTICATE(
        self, mechanism: bytes, initial: bytes | None = None
    ) -> Coroutine[Any, Any, None] | None:
        """RFC 5804 §2.1."""
        if not self._may_log_in:
            self._mistake("Logging in needs TLS: use STARTTLS first", "ENCRYPT-NEEDED")
            return None
        given = b"=" if initial == b"" else initial  # an initial response of no octets
        try:
            exchange = self.shared.authenticator.exchange(mechanism, given, self._facts(), self._channel())
        except PermanentError as refusal:
            self._mistake(refusal.reply.text)
            return None
        return self._log_in(exchange, exchange.start)

    def _step(self, exchange: IExchange, words: Sequence[Word]) -> Coroutine[Any, Any, None]:
        if len(words) != 1 or not isinstance(words[0], bytes):
            raise BadCommand("One string was expected")
        line = words[0]
        return self._log_in(exchange, lambda: exchange.receive(line))

    async def _log_in(self, exchange: IExchange, step: Callable[[], Any]) -> None:
        try:
            principal: bytes | IPrincipal = await step()
            final = b""
            if isinstance(principal, bytes) and exchange.complete:
                # RFC 5804 §1.3: the last word goes along with the OK.
                final, principal = principal, await exchange.receive(b"")
        except PermanentError as refusal:
            if refusal.reply.code == CREDENTIALS_INVALID.code:
                self._login_failed("Name or password is wrong")
            elif refusal.reply == CANCELLED:
                self._no("Cancelled")
            else:
                self._mistake(refusal.reply.text)
            return
        except TemporaryError as failure:
            self._login_failed(failure.reply.text, "TRYLATER")
            return
        if self._lost:
            return
        if isinstance(principal, bytes):
            self._exchange = exchange
            self._write(string(principal) + b"\r\n")
            return
        self.account, self._address = principal.account, principal.account.address
        self.facts = attrs.evolve(self._facts(), account=self._address.key, mechanism=principal.mechanism)
        self.state = AUTHENTICATED
        self._reader.limits = AFTER_LOGIN
        self._end_login_deadline()
        self._expect_something_within(IDLE_TIMEOUT)
        code = b" (SASL %b)" % string(final) if final else b""
        self._write(b"OK%b %b\r\n" % (code, string(b"Logged in")))

    def _login_failed(self, text: str, code: str = "") -> None:
        self._logins += 1
        self._no(text, code)
        if self._logins >= MAX_LOGINS:
            self._closing = True

    def _facts(self) -> Session:
        return attrs.evolve(self.facts, tls=tls_facts(self.transport))

    def _channel(self) -> TlsChannel | None:
        return channel_of(self.transport) if self.secure else None

    def _mechanisms(self) -> tuple[str, ...]:
        """RFC 5804 §1.7: none while nobody may log in; nobody does twice."""
        if not self._may_log_in or self.state == AUTHENTICATED:
            return ()
        return self.shared.authenticator.mechanisms(self._channel())

    def do_UNAUTHENTICATE(self) -> None:
        """RFC 5804 §2.14.1: somebody else may log in; TLS stays."""
        self.state = NON_AUTHENTICATED
        self.account = self._address = None
        self.facts = attrs.evolve(self.facts, account="", mechanism="")
        self._reader.limits = BEFORE_LOGIN
        self._await_login()
        self._ok("Nobody is logged in")

    # -- scripts --

    @property
    def _owner(self) -> Address:
        if self._address is None:
            raise BadCommand("Log in first")
        return self._address

    async def do_HAVESPACE(self, name: bytes, size: int) -> None:
        """RFC 5804 §2.5."""
        await self.shared.scripts.have_space(self._owner, _name(name), size)
        self._done()

    async def do_PUTSCRIPT(self, name: bytes, script: bytes) -> None:
        """RFC 5804 §2.6."""
        self._done(await self.shared.scripts.put(self._owner, _name(name), script))

    async def do_CHECKSCRIPT(self, script: bytes) -> None:
        """RFC 5804 §2.12."""
        self._done(await self.shared.scripts.check(self._owner, script))

    async def do_LISTSCRIPTS(self) -> None:
        """RFC 5804 §2.7."""
        rows = [
            string(one.name.encode("utf-8")) + (b" ACTIVE" if one.active else b"") + b"\r\n"
            for one in await self.shared.scripts.list(self._owner)
        ]
        self._write(b"".join(rows))
        self._done()

    async def do_SETACTIVE(self, name: bytes) -> None:
        """RFC 5804 §2.8; "" for none."""
        wanted = _name(name) if name else ""
        self._done(await self.shared.scripts.activate(self._owner, wanted))

    async def do_GETSCRIPT(self, name: bytes) -> None:
        """RFC 5804 §2.9."""
        octets = await self.shared.scripts.read(self._owner, _name(name))
        self._write(b"{%d}\r\n%b\r\n" % (len(octets), octets))
        try:
            await self._flow.drained()
        except Gone:
            return
        self._done()

    async def do_DELETESCRIPT(self, name: bytes) -> None:
        """RFC 5804 §2.10."""
        await self.shared.scripts.delete(self._owner, _name(name))
        self._done()

    async def do_RENAMESCRIPT(self, old: bytes, new: bytes) -> None:
        """RFC 5804 §2.11.1."""
        await self.shared.scripts.rename(self._owner, _name(old), _name(new))
        self._done()


def _name(octets: bytes) -> str:
    """RFC 5804 §1.6: a script's name is UTF-8."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("a script's name is UTF-8") from None


def _answer(word: str, text: str = "", code: str = "") -> bytes:
    """RFC 5804 §1.3."""
    line = word.encode("ascii")
    if code:
        line += b" (%b)" % code.encode("ascii")
    if text:
        line += b" " + string(text.encode("utf-8", "replace"))
    return line + b"\r\n"
