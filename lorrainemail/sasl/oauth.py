"""Whose a token of the operator's OAuth 2.0 provider is: by its key set, or by asking the provider.

Called by :mod:`lorrainemail.sasl.bearer`. :class:`KeySet` checks signed tokens
(:mod:`lorrainemail.sasl.tokens`) against the provider's keys, kept for :data:`KEYS_FRESH` seconds, fetched
anew at once (but not often) when a token names a key that is not among them, and still used for
:data:`KEYS_KEPT` where the provider does not answer. :class:`Introspection` asks it about each token
(RFC 7662) and believes the answer for :data:`ANSWER_FRESH` seconds. Fails with
:class:`~lorrainemail.sasl.tokens.Rejected` for a token that is not good, with TemporaryError where that
cannot be known now.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lorrainemail.errors import TemporaryError
from lorrainemail.net.web import Answer, Unanswered
from lorrainemail.sasl.mechanisms import TEMPORARY_FAILURE
from lorrainemail.sasl.tokens import (
    MAX_TOKEN,
    Expected,
    Key,
    Rejected,
    check_claims,
    parse_keys,
    verified_claims,
)

log = Logger(namespace="lorrainemail.sasl")

#: Seconds for which a key set is used without asking again; and where nobody answers.
KEYS_FRESH: Final = 3600.0
KEYS_KEPT: Final = 86_400.0
#: Seconds between two questions for the keys, whatever tokens name or however the provider fails.
KEYS_GAP: Final = 30.0
#: Seconds for which an answer about a token is believed; RFC 7662 §4 asks to weigh this.
ANSWER_FRESH: Final = 60.0
MAX_ANSWERS: Final = 2000


class Ask(Protocol):
    """:meth:`lorrainemail.net.web.Web.ask`."""

    async def __call__(
        self, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer: ...


class KeySet:
    """See the module.

    :param url: of the key set.
    """

    def __init__(
        self,
        url: str,
        expected: Expected,
        ask: Ask,
        clock: IReactorTime,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._expected = expected
        self._ask = ask
        self._clock = clock
        self._wall_clock = wall_clock
        self._keys: tuple[Key, ...] = ()
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching: list[Deferred[None]] | None = None

    async def account_name(self, token: bytes) -> str:
        if len(token) > MAX_TOKEN:
            raise Rejected("it is too long")
        if self._age(self._fetched) > KEYS_FRESH:
            await self._fetch()
        if self._age(self._fetched) > KEYS_KEPT:
            raise TemporaryError(TEMPORARY_FAILURE, f"the keys at {self._url} could not be had")
        try:
            claims = verified_claims(token, self._keys)
        except Rejected as rejected:
            if not rejected.unknown_key or self._age(self._tried) < KEYS_GAP:
                raise
            await self._fetch()
            claims = verified_claims(token, self._keys)
        return check_claims(claims, self._expected, self._wall_clock())

    def _age(self, since: float | None) -> float:
        return float("inf") if since is None else self._clock.seconds() - since

    async def _fetch(self) -> None:
        """Fetch the keys, once for all who wait for them."""
        if self._fetching is not None:
            waiter: Deferred[None] = Deferred()
            self._fetching.append(waiter)
            await waiter
            return
        if self._age(self._tried) < KEYS_GAP:
            return
        self._fetching, self._tried = [], self._clock.seconds()
        try:
            answer = await self._ask(self._url)
            if answer.status != 200:
                raise Unanswered(f"status {answer.status}")
            keys = parse_keys(answer.body)
            if not keys:
                raise Unanswered("it has no key of a kind that is believed here")
            self._keys, self._fetched = keys, self._clock.seconds()
        except (Unanswered, ValueError, RecursionError) as error:
            log.error("The OAuth keys at {url} could not be had: {reason}", url=self._url, reason=str(error))
        finally:
            waiting, self._fetching = self._fetching, None
            for one in waiting:
                one.callback(None)


class Introspection:
    """See the module.

    :param url: of the provider's introspection endpoint.
    :param client: the name and secret that the provider knows us by, at the time of asking; None for none.
    """

    def __init__(
        self,
        url: str,
        expected: Expected,
        client: Callable[[], tuple[str, str] | None],
        ask: Ask,
        clock: IReactorTime,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._expected = expected
        self._client = client
        self._ask = ask
        self._clock = clock
        self._wall_clock = wall_clock
        #: Hash of a token → until when its claims are believed.
        self._known: OrderedDict[bytes, tuple[float, dict[str, Any]]] = OrderedDict()

    async def account_name(self, token: bytes) -> str:
        if len(token) > MAX_TOKEN:
            raise Rejected("it is too long")
        digest = hashlib.sha256(token).digest()
        until, claims = self._known.get(digest, (0.0, {}))
        if self._clock.seconds() >= until:
            claims = await self._introspect(token)
            self._known[digest] = self._clock.seconds() + ANSWER_FRESH, claims
            self._known.move_to_end(digest)
            if len(self._known) > MAX_ANSWERS:
                self._known.popitem(last=False)
        return check_claims(claims, self._expected, self._wall_clock(), asked=True)

    async def _introspect(self, token: bytes) -> dict[str, Any]:
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode("ascii")
        headers = {}
        client = self._client()
        if client is not None:
            # RFC 6749 §2.3.1: both are form-encoded first.
            words = ":".join(quote(word, safe="") for word in client)
            headers["Authorization"] = "Basic " + base64.b64encode(words.encode("ascii")).decode("ascii")
        try:
            answer = await self._ask(self._url, form, headers)
            if answer.status != 200:
                raise Unanswered(f"status {answer.status}")
            claims = json.loads(answer.body)
            if not isinstance(claims, dict):
                raise ValueError("no object")
        except (Unanswered, ValueError, RecursionError) as error:
            detail = f"{self._url} did not say whose a token is: {error}"
            log.error("{detail}", detail=detail)
            raise TemporaryError(TEMPORARY_FAILURE, detail) from None
        if claims.get("active") is not True:
            raise Rejected("its issuer does not know it, or no longer")
        return claims
