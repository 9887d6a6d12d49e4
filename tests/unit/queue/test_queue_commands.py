"""What the operator is told about the queue, with a server and without one."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import QueueItem, QueueRecipient
from lorrainemail.ops.content import Content
from lorrainemail.queue.commands import Offline, commands
from lorrainemail.queue.history import records
from lorrainemail.queue.spool import Entry, Spool


def put(spool: Spool, identity: str, *addresses: str, **more: Any) -> Entry:
    recipients = tuple(
        QueueRecipient("remote", Recipient(parse_address(address)), **more)
        for address in addresses or ("bob@x.org",)
    )
    envelope = Envelope(id=identity, sender=parse_address("carole@elorac.fr"), recipients=())
    item = QueueItem(envelope, recipients, spool.now(), 0, "submission", "carole@elorac.fr")
    spool.placement(item, b"", Content(b"Subject: x\r\n\r\nx\r\n")).commit()
    entry = spool.find(identity)
    assert entry is not None
    return entry


class FakeRunner:
    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.retried: list[str] = []
        self.in_hand: dict[str, dict[int, tuple[str, float]]] = {}

    def retry(self, entry: Entry) -> None:
        self.retried.append(entry.id)

    async def bounce(self, entry: Entry) -> bool:
        if entry.id == "stuck":
            return False
        await self.spool.drop(entry)
        return True

    def standing(self, entry: Entry) -> dict[int, tuple[str, float]]:
        return self.in_hand.get(entry.id, {})


class Live:
    def __init__(self, spool: Spool) -> None:
        self.runner = FakeRunner(spool)
        self._commands = commands(spool, self.runner)

    def __call__(self, name: str, **arguments: Any) -> Any:
        results: list[Any] = []
        done: Deferred[Any] = self._commands[name](**arguments)
        done.addBoth(results.append)
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]


@pytest.fixture
def spool(make_spool: Any) -> Spool:
    return make_spool()  # type: ignore[no-any-return]


@pytest.fixture(params=["live", "offline"])
def ask(request: pytest.FixtureRequest, spool: Spool, clock: Clock) -> Any:
    if request.param == "live":
        return Live(spool)
    return lambda name, **arguments: Offline(spool.directory, clock.seconds()).call(name, **arguments)


def test_a_list_tells_who_waits_why_and_until_when(ask: Any, spool: Spool, clock: Clock) -> None:
    put(
        spool,
        "id1",
        "bob@x.org",
        "anne@y.org",
        attempts=2,
        next_try=spool.now() + 500,
        last_reply="451 later",
    )
    clock.advance(100)
    answer = ask("queue.list")
    assert (answer["total"], answer["next"]) == (1, "")
    (item,) = answer["items"]
    assert (item["id"], item["sender"], item["age"], item["account"]) == (
        "id1",
        "carole@elorac.fr",
        100,
        "carole@elorac.fr",
    )
    assert item["recipients"][0] == {
        "address": "bob@x.org",
        "original": "",
        "courier": "remote",
        "state": "waiting",
        "attempts": 2,
        "last_reply": "451 later",
        "next_try": 400.0,
    }


def test_a_long_queue_is_listed_page_by_page_without_gaps(ask: Any, spool: Spool) -> None:
    for number in range(7):
        put(spool, f"id{number}")
    seen, after = [], ""
    while True:
        page = ask("queue.list", limit=3, after=after)
        assert page["total"] == 7 and len(page["items"]) <= 3
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
        if not after:
            break
    assert seen == [f"id{number}" for number in range(7)]


def test_an_empty_queue_is_empty(ask: Any) -> None:
    assert ask("queue.list") == {"total": 0, "items": [], "next": ""}
    assert ask("queue.drop", all=True) == {"done": [], "kept": []}


def test_one_message_is_shown(ask: Any, spool: Spool) -> None:
    put(spool, "id1")
    assert ask("queue.show", id="id1")["recipients"][0]["address"] == "bob@x.org"


@pytest.mark.parametrize("identity", ["nope", "../../etc/passwd", ""])
def test_an_unknown_message_is_said(ask: Any, identity: str) -> None:
    for name, arguments in (
        ("queue.show", {"id": identity}),
        ("queue.drop", {"ids": [identity]}),
        ("queue.retry", {"ids": [identity]}),
    ):
        with pytest.raises(PermanentError, match="no message"):
            ask(name, **arguments)


def test_messages_are_dropped_one_by_one_or_all(ask: Any, spool: Spool, make_spool: Any) -> None:
    for number in range(5):
        put(spool, f"id{number}")
    assert ask("queue.drop", ids=["id1", "id3"]) == {"done": ["id1", "id3"], "kept": []}
    assert make_spool().identities() == ["id0", "id2", "id4"]
    assert ask("queue.drop", all=True)["done"] == ["id0", "id2", "id4"]
    assert make_spool().identities() == []


def test_a_retry_without_a_server_is_due_at_its_start(spool: Spool, make_spool: Any, clock: Clock) -> None:
    put(spool, "id1", next_try=spool.now() + 500)
    Offline(spool.directory, clock.seconds()).call("queue.retry", ids=["id1"])
    assert make_spool().next_due() == 0


def test_a_retry_with_a_server_goes_to_its_runner(spool: Spool) -> None:
    put(spool, "id1")
    live = Live(spool)
    assert live("queue.retry", all=True) == {"done": ["id1"], "kept": []}
    assert live.runner.retried == ["id1"]


def test_what_cannot_be_given_up_now_is_told_as_kept(spool: Spool) -> None:
    put(spool, "id1")
    put(spool, "stuck")
    assert Live(spool)("queue.bounce", all=True) == {"done": ["id1"], "kept": ["stuck"]}


def test_a_notice_needs_the_server(spool: Spool, clock: Clock) -> None:
    put(spool, "id1")
    with pytest.raises(PermanentError, match="running server"):
        Offline(spool.directory, clock.seconds()).call("queue.bounce", ids=["id1"])


def test_what_is_in_the_runners_hands_is_told(spool: Spool) -> None:
    put(spool, "id1", "a@x.org", "b@y.org")
    live = Live(spool)
    live.runner.in_hand["id1"] = {1: ("being delivered", 0.0)}
    states = [one["state"] for one in live("queue.show", id="id1")["recipients"]]
    assert states == ["waiting", "being delivered"]


def test_a_damaged_item_does_not_hide_the_others(spool: Spool, clock: Clock, tmp_path: Any) -> None:
    put(spool, "id1")
    put(spool, "id2")
    (tmp_path / "queue" / "id1.json").write_bytes(b"{")
    answer = Offline(spool.directory, clock.seconds()).call("queue.list")
    assert [item["id"] for item in answer["items"]] == ["id2"]


def test_a_held_message_is_not_tried_until_it_is_released(ask: Any, spool: Spool, make_spool: Any) -> None:
    put(spool, "id1", "bob@x.org", "anne@y.org")
    assert ask("queue.hold", ids=["id1"]) == {"done": ["id1"], "kept": []}
    assert ask("queue.hold", ids=["id1"]) == {"done": [], "kept": ["id1"]}
    assert ask("queue.retry", ids=["id1"]) == {"done": [], "kept": ["id1"]}
    assert [one["state"] for one in ask("queue.show", id="id1")["recipients"]] == ["held", "held"]
    assert make_spool().next_due() is None
    assert ask("queue.release", ids=["id1"]) == {"done": ["id1"], "kept": []}
    assert ask("queue.release", ids=["id1"]) == {"done": [], "kept": ["id1"]}
    assert make_spool().next_due() == 0


def test_what_an_attempt_says_does_not_undo_a_hold(spool: Spool) -> None:
    entry = put(spool, "id1", "bob@x.org", "anne@y.org")
    live = Live(spool)
    live("queue.hold", ids=["id1"])
    one = live("queue.show", id="id1")
    assert one["recipients"][0]["state"] == "held"
    later = QueueRecipient("remote", Recipient(parse_address("bob@x.org")), attempts=1, last_reply="451 x")
    done = QueueRecipient("remote", Recipient(parse_address("anne@y.org")), state="done")
    Deferred.fromCoroutine(spool.change(entry, {0: later, 1: done}))
    first, second = live("queue.show", id="id1")["recipients"]
    assert (first["state"], first["last_reply"], second["state"]) == ("held", "451 x", "done")


@pytest.mark.parametrize(
    ("choice", "ids"),
    [
        ({"sender": "carole@ELORAC.fr"}, ["id1", "id2", "id3"]),
        ({"sender": "elorac.fr", "recipient": "x.org"}, ["id1", "id3"]),
        ({"recipient": "@y.org"}, ["id2"]),
        ({"recipient": "bob@x.org"}, ["id1"]),
        ({"reason": "MAILBOX FULL"}, ["id2"]),
        ({"older": 50}, ["id1", "id2"]),
        ({"newer": 50}, ["id3"]),
        ({"state": "held"}, ["id3"]),
        ({"sender": "<>"}, []),
    ],
)
def test_messages_are_chosen(ask: Any, spool: Spool, clock: Clock, choice: Any, ids: list[str]) -> None:
    put(spool, "id1", "bob@x.org")
    put(spool, "id2", "anne@y.org", last_reply="452 4.2.2 mailbox full")
    clock.advance(100)
    put(spool, "id3", "eve@x.org")
    ask("queue.hold", ids=["id3"])
    seen, after = [], ""
    while True:
        page = ask("queue.list", limit=1, after=after, choice=choice)
        seen += [item["id"] for item in page["items"]]
        after = page["next"]
        if not after:
            break
    assert seen == ids


def test_a_choice_that_is_none_is_said(ask: Any) -> None:
    for choice in ({"colour": "red"}, {"older": "long"}, {"sender": 5}):
        with pytest.raises(PermanentError, match="cannot be chosen"):
            ask("queue.list", choice=choice)


def test_what_was_dropped_is_remembered(ask: Any, spool: Spool) -> None:
    spool.history.keep = 86400
    put(spool, "id1", "bob@x.org", last_reply="451 later")
    assert ask("queue.drop", ids=["id1"])["done"] == ["id1"]
    ask("queue.history.flush")
    (record,) = records(spool.directory.history)
    assert (record["outcome"], record["recipient"]) == ("dropped", "bob@x.org")
    assert record["reply"] == "451 later"
