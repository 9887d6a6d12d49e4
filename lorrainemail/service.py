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
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

import lorrainemail.plugins
from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.certs.challenges import Challenges, Kind
from lorrainemail.certs.renewal import Renewals
from lorrainemail.certs.sources import Sources
from lorrainemail.certs.store import CertificateStore
from lorrainemail.certs.wishes import Surroundings
from lorrainemail.config.load import Located, load
from lorrainemail.config.model import Settings
from lorrainemail.control.server import ControlFactory
from lorrainemail.delivery.hops import OurEnds
from lorrainemail.delivery.local import LocalCourier
from lorrainemail.delivery.notices import Notices
from lorrainemail.delivery.remote import RemoteCourier
from lorrainemail.delivery.rewriting import Rewriting
from lorrainemail.delivery.runner import Runner
from lorrainemail.delivery.sessions import Sessions
from lorrainemail.dns.responder import Responder
from lorrainemail.dns.server import DnsDatagrams, DnsFactory
from lorrainemail.envelope import Door as DoorName
from lorrainemail.errors import STORAGE_FULL, ConfigurationError, Problem, Reply
from lorrainemail.http.mta_sts import Policies
from lorrainemail.imap.factory import ImapFactory
from lorrainemail.intake import Intake
from lorrainemail.interfaces import Account, later
from lorrainemail.mailauth.keys import KeyRing
from lorrainemail.mailauth.signing import Signer
from lorrainemail.message.note import note
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.proxy import ProxyFactory
from lorrainemail.net.resolver import Resolver
from lorrainemail.net.tls import ClientTls, ServerTls
from lorrainemail.ops.committer import Committer
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.ops.stall import StallMonitor
from lorrainemail.ops.trace import Trace
from lorrainemail.policy.chain import PolicyChain
from lorrainemail.policy.heard import Heard
from lorrainemail.pop3.factory import Pop3Factory
from lorrainemail.queue.commands import commands as queue_commands
from lorrainemail.queue.schedule import Schedule
from lorrainemail.queue.spool import Spool
from lorrainemail.setup.checkup import daily_of
from lorrainemail.setup.couriers import Couriers
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
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.factory import SmtpFactory
from lorrainemail.smtp.future import FutureRelease
from lorrainemail.smtp.settings import DoorSettings
from lorrainemail.store.mailstore import MailStore
from lorrainemail.store.shares import Shares
from lorrainemail.tables.archive import Archive
from lorrainemail.tables.backend import find_backend
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.service import TableService
from lorrainemail.transfer.serving import commands as transfer_commands

if TYPE_CHECKING:
    from lorrainemail.http.site import Site
    from lorrainemail.managesieve.factory import ManageSieveFactory
    from lorrainemail.managesieve.scripts import ScriptKeeper

_log = Logger(namespace="lorrainemail")

#: Connections of monitoring systems.
METRICS_CONNECTIONS = 20


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
        self._in_thread = in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())

        # Tools: durable writes, what happened to messages, the DNS, TLS.
        self.committer = Committer(reactor, settings.state, reserve=settings.limits.disk_reserve)
        self.trace = Trace(os.path.join(settings.state, "trace.sqlite"), reactor, settings.trace.keep)
        self.resolver = Resolver(reactor, settings.dns.resolvers, settings.dns.trusted)
        self.server_tls = ServerTls()
        self.certificates = CertificateStore(
            self.server_tls, Sources.of(settings, self._loopback), reactor, self._tell_operator, in_thread
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
            self._tell_operator,
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
        self.store.filling = self._warn_of_quota
        self.mailbox_scripts = MailboxScripts(
            self.scripts,
            self.store,
            self.filter,
            self.intake.inject,
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
        self._ports = tuple(ports)
        self.policies = Policies(settings)
        self.challenges = Challenges(self.server_tls)
        self.site: Site | None = None
        self.renewals = Renewals(
            settings.acme,
            settings.state,
            Surroundings(
                settings.hostname,
                self._local_domains,
                self._ways_to_prove,
                any(port.door == "https" for port in ports),
                self.tables.secret,
            ),
            self.certificates,
            self.challenges,
            self.resolver,
            reactor,
            self._tell_operator,
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
            self._tell_operator,
            in_thread,
        )
        self._spill = places.spill
        self._smtp: dict[tuple[str, bool], Door] = {}
        self._counters: dict[str, ConnectionCounter] = {}
        self._proxies: list[ProxyFactory] = []
        self._readers: list[tuple[Pop3Factory | ImapFactory | ManageSieveFactory, BoundPort]] = []
        self._script_keeper: ScriptKeeper | None = None
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

    # -- doors ---------------------------------------------------------------------------------------

    def open_door(self, port: BoundPort) -> Open:
        """What serves a port."""
        opened = self._open_door(port)
        if not port.proxied:
            return opened
        proxy = ProxyFactory(opened.factory, self._reactor, self.settings.proxy_networks)
        self._proxies.append(proxy)
        return Open(port, cast(Any, proxy), opened.close, opened.datagrams)

    def _open_door(self, port: BoundPort) -> Open:
        name = port.door
        if name == "control":
            return Open(port, ControlFactory(self.commands, self._reactor))
        if name == "dns":
            return Open(
                port,
                DnsFactory(self.responder, self._reactor),
                datagrams=DnsDatagrams(self.responder),
            )
        if name in ("http", "https"):
            return self._http_door(port)
        if name == "metrics":
            return self._metrics_door(port)
        if name in ("pop3", "pop3s", "imap", "imaps"):
            reader = self._reader(name, _plaintext(self.settings, port.loopback))
            self._readers.append((reader, port))
            return Open(port, self._maybe_tls(name, reader), reader.close_sessions)
        if name == "managesieve":
            return self._managesieve_door(port)
        door = self._smtp.get((name, port.loopback))
        if door is None:
            door = self._smtp[name, port.loopback] = self._smtp_door(cast(DoorName, name), port.loopback)
        return Open(port, self._maybe_tls(name, SmtpFactory(door)), door.shut_down)

    def _maybe_tls(self, name: str, factory: Factory) -> Any:
        """Doors whose name ends in "s" speak TLS at once."""
        if name not in ("submissions", "pop3s", "imaps", "https"):
            return factory
        context: Any = self.server_tls.context_factory(name)
        return TLSMemoryBIOFactory(context, False, factory, self._reactor)

    def _smtp_door(self, name: DoorName, loopback: bool) -> Door:
        starttls = None if name in ("submissions", "local") else self.server_tls.context_factory(name)
        door = Door(
            _door_settings(self.settings, name, loopback, self._spill),
            self._reactor,
            self.tables,
            self.policy,
            self.store.may_accept,
            self.intake,
            self.trace,
            starttls,
            self.authenticator,
            self._room,
            sign=self.signer.sign,
            hold=self.future.hold,
        )
        door.connections.banned = partial(self.logins.bans.refuses, logins=name != "smtp")
        return door

    def _counter(self, name: str) -> ConnectionCounter:
        """Who is connected at a door where users log in."""
        counter = self._counters.get(name)
        if counter is None:
            limits = self.settings.limits
            counter = ConnectionCounter(limits.connections, limits.connections_per_peer)
            counter.banned = partial(self.logins.bans.refuses, logins=True)
            self._counters[name] = counter
        return counter

    def _managesieve_door(self, port: BoundPort) -> Open:
        from lorrainemail.managesieve.factory import ManageSieveFactory
        from lorrainemail.managesieve.scripts import ScriptKeeper

        if self._script_keeper is None:
            self._script_keeper = ScriptKeeper(self.scripts, self._in_thread, self.committer.writable)
        factory = ManageSieveFactory(
            self.authenticator,
            self._reactor,
            self._counter(port.door),
            self._script_keeper,
            self.server_tls,
            _plaintext(self.settings, port.loopback),
        )
        self._readers.append((factory, port))
        return Open(port, factory, factory.close_sessions)

    def _reader(self, name: str, plaintext: bool) -> Pop3Factory | ImapFactory:
        settings = self.settings
        counter = self._counter(name)
        if name in ("pop3", "pop3s"):
            secure: Literal["pop3", "pop3s"] = "pop3s" if name == "pop3s" else "pop3"
            return Pop3Factory(secure, self.authenticator, self._reactor, counter, self.server_tls, plaintext)
        imap = ImapFactory(
            "imaps" if name == "imaps" else "imap",
            self.authenticator,
            self._reactor,
            counter,
            self._in_thread,
            self._spill,
            settings.limits.message_size,
            self.server_tls,
            plaintext,
            settings.hostname,
            self.mailbox_scripts,
        )
        if any(port.door == "managesieve" for port in self._ports):
            imap.sieve_host = settings.hostname
        return imap

    def _http_door(self, port: BoundPort) -> Open:
        from lorrainemail.http.door import HttpFactory

        if self.site is None:
            self.site = self._make_site()
        counter = self._counters.get(port.door)
        if counter is None:
            limits = self.settings.limits
            counter = ConnectionCounter(limits.connections, limits.connections_per_peer)
            self._counters[port.door] = counter
        factory = HttpFactory(
            port.door,
            self.site,
            self._reactor,
            counter,
            secure=port.door == "https" or port.loopback,
            strict=lambda: port.door == "https" and self.certificates.trusted() is not None,
        )
        return Open(port, self._maybe_tls(port.door, factory), factory.close_sessions)

    def _ways_to_prove(self) -> list[Kind]:
        """How an authority can see, with the doors that are open, that a name is ours."""
        doors = {port.door for port in self._ports}
        open_ways: dict[Kind, bool] = {
            "http-01": "http" in doors,
            "tls-alpn-01": "https" in doors,
            "dns-01": self.challenges.dns is not None,
        }
        return [way for way, possible in open_ways.items() if possible]

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

    def _make_site(self) -> Site:
        from lorrainemail.http.offers import offers
        from lorrainemail.http.site import Site

        open_ports = [(port.door, port.port) for port in self._ports]
        return Site(
            self.settings.hostname,
            self.tables,
            self.policies,
            offers(self.settings.hostname, open_ports),
            self.challenges.http,
            self._reactor,
            self.certificates.trusted,
            redirect=any(door == "https" for door, _ in open_ports),
        )

    def _room(self, octets: int) -> Reply | None:
        """Whether a message of that size may be begun."""
        if self.queue.count >= self.queue.capacity or self.committer.writable(octets) is not None:
            return STORAGE_FULL
        return None

    def _policy(self, settings: Settings) -> PolicyChain:
        heard = Heard(self.store, lambda: self.tables.current())
        return make_policy(
            settings,
            self._reactor,
            self.resolver,
            self._in_thread,
            self._tell_operator,
            self._remembered.memory,
            heard.heard_from,
            self.senders.reports(settings),
        )

    def _tell_operator(self, subject: str, text: str) -> None:
        """A note to the postmaster, like any other mail."""
        words = note(self.settings.hostname, new_id(), subject, text, self._reactor.seconds())
        sent = self.intake.inject(None, [Address("postmaster", "")], Content(words), 1, "")
        sent.addErrback(lambda failure: _log.failure("A note to the postmaster was not kept", failure))

    async def _account(self, key: str) -> Account | None:
        """The account of a folded address."""
        try:
            address = parse_address(key)
        except AddressError:
            return None
        return await later(self.tables.current().account(address))

    def _warn_of_quota(self, account: Account, percent: int) -> None:
        """A note to an account's owner, before mail is refused for him."""
        subject = f"Your mailbox is {percent} % full"
        text = (
            f"The mailbox {account.address} holds more than {percent} % of what it may. When it is full, "
            "mail for it is refused.\n\nDelete messages that are no longer needed, also in Trash and Junk, "
            "or ask the operator of the server for more room.\n"
        )
        now = self._reactor.seconds()
        words = note(self.settings.hostname, new_id(), subject, text, now, str(account.address))
        sent = self.intake.inject(None, [account.address], Content(words), 1, "")
        sent.addErrback(lambda failure: _log.failure("A note about a quota was not kept", failure))

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
        for (name, loopback), door in self._smtp.items():
            door.settings = _door_settings(new, cast(DoorName, name), loopback, self._spill)
            door.policy = policy
        for counter in self._counters.values():
            counter.total, counter.per_peer = limits.connections, limits.connections_per_peer
        for proxy in self._proxies:
            proxy.listed(new.proxy_networks)
        for reader, port in self._readers:
            reader.plaintext = _plaintext(new, port.loopback)
            if isinstance(reader, ImapFactory):
                reader.message_size = limits.message_size

    def _copy_and_rewrite(self, settings: Settings) -> None:
        self.intake.archive = Archive(settings.archive) if settings.archive else None
        self.remote.rewriting = Rewriting(settings.rewrite)

    def _metrics_door(self, port: BoundPort) -> Open:
        from lorrainemail.http.door import HttpFactory
        from lorrainemail.http.metrics import MetricsSite

        site: Any = MetricsSite(
            self._connections,
            self.queue.oldest,
            lambda: self.runner.destinations.waiting,
            lambda: len(self._alarms()),
        )
        counter = ConnectionCounter(METRICS_CONNECTIONS, METRICS_CONNECTIONS)
        factory = HttpFactory(port.door, site, self._reactor, counter, secure=True, strict=lambda: False)
        return Open(port, factory, factory.close_sessions)

    def status(self) -> dict[str, Any]:
        """What ``lorrainemail status`` shows."""
        return {
            "pid": os.getpid(),
            "version": lorrainemail.__version__,
            "hostname": self.settings.hostname,
            "configuration": self._located.file,
            "state": self.settings.state,
            "connections": self._connections(),
            "queued": self.queue.count,
            "certificate_ends": self.server_tls.expires().isoformat(),
            "certificates": self.certificates.describe(),
            "alarms": [str(alarm) for alarm in self._alarms()],
        }

    def _alarms(self) -> list[Problem]:
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

    def _connections(self) -> dict[str, int]:
        """Open ones by door."""
        connections = {name: counter.open for name, counter in self._counters.items()}
        for (name, _), door in self._smtp.items():
            connections[name] = connections.get(name, 0) + door.connections.open
        return connections


def _nothing(_: object) -> None:
    return None


def _schedule(settings: Settings) -> Schedule:
    return Schedule(settings.queue.retry, settings.queue.expire, settings.queue.delay_notice)


def _plaintext(settings: Settings, loopback: bool) -> bool:
    """Whether logins without TLS are allowed on a listener."""
    return loopback and settings.auth.plaintext == "loopback"


def _door_settings(settings: Settings, name: DoorName, loopback: bool, spill: str) -> DoorSettings:
    limits = settings.limits
    login: Literal["no", "offered", "required"]
    if name == "smtp":
        login = "offered" if settings.auth.on_smtp else "no"
    else:
        login = "no" if name in ("lmtp", "local") else "required"
    return DoorSettings(
        name,
        settings.hostname,
        spill,
        login,
        _plaintext(settings, loopback),
        message_size=limits.message_size,
        recipients=limits.recipients,
        connections=limits.connections,
        connections_per_peer=limits.connections_per_peer,
        mend_line_ends=settings.policy.bare_line_ends,
        xclient=settings.xclient_networks,
        xforward=settings.xforward_networks,
        dsn=True,
    )
