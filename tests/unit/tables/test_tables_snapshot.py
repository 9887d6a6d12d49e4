"""What the doors and the queue ask the tables: rights, logins, owners, next hops."""

from __future__ import annotations

import pytest

from lorrainemail.addresses import Address, parse_address
from lorrainemail.config.load import load_text
from lorrainemail.envelope import Door, Session
from lorrainemail.errors import Reply
from lorrainemail.interfaces import Account, HopHost, Route
from lorrainemail.tables.accounts import parse_accounts
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import MAX_REMEMBERED, Snapshot

CONFIG = """
local_domains = ["x.org", "y.org"]
relay_domains = ["backup.org"]
relay_networks = ["192.168.1.0/24", "192.168.1.7", "2001:db8::/48", "::ffff:203.0.113.0/120"]
[relay]
"*" = "smarthost.example"
"*.free.fr" = "smtp.free.fr"
"free.fr" = "exact.free.fr:26"
"*.sub.free.fr" = ["a.free.fr", "[192.0.2.7]:587"]
"bob@free.fr" = { host = "bob.free.fr", tls = "verified", credentials = "c", share = true }
"dns.free.fr" = "mx"
"gone.free.fr" = { reject = "Closed" }
"*.x.org" = "elsewhere.x.org"
"away@x.org" = "away.x.org"
[relay_by_sender]
"*@news.x.org" = "bulk.example"
"<>" = "bounces.example"
"boss@x.org" = "boss.example"
"""
ACCOUNTS = "bob@x.org:::::::send_as=News@X.org,@z.org\ncarol@x.org:\ncarol@y.org:\ndave@y.org:::::::nologin\n"
ALIASES = "sales: bob, carol@y.org\n@y.org: bob@x.org\n"


@pytest.fixture
def tables() -> Snapshot:
    accounts = [row.account for row in parse_accounts(ACCOUNTS, "accounts")[0]]
    rows = memory_set(accounts=accounts, aliases=parse_aliases(ALIASES, "aliases")[0])
    return Snapshot(rows, Rules.of(load_text(CONFIG, "l.toml", "/state")))


def route(tables: Snapshot, recipient: str, sender: str = "a@far.org") -> Route:
    found = tables.route(parse_address(recipient), parse_address(sender) if sender else None)
    assert isinstance(found, Route)
    return found


# -- next hops -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipient", "pattern"),
    [
        ("bob@free.fr", "bob@free.fr"),
        ("BOB@Free.FR", "bob@free.fr"),
        ("carol@free.fr", "free.fr"),
        ("a@www.free.fr", "*.free.fr"),
        ("a@sub.free.fr", "*.sub.free.fr"),
        ("a@b.c.sub.free.fr", "*.sub.free.fr"),
        ("a@notfree.fr", "*"),
        ("a@fr", "*"),
        ("a@[192.0.2.1]", "*"),
        ("a@dns.free.fr", "dns.free.fr"),
        ("a@far.x.org", "*.x.org"),
        ("away@x.org", "away@x.org"),
        ("bob@x.org", ""),
    ],
)
def test_the_most_specific_row_wins(tables: Snapshot, recipient: str, pattern: str) -> None:
    assert route(tables, recipient).pattern == pattern


def test_a_suffix_row_covers_the_suffix_itself() -> None:
    rules = Rules.of(load_text('[relay]\n"*.free.fr" = "smtp.free.fr"\n', "l.toml", "/state"))
    assert route(Snapshot(memory_set(), rules), "a@free.fr").pattern == "*.free.fr"


def test_a_row_says_everything_about_the_next_hop_and_where_it_stands(tables: Snapshot) -> None:
    found = route(tables, "bob@free.fr")
    assert found.kind == "hosts"
    assert found.hosts == (HopHost("bob.free.fr", 25),)
    assert (found.tls, found.credentials, found.share) == ("verified", "c", True)
    assert str(found.origin) == "l.toml:10"
    assert "l.toml:10" in found.reasons[-1]
    assert route(tables, "a@sub.free.fr").hosts == (HopHost("a.free.fr", 25), HopHost("192.0.2.7", 587))


def test_the_dns_decides_where_a_row_says_mx_or_none_matches(tables: Snapshot) -> None:
    assert route(tables, "a@dns.free.fr").kind == "mx"
    assert route(tables, "a@dns.free.fr").domain == "dns.free.fr"
    found = Snapshot(memory_set(), Rules()).route(Address("a", "far.org"), None)
    assert found == Route("mx", "far.org", reasons=("no relay row matches: the DNS (MX) decides",))


def test_a_row_by_sender_comes_first_but_not_for_what_is_ours_or_refused(tables: Snapshot) -> None:
    assert route(tables, "bob@free.fr", "boss@x.org").pattern == "boss@x.org"
    assert route(tables, "bob@free.fr", "q@news.x.org").hosts == (HopHost("bulk.example", 25),)
    assert route(tables, "bob@free.fr", "").pattern == "<>"
    assert route(tables, "bob@free.fr", "q@far.org").pattern == "bob@free.fr"
    assert route(tables, "away@x.org", "boss@x.org").pattern == "away@x.org"
    assert route(tables, "a@gone.free.fr", "boss@x.org").kind == "reject"


def test_a_rejecting_row_has_its_own_words(tables: Snapshot) -> None:
    assert route(tables, "a@gone.free.fr").reply == Reply(550, "5.7.1", "Closed")


# -- the right to relay ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("door", "peer", "account", "allowed"),
    [
        ("smtp", "192.168.1.200", "", True),
        ("smtp", "192.168.2.1", "", False),
        ("smtp", "2001:db8::5", "", True),
        ("smtp", "2001:db8:1::5", "", False),
        ("smtp", "203.0.113.9", "", True),
        ("smtp", "127.0.0.1", "", False),
        ("smtp", "::1", "", False),
        ("smtp", "", "", False),
        ("smtp", "nonsense", "", False),
        ("smtp", "198.51.100.1", "bob@x.org", True),
        ("submission", "198.51.100.1", "bob@x.org", True),
        ("submissions", "198.51.100.1", "bob@x.org", True),
        ("submission", "192.168.1.200", "", False),
        ("lmtp", "192.168.1.200", "", False),
        ("lmtp", "", "bob@x.org", False),
        ("local", "", "", True),
    ],
)
def test_who_may_send_anywhere(tables: Snapshot, door: Door, peer: str, account: str, allowed: bool) -> None:
    right = tables.relay_right(Session("s", door, peer, account=account))
    assert right.allowed is allowed
    assert right.reason


def test_the_reason_names_the_row(tables: Snapshot) -> None:
    assert "192.168.1.7/32 (l.toml:4)" in tables.relay_right(Session("s", "smtp", "192.168.1.7")).reason
    assert "192.168.1.0/24 (l.toml:4)" in tables.relay_right(Session("s", "smtp", "192.168.1.8")).reason


def test_no_row_allows_anybody() -> None:
    assert not Snapshot(memory_set(), Rules()).relay_right(Session("s", "smtp", "127.0.0.1")).allowed


# -- accounts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bob@x.org", "bob@x.org"),
        ("BOB@X.ORG", "bob@x.org"),
        ("bob", "bob@x.org"),
        ("dave", "dave@y.org"),
        ("carol", ""),
        ("carol@y.org", "carol@y.org"),
        ("sales@x.org", ""),
        ("bob+a@x.org", ""),
        ("", ""),
        ("bob@", ""),
        ("bob\n", ""),
        ("b" * 600, ""),
    ],
)
def test_what_a_login_name_means(tables: Snapshot, name: str, found: str) -> None:
    account = tables.login(name)
    assert (account.address.key if isinstance(account, Account) else "") == found


@pytest.mark.parametrize(
    ("address", "owned"),
    [
        ("bob@x.org", True),
        ("Bob+list@x.org", True),
        ("sales@x.org", True),
        ("news@x.org", True),
        ("any@z.org", True),
        ("any@y.org", True),
        ("carol@y.org", False),
        ("carol@x.org", False),
        ("bob@far.org", False),
        ("away@x.org", False),
        ("nobody@x.org", False),
    ],
)
def test_whom_an_account_may_send_as(tables: Snapshot, address: str, owned: bool) -> None:
    bob = tables.account(Address("bob", "x.org"))
    assert isinstance(bob, Account)
    assert tables.owns(bob, parse_address(address)) is owned


def test_local_domains(tables: Snapshot) -> None:
    assert tables.is_local("x.org") is True
    assert tables.is_local("backup.org") is False
    assert tables.is_local("far.org") is False


def test_a_flood_of_unknown_recipients_does_not_fill_the_memory(tables: Snapshot) -> None:
    for number in range(MAX_REMEMBERED + 100):
        tables.expand(Address(f"u{number}", "x.org"))
    assert len(tables._expansions) <= MAX_REMEMBERED
