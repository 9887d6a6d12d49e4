"""Waits grow, stay within bounds, and end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lorrainemail.queue.schedule import JITTER, Schedule


def test_waits_grow_and_the_last_one_repeats() -> None:
    schedule = Schedule(waits=(300, 600, 1200))
    assert [schedule.wait(attempt, 0.5) for attempt in range(1, 6)] == [300, 600, 1200, 1200, 1200]


@given(st.integers(0, 10**6))
def test_no_wait_leaves_its_bounds(attempts: int) -> None:
    schedule = Schedule()
    wait = schedule.wait(attempts)
    assert 300 * (1 - JITTER) <= wait <= schedule.longest


def test_what_failed_together_does_not_come_back_together() -> None:
    assert len({Schedule().wait(1) for _ in range(20)}) > 15


def test_a_message_is_given_up_at_its_age_and_not_before() -> None:
    schedule = Schedule(expire=100)
    assert not schedule.expired(99.9) and schedule.expired(100)
