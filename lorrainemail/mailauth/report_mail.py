"""Received DMARC reports: found in messages of one account, read, kept for ``lorrainemail dmarc``.

:func:`report_reader` makes the :class:`~lorrainemail.mailauth.mailbox_reader.MailboxReader` of the account;
messages are unpacked in its threads, with the bounds of :mod:`~lorrainemail.mailauth.report`.
"""

from __future__ import annotations

import email.policy
import os
import re
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lorrainemail.interfaces import IStore, ITables
from lorrainemail.mailauth.authres import is_by
from lorrainemail.mailauth.mailbox_reader import MailboxReader
from lorrainemail.mailauth.report import MAX_PACKED, Report, ReportFault, from_octets
from lorrainemail.mailauth.report_file import FILE, ReportFile

#: Parts of a message that are looked at.
MAX_PARTS: Final = 50
#: Reports of one message.
MAX_REPORTS: Final = 5

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


def report_reader(
    account: str,
    store: IStore,
    tables: Callable[[], ITables],
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    clock: IReactorTime,
    state: str,
    hostname: str,
    keep: float,
) -> MailboxReader:
    """What reads the DMARC reports of an account.

    :param hostname: our name, whose Authentication-Results count.
    """
    file = ReportFile(os.path.join(state, FILE))

    def take(octets: bytes) -> None:
        for report, proved in reports_in(octets, hostname):
            if file.add(report, proved):
                _log.info(
                    "DMARC report of {organization} on {domain} read",
                    organization=report.organization,
                    domain=report.published.domain,
                )

    reader = MailboxReader(account, store, tables, in_thread, clock, file, take, keep)
    reader.name = "dmarc mailbox"
    return reader
