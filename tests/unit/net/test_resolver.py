"""The resolver against servers that lie, cut, stall and repeat themselves, on real loopback sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.logger import formatEvent, globalLogPublisher

from lorrainemail.interfaces import DnsFailure, MxHost
from lorrainemail.net import exchange, resolver
from lorrainemail.net.resolver import Resolver, parse_server, system_servers

Rule = Callable[[dns.message.Message, str], list[bytes]]


class FakeServer(DatagramProtocol):
    """Answers each query with what ``rule(query, "udp" | "tcp")`` says, octets for octets."""

    noisy = False

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.seen: list[tuple[str, dns.message.Message]] = []
        self.clients: set[tuple[str, int]] = set()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        query = dns.message.from_wire(datagram)
        self.seen.append(("udp", query))
        self.clients.add(addr)
        for answer in self.rule(query, "udp"):
            self.transport.write(answer, addr)  # type: ignore[union-attr]


class FakeTcp(Protocol):
    server: FakeServer

    def connectionMade(self) -> None:
        self.buffer = b""

    def dataReceived(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) >= 2 + int.from_bytes(self.buffer[:2], "big"):
            query = dns.message.from_wire(self.buffer[2:])
            self.server.seen.append(("tcp", query))
            for answer in self.server.rule(query, "tcp"):
                self.transport.write(len(answer).to_bytes(2, "big") + answer)  # type: ignore[union-attr]
            self.transport.loseConnection()  # type: ignore[union-attr]


Serve = Callable[[Rule], tuple[FakeServer, str]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    ports = []

    def start(rule: Rule) -> tuple[FakeServer, str]:
        for _ in range(20):
            server = FakeServer(rule)
            udp = reactor.listenUDP(0, server, "127.0.0.1")  # type: ignore[attr-defined]
            factory = Factory()
            factory.noisy = False
            factory.protocol = type("Tcp", (FakeTcp,), {"server": server})
            number = udp.getHost().port
            try:
                tcp = reactor.listenTCP(number, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
            except Exception:
                udp.stopListening()
                continue
            ports.extend((udp, tcp))
            return server, f"127.0.0.1:{number}"
        raise AssertionError("no free pair of ports")

    yield start
    closing = gatherResults([d for port in ports if (d := port.stopListening()) is not None])
    pytest_twisted.blockon(closing)


def answer(query: dns.message.Message, *records: str, rcode: int = 0, flags: int = 0, soa: str = "") -> bytes:
    response = dns.message.make_response(query, recursion_available=True)
    response.set_rcode(dns.rcode.Rcode(rcode))
    response.flags |= flags
    for record in records:
        name, ttl, kind, data = record.split(" ", 3)
        response.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    if soa:
        response.authority.append(dns.rrset.from_text(soa, 300, "IN", "SOA", "ns.x. host.x. 1 2 3 4 60"))
    return response.to_wire(max_size=65535)


def kind_of(query: dns.message.Message) -> str:
    return dns.rdatatype.to_text(query.question[0].rdtype)


async def failure(deferred: Deferred[Any]) -> str:
    with pytest.raises(DnsFailure) as caught:
        await deferred
    return caught.value.kind


class Now:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest_twisted.ensureDeferred
async def test_mx_hosts_come_with_their_preference(serve: Serve) -> None:
    _, address = serve(
        lambda q, _: [answer(q, "x.org. 60 MX 10 A.x.org.", "x.org. 60 MX 20 b.x.org.", "x.org. 60 MX 0 .")]
    )
    found = await Resolver(reactor, [address]).mx("X.org")
    assert sorted(found, key=lambda one: one.preference) == [
        MxHost(0, "."),
        MxHost(10, "a.x.org"),
        MxHost(20, "b.x.org"),
    ]


@pytest_twisted.ensureDeferred
async def test_both_address_families_are_found_and_can_be_left_out(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        data = "2001:db8::1" if kind_of(query) == "AAAA" else "192.0.2.1"
        return [answer(query, f"a.x.org. 60 {kind_of(query)} {data}")]

    _, address = serve(rule)
    subject = Resolver(reactor, [address])
    assert await subject.addresses("a.x.org") == ["2001:db8::1", "192.0.2.1"]
    assert await subject.addresses("a.x.org", ipv6=False) == ["192.0.2.1"]


@pytest_twisted.ensureDeferred
async def test_an_address_of_one_family_is_enough_when_the_other_fails(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        if kind_of(query) == "AAAA":
            return [answer(query, rcode=dns.rcode.SERVFAIL)]
        return [answer(query, "a.x.org. 60 A 192.0.2.1")]

    _, address = serve(rule)
    assert await Resolver(reactor, [address]).addresses("a.x.org") == ["192.0.2.1"]


@pytest_twisted.ensureDeferred
async def test_silence_about_one_family_is_never_no_such_host(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        return [answer(query, rcode=dns.rcode.SERVFAIL if kind_of(query) == "AAAA" else 0)]

    _, address = serve(rule)
    assert await failure(Resolver(reactor, [address]).addresses("a.x.org")) == "temporary"


@pytest_twisted.ensureDeferred
async def test_text_and_names_of_addresses(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        if kind_of(query) == "PTR":
            return [answer(query, "1.2.0.192.in-addr.arpa. 60 PTR Mail.x.org.")]
        return [answer(query, 'x.org. 60 TXT "v=spf1 " "-all"')]

    _, address = serve(rule)
    subject = Resolver(reactor, [address])
    assert await subject.txt("x.org") == [b"v=spf1 -all"]
    assert await subject.ptr("192.0.2.1") == ["mail.x.org"]
    assert await failure(subject.ptr("nonsense")) == "nxdomain"


@pytest.mark.parametrize(
    ("rcode", "kind"), [(3, "nxdomain"), (0, "nodata"), (2, "temporary"), (5, "temporary"), (4, "temporary")]
)
@pytest_twisted.ensureDeferred
async def test_no_such_domain_is_told_from_a_failing_resolver(serve: Serve, rcode: int, kind: str) -> None:
    _, address = serve(lambda q, _: [answer(q, rcode=rcode)])
    assert await failure(Resolver(reactor, [address]).mx("x.org")) == kind


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_none_does_not_exist_and_is_not_asked(serve: Serve) -> None:
    server, address = serve(lambda q, _: [answer(q)])
    subject = Resolver(reactor, [address])
    for name in ("a" * 64 + ".org", "a..org", "é.org", ".".join(["abcdefgh"] * 40)):
        assert await failure(subject.mx(name)) == "nxdomain"
    assert server.seen == []


@pytest_twisted.ensureDeferred
async def test_spoofed_answers_are_not_believed(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        evil = [f"x.org. 60 MX 1 evil{n}.org." for n in range(4)]
        wrong_id = dns.message.from_wire(answer(query, evil[0]))
        wrong_id.id = query.id ^ 1
        other = dns.message.make_query("y.org", "MX")
        other.id = query.id
        no_answer = dns.message.make_query("x.org", "MX")  # QR not set
        no_answer.id = query.id
        return [
            b"",
            b"\x00" * 11,
            wrong_id.to_wire(),
            answer(other, "y.org. 60 MX 1 evil.org."),
            no_answer.to_wire(),
            answer(query, "x.org. 60 MX 10 good.org.")[:-3],
            answer(query, "x.org. 60 MX 10 good.org."),
        ]

    _, address = serve(rule)
    assert await Resolver(reactor, [address]).mx("x.org") == [MxHost(10, "good.org")]


@pytest_twisted.ensureDeferred
async def test_a_flood_of_wrong_answers_ends_the_wait(serve: Serve) -> None:
    _, address = serve(lambda q, _: [b"nonsense nonsense"] * (exchange.MAX_DATAGRAMS + 5))
    assert await failure(Resolver(reactor, [address]).mx("x.org")) == "temporary"


@pytest_twisted.ensureDeferred
async def test_records_of_other_names_are_ignored(serve: Serve) -> None:
    _, address = serve(lambda q, _: [answer(q, "other.org. 60 MX 1 evil.org.")])
    assert await failure(Resolver(reactor, [address]).mx("x.org")) == "nodata"


@pytest_twisted.ensureDeferred
async def test_ids_and_ports_differ_from_question_to_question(serve: Serve) -> None:
    server, address = serve(lambda q, _: [answer(q, f"{q.question[0].name} 60 MX 1 a.org.")])
    subject = Resolver(reactor, [address])
    for number in range(12):
        await subject.mx(f"x{number}.org")
    assert len({query.id for _, query in server.seen}) > 9
    assert len(server.clients) > 9


@pytest_twisted.ensureDeferred
async def test_a_long_answer_is_fetched_over_tcp(serve: Serve) -> None:
    records = [f"x.org. 60 MX {n} mx{n}.a-rather-long-name-for-a-host.x.org." for n in range(60)]

    def rule(query: dns.message.Message, transport: str) -> list[bytes]:
        if transport == "udp":
            return [answer(query, flags=dns.flags.TC)]
        return [answer(query, *records)]

    server, address = serve(rule)
    assert len(await Resolver(reactor, [address]).mx("x.org")) == 60
    assert [transport for transport, _ in server.seen] == ["udp", "tcp"]


@pytest_twisted.ensureDeferred
async def test_an_answer_cut_within_a_record_is_fetched_over_tcp(serve: Serve) -> None:
    def rule(query: dns.message.Message, transport: str) -> list[bytes]:
        whole = answer(query, "x.org. 60 MX 10 a.x.org.", flags=dns.flags.TC if transport == "udp" else 0)
        return [whole[:-20] if transport == "udp" else whole]

    _, address = serve(rule)
    assert await Resolver(reactor, [address]).mx("x.org") == [MxHost(10, "a.x.org")]


@pytest_twisted.ensureDeferred
async def test_truncation_without_tcp_is_a_temporary_failure(serve: Serve) -> None:
    _, address = serve(lambda q, t: [answer(q, flags=dns.flags.TC)] if t == "udp" else [])
    assert await failure(Resolver(reactor, [address]).mx("x.org")) == "temporary"


@pytest_twisted.ensureDeferred
async def test_an_answer_has_a_bounded_number_of_records(serve: Serve) -> None:
    records = [f"x.org. 60 MX {n} m{n}.org." for n in range(500)]
    _, address = serve(lambda q, t: [answer(q, flags=dns.flags.TC)] if t == "udp" else [answer(q, *records)])
    assert len(await Resolver(reactor, [address]).mx("x.org")) == resolver.MAX_RECORDS


@pytest_twisted.ensureDeferred
async def test_an_alias_is_followed_within_and_beyond_one_answer(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        name = query.question[0].name.to_text()
        if name == "a.org.":
            return [answer(query, "a.org. 60 CNAME b.org.", "b.org. 60 CNAME c.org.")]
        return [answer(query, "c.org. 60 CNAME d.org.", "d.org. 60 MX 5 mx.org.")]

    server, address = serve(rule)
    assert await Resolver(reactor, [address]).mx("a.org") == [MxHost(5, "mx.org")]
    assert len(server.seen) == 2


@pytest.mark.parametrize("within", [True, False])
@pytest_twisted.ensureDeferred
async def test_an_endless_chain_of_aliases_ends(serve: Serve, within: bool) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        if within:
            return [answer(query, "a.org. 60 CNAME b.org.", "b.org. 60 CNAME a.org.")]
        name = query.question[0].name.to_text()
        return [answer(query, f"{name} 60 CNAME x{name}")]

    server, address = serve(rule)
    assert await failure(Resolver(reactor, [address]).mx("a.org")) == "temporary"
    assert len(server.seen) <= resolver.MAX_CHAIN + 2


@pytest_twisted.ensureDeferred
async def test_the_end_of_an_alias_that_does_not_exist_is_no_such_domain(serve: Serve) -> None:
    _, address = serve(lambda q, _: [answer(q, "a.org. 60 CNAME b.org.", rcode=dns.rcode.NXDOMAIN)])
    assert await failure(Resolver(reactor, [address]).mx("a.org")) == "nxdomain"


@pytest_twisted.ensureDeferred
async def test_the_next_server_is_asked_when_one_is_silent_or_broken(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", (0.1, 0.1))
    silent, first = serve(lambda q, _: [])
    broken, second = serve(lambda q, _: [answer(q, rcode=dns.rcode.SERVFAIL)])
    _, third = serve(lambda q, _: [answer(q, "x.org. 60 MX 10 a.x.org.")])
    assert await Resolver(reactor, [first, second, third]).mx("x.org") == [MxHost(10, "a.x.org")]
    assert len(silent.seen) == len(broken.seen) == 1


@pytest_twisted.ensureDeferred
async def test_a_lost_question_is_repeated(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", (0.1, 3.0))
    count: list[int] = []

    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        count.append(1)
        return [] if len(count) == 1 else [answer(query, "x.org. 60 MX 10 a.x.org.")]

    _, address = serve(rule)
    assert await Resolver(reactor, [address]).mx("x.org") == [MxHost(10, "a.x.org")]


@pytest_twisted.ensureDeferred
async def test_no_resolver_at_all_is_a_temporary_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", (0.2, 0.2))
    port = reactor.listenUDP(0, DatagramProtocol(), "127.0.0.1")  # type: ignore[attr-defined]
    number = port.getHost().port
    await port.stopListening()
    assert await failure(Resolver(reactor, [f"127.0.0.1:{number}"]).mx("x.org")) == "temporary"


@pytest_twisted.ensureDeferred
async def test_an_old_server_without_edns_is_understood(serve: Serve) -> None:
    def rule(query: dns.message.Message, _: str) -> list[bytes]:
        if query.edns >= 0:
            bare = dns.message.make_query("x.org", "MX", use_edns=False)
            bare.id = query.id
            return [answer(bare, rcode=dns.rcode.FORMERR)]
        return [answer(query, f"{query.question[0].name} 60 MX 10 a.x.org.")]

    server, address = serve(rule)
    subject = Resolver(reactor, [address])
    assert await subject.mx("x.org") == [MxHost(10, "a.x.org")]
    assert await subject.mx("y.org") == [MxHost(10, "a.x.org")]
    assert len(server.seen) == 3


@pytest_twisted.ensureDeferred
async def test_answers_are_remembered_as_long_as_they_may_be(serve: Serve) -> None:
    now = Now()
    server, address = serve(lambda q, _: [answer(q, "x.org. 60 MX 10 a.x.org.")])
    subject = Resolver(reactor, [address], monotonic=now)
    await subject.mx("x.org")
    now.now += 59
    await subject.mx("X.ORG")
    assert len(server.seen) == 1
    now.now += 2
    await subject.mx("x.org")
    assert len(server.seen) == 2


@pytest.mark.parametrize(("rcode", "ttl"), [(3, 60), (0, 60), (2, resolver.FAILURE_TTL)])
@pytest_twisted.ensureDeferred
async def test_failures_are_remembered_for_a_while_and_no_longer(serve: Serve, rcode: int, ttl: int) -> None:
    now = Now()
    server, address = serve(lambda q, _: [answer(q, rcode=rcode, soa="org." if rcode != 2 else "")])
    subject = Resolver(reactor, [address], monotonic=now)
    await failure(subject.mx("x.org"))
    asked = len(server.seen)
    now.now += ttl - 1
    await failure(subject.mx("x.org"))
    assert len(server.seen) == asked
    now.now += 2
    await failure(subject.mx("x.org"))
    assert len(server.seen) == 2 * asked


@pytest_twisted.ensureDeferred
async def test_an_absurd_time_to_live_is_cut(serve: Serve) -> None:
    now = Now()
    server, address = serve(lambda q, _: [answer(q, "x.org. 2147483647 MX 10 a.x.org.")])
    subject = Resolver(reactor, [address], monotonic=now)
    await subject.mx("x.org")
    now.now += resolver.MAX_TTL + 1
    await subject.mx("x.org")
    assert len(server.seen) == 2


@pytest_twisted.ensureDeferred
async def test_memory_is_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_REMEMBERED", 3)
    server, address = serve(lambda q, _: [answer(q, f"{q.question[0].name} 60 MX 10 a.x.org.")])
    subject = Resolver(reactor, [address])
    for number in range(5):
        await subject.mx(f"x{number}.org")
    await subject.mx("x4.org")
    assert len(server.seen) == 5
    await subject.mx("x0.org")
    assert len(server.seen) == 6


@pytest_twisted.ensureDeferred
async def test_a_thousand_messages_ask_once(serve: Serve) -> None:
    server, address = serve(lambda q, _: [answer(q, "x.org. 60 MX 10 a.x.org.")])
    subject = Resolver(reactor, [address])
    results = await gatherResults([subject.mx("x.org") for _ in range(1000)])
    assert len(results) == 1000 and len(server.seen) == 1


@pytest_twisted.ensureDeferred
async def test_one_who_gives_up_does_not_disturb_the_others(serve: Serve) -> None:
    _, address = serve(lambda q, _: [answer(q, "x.org. 60 MX 10 a.x.org.")])
    subject = Resolver(reactor, [address])
    first, second = subject.query("x.org", dns.rdatatype.MX), subject.query("x.org", dns.rdatatype.MX)
    first.addErrback(lambda _: None)
    first.cancel()
    assert len((await second).records) == 1


@pytest.mark.parametrize("trusted", [True, False])
@pytest_twisted.ensureDeferred
async def test_dnssec_is_believed_only_of_a_trusted_resolver(serve: Serve, trusted: bool) -> None:
    server, address = serve(lambda q, _: [answer(q, "x.org. 60 MX 10 a.x.org.", flags=dns.flags.AD)])
    found = await Resolver(reactor, [address], trusted=trusted).query("x.org", dns.rdatatype.MX)
    assert found.authentic is trusted
    assert bool(server.seen[0][1].flags & dns.flags.AD) is trusted


@pytest_twisted.ensureDeferred
async def test_a_reload_forgets_and_a_bad_one_changes_nothing(serve: Serve) -> None:
    server, address = serve(lambda q, _: [answer(q, "x.org. 60 MX 10 a.x.org.")])
    subject = Resolver(reactor, [address])
    await subject.mx("x.org")
    with pytest.raises(ValueError, match="not an address"):
        subject.reload(["localhost:53"])
    subject.reload([address])
    await subject.mx("x.org")
    assert len(server.seen) == 2


def test_the_systems_resolvers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nsearch x.org\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver bad\n")
    assert [str(one) for one in system_servers(str(path))] == ["192.0.2.1:53", "[fe80::1]:53"]
    assert [str(one) for one in system_servers(str(tmp_path / "none"))] == ["127.0.0.1:53"]


@pytest.mark.parametrize(
    "text", ["", "x.org", "192.0.2.1:0", "[::1", "[::1]x", "192.0.2.1:x", "1.2.3.4:99999"]
)
def test_a_resolver_that_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        parse_server(text)


def test_a_resolver_may_have_a_port() -> None:
    assert str(parse_server("127.0.0.1:5353")) == "127.0.0.1:5353"
    assert str(parse_server("[::1]:5353")) == "[::1]:5353"
    assert str(parse_server("::1")) == "[::1]:53"


def a_turn() -> Deferred[None]:
    """Fires when the reactor has come round."""
    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)  # type: ignore[attr-defined]
    return turn


@pytest_twisted.ensureDeferred
async def test_lookups_leave_no_lines_in_the_log(serve: Serve) -> None:
    _, where = serve(lambda query, _: [answer(query, "x.org. 60 A 192.0.2.1")])
    await a_turn()  # what other tests closed is gone
    lines: list[str] = []
    observe = lambda event: lines.append(formatEvent(event))  # noqa: E731
    globalLogPublisher.addObserver(observe)
    try:
        await Resolver(reactor, [where]).addresses("x.org", False)
        await a_turn()
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not [line for line in lines if "UDP Port" in line]
