"""Received DMARC reports: found in messages of one account, read, kept for ``lorrainemail dmarc``.

:class:`ReportReader` looks at the account's INBOX when the store says that something was delivered there, and
at its start; where it got to is kept beside the reports, so each message is read once. Messages are read and
unpacked in threads, bounded (:data:`MAX_MESSAGE`, and the bounds of :mod:`~lorrainemail.mailauth.report`).
What is no report is left alone. Nothing here fails mail: a message that cannot be read is logged and passed
over.
"""

from __future__ import annotations

import email.policy
import os
import re
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from functools import partial
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import IMailbox, IStore, ITables, later
from lorrainemail.mailauth.authres import is_by
from lorrainemail.mailauth.report import MAX_PACKED, Report, ReportFault, from_octets
from lorrainemail.mailauth.report_file import FILE, ReportFile

#: Octets of a message that is looked at, and parts of it.
MAX_MESSAGE: Final = 15 * 10**6
MAX_PARTS: Final = 50
#: Reports of one message.
MAX_REPORTS: Final = 5
#: Seconds between a delivery and the look at it, which others may join.
DELAY: Final = 2.0
#: Seconds between looks for what is too old.
DAY: Final = 86400.0

_KINDS: Final = frozenset(
    {
        "application/gzip",
        "application/x-gzip",
        "application/zip",
        "application/x-zip-compressed",
        "application/x-zip",
        "application/octet-stream",
        "application/xml",
        "text/xml",
    }
)
_PROVED = re.compile(r"\bdmarc=pass\b")

_log = Logger("lorrainemail.mailauth")


def reports_in(octets: bytes, hostname: str) -> list[tuple[Report, bool]]:
    """The reports that a message carries, and whether DMARC proved its author. Blocks.

    :param hostname: our name, whose Authentication-Results count.
    """
    message = BytesParser(policy=email.policy.compat32).parsebytes(octets)
    proved = False
    for value in message.get_all("Authentication-Results", []):
        text = str(value)
        if is_by(text.encode("utf-8", "replace"), hostname):
            proved = _PROVED.search(text) is not None
            break
    found = []
    for packed in _packed(message):
        try:
            found.append((from_octets(packed), proved))
        except ReportFault as fault:
            _log.info("A part of a message to the DMARC mailbox is no report: {fault}", fault=str(fault))
        if len(found) >= MAX_REPORTS:
            break
    return found


def _packed(message: Any) -> Iterator[bytes]:
    """Parts that may be reports."""
    for number, part in enumerate(message.walk()):
        if number >= MAX_PARTS:
            return
        if isinstance(part, EmailMessage) or not part.is_multipart():
            kind = part.get_content_type()
            name = str(part.get_filename() or "").lower()
            if kind in _KINDS or name.endswith((".xml", ".xml.gz", ".zip", ".gz")):
                payload = part.get_payload(decode=True)
                if isinstance(payload, bytes) and 0 < len(payload) <= MAX_PACKED:
                    yield payload


class ReportReader(Service):
    """Reads what comes.

    :param account: the folded address of the account.
    :param tables: gives the current tables.
    :param keep: seconds for which reports are kept.
    """

    name = "dmarc mailbox"

    def __init__(
        self,
        account: str,
        store: IStore,
        tables: Callable[[], ITables],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        clock: IReactorTime,
        state: str,
        hostname: str,
        keep: float,
    ) -> None:
        self.account, self.keep = account, keep
        self._store = store
        self._tables = tables
        self._in_thread = in_thread
        self._clock = clock
        self._hostname = hostname
        self._file = ReportFile(os.path.join(state, FILE))
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
        busy.addErrback(lambda failure: _log.failure("The DMARC mailbox could not be read", failure))

        def done(_: object) -> None:
            self._busy = None

        busy.addCallback(done)

    async def look(self) -> None:
        """Read what is new."""
        account = await later(self._tables().account(parse_address(self.account)))
        if account is None:
            _log.warn("There is no account {account} for DMARC reports", account=self.account)
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
            for report, proved in await self._in_thread(lambda: reports_in(octets, self._hostname)):
                if await self._in_thread(partial(self._file.add, report, proved)):
                    _log.info(
                        "DMARC report of {organization} on {domain} read",
                        organization=report.organization,
                        domain=report.published.domain,
                    )
        except Exception:
            _log.failure("Message {uid} of the DMARC mailbox was passed over", uid=uid)
