"""``lorrainemail account`` as an operator types it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.cli.main import main
from lorrainemail.sasl.credentials import matches
from lorrainemail.tables.accounts import parse_accounts


class Command:
    """Runs the command on one state directory."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self.state = state
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = main(["account", *words, "--state", str(self.state)])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self._capsys.readouterr()
        return status, out, err

    def opens(self, address: str, password: str) -> bool:
        rows, problems = parse_accounts((self.state / "accounts").read_text(), "accounts")
        assert not problems
        (account,) = [row.account for row in rows if row.account.address.key == address]
        return any(matches(c, password.encode()) for c in account.credentials)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Command:
    (tmp_path / "lorrainemail.toml").write_text(
        'local_domains = ["bricoleur.com"]\n[store]\nmbox_domains = ["old.bricoleur.com"]\n'
    )
    (tmp_path / "domains").write_text("old.bricoleur.com\n")
    return Command(tmp_path, monkeypatch, capsys)


def test_an_account_is_added_with_the_password_of_standard_input(command: Command) -> None:
    status, out, err = command("add", "bob@bricoleur.com", "--password-stdin", stdin="pä ss\n".encode())
    assert (status, err) == (0, "") and "added" in out
    assert command.opens("bob@bricoleur.com", "pä ss")
    assert "pä ss" not in (command.state / "accounts").read_text() + out


def test_a_generated_password_is_shown_once_and_opens(command: Command) -> None:
    status, out, _ = command("add", "bob@bricoleur.com", "--generate", "--json")
    facts = json.loads(out)
    assert status == 0 and (facts["version"], facts["account"], facts["done"]) == (
        1,
        "bob@bricoleur.com",
        "added",
    )
    assert command.opens("bob@bricoleur.com", facts["password"])
    assert facts["password"] not in (command.state / "accounts").read_text()


def test_passwd_replaces_the_password_and_makes_the_first_password_file_go(command: Command) -> None:
    (command.state / "domains").write_text("example.test\n")
    (command.state / "first-account").write_text("secret\n")
    command("add", "me@example.test", "--password-stdin", stdin=b"one\n")
    assert (command.state / "first-account").exists()
    status, _, _ = command("passwd", "me@example.test", "--password-stdin", stdin=b"two\r\n")
    assert status == 0 and not (command.state / "first-account").exists()
    assert command.opens("me@example.test", "two") and not command.opens("me@example.test", "one")


@pytest.mark.parametrize(
    "words",
    [
        ("add", "bob@bricoleur.com"),
        ("add", "no address", "--generate"),
        ("add", "bob@bricoleur.com", "--generate", "--password-stdin"),
        ("add", "bob@bricoleur.com", "--generate", "--quota", "many"),
        ("add",),
        (),
        ("frobnicate",),
    ],
)
def test_wrong_usage_is_2_and_changes_nothing(command: Command, words: tuple[str, ...]) -> None:
    status, out, err = command(*words)
    assert status == 2 and out == "" and err
    assert not (command.state / "accounts").exists()


@pytest.mark.parametrize("password", [b"", b"\n", b"\xff\xfe\n", b"a\0b\n", b"x" * 5000])
def test_what_is_no_password_is_refused(command: Command, password: bytes) -> None:
    status, _, err = command("add", "bob@bricoleur.com", "--password-stdin", stdin=password)
    assert status == 2 and "password" in err
    assert not (command.state / "accounts").exists()


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_that_ends_is_told_in_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", end)
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)
    status, _, err = command("add", "bob@bricoleur.com")
    assert status == 2 and "no password was typed" in err
    assert not (command.state / "accounts").exists()


def test_a_foreign_domain_is_refused_with_the_way_to_add_it(command: Command) -> None:
    status, _, err = command("add", "bob@elsewhere.org", "--generate")
    assert status == 1
    assert "elsewhere.org" in err and str(command.state / "domains") in err and "local_domains" in err


def test_an_account_that_is_there_or_not_there_is_told_in_one_line(command: Command) -> None:
    command("add", "bob@bricoleur.com", "--generate")
    status, _, err = command("add", "BOB@bricoleur.com", "--generate")
    assert status == 1 and err.count("\n") == 1 and "already" in err
    for word in ("passwd", "disable", "enable", "remove"):
        options = ("--generate",) if word == "passwd" else ()
        status, _, err = command(word, "nobody@bricoleur.com", *options)
        assert status == 1 and err.count("\n") == 1 and "no account" in err, word


def test_disable_and_enable(command: Command) -> None:
    command("add", "bob@bricoleur.com", "--generate")
    assert command("disable", "bob@bricoleur.com")[0] == 0
    assert json.loads(command("list", "--json")[1])["accounts"][0]["enabled"] is False
    assert "disabled" in command("list")[1]
    assert command("enable", "bob@bricoleur.com")[0] == 0
    assert json.loads(command("list", "--json")[1])["accounts"][0]["enabled"] is True


def test_list_shows_every_account_and_no_hash(command: Command) -> None:
    assert "no accounts yet" in command("list")[1]
    command("add", "bob@bricoleur.com", "--generate", "--quota", "2 GB")
    command("add", "old@old.bricoleur.com", "--generate")
    status, text, _ = command("list")
    assert status == 0
    assert [line.split() for line in text.splitlines()] == [
        ["bob@bricoleur.com", "maildir,", "quota", "2000", "MB"],
        ["old@old.bricoleur.com", "mbox"],
    ]
    listing = json.loads(command("list", "--json")[1])
    assert listing["version"] == 1
    assert [a["address"] for a in listing["accounts"]] == ["bob@bricoleur.com", "old@old.bricoleur.com"]
    assert listing["accounts"][0]["credentials"] == [{"scheme": "argon2id", "label": ""}]
    assert "$argon2" not in json.dumps(listing) + text


def test_remove_keeps_the_mail_unless_told_otherwise(command: Command) -> None:
    home = command.state / "mail" / "bricoleur.com" / "bob"
    (home / "Maildir" / "cur").mkdir(parents=True)
    (home / "Maildir" / "cur" / "1").write_bytes(b"mail")
    other = command.state / "mail" / "bricoleur.com" / "carole"
    other.mkdir()
    command("add", "bob@bricoleur.com", "--generate")
    status, out, _ = command("remove", "bob@bricoleur.com")
    assert status == 0 and str(home) in out and (home / "Maildir" / "cur" / "1").exists()
    command("add", "bob@bricoleur.com", "--generate")
    status, out, _ = command("remove", "bob@bricoleur.com", "--delete-mail")
    assert status == 0 and not home.exists() and other.exists()
    assert sorted(path.name for path in (command.state / "mail").iterdir()) == ["bricoleur.com"]
    assert command("list")[1].startswith("There are no accounts")


def test_without_a_state_directory_it_says_how_to_begin(tmp_path: Path, command: Command) -> None:
    command.state = tmp_path / "nowhere"
    status, _, err = command("add", "me@example.test", "--generate")
    assert status == 1 and "twistd -n lorrainemail" in err and not command.state.exists()


def test_another_table_backend_is_not_edited_behind_its_back(command: Command) -> None:
    (command.state / "lorrainemail.toml").write_text('tables = "ldap"\n')
    status, _, err = command("list")
    assert status == 1 and "ldap" in err
