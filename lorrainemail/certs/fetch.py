"""Small exchanges with web servers as a client: bounded, by verified TLS alone, no redirect followed.

On twisted.web's Agent, with the house's own TLS; imported only where something is to be fetched. Callers: the
ACME client, the check of our own MTA-STS policies. Fails with :class:`FetchError`, in words for the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS
from zope.interface import implementer

from lorrainemail.interfaces import IClientTls
from lorrainemail.net.tls import tls_fault
from lorrainemail.version import VERSION

#: Octets of an answer; the longest are certificate chains.
MAX_BODY: Final = 1 << 20
#: Seconds for a connection, and for an exchange in all: a server that drips is left.
CONNECT: Final = 15.0
EXCHANGE: Final = 60.0


class FetchError(Exception):
    """It did not come to an answer; the text says why."""


@attrs.frozen(slots=True)
class Response:
    """An answer, whatever its status. Names of header fields are in lower case; of each the first counts."""

    status: int
    fields: Mapping[str, str]
    body: bytes = attrs.field(repr=False)
    links: tuple[str, ...] = ()


@implementer(IPolicyForHTTPS)
@attrs.frozen(slots=True)
class _Verified:
    """Every host has to prove its name."""

    tls: IClientTls

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
        return self.tls.creator(hostname.decode("ascii").strip("[]"), "verified")


class Fetcher:
    """Makes requests.

    :param tls: which authorities are believed.
    """

    def __init__(self, reactor: Any, tls: IClientTls) -> None:
        self._clock = reactor
        # One connection a request: nothing is kept open between them.
        self._agent = Agent(reactor, cast(Any, _Verified(tls)), connectTimeout=CONNECT)  # type: ignore[no-untyped-call]

    async def request(
        self, method: str, url: str, body: bytes | None = None, content_type: str = ""
    ) -> Response:
        """One request, and its answer.

        :param url: https alone.
        :raises FetchError: where there is no whole answer within bounds.
        """
        if not url.startswith("https://") or not url.isascii() or not url.isprintable() or " " in url:
            raise FetchError(f"{url[:200]!r} is no https address")
        work: Deferred[Response] = Deferred.fromCoroutine(self._exchange(method, url, body, content_type))
        try:
            return await work.addTimeout(EXCHANGE, self._clock)
        except (FetchError, CancelledError):
            raise
        except TimeoutError:
            raise FetchError(f"{_host(url)} took longer than {EXCHANGE:.0f} s") from None
        except Exception as error:
            raise FetchError(f"{_host(url)}: {_words(error)}") from error

    async def _exchange(self, method: str, url: str, body: bytes | None, content_type: str) -> Response:
        fields = {"User-Agent": [f"lorrainemail/{VERSION}"], "Accept-Language": ["en"]}
        if content_type:
            fields["Content-Type"] = [content_type]
        producer = None if body is None else _Whole(body)
        agent: Any = self._agent
        answer: Any = await agent.request(
            method.encode("ascii"), url.encode("ascii"), Headers(fields), producer
        )
        content = await self._body(answer)
        found = {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in answer.headers.getAllRawHeaders()
        }
        links = tuple(value.decode("latin-1") for value in answer.headers.getRawHeaders(b"link", ()))
        return Response(answer.code, found, content, links)

    def _body(self, answer: Any) -> Deferred[bytes]:
        collector = _Collector()
        answer.deliverBody(collector)
        return collector.done


class _Collector(Protocol):
    """Takes a body of bounded size."""

    def __init__(self) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self._stop())
        self._parts: list[bytes] = []
        self._size = 0
        self._too_large = False

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_BODY:
            self._too_large = True
            self._parts.clear()
            self._stop()
            return
        self._parts.append(data)

    def _stop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if self._too_large:
            self.done.errback(FetchError(f"the answer is larger than {MAX_BODY} octets"))
        elif isinstance(reason.value, ResponseDone | PotentialDataLoss):
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


def _words(error: BaseException) -> str:
    """Why, for a person; Agent wraps the true reason."""
    if isinstance(error, ResponseFailed) and error.reasons:
        inner = error.reasons[0]
        return tls_fault(inner) or _words(inner.value)
    return (str(error) or type(error).__name__)[:300]
