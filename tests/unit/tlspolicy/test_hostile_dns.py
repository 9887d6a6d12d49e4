"""DANE and MTA-STS behind the real resolver, whose answers loop, lie, are cut or never come."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import gatherResults, succeed
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from lorrainemail.net import resolver as resolver_module
from lorrainemail.net.resolver import Resolver
from lorrainemail.tlspolicy.dane import Dane
from lorrainemail.tlspolicy.plan import HostPolicy, Plan, TlsPolicies
from lorrainemail.tlspolicy.sts import PolicyUnfetched, StsPolicies
from lorrainemail.tlspolicy.sts_cache import StsCache

reactor: Any = installed_reactor

HOST = "mx.theirs.test"
TLSA = f"_25._tcp.{HOST}"
DIGEST = "ab" * 32
MX = [f"theirs.test. 60 MX 10 {HOST}."]
A = [f"{HOST}. 60 A 192.0.2.1"]
GOOD = [f"{TLSA}. 60 TLSA 3 1 1 {DIGEST}"]

#: What is said of a question: lines of records; None for silence.
Said = dict[str, list[str] | None]


class Server(DatagramProtocol):
    """A resolver that says AD with everything, and what ``said`` has."""

    noisy = False

    def __init__(self, said: Said) -> None:
        self.said = said
        self.asked: list[str] = []

    def answer(self, wire: bytes, most: int) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append(f"{question.name.to_text(omit_final_dot=True)} {kind}")
        records = self.said.get(self.asked[-1], [])
        if records is None:
            return None
        response = dns.message.make_response(query, recursion_available=True)
        response.flags |= dns.flags.AD
        for record in records:
            name, ttl, rdtype, data = record.split(" ", 3)
            response.answer.append(dns.rrset.from_text(name, int(ttl), "IN", rdtype, data))
        try:
            return response.to_wire(max_size=most)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        answer = self.answer(datagram, 1232)
        if answer is not None:
            self.transport.write(answer, addr)  # type: ignore[union-attr]


class Tcp(Protocol):
    server: Server

    def dataReceived(self, data: bytes) -> None:
        answer = self.server.answer(data[2:], 65535)
        if answer is not None:
            self.transport.write(len(answer).to_bytes(2, "big") + answer)  # type: ignore[union-attr]


Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Ask for the plan of theirs.test behind a server; (the plan, what was asked)."""
    monkeypatch.setattr(resolver_module, "PATIENCE", (0.2, 0.2))
    ports: list[Any] = []
    dice = random.SystemRandom()

    async def find(said: Said, trusted: bool = True) -> tuple[Plan, list[str]]:
        server = Server({"theirs.test MX": MX, f"{HOST} A": A, f"{TLSA} TLSA": GOOD, **said})
        # an address of its own, on which the port is free for TCP, too
        host = f"127.{dice.randint(10, 250)}.{dice.randint(1, 254)}.{dice.randint(1, 254)}"
        udp = reactor.listenUDP(0, server, host)
        number = udp.getHost().port
        factory = Factory()
        factory.noisy = False
        factory.protocol = type("OneTcp", (Tcp,), {"server": server})
        ports.extend((udp, reactor.listenTCP(number, factory, interface=host)))
        resolver = Resolver(reactor, [f"{host}:{number}"], trusted)

        async def fetch(domain: str) -> bytes:
            raise PolicyUnfetched("sts-policy-fetch-error", "no web server")

        sts = StsPolicies(resolver, fetch, StsCache(str(tmp_path)), lambda work: succeed(work()), reactor)
        plan = await TlsPolicies(sts, Dane(resolver)).plan("theirs.test", [(HOST, 25)])
        return plan, server.asked

    yield find
    pytest_twisted.blockon(gatherResults([d for one in ports if (d := one.stopListening()) is not None]))


def of(plan: Plan) -> HostPolicy:
    return plan.of(HOST)


@pytest_twisted.ensureDeferred
async def test_a_validating_resolver_is_believed(ask: Ask) -> None:
    plan, _ = await ask({})
    assert of(plan).use == "check"


@pytest_twisted.ensureDeferred
async def test_a_liar_that_nobody_trusts_says_ad_in_vain(ask: Ask) -> None:
    plan, asked = await ask({}, trusted=False)
    assert of(plan).use == "any" and "not looked for" in plan.note
    assert not [one for one in asked if "TLSA" in one]


LOOP = {
    "itself": [f"{TLSA}. 60 CNAME {TLSA}."],
    "two": [f"{TLSA}. 60 CNAME a.test.", f"a.test. 60 CNAME {TLSA}."],
    "a long way": [f"{TLSA}. 60 CNAME n0.test.", *(f"n{n}.test. 60 CNAME n{n + 1}.test." for n in range(40))],
}


@pytest.mark.parametrize("loop", LOOP)
@pytest_twisted.ensureDeferred
async def test_an_endless_alias_of_the_tlsa_records_makes_mail_wait(ask: Ask, loop: str) -> None:
    plan, asked = await ask({f"{TLSA} TLSA": LOOP[loop]})
    assert of(plan).use == "wait" and len(asked) < 40


@pytest_twisted.ensureDeferred
async def test_an_alias_that_each_answer_carries_further_makes_mail_wait(ask: Ask) -> None:
    chain: Said = {f"n{n}.test TLSA": [f"n{n}.test. 60 CNAME n{n + 1}.test."] for n in range(100)}
    plan, asked = await ask({**chain, f"{TLSA} TLSA": [f"{TLSA}. 60 CNAME n0.test."]})
    assert of(plan).use == "wait" and len(asked) < 40


@pytest.mark.parametrize("question", [f"{TLSA} TLSA", f"{HOST} AAAA", "theirs.test MX"])
@pytest_twisted.ensureDeferred
async def test_silence_makes_mail_wait(ask: Ask, question: str) -> None:
    plan, _ = await ask({question: None})
    assert (of(plan).use, of(plan).fault) == ("wait", "dnssec-invalid")


@pytest_twisted.ensureDeferred
async def test_an_answer_too_large_for_udp_comes_by_tcp_and_is_cut(ask: Ask) -> None:
    many = [f"{TLSA}. 60 TLSA 3 1 1 {number:064x}" for number in range(300)]
    plan, asked = await ask({f"{TLSA} TLSA": [*many, *GOOD]})
    policy = of(plan)
    assert policy.use == "check" and policy.check is not None and len(policy.check.records) < 50
    assert asked.count(f"{TLSA} TLSA") == 2


@pytest_twisted.ensureDeferred
async def test_records_of_another_name_are_nobodys(ask: Ask) -> None:
    plan, _ = await ask({f"{TLSA} TLSA": [f"_25._tcp.evil.test. 60 TLSA 3 1 1 {DIGEST}"]})
    assert of(plan).use == "any"


@pytest_twisted.ensureDeferred
async def test_a_record_of_a_policy_without_a_web_server_is_told_of(ask: Ask) -> None:
    plan, _ = await ask(
        {"_mta-sts.theirs.test TXT": ['_mta-sts.theirs.test. 60 TXT "v=STSv1; id=1;"']}, trusted=False
    )
    assert (of(plan).use, plan.fault, plan.unsure) == ("any", "sts-policy-fetch-error", True)


@pytest_twisted.ensureDeferred
async def test_a_silent_server_does_not_keep_mail_from_a_domain_without_a_policy(ask: Ask) -> None:
    plan, _ = await ask({"_mta-sts.theirs.test TXT": None}, trusted=False)
    assert of(plan).use == "any" and plan.unsure
