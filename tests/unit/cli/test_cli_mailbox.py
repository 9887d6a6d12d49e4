"""``lorrainemail mailbox``: what the operator sees of a home."""

import json
import os
from pathlib import Path

import pytest

from lorrainemail.cli.main import main
from lorrainemail.setup.lock import StateLock


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    inbox = state / "mail" / "x.test" / "bob" / "Maildir"
    for sub in ("tmp", "new", "cur", ".Sent/tmp", ".Sent/new", ".Sent/cur"):
        (inbox / sub).mkdir(parents=True)
    (inbox / "new" / "1.a,S=12,W=14").write_bytes(b"Subject: a\n\n")
    (inbox / "cur" / "2.b,S=12,W=14:2,S").write_bytes(b"Subject: b\n\n")
    return state


def run(state: Path, *words: str) -> int:
    return main(["mailbox", *words, "--state", str(state)])


def test_stat_counts_also_what_nobody_opened(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "stat", "bob@x.test", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == 1
    assert [(f["name"], f["files"], f["messages"]) for f in answer["folders"]] == [
        ("INBOX", 2, 0),
        ("Sent", 0, 0),
    ]


def test_rebuild_keeps_uids_and_makes_a_broken_index_anew(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(state, "rebuild", "bob@x.test", "--json") == 0
    first = json.loads(capsys.readouterr().out)["folders"][0]
    assert (first["messages"], first["unseen"], first["octets"]) == (2, 1, 28)
    assert run(state, "check", "bob@x.test") == 0
    os.unlink(state / "mail/x.test/bob/Maildir/new/1.a,S=12,W=14")
    assert run(state, "check", "bob@x.test") == 1
    assert "1 messages of the index have no file" in capsys.readouterr().out
    assert run(state, "rebuild", "bob@x.test", "--json") == 0
    again = json.loads(capsys.readouterr().out)["folders"][0]
    assert again["uid_validity"] == first["uid_validity"] and again["messages"] == 1
    (state / "mail/x.test/bob/index.sqlite").write_bytes(b"no database" * 1000)
    assert run(state, "check", "bob@x.test") == 1
    assert run(state, "rebuild", "bob@x.test") == 0
    assert run(state, "check", "bob@x.test") == 0


def test_rebuild_waits_for_no_running_server(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = StateLock.acquire(str(state))
    try:
        assert run(state, "rebuild", "bob@x.test") == 1
    finally:
        lock.release()
    assert "lorrainemail stop" in capsys.readouterr().err


def test_an_account_without_mail_is_said_plainly(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "stat", "nobody@x.test") == 1
    assert "has no mail here" in capsys.readouterr().err
