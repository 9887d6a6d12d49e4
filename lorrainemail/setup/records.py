"""The DNS records that a domain should have, from the configuration and the keys on disk.

One list, :func:`records_of`, from which all take theirs: ``lorrainemail domain dns`` and ``init`` print it
(:mod:`lorrainemail.setup.record_words` has the words), ``doctor`` compares the DNS with it, the dns door
serves it for zones that are delegated to us, an update writes it. :func:`facts_of` gathers what it is made of
and reads files; the list itself is pure. Fails with OSError, KeyFault and ConfigurationError of the files.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from typing import Final, Literal, get_args

import attrs

from lorrainemail.certs import acme_state
from lorrainemail.certs.sources import Sources
from lorrainemail.config.model import Settings
from lorrainemail.config.values import endpoint_port, proxied, split_port
from lorrainemail.http.mta_sts import Policies
from lorrainemail.mailauth.keys import TXT_STRING, stored_keys

#: Seconds for which others may remember a record.
TTL: Final = 3600
#: Addresses outside, to which no packet is sent: the system says which of ours it would use
#: (RFC 5737 §3 and RFC 3849 would not do, as nothing routes there).
_OUTSIDE: Final = (
    (socket.AF_INET, "1.1.1.1"),
    (socket.AF_INET6, "2606:4700:4700::1111"),
)
#: Doors that a mail program may look up (RFC 6186 §3, RFC 8314 §5.1), preferred ones first.
_SERVICES: Final = (
    ("submissions", "submissions", 0),
    ("submission", "submission", 10),
    ("imaps", "imaps", 0),
    ("imap", "imap", 10),
    ("pop3s", "pop3s", 20),
    ("pop3", "pop3", 30),
    ("sieve", "managesieve", 0),  # RFC 5804 §1.8
)

Topic = Literal[
    "mx", "address", "ptr", "spf", "dkim", "dmarc", "mta_sts", "mta_sts_host", "tls_rpt", "tlsa", "srv",
    "autoconfig",
]  # fmt: skip
Need = Literal["must", "should", "signed"]
#: The order in which they are told.
_ORDER: Final = {topic: number for number, topic in enumerate(get_args(Topic))}


@attrs.frozen(slots=True, order=True)
class Record:
    """One record.

    :ivar name: absolute, in A-labels, without the final dot.
    :ivar data: as in a zone file; of TXT the bare text.
    :ivar need: "must": no mail without it; "should"; "signed": of use only in a zone with DNSSEC.
    """

    name: str
    type: str
    data: str
    topic: Topic
    need: Need = "should"

    def zone_line(self) -> str:
        """As a line of a zone file (RFC 1035 §5.1)."""
        return f"{self.name}. {TTL} IN {self.type} {self.printed_data()}"

    def printed_data(self) -> str:
        """The data as a zone file has it: text in strings of at most 255 octets (RFC 1035 §3.3.14)."""
        if self.type != "TXT":
            return self.data
        text = self.data.replace("\\", "\\\\").replace('"', '\\"')
        strings = [text[start : start + TXT_STRING] for start in range(0, len(text), TXT_STRING)]
        return " ".join(f'"{string}"' for string in strings)


@attrs.frozen(slots=True)
class Facts:
    """What the records of one domain are made of.

    :ivar addresses: under which the world finds the server.
    :ivar doors: open doors and their ports as the world sees them.
    :ivar dkim: (name, text) of each key that signs or waits. ``waiting``: the names of those that wait.
    :ivar spki: SHA-256 of the public keys that the smtp door shows, or soon will (RFC 7671 §5.1).
    :ivar smarthosts: next hops for all mail, where there are such.
    :ivar web: whether a web server of ours answers for the names of this domain.
    :ivar sts_id: of the MTA-STS policy that it serves, "" for none.
    """

    hostname: str
    domain: str
    addresses: tuple[str, ...]
    doors: dict[str, int]
    dkim: tuple[tuple[str, str], ...] = ()
    spki: tuple[str, ...] = ()
    smarthosts: tuple[str, ...] = ()
    web: bool = False
    sts_id: str = ""
    waiting: tuple[str, ...] = ()


def records_of(facts: Facts) -> list[Record]:
    """All records of one domain, the most needed first."""
    made = [*_host(facts), *_mail(facts), *_trust(facts), *_found(facts)]
    return sorted(made, key=lambda record: _ORDER[record.topic])


def _host(facts: Facts) -> Iterator[Record]:
    """The server's own name: once, whatever domains it serves."""
    for address in facts.addresses:
        kind = "AAAA" if ":" in address else "A"
        yield Record(facts.hostname, kind, address, "address", "must")
    for address in facts.addresses:
        name = ipaddress.ip_address(address).reverse_pointer
        yield Record(name, "PTR", f"{facts.hostname}.", "ptr", "must")
    port = facts.doors.get("smtp")
    if port is not None:
        for digest in facts.spki:
            # RFC 7672 §3.1: DANE-EE, the key, SHA-256.
            yield Record(f"_{port}._tcp.{facts.hostname}", "TLSA", f"3 1 1 {digest}", "tlsa", "signed")


def _mail(facts: Facts) -> Iterator[Record]:
    yield Record(facts.domain, "MX", f"10 {facts.hostname}.", "mx", "must")
    # RFC 7208 §5: the MX hosts send; a smarthost's provider has its own record, which is included.
    words = [*(f"include:{_provider(host)}" for host in facts.smarthosts), "mx"]
    yield Record(facts.domain, "TXT", f"v=spf1 {' '.join(dict.fromkeys(words))} -all", "spf", "must")
    if facts.hostname != facts.domain:
        # RFC 7208 §2.3: bounces come from the server's own name.
        yield Record(facts.hostname, "TXT", "v=spf1 a -all", "spf", "should")
    for name, text in facts.dkim:
        yield Record(name, "TXT", text, "dkim", "must")
    reports = f"mailto:postmaster@{facts.domain}"
    yield Record(f"_dmarc.{facts.domain}", "TXT", f"v=DMARC1; p=quarantine; rua={reports}", "dmarc", "must")


def _trust(facts: Facts) -> Iterator[Record]:
    if facts.sts_id:
        yield Record(f"_mta-sts.{facts.domain}", "TXT", f"v=STSv1; id={facts.sts_id}", "mta_sts")
        yield Record(f"mta-sts.{facts.domain}", "CNAME", f"{facts.hostname}.", "mta_sts_host")
    reports = f"mailto:postmaster@{facts.domain}"
    yield Record(f"_smtp._tls.{facts.domain}", "TXT", f"v=TLSRPTv1; rua={reports}", "tls_rpt")


def _found(facts: Facts) -> Iterator[Record]:
    """What mail programs look for to set themselves up."""
    for service, door, priority in _SERVICES:
        port = facts.doors.get(door)
        if port is not None:
            data = f"{priority} 1 {port} {facts.hostname}."
            yield Record(f"_{service}._tcp.{facts.domain}", "SRV", data, "srv")
    if facts.web:
        for label in ("autoconfig", "autodiscover"):
            yield Record(f"{label}.{facts.domain}", "CNAME", f"{facts.hostname}.", "autoconfig")


def _provider(host: str) -> str:
    """The domain whose SPF record stands for a smarthost: its name without the first label."""
    labels = host.split(".")
    return ".".join(labels[1:]) if len(labels) > 2 else host


# -- gathering -------------------------------------------------------------------------------------------


def facts_of(settings: Settings, domain: str, addresses: Sequence[str] | None = None) -> Facts:
    """What a domain's records are made of.

    :param addresses: those of the server, where they are known already.
    """
    keys = [stored for stored in stored_keys(settings.state, domain) if stored.state != "replaced"]
    dkim = tuple((stored.key.name, stored.key.record()) for stored in keys)
    doors = open_doors(settings)
    web = "https" in doors
    policies = Policies(settings)
    return Facts(
        settings.hostname,
        domain,
        tuple(public_addresses(settings) if addresses is None else addresses),
        doors,
        dkim,
        tuple(dict.fromkeys(key_digests(settings))),
        smarthosts(settings),
        web,
        policies.id(domain) if web and policies.mode(domain) != "none" else "",
        tuple(stored.key.name for stored in keys if stored.state == "waits"),
    )


def open_doors(settings: Settings) -> dict[str, int]:
    """Each open TCP door and its first port."""
    found: dict[str, int] = {}
    for door in attrs.fields(type(settings.listen)):
        for text in getattr(settings.listen, door.name):
            place = endpoint_port(proxied(text) or text)
            if place is not None and door.name not in found:
                found[door.name] = place[1]
    return found


def public_addresses(settings: Settings) -> list[str]:
    """The configured addresses, else those of this machine that the world can reach."""
    if settings.dns.addresses:
        return list(settings.dns.addresses)
    return [address for address in own_addresses() if ipaddress.ip_address(address).is_global]


def own_addresses() -> list[str]:
    """The address that this machine uses towards the world, of each family it has; private ones too."""
    found = []
    for family, outside in _OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))  # of a datagram socket: nothing is sent
                found.append(str(probe.getsockname()[0]))
        except OSError:
            continue
    return found


def smarthosts(settings: Settings) -> tuple[str, ...]:
    """The names of the next hops for all mail; none where mail goes as the DNS says."""
    row = settings.relay.get("*")
    if row is None or not row.host:
        return ()
    names = [split_port(hop, 25)[0] for hop in row.host]
    return tuple(name for name in names if not _is_address(name))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def key_digests(settings: Settings) -> Iterator[str]:
    """SHA-256 of the public keys that are shown under our own name, and of those that will be shown next."""
    return acme_state.key_digests(Sources.of(settings))
