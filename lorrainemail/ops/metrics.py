"""Numbers that a monitoring system asks for: counters, gauges, histograms, and their text form (Prometheus).

A module that moves a number declares it at its top, with a name that begins with ``lorrainemail_``::

    _TAKEN = Counter("lorrainemail_messages_taken", "Messages answered at the final dot", ["answer"])
    _TAKEN.labels("250").inc()

Adding is adding to a number and nothing else; names, labels and text are put together when somebody asks
(:func:`render`). So a number costs next to nothing while nobody looks, and nothing is imported for it.
Threads may add too: between reading and writing the number the interpreter does not change threads (it does
so at calls and at jumps back alone). Several servers in one process share the numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

#: Values of one number's labels together; over that all others count as "other". Labels of ours are words of
#: our own or of an operator, never of a stranger; this bounds a mistake.
MAX_CHILDREN: Final = 1000
OTHER: Final = "other"
#: Seconds, for histograms that say nothing else.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: What stands before a metric's lines: its type and whether its name gets "_total".
_known: dict[str, _Metric] = {}


class _Metric:
    """A name, its words, and its children by the values of their labels."""

    kind = ""
    suffix = ""

    __slots__ = ("_children", "_labels", "help", "name")

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        if name in _known:
            raise ValueError(f"the metric {name} is declared twice")
        self.name = name.removesuffix("_total") + self.suffix
        self.help = help
        self._labels = tuple(labels)
        self._children: dict[tuple[str, ...], _Metric] = {}
        _known[name] = self

    def _child(self, child: M, values: tuple[str, ...]) -> M:
        if len(values) != len(self._labels):
            raise ValueError(f"{self.name} has the labels {self._labels}")
        if len(self._children) >= MAX_CHILDREN:
            values = (OTHER,) * len(values)
        known = self._children.setdefault(values, child)
        assert isinstance(known, type(child))
        return known

    def clear(self) -> None:
        """Forget all children: what they counted is no more."""
        self._children.clear()

    def lines(self) -> Iterator[str]:
        """Its text."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        if not self._labels:
            yield from self.samples(self.name, "")
        for values, child in sorted(self._children.items()):
            pairs = ",".join(
                f'{name}="{_escaped(value)}"' for name, value in zip(self._labels, values, strict=True)
            )
            yield from child.samples(self.name, pairs)

    def samples(self, name: str, labels: str) -> Iterator[str]:
        """The lines of one child."""
        raise NotImplementedError


M = TypeVar("M", bound=_Metric)


def _new(kind: type[M]) -> M:
    """A child: without a name of its own."""
    child = kind.__new__(kind)
    child._children = {}
    child._labels = ()
    return child


class Counter(_Metric):
    """A number that only grows."""

    kind = "counter"
    suffix = "_total"

    __slots__ = ("value",)

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels)
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self.value += amount

    def labels(self, *values: str) -> Counter:
        """The number for those values. Hot paths keep it."""
        known = self._children.get(values)
        if known is None:
            child = _new(Counter)
            child.value = 0
            known = self._child(child, values)
        return known  # type: ignore[return-value]

    def samples(self, name: str, labels: str) -> Iterator[str]:
        yield _sample(name, labels, self.value)


class Gauge(_Metric):
    """A number that rises and falls."""

    kind = "gauge"

    __slots__ = ("value",)

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help, labels)
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add."""
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        """Take away."""
        self.value -= amount

    def set(self, value: float) -> None:
        """It is that now."""
        self.value = value

    def labels(self, *values: str) -> Gauge:
        """The number for those values."""
        known = self._children.get(values)
        if known is None:
            child = _new(Gauge)
            child.value = 0
            known = self._child(child, values)
        return known  # type: ignore[return-value]

    def samples(self, name: str, labels: str) -> Iterator[str]:
        yield _sample(name, labels, self.value)


class Histogram(_Metric):
    """How often a value was how large.

    :param buckets: upper bounds, ascending.
    """

    kind = "histogram"

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(
        self, name: str, help: str, labels: Sequence[str] = (), buckets: Sequence[float] = BUCKETS
    ) -> None:
        super().__init__(name, help, labels)
        self._begin(tuple(buckets))

    def _begin(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """One more of that value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def labels(self, *values: str) -> Histogram:
        """The one for those values."""
        known = self._children.get(values)
        if known is None:
            child = _new(Histogram)
            child._begin(self._bounds)
            known = self._child(child, values)
        return known  # type: ignore[return-value]

    def samples(self, name: str, labels: str) -> Iterator[str]:
        so_far = 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            so_far += count
            yield _sample(f"{name}_bucket", ",".join(filter(None, (labels, f'le="{bound}"'))), so_far)
        yield _sample(f"{name}_sum", labels, self._sum)
        yield _sample(f"{name}_count", labels, so_far)


def _sample(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {_number(value)}" if labels else f"{name} {_number(value)}"


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render() -> str:
    """All that is known, in the text form."""
    return "".join(f"{line}\n" for _, metric in sorted(_known.items()) for line in metric.lines())
