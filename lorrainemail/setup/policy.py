"""The policy chain as the configuration wants it: for the server, and as a dry run for ``explain``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults

from lorrainemail.config.default import asks_dns_about_senders
from lorrainemail.config.model import Settings
from lorrainemail.interfaces import IPolicyPlugin, IResolver, PolicyResources
from lorrainemail.policy.chain import PolicyChain, build_chain
from lorrainemail.setup.places import directories


class Remembered(Service):
    """What checks remember beyond a reload, each under its name; what must outlive the process is written
    down at its end."""

    name = "remembered"

    def __init__(self) -> None:
        self.memory: dict[str, object] = {}

    def stopService(self) -> Deferred[Any]:
        super().stopService()  # type: ignore[no-untyped-call]
        closing = [kept.close() for kept in self.memory.values() if hasattr(kept, "close")]
        return gatherResults([one for one in closing if isinstance(one, Deferred)])


def make_policy(
    settings: Settings,
    reactor: Any,
    resolver: IResolver | None,
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]] | None = None,
    tell_operator: Callable[[str, str], None] | None = None,
    memory: dict[str, object] | None = None,
    heard_from: Callable[[str, str], Deferred[bool]] | None = None,
    reports: Any = None,
) -> PolicyChain:
    """The chain.

    :param in_thread: None for commands, which have no threads.
    :param reports: hears of every DMARC evaluation.
    :raises ConfigurationError: where a check does not exist.
    """
    policy, limits = settings.policy, settings.limits
    resources = PolicyResources(
        reactor,
        resolver if asks_dns_about_senders(settings) else None,
        settings.hostname,
        limits.hops,
        in_thread,
        recipients_per_hour=limits.recipients_per_hour,
        recipients_per_day=limits.recipients_per_day,
        tell_operator=tell_operator,
        memory={} if memory is None else memory,
        state=settings.state,
        block_lists=policy.block_lists,
        pass_lists=policy.pass_lists,
        greylist_wait=policy.greylist_wait,
        messages_per_network=limits.messages_per_network,
        recipients_per_network=limits.recipients_per_network,
        messages_per_domain=limits.messages_per_domain,
        heard_from=heard_from,
        trusted_sealers=frozenset(policy.trusted_sealers),
        forwarders=settings.forwarders,
        reports=reports,
    )
    return build_chain(
        policy.checks,
        resources,
        where=settings.origin("policy", "checks"),
        actions=settings.actions,
        fail_closed=policy.fail_closed,
        filters=_filters(settings, reactor),
    )


def _filters(settings: Settings, reactor: Any) -> Iterable[IPolicyPlugin]:
    if not settings.filters:
        return ()
    from lorrainemail.filters.check import plugins_of  # not needed by most

    return plugins_of(settings.filters, reactor, directories(settings.state).spill)
