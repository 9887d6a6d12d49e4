"""The first start makes an account and a certificate, once; and never shows or loses the password."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorrainemail.config.default import default_settings
from lorrainemail.config.load import Located, load, locate
from lorrainemail.sasl.credentials import matches
from lorrainemail.setup import first_start
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.first_start import prepare
from lorrainemail.setup.greeting import greeting
from lorrainemail.setup.state import Owner, Undo
from lorrainemail.tables.accounts import parse_accounts


def embedded(state: Path) -> Located:
    return Located(None, str(state), True)


def start(state: Path, located: Located, undo: Undo) -> first_start.Prepared:
    return prepare(default_settings(str(state), False), located, Owner(), undo)


def test_the_password_in_the_file_is_the_accounts(tmp_path: Path) -> None:
    undo = Undo()
    prepared = start(tmp_path, embedded(tmp_path), undo)
    password = (tmp_path / "first-account").read_text().strip()
    rows, problems = parse_accounts((tmp_path / "accounts").read_text(), "accounts")
    assert problems == []
    (row,) = rows
    assert str(row.account.address) == "me@example.test"
    assert matches(row.account.credentials[0], password.encode())
    assert load(locate(state=str(tmp_path))).listen == default_settings(str(tmp_path)).listen
    assert prepared.located.file == str(tmp_path / "lorrainemail.toml")
    assert password not in greeting(default_settings(str(tmp_path)), prepared, [], False)


def test_two_first_starts_have_two_passwords(tmp_path: Path) -> None:
    passwords = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        start(tmp_path / name, embedded(tmp_path / name), Undo())
        passwords.add((tmp_path / name / "first-account").read_text())
    assert len(passwords) == 2


def test_a_first_start_that_was_cut_off_is_finished_by_the_next(tmp_path: Path) -> None:
    start(tmp_path, embedded(tmp_path), Undo())
    (tmp_path / "lorrainemail.toml").unlink()
    before = (tmp_path / "accounts").read_text(), (tmp_path / "first-account").read_text()
    start(tmp_path, embedded(tmp_path), Undo())
    assert ((tmp_path / "accounts").read_text(), (tmp_path / "first-account").read_text()) == before
    assert (tmp_path / "lorrainemail.toml").exists()


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(first_start, "add_account", full)
    with pytest.raises(StartError, match="No space left"), Undo() as undo:
        start(tmp_path, embedded(tmp_path), undo)
    assert list(tmp_path.iterdir()) == []


def test_a_configured_server_gets_a_certificate_and_no_account(tmp_path: Path) -> None:
    prepared = start(tmp_path, Located("/etc/x.toml", str(tmp_path), False), Undo())
    assert {path.name for path in tmp_path.iterdir()} == {"tls", "mail", "queue", "spill"}
    assert prepared.authority == str(tmp_path / "tls" / "ca.pem")
