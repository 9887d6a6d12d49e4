"""Filters as checks of the policy chain: one for each row of ``[filters]``, asked at the final dot.

Owns what holds for every kind: who is asked about whose mail, the largest message, the time, and what a
filter that does not answer costs: after :data:`MAX_FAILURES` failures in a row it is not asked for
:data:`REST` seconds, and counts as failed meanwhile. A failure is the chain's business (``fail`` of the row).
    Made by
:func:`plugins_of`, from the configuration, for :func:`lorrainemail.policy.chain.build_chain`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.filters.asking import Means, Opinion, Question
from lorrainemail.filters.stream import FilterError
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    IPolicyCheck,
    IPolicyPlugin,
    PolicyResources,
    Stage,
    Verdict,
)
from lorrainemail.message.received import received_field
from lorrainemail.ops.metrics import Counter

#: Failures in a row after which a filter is left alone, and for how many seconds.
MAX_FAILURES: Final = 3
REST: Final = 60.0

_FAILED: Final = Reply(451, "4.7.1", "A filter does not answer, try again later")

_log = Logger("lorrainemail.filters")
_ASKED = Counter("lorrainemail_filters", "Questions to filters", ["filter", "answer"])

Ask = Callable[[Question, Means], Awaitable[Opinion]]


class Row(Protocol):
    """What is needed of a row of the configuration."""

    @property
    def kind(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def timeout(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def fail(self) -> str: ...
    @property
    def mail(self) -> str: ...
    @property
    def modify(self) -> bool: ...


@attrs.define(slots=True, eq=False)
class _Health:
    """Failures in a row, and until when it is left alone."""

    failures: int = 0
    rests_until: float = 0.0


@implementer(IPolicyCheck)
class Filter:
    """One filter.

    :param ask: the client of its protocol.
    """

    def __init__(self, name: str, row: Row, ask: Ask, resources: PolicyResources, means: Means) -> None:
        self.name = name
        self.stages: frozenset[Stage] = frozenset({"data"})
        self._row = row
        self._ask = ask
        self._means = means
        self._hostname = resources.hostname
        self._clock = resources.clock
        health = resources.memory.setdefault(f"filter {name}", _Health())
        assert isinstance(health, _Health)
        self._health = health

    def judge(self, circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        content, envelope, session = circumstances.content, circumstances.envelope, circumstances.session
        if content is None or envelope is None:
            return None
        relay = circumstances.relay
        ours = bool(session.account) or (relay is not None and relay.allowed)
        if self._row.mail not in ("both", "out" if ours else "in"):
            return None
        if content.size > self._row.size:
            return Verdict(Action.CONTINUE, self.name, f"not asked: larger than {self._row.size} octets")
        if circumstances.dry_run and self._row.kind == "milter":
            return Verdict(Action.CONTINUE, self.name, "not asked: it may remember what it sees")
        if self._clock.seconds() < self._health.rests_until:
            raise TemporaryError(_FAILED, "the filter has failed several times and is left alone for a while")
        fields = b"".join(verdict.field for verdict in circumstances.earlier)
        received = received_field(session, envelope, self._hostname, envelope.received_at)
        question = Question(session, envelope, content, self._hostname, fields, received)
        return Deferred.fromCoroutine(self._judge(question, circumstances.dry_run))

    async def _judge(self, question: Question, dry_run: bool) -> Verdict:
        try:
            opinion = await self._ask(question, self._means)
        except (FilterError, CancelledError) as error:
            self._failed(str(error) or "no answer in time")
            if isinstance(error, CancelledError):
                raise
            raise TemporaryError(_FAILED, f"{self.name}: {error}") from None
        self._health.failures = 0
        _ASKED.labels(self.name, opinion.action.name.lower()).inc()
        if dry_run and opinion.content is not None:
            opinion.content.close()
            opinion = attrs.evolve(opinion, content=None)
        return Verdict(
            opinion.action, self.name, opinion.reason, opinion.reply, opinion.field, content=opinion.content
        )

    def _failed(self, why: str) -> None:
        health = self._health
        health.failures += 1
        _ASKED.labels(self.name, "failed").inc()
        if health.failures >= MAX_FAILURES:
            health.failures, health.rests_until = 0, self._clock.seconds() + REST
            _log.error(
                "The filter {name} fails ({why}); it is left alone for {rest} s",
                name=self.name,
                why=why,
                rest=int(REST),
            )


@implementer(IPolicyPlugin)
@attrs.frozen
class FilterPlugin:
    """Makes one :class:`Filter`; the client of its protocol is imported only then."""

    name: str
    _row: Row
    _reactor: Any
    _spill: str

    @property
    def timeout(self) -> float:
        return float(self._row.timeout)

    @property
    def fail_open(self) -> bool:
        return self._row.fail == "open"

    def make(self, resources: PolicyResources) -> Filter:
        row = self._row
        ask: Ask = import_module(f"lorrainemail.filters.{row.kind}").ask
        limit = row.size + 1_000_000
        means = Means(self._reactor, row.address, resources.in_thread, self._spill, limit, row.modify)
        return Filter(self.name, row, ask, resources, means)


def plugins_of(rows: Mapping[str, Row], reactor: Any, spill: str) -> Iterable[FilterPlugin]:
    """One plugin for each row, in order.

    :param spill: where messages that a filter changes are written while they are large.
    """
    return [FilterPlugin(name, row, reactor, spill) for name, row in rows.items()]
