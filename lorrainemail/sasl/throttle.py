"""How failed logins are slowed: by peer network and by account, without locking anybody out.

Owns the memory of failures. Called by the checker of :mod:`lorrainemail.sasl.portal`: :meth:`Throttle.wait`
before a password is looked at, :meth:`Throttle.failed` or :meth:`Throttle.succeeded` after it.

- A *network* (one IPv4 address or IPv6 /64) that guessed wrong a few times gets its attempts one after the
  other with a growing distance; more than fit in :data:`LONGEST_WAIT` are refused for the moment.
- An *account* that is guessed at from many networks gets a small delay for each attempt, side by side, so a
  crowd of guessers cannot keep its owner out.
- Where a network logged in to an account before, neither applies to that pair. Should that account be guessed
  at from there too, the pair's attempts are spaced by themselves: guesses at others never hold them up.
- A network that guesses on and on is named (:meth:`Throttle.is_abusive`), so that it can be refused at
  connect; never one that users of ours logged in from, for they are still there.
- Only distinct wrong passwords count: a forgotten client that repeats its old password harms nobody.

Time comes from the injected clock. Memory is bounded by the named constants; the least recently used goes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime

from lorrainemail.errors import Reply, TemporaryError

#: Distinct wrong guesses of a network before its attempts are spaced out.
FREE_GUESSES: Final = 3
#: Distance of a network's attempts in seconds after 1, 2, ... guesses over the free ones; the last repeats.
SPACING: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: An attempt that would have to wait longer is refused for now.
LONGEST_WAIT: Final = 60.0
#: Distinct wrong guesses at an account, from anywhere, before every strange network waits.
ACCOUNT_GUESSES: Final = 10
#: How long a strange network waits then, each attempt by itself.
ACCOUNT_WAIT: Final = 4.0
#: Wrong guesses after which a network that once logged in to an account is strange to it again.
TRUSTED_GUESSES: Final = 5
#: Distinct wrong guesses of a network within :data:`FORGET_AFTER` that are no user's mistakes any more.
ABUSE_GUESSES: Final = 20
#: Failures are forgotten after so many seconds without a new one.
FORGET_AFTER: Final = 3600.0
#: Guesses remembered a record; more would change no delay.
GUESSES_KEPT: Final = 32
#: Records kept of each kind.
RECORDS: Final = 10_000

TOO_MANY: Final = Reply(454, "4.7.0", "Too many failed logins, try again later")


@attrs.define(slots=True)
class _Record:
    """Failures of one network or at one account: guess digest → account name."""

    guesses: OrderedDict[bytes, str] = attrs.Factory(OrderedDict)
    latest: float = 0.0
    free_at: float = 0.0


class _Records:
    """A bounded table of records; a record without fresh failures is as good as none."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> _Record | None:
        record = self._records.get(key)
        if record is not None and self._clock.seconds() - record.latest > FORGET_AFTER:
            del self._records[key]
            return None
        return record

    def add(self, key: str, guess: bytes, name: str) -> bool:
        """Count a guess; False where it was counted before."""
        record = self.get(key)
        if record is None:
            record = self._records[key] = _Record()
            if len(self._records) > RECORDS:
                self._records.popitem(last=False)
        self._records.move_to_end(key)
        if guess in record.guesses:
            return False
        record.latest = self._clock.seconds()
        record.guesses[guess] = name
        if len(record.guesses) > GUESSES_KEPT:
            record.guesses.popitem(last=False)
        return True

    def clear(self, key: str, name: str) -> None:
        """Forget the guesses at that account."""
        record = self._records.get(key)
        if record is None:
            return
        for guess in [guess for guess, at in record.guesses.items() if at == name]:
            del record.guesses[guess]
        if not record.guesses:
            del self._records[key]


class Throttle:
    """The memory of failed logins.

    :param clock: tells the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._networks = _Records(clock)
        self._accounts = _Records(clock)
        #: (network, account) that logged in → distinct wrong guesses since.
        self._trusted: OrderedDict[tuple[str, str], set[bytes]] = OrderedDict()
        #: Networks that somebody logged in from; those with a pair that lost its trust space it here.
        self._homes: OrderedDict[str, None] = OrderedDict()
        self._pairs = _Records(clock)

    def wait(self, network: str, name: str) -> float:
        """Seconds that an attempt has to wait; its turn is taken by asking.

        :raises TemporaryError: where the network's turns are taken for too long already.
        """
        if (network, name) in self._trusted:
            return 0.0
        delay = 0.0
        account = self._accounts.get(name)
        if account is not None and len(account.guesses) > ACCOUNT_GUESSES:
            delay = ACCOUNT_WAIT
        record = self._pairs.get(f"{network} {name}") or self._networks.get(network)
        if record is None or len(record.guesses) <= FREE_GUESSES:
            return delay
        now = self._clock.seconds()
        spacing = SPACING[min(len(record.guesses) - FREE_GUESSES, len(SPACING)) - 1]
        turn = max(now, record.free_at) + spacing
        if turn - now > LONGEST_WAIT:
            raise TemporaryError(TOO_MANY, f"too many attempts waiting from {network or 'a local peer'}")
        record.free_at = turn
        return max(delay, turn - now)

    def failed(self, network: str, name: str, password: bytes) -> None:
        """A wrong password for that name (known or not) from that network."""
        guess = hmac.digest(self._key, name.encode("utf-8") + b"\0" + password, hashlib.sha256)[:8]
        self._networks.add(network, guess, name)
        self._accounts.add(name, guess, name)
        pair = f"{network} {name}"
        since = self._trusted.get((network, name))
        if since is not None:
            since.add(guess)
            if len(since) >= TRUSTED_GUESSES:
                del self._trusted[network, name]
                for one in since:
                    self._pairs.add(pair, one, name)
        elif self._pairs.get(pair) is not None:
            self._pairs.add(pair, guess, name)

    def succeeded(self, network: str, name: str) -> None:
        """A good login: what was held against that account from there is forgotten."""
        self._networks.clear(network, name)
        self._accounts.clear(name, name)
        self._pairs.clear(f"{network} {name}", name)
        self.trust(network, name)

    def trust(self, network: str, name: str) -> None:
        """Somebody logged in to that account from there (before a restart, say)."""
        self._trusted[network, name] = set()
        self._trusted.move_to_end((network, name))
        if len(self._trusted) > RECORDS:
            self._trusted.popitem(last=False)
        self._homes[network] = None
        self._homes.move_to_end(network)
        if len(self._homes) > RECORDS:
            self._homes.popitem(last=False)

    def is_abusive(self, network: str) -> bool:
        """Whether the network guesses on and on, and nobody of ours is there."""
        record = self._networks.get(network)
        return record is not None and len(record.guesses) >= ABUSE_GUESSES and network not in self._homes
