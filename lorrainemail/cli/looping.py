"""A command that needs a reactor: it runs one coroutine, and the command goes on with what that answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_reactor(work: Callable[[Any, Any], Coroutine[Any, Any, T]]) -> T:
    """Run it, given the reactor and what runs blocking work in a thread; once in a process.

    :raises KeyboardInterrupt: where it was ended from outside; else whatever the coroutine raises.
    """
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.error import ReactorNotRunning
    from twisted.internet.threads import deferToThreadPool
    from twisted.logger import (
        FilteringLogObserver,
        LogLevel,
        LogLevelFilterPredicate,
        globalLogBeginner,
        textFileLogObserver,
    )
    from twisted.python.failure import Failure

    loop: Any = reactor
    in_thread = partial(deferToThreadPool, loop, loop.getThreadPool())
    done: list[Any] = []

    def begin() -> None:
        ended = Deferred.fromCoroutine(work(loop, in_thread))
        ended.addBoth(done.append).addBoth(lambda _: stop())

    def stop() -> None:
        with contextlib.suppress(ReactorNotRunning):  # a signal was quicker
            loop.stop()

    loop.callWhenRunning(begin)
    grave = LogLevelFilterPredicate(LogLevel.warn)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [grave])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    loop.run()
    if not done:
        raise KeyboardInterrupt
    if isinstance(done[0], Failure):
        done[0].raiseException()
    answer: T = done[0]
    return answer
