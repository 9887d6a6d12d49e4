"""The couriers beside those for mailboxes and other servers: LMTP, commands, files, and plugins'.

Composed by :mod:`lorrainemail.service`, which hands them to the queue's runner. They are there whether a row
names them or not, for what is queued may; idle ones cost nothing. A row that names a courier nobody provides
is a ConfigurationError, at start and at a reload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

import lorrainemail.plugins
from lorrainemail.config.model import Settings
from lorrainemail.delivery.agents import AgentCourier, plugin_agents
from lorrainemail.delivery.files import FileAgent
from lorrainemail.delivery.helped import Helper
from lorrainemail.delivery.hops import NextHops, OurEnds, find_hops
from lorrainemail.delivery.lmtp import LmtpAgent, LmtpSessions
from lorrainemail.delivery.pipe import Limits, PipeAgent
from lorrainemail.interfaces import AgentResources, IAgent, IClientTls, IResolver, ITableService, Route
from lorrainemail.ops.committer import Committer
from lorrainemail.store.locks import FileLocks
from lorrainemail.tables.rules import Rules


class Couriers:
    """All of them, as the configuration has them.

    :param ours: how our own LMTP door is recognised.
    :param spill: where messages lie for commands.
    :ivar couriers: for the runner.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        tables: ITableService,
        resolver: IResolver,
        client_tls: IClientTls,
        committer: Committer,
        locks: FileLocks,
        ours: OurEnds,
        spill: str,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._tables = tables
        self._resolver = resolver
        self._ours = ours
        self._resources = AgentResources(reactor, settings.hostname, in_thread)
        self._lmtp = LmtpAgent(
            LmtpSessions(reactor, settings.hostname, client_tls, committer.run), self._find
        )
        self._pipe = PipeAgent(reactor, committer.run, spill)
        self._file = FileAgent(committer, locks, settings.hostname, ())
        agents: list[IAgent] = [self._lmtp, self._pipe, self._file]
        self.couriers = [AgentCourier(agent, tables) for agent in agents]
        self._plugins: set[str] = set()
        self.reconfigure(settings, self.added(settings))

    def added(self, settings: Settings) -> list[IAgent]:
        """The plugins' agents that rows name and that are not there yet.

        :raises ConfigurationError: where a row names a courier that nobody provides.
        """
        found = plugin_agents(Rules.of(settings).deliver.values(), lorrainemail.plugins, self._resources)
        return [agent for agent in found if agent.name not in self._plugins]

    def reconfigure(self, settings: Settings, added: list[IAgent]) -> list[AgentCourier]:
        """Use other settings; the couriers that are new. Cannot fail."""
        self._settings = settings
        commands = settings.commands
        self._pipe.limits = Limits(commands.time, commands.memory, commands.at_once)
        self._pipe.separators = settings.subaddress
        self._pipe.as_user = Helper(self._reactor, commands.helper) if commands.helper else None
        self._file.directories = settings.aliases.file_directories
        new = [AgentCourier(agent, self._tables) for agent in added]
        self._plugins.update(courier.name for courier in new)
        self.couriers += new
        return new

    async def _find(self, route: Route) -> NextHops:
        return await find_hops(route, self._resolver, self._ours, 24, self._settings.dns.ipv6)

    def close(self) -> Deferred[Any]:
        """After the last attempt."""
        return gatherResults([self._lmtp.close(), self._pipe.close()])
