"""TLS reports as messages (RFC 8460 §5.3): those that we send, and those found in an account's INBOX."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from lorrainemail.addresses import Address
from lorrainemail.interfaces import IStore, ITables
from lorrainemail.mailauth.authres import is_by
from lorrainemail.mailauth.mailbox_reader import MailboxReader
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

#: Parts of a message that are looked at, and reports of one message.
MAX_PARTS: Final = 50
MAX_REPORTS: Final = 5

_KINDS: Final = frozenset({"application/tlsrpt+gzip", "application/tlsrpt+json"})
_PROVED = re.compile(r"\bdmarc=pass\b")

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
    message = BytesParser(policy=compat32).parsebytes(octets)
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
            _log.info("A part of a message of TLS reports is none: {fault}", fault=str(fault))
        if len(found) >= MAX_REPORTS:
            break
    return found


def _packed(message: Message) -> Iterator[bytes]:
    """Parts that may be reports."""
    for number, part in enumerate(message.walk()):
        if number >= MAX_PARTS:
            return
        if part.is_multipart():
            continue
        name = str(part.get_filename() or "").lower()
        if part.get_content_type() in _KINDS or name.endswith((".json", ".json.gz")):
            payload: Any = part.get_payload(decode=True)
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
    """What reads the TLS reports of an account."""
    file = TlsReportFile(os.path.join(state, FILE))

    def take(octets: bytes) -> None:
        for report, proved in reports_in(octets, hostname):
            if file.add(report, proved):
                _log.info("TLS report of {organization} read", organization=report.organization)

    reader = MailboxReader(account, store, tables, in_thread, clock, file, take, keep)
    reader.name = "tls report mailbox"
    return reader
