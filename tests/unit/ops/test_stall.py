"""The stall monitor: a reactor that was held up is told to the operator."""

from __future__ import annotations

import pytest
from twisted.internet import task
from twisted.logger import LogLevel, globalLogPublisher

from lorrainemail.ops.stall import BEAT, STALL, SWITCH, StallMonitor, measure_callbacks


class Log:
    def __enter__(self) -> list[dict[str, object]]:
        self.events: list[dict[str, object]] = []
        globalLogPublisher.addObserver(self.events.append)
        return self.events

    def __exit__(self, *exception: object) -> None:
        globalLogPublisher.removeObserver(self.events.append)


def warnings(events: list[dict[str, object]]) -> list[dict[str, object]]:
    return [event for event in events if event["log_level"] is LogLevel.warn]


def test_operator_hears_of_a_reactor_that_stood_still_and_of_nothing_else() -> None:
    clock = task.Clock()
    monitor = StallMonitor(clock)
    with Log() as events:
        monitor.startService()
        clock.pump([BEAT] * 10)
        assert not warnings(events)
        clock.advance(BEAT + STALL + 1)
        (event,) = warnings(events)
        assert event["lag"] == pytest.approx(STALL + 1)
        monitor.stopService()
    assert not clock.getDelayedCalls()


def test_longest_callback_is_told_at_the_end_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    clock = task.Clock()
    monitor = StallMonitor(clock)
    with Log() as events:
        monitor.startService()
        monitor.stopService()
    assert any("longest" in event for event in events)


def test_each_callback_of_the_reactor_is_timed_and_still_does_its_work() -> None:
    class Reactor:
        def _doReadOrWrite(self, selectable: str, descriptor: int, event: int) -> int:
            return sum(range(50_000)) + descriptor

        def runUntilCurrent(self) -> None:
            raise KeyError("as before")

    reactor = Reactor()
    meter = measure_callbacks(reactor)
    assert reactor._doReadOrWrite("a socket", 1, 2) == sum(range(50_000)) + 1
    with pytest.raises(KeyError):
        reactor.runUntilCurrent()
    assert meter.count == 2
    assert meter.longest > 0
    assert "a socket" in meter.name
