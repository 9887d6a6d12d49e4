"""What stands behind each open port, by the name of its door.

:class:`Doorkeeper` is composed by :mod:`lorrainemail.service`, whose parts the doors are made of; it counts
who is connected and hands new settings to the doors that stand. Doors of one name share their counter; the
SMTP doors of one name share everything, but for what loopback may. Doors that few have are loaded when one is
opened.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from lorrainemail.certs.challenges import Kind
from lorrainemail.config.model import Settings
from lorrainemail.control.server import ControlFactory
from lorrainemail.envelope import Door as DoorName
from lorrainemail.errors import STORAGE_FULL, Reply
from lorrainemail.imap.factory import ImapFactory
from lorrainemail.interfaces import IPolicy
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.proxy import ProxyFactory
from lorrainemail.pop3.factory import Pop3Factory
from lorrainemail.setup.ports import BoundPort
from lorrainemail.setup.serving import Open
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.factory import SmtpFactory
from lorrainemail.smtp.settings import DoorSettings

if TYPE_CHECKING:
    from lorrainemail.http.site import Site
    from lorrainemail.managesieve.factory import ManageSieveFactory
    from lorrainemail.managesieve.scripts import ScriptKeeper
    from lorrainemail.service import Server

#: Connections of monitoring systems.
METRICS_CONNECTIONS: Final = 20


class Doorkeeper:
    """All doors of a server.

    :param server: asked for its parts when a door is opened.
    :param ports: those that will be opened: doors name one another to their users.
    :param spill: the directory of what memory does not hold.
    :ivar readers: the doors that users log in at, with their ports.
    """

    def __init__(self, server: Server, reactor: Any, ports: tuple[BoundPort, ...], spill: str) -> None:
        self._server = server
        self._reactor = reactor
        self._ports = ports
        self._names = frozenset(port.door for port in ports)
        self._spill = spill
        self._smtp: dict[tuple[str, bool], Door] = {}
        self._counters: dict[str, ConnectionCounter] = {}
        self._proxies: list[ProxyFactory] = []
        self.readers: list[tuple[Pop3Factory | ImapFactory | ManageSieveFactory, BoundPort]] = []
        self._scripts: ScriptKeeper | None = None
        self._site: Site | None = None

    def open(self, port: BoundPort) -> Open:
        """What serves a port."""
        opened = self._open(port)
        if not port.proxied:
            return opened
        proxy = ProxyFactory(opened.factory, self._reactor, self._server.settings.proxy_networks)
        self._proxies.append(proxy)
        return Open(port, cast(Any, proxy), opened.close, opened.datagrams)

    def use(self, new: Settings, policy: IPolicy) -> None:
        """Other settings, for what begins from now on."""
        for (name, loopback), door in self._smtp.items():
            door.settings = _door_settings(new, cast(DoorName, name), loopback, self._spill)
            door.policy = policy
        for counter in self._counters.values():
            counter.total, counter.per_peer = new.limits.connections, new.limits.connections_per_peer
        for proxy in self._proxies:
            proxy.listed(new.proxy_networks)
        for reader, port in self.readers:
            reader.plaintext = _plaintext(new, port.loopback)
            if isinstance(reader, ImapFactory):
                reader.message_size = new.limits.message_size

    def end_logins(self) -> None:
        """The accounts may be others now: who would not be let in any more is not served on."""
        may_stay = self._server.logins.may_stay
        for door in (*self._smtp.values(), *(reader for reader, _ in self.readers)):
            door.end_logins(may_stay)

    def connections(self) -> dict[str, int]:
        """Open ones by door."""
        connections = {name: counter.open for name, counter in self._counters.items()}
        for (name, _), door in self._smtp.items():
            connections[name] = connections.get(name, 0) + door.connections.open
        return connections

    def ways_to_prove(self) -> list[Kind]:
        """How an authority can see, with the doors that are open, that a name is ours."""
        open_ways: dict[Kind, bool] = {
            "http-01": "http" in self._names,
            "tls-alpn-01": "https" in self._names,
            "dns-01": self._server.challenges.dns is not None,
        }
        return [way for way, possible in open_ways.items() if possible]

    def _open(self, port: BoundPort) -> Open:
        server, name = self._server, port.door
        if name == "control":
            return Open(port, ControlFactory(server.commands, self._reactor))
        if name == "dns":
            from lorrainemail.dns.server import DnsDatagrams, DnsFactory

            datagrams = DnsDatagrams(server.responder)
            return Open(port, DnsFactory(server.responder, self._reactor), datagrams=datagrams)
        if name in ("http", "https"):
            return self._http(port)
        if name == "metrics":
            return self._metrics(port)
        if name in ("pop3", "pop3s", "imap", "imaps", "managesieve"):
            reader = self._reader(name, _plaintext(server.settings, port.loopback))
            self.readers.append((reader, port))
            return Open(port, self._maybe_tls(name, reader), reader.close_sessions)
        door = self._smtp.get((name, port.loopback))
        if door is None:
            door = self._smtp[name, port.loopback] = self._smtp_door(cast(DoorName, name), port.loopback)
        return Open(port, self._maybe_tls(name, SmtpFactory(door)), door.shut_down)

    def _maybe_tls(self, name: str, factory: Factory) -> Any:
        """Doors whose name ends in "s" speak TLS at once."""
        if name not in ("submissions", "pop3s", "imaps", "https"):
            return factory
        context: Any = self._server.server_tls.context_factory(name)
        return TLSMemoryBIOFactory(context, False, factory, self._reactor)

    def _counter(self, name: str, logins: bool = True) -> ConnectionCounter:
        """Who is connected at a door.

        :param logins: users log in there, so that it refuses who is banned.
        """
        counter = self._counters.get(name)
        if counter is None:
            limits = self._server.settings.limits
            counter = ConnectionCounter(limits.connections, limits.connections_per_peer)
            if logins:
                counter.banned = partial(self._server.logins.bans.refuses, logins=True)
            self._counters[name] = counter
        return counter

    def _smtp_door(self, name: DoorName, loopback: bool) -> Door:
        server = self._server
        starttls = None if name in ("submissions", "local") else server.server_tls.context_factory(name)
        door = Door(
            _door_settings(server.settings, name, loopback, self._spill),
            self._reactor,
            server.tables,
            server.policy,
            server.store.may_accept,
            server.intake,
            server.trace,
            starttls,
            server.authenticator,
            self._room,
            sign=server.signer.sign,
            hold=server.future.hold,
        )
        door.connections.banned = partial(server.logins.bans.refuses, logins=name != "smtp")
        return door

    def _room(self, octets: int) -> Reply | None:
        """Whether a message of that size may be begun."""
        queue, committer = self._server.queue, self._server.committer
        if queue.count >= queue.capacity or committer.writable(octets) is not None:
            return STORAGE_FULL
        return None

    def _reader(self, name: str, plaintext: bool) -> Pop3Factory | ImapFactory | ManageSieveFactory:
        server, counter = self._server, self._counter(name)
        if name == "managesieve":
            return self._managesieve(counter, plaintext)
        if name in ("pop3", "pop3s"):
            secure: Literal["pop3", "pop3s"] = "pop3s" if name == "pop3s" else "pop3"
            return Pop3Factory(
                secure, server.authenticator, self._reactor, counter, server.server_tls, plaintext
            )
        imap = ImapFactory(
            "imaps" if name == "imaps" else "imap",
            server.authenticator,
            self._reactor,
            counter,
            server.in_thread,
            self._spill,
            server.settings.limits.message_size,
            server.server_tls,
            plaintext,
            server.settings.hostname,
            server.mailbox_scripts,
        )
        if "managesieve" in self._names:
            imap.sieve_host = server.settings.hostname
        return imap

    def _managesieve(self, counter: ConnectionCounter, plaintext: bool) -> ManageSieveFactory:
        from lorrainemail.managesieve.factory import ManageSieveFactory
        from lorrainemail.managesieve.scripts import ScriptKeeper

        server = self._server
        if self._scripts is None:
            self._scripts = ScriptKeeper(server.scripts, server.in_thread, server.committer.writable)
        return ManageSieveFactory(
            server.authenticator, self._reactor, counter, self._scripts, server.server_tls, plaintext
        )

    def _http(self, port: BoundPort) -> Open:
        from lorrainemail.http.door import HttpFactory

        if self._site is None:
            self._site = self._make_site()
        factory = HttpFactory(
            port.door,
            self._site,
            self._reactor,
            self._counter(port.door, logins=False),
            secure=port.door == "https" or port.loopback,
            strict=lambda: port.door == "https" and self._server.certificates.trusted() is not None,
        )
        return Open(port, self._maybe_tls(port.door, factory), factory.close_sessions)

    def _make_site(self) -> Site:
        from lorrainemail.http.offers import offers
        from lorrainemail.http.site import Site

        server = self._server
        return Site(
            server.settings.hostname,
            server.tables,
            server.policies,
            offers(server.settings.hostname, [(port.door, port.port) for port in self._ports]),
            server.challenges.http,
            self._reactor,
            server.certificates.trusted,
            redirect="https" in self._names,
        )

    def _metrics(self, port: BoundPort) -> Open:
        from lorrainemail.http.door import HttpFactory
        from lorrainemail.http.metrics import MetricsSite

        server = self._server
        site: Any = MetricsSite(
            self.connections,
            server.queue.oldest,
            lambda: server.runner.destinations.waiting,
            lambda: len(server.alarms()),
        )
        counter = ConnectionCounter(METRICS_CONNECTIONS, METRICS_CONNECTIONS)
        factory = HttpFactory(port.door, site, self._reactor, counter, secure=True, strict=lambda: False)
        return Open(port, factory, factory.close_sessions)


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
