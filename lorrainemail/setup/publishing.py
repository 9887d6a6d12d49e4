"""Our records in a zone that somebody else serves, by RFC 2136: all of a domain's, and ACME's challenges.

:func:`publish_records` writes what a domain should have, :func:`publish_keys` what DKIM keys need when they
are replaced; :class:`UpdatePublisher` is what the DNS-01 challenge goes through
(:class:`~lorrainemail.interfaces.IDnsChallenges`). All find the zone of each name by asking, and touch no
record that is not of their own kind: of the texts at a name only those with the same beginning (``v=spf1``,
``v=DMARC1``) are replaced. Fails with :class:`~lorrainemail.net.update.UpdateError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from lorrainemail.config.model import Settings
from lorrainemail.interfaces import DnsFailure, IDnsChallenges
from lorrainemail.mailauth.keys import SigningKey
from lorrainemail.net.resolver import Resolver, parse_server
from lorrainemail.net.update import Change, UpdateError, Updater, read_key
from lorrainemail.setup.doctor.authority import Authority
from lorrainemail.setup.records import TTL, Record

#: Seconds between looks whether all servers of the zone have a challenge, and in all.
LOOK: Final = 2.0
SPREAD: Final = 180.0
#: Seconds for which others may remember a challenge.
CHALLENGE_TTL: Final = 60


def updater_of(reactor: Any, settings: Settings) -> Updater | None:
    """What ``[dns_update]`` describes; None where it names no server."""
    update = settings.dns_update
    if not update.server:
        return None
    return Updater(reactor, parse_server(update.server), read_key(update.key))


async def publish_records(
    authority: Authority, updater: Updater, settings: Settings, records: Sequence[Record]
) -> list[Record]:
    """Write them; the records that were written or were there already.

    Those of zones that are not ours to change are left out: PTR records as a rule, and TLSA where the zone is
    not signed.
    """
    changes: dict[str, list[Change]] = {}
    done = []
    for record in records:
        zone = await zone_of(authority, settings, record.name)
        if not zone or (record.need == "signed" and not await _signed(authority, zone)):
            continue
        done.append(record)
        there = (await authority.find(record.name, record.type)).records
        changes.setdefault(zone, []).extend(_changes(record, there, records))
    for zone, wanted in changes.items():
        await updater.send(zone, wanted)
    return done


async def publish_keys(
    authority: Authority, updater: Updater, settings: Settings, keys: Sequence[SigningKey], wanted: bool
) -> bool:
    """Write the records of DKIM keys, or take them away; whether all are of zones that we may change."""
    records = [Record(key.name, "TXT", key.record(), "dkim") for key in keys]
    if wanted:
        return len(await publish_records(authority, updater, settings, records)) == len(records)
    for record in records:
        zone = await zone_of(authority, settings, record.name)
        if not zone:
            return False
        await updater.send(zone, [Change("remove", record.name, "TXT", record.printed_data())])
    return True


async def zone_of(authority: Authority, settings: Settings, name: str) -> str:
    """The zone of a name, "" where it is none that we may change."""
    allowed = settings.dns_update.zones
    fitting = [zone for zone in allowed if name == zone or name.endswith(f".{zone}")]
    if fitting:
        return max(fitting, key=len)
    if allowed or name.endswith(".arpa"):
        return ""
    try:
        zone = await authority.zone(name)
    except DnsFailure as failure:
        raise UpdateError(f"the zone of {name} is not found: {failure}") from None
    return zone.origin if zone is not None and "." in zone.origin else ""


async def _signed(authority: Authority, zone: str) -> bool:
    return bool((await authority.find(zone, "DNSKEY")).records)


def _changes(record: Record, there: frozenset[str], records: Sequence[Record]) -> list[Change]:
    """What makes the DNS say this record; of several of one name and type each keeps the others'."""
    if record.type == "TXT":
        beginning = record.data.partition(";")[0].partition(" ")[0]
        old = [text for text in there if text.startswith(beginning) and text != record.data]
        made = [Change("remove", record.name, "TXT", _text(text)) for text in sorted(old)]
    else:
        ours = {one.data.lower() for one in records if (one.name, one.type) == (record.name, record.type)}
        made = [Change("remove", record.name, record.type, text) for text in sorted(there - ours)]
        if record.type == "CNAME":  # nothing may stand beside it
            made = [Change("clear", record.name, kind) for kind in ("CNAME", "A", "AAAA")]
    return [*made, Change("add", record.name, record.type, record.printed_data(), TTL)]


def _text(text: str) -> str:
    return Record("x", "TXT", text, "spf").printed_data()


@implementer(IDnsChallenges)
class UpdatePublisher:
    """ACME's challenges, on a name server that takes updates.

    :param make: makes the updater, from the configuration in force; None where none is configured.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: Resolver,
        settings: Callable[[], Settings],
        make: Callable[[], Updater | None],
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._settings = settings
        self._make = make

    def publish(self, name: str, value: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._publish(name, value))

    def withdraw(self, name: str, value: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._change("remove", name, value))

    async def _publish(self, name: str, value: str) -> None:
        await self._change("add", name, value)
        until = self._reactor.seconds() + SPREAD
        while True:
            told = await self._authority().find(name, "TXT")
            if value in told.records and not told.differ and not told.trouble:
                return
            if self._reactor.seconds() > until:
                raise UpdateError(f"not all name servers have the record at {name} yet")
            await deferLater(self._reactor, LOOK)

    async def _change(self, verb: Any, name: str, value: str) -> None:
        updater = self._make()
        if updater is None:
            raise UpdateError("no name server takes our updates: see [dns_update] in the configuration")
        told = await self._authority().find(name, "TXT")
        name = told.end  # an alias leads to the zone that is meant for challenges
        zone = await zone_of(self._authority(), self._settings(), name)
        if not zone:
            raise UpdateError(f"{name} is in no zone that we may change")
        await updater.send(zone, [Change(verb, name, "TXT", _text(value), CHALLENGE_TTL)])

    def _authority(self) -> Authority:
        return Authority(self._reactor, self._resolver, self._settings().dns.port)
