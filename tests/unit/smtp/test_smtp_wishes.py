"""What a client may ask of the way of its message, and who may: REQUIRETLS, BY, holding, priorities."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed

from lorrainemail.errors import Reply
from lorrainemail.grammar.smtp_wishes import wishes_of
from lorrainemail.interfaces import Transaction
from lorrainemail.smtp.door import Door

HELD = Reply(250, "2.0.0", "Held")


def holding(world: Any) -> list[tuple[Transaction, float]]:
    """Let the world's door hold messages; those that it held."""
    held: list[tuple[Transaction, float]] = []

    def hold(transaction: Transaction, until: float) -> Deferred[Reply]:
        held.append((transaction, until))
        return succeed(HELD)

    door: Door = world.door
    door.hold = hold
    door.settings = door.settings
    return held


def announced(client: Any) -> list[str]:
    return [line[4:] for line in client.send("EHLO c\r\n").splitlines()]


def test_strangers_are_offered_only_what_is_kept_for_them(world: Any) -> None:
    holding(world)
    client = world.connect()
    words = " ".join(announced(client))
    assert not any(one in words for one in ("REQUIRETLS", "DELIVERBY", "MT-PRIORITY", "FUTURERELEASE"))
    assert "DELIVERBY" in announced(world.connect("10.1.2.3"))
    client.server._secure = True
    assert "REQUIRETLS" in announced(client) and "DELIVERBY" not in announced(client)


def test_submission_offers_all_of_it(world: Any) -> None:
    holding(world.submission())
    lines = announced(world.connect())
    assert {"DELIVERBY", "MT-PRIORITY"} <= set(lines)
    # 1,700,000,000 + 30 days.
    assert "FUTURERELEASE 2592000 2023-12-14T22:13:20Z" in lines


def test_how_far_mail_may_be_held_is_not_said_for_ever(world: Any) -> None:
    holding(world.submission())
    world.door.wall_clock = lambda: 1_700_000_000.0 + 86400
    assert "FUTURERELEASE 2592000 2023-12-15T22:13:20Z" in announced(world.connect())


def test_a_local_door_offers_none_of_it(world: Any) -> None:
    world.configure(door="lmtp")
    client = world.connect()
    client.server._secure = True
    client.send("LHLO c\r\n")
    assert client.send("MAIL FROM:<> REQUIRETLS\r\n").startswith("555")


@pytest.mark.parametrize(
    ("parameter", "code"),
    [
        ("REQUIRETLS", "530 5.7.10"),
        ("BY=100;R", "530 5.7.0"),
        ("MT-PRIORITY=3", "555 5.5.4"),
        ("HOLDFOR=100", "555 5.5.4"),
        ("BY=0;R", "501 5.5.4"),
        ("BY=-1;R", "501 5.5.4"),
        ("BY=1", "501 5.5.4"),
        ("BY", "501 5.5.4"),
        ("BY=1234567890;N", "501 5.5.4"),
        ("REQUIRETLS=yes", "501 5.5.4"),
    ],
)
def test_a_stranger_in_clear_text_is_told_why_not(world: Any, parameter: str, code: str) -> None:
    holding(world)
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.send(f"MAIL FROM:<a@b.org> {parameter}\r\n").startswith(code)
    assert client.say("MAIL FROM:<a@b.org>") == ["250 2.1.0"]


@pytest.mark.parametrize(
    "parameter",
    [
        "HOLDFOR=2592001",
        "HOLDFOR=-1",
        "HOLDFOR",
        "HOLDUNTIL=2023-12-14T22:13:21Z",
        "HOLDUNTIL=tomorrow",
        "HOLDUNTIL=2023-11-31T22:13:21Z",
        "HOLDUNTIL=99999-11-31T22:13:21Z",
        "HOLDFOR=1 HOLDUNTIL=2023-11-20T22:13:21Z",
        "HOLDFOR=1 BY=100;N",
        "MT-PRIORITY=10",
        "MT-PRIORITY=x",
    ],
)
def test_what_is_malformed_or_too_far_is_refused(world: Any, parameter: str) -> None:
    holding(world.submission())
    client = world.logged_in()
    assert client.send(f"MAIL FROM:<anne@ours.test> {parameter}\r\n").startswith("501 5.5.4")


@pytest.mark.parametrize(
    ("parameter", "until"),
    [
        ("HOLDFOR=600", 1_700_000_600.0),
        ("HOLDUNTIL=2023-11-14T22:30:00Z", 1_700_001_000.0),
        ("holduntil=2023-11-14t23:30:00.5+01:00", 1_700_001_000.5),
    ],
)
def test_a_message_for_later_is_held_and_not_taken(world: Any, parameter: str, until: float) -> None:
    held = holding(world.submission())
    client = world.logged_in()
    client.send(f"MAIL FROM:<anne@ours.test> {parameter}\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    assert client.send("From: anne@ours.test\r\n\r\nx\r\n.\r\n") == HELD.wire().decode()
    assert world.intake.taken == [] and [one[1] for one in held] == [until]
    # The next one of the session goes at once.
    client.send("MAIL FROM:<anne@ours.test>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    client.send("From: anne@ours.test\r\n\r\nx\r\n.\r\n")
    assert len(world.intake.taken) == 1 and len(held) == 1


@pytest.mark.parametrize("parameter", ["HOLDFOR=0", "HOLDUNTIL=2001-01-01T00:00:00Z"])
def test_a_time_that_is_over_holds_nothing(world: Any, parameter: str) -> None:
    held = holding(world.submission())
    client = world.logged_in()
    client.send(f"MAIL FROM:<anne@ours.test> {parameter}\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    client.send("From: anne@ours.test\r\n\r\nx\r\n.\r\n")
    assert held == [] and len(world.intake.taken) == 1


def test_wishes_travel_with_the_envelope(world: Any) -> None:
    holding(world.submission())
    client = world.logged_in()
    client.server._secure = True
    client.send(
        "MAIL FROM:<anne@ours.test> BY=100;NT MT-PRIORITY=+5 REQUIRETLS\r\nRCPT TO:<bob@ours.test>\r\n"
    )
    client.send("DATA\r\n")
    client.send("From: anne@ours.test\r\n\r\nx\r\n.\r\n")
    (transaction,) = world.intake.taken
    wishes = wishes_of(transaction.envelope)
    assert (wishes.require_tls, wishes.priority) == (True, 5)
    assert wishes.deliver_by is not None and attrs.astuple(wishes.deliver_by) == (100, "N", True)
