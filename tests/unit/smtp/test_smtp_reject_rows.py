"""Relay rows that refuse, by the sender too, do so while the client is still there."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from lorrainemail.config.model import RelayRow
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import NetworkRow, RouteRow, Rules
from lorrainemail.tables.snapshot import Snapshot

NO = RelayRow(reject="Not from you")


def rows(**patterns: RelayRow) -> dict[str, RouteRow]:
    return {pattern: RouteRow(pattern, row) for pattern, row in patterns.items()}


@pytest.fixture
def client(world: Any) -> Any:
    aliases, broken, _ = parse_aliases("out: a@x.test, b@y.test\nboth: a@x.test, bob@ours.test\n", "aliases")
    assert not broken
    world.tables.snapshot = Snapshot(
        memory_set(accounts=world.snapshot.tables.accounts.accounts(), aliases=aliases),
        Rules(
            domains=world.snapshot.rules.domains,
            networks=(NetworkRow(ipaddress.ip_network("10.1.0.0/16")),),
            relay_by_sender=rows(**{"bad.test": NO, "<>": RelayRow(reject="No bounces")}),
        ),
    )
    client = world.connect("10.1.2.3")
    client.say("EHLO c")
    return client


def test_row_by_sender_refuses_at_rcpt_what_would_leave(world: Any, client: Any) -> None:
    assert client.say("MAIL FROM:<x@bad.test>", "RCPT TO:<y@elsewhere.test>") == ["250 2.1.0", "550 5.7.1"]
    assert client.send("RCPT TO:<y@elsewhere.test>\r\n") == "550 5.7.1 Not from you\r\n"
    assert client.say("RCPT TO:<bob@ours.test>") == ["250 2.1.5"]
    assert client.say("RSET", "MAIL FROM:<x@good.test>", "RCPT TO:<y@elsewhere.test>")[-1] == "250 2.1.5"
    client.say("RSET", "MAIL FROM:<>")
    assert client.send("RCPT TO:<y@elsewhere.test>\r\n") == "550 5.7.1 No bounces\r\n"


def test_alias_is_refused_only_where_nobody_behind_it_is_left(world: Any, client: Any) -> None:
    client.say("MAIL FROM:<x@bad.test>")
    assert client.say("RCPT TO:<out@ours.test>", "RCPT TO:<both@ours.test>") == ["550 5.7.1", "250 2.1.5"]


def test_slow_routes_are_waited_for(world: Any, client: Any) -> None:
    snapshot = world.tables.snapshot
    waiting: Deferred[Any] = Deferred()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(snapshot, name)

        def route(self, recipient: Any, sender: Any) -> Deferred[Any]:
            return waiting.addCallback(lambda _: snapshot.route(recipient, sender))

    world.tables.snapshot = Slow()
    client.say("MAIL FROM:<x@bad.test>")
    assert client.send("RCPT TO:<y@elsewhere.test>\r\n") == ""
    waiting.callback(None)
    assert client.read() == "550 5.7.1 Not from you\r\n"
