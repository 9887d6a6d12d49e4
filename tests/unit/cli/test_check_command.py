"""``lorrainemail check``: errors all at once, tables in the order of trying, unwise rows by name."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.cli import check
from lorrainemail.cli.check import specificity
from lorrainemail.tables.edit import confirm

GOOD = r"""
hostname = "mail.x.org"
local_domains = ["x.org"]
[listen]
smtp = ['tcp:2525:interface=127.0.0.1']
"""
ACCOUNTS = "bob@x.org:{ARGON2ID}x\n"


class Command:
    """The command over a temporary state directory."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state = state
        self._capsys = capsys
        state.chmod(0o700)

    def write(self, name: str, text: str, mode: int = 0o600) -> None:
        (self.state / name).write_text(text, encoding="utf-8")
        (self.state / name).chmod(mode)

    def server(self, more: str = "", accounts: str = ACCOUNTS, **tables: str) -> None:
        self.write("lorrainemail.toml", GOOD + more)
        for name, text in {"accounts": accounts, **tables}.items():
            self.write(name, text)

    def run(self, *words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        check.configure(parser.add_subparsers())
        arguments = parser.parse_args(
            ["check", *words], argparse.Namespace(config=None, state=str(self.state))
        )
        status = arguments.run(arguments)
        return status, self._capsys.readouterr().out.replace(str(self.state) + "/", "")

    def findings(self) -> list[str]:
        """Every finding as "kind file:line what"."""
        status, text = self.run("--json")
        assert status == 0, text
        return [f"{f['kind']} {f['file']}:{f['line']} {f['what']}" for f in json.loads(text)["findings"]]

    def only(self) -> str:
        (found,) = self.findings()
        return found


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_a_sound_configuration_has_neither_errors_nor_findings(command: Command) -> None:
    command.server()
    assert command.findings() == []
    status, text = command.run()
    assert status == 0
    assert text.rstrip().endswith("No errors.")


def test_the_example_of_a_first_start_is_not_complained_of(command: Command) -> None:
    status, text = command.run("--json")
    assert (status, json.loads(text)["findings"]) == (0, [])


def test_errors_of_the_file_are_shown_at_once_with_file_line_and_mend(command: Command) -> None:
    command.write("lorrainemail.toml", 'hostnam = "x"\nlocal_domains = "y.org"\n')
    status, text = command.run()
    assert status == 1
    assert 'lorrainemail.toml:1: there is no setting hostnam (did you mean "hostname"?)' in text
    assert 'lorrainemail.toml:2: local_domains: "y.org" stands where a list belongs' in text


def test_errors_of_tables_and_policy_are_shown_together(command: Command) -> None:
    command.server('[policy]\nchecks = ["helo", "nonesuch"]\n', accounts="bob\n", aliases="a b\n")
    command.write("credentials", "a b c\n", mode=0o644)
    status, text = command.run("--json")
    assert status == 1
    errors = [(error["file"], error["line"]) for error in json.loads(text)["errors"]]
    assert errors == [("lorrainemail.toml", 7), ("accounts", 1), ("aliases", 1), ("credentials", 0)]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[tls]\ncertificate = "none.pem"\nkey = "none.pem"\n', "none.pem: cannot read the TLS certificate"),
        ('[tls]\ntrust = "lorrainemail.toml"\n', "lorrainemail.toml"),
        ('[dns]\nzones = ["none.zone"]\n', "none.zone"),
    ],
)
def test_what_would_keep_the_server_from_starting_is_an_error(
    command: Command, more: str, words: str
) -> None:
    command.server(more)
    status, text = command.run()
    assert status == 1
    assert words in text.partition("Configuration:")[0]


def test_tables_are_shown_in_the_order_in_which_they_are_tried(command: Command) -> None:
    command.server(
        '[relay]\n"*" = "any.example"\n"*.b.fr" = "b.example"\n'
        '"b.fr" = "exact.example"\n"*.a.b.fr" = ["one.example", "two.example"]\n"c@b.fr" = "mx"\n',
        aliases="sales: bob\n",
    )
    _, text = command.run()
    lines = [line.strip().partition("  [")[0] for line in text.splitlines()]
    shown = lines[lines.index("2. by recipient") + 1 :]
    assert shown[:6] == [
        "c@b.fr → as the DNS says (MX)",
        "b.fr → exact.example:25",
        "*.a.b.fr → one.example:25, then two.example:25",
        "*.b.fr → b.example:25",
        "* → any.example:25",
        "3. else: as the DNS says (MX)",
    ]
    assert "sales → bob  [aliases:1]" in text
    assert "bob@x.org  [accounts:1]" in text


def test_the_order_shown_is_that_of_the_router() -> None:
    patterns = ["*", "*.fr", "*.free.fr", "free.fr", "a@free.fr", "<>"]
    assert sorted(reversed(patterns), key=specificity) == [
        "<>",
        "a@free.fr",
        "free.fr",
        "*.free.fr",
        "*.fr",
        "*",
    ]


@pytest.mark.parametrize(
    ("more", "finding"),
    [
        (
            '[relay]\n"*.org" = "a"\n',
            'shadowed lorrainemail.toml:7 relay."*.org" covers the local domain x.org',
        ),
        (
            '[relay]\n"x.org" = "a"\n',
            'shadowed lorrainemail.toml:7 relay."x.org" covers the local domain x.org',
        ),
        (
            '[relay]\n"q@x.org" = "mx"\n',
            'broken lorrainemail.toml:7 relay."q@x.org": the MX of the local domain',
        ),
        (
            '[relay]\n"q.org" = "mail.x.org"\n',
            'broken lorrainemail.toml:7 relay."q.org" leads back to this server',
        ),
        (
            '[relay]\n"*" = "a"\n"*.b.fr" = "a"\n',
            'useless lorrainemail.toml:8 relay."*.b.fr" says the same as "*" (',
        ),
        (
            '[relay]\n"b.fr" = "a"\n[relay_by_sender]\n"*" = "b"\n',
            'shadowed lorrainemail.toml:7 relay."b.fr" is never reached',
        ),
        (
            '[relay]\n"b.fr" = { host = "a", credentials = "c", tls = "verified" }\n',
            'broken lorrainemail.toml:7 relay."b.fr" asks for the credentials "c"',
        ),
        ("[limits]\nrecipients = 10\n", "dangerous lorrainemail.toml:7 fewer recipients"),
        ('[limits]\nmessage_size = "10 KB"\n', "dangerous lorrainemail.toml:7 messages of 64 KiB"),
    ],
)
def test_an_unwise_row_is_named_with_its_line(command: Command, more: str, finding: str) -> None:
    command.server(more)
    assert command.only().startswith(finding)


@pytest.mark.parametrize(
    ("network", "finding"),
    [
        ("0.0.0.0/0", "lets the whole world send"),
        ("::/0", "lets the whole world send"),
        ("127.0.0.0/8", "trusts whatever connects from this machine"),
        ("::1", "trusts whatever connects from this machine"),
        ("32.0.0.0/5", "is wider than any one owner's network"),
        ("2001::/16", "is wider than any one owner's network"),
    ],
)
def test_a_dangerous_network_is_named(command: Command, network: str, finding: str) -> None:
    command.server()
    command.write("lorrainemail.toml", f'relay_networks = ["{network}"]\n' + GOOD)
    assert command.only().startswith(
        f"dangerous lorrainemail.toml:1 relay_networks {network.partition('/')[0]}"
    )
    assert finding in command.only()


def test_a_network_inside_another_is_useless(command: Command) -> None:
    command.server()
    command.write("lorrainemail.toml", 'relay_networks = ["10.1.0.0/16",\n"10.0.0.0/8"]\n' + GOOD)
    assert command.only().startswith(
        "useless lorrainemail.toml:1 relay_networks 10.1.0.0/16 is inside 10.0.0.0/8"
    )


@pytest.mark.parametrize(
    ("aliases", "finding"),
    [
        ("a: b\nb: a\n", "broken aliases:1 the alias a: the aliases lead back to a@x.org: a loop"),
        ("a: bob, gone\n", "broken aliases:1 the alias a: gone@x.org is nobody here"),
        (
            'a: bob, "|cmd"\n',
            'broken aliases:1 the alias "a": the command does not begin with an absolute path',
        ),
        ("a: bob\na: bob\n", 'broken aliases:2 the alias "a" stands on line 1 already'),
        ("a@far.org: bob\n", "useless aliases:1 the alias a@far.org is never used"),
        ("@x.org: nobody\n", "broken aliases:1 the alias @x.org: nobody@x.org is nobody here"),
        (
            "bob: bob2@far.org\n",
            "shadowed accounts:1 mail for bob@x.org does not reach the account: alias bob →",
        ),
    ],
)
def test_an_alias_that_cannot_work_is_named(command: Command, aliases: str, finding: str) -> None:
    command.server(aliases=aliases)
    assert command.findings()[0].startswith(finding)


@pytest.mark.parametrize(
    ("accounts", "finding"),
    [
        ("", "broken lorrainemail.toml:3 there is no account at all"),
        (ACCOUNTS + "c@x.org:\n", "useless accounts:2 c@x.org has no password"),
        (ACCOUNTS + "c@y.org:{ARGON2ID}x\n", "useless accounts:2 c@y.org gets no mail"),
    ],
)
def test_an_account_that_is_of_no_use_is_named(command: Command, accounts: str, finding: str) -> None:
    command.server(accounts=accounts)
    assert command.only().startswith(finding)


def test_secrets_that_others_can_read_are_named(command: Command) -> None:
    command.server()
    command.write("accounts", ACCOUNTS, mode=0o644)
    assert command.only() == "dangerous accounts:0 holds secrets and can be read by everybody on this machine"


def test_plaintext_on_a_listener_that_others_reach_is_named(command: Command) -> None:
    command.server("imap = ['tcp:143', 'tcp:1143:interface=127.0.0.1']\n[auth]\nplaintext = \"loopback\"\n")
    assert command.only().startswith(
        'useless lorrainemail.toml:6 logins without TLS are not allowed on "tcp:143"'
    )


def test_a_script_for_what_users_move_must_be_there_and_in_order(command: Command) -> None:
    command.server('[mailbox_scripts]\n"into Junk" = "learn"\n')
    assert "learn.sieve is not there" in command.only()
    (command.state / "sieve").mkdir()
    (command.state / "sieve" / "learn.sieve").write_text("keep")
    assert "line 1, column 5" in command.only()
    (command.state / "sieve" / "learn.sieve").write_text("keep;")
    assert command.findings() == []


def test_a_domain_that_is_local_and_backup_is_named(command: Command) -> None:
    command.server()
    command.write("lorrainemail.toml", 'relay_domains = ["x.org"]\n' + GOOD)
    assert command.only().startswith("useless lorrainemail.toml:1 x.org is in local_domains too")


def test_closed_doors_and_a_missing_name_are_named(command: Command) -> None:
    command.server()
    command.write("lorrainemail.toml", 'local_domains = ["x.org"]\n')
    kinds = [finding.partition(" ")[0] for finding in command.findings()]
    assert sorted(kinds) == ["broken", "dangerous"]


def test_confirming_lets_a_table_that_lost_its_rows_be_used(command: Command) -> None:
    command.server()
    confirm(str(command.state))
    command.write("accounts", "")
    status, text = command.run()
    assert status == 1 and "check --confirm" in text
    assert command.run("--confirm")[0] == 0
    assert command.run()[0] == 0


def test_the_object_has_everything(command: Command) -> None:
    command.server(
        '[relay]\n"b.fr" = { host = "a", tls = "none" }\n', aliases="sales: bob\n", domains="y.org\n"
    )
    answer: dict[str, Any] = json.loads(command.run("--json")[1])
    assert answer["version"] == 1 and answer["ok"] is True
    assert answer["listen"]["smtp"] == ["tcp:2525:interface=127.0.0.1"]
    tables = answer["tables"]
    assert [row["name"] for row in tables["local_domains"]] == ["x.org", "y.org"]
    assert tables["accounts"][0]["address"] == "bob@x.org"
    assert tables["relay"][0]["hosts"] == ["a:25"] and tables["relay"][0]["line"] == 7
    assert "{ARGON2ID}" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ('[unknown_users]\n"x.org" = "old.x.org"\n', ""),
        ('[unknown_users]\n"z.org" = "old.x.org"\n', 'unknown_users."z.org": that is no local domain'),
        ('[unknown_users]\n"x.org" = "mx"\n', "the MX of a local domain is this server itself"),
        ('[unknown_users]\n"*" = "mail.x.org"\n', "leads back to this server itself"),
        ('[queue]\nsource = ["192.0.2.1"]\n', "192.0.2.1 is no address of this machine"),
        ('[relay]\n"z.org" = { host = "h.z.org", source = ["192.0.2.1"] }\n', "192.0.2.1 is no address"),
        ('[queue]\nsource = ["127.0.0.1"]\n', ""),
    ],
)
def test_rows_for_unknown_users_and_addresses_to_connect_from(
    command: Command, more: str, found: str
) -> None:
    command.server(more)
    assert [found in one for one in command.findings()] == ([True] if found else [])


def test_a_catch_all_leaves_no_unknown_users(command: Command) -> None:
    command.server('[unknown_users]\n"x.org" = "old.x.org"\n', aliases="@x.org: bob\n")
    assert "never reached for x.org" in command.only()
