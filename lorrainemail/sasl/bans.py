"""Networks that are kept out: those that guessed passwords, and those that the operator named.

Asked at each connection through :class:`lorrainemail.net.limits.ConnectionCounter`; told by the gate of a
network that guesses, and by ``lorrainemail ban`` through the control socket. A network that guessed is kept
from the doors of users alone, for :data:`FIRST` seconds, twice as long each time it comes to that within
:data:`REMEMBERED`; the operator's bans hold at every door and need not end. Bans are durable (synced to
``logins.sqlite``) and bounded: of automatic ones the soonest to end makes room. A disk that fails costs only
that a ban is forgotten at the next start; the log says so.
"""

from __future__ import annotations

import ipaddress
import sqlite3
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from lorrainemail.errors import PermanentError, Reply
from lorrainemail.sasl.book import Book

log = Logger(namespace="lorrainemail.sasl")

Scope = Literal["logins", "all"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Seconds of a first automatic ban, and of the longest.
FIRST: Final = 600.0
LONGEST: Final = 86_400.0
#: Seconds after its end for which a ban makes the next one longer.
REMEMBERED: Final = 7 * 86_400.0
#: Bans at once (and those that are remembered).
MAX_BANS: Final = 10_000
#: The operator's widest: an error of typing must not shut out the world.
WIDEST: Final = {4: 8, 6: 19}
MAX_REASON: Final = 200
FOREVER: Final = 0.0


@attrs.frozen(slots=True)
class Ban:
    """One network.

    :ivar scope: "logins" (the doors of users), "all".
    :ivar since: wall-clock seconds, as ``until``; :data:`FOREVER` for no end.
    :ivar strikes: how often it came to an automatic ban; 0: the operator's.
    """

    network: Network
    scope: Scope
    since: float
    until: float
    strikes: int
    reason: str

    def holds(self, now: float) -> bool:
        """Whether it is in force."""
        return self.until == FOREVER or now < self.until

    def as_json(self) -> dict[str, Any]:
        """For commands."""
        return {
            "network": written(self.network),
            "scope": self.scope,
            "since": self.since,
            "until": self.until or None,
            "automatic": self.strikes > 0,
            "reason": self.reason,
        }


def written(network: Network) -> str:
    """A network as people write it: a single address without its length."""
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def parse_network(text: str) -> Network:
    """What the operator named.

    :raises PermanentError: where it is no network, or covers too much.
    """
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise _no(f'"{text}" is no address and no network') from None
    mapped = network.network_address.ipv4_mapped if network.version == 6 else None
    if mapped is not None and network.prefixlen >= 96:
        network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    if network.prefixlen < WIDEST[network.version]:
        raise _no(f"{network} covers too much of the world")
    return network


def operators_ban(text: str, seconds: float, scope: str, reason: str, now: float) -> Ban:
    """A ban that the operator wants.

    :param seconds: how long, 0 for without end.
    :raises PermanentError: as :func:`parse_network`.
    """
    if scope not in ("logins", "all"):
        raise _no(f'"{scope}" is no scope')
    kept: Scope = "logins" if scope == "logins" else "all"
    until = now + seconds if seconds else FOREVER
    words = "".join(c for c in reason if c.isprintable())[:MAX_REASON]
    return Ban(parse_network(text), kept, now, until, 0, words)


def _no(words: str) -> PermanentError:
    return PermanentError(Reply(550, "5.7.0", "No"), words)


class Bans:
    """The bans of a running server."""

    def __init__(self, book: Book, wall_clock: Callable[[], float] = time.time) -> None:
        self._book = book
        self._wall_clock = wall_clock
        self._bans: dict[Network, Ban] = {}
        #: (version, prefix length) of bans → how many.
        self._lengths: dict[tuple[int, int], int] = {}

    def load(self) -> None:
        """Read those of before; at a start, before any door is open."""
        try:
            for ban in self._book.read_now(stored_bans) or []:
                self._keep(ban)
        except (sqlite3.Error, OSError) as error:
            log.error("The bans of before cannot be read: {reason}", reason=str(error))

    def refuses(self, peer: str, logins: bool) -> bool:
        """Whether a connection is refused.

        :param peer: canonical address, "" for a UNIX socket's.
        :param logins: at a door of users.
        """
        if not self._bans or not peer:
            return False
        address = ipaddress.ip_address(peer)
        number, now = int(address), self._wall_clock()
        for version, length in self._lengths:
            if version != address.version:
                continue
            free = address.max_prefixlen - length
            ban = self._bans.get(_network(version, number >> free << free, length))
            if ban is not None and (logins or ban.scope == "all") and ban.holds(now):
                return True
        return False

    def strike(self, network: str, reason: str) -> None:
        """A network (as :func:`~lorrainemail.net.peers.network_key` writes it) has guessed too often."""
        if not network:
            return
        key, now = ipaddress.ip_network(network), self._wall_clock()
        before = self._bans.get(key)
        if before is not None and (before.holds(now) or not before.strikes):
            return
        strikes = before.strikes + 1 if before is not None else 1
        seconds = min(FIRST * 2.0 ** (strikes - 1), LONGEST)
        if len(self._bans) >= MAX_BANS and before is None:
            self._make_room(now)
        ban = Ban(key, "logins", now, now + seconds, strikes, reason[:MAX_REASON])
        self._keep(ban)
        log.warn(
            "{network} is refused at the doors of users for {minutes} minutes: {reason}",
            network=written(key),
            minutes=round(seconds / 60),
            reason=reason,
        )
        self._write(lambda connection: store(connection, ban)).addErrback(_forgotten)

    def add(self, network: str, seconds: float = 0, scope: str = "all", reason: str = "") -> Deferred[Any]:
        """The operator's ban; durable when it answers with it.

        :raises PermanentError: where that is no network, or there are too many.
        """
        ban = operators_ban(network, float(seconds), scope, reason, self._wall_clock())
        if len(self._bans) >= MAX_BANS and ban.network not in self._bans:
            self._make_room(self._wall_clock())
        self._keep(ban)
        log.info("The operator refuses {network}: {reason}", network=written(ban.network), reason=ban.reason)
        return self._write(lambda connection: store(connection, ban)).addCallback(lambda _: ban.as_json())

    def remove(self, network: str) -> Deferred[Any]:
        """Lift a ban and forget its strikes; durable when it answers.

        :raises PermanentError: where there is none on exactly that network.
        """
        key = parse_network(network)
        if key not in self._bans:
            raise _no(f"{written(key)} is not banned; a ban on another network may cover it")
        self._drop(key)
        log.info("The operator lets {network} in again", network=written(key))
        return self._write(lambda connection: erase(connection, key)).addCallback(
            lambda _: {"network": written(key)}
        )

    def listing(self) -> dict[str, Any]:
        """All bans in force."""
        now = self._wall_clock()
        bans = sorted(self._bans.values(), key=lambda ban: (ban.network.version, ban.network.network_address))
        return {"bans": [ban.as_json() for ban in bans if ban.holds(now)]}

    def _keep(self, ban: Ban) -> None:
        if ban.network not in self._bans:
            length = ban.network.version, ban.network.prefixlen
            self._lengths[length] = self._lengths.get(length, 0) + 1
        self._bans[ban.network] = ban

    def _drop(self, network: Network) -> None:
        del self._bans[network]
        length = network.version, network.prefixlen
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]

    def _make_room(self, now: float) -> None:
        """Forget a tenth: what has ended first, then automatic bans, the soonest to end."""
        automatic = [ban for ban in self._bans.values() if ban.strikes]
        automatic.sort(key=lambda ban: ban.until)
        doomed = automatic[: max(1, MAX_BANS // 10)]
        if not doomed:
            raise _no(f"there are {MAX_BANS} bans already; remove some")
        for ban in doomed:
            self._drop(ban.network)
        self._write(lambda connection: [erase(connection, ban.network) for ban in doomed]).addErrback(
            _forgotten
        )

    def _write(self, work: Callable[[sqlite3.Connection], Any]) -> Deferred[Any]:
        return self._book.write(work, durable=True)


def _network(version: int, number: int, length: int) -> Network:
    if version == 4:
        return ipaddress.IPv4Network((number, length))
    return ipaddress.IPv6Network((number, length))


def _forgotten(failure: Any) -> None:
    log.error("A ban will not outlive a restart: {reason}", reason=failure.getErrorMessage())


# -- the table -------------------------------------------------------------------------------------------


def stored_bans(connection: sqlite3.Connection) -> list[Ban]:
    """All that are in force or make the next one longer."""
    now = time.time()
    rows = connection.execute(
        "SELECT network, scope, since, until, strikes, reason FROM ban WHERE until = 0 OR until > ? LIMIT ?",
        (now - REMEMBERED, MAX_BANS),
    )
    return [
        Ban(ipaddress.ip_network(network), "logins" if scope == "logins" else "all", *rest)
        for network, scope, *rest in rows
    ]


def store(connection: sqlite3.Connection, ban: Ban) -> None:
    """Write one, and clear out what is of no use any more."""
    connection.execute(
        "INSERT OR REPLACE INTO ban VALUES (?, ?, ?, ?, ?, ?)",
        (str(ban.network), ban.scope, ban.since, ban.until, ban.strikes, ban.reason),
    )
    connection.execute("DELETE FROM ban WHERE until > 0 AND until < ?", (ban.since - REMEMBERED,))


def erase(connection: sqlite3.Connection, network: Network) -> bool:
    """Remove one; False where there was none."""
    return connection.execute("DELETE FROM ban WHERE network = ?", (str(network),)).rowcount > 0
