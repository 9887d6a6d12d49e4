"""Where a recipient's mail goes next: from a route to hosts and addresses, in the order of trying.

Owns RFC 5321 §5.1 and its neighbours. The remote courier and ``lorrainemail explain`` call the same
:func:`find_hops`, which asks the resolver and changes nothing.

Whose fault it is decides what a failure means. What the DNS says of the recipient's domain is final (no such
domain, null MX, a loop); what it does not say (silence, SERVFAIL) is tried again; a next hop that our own
configuration names and that cannot be had is our fault: deferred, with an alarm, never final.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import DeferredList

from lorrainemail.errors import Reply
from lorrainemail.interfaces import DnsFailure, HopHost, IResolver, MxHost, Route
from lorrainemail.net.peers import canonical

#: Hosts whose addresses are asked, best first (RFC 5321 §5.1 wants two at least).
MAX_HOSTS: Final = 10
#: Addresses of one host that are kept.
MAX_ADDRESSES: Final = 8


@attrs.frozen(slots=True)
class Hop:
    """One host to try.

    :ivar host: its name or address literal, as TLS and people know it.
    :ivar addresses: IP addresses in the order of trying.
    :ivar preference: of its MX record; None where there is none.
    """

    host: str
    port: int
    addresses: tuple[str, ...]
    preference: int | None = None

    def __str__(self) -> str:
        rank = "" if self.preference is None else f"MX {self.preference} "
        return f"{rank}{self.host}:{self.port} ({', '.join(self.addresses)})"


@attrs.frozen(slots=True)
class NextHops:
    """The decision. Either ``hops`` has entries or ``reply`` says why there are none.

    :ivar ours: the failure is on our side.
    :ivar reasons: how it came about, for explain and trace.
    """

    hops: tuple[Hop, ...] = ()
    reply: Reply | None = None
    ours: bool = False
    reasons: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class OurEnds:
    """How we recognise ourselves among next hops, so that mail does not go round in circles.

    :ivar hostname: our name.
    :ivar listening: (address, port) of our SMTP listeners; "" or the unspecified address for all of the
        machine's.
    """

    hostname: str
    listening: tuple[tuple[str, int], ...] = ()

    def are(self, host: str, addresses: Sequence[str], port: int) -> bool:
        """Whether that next hop is this server."""
        if host.lower() == self.hostname.lower():
            return not self.listening or any(port == ours for _, ours in self.listening)
        return any(self._is(address, port) for address in addresses)

    def _is(self, address: str, port: int) -> bool:
        for listening, ours in self.listening:
            if ours == port:
                if listening in ("", "0.0.0.0", "::"):
                    if is_local(address):
                        return True
                elif canonical(listening) == address:
                    return True
        return False


def is_local(address: str) -> bool:
    """Whether an IP address is one of this machine's: only those can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


async def find_hops(
    route: Route,
    resolver: IResolver,
    ours: OurEnds,
    port: int = 25,
    ipv6: bool = True,
    shuffle: Callable[[list[Any]], None] = random.shuffle,
) -> NextHops:
    """The next hops of a route. Never fails.

    :param port: of MX hosts.
    :param shuffle: puts a list into random order, in place.
    """
    if route.kind == "reject":
        reply = route.reply or Reply(550, "5.7.1", "Mail to this address is not relayed")
        return NextHops(reply=reply, reasons=route.reasons)
    if route.kind == "hosts":
        found = await _configured(route, resolver, ours, ipv6, shuffle)
    elif route.domain.startswith("["):
        found = _literal(route.domain, ours, port)
    else:
        found = await _exchanges(route.domain, resolver, ours, port, ipv6, shuffle)
    return attrs.evolve(found, reasons=route.reasons + found.reasons)


# -- hosts that a relay row names -----------------------------------------------------------------------


async def _configured(
    route: Route,
    resolver: IResolver,
    ours: OurEnds,
    ipv6: bool,
    shuffle: Callable[[list[Any]], None],
) -> NextHops:
    hosts = list(route.hosts[:MAX_HOSTS])
    if route.share:
        shuffle(hosts)
    answers = await _addresses_of([host.host for host in hosts], resolver, ipv6, shuffle)
    hops, reasons = [], []
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, DnsFailure):
            reasons.append(f"next hop {host.host}: {answer}")
        elif ours.are(host.host, answer, host.port):
            reasons.append(f"next hop {host.host}:{host.port} is this server itself")
        else:
            hops.append(Hop(_plain(host), host.port, answer))
    if hops:
        return NextHops(tuple(hops), reasons=tuple(reasons))
    where = f"the row {route.pattern!r} ({route.origin})"
    reply = Reply(451, "4.3.5", f"the next hop of {where} cannot be used: {'; '.join(reasons) or 'no host'}")
    return NextHops(reply=reply, ours=True, reasons=tuple(reasons))


def _plain(host: HopHost) -> str:
    """The name without the brackets of a literal."""
    return _as_address(host.host) or host.host


def _as_address(host: str) -> str:
    """The IP address that a host names by itself, "" where it is a name."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if inner[:5].lower() == "ipv6:":
        inner = inner[5:]
    return canonical(inner)


# -- what the DNS says ------------------------------------------------------------- RFC 5321 §5.1 --


def _literal(domain: str, ours: OurEnds, port: int) -> NextHops:
    address = _as_address(domain)
    if not address:
        return NextHops(reply=Reply(550, "5.1.2", f"{domain} is no address literal"))
    if ours.are(domain, [address], port):
        return NextHops(reply=_loop(domain), reasons=(f"{domain} is this server",))
    return NextHops((Hop(address, port, (address,)),), reasons=(f"{domain} is an address literal",))


async def _exchanges(
    domain: str,
    resolver: IResolver,
    ours: OurEnds,
    port: int,
    ipv6: bool,
    shuffle: Callable[[list[Any]], None],
) -> NextHops:
    implicit = False
    try:
        records = await resolver.mx(domain)
    except DnsFailure as failure:
        if failure.kind == "nxdomain":
            return NextHops(reply=Reply(550, "5.1.2", f"the domain {domain} does not exist"))
        if failure.kind == "temporary":
            return NextHops(reply=_no_dns(domain, failure))
        implicit, records = True, [MxHost(0, domain)]  # no MX: the domain itself is the host
    if any(record.host == "." for record in records):
        records = [record for record in records if record.host != "."]
        if not records:  # RFC 7505 §3
            return NextHops(reply=Reply(556, "5.1.10", f"the domain {domain} does not accept mail"))
    shuffle(records)
    records = sorted(records, key=lambda record: record.preference)[:MAX_HOSTS]
    answers = await _addresses_of([record.host for record in records], resolver, ipv6, shuffle)
    return _choose(domain, list(zip(records, answers, strict=True)), ours, port, implicit)


def _choose(
    domain: str,
    candidates: Sequence[tuple[MxHost, tuple[str, ...] | DnsFailure]],
    ours: OurEnds,
    port: int,
    implicit: bool,
) -> NextHops:
    """Drop what is us, what is no better than us, and what has no address."""
    reasons = [f"{domain} has no MX: its own address is used"] if implicit else []
    own = min(
        (
            record.preference
            for record, answer in candidates
            if ours.are(record.host, () if isinstance(answer, DnsFailure) else answer, port)
        ),
        default=None,
    )
    hops, silent, dropped = [], None, 0
    for record, answer in candidates:
        if own is not None and record.preference >= own:  # RFC 5321 §5.1
            dropped += 1
            reasons.append(f"MX {record.preference} {record.host}: not better than ourselves")
        elif isinstance(answer, DnsFailure):
            reasons.append(f"MX {record.preference} {record.host}: {answer}")
            if answer.kind == "temporary":
                silent = answer
        else:
            hops.append(Hop(record.host, port, answer, None if implicit else record.preference))
    if hops:
        return NextHops(tuple(hops), reasons=tuple(reasons))
    if silent is not None:
        reply = _no_dns(domain, silent)
    elif dropped:
        reply = _loop(domain)
    elif implicit:
        reply = Reply(550, "5.1.2", f"the domain {domain} has no mail server")
    else:
        reply = Reply(550, "5.4.4", f"no mail server of the domain {domain} has an address")
    return NextHops(reply=reply, reasons=tuple(reasons))


def _loop(domain: str) -> Reply:
    return Reply(554, "5.4.6", f"mail for {domain} comes back to this server, which does not hold it")


def _no_dns(domain: str, failure: DnsFailure) -> Reply:
    return Reply(451, "4.4.3", f"the name servers do not answer for {domain} ({failure})")


async def _addresses_of(
    hosts: Sequence[str], resolver: IResolver, ipv6: bool, shuffle: Callable[[list[Any]], None]
) -> list[tuple[str, ...] | DnsFailure]:
    """Addresses of each host, or why there are none; IPv6 first, random within a family."""
    names = [host for host in hosts if not _as_address(host)]
    if not names:
        return [(_as_address(host),) for host in hosts]
    asked: list[tuple[bool, Any]] = await DeferredList(
        [resolver.addresses(name, ipv6) for name in names], consumeErrors=True
    )
    known: dict[str, tuple[str, ...] | DnsFailure] = {}
    for name, (success, result) in zip(names, asked, strict=True):
        if success:
            found = list(result)
            shuffle(found)
            known[name] = tuple(sorted(found, key=lambda address: ":" not in address)[:MAX_ADDRESSES])
        elif isinstance(result.value, DnsFailure):
            known[name] = result.value
        else:
            known[name] = DnsFailure("temporary", name, "internal error")
    return [known[host] if host in known else (_as_address(host),) for host in hosts]
