"""A small answer from a web server, bounded in time, size and number: for keys, tokens, policies.

Called by what asks a configured provider something (:mod:`lorrainemail.sasl.oauth`). TLS is verified, by the
system's authorities or by those in a given file; redirects are not followed, nothing is kept between two
questions. Fails with :class:`Unanswered`, whose text is for the log. :mod:`twisted.web.client` is imported at
the first question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.net.certificates import read_pem

#: Octets of an answer's body.
MAX_ANSWER: Final = 256 * 1024
#: Seconds for a whole question and answer.
MAX_SECONDS: Final = 10.0
#: Questions at the same time, and those that wait for one of them.
AT_ONCE: Final = 8
MAX_WAITING: Final = 64


class Unanswered(Exception):
    """There was no usable answer."""


@attrs.frozen(slots=True)
class Answer:
    """Status and body."""

    status: int
    body: bytes


class _Body(Protocol):
    """Collects a body up to :data:`MAX_ANSWER`."""

    transport: Any

    def __init__(self, done: Deferred[bytes]) -> None:
        self._done = done
        self._body = b""

    def dataReceived(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_ANSWER:
            self.transport.loseConnection()
            self._fail(f"the answer is longer than {MAX_ANSWER} octets")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        from twisted.web.client import ResponseDone
        from twisted.web.http import PotentialDataLoss

        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            if not self._done.called:
                self._done.callback(self._body)
        else:
            self._fail("the answer broke off")

    def _fail(self, reason: str) -> None:
        if not self._done.called:
            self._done.errback(Unanswered(reason))


class Web:
    """Asks.

    :param trust: PEM file of authorities, "" for the system's.
    :raises ConfigurationError: where that file cannot be used.
    """

    def __init__(self, reactor: Any, trust: str = "") -> None:
        self._reactor = reactor
        self._trust = _authorities(trust) if trust else None
        self._agent: Any = None
        self._turns = DeferredSemaphore(AT_ONCE)

    async def ask(
        self, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """GET, or POST of a form where there is a body.

        :raises Unanswered: where there was no answer in time.
        """
        if len(self._turns.waiting) >= MAX_WAITING:
            raise Unanswered("too many questions wait already")
        await self._turns.acquire()
        try:
            asked = Deferred.fromCoroutine(self._ask(url, body, dict(headers or {})))
            return await asked.addTimeout(MAX_SECONDS, self._reactor)
        except Unanswered:
            raise
        except TimeoutError:
            raise Unanswered(f"no answer within {MAX_SECONDS:.0f} s") from None
        except Exception as error:  # of connections, TLS and HTTP there are dozens
            reasons = getattr(error, "reasons", None)
            why = "; ".join(reason.getErrorMessage() for reason in reasons) if reasons else str(error)
            raise Unanswered(why or type(error).__name__) from None
        finally:
            self._turns.release()

    async def _ask(self, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        from twisted.web.client import FileBodyProducer
        from twisted.web.http_headers import Headers

        if self._agent is None:
            self._agent = self._make_agent()
        producer = None
        if body is not None:
            from io import BytesIO

            headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
            cooperator = _cooperator(self._reactor)
            producer = FileBodyProducer(BytesIO(body), cooperator=cooperator)  # type: ignore[no-untyped-call]
        headers.setdefault("Accept", "application/json")
        headers.setdefault("User-Agent", "lorrainemail")
        made = Headers({name: [value] for name, value in headers.items()})
        method = b"GET" if body is None else b"POST"
        response = await self._agent.request(method, url.encode("ascii"), made, producer)
        done: Deferred[bytes] = Deferred(lambda _: response._transport.abortConnection())
        response.deliverBody(_Body(done))
        return Answer(response.code, await done)

    def _make_agent(self) -> Any:
        from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

        policy: Any = BrowserLikePolicyForHTTPS(self._trust)  # type: ignore[no-untyped-call]
        pool: Any = HTTPConnectionPool(self._reactor, persistent=False)  # type: ignore[no-untyped-call]
        return Agent(self._reactor, policy, connectTimeout=MAX_SECONDS, pool=pool)  # type: ignore[no-untyped-call]


def _cooperator(reactor: Any) -> Any:
    from twisted.internet.task import Cooperator

    return Cooperator(scheduler=lambda work: reactor.callLater(0, work))


def _authorities(path: str) -> Any:
    from twisted.internet.ssl import Certificate, trustRootFromCertificates

    try:
        blocks = read_pem(path).split(b"-----END CERTIFICATE-----")[:-1]
        if not blocks:
            raise ValueError("no certificate")
        return trustRootFromCertificates(  # type: ignore[no-untyped-call]
            [Certificate.loadPEM(block + b"-----END CERTIFICATE-----\n") for block in blocks]
        )
    except Exception as error:
        what = "cannot be used as the authorities of a web server: " + (
            getattr(error, "strerror", None) or "it holds no certificates in PEM"
        )
        raise ConfigurationError((Problem(path, 0, what, "name a PEM file of certificates"),)) from None
