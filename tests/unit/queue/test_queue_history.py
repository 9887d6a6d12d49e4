"""What became of mail is remembered, for a bounded time and in bounded space."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.interfaces import Outcome, QueueItem, QueueRecipient
from lorrainemail.queue import history as module
from lorrainemail.queue.history import GATHER, SWEEP, History, records, remote_id

DAY = 86400


class Threads:
    def run(self, work: Any) -> Any:
        return maybeDeferred(work)


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> History:
    return History(clock, str(tmp_path), Threads(), 3 * DAY, 1 << 30, clock.seconds)  # type: ignore[arg-type]


def note(history: History, identity: str = "id1", to: str = "bob@x.org", reply: str = "250 2.0.0 ok") -> None:
    envelope = Envelope(id=identity, sender=parse_address("carole@elorac.fr"), recipients=())
    recipient = Recipient(parse_address(to), original="Sales@bricoleur.com")
    one = QueueRecipient("remote", recipient, state="done", attempts=2, last_reply=reply)
    item = QueueItem(envelope, (one,), 0.0, 4711, "submission", "carole@elorac.fr")
    said = Outcome(
        recipient, "delivered", module_reply(reply), host="mx.x.org[192.0.2.1]:25", tls="TLSv1.3 X"
    )
    history.note("delivered", item, one, 1.25, said)


def module_reply(text: str) -> Any:
    from lorrainemail.errors import Reply

    return Reply(250, "2.0.0", text)


def ids(tmp_path: Path, *asked: Any, **more: Any) -> list[str]:
    return [record["id"] for record in records(str(tmp_path), *asked, **more)]


def test_an_end_is_on_disk_within_a_second_and_says_everything(
    history: History, clock: Clock, tmp_path: Path
) -> None:
    note(history, reply="250 2.0.0 Ok: queued as 4XyZ12")
    clock.advance(GATHER)
    (record,) = records(str(tmp_path))
    assert record == {
        "time": clock.seconds() - GATHER,
        "id": "id1",
        "outcome": "delivered",
        "sender": "carole@elorac.fr",
        "recipient": "bob@x.org",
        "original": "Sales@bricoleur.com",
        "reply": "250 2.0.0 Ok: queued as 4XyZ12",
        "remote_id": "4XyZ12",
        "host": "mx.x.org[192.0.2.1]:25",
        "tls": "TLSv1.3 X",
        "attempts": 2,
        "seconds": 1.2,
        "size": 4711,
        "door": "submission",
        "account": "carole@elorac.fr",
        "courier": "remote",
        "notice": "",
    }
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("id1", True),
        ("4xyz12", True),
        ("BOB@x.org", True),
        ("x.org", True),
        ("@elorac.fr", True),
        ("sales@bricoleur.com", True),
        ("x.or", False),
        ("id", False),
        ("été@x.org", False),
    ],
)
def test_an_end_is_found_by_what_an_operator_knows(
    history: History, tmp_path: Path, word: str, found: bool
) -> None:
    note(history, reply="250 2.0.0 Ok: queued as 4XyZ12")
    history.flush()
    assert bool(ids(tmp_path, 0.0, word)) is found


def test_the_newest_come_first_and_older_ones_are_left_out(
    history: History, clock: Clock, tmp_path: Path
) -> None:
    for number in range(4):
        note(history, f"id{number}")
        clock.advance(DAY / 2)
    assert ids(tmp_path) == ["id3", "id2", "id1", "id0"]
    assert ids(tmp_path, clock.seconds() - DAY) == ["id3", "id2"]


def test_what_is_too_old_goes(history: History, clock: Clock, tmp_path: Path) -> None:
    for number in range(8):
        note(history, f"id{number}")
        clock.advance(DAY)
    assert ids(tmp_path) == ["id7", "id6", "id5", "id4"]


def test_what_is_too_much_goes_oldest_first(
    history: History, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT", 1000)
    history.most = 3000
    for number in range(20):
        note(history, f"id{number}")
        clock.advance(SWEEP)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000 + 2 * 1000
    assert ids(tmp_path)[:3] == ["id19", "id18", "id17"]


def test_half_a_line_of_a_crash_hides_nothing(history: History, tmp_path: Path) -> None:
    note(history)
    history.flush()
    (file,) = tmp_path.iterdir()
    with open(file, "ab") as stream:
        stream.write(b'{"time": 17\n')
    note(history, "id2")
    history.flush()
    assert ids(tmp_path) == ["id2", "id1"]


def test_a_disk_that_refuses_costs_history_alone(history: History, clock: Clock, tmp_path: Path) -> None:
    os.rmdir(tmp_path)
    note(history)
    clock.advance(GATHER)
    tmp_path.mkdir()
    note(history, "id2")
    clock.advance(GATHER)
    assert ids(tmp_path) == ["id2"]


def test_no_history_is_kept_where_none_is_wanted(history: History, clock: Clock, tmp_path: Path) -> None:
    history.keep = 0
    note(history)
    assert clock.getDelayedCalls() == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("reply", "identity"),
    [
        ("250 2.0.0 Ok: queued as 4XyZ12abc", "4XyZ12abc"),  # Postfix
        ("250 OK id=1tABcD-000000001AB-2xyZ", "1tABcD-000000001AB-2xyZ"),  # Exim
        ("250 2.0.0 5AMKx1Zy012345 Message accepted for delivery", "5AMKx1Zy012345"),  # Sendmail
        ("250 2.0.0 c0ffee12 Message accepted for delivery", "c0ffee12"),  # OpenSMTPD
        ("250 2.0.0 OK  1732270000 ab12-20020a1709si123.45 - gsmtp", "ab12-20020a1709si123.45"),
        ("250 2.6.0 <x@y> [InternalId=123456789, Hostname=a] Queued mail for delivery", "123456789"),
        ("250 2.0.0 Queued as 01JABC", "01JABC"),  # ours
        ("250 2.0.0 thank you", ""),
    ],
)
def test_the_other_servers_id_is_understood(reply: str, identity: str) -> None:
    assert remote_id(reply) == identity
