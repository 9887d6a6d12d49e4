"""The line to one SMTP server: commands out, replies in, in order and in time; a message with back-pressure.

Owns the transport, the timer, and the queue of those who wait for replies. What is said is the business of
:mod:`lorrainemail.delivery.client`, the only caller.

twisted.mail's ESMTPClient does not serve as a base: it is one fixed sequence of line-receiver states without
pipelining or parameters, with one timeout for everything, no bound for replies, no hook between a STARTTLS
reply and the octets behind it, and a body path that stuffs dots chunk by chunk.

Invariants: replies go to waiters in order; one without a waiter, a 421, anything malformed, a timeout or the
end of the connection is the end of the session: every waiter, and all later ones, fail with the same
:class:`SessionLost`. Nothing is ever sent after that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.delivery.replies import MalformedReply, RemoteReply, ReplyParser
from lorrainemail.delivery.stuffing import Counted, DotStuffer
from lorrainemail.errors import Reply
from lorrainemail.interfaces import IContent
from lorrainemail.net.tls import Heard, tls_facts, tls_fault

#: Octets read and written at once of a message.
CHUNK: Final = 65536

#: Seconds for an orderly close.
CLOSE_TIME: Final = 5

#: Runs blocking work in a thread.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class SessionLost(Exception):
    """The session is over. ``reply`` says how, in the words of the other side or in ours; ``fault``, where it
    was TLS, the same as in RFC 8460 §4.3."""

    def __init__(self, reply: Reply, remote: bool = False, fault: str = "") -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.remote = remote
        self.fault = fault


def _lost(text: str, enhanced: str = "4.4.2", fault: str = "") -> SessionLost:
    return SessionLost(Reply(421, enhanced, text), fault=fault)


def encode_line(line: str) -> bytes:
    """A command for the wire.

    :raises ValueError: where it would be more than one line.
    """
    if "\r" in line or "\n" in line or "\0" in line:
        raise ValueError(f"not one line: {line!r}")
    return line.encode("utf-8") + b"\r\n"


@attrs.define(slots=True, eq=False)
class _Waiter:
    done: Deferred[RemoteReply]
    seconds: float
    what: str


@implementer(IHandshakeListener, IPushProducer)
class Wire(Protocol):
    """One connection, from its making to its end.

    :param reactor: for the timer.
    :param on_end: called once when the session is over.
    :ivar over: why the session is over, None while it lives.
    :ivar tls: what it runs under, as "TLSv1.3 TLS_AES_256_GCM_SHA384"; "" in clear text.
    """

    def __init__(self, reactor: IReactorTime, on_end: Callable[[], None] | None = None) -> None:
        self._reactor = reactor
        self._on_end = on_end
        self._parser = ReplyParser()
        self._waiters: deque[_Waiter] = deque()
        self._timer: IDelayedCall | None = None
        self._what = ""
        self._handshake: Deferred[None] | None = None
        self._paused = False
        self._resumed: Deferred[None] | None = None
        self.over: SessionLost | None = None
        self.secure = False
        self.tls = ""
        #: Our address of the connection, "" where it has none.
        self.ours = ""
        #: What was wrong with the certificate, also where that is no reason to end.
        self.heard = Heard()

    def now(self) -> float:
        """Wall-clock seconds."""
        return self._reactor.seconds()

    # -- replies ---------------------------------------------------------------------------------

    def expect(self, what: str, seconds: float) -> Deferred[RemoteReply]:
        """The next reply; ``seconds`` count from when it is its turn. 0: until :meth:`hasten`."""
        if self.over is not None:
            return fail(self.over)
        waiter = _Waiter(Deferred(), seconds, what)
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            self._arm(waiter.seconds, what)
        return waiter.done

    def command(self, line: str, seconds: float) -> Deferred[RemoteReply]:
        """Send one command and wait for its reply."""
        self.write(encode_line(line))
        return self.expect(line.split(" ", 1)[0], seconds)

    def write(self, octets: bytes) -> None:
        if self.over is None:
            assert self.transport is not None
            self.transport.write(octets)

    def hasten(self, seconds: float) -> None:
        """From now, the first waiter's reply must come in so many seconds."""
        if self._waiters:
            self._waiters[0].seconds = seconds
            self._arm(seconds, self._waiters[0].what)

    def _arm(self, seconds: float, what: str) -> None:
        self._what = what
        if not seconds:
            self._disarm()
        elif self._timer is not None and self._timer.active():
            self._timer.reset(seconds)
        else:
            self._timer = self._reactor.callLater(seconds, self._timed_out)

    def _disarm(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _timed_out(self) -> None:
        self._timer = None
        self.end(_lost(f"timed out at {self._what}"))

    def end(self, reason: SessionLost, politely: bool = False) -> None:
        """Give the session up: everybody who waits hears the reason, and the connection is cut; ``politely``:
        closed in order, and cut when that takes long."""
        if self.over is not None:
            return
        self.over = reason
        self._disarm()
        if self.transport is not None:
            transport: Any = self.transport
            if politely:
                transport.loseConnection()
                self._timer = self._reactor.callLater(CLOSE_TIME, transport.abortConnection)
            else:
                transport.abortConnection()
        waiters, self._waiters = self._waiters, deque()
        for waiter in waiters:
            waiter.done.errback(reason)
        for name in ("_handshake", "_resumed"):
            waiting: Deferred[None] | None = getattr(self, name)
            if waiting is not None:
                setattr(self, name, None)
                waiting.errback(reason)
        if self._on_end is not None:
            self._on_end()

    # -- Protocol --------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        if hasattr(transport, "getHost"):
            self.ours = str(getattr(transport.getHost(), "host", ""))

    def dataReceived(self, data: bytes) -> None:
        if self.over is not None:
            return
        try:
            replies = self._parser.feed(data)
        except MalformedReply as error:
            self.end(_lost(f"the server does not speak SMTP: {error}", "4.5.0"))
            return
        for reply in replies:
            self._take(reply)

    def _take(self, reply: RemoteReply) -> None:
        if self.over is not None:
            return
        if reply.code == 421:  # RFC 5321 §3.8: at any time, and the connection closes
            self.end(SessionLost(reply.reply, remote=True))
            return
        if not self._waiters or self._handshake is not None:
            self.end(_lost(f"a reply that nobody asked for: {reply.reply}", "4.5.0"))
            return
        waiter = self._waiters.popleft()
        if self._waiters:
            self._arm(self._waiters[0].seconds, self._waiters[0].what)
        else:
            self._disarm()
        waiter.done.callback(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._disarm()
        what = self._waiters[0].what if self._waiters else "rest"
        fault = tls_fault(reason)
        if self._handshake is not None or fault:
            # a certificate of another name is found out just after the handshake
            words = self.heard.words or fault or reason.getErrorMessage()[:200]
            self.end(_lost(f"TLS failed: {words}", "4.7.5", self.heard.fault or "validation-failure"))
        else:
            self.end(_lost(f"the connection was lost at {what}"))

    # -- TLS -------------------------------------------------------------------------------------

    def start_tls(self, creator: object, seconds: float) -> Deferred[None]:
        """From clear text to TLS, after the 220; octets that came before the handshake end the session
        (RFC 3207 §4.2: they could be anybody's)."""
        done: Deferred[None] = Deferred()
        if self.over is not None:
            return fail(self.over)
        if self._parser.pending or self._waiters:
            lost = _lost("clear text behind STARTTLS", "4.7.5")
            self.end(lost)
            return fail(lost)
        self._handshake = done
        self.heard = getattr(creator, "heard", self.heard)
        transport: Any = self.transport
        transport.startTLS(creator)
        self._arm(seconds, "TLS")
        return done

    def handshakeCompleted(self) -> None:
        self.secure = True
        self.tls = self._tls_words()
        self._disarm()
        done, self._handshake = self._handshake, None
        if done is not None:
            done.callback(None)

    def _tls_words(self) -> str:
        facts = tls_facts(self.transport)
        return "" if facts is None else f"{facts.version} {facts.cipher}"

    # -- the message -----------------------------------------------------------------------------

    async def send_message(
        self,
        content: IContent,
        in_thread: InThread,
        block: float,
        final: Deferred[RemoteReply],
        counted: bool = False,
    ) -> bool:
        """Send a message, stuffed, and its end, no faster than the peer takes it.

        :param block: seconds in which the peer must take each block.
        :param final: the waiter for the final reply. When it comes early, sending stops.
        :param counted: the peer was told how many octets come (BDAT): no dots, no end.
        :returns: whether all of it was sent.
        :raises ValueError: where the content is not as long as it says.
        """
        stuffer = Counted(content.size) if counted else DotStuffer()
        memory = content.in_memory()
        if memory is not None and len(memory) <= CHUNK and not final.called:
            # What the transport buffers at once needs no back-pressure.
            self.hasten(block)
            self.write(stuffer.feed(b"".join(content.chunks(CHUNK))) + stuffer.finish())
            return True
        chunks = content.chunks(CHUNK)
        transport: Any = self.transport

        def early() -> bool:
            return bool(final.called)

        self._paused = False
        transport.registerProducer(self, True)
        try:
            while True:
                if memory is not None:
                    chunk = next(chunks, None)
                else:
                    chunk = await in_thread(lambda: next(chunks, None))
                if early():
                    return False
                if chunk is None:
                    self.write(stuffer.finish())
                    return True
                self.hasten(block)
                self.write(stuffer.feed(chunk))
                if stuffer.complete:
                    # The peer has all of it and may answer before we have looked for more.
                    return True
                if self._paused:
                    self._resumed = Deferred()
                    await self._resumed
                if early():
                    return False
        finally:
            transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """The connection is going; :meth:`connectionLost` tells who waits."""
