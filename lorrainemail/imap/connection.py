"""The octets of one IMAP connection: in to events, one at a time; answers out, gathered, with back-pressure.

:class:`lorrainemail.imap.server.ImapServer` is made of it and says what an event means (``handle``). While a
command is under way, or the transport is full, input is left where it is, and beyond a bound the client has
to wait: buffers stay bounded in both directions. A command may read on by itself (``read_line``,
``read_octets``). Compression (RFC 4978) lies between both and the transport. Who waits for a client that is
gone gets :class:`~lorrainemail.net.flow.Gone`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.mail.imap4 import IMAP4Server

from lorrainemail.grammar.imap_input import AppendMessage, CommandReader, Event, Fault
from lorrainemail.imap.deflate import Deflate, Malformed
from lorrainemail.net.flow import Gone, Outflow

#: Seconds that a closing connection is given to take its last octets.
LINGER: Final = 10
#: Octets of input kept while a command is under way; then the client has to wait.
MAX_BUFFERED: Final = 128 * 1024
#: Commands run in one turn of the reactor.
MAX_COMMANDS_A_TURN: Final = 20
#: Octets of compressed input that are unpacked in one turn.
MAX_UNPACKED_A_TURN: Final = 1024 * 1024
#: Octets of answers gathered before they are written.
WRITE_AT: Final = 64 * 1024


class ImapConnection(IMAP4Server):
    """One connection.

    :param clock: time-outs and turns.
    """

    noisy = False
    state = "unauth"
    transport: Any

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clock = clock
        self._reader = CommandReader()
        self._flow = Outflow(self._may_write)
        self._out: list[bytes] = []
        self._out_size = 0
        self._busy = False
        self._pumping = False
        self._turn: IDelayedCall | None = None
        self._linger: IDelayedCall | None = None
        self._closed = False
        self._input_paused = False
        self._deflate: Deflate | None = None
        self._unpacked = 0
        self._line: tuple[int, Deferred[bytes]] | None = None
        self._stream: tuple[int, Callable[[bytes], None], Deferred[None]] | None = None

    def handle(self, event: Event) -> None:
        """What came in: a whole command, a literal's beginning, or a fault."""
        raise NotImplementedError

    def _may_write(self) -> None:
        """The client reads again."""
        self._pump()

    # -- the connection --

    def callLater(self, period: float, func: Callable[..., object], *arguments: Any) -> IDelayedCall:
        """Of TimeoutMixin: time comes from the clock that was handed in."""
        return self.clock.callLater(period, func, *arguments)

    def wait_for_client(self, seconds: float | None) -> None:
        """End the session after so many seconds of silence; None for never."""
        self.setTimeout(seconds)  # type: ignore[no-untyped-call]

    def heard(self) -> None:
        """The client shows life."""
        self.resetTimeout()  # type: ignore[no-untyped-call]

    def bye(self, words: bytes) -> None:
        """End the session from our side (RFC 3501 §7.1.5)."""
        if not self._closed:
            self.send(b"* BYE %b\r\n" % words)
            self.close()

    def close(self) -> None:
        """Write what is left and close; a peer that does not take it is cut off."""
        if self._closed:
            return
        self.write_out()
        self._closed = True
        self.state = "logout"
        self.wait_for_client(None)
        # a registered producer would keep a TLS connection open
        self.transport.unregisterProducer()
        self._linger = self.callLater(LINGER, self._cut)
        self.transport.loseConnection()

    def _cut(self) -> None:
        self.transport.abortConnection()

    def abort(self) -> None:
        """The answer under way cannot be finished (a literal was announced): cut the connection."""
        self._closed = True
        self.transport.abortConnection()

    def end(self) -> None:
        """The connection is gone: whoever waits for the client hears of it."""
        self._closed = True
        self.state = "logout"
        self.wait_for_client(None)
        for call in (self._turn, self._linger):
            if call is not None and call.active():
                call.cancel()
        self._flow.stopProducing()
        line, self._line = self._line, None
        if line is not None:
            line[1].errback(Gone())
        stream, self._stream = self._stream, None
        if stream is not None:
            stream[2].errback(Gone())

    # -- output --

    @property
    def closed(self) -> bool:
        """Nothing more can be said."""
        return self._closed

    def send(self, data: bytes) -> None:
        """Add to the answer."""
        self._out.append(data)
        self._out_size += len(data)

    def write_out(self) -> None:
        """Hand what was gathered to the transport."""
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_size = 0
            if not self._closed:
                self.transport.write(data if self._deflate is None else self._deflate.pack(data))

    async def flush(self) -> None:
        """Write where enough is gathered, and wait while the client does not read."""
        if self._closed:
            raise Gone()
        if self._out_size >= WRITE_AT:
            self.write_out()
        if self._flow.paused:
            await self._flow.drained()
            self.heard()

    async def breathe(self) -> None:
        """Let other sessions have their turn (long commands between two slices)."""
        await self.flush()
        await deferLater(self.clock, 0)
        if self._closed:
            raise Gone()

    # -- input --

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        self.heard()
        if self._deflate is None:
            self._reader.feed(data)
        else:
            self._deflate.feed(data)
        self._pump()

    def _unpack(self) -> bool:
        """Take in more of a compressed stream; whether there was more."""
        deflate = self._deflate
        if deflate is None or not deflate.waiting or self._closed:
            return False
        if self._unpacked >= MAX_UNPACKED_A_TURN:
            self._next_turn()
            return False
        try:
            data = deflate.unpack()
        except Malformed:
            self.bye(b"That is not compressed with DEFLATE")
            return False
        self._unpacked += len(data)
        self._reader.feed(data)
        return bool(data)

    def _next_turn(self) -> None:
        """Go on when others had their turn."""
        if self._turn is None or not self._turn.active():
            self._turn = self.callLater(0, self._pump)

    def _pump(self) -> None:
        """Do what can be done with the input that is there."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        self._unpacked = 0
        done = 0
        try:
            while not self._closed:
                if self._stream is not None:
                    if not self._feed_stream() and not self._unpack():
                        break
                elif self._line is not None:
                    if not self._feed_line() and not self._unpack():
                        break
                elif self._busy or self._flow.paused:
                    break
                elif done >= MAX_COMMANDS_A_TURN:
                    self._next_turn()
                    break
                else:
                    event = self._reader.next()
                    if event is None:
                        if self._unpack():
                            continue
                        break
                    done += 1
                    self.handle(event)
        finally:
            self._pumping = False
        self._throttle()

    def _throttle(self) -> None:
        """Stop and start reading from the client."""
        if self._closed:
            return
        next_turn = self._turn is not None and self._turn.active()
        held = self._busy or self._flow.paused or next_turn
        waiting = held and self._stream is None and self._line is None
        deflate = self._deflate
        full = waiting and (
            self._reader.buffered >= MAX_BUFFERED or (deflate is not None and deflate.waiting)
        )
        if deflate is not None and deflate.backlog >= MAX_BUFFERED:
            full = True
        if full != self._input_paused:
            self._input_paused = full
            if full:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _feed_line(self) -> bool:
        assert self._line is not None
        limit, waiting = self._line
        found = self._reader.line(limit)
        if found is None:
            return False
        self._line = None
        if isinstance(found, Fault):
            waiting.errback(Gone())
            self.bye(b"Line too long")
        else:
            waiting.callback(found)
        return True

    def _feed_stream(self) -> bool:
        assert self._stream is not None
        left, write, waiting = self._stream
        chunk = self._reader.take(left)
        if chunk:
            write(chunk)
            left -= len(chunk)
        if left:
            self._stream = (left, write, waiting)
            return False
        self._stream = None
        waiting.callback(None)
        return True

    async def read_line(self, limit: int) -> bytes:
        """One bare line of the client's (SASL, the end of IDLE)."""
        if self._closed:
            raise Gone()
        self.write_out()
        waiting: Deferred[bytes] = Deferred()
        self._line = (limit, waiting)
        if not self._pumping:
            self._pump()
        return await waiting

    async def read_octets(self, size: int, write: Callable[[bytes], None]) -> None:
        """The next ``size`` octets of the client's, in chunks to ``write``."""
        if self._closed:
            raise Gone()
        self.write_out()
        if not size:
            return
        waiting: Deferred[None] = Deferred()
        self._stream = (size, write, waiting)
        if not self._pumping:
            self._pump()
        await waiting

    def skip_literal(self, event: AppendMessage) -> None:
        """Read over the message of an APPEND that was refused though it is on its way."""
        if event.waits:
            return
        if event.size > self._reader.limits.skip:
            self.bye(b"[TOOBIG] Message too large to be read over")
            raise Gone()
        self._reader.skip(event.size)

    # -- compression --

    @property
    def compressed(self) -> bool:
        return self._deflate is not None

    def start_compression(self) -> None:
        """RFC 4978 §3: from here on; what was read already is compressed too."""
        self.write_out()
        self._deflate = Deflate()
        self._deflate.feed(self._reader.take(self._reader.buffered))
