"""The runner: every recipient ends well, is told, or is tried again; nobody waits for another's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from lorrainemail.addresses import Address, parse_address
from lorrainemail.delivery.destinations import DOWN, FIRST, PATIENCE
from lorrainemail.delivery.notices import Notices
from lorrainemail.delivery.runner import AFTER_A_FAULT, GRACE, Runner
from lorrainemail.envelope import Envelope, Parameter, Recipient
from lorrainemail.errors import INTERNAL_ERROR, Reply, TemporaryError
from lorrainemail.interfaces import (
    FileWrite,
    ICommitter,
    IContent,
    ICourier,
    IInjector,
    Outcome,
    QueueItem,
    QueueRecipient,
)
from lorrainemail.ops.committer import Batch
from lorrainemail.ops.content import Content
from lorrainemail.ops.files import SYSTEM
from lorrainemail.queue.format import FUTURE
from lorrainemail.queue.schedule import Schedule
from lorrainemail.queue.spool import Spool

OK = Reply(250, "2.0.0", "queued")
LATER = Reply(451, "4.2.1", "come back")
NEVER = Reply(550, "5.1.1", "unknown")
AWAY = Reply(421, "4.4.1", "no connection")


@implementer(ICommitter)
class DirectCommitter:
    """Writes at once, in the caller's thread, with the committer's own code."""

    def _do(self, what: str, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        from lorrainemail.ops.committer import _Job

        done: Deferred[list[OSError | None]] = Deferred()
        job = _Job(writes, what, done, [None] * len(writes))  # type: ignore[arg-type]
        Batch(SYSTEM, 0o077, lambda path: None, lambda directory, error: None).process([job])
        return succeed(job.errors)

    def stage(self, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        return self._do("stage", writes)

    def publish(self, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        return self._do("publish", writes)

    def commit(self, writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        return self._do("commit", writes)

    def discard(self, writes: Sequence[FileWrite]) -> Deferred[None]:
        return self._do("discard", writes).addCallback(lambda _: None)

    def run(self, work: Callable[[], Any]) -> Deferred[Any]:
        return maybeDeferred(work)

    def writable(self, octets: int) -> OSError | None:
        return None


@attrs.define(eq=False)
class Call:
    item: QueueItem
    recipients: Sequence[QueueRecipient]
    done: Deferred[list[Outcome]]

    @property
    def addresses(self) -> list[str]:
        return [str(one.recipient.address) for one in self.recipients]

    def answer(
        self, *replies: Reply, ours: bool = False, host: str = "mx[192.0.2.1]:25", confirms: bool = False
    ) -> None:
        outcomes = []
        for one, reply in zip(self.recipients, replies * len(self.recipients), strict=False):
            kind: Any = "delivered" if reply.positive else "failed" if reply.permanent else "deferred"
            if ours:
                kind = "deferred"
            where = "" if reply is AWAY else host
            outcomes.append(Outcome(one.recipient, kind, reply, ours, where, confirms=confirms))
        self.done.callback(outcomes)


@implementer(ICourier)
class FakeCourier:
    """Keeps every call for the test to answer; the domain is the destination."""

    name = "remote"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.raises: Exception | None = None
        self.octets: list[bytes] = []

    def destination(self, item: QueueItem, recipient: QueueRecipient) -> str:
        return recipient.recipient.address.domain

    def deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        if self.raises is not None:
            return fail(self.raises)
        self.octets.append(content.head(100))
        self.calls.append(Call(item, recipients, Deferred()))
        return self.calls[-1].done

    def take(self) -> list[Call]:
        calls, self.calls = self.calls, []
        return calls


@implementer(IInjector)
class FakeInjector:
    def __init__(self) -> None:
        self.sent: list[tuple[Address | None, list[Address], bytes, int, str]] = []
        self.broken = False

    def inject(
        self, sender: Address | None, recipients: Sequence[Address], content: IContent, hops: int, cause: str
    ) -> Deferred[str]:
        if self.broken:
            return fail(TemporaryError(INTERNAL_ERROR))
        self.sent.append((sender, list(recipients), content.head(10**6), hops, cause))
        return succeed("dsn1")


class House:
    """A runner on a spool, a clock, and doubles of everything else."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1_790_000_000.0)
        self.directory = directory
        self.courier = FakeCourier()
        self.injector = FakeInjector()
        self.more = {"concurrency": 40, "per_destination": 5, **more}
        self.ids = 0
        self.begin()

    def begin(self) -> None:
        """A new process on the same directory."""
        committer = DirectCommitter()
        self.spool = Spool(
            self.clock,
            str(self.directory / "queue"),
            committer,
            schedule=Schedule((300, 600), expire=86400, delay_notice=14400),
            wall=self.clock.seconds,
            monotonic=self.clock.seconds,
        )
        self.spool.prepare()
        notices = Notices(self.injector, "mail.ours.test", Content, lambda: "n1", committer.run)
        self.runner = Runner(self.clock, self.spool, [self.courier], notices, **self.more)
        self.spool.startService()
        self.runner.startService()
        self.settle()

    def settle(self) -> None:
        for _ in range(4):
            self.clock.advance(0)

    def put(self, *addresses: str, **more: Any) -> str:
        self.ids += 1
        identity = f"id{self.ids:05}"
        facts: dict[str, Any] = {"sender": parse_address("carole@ours.test"), "sender_verified": True}
        item_facts = {"account": more.pop("account", ""), "trusted": more.pop("trusted", False)}
        changes = {name: more.pop(name) for name in ("notify",) if name in more}
        one = QueueRecipient("remote", Recipient(parse_address("x@x.org"), **changes))
        recipients = tuple(
            attrs.evolve(one, recipient=attrs.evolve(one.recipient, address=parse_address(address)))
            for address in addresses
        )
        envelope = Envelope(id=identity, recipients=(), **{**facts, **more})
        item = QueueItem(envelope, recipients, self.clock.seconds(), 0, **item_facts)
        done = self.spool.placement(item, b"", Content(b"Subject: hello\r\n\r\nx\r\n")).commit()
        assert done.called
        self.settle()
        return identity

    def calls(self) -> list[Call]:
        self.settle()
        return self.courier.take()

    def answer_all(self, *replies: Reply, **more: Any) -> int:
        """Answer everything that is under way, until nothing is; how many calls that were."""
        count = 0
        while calls := self.calls():
            for call in calls:
                count += 1
                call.answer(*replies, **more)
        self.settle()
        return count

    def state(self, identity: str) -> list[QueueRecipient]:
        entry = self.spool.find(identity)
        assert entry is not None, f"{identity} is gone"
        results: list[Any] = []
        Deferred.fromCoroutine(self.spool.read(entry)).addCallback(results.append)
        return list(results[0].item.recipients)


MakeHouse = Callable[..., House]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_delivered_message_leaves_the_queue(house: House) -> None:
    house.put("bob@x.org")
    (call,) = house.calls()
    call.answer(OK)
    house.settle()
    assert house.spool.count == 0 and house.injector.sent == []
    assert house.courier.octets == [b"Subject: hello\r\n\r\nx\r\n"]


def test_recipients_of_one_destination_go_together_and_others_apart(house: House) -> None:
    house.put("a@x.org", "b@y.org", "c@x.org")
    assert sorted(call.addresses for call in house.calls()) == [["a@x.org", "c@x.org"], ["b@y.org"]]


def test_a_deferred_recipient_is_tried_again_later_and_the_others_not(house: House) -> None:
    identity = house.put("a@x.org", "b@x.org")
    house.calls()[0].answer(OK, LATER)
    house.settle()
    first, second = house.state(identity)
    assert first.state == "done" and second.state == "waiting"
    assert (second.attempts, second.last_reply) == (1, "451 4.2.1 come back")
    house.clock.advance(200)
    assert house.calls() == []
    house.clock.advance(200)
    (call,) = house.calls()
    assert call.addresses == ["b@x.org"]


def test_waits_grow_over_a_restart(house: House) -> None:
    identity = house.put("a@x.org")
    house.answer_all(LATER)
    house.clock.advance(360)
    house.answer_all(LATER)
    assert house.state(identity)[0].attempts == 2
    house.runner.stopService()
    house.begin()
    assert house.state(identity)[0].attempts == 2
    house.clock.advance(400)
    assert house.calls() == []
    house.clock.advance(300)
    assert len(house.calls()) == 1


def test_a_refused_recipient_is_told_to_the_sender_and_leaves(house: House) -> None:
    identity = house.put("a@x.org", "b@x.org", hops=2)
    house.calls()[0].answer(NEVER, OK)
    house.settle()
    assert house.spool.count == 0
    ((sender, recipients, octets, hops, cause),) = house.injector.sent
    assert sender is None and [str(one) for one in recipients] == ["carole@ours.test"]
    assert (hops, cause) == (3, identity)
    assert b"a@x.org" in octets and b"b@x.org" not in octets
    assert b"Subject: hello" in octets and b"Status: 5.1.1" in octets
    assert b"Remote-MTA: dns; mx\r\n" in octets


@pytest.mark.parametrize(
    ("facts", "confirms", "told"),
    [
        ({"notify": ("SUCCESS",), "trusted": True}, False, True),
        ({"notify": ("SUCCESS",), "account": "carole@ours.test"}, False, True),
        ({"notify": ("SUCCESS",), "trusted": True}, True, False),
        ({"notify": ("SUCCESS",)}, False, False),
        ({"notify": ("SUCCESS",), "trusted": True, "sender": None}, False, False),
        ({"notify": ("FAILURE",), "trusted": True}, False, False),
        ({"trusted": True}, False, False),
    ],
)
def test_who_asked_and_is_ours_hears_of_a_relay_that_the_next_host_will_not_confirm(
    house: House, facts: Any, confirms: bool, told: bool
) -> None:
    house.put("a@x.org", ret="FULL", **facts)
    (call,) = house.calls()
    call.answer(OK, confirms=confirms)
    house.settle()
    assert house.spool.count == 0
    assert len(house.injector.sent) == told
    if told:
        octets = house.injector.sent[0][2]
        assert b"Action: relayed" in octets and b"Final-Recipient: rfc822; a@x.org" in octets
        assert b"text/rfc822-headers" in octets  # RFC 3461 §4.3


def test_a_success_whose_notice_cannot_be_kept_is_not_delivered_again(house: House) -> None:
    house.injector.broken = True
    house.put("a@x.org", notify=("SUCCESS",), trusted=True)
    house.answer_all(OK)
    assert house.spool.count == 0


def test_all_that_failed_together_is_told_in_one_notice(house: House) -> None:
    house.put("a@x.org", "b@x.org", "c@x.org")
    house.calls()[0].answer(NEVER)
    house.settle()
    assert len(house.injector.sent) == 1
    assert house.injector.sent[0][2].count(b"Final-Recipient") == 3


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"sender": None}, 0),
        ({"sender_verified": False}, 0),
        ({"sender_verified": False, "account": "carole@ours.test"}, 1),
        ({"notify": ("NEVER",)}, 0),
        ({"notify": ("SUCCESS", "DELAY")}, 0),
        ({"notify": ("FAILURE",)}, 1),
        ({}, 1),
    ],
)
def test_a_stranger_is_never_hit_by_a_notice(house: House, facts: Any, told: int) -> None:
    house.put("a@x.org", **facts)
    house.answer_all(NEVER)
    assert house.spool.count == 0
    assert len(house.injector.sent) == told


def test_a_recipient_leaves_only_when_its_notice_is_safe(house: House) -> None:
    identity = house.put("a@x.org")
    house.injector.broken = True
    house.answer_all(NEVER)
    assert house.state(identity)[0].state == "waiting"
    house.injector.broken = False
    house.clock.advance(400)
    house.answer_all(NEVER)
    assert house.spool.count == 0 and len(house.injector.sent) == 1


def test_a_failure_of_ours_is_never_final_before_expiry(house: House) -> None:
    identity = house.put("a@x.org")
    house.calls()[0].answer(NEVER, ours=True)
    house.settle()
    assert house.state(identity)[0].state == "waiting" and house.injector.sent == []
    (alarm,) = house.runner.alarms()
    assert "a@x.org" in alarm.what
    house.clock.advance(400)
    house.answer_all(OK)
    assert house.runner.alarms() == []


def test_an_alarm_ends_when_nothing_is_tried_any_more(house: House) -> None:
    identity = house.put("a@x.org")
    house.calls()[0].answer(NEVER, ours=True)
    house.settle()
    entry = house.spool.find(identity)
    assert entry is not None
    Deferred.fromCoroutine(house.spool.drop(entry))
    assert len(house.runner.alarms()) == 1
    house.clock.advance(3 * house.spool.schedule.longest)
    assert house.runner.alarms() == []


def test_a_sender_does_not_read_the_names_of_our_files_and_rows(house: House) -> None:
    secret = Reply(451, "4.3.5", "the row '*' (/etc/lorrainemail/lorrainemail.toml:7) names nothing")
    identity = house.put("a@x.org")
    while house.spool.count and house.clock.seconds() - 1_790_000_000 < 10 * 86400:
        for call in house.calls():
            call.answer(secret, ours=True, host="")
        house.settle()
        if house.spool.count:
            assert secret.text in house.state(identity)[0].last_reply
        house.clock.advance(3600)
    ((_, _, octets, _, _),) = house.injector.sent
    assert b"Status: 4.4.7" in octets and b"own configuration" in octets
    assert b"toml" not in octets


def test_a_courier_that_raises_defers(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = house.put("a@x.org")
    house.calls()[0].done.errback(RuntimeError("bug"))
    house.settle()
    assert house.state(identity)[0].attempts == 1 and house.injector.sent == []


def test_an_error_of_our_own_neither_repeats_a_delivery_nor_spins(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = house.put("a@x.org", "b@x.org")
    monkeypatch.setattr(house.runner, "_note", None)  # any bug will do
    house.calls()[0].answer(OK, LATER)
    house.settle()
    assert [one.state for one in house.state(identity)] == ["done", "waiting"]
    assert house.calls() == []
    monkeypatch.undo()
    house.clock.advance(AFTER_A_FAULT)
    (call,) = house.calls()
    assert call.addresses == ["b@x.org"]


def test_a_courier_that_does_not_exist_defers(house: House) -> None:
    item = QueueItem(
        Envelope(id="id9", sender=None, recipients=()),
        (QueueRecipient("pigeon", Recipient(parse_address("a@x.org"))),),
        house.clock.seconds(),
        0,
    )
    house.spool.placement(item, b"", Content(b"x")).commit()
    house.settle()
    assert "pigeon" in house.state("id9")[0].last_reply


def test_a_message_that_fails_for_days_is_given_up_and_told_once(house: House) -> None:
    identity = house.put("a@x.org")
    for _ in range(400):
        if house.spool.count == 0:
            break
        house.answer_all(LATER)
        house.clock.advance(360)
    assert house.spool.find(identity) is None
    ((_, _, octets, _, _),) = house.injector.sent
    assert b"Status: 4.4.7" in octets and b"come back" in octets
    assert house.clock.seconds() - 1_790_000_000 >= 86400


def test_our_own_user_hears_of_a_delay_once(house: House) -> None:
    house.put("a@x.org", account="carole@ours.test")
    house.put("b@x.org")
    while house.clock.seconds() - 1_790_000_000 < 40000:
        house.answer_all(LATER)
        house.clock.advance(360)
    (sent,) = house.injector.sent
    assert b"Action: delayed" in sent[2] and b"a@x.org" in sent[2]


def test_an_unreachable_destination_is_not_tried_by_every_message(house: House) -> None:
    for _ in range(50):
        house.put("a@x.org")
    assert house.answer_all(AWAY) == FIRST
    house.clock.advance(DOWN[0] + 1)
    assert house.answer_all(AWAY) == 1
    house.clock.advance(DOWN[1] - 10)
    assert house.calls() == []
    house.clock.advance(20)
    while house.spool.count and house.clock.seconds() < 1_790_010_000:
        house.answer_all(OK)
        house.clock.advance(60)
    assert house.spool.count == 0


def test_messages_in_line_at_a_dead_destination_expire_and_are_told(house: House) -> None:
    for _ in range(6):
        house.put("a@x.org")
    while house.spool.count and house.clock.seconds() - 1_790_000_000 < 3 * 86400:
        house.answer_all(AWAY)
        house.clock.advance(600)
    assert house.spool.count == 0
    assert len(house.injector.sent) == 6


def test_one_slow_destination_does_not_delay_another(tmp_path: Path) -> None:
    house = House(tmp_path, concurrency=4, per_destination=2)
    for _ in range(20):
        house.put("a@slow.org")
    slow = house.calls()
    assert len(slow) == 2
    house.put("b@fast.org", "c@slow.org")
    house.settle()
    (fast,) = house.calls()
    assert fast.addresses == ["b@fast.org"]


def test_many_slow_destinations_do_not_use_up_all_connections(tmp_path: Path) -> None:
    house = House(tmp_path, concurrency=4)
    for number in range(8):
        house.put(f"a@slow{number}.org")
    assert len(house.calls()) == 4
    house.put("b@fast.org")
    house.clock.advance(PATIENCE)
    assert len(house.calls()) == 4
    house.clock.advance(PATIENCE)
    assert "b@fast.org" in [address for call in house.calls() for address in call.addresses]


def test_a_destination_that_works_gets_more_at_once_up_to_its_limit(house: House) -> None:
    for _ in range(30):
        house.put("a@x.org")
    seen = 0
    while calls := house.calls():
        seen = max(seen, len(calls))
        assert len(calls) <= 5
        for call in calls:
            call.answer(OK)
    assert seen == 5 and house.spool.count == 0


def test_the_next_message_does_not_wait_until_the_last_one_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, per_destination=1)
    writing: Deferred[None] = Deferred()

    async def slow(*_: object) -> None:
        await writing

    monkeypatch.setattr(house.spool, "change", slow)
    house.put("bob@x.org")
    house.put("eve@x.org")
    (first,) = house.calls()
    first.answer(OK)
    (second,) = house.calls()  # although nobody has written down yet what became of the first
    second.answer(OK)
    writing.callback(None)
    house.settle()


def test_destinations_take_turns(tmp_path: Path) -> None:
    house = House(tmp_path, concurrency=1)
    for _ in range(5):
        house.put("a@x.org")
    for _ in range(5):
        house.put("b@y.org")
    order = []
    while calls := house.calls():
        (call,) = calls
        order.append(call.addresses[0])
        call.answer(OK)
    assert order[1:5] in (["b@y.org", "a@x.org"] * 2, ["a@x.org", "b@y.org"] * 2)


def test_a_retry_happens_at_once_also_where_the_destination_is_down(house: House) -> None:
    for _ in range(5):
        identity = house.put("a@x.org")
    house.answer_all(AWAY)
    entry = house.spool.find(identity)
    assert entry is not None
    house.runner.retry(entry)
    assert len(house.calls()) == 1


def test_a_retry_of_what_waits_in_the_queue_does_not_wait_for_its_destination(house: House) -> None:
    identity = house.put("a@x.org")
    house.answer_all(AWAY)
    entry = house.spool.find(identity)
    assert entry is not None and house.calls() == []
    house.clock.advance(1)
    house.runner.retry(entry)
    house.clock.advance(1)
    assert len(house.calls()) == 1


def test_what_an_operator_gives_up_is_told(house: House) -> None:
    identity = house.put("a@x.org")
    house.answer_all(LATER)
    entry = house.spool.find(identity)
    assert entry is not None
    Deferred.fromCoroutine(house.runner.bounce(entry))
    house.settle()
    assert house.spool.count == 0 and len(house.injector.sent) == 1


def test_what_was_dropped_in_line_is_not_delivered(house: House) -> None:
    for _ in range(4):
        identity = house.put("a@x.org")
    running = house.calls()
    assert len(running) == FIRST
    entry = house.spool.find(identity)
    assert entry is not None
    Deferred.fromCoroutine(house.spool.drop(entry))
    for call in running:
        call.answer(OK)
    assert house.answer_all(OK) == 1
    assert house.spool.count == 0


def test_a_stop_lets_running_deliveries_end(house: House) -> None:
    house.put("a@x.org")
    (call,) = house.calls()
    stopped = house.runner.stopService()
    assert not stopped.called
    house.put("b@y.org")
    assert house.calls() == []
    call.answer(OK)
    assert stopped.called
    assert house.spool.count == 1


def test_a_stop_cuts_deliveries_that_take_too_long_and_keeps_their_mail(house: House) -> None:
    identity = house.put("a@x.org")
    house.calls()
    closed: list[int] = []
    house.runner._closing = lambda: succeed(closed.append(1))
    stopped = house.runner.stopService()
    house.clock.advance(GRACE)
    assert stopped.called and closed == [1]
    house.begin()
    assert house.state(identity)[0].state == "waiting"
    (call,) = house.calls()
    assert call.addresses == ["a@x.org"]


def test_a_restart_resumes_the_queue(house: House) -> None:
    for number in range(5):
        house.put(f"a@x{number}.org")
    house.calls()
    house.runner.stopService()
    house.clock.advance(GRACE)
    house.begin()
    assert house.answer_all(OK) == 5
    assert house.spool.count == 0


def test_a_jump_of_the_wall_clock_expires_nothing(house: House) -> None:
    identity = house.put("a@x.org")
    house.answer_all(LATER)
    house.runner.stopService()
    house.clock.advance(100 * 86400)  # a long sleep, or a clock that was wrong
    house.begin()
    house.answer_all(LATER)
    assert house.state(identity)[0].attempts == 2 and house.injector.sent == []


def test_a_standing_shows_what_a_recipient_waits_for(house: House) -> None:
    identities = [house.put("a@x.org") for _ in range(4)]
    entries = [house.spool.find(identity) for identity in identities]
    words = [house.runner.standing(entry)[0][0] for entry in entries if entry is not None]
    assert words == ["being delivered", "being delivered", "in line", "in line"]
    house.answer_all(AWAY)
    last = house.spool.find(identities[-1])
    assert last is not None
    (text, seconds) = house.runner.standing(last)[0]
    assert "no connection" in text and seconds > 0


# -- what the sender asks of the way --------------------------------------------------------------------


def by(house: House, words: str) -> dict[str, Any]:
    return {"parameters": (Parameter("BY", words),), "received_at": house.clock.seconds()}


def test_what_is_not_delivered_by_its_time_is_returned_then(house: House) -> None:
    house.put("a@x.org", trusted=True, **by(house, "1000;R"))
    house.answer_all(LATER)
    house.clock.advance(500)
    assert house.answer_all(LATER) == 1 and house.injector.sent == []
    house.clock.advance(499)
    house.calls()
    house.clock.advance(2)
    assert house.answer_all(LATER) <= 1
    assert house.spool.count == 0
    ((_, _, octets, _, _),) = house.injector.sent
    assert b"Action: failed" in octets and b"Status: 5.4.7" in octets and b"come back" in octets


def test_nothing_is_tried_after_its_time(house: House) -> None:
    house.put("a@x.org", trusted=True, **by(house, "100;R"))
    house.answer_all(AWAY)  # the destination is down: nothing is due before that ends
    house.clock.advance(3600)
    house.settle()
    assert house.calls() == [] and house.spool.count == 0
    assert b"Status: 5.4.7" in house.injector.sent[0][2]


def test_who_wants_to_hear_of_a_delay_hears_it_in_time_and_once(house: House) -> None:
    house.put("a@x.org", trusted=True, **by(house, "100;N"))
    house.answer_all(LATER)
    house.clock.advance(101)
    house.answer_all(LATER)
    assert [b"Action: delayed" in one[2] for one in house.injector.sent] == [True]
    for _ in range(3):
        house.clock.advance(700)
        house.answer_all(LATER)
    assert len(house.injector.sent) == 1 and house.spool.count == 1


@pytest.mark.parametrize(
    ("words", "keeps", "notify", "told"),
    [
        ("100;N", False, None, True),
        ("100;N", True, None, False),
        ("100;NT", True, None, True),
        ("100;NT", True, ("NEVER",), False),
    ],
)
def test_a_relay_is_told_where_the_time_is_not_kept_or_a_trace_is_wanted(
    house: House, words: str, keeps: bool, notify: Any, told: bool
) -> None:
    house.put("a@x.org", trusted=True, notify=notify, **by(house, words))
    (call,) = house.calls()
    (one,) = call.recipients
    call.done.callback(
        [Outcome(one.recipient, "delivered", OK, host="mx[192.0.2.1]:25", confirms=True, keeps_time=keeps)]
    )
    house.settle()
    assert [b"Action: relayed" in sent[2] for sent in house.injector.sent] == [True] * told


def test_urgent_mail_overtakes_what_stands_in_line(tmp_path: Path) -> None:
    house = House(tmp_path, concurrency=1)
    house.put("first@x.org")
    for priority in ("-4", "0", "3", "9", "3"):
        house.put(f"p{priority}@x.org", parameters=(Parameter("MT-PRIORITY", priority),))
    house.put("other@y.org")
    house.put("urgent@y.org", parameters=(Parameter("MT-PRIORITY", "1"),))
    order = []
    while calls := house.calls():
        (call,) = calls
        order.append(call.addresses[0])
        call.answer(OK)
    at_x = [one for one in order if one.endswith("@x.org")]
    assert at_x == ["first@x.org", "p9@x.org", "p3@x.org", "p3@x.org", "p0@x.org", "p-4@x.org"]
    assert [one for one in order if one.endswith("@y.org")] == ["urgent@y.org", "other@y.org"]
    assert order[1] == "urgent@y.org"


def test_a_report_on_mail_that_must_stay_under_tls_carries_its_header_alone(house: House) -> None:
    house.put("a@x.org", ret="FULL", parameters=(Parameter("REQUIRETLS"),))
    house.answer_all(NEVER)
    ((_, _, octets, _, _),) = house.injector.sent
    assert b"text/rfc822-headers" in octets and b"Subject: hello" in octets and b"\r\n\r\nx\r\n" not in octets


def test_held_mail_waits_for_its_time_whatever_an_operator_hurries_and_over_restarts(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.courier.name = FUTURE
    house.runner.stopService()
    house.begin()
    until = house.clock.seconds() + 20 * 86400
    one = QueueRecipient(FUTURE, Recipient(parse_address("a@x.org")), next_try=until)
    envelope = Envelope(
        id="held1", sender=parse_address("carole@ours.test"), recipients=(), sender_verified=True
    )
    item = QueueItem(envelope, (one,), house.clock.seconds(), 0, account="carole@ours.test", release_at=until)
    assert house.spool.placement(item, b"", Content(b"x\r\n")).commit().called
    house.settle()
    entry = house.spool.find("held1")
    assert entry is not None
    house.runner.retry(entry)
    assert house.calls() == []
    for day in range(19):
        if day == 7:
            house.runner.stopService()
            house.begin()
        for _ in range(6):
            house.clock.advance(4 * 3600)
            assert house.calls() == []
    house.clock.advance(86400 - 60)
    assert house.calls() == []
    house.clock.advance(61)
    (call,) = house.calls()
    call.answer(LATER)
    house.settle()
    # Its age begins at its release: it has not expired, though it is 20 days old.
    assert house.spool.count == 1 and house.injector.sent == []
    entry = house.spool.find("held1")
    assert entry is not None and house.spool.age(entry) < 3700
