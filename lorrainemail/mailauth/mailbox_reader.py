"""Reads what arrives in one account's INBOX, each message once: for reports that others send by mail.

:class:`MailboxReader` looks at the INBOX when the store says that something was delivered there, and at its
start; where it got to is kept in the reports' own file. Messages are read and unpacked in threads, bounded by
:data:`MAX_MESSAGE`. What is no report is left alone. Nothing here fails mail: a message that cannot be
read is logged and passed over.

Callers: the readers of DMARC reports and of TLS reports, each of which says what it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import IMailbox, IStore, ITables, later

#: Octets of a message that is looked at.
MAX_MESSAGE: Final = 15 * 10**6
#: Seconds between a delivery and the look at it, which others may join.
DELAY: Final = 2.0
#: Seconds between looks for what is too old.
DAY: Final = 86400.0

_log = Logger("lorrainemail.mailauth")


class Reports(Protocol):
    """The file that reports are kept in, as far as it is used here. All of it blocks."""

    def mark(self, name: str) -> str: ...

    def set_mark(self, name: str, value: str) -> None: ...

    def expire(self, before: int) -> None: ...

    def close(self) -> None: ...


class MailboxReader(Service):
    """Reads what comes.

    :param account: the folded address of the account.
    :param tables: gives the current tables.
    :param file: where it is kept how far was read.
    :param take: does what there is to do with one message; called in a thread.
    :param keep: seconds for which reports are kept.
    """

    def __init__(
        self,
        account: str,
        store: IStore,
        tables: Callable[[], ITables],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        clock: IReactorTime,
        file: Reports,
        take: Callable[[bytes], None],
        keep: float,
    ) -> None:
        self.account, self.keep = account, keep
        self._store = store
        self._tables = tables
        self._in_thread = in_thread
        self._clock = clock
        self._file = file
        self._take = take
        self._call: IDelayedCall | None = None
        self._busy: Deferred[None] | None = None
        self._expired = 0.0
        store.watch(self._event)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._soon()

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._call is not None:
            self._call.cancel()
            self._call = None
        done: Deferred[None] = Deferred.fromCoroutine(self._end())
        return done

    async def _end(self) -> None:
        if self._busy is not None:
            await self._busy
        self._file.close()

    def _event(self, event: str, account: str, folder: str) -> None:
        if event == "delivered" and account == self.account and folder in ("", "INBOX"):
            self._soon()

    def _soon(self) -> None:
        if self.account and self.running and self._call is None:
            self._call = self._clock.callLater(DELAY, self._look)

    def _look(self) -> None:
        self._call = None
        if self._busy is not None:
            self._soon()
            return
        self._busy = busy = Deferred.fromCoroutine(self.look())
        busy.addErrback(lambda failure: _log.failure("A mailbox of reports could not be read", failure))

        def done(_: object) -> None:
            self._busy = None

        busy.addCallback(done)

    async def look(self) -> None:
        """Read what is new."""
        account = await later(self._tables().account(parse_address(self.account)))
        if account is None:
            _log.warn("There is no account {account} for reports", account=self.account)
            return
        mailbox = await self._store.home(account).open("INBOX")
        try:
            mark = await self._in_thread(lambda: self._file.mark(f"read {self.account}"))
            validity, _, last = mark.partition(" ")
            after = int(last) if validity == str(mailbox.uid_validity) else 0
            for uid in [uid for uid in mailbox.uids() if uid > after]:
                await self._read(mailbox, uid)
                told = f"{mailbox.uid_validity} {uid}"
                await self._in_thread(partial(self._file.set_mark, f"read {self.account}", told))
        finally:
            mailbox.close()
        now = self._clock.seconds()
        if now - self._expired >= DAY:
            self._expired = now
            await self._in_thread(lambda: self._file.expire(int(time.time() - self.keep)))

    async def _read(self, mailbox: IMailbox, uid: int) -> None:
        try:
            message = await mailbox.message(uid)
            try:
                if message.size > MAX_MESSAGE:
                    return
                octets = await message.read()
            finally:
                message.close()
            await self._in_thread(lambda: self._take(octets))
        except Exception:
            _log.failure(
                "Message {uid} of the reports in {account} was passed over", uid=uid, account=self.account
            )
