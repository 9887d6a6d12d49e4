"""The zones that are delegated to us: made from the configuration, signed, and served by the dns door.

:class:`ServedZones` is composed by :mod:`lorrainemail.service`. A zone of ``[dns] serve`` holds the records
of :mod:`lorrainemail.setup.records` that belong into it, for every local domain, what a zone file of the same
origin adds, and the challenges of ACME while they last (it is
:class:`~lorrainemail.interfaces.IDnsChallenges` for those names). It is made anew when certificates, keys or
domains change (looked at every :data:`LOOK` seconds) and signed anew each day; each hour the parent is asked
for its DS, which moves a roll on (:mod:`lorrainemail.dns.keys`). A zone that cannot be made keeps its last
form, and an alarm is raised. Fails at the start with ConfigurationError.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import attrs
import dns.name
import dns.rdatatype
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.config.model import Settings
from lorrainemail.dns.dkim import risen
from lorrainemail.dns.zonefile import load_zones, parse_zone
from lorrainemail.dns.zones import Zone, Zones
from lorrainemail.errors import ConfigurationError, Problem
from lorrainemail.interfaces import IDnsChallenges
from lorrainemail.setup.records import TTL, Record, facts_of, public_addresses, records_of

#: Seconds between looks whether a zone's records have changed, and between questions for the parent's DS.
LOOK: Final = 60.0
ASK_PARENT: Final = 3600.0
#: Challenges at once.
MAX_CHALLENGES: Final = 1000
#: The other times of a zone (RFC 1912 §2.2); nobody transfers it from us.
_SOA: Final = "3600 600 1209600 300"


@attrs.frozen(slots=True)
class Made:
    """What a zone was last made from: its text (the serial apart), its keys, when it was signed."""

    digest: bytes
    signed: float
    serial: int
    zone: Zone


def zone_text(settings: Settings, origin: str, records: Sequence[Record], serial: int) -> str:
    """A zone file with everything of ours in that zone."""
    servers = settings.dns.name_servers or (settings.hostname,)
    inside = {
        record.zone_line()
        for record in records
        if record.name == origin or record.name.endswith(f".{origin}")
    }
    lines = [
        f"$ORIGIN {origin}.",
        f"@ {TTL} IN SOA {servers[0]}. postmaster.{origin}. {serial} {_SOA}",
        *(f"@ {TTL} IN NS {server}." for server in servers),
        *sorted(inside),
    ]
    return "\n".join(lines) + "\n"


def gather(settings: Settings) -> list[Record]:
    """The records of all local domains; reads files."""
    from lorrainemail.setup.new_domain import local_domains

    addresses = public_addresses(settings)
    return [
        record
        for domain in local_domains(settings)
        for record in records_of(facts_of(settings, domain, addresses))
    ]


def merge(zone: Zone, file: Zone | None) -> Zone:
    """What the operator's file says of a name and type stands, but for its serial; we add the rest."""
    if file is None:
        return zone
    nodes = {name: dict(node) for name, node in zone.nodes.items()}
    for name, node in file.nodes.items():
        ours = nodes.setdefault(name, {})
        if dns.rdatatype.CNAME in node or dns.rdatatype.CNAME in ours:
            ours.clear()  # nothing stands beside an alias (RFC 1034 §3.6.2)
        ours.update(node)
    made = zone.nodes[zone.origin][dns.rdatatype.SOA][0].serial
    nodes[zone.origin][dns.rdatatype.SOA] = risen(file.nodes[zone.origin][dns.rdatatype.SOA], made)
    return Zone(zone.origin, nodes)


@implementer(IDnsChallenges)
class ServedZones(Service):
    """Keeps the responder's zones.

    :param settings: answers the configuration in force.
    :param serve: takes the zones, whenever they have changed.
    :param parent: answers a Deferred of the DS records that the parent has for a zone (in the form of a zone
        file, lower case); None where it is not known.
    """

    name = "zones"
    _log: ClassVar[Logger] = Logger(namespace="lorrainemail.dns")

    def __init__(
        self,
        clock: Any,
        settings: Callable[[], Settings],
        serve: Callable[[Zones], None],
        parent: Callable[[str], Deferred[frozenset[str] | None]],
        in_thread: Callable[..., Deferred[Any]],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._serve = serve
        self._parent = parent
        self._in_thread = in_thread
        self._wall_clock = wall_clock
        self._challenges: dict[str, list[str]] = {}
        self._made: dict[str, Made] = {}
        self._failed: dict[str, Problem] = {}
        self._lock = DeferredLock()
        self._looking = LoopingCall(self._look)
        self._asking = LoopingCall(self._ask_parents)
        for loop in (self._looking, self._asking):
            loop.clock = clock
        self.use(self.prepare(settings()))

    # -- made ----------------------------------------------------------------------------------------

    def prepare(
        self, settings: Settings, challenges: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, Made]:
        """All of them for a configuration; blocks.

        :param challenges: those of this moment, where another thread than the reactor's asks.
        :raises ConfigurationError: where one cannot be made.
        """
        made: dict[str, Made] = {}
        if not settings.dns.serve:
            return made
        # Signing is loaded by those who have something to sign.
        from lorrainemail.dns.keys import ZoneKeyFault

        files = {zone.origin: zone for zone in load_zones(settings.dns.zones)}
        try:
            records = gather(settings)
            waiting = self._challenges if challenges is None else challenges
            records += [
                Record(name, "TXT", value, "spf") for name, values in waiting.items() for value in values
            ]
            for origin in settings.dns.serve:
                file = files.get(dns.name.from_text(f"{origin}."))
                made[origin] = self._make(settings, origin, records, file)
        except (OSError, ZoneKeyFault) as error:
            where = getattr(error, "filename", None) or ""
            what = getattr(error, "strerror", None) or str(error)
            problem = Problem(str(where), 0, what, "see the directory dns in the state directory")
            raise ConfigurationError((problem,)) from None
        return made

    def prepared(self, settings: Settings) -> Deferred[dict[str, Made]]:
        """As :meth:`prepare`, in a thread: what a reload waits for."""
        challenges = {name: tuple(values) for name, values in self._challenges.items()}
        done: Deferred[dict[str, Made]] = self._in_thread(self.prepare, settings, challenges)
        return done

    def _make(self, settings: Settings, origin: str, records: Sequence[Record], file: Zone | None) -> Made:
        from lorrainemail.dns.keys import directory_of, load_or_make, plan, remove
        from lorrainemail.dns.signing import RENEW, sign

        now = self._wall_clock()
        directory = directory_of(settings.state, origin)
        current = plan(load_or_make(directory, now), now)
        for key in current.retired:
            remove(directory, key)
        text = zone_text(settings, origin, records, 0)
        state = (text, [key.made for key in current.published], current.signs.made, current.wanted.made)
        names = sorted(map(str, file.nodes)) if file is not None else []
        digest = hashlib.sha256(repr((state, names)).encode()).digest()
        known = self._made.get(origin)
        if known is not None and known.digest == digest and now - known.signed < RENEW:
            return known
        # RFC 1982: seconds since 1970 only grow, for another eighty years.
        serial = max(int(now), known.serial + 1 if known is not None else 0)
        zone = parse_zone(zone_text(settings, origin, records, serial), f"zone {origin}")
        return Made(digest, now, serial, sign(merge(zone, file), current, now))

    def use(self, made: dict[str, Made]) -> None:
        """Serve them from now on."""
        self._made = made
        self._failed.clear()
        self._serve(Zones(one.zone for one in made.values()))

    # -- while running -------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._looking.start(LOOK, now=False)
        self._asking.start(ASK_PARENT, now=False)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        for loop in (self._looking, self._asking):
            if loop.running:
                loop.stop()

    def _look(self) -> Deferred[None] | None:
        return Deferred.fromCoroutine(self.look()) if self._settings().dns.serve else None

    async def look(self) -> None:
        """Make anew what has changed; never fails."""
        await self._lock.run(lambda: Deferred.fromCoroutine(self._make_anew()))

    async def _make_anew(self) -> None:
        settings = self._settings()
        try:
            prepared = await self.prepared(settings)
        except CancelledError:
            raise
        except ConfigurationError as error:
            for problem in error.problems:
                if problem.where not in self._failed:
                    self._log.error("A zone keeps its old form: {problem}", problem=str(problem))
            self._failed = {problem.where: problem for problem in error.problems}
            return
        except Exception:
            self._log.failure("The zones could not be made")
            return
        if prepared != self._made and settings is self._settings():
            self.use(prepared)

    def _ask_parents(self) -> Deferred[None] | None:
        return Deferred.fromCoroutine(self.ask_parents()) if self._settings().dns.serve else None

    async def ask_parents(self) -> None:
        """See whether the parents have taken our keys; never fails."""
        settings = self._settings()
        for origin in settings.dns.serve:
            try:
                there = await self._parent(origin)
                if there:
                    await self._in_thread(self._note_parent, settings, origin, there)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("The parent of {zone} could not be asked", zone=origin)
        await self.look()

    def _note_parent(self, settings: Settings, origin: str, there: frozenset[str]) -> None:
        from lorrainemail.dns.keys import directory_of, load_or_make, note_seen

        directory, now = directory_of(settings.state, origin), self._wall_clock()
        for key in load_or_make(directory, now):
            if not key.seen and key.ds(origin).lower() in there:
                note_seen(directory, key, now)
                self._log.info("The parent of {zone} has the DS of our key {key}", zone=origin, key=key.made)

    def alarms(self) -> list[Problem]:
        return list(self._failed.values())

    # -- challenges ----------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether a name is in a zone that is served here."""
        return any(name == zone or name.endswith(f".{zone}") for zone in self._settings().dns.serve)

    def publish(self, name: str, value: str) -> Deferred[None]:
        if sum(map(len, self._challenges.values())) >= MAX_CHALLENGES:
            raise RuntimeError("too many challenges at once")
        self._challenges.setdefault(name, []).append(value)
        return Deferred.fromCoroutine(self.look())

    def withdraw(self, name: str, value: str) -> Deferred[None]:
        values = self._challenges.get(name, [])
        if value in values:
            values.remove(value)
        if not values:
            self._challenges.pop(name, None)
        return Deferred.fromCoroutine(self.look())


def served_of(server: Any, reactor: Any, in_thread: Callable[..., Deferred[Any]]) -> ServedZones:
    """The service of a composed server, whose settings, resolver and responder it uses.

    :raises ConfigurationError: where a zone cannot be used.
    """

    def serve(zones: Zones) -> None:
        server.responder.made = zones

    async def parent(origin: str) -> frozenset[str] | None:
        from lorrainemail.setup.doctor.authority import Authority

        authority = Authority(reactor, server.resolver, server.settings.dns.port)
        told = await authority.find(origin, "DS")
        return None if told.trouble else told.records

    return ServedZones(
        reactor,
        lambda: server.settings,
        serve,
        lambda origin: Deferred.fromCoroutine(parent(origin)),
        in_thread,
    )


@implementer(IDnsChallenges)
class DnsChallenges:
    """ACME's challenges, wherever we may write: a zone that we serve, or a name server that takes updates."""

    def __init__(self, served: Any, updates: Any) -> None:
        self._served = served
        self._updates = updates

    def publish(self, name: str, value: str) -> Deferred[None]:
        done: Deferred[None] = self._writer(name).publish(name, value)
        return done

    def withdraw(self, name: str, value: str) -> Deferred[None]:
        done: Deferred[None] = self._writer(name).withdraw(name, value)
        return done

    def _writer(self, name: str) -> Any:
        return self._served if self._served.has(name) else self._updates


def challenges_of(server: Any, reactor: Any) -> DnsChallenges | None:
    """For the configuration in force; None where nobody takes what we would write."""
    settings = server.settings
    if not settings.dns.serve and not settings.dns_update.server:
        return None
    # Loaded by those who have it configured.
    from lorrainemail.setup.publishing import UpdatePublisher, updater_of

    updates = UpdatePublisher(
        reactor,
        server.resolver,
        lambda: server.settings,
        lambda: updater_of(reactor, server.settings),
    )
    return DnsChallenges(server.served, updates)
