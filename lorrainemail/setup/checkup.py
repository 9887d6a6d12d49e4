"""The daily check-up, composed for a running server: what it asks, whom it tells, what follows.

:func:`daily_of` is called by :mod:`lorrainemail.service`. What the check-up itself needs is loaded when the
first one begins, not with the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred

from lorrainemail.addresses import Address
from lorrainemail.config.default import asks_dns_about_senders
from lorrainemail.http.mta_sts import Policies
from lorrainemail.message.note import note
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.setup.doctor.daily import Daily
from lorrainemail.setup.doctor.findings import Finding

#: Domains whose policies are looked at in one check-up.
MAX_DOMAINS: Final = 500


def daily_of(server: Any, reactor: Any, in_thread: Callable[..., Deferred[Any]]) -> Daily:
    """The service.

    :param server: the composed server; its settings and parts are asked when the time has come.
    """

    def facts() -> tuple[bool, Any, str]:
        settings = server.settings
        on = settings.doctor.daily and asks_dns_about_senders(settings)
        return on, settings.doctor.lang, settings.hostname

    def tell(subject: str, text: str) -> Deferred[Any]:
        return _tell(server, reactor, subject, text)

    def changed() -> None:
        server.remote.ipv6 = server.settings.dns.ipv6 and not daily.without_ipv6

    def look() -> Deferred[list[Finding]]:
        return Deferred.fromCoroutine(_look(server, reactor, in_thread))

    daily = Daily(reactor, server.settings.state, look, tell, facts, changed)
    changed()
    return daily


async def _look(server: Any, reactor: Any, in_thread: Callable[..., Deferred[Any]]) -> list[Finding]:
    from lorrainemail.setup.doctor.examine import Live, examine
    from lorrainemail.setup.new_domain import local_domains

    identities = server.queue.identities()
    oldest = server.queue.find(identities[0]) if identities else None
    live = Live(server.status(), server.queue.age(oldest) if oldest is not None else 0.0)
    domains = await in_thread(local_domains, server.settings)
    findings = await examine(reactor, server.settings, domains, live, in_thread, server.resolver)
    offered = await in_thread(_note_policies, server.policies, domains, findings, time.time())
    for domain in offered:
        subject = f"{server.settings.hostname}: MTA-STS of {domain} may enforce"
        await _tell(server, reactor, subject, _OFFER[server.settings.doctor.lang].format(domain=domain))
    return findings


def _note_policies(
    policies: Policies, domains: Sequence[str], findings: Sequence[Finding], now: float
) -> list[str]:
    """Keep what the check-up means for each domain's MTA-STS policy; those that may enforce from now on.

    A policy is clean where mail would come in under it: the MX, the smtp door, a certificate of an authority
    that the world knows, the policy itself. What could not be looked at is no check at all.
    """
    from lorrainemail.setup.doctor.words import line_of

    offered = []
    for domain in domains[:MAX_DOMAINS]:
        if policies.mode(domain) != "testing":
            continue
        about = [one for one in findings if _concerns(one, domain, policies.settings.hostname)]
        if not about or any(one.level == "unknown" for one in about):
            continue
        ill = [line_of(one, "en") for one in about if one.level in ("bad", "warn")]
        before = policies.checked(domain, ill, now)
        if policies.standing(domain).enforce_offered() and not before.enforce_offered():
            offered.append(domain)
    return offered


def _concerns(finding: Finding, domain: str, hostname: str) -> bool:
    if finding.check in ("mx", "mta_sts"):
        return finding.subject == domain or finding.subject.endswith(f".{domain}")
    if finding.check == "address":
        return finding.subject == hostname
    return finding.check == "certificate" or (
        finding.check == "door" and finding.subject.startswith(("smtp ", "https "))
    )


_OFFER: Final = {
    "en": "For a week every check of {domain} was clean. Its MTA-STS policy may enforce encryption now:\n\n"
    "    lorrainemail mta-sts set {domain} enforce\n",
    "fr": "Depuis une semaine, tous les examens de {domain} sont bons. Sa politique MTA-STS peut désormais "
    "imposer le chiffrement :\n\n    lorrainemail mta-sts set {domain} enforce\n",
}


def _tell(server: Any, reactor: Any, subject: str, text: str) -> Deferred[Any]:
    """A note to the postmaster; its Deferred fires when it is safe."""
    words = note(server.settings.hostname, new_id(), subject, text, reactor.seconds())
    told: Deferred[Any] = server.intake.inject(None, [Address("postmaster", "")], Content(words), 1, "")
    return told
