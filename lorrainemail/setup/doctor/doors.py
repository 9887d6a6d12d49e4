"""The doors of this server, tried as a stranger would: reached, certificates, no open relay, mail out.

Each check runs its conversation in a thread (:mod:`lorrainemail.setup.doctor.outside`) and answers findings.
"From outside" is meant as far as a machine can look at itself: it connects to its own public addresses, so a
firewall of the provider before them is not seen; where the address is not the machine's own (NAT), a failure
proves nothing, and is said to be unknown.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import attrs
from cryptography import x509
from twisted.internet.defer import Deferred

from lorrainemail.config.model import Settings
from lorrainemail.config.values import split_port
from lorrainemail.delivery.hops import is_local
from lorrainemail.http.mta_sts import PATH, Policies
from lorrainemail.interfaces import DnsFailure
from lorrainemail.net.resolver import Resolver
from lorrainemail.setup.doctor import outside
from lorrainemail.setup.doctor.findings import Finding, bad, good, unknown, warn
from lorrainemail.setup.records import Facts

#: Days left of a certificate below which something must be done, and below which it is urgent.
SOON: Final = 21
URGENT: Final = 7
#: Seconds by which the clock may be wrong; DKIM, DMARC and logs bear no more.
CLOCK_WARN: Final = 5.0
CLOCK_BAD: Final = 60.0
#: A list of networks wider than these opens the relay to strangers.
WIDE_4: Final = 8
WIDE_6: Final = 19
#: The doors that are tried, with those whose certificate is looked at.
_TRIED: Final = (
    *("smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s", "managesieve", "https"),
)
_CERTIFIED: Final = ("smtp", "submissions", "imaps")

InThread = Callable[..., Deferred[Any]]


@attrs.frozen(slots=True)
class Machine:
    """What these checks work with."""

    settings: Settings
    facts: Facts
    in_thread: InThread
    resolver: Resolver


async def reached(machine: Machine) -> list[Finding]:
    """Each open door at each address of ours."""
    found: list[Finding] = []
    for door in _TRIED:
        port = machine.facts.doors.get(door)
        for address in machine.facts.addresses if port is not None else ():
            where = f"{door} {address} {port}"
            try:
                if door == "smtp":
                    greeting = await machine.in_thread(outside.smtp_greeting, address, port)
                    if greeting.code != 220:
                        found.append(bad("door.refuses", where, code=greeting.code))
                    elif greeting.name != machine.facts.hostname:
                        hostname = machine.facts.hostname
                        found.append(bad("door.other", where, name=greeting.name, hostname=hostname))
                    else:
                        found.append(good("door", where))
                else:
                    await machine.in_thread(outside.opens, address, port)
                    found.append(good("door", where))
            except OSError as error:
                why = error.strerror or error
                here = is_local(address)
                found.append(
                    bad("door.closed", where, why=why) if here else unknown("door.nat", where, why=why)
                )
    if "smtp" not in machine.facts.doors:
        found.append(bad("door.no_smtp", machine.facts.hostname))
    return found


async def certificates(machine: Machine) -> list[Finding]:
    """What the doors show: the name, the days left, who signed."""
    found: list[Finding] = []
    hostname = machine.facts.hostname
    for door in _CERTIFIED:
        port = machine.facts.doors.get(door)
        if port is None or not machine.facts.addresses:
            continue
        try:
            shown = await machine.in_thread(
                outside.shown_certificate, door, machine.facts.addresses[0], port, hostname, hostname
            )
        except OSError as error:
            if is_local(machine.facts.addresses[0]):
                found.append(bad("certificate.none", door, why=error.strerror or error))
            continue
        found += judged(shown, hostname, door, _authority(machine.settings), datetime.now(UTC))
    return found


def judged(shown: bytes, hostname: str, door: str, authority: bytes, now: datetime) -> Iterator[Finding]:
    """One certificate (DER), against the name and the time."""
    try:
        certificate = x509.load_der_x509_certificate(shown)
        names = _names(certificate)
    except ValueError:
        yield bad("certificate.broken", door)
        return
    days = (certificate.not_valid_after_utc - now).days
    clean = True
    if hostname not in names and f"*.{hostname.partition('.')[2]}" not in names:
        yield bad("certificate.name", door, names=names, hostname=hostname)
        clean = False
    if certificate.not_valid_after_utc <= now:
        yield bad("certificate.ended", door, date=certificate.not_valid_after_utc.date())
        clean = False
    elif days < SOON:
        yield (bad if days < URGENT else warn)("certificate.ends", door, days=days)
        clean = False
    if authority and certificate.issuer.public_bytes() == authority:
        yield warn("certificate.self_signed", door)
        clean = False
    if clean:
        yield good("certificate", door)


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {name.lower() for name in extension.value.get_values_for_type(x509.DNSName)}


def _authority(settings: Settings) -> bytes:
    """The subject of our own small authority."""
    try:
        with open(os.path.join(settings.state, "tls", "ca.pem"), "rb") as file:
            return x509.load_pem_x509_certificate(file.read(1 << 16)).subject.public_bytes()
    except (OSError, ValueError):
        return b""


async def policy(machine: Machine, facts: Facts) -> list[Finding]:
    """The MTA-STS policy of a domain, as others fetch it (RFC 8461 §3.3)."""
    port, host = facts.doors.get("https"), f"mta-sts.{facts.domain}"
    if not facts.sts_id or port is None or not facts.addresses:
        return []
    policies = Policies(machine.settings)
    make = bad if policies.mode(facts.domain) == "enforce" else warn
    try:
        page = await machine.in_thread(outside.page, facts.addresses[0], port, host, PATH)
    except OSError as error:
        why = error.strerror or error
        local = is_local(facts.addresses[0])
        return [make("mta_sts.unreachable", host, why=why) if local else unknown("mta_sts.unknown", host)]
    found: list[Finding] = []
    if page.status != 200 or policies.text(facts.domain).encode() not in page.body:
        found.append(make("mta_sts.unreachable", host, why=page.status))
    try:
        names = _names(x509.load_der_x509_certificate(page.certificate))
    except ValueError:
        names = set()
    if host not in names and f"*.{facts.domain}" not in names:
        found.append(make("mta_sts.certificate", host, names=names))
    return found


async def relay(machine: Machine) -> list[Finding]:
    """Whether strangers could send through us."""
    found = list(wide_networks(machine.settings.relay_networks))
    port = machine.facts.doors.get("smtp")
    strangers = [one for one in machine.facts.addresses if not _is_listed(machine.settings, one)]
    if port is None or not strangers or not machine.settings.doctor.probes:
        return found
    probe = f"postmaster@{machine.settings.doctor.probes[0]}"
    try:
        taken, words = await machine.in_thread(
            outside.relays, strangers[0], port, machine.facts.hostname, probe
        )
    except OSError:
        return [*found, unknown("relay.unknown", machine.facts.hostname)]
    if taken:
        found.append(bad("relay.open", machine.facts.hostname, words=words))
    return found or [good("relay", machine.facts.hostname)]


def wide_networks(networks: Iterable[str]) -> Iterator[Finding]:
    """Rows of relay_networks that cover much of the world."""
    for text in networks:
        network = ipaddress.ip_network(text)
        if network.is_private and network.prefixlen >= WIDE_4:
            continue
        if network.prefixlen < (WIDE_4 if network.version == 4 else WIDE_6):
            yield bad("relay.wide", text)


def _is_listed(settings: Settings, address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return any(parsed in ipaddress.ip_network(text) for text in settings.relay_networks)


async def outgoing(machine: Machine) -> list[Finding]:
    """Whether mail can leave: to the smarthost, or by port 25 to anybody."""
    row = machine.settings.relay.get("*")
    if row is not None and row.host:
        return await _smarthost(machine, [split_port(hop, 25) for hop in row.host])
    domains = machine.settings.doctor.probes
    for domain in domains:
        for address in await _exchangers(machine.resolver, domain):
            try:
                await machine.in_thread(outside.smtp_greeting, address, machine.settings.queue.port)
            except OSError:
                continue
            return [good("outgoing", machine.facts.hostname)]
    return [bad("outgoing.blocked", machine.facts.hostname, domains=domains)] if domains else []


async def _smarthost(machine: Machine, hops: list[tuple[str, int]]) -> list[Finding]:
    for host, port in hops:
        try:
            addresses = [host] if _literal(host) else await machine.resolver.addresses(host)
            await machine.in_thread(outside.smtp_greeting, addresses[0], port)
        except (OSError, DnsFailure, IndexError):
            continue
        return [good("outgoing", f"{host}:{port}")]
    return [bad("outgoing.smarthost", ", ".join(f"{host}:{port}" for host, port in hops))]


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _exchangers(resolver: Resolver, domain: str) -> list[str]:
    """Some addresses of a domain's mail server; IPv4 first, as every server has that."""
    try:
        hosts = sorted(await resolver.mx(domain), key=lambda one: one.preference)
        found = await resolver.addresses(hosts[0].host)
    except (DnsFailure, IndexError):
        return []
    return sorted(found, key=lambda address: ":" in address)[:2]


async def clock(machine: Machine) -> list[Finding]:
    """Our clock against a time server's."""
    if not machine.settings.doctor.time:
        return []
    host, port = split_port(machine.settings.doctor.time, 123)
    try:
        address = host if _literal(host) else (await machine.resolver.addresses(host))[0]
        offset = await machine.in_thread(outside.clock_offset, address, port)
    except (OSError, DnsFailure, IndexError):
        return [unknown("clock.unknown", machine.settings.doctor.time)]
    seconds = f"{offset:+.1f}"
    if abs(offset) >= CLOCK_BAD:
        return [bad("clock.wrong", machine.facts.hostname, seconds=seconds)]
    if abs(offset) >= CLOCK_WARN:
        return [warn("clock.wrong", machine.facts.hostname, seconds=seconds)]
    return [good("clock", machine.facts.hostname)]
