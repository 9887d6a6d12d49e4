"""The check ``dns_lists``: peers that DNS lists call bad, but for those that others call good (RFC 5782).

Asked at MAIL, of strangers; all lists at the same time. The resolver remembers answers for as long as the
list says. What a list is worth is found out by itself:

- only answers in 127/8 count, and of these neither 127.255.255.x, by which lists say that they do not want
  the question, nor 127.0.0.1; where the configuration names answers, those alone;
- a list that says the same of 127.0.0.1, which no list may have (RFC 5782 §5), answers yes to everything: it
  is not believed, and looked at again after an hour;
- a list that gave no answer within :data:`PATIENCE` three times is not asked for some minutes.

Where none of the block lists could be asked the check fails, and ``fail_closed`` says what that means.
"""

from __future__ import annotations

import ipaddress
import re
from typing import ClassVar, Final, cast

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    DnsFailure,
    IPolicyCheck,
    IResolver,
    PolicyResources,
    Stage,
    Verdict,
)
from lorrainemail.net.peers import is_loopback
from lorrainemail.ops.metrics import Counter
from lorrainemail.policy.chain import CHECK_FAILED
from lorrainemail.policy.checks import is_stranger

#: Seconds for one list.
PATIENCE: Final = 6.0
#: Silences in a row after which a list is left alone, and for how many seconds.
MAX_SILENCES: Final = 3
REST: Final = 300.0
#: Seconds after which it is looked at again whether a list tells the truth.
REVIEW: Final = 3600.0
#: Lists that are used of a long list.
MAX_LISTS: Final = 20
#: Characters of a list's own words that are passed on.
MAX_WORDS: Final = 200

_ANSWERS = re.compile(r"(127\.[0-9]+\.[0-9]+)\.([0-9]+)(?:-([0-9]+))?\Z")
_REFUSES: Final = "127.255.255."
_NOBODY: Final = "127.0.0.1"

_log = Logger(namespace="lorrainemail.policy")
_ASKED = Counter("lorrainemail_dns_lists", "Questions to DNS lists", ["list", "answer"])


@attrs.define(slots=True, eq=False)
class DnsList:
    """One list and what was found out about it.

    :ivar net: the first three octets of the answers that count, "" for any; ``first`` to ``last`` their last.
    :ivar silences: in a row. ``rests_until`` it is not asked. ``reviewed``: when it last told the truth.
    """

    zone: str
    net: str = ""
    first: int = 0
    last: int = 255
    silences: int = 0
    rests_until: float = 0.0
    reviewed: float = -REVIEW

    def counts(self, answer: str) -> bool:
        """Whether an address that it answered with means that it lists the peer."""
        net, _, last = answer.rpartition(".")
        if not answer.startswith("127.") or answer.startswith(_REFUSES) or answer == _NOBODY:
            return False
        return not self.net or (net == self.net and self.first <= int(last) <= self.last)


def parse_list(text: str) -> DnsList:
    """``zone`` or ``zone=127.0.0.2-11``, as the configuration has checked it."""
    zone, _, answers = text.partition("=")
    match = _ANSWERS.match(answers)
    if match is None:
        return DnsList(zone)
    return DnsList(zone, match[1], int(match[2]), int(match[3] or match[2]))


def question(peer: str, zone: str) -> str:
    """The name to ask for (RFC 5782 §2.1, §2.4)."""
    reverse = ipaddress.ip_address(peer).reverse_pointer
    return f"{reverse.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{zone}"


@implementer(IPolicyCheck)
class DnsLists:
    """See the module."""

    name: ClassVar[str] = "dns_lists"

    def __init__(self, resources: PolicyResources, resolver: IResolver) -> None:
        self.stages: frozenset[Stage] = frozenset({"mail"})
        self._clock: IReactorTime = resources.clock
        self._resolver = resolver
        known = cast("dict[str, DnsList]", resources.memory.setdefault(self.name, {}))

        def held(texts: tuple[str, ...]) -> list[DnsList]:
            return [known.setdefault(text, parse_list(text)) for text in texts[:MAX_LISTS]]

        self._block = held(resources.block_lists)
        self._pass = held(resources.pass_lists)

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        peer = circumstances.session.peer
        if not peer or is_loopback(peer) or not is_stranger(circumstances):
            return None
        return Deferred.fromCoroutine(self._judge(peer))

    async def _judge(self, peer: str) -> Verdict | None:
        asked = [(one, Deferred.fromCoroutine(self._ask(one, peer))) for one in (*self._pass, *self._block)]
        answers = [(one, await answer) for one, answer in asked]
        good = next((one for one, answer in answers[: len(self._pass)] if answer), None)
        if good is not None:
            return Verdict(Action.CONTINUE, self.name, f"{peer} is on the list of good peers {good.zone}")
        bad = [one for one, answer in answers[len(self._pass) :] if answer]
        if not bad:
            if self._block and all(answer is None for _, answer in answers[len(self._pass) :]):
                raise TemporaryError(CHECK_FAILED, "no DNS list answers")
            return None
        zones = ", ".join(one.zone for one in bad)
        words = await self._words(bad[0], peer)
        reply = Reply(550, "5.7.1", f"{peer} is listed by {zones}{f': {words}' if words else ''}")
        return Verdict(Action.REFUSE, self.name, reply.text, reply)

    async def _ask(self, one: DnsList, peer: str) -> bool | None:
        """Whether the list has the peer; None where it gives no answer that is worth anything."""
        now = self._clock.seconds()
        if now < one.rests_until:
            _ASKED.labels(one.zone, "not asked").inc()
            return None
        try:
            listed = await self._listed(one, peer)
            if listed and now - one.reviewed >= REVIEW:
                if await self._listed(one, _NOBODY):
                    one.rests_until = now + REVIEW
                    _log.warn("The DNS list {zone} lists everybody; it is not believed", zone=one.zone)
                    _ASKED.labels(one.zone, "lies").inc()
                    return None
                one.reviewed = now
        except (DnsFailure, TimeoutError):
            one.silences += 1
            if one.silences >= MAX_SILENCES:
                one.silences, one.rests_until = 0, now + REST
                _log.warn("The DNS list {zone} does not answer; it is left alone for a while", zone=one.zone)
            _ASKED.labels(one.zone, "silence").inc()
            return None
        one.silences = 0
        _ASKED.labels(one.zone, "listed" if listed else "not listed").inc()
        return listed

    async def _listed(self, one: DnsList, peer: str) -> bool:
        """:raises DnsFailure, TimeoutError: where there is no answer."""
        asked = self._resolver.addresses(question(peer, one.zone), ipv6=False)
        try:
            return any(one.counts(answer) for answer in await asked.addTimeout(PATIENCE, self._clock))
        except DnsFailure as failure:
            if failure.kind == "temporary":
                raise
            return False

    async def _words(self, one: DnsList, peer: str) -> str:
        """Why, in the list's own words (RFC 5782 §2.1), made harmless; "" where it has none."""
        try:
            asked = self._resolver.txt(question(peer, one.zone))
            texts = await asked.addTimeout(PATIENCE, self._clock)
        except (DnsFailure, TimeoutError):
            return ""
        words = texts[0].decode("ascii", "replace") if texts else ""
        return "".join(c if " " <= c <= "~" else "?" for c in words[:MAX_WORDS])
