"""One SMTP connection below its verbs: input cut into lines or messages, output in order, time, pace.

Input comes by :meth:`SmtpConnection.dataReceived` and is cut into command lines, or goes whole into the
:class:`~lorrainemail.smtp.data.MessageReader` between 354 and the final dot, or by count into the
:class:`~lorrainemail.smtp.chunks.ChunkReader` of a BDAT. Each line becomes a coroutine of
:class:`~lorrainemail.smtp.server.SmtpServer`; while one waits (for a table, a check, intake) nothing else of
this session is looked at, so replies come strictly in the order of the commands, and what follows the final
dot waits for its reply.

Bounded: line length, pipelined input, commands a turn of the reactor, errors, idle and total time (the door
looks at the clock). While the client does not read its replies we do not read its commands. Failures of
other packages become their reply; anything unexpected is ``451 4.3.0`` and a logged Failure.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.mail.smtp import ESMTP
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.envelope import Session
from lorrainemail.errors import INTERNAL_ERROR, MailError, Reply
from lorrainemail.grammar.smtp import LONGEST_AUTH, LONGEST_COMMAND
from lorrainemail.interfaces import Account, IExchange
from lorrainemail.net.peers import local_of, peer_of, peer_uid
from lorrainemail.ops import steps
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.metrics import Counter
from lorrainemail.smtp import replies
from lorrainemail.smtp.chunks import ChunkReader
from lorrainemail.smtp.data import IncomingMessage, MessageReader
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.transaction import OpenTransaction

log = Logger(namespace="lorrainemail.smtp")
_REFUSED = Counter("lorrainemail_smtp_refused", "Commands and messages refused", ["door", "verb", "code"])

#: Octets of commands that are kept while one of them waits; then the connection is not read.
MAX_PIPELINED: Final = 65536
#: Commands looked at before other connections have their turn.
COMMANDS_A_TURN: Final = 50
#: Seconds that a client has to read our last word.
LAST_WORD: Final = 30.0
#: Characters of a client's words in a log line.
MAX_LOGGED: Final = 200

_CR: Final = 13


@implementer(IPushProducer, IHalfCloseableProtocol)
class SmtpConnection(ESMTP):
    """See the module. Nothing of the base class's own state or input path is used."""

    transport: Any

    def __init__(self, door: Door) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._door = door
        self._settings = door.settings
        self._session = Session("", self._settings.door)
        self._secure = False
        # It may say who its client is (XCLIENT).
        self._believed = False
        # What the verbs change; the input path asks.
        self._open: OpenTransaction | None = None
        self._reader: MessageReader | ChunkReader | None = None
        self._exchange: IExchange | None = None
        # Input that was not looked at yet begins at ``_position``.
        self._input = b""
        self._position = 0
        self._skipping = False
        self._verb = "connect"
        self._output: list[bytes] = []
        self._reading = True
        self._write_blocked = False
        self._direct = False
        # Under TLS: its handshake is over, as the first octets from inside show.
        self._settled = True
        self._waiting = False
        self._turn: IDelayedCall | None = None
        self._end: IDelayedCall | None = None
        self._errors = 0
        # What is said before we leave, as soon as no message is in our hands.
        self._leaving: Reply | None = None
        # The client has said all that it will say (``printf ... | nc``), and reads on.
        self._ended = False
        self._closing = False
        self._lost = False
        self._began = self._active = door.clock.seconds()

    async def _connected(self) -> None:
        """Greet, or not."""
        raise NotImplementedError

    def _command(self, line: bytes) -> Coroutine[Any, Any, None]:
        """What a command line asks for."""
        raise NotImplementedError

    def _message(self, transaction: OpenTransaction, message: IncomingMessage) -> Coroutine[Any, Any, None]:
        """Answer a final dot."""
        raise NotImplementedError

    def _chunk(self, reader: ChunkReader) -> Coroutine[Any, Any, None]:
        """Answer a BDAT whose octets are in."""
        raise NotImplementedError

    # -- the connection ------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport = self.transport
        try:
            transport.setTcpNoDelay(True)
        except AttributeError:
            pass  # a UNIX socket
        transport.registerProducer(self, True)
        # A wrapper (TLS above all) hands on the attributes of what it wraps: only the bare thing will do.
        self._direct = isinstance(transport, Connection)
        peer, port = peer_of(transport)
        self._session = Session(new_id(), self._settings.door, peer, port, local_of(transport)[0])
        self._believed = self._settings.believes(peer)
        self._secure = ISSLTransport.providedBy(transport)
        self._settled = not self._secure
        if self._settings.door == "local":
            # Who may reach the socket is the file system's matter; who did is noted.
            self._note("A program of uid {uid} hands over", uid=peer_uid(transport))
        refusal = self._door.enter(self, peer)
        if refusal is None:
            self._run(self._connected())
            self._flush()
            return
        log.warn("{peer} turned away: {reply}", peer=peer or "A local client", reply=str(refusal))
        self._goodbye(refusal)
        if self._secure:
            # A handshake for one word is more than it is worth.
            transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self._lost = self._closing = True
        self._input = b""
        self._exchange = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self._reader is not None:
            self._reader.abort()
            self._reader = None
            self._note("{peer} went away in the middle of message {message}")
        elif reason.check(ConnectionDone, ConnectionLost) is None:  # type: ignore[no-untyped-call]
            self._note("The connection from {peer} broke: {reason}", reason=shown(reason.getErrorMessage()))
        self._forget_message()
        self._door.leave(self, self._session.peer)

    def readConnectionLost(self) -> None:
        """The client closed its half: it gets the replies to what it said, then the connection is closed."""
        self._ended = True
        self._work()

    def writeConnectionLost(self) -> None:
        """We never close a half of our own."""

    def out_of_time(self, now: float) -> bool:
        """Whether it has waited for its client for too long. Time that we need ourselves does not count."""
        if self._waiting:
            return False
        if self._closing:
            return now - self._active > LAST_WORD
        settings = self._settings
        return now - self._active > settings.idle_timeout or now - self._began > settings.session_timeout

    def give_up(self) -> None:
        if self._closing:
            self.abort()
            return
        self._note("{peer} took too long")
        self._goodbye(replies.TIMED_OUT)

    @property
    def account(self) -> Account | None:
        """Who logged in."""
        return None

    def shut_down(self, words: Reply = replies.SHUTTING_DOWN) -> None:
        self._leaving = words
        if not self._waiting:
            self._goodbye(words)

    def abort(self) -> None:
        if self._end is None:
            self.transport.abortConnection()

    # -- pace: to the transport we are the producer of replies -----------------------------------------

    def pauseProducing(self) -> None:
        """The client does not read its replies."""
        self._write_blocked = True
        self._pace()

    def resumeProducing(self) -> None:
        self._write_blocked = False
        self._work()

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`connectionLost` follows."""

    def _pace(self) -> None:
        """Read from the connection, or not."""
        busy = self._waiting or self._turn is not None
        full = busy and len(self._input) - self._position > MAX_PIPELINED
        # A greeting that waits for the handshake must not keep us from reading the handshake.
        reading = not (full or self._ended or (self._write_blocked and self._settled))
        if reading != self._reading and not self._closing:
            self._reading = reading
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # -- input ---------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._settled = True
        if self._position < len(self._input):
            # A line that came in part must be there whole in time: octets of it buy no more.
            self._input = self._input[self._position :] + data
        else:
            if not self._skipping:
                self._active = self._door.clock.seconds()
            self._input = data
        self._position = 0
        if self._waiting or self._turn is not None:
            self._pace()
        else:
            self._work()

    def _work(self) -> None:
        """Look at the input in order until there is no more, or something has to be waited for."""
        if self._waiting or self._turn is not None:
            return
        commands = COMMANDS_A_TURN
        while not (self._waiting or self._closing or self._write_blocked):
            if self._leaving is not None:
                self._goodbye(self._leaving)
                break
            if self._reader is not None:
                if not self._feed(self._reader):
                    break
                continue
            line = self._line() if self._position < len(self._input) else None
            if line is None:
                break
            if not commands:
                # Others first.
                self._position -= len(line) + 2
                self._turn = self._door.clock.callLater(0, self._next_turn)
                break
            commands -= 1
            self._run(self._command(line))
        if self._ended and not (self._waiting or self._turn is not None or self._write_blocked):
            self._close()
            return
        if self._output:
            self._flush()
        if self._waiting or self._write_blocked or not self._reading or self._turn is not None:
            self._pace()

    def _next_turn(self) -> None:
        self._turn = None
        self._work()

    def _forget_message(self) -> None:
        """The transaction is over, and what BDAT brought of its message is of no use."""
        transaction, self._open = self._open, None
        if transaction is not None and transaction.chunks is not None:
            transaction.chunks.abort()

    def _feed(self, reader: MessageReader | ChunkReader) -> bool:
        """Give all input to the message; True when its final dot, or the end of the chunk, was in it."""
        data = self._input[self._position :] if self._position else self._input
        self._input = b""
        self._position = 0
        if not data:
            return False
        rest = reader.feed(data)
        if rest is None:
            return False
        self._input = rest
        self._reader = None
        if isinstance(reader, ChunkReader):
            self._run(self._chunk(reader))
            return True
        transaction, self._open = self._open, None
        assert transaction is not None
        self._verb = "message"
        self._run(self._message(transaction, reader))
        return True

    def _line(self) -> bytes | None:
        """The next command line without its CRLF, None where there is none. Bad lines are answered here."""
        while not self._closing:
            limit = LONGEST_COMMAND if self._exchange is None else LONGEST_AUTH + 2
            data = self._input
            start = self._position
            end = data.find(b"\n", start)
            if (end if end >= 0 else len(data)) - start >= limit and _begins_login(data, start):
                # RFC 4954 §4: an initial response may be longer than a command.
                limit = LONGEST_AUTH + 2
            if end < 0:
                if len(data) - start >= limit:
                    self._skipping = True
                if self._skipping:
                    self._drop_input()
                return None
            self._position = end + 1
            if self._skipping or end - start >= limit:
                self._skipping = False
                self._bad_line(replies.LINE_TOO_LONG)
            elif end == start or data[end - 1] != _CR or data.find(b"\r", start, end - 1) >= 0:
                # RFC 5321 §2.3.8: CR and LF only together. Nothing is guessed about where a command ends.
                self._bad_line(replies.LINE_END)
            else:
                return data[start : end - 1]
        return None

    def _bad_line(self, reply: Reply) -> None:
        self._exchange = None
        self._verb = "line"
        self._refuse(reply)

    def _drop_input(self) -> None:
        """Forget what was read and not looked at."""
        self._input = b""
        self._position = 0

    def _has_input(self) -> bool:
        return bool(self._input)

    def _run(self, verb: Coroutine[Any, Any, None]) -> None:
        """Run a verb; where it has to wait, nothing else is done until it is through."""
        try:
            # Most verbs never wait, and a Deferred for each would cost more than they do.
            verb.send(None)
        except StopIteration:
            return
        except MailError as error:
            self._refuse(error.reply, error.detail)
            return
        except Exception:
            self._broke(Failure())  # type: ignore[no-untyped-call]
            return
        self._waiting = True
        # It waits for a Deferred, which says so again when it is asked again.
        steps.run(verb, self._went_on)

    def _went_on(self, result: object) -> None:
        if isinstance(result, Failure):
            self._broke(result)
        self._waiting = False
        self._active = self._door.clock.seconds()
        if not self._lost:
            self._work()

    def _broke(self, failure: Failure) -> None:
        """A verb failed: its reply is that of the failure, or 451 4.3.0 where nobody thought of it."""
        error = failure.value
        if isinstance(error, MailError):
            self._refuse(error.reply, error.detail)
            return
        log.failure("SMTP session {session} failed", failure, session=self._session.id)
        self._refuse(INTERNAL_ERROR)

    # -- output --------------------------------------------------------------------------------------

    def _say(self, wire: bytes) -> None:
        self._output.append(wire)

    def _flush(self) -> None:
        """Write everything said since the last time, at once (RFC 2920 §3.2)."""
        output = self._output
        if output:
            self._output = []
            if not self._lost:
                self._write(output[0] if len(output) == 1 else b"".join(output))

    def _write(self, data: bytes) -> None:
        """To the client, at once where the kernel takes it all.

        ``transport.write`` waits for the reactor to find the socket writable: two changes of its poll set and
        a turn of its loop for each reply. Only on a plain TCP transport to which nothing else is on its way.
        """
        transport = self.transport
        if self._direct and not self._secure and transport.connected:
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            # From now on in order, through the transport's buffer; it also finds out what is broken.
            self._direct = False
            if isinstance(sent, int):
                data = data[sent:]
        transport.write(data)

    def _goodbye(self, reply: Reply) -> None:
        """Say a last word and close."""
        if not self._closing:
            self._say(reply.wire())
            self._close()

    def _close(self) -> None:
        if self._closing:
            return
        self._flush()
        self._closing = True
        self._active = self._door.clock.seconds()
        self._drop_input()
        transport = self.transport
        # A registered producer that is paused would keep the connection open.
        transport.unregisterProducer()
        if not self._direct or self._secure:
            transport.loseConnection()
            return
        # The kernel has all of it. loseConnection would wait until the socket is writable, to write nothing.
        transport.stopReading()
        self._end = transport.reactor.callLater(0, self._end_now)

    def _end_now(self) -> None:
        self._end = None
        if self.transport.connected:
            self.transport.connectionLost(Failure(ConnectionDone()))  # type: ignore[no-untyped-call]

    def _refuse(
        self, reply: Reply, detail: str = "", message: OpenTransaction | None = None, **facts: object
    ) -> None:
        """Say no, note it, and count it.

        :param message: the transaction that it hits, where that is not the open one.
        """
        self._note_refusal(reply, detail, message, **facts)
        self._errors += 1
        if self._errors > self._settings.errors:
            self._goodbye(replies.TOO_MANY_ERRORS)
        else:
            self._say(reply.wire())

    def _note_refusal(
        self, reply: Reply, detail: str = "", message: OpenTransaction | None = None, **facts: object
    ) -> None:
        session = self._session
        _REFUSED.labels(session.door, self._verb, str(reply.code)).inc()
        words = {name: shown(str(value)) for name, value in facts.items()}
        message = message or self._open
        if message is not None:
            words["message"] = message.id
        log.info(
            "{door} refused {verb} of {peer} ({helo}): {reply}{detail}{facts} (session {session})",
            door=session.door,
            verb=self._verb,
            peer=session.peer or "a local client",
            helo=session.helo[:MAX_LOGGED] or "no greeting",
            reply=shown(str(reply)),
            detail=f" [{shown(detail)}]" if detail else "",
            facts="".join(f", {name} {value}" for name, value in words.items()),
            session=session.id,
        )
        if message is not None:
            words.pop("message")
            words.setdefault("sender", str(message.command.sender or ""))
            if detail:
                words["reason"] = shown(detail)
            self._door.trace.event(
                message.id, "refused", verb=self._verb, reply=str(reply), peer=session.peer, **words
            )

    def _note(self, words: str, **facts: object) -> None:
        session = self._session
        log.info(
            words + " (session {session} at {door})",
            peer=session.peer or "A local client",
            message=self._open.id if self._open is not None else "-",
            session=session.id,
            door=session.door,
            **facts,
        )


def shown(text: str) -> str:
    """Somebody's words in a log line: bounded and printable."""
    text = text[:MAX_LOGGED]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _begins_login(data: bytes, start: int) -> bool:
    return data[start : start + 5].upper() == b"AUTH "
