"""Small exchanges with web servers as a client: bounded, by verified TLS alone, no redirect followed.

On twisted.web's Agent, with the house's own TLS; imported only where something is to be fetched. Callers: the
ACME client, the check of our own MTA-STS policies. Fails with :class:`FetchError`, in words for the operator.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from lorrainemail.interfaces import DnsFailure, IClientTls, IResolver
from lorrainemail.net.tls import tls_fault
from lorrainemail.version import VERSION

#: Octets of an answer; the longest are certificate chains.
MAX_BODY: Final = 1 << 20
#: Octets of a whole exchange beyond the body: handshake and header, of which nobody else counts what comes.
MAX_OTHERS: Final = 512 * 1024
#: Seconds for a connection, and for an exchange in all: a server that drips is left.
CONNECT: Final = 15.0
EXCHANGE: Final = 60.0


#: Addresses of one host that are tried.
MAX_ADDRESSES: Final = 4


class FetchError(Exception):
    """It did not come to an answer; the text says why. ``tls``: the other side did not prove its name."""

    def __init__(self, words: str, tls: bool = False) -> None:
        super().__init__(words)
        self.tls = tls


@attrs.frozen(slots=True)
class Response:
    """An answer, whatever its status. Names of header fields are in lower case; of each the first counts."""

    status: int
    fields: Mapping[str, str]
    body: bytes = attrs.field(repr=False)
    links: tuple[str, ...] = ()


class Fetcher:
    """Makes requests.

    :param tls: which authorities are believed.
    :param resolver: who is asked for addresses; None: the system.
    """

    def __init__(self, reactor: Any, tls: IClientTls, resolver: IResolver | None = None) -> None:
        self._clock = reactor
        self._tls = tls
        self._resolver = resolver

    async def request(
        self, method: str, url: str, body: bytes | None = None, content_type: str = "", most: int = MAX_BODY
    ) -> Response:
        """One request, and its answer.

        :param url: https alone.
        :param most: octets of the answer's body.
        :raises FetchError: where there is no whole answer within bounds.
        """
        if not url.startswith("https://") or not url.isascii() or not url.isprintable() or " " in url:
            raise FetchError(f"{url[:200]!r} is no https address")
        # chunks of one octet take six on the wire
        endpoints = _Endpoints(self._clock, self._tls, self._resolver, 6 * most + MAX_OTHERS)
        make: Any = Agent
        agent = make.usingEndpointFactory(self._clock, endpoints)
        exchange = self._exchange(agent, method, url, body, content_type, most)
        work: Deferred[Response] = Deferred.fromCoroutine(exchange)
        try:
            return await work.addTimeout(EXCHANGE, self._clock)
        except (FetchError, CancelledError):
            raise
        except TimeoutError:
            raise FetchError(f"{_host(url)} took longer than {EXCHANGE:.0f} s") from None
        except Exception as error:
            raise FetchError(f"{_host(url)}: {_words(error)}", _is_of_tls(error)) from error
        finally:
            endpoints.abort()  # whatever came of it: a peer that does not hang up is not waited for

    async def _exchange(
        self, agent: Any, method: str, url: str, body: bytes | None, content_type: str, most: int
    ) -> Response:
        fields = {"User-Agent": [f"lorrainemail/{VERSION}"], "Accept-Language": ["en"]}
        if content_type:
            fields["Content-Type"] = [content_type]
        producer = None if body is None else _Whole(body)
        answer: Any = await agent.request(
            method.encode("ascii"), url.encode("ascii"), Headers(fields), producer
        )
        content = await self._body(answer, most)
        found = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in answer.headers.getAllRawHeaders()
        }
        links = tuple(value.decode("latin-1") for value in answer.headers.getRawHeaders(b"link", ()))
        return Response(answer.code, found, content, links)

    def _body(self, answer: Any, most: int) -> Deferred[bytes]:
        collector = _Collector(most)
        answer.deliverBody(collector)
        return collector.done


@implementer(IAgentEndpointFactory)
@attrs.frozen(slots=True, eq=False)
class _Endpoints:
    """Connects by TLS, every host proving its name, and keeps what it opened."""

    reactor: Any
    tls: IClientTls
    resolver: IResolver | None
    most: int
    _opened: list[Any] = attrs.field(factory=list)

    def endpointForURI(self, uri: Any) -> Any:
        host = uri.host.decode("ascii").strip("[]")
        creator: Any = self.tls.creator(host, "verified")
        return wrapClientTLS(creator, cast(Any, _Place(self, host, uri.port)))

    async def connect(self, host: str, port: int, factory: Any) -> Any:
        protocol = await self._connect(host, port, _Bounded(factory, self.most))
        self._opened.append(protocol.transport)
        return protocol.wrappedProtocol

    async def _connect(self, host: str, port: int, factory: Any) -> Any:
        if self.resolver is None or _is_address(host):
            system: Any = HostnameEndpoint(self.reactor, host, port, timeout=CONNECT)
            return await system.connect(factory)
        try:
            addresses = (await self.resolver.addresses(host))[:MAX_ADDRESSES]
        except DnsFailure as failure:
            raise FetchError(f"{host}: {failure}") from None
        for address in addresses[:-1]:
            try:
                return await self._reach(address, port, factory)
            except ConnectError:
                continue  # the next one may be there
        return await self._reach(addresses[-1], port, factory)

    def _reach(self, address: str, port: int, factory: Any) -> Deferred[Any]:
        kind: Any = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        reached: Deferred[Any] = kind(self.reactor, address, port, timeout=CONNECT).connect(factory)
        return reached

    def abort(self) -> None:
        """End what is still open, without waiting for the peer."""
        for transport in self._opened:
            transport.abortConnection()


@implementer(IStreamClientEndpoint)
@attrs.frozen(slots=True, eq=False)
class _Place:
    """One host and port."""

    endpoints: _Endpoints
    host: str
    port: int

    def connect(self, factory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.endpoints.connect(self.host, self.port, factory))


class _Bounded(WrappingFactory):
    """Connections that end when more comes than anybody asked for."""

    noisy = False

    def __init__(self, factory: Any, most: int) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.most = most
        self.protocol = _Counted


class _Counted(ProtocolWrapper):
    """One such connection."""

    factory: Any
    taken = 0

    def dataReceived(self, data: bytes) -> None:
        self.taken += len(data)
        if self.taken > self.factory.most:
            self.transport.abortConnection()  # type: ignore[union-attr]
            return
        super().dataReceived(data)  # type: ignore[no-untyped-call]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class _Collector(Protocol):
    """Takes a body of bounded size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.done: Deferred[bytes] = Deferred()
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._most:
            self._parts.append(data)
        elif not self.done.called:
            self._parts.clear()
            self.done.errback(FetchError(f"the answer is larger than {self._most} octets"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)


@implementer(IBodyProducer)
class _Whole:
    """Writes a small body at once."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written already."""

    def resumeProducing(self) -> None:
        """Nothing was kept back."""

    def stopProducing(self) -> None:
        """Nothing is left."""


def _host(url: str) -> str:
    return url.removeprefix("https://").partition("/")[0][:260]


def _is_of_tls(error: BaseException) -> bool:
    return isinstance(error, ResponseFailed) and any(tls_fault(one) for one in error.reasons or ())


def _words(error: BaseException) -> str:
    """Why, for a person; Agent wraps the true reason."""
    if isinstance(error, ResponseFailed) and error.reasons:
        inner = error.reasons[0]
        return tls_fault(inner) or _words(inner.value)
    return (str(error) or type(error).__name__)[:300]
