"""The policy check that authenticates senders, as a Twisted plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.plugin import IPlugin
from zope.interface import implementer

from lorrainemail.interfaces import IPolicyPlugin, PolicyResources
from lorrainemail.mailauth.check import MailAuth


@implementer(IPlugin, IPolicyPlugin)
class MailAuthPlugin:
    """Makes :class:`~lorrainemail.mailauth.check.MailAuth` where there is a DNS to ask."""

    name = "mailauth"
    #: SPF and DKIM have 20 seconds, then ARC and DMARC have as many each.
    timeout = 65.0
    fail_open = True

    def make(self, resources: PolicyResources) -> MailAuth | None:
        if resources.resolver is None:
            return None
        return MailAuth(
            resources.resolver,
            resources.clock,
            resources.in_thread or _at_once,
            resources.hostname,
            resources.trusted_sealers,
            resources.forwarders,
            resources.reports,
        )


def _at_once(work: Callable[[], Any]) -> Deferred[Any]:
    """For commands, which have no threads and need not answer anybody meanwhile."""
    return execute(work)


mailauth = MailAuthPlugin()
