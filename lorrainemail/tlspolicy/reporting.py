"""TLS reports that we send: what sessions came to is gathered, and told once a day to those who ask (RFC
8460).

:class:`TlsReporter` hears of every session from the courier (:meth:`TlsReporter.note` costs a dictionary
entry) and every minute writes what gathered in a thread, of domains alone that want reports: each is asked
for its record ``_smtp._tls`` away from the way of mail. Each hour it sends what is due: one report for
each domain and past day (UTC), some time in the first hours after midnight, so that not all senders report
at once; by mail through the injector, signed like any mail of ours, and by HTTPS.

A crash may lose the last minute's counts, or send a report twice under the same id. Nothing here delays mail.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.interfaces import DnsFailure, Inject, IResolver
from lorrainemail.ops.content import Content
from lorrainemail.tlspolicy.plan import Observed
from lorrainemail.tlspolicy.report import TlsReport, destinations, mailbox_of, to_json
from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile
from lorrainemail.tlspolicy.report_mail import message_of

DAY: Final = 86400
#: Seconds from the start to the first look, between writes, and between looks for what is due.
FIRST: Final = 5.0
FLUSH: Final = 60.0
LOOK: Final = 600.0
#: Seconds after midnight over which reports are spread (RFC 8460 §4.1).
SPREAD: Final = 4 * 3600
#: Different results in memory; more are not counted until the next write. Characters of words in one.
MAX_WAITING: Final = 10_000
MAX_WORDS: Final = 200
#: Reports of one look.
MAX_SENT: Final = 200

_log = Logger("lorrainemail.tlspolicy")

#: Posts a report to an https address; whether it was taken.
Post = Callable[[str, bytes], Awaitable[bool]]


@attrs.frozen(slots=True)
class Tools:
    """What a reporter works with.

    :ivar inject: sends mail of our own. ``post``: by HTTPS. ``in_thread``: runs blocking work.
    :ivar hostname: our name. ``state``: the state directory.
    """

    clock: Any
    resolver: IResolver
    inject: Inject
    post: Post
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    hostname: str
    state: str


class TlsReporter(Service):
    """See the module."""

    name = "tls reports"

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.active = True
        self.file = TlsReportFile(os.path.join(tools.state, FILE))
        self._counts: dict[tuple[int, Observed], int] = {}
        self._call: IDelayedCall | None = None
        self._look_at = 0.0
        self._busy: Deferred[None] | None = None

    def note(self, observed: Observed) -> None:
        """One session, or what kept us from one."""
        if not self.active:
            return
        key = (int(self._tools.clock.seconds()) // DAY, _bounded(observed))
        if key in self._counts or len(self._counts) < MAX_WAITING:
            self._counts[key] = self._counts.get(key, 0) + 1

    # -- Service ---------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._call = self._tools.clock.callLater(FIRST, self._turn)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._call is not None:
            self._call.cancel()
            self._call = None
        done: Deferred[None] = Deferred.fromCoroutine(self._end())
        return done

    async def _end(self) -> None:
        if self._busy is not None:
            # it may be waiting for somebody's web server
            self._busy.cancel()
        counts, self._counts = self._counts, {}
        try:
            if counts:  # nobody is asked any more who wants to know
                await self._tools.in_thread(lambda: self.file.see(counts))
        except Exception:
            _log.failure("What is to be reported was not kept")
        await self._tools.in_thread(self.file.close)

    def _turn(self) -> None:
        self._call = None
        self._busy = busy = Deferred.fromCoroutine(self.work())

        def done(failure: Any) -> None:
            self._busy = None
            if failure is not None and not failure.check(CancelledError):
                _log.failure("A TLS report was not made", failure)
            if self.running:
                self._call = self._tools.clock.callLater(FLUSH, self._turn)

        busy.addBoth(done)

    async def work(self) -> None:
        """Write what gathered; send what is due."""
        await self._flush()
        now = self._tools.clock.seconds()
        if self.active and now >= self._look_at:
            self._look_at = now + LOOK
            found = await self._tools.in_thread(lambda: self.file.due(int(now) // DAY))
            due = [(day, domain) for day, domain in found if now >= self.sent_at(day, domain)]
            for day, domain in due[:MAX_SENT]:
                await self._send(day, domain)

    def sent_at(self, day: int, domain: str) -> float:
        """When the report on a day is sent: not by all at once."""
        seed = hashlib.sha256(f"{self._tools.hostname} {domain} {day}".encode()).digest()
        return (day + 1) * DAY + int.from_bytes(seed[:4], "big") % SPREAD

    async def _flush(self) -> None:
        """Keep what domains want to know."""
        waiting, self._counts = self._counts, {}
        wanted: dict[str, bool] = {}
        for _, one in waiting:
            domain = one.published.domain
            if domain not in wanted:
                wanted[domain] = await self._destinations(domain) != ()
        counts = {key: count for key, count in waiting.items() if wanted[key[1].published.domain]}
        if counts:
            await self._tools.in_thread(lambda: self.file.see(counts))

    async def _destinations(self, domain: str) -> tuple[str, ...] | None:
        """Where a domain wants reports; None: it cannot be said now."""
        try:
            return destinations(await self._tools.resolver.txt(f"_smtp._tls.{domain}"))
        except DnsFailure as failure:
            return None if failure.kind == "temporary" else ()

    # -- sending ---------------------------------------------------------------------------------

    async def _send(self, day: int, domain: str) -> None:
        where = await self._destinations(domain)
        if where is None:
            return  # at a later look
        results = await self._tools.in_thread(lambda: self.file.results(day, domain))
        taken = not where or not results or await self._tell(day, domain, where, results)
        if taken:
            await self._tools.in_thread(lambda: self.file.sent(day, domain))

    async def _tell(self, day: int, domain: str, where: tuple[str, ...], results: Any) -> bool:
        """Send a report to all who want it; whether one of them has it."""
        tools, hostname = self._tools, self._tools.hostname
        report = TlsReport(
            hostname,
            f"postmaster@{hostname}",
            f"{day}.{domain}@{hostname}",
            day * DAY,
            (day + 1) * DAY - 1,
            results,
        )
        now = tools.clock.seconds()
        packed = await tools.in_thread(lambda: gzip.compress(to_json(report), mtime=int(now)))
        recipients = _mailboxes(where)
        taken = False
        if recipients:
            message = message_of(report, packed, domain, hostname, recipients, now)
            await tools.inject(None, recipients, Content(message), 1, "")
            taken = True
        for url in (one for one in where if one.lower().startswith("https://")):
            taken = await tools.post(url, packed) or taken
        if taken:
            _log.info("TLS report on {domain} sent to {to}", domain=domain, to=", ".join(where))
        return taken


def _bounded(observed: Observed) -> Observed:
    # Of what went well only the number is told; nothing else makes a row of its own.
    if not observed.fault:
        return attrs.evolve(observed, host="", address="", ours="", words="")
    return attrs.evolve(observed, words=observed.words[:MAX_WORDS])


def _mailboxes(where: tuple[str, ...]) -> list[Address]:
    found: list[Address] = []
    for uri in where:
        if uri.lower().startswith("mailto:"):
            try:
                address = parse_address(mailbox_of(uri))
            except AddressError:
                continue  # what is no address gets no mail
            if address.domain and address not in found:
                found.append(address)
    return found


def post_with(fetcher: Callable[[], Any]) -> Post:
    """Posts by :class:`~lorrainemail.certs.fetch.Fetcher`, which ``fetcher`` makes when it is wanted."""

    async def post(url: str, packed: bytes) -> bool:
        from lorrainemail.certs.fetch import FetchError

        try:
            answer = await fetcher().request("POST", url, packed, "application/tlsrpt+gzip", most=65536)
        except FetchError as error:
            _log.warn("A TLS report was not taken: {error}", error=str(error))
            return False
        # RFC 8460 §5.4: any of 2xx is good.
        if not 200 <= answer.status < 300:
            _log.warn("A TLS report was not taken: {url} says {status}", url=url, status=answer.status)
            return False
        return True

    return post
