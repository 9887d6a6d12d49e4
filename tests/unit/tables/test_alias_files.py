"""Files of Sendmail and Postfix as they are: what their rows mean, whom they may command, and who is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.addresses import Address, parse_address
from lorrainemail.config.load import load_text
from lorrainemail.errors import ConfigurationError
from lorrainemail.interfaces import Expansion, Handed, LocalMailbox, RemoteMailbox, SystemUser
from lorrainemail.store.paths import canonical_name, folder_directory, home_path
from lorrainemail.tables import trust as trust_module
from lorrainemail.tables.accounts import parse_accounts
from lorrainemail.tables.aliases import parse_aliases
from lorrainemail.tables.files import FileSource
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.reached import BAD_TABLES, UNKNOWN_USER
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot
from lorrainemail.tables.targets import parse_targets
from lorrainemail.tables.trust import is_trusted
from lorrainemail.tables.userfiles import UserFileError, read_own
from lorrainemail.tables.virtual import parse_virtual

ACCOUNTS = "bob@x.org:\ncarol@x.org:\nann@y.org:\n"


class World:
    """A state directory, files beside it, and the tables that come of them."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        self.files = directory / "etc"
        self.files.mkdir(mode=0o755)
        (self.state / "accounts").write_text(ACCOUNTS)
        self.top = 'local_domains = ["x.org", "y.org"]\nsubaddress = "+-"\n'
        self.aliases: dict[str, str] = {}

    def write(self, name: str, text: str) -> Path:
        path = self.files / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def rules(self) -> Rules:
        rows = "".join(f"{name} = {value}\n" for name, value in self.aliases.items())
        return Rules.of(load_text(f"{self.top}[aliases]\n{rows}", "l.toml", str(self.state)))

    def source(self) -> FileSource:
        return FileSource(str(self.state))

    def tables(self) -> Snapshot:
        rules = self.rules()
        return Snapshot(self.source().load(rules), rules)

    def local(self, text: str) -> Snapshot:
        """An /etc/aliases of that text."""
        self.aliases["local"] = f"['{self.write('aliases', text)}']"
        return self.tables()

    def virtual(self, text: str) -> Snapshot:
        self.aliases["virtual"] = f"['{self.write('virtual', text)}']"
        return self.tables()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def expand(tables: Snapshot, address: str) -> Expansion:
    found = tables.expand(parse_address(address))
    assert isinstance(found, Expansion)
    return found


def finals(tables: Snapshot, address: str) -> list[str]:
    expansion = expand(tables, address)
    if expansion.refused is not None:
        return [str(expansion.refused.reply)]
    found = []
    for final in expansion.finals:
        if isinstance(final, LocalMailbox):
            found.append(f"{final.account.address}/{final.folder}")
        elif isinstance(final, Handed):
            found.append(f"{final.courier} {final.argument}".rstrip())
        else:
            found.append(f"→ {final.address}")
    return found


# -- aliases(5) ------------------------------------------------------------------------------------------


def test_an_aliases_file_of_debian_is_read_as_it_is(world: World) -> None:
    tables = world.local(
        "# See man 5 aliases for format\npostmaster:    root\nmailer-daemon: postmaster\nnobody: /dev/null\n"
        "www-data:\troot\nroot: bob,\n  carol@x.org  \n"
    )
    for name in ("root", "postmaster", "Mailer-Daemon", "www-data"):
        assert finals(tables, f"{name}@x.org") == ["bob@x.org/", "carol@x.org/"]
    assert finals(tables, "nobody@y.org") == ["file /dev/null"]
    step = expand(tables, "root@y.org").finals[0].path[1]
    assert step.what == "alias root → bob@x.org"
    assert str(step.origin) == f"{world.files}/aliases:6"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bob@x.org, Carol <carol@x.org>", ["bob@x.org", "carol@x.org"]),
        ('"Bob, the first" <bob@x.org>(of all), ann', ["bob@x.org", "ann"]),
        ('"|/usr/bin/vacation -a \\"bob b\\" bob", \\bob', ['|/usr/bin/vacation -a "bob b" bob', "\\bob"]),
        ('|"/usr/bin/procmail -t", /var/mail/x(1)', ["|/usr/bin/procmail -t", "/var/mail/x(1)"]),
        (":include:/etc/mail/list,,", [":include:/etc/mail/list"]),
        ('"quoted, comma"@x.org', ['"quoted, comma"@x.org']),
    ],
)
def test_targets_in_every_writing_of_the_manuals(text: str, expected: list[str]) -> None:
    assert [str(t.address) if t.kind == "address" else t.text for t in parse_targets(text)] == expected


@pytest.mark.parametrize(
    "text", ['"open', "(open", "a b", ":include:relative", "a, :fail: no", "bob # note", '""']
)
def test_targets_that_cannot_be_meant_are_refused_with_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"; "):
        parse_targets(text)


def test_an_owner_gets_what_cannot_be_delivered_to_a_list(world: World) -> None:
    tables = world.local("list: bob, q@far.org, inner\nowner-list: carol\ninner: ann@y.org\nplain: bob\n")
    owners = {str(final.address): final.owner for final in expand(tables, "list@x.org").finals}
    assert owners == dict.fromkeys(["bob@x.org", "q@far.org", "ann@y.org"], Address("owner-list", "x.org"))
    assert expand(tables, "plain@x.org").finals[0].owner is None
    assert expand(tables, "owner-list@x.org").finals[0].owner is None


def test_the_innermost_list_has_the_say_who_its_owner_is(world: World) -> None:
    tables = world.local("all: team, bob\nowner-all: bob\nteam: carol\nowner-team: ann@y.org\n")
    owners = {str(f.address): str(f.owner) for f in expand(tables, "all@x.org").finals}
    assert owners == {"bob@x.org": "owner-all@x.org", "carol@x.org": "owner-team@x.org"}


def test_a_star_covers_names_and_the_longest_fixed_part_wins(world: World) -> None:
    tables = world.local("sales-*: bob\nsales-eu-*@x.org: carol\n*-bounce: ann@y.org\nsales-x: q@far.org\n")
    assert finals(tables, "sales-us@x.org") == ["bob@x.org/"]
    assert finals(tables, "Sales-EU-1@x.org") == ["carol@x.org/"]
    assert finals(tables, "sales-eu-1@y.org") == ["bob@x.org/"]
    assert finals(tables, "list-bounce@x.org") == ["ann@y.org/"]
    assert finals(tables, "sales-x@x.org") == ["→ q@far.org"]
    assert finals(tables, "bob-sales@x.org") == ["bob@x.org/sales"]


@pytest.mark.parametrize("key", ["*: bob", "a*b: bob", "**: bob", "*@x.org: bob"])
def test_a_star_that_would_mean_everybody_or_nothing_is_named(key: str) -> None:
    assert parse_aliases(key, "aliases")[1]


def test_a_virtual_row_may_lead_to_the_alias_of_the_same_name(world: World) -> None:
    world.write("aliases", "info: bob\n")
    world.aliases["local"] = f"['{world.files}/aliases']"
    tables = world.virtual("info@x.org info\n")
    assert finals(tables, "info@x.org") == ["bob@x.org/"]


# -- :include: -------------------------------------------------------------------------------------------


def test_a_list_is_read_with_its_lists_and_every_member_has_its_line(world: World) -> None:
    inner = world.write("inner", "q@far.org\n")
    members = world.write("members", f"# all\nbob, carol@x.org\n\n:include:{inner}\n")
    tables = world.local(f"list: :include:{members}, bob\n")
    assert finals(tables, "list@x.org") == ["bob@x.org/", "carol@x.org/", "→ q@far.org"]
    assert str(expand(tables, "list@x.org").finals[1].path[-2].origin) == f"{members}:2"


def test_lists_that_name_each_other_end(world: World) -> None:
    one, other = world.files / "one", world.files / "other"
    world.write("one", f"bob\n:include:{other}\n")
    world.write("other", f"carol\n:include:{one}\n")
    tables = world.local(f"list: :include:{one}\n")
    assert finals(tables, "list@x.org") == ["bob@x.org/", "carol@x.org/"]
    assert any("names itself" in note.what for note in expand(tables, "list@x.org").notes)


def test_no_list_commands_whatever_file_it_is(world: World) -> None:
    members = world.write("members", '"|/bin/true", /dev/null, bob\n')
    tables = world.local(f"list: :include:{members}\n")
    assert finals(tables, "list@x.org") == ["bob@x.org/"]


def test_a_list_that_cannot_be_read_holds_up_its_mail_and_no_other(world: World) -> None:
    tables = world.local(f"list: :include:{world.files}/none\nother: bob\n")
    assert finals(tables, "list@x.org") == [str(BAD_TABLES)]
    assert finals(tables, "other@x.org") == ["bob@x.org/"]


def test_a_changed_list_is_seen_and_a_vanished_one_keeps_its_members(world: World) -> None:
    members = world.write("members", "bob\n")
    world.local(f"list: :include:{members}\n")
    source, rules = world.source(), world.rules()
    assert finals(Snapshot(source.load(rules), rules), "list@x.org") == ["bob@x.org/"]
    assert not source.changed()
    members.write_text("bob\ncarol\n")
    assert source.changed()
    assert len(finals(Snapshot(source.refresh(rules), rules), "list@x.org")) == 2
    members.unlink()
    assert source.changed()
    assert len(finals(Snapshot(source.refresh(rules), rules), "list@x.org")) == 2
    assert any("old version" in problem.what for problem in source.alarms())


# -- commands and files ----------------------------------------------------------------------------------


def test_a_command_of_the_operators_own_file_is_handed_on(world: World) -> None:
    tables = world.local('vac: "|/usr/bin/vacation -a info bob", bob\n')
    assert finals(tables, "vac@x.org") == ["pipe /usr/bin/vacation -a info bob", "bob@x.org/"]


def test_a_command_named_twice_runs_once(world: World) -> None:
    tables = world.local('all: a, b\na: "|/bin/true"\nb: "|/bin/true"\n')
    assert finals(tables, "all@x.org") == ["pipe /bin/true"]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_commands_nothing(world: World, mode: int) -> None:
    path = world.write("aliases", 'a: "|/bin/true"\nb: /dev/null\nc: bob\n')
    path.chmod(mode)
    world.aliases["local"] = f"['{path}']"
    source, rules = world.source(), world.rules()
    tables = Snapshot(source.load(rules), rules)
    assert finals(tables, "a@x.org") == finals(tables, "b@x.org") == [str(BAD_TABLES)]
    assert finals(tables, "c@x.org") == ["bob@x.org/"]
    assert [problem.line for problem in source.warnings()] == [1, 2]


def test_a_file_in_a_directory_of_others_commands_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    path = directory / "aliases"
    path.write_text("")
    path.chmod(0o644)
    directory.chmod(0o755)
    assert is_trusted(str(path), os.geteuid())
    directory.chmod(0o777)
    assert not is_trusted(str(path), os.geteuid())
    directory.chmod(0o1777)
    assert is_trusted(str(path), os.geteuid())
    assert not is_trusted(str(tmp_path / "none"), os.geteuid())


def test_a_file_of_another_user_commands_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "aliases"
    path.write_text("")
    path.chmod(0o644)
    real = os.stat

    def stat(name: str) -> object:
        facts = real(name)
        if name != str(path):
            return facts
        return os.stat_result((*facts[:4], 4711, *facts[5:]))

    monkeypatch.setattr(trust_module.os, "stat", stat)
    assert not is_trusted(str(path), os.geteuid())


@pytest.mark.parametrize("command", ["cmd", "/bin/a | /bin/b", "/bin/a > /x", "/bin/sh -c $HOME", "/bin/a;b"])
def test_what_needs_a_shell_is_left_out_and_named(world: World, command: str) -> None:
    world.local(f'a: "|{command}", bob\n')
    source, rules = world.source(), world.rules()
    tables = Snapshot(source.load(rules), rules)
    assert finals(tables, "a@x.org") == ["bob@x.org/"]
    assert [problem.line for problem in source.warnings()] == [1]


def test_files_only_below_listed_directories(world: World) -> None:
    world.aliases["file_directories"] = '["/srv/archive"]'
    tables = world.local(
        "a: /srv/archive/a\nb: /srv/archives/b\nc: /srv/archive/../c\nd: /etc/passwd\ne: /srv/archive/e/\n"
    )
    assert finals(tables, "a@x.org") == ["file /srv/archive/a"]
    assert finals(tables, "e@x.org") == ["file /srv/archive/e/"]
    for name in "bcd":
        assert finals(tables, f"{name}@x.org") == [str(BAD_TABLES)]


# -- virtual(5), virtusertable ---------------------------------------------------------------------------


def test_a_virtual_file_of_postfix_is_read_as_it_is(world: World) -> None:
    tables = world.virtual(
        "# comment\nvirt.org  anything\npostmaster@virt.org postmaster@x.org\n"
        "joe@virt.org    bob,\n    q@far.org\n@virt.org carol\n@alias.org @virt.org\nalias.org -\n"
        "info ann@y.org\n"
    )
    assert finals(tables, "joe@virt.org") == ["bob@x.org/", "→ q@far.org"]
    assert finals(tables, "any@virt.org") == ["carol@x.org/"]
    assert finals(tables, "joe@alias.org") == ["bob@x.org/", "→ q@far.org"]
    assert finals(tables, "info@x.org") == ["ann@y.org/"]
    assert expand(tables, "joe@virt.org").local
    step = expand(tables, "joe@virt.org").finals[0].path
    assert [str(s.origin) for s in step[:2]] == [f"{world.files}/virtual:2", f"{world.files}/virtual:4"]


def test_a_detail_goes_along_with_a_virtual_address(world: World) -> None:
    tables = world.virtual("joe@x.org bob\nfar@x.org q@far.org\njoe+work@x.org carol\n")
    assert finals(tables, "joe+list@x.org") == ["bob@x.org/list"]
    assert finals(tables, "far+tag@x.org") == ["→ q+tag@far.org"]
    assert finals(tables, "joe+work@x.org") == ["carol@x.org/"]


def test_a_virtusertable_of_sendmail_is_read_as_it_is(world: World) -> None:
    tables = world.virtual(
        "@old.org\t%1@x.org\nold.org x\nspam@x.org error:nouser No such user here\n"
        "gone@x.org error:5.1.6:551 Has moved\nlater@x.org error:4.7.1 Come back\ndept+*@x.org %2@y.org\n"
        "tag+*@x.org bob%3@x.org\n"
    )
    assert finals(tables, "bob@old.org") == ["bob@x.org/"]
    assert finals(tables, "spam@x.org") == ["550 5.1.1 No such user here"]
    assert finals(tables, "gone@x.org") == ["550 5.1.6 Has moved"]
    assert finals(tables, "later@x.org") == ["450 4.7.1 Come back"]
    assert finals(tables, "dept+ann@x.org") == ["ann@y.org/"]
    assert finals(tables, "tag+list@x.org") == ["bob@x.org/list"]


@pytest.mark.parametrize(
    "line",
    ['a@x.org "|/bin/true"', "a@x.org /tmp/f", "a@x.org :include:/l", "a@x.org", "a@x.org error:2.0.0 ok"],
)
def test_a_virtual_row_commands_nothing(line: str) -> None:
    assert [problem.line for problem in parse_virtual(f"# c\n{line}\n", "virtual")[1]] == [2]


def test_a_name_with_a_dot_is_no_domain() -> None:
    rows, problems, _ = parse_virtual("john.doe bob\n", "virtual")
    assert not problems
    assert [type(row).__name__ for row in rows] == ["AliasRow"]


def test_a_missing_file_is_named_at_the_start(world: World) -> None:
    world.aliases["local"] = '["/nonexistent/aliases"]'
    with pytest.raises(ConfigurationError, match="no such file"):
        world.tables()


def test_the_first_file_that_has_a_name_wins_and_the_other_is_named(world: World) -> None:
    (world.state / "aliases").write_text("info: bob\n")
    world.write("aliases", "info: carol\nmore: carol\n")
    world.aliases["local"] = f"['{world.files}/aliases']"
    source, rules = world.source(), world.rules()
    tables = Snapshot(source.load(rules), rules)
    assert finals(tables, "info@x.org") == ["bob@x.org/"]
    assert finals(tables, "more@x.org") == ["carol@x.org/"]
    assert [(problem.where, problem.line) for problem in source.warnings()] == [(f"{world.files}/aliases", 1)]


def test_a_configuration_that_names_other_files_is_followed(world: World) -> None:
    source, rules = world.source(), world.rules()
    assert finals(Snapshot(source.load(rules), rules), "info@x.org") == [str(UNKNOWN_USER)]
    world.local("info: bob\n")
    rules = world.rules()
    assert finals(Snapshot(source.refresh(rules), rules), "info@x.org") == ["bob@x.org/"]
    world.aliases.clear()
    rules = world.rules()
    assert finals(Snapshot(source.refresh(rules), rules), "info@x.org") == [str(UNKNOWN_USER)]


# -- [deliver] -------------------------------------------------------------------------------------------


def test_a_row_hands_accounts_to_another_store_and_aliases_come_first(world: World) -> None:
    world.top += (
        '[deliver]\n"*" = "lmtp:unix:/run/lmtp"\n"y.org" = { courier = "pipe", argument = "/bin/cat" }\n'
    )
    tables = world.local("sales: bob\nout: q@far.org\n")
    assert finals(tables, "sales@x.org") == ["lmtp"]
    assert finals(tables, "bob+list@x.org") == ["lmtp"]
    assert finals(tables, "ann@y.org") == ["pipe"]
    assert finals(tables, "out@x.org") == ["→ q@far.org"]
    assert finals(tables, "nobody@x.org") == [str(UNKNOWN_USER)]
    (final,) = expand(tables, "bob+list@x.org").finals
    assert isinstance(final, Handed) and str(final.address) == "bob+list@x.org" and not final.forwarded
    row = tables.delivery(parse_address("bob@x.org"))
    assert row is not None and row.argument == "unix:/run/lmtp" and str(row.origin) == "l.toml:4"
    (account, _) = parse_accounts(ACCOUNTS, "a")[0][:2]
    assert tables.owns(account.account, parse_address("sales@x.org"))


def test_a_row_without_accounts_takes_everybody_of_its_domain(world: World) -> None:
    world.top += '[deliver]\n"x.org" = { courier = "lmtp", argument = "host:24", accounts = false }\n'
    tables = world.tables()
    assert finals(tables, "nobody@x.org") == ["lmtp"]
    assert finals(tables, "nobody@y.org") == [str(UNKNOWN_USER)]


@pytest.mark.parametrize(
    "row",
    [
        '"lmtp"',
        '"lmtp:unix:relative"',
        '"lmtp:host:0"',
        '"pipe:cmd"',
        '"pipe:/bin/a | b"',
        '"file:relative"',
        '"file:/a/../b"',
        "7",
        '{ argument = "x" }',
        '""',
    ],
)
def test_a_row_that_cannot_be_meant_is_an_error_with_its_line(row: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_text(f'[deliver]\n"x.org" = {row}\n', "l.toml", "/state")
    assert [problem.line for problem in caught.value.problems] == [2]


# -- .forward, .qmail ------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir(mode=0o755)
    made.chmod(0o755)
    return made


def put(home: Path, name: str, text: str, mode: int = 0o644) -> None:
    (home / name).write_text(text)
    (home / name).chmod(mode)


@pytest.fixture
def system(world: World, home: Path) -> Callable[..., Snapshot]:
    """Bob is a user of this machine with that home."""

    def tables(*kinds: str, helper: bool = False) -> Snapshot:
        world.aliases["user_files"] = str(list(kinds))
        rules = attrs.evolve(world.rules(), helper=helper)
        (world.state / "accounts").write_text(f"bob@x.org::{os.geteuid() or 1}:100::{home}::\ncarol@x.org:\n")
        if os.geteuid() == 0:
            for path in (home, *home.iterdir()):
                os.chown(path, 1, -1)
        return Snapshot(world.source().load(rules), rules)

    return tables


def test_a_forward_file_directs_its_owners_mail_with_and_without_a_copy(
    system: Callable[..., Snapshot], home: Path
) -> None:
    assert finals(system("forward"), "bob@x.org") == ["bob@x.org/"]
    put(home, ".forward", "# away\ncarol@x.org, q@far.org\n")
    assert finals(system("forward"), "bob@x.org") == ["carol@x.org/", "→ q@far.org"]
    put(home, ".forward", "\\bob, q@far.org\n")
    assert finals(system("forward"), "bob@x.org") == ["bob@x.org/", "→ q@far.org"]
    put(home, ".forward", "bob@x.org\nq@far.org\n")
    assert finals(system("forward"), "bob+list@x.org") == ["bob@x.org/list", "→ q@far.org"]
    assert finals(system(), "bob@x.org") == ["bob@x.org/"]
    step = expand(system("forward"), "bob@x.org").finals[1].path[-1]
    assert str(step.origin) == f"{home}/.forward:2"


def test_a_forward_file_of_a_detail_comes_first(system: Callable[..., Snapshot], home: Path) -> None:
    put(home, ".forward", "carol\n")
    put(home, ".forward+work", "q@far.org\n")
    assert finals(system("forward"), "bob+work@x.org") == ["→ q@far.org"]
    assert finals(system("forward"), "bob+other@x.org") == ["carol@x.org/"]


def test_a_users_command_needs_the_helper(system: Callable[..., Snapshot], home: Path) -> None:
    put(home, ".forward", '"|/usr/bin/procmail"\n')
    assert finals(system("forward"), "bob@x.org") == [str(BAD_TABLES)]
    (final,) = expand(system("forward", helper=True), "bob@x.org").finals
    assert isinstance(final, Handed)
    assert (final.courier, final.argument, final.user) == ("pipe", "/usr/bin/procmail", "bob@x.org")


@pytest.mark.parametrize("mode", [0o664, 0o666])
def test_a_users_file_that_others_may_write_holds_his_mail_up(
    system: Callable[..., Snapshot], home: Path, mode: int
) -> None:
    put(home, ".forward", "q@far.org\n", mode)
    assert finals(system("forward"), "bob@x.org") == [str(BAD_TABLES)]


def test_a_link_in_a_home_leads_nowhere(system: Callable[..., Snapshot], home: Path, tmp_path: Path) -> None:
    put(tmp_path, "secret", "q@far.org\n")
    (home / ".forward").symlink_to(tmp_path / "secret")
    assert finals(system("forward"), "bob@x.org") == [str(BAD_TABLES)]


def test_dot_qmail_as_its_manual_says(system: Callable[..., Snapshot], home: Path) -> None:
    put(home, ".qmail", "# both\n./Maildir/\n&q@far.org\ncarol@x.org\n")
    assert finals(system("qmail"), "bob@x.org") == ["bob@x.org/", "→ q@far.org", "carol@x.org/"]
    put(home, ".qmail", "")
    assert finals(system("qmail"), "bob@x.org") == ["bob@x.org/"]
    put(home, ".qmail", "# nothing\n")
    assert finals(system("qmail"), "bob@x.org") == ["file /dev/null"]
    put(home, ".qmail", "\nq@far.org\n")
    assert finals(system("qmail"), "bob@x.org") == [str(BAD_TABLES)]
    put(home, ".qmail", "/etc/passwd\n")
    assert finals(system("qmail"), "bob@x.org") == [str(BAD_TABLES)]


def test_dot_qmail_extensions_from_the_longest_to_the_default(
    system: Callable[..., Snapshot], home: Path
) -> None:
    put(home, ".qmail-list", "a@far.org\n")
    put(home, ".qmail-list-default", "b@far.org\n")
    put(home, ".qmail-v1:0", "c@far.org\n")
    tables = system("qmail")
    assert finals(tables, "bob-list@x.org") == ["→ a@far.org"]
    assert finals(tables, "bob-list-request@x.org") == ["→ b@far.org"]
    assert finals(tables, "bob-V1.0@x.org") == ["→ c@far.org"]
    assert finals(tables, "bob-other@x.org") == ["bob@x.org/other"]
    put(home, ".qmail-default", "d@far.org\n")
    assert finals(system("qmail"), "bob-other@x.org") == ["→ d@far.org"]


# -- no address leaves its home --------------------------------------------------------------------------

NARROW: Any = Snapshot(
    memory_set(accounts=[row.account for row in parse_accounts("bob@x.org:\n", "a")[0]]),
    Rules.of(load_text('local_domains = ["x.org"]\nsubaddress = "+-"\n', "l.toml", "/s")),
)


@given(st.text(max_size=70))
def test_no_detail_names_a_file_outside_the_home(
    tmp_path_factory: pytest.TempPathFactory, detail: str
) -> None:
    home = tmp_path_factory.getbasetemp() / "fuzzed" / "home"
    if not home.exists():
        home.mkdir(parents=True)
        home.chmod(0o755)
        for outside in (home.parent, home):
            (outside / ".qmail-default").write_text(
                "inside@x.org\n" if outside is home else "outside@x.org\n"
            )
            (outside / ".qmail-default").chmod(0o644)
    found = read_own(SystemUser(os.geteuid(), str(home)), ("forward", "qmail"), detail, "-")
    if found is not None:
        assert os.path.dirname(found.path) == str(home)
        assert str(found.targets[0].address) == "inside@x.org"


MIDDLES = ["+", "-", "/", "..", "+../", "-/", "+.", "+../../", "\\", "%2f", "\0"]


@given(st.text(max_size=30), st.sampled_from(MIDDLES), st.text(max_size=30))
def test_no_local_part_and_no_detail_leaves_its_home(user: str, middle: str, detail: str) -> None:
    path = home_path(Address(user + middle + detail, "x.org"))
    domain, slash, local = path.partition("/")
    assert slash and domain == "x.org" and local and "/" not in local and not local.startswith(".")
    for final in NARROW.expand(Address("bob" + middle + detail, "x.org")).finals:
        assert isinstance(final, LocalMailbox)
        if final.folder:
            directory = folder_directory(canonical_name(final.folder))
            assert directory.startswith(".") and "/" not in directory and ".." not in directory


def test_a_file_of_a_user_that_is_unreadable_says_so(home: Path) -> None:
    (home / ".forward").mkdir()
    with pytest.raises(UserFileError):
        read_own(SystemUser(os.geteuid(), str(home)), ("forward",), "", "+")


def test_remote_recipients_of_lists_keep_their_owner(world: World) -> None:
    tables = world.local("list: q@far.org\nowner-list: bob\n")
    (final,) = expand(tables, "list@x.org").finals
    assert isinstance(final, RemoteMailbox) and final.forwarded and str(final.owner) == "owner-list@x.org"
