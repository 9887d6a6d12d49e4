"""DKIM keys replaced on a schedule: made, published, used, taken away.

:class:`KeyRotation` looks every :data:`LOOK` seconds, in a thread:

1. A domain whose signing keys are older than ``[dkim] rotate`` gets new ones that wait. Our own DNS door
   serves their records at once, or the name server of ``[dns_update]`` is told them; else the postmaster is
   told what to put into the DNS.
2. Waiting keys sign as soon as the DNS has the records of all of them, whoever put them there.
3. Keys that were replaced are removed :data:`KEEP_OLD` seconds later, when no mail is on its way any more
   that they signed, and their records with them; where those are not ours to change the postmaster is told
   which may go.

Each step is found from the files alone, so a restart loses nothing. A failure is logged and tried again:
records that could not be published are tried at every look, and the postmaster can put them there meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lorrainemail.interfaces import DnsFailure, IResolver
from lorrainemail.mailauth.keys import SigningKey, StoredKey, activate, generate, stored_keys

#: Seconds between looks; the first comes sooner.
LOOK: Final = 6 * 3600.0
FIRST: Final = 30.0
#: Seconds for which a replaced key's record stays published: longer than mail waits in any queue.
KEEP_OLD: Final = 14 * 86400.0

_log = Logger("lorrainemail.mailauth")


class Publish(Protocol):
    """Writes records of keys into the DNS, or takes them away."""

    async def __call__(self, keys: Sequence[SigningKey], wanted: bool) -> bool:
        """:returns: whether all could be written; False too where nobody takes what we would write."""


class KeyRotation(Service):
    """See the module.

    :param state: the state directory.
    :param age: seconds after which keys are replaced, 0 for never; may be changed while running.
    :param served: whether our own DNS door answers for a domain.
    :param publish: writes into the DNS of others.
    :param changed: called when keys came, went, or changed their state.
    """

    name = "dkim keys"

    def __init__(
        self,
        state: str,
        age: float,
        clock: IReactorTime,
        resolver: IResolver,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        tell_operator: Callable[[str, str], None],
        served: Callable[[str], bool],
        publish: Publish,
        changed: Callable[[], None],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.age = age
        self._state = state
        self._clock = clock
        self._resolver = resolver
        self._in_thread = in_thread
        self._tell = tell_operator
        self._served = served
        self._publish = publish
        self._changed = changed
        self._wall_clock = wall_clock
        self._call: IDelayedCall | None = None
        self._busy: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._call = self._clock.callLater(FIRST, self._turn)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return self._busy

    def _turn(self) -> None:
        self._call = None
        self._busy = busy = Deferred.fromCoroutine(self.look())
        busy.addErrback(lambda failure: _log.failure("The DKIM keys could not be looked at", failure))

        def again(_: object) -> None:
            self._busy = None
            if self.running:
                self._call = self._clock.callLater(LOOK, self._turn)

        busy.addCallback(again)

    async def look(self) -> None:
        """Take every domain one step further where it is time."""
        if not self.age:
            return
        keys: list[StoredKey] = await self._in_thread(lambda: stored_keys(self._state))
        for domain in sorted({one.key.domain for one in keys}):
            await self._look_at(domain, [one for one in keys if one.key.domain == domain])

    async def _look_at(self, domain: str, keys: Sequence[StoredKey]) -> None:
        now = self._wall_clock()
        waiting = [one for one in keys if one.state == "waits"]
        signing = [one for one in keys if one.state == "signs"]
        if waiting:
            there = await self._published(waiting)
            if not there and not self._served(domain):
                await self._publish([one.key for one in waiting], True)
            if there:
                await self._in_thread(lambda: activate(self._state, domain))
                self._changed()
                names = " and ".join(one.key.selector for one in waiting)
                _log.info("Mail of {domain} is signed with {names} from now on", domain=domain, names=names)
        elif signing:
            ages = await self._in_thread(lambda: [now - os.stat(one.path).st_mtime for one in signing])
            if max(ages) >= self.age:
                await self._renew(domain, now)
        for one in keys:
            if one.state == "replaced":
                await self._remove(one, now)

    async def _published(self, waiting: Sequence[StoredKey]) -> bool:
        for one in waiting:
            try:
                texts = await self._resolver.txt(one.key.name)
            except DnsFailure:
                return False
            wanted = one.key.record().replace(" ", "").encode("ascii")
            if wanted not in [text.replace(b" ", b"") for text in texts]:
                return False
        return True

    async def _renew(self, domain: str, now: float) -> None:
        day = time.strftime("%Y%m%d", time.gmtime(now))
        made: list[StoredKey] = await self._in_thread(lambda: generate(self._state, domain, day, True))
        self._changed()
        _log.info("New DKIM keys of {domain} wait for their records in the DNS", domain=domain)
        if self._served(domain) or await self._publish([one.key for one in made], True):
            return
        records = "\n".join(one.key.zone_line() for one in made)
        self._tell(
            f"New DKIM keys of {domain}: put their records into the DNS",
            f"It is time to replace the keys that sign the mail of {domain}. Please put these records into "
            f"its DNS, beside those\nthat are there:\n\n{records}\n\nNothing else is to be done: the new "
            "keys sign as soon as the DNS has their records, the old ones\nuntil then.\n",
        )

    async def _remove(self, one: StoredKey, now: float) -> None:
        """A key that was replaced long enough ago; its rename is its inode's last change."""
        replaced = await self._in_thread(lambda: os.stat(one.path).st_ctime)
        if now - replaced < KEEP_OLD:
            return
        await self._in_thread(lambda: os.unlink(one.path))
        self._changed()
        if not self._served(one.key.domain) and not await self._publish([one.key], False):
            self._tell(
                f"An old DKIM record of {one.key.domain} may go",
                f"The key {one.key.selector} of {one.key.domain} was replaced and is gone. Its record may be "
                f"removed from the DNS:\n\n  {one.key.name}\n",
            )
