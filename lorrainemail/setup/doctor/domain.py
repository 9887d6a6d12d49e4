"""The DNS of one domain against what it should be: each check asks every authoritative server.

:func:`domain_checks` are those of one domain, :func:`host_checks` those of the server's own name and
addresses; :mod:`lorrainemail.setup.doctor.examine` makes them. They never fail: a question without an answer
is a finding.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal

import attrs
import dns.rdatatype

from lorrainemail.addresses import Address
from lorrainemail.interfaces import DnsFailure
from lorrainemail.mailauth.dkim_record import RecordFault, parse_key
from lorrainemail.mailauth.dmarc_record import is_dmarc, parse_dmarc
from lorrainemail.mailauth.spf import Spf
from lorrainemail.mailauth.spf_record import RecordError, is_record, parse_record
from lorrainemail.mailauth.tags import TagError, parse_tags
from lorrainemail.net.resolver import Resolver
from lorrainemail.setup.doctor.authority import Authority, Told
from lorrainemail.setup.doctor.findings import Finding, bad, good, unknown, warn
from lorrainemail.setup.records import Facts, Record, records_of

#: What lists answer to those whom they do not serve, or who ask wrongly; no listing.
_NO_LISTING: Final = "127.255.255."


@attrs.frozen(slots=True)
class Asker:
    """What the checks ask with."""

    authority: Authority
    resolver: Resolver
    spf: Spf


Check = Callable[[Asker, Facts], Awaitable[list[Finding]]]


def domain_checks() -> Sequence[Check]:
    """All checks of one domain."""
    return (_servers, _mx, _spf, _dkim, _dmarc, _mta_sts, _tls_rpt, _srv)


def host_checks() -> Sequence[Check]:
    """All checks of the server's own name and addresses."""
    return (_addresses, _pointers, _tlsa)


async def guarded(check: str, told: Told) -> list[Finding]:
    """What the question itself brought to light."""
    found = [warn("servers.lame", server, name=told.name, fault=fault) for server, fault in told.faults]
    if told.differ:
        found.append(bad("servers.differ", told.name, servers=told.differ))
    if told.trouble == "loop":
        found.append(bad("servers.loop", told.name))
    elif told.trouble == "no_zone":
        found.append(bad("servers.none", told.name))
    elif told.trouble == "too_many":
        found.append(unknown("servers.too_many", told.name))
    elif told.trouble:
        found.append(unknown(f"{check}.unknown", told.name))
    return found


# -- the zone --------------------------------------------------------------------------------------------


async def _servers(ask: Asker, facts: Facts) -> list[Finding]:
    try:
        zone = await ask.authority.zone(facts.domain)
    except DnsFailure:
        return [unknown("servers.unknown", facts.domain)]
    if zone is None or "." not in zone.origin:  # at best a top-level domain, which is not ours
        return [bad("servers.none", facts.domain)]
    found: list[Finding] = []
    said = await ask.authority.ask(zone, zone.origin, dns.rdatatype.SOA)
    found += [bad("servers.lame", one.server, name=zone.origin, fault=one.fault) for one in said if one.fault]
    serials = {record.split()[2] for one in said if not one.fault for record in one.records}
    if len(serials) > 1:
        found.append(warn("servers.serials", zone.origin, serials=serials))
    if len(zone.servers) < 2:
        found.append(warn("servers.one", zone.origin))  # RFC 1034 §4.1
    return found or [good("servers", zone.origin)]


# -- mail in ---------------------------------------------------------------------------------------------


async def _mx(ask: Asker, facts: Facts) -> list[Finding]:
    domain = facts.domain
    told = await ask.authority.find(domain, "MX")
    found = await guarded("mx", told)
    if told.trouble:
        return found
    if told.aliased:
        return [*found, bad("mx.domain_cname", domain, target=told.end)]
    if not told.records:
        return [*found, bad("mx.missing", domain, data=f"10 {facts.hostname}.")]
    hosts = {text.partition(" ")[2].rstrip(".") for text in told.records}
    if hosts == {""}:
        return [*found, bad("mx.null", domain)]  # RFC 7505 §3
    for host in sorted(hosts):
        if _is_address(host):
            found.append(bad("mx.address", domain, host=host))
    ours = facts.hostname
    doubled = f"{ours}.{domain}"
    if doubled in hosts:
        found.append(bad("mx.doubled", domain, host=doubled, right=f"{ours}."))
    elif ours not in hosts:
        found.append(bad("mx.elsewhere", domain, hosts=hosts, hostname=ours))
    elif len(hosts) > 1:
        found.append(warn("mx.others", domain, hosts=hosts - {ours}))
    # RFC 2181 §10.3: an MX names a host, not an alias.
    if ours in hosts and (await ask.authority.find(ours, "A")).aliased:
        found.append(bad("mx.cname", ours))
    return found or [good("mx", domain)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


async def _missing(ask: Asker, check: str, domain: str, name: str, kind: str, data: str) -> Finding:
    """The record is not there; perhaps it stands one domain too deep, the usual fault of web pages."""
    deep = await ask.authority.find(f"{name}.{domain}", kind)
    if deep.records and not deep.aliased:
        return bad(f"{check}.doubled", name, host=f"{name}.{domain}", right=name)
    return bad(f"{check}.missing", name, data=data)


# -- mail out --------------------------------------------------------------------------------------------


async def _spf(ask: Asker, facts: Facts) -> list[Finding]:
    domain = facts.domain
    told = await ask.authority.find(domain, "TXT")
    found = await guarded("spf", told)
    if told.trouble:
        return found
    records = [text for text in sorted(told.records) if is_record(text.encode())]
    wanted = next(one.data for one in records_of(facts) if one.topic == "spf")
    if not records:
        return [*found, bad("spf.missing", domain, data=wanted)]
    if len(records) > 1:
        return [*found, bad("spf.several", domain, count=len(records))]
    try:
        record = parse_record(records[0].encode())
    except RecordError as error:
        return [*found, bad("spf.broken", domain, why=error)]
    if any(one.mechanism == "all" and one.qualifier == "pass" for one in record.directives):
        found.append(bad("spf.everybody", domain))
    if facts.smarthosts:
        return found or [good("spf", domain)]  # who sends then is the provider's to know
    for address in facts.addresses:
        result = await ask.spf.check(address, facts.hostname, Address("postmaster", domain))
        if result.result == "permerror":
            found.append(bad("spf.broken", domain, why=result.reason))
            break
        if result.result == "temperror":
            found.append(unknown("spf.unknown", domain))
        elif result.result != "pass":
            found.append(bad("spf.not_us", domain, address=address, result=result.result))
    return found or [good("spf", domain)]


async def _dkim(ask: Asker, facts: Facts) -> list[Finding]:
    if not facts.dkim:
        return [bad("dkim.no_keys", facts.domain)]
    found: list[Finding] = []
    for name, text in facts.dkim:
        told = await ask.authority.find(name, "TXT")
        found += await guarded("dkim", told)
        if told.trouble:
            continue
        records = sorted(told.records)
        if not records and name in facts.waiting:
            found.append(warn("dkim.waits", name, data=text))
        elif not records:
            found.append(await _missing(ask, "dkim", facts.domain, name, "TXT", text))
        elif len(records) > 1:
            found.append(bad("dkim.several", name, count=len(records)))
        elif not _same_key(records[0], text):
            found.append(bad(f"dkim.{_why_other(records[0], text)}", name))
    return found or [good("dkim", facts.domain)]


def _same_key(published: str, ours: str) -> bool:
    key = _key_of(published)
    return key is not None and key == _key_of(ours)


def _key_of(text: str) -> bytes | None:
    """The public part, white space apart (RFC 6376 §3.6.1)."""
    try:
        return b"".join(parse_tags(text.encode("utf-8", "replace")).get("p", b"").split()) or None
    except TagError:
        return None


def _why_other(published: str, ours: str) -> Literal["cut", "quotes", "broken", "another"]:
    """What is wrong with a key: each is mended in its own way."""
    ours_key, key = _key_of(ours) or b"", _key_of(published) or b""
    if '"' in published or "\\" in published:
        return "quotes"
    if key and key != ours_key and ours_key.startswith(key):
        return "cut"
    try:
        parse_key(published.encode("utf-8", "replace"))
    except (RecordFault, ValueError):
        return "broken"
    return "another"


async def _dmarc(ask: Asker, facts: Facts) -> list[Finding]:
    name = f"_dmarc.{facts.domain}"
    wanted = next(one.data for one in records_of(facts) if one.topic == "dmarc")
    told = await ask.authority.find(name, "TXT")
    found = await guarded("dmarc", told)
    if told.trouble:
        return found
    records = [text.encode() for text in sorted(told.records)]
    claims = [text for text in records if is_dmarc(text)]
    if not records:
        return [*found, await _missing(ask, "dmarc", facts.domain, name, "TXT", wanted)]
    if len(claims) > 1:
        return [*found, bad("dmarc.several", name, count=len(claims))]
    if not claims or parse_dmarc(claims[0]).policy is None:
        return [*found, bad("dmarc.broken", name, text=records[0].decode("utf-8", "replace"))]
    if parse_dmarc(claims[0]).policy == "none":
        found.append(warn("dmarc.none", name))
    return found or [good("dmarc", name)]


async def _mta_sts(ask: Asker, facts: Facts) -> list[Finding]:
    name = f"_mta-sts.{facts.domain}"
    told = await ask.authority.find(name, "TXT")
    found = await guarded("mta_sts", told)
    if told.trouble:
        return found
    records = [text for text in sorted(told.records) if text.startswith("v=STSv1")]
    if not facts.sts_id:
        # A policy that nobody serves any more keeps others from writing to us until it is forgotten.
        return [*found, bad("mta_sts.no_policy", name)] if records else found
    if not records:
        return [*found, warn("mta_sts.missing", name, data=f"v=STSv1; id={facts.sts_id}")]
    if len(records) > 1:
        return [*found, bad("mta_sts.several", name, count=len(records))]
    if f"id={facts.sts_id}" not in [word.strip() for word in records[0].split(";")]:
        found.append(warn("mta_sts.old_id", name, data=f"v=STSv1; id={facts.sts_id}"))
    host = await ask.authority.find(f"mta-sts.{facts.domain}", "A")
    if not host.trouble and not host.records:
        found.append(bad("mta_sts.no_host", host.name, data=f"CNAME {facts.hostname}."))
    return found or [good("mta_sts", name)]


async def _tls_rpt(ask: Asker, facts: Facts) -> list[Finding]:
    name = f"_smtp._tls.{facts.domain}"
    wanted = next(one.data for one in records_of(facts) if one.topic == "tls_rpt")
    told = await ask.authority.find(name, "TXT")
    found = await guarded("tls_rpt", told)
    if told.trouble:
        return found
    records = sorted(told.records)
    if not records:
        return [*found, warn("tls_rpt.missing", name, data=wanted)]
    valid = [text for text in records if text.startswith("v=TLSRPTv1;") and "rua=" in text]
    if len(valid) != 1:  # RFC 8460 §3
        return [*found, bad("tls_rpt.broken", name, text=records[0], data=wanted)]
    return found or [good("tls_rpt", name)]


async def _srv(ask: Asker, facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    for record in records_of(facts):
        if record.topic != "srv":
            continue
        told = await ask.authority.find(record.name, "SRV")
        found += await guarded("srv", told)
        if told.trouble:
            continue
        wanted = record.data.split()[2:]
        if not told.records:
            found.append(warn("srv.missing", record.name, data=record.data))
        elif wanted not in [text.split()[2:] for text in told.records]:
            found.append(bad("srv.wrong", record.name, there=told.records, data=record.data))
    return found or [good("srv", facts.domain)]


# -- the host --------------------------------------------------------------------------------------------


async def _addresses(ask: Asker, facts: Facts) -> list[Finding]:
    if not facts.addresses:
        return [warn("address.unknown", facts.hostname)]
    found: list[Finding] = []
    for kind, ours in (("A", _of(facts.addresses, 4)), ("AAAA", _of(facts.addresses, 6))):
        told = await ask.authority.find(facts.hostname, kind)
        found += await guarded("address", told)
        if told.trouble:
            continue
        there = set(told.records)
        for address in sorted(ours - there):
            found.append(bad("address.missing", facts.hostname, kind=kind, address=address))
        for address in sorted(there - ours):
            found.append(bad("address.wrong", facts.hostname, kind=kind, address=address))
    return found or [good("address", facts.hostname)]


def _of(addresses: Iterable[str], version: int) -> set[str]:
    return {one for one in addresses if ipaddress.ip_address(one).version == version}


async def _pointers(ask: Asker, facts: Facts) -> list[Finding]:
    """The address names us; that our name has the address is :func:`_addresses`' matter."""
    if not facts.addresses:
        return []
    found: list[Finding] = []
    for address in facts.addresses:
        told = await ask.authority.find(ipaddress.ip_address(address).reverse_pointer, "PTR")
        six = "6" if ":" in address else ""
        if told.trouble not in ("", "no_zone"):
            found.append(unknown("ptr.unknown", address))
            continue
        names = {text.rstrip(".") for text in told.records}
        if not names:
            found.append(bad(f"ptr.missing{six}", address, hostname=facts.hostname))
        elif facts.hostname not in names:
            found.append(bad("ptr.other", address, names=names, hostname=facts.hostname))
        elif len(names) > 1:
            found.append(warn("ptr.several", address, names=names))
    return found or [good("ptr", facts.hostname)]


async def _tlsa(ask: Asker, facts: Facts) -> list[Finding]:
    wanted = [record for record in records_of(facts) if record.topic == "tlsa"]
    if not wanted:
        return []
    name = wanted[0].name
    told = await ask.authority.find(name, "TLSA")
    found = await guarded("tlsa", told)
    if told.trouble:
        return found
    if not told.records:
        if await _signed(ask, name):
            found.append(warn("tlsa.missing", name, data=wanted[0].data))
        return found
    if not _matches(told.records, wanted):
        found.append(bad("tlsa.stale", name, data=wanted[0].data))
    return found or [good("tlsa", name)]


def _matches(published: Iterable[str], wanted: Iterable[Record]) -> bool:
    """Whether one of them is for a key that we show; other usages are for others to judge."""
    ours = {record.data for record in wanted}
    there = {" ".join([*text.split()[:3], "".join(text.split()[3:])]) for text in published}
    judged = [text for text in there if text.startswith("3 1 1 ")]
    return not judged or any(text in ours for text in judged)


async def _signed(ask: Asker, name: str) -> bool:
    try:
        zone = await ask.authority.zone(name)
    except DnsFailure:
        return False
    if zone is None:
        return False
    told = await ask.authority.find(zone.origin, "DNSKEY")
    return bool(told.records)


# -- lists -----------------------------------------------------------------------------------------------


async def listed(resolver: Resolver, address: str, lists: Iterable[str]) -> list[Finding]:
    """Whether blocklists have one of our addresses (RFC 5782 §2.1)."""
    found: list[Finding] = []
    for zone in lists:
        try:
            answers = await resolver.addresses(f"{_reversed(address)}.{zone}", ipv6=False)
        except DnsFailure as failure:
            if failure.kind == "temporary":
                found.append(unknown("blocklist.unknown", address, list=zone))
            continue
        if any(answer.startswith(_NO_LISTING) for answer in answers):
            found.append(unknown("blocklist.unknown", address, list=zone))
        elif any(answer.startswith("127.") for answer in answers):
            found.append(
                bad("blocklist.listed", address, list=zone, why=await _reason(resolver, address, zone))
            )
    return found or [good("blocklist", address)]


def _reversed(address: str) -> str:
    pointer = ipaddress.ip_address(address).reverse_pointer
    return pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


async def _reason(resolver: Resolver, address: str, zone: str) -> str:
    try:
        texts = await resolver.txt(f"{_reversed(address)}.{zone}")
    except DnsFailure:
        return "-"
    return texts[0].decode("ascii", "replace") if texts else "-"
