"""The lab's world: a DNS door with two zones, and two complete servers on two loopback addresses.

:class:`World` makes it in a directory of its own and takes it down again; everything in it is the real
thing, composed by :mod:`lorrainemail.service` from a configuration file that a person may read. Only the
names are played: both servers ask the lab's DNS, which knows ``elorac.fr`` and ``bricoleur.com``. What passes
at the DNS door and at an SMTP door can be watched. Called by :mod:`lorrainemail.lab.story` and by integration
tests.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from typing import Any, Final

import attrs
import dns.exception
import dns.message
import dns.rdatatype
from twisted.internet.defer import DeferredList, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import directlyProvides, providedBy

from lorrainemail.addresses import parse_address
from lorrainemail.config.load import FILE_NAME, load, locate
from lorrainemail.dns.responder import Responder
from lorrainemail.dns.server import listen
from lorrainemail.dns.zonefile import load_zones
from lorrainemail.sasl.credentials import hash_password
from lorrainemail.service import Server
from lorrainemail.setup.first_start import prepare
from lorrainemail.setup.ports import BoundPort, bind_all
from lorrainemail.setup.serving import Open
from lorrainemail.setup.state import Owner, Undo, open_state
from lorrainemail.tables.edit import add_account

#: Where the two servers are. Linux has the whole of 127/8; other systems have 127.0.0.1 alone.
ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")

#: Told (who speaks: "C" or "S", octets) of a watched session.
Watcher = Callable[[str, bytes], None]


@attrs.define(slots=True, eq=False)
class House:
    """One of the two: its names, its user, and its server while it runs.

    :ivar ports: by door.
    """

    domain: str
    user: str
    address: str
    state: str
    password: str = attrs.field(factory=lambda: secrets.token_hex(8), repr=False)
    ports: dict[str, int] = attrs.field(factory=dict)
    server: Server | None = None

    @property
    def hostname(self) -> str:
        return f"mail.{self.domain}"

    @property
    def account(self) -> str:
        return f"{self.user}@{self.domain}"

    @property
    def authority(self) -> str:
        """What its clients verify it with."""
        return os.path.join(self.state, "tls", "ca.pem")


class _Watched(ProtocolWrapper):
    """A session whose octets are shown before and after, in clear also under TLS, which begins below it."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.watcher("C", data)
        super().dataReceived(data)  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        self.factory.watcher("S", data)
        super().write(data)  # type: ignore[no-untyped-call]

    def writeSequence(self, data: list[bytes]) -> None:
        self.write(b"".join(data))

    def startTLS(self, context: Any, normal: bool = True) -> None:
        transport: Any = self.transport
        transport.startTLS(context, normal)
        directlyProvides(self, providedBy(transport))


class _Watching(WrappingFactory):
    protocol = _Watched
    noisy = False

    def __init__(self, factory: Any, watcher: Watcher) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.watcher = watcher


class _WatchedServer(Server):
    """A server whose smtp door is watched."""

    watcher: Watcher = staticmethod(lambda who, data: None)

    def open_door(self, port: BoundPort) -> Open:
        opened = super().open_door(port)
        if port.door != "smtp":
            return opened
        watching: Any = _Watching(opened.factory, lambda *seen: self.watcher(*seen))
        return attrs.evolve(opened, factory=watching)


class _WatchedResponder(Responder):
    """A DNS door that says what it was asked and what it answered."""

    watcher: Callable[[str, str, list[str]], None] = staticmethod(lambda name, kind, answers: None)

    def udp(self, wire: bytes, peer: str) -> bytes | None:
        response = super().udp(wire, peer)
        try:
            question = dns.message.from_wire(wire).question[0]
            answered = dns.message.from_wire(response).answer if response else []
        except (dns.exception.DNSException, IndexError):
            return response
        answers = [record.to_text() for rrset in answered for record in rrset]
        name = question.name.to_text(omit_final_dot=True)
        self.watcher(name, dns.rdatatype.to_text(question.rdtype), answers)
        return response


class World:
    """Everything of the lab.

    :param directory: an empty directory, which exists.
    """

    def __init__(self, reactor: Any, directory: str) -> None:
        self.directory = directory
        two = ADDRESSES if _can_bind(ADDRESSES) else ("127.0.0.1", "127.0.0.1")
        self.carole = House("elorac.fr", "carole", two[0], os.path.join(directory, "elorac.fr"))
        self.bob = House("bricoleur.com", "bob", two[1], os.path.join(directory, "bricoleur.com"))
        self.dns_port = 0
        self._reactor = reactor
        self._responder: _WatchedResponder | None = None
        self._dns: tuple[IListeningPort, ...] = ()

    @property
    def houses(self) -> tuple[House, House]:
        return self.carole, self.bob

    def watch_dns(self, watcher: Callable[[str, str, list[str]], None]) -> None:
        """Be told of each question: its name, its type, the answers."""
        assert self._responder is not None
        self._responder.watcher = watcher

    def watch_smtp(self, house: House, watcher: Watcher) -> None:
        """Be told what passes at its smtp door."""
        assert isinstance(house.server, _WatchedServer)
        house.server.watcher = watcher

    # -- start and stop ------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the DNS door, then both servers.

        :raises lorrainemail.setup.failure.StartError: or ConfigurationError, as at any server's start.
        """
        self._start_dns()
        smtp = {house.domain: _free_port(house.address) for house in self.houses}
        for house, other in (self.houses, self.houses[::-1]):
            self._start_house(house, smtp[house.domain], smtp[other.domain])

    def _start_dns(self) -> None:
        files = []
        for house in self.houses:
            files.append(os.path.join(self.directory, f"{house.domain}.zone"))
            with open(files[-1], "w", encoding="ascii") as file:
                file.write(_ZONE.format(domain=house.domain, hostname=house.hostname, address=house.address))
        self._responder = _WatchedResponder(load_zones(files), self._reactor)
        self._dns = listen(self._reactor, self._responder, "127.0.0.1", 0)
        host: Any = self._dns[0].getHost()
        self.dns_port = host.port

    def _start_house(self, house: House, smtp: int, next_smtp: int) -> None:
        owner = Owner()
        with Undo() as undo:
            open_state(house.state, owner, undo)
            with open(os.path.join(house.state, FILE_NAME), "w", encoding="utf-8") as file:
                file.write(
                    _CONFIGURATION.format(
                        house=house, dns=self.dns_port, smtp=smtp, next_smtp=next_smtp, address=house.address
                    )
                )
            located = locate(state=house.state)
            settings = load(located)
            ports = bind_all(settings.listen, house.state, owner, undo, settings.file)
            prepare(settings, located, owner, undo, (house.address,))
            add_account(
                house.state, parse_address(house.account), [hash_password(house.password.encode("ascii"))]
            )
            server = _WatchedServer(settings, located, self._reactor, ports)
            undo.keep_all()
        house.ports = {port.door: port.port for port in ports}
        house.server = server
        server.startService()  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """Take everything down; the directory stays."""
        running = [house.server for house in self.houses if house.server is not None]
        ends = [maybeDeferred(server.stopService) for server in running]
        await DeferredList(ends, consumeErrors=True)
        await DeferredList([maybeDeferred(_close, port) for port in self._dns], consumeErrors=True)
        self._dns = ()
        for house in self.houses:
            house.server = None


def _close(port: IListeningPort) -> Any:
    return port.stopListening()


def _can_bind(addresses: tuple[str, ...]) -> bool:
    for address in addresses:
        with socket.socket() as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return False
    return True


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


_ZONE: Final = """\
$ORIGIN {domain}.
$TTL 300
@     IN SOA  ns.{domain}. postmaster.{domain}. 1 3600 600 86400 300
@     IN NS   ns.{domain}.
@     IN MX   10 {hostname}.
ns    IN A    127.0.0.1
mail  IN A    {address}
"""

_CONFIGURATION: Final = """\
# The server of {house.domain} in the lab.
hostname = "{house.hostname}"
local_domains = ["{house.domain}"]
state = "."

[listen]
smtp = ['tcp:{smtp}:interface={address}']
submission = ['tcp:0:interface={address}']
submissions = ['tcp:0:interface={address}']
pop3 = ['tcp:0:interface={address}']
pop3s = ['tcp:0:interface={address}']
imap = ['tcp:0:interface={address}']
imaps = ['tcp:0:interface={address}']

# The lab's own DNS; and as its servers do not use port 25, where the other one is.
[dns]
resolvers = ["127.0.0.1:{dns}"]

[queue]
port = {next_smtp}
retry = ["1s", "2s", "5s"]
"""
