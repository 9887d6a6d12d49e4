"""The check ``greylist``: a stranger's first message is deferred once; real servers come again (RFC 6647).

Asked at the final dot, behind ``mailauth``, so that it defers nobody worth waiting for. Spared are:

- mail whose reverse-path SPF or DKIM proved, and what a DNS list of good peers has;
- mail for anybody who had mail from the sender's domain before, or wrote there: what this check has seen
  pass, and what lies in his mailboxes (``PolicyResources.heard_from``). A one-time code from a known sender
  is never late.

All others wait :data:`~lorrainemail.config.model.Policy.greylist_wait` seconds from their first try; the
network (IPv4 /24, IPv6 /64), the sender with what changes in it taken out, and the first recipient are
remembered (:mod:`lorrainemail.policy.acquaintance`). Fails with what the file fails with.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, cast

from twisted.internet.defer import Deferred
from zope.interface import implementer

from lorrainemail.addresses import Address
from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    IPolicyCheck,
    LocalMailbox,
    PolicyResources,
    Stage,
    Verdict,
)
from lorrainemail.net.peers import is_loopback, network_key
from lorrainemail.policy.acquaintance import Acquaintances
from lorrainemail.policy.checks import is_stranger
from lorrainemail.policy.lists import DnsLists

FILE: Final = "policy.sqlite"
#: Accounts and domains of one message that get to know each other.
MAX_KNOWN: Final = 50

_CHANGING = re.compile(r"[0-9]+")


@implementer(IPolicyCheck)
class Greylist:
    """See the module.

    :param wait: seconds.
    """

    name: ClassVar[str] = "greylist"

    def __init__(
        self, resources: PolicyResources, wait: float, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.stages: frozenset[Stage] = frozenset({"data"})
        path = os.path.join(resources.state, FILE)
        self._known = cast(Acquaintances, resources.memory.setdefault(self.name, Acquaintances(path)))
        self._in_thread = resources.in_thread
        self._heard_from = resources.heard_from
        self._wait = wait
        self._wall_clock = wall_clock

    def judge(self, circumstances: Circumstances) -> None | Deferred[Verdict | None]:
        session = circumstances.session
        if circumstances.envelope is None or is_loopback(session.peer):
            return None
        if session.account:
            return None if circumstances.dry_run else Deferred.fromCoroutine(self._sent(circumstances))
        if not is_stranger(circumstances):
            return None
        return Deferred.fromCoroutine(self._judge(circumstances, session.peer))

    async def _sent(self, circumstances: Circumstances) -> None:
        """Whom our users write to may answer at once."""
        assert circumstances.envelope is not None
        recipients = circumstances.envelope.recipients[:MAX_KNOWN]
        domains = sorted({recipient.address.domain for recipient in recipients})
        await self._threaded(
            lambda: self._known.meet([circumstances.session.account], domains, self._wall_clock())
        )

    async def _judge(self, circumstances: Circumstances, peer: str) -> Verdict:
        sender, write = circumstances.sender, not circumstances.dry_run
        accounts = _accounts(circumstances)
        why = await self._spared(circumstances, accounts)
        if not why:
            network, first = network_of(peer), circumstances.accepted[0].recipient.address.key
            left: float = await self._threaded(
                lambda: self._known.waited(
                    network, constant(sender), first, self._wall_clock(), self._wait, write
                )
            )
            if left:
                minutes = int(left // 60) + 1
                words = f"We do not know you yet, try again in {minutes} min"
                return Verdict(Action.DEFER, self.name, words, Reply(451, "4.7.1", words))
            why = "it came again after its first try"
        junk = any(verdict.action is Action.JUNK for verdict in circumstances.earlier)
        if write and sender is not None and accounts and not junk:
            domain = sender.domain
            await self._threaded(lambda: self._known.meet(accounts, [domain], self._wall_clock()))
        return Verdict(Action.CONTINUE, self.name, f"not delayed: {why}")

    async def _spared(self, circumstances: Circumstances, accounts: list[str]) -> str:
        """Why a message need not wait, "" where it must."""
        sender = circumstances.sender
        for verdict in circumstances.earlier:
            if verdict.verified:
                return "its sender is proved"
            if verdict.check == DnsLists.name and "good peers" in verdict.reason:
                return "its peer is on a list of good peers"
        if sender is None:
            return ""
        domain = sender.domain
        if accounts and await self._threaded(lambda: self._known.known(accounts, domain)):
            return f"mail went between {domain} and its recipient before"
        heard_from = self._heard_from
        for account in accounts:
            if heard_from is not None and await heard_from(account, domain):
                return f"{account} has mail from {domain}"
        return ""

    async def _threaded(self, work: Callable[[], Any]) -> Any:
        # Commands have no threads and need not answer anybody meanwhile.
        return work() if self._in_thread is None else await self._in_thread(work)


def network_of(peer: str) -> str:
    """Servers of one operator stand beside each other: /24, or /64."""
    return network_key(peer) if ":" in peer else peer.rpartition(".")[0] + ".0"


def constant(sender: Address | None) -> str:
    """A sender without the parts that change from message to message, "" for the null one."""
    if sender is None:
        return ""
    local = sender.key.rpartition("@")[0]
    return f"{_CHANGING.sub('#', local.partition('+')[0].partition('=')[0])}@{sender.domain}"


def _accounts(circumstances: Circumstances) -> list[str]:
    """The local accounts that a message is for."""
    finals = [final for accepted in circumstances.accepted for final in accepted.expansion.finals]
    keys = [final.account.address.key for final in finals if isinstance(final, LocalMailbox)]
    return list(dict.fromkeys(keys))[:MAX_KNOWN]
