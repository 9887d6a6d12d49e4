"""A DNS that means ill costs the doctor a bounded number of questions and a bounded time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import dns.message
import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import DeferredList

from lorrainemail.dns.responder import Responder
from lorrainemail.dns.server import listen
from lorrainemail.dns.zonefile import parse_zone
from lorrainemail.dns.zones import Zones
from lorrainemail.net.resolver import Resolver
from lorrainemail.setup.doctor import authority
from lorrainemail.setup.doctor.authority import MAX_CHAIN, MAX_QUESTIONS, MAX_SERVERS, Authority

reactor: Any = installed_reactor

HEAD = "$ORIGIN evil.test.\n$TTL 60\n@ SOA ns h 1 1h 10m 1w 5m\n@ NS ns\nns A 127.0.0.1\n"


class Counting(Responder):
    asked = 0

    def udp(self, wire: bytes, peer: str) -> bytes | None:
        self.asked += 1
        return super().udp(wire, peer)


@asynccontextmanager
async def world(*zones: str) -> AsyncIterator[tuple[Authority, Counting]]:
    responder = Counting(Zones([parse_zone(zone) for zone in zones]), reactor)
    ports = listen(reactor, responder, "127.0.0.1", 0)
    host: Any = ports[0].getHost()
    try:
        resolver = Resolver(reactor, [f"127.0.0.1:{host.port}"])
        yield Authority(reactor, resolver, host.port), responder
    finally:
        await DeferredList([port.stopListening() for port in ports])  # type: ignore[misc]


@pytest_twisted.ensureDeferred
async def test_a_zone_with_a_thousand_servers_costs_a_few_questions() -> None:
    servers = "".join(f"@ NS ns{n}\nns{n} A 127.0.0.1\n" for n in range(300))
    async with world(HEAD + servers) as (asker, responder):
        told = await asker.find("evil.test", "TXT")
        assert told.exists and responder.asked < 10 * MAX_SERVERS


@pytest_twisted.ensureDeferred
async def test_aliases_without_end_are_a_loop() -> None:
    chain = "".join(f"c{n} CNAME c{n + 1}\n" for n in range(50)) + "c50 TXT end\n"
    async with world(HEAD + chain) as (asker, responder):
        assert (await asker.find("c0.evil.test", "TXT")).trouble == "loop"
        assert (await asker.find("c49.evil.test", "TXT")).records == {"end"}
        assert responder.asked < 30 * MAX_CHAIN


@pytest_twisted.ensureDeferred
async def test_servers_whose_names_lead_round_in_a_circle_are_servers_without_address() -> None:
    a = "$ORIGIN a.test.\n$TTL 60\n@ SOA x h 1 1 1 1 1\n@ NS ns.b.test.\n"
    b = "$ORIGIN b.test.\n$TTL 60\n@ SOA x h 1 1 1 1 1\n@ NS ns.a.test.\n"
    async with world(a, b) as (asker, _):
        told = await asker.find("a.test", "MX")
        assert (told.trouble, told.faults) == ("silent", (("ns.b.test", "no address"),))


@pytest_twisted.ensureDeferred
async def test_a_server_that_says_nothing_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "PATIENCE", (0.05, 0.05))
    zone = HEAD + "sub NS mute.sub\nmute.sub A 127.0.0.3\n"
    async with world(
        zone, "$ORIGIN sub.evil.test.\n$TTL 60\n@ SOA x h 1 1 1 1 1\n@ NS mute\nmute A 127.0.0.3\n"
    ) as (
        asker,
        _,
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.3", asker._port))
            told = await asker.find("sub.evil.test", "MX")
        assert (told.trouble, told.faults) == ("silent", (("mute.sub.evil.test", "no answer"),))


@pytest_twisted.ensureDeferred
async def test_one_check_up_never_asks_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "MAX_QUESTIONS", 3)
    async with world(HEAD) as (asker, _):
        troubles = [(await asker.find(f"n{n}.evil.test", "TXT")).trouble for n in range(5)]
    assert troubles == ["", "", "", "too_many", "too_many"]
    assert MAX_QUESTIONS > 3


@pytest_twisted.ensureDeferred
async def test_an_answer_too_large_for_udp_is_fetched_whole() -> None:
    records = "".join(f"many TXT {'x' * 200}{n}\n" for n in range(20))
    async with world(HEAD + records) as (asker, _):
        assert len((await asker.find("many.evil.test", "TXT")).records) == 20


@pytest_twisted.ensureDeferred
async def test_what_is_not_authoritative_is_not_believed() -> None:
    class Lying(Responder):
        def _fill(self, query: dns.message.Message, response: dns.message.Message) -> None:
            super()._fill(query, response)
            if query.question[0].rdtype == 16:  # TXT
                response.flags &= ~0x0400

    responder = Lying(Zones([parse_zone(HEAD + "t TXT forged\n")]), reactor)
    ports = listen(reactor, responder, "127.0.0.1", 0)
    host: Any = ports[0].getHost()
    try:
        asker = Authority(reactor, Resolver(reactor, [f"127.0.0.1:{host.port}"]), host.port)
        told = await asker.find("t.evil.test", "TXT")
    finally:
        await DeferredList([port.stopListening() for port in ports])  # type: ignore[misc]
    assert (told.records, told.faults) == (frozenset(), (("ns.evil.test", "not authoritative"),))
