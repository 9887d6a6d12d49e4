"""The check ``sender_rates``: how much may come in the name of one domain in an hour, from whatever peers.

Of strangers alone; peer networks and our own accounts have limits of their own. State: one token bucket a
domain, bounded in memory, which outlives a reload; a restart forgives.
"""

from __future__ import annotations

from typing import ClassVar, Final, cast

from zope.interface import implementer

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Action, Circumstances, IPolicyCheck, PolicyResources, Stage, Verdict
from lorrainemail.net.limits import TokenBuckets
from lorrainemail.policy.checks import is_stranger

HOUR: Final = 3600


@implementer(IPolicyCheck)
class SenderRates:
    """Defers a domain that sends more than its limit."""

    name: ClassVar[str] = "sender_rates"

    def __init__(self, resources: PolicyResources, limit: int) -> None:
        self.stages: frozenset[Stage] = frozenset({"mail"})
        buckets = resources.memory.setdefault(self.name, TokenBuckets(resources.clock, 0.0, 0.0))
        self._buckets = cast(TokenBuckets, buckets)
        self._buckets.burst, self._buckets.rate = float(limit), limit / HOUR
        self._limit = limit

    def judge(self, circumstances: Circumstances) -> Verdict | None:
        sender = circumstances.sender
        if sender is None or not is_stranger(circumstances):
            return None
        domain, buckets = sender.domain, self._buckets
        if not buckets.wait(domain) if circumstances.dry_run else buckets.take(domain):
            return None
        words = f"More than {self._limit} messages an hour from {domain}, try again later"
        return Verdict(Action.DEFER, self.name, words, Reply(450, "4.7.1", words))
