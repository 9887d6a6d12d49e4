"""How much one account may send: recipients an hour and a day, whatever door and address it comes by.

A login that was stolen is used for as much as it gives; this bounds the harm and tells the operator at once.
State: two token buckets an account, bounded in memory, which outlive a reload; and a restart, by a file in
the state directory (``account-limits.json``) that is at most :data:`SAVE` seconds old. One that cannot be
read or written forgives, and is said.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Action, Circumstances, IPolicyCheck, PolicyResources, Stage, Verdict
from lorrainemail.net.limits import TokenBuckets
from lorrainemail.ops.files import SYSTEM, replace_file

HOUR: Final = 3600
DAY: Final = 86400
#: Seconds after which what was sent is on the disk, and the file's name in the state directory.
SAVE: Final = 5.0
FILE: Final = "account-limits.json"
#: Octets of it that are read.
MAX_FILE: Final = 8 << 20
#: Seconds between two notes about one account.
SILENCE: Final = 86400.0
#: Accounts that notes were written about; over that the oldest is forgotten.
MAX_TOLD: Final = 1000

#: Runs blocking work in a thread.
InThread = Callable[[Callable[[], Any]], Deferred[Any]]

_log = Logger(namespace="lorrainemail.policy")


class Spent:
    """What the accounts have sent lately.

    :param state: the state directory, "" to forget at a restart.
    :param in_thread: runs blocking work; None: nothing is written.
    :param wall: seconds since the epoch.
    """

    def __init__(
        self,
        clock: IReactorTime,
        state: str = "",
        in_thread: InThread | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.hour = TokenBuckets(clock, 0.0, 0.0)
        self.day = TokenBuckets(clock, 0.0, 0.0)
        self.told: dict[str, float] = {}
        self._clock = clock
        self._file = os.path.join(state, FILE) if state else ""
        self._in_thread = in_thread
        self._wall = wall
        self._loaded = False
        self._saving: IDelayedCall | None = None

    def load(self) -> None:
        """Take up what an earlier process wrote; once, and after the buckets have their limits."""
        if self._loaded or not self._file:
            return
        self._loaded = True
        try:
            with open(self._file, "rb") as file:
                known = json.loads(file.read(MAX_FILE))
            ago = self._wall() - float(known["at"])
            for name, buckets in (("hour", self.hour), ("day", self.day)):
                buckets.spend({str(key): float(value) for key, value in known[name].items()}, ago)
        except FileNotFoundError:
            pass  # a first start
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warn(
                "What the accounts had sent is forgotten: {file}: {error}", file=self._file, error=error
            )

    def changed(self) -> None:
        """Write it down soon."""
        if self._file and self._in_thread is not None and self._saving is None:
            self._saving = self._clock.callLater(SAVE, self._save)

    def close(self) -> Deferred[Any]:
        """Write down what is not yet; the process ends."""
        if self._saving is None:
            return succeed(None)
        self._saving.cancel()
        return self._save()

    def _save(self) -> Deferred[Any]:
        assert self._in_thread is not None
        self._saving = None
        known = {"at": self._wall(), "hour": self.hour.spent(), "day": self.day.spent()}
        work = partial(replace_file, SYSTEM, self._file, json.dumps(known).encode())
        return self._in_thread(work).addErrback(
            lambda failure: _log.error(
                "What the accounts have sent cannot be written: {error}", error=failure.getErrorMessage()
            )
        )


@implementer(IPolicyCheck)
class AccountLimits:
    """Defers recipients of an account over its limits."""

    name: ClassVar[str] = "account_limits"

    def __init__(self, resources: PolicyResources) -> None:
        self.stages: frozenset[Stage] = frozenset({"rcpt"})
        self._clock = resources.clock
        self._tell = resources.tell_operator
        spent = resources.memory.setdefault(
            self.name, Spent(resources.clock, resources.state, resources.in_thread)
        )
        assert isinstance(spent, Spent)
        self._spent = spent
        self._limits = [
            (buckets, limit, word)
            for buckets, limit, seconds, word in (
                (spent.hour, resources.recipients_per_hour, HOUR, "hour"),
                (spent.day, resources.recipients_per_day, DAY, "day"),
            )
            if _set(buckets, limit, seconds)
        ]
        spent.load()

    def judge(self, circumstances: Circumstances) -> Verdict | None:
        account = circumstances.session.account
        if not account:
            return None
        for buckets, limit, word in self._limits:
            wait = buckets.wait(account)
            if wait > 0:
                if not circumstances.dry_run:
                    self._note(account, limit, word)
                words = f"Your limit of {limit} recipients a{'n' if word == 'hour' else ''} {word} is reached"
                minutes = int(wait // 60) + 1
                reply = Reply(450, "4.7.1", f"{words}; try again in {minutes} min")
                return Verdict(Action.DEFER, self.name, f"{account}: {words}", reply)
        if not circumstances.dry_run:
            for buckets, _, _ in self._limits:
                buckets.take(account)
            if self._limits:
                self._spent.changed()
        return None

    def _note(self, account: str, limit: int, word: str) -> None:
        """Tell the operator, once in a while."""
        told, now = self._spent.told, self._clock.seconds()
        if now - told.pop(account, -SILENCE) < SILENCE:
            told[account] = now
            return
        told[account] = now
        if len(told) > MAX_TOLD:
            del told[next(iter(told))]
        _log.warn(
            "{account} has sent to {limit} recipients a {word}; the others wait",
            account=account,
            limit=limit,
            word=word,
        )
        if self._tell is not None:
            self._tell(
                f"{account} sends too much",
                f"The account {account} has reached its limit of {limit} recipients "
                f"{'an' if word == 'hour' else 'a'} {word}.\n\n"
                "Its further recipients are told to try again later. If that is not what its owner does, "
                "somebody has the\npassword; change it:\n\n"
                f"  lorrainemail account passwd {account}\n\n"
                f"The limits are recipients_per_hour and recipients_per_day in [limits].\n",
            )


def _set(buckets: TokenBuckets, limit: int, seconds: int) -> bool:
    """Apply a limit, which a reload may have changed; False where there is none."""
    buckets.burst = float(limit)
    buckets.rate = limit / seconds
    return limit > 0
