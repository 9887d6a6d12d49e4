"""The table files: what their lines mean, and what a running server does when they change or break."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

import lorrainemail.plugins
from lorrainemail.addresses import Address, parse_address
from lorrainemail.config.load import load_text
from lorrainemail.errors import ConfigurationError, Origin, Problem
from lorrainemail.interfaces import Account, Credential, Expansion, SystemUser
from lorrainemail.tables import files
from lorrainemail.tables.accounts import AccountLine, parse_accounts
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.backend import find_backend
from lorrainemail.tables.edit import add_account, confirm, remove_account
from lorrainemail.tables.files import FileSource, parse_domains, parse_secrets
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.service import CHECK_INTERVAL, LOOK_GAP, TableService

# -- accounts --------------------------------------------------------------------------------------------


def one_account(line: str) -> Account:
    rows, problems = parse_accounts(line, "accounts")
    assert not problems, problems
    return rows[0].account


def test_a_dovecot_line_is_read_with_its_extra_fields() -> None:
    account = one_account(
        "# users\n\nbob@x.org:{ARGON2ID}$argon2id$v=19$m=1,t=2,p=1$c2FsdA$aGFzaA:1000:1000:Bob:/home/bob:"
        "/bin/sh:userdb_quota_rule=*:storage=1G:messages=500 userdb_quota_rule2=Trash:storage=+100M "
        "userdb_mail=mbox:~/mail proxy=y nologin label=main%20one "
        "credential=my%20phone:{SCRAM-SHA-256}4096,a,b,c send_as=Sales@X.org,@y.org\r\n"
    )
    assert account == Account(
        Address("bob", "x.org"),
        enabled=False,
        format="mbox",
        credentials=(
            Credential("argon2id", "$argon2id$v=19$m=1,t=2,p=1$c2FsdA$aGFzaA", "main one"),
            Credential("scram-sha-256", "4096,a,b,c", "my phone"),
        ),
        quota=2**30,
        quota_messages=500,
        may_send_as=("sales@x.org", "@y.org"),
        origin=Origin("accounts", 3),
        system=SystemUser(1000, "/home/bob"),
    )


@pytest.mark.parametrize(
    ("rule", "octets"),
    [
        ("userdb_quota_rule=*:storage=100M", 100 * 2**20),
        ("userdb_quota_rule=*:storage=10", 10 * 2**10),
        ("userdb_quota_rule=*:bytes=10", 10),
        ("userdb_quota_rule=*:storage=5GB", 5 * 2**30),
        ("userdb_quota_storage_size=2G", 2 * 2**30),
        ("userdb_quota_rule=Trash:storage=1M", 0),
    ],
)
def test_quotas_in_dovecots_units(rule: str, octets: int) -> None:
    assert one_account(f"bob@x.org:::::::{rule}").quota == octets


def test_a_hash_without_a_scheme_is_crypt_and_none_is_no_login() -> None:
    assert one_account("bob@x.org:$6$salt$hash").credentials == (Credential("crypt", "$6$salt$hash"),)
    assert one_account("bob@x.org:").credentials == ()


@pytest.mark.parametrize(
    "line",
    [
        "bob:{CRYPT}x",
        "bob@x.org",
        "b b@x.org:x",
        "@x.org:x",
        "bob@x.org:x\nBOB@X.ORG:y",
        "bob@x.org:::::::userdb_quota_rule=*:storage=lots",
        "bob@x.org:::::::userdb_quota_rule=*:size=1",
        "bob@x.org:::::::userdb_mail=sdbox:~/x",
        "bob@x.org:::::::credential=phone",
        "bob@x.org:::::::send_as=sales",
        "bob@x.org:::::::" + " ".join(["credential=a:{X}y"] * 33),
        "bob@x.org:" + "x" * 70000,
    ],
)
def test_a_line_that_cannot_be_meant_is_named_with_its_mend(line: str) -> None:
    problems = parse_accounts("# comment\n" + line, "accounts")[1]
    assert len(problems) == 1
    assert problems[0].line in (2, 3)
    assert problems[0].what and problems[0].mend


def test_a_line_keeps_what_is_not_ours_when_it_is_changed() -> None:
    text = "bob@x.org:{CRYPT}x:1:2:Bob:/home/bob:/bin/sh:proxy=y label=a credential=b:{CRYPT}y host=h"
    line = AccountLine.parse(text)
    assert str(line) == text
    changed = line.with_credentials([Credential("argon2id", "$h")]).with_enabled(False)
    assert str(changed) == "bob@x.org:{ARGON2ID}$h:1:2:Bob:/home/bob:/bin/sh:proxy=y host=h nologin=y"
    assert str(changed.with_enabled(True)).endswith(":proxy=y host=h")


def test_a_credential_never_shows_in_a_traceback() -> None:
    assert "hash" not in repr(one_account("bob@x.org:{CRYPT}hash")) + repr(AccountLine.parse("a:{X}hash"))


# -- aliases ---------------------------------------------------------------------------------------------


def aliases(text: str) -> dict[str, list[str]]:
    rows, problems, _ = parse_aliases(text, "aliases")
    assert not problems, problems
    return {row.key: [f"{target.kind} {target.text}" for target in row.targets] for row in rows}


def test_aliases_with_comments_continuation_lines_and_quotes() -> None:
    assert aliases(
        "# all\nRoot: bob,\n\tcarol@x.org ,\n  # not this\n\n  dave\n"
        '"John Doe": "jane doe", "q q"@x.org\nSales@X.org : \\bob\n@Y.org: @x.org\n'
        'old:"|/usr/bin/prog -a, b",/var/log/mail, :include:/etc/list\n"a b"@x.org: bob\n'
    ) == {
        "root": ["user bob", "address carol@x.org", "user dave"],
        "john doe": ["user jane doe", 'address "q q"@x.org'],
        "sales@x.org": ["mailbox \\bob"],
        "@y.org": ["domain @x.org"],
        "old": ["command |/usr/bin/prog -a, b", "file /var/log/mail", "include :include:/etc/list"],
        "a b@x.org": ["user bob"],
    }


@pytest.mark.parametrize(
    "entry",
    [
        "bob",
        "bob:",
        "bob: ,",
        ": carol",
        "bob: a b",
        "bob: carol # note",
        'bob: "carol',
        "bob: car@ol@x.org",
        "bob: carol@",
        "b ob: carol",
        "bob@x..org: carol",
        "bob: :fail:",
        "bob: @",
        "bob: |prog with arguments",
    ],
)
def test_an_alias_that_cannot_be_meant_is_named_with_its_line(entry: str) -> None:
    problems = parse_aliases("# comment\nok: carol\n" + entry + "\nok2: carol", "aliases")[1]
    assert [problem.line for problem in problems] == [3]
    assert problems[0].what and problems[0].mend


def test_a_second_row_of_an_alias_and_unsupported_targets_are_warned_of() -> None:
    rows, problems, warnings = parse_aliases('a: bob\nA: carol\np: "|x", bob\n', "aliases")
    assert [row.key for row in rows] == ["a", "p"]
    assert not problems
    assert [warning.line for warning in warnings] == [2, 3]


# -- domains, credentials --------------------------------------------------------------------------------


def test_domains_one_a_line() -> None:
    rows, problems, warnings = parse_domains("# ours\nX.org  # main\n\nété.fr\nx.org\nbob@y.org\n*.z\n", "d")
    assert [(row.name, row.origin.line) for row in rows] == [("x.org", 2), ("xn--t-9fab.fr", 4)]
    assert [problem.line for problem in problems] == [6, 7]
    assert [warning.line for warning in warnings] == [5]


def test_credentials_are_name_user_and_secret() -> None:
    rows, problems, _ = parse_secrets(
        "# next hops\npartner  us@x.org  a secret # with all \nq r\npartner a b\n", "c"
    )
    assert [(row.name, row.user, row.secret) for row in rows] == [
        ("partner", "us@x.org", "a secret # with all")
    ]
    assert [problem.line for problem in problems] == [3, 4]
    assert "secret" not in repr(rows[0]).partition("SecretRow")[2]


# -- the service -----------------------------------------------------------------------------------------

RULES = Rules.of(load_text('local_domains = ["x.org"]\n', "l.toml", "/state"))
FOUR = "a@x.org:\nb@x.org:\nc@x.org:\nd@x.org:\n"


class Tables:
    """A table service over a temporary state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.clock = Clock()
        self.changes = 0
        self.service = TableService(FileSource(str(state)), RULES, self.clock)
        self.service.on_change(self.count)
        self.service.startService()

    def count(self) -> None:
        self.changes += 1

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        """As an editor does that replaces the file."""
        new = self.state / (name + ".new")
        new.write_text(text, encoding="utf-8")
        new.chmod(mode)
        os.rename(new, self.state / name)

    def pass_time(self, looks: int = 1) -> None:
        for _ in range(looks):
            self.clock.advance(CHECK_INTERVAL)

    def known(self, address: str) -> bool:
        expansion = self.service.current().expand(parse_address(address))
        assert isinstance(expansion, Expansion)
        return expansion.refused is None


@pytest.fixture
def make_tables(tmp_path: Path) -> Callable[[], Tables]:
    return lambda: Tables(tmp_path)


@pytest.fixture
def tables(tmp_path: Path, make_tables: Callable[[], Tables]) -> Tables:
    (tmp_path / "accounts").write_text(FOUR)
    return make_tables()


def test_a_change_by_hand_is_seen_without_a_restart(tables: Tables) -> None:
    assert not tables.known("e@x.org")
    before = tables.service.current()
    tables.write("accounts", FOUR + "e@x.org:\n")
    tables.pass_time()
    assert tables.known("e@x.org")
    assert tables.changes == 1
    assert before.account(Address("e", "x.org")) is None  # a transaction keeps what it began with
    tables.pass_time(5)
    assert tables.changes == 1


def test_a_change_is_seen_on_demand(tables: Tables) -> None:
    tables.write("aliases", "sales: a\n")
    tables.service.check_files()
    assert tables.known("sales@x.org")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("", "has become empty"),
        ("# all gone\n", "has become empty"),
        ("a@x.org:\n", "has only 1 of 4 rows left"),
        (FOUR + "e@x.org\n", "this is no account row"),
        (FOUR + "a@x.org:\n", "has a row already"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_a_table_that_breaks_never_makes_a_user_unknown(tables: Tables, broken: str, words: str) -> None:
    path = tables.state / "accounts.new"
    path.write_bytes(broken.encode("utf-8", "surrogateescape"))
    os.rename(path, tables.state / "accounts")
    tables.pass_time(3)
    assert tables.known("d@x.org")
    (alarm,) = tables.service.alarms()
    assert words in alarm.what
    assert alarm.where == str(tables.state / "accounts")
    assert tables.changes == 0
    tables.write("accounts", FOUR + "e@x.org:\n")
    tables.pass_time()
    assert tables.known("e@x.org")
    assert tables.service.alarms() == []


def test_a_table_that_vanishes_keeps_its_rows(tables: Tables) -> None:
    (tables.state / "accounts").unlink()
    tables.pass_time(3)
    assert tables.known("d@x.org")
    assert "is gone" in tables.service.alarms()[0].what


def test_a_table_that_became_something_else_keeps_its_rows_and_does_not_hang(tables: Tables) -> None:
    (tables.state / "accounts").unlink()
    os.mkfifo(tables.state / "accounts")
    tables.pass_time()
    assert tables.known("d@x.org")
    assert "no regular file" in tables.service.alarms()[0].what


def test_the_other_tables_are_not_held_up_by_a_broken_one(tables: Tables) -> None:
    tables.write("accounts", "broken")
    tables.write("aliases", "sales: a\n")
    tables.pass_time()
    assert tables.known("sales@x.org") and tables.known("d@x.org")


def test_rows_that_went_are_let_go_once_confirmed_in_the_server(tables: Tables) -> None:
    tables.write("accounts", "a@x.org:\n")
    tables.pass_time()
    assert tables.known("d@x.org")
    tables.service.confirm()
    assert not tables.known("d@x.org") and tables.known("a@x.org")
    assert tables.service.alarms() == []


def test_rows_that_went_are_let_go_once_confirmed_by_command(tables: Tables) -> None:
    tables.write("accounts", "a@x.org:\n")
    tables.pass_time()
    confirm(str(tables.state))
    tables.pass_time()
    assert not tables.known("d@x.org")
    tables.write("accounts", "# nobody\n")
    tables.pass_time()
    assert tables.known("a@x.org")  # the next loss asks anew


def test_accounts_removed_by_command_need_no_confirmation(tables: Tables) -> None:
    for name in "abcd":
        remove_account(str(tables.state), Address(name, "x.org"))
        tables.pass_time()
        assert not tables.known(f"{name}@x.org")
        assert tables.service.alarms() == []


def test_a_file_that_shrinks_in_place_is_waited_for(tables: Tables) -> None:
    path = tables.state / "accounts"
    path.write_text("a@x.org:\nb@x.org:\nc@x.org:\n")  # the same inode: perhaps half written
    tables.pass_time()
    assert tables.known("d@x.org")
    path.write_text(FOUR + "e@x.org:\n")
    tables.pass_time()
    assert tables.known("d@x.org") and tables.known("e@x.org")
    path.write_text(FOUR)
    tables.pass_time(2)
    assert not tables.known("e@x.org")


def test_credentials_that_others_can_read_are_refused(tables: Tables) -> None:
    tables.write("credentials", "partner user secret\n", mode=0o640)
    tables.pass_time()
    assert tables.service.secret("partner") is None
    assert "chmod 600" in tables.service.alarms()[0].mend
    (tables.state / "credentials").chmod(0o600)
    tables.pass_time()
    assert tables.service.secret("partner") == ("user", "secret")
    (tables.state / "credentials").chmod(0o644)
    tables.pass_time()
    assert tables.service.secret("partner") == ("user", "secret")
    assert tables.service.alarms()


def test_a_server_does_not_start_with_a_broken_table_and_says_every_problem(tmp_path: Path) -> None:
    (tmp_path / "accounts").write_text("bob\n")
    (tmp_path / "aliases").write_text("a\n")
    with pytest.raises(ConfigurationError) as caught:
        Tables(tmp_path)
    assert [os.path.basename(problem.where) for problem in caught.value.problems] == ["accounts", "aliases"]


@pytest.mark.parametrize("content", [None, "", "# nobody\n"])
def test_a_server_does_not_start_when_the_accounts_a_command_left_are_gone(
    tables: Tables, make_tables: Callable[[], Tables], content: str | None
) -> None:
    confirm(str(tables.state))
    (tables.state / "accounts").unlink()
    if content is not None:
        (tables.state / "accounts").write_text(content)
    with pytest.raises(ConfigurationError, match="there were 4"):
        make_tables()
    confirm(str(tables.state))
    assert make_tables().service.current().account(Address("a", "x.org")) is None


@pytest.mark.parametrize("content", [None, "", "a@x.org:\n"])
def test_a_restart_does_not_forget_the_accounts_that_an_editor_lost(
    tables: Tables, make_tables: Callable[[], Tables], content: str | None
) -> None:
    tables.write("accounts", FOUR + "e@x.org:\n")  # by hand, seen by the running server
    tables.pass_time()
    tables.service.stopService()
    (tables.state / "accounts").unlink()
    if content is not None:
        (tables.state / "accounts").write_text(content)
    with pytest.raises(ConfigurationError, match="there were 5"):
        make_tables()
    (tables.state / "accounts").write_text(FOUR)
    assert make_tables().known("d@x.org")


def test_what_the_server_uses_does_not_hide_that_a_command_shrank_a_table(tables: Tables) -> None:
    for name in "bcd":
        remove_account(str(tables.state), Address(name, "x.org"))
    tables.service.stopService()
    again = TableService(FileSource(str(tables.state)), RULES, tables.clock)
    again.startService()
    assert not again.alarms()
    again.stopService()


def test_a_state_directory_that_refuses_the_note_does_not_stop_the_server(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(state: str, used: object) -> None:
        raise ConfigurationError((Problem("tables.stamp", 0, "cannot be written: no space", ""),))

    monkeypatch.setattr(files, "note_in_use", refuse)
    tables.write("accounts", FOUR + "e@x.org:\n")
    tables.pass_time()
    assert tables.known("e@x.org")


def test_a_reload_changes_the_rules_and_keeps_the_tables_that_are_broken(tables: Tables) -> None:
    tables.write("accounts", "")
    tables.pass_time()
    text = 'local_domains = ["x.org", "y.org"]\nstore.format = "mbox"\n'
    tables.service.reload(Rules.of(load_text(text, "l.toml", "/state")))
    snapshot = tables.service.current()
    assert snapshot.is_local("y.org") is True
    account = snapshot.account(Address("d", "x.org"))
    assert isinstance(account, Account) and account.format == "mbox"


def test_an_account_is_there_as_soon_as_its_command_has_ended(tables: Tables) -> None:
    add_account(str(tables.state), Address("new", "x.org"))
    tables.clock.rightNow += 2 * LOOK_GAP  # no look of the service's own
    assert tables.known("new@x.org")
    tables.clock.rightNow += LOOK_GAP / 2
    (tables.state / "aliases").write_text("sales: new\n")
    assert not tables.known("sales@x.org")


def test_looks_do_not_pile_up_behind_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SMALL", -1)
    (tmp_path / "accounts").write_text(FOUR)
    waiting: list[tuple[Callable[[], object], Deferred[object]]] = []

    def in_thread(work: Callable[[], object]) -> Deferred[object]:
        waiting.append((work, Deferred()))
        return waiting[-1][1]

    clock = Clock()
    service = TableService(FileSource(str(tmp_path)), RULES, clock, in_thread)
    service.startService()
    noting, noted = waiting.pop()
    noted.callback(noting())
    (tmp_path / "aliases").write_text("sales: a\n")
    clock.pump([CHECK_INTERVAL] * 5)
    assert len(waiting) == 1
    stopped: list[None] = []
    ending = service.stopService()
    ending.addCallback(stopped.append)
    assert not stopped  # the process ends after the look that is under way
    work, done = waiting[0]
    done.callback(work())
    noting, noted = waiting[1]  # what was found is noted
    noted.callback(noting())
    assert stopped == [None]


def test_a_failing_listener_does_not_keep_others_from_being_told(tables: Tables) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    tables.service._listeners.insert(0, fail)
    tables.write("aliases", "sales: a\n")
    tables.pass_time()
    assert tables.changes == 1


def test_the_file_backend_is_found_as_a_plugin_and_an_unknown_one_is_named() -> None:
    assert find_backend("files", lorrainemail.plugins).name == "files"
    with pytest.raises(ConfigurationError) as caught:
        find_backend("oracle", lorrainemail.plugins)
    assert caught.value.problems == (
        Problem("", 0, 'there is no table backend "oracle"', "installed: files"),
    )
