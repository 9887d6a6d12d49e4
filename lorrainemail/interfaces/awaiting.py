"""Values that are known already, or later."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:  # commands that need no reactor load none of it
    from twisted.internet.defer import Deferred

T = TypeVar("T")


async def later(value: T | Deferred[T]) -> T:
    """Await a value that may be known already."""
    if hasattr(value, "__await__"):
        return await cast("Deferred[T]", value)
    return value
