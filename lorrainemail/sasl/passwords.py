"""Passwords: hashing in bounded threads, verification, and a short memory of proven logins.

Owns the two threads that hashes run in, the queue before them (bounded, fair by peer network) and the cache.
Called by the checker of :mod:`lorrainemail.sasl.portal`. The threads start with the first hash, so never
before the service runs. What is hashed, and how, is in :mod:`lorrainemail.sasl.credentials`.

Invariants: an account that is unknown, disabled or without a usable credential costs one verification of a
dummy, like any other; nothing here prints or keeps a password (the cache holds an HMAC under a key of this
process alone). Fails with :class:`~lorrainemail.errors.TemporaryError` when the queue is full; a credential
of a scheme that is not ours is an alarm in the log and never a match.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from lorrainemail.errors import Problem, TemporaryError
from lorrainemail.interfaces import Account, Credential, IPasswords
from lorrainemail.net.peers import network_key
from lorrainemail.sasl.credentials import (
    faults,
    hash_password,
    proved_by,
    to_be_tried,
)
from lorrainemail.sasl.mechanisms import TEMPORARY_FAILURE, prepare_password

log = Logger(namespace="lorrainemail.sasl")

T = TypeVar("T")

#: Threads that hash at the same time.
THREADS: Final = 2
#: Hashes that wait, of all networks together: about two seconds' work.
MAX_WAITING: Final = 200
#: Hashes that wait, of one network.
MAX_WAITING_PER_NETWORK: Final = 100
#: How long a proven login is believed without hashing again, in seconds, and how many are remembered.
REMEMBER: Final = 300.0
MAX_REMEMBERED: Final = 10_000
#: Distinct alarms about credentials; told once each between two changes of the tables.
MAX_ALARMS: Final = 1000


def credential_problem(account: Account, what: str, mend: str) -> Problem:
    """One of :func:`lorrainemail.sasl.credentials.faults` in an operator's words."""
    command = f'"lorrainemail account passwd {account.address.key}"'
    where = account.origin
    words = f"{account.address.key} has a password that cannot be checked: {what}"
    return Problem(where.file, where.line, words, f"{mend} ({command})" if "password" in mend else mend)


Work = Callable[[Callable[[], T]], Deferred[T]]


@attrs.define(slots=True, eq=False)
class _Job:
    work: Callable[[], Any] = attrs.field(repr=False)
    done: Deferred[Any]
    network: str


class _FairQueue:
    """Jobs by network, served in turn; so many run at once. In the reactor thread."""

    def __init__(self, run: Work[Any], width: int) -> None:
        self._run = run
        self._idle = width
        self._waiting: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._count = 0

    def submit(self, network: str, work: Callable[[], T]) -> Deferred[T]:
        job = _Job(work, Deferred(), network)
        queue = self._waiting.get(network)
        if queue is not None and len(queue) >= MAX_WAITING_PER_NETWORK:
            job.done.errback(TemporaryError(TEMPORARY_FAILURE, "too many logins waiting from one network"))
            return job.done
        if self._count >= MAX_WAITING and not self._make_room(len(queue) if queue else 0):
            job.done.errback(TemporaryError(TEMPORARY_FAILURE, "too many logins waiting"))
            return job.done
        if queue is None:
            queue = self._waiting[network] = deque()
        queue.append(job)
        self._count += 1
        self._next()
        return job.done

    def _make_room(self, own: int) -> bool:
        """Turn away the newest job of the network that has the most waiting, if that is more than ours."""
        crowd = max(self._waiting.values(), key=len)
        if len(crowd) <= own + 1:
            return False
        self._count -= 1
        crowd.pop().done.errback(TemporaryError(TEMPORARY_FAILURE, "too many logins waiting"))
        return True

    def _next(self) -> None:
        while self._idle and self._waiting:
            network, queue = self._waiting.popitem(last=False)
            job = queue.popleft()
            self._count -= 1
            if queue:
                self._waiting[network] = queue
            self._idle -= 1
            self._run(job.work).addBoth(self._finished, job)

    def _finished(self, result: Any, job: _Job) -> None:
        self._idle += 1
        job.done.callback(result)
        self._next()

    def fail_all(self) -> None:
        """Answer everything that waits with a temporary failure."""
        waiting, self._waiting, self._count = self._waiting, OrderedDict(), 0
        for queue in waiting.values():
            for job in queue:
                job.done.errback(TemporaryError(TEMPORARY_FAILURE, "the server is stopping"))


@implementer(IPasswords)
class Passwords(Service):
    """See :class:`~lorrainemail.interfaces.IPasswords`. A service: stopping it ends its threads.

    :param reactor: for the clock and for answers from the threads.
    :param run: runs a callable outside the reactor thread; by default in threads of its own.
    """

    def __init__(self, reactor: Any, run: Work[Any] | None = None) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._stopped = False
        self._queue = _FairQueue(run or self._in_thread, THREADS)
        self._key = secrets.token_bytes(32)
        self._proven: OrderedDict[bytes, tuple[float, Credential]] = OrderedDict()
        self._alarms: dict[tuple[str, str], Problem] = {}
        self._dummy: Credential | None = None

    def check(self, account: Account | None, password: bytes, peer: str) -> Deferred[Credential | None]:
        """The credential that the password proves; for None, the same work and None.

        :param peer: canonical address of the client, for fairness.
        """
        prepared = prepare_password(password)
        tried = self._tried(account) if account is not None else ()
        if account is None or prepared is None or not tried:
            return self._queue.submit(network_key(peer), self._waste)
        proof = self._proof(account, tried, prepared)
        known = self._proven.get(proof)
        if known is not None and self._reactor.seconds() < known[0]:
            return succeed(known[1])

        def remember(proved: Credential | None) -> Credential | None:
            if proved is not None:
                self._proven[proof] = self._reactor.seconds() + REMEMBER, proved
                self._proven.move_to_end(proof)
                if len(self._proven) > MAX_REMEMBERED:
                    self._proven.popitem(last=False)
            return proved

        checked = self._queue.submit(network_key(peer), lambda: proved_by(tried, prepared))
        return checked.addCallback(remember)

    def hash(self, password: bytes) -> Deferred[Credential]:
        """A new credential, hashed in a thread."""
        return self._queue.submit("", lambda: hash_password(password))

    def forget(self) -> None:
        """Drop the cache: to be called after any change of the tables."""
        self._proven.clear()
        self._alarms.clear()

    def alarms(self) -> list[Problem]:
        """Credentials met since the last change of the tables that nobody can log in with."""
        return list(self._alarms.values())

    def startService(self) -> None:
        """Begin (again); threads come with the first hash."""
        super().startService()  # type: ignore[no-untyped-call]
        self._stopped = False

    def stopService(self) -> None:
        """Turn away what waits; let the running hashes end."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopped = True
        self._queue.fail_all()
        self.forget()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            pool.stop()

    def _tried(self, account: Account) -> tuple[Credential, ...]:
        """The credentials that can be verified; the others raise an alarm."""
        for what, mend in faults(account):
            self._alarm(account, what, mend)
        return to_be_tried(account.credentials)

    def _alarm(self, account: Account, what: str, mend: str) -> None:
        key = (account.address.key, what)
        if key in self._alarms or len(self._alarms) >= MAX_ALARMS:
            return
        problem = self._alarms[key] = credential_problem(account, what, mend)
        log.error("{problem}", problem=str(problem), account=account.address.key)

    def _proof(self, account: Account, tried: tuple[Credential, ...], password: bytes) -> bytes:
        """What is remembered of a proven login: bound to account, credentials and password."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (
            account.address.key.encode("utf-8"),
            *(c.value.encode("utf-8") for c in tried),
            password,
        ):
            mac.update(len(part).to_bytes(4, "big"))
            mac.update(part)
        return mac.digest()

    def _waste(self) -> Credential | None:
        """The work of a verification that cannot succeed. In a thread."""
        if not self._dummy:
            self._dummy = hash_password(secrets.token_hex(16).encode("ascii"))
        return proved_by((self._dummy,), b"")

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        if self._stopped:
            return fail(TemporaryError(TEMPORARY_FAILURE, "the server is stopping"))
        if self._pool is None:
            self._pool = ThreadPool(0, THREADS, "passwords")
            self._pool.start()
        return deferToThreadPool(self._reactor, self._pool, work)
