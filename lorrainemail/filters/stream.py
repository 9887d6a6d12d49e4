"""A connection to a filter, read and written by coroutines; what it sends is bounded.

One object a question: :func:`connect`, then any of the reads and :meth:`Stream.send` in turn, then
:meth:`Stream.abort`, always. Nothing is read ahead beyond :data:`MAX_WAITING` octets (the transport pauses),
so that a filter that never ends costs its own time alone. Fails with :class:`FilterError`; who waits is
cancelled by whoever set the time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.interfaces import IContent

#: Octets of a filter's words that wait to be read.
MAX_WAITING: Final = 256 * 1024
#: Octets of a message that are sent at once.
CHUNK: Final = 65535

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class FilterError(Exception):
    """A filter could not be asked, or answered what cannot be understood; the text says what."""


@implementer(IPushProducer)
class Stream(Protocol):
    """See the module."""

    transport: Any

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiter: Deferred[None] | None = None
        self._writer: Deferred[None] | None = None
        self._full = False
        self._ended: str = ""
        self._paused = False

    # -- Protocol and IPushProducer --------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > MAX_WAITING and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = "the filter ended the connection"
        self._wake()
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        writer, self._writer = self._writer, None
        if writer is not None and not writer.called:
            writer.callback(None)

    def stopProducing(self) -> None:
        """The transport goes; who waits is told by connectionLost."""

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.called:
            waiter.callback(None)

    # -- reading ---------------------------------------------------------------------------------

    async def read(self, octets: int) -> bytes:
        """Exactly so many."""
        while len(self._buffer) < octets:
            await self._more()
        return self._take(octets)

    async def read_until(self, end: bytes, most: int) -> bytes:
        """What stands before the next ``end``, which is taken too."""
        looked = 0
        while True:
            found = self._buffer.find(end, looked)
            if found > most or (found < 0 and len(self._buffer) > most + len(end)):
                raise FilterError(f"the filter's answer is longer than {most} octets")
            if found >= 0:
                return self._take(found + len(end))[: -len(end)]
            looked = max(0, len(self._buffer) - len(end))
            await self._more()

    async def read_to_end(self, most: int) -> bytes:
        """All that comes until the filter ends the connection."""
        while not self._ended:
            if len(self._buffer) > most:
                raise FilterError(f"the filter's answer is longer than {most} octets")
            await self._more()
        return self._take(len(self._buffer))

    def _take(self, octets: int) -> bytes:
        taken = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return taken

    async def _more(self) -> None:
        if self._ended:
            raise FilterError(self._ended)
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        self._waiter = Deferred()
        await self._waiter

    # -- writing ---------------------------------------------------------------------------------

    async def send(self, octets: bytes) -> None:
        """Send; waits while the filter does not take what it was sent."""
        if self._ended:
            raise FilterError(self._ended)
        self.transport.write(octets)
        if self._full:
            self._writer = Deferred()
            await self._writer

    def abort(self) -> None:
        """The connection is not needed any more."""
        if self.transport is not None and not self._ended:
            self.transport.unregisterProducer()
            self.transport.abortConnection()


async def connect(reactor: Any, address: str) -> Stream:
    """A connection to ``unix:/path`` or ``tcp:host:port``.

    :raises FilterError: where there is none to be had.
    """
    kind, _, rest = address.partition(":")
    if kind == "unix":
        endpoint: Any = UNIXClientEndpoint(reactor, rest)  # type: ignore[no-untyped-call]
    else:
        host, _, port = rest.rpartition(":")
        endpoint = HostnameEndpoint(reactor, host.strip("[]"), int(port))
    try:
        stream: Stream = await endpoint.connect(Factory.forProtocol(Stream))
    except Exception as error:
        raise FilterError(f"no connection to {address}: {error}") from None
    return stream


async def pieces(content: IContent, in_thread: InThread | None, size: int = CHUNK) -> AsyncIterator[bytes]:
    """A message piece by piece; one that lies in a file is read in threads."""
    whole = content.in_memory()
    if whole is not None:
        for start in range(0, len(whole), size):
            yield whole[start : start + size]
        return
    chunks = content.chunks(size)
    while True:
        chunk: bytes = next(chunks, b"") if in_thread is None else await in_thread(lambda: next(chunks, b""))
        if not chunk:
            return
        yield chunk
