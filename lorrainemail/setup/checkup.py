"""The daily check-up, composed for a running server: what it asks, whom it tells, what follows.

:func:`daily_of` is called by :mod:`lorrainemail.service`. What the check-up itself needs is loaded when the
first one begins, not with the server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from lorrainemail.config.default import asks_dns_about_senders
from lorrainemail.setup.doctor.daily import Daily
from lorrainemail.setup.doctor.findings import Finding


def daily_of(server: Any, reactor: Any, in_thread: Callable[..., Deferred[Any]]) -> Daily:
    """The service.

    :param server: the composed server; its settings and parts are asked when the time has come.
    """

    def facts() -> tuple[bool, Any, str]:
        settings = server.settings
        on = settings.doctor.daily and asks_dns_about_senders(settings)
        return on, settings.doctor.lang, settings.hostname

    def changed() -> None:
        server.remote.ipv6 = server.settings.dns.ipv6 and not daily.without_ipv6

    def look() -> Deferred[list[Finding]]:
        return Deferred.fromCoroutine(_look(server, reactor, in_thread))

    daily = Daily(reactor, server.settings.state, look, server.letters.send, facts, changed)
    changed()
    return daily


async def _look(server: Any, reactor: Any, in_thread: Callable[..., Deferred[Any]]) -> list[Finding]:
    from lorrainemail.setup.doctor.examine import Live, examine
    from lorrainemail.setup.new_domain import local_domains

    identities = server.queue.identities()
    oldest = server.queue.find(identities[0]) if identities else None
    live = Live(server.status(), server.queue.age(oldest) if oldest is not None else 0.0)
    domains = await in_thread(local_domains, server.settings)
    return await examine(reactor, server.settings, domains, live, in_thread, server.resolver)
