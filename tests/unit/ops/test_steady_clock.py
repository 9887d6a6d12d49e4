"""Timers and dates when somebody sets the system's clock."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor

from lorrainemail.ops.steady import LEAP, SteadyClock


class System:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.monotonic = 50.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.monotonic)

    def pass_time(self, seconds: float, step: float = 0.5) -> list[float]:
        """What the clock says while so much time passes."""
        said = []
        for _ in range(round(seconds / step)):
            self.wall += step
            self.monotonic += step
            said.append(self.clock.seconds())
        return said


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def reactor(system: System) -> Iterator[Any]:
    """A reactor of its own that goes by the steady clock."""
    made: Any = EPollReactor()
    made.seconds = system.clock.seconds
    yield made
    made.removeAll()
    made._poller.close()


def test_time_is_the_wall_clocks_while_nobody_touches_it(system: System) -> None:
    assert system.pass_time(100)[-1] == pytest.approx(system.wall)


@pytest.mark.parametrize("jump", [-3600.0, -1e9, 30.0, 3000.0, 1e9])
def test_a_timer_fires_however_the_clock_is_set(system: System, reactor: Any, jump: float) -> None:
    fired: list[None] = []
    reactor.callLater(10, fired.append, None)
    system.wall += jump
    for _ in range(40):  # twice its time at most
        system.pass_time(0.5)
        reactor.runUntilCurrent()
    assert fired == [None]


def test_time_never_goes_back_and_comes_right_again(system: System) -> None:
    system.wall -= 60
    said = system.pass_time(200)
    assert said == sorted(said)
    assert said[-1] == pytest.approx(system.wall)


def test_a_small_lag_is_caught_up_without_a_leap(system: System) -> None:
    system.wall += 60
    said = system.pass_time(700)
    assert max(b - a for a, b in pairwise(said)) < 0.6
    assert said[-1] == pytest.approx(system.wall)


def test_asked_often_it_never_goes_back_either(system: System) -> None:
    system.wall -= 2
    said = system.pass_time(8, 0.001)
    assert said == sorted(said)
    assert said[-1] == pytest.approx(system.wall, abs=0.002)
    system.wall += 0.3
    said = system.pass_time(6, 0.003)
    assert max(b - a for a, b in pairwise(said)) < 0.004
    assert said[-1] == pytest.approx(system.wall, abs=0.002)


def test_a_machine_that_slept_knows_the_time_at_once(system: System) -> None:
    system.wall += LEAP + 60
    assert system.pass_time(0.5)[-1] == pytest.approx(system.wall)
