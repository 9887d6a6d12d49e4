"""``lorrainemail queue`` as an operator types it, without a server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from lorrainemail.addresses import parse_address
from lorrainemail.cli.main import main
from lorrainemail.cli.queue import spell
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.interfaces import QueueItem, QueueRecipient
from lorrainemail.ops.files import SYSTEM
from lorrainemail.queue.files import Directory
from lorrainemail.queue.format import Stored, encode
from lorrainemail.setup.lock import StateLock


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with two messages in its queue."""
    Directory(str(tmp_path / "queue"), SYSTEM).prepare()
    for identity, reply in (("id1", "451 4.2.1 come back"), ("id2", "")):
        one = QueueRecipient(
            "remote",
            Recipient(parse_address("bob@x.org")),
            attempts=1 if reply else 0,
            next_try=time.time() + 725,
            last_reply=reply,
        )
        envelope = Envelope(id=identity, sender=parse_address("carole@elorac.fr"), recipients=())
        item = QueueItem(envelope, (one,), time.time() - 7500, 4200)
        (tmp_path / "queue" / f"{identity}.json").write_bytes(encode(Stored(item)))
        (tmp_path / "queue" / f"{identity}.msg").write_bytes(b"Subject: x\r\n\r\n")
    return tmp_path


def run(state: Path, *words: str) -> int:
    return main(["queue", *words, "--state", str(state)])


def test_the_list_is_in_words(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "list") == 0
    text = capsys.readouterr().out
    assert "id1  2 h 5 min old, 4.2 kB, from carole@elorac.fr" in text
    assert "to bob@x.org: 1 try so far, next try in 12 min" in text
    assert "451 4.2.1 come back" in text
    assert "2 messages for 2 recipients" in text


@pytest.mark.parametrize("words", [("list", "--json"), ("--json",), ("--json", "list")])
def test_programs_get_json(state: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["total"]) == (1, 2)
    assert [item["id"] for item in found["items"]] == ["id1", "id2"]
    assert run(state, "show", "id2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["item"]["id"] == "id2"


def test_messages_are_dropped(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "drop", "id1") == 0
    assert run(state, "drop", "--all") == 0
    capsys.readouterr()
    assert run(state, "list") == 0
    assert "empty" in capsys.readouterr().out


def test_an_unknown_message_fails(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("show", "zz"), ("drop", "zz"), ("retry", "zz")):
        assert run(state, *words) == 1
        assert "no message zz" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("drop",), ("drop", "id1", "--all"), ("retry",)])
def test_wrong_usage_is_told_apart(state: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(state, *words)
    assert caught.value.code == 2


def test_nothing_is_changed_under_another_ones_lock(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = StateLock.acquire(str(state))
    try:
        assert run(state, "drop", "id1") == 1
        assert "holds" in capsys.readouterr().err
        assert run(state, "list") == 0
    finally:
        lock.release()
    assert (state / "queue" / "id1.json").exists()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (720, "12 min"),
        (7500, "2 h 5 min"),
        (86400, "1 d"),
        (200000, "2 d 7 h"),
    ],
)
def test_spans_of_time_are_short(seconds: float, words: str) -> None:
    assert spell(seconds) == words


def test_messages_are_chosen_by_their_facts(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(state, "list", "--reason", "Come Back", "--to", "x.org", "--older", "2h", "--json") == 0
    assert [item["id"] for item in json.loads(capsys.readouterr().out)["items"]] == ["id1"]
    assert run(state, "hold", "--sender", "elorac.fr", "--json") == 0
    assert json.loads(capsys.readouterr().out)["done"] == ["id1", "id2"]
    assert run(state, "retry", "id1") == 1
    assert "release it first" in capsys.readouterr().err
    assert run(state, "list", "--held") == 0
    assert "1 try so far, held" in capsys.readouterr().out
    assert run(state, "release", "--reason", "come back") == 0
    assert "id1 is released" in capsys.readouterr().out
    assert run(state, "drop", "--newer", "1h") == 0
    assert "like that" in capsys.readouterr().out


def test_what_has_left_is_told_with_the_other_servers_id(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(state, "history") == 1
    assert "nothing is known" in capsys.readouterr().err
    line = {
        "time": time.time() - 100,
        "id": "id0",
        "outcome": "delivered",
        "sender": "",
        "recipient": "bob@x.org",
        "reply": "250 2.0.0 Ok: queued as 4X\x1b[2J",
        "remote_id": "4X",
        "host": "mx.x.org[192.0.2.1]:25",
        "attempts": 1,
        "seconds": 3.0,
    }
    (state / "queue" / "history" / time.strftime("%Y-%m-%d.0000.jsonl", time.gmtime())).write_text(
        json.dumps(line) + "\n"
    )
    assert run(state, "history", "x.org", "--since", "1h", "--outcome", "delivered", "--reason", "ok") == 0
    text = capsys.readouterr().out
    assert "id0  delivered: <> to bob@x.org, after 3 s, 1 try" in text
    assert "by mx.x.org[192.0.2.1]:25" in text and "its id there: 4X" in text and "\x1b" not in text
    assert run(state, "history", "x.org", "--outcome", "bounced") == 1
