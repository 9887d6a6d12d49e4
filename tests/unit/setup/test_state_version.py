"""Which version wrote a state, and that an older one keeps its hands off."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from lorrainemail.cli.main import main
from lorrainemail.setup import state_version
from lorrainemail.setup.failure import StartError
from lorrainemail.store.schema import SCHEMA, SCHEMA_VERSION


def write(directory: Path, version: str, **parts: int) -> None:
    (directory / "state-version").write_text(json.dumps({"version": version, "parts": parts}))


def test_a_state_notes_who_serves_it_once(tmp_path: Path) -> None:
    assert state_version.note(str(tmp_path))
    assert not state_version.note(str(tmp_path))
    assert state_version.require_known(str(tmp_path)).parts == state_version.PARTS
    assert (tmp_path / "state-version").stat().st_mode & 0o777 == 0o600


def test_a_newer_state_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, "9.0", state=1, index=SCHEMA_VERSION + 1, moon=3)
    before = (tmp_path / "state-version").read_text()
    with pytest.raises(StartError) as caught:
        state_version.require_known(str(tmp_path))
    words = str(caught.value)
    assert "lorrainemail 9.0" in words and "moon 3 (not known here)" in words and "\n" not in words
    assert f"index {SCHEMA_VERSION + 1} (known here: {SCHEMA_VERSION})" in words
    assert (tmp_path / "state-version").read_text() == before


def test_a_damaged_note_is_not_taken_for_an_old_state(tmp_path: Path) -> None:
    (tmp_path / "state-version").write_text("{")
    with pytest.raises(StartError):
        state_version.require_known(str(tmp_path))


def old_home(state: Path, version: int) -> Path:
    home = state / "mail" / "ours.test" / "bob"
    for sub in ("cur", "new", "tmp"):
        (home / "Maildir" / sub).mkdir(parents=True)
    database = sqlite3.connect(home / "index.sqlite")
    database.executescript(SCHEMA)
    if version < 3:
        database.execute("DROP TABLE views")
    database.execute(f"PRAGMA user_version={version}")
    database.commit()
    database.close()
    return home / "index.sqlite"


def test_upgrade_says_what_it_would_do_and_does_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    index = old_home(state, 2)
    assert main(["upgrade", "--dry-run", "--state", str(state)]) == 0
    told = capsys.readouterr().out
    assert "mail/ours.test/bob/index.sqlite 2 → " in told and "state-version" in told
    assert sqlite3.connect(index).execute("PRAGMA user_version").fetchone() == (2,)
    assert not (state / "state-version").exists()
    assert main(["upgrade", "--state", str(state)]) == 0
    assert sqlite3.connect(index).execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    capsys.readouterr()
    assert main(["upgrade", "--state", str(state)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_upgrade_stops_before_what_is_newer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    old_home(state, SCHEMA_VERSION + 1)
    assert main(["upgrade", "--state", str(state), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["possible"] and not found["done"]
    assert not (state / "state-version").exists()
