"""One peer cannot take all connections, nor make the server remember without bound."""

from __future__ import annotations

from twisted.internet.task import Clock

from lorrainemail.net.limits import ConnectionCounter, TokenBuckets


def test_one_peer_cannot_take_the_places_of_others() -> None:
    counter = ConnectionCounter(total=10, per_peer=2)
    assert [counter.enter("192.0.2.1") for _ in range(3)] == [None, None, "peer"]
    assert counter.enter("192.0.2.2") is None
    counter.leave("192.0.2.1")
    assert counter.enter("192.0.2.1") is None


def test_all_addresses_of_an_ipv6_network_count_as_one_peer() -> None:
    counter = ConnectionCounter(total=10, per_peer=1)
    assert counter.enter("2001:db8::1") is None
    assert counter.enter("2001:db8::ffff") == "peer"
    assert counter.enter("2001:db8:0:1::1") is None


def test_the_total_holds_and_a_departure_makes_room() -> None:
    counter = ConnectionCounter(total=2, per_peer=2)
    assert [counter.enter(f"192.0.2.{n}") for n in (1, 2, 3)] == [None, None, "total"]
    counter.leave("192.0.2.3")  # was never counted in
    assert counter.open == 2
    counter.leave("192.0.2.1")
    assert counter.enter("192.0.2.3") is None
    assert counter.of("192.0.2.1") == 0


def test_a_bucket_allows_a_burst_then_the_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock, rate=0.5, burst=3)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.wait("a") == 2.0
    clock.advance(2)
    assert buckets.wait("a") == 0
    assert [buckets.take("a"), buckets.take("a")] == [True, False]
    assert buckets.take("b")


def test_a_forgiven_peer_starts_anew() -> None:
    buckets = TokenBuckets(Clock(), rate=0.1, burst=1)
    assert [buckets.take("a"), buckets.take("a")] == [True, False]
    buckets.forget("a")
    assert buckets.take("a")


def test_many_peers_do_not_grow_memory_and_a_busy_one_is_not_forgotten() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock, rate=0.001, burst=2, max_buckets=100)
    for number in range(1000):
        buckets.take(f"peer {number}")
        buckets.take("busy", 0)
        if number == 0:
            assert buckets.take("busy", 2)
    assert len(buckets) <= 100
    assert not buckets.take("busy")


def test_full_buckets_are_the_first_to_go() -> None:
    clock = Clock()
    buckets = TokenBuckets(clock, rate=1, burst=1, max_buckets=10)
    for number in range(10):
        buckets.take(f"peer {number}")
    clock.advance(60)
    buckets.take("new")
    assert len(buckets) == 1
