"""Texts go into the text index in the background: one folder at a time in the whole store, in small steps.

Owns who is waiting and the pause between two steps, so that the work never takes more than its share of a
core, whatever the number of mailboxes. Asked for by a search that found messages which are not in; nothing
is done for those who never search texts. What is not finished when the server stops goes on after the next
search.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from lorrainemail.store.mailbox import Mailbox

#: Of each stretch of time, the part that indexing may take is 1 / (1 + PAUSES).
PAUSES: Final = 2.0
#: Seconds of the shortest and the longest pause.
MIN_PAUSE: Final = 0.005
MAX_PAUSE: Final = 0.2
#: Folders that wait; who comes beyond that is asked again by his next search.
MAX_WAITING: Final = 1000

_log = Logger("lorrainemail.store")


class TextIndexing:
    """The one background job of the store."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: OrderedDict[Mailbox, None] = OrderedDict()
        self._current: Mailbox | None = None
        self._mark = 0
        self._began = 0.0
        self._call: IDelayedCall | None = None
        self._stopped = False

    def ask(self, mailbox: Mailbox) -> None:
        """Take the folder's messages in, when its turn comes. It stays open meanwhile."""
        if self._stopped or mailbox is self._current or len(self._waiting) >= MAX_WAITING:
            return
        if mailbox not in self._waiting:
            mailbox.users += 1
            self._waiting[mailbox] = None
        if self._current is None:
            self._next()

    def stop(self) -> None:
        """No further step."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        for mailbox in (*self._waiting, *(() if self._current is None else (self._current,))):
            mailbox.close()
        self._waiting.clear()
        self._current = None

    def _next(self) -> None:
        self._current = None
        if self._waiting:
            self._current, _ = self._waiting.popitem(last=False)
            self._mark = 0
            self._call = self._clock.callLater(MIN_PAUSE, self._step)

    def _step(self) -> None:
        self._call = None
        mailbox = self._current
        assert mailbox is not None
        self._began = self._clock.seconds()
        step: Deferred[int] = mailbox.take_in(self._mark)
        step.addCallbacks(self._stepped, self._failed)

    def _stepped(self, mark: int) -> None:
        if self._stopped or self._current is None:
            return
        if mark <= self._mark:
            self._done()
            return
        self._mark = mark
        took = self._clock.seconds() - self._began
        pause = min(max(took * PAUSES, MIN_PAUSE), MAX_PAUSE)
        self._call = self._clock.callLater(pause, self._step)

    def _failed(self, failure: Failure) -> None:
        _log.info("texts of a folder are not indexed: {why}", why=failure.getErrorMessage())
        if not self._stopped:
            self._done()

    def _done(self) -> None:
        mailbox = self._current
        if mailbox is not None:
            mailbox.close()
        self._next()
