"""TLS reports as messages (RFC 8460 §5.3): those that we send, and those found in an account's INBOX."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lorrainemail.addresses import Address
from lorrainemail.interfaces import IStore, ITables
from lorrainemail.mailauth.mailbox_reader import MailboxReader
from lorrainemail.mailauth.report_parts import report_parts
from lorrainemail.message.received import rfc5322_date
from lorrainemail.ops.ids import new_id
from lorrainemail.tlspolicy.report import (
    MAX_PACKED,
    ReportFault,
    TlsReport,
    file_name,
    from_octets,
)
from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile

#: Reports of one message.
MAX_REPORTS: Final = 5

_KINDS: Final = frozenset({"application/tlsrpt+gzip", "application/tlsrpt+json"})

_log = Logger("lorrainemail.tlspolicy")


def message_of(
    report: TlsReport, packed: bytes, domain: str, hostname: str, recipients: Iterable[Address], now: float
) -> bytes:
    """The message that carries a report on a domain.

    It says ``TLS-Required: No`` (RFC 8689 §5): a report of what is wrong with the TLS of a domain must
    reach it all the same.
    """
    name, boundary = file_name(hostname, domain, report), new_id()
    to = ",\r\n\t".join(str(one) for one in recipients)
    return b"".join(
        (
            f"From: TLS reports of {hostname} <postmaster@{hostname}>\r\nTo: {to}\r\n"
            f"Subject: Report Domain: {domain}\r\n\tSubmitter: {hostname}\r\n\tReport-ID: <{report.id}>\r\n"
            f"Date: {rfc5322_date(now)}\r\nMessage-ID: <{new_id()}@{hostname}>\r\n"
            f"TLS-Report-Domain: {domain}\r\nTLS-Report-Submitter: {hostname}\r\nTLS-Required: No\r\n"
            f"Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n"
            f'Content-Type: multipart/report; report-type="tlsrpt";\r\n\tboundary="{boundary}"\r\n\r\n'
            f"--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
            f"What {hostname} saw of the TLS of the mail servers of {domain} in one day (RFC 8460).\r\n"
            f"--{boundary}\r\nContent-Type: application/tlsrpt+gzip\r\n"
            f'Content-Disposition: attachment;\r\n\tfilename="{name}"\r\n'
            "Content-Transfer-Encoding: base64\r\n\r\n".encode(),
            base64.encodebytes(packed).replace(b"\n", b"\r\n"),
            f"--{boundary}--\r\n".encode(),
        )
    )


def reports_in(octets: bytes, hostname: str) -> list[tuple[TlsReport, bool]]:
    """The reports that a message carries, and whether DMARC proved its author. Blocks.

    :param hostname: our name, whose Authentication-Results count.
    """
    parts, proved = report_parts(octets, hostname, _KINDS, (".json", ".json.gz"), MAX_PACKED)
    found = []
    for packed in parts:
        try:
            found.append((from_octets(packed), proved))
        except ReportFault as fault:
            _log.info("A part of a message of TLS reports is none: {fault}", fault=str(fault))
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
    """What reads the TLS reports of an account."""
    file = TlsReportFile(os.path.join(state, FILE))

    def take(octets: bytes) -> None:
        if b"tlsrpt" not in octets and b".json" not in octets:
            return  # ordinary mail, which may stand in the same INBOX, is not taken apart
        for report, proved in reports_in(octets, hostname):
            if file.add(report, proved):
                _log.info("TLS report of {organization} read", organization=report.organization)

    reader = MailboxReader(account, store, tables, in_thread, clock, file, take, keep)
    reader.name = "tls report mailbox"
    return reader
