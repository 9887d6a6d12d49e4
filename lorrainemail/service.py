"""The whole server, in the order of a message's way: configuration in, services out.

Read this first. :class:`Server` composes everything that runs; nobody else brings two packages together.
First stands what the way needs (tools, tables, logins, mailboxes, the queue), then the way itself: the doors
that a message comes in by, policy, intake, the queue's runner with its couriers, and the doors that a reader
comes in by. :meth:`Server.reload` takes a changed configuration into it.

Nothing here binds a port or makes a file: ports come bound (:mod:`lorrainemail.setup.ports`), the state
directory is prepared (:mod:`lorrainemail.setup.first_start`). Fails with ConfigurationError. A server may
share its process with others: the lab and the tests run several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

import lorrainemail.plugins
from lorrainemail.addresses import AddressError, parse_address
from lorrainemail.certs.challenges import Challenges
from lorrainemail.certs.renewal import Renewals
from lorrainemail.certs.sources import Sources
from lorrainemail.certs.store import CertificateStore
from lorrainemail.certs.wishes import Surroundings
from lorrainemail.config.load import Located, load
from lorrainemail.config.model import Settings
from lorrainemail.delivery.hops import OurEnds
from lorrainemail.delivery.local import LocalCourier
from lorrainemail.delivery.notices import Notices
from lorrainemail.delivery.remote import RemoteCourier
from lorrainemail.delivery.rewriting import Rewriting
from lorrainemail.delivery.runner import Runner
from lorrainemail.delivery.sessions import Sessions
from lorrainemail.dns.responder import Responder
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.http.mta_sts import Policies
from lorrainemail.intake import Intake
from lorrainemail.interfaces import Account, later
from lorrainemail.mailauth.keys import KeyRing
from lorrainemail.mailauth.signing import Signer
from lorrainemail.net.resolver import Resolver
from lorrainemail.net.tls import ClientTls, ServerTls
from lorrainemail.ops.committer import Committer
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.stall import StallMonitor
from lorrainemail.ops.trace import Trace
from lorrainemail.policy.chain import PolicyChain
from lorrainemail.policy.heard import Heard
from lorrainemail.queue.commands import commands as queue_commands
from lorrainemail.queue.schedule import Schedule
from lorrainemail.queue.spool import Spool
from lorrainemail.setup.checkup import daily_of
from lorrainemail.setup.couriers import Couriers
from lorrainemail.setup.doors import Doorkeeper
from lorrainemail.setup.letters import Letters
from lorrainemail.setup.logins import Logins, prepare_logins
from lorrainemail.setup.outgoing import Outgoing
from lorrainemail.setup.places import directories
from lorrainemail.setup.policy import Remembered, make_policy
from lorrainemail.setup.ports import BoundPort
from lorrainemail.setup.senders import Neighbours, Senders
from lorrainemail.setup.served import challenges_of, served_of
from lorrainemail.setup.serving import Doors, Open, Ordered
from lorrainemail.setup.sts_checks import StsChecks
from lorrainemail.sieve.events import MailboxScripts, Rule
from lorrainemail.sieve.filter import SieveFilter
from lorrainemail.sieve.storage import Scripts
from lorrainemail.smtp.future import FutureRelease
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.shares import Shares
from lorrainemail.tables.archive import Archive
from lorrainemail.tables.backend import find_backend
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.service import TableService
from lorrainemail.transfer.serving import commands as transfer_commands

if TYPE_CHECKING:
    pass

_log = Logger(namespace="lorrainemail")


def make_server(settings: Settings, located: Located, reactor: Any, ports: Sequence[BoundPort]) -> Server:
    """A server that is ready to start.

    :param located: where the configuration is, for a reload.
    :param ports: what it listens at; the doors "control" and "local" are its UNIX sockets.
    :raises ConfigurationError: where tables, certificates, zones or policy cannot be used.
    """
    return Server(settings, located, reactor, ports)


class Server(Ordered):
    """One complete mail server."""

    def __init__(
        self, settings: Settings, located: Located, reactor: Any, ports: Sequence[BoundPort]
    ) -> None:
        super().__init__(reactor)
        self.settings = settings
        self._located = located
        self._reactor = reactor
        self._loopback = tuple(dict.fromkeys(port.host for port in ports if port.loopback))
        places = directories(settings.state)
        self.in_thread = in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())

        # Tools: durable writes, what happened to messages, the DNS, TLS; what people are told.
        self.letters = Letters(settings.hostname, lambda *words: self.intake.inject(*words), reactor.seconds)
        tell_operator = self.letters.tell_operator
        self.committer = Committer(reactor, settings.state, reserve=settings.limits.disk_reserve)
        self.trace = Trace(os.path.join(settings.state, "trace.sqlite"), reactor, settings.trace.keep)
        self.resolver = Resolver(reactor, settings.dns.resolvers, settings.dns.trusted)
        self.server_tls = ServerTls()
        self.certificates = CertificateStore(
            self.server_tls,
            Sources.of(settings, self._loopback),
            reactor,
            tell_operator,
            in_thread,
        )
        self.client_tls = ClientTls(settings.tls.trust)

        # Who is here: tables; logins come with the mailboxes.
        backend = find_backend(settings.tables, lorrainemail.plugins, settings.origin("tables"))
        source = backend.open(settings.state)
        self.tables = TableService(source, Rules.of(settings), reactor, in_thread)

        # Where mail is: mailboxes, the one login to them, and the queue of what must go on.
        self.store = MailStore(reactor, places.mail, self.committer, settings.hostname)
        self.queue = Spool(
            reactor,
            places.queue,
            self.committer,
            self.trace,
            _schedule(settings),
            settings.limits.queue_messages,
            keep_history=settings.queue.history,
            history_size=settings.queue.history_size,
        )
        self.shares = Shares(self.store.home, self._account, self.store.registry)
        self.logins = Logins(settings, reactor, self.tables, self.shares.home, in_thread)
        self.authenticator = self.logins.authenticator
        self.server_tls.ask_clients = self.logins.ask_clients

        # The way in: policy at each verb, intake at the final dot.
        self._remembered = Remembered()
        neighbours = Neighbours(
            reactor,
            self.resolver,
            in_thread,
            lambda *words: self.intake.inject(*words),
            self.store,
            self.tables.current,
            tell_operator,
        )
        self.senders = Senders(settings, neighbours)
        self.policy = self._policy(settings)
        self.signer = Signer(KeyRing(settings.state), in_thread)
        self.scripts = Scripts(places.mail, os.path.join(settings.state, "sieve"))
        self.filter = SieveFilter(reactor, self.scripts, self.store, in_thread, settings.hostname)
        self.filter.separators = settings.subaddress
        self.intake = Intake(
            reactor,
            self.store,
            self.queue,
            self.tables,
            self.trace,
            settings.hostname,
            settings.policy.hide_submitter,
            self.filter,
            self.signer.sign,
        )
        self.store.filling = self.letters.warn_of_quota
        self.mailbox_scripts = MailboxScripts(
            self.scripts,
            self.store,
            self.filter,
            self.intake.inject,
            self.intake.redirect,
            self.tables.current,
            in_thread,
            settings.hostname,
            reactor.seconds,
            Rule.of(settings.mailbox_scripts),
        )

        self.intake.seal_with(self.senders.seal)

        # The way on: what is queued goes to its courier when it is due.
        sessions = Sessions(reactor, settings.hostname, self.client_tls, self.committer.run, places.spill)
        self.couriers = Couriers(
            settings,
            reactor,
            self.tables,
            self.resolver,
            self.client_tls,
            self.committer,
            self.store.locks,
            OurEnds(settings.hostname, tuple((p.host, p.port) for p in ports if p.door == "lmtp")),
            places.spill,
            in_thread,
        )
        ends = OurEnds(settings.hostname, tuple((p.host, p.port) for p in ports if p.door == "smtp"))
        self.remote = RemoteCourier(
            self.tables, self.resolver, sessions, ends, settings.queue.port, settings.dns.ipv6
        )
        self.remote.sign = self.signer.sign
        self.outgoing = Outgoing(settings, neighbours, self.resolver, self._fetcher)
        sessions.observe = self.outgoing.observe
        self.remote.policies = self.outgoing.policies
        self._copy_and_rewrite(settings)
        self.future = FutureRelease(
            reactor,
            self.tables,
            lambda: self.policy,
            self.store.may_accept,
            self.intake,
            self.queue,
            self.trace,
            settings.hostname,
            self.committer.run,
            places.spill,
            lambda: self.settings.policy.hide_submitter,
        )
        self.runner = Runner(
            reactor,
            self.queue,
            [LocalCourier(self.store, self.tables), self.remote, self.future, *self.couriers.couriers],
            Notices(self.intake, settings.hostname, Content, new_id, self.committer.run, self.trace),
            self.trace,
            settings.queue.concurrency,
            settings.queue.per_destination,
            lambda: gatherResults([self.remote.close(), self.couriers.close()]).addCallback(_nothing),
        )

        # The doors, each by its name: mail comes in by SMTP, readers by POP3 and IMAP; programs that look for
        # us, and those who prove that a name is ours, by HTTP.
        self.policies = Policies(settings)
        self.challenges = Challenges(self.server_tls)
        self.keeper = Doorkeeper(self, reactor, tuple(ports), places.spill)
        self.renewals = Renewals(
            settings.acme,
            settings.state,
            Surroundings(
                settings.hostname,
                self._local_domains,
                self.keeper.ways_to_prove,
                any(port.door == "https" for port in ports),
                self.tables.secret,
            ),
            self.certificates,
            self.challenges,
            self.resolver,
            reactor,
            tell_operator,
            in_thread,
        )
        self.tables.on_change(self.renewals.forget_wanted)
        self.sts_checks = StsChecks(
            self.policies,
            lambda: self._local_domains() if any(port.door == "https" for port in ports) else [],
            self.resolver,
            self._fetcher,
            self.certificates,
            reactor,
            tell_operator,
            in_thread,
        )
        self.responder = Responder(self.senders.zones(settings.dns.zones), reactor)
        self.served = served_of(self, reactor, in_thread)
        self.challenges.dns = challenges_of(self, reactor)
        self.senders.serve_keys_at(self.responder)
        self.commands: dict[str, Callable[..., Any]] = {
            "reload": self.reload,
            "status": self.status,
            "certificate.list": self._list_certificates,
            "certificate.renew": self.renewals.renew,
            "trace.flush": self.trace.flush,
            **self.logins.commands(),
            **queue_commands(self.queue, self.runner),
            **transfer_commands(self.store, self._account, places.spill),
        }
        self.doors = Doors(reactor, [self.open_door(port) for port in ports])
        self.tables.on_change(self.keeper.end_logins)
        self.doctor = daily_of(self, reactor, in_thread)

        for service in (
            StallMonitor(reactor),
            self.committer,
            self.trace,
            self.tables,
            self.logins,
            self.store,
            self.queue,
            self._remembered,
            self.intake,
            self.senders,
            self.outgoing,
            self.runner,
            self.certificates,
            self.doctor,
            self.served,
            self.doors,
            self.renewals,
            self.sts_checks,
        ):
            service.setServiceParent(self)  # type: ignore[no-untyped-call]

    def open_door(self, port: BoundPort) -> Open:
        """What serves a port. The lab listens in here."""
        return self.keeper.open(port)

    # -- what the parts ask of one another ----------------------------------------------------------------

    def _local_domains(self) -> list[str]:
        """Of the configuration and of the tables, where these can name them at once."""
        snapshot = self.tables.current()
        rows = [*snapshot.rules.domains.values(), *snapshot.tables.domains.domains()]
        return list(dict.fromkeys(row.name for row in rows if row.kind == "local"))

    def _fetcher(self) -> Any:
        """What fetches by HTTPS as others would; made when it is wanted."""
        from lorrainemail.certs.fetch import Fetcher

        return Fetcher(self._reactor, self.client_tls, self.resolver)

    def _list_certificates(self) -> dict[str, Any]:
        """What ``lorrainemail certificate list`` shows."""
        return {"certificates": self.certificates.describe(), "acme": self.renewals.describe()}

    def _policy(self, settings: Settings) -> PolicyChain:
        heard = Heard(self.store, lambda: self.tables.current())
        return make_policy(
            settings,
            self._reactor,
            self.resolver,
            self.in_thread,
            self.letters.tell_operator,
            self._remembered.memory,
            heard.heard_from,
            self.senders.reports(settings),
        )

    async def _account(self, key: str) -> Account | None:
        """The account of a folded address."""
        try:
            address = parse_address(key)
        except AddressError:
            return None
        return await later(self.tables.current().account(address))

    # -- while running -------------------------------------------------------------------------------

    def reload(self) -> Deferred[dict[str, Any]]:
        """Take the configuration anew: whole, or, where anything in it is wrong, not at all.

        :returns: Deferred of ``{"needs_restart": [...]}``: settings that keep their old value until then.
            Fails with ConfigurationError.
        """
        done: Deferred[dict[str, Any]] = Deferred.fromCoroutine(self._reload())
        return done

    async def _reload(self) -> dict[str, Any]:
        old = self.settings
        try:
            new = load(self._located)
            # "state" was read with the location: a file that names another one is not asked yet.
            kept = {name: getattr(old, name) for name in ("state", "hostname", "listen", "tables")}
            waiting = [name for name, value in kept.items() if getattr(new, name) != value]
            new = attrs.evolve(new, **kept)
            policy = self._policy(new)
            zones = self.senders.zones(new.dns.zones)
            served = await self.served.prepared(new)
            client_tls = ClientTls(new.tls.trust)
            agents = self.couriers.added(new)
            login_parts = prepare_logins(new, self._reactor, self.tables)
            sources = Sources.of(new, self._loopback)
            self.certificates.use(sources, self.certificates.prepare(sources))
        except ConfigurationError as error:
            for problem in error.problems:
                _log.error("The configuration was not reloaded: {problem}", problem=str(problem))
            raise
        except OSError as error:
            _log.error("The configuration was not reloaded: {error}", error=str(error))
            raise
        self._use(new, policy, client_tls)
        self.runner.adopt(self.couriers.reconfigure(new, agents))
        self.logins.reconfigure(new, login_parts)
        self.server_tls.ask_clients = self.logins.ask_clients
        self.responder.zones = zones
        self.served.use(served)
        self.challenges.dns = challenges_of(self, self._reactor)
        await self.tables.reload(Rules.of(new))
        for name in waiting:
            _log.warn("The configuration's {name} has changed; that needs a restart", name=name)
        _log.info("The configuration was reloaded")
        return {"needs_restart": waiting}

    def _use(self, new: Settings, policy: PolicyChain, client_tls: ClientTls) -> None:
        """Hand the new values to the parts; nothing of this can fail."""
        self.settings, self.policy = new, policy
        self.policies.settings = new
        self.renewals.settings = new.acme
        self.renewals.forget_wanted()
        limits = new.limits
        self.client_tls.take(client_tls)
        self.resolver.reload(new.dns.resolvers, new.dns.trusted)
        self.committer.reserve = limits.disk_reserve
        self.trace.keep = new.trace.keep
        self.queue.reconfigure(
            _schedule(new), limits.queue_messages, new.queue.history, new.queue.history_size
        )
        self.runner.reconfigure(new.queue.concurrency, new.queue.per_destination)
        self.remote.port = new.queue.port
        self.remote.ipv6 = new.dns.ipv6 and not self.doctor.without_ipv6
        self._copy_and_rewrite(new)
        self.intake.reconfigure(new.policy.hide_submitter)
        self.senders.use(new)
        self.outgoing.use(new)
        self.intake.seal_with(self.senders.seal)
        self.filter.separators = new.subaddress
        self.mailbox_scripts.rules = Rule.of(new.mailbox_scripts)
        self.keeper.use(new, policy)

    def _copy_and_rewrite(self, settings: Settings) -> None:
        self.intake.archive = Archive(settings.archive) if settings.archive else None
        self.remote.rewriting = Rewriting(settings.rewrite)

    def status(self) -> dict[str, Any]:
        """What ``lorrainemail status`` shows."""
        return {
            "pid": os.getpid(),
            "version": lorrainemail.__version__,
            "hostname": self.settings.hostname,
            "configuration": self._located.file,
            "state": self.settings.state,
            "connections": self.keeper.connections(),
            "queued": self.queue.count,
            "certificate_ends": self.server_tls.expires().isoformat(),
            "certificates": self.certificates.describe(),
            "alarms": [str(alarm) for alarm in self.alarms()],
        }

    def alarms(self) -> list[Problem]:
        """What the operator should see to, of every part."""
        watched = (
            self.tables,
            self.logins,
            self.committer,
            self.trace,
            self.runner,
            self.certificates,
            self.renewals,
            self.served,
        )
        return [alarm for part in watched for alarm in part.alarms()]


def _nothing(_: object) -> None:
    return None


def _schedule(settings: Settings) -> Schedule:
    return Schedule(settings.queue.retry, settings.queue.expire, settings.queue.delay_notice)
