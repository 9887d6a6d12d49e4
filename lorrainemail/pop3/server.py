"""One POP3 session (RFC 1939), on twisted.mail's protocol.

Owns the session: its state, the commands and their answers. Made by
:class:`lorrainemail.pop3.factory.Pop3Factory` for each connection. Of :class:`twisted.mail.pop3.POP3` it
keeps the shape (a ``do_VERB`` each, a factory, the time-out) and replaces the input, the dispatch and every
answer: commands are answered strictly in order, one at a time, whatever was pipelined.

Invariants: nothing is removed but by QUIT in the TRANSACTION state, answered when it is durable; octets that
came in plaintext never act inside TLS; no exception text reaches the client. A failure in the middle of a
multi-line answer ends the connection, so that a cut message is never taken for a whole one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.mail.pop3 import POP3
from twisted.python.failure import Failure

from lorrainemail.envelope import Session
from lorrainemail.errors import MailError, PermanentError, TemporaryError
from lorrainemail.interfaces import Account, IExchange, IPrincipal
from lorrainemail.net.channel import TlsChannel, channel_of
from lorrainemail.net.flow import Outflow
from lorrainemail.net.peers import local_of, peer_of
from lorrainemail.net.tls import tls_facts
from lorrainemail.ops.ids import new_id
from lorrainemail.pop3.input import MAX_COMMAND, MAX_SASL_LINE, MAX_WAITING, Lines, LineTooLong
from lorrainemail.pop3.maildrop import Maildrop, NoSuchMessage
from lorrainemail.pop3.wire import Stuffer, Top, for_ascii
from lorrainemail.pop3.words import DEFAULT, LANGUAGES, translated
from lorrainemail.sasl.mechanisms import CREDENTIALS_INVALID

if TYPE_CHECKING:
    from lorrainemail.pop3.factory import Pop3Factory

log = Logger(namespace="lorrainemail.pop3")

#: RFC 1939 §3: at least ten minutes of silence before an autologout.
IDLE_TIMEOUT: Final = 600.0
#: From connection to login; silence or not.
LOGIN_TIMEOUT: Final = 600.0
#: For the last answer to reach a client that is being left.
CLOSE_TIMEOUT: Final = 30.0
#: Wrong commands, and failed logins, before the connection is closed.
MAX_ERRORS: Final = 20
MAX_LOGINS: Final = 5
#: Octets of a message read and sent at once.
CHUNK: Final = 64 * 1024
#: Lines of a listing made, and pipelined commands answered, before others have their turn.
LINES_AT_ONCE: Final = 1000
COMMANDS_AT_ONCE: Final = 200

AUTHORIZATION: Final = "AUTHORIZATION"
TRANSACTION: Final = "TRANSACTION"
UPDATE: Final = "UPDATE"

INTERNAL: Final = b"[SYS/TEMP] Internal error, try again later"
NEEDS_TLS: Final = b"[AUTH] Logging in needs TLS: use STLS first"


class BadCommand(Exception):
    """The client's command cannot be understood; the text may be shown."""


@attrs.frozen(slots=True)
class Verb:
    """One command: the states it belongs to, and how many arguments it takes (None: the raw rest)."""

    states: frozenset[str]
    arguments: tuple[int, int] | None


_BOTH: Final = frozenset({AUTHORIZATION, TRANSACTION})
_BEFORE: Final = frozenset({AUTHORIZATION})
_AFTER: Final = frozenset({TRANSACTION})

#: Every command there is; RPOP, APOP, LAST are not among them.
VERBS: Final = {
    b"CAPA": Verb(_BOTH, (0, 0)),
    b"QUIT": Verb(_BOTH, (0, 0)),
    b"STLS": Verb(_BEFORE, (0, 0)),
    b"USER": Verb(_BEFORE, None),
    b"PASS": Verb(_BEFORE, None),
    b"AUTH": Verb(_BEFORE, (0, 2)),
    b"UTF8": Verb(_BEFORE, (0, 0)),
    b"LANG": Verb(_BOTH, (0, 1)),
    b"STAT": Verb(_AFTER, (0, 0)),
    b"LIST": Verb(_AFTER, (0, 1)),
    b"UIDL": Verb(_AFTER, (0, 1)),
    b"RETR": Verb(_AFTER, (1, 1)),
    b"TOP": Verb(_AFTER, (2, 2)),
    b"DELE": Verb(_AFTER, (1, 1)),
    b"RSET": Verb(_AFTER, (0, 0)),
    b"NOOP": Verb(_AFTER, (0, 0)),
}


class Pop3Server(POP3):
    """One connection."""

    factory: Pop3Factory  # type: ignore[assignment]

    def __init__(self, factory: Pop3Factory) -> None:
        self.factory = factory
        self.state = AUTHORIZATION
        self.secure = factory.implicit_tls
        self.facts = Session(id=new_id(), door=factory.door)
        self.maildrop: Maildrop | None = None
        #: Who logged in.
        self.account: Account | None = None
        self._lines = Lines()
        self._flow = Outflow(self._go_on)
        self._name: bytes | None = None
        self._utf8 = False
        self._language = DEFAULT
        self._exchange: IExchange | None = None
        #: The command that is being answered, where it takes time.
        self._command: Deferred[None] | None = None
        self._inside_answer = False
        self._in_loop = False
        self._turn: Any = None
        self._reading_paused = False
        self._counted = False
        self._closing = False
        self._lost = False
        self._errors = 0
        self._logins = 0

    # -- the connection --

    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        """The time-out's clock."""
        return self.factory.clock.callLater(period, func)

    def _expect_something_within(self, seconds: float | None) -> None:
        if self._lost:
            seconds = None
        self.setTimeout(seconds)  # type: ignore[no-untyped-call]

    def connectionMade(self) -> None:
        transport: Any = self.transport
        # Without it each answer to a waiting client costs a delayed acknowledgement.
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        peer, port = peer_of(transport)
        self.facts = attrs.evolve(self.facts, peer=peer, peer_port=port, local=local_of(transport)[0])
        self._flow.attach(transport)
        self._expect_something_within(LOGIN_TIMEOUT)
        refusal = self.factory.enter(self)
        if refusal is not None:
            self._err(b"[SYS/TEMP] " + refusal.encode("ascii"))
            self._close()
            return
        self._counted = True
        # No timestamp in the greeting: APOP is not offered (RFC 1939 §7).
        self._ok(b"POP3 server ready")

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._lost = self._closing = True
        self._expect_something_within(None)
        self._flow.stopProducing()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._counted:
            self.factory.leave(self)
        # A command under way comes to its own end: QUIT's deletions were asked for, the others notice.
        if self._command is None:
            self._release()

    def timeoutConnection(self) -> None:
        """RFC 1939 §3: leave without an answer and without removing anything."""
        self._closing = True
        transport: Any = self.transport
        transport.abortConnection()

    abort = timeoutConnection

    def check_login(self, may_stay: Callable[[Account], bool]) -> None:
        """End where the login is no longer good; POP3 has no words for that."""
        if self.account is not None and not may_stay(self.account):
            self.close_soon()

    def close_soon(self) -> None:
        """The server is stopping: leave now, or after the answer that is under way."""
        if self._command is None:
            self._close()
        else:
            self._closing = True

    def _close(self) -> None:
        self._closing = True
        if self._lost:
            return
        self._lines.drop()
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        self._expect_something_within(CLOSE_TIMEOUT)

    def _release(self) -> None:
        maildrop, self.maildrop = self.maildrop, None
        if maildrop is not None:
            maildrop.close()

    # -- input --

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._lines.add(data)
        self._work()

    def _go_on(self) -> None:
        """The client reads again."""
        self._touch()
        self._work()

    def _touch(self) -> None:
        """Something happened; before the login the clock runs on (slow dribble keeps no connection)."""
        if self.state != AUTHORIZATION and not self._closing:
            self.resetTimeout()  # type: ignore[no-untyped-call]

    def _work(self) -> None:
        """Answer what waits, in order, until a command takes time or the client reads no more."""
        if self._in_loop:
            return
        self._in_loop = True
        try:
            for _ in range(COMMANDS_AT_ONCE):
                if self._command is not None or self._flow.paused or self._closing or self._turn is not None:
                    break
                line = self._next_line()
                if line is None:
                    break
                self._touch()
                self._answer(line)
            else:
                self._turn = self.factory.clock.callLater(0, self._next_turn)
        finally:
            self._in_loop = False
        self._pause_or_resume_reading()

    def _next_turn(self) -> None:
        self._turn = None
        self._work()

    def _next_line(self) -> bytes | None:
        try:
            long = self._exchange is not None or self._lines.begin_login
            return self._lines.next(MAX_SASL_LINE if long else MAX_COMMAND)
        except LineTooLong:
            self._err(b"Line too long")
            self._close()
            return None

    def _pause_or_resume_reading(self) -> None:
        full = len(self._lines) > MAX_WAITING
        if full != self._reading_paused and not self._lost:
            self._reading_paused = full
            transport: Any = self.transport
            (transport.pauseProducing if full else transport.resumeProducing)()

    # -- dispatch --

    def _answer(self, line: bytes) -> None:
        """One line: a command, or the client's part of a SASL exchange."""
        try:
            if self._exchange is not None:
                result = self._step(self._exchange, line)
            else:
                method, arguments = self._parse(line)
                result = method(*arguments)
        except BadCommand as fault:
            self._mistake(str(fault).encode("utf-8"))
        except NoSuchMessage as fault:
            self._err(str(fault).encode("utf-8"))
        except Exception:
            log.failure("A command failed unexpectedly (session {session})", session=self.facts.id)
            self._err(INTERNAL)
        else:
            if result is not None:
                command = self._command = Deferred.fromCoroutine(result)
                command.addErrback(self._failed)
                command.addBoth(self._finished)

    def _parse(self, line: bytes) -> tuple[Callable[..., Any], list[bytes]]:
        word, _, rest = line.partition(b" ")
        word = word.upper()
        verb = VERBS.get(word)
        if verb is None:
            raise BadCommand("Unknown command")
        if self.state not in verb.states:
            raise BadCommand("Log in first" if self.state == AUTHORIZATION else "Already logged in")
        method: Callable[..., Any] = getattr(self, "do_" + word.decode("ascii"))
        if verb.arguments is None:
            return method, [rest]
        arguments = rest.split()
        least, most = verb.arguments
        if not least <= len(arguments) <= most:
            raise BadCommand("Wrong number of arguments")
        return method, arguments

    def _failed(self, failure: Failure) -> None:
        """A command that took time ended in a failure."""
        if self._lost:
            # It noticed that the client is gone.
            return
        error = failure.value
        if self._inside_answer:
            log.failure("An answer broke off (session {session})", failure, session=self.facts.id)
            self.timeoutConnection()
        elif isinstance(error, NoSuchMessage):
            self._err(str(error).encode("utf-8"))
        elif isinstance(error, MailError):
            self._err(_mail_error(error))
        else:
            log.failure("A command failed unexpectedly (session {session})", failure, session=self.facts.id)
            self._err(INTERNAL)

    def _finished(self, _: object) -> None:
        self._command = None
        self._inside_answer = False
        if self._lost:
            self._release()
        elif self._closing or self.state == UPDATE:
            self._release()
            self._close()
        else:
            self._touch()
            self._work()

    def _mistake(self, text: bytes) -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            self._err(b"Too many errors, goodbye")
            self._close()
        else:
            self._err(text)

    # -- output --

    def _write(self, data: bytes) -> None:
        if not self._lost:
            transport: Any = self.transport
            transport.write(data)

    def _ok(self, text: bytes = b"") -> None:
        if self._language != DEFAULT:
            text = translated(text, self._language)
        self._write(b"+OK " + text + b"\r\n" if text else b"+OK\r\n")

    def _err(self, text: bytes) -> None:
        if self._language != DEFAULT:
            text = translated(text, self._language)
        self._write(b"-ERR " + text + b"\r\n")

    async def _listing(self, first: bytes, lines: Iterator[bytes]) -> None:
        """A multi-line answer in slices."""
        self._inside_answer = True
        block = [b"+OK " + first]
        for line in lines:
            block.append(line)
            if len(block) >= LINES_AT_ONCE:
                self._write(b"\r\n".join(block) + b"\r\n")
                block.clear()
                await deferLater(self.factory.clock, 0)
                await self._flow.drained()
        block.append(b".\r\n")
        self._write(b"\r\n".join(block))

    # -- any state --

    def do_CAPA(self) -> None:
        """RFC 2449 §5: what is true now."""
        names = [b"TOP", b"UIDL", b"RESP-CODES", b"AUTH-RESP-CODE", b"PIPELINING", b"EXPIRE NEVER"]
        names += [b"UTF8 USER", b"LANG"]
        if self._may_log_in:
            names += [b"USER", b"SASL " + b" ".join(self._mechanisms())]
        if self._may_start_tls:
            names.append(b"STLS")
        names.append(b"IMPLEMENTATION lorrainemail")
        self._write(b"+OK Capabilities follow\r\n" + b"\r\n".join(names) + b"\r\n.\r\n")

    def do_LANG(self, wanted: bytes | None = None) -> None:
        """RFC 6856 §3: the language of what people may read."""
        if wanted is None:
            rows = [f"{tag} {name}\r\n".encode() for tag, name in LANGUAGES.items()]
            self._write(b"+OK Languages follow\r\n" + b"".join(rows) + b".\r\n")
            return
        # RFC 6856 §3.3: "*" is for us to choose; a region that is not known falls back to its language.
        tag = wanted.decode("ascii", "replace").lower().partition("-")[0]
        if tag != "*" and tag not in LANGUAGES:
            self._err(b"That language is not spoken here")
            return
        self._language = DEFAULT if tag == "*" else tag
        spoken = translated(b"This language is spoken now", self._language)
        self._write(b"+OK %b %b\r\n" % (self._language.encode("ascii"), spoken))

    def do_QUIT(self) -> Coroutine[Any, Any, None] | None:
        """RFC 1939 §6: the only way into the UPDATE state."""
        if self.maildrop is not None:
            self.state = UPDATE
            return self._update(self.maildrop)
        self._ok(b"Goodbye")
        self._close()
        return None

    async def _update(self, maildrop: Maildrop) -> None:
        try:
            await maildrop.update()
        except MailError as failure:
            log.warn(
                "Messages could not be removed: {detail} (session {session})",
                detail=failure.detail or str(failure.reply),
                session=self.facts.id,
            )
            self._err(b"[SYS/TEMP] Some deleted messages were not removed")
        else:
            self._ok(b"Goodbye")

    # -- AUTHORIZATION --

    @property
    def _may_log_in(self) -> bool:
        return self.secure or self.factory.plaintext

    @property
    def _may_start_tls(self) -> bool:
        return self.state == AUTHORIZATION and not self.secure and self.factory.tls is not None

    def do_STLS(self) -> None:
        """RFC 2595 §4. What was pipelined behind it is dropped, and all that was learnt before."""
        if not self._may_start_tls or self.factory.tls is None:
            raise BadCommand("TLS is active already" if self.secure else "TLS is not available")
        self._lines.drop()
        self._name = None
        self._utf8 = False
        self._ok(b"Begin TLS negotiation")
        transport: Any = self.transport
        transport.startTLS(self.factory.tls.context_factory(self.factory.door))
        self.secure = True

    def do_UTF8(self) -> None:
        """RFC 6856 §2.1: from here on header fields may have it."""
        self._utf8 = True
        self._ok(b"UTF-8 is welcome")

    def do_USER(self, name: bytes) -> None:
        """RFC 1939 §7; any name is welcome here, so that nobody learns which exist."""
        if not self._may_log_in:
            self._mistake(NEEDS_TLS)
        elif not name:
            raise BadCommand("USER needs a name")
        else:
            self._name = name
            self._ok(b"Send PASS")

    def do_PASS(self, password: bytes) -> Coroutine[Any, Any, None]:
        """RFC 1939 §7; the whole rest of the line is the password, with its spaces."""
        if self._name is None:
            raise BadCommand("USER comes first")
        name, self._name = self._name, None
        return self._log_in(self.factory.authenticator.authenticate(name, password, self._facts(), "USER"))

    def do_AUTH(
        self, mechanism: bytes | None = None, initial: bytes | None = None
    ) -> Coroutine[Any, Any, None] | None:
        """RFC 5034 §4 (before it RFC 1734); without an argument it lists the mechanisms, for old clients."""
        if mechanism is None:
            names = [name + b"\r\n" for name in self._mechanisms()] if self._may_log_in else []
            self._write(b"+OK Mechanisms follow\r\n" + b"".join(names) + b".\r\n")
            return None
        if not self._may_log_in:
            self._mistake(NEEDS_TLS)
            return None
        self._name = None
        try:
            exchange = self.factory.authenticator.exchange(mechanism, initial, self._facts(), self._channel())
        except PermanentError as refusal:
            self._refuse_exchange(refusal)
            return None
        return self._log_in(exchange.start(), exchange)

    def _step(self, exchange: IExchange, line: bytes) -> Coroutine[Any, Any, None]:
        self._exchange = None
        return self._log_in(exchange.receive(line), exchange)

    def _refuse_exchange(self, refusal: PermanentError) -> None:
        self._mistake(refusal.reply.text.encode("utf-8"))

    def _facts(self) -> Session:
        return attrs.evolve(self.facts, tls=tls_facts(self.transport))

    def _channel(self) -> TlsChannel | None:
        return channel_of(self.transport) if self.secure else None

    def _mechanisms(self) -> list[bytes]:
        return [name.encode("ascii") for name in self.factory.authenticator.mechanisms(self._channel())]

    async def _log_in(self, step: Awaitable[bytes | IPrincipal], exchange: IExchange | None = None) -> None:
        try:
            principal = await step
        except PermanentError as refusal:
            if refusal.reply.code == CREDENTIALS_INVALID.code:
                self._login_failed(b"[AUTH] Name or password is wrong")
            else:
                self._refuse_exchange(refusal)
            return
        except TemporaryError as failure:
            # RFC 3206 §3, RFC 2449 §8.
            self._login_failed(b"[SYS/TEMP] " + failure.reply.text.encode("utf-8"))
            return
        if self._lost:
            return
        if isinstance(principal, bytes):
            self._exchange = exchange
            self._write(b"+ " + principal + b"\r\n")
            return
        # Should the client have gone meanwhile, the end of the command closes it.
        maildrop = self.maildrop = await Maildrop.open(principal.home, self._utf8)
        self.account = principal.account
        account = principal.account.address.key
        self.facts = attrs.evolve(self._facts(), account=account, mechanism=principal.mechanism)
        self.state = TRANSACTION
        self._expect_something_within(IDLE_TIMEOUT)
        self._ok(b"%d messages (%d octets)" % (maildrop.count, maildrop.octets))

    def _login_failed(self, text: bytes) -> None:
        self._logins += 1
        self._err(text)
        if self._logins >= MAX_LOGINS:
            self._closing = True

    # -- TRANSACTION --

    @property
    def _drop(self) -> Maildrop:
        if self.maildrop is None:
            raise BadCommand("Log in first")
        return self.maildrop

    def do_STAT(self) -> None:
        self._ok(b"%d %d" % (self._drop.count, self._drop.octets))

    def do_LIST(self, number: bytes | None = None) -> Coroutine[Any, Any, None] | None:
        drop = self._drop
        if number is not None:
            which = _number(number)
            self._ok(b"%d %d" % (which, drop.size(which)))
            return None
        lines = (b"%d %d" % (n, drop.size(n)) for n in drop.numbers() if not drop.is_deleted(n))
        return self._listing(b"%d messages (%d octets)" % (drop.count, drop.octets), lines)

    def do_UIDL(self, number: bytes | None = None) -> Coroutine[Any, Any, None] | None:
        drop = self._drop
        if number is not None:
            which = _number(number)
            self._ok(b"%d %s" % (which, drop.unique_id(which)))
            return None
        lines = (b"%d %s" % (n, drop.unique_id(n)) for n in drop.numbers() if not drop.is_deleted(n))
        return self._listing(b"Unique ids follow", lines)

    def do_RETR(self, number: bytes) -> Coroutine[Any, Any, None] | None:
        which, drop = _number(number), self._drop
        answer = drop.answer(which)
        if answer is None:
            return self._retrieve(which)
        self._write(answer)
        drop.was_read(which)
        return None

    async def _retrieve(self, number: int) -> None:
        drop = self._drop
        answer = await drop.answers(number)
        if answer is None:
            await self._send_message(number, None)
        else:
            self._write(answer)
            drop.was_read(number)

    def do_TOP(self, number: bytes, lines: bytes) -> Coroutine[Any, Any, None]:
        return self._send_message(_number(number), Top(_number(lines)))

    async def _send_message(self, number: int, top: Top | None) -> None:
        drop = self._drop
        message = await drop.message(number)
        try:
            size = shown = message.size
            # Before the answer begins: what cannot be read is an error, not a cut message.
            chunk = await message.read(0, CHUNK)
            at = len(chunk)
            if not self._utf8:
                chunk = for_ascii(chunk)
                shown += len(chunk) - at
            self._inside_answer = True
            self._ok(b"%d octets" % shown if top is None else b"Top of message follows")
            stuffer = Stuffer()
            while True:
                self._write(stuffer.stuff(chunk if top is None else top.cut(chunk)))
                if at >= size or (top is not None and top.done):
                    break
                await self._flow.drained()
                self._touch()
                chunk = await message.read(at, CHUNK)
                if not chunk:
                    raise EOFError("the message ended before its size")
                at += len(chunk)
            self._write(stuffer.end())
        finally:
            message.close()
        if top is None:
            drop.was_read(number)

    def do_DELE(self, number: bytes) -> None:
        which = _number(number)
        self._drop.delete(which)
        self._ok(b"Message %d deleted" % which)

    def do_RSET(self) -> None:
        self._drop.reset()
        self._ok(b"%d messages (%d octets)" % (self._drop.count, self._drop.octets))

    def do_NOOP(self) -> None:
        self._ok()


def _number(text: bytes) -> int:
    """A message number or line count."""
    if not text.isdigit() or len(text) > 10:
        raise BadCommand("Not a number")
    return int(text)


def _mail_error(failure: MailError) -> bytes:
    """A failure of store or tables as an answer (RFC 3206 §4)."""
    code = b"[SYS/PERM] " if isinstance(failure, PermanentError) else b"[SYS/TEMP] "
    return code + failure.reply.text.encode("utf-8").replace(b"\n", b" ")
