"""MTA-STS policies of the domains that mail goes to (RFC 8461): looked for, fetched, kept, refreshed.

:class:`StsPolicies` is asked by :mod:`lorrainemail.tlspolicy.plan` for each delivery. A domain without a
policy costs one TXT question, which the resolver remembers. A new id in that record has the policy fetched
by verified HTTPS (no redirect, bounded in size and time by :mod:`lorrainemail.certs.fetch`), once for all
who wait; what was fetched holds for its ``max_age``, whatever becomes of record and web server meanwhile,
and is refreshed daily while mail goes there, so that an attacker who blocks the fetch must do so for all
of that time.

Never fails: what cannot be found out is no policy, with its fault in the vocabulary of RFC 8460 §4.3.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from lorrainemail.interfaces import DnsFailure, IResolver
from lorrainemail.ops.metrics import Counter
from lorrainemail.tlspolicy.sts_cache import MAX_KEPT, Kept, StsCache
from lorrainemail.tlspolicy.sts_policy import MAX_POLICY, PolicyFault, StsPolicy, id_of, parse

#: Policies, and failures to fetch one, in memory.
MAX_REMEMBERED: Final = 1000
#: Seconds before a policy that could not be fetched is asked for again (RFC 8461 §3.3 wants some minutes).
PATIENCE: Final = 300.0
#: Seconds between looks for what must be refreshed, between two refreshes of a policy, and without mail after
#: which it is not refreshed any more; policies of one look.
LOOK: Final = 3600.0
REFRESH: Final = 86400.0
UNUSED: Final = 30 * 86400.0
MAX_REFRESHED: Final = 500

_FETCHES = Counter("lorrainemail_sts_fetches", "MTA-STS policies fetched, by result", ["result"])

_log = Logger("lorrainemail.tlspolicy")

InThread = Callable[[Callable[[], Any]], Deferred[Any]]


class PolicyUnfetched(Exception):
    """A policy could not be had. ``fault``: "sts-policy-fetch-error", "sts-policy-invalid" or
    "sts-webpki-invalid"."""

    def __init__(self, fault: str, words: str) -> None:
        super().__init__(words)
        self.fault = fault


#: Fetches the policy of a domain, as octets. Fails with PolicyUnfetched.
Fetch = Callable[[str], Awaitable[bytes]]


@attrs.frozen(slots=True)
class StsFound:
    """What a domain says. ``policy`` None: nothing that holds. ``fault`` and ``words``: why a policy that
    there should be could not be had; one that was kept may hold all the same.

    :ivar ends: wall-clock seconds until which the policy holds.
    :ivar unsure: whether there is one cannot be said now.
    """

    policy: StsPolicy | None = None
    fault: str = ""
    words: str = ""
    ends: float = 0.0
    unsure: bool = False


class StsPolicies(Service):
    """The policies of all domains.

    :param cache: where policies are kept.
    :param wall_clock: seconds since 1970, by which ``max_age`` counts.
    :param read_only: keep nothing on the disk (a dry run).
    """

    name = "mta-sts policies"

    def __init__(
        self,
        resolver: IResolver,
        fetch: Fetch,
        cache: StsCache,
        in_thread: InThread,
        clock: Any,
        read_only: bool = False,
    ) -> None:
        self._resolver = resolver
        self._fetch = fetch
        self._cache = cache
        self._in_thread = in_thread
        self._clock = clock
        self._read_only = read_only
        #: Whether what is kept is refreshed.
        self.active = True
        self._names: set[str] | None = None
        self._known: OrderedDict[str, Kept] = OrderedDict()
        self._failed: OrderedDict[tuple[str, str], tuple[float, PolicyUnfetched]] = OrderedDict()
        self._fetching: dict[str, list[Deferred[None]]] = {}
        self._used: dict[str, float] = {}
        self._round: Deferred[None] | None = None
        self._looks = LoopingCall(self._look)
        self._looks.clock = clock

    async def find(self, domain: str) -> StsFound:
        """The policy that holds for a domain now."""
        unsure = False
        try:
            id_ = id_of(await self._resolver.txt(f"_mta-sts.{domain}"))
        except DnsFailure as failure:
            unsure = failure.kind == "temporary"
            id_ = ""  # RFC 8461 §3.1: a record that is gone does not end a policy that is kept
        now = self._clock.seconds()
        kept = await self._kept(domain)
        if kept is not None and not kept.holds(now):
            kept = None
        trouble: PolicyUnfetched | None = None
        if id_ and (kept is None or kept.id != id_):
            try:
                kept = await self._fetched(domain, id_)
            except PolicyUnfetched as error:
                trouble = error
        fault, words = (trouble.fault, str(trouble)) if trouble is not None else ("", "")
        if kept is None:
            return StsFound(None, fault, words, unsure=unsure or bool(fault))
        self._used[domain] = now
        return StsFound(kept.policy, fault, words, kept.ends)

    # -- memory and disk -------------------------------------------------------------------------

    async def _kept(self, domain: str) -> Kept | None:
        known = self._known.get(domain)
        if known is not None:
            self._known.move_to_end(domain)
            return known
        if self._names is None:
            names = await self._in_thread(self._cache.names)
            self._names = names if self._names is None else self._names
        if domain not in self._names:
            return None
        kept: Kept | None = await self._in_thread(lambda: self._cache.get(domain))
        if kept is not None:
            self._remember(domain, kept)
        return kept

    def _remember(self, domain: str, kept: Kept) -> None:
        self._known[domain] = kept
        self._known.move_to_end(domain)
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    async def _keep(self, domain: str, kept: Kept) -> None:
        names = self._names
        if not self._read_only and names is not None and (len(names) < MAX_KEPT or domain in names):
            try:
                await self._in_thread(lambda: self._cache.put(domain, kept))
                names.add(domain)
            except OSError as error:
                _log.error("The TLS policy of {domain} is not kept: {error}", domain=domain, error=error)
        self._remember(domain, kept)

    # -- fetching --------------------------------------------------------------------------------

    async def _fetched(self, domain: str, id_: str, used: float | None = None) -> Kept:
        """The policy anew, fetched once for all who ask at the same time.

        :param used: when mail last went there, where that is not now.
        :raises PolicyUnfetched: where it cannot be had.
        """
        again, error = self._failed.get((domain, id_), (0.0, None))
        if error is not None and self._clock.seconds() < again:
            raise PolicyUnfetched(error.fault, str(error))
        waiting = self._fetching.get(domain)
        if waiting is not None:
            turn: Deferred[None] = Deferred()
            waiting.append(turn)
            await turn
            known = self._known.get(domain)
            if known is not None and known.id == id_:
                return known
            _, error = self._failed.get((domain, id_), (0.0, None))
            if error is not None:
                raise PolicyUnfetched(error.fault, str(error))
            raise PolicyUnfetched("sts-policy-fetch-error", "the policy changed while it was fetched")
        self._fetching[domain] = []
        try:
            return await self._fetch_now(domain, id_, used)
        finally:
            for turn in self._fetching.pop(domain):
                if not turn.called:
                    turn.callback(None)

    async def _fetch_now(self, domain: str, id_: str, used: float | None) -> Kept:
        try:
            try:
                policy = parse(await self._fetch(domain))
            except PolicyFault as error:
                raise PolicyUnfetched("sts-policy-invalid", str(error)) from None
        except PolicyUnfetched as error:
            _FETCHES.labels(error.fault).inc()
            _log.warn(
                "The MTA-STS policy of {domain} cannot be had: {error}", domain=domain, error=str(error)
            )
            self._failed[domain, id_] = self._clock.seconds() + PATIENCE, error
            if len(self._failed) > MAX_REMEMBERED:
                self._failed.popitem(last=False)
            raise
        _FETCHES.labels("fetched").inc()
        now = self._clock.seconds()
        kept = Kept(id_, policy, now, now if used is None else used)
        await self._keep(domain, kept)
        self._failed.pop((domain, id_), None)
        return kept

    # -- refreshing --------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._looks.start(LOOK, now=False)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._looks.running:
            self._looks.stop()
        if self._round is None:
            return None
        ended: Deferred[None] = Deferred()
        self._round.addBoth(lambda _: ended.callback(None))
        self._round.cancel()
        return ended

    def _look(self) -> None:
        if self._round is not None or not self.active:
            return
        self._round = work = Deferred.fromCoroutine(self.refresh())

        def ended(failure: Any) -> None:
            self._round = None
            if failure is not None and not failure.check(CancelledError):
                _log.failure("TLS policies were not refreshed", failure)

        work.addBoth(ended)

    async def refresh(self) -> None:
        """Fetch anew what is a day old and in use; forget what is over."""
        if self._names is None:
            self._names = await self._in_thread(self._cache.names)
        domains = list(self._names)
        random.shuffle(domains)  # what one look does not come to, another does
        left = MAX_REFRESHED
        for domain in domains:
            kept = await self._kept(domain)
            now = self._clock.seconds()
            if kept is None or not kept.holds(now):
                self._names.discard(domain)
                self._known.pop(domain, None)
                self._used.pop(domain, None)
                await self._in_thread(lambda domain=domain: self._cache.remove(domain))  # type: ignore[misc]
                continue
            last = max(kept.used, self._used.get(domain, 0.0))
            due = now - kept.fetched >= min(REFRESH, kept.policy.max_age / 2)
            if due and now - last < UNUSED and left > 0:
                left -= 1
                await self._refresh(domain, kept.id, last)

    async def _refresh(self, domain: str, id_: str, used: float) -> None:
        """RFC 8461 §10.2: before it ends, also where its id is the same."""
        try:
            id_ = id_of(await self._resolver.txt(f"_mta-sts.{domain}")) or id_
            await self._fetched(domain, id_, used)
        except (DnsFailure, PolicyUnfetched):
            return  # it holds until its end, and is asked for again at the next look


def fetch_with(fetcher: Callable[[], Any]) -> Fetch:
    """Fetches by :class:`~lorrainemail.certs.fetch.Fetcher`, which ``fetcher`` makes when it is wanted."""

    async def fetch(domain: str) -> bytes:
        from lorrainemail.certs.fetch import FetchError

        url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
        try:
            answer = await fetcher().request("GET", url, most=MAX_POLICY)
        except FetchError as error:
            fault = "sts-webpki-invalid" if error.tls else "sts-policy-fetch-error"
            raise PolicyUnfetched(fault, str(error)) from None
        # RFC 8461 §3.3: no redirect is followed, and nothing but 200 counts.
        if answer.status != 200:
            raise PolicyUnfetched("sts-policy-fetch-error", f"{url} answers with status {answer.status}")
        kind = answer.fields.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/plain":
            words = f"{url} is not text/plain but {kind[:60] or 'of no type'}"
            raise PolicyUnfetched("sts-policy-invalid", words)
        return bytes(answer.body)

    return fetch
