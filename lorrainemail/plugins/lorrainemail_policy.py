"""The built-in checks of the policy chain, as Twisted plugins."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from twisted.plugin import IPlugin
from zope.interface import implementer

from lorrainemail.interfaces import IPolicyCheck, IPolicyPlugin, PolicyResources
from lorrainemail.policy.checks import Helo, Limits, Loops, SenderDomain
from lorrainemail.policy.early import EarlyTalker
from lorrainemail.policy.greylist import Greylist
from lorrainemail.policy.lists import DnsLists
from lorrainemail.policy.names import HeloName, ReverseName
from lorrainemail.policy.rates import SenderRates
from lorrainemail.policy.senders import AccountLimits


@implementer(IPlugin, IPolicyPlugin)
@attrs.frozen
class BuiltIn:
    """A check of ours; see :class:`~lorrainemail.interfaces.IPolicyPlugin`."""

    name: str
    _make: Callable[[PolicyResources], IPolicyCheck | None]
    timeout: float = 30.0
    fail_open: bool = True
    usual: str = ""

    def make(self, resources: PolicyResources) -> IPolicyCheck | None:
        return self._make(resources)


limits = BuiltIn("limits", Limits)
early_talker = BuiltIn("early_talker", EarlyTalker)
account_limits = BuiltIn("account_limits", AccountLimits)
helo = BuiltIn("helo", lambda resources: Helo(resources.hostname))
sender_domain = BuiltIn(
    "sender_domain", lambda resources: SenderDomain(resources.resolver) if resources.resolver else None
)
loops = BuiltIn("loops", lambda resources: Loops(resources.hops))
dns_lists = BuiltIn(
    "dns_lists",
    lambda resources: (
        DnsLists(resources, resources.resolver)
        if resources.resolver and (resources.block_lists or resources.pass_lists)
        else None
    ),
    timeout=20.0,
)
reverse_name = BuiltIn(
    "reverse_name",
    lambda resources: ReverseName(resources.resolver) if resources.resolver else None,
    usual="off",
)
helo_name = BuiltIn(
    "helo_name", lambda resources: HeloName(resources.resolver) if resources.resolver else None, usual="off"
)
sender_rates = BuiltIn(
    "sender_rates",
    lambda resources: (
        SenderRates(resources, resources.messages_per_domain) if resources.messages_per_domain else None
    ),
)
greylist = BuiltIn(
    "greylist",
    lambda resources: Greylist(resources, resources.greylist_wait) if resources.state else None,
    timeout=20.0,
    usual="off",
)
