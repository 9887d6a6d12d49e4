"""Counting peers: connections at once, and events over time, with bounded memory.

Callers: the doors' factories (connections), SMTP sessions and logins (buckets). A peer is counted by its
network (:func:`lorrainemail.net.peers.network_key`): one IPv4 address, or an IPv6 /64. Pure but for the clock
that is handed in. Never fails; a peer without address (UNIX socket) is counted under "".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Literal

import attrs
from twisted.internet.interfaces import IReactorTime

from lorrainemail.net.peers import network_key

#: Peers remembered by one set of buckets. The one not seen for longest is forgotten first.
MAX_BUCKETS: Final = 20_000

TooMany = Literal["total", "peer", "banned"]


class ConnectionCounter:
    """Connections at once: in all, and from one peer network.

    :param total: the limit in all; ``per_peer`` from one network. Both may be changed while running.
    :ivar banned: whether an address is kept out altogether; None where none is.
    """

    banned: Callable[[str], bool] | None = None

    def __init__(self, total: int, per_peer: int) -> None:
        self.total = total
        self.per_peer = per_peer
        self.open = 0
        self._peers: dict[str, int] = {}

    def enter(self, address: str) -> TooMany | None:
        """Count one in and answer None; or say which limit it would pass, and count nothing."""
        if self.banned is not None and self.banned(address):
            return "banned"
        if self.open >= self.total:
            return "total"
        key = network_key(address)
        count = self._peers.get(key, 0)
        if count >= self.per_peer:
            return "peer"
        self._peers[key] = count + 1
        self.open += 1
        return None

    def leave(self, address: str) -> None:
        """Count one out that :meth:`enter` had counted in."""
        key = network_key(address)
        count = self._peers.get(key, 0)
        if count == 0:
            return
        self.open -= 1
        if count == 1:
            del self._peers[key]
        else:
            self._peers[key] = count - 1

    def of(self, address: str) -> int:
        """How many that peer's network has open."""
        return self._peers.get(network_key(address), 0)


@attrs.define(slots=True)
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """Events over time for each key: ``burst`` at once, then ``rate`` a second.

    Memory is bounded: a full bucket is forgotten, and over :data:`MAX_BUCKETS` the one that was not used for
    longest is (a peer that waited that long behind so many others starts anew).
    """

    def __init__(
        self, clock: IReactorTime, rate: float, burst: float, max_buckets: int = MAX_BUCKETS
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._clock = clock
        self._max = max_buckets
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, tokens: float = 1.0) -> bool:
        """Take that many tokens and answer True, or take none and answer False."""
        bucket = self._refilled(key)
        if bucket.tokens < tokens:
            return False
        bucket.tokens -= tokens
        return True

    def wait(self, key: str, tokens: float = 1.0) -> float:
        """Seconds until :meth:`take` would succeed; 0 when it would now. Remembers nothing."""
        bucket = self._buckets.get(key)
        if bucket is None or self.rate <= 0:
            return 0.0
        have = min(self.burst, bucket.tokens + (self._clock.seconds() - bucket.at) * self.rate)
        return max(0.0, (tokens - have) / self.rate)

    def spent(self) -> dict[str, float]:
        """What is missing of each bucket now, for a restart."""
        now = self._clock.seconds()
        missing = {
            key: self.burst - bucket.tokens - max(0.0, now - bucket.at) * self.rate
            for key, bucket in self._buckets.items()
        }
        return {key: round(tokens, 3) for key, tokens in missing.items() if tokens > 0}

    def spend(self, spent: Mapping[str, float], ago: float) -> None:
        """Take up what :meth:`spent` answered so many seconds ago; with the rate of now."""
        now = self._clock.seconds()
        for key, tokens in spent.items():
            left = self.burst - max(0.0, tokens - max(0.0, ago) * self.rate)
            if left < self.burst and len(self._buckets) < self._max:
                self._buckets[key] = _Bucket(left, now)

    def forget(self, key: str) -> None:
        """Forgive: the key starts with a full bucket again."""
        self._buckets.pop(key, None)

    def __len__(self) -> int:
        return len(self._buckets)

    def _refilled(self, key: str) -> _Bucket:
        now = self._clock.seconds()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self.burst, now)
            if len(self._buckets) > self._max:
                self._shrink(now)
            return bucket
        self._buckets.move_to_end(key)
        # A clock that was set back must not take tokens away.
        bucket.tokens = min(self.burst, bucket.tokens + max(0.0, now - bucket.at) * self.rate)
        bucket.at = now
        return bucket

    def _shrink(self, now: float) -> None:
        """Forget from the old end: one at least, then those that are full again; never the newest."""
        self._buckets.popitem(last=False)
        while len(self._buckets) > 1:
            bucket = next(iter(self._buckets.values()))
            if bucket.tokens + (now - bucket.at) * self.rate < self.burst:
                return
            self._buckets.popitem(last=False)
