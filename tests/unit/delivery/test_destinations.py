"""An operator's pace for a destination is kept, and costs the others nothing."""

from __future__ import annotations

import attrs

from lorrainemail.delivery.destinations import FIRST, Destinations
from lorrainemail.interfaces import Pace


@attrs.frozen
class Job:
    destination: str
    priority: int = 0


def started(lines: Destinations[Job], now: float) -> list[str]:
    lines.wake(now)
    found = []
    while (job := lines.start(now)) is not None:
        found.append(job.destination)
    return found


def test_a_rate_lets_one_start_after_the_other_and_saves_nothing_up() -> None:
    lines: Destinations[Job] = Destinations(40, 5)
    for _ in range(6):
        lines.add(Job("slow"), 0.0, Pace(rate=6))  # one in ten seconds
        lines.add(Job("usual"), 0.0)
    assert started(lines, 0.0).count("slow") == 1
    lines.end("slow", False, 1.0)
    assert "slow" not in started(lines, 9.9)
    assert lines.next_wake() == 10.0
    assert started(lines, 10.0) == ["slow"]
    lines.end("slow", False, 11.0)
    # After a long rest there is still one at a time.
    assert started(lines, 500.0) == ["slow"]
    assert lines.next_wake() == 510.0


def test_an_operators_retry_does_not_break_the_rate() -> None:
    lines: Destinations[Job] = Destinations(40, 5)
    for _ in range(3):
        lines.add(Job("slow"), 0.0, Pace(rate=6))
    assert started(lines, 0.0) == ["slow"]
    lines.revive("slow", 1.0)
    assert started(lines, 1.0) == []


def test_a_row_bounds_or_raises_what_goes_on_at_once() -> None:
    lines: Destinations[Job] = Destinations(40, 5)
    for _ in range(20):
        lines.add(Job("one"), 0.0, Pace(concurrency=1))
        lines.add(Job("many"), 0.0, Pace(concurrency=12))
    assert sorted(started(lines, 0.0)) == ["many"] * FIRST + ["one"]
    for _ in range(20):
        lines.reached("one")
        lines.reached("many")
    lines.end("one", False, 1.0)
    lines.end("many", False, 1.0)
    assert sorted(started(lines, 1.0)) == ["many"] * (12 - FIRST + 1) + ["one"]


def test_a_new_pace_counts_from_the_next_job_on() -> None:
    lines: Destinations[Job] = Destinations(40, 5)
    lines.add(Job("x"), 0.0, Pace(rate=1))
    assert started(lines, 0.0) == ["x"]
    lines.end("x", False, 0.0)
    lines.add(Job("x"), 0.0)
    assert started(lines, 60.0) == ["x"]
    lines.end("x", False, 60.0)
    lines.add(Job("x"), 60.0)
    assert started(lines, 60.0) == ["x"]
