"""What the sessions of one door share: its neighbours in the house, its limits, its fixed words, its clock.

Made by :mod:`lorrainemail.service`, one for each door, and given to its
:class:`~lorrainemail.smtp.factory.SmtpFactory`. ``settings``, ``policy`` and ``tls`` may be replaced while
running: new sessions take the newest settings, an open one keeps its own; policy and tables are taken anew at
each command that begins something.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Account,
    IAuthenticator,
    IContent,
    IIntake,
    IPolicy,
    ITableService,
    ITrace,
    Transaction,
)
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.ops.metrics import Counter
from lorrainemail.smtp import replies, wishes
from lorrainemail.smtp.acceptance import MayAccept
from lorrainemail.smtp.settings import DoorSettings
from lorrainemail.smtp.xclient import ATTRIBUTES

_CONNECTIONS = Counter("lorrainemail_smtp_connections", "Connections at the SMTP doors", ["door", "end"])

#: How often the sessions' time is looked at, in seconds.
SWEEP: Final = 10.0


class OpenSession(Protocol):
    """What a door asks of its sessions."""

    @property
    def account(self) -> Account | None:
        """Who logged in, None where nobody did."""

    def out_of_time(self, now: float) -> bool:
        """Whether it has waited for its client for too long."""

    def give_up(self) -> None:
        """End it: with a word first, without one when that did not help."""

    def shut_down(self, words: Reply = ...) -> None:
        """End it as soon as no message is in our hands.

        :param words: by default, that the server stops.
        """

    def abort(self) -> None:
        """End it now."""


def _always_room(octets: int) -> Reply | None:
    return None


class Door:
    """One door.

    :param settings: what this door is.
    :param clock: tells time and calls back.
    :param tables: the table service; a transaction keeps the snapshot of its MAIL.
    :param policy: the chain that is asked at each verb.
    :param may_accept: ``store.may_accept``.
    :param intake: takes complete messages.
    :param trace: where refusals are noted.
    :param tls: what ``startTLS`` takes (``IServerTls.context_factory``); None: STARTTLS is not offered. A
        door that speaks TLS at once is wrapped by whoever listens.
    :param authenticator: the one login; needed unless ``settings.login`` is "no".
    :param room: a reply where no message of that size may be begun (disk reserve, queue full), else None.
    :param wall_clock: seconds since the epoch.
    :param sign: the signature fields of a message of our own users', b"" for none.
    :param hold: keeps a message until an instant (wall-clock seconds) and answers for it like intake; None
        where none is held.
    """

    def __init__(
        self,
        settings: DoorSettings,
        clock: IReactorTime,
        tables: ITableService,
        policy: IPolicy,
        may_accept: MayAccept,
        intake: IIntake,
        trace: ITrace,
        tls: Any = None,
        authenticator: IAuthenticator | None = None,
        room: Callable[[int], Reply | None] = _always_room,
        wall_clock: Callable[[], float] = time.time,
        sign: Callable[[IContent], Awaitable[bytes]] | None = None,
        hold: Callable[[Transaction, float], Deferred[Reply]] | None = None,
    ) -> None:
        self.hold = hold
        self._hour = 0
        self.clock = clock
        self.tables = tables
        self.policy = policy
        self.may_accept = may_accept
        self.intake = intake
        self.trace = trace
        self.tls = tls
        self.authenticator = authenticator
        self.room = room
        self.wall_clock = wall_clock
        self.sign = sign
        self.connections = ConnectionCounter(settings.connections, settings.connections_per_peer)
        self._counted: set[OpenSession] = set()
        self._turned_away: set[OpenSession] = set()
        self._sweep: IDelayedCall | None = None
        self._emptied: list[Deferred[None]] = []
        self._extensions: dict[tuple[bool, bool, bool, bool, tuple[str, ...]], bytes] = {}
        self.settings = settings
        self._entered = _CONNECTIONS.labels(settings.door, "taken")

    @property
    def settings(self) -> DoorSettings:
        """What new sessions take."""
        return self._settings

    @settings.setter
    def settings(self, settings: DoorSettings) -> None:
        self._settings = settings
        self.connections.total = settings.connections
        self.connections.per_peer = settings.connections_per_peer
        protocol = "LMTP" if settings.door == "lmtp" else "ESMTP"
        self.greeting = Reply(220, "", f"{settings.hostname} {protocol} lorrainemail").wire()
        self.hello = Reply(250, "", settings.hostname).wire()
        mail = {"SIZE", "BODY"}
        if settings.smtputf8:
            mail.add("SMTPUTF8")
        if settings.login != "no":
            mail.add("AUTH")
        if settings.dsn:
            mail |= {"RET", "ENVID"}
        mail |= wishes.taken(settings, self.hold is not None)
        self.mail_parameters = frozenset(mail)
        self.rcpt_parameters = frozenset({"NOTIFY", "ORCPT"} if settings.dsn else ())
        self._extensions.clear()

    def extensions(
        self,
        secure: bool,
        believed: bool = False,
        trusted: bool = False,
        mechanisms: tuple[str, ...] = (),
    ) -> bytes:
        """The whole reply to EHLO.

        :param secure: the session runs under TLS.
        :param believed: it may say who its client is (XCLIENT).
        :param trusted: it may relay. Only such peers get notices of success, so only they see DSN; a
            stranger's server then tells its user itself that it handed the message on (RFC 3461 §5.2.2).
        :param mechanisms: by which it may log in now.
        """
        key = (secure, self.tls is not None, believed, trusted, mechanisms)
        hour = int(self.wall_clock()) // 3600 if self.hold is not None else 0
        if hour != self._hour:
            # How far into the future a message may be held is said in the reply.
            self._hour = hour
            self._extensions.clear()
        wire = self._extensions.get(key)
        if wire is None:
            wire = self._extensions[key] = Reply(250, "", "\n".join(self._announced(*key))).wire()
        return wire

    def _announced(
        self, secure: bool, tls: bool, believed: bool, trusted: bool, mechanisms: tuple[str, ...]
    ) -> list[str]:
        settings = self._settings
        lines = [
            settings.hostname,
            "PIPELINING",
            f"SIZE {settings.message_size}",
            "8BITMIME",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            # RFC 9422 §3.
            f"LIMITS RCPTMAX={settings.recipients}",
        ]
        if settings.smtputf8:
            lines.append("SMTPUTF8")
        if settings.dsn and (trusted or settings.login == "required"):
            lines.append("DSN")
        if believed:
            lines.append(f"XCLIENT {' '.join(ATTRIBUTES)}")
        if tls and not secure:
            lines.append("STARTTLS")
        if mechanisms:
            lines.append(f"AUTH {' '.join(mechanisms)}")
        lines += wishes.announced(settings, self.hold is not None, secure, trusted, self.wall_clock())
        return lines

    # -- sessions ------------------------------------------------------------------------------------

    def enter(self, session: OpenSession, peer: str) -> Reply | None:
        """Count a session in, or answer why it cannot be."""
        if self._emptied:
            refusal: Reply | None = replies.SHUTTING_DOWN
        else:
            too_many = self.connections.enter(peer)
            refusal = None if too_many is None else replies.TURNED_AWAY[too_many]
        if refusal is None:
            self._counted.add(session)
            self._entered.inc()
        else:
            self._turned_away.add(session)
            _CONNECTIONS.labels(self._settings.door, "turned away").inc()
        if self._sweep is None:
            self._sweep = self.clock.callLater(SWEEP, self._look)
        return refusal

    def rename(self, before: str, after: str) -> Reply | None:
        """Count a session for another peer from now on, or answer why it cannot be."""
        self.connections.leave(before)
        if self.connections.enter(after) is None:
            return None
        self.connections.enter(before)
        return replies.TOO_MANY_HERE

    def leave(self, session: OpenSession, peer: str) -> None:
        """A session's connection is gone."""
        if session in self._counted:
            self._counted.discard(session)
            self.connections.leave(peer)
        self._turned_away.discard(session)
        if not self._counted and not self._turned_away:
            emptied, self._emptied = self._emptied, []
            for waiter in emptied:
                waiter.callback(None)

    def _look(self) -> None:
        """End the sessions that are out of time. Goes on while there are any."""
        self._sweep = None
        now = self.clock.seconds()
        sessions = self._all()
        for session in sessions:
            if session.out_of_time(now):
                session.give_up()
        if sessions:
            self._sweep = self.clock.callLater(SWEEP, self._look)

    def _all(self) -> list[OpenSession]:
        return [*self._counted, *self._turned_away]

    def end_logins(self, may_stay: Callable[[Account], bool]) -> None:
        """End the sessions of those who would not be let in any more."""
        for session in self._all():
            account = session.account
            if account is not None and not may_stay(account):
                session.shut_down(replies.LOGIN_ENDED)

    def shut_down(self) -> Deferred[None]:
        """Close every session politely: those with a message in our hands once it is answered.

        The Deferred fires when all are gone; cancelling it ends what is left at once.
        """
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        sessions = self._all()
        if not sessions:
            return succeed(None)
        done: Deferred[None] = Deferred(self._abort)
        self._emptied.append(done)
        for session in sessions:
            session.shut_down()
        return done

    def _abort(self, done: Deferred[None]) -> None:
        if done in self._emptied:
            self._emptied.remove(done)
        for session in self._all():
            session.abort()
