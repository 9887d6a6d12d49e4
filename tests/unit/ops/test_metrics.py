"""Numbers are what a monitoring system can read, and cost little to count."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lorrainemail.ops import metrics
from lorrainemail.ops.metrics import Counter, Gauge, Histogram, render


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "_known", {})
    yield


def test_counters_gauges_and_histograms_are_written_as_prometheus_reads_them() -> None:
    taken = Counter("a_taken", "Messages", ["door", "answer"])
    taken.labels("smtp", "250").inc()
    taken.labels("smtp", "250").inc(2)
    taken.labels("lmtp", 'odd "one"\\\n').inc()
    Counter("b_plain_total", "Plain").inc(5)
    gauge = Gauge("c_open", "Open")
    gauge.inc()
    gauge.dec(0.5)
    seconds = Histogram("d_seconds", "Seconds", buckets=(0.5, 1))
    for value in (0.1, 0.5, 0.7, 30):
        seconds.observe(value)
    Histogram("e_seconds", "Seconds", ["who"], buckets=(1,)).labels("x").observe(2)
    assert render() == (
        "# HELP a_taken_total Messages\n# TYPE a_taken_total counter\n"
        'a_taken_total{door="lmtp",answer="odd \\"one\\"\\\\\\n"} 1\n'
        'a_taken_total{door="smtp",answer="250"} 3\n'
        "# HELP b_plain_total Plain\n# TYPE b_plain_total counter\nb_plain_total 5\n"
        "# HELP c_open Open\n# TYPE c_open gauge\nc_open 0.5\n"
        "# HELP d_seconds Seconds\n# TYPE d_seconds histogram\n"
        'd_seconds_bucket{le="0.5"} 2\nd_seconds_bucket{le="1"} 3\nd_seconds_bucket{le="+Inf"} 4\n'
        "d_seconds_sum 31.3\nd_seconds_count 4\n"
        "# HELP e_seconds Seconds\n# TYPE e_seconds histogram\n"
        'e_seconds_bucket{who="x",le="1"} 0\ne_seconds_bucket{who="x",le="+Inf"} 1\n'
        'e_seconds_sum{who="x"} 2\ne_seconds_count{who="x"} 1\n'
    )


def test_a_mistake_with_labels_is_found_and_never_fills_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter("x", "X", ["who"])
    with pytest.raises(ValueError, match="has the labels"):
        counter.labels("a", "b")
    with pytest.raises(ValueError, match="declared twice"):
        Counter("x", "X")
    monkeypatch.setattr(metrics, "MAX_CHILDREN", 3)
    for number in range(10):
        counter.labels(str(number)).inc()
    assert 'x_total{who="other"} 7\n' in render()


def test_a_number_of_a_label_can_be_kept() -> None:
    counter = Counter("x", "X", ["who"])
    kept = counter.labels("me")
    kept.inc()
    counter.labels("me").inc()
    assert kept is counter.labels("me") and kept.value == 2
