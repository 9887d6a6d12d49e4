"""Couriers of the queue that carry mail in steps: start, each recipient, the body, commit or abort.

:class:`AgentCourier` makes a courier of any :class:`~lorrainemail.interfaces.IAgent`, so that an agent need
know nothing of the queue: :mod:`~lorrainemail.delivery.lmtp`, :mod:`~lorrainemail.delivery.pipe`,
:mod:`~lorrainemail.delivery.files`, and those of plugins (:func:`plugin_agents`). The runner is the caller.
What an agent is told comes from the recipient (an alias) or from the row of ``[deliver]`` that holds when it
is tried, so mending the row mends what is queued. Never fails: an agent that raises what it may not is
deferred with an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Final

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.plugin import getPlugins
from zope.interface import implementer

from lorrainemail.addresses import Address
from lorrainemail.errors import INTERNAL_ERROR, ConfigurationError, MailError, PermanentError, Problem, Reply
from lorrainemail.interfaces import (
    AgentResources,
    DeliveryRow,
    IAgent,
    IAgentPlugin,
    IContent,
    ICourier,
    IDelivery,
    IPaced,
    ITableService,
    Outcome,
    Pace,
    QueueItem,
    QueueRecipient,
)

#: The couriers that are there without any plugin.
BUILT_IN: Final = ("lmtp", "pipe", "file", "local", "remote")

_log = Logger("lorrainemail.delivery.agents")


@implementer(ICourier, IPaced)
class AgentCourier:
    """The courier of one agent.

    :param tables: the rows of ``[deliver]``.
    """

    def __init__(self, agent: IAgent, tables: ITableService) -> None:
        self.name = agent.name
        self._agent = agent
        self._tables = tables

    def destination(self, item: QueueItem, recipient: QueueRecipient) -> str:
        return self._agent.destination(recipient, self._told(recipient)[0])

    def pace(self, destination: str) -> Pace:
        paced = IPaced(self._agent, None)
        return Pace() if paced is None else paced.pace(destination)

    def deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        return Deferred.fromCoroutine(self._deliver(item, recipients, content))

    def _told(self, one: QueueRecipient) -> tuple[str, DeliveryRow | None]:
        """The argument, and the row that it comes from."""
        if one.argument:
            return one.argument, None
        row = self._tables.current().delivery(one.recipient.address)
        if row is None or row.courier != self.name:
            return "", None
        return row.argument, row

    async def _deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        groups: dict[tuple[DeliveryRow | None, Address | None], dict[int, str]] = {}
        for index, one in enumerate(recipients):
            argument, row = self._told(one)
            if row is None and not one.argument:
                words = f"no row of [deliver] leads to {self.name} any more"
                outcomes[index] = Outcome(one.recipient, "deferred", Reply(451, "4.3.5", words), ours=True)
                continue
            groups.setdefault((row, one.owner), {})[index] = argument
        for (row, owner), members in groups.items():
            chosen = [recipients[index] for index in members]
            whose = item
            if owner is not None:
                whose = attrs.evolve(item, envelope=attrs.evolve(item.envelope, sender=owner))
            run = _Run(self._agent, whose, row, content)
            found = await run.all(list(zip(chosen, members.values(), strict=True)))
            outcomes.update(zip(members, found, strict=True))
        return [outcomes[index] for index in range(len(recipients))]


@attrs.define(slots=True, eq=False)
class _Run:
    """One delivery of an agent, step by step."""

    agent: IAgent
    item: QueueItem
    row: DeliveryRow | None
    content: IContent

    async def all(self, recipients: list[tuple[QueueRecipient, str]]) -> list[Outcome]:
        taken: list[int] = []
        outcomes: dict[int, Outcome] = {}
        delivery: IDelivery | None = None
        try:
            delivery = await self.agent.start(self.item, self.row)
            for index, (one, argument) in enumerate(recipients):
                try:
                    await delivery.recipient(one, argument)
                    taken.append(index)
                except MailError as error:
                    outcomes[index] = self._failed(one, error)
            if taken:
                await delivery.body(self.content)
                committing, delivery = delivery, None
                replies = await committing.commit()
                for index, reply in zip(taken, replies, strict=True):
                    outcomes[index] = _by(recipients[index][0], reply)
        except CancelledError:
            raise
        except MailError as error:
            for index, (one, _) in enumerate(recipients):
                outcomes.setdefault(index, self._failed(one, error))
        except Exception:
            id = self.item.envelope.id
            _log.failure("the courier {name} failed with {id}", name=self.agent.name, id=id)
            for index, (one, _) in enumerate(recipients):
                outcomes.setdefault(index, Outcome(one.recipient, "deferred", INTERNAL_ERROR, ours=True))
        finally:
            if delivery is not None:
                await delivery.abort()
        return [outcomes[index] for index in range(len(recipients))]

    def _failed(self, one: QueueRecipient, error: MailError) -> Outcome:
        if error.detail:
            _log.info(
                "{id}: {name} for {recipient}: {reply} ({detail})",
                id=self.item.envelope.id,
                name=self.agent.name,
                recipient=str(one.recipient.address),
                reply=str(error.reply),
                detail=error.detail,
            )
        final = isinstance(error, PermanentError)
        # A fault of configuration is a person's business; everything else passes by itself or comes back.
        ours = not final and error.reply.enhanced == "4.3.5"
        return Outcome(one.recipient, "failed" if final else "deferred", error.reply, ours=ours)


def _by(one: QueueRecipient, reply: Reply) -> Outcome:
    if reply.positive:
        return Outcome(one.recipient, "delivered", reply)
    return Outcome(
        one.recipient,
        "failed" if reply.permanent else "deferred",
        reply,
        ours=reply.enhanced == "4.3.5",
    )


def plugin_agents(
    rows: Iterable[DeliveryRow], package: ModuleType, resources: AgentResources
) -> list[IAgent]:
    """The agents of plugins that rows name; fails as :func:`find_plugins`."""
    return [plugin.make(resources) for plugin in find_plugins(rows, package)]


def find_plugins(rows: Iterable[DeliveryRow], package: ModuleType) -> list[IAgentPlugin]:
    """The plugins whose couriers rows name.

    :param package: where plugins are looked for: ``lorrainemail.plugins``.
    :raises ConfigurationError: where a row names a courier that nobody provides.
    """
    wanted = {row.courier: row for row in rows if row.courier not in BUILT_IN or row.courier in _NO_ROWS}
    if not wanted:
        return []
    plugins: dict[str, IAgentPlugin] = {}
    for plugin in getPlugins(IAgentPlugin, package):
        plugins.setdefault(plugin.name, plugin)
    problems = []
    for name, row in wanted.items():
        if name in BUILT_IN or name not in plugins:
            known = ", ".join(sorted({"lmtp", "pipe", "file", *plugins} - _NO_ROWS))
            what = f'deliver."{row.pattern}" names the courier "{name}", which is not there'
            problems.append(Problem(row.origin.file, row.origin.line, what, f"there are: {known}"))
    if problems:
        raise ConfigurationError(tuple(problems))
    return [plugins[name] for name in wanted]


_NO_ROWS: Final = frozenset({"local", "remote"})
