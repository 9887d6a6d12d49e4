"""What a recipient comes to: aliases, subaddresses, catch-all, postmaster; never a loop, never a route."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from lorrainemail.addresses import Address, parse_address
from lorrainemail.config.load import load_text
from lorrainemail.errors import Reply, TemporaryError
from lorrainemail.interfaces import Expansion, LocalMailbox, RemoteMailbox
from lorrainemail.tables import expand as expand_module
from lorrainemail.tables.accounts import parse_accounts
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.backend import TableSet
from lorrainemail.tables.memory import MemoryAccounts, MemoryAliases, MemoryDomains, memory_set
from lorrainemail.tables.reached import BAD_TABLES, NO_ROUTES, UNKNOWN_USER
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot

CONFIG = """
local_domains = ["x.org", "y.org", "z.org"]
relay_domains = ["backup.org"]
subaddress = "+-"
[relay]
"away@x.org" = "other.x.org"
"closed@x.org" = { reject = "Has left" }
"*.refused.org" = { reject = "Not there" }
"""
ACCOUNTS = """
bob@x.org:
carol@x.org:
jean-paul@x.org:
Été@x.org:
gone@x.org:{CRYPT}x::::::nologin=y
only-y@y.org:
"""


def snapshot(aliases: str = "", accounts: str = ACCOUNTS, config: str = CONFIG) -> Snapshot:
    rows, problems, _ = parse_aliases(aliases, "aliases")
    account_rows, account_problems = parse_accounts(accounts, "accounts")
    assert not problems and not account_problems
    tables = memory_set(accounts=[row.account for row in account_rows], aliases=rows)
    return Snapshot(tables, Rules.of(load_text(config, "l.toml", "/state")))


def expand(tables: Snapshot, address: str | Address) -> Expansion:
    found = tables.expand(parse_address(address) if isinstance(address, str) else address)
    assert isinstance(found, Expansion)
    return found


def finals(tables: Snapshot, address: str | Address) -> list[str]:
    """``account/folder`` of local ones, ``→ address`` of others; or the refusal."""
    expansion = expand(tables, address)
    if expansion.refused is not None:
        assert not expansion.finals
        return [str(expansion.refused.reply)]
    return [
        f"{f.account.address}/{f.folder}" if isinstance(f, LocalMailbox) else f"→ {f.address}"
        for f in expansion.finals
    ]


def test_an_account_gets_its_mail_whatever_the_case() -> None:
    tables = snapshot()
    assert finals(tables, "bob@x.org") == finals(tables, "BoB@X.ORG") == ["bob@x.org/"]
    assert finals(tables, "éTÉ@x.org") == ["Été@x.org/"]


def test_a_disabled_account_still_gets_its_mail() -> None:
    assert finals(snapshot(), "gone@x.org") == ["gone@x.org/"]


def test_an_unknown_user_is_refused_for_good() -> None:
    assert finals(snapshot(), "nobody@x.org") == [str(UNKNOWN_USER)]
    assert UNKNOWN_USER.code == 550 and UNKNOWN_USER.enhanced == "5.1.1"


def test_mail_for_elsewhere_is_not_ours() -> None:
    expansion = expand(snapshot(), "a@far.org")
    assert expansion == Expansion(False, (RemoteMailbox(Address("a", "far.org")),))


def test_a_bare_alias_holds_in_every_local_domain_and_a_whole_one_comes_before_it() -> None:
    tables = snapshot("info: bob@x.org\ninfo@y.org: carol@x.org\n")
    assert finals(tables, "info@x.org") == ["bob@x.org/"]
    assert finals(tables, "info@y.org") == ["carol@x.org/"]


def test_an_alias_comes_before_the_account_and_may_keep_a_copy() -> None:
    assert finals(snapshot("bob@x.org: carol"), "bob@x.org") == ["carol@x.org/"]
    tables = snapshot("bob@x.org: bob, a@far.org")
    assert finals(tables, "bob@x.org") == ["bob@x.org/", "→ a@far.org"]
    assert finals(tables, "bob+list@x.org") == ["bob@x.org/list", "→ a@far.org"]


def test_a_backslash_ends_the_aliases() -> None:
    tables = snapshot("bob: carol\ncarol: \\bob\n")
    assert finals(tables, "carol@x.org") == ["bob@x.org/"]


def test_a_forwarded_recipient_is_marked_and_its_way_is_told() -> None:
    (final,) = expand(snapshot("sales@x.org: team\nteam: a@far.org\n"), "sales@x.org").finals
    assert isinstance(final, RemoteMailbox) and final.forwarded
    assert [(step.what, str(step.origin)) for step in final.path] == [
        ("x.org is a local domain", "l.toml:2"),
        ("alias sales@x.org → team@x.org", "aliases:1"),
        ("alias team → a@far.org", "aliases:2"),
    ]


def test_a_recipient_reached_twice_gets_one_copy() -> None:
    tables = snapshot("all: a, b\na: bob, x@far.org\nb: BOB@x.org, x@far.org, bob\n")
    assert finals(tables, "all@x.org") == ["bob@x.org/", "→ x@far.org"]


def test_a_bare_target_is_the_user_of_the_same_domain_or_the_only_one_there_is() -> None:
    tables = snapshot("help: only-y\n", ACCOUNTS + "bob@y.org:\n")
    assert finals(tables, "help@x.org") == ["only-y@y.org/"]
    tables = snapshot("help: bob\n", ACCOUNTS + "bob@y.org:\n")
    assert finals(tables, "help@y.org") == ["bob@y.org/"]
    assert finals(tables, "help@z.org") == [str(UNKNOWN_USER)]


def test_a_target_that_is_nobody_is_left_out_and_noted() -> None:
    expansion = expand(snapshot("mixed: bob, nobody\n"), "mixed@x.org")
    assert [str(f.address) for f in expansion.finals] == ["bob@x.org"]
    assert [note.what for note in expansion.notes] == ["nobody@x.org is nobody here"]


@pytest.mark.parametrize(
    "aliases",
    ["a: b\nb: a\n", "a: b\nb: c\nc: b\n", "a: a\n", "a@x.org: b@y.org\nb@y.org: a@x.org\n", 'a: "|cmd"\n'],
)
def test_a_loop_or_an_unsupported_target_loses_no_mail(aliases: str) -> None:
    assert finals(snapshot(aliases), "a@x.org") == [str(BAD_TABLES)]
    assert BAD_TABLES.temporary


def test_a_loop_beside_a_good_target_does_not_hold_up_the_good_one() -> None:
    tables = snapshot("a: b, bob\nb: a\n")
    assert finals(tables, "a@x.org") == ["bob@x.org/"]


def test_a_long_row_of_aliases_ends() -> None:
    aliases = "".join(f"a{i}: a{i + 1}\n" for i in range(50)) + "a50: bob\n"
    tables = snapshot(aliases)
    assert finals(tables, "a0@x.org") == [str(BAD_TABLES)]
    assert finals(tables, "a45@x.org") == ["bob@x.org/"]


def test_a_huge_alias_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expand_module, "MAX_FINALS", 3)
    tables = snapshot("all: a@f.org, b@f.org, c@f.org, d@f.org, e@f.org\n")
    assert finals(tables, "all@x.org") == [str(BAD_TABLES)]


# -- subaddresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "final"),
    [
        ("bob+list@x.org", "bob@x.org/list"),
        ("Bob+Lists.Python@x.org", "bob@x.org/Lists.Python"),
        ("bob-list@x.org", "bob@x.org/list"),
        ("jean-paul@x.org", "jean-paul@x.org/"),
        ("jean-paul+a@x.org", "jean-paul@x.org/a"),
        ("jean-paul-a@x.org", "jean-paul@x.org/a"),
        ("bob+a+b@x.org", "bob@x.org/"),
        ("bob+@x.org", "bob@x.org/"),
        ('"bob+../../etc"@x.org', "bob@x.org/"),
        ("bob+a/b@x.org", "bob@x.org/"),
        ('"bob+.hidden"@x.org', "bob@x.org/"),
    ],
)
def test_a_detail_names_a_folder_and_never_a_path(address: str, final: str) -> None:
    assert finals(snapshot(), address) == [final]


def test_subaddresses_can_be_switched_off() -> None:
    tables = snapshot(config=CONFIG.replace('"+-"', '""'))
    assert finals(tables, "bob+list@x.org") == [str(UNKNOWN_USER)]


def test_a_whole_row_for_a_subaddress_comes_first() -> None:
    tables = snapshot("bob+list: carol\n")
    assert finals(tables, "bob+list@x.org") == ["carol@x.org/"]


def test_one_local_part_is_not_parted_at_hundreds_of_places() -> None:
    assert finals(snapshot(), "bob" + "+a" * 30 + "@x.org") == [str(UNKNOWN_USER)]


# -- catch-all and postmaster ----------------------------------------------------------------------------


def test_a_catch_all_takes_what_has_no_row() -> None:
    tables = snapshot("@x.org: bob\n@z.org: @x.org\n")
    assert finals(tables, "anything@x.org") == ["bob@x.org/"]
    assert finals(tables, "carol@x.org") == ["carol@x.org/"]
    assert finals(tables, "carol@z.org") == ["carol@x.org/"]
    assert finals(tables, "anything@z.org") == ["bob@x.org/"]


@pytest.mark.parametrize("aliases", ["@x.org: nobody@x.org\n", "@x.org: @y.org\n@y.org: @x.org\n"])
def test_catch_alls_that_lead_to_each_other_end(aliases: str) -> None:
    assert finals(snapshot(aliases), "q@x.org") == [str(UNKNOWN_USER)]


@pytest.mark.parametrize("address", ["postmaster@x.org", "PostMaster@X.org", "postmaster@z.org"])
def test_the_postmaster_is_always_reached(address: str) -> None:
    assert finals(snapshot(), address) == ["bob@x.org/"]


def test_the_postmaster_is_who_the_tables_say() -> None:
    assert finals(snapshot("postmaster: carol\n"), "postmaster@x.org") == ["carol@x.org/"]
    assert finals(snapshot(accounts="bob@x.org:\npostmaster@x.org:\n"), "postmaster@x.org") == [
        "postmaster@x.org/"
    ]
    assert finals(snapshot(), "postmaster@y.org") == ["only-y@y.org/"]


def test_whom_our_notices_name_is_reached_at_the_servers_own_name() -> None:
    tables = snapshot("postmaster@x.org: carol\n", config='hostname = "Mail.Other.org"\n' + CONFIG)
    for name in ("postmaster", "PostMaster", "MAILER-DAEMON"):
        expansion = expand(tables, f"{name}@mail.other.org")
        assert expansion.local
        assert finals(tables, f"{name}@mail.other.org") == ["carol@x.org/"]
    assert not expand(tables, "bob@mail.other.org").local
    assert not expand(tables, "postmaster@other.org").local
    own = snapshot(config='hostname = "x.org"\n' + CONFIG)
    assert finals(own, "mailer-daemon@x.org") == [str(UNKNOWN_USER)]


def test_a_postmaster_without_a_domain_is_accepted() -> None:
    expansion = expand(snapshot(), Address("Postmaster", ""))
    assert expansion.local
    assert [str(f.address) for f in expansion.finals] == ["Postmaster@x.org"]


def test_a_server_without_any_account_asks_to_try_again_for_the_postmaster() -> None:
    assert finals(snapshot(accounts=""), "postmaster@x.org") == [str(BAD_TABLES)]
    assert finals(snapshot(config="", accounts=""), Address("postmaster", "")) == [str(BAD_TABLES)]


# -- never a second routing step -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "local", ["user%far.org", "far.org!user", '"user@far.org"', '"bob@x.org"', "bob%x.org"]
)
def test_a_route_in_the_local_part_goes_nowhere(local: str) -> None:
    tables = snapshot()
    assert finals(tables, f"{local}@x.org") == [str(UNKNOWN_USER)]
    assert finals(tables, f"{local}@backup.org") == [str(NO_ROUTES)]
    tables = snapshot("@x.org: @backup.org\n@y.org: @far.org\n")
    assert finals(tables, f"{local}@x.org") == [str(NO_ROUTES)]
    assert finals(tables, f"{local}@y.org") == [str(NO_ROUTES)]


def test_a_backup_domain_is_accepted_for_elsewhere() -> None:
    expansion = expand(snapshot(), "a@backup.org")
    assert expansion.local
    (final,) = expansion.finals
    assert isinstance(final, RemoteMailbox) and not final.forwarded


# -- relay rows that say something about a recipient -----------------------------------------------------


def test_a_relay_row_for_the_whole_address_overrides_the_local_domain() -> None:
    tables = snapshot("away: bob\n@x.org: carol\n")
    assert finals(tables, "away@x.org") == ["→ away@x.org"]
    assert expand(tables, "away@x.org").local


def test_a_row_that_rejects_refuses_at_once_with_its_words() -> None:
    tables = snapshot("old: closed, a@sub.refused.org\nmixed: closed, bob\n")
    left, refused = Reply(550, "5.7.1", "Has left"), Reply(550, "5.7.1", "Not there")
    assert finals(tables, "closed@x.org") == [str(left)]
    assert finals(tables, "a@refused.org") == [str(refused)]
    assert not expand(tables, "a@refused.org").local
    assert finals(tables, "old@x.org") == [str(left)]
    assert finals(tables, "mixed@x.org") == ["bob@x.org/"]


# -- slow and failing backends ---------------------------------------------------------------------------


class SlowAccounts(MemoryAccounts):
    """Answers when told to."""

    def __init__(self) -> None:
        super().__init__(row.account for row in parse_accounts(ACCOUNTS, "accounts")[0])
        self.asked: list[tuple[Deferred[object], str]] = []

    def account(self, key: str) -> Deferred[object]:  # type: ignore[override]
        answer: Deferred[object] = Deferred()
        self.asked.append((answer, key))
        return answer


def slow_tables(accounts: MemoryAccounts, aliases: MemoryAliases | None = None) -> Snapshot:
    plain = memory_set()
    tables = TableSet(
        MemoryDomains(), accounts, aliases or MemoryAliases(), plain.networks, plain.routes, steady=False
    )
    return Snapshot(tables, Rules.of(load_text(CONFIG, "l.toml", "/state")))


def test_a_backend_that_answers_later_gives_the_same_expansion() -> None:
    accounts = SlowAccounts()
    answer = slow_tables(accounts).expand(Address("bob", "x.org"))
    assert isinstance(answer, Deferred) and not answer.called
    (waiting, key) = accounts.asked[0]
    waiting.callback(MemoryAccounts.account(accounts, key))
    found: list[Expansion] = []
    answer.addCallback(found.append)
    assert [str(f.address) for f in found[0].finals] == ["bob@x.org"]


class FailingAliases(MemoryAliases):
    """A database that is down."""

    def alias(self, key: str) -> Deferred[None]:  # type: ignore[override]
        return fail(TemporaryError(Reply(451, "4.3.0", "Try again later"), "database down"))


def test_a_backend_that_fails_never_makes_a_user_unknown() -> None:
    tables = slow_tables(MemoryAccounts(), FailingAliases())
    with pytest.raises(TemporaryError):
        tables.expand(Address("bob", "x.org"))


class CountingAccounts(MemoryAccounts):
    """Tells how often it was asked."""

    def __init__(self, rows: Iterable[object]) -> None:
        super().__init__(rows)  # type: ignore[arg-type]
        self.count = 0

    def account(self, key: str):  # type: ignore[no-untyped-def]
        self.count += 1
        return succeed(super().account(key))


def test_a_slow_backend_is_asked_anew_for_every_message() -> None:
    accounts = CountingAccounts(row.account for row in parse_accounts(ACCOUNTS, "accounts")[0])
    tables = slow_tables(accounts)
    for expected in (1, 2):
        assert isinstance(tables.expand(Address("bob", "x.org")), Expansion)
        assert accounts.count == expected
