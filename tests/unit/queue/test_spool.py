"""The spool: what was accepted stays, what was finished goes, and clocks may jump."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Parameter, Recipient
from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import QueueItem, QueueRecipient
from lorrainemail.ops.content import Content
from lorrainemail.queue.files import ORPHAN_AGE
from lorrainemail.queue.format import FORMAT, Stored
from lorrainemail.queue.spool import AGAIN, Entry, Spool


def item(identity: str = "id1", *addresses: str, **more: Any) -> QueueItem:
    recipients = tuple(
        QueueRecipient("remote", Recipient(parse_address(address)))
        for address in addresses or ("bob@bricoleur.com",)
    )
    envelope = Envelope(
        id=identity,
        sender=parse_address("carole@elorac.fr"),
        recipients=tuple(one.recipient for one in recipients),
        parameters=(Parameter("SIZE", "100"),),
        sender_verified=True,
    )
    return QueueItem(attrs.evolve(envelope, **more), recipients, 1_790_000_000.0, 0)


def done(deferred: Deferred[Any]) -> Any:
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "still waiting"
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


def run(coroutine: Any) -> Any:
    return done(Deferred.fromCoroutine(coroutine))


BODY = Content(b"Subject: x\r\n\r\n.dot\r\n")


def put(spool: Spool, one: QueueItem) -> Entry:
    done(spool.placement(one, b"Received: y\r\n", BODY).commit())
    entry = spool.find(one.envelope.id)
    assert entry is not None
    return entry


def read(spool: Spool, entry: Entry) -> Stored:
    stored = run(spool.read(entry))
    assert stored is not None
    return stored  # type: ignore[no-any-return]


def test_an_item_survives_a_restart_with_all_its_parameters(make_spool: Any) -> None:
    put(make_spool(), item("id1", "bob@bricoleur.com", "zoé@bricoleur.com", smtputf8=True, envid="E", hops=3))
    spool = make_spool()
    (entry,) = spool.take(10)
    stored = read(spool, entry)
    assert stored.item.envelope.parameters == (Parameter("SIZE", "100"),)
    assert (stored.item.envelope.smtputf8, stored.item.envelope.envid, stored.item.envelope.hops) == (
        True,
        "E",
        3,
    )
    assert [str(one.recipient.address) for one in stored.item.recipients] == [
        "bob@bricoleur.com",
        "zoé@bricoleur.com",
    ]
    content = spool.content(stored)
    assert b"".join(content.chunks(7)) == b"Received: y\r\nSubject: x\r\n\r\n.dot\r\n"
    assert content.head(8) == b"Received"
    assert content.size == stored.item.size
    content.close()


def test_nothing_is_live_before_publish_and_nothing_left_after_abort(make_spool: Any, tmp_path: Path) -> None:
    spool = make_spool()
    placement = spool.placement(item(), b"", BODY)
    done(placement.stage())
    assert spool.count == 0 and spool.take(1) == []
    assert not list((tmp_path / "queue").glob("*.json"))
    done(placement.abort())
    assert [path for path in (tmp_path / "queue").rglob("*") if path.is_file()] == []


def test_stage_then_publish_wakes_the_runner(make_spool: Any) -> None:
    spool = make_spool()
    woken: list[int] = []
    spool.on_change(lambda: woken.append(1))
    placement = spool.placement(item(), b"", BODY)
    done(placement.stage())
    woken.clear()
    done(placement.publish())
    assert woken and len(spool.take(5)) == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failing_disk_is_a_temporary_refusal_and_leaves_nothing(
    make_spool: Any, committer: Any, tmp_path: Path, number: int
) -> None:
    spool = make_spool()
    committer.broken = OSError(number, os.strerror(number))
    for step in ("stage", "commit"):
        with pytest.raises(TemporaryError) as caught:
            done(getattr(spool.placement(item(), b"", BODY), step)())
        assert caught.value.reply.code == (452 if number == errno.ENOSPC else 451)
    assert spool.count == 0
    assert [path for path in (tmp_path / "queue").rglob("*") if path.is_file()] == []


def test_a_full_queue_says_so_and_takes_no_more(make_spool: Any) -> None:
    spool = make_spool(capacity=1)
    assert spool.full() is None
    put(spool, item("id1"))
    assert spool.full() is not None and spool.full().code == 452
    with pytest.raises(TemporaryError):
        done(spool.placement(item("id2"), b"", BODY).commit())


def test_the_same_id_is_not_queued_twice(make_spool: Any) -> None:
    spool = make_spool()
    put(spool, item("id1"))
    with pytest.raises(TemporaryError):
        done(spool.placement(item("id1"), b"", BODY).commit())
    assert read(spool, spool.find("id1"))


def test_files_are_private(make_spool: Any, tmp_path: Path) -> None:
    make_spool()
    for name in ("queue", "queue/tmp", "queue/damaged"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_a_finished_item_vanishes_from_disk_and_memory(make_spool: Any, tmp_path: Path) -> None:
    spool = make_spool()
    entry = put(spool, item())
    (one,) = read(spool, entry).item.recipients
    run(spool.change(entry, {0: attrs.evolve(one, state="done")}))
    assert spool.count == 0 and not spool.alive(entry)
    assert [path for path in (tmp_path / "queue").rglob("*") if path.is_file()] == []


def test_progress_of_one_recipient_is_durable_and_keeps_the_others(make_spool: Any) -> None:
    spool = make_spool()
    entry = put(spool, item("id1", "a@x.org", "b@y.org"))
    one = read(spool, entry).item.recipients[0]
    run(spool.change(entry, {0: attrs.evolve(one, state="done", last_reply="250 ok")}))
    spool = make_spool()
    states = [one.state for one in read(spool, spool.find("id1")).item.recipients]
    assert states == ["done", "waiting"]


def test_changes_that_come_together_all_hold(make_spool: Any, committer: Any) -> None:
    spool = make_spool()
    entry = put(spool, item("id1", "a@x.org", "b@y.org", "c@z.org"))
    recipients = read(spool, entry).item.recipients
    committer.hold = True
    changes = [
        Deferred.fromCoroutine(spool.change(entry, {index: attrs.evolve(one, attempts=index + 1)}))
        for index, one in enumerate(recipients)
    ]
    before = committer.commits
    committer.let_go()
    for change in changes:
        done(change)
    assert committer.commits - before <= 1  # the second and third were written together
    fresh = make_spool()
    assert [one.attempts for one in read(fresh, fresh.find("id1")).item.recipients] == [1, 2, 3]


def test_a_delivery_is_not_repeated_because_the_disk_refused_to_note_it(
    make_spool: Any, committer: Any, clock: Clock, tmp_path: Path
) -> None:
    spool = make_spool()
    entry = put(spool, item("id1", "a@x.org", "b@y.org"))
    one = read(spool, entry).item.recipients[0]
    committer.broken = OSError(errno.ENOSPC, "full")
    run(spool.change(entry, {0: attrs.evolve(one, state="done")}))
    assert [r.state for r in read(spool, entry).item.recipients] == ["done", "waiting"]
    committer.broken = None
    clock.advance(AGAIN + 1)
    on_disk = json.loads((tmp_path / "queue" / "id1.json").read_bytes())
    assert [r["state"] for r in on_disk["recipients"]] == ["done", "waiting"]


def test_a_finished_item_whose_removal_fails_is_removed_later_and_never_tried(
    make_spool: Any, committer: Any, clock: Clock, tmp_path: Path
) -> None:
    spool = make_spool()
    entry = put(spool, item())
    spool.take(1)
    (one,) = read(spool, entry).item.recipients
    committer.broken = OSError(errno.EROFS, "read-only")
    run(spool.change(entry, {0: attrs.evolve(one, state="done")}))
    spool.give_back(entry, read(spool, entry))
    clock.advance(1.0)
    assert spool.take(1) == []
    committer.broken = None
    clock.advance(AGAIN)
    assert not (tmp_path / "queue" / "id1.json").exists() and spool.count == 0


def test_a_deferred_item_comes_due_when_it_should_and_not_before(make_spool: Any, clock: Clock) -> None:
    spool = make_spool()
    entry = put(spool, item())
    spool.take(1)
    (one,) = read(spool, entry).item.recipients
    run(spool.change(entry, {0: attrs.evolve(one, attempts=1, next_try=spool.now() + 300)}))
    spool.give_back(entry, read(spool, entry))
    assert spool.take(1) == []
    assert spool.next_due() == pytest.approx(300)
    clock.advance(299)
    assert spool.take(1) == []
    clock.advance(1)
    assert spool.take(1) == [entry]
    assert spool.is_due(entry, read(spool, entry).item.recipients[0])


def test_an_operator_can_hurry_a_waiting_item(make_spool: Any) -> None:
    spool = make_spool()
    entry = put(spool, item())
    spool.take(1)
    (one,) = read(spool, entry).item.recipients
    run(spool.change(entry, {0: attrs.evolve(one, next_try=spool.now() + 300)}))
    spool.give_back(entry, read(spool, entry))
    spool.hurry(entry)
    assert spool.take(2) == [entry]
    assert spool.is_due(entry, read(spool, entry).item.recipients[0])


def test_recipients_in_hand_do_not_keep_the_others_waiting(make_spool: Any) -> None:
    spool = make_spool()
    entry = put(spool, item("id1", "slow@x.org", "b@y.org"))
    spool.take(1)
    one = read(spool, entry).item.recipients[1]
    entry.busy = frozenset({0})
    run(spool.change(entry, {1: attrs.evolve(one, next_try=spool.now() + 60)}))
    spool.give_back(entry, read(spool, entry))
    assert spool.next_due() == pytest.approx(60)
    entry.busy = frozenset({0, 1})
    spool.give_back(entry, read(spool, entry))
    assert spool.next_due() is None


class Wall:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_jump_of_the_wall_clock_neither_ages_nor_stalls_the_queue(make_spool: Any, clock: Clock) -> None:
    wall = Wall(1_790_000_000.0)
    spool = make_spool(wall=wall)
    entry = put(spool, item())
    spool.take(1)
    clock.advance(100)
    (one,) = read(spool, entry).item.recipients
    run(spool.change(entry, {0: attrs.evolve(one, next_try=spool.now() + 300)}))
    spool.give_back(entry, read(spool, entry))
    wall.now += 365 * 86400
    assert spool.age(entry) == pytest.approx(100)
    assert spool.next_due() == pytest.approx(300)
    # and across a restart, in both directions
    later = make_spool(wall=wall)
    assert later.age(later.find("id1")) == pytest.approx(100)
    assert later.next_due() == 0
    wall.now -= 10 * 365 * 86400
    earlier = make_spool(wall=wall)
    assert earlier.age(earlier.find("id1")) == pytest.approx(100)
    assert earlier.next_due() <= earlier.schedule.longest


def test_an_envelope_without_its_message_is_put_aside_and_said(make_spool: Any, tmp_path: Path) -> None:
    put(make_spool(), item("id1"))
    (tmp_path / "queue" / "id1.msg").unlink()
    spool = make_spool()
    assert spool.count == 0
    assert (tmp_path / "queue" / "damaged" / "id1.json").exists()


@pytest.mark.parametrize("octets", [b"", b"{", b'{"format":1}', b"[]", b'{"format":1,"id":"zz"}', b"\xff"])
def test_a_damaged_envelope_never_stops_the_others(make_spool: Any, tmp_path: Path, octets: bytes) -> None:
    first = make_spool()
    put(first, item("id1"))
    put(first, item("id2"))
    (tmp_path / "queue" / "id1.json").write_bytes(octets)
    spool = make_spool()
    assert [entry.id for entry in spool.take(10)] == ["id2"]
    assert (tmp_path / "queue" / "damaged" / "id1.msg").exists()


def test_an_envelope_damaged_beyond_the_first_look_is_put_aside_at_its_turn(
    make_spool: Any, tmp_path: Path
) -> None:
    put(make_spool(), item("id1"))
    path = tmp_path / "queue" / "id1.json"
    path.write_bytes(path.read_bytes().replace(b"bob@bricoleur.com", b"bob at nowhere@"))
    spool = make_spool()
    (entry,) = spool.take(10)
    assert run(spool.read(entry)) is None
    assert spool.count == 0
    assert (tmp_path / "queue" / "damaged" / "id1.json").exists()


def test_an_item_of_a_newer_version_is_left_alone(make_spool: Any, tmp_path: Path) -> None:
    put(make_spool(), item("id1"))
    path = tmp_path / "queue" / "id1.json"
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":%d' % (FORMAT + 1)))
    assert make_spool().take(10) == []
    assert path.exists() and (tmp_path / "queue" / "id1.msg").exists()


def test_rests_of_unfinished_placements_are_cleared_when_old(make_spool: Any, tmp_path: Path) -> None:
    make_spool()
    for name in ("id7.msg", "tmp/id8.json", "id9.msg"):
        (tmp_path / "queue" / name).write_bytes(b"x")
    for name in ("id7.msg", "tmp/id8.json"):
        old = os.stat(tmp_path / "queue" / name).st_mtime - ORPHAN_AGE - 60
        os.utime(tmp_path / "queue" / name, (old, old))
    make_spool()
    left = {path.name for path in (tmp_path / "queue").rglob("*") if path.is_file()}
    assert left == {"id9.msg"}


def test_dropping_forgets_an_item_without_a_notice(make_spool: Any, tmp_path: Path) -> None:
    spool = make_spool()
    entry = put(spool, item())
    run(spool.drop(entry))
    assert spool.count == 0 and not (tmp_path / "queue" / "id1.msg").exists()
    run(spool.change(entry, {}))  # a delivery that ends afterwards changes nothing
    assert not (tmp_path / "queue" / "id1.json").exists()


def test_what_was_dropped_is_not_revived_by_a_delivery_that_fails_later(make_spool: Any) -> None:
    spool = make_spool()
    entry = put(spool, item("id1", "a@x.org", "b@y.org"))
    one, two = read(spool, entry).item.recipients
    run(spool.change(entry, {0: attrs.evolve(one, state="done")}))
    run(spool.change(entry, {0: attrs.evolve(one, attempts=1), 1: attrs.evolve(two, attempts=1)}))
    assert [r.state for r in read(spool, entry).item.recipients] == ["done", "waiting"]


def test_a_message_that_shrank_on_disk_is_not_sent_half(make_spool: Any, tmp_path: Path) -> None:
    put(make_spool(), item())
    spool = make_spool()  # another process: nothing is in memory
    stored = read(spool, spool.take(1)[0])
    (tmp_path / "queue" / "id1.msg").write_bytes(b"Subject")
    with pytest.raises(TemporaryError):
        list(spool.content(stored).chunks())


def test_a_first_attempt_sends_what_was_written_and_later_ones_what_lies_there(
    make_spool: Any, tmp_path: Path
) -> None:
    spool = make_spool()
    entry = put(spool, item())
    stored = read(spool, entry)
    path = tmp_path / "queue" / "id1.msg"
    written = path.read_bytes()
    assert spool.content(stored).in_memory() == written
    one = attrs.evolve(stored.item.recipients[0], attempts=1, next_try=spool.now() + 600.0)
    Deferred.fromCoroutine(spool.change(entry, {0: one}))
    content = spool.content(read(spool, entry))
    assert content.in_memory() is None and b"".join(content.chunks()) == written


def test_messages_that_wait_for_their_first_attempt_do_not_fill_the_memory(
    make_spool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorrainemail.queue.spool.FRESH", 50)
    spool = make_spool()
    first, second = put(spool, item("id1")), put(spool, item("id2"))
    assert spool.content(read(spool, first)).in_memory() is None
    assert b"".join(spool.content(read(spool, first)).chunks())
    assert spool.content(read(spool, second)).in_memory()


def test_nothing_is_due_in_an_empty_queue(make_spool: Any) -> None:
    spool = make_spool()
    assert spool.next_due() is None and spool.take(3) == []
    assert Entry("x", math.inf, 0.0).busy == frozenset()


def test_a_queue_that_could_not_be_read_at_start_is_read_later(
    make_spool: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(make_spool(), item())
    real = os.scandir

    def broken(path: str) -> Any:
        raise OSError(errno.EIO, "disk")

    monkeypatch.setattr(os, "scandir", broken)
    spool = make_spool()
    assert spool.count == 0
    monkeypatch.setattr(os, "scandir", real)
    clock.advance(AGAIN)
    assert spool.identities() == ["id1"]
