"""Over random tables: explain says what RCPT answers, the most specific row wins, expansions end."""

from __future__ import annotations

import ipaddress
import itertools
import tempfile
from base64 import b64encode
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from lorrainemail.addresses import Address, parse_address
from lorrainemail.cli.explain import Explanation, Question, explain
from lorrainemail.config.model import RelayRow
from lorrainemail.delivery.hops import NextHops
from lorrainemail.envelope import Session
from lorrainemail.interfaces import (
    Account,
    Expansion,
    IAuthenticator,
    LocalMailbox,
    PolicyResources,
    RemoteMailbox,
    Route,
)
from lorrainemail.policy.chain import PolicyChain, build_chain
from lorrainemail.sasl.exchange import PasswordLogins
from lorrainemail.sasl.portal import Principal
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.factory import SmtpFactory
from lorrainemail.smtp.settings import DoorSettings
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.backend import TableSet
from lorrainemail.tables.memory import MemoryAccounts, MemoryAliases, memory_set
from lorrainemail.tables.route import patterns_of, route
from lorrainemail.tables.rules import DomainRow, NetworkRow, RouteRow, Rules
from lorrainemail.tables.snapshot import Snapshot

USERS = ("a", "b", "c", "postmaster", "a+b", "a%b", "c!a", '"a@b"', "A")
DOMAINS = ("x.org", "y.org", "sub.x.org", "free.fr", "www.free.fr", "[192.0.2.1]")
PEERS = ("198.51.100.7", "10.1.2.3", "10.2.0.1", "127.0.0.1")
NETWORKS = ("10.1.0.0/16", "10.1.2.3/32", "10.0.0.0/8", "198.51.100.0/24", "127.0.0.1/32")

addresses = st.builds(
    lambda user, domain: parse_address(f"{user}@{domain}"), st.sampled_from(USERS), st.sampled_from(DOMAINS)
)
rows = st.sampled_from(
    [
        RelayRow(host=("one.example:25",)),
        RelayRow(host=("two.example:587",)),
        RelayRow(mx=True),
        RelayRow(reject="No"),
    ]
)
patterns = st.one_of(
    st.sampled_from(["*", "*.org", "*.x.org", "*.fr", "*.free.fr", "*.www.free.fr", *DOMAINS]),
    addresses.map(lambda address: address.key),
)
targets = st.one_of(
    addresses.map(str),
    st.sampled_from(
        ["a", "b", "c", "\\a", "@y.org", "@x.org", "@free.fr", '"|cmd"', "/file", ":include:/list"]
    ),
)
alias_keys = st.one_of(st.sampled_from(["a", "b", "c", "postmaster", "@x.org", "@y.org"]), addresses.map(str))
aliases = st.dictionaries(alias_keys, st.lists(targets, min_size=1, max_size=3), max_size=6)
accounts = st.lists(addresses, max_size=5)
local = st.lists(st.sampled_from(DOMAINS), max_size=4, unique=True)
relay = st.dictionaries(patterns, rows, max_size=6)


def rules_of(domains: list[str], backup: list[str], relay: dict[str, RelayRow], networks: list[str]) -> Rules:
    named = {name: DomainRow(name, "backup") for name in backup}
    named |= {name: DomainRow(name) for name in domains}
    return Rules(
        domains=named,
        networks=tuple(NetworkRow(ipaddress.ip_network(network)) for network in networks),
        relay={pattern: RouteRow(pattern, row) for pattern, row in relay.items()},
    )


def tables_of(accounts: list[Address], aliases: dict[str, list[str]]) -> TableSet:
    text = "".join(f"{key}: {', '.join(values)}\n" for key, values in aliases.items())
    parsed, problems, _ = parse_aliases(text, "aliases")
    assert not problems, problems
    return memory_set(accounts=[Account(address) for address in accounts], aliases=parsed)


def now(value: Any) -> Any:
    """What a coroutine or Deferred that needs no waiting comes to."""
    found: list[Any] = []
    Deferred.fromCoroutine(value).addCallback(found.append)
    return found[0]


async def find(route: Route) -> NextHops:
    return NextHops(reasons=route.reasons)


# -- explain and the doors -----------------------------------------------------------------------------


@implementer(IAuthenticator)
class Anybody(PasswordLogins):
    """Believes everybody."""

    def __init__(self, tables: Snapshot) -> None:
        self._tables = tables

    def authenticate(
        self, username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[Any]:
        account: Any = self._tables.account(parse_address(username.decode()))
        return succeed(Principal(account, None, mechanism))  # type: ignore[arg-type]


@attrs.frozen
class Service:
    """A table service with one snapshot."""

    snapshot: Snapshot

    def current(self) -> Snapshot:
        return self.snapshot


def rcpt_reply(
    snapshot: Snapshot, policy: PolicyChain, clock: Clock, question: Question, directory: str
) -> str:
    """The real door's answer to RCPT (or to what refuses before it), without its code's ending."""
    submission = question.account is not None
    door = Door(
        DoorSettings(
            "submission" if submission else "smtp",
            "mail.x.org",
            directory,
            login="required" if submission else "no",
            plaintext_login=True,
        ),
        clock,
        Service(snapshot),  # type: ignore[arg-type]
        policy,
        lambda account, size: None,
        None,  # type: ignore[arg-type]
        Silent(),  # type: ignore[arg-type]
        None,
        Anybody(snapshot),
        lambda size: None,
        lambda: 1_700_000_000.0,
    )
    server = SmtpFactory(door).buildProtocol(None)
    transport = StringTransport(
        IPv4Address("TCP", "192.0.2.25", 25), IPv4Address("TCP", question.peer, 4242), lenient=True
    )
    server.makeConnection(transport)
    lines = [f"EHLO [{question.peer}]"]
    if question.account is not None:
        lines.append("AUTH PLAIN " + b64encode(f"\0{question.account.address}\0x".encode()).decode())
    lines += [f"MAIL FROM:<{question.sender or ''}>", f"RCPT TO:<{question.recipient}>"]
    reply = ""
    for line in lines:
        transport.clear()
        server.dataReceived(line.encode() + b"\r\n")
        reply = transport.value().decode().strip()
        if reply[0] not in "23":
            break
    server.connectionLost(Failure(ConnectionDone()))
    clock.advance(120)
    return reply


class Silent:
    """A trace that nobody reads."""

    def event(self, message: str, kind: str, **facts: object) -> None:
        pass


@settings(max_examples=100, deadline=None)
@given(
    local,
    st.lists(st.sampled_from(DOMAINS), max_size=1),
    accounts,
    aliases,
    relay,
    st.lists(st.sampled_from(NETWORKS), max_size=2, unique=True),
    st.lists(
        st.tuples(addresses, st.none() | addresses, st.sampled_from(PEERS), st.booleans()),
        min_size=1,
        max_size=4,
    ),
)
def test_explain_says_what_the_door_answers(
    domains: list[str],
    backup: list[str],
    accounts: list[Address],
    aliases: dict[str, list[str]],
    relay: dict[str, RelayRow],
    networks: list[str],
    asked: list[tuple[Address, Address | None, str, bool]],
) -> None:
    snapshot = Snapshot(tables_of(accounts, aliases), rules_of(domains, backup, relay, networks))
    clock = Clock()
    policy = build_chain(("limits", "helo", "loops"), PolicyResources(clock, None, "mail.x.org"))
    with tempfile.TemporaryDirectory() as directory:
        for recipient, sender, peer, login in asked:
            account = snapshot.tables.accounts.first("x.org") if login else None
            question = Question(recipient, sender, peer, account)  # type: ignore[arg-type]
            found: Explanation = now(explain(question, snapshot, policy, lambda account, size: None, find))
            reply = rcpt_reply(snapshot, policy, clock, question, directory)
            if found.refusal is None:
                assert reply.startswith("250")
                assert [way.final for way in found.ways] == list(found.expansion.finals)  # type: ignore[union-attr]
            else:
                assert reply == str(found.refusal.reply)
                assert not found.ways


# -- routes ----------------------------------------------------------------------------------------------


def by_the_book(relay: list[str], recipient: Address) -> str:
    """The most specific pattern, found the slow way: try each row, keep the best."""
    best, rank = "", (0, 0)
    for pattern in relay:
        domain = recipient.domain
        mine = (0, 0)
        if pattern == recipient.key:
            mine = (4, 0)
        elif pattern == domain:
            mine = (3, 0)
        elif pattern.startswith("*.") and ("." + domain).endswith(pattern[1:]):
            mine = (2, len(pattern))
        elif pattern == "*":
            mine = (1, 0)
        if mine > rank:
            best, rank = pattern, mine
    return best


@settings(max_examples=120, deadline=None)
@given(relay, addresses, st.randoms(use_true_random=False))
def test_the_most_specific_row_wins_whatever_the_order(
    relay: dict[str, RelayRow], recipient: Address, random: Any
) -> None:
    items = [(pattern, RouteRow(pattern, row)) for pattern, row in relay.items()]
    expected = by_the_book([pattern for pattern, _ in items], recipient)
    for _ in range(3):
        random.shuffle(items)
        assert route(dict(items), {}, recipient, None, False).pattern == expected
    own = route(dict(items), {}, recipient, None, True).pattern
    assert own == (recipient.key if recipient.key in relay else "")


@given(
    st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=5),
    st.text("ab", min_size=1, max_size=3),
)
def test_patterns_of_an_address_get_ever_wider(labels: list[str], user: str) -> None:
    address = Address(user, ".".join(labels))
    found = patterns_of(address)
    assert found[0] == address.key and found[1] == address.domain and found[-1] == "*"
    assert len(found) == len(set(found)) == len(labels) + 3
    suffixes = found[2:-1]
    assert all(wide[1:] == narrow[1:][-len(wide) + 1 :] for narrow, wide in itertools.pairwise(suffixes))


# -- expansion ---------------------------------------------------------------------------------------------


def expansion_of(snapshot: Snapshot, address: Address) -> Expansion:
    found = snapshot.expand(address)
    assert isinstance(found, Expansion)
    return found


@settings(max_examples=150, deadline=None)
@given(local, accounts, aliases, relay, addresses)
def test_an_expansion_ends_and_reaches_nobody_twice(
    domains: list[str],
    accounts: list[Address],
    aliases: dict[str, list[str]],
    relay: dict[str, RelayRow],
    recipient: Address,
) -> None:
    snapshot = Snapshot(tables_of(accounts, aliases), rules_of(domains, [], relay, []))
    expansion = expansion_of(snapshot, recipient)
    assert (expansion.refused is None) == bool(expansion.finals)
    assert expansion.local == (recipient.domain in domains)
    reached = set()
    for final in expansion.finals:
        if isinstance(final, LocalMailbox):
            assert final.account.address in accounts
            assert final.account.address.domain in domains or final.path
            key = (final.account.address.key, final.folder)
        else:
            assert isinstance(final, RemoteMailbox)
            # Ours goes elsewhere only by a row for the whole address; and nothing is routed by a local part.
            assert final.address.domain not in domains or final.address.key in relay
            assert final.forwarded or final.address == recipient
            key = (final.address.key, "remote")
        assert key not in reached
        reached.add(key)


@settings(max_examples=80, deadline=None)
@given(local, accounts, aliases, relay, addresses)
def test_a_table_that_answers_later_means_the_same(
    domains: list[str],
    accounts: list[Address],
    aliases: dict[str, list[str]],
    relay: dict[str, RelayRow],
    recipient: Address,
) -> None:
    quick, rules = tables_of(accounts, aliases), rules_of(domains, [], relay, [])
    waiting: list[tuple[Deferred[Any], Any]] = []

    def later(answer: Any) -> Deferred[Any]:
        waiting.append((Deferred(), answer))
        return waiting[-1][0]

    class LateAccounts(MemoryAccounts):
        def account(self, key: str) -> Any:
            return later(super().account(key))

    class LateAliases(MemoryAliases):
        def alias(self, key: str) -> Any:
            return later(super().alias(key))

    slow = attrs.evolve(
        quick,
        accounts=LateAccounts(quick.accounts.accounts()),
        aliases=LateAliases(quick.aliases.aliases()),
        steady=False,
    )
    answer = Snapshot(slow, rules).expand(recipient)
    while waiting:
        deferred, value = waiting.pop()
        deferred.callback(value)
    found: list[Expansion] = []
    if isinstance(answer, Deferred):
        answer.addCallback(found.append)
    else:
        found.append(answer)
    assert found == [expansion_of(Snapshot(quick, rules), recipient)]
