"""Coroutines run to their end, however what they wait for comes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from lorrainemail.ops import steps


def test_a_result_comes_with_and_without_waiting() -> None:
    waits: Deferred[int] = Deferred()

    async def work() -> int:
        return await succeed(1) + await waits

    ended: list[Any] = []
    steps.run(work(), ended.append)
    assert ended == []
    waits.callback(2)
    assert ended == [3]


def test_a_failure_that_was_waited_for_can_be_caught_and_does_not_stay_unhandled() -> None:
    waits: Deferred[None] = Deferred()

    async def work() -> str:
        try:
            await fail(KeyError("at once"))
        except KeyError:
            pass
        try:
            await waits
        except ValueError as error:
            return str(error)
        return "nothing"

    ended: list[Any] = []
    steps.run(work(), ended.append)
    waits.errback(ValueError("later"))
    assert ended == ["later"]
    left: list[Any] = []
    waits.addErrback(left.append)
    assert left == []


def test_a_failure_that_nobody_catches_is_the_end() -> None:
    waits: Deferred[None] = Deferred()

    async def work() -> None:
        await waits

    ended: list[Any] = []
    steps.run(work(), ended.append)
    waits.errback(ValueError("later"))
    assert isinstance(ended[0], Failure) and ended[0].check(ValueError)
