"""How each mail server of a domain must be spoken to, and why: DANE, else MTA-STS, else as it comes.

:class:`TlsPolicies` is asked by the remote courier for each delivery by MX, and by ``lorrainemail explain``.
Where DANE holds for a host it decides (RFC 8461 §2: MTA-STS never overrides it). A domain that publishes
nothing costs one TXT question; with a trusted resolver nothing more, unless its MX records are signed.

A host that a policy forbids, or of which DNSSEC cannot say anything now, is not used: its mail goes to
another host or waits. Never fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import attrs
from twisted.internet.defer import Deferred, gatherResults

from lorrainemail.interfaces import DnsFailure, TlsRequirement
from lorrainemail.message.received import rfc5322_date
from lorrainemail.net.peers import canonical
from lorrainemail.tlspolicy.dane import Dane, DaneHost
from lorrainemail.tlspolicy.sts import StsFound, StsPolicies
from lorrainemail.tlspolicy.tlsa import TlsaCheck

#: Patterns of a policy that reports repeat.
MAX_TOLD: Final = 20

PolicyType = Literal["tlsa", "sts", "no-policy-found"]


@attrs.frozen(slots=True)
class Published:
    """The policy that a session was under, as reports tell of it (RFC 8460 §4.4)."""

    type: PolicyType
    domain: str
    strings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class Observed:
    """What one session with a host came to.

    :ivar ours: our address. ``fault``: what was wrong with TLS (RFC 8460 §4.3), "" for nothing; ``words``:
        why.
    """

    published: Published
    host: str
    address: str
    ours: str
    fault: str
    words: str


@attrs.frozen(slots=True)
class HostPolicy:
    """How one host must be spoken to.

    :ivar use: "check": TLS with certificates that ``check`` accepts; "verified": with the host's name;
        "encrypted": whatever the certificate; "watched": as it comes, but note what "verified" would say;
        "any": as it comes; "wait": not now, ``words`` says why and ``fault`` likewise (RFC 8460 §4.3).
    :ivar words: why, for people.
    :ivar authentic: DNSSEC or an MTA-STS policy proves that it is the domain's host (RFC 8689 §4.2.1).
    :ivar short: the policy that is fulfilled when it is used, for the trace.
    """

    use: Literal["check", "verified", "encrypted", "watched", "any", "wait"]
    words: str
    published: Published
    authentic: bool = False
    check: TlsaCheck | None = None
    fault: str = ""
    short: str = ""

    @property
    def requirement(self) -> TlsRequirement:
        """In the words of relay rows."""
        known: dict[str, TlsRequirement] = {"check": "dane", "verified": "verified", "encrypted": "encrypted"}
        return known.get(self.use, "opportunistic")


@attrs.frozen(slots=True)
class Plan:
    """What holds for a domain. ``hosts``: by name; ``published`` with ``fault`` and ``words``: a policy that
    there should be and that could not be had; ``unsure``: there may be one, which nobody can say now;
    ``note``: what was not looked for, and why."""

    domain: str
    hosts: Mapping[str, HostPolicy]
    published: Published
    fault: str = ""
    words: str = ""
    unsure: bool = False
    note: str = ""

    @property
    def demands(self) -> bool:
        """Whether mail may have to wait for it."""
        return any(one.use not in ("any", "watched") for one in self.hosts.values())

    def of(self, host: str) -> HostPolicy:
        found = self.hosts.get(host)
        if found is None:
            return HostPolicy("any", "no policy", Published("no-policy-found", self.domain))
        return found


_NOTHING: Final = StsFound()


class TlsPolicies:
    """Finds what holds.

    :param sts: None: MTA-STS is not asked for.
    :param dane: likewise.
    """

    def __init__(self, sts: StsPolicies | None, dane: Dane | None) -> None:
        self.sts = sts
        self.dane = dane

    async def plan(self, domain: str, hosts: Sequence[tuple[str, int]]) -> Plan:
        """How to speak to each of the hosts (name and port) of a domain."""
        signed: frozenset[str] = frozenset()
        note = ""
        if self.dane is not None and not self.dane.possible:
            note = "DANE is not looked for: no resolver is trusted to validate ([dns] trusted)"
        of_dane: dict[str, DaneHost] = {}
        if self.dane is not None and not canonical(domain.strip("[]")):
            try:
                signed = await self.dane.exchanges(domain)
            except DnsFailure as failure:
                words = f"the DNS does not answer for {domain} ({failure})"
                of_dane = {host: DaneHost("wait", words=words) for host, _ in hosts}
            asked = {host: port for host, port in hosts if host in signed and not canonical(host)}
            # at once: one whose name servers are silent takes half a minute
            waited = [
                Deferred.fromCoroutine(self.dane.host(host, port, domain)) for host, port in asked.items()
            ]
            if waited:
                of_dane.update(zip(asked, await gatherResults(waited, consumeErrors=True), strict=True))
        found = _NOTHING
        if self.sts is not None and not domain.startswith("["):
            found = await self.sts.find(domain)
        made = {
            host: _decided(domain, host, found, of_dane.get(host), host in signed and host != domain)
            for host, _ in hosts
        }
        return Plan(domain, made, Published("sts", domain), found.fault, found.words, found.unsure, note)


def _decided(domain: str, host: str, sts: StsFound, dane: DaneHost | None, authentic: bool) -> HostPolicy:
    if dane is not None and dane.kind != "insecure":
        return _by_dane(domain, dane)
    policy = sts.policy
    if policy is None or policy.mode == "none":
        words = "no policy: TLS where it is offered, whatever the certificate"
        if policy is not None:
            words = f'the MTA-STS policy of {domain} says "none": {words.partition(": ")[2]}'
        return HostPolicy("any", words, Published("no-policy-found", domain), authentic)
    hosts = policy.patterns[:MAX_TOLD]
    published = Published("sts", domain, attrs.evolve(policy, patterns=hosts).strings(), hosts)
    which = f"the MTA-STS policy of {domain} ({policy.mode}, until {rfc5322_date(sts.ends)})"
    if not policy.names(host):
        words = f"{which} does not name it"
        if policy.mode == "enforce":
            return HostPolicy("wait", words, published, fault="validation-failure")
        # reported, and used all the same
        return HostPolicy("any", words, published, authentic, fault="validation-failure")
    if policy.mode == "enforce":
        words = f"{which}: verified TLS"
        return HostPolicy("verified", words, published, True, short="MTA-STS")
    words = f"{which}: TLS where it is offered, and a look at the certificate"
    return HostPolicy("watched", words, published, True)


def _by_dane(domain: str, dane: DaneHost) -> HostPolicy:
    if dane.kind == "wait":
        published = Published("tlsa", domain)
        return HostPolicy("wait", f"DANE: {dane.words}", published, fault="dnssec-invalid")
    if dane.check is None:
        words = f"DANE: none of the TLSA records of {dane.base} can be used: TLS, whatever the certificate"
        return HostPolicy("encrypted", words, Published("tlsa", domain), True, short="TLSA without use")
    records = dane.check.records
    published = Published("tlsa", domain, tuple(str(one) for one in records))
    kinds = ", ".join(dict.fromkeys(f"{one.usage} {one.selector} {one.matching}" for one in records))
    words = f"DANE: TLS with a certificate that the TLSA records of {dane.base} name ({kinds})"
    return HostPolicy("check", words, published, True, dane.check, short="DANE")
