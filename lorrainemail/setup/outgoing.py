"""What other domains want of TLS, put together for the couriers: MTA-STS, DANE, and reports of it.

Made by :mod:`lorrainemail.service`, which hands it the new configuration at a reload; ``lorrainemail
explain`` takes :func:`policies_of` alone. What is off costs nothing but its settings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from lorrainemail.config.model import Settings
from lorrainemail.net.resolver import Resolver
from lorrainemail.setup.senders import Neighbours
from lorrainemail.tlspolicy.dane import Dane
from lorrainemail.tlspolicy.plan import Observed, TlsPolicies
from lorrainemail.tlspolicy.sts import StsPolicies, fetch_with
from lorrainemail.tlspolicy.sts_cache import StsCache

if TYPE_CHECKING:
    from lorrainemail.mailauth.mailbox_reader import MailboxReader
    from lorrainemail.tlspolicy.reporting import TlsReporter


class Outgoing(MultiService):
    """The parts that run.

    :param fetcher: makes what fetches by verified HTTPS, when something is to be fetched.
    :ivar policies: what the remote courier asks.
    """

    def __init__(
        self, settings: Settings, near: Neighbours, resolver: Resolver, fetcher: Callable[[], Any]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._near, self._fetcher = near, fetcher
        self._reporter: TlsReporter | None = None
        self._reader: MailboxReader | None = None
        reactor, in_thread = near.reactor, near.in_thread
        self._sts = StsPolicies(resolver, fetch_with(fetcher), StsCache(settings.state), in_thread, reactor)
        self._sts.setServiceParent(self)  # type: ignore[no-untyped-call]
        self._dane = Dane(resolver, settings.dns.ipv6)
        self.policies = TlsPolicies(None, None)
        self.use(settings)

    def use(self, settings: Settings) -> None:
        """Other settings."""
        wanted = settings.outgoing_tls
        self.policies.sts = self._sts if wanted.mta_sts else None
        self._sts.active = wanted.mta_sts
        self.policies.dane = self._dane if wanted.dane else None
        self._dane.ipv6 = settings.dns.ipv6
        self._report(settings)

    def observe(self, observed: Observed) -> None:
        """One session with a mail server of another domain."""
        if self._reporter is not None:
            self._reporter.note(observed)

    def _report(self, settings: Settings) -> None:
        near, wanted = self._near, settings.tls_reports
        if wanted.send and self._reporter is None:
            from lorrainemail.tlspolicy.reporting import TlsReporter, Tools, post_with

            tools = Tools(
                near.reactor,
                near.resolver,
                near.inject,
                post_with(self._fetcher),
                near.in_thread,
                settings.hostname,
                settings.state,
            )
            self._reporter = TlsReporter(tools)
            self._reporter.setServiceParent(self)  # type: ignore[no-untyped-call]
        if self._reporter is not None:
            self._reporter.active = wanted.send
        if wanted.mailbox and self._reader is None:
            from lorrainemail.tlspolicy.report_mail import report_reader

            self._reader = report_reader(
                wanted.mailbox,
                near.store,
                near.tables,
                near.in_thread,
                near.reactor,
                settings.state,
                settings.hostname,
                wanted.keep,
            )
            self._reader.setServiceParent(self)  # type: ignore[no-untyped-call]
        if self._reader is not None:
            self._reader.account, self._reader.keep = wanted.mailbox, wanted.keep


def policies_of(
    settings: Settings,
    reactor: Any,
    resolver: Resolver,
    fetcher: Callable[[], Any],
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
) -> TlsPolicies:
    """The same for a dry run: nothing is kept."""
    cache = StsCache(settings.state)
    sts = StsPolicies(resolver, fetch_with(fetcher), cache, in_thread, reactor, read_only=True)
    wanted = settings.outgoing_tls
    return TlsPolicies(
        sts if wanted.mta_sts else None, Dane(resolver, settings.dns.ipv6) if wanted.dane else None
    )
