"""The HTTP/1.1 server of twisted.web, with bounds, handing requests to :class:`lorrainemail.http.site.Site`.

Composed by :mod:`lorrainemail.service`, one factory for each listener of the doors ``http`` and ``https``,
and imported only where one is open. Only GET, HEAD and POST come through; there is no file behind any path. A
failure of a page is 500, its reason in the log alone. A connection that an ACME server made to see our answer
by TLS-ALPN (RFC 8737 §3) carries no request: it is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from lorrainemail.http.exchange import PLAIN, Answer, Question
from lorrainemail.http.site import Site
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.peers import peer_of
from lorrainemail.net.tls import ACME_TLS
from lorrainemail.ops.metrics import Counter

_log = Logger(namespace="lorrainemail.http")
_REQUESTS = Counter("lorrainemail_http_requests_total", "Requests answered", ["door", "status"])

#: Octets of a request's body; Outlook's have some hundred.
MAX_BODY: Final = 64 * 1024
#: Header fields of a request, and octets of its line and header together (RFC 9110 §5.4).
MAX_FIELDS: Final = 100
MAX_HEADER: Final = 16 * 1024
#: Parameters of a query that are looked at.
MAX_PARAMETERS: Final = 50
#: Seconds without a word, seconds that a connection may last in all, and requests on it.
IDLE: Final = 30
LIFE: Final = 300.0
MAX_REQUESTS: Final = 100
#: Seconds in which a page is made.
PAGE: Final = 20.0

METHODS: Final = (b"GET", b"HEAD", b"POST")
#: On every answer: nothing here is to be run, framed, guessed at or kept.
_FIELDS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
#: By TLS, where the certificate is one that clients accept (RFC 6797 §7.2).
_HSTS: Final = ("Strict-Transport-Security", "max-age=31536000")


class _Request(Request):
    """One request."""

    _parsePOSTFormSubmission = False
    channel: Any

    def gotLength(self, length: int | None) -> None:
        if length is not None and length > MAX_BODY:
            self.channel.refuse(413, "Content Too Large")
            return
        # In memory: the bound is below what would be worth a file.
        super().gotLength(0)  # type: ignore[no-untyped-call]

    def handleContentChunk(self, data: bytes) -> None:
        content: Any = self.content
        if content is None or content.tell() + len(data) > MAX_BODY:
            self.channel.refuse(413, "Content Too Large")
            return
        super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if not self.channel.refused:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]

    def process(self) -> None:
        factory: HttpFactory = self.channel.factory
        if self.method not in METHODS:
            self._write(Answer(501, PLAIN, b"Not this method.\n"))
            return
        question = self._question(factory)
        work: Deferred[Answer] = Deferred.fromCoroutine(factory.site.answer(question))
        work.addTimeout(PAGE, factory.clock)
        self.notifyFinish().addErrback(lambda _: work.cancel())
        work.addErrback(self._failed)
        work.addCallback(self._write)

    def _failed(self, failure: Failure) -> Answer:
        if not self._disconnected:
            _log.failure("A page could not be made", failure)
        return Answer(500, PLAIN, b"Something went wrong here.\n")

    def _question(self, factory: HttpFactory) -> Question:
        given = self.requestHeaders.getRawHeaders(b"Host", [b""])
        host = given[0].decode("latin-1").lower()
        if host.rpartition(":")[2].isdigit():
            host = host.rpartition(":")[0]
        body: Any = self.content
        path, _, query = self.uri.decode("latin-1").partition("?")
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=None)[:MAX_PARAMETERS]
        first: dict[str, str] = {}
        for name, value in pairs:
            first.setdefault(name.lower(), value)
        return Question(
            self.method.decode("ascii"),
            host.rstrip("."),
            unquote(path, errors="replace"),
            first,
            body.read(MAX_BODY) if body is not None else b"",
            factory.secure,
        )

    def _write(self, answer: Answer) -> None:
        if self._disconnected:
            return
        factory: HttpFactory = self.channel.factory
        _REQUESTS.labels(factory.door, str(answer.status)).inc()
        self.setResponseCode(answer.status)
        fields = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
        fields += [*_FIELDS, *([_HSTS] if factory.strict() else []), *answer.more]
        for name, value in fields:
            self.setHeader(name.encode("ascii"), value.encode("latin-1", "replace"))  # type: ignore[no-untyped-call]
        self.channel.count += 1
        if self.channel.count >= MAX_REQUESTS:
            self.setHeader(b"Connection", b"close")  # type: ignore[no-untyped-call]
            self.channel.persistent = 0
        if self.method != b"HEAD":
            self.write(answer.body)  # type: ignore[no-untyped-call]
        self.finish()  # type: ignore[no-untyped-call]


class _Channel(HTTPChannel):
    """One connection."""

    maxHeaders = MAX_FIELDS
    totalHeadersSize = MAX_HEADER
    requestFactory = _Request
    timeOut = IDLE
    factory: HttpFactory
    count = 0
    peer = ""
    _counted = False
    refused = False
    _end: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self.peer = peer_of(self.transport)[0]
        self._counted = self.factory.enter(self)
        if not self._counted:
            cast(Any, self.transport).abortConnection()
            return
        self._end = self.factory.clock.callLater(LIFE, self.abort)
        super().connectionMade()  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        if getattr(self.transport, "negotiatedProtocol", None) == ACME_TLS:
            self.loseConnection()  # type: ignore[no-untyped-call]
        elif self._counted and not self.refused:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def refuse(self, status: int, words: str) -> None:
        """Answer at once and end the connection: the request is not read any further."""
        if self.refused:
            return
        self.refused = True
        _REQUESTS.labels(self.factory.door, str(status)).inc()
        line = f"HTTP/1.1 {status} {words}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        cast(Any, self.transport).write(line.encode("ascii"))
        self.loseConnection()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._end is not None and self._end.active():
            self._end.cancel()
        if self._counted:
            self._counted = False
            self.factory.leave(self)
            super().connectionLost(reason)  # type: ignore[no-untyped-call]


class HttpFactory(ServerFactory):
    """The connections of one listener.

    :param door: "http", or "https" where the listener speaks TLS at once.
    :param secure: what comes in here was not in the clear on a network.
    :param strict: whether clients may be told to come by TLS alone from now on.
    :param counter: connections at once; shared by the listeners of a door.
    """

    noisy = False

    def __init__(
        self,
        door: str,
        site: Site,
        clock: IReactorTime,
        counter: ConnectionCounter,
        secure: bool,
        strict: Callable[[], bool] = lambda: False,
    ) -> None:
        self.door = door
        self.site = site
        self.clock = clock
        self.secure = secure
        self.strict = strict
        self._counter = counter
        self._channels: set[_Channel] = set()
        self._stopped: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> _Channel:  # type: ignore[override]
        channel = _Channel()  # type: ignore[no-untyped-call]
        channel.factory = self
        channel.callLater = self.clock.callLater  # type: ignore[method-assign,assignment]
        return channel

    def log(self, request: Request) -> None:
        """twisted.web tells of each request that ended."""
        _log.debug(
            "{peer} {method} {path} {code}",
            peer=cast(Any, request.channel).peer,
            method=request.method,
            path=request.path[:200],
            code=request.code,
        )

    def enter(self, channel: _Channel) -> bool:
        """Count a connection in, where there is room."""
        if self._stopped is not None or self._counter.enter(channel.peer) is not None:
            return False
        self._channels.add(channel)
        return True

    def leave(self, channel: _Channel) -> None:
        self._channels.discard(channel)
        self._counter.leave(channel.peer)
        if self._stopped is not None and not self._channels and not self._stopped.called:
            self._stopped.callback(None)

    def close_sessions(self) -> Deferred[None]:
        """End every connection after the answer that is under way; fires when all are gone. Cancelling it
        ends them at once."""
        if self._stopped is None:
            self._stopped = Deferred(lambda _: self._abort())
            if not self._channels:
                self._stopped.callback(None)
            for channel in tuple(self._channels):
                if channel.requests:
                    channel.persistent = 0
                else:
                    channel.loseConnection()  # type: ignore[no-untyped-call]
        return self._stopped

    def _abort(self) -> None:
        for channel in tuple(self._channels):
            channel.abort()
