"""``maildirsize`` of Maildir++: what an account with a quota may hold, and holds, told to other programs.

The index counts; this file is for those who cannot ask it (another delivery agent beside us, an operator's
script), and is never read here. Written some seconds after a change, for all that came until then, and when
the server ends; an account without a quota has none. Where it cannot be written nothing else suffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

if TYPE_CHECKING:
    from lorrainemail.store.home import LiveHome
    from lorrainemail.store.tree import Tree

SIZE_FILE: Final = "maildirsize"
#: Seconds after a change until it is written.
DELAY: Final = 5.0

_log = Logger("lorrainemail.store")


def printed(quota: int, quota_messages: int, usage: tuple[int, int]) -> bytes:
    """The file: the limits in its first line, then octets and messages in one sum."""
    limits = [f"{quota}S"] if quota else []
    if quota_messages:
        limits.append(f"{quota_messages}C")
    return f"{','.join(limits)}\n{usage[0]} {usage[1]}\n".encode("ascii")


def write(tree: Tree, data: bytes) -> None:
    """In the strand."""
    tree.replace_file(f"{tree.maildir}/{SIZE_FILE}", data)


class SizeFiles:
    """Which homes have something to write. In the reactor's thread."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._changed: dict[LiveHome, None] = {}
        self._call: IDelayedCall | None = None
        self._stopped = False

    def soon(self, home: LiveHome) -> None:
        """What the home holds has changed."""
        self._changed[home] = None
        if self._call is None and not self._stopped:
            self._call = self._clock.callLater(DELAY, self.flush)

    def stop(self) -> None:
        """The server ends: write them, and no more."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
        self.flush()

    def flush(self) -> None:
        """Write them now."""
        self._call = None
        changed, self._changed = self._changed, {}
        for home in changed:
            account, usage = home.account, home.usage
            if usage is not None and home.limited:
                data = printed(account.quota, account.quota_messages, usage)
                self._write(home, data)

    @staticmethod
    def _write(home: LiveHome, data: bytes) -> None:
        def failed(why: object) -> None:
            _log.info("no maildirsize for {account}: {why}", account=home.key, why=why)

        home.run(lambda: write(home.tree, data)).addErrback(failed)
