"""Received DMARC reports: found in messages of one account, read, kept for ``lorrainemail dmarc``.

:func:`report_reader` makes the :class:`~lorrainemail.mailauth.mailbox_reader.MailboxReader` of the account;
messages are unpacked in its threads, with the bounds of :mod:`~lorrainemail.mailauth.report`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lorrainemail.interfaces import IStore, ITables
from lorrainemail.mailauth.mailbox_reader import MailboxReader
from lorrainemail.mailauth.report import MAX_PACKED, Report, ReportFault, from_octets
from lorrainemail.mailauth.report_file import FILE, ReportFile
from lorrainemail.mailauth.report_parts import report_parts

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

_log = Logger("lorrainemail.mailauth")


def reports_in(octets: bytes, hostname: str) -> list[tuple[Report, bool]]:
    """The reports that a message carries, and whether DMARC proved its author. Blocks.

    :param hostname: our name, whose Authentication-Results count.
    """
    parts, proved = report_parts(octets, hostname, _KINDS, (".xml", ".xml.gz", ".zip", ".gz"), MAX_PACKED)
    found = []
    for packed in parts:
        try:
            found.append((from_octets(packed), proved))
        except ReportFault as fault:
            _log.info("A part of a message to the DMARC mailbox is no report: {fault}", fault=str(fault))
        if len(found) >= MAX_REPORTS:
            break
    return found


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
