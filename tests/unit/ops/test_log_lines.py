"""The log reads as twistd's own, and what must not be lost is written at once."""

from __future__ import annotations

import io
import signal
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher, textFileLogObserver
from twisted.python.failure import Failure

from lorrainemail.ops.log import GATHER, MAX_WAITING, LogLines, note, observer


class Reactor(Clock):
    running = True


class Log:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.out, self.twisted = io.StringIO(), io.StringIO()
        self.lines = LogLines(self.out, self.reactor)
        publisher = LogPublisher(self.lines, textFileLogObserver(self.twisted))
        self.logger = Logger("lorrainemail.intake", observer=publisher)


@pytest.fixture
def kept() -> Log:
    return Log()


def test_lines_are_those_of_twistd(kept: Log) -> None:
    note(kept.logger, "01ab: from <carole@elorac.fr> for {nobody}\nand more", sender="carole@elorac.fr")
    kept.logger.info("{peer} said {what!r}", peer="192.0.2.1", what="é\n")
    kept.logger.warn("slow")
    try:
        raise ValueError("broken")
    except ValueError:
        kept.logger.failure("It {what}", Failure(), what="failed")
    kept.logger.debug("", nothing=1)
    kept.reactor.advance(GATHER)
    assert kept.out.getvalue() == kept.twisted.getvalue()
    assert kept.out.getvalue().count("\n[") == 0 and "ValueError: broken" in kept.out.getvalue()


def test_lines_of_messages_wait_a_moment_and_are_written_together(kept: Log) -> None:
    note(kept.logger, "one")
    note(kept.logger, "two")
    assert kept.out.getvalue() == ""
    kept.reactor.advance(GATHER)
    assert kept.out.getvalue().count("\n") == 2
    assert not kept.reactor.getDelayedCalls()


@pytest.mark.parametrize("level", [LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical])
def test_all_else_is_written_at_once_behind_what_came_before(kept: Log, level: Any) -> None:
    note(kept.logger, "one")
    kept.logger.emit(level, "two")
    first, second = kept.out.getvalue().splitlines()
    assert first.endswith("one") and second.endswith("two")


def test_nothing_waits_for_a_reactor_that_does_not_run(kept: Log) -> None:
    note(kept.logger, "waits")
    kept.reactor.running = False
    note(kept.logger, "the last word")
    assert kept.out.getvalue().count("\n") == 2


def test_little_waits(kept: Log) -> None:
    for _ in range(3):
        note(kept.logger, "x" * (MAX_WAITING // 2))
    assert len(kept.out.getvalue()) > MAX_WAITING


def test_a_full_disk_costs_the_lines_alone(kept: Log) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    lines = LogLines(Full(), kept.reactor)
    note(Logger("x", observer=lines), "lost")
    kept.reactor.advance(GATHER)
    assert not kept.reactor.getDelayedCalls()


@pytest.mark.parametrize(
    "options",
    [{"syslog": True}, {"logger": print}, {"logfile": "-", "nodaemon": False}, {"syslog": 1, "nodaemon": 1}],
)
def test_what_twistd_is_told_to_do_itself_is_left_to_it(options: dict[str, Any]) -> None:
    assert observer(options, Reactor()) is None


@pytest.mark.parametrize("moved", [True, False])
def test_a_log_that_logrotate_moved_away_begins_anew(tmp_path: Any, moved: bool) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    try:
        path = tmp_path / "lorrainemail.log"
        calls: list[Any] = []
        reactor = Reactor()
        reactor.callFromThread = lambda function, *args: calls.append((function, args))  # type: ignore[attr-defined]
        made = observer({"logfile": str(path), "nodaemon": True}, reactor)
        assert made is not None
        made._out.write("old\n")
        if moved:
            path.rename(tmp_path / "lorrainemail.log.old")
        signal.raise_signal(signal.SIGUSR1)
        for function, args in calls:
            function(*args)
        made._out.write("new\n")
        made._out.close()
        assert path.read_text() == "new\n"
        assert (tmp_path / ("lorrainemail.log.old" if moved else "lorrainemail.log.1")).read_text() == "old\n"
    finally:
        signal.signal(signal.SIGUSR1, before)
