"""Whether our own MTA-STS policies would do what they say, looked at daily from outside in.

:class:`StsChecks` is composed by :mod:`lorrainemail.service` where the https door is open. For each local
    domain: its record names the policy's id, the policy is fetched by verified HTTPS and reads as it should,
    every MX is in it, and the certificate that the smtp door shows is one that others accept. What is found
    goes into
:class:`~lorrainemail.http.mta_sts.Policies`; the postmaster is told once when ``enforce`` may be said, and
    when a policy that enforces is found wanting. Never fails: what cannot be looked at is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.certs.store import CertificateStore
from lorrainemail.http.mta_sts import PATH, Policies
from lorrainemail.interfaces import DnsFailure, IResolver
from lorrainemail.ops.rounds import Rounds

#: Seconds between looks, between two checks of a domain (a little less than a day, so that each day has one),
#: and after the start.
LOOK: Final = 3600.0
DAILY: Final = 23 * 3600.0
FIRST: Final = 300.0
#: Domains that are checked.
MAX_DOMAINS: Final = 1000

InThread = Callable[..., Deferred[Any]]


class StsChecks(Rounds):
    """All domains, one after the other.

    :param fetcher: makes what fetches by verified HTTPS, when something is to be fetched.
    :param tell: a note to the postmaster.
    """

    name = "mta-sts"
    _log: ClassVar[Logger] = Logger(namespace="lorrainemail.mta_sts")

    def __init__(
        self,
        policies: Policies,
        domains: Callable[[], Sequence[str]],
        resolver: IResolver,
        fetcher: Callable[[], Any],
        certificates: CertificateStore,
        clock: Any,
        tell: Callable[[str, str], None],
        in_thread: InThread,
    ) -> None:
        super().__init__(clock, FIRST, LOOK)
        self._policies = policies
        self._domains = domains
        self._resolver = resolver
        self._fetcher = fetcher
        self._certificates = certificates
        self._tell = tell
        self._in_thread = in_thread

    def look(self) -> None:
        """Check the domains whose last check was a day ago, unless that is under way."""
        if not self.under_way:
            self.begin(self._go_round(), "The MTA-STS policies could not be checked")

    async def _go_round(self) -> None:
        for domain in list(self._domains())[:MAX_DOMAINS]:
            standing = await self._in_thread(self._policies.standing, domain)
            now = self._clock.seconds()
            if self._policies.mode(domain) != "none" and not 0 <= now - standing.checked < DAILY:
                await self._check(domain, now)

    async def _check(self, domain: str, now: float) -> None:
        reasons = await self.findings(domain)
        before = await self._in_thread(self._policies.checked, domain, reasons, now)
        after = self._policies.standing(domain)
        for reason in reasons:
            self._log.warn("MTA-STS of {domain}: {reason}", domain=domain, reason=reason)
        mode = self._policies.mode(domain)
        if reasons and mode == "enforce" and not before.reasons:
            text = "\n".join(f"- {reason}" for reason in reasons)
            self._tell(
                f"The MTA-STS policy of {domain} keeps mail away",
                f"Other servers that keep to the policy may not be able to deliver to {domain}:\n\n{text}\n\n"
                f'Mend that, or say "lorrainemail mta-sts set {domain} testing".\n',
            )
        elif mode == "testing" and after.enforce_offered() and not before.enforce_offered():
            self._tell(
                f"The MTA-STS policy of {domain} may enforce now",
                f"It was found in order each day for a week. With\n\n"
                f"    lorrainemail mta-sts set {domain} enforce\n\n"
                "other servers deliver by verified TLS alone.\n",
            )

    async def findings(self, domain: str) -> list[str]:
        """What is not as it should be, in words for the operator; nothing is fine."""
        found = [*await self._record(domain), *await self._policy(domain), *await self._exchangers(domain)]
        if self._certificates.trusted() is None:
            found.append("the server has no certificate of a known authority for its own name")
        return found

    async def _record(self, domain: str) -> list[str]:
        wanted = self._policies.id(domain)
        try:
            texts = await self._resolver.txt(f"_mta-sts.{domain}")
        except DnsFailure as failure:
            return [f"the record _mta-sts.{domain}: {failure}"]
        ours = [text.decode("utf-8", "replace") for text in texts if text.startswith(b"v=STSv1;")]
        # RFC 8461 §3.1: more than one is as good as none.
        if len(ours) != 1:
            return [f"there are {len(ours)} records _mta-sts.{domain} of version STSv1, one is wanted"]
        words = [word.strip() for word in ours[0].split(";")]
        return [] if f"id={wanted}" in words else [f"the record _mta-sts.{domain} has not the id {wanted}"]

    async def _policy(self, domain: str) -> list[str]:
        from lorrainemail.certs.fetch import FetchError

        url = f"https://mta-sts.{domain}{PATH}"
        try:
            response = await self._fetcher().request("GET", url)
        except FetchError as error:
            return [f"the policy cannot be fetched: {error}"]
        # RFC 8461 §3.3: no redirect is followed, and nothing but 200 counts.
        if response.status != 200:
            return [f"{url} answers with status {response.status}"]
        if response.body != self._policies.text(domain).encode():
            return [f"{url} has another policy than this server's"]
        return []

    async def _exchangers(self, domain: str) -> list[str]:
        try:
            hosts = [one.host for one in await self._resolver.mx(domain)]
        except DnsFailure as failure:
            return [f"the MX of {domain}: {failure}"]
        known = {self._policies.settings.hostname, *self._policies.settings.mta_sts.mx}
        return [f"the MX {host} of {domain} is not in the policy" for host in hosts if host not in known]
