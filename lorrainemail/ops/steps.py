"""Coroutines run without a Deferred of their own.

``Deferred.fromCoroutine`` gives its caller a Deferred, copies the context and can be cancelled; on the way of
every message that costs more than the work between two waits. :func:`run` does the rest of it: whoever needs
nothing but the end says what is to happen then.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


def run(steps: Coroutine[Deferred[Any], Any, Any], ended: Callable[[Any], object]) -> None:
    """Run a coroutine that awaits Deferreds.

    :param ended: called once with what it returned, or with the Failure that it ended by; must not raise.
    """
    _step(steps, ended, steps.send, None)


def _step(
    steps: Coroutine[Deferred[Any], Any, Any],
    ended: Callable[[Any], object],
    resume: Callable[[Any], Deferred[Any]],
    value: object,
) -> None:
    try:
        awaited = resume(value)
    except StopIteration as end:
        result = end.value
    except Exception:
        result = Failure()  # type: ignore[no-untyped-call]
    else:
        awaited.addBoth(_go_on, steps, ended)
        return
    ended(result)


def _go_on(result: object, steps: Coroutine[Deferred[Any], Any, Any], ended: Callable[[Any], object]) -> None:
    """What was waited for is there. The Deferred itself gives the coroutine its result, but not a failure
    while its callbacks run."""
    if isinstance(result, Failure):
        _step(steps, ended, steps.throw, result.value)
    else:
        _step(steps, ended, steps.send, None)
