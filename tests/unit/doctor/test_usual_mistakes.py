"""The usual mistakes, each made on purpose in a DNS that is asked over real sockets: doctor names each."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import DeferredList
from twisted.internet.threads import deferToThreadPool

from lorrainemail.config.load import load_text
from lorrainemail.config.model import Settings
from lorrainemail.dns.responder import Responder
from lorrainemail.dns.server import listen
from lorrainemail.dns.zonefile import parse_zone
from lorrainemail.dns.zones import Zones
from lorrainemail.mailauth.keys import generate
from lorrainemail.setup.doctor.examine import Live, examine
from lorrainemail.setup.doctor.findings import Finding
from lorrainemail.setup.doctor.words import line_of, words_of
from lorrainemail.setup.records import facts_of, records_of

reactor: Any = installed_reactor

HEALTHY = Live({"alarms": [], "queued": 0})

HEAD = """\
$ORIGIN bricoleur.com.
$TTL 60
@ SOA ns1 hostmaster 1 1h 10m 1w 5m
@ NS ns1
@ NS ns2
ns1 A 127.0.0.1
ns2 A 127.0.0.2
"""
REVERSE = """\
$ORIGIN 0.127.in-addr.arpa.
$TTL 60
@ SOA ns1.bricoleur.com. hostmaster.bricoleur.com. 1 1h 10m 1w 5m
@ NS ns1.bricoleur.com.
@ NS ns2.bricoleur.com.
9.0 PTR mail.bricoleur.com.
"""
LIST = """\
$ORIGIN list.test.
$TTL 60
@ SOA ns1.bricoleur.com. hostmaster.bricoleur.com. 1 1h 10m 1w 5m
@ NS ns1.bricoleur.com.
"""
ROOT = "$ORIGIN .\n$TTL 60\n@ SOA ns1.root.test. h.root.test. 1 1h 10m 1w 5m\n@ NS ns1.root.test.\n"


@functools.cache
def _keys() -> Path:
    """Keys for all tests: they take their time."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory, True)
    generate(str(directory), "bricoleur.com", "20261122", waits=False)
    return directory


class World:
    """A domain as it should be, and two name servers for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.more = ""
        shutil.copytree(_keys() / "dkim", directory / "dkim")
        self.zone = HEAD
        self.reverse = REVERSE
        self.lists = LIST
        self.second: str | None = None
        facts = facts_of(self.settings(53), "bricoleur.com")
        mail = [one.zone_line() for one in records_of(facts) if one.topic != "ptr"]
        self.zone += "\n".join(mail) + "\n"

    def settings(self, port: int) -> Settings:
        text = f"""
hostname = "mail.bricoleur.com"
local_domains = ["bricoleur.com"]
{self.more}
[listen]
submissions = ['tcp:465']
[dns]
resolvers = ["127.0.0.1:{port}"]
port = {port}
addresses = ["127.0.0.9"]
[doctor]
probes = []
blocklists = ["list.test"]
time = ""
"""
        return load_text(text, "lorrainemail.toml", str(self.directory))

    def replace(self, pattern: str, text: str) -> None:
        """Change the zone; the test is wrong where the pattern does not match."""
        self.zone, count = re.subn(pattern, text.replace("\\", r"\\"), self.zone, flags=re.M)
        assert count, pattern

    async def look(self, change: Callable[[Settings], Settings] = lambda settings: settings) -> list[Finding]:
        zones = [parse_zone(text) for text in (self.zone, self.reverse, self.lists, ROOT)]
        first = listen(reactor, Responder(Zones(zones), reactor), "127.0.0.1", 0)
        host: Any = first[0].getHost()
        if self.second is not None:
            zones = [parse_zone(self.second), *zones[1:3]]
        second = listen(reactor, Responder(Zones(zones), reactor), "127.0.0.2", host.port)
        try:
            in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
            settings = change(self.settings(host.port))
            return await examine(reactor, settings, ["bricoleur.com"], HEALTHY, in_thread)
        finally:
            await DeferredList([port.stopListening() for port in (*first, *second)])  # type: ignore[misc]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    tmp_path.chmod(0o700)
    yield World(tmp_path)


def ill(findings: list[Finding]) -> set[str]:
    """What is bad or could be better in the DNS: no server runs here, so doors are left out."""
    return {
        one.case
        for one in findings
        if one.level in ("bad", "warn", "unknown") and one.check not in ("door", "certificate", "disk")
    }


@pytest_twisted.ensureDeferred
async def test_a_domain_as_init_tells_it_is_without_any_finding(world: World) -> None:
    findings = await world.look()
    assert ill(findings) == set()
    well = {one.check for one in findings if one.level == "good"}
    assert {"mx", "address", "ptr", "spf", "dkim", "dmarc", "srv", "servers", "tls_rpt", "blocklist"} <= well


def no_mx(world: World) -> None:
    world.replace(r"^bricoleur.com. .* MX .*\n", "")


def mx_elsewhere(world: World) -> None:
    world.replace(r"MX 10 mail.bricoleur.com.", "MX 10 mx.oldprovider.example.")


def mx_of_the_old_provider_left(world: World) -> None:
    world.zone += "bricoleur.com. IN MX 20 mx.oldprovider.example.\n"


def mx_without_the_final_dot(world: World) -> None:
    world.replace(r"MX 10 mail.bricoleur.com.", "MX 10 mail.bricoleur.com")


def mx_with_an_address(world: World) -> None:
    world.replace(r"MX 10 mail.bricoleur.com.", "MX 10 127.0.0.9.")


def mx_that_is_an_alias(world: World) -> None:
    world.replace(r"^mail.bricoleur.com. .* (A|TXT) .*\n", "")
    world.zone += 'mail CNAME real\nreal A 127.0.0.9\nreal TXT "v=spf1 a -all"\n'


def null_mx(world: World) -> None:
    world.replace(r"MX 10 mail.bricoleur.com.", "MX 0 .")


def wrong_address(world: World) -> None:
    world.replace(r"A 127.0.0.9", "A 127.0.0.77")


def old_ipv6_address(world: World) -> None:
    world.zone += "mail AAAA 2001:db8::dead\n"


def no_ptr(world: World) -> None:
    world.reverse = world.reverse.replace("9.0 PTR", "8.0 PTR")


def provider_s_ptr(world: World) -> None:
    world.reverse = world.reverse.replace("mail.bricoleur.com.\n", "vps-1234.provider.example.\n")


def no_spf(world: World) -> None:
    world.replace(r'^bricoleur.com. .* "v=spf1.*\n', "")


def two_spf(world: World) -> None:
    world.zone += 'bricoleur.com. TXT "v=spf1 include:_spf.oldprovider.example ~all"\n'


def spf_without_us(world: World) -> None:
    world.replace(r'^bricoleur.com. (.*) "v=spf1.*', 'bricoleur.com. 60 IN TXT "v=spf1 ip4:192.0.2.1 -all"')


def spf_with_a_typing_error(world: World) -> None:
    world.replace(r'^bricoleur.com. (.*) "v=spf1.*', 'bricoleur.com. 60 IN TXT "v=spf1 mxx -all"')


def spf_for_everybody(world: World) -> None:
    world.replace(r'^bricoleur.com. (.*) "v=spf1.*', 'bricoleur.com. 60 IN TXT "v=spf1 mx +all"')


def spf_with_too_many_lookups(world: World) -> None:
    words = " ".join(f"a:s{n}.bricoleur.com" for n in range(11))
    world.replace(r'^bricoleur.com. (.*) "v=spf1.*', f'bricoleur.com. 60 IN TXT "v=spf1 {words} mx -all"')
    world.zone += "".join(f"s{n} A 192.0.2.{n}\n" for n in range(11))


def no_dkim(world: World) -> None:
    world.replace(r"^r20261122._domainkey.*\n", "")


def dkim_cut_at_255(world: World) -> None:
    world.replace(r'^(r20261122._domainkey\S*) .*?("[^"]*") "[^"]*"', 'r20261122._domainkey 60 IN TXT ""')
    facts = facts_of(world.settings(53), "bricoleur.com")
    whole = next(text for name, text in facts.dkim if name.startswith("r"))
    world.replace(r"^r20261122._domainkey .*", f'r20261122._domainkey 60 IN TXT "{whole[:255]}"')


def dkim_with_quotes_inside(world: World) -> None:
    facts = facts_of(world.settings(53), "bricoleur.com")
    whole = next(text for name, text in facts.dkim if name.startswith("e"))
    world.replace(r"^e20261122._domainkey.*", f'e20261122._domainkey 60 IN TXT "\\"{whole}\\""')


def dkim_of_another_key(world: World) -> None:
    other = world.directory / "other"
    other.mkdir()
    key = generate(str(other), "bricoleur.com", "20261122", waits=False)[1].key
    world.replace(r"^e20261122._domainkey.*", f'e20261122._domainkey 60 IN TXT "{key.record()}"')


def dkim_one_domain_too_deep(world: World) -> None:
    world.replace(r"^(e20261122._domainkey.bricoleur.com). ", "e20261122._domainkey.bricoleur.com ")


def new_key_not_published(world: World) -> None:
    generate(str(world.directory), "bricoleur.com", "20270101", waits=True)


def no_dmarc(world: World) -> None:
    world.replace(r"^_dmarc.*\n", "")


def two_dmarc(world: World) -> None:
    world.zone += '_dmarc TXT "v=DMARC1; p=none"\n'


def dmarc_with_a_typing_error(world: World) -> None:
    world.replace(r"^_dmarc.*", '_dmarc 60 IN TXT "v=DMARC; p=reject"')


def dmarc_that_asks_for_nothing(world: World) -> None:
    world.replace(r"^_dmarc.*", '_dmarc 60 IN TXT "v=DMARC1; p=none"')


def dmarc_one_domain_too_deep(world: World) -> None:
    world.replace(r"^_dmarc.bricoleur.com. ", "_dmarc.bricoleur.com ")


def mta_sts_without_policy(world: World) -> None:
    world.zone += '_mta-sts TXT "v=STSv1; id=1"\n'


def tls_rpt_without_address(world: World) -> None:
    world.replace(r"^_smtp._tls.*", '_smtp._tls 60 IN TXT "v=TLSRPTv1;"')


def srv_with_an_old_port(world: World) -> None:
    world.replace(r"SRV 0 1 465 ", "SRV 0 1 10465 ")


def srv_missing(world: World) -> None:
    world.replace(r"^_submissions.*\n", "")


def one_server_has_the_old_zone(world: World) -> None:
    world.second = world.zone.replace("MX 10 mail", "MX 10 old").replace("hostmaster 1 ", "hostmaster 0 ")


def one_server_does_not_know_the_zone(world: World) -> None:
    world.second = "$ORIGIN other.test.\n$TTL 60\n@ SOA a b 1 1 1 1 1\n@ NS a\n"


def one_name_server_only(world: World) -> None:
    world.replace(r"^@ NS ns2\n", "")


def cname_loop(world: World) -> None:
    world.replace(r"^_dmarc.*\n", "")
    world.zone += "_dmarc CNAME a\na CNAME b\nb CNAME a\n"


def in_a_blocklist(world: World) -> None:
    world.lists += '9.0.0.127 A 127.0.0.2\n9.0.0.127 TXT "spam was seen"\n'


MISTAKES = [
    (no_mx, {"mx.missing", "spf.not_us"}),
    (mx_elsewhere, {"mx.elsewhere", "spf.not_us"}),
    (mx_of_the_old_provider_left, {"mx.others"}),
    (mx_without_the_final_dot, {"mx.doubled", "spf.not_us"}),
    (mx_with_an_address, {"mx.address", "mx.elsewhere", "spf.not_us"}),
    (mx_that_is_an_alias, {"mx.cname"}),
    (null_mx, {"mx.null", "spf.not_us"}),
    (wrong_address, {"address.wrong", "address.missing", "spf.not_us"}),
    (old_ipv6_address, {"address.wrong"}),
    (no_ptr, {"ptr.missing"}),
    (provider_s_ptr, {"ptr.other"}),
    (no_spf, {"spf.missing"}),
    (two_spf, {"spf.several"}),
    (spf_without_us, {"spf.not_us"}),
    (spf_with_a_typing_error, {"spf.broken"}),
    (spf_for_everybody, {"spf.everybody"}),
    (spf_with_too_many_lookups, {"spf.broken"}),
    (no_dkim, {"dkim.missing"}),
    (dkim_cut_at_255, {"dkim.cut"}),
    (dkim_with_quotes_inside, {"dkim.quotes"}),
    (dkim_of_another_key, {"dkim.another"}),
    (dkim_one_domain_too_deep, {"dkim.doubled"}),
    (new_key_not_published, {"dkim.waits"}),
    (no_dmarc, {"dmarc.missing"}),
    (two_dmarc, {"dmarc.several"}),
    (dmarc_with_a_typing_error, {"dmarc.broken"}),
    (dmarc_that_asks_for_nothing, {"dmarc.none"}),
    (dmarc_one_domain_too_deep, {"dmarc.doubled"}),
    (mta_sts_without_policy, {"mta_sts.no_policy"}),
    (tls_rpt_without_address, {"tls_rpt.broken"}),
    (srv_with_an_old_port, {"srv.wrong"}),
    (srv_missing, {"srv.missing"}),
    (one_server_has_the_old_zone, {"servers.differ", "servers.serials"}),
    (one_server_does_not_know_the_zone, {"servers.lame"}),
    (one_name_server_only, {"servers.one"}),
    (cname_loop, {"servers.loop"}),
    (in_a_blocklist, {"blocklist.listed"}),
]


@pytest.mark.parametrize(("mistake", "cases"), MISTAKES, ids=[mistake.__name__ for mistake, _ in MISTAKES])
@pytest_twisted.ensureDeferred
async def test_a_usual_mistake_is_named_with_what_to_do(
    world: World, mistake: Callable[[World], None], cases: set[str]
) -> None:
    mistake(world)
    findings = await world.look()
    assert ill(findings) == cases
    for finding in findings:
        for language in ("en", "fr"):
            line = line_of(finding, language)  # type: ignore[arg-type]
            assert "{" not in line and "\n" not in line
            if finding.level in ("bad", "warn"):
                words = words_of(finding, language)  # type: ignore[arg-type]
                assert words.what and words.why and words.mend
                assert "?" not in {word.strip(".,:;()") for word in line.split()}, (
                    f"a fact is missing: {line}"
                )


@pytest_twisted.ensureDeferred
async def test_a_stale_tlsa_record_is_told_because_it_keeps_mail_away(world: World) -> None:
    from datetime import UTC, datetime

    from lorrainemail.certs import selfsigned

    selfsigned.ensure(str(world.directory / "tls"), "mail.bricoleur.com", datetime.now(UTC))
    world.zone += f"_25._tcp.mail TLSA 3 1 1 {'ab' * 32}\n"

    def with_smtp(settings: Settings) -> Settings:
        return attrs.evolve(
            settings, listen=attrs.evolve(settings.listen, smtp=("tcp:25:interface=127.0.0.9",))
        )

    assert ill(await world.look(with_smtp)) - {"relay.unknown"} == {"tlsa.stale"}


@pytest_twisted.ensureDeferred
async def test_a_resolver_that_does_not_answer_is_one_finding_not_a_hundred(world: World) -> None:
    def dead(settings: Settings) -> Settings:
        return attrs.evolve(settings, dns=attrs.evolve(settings.dns, resolvers=("127.0.0.1:1",)))

    assert ill(await world.look(dead)) == {"resolver.mute"}


@pytest_twisted.ensureDeferred
async def test_a_domain_that_ran_out_is_one_finding(world: World) -> None:
    world.zone = world.zone.replace("bricoleur.com.", "elsewhere.test.")
    world.zone += "mail A 127.0.0.9\n"
    # The servers of the reverse zone have names in the domain, so these are gone too.
    assert ill(await world.look()) == {"servers.none", "ptr.unknown"}
