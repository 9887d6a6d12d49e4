"""``lorrainemail sieve``: what an operator reads, and what scripts that call it rely on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lorrainemail.cli.main import main

SCRIPT = (
    'require ["fileinto", "imap4flags"];\nif header :contains "subject" "x" { fileinto :flags "f" "a"; }\n'
)
MESSAGE = "From: carole@elorac.fr\nTo: bob@bricoleur.com\nSubject: x\n\nbody\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "accounts").write_text("bob@bricoleur.com:{PLAIN}x\n")
    (tmp_path / "s.sieve").write_text(SCRIPT)
    (tmp_path / "m.eml").write_text(MESSAGE)
    return tmp_path


def run(place: Path, capsys: Any, *words: str) -> tuple[int, str, str]:
    status = main(["sieve", *words, "--state", str(place / "state")])
    told = capsys.readouterr()
    return status, told.out, told.err


def test_check_says_line_and_column_also_as_json(place: Path, capsys: Any) -> None:
    assert run(place, capsys, "check", str(place / "s.sieve"))[0] == 0
    (place / "s.sieve").write_text("keep;\n  nonsense;\n")
    status, _, error = run(place, capsys, "check", str(place / "s.sieve"))
    assert status == 1 and "line 2, column 3" in error
    status, out, _ = run(place, capsys, "check", "--json", str(place / "s.sieve"))
    answer = json.loads(out)
    assert status == 1 and answer["version"] == 1 and answer["valid"] is False
    assert (answer["error"]["line"], answer["error"]["column"]) == (2, 3)


def test_test_shows_each_rule_and_what_becomes_of_the_message(place: Path, capsys: Any) -> None:
    words = ("test", str(place / "s.sieve"), str(place / "m.eml"))
    status, out, _ = run(place, capsys, *words)
    assert status == 0
    assert '   2  header :contains "subject" "x": true\n' in out and "filed into a, flags f" in out
    answer = json.loads(run(place, capsys, *words, "--json")[1])
    assert answer["effects"] == [
        {"action": "fileinto", "folder": "a", "flags": ["f"], "create": False, "edited": False}
    ]
    (place / "s.sieve").write_text('require "ihave"; error "oh";')
    status, out, _ = run(place, capsys, *words)
    assert status == 1 and "the message is kept: line 1: oh" in out


def test_the_envelope_of_a_test_can_be_given(place: Path, capsys: Any) -> None:
    (place / "s.sieve").write_text(
        'require "envelope"; if allof (envelope "from" "", envelope "to" "eve@bricoleur.com") { discard; }'
    )
    words = ("test", str(place / "s.sieve"), str(place / "m.eml"))
    assert "kept in the inbox" in run(place, capsys, *words)[1]
    assert "thrown away" in run(place, capsys, *words, "--from", "", "--to", "eve@bricoleur.com")[1]


def test_scripts_are_stored_listed_and_put_into_use(place: Path, capsys: Any) -> None:
    bob = "bob@bricoleur.com"
    assert "has no scripts" in run(place, capsys, "list", bob)[1]
    assert run(place, capsys, "put", bob, str(place / "s.sieve"), "--name", "Work mail")[0] == 0
    (listed,) = json.loads(run(place, capsys, "list", bob, "--json")[1])["scripts"]
    assert listed == {"name": "Work mail", "size": len(SCRIPT), "active": False, "error": None}
    assert run(place, capsys, "activate", bob, "Work mail")[0] == 0
    assert "in use" in run(place, capsys, "list", bob)[1]
    assert run(place, capsys, "activate", bob)[0] == 0
    assert "in use" not in run(place, capsys, "list", bob)[1]
    home = place / "state" / "mail" / "bricoleur.com" / "bob" / "sieve"
    assert all(os.stat(home / name).st_mode & 0o777 == 0o600 for name in os.listdir(home))


def test_what_cannot_be_done_is_said_and_changes_nothing(place: Path, capsys: Any) -> None:
    bob = "bob@bricoleur.com"
    (place / "s.sieve").write_text("broken")
    assert run(place, capsys, "put", bob, str(place / "s.sieve"))[0] == 1
    assert not (place / "state" / "mail" / "bricoleur.com" / "bob" / "sieve").exists()
    status, _, error = run(place, capsys, "activate", bob, "none")
    assert status == 1 and 'there is no script "none"' in error
    status, _, error = run(place, capsys, "list", "eve@bricoleur.com")
    assert status == 1 and "no account eve@bricoleur.com" in error
    status, _, error = run(place, capsys, "check", str(place / "missing"))
    assert status == 1 and "missing" in error
