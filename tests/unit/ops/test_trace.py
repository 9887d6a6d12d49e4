"""The trace: what is noted is found again, for its time, and mail never waits for it."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, task

from lorrainemail.cli.main import main
from lorrainemail.ops import trace as trace_module
from lorrainemail.ops.trace import Trace, _Writer, stories, trace_path


class ClockedReactor(task.Clock):
    def callFromThread(self, function: Any, *args: object) -> None:
        reactor.callFromThread(function, *args)


@pytest.fixture
def clock() -> ClockedReactor:
    clock = ClockedReactor()
    clock.advance(1_700_000_000)
    return clock


async def noted(path: Path, clock: ClockedReactor, *events: tuple[str, str, dict[str, Any]]) -> Trace:
    trace = Trace(str(path), clock, 86400)
    trace.startService()
    for message, kind, facts in events:
        clock.advance(1)
        trace.event(message, kind, **facts)
    await trace.stopService()
    return trace


RECEIVED = (
    "m1",
    "received",
    {"sender": "Carole@elorac.fr", "recipients": ["bob@x.fr"], "message_id": "<A@b>"},
)
DELIVERED = ("m1", "delivered", {"recipient": "bob@x.fr", "account": "robert@x.fr", "where": "a file"})
OTHER = ("m2", "received", {"sender": "", "recipients": ["eve@x.fr"], "message_id": ""})


@pytest_twisted.ensureDeferred
async def test_story_is_found_by_id_message_id_and_every_address(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    path = tmp_path / "trace.sqlite"
    old = os.umask(0)
    try:
        await noted(path, clock, RECEIVED, OTHER, DELIVERED)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for question in ("m1", "<A@b>", "a@B", "carole@elorac.fr", "BOB@x.fr", "robert@x.fr"):
        (story,) = stories(str(path), question)
        assert [(event.kind, event.facts) for event in story] == [RECEIVED[1:], DELIVERED[1:]], question
    assert [story[0].message for story in stories(str(path))] == ["m1", "m2"]
    assert [story[0].message for story in stories(str(path), newest=1)] == ["m2"]
    assert list(stories(str(path), "nobody@x.fr")) == []
    assert list(stories(str(path), "bob@x.fr", since=clock.seconds() + 1)) == []


@pytest_twisted.ensureDeferred
async def test_events_of_one_run_do_not_hide_those_of_the_run_before(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    path = tmp_path / "trace.sqlite"
    await noted(path, clock, RECEIVED)
    await noted(path, clock, DELIVERED)
    (story,) = stories(str(path), "m1")
    assert len(story) == 2


def test_a_message_for_many_is_found_by_each_of_them_and_each_is_noted_once(tmp_path: Path) -> None:
    names = [f"u{number}@x.fr" for number in range(50)]
    facts: list[tuple[float, str, str, dict[str, Any]]] = [(1.0, "m1", "received", {"recipients": names})]
    facts += [(1.0, "m1", "delivered", {"recipient": name, "account": name}) for name in names]
    facts.append((1.0, "m2", "delivered", {"recipient": names[0]}))
    writer = _Writer(str(tmp_path / "t"))
    writer.write(facts)
    writer.close()
    connection = sqlite3.connect(tmp_path / "t")
    assert connection.execute("SELECT count(*) FROM word").fetchone() == (51,)
    connection.close()
    for name in names:
        assert len(next(stories(str(tmp_path / "t"), name))) == 51
    assert [story[0].message for story in stories(str(tmp_path / "t"), names[0])] == ["m1", "m2"]


def test_what_is_too_old_goes_in_slices_and_its_words_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "EXPIRY_SLICE", 10)
    writer = _Writer(str(tmp_path / "t"))
    writer.write([(float(n), f"m{n}", "received", {"sender": f"s{n}@x.fr"}) for n in range(25)])
    assert [writer.expire(20.0) for _ in range(3)] == [True, True, False]
    writer.close()
    assert [story[0].message for story in stories(str(tmp_path / "t"))] == [f"m{n}" for n in range(20, 25)]
    connection = sqlite3.connect(tmp_path / "t")
    assert connection.execute("SELECT count(*) FROM word").fetchone() == (5,)
    connection.close()


@pytest_twisted.ensureDeferred
async def test_trace_that_cannot_be_written_raises_an_alarm_and_harms_nobody(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    trace = await noted(tmp_path / "missing" / "trace.sqlite", clock, RECEIVED)
    assert "cannot be written" in str(trace.alarms()[0])


@pytest_twisted.ensureDeferred
async def test_file_of_another_version_is_left_as_it_is(tmp_path: Path, clock: ClockedReactor) -> None:
    connection = sqlite3.connect(tmp_path / "t")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    trace = await noted(tmp_path / "t", clock, RECEIVED)
    assert "version 99" in str(trace.alarms()[0])


def test_events_beyond_what_memory_holds_are_dropped_with_an_alarm(
    tmp_path: Path, clock: ClockedReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "MAX_WAITING", 3)
    trace = Trace(str(tmp_path / "t"), clock, 86400)
    for number in range(5):
        trace.event(f"m{number}", "received")
    assert len(trace._waiting) == 3
    assert "keep up" in str(trace.alarms()[0])


@pytest_twisted.ensureDeferred
async def test_the_command_tells_the_story_in_order(
    tmp_path: Path, clock: ClockedReactor, capsys: pytest.CaptureFixture[str]
) -> None:
    await noted(
        Path(trace_path(str(tmp_path))),
        clock,
        RECEIVED,
        DELIVERED,
        ("m1", "deferred", {"recipient": "x@far.example", "reply": "451 4.3.0 \x1b[31mred"}),
    )
    assert main(["trace", "--state", str(tmp_path), "bob@x.fr"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "message m1"
    assert "from <Carole@elorac.fr> for bob@x.fr" in lines[1]
    assert "to robert@x.fr, folder INBOX" in lines[2]
    assert "x@far.example: 451 4.3.0 ?[31mred" in lines[3]
    assert main(["trace", "--state", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["version"] == 1
    assert [event["kind"] for event in answer["messages"][0]["events"]] == [
        "received",
        "delivered",
        "deferred",
    ]
    assert main(["trace", "--state", str(tmp_path), "--since", "1h", "bob@x.fr"]) == 1
    assert main(["trace", "--state", str(tmp_path), "nobody@x.fr"]) == 1
    assert main(["trace", "--state", str(tmp_path / "elsewhere")]) == 1


@pytest_twisted.ensureDeferred
async def test_what_has_just_happened_is_found_at_once(tmp_path: Path, clock: ClockedReactor) -> None:
    trace = Trace(str(tmp_path / "trace.sqlite"), clock, 86400)
    await trace.flush()  # nothing to wait for before the start
    trace.startService()
    try:
        for number in range(20):
            trace.event(f"m{number}", "received", sender="carole@elorac.fr")
            await trace.flush().addTimeout(10, reactor)
            assert len(list(stories(str(tmp_path / "trace.sqlite"), f"m{number}"))) == 1
    finally:
        await trace.stopService()
    await trace.flush()


@pytest_twisted.ensureDeferred
async def test_what_a_question_costs_does_not_hang_on_all_that_is_remembered(
    tmp_path: Path, clock: ClockedReactor
) -> None:
    path = tmp_path / "trace.sqlite"
    events = [(f"m{n:04}", "received", {"sender": "all@x.fr", "recipients": []}) for n in range(2000)]
    await noted(path, clock, *events)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    connection = sqlite3.connect(path)
    connection.set_progress_handler(count, 10)
    late = clock.seconds() - 4.5
    for question, since in (
        ("all@x.fr", late),
        ("", late),
        ("nobody@x.fr", 0.0),
        ("m0007", 0.0),
        ("m0007", late),
    ):
        steps = 0
        found = trace_module._messages(connection, question, since)
        assert found == {"": events_of(5), "all@x.fr": events_of(5), "m0007": ["m0007"]}.get(question, [])
        assert steps < 150, (question, since, steps)
    connection.close()


def events_of(count: int) -> list[str]:
    return [f"m{n:04}" for n in range(2000 - count, 2000)]
