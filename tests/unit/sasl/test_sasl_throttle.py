"""Guessers are slowed, owners are not locked out, memory stays bounded."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from lorrainemail.errors import TemporaryError
from lorrainemail.sasl import throttle as module
from lorrainemail.sasl.throttle import (
    ACCOUNT_GUESSES,
    ACCOUNT_WAIT,
    FORGET_AFTER,
    FREE_GUESSES,
    SPACING,
    Throttle,
)

EVIL = "192.0.2.66"
HOME = "198.51.100.7"


def guess(throttle: Throttle, network: str, name: str, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        throttle.failed(network, name, b"guess %d" % number)


def test_first_mistakes_cost_nothing() -> None:
    throttle = Throttle(Clock())
    guess(throttle, HOME, "bob", FREE_GUESSES)
    assert throttle.wait(HOME, "bob") == 0


def test_delay_grows_with_distinct_wrong_passwords() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    guess(throttle, EVIL, "bob", FREE_GUESSES)
    delays = []
    for number in range(len(SPACING)):
        guess(throttle, EVIL, "bob", 1, start=100 + number)
        delays.append(throttle.wait(EVIL, "bob"))
        clock.advance(1000)
    assert delays == list(SPACING)


def test_the_same_stale_password_counts_once() -> None:
    throttle = Throttle(Clock())
    for _ in range(500):
        throttle.failed(HOME, "bob", b"last year's")
    assert throttle.wait(HOME, "bob") == 0


def test_one_password_tried_on_many_names_counts_each() -> None:
    throttle = Throttle(Clock())
    for number in range(FREE_GUESSES + 1):
        throttle.failed(EVIL, f"user{number}", b"123456")
    assert throttle.wait(EVIL, "bob") == SPACING[0]


def test_side_by_side_attempts_of_one_network_queue_up_and_are_then_refused() -> None:
    throttle = Throttle(Clock())
    guess(throttle, EVIL, "bob", FREE_GUESSES + len(SPACING))
    assert throttle.wait(EVIL, "bob") == 30
    assert throttle.wait(EVIL, "carole") == 60
    with pytest.raises(TemporaryError) as refusal:
        throttle.wait(EVIL, "dan")
    assert refusal.value.reply.code == 454


def test_a_crowd_of_guessers_delays_a_stranger_but_keeps_nobody_out() -> None:
    throttle = Throttle(Clock())
    for number in range(1000):
        throttle.failed(f"203.0.113.{number % 250}", "bob", b"%d" % number)
    assert [throttle.wait(f"10.0.0.{host}", "bob") for host in range(50)] == [ACCOUNT_WAIT] * 50


def test_where_the_owner_logged_in_before_he_never_waits() -> None:
    throttle = Throttle(Clock())
    throttle.succeeded(HOME, "bob")
    guess(throttle, EVIL, "bob", ACCOUNT_GUESSES + 5)
    guess(throttle, HOME, "carole", FREE_GUESSES + 3)
    assert throttle.wait(HOME, "bob") == 0
    assert throttle.wait(HOME, "carole") > 0


def test_a_trusted_network_that_guesses_is_strange_again() -> None:
    throttle = Throttle(Clock())
    throttle.succeeded(HOME, "bob")
    guess(throttle, HOME, "bob", FREE_GUESSES + 4)
    assert throttle.wait(HOME, "bob") > 0


def test_a_good_login_clears_what_was_held_against_it() -> None:
    throttle = Throttle(Clock())
    guess(throttle, HOME, "bob", FREE_GUESSES + 2)
    assert throttle.wait(HOME, "bob") > 0
    throttle.succeeded(HOME, "bob")
    assert throttle.wait(HOME, "bob") == 0
    assert throttle.wait(HOME, "carole") == 0


def test_an_own_good_login_does_not_clear_guesses_at_others() -> None:
    throttle = Throttle(Clock())
    guess(throttle, EVIL, "bob", FREE_GUESSES + 2)
    throttle.succeeded(EVIL, "mallory")
    assert throttle.wait(EVIL, "bob") > 0


def test_failures_are_forgotten_with_time() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    guess(throttle, EVIL, "bob", 30)
    clock.advance(FORGET_AFTER + 1)
    assert throttle.wait(EVIL, "bob") == 0


def test_memory_is_bounded_against_many_networks_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECORDS", 50)
    throttle = Throttle(Clock())
    for number in range(500):
        throttle.failed(f"10.1.{number // 250}.{number % 250}", f"name{number}", b"x")
        throttle.succeeded(f"10.2.{number // 250}.{number % 250}", f"other{number}")
    assert (len(throttle._networks), len(throttle._accounts), len(throttle._trusted)) == (50, 50, 50)
    guess(throttle, EVIL, "bob", 1000)
    record = throttle._networks.get(EVIL)
    assert record is not None and len(record.guesses) == module.GUESSES_KEPT
