"""DMARC reports that we send: what was seen is gathered, and told once a day to those who ask (RFC 9990).

:class:`Reporter` hears of every evaluation from the policy check (:meth:`Reporter.note` costs a dictionary
entry), writes what gathered every minute in a thread, and each hour sends what is due: one message for each
domain and past day (UTC), to each address of its ``rua`` that is of the domain's own organization or whose
domain says that it takes such reports (RFC 9990 §4). Where ``failures`` is set, single failures are told too,
to ``ruf`` by the same rule: header only, :data:`FAILURES` an hour for one domain (RFC 9991).

A crash may lose the last minute's counts, or send a report twice under the same id. Nothing here delays mail.
"""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from lorrainemail.addresses import Address, AddressError, parse_address
from lorrainemail.interfaces import Action, DnsFailure, Inject, IResolver
from lorrainemail.mailauth.check import Evaluation
from lorrainemail.mailauth.dmarc_record import DmarcRecord, is_dmarc
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.report import AuthResult, Published, Record, Report, file_name, to_xml
from lorrainemail.mailauth.report_file import FILE, ReportFile
from lorrainemail.message.received import rfc5322_date
from lorrainemail.net.limits import TokenBuckets
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.version import VERSION

DAY: Final = 86400
#: Seconds between writes, until the first one, and between looks for what is due.
FIRST: Final = 10.0
FLUSH: Final = 60.0
LOOK: Final = 3600.0
#: Different records in memory; more are not counted until the next write.
MAX_WAITING: Final = 20_000
#: Records of one report, and addresses that one is sent to.
MAX_RECORDS: Final = 10_000
MAX_ADDRESSES: Final = 4
#: Failure reports to one domain in an hour, and octets of a header in one.
FAILURES: Final = 12
MAX_HEADER: Final = 32 * 1024

_DISPOSITIONS: Final = {Action.JUNK: "quarantine", Action.REFUSE: "reject"}

_log = Logger("lorrainemail.mailauth")


@attrs.frozen(slots=True)
class Tools:
    """What a reporter works with.

    :ivar inject: sends mail of our own. ``in_thread``: runs blocking work.
    :ivar hostname: our name. ``state``: the state directory.
    """

    clock: IReactorTime
    resolver: IResolver
    inject: Inject
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    hostname: str
    state: str


class Reporter(Service):
    """See the module.

    :param aggregate: gather and send aggregate reports. ``failures``: tell single failures.
    """

    name = "dmarc reports"

    def __init__(self, tools: Tools, aggregate: bool, failures: bool) -> None:
        self._tools = tools
        self.aggregate, self.failures = aggregate, failures
        self.file = ReportFile(os.path.join(tools.state, FILE))
        self._counts: dict[tuple[int, Published, Record], int] = {}
        self._wanted: dict[tuple[int, str], str] = {}
        self._told = TokenBuckets(tools.clock, FAILURES / 3600, FAILURES)
        self._call: IDelayedCall | None = None
        self._look_at = 0.0
        self._busy: Deferred[None] | None = None

    # -- Reports ---------------------------------------------------------------------------------

    def note(self, evaluation: Evaluation, header: Header) -> None:
        record = evaluation.dmarc.record
        if record is None:
            return
        if self.aggregate and record.reports and len(self._counts) < MAX_WAITING:
            day = int(self._tools.clock.seconds()) // DAY
            published = _published(evaluation.dmarc.policy_domain, record)
            key = (day, published, _seen(evaluation))
            self._counts[key] = self._counts.get(key, 0) + 1
            self._wanted[day, published.domain] = " ".join(record.reports[:MAX_ADDRESSES])
        if self.failures and record.failures and _is_wanted(evaluation, record):
            domain = evaluation.dmarc.policy_domain
            if self._told.take(domain):
                told = self._tell_failure(evaluation, record, header.data[:MAX_HEADER])
                Deferred.fromCoroutine(told).addErrback(self._lost)

    # -- Service ---------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._call = self._tools.clock.callLater(FIRST, self._turn)

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
        try:
            await self._flush()
        except Exception:
            _log.failure("What is to be reported was not kept")
        self.file.close()

    def _turn(self) -> None:
        self._call = None
        self._busy = busy = Deferred.fromCoroutine(self.work())
        busy.addErrback(self._lost)

        def again(_: object) -> None:
            self._busy = None
            if self.running:
                self._call = self._tools.clock.callLater(FLUSH, self._turn)

        busy.addCallback(again)

    @staticmethod
    def _lost(failure: Any) -> None:
        _log.failure("A DMARC report was not made", failure)

    async def work(self) -> None:
        """Write what gathered; send what is due."""
        await self._flush()
        now = self._tools.clock.seconds()
        if self.aggregate and now >= self._look_at:
            self._look_at = now + LOOK
            for day, domain, addresses in await self._tools.in_thread(lambda: self.file.due(int(now) // DAY)):
                await self._send(day, domain, addresses)

    async def _flush(self) -> None:
        counts, self._counts = self._counts, {}
        wanted, self._wanted = self._wanted, {}
        if not counts:
            return
        rows = [
            (day, published, attrs.evolve(record, count=count))
            for (day, published, record), count in counts.items()
        ]
        await self._tools.in_thread(lambda: self.file.see(rows, wanted))

    # -- aggregate reports -----------------------------------------------------------------------

    async def _send(self, day: int, domain: str, addresses: Iterable[str]) -> None:
        recipients = await self.allowed(domain, addresses)
        seen = await self._tools.in_thread(lambda: self.file.records(day, domain, MAX_RECORDS))
        if recipients and seen is not None:
            published, records = seen
            hostname = self._tools.hostname
            report = Report(
                hostname,
                f"postmaster@{hostname}",
                f"{day}.{domain}@{hostname}",
                day * DAY,
                (day + 1) * DAY - 1,
                published,
                records,
            )
            message = await self._tools.in_thread(
                lambda: aggregate_message(report, hostname, recipients, self._tools.clock.seconds())
            )
            await self._tools.inject(None, recipients, Content(message), 1, "")
            _log.info(
                "DMARC report on {domain} sent to {to}",
                domain=domain,
                to=", ".join(str(one) for one in recipients),
            )
        await self._tools.in_thread(lambda: self.file.sent(day, domain))

    async def allowed(self, domain: str, addresses: Iterable[str]) -> list[Address]:
        """Those of the addresses that may be sent reports on a domain (RFC 9990 §4)."""
        found: list[Address] = []
        for text in addresses:
            try:
                address = parse_address(text)
            except AddressError:
                continue
            if address not in found and await self._takes(domain, address.domain):
                found.append(address)
        return found[:MAX_ADDRESSES]

    async def _takes(self, domain: str, where: str) -> bool:
        if where == domain or where.endswith("." + domain) or domain.endswith("." + where):
            return "." in where
        try:
            texts = await self._tools.resolver.txt(f"{domain}._report._dmarc.{where}")
        except DnsFailure:
            return False
        return any(is_dmarc(text) for text in texts)

    # -- failure reports -------------------------------------------------------------------------

    async def _tell_failure(self, evaluation: Evaluation, record: DmarcRecord, header: bytes) -> None:
        recipients = await self.allowed(evaluation.dmarc.policy_domain, record.failures[:MAX_ADDRESSES])
        if recipients:
            now = self._tools.clock.seconds()
            message = failure_message(evaluation, header, self._tools.hostname, recipients, now)
            await self._tools.inject(None, recipients, Content(message), 1, "")


def _published(domain: str, record: DmarcRecord) -> Published:
    return Published(
        domain,
        record.policy or "none",
        record.subdomains or "",
        record.absent or "",
        "s" if record.strict_dkim else "r",
        "s" if record.strict_spf else "r",
        record.testing,
        record.failure_options,
    )


def _seen(evaluation: Evaluation) -> Record:
    """One message without its count."""
    dmarc, spf = evaluation.dmarc, evaluation.spf
    disposition = _DISPOSITIONS.get(evaluation.action, "none") if dmarc.result == "fail" else "none"
    reason = ("", "")
    if dmarc.result == "fail":
        if evaluation.override:
            reason = ("trusted_forwarder", evaluation.override)
        elif dmarc.disposition == "reject" and disposition == "quarantine":
            reason = ("local_policy", "quarantined: it may have been forwarded")
        elif dmarc.record is not None and dmarc.record.testing:
            reason = ("policy_test_mode", "")
    results = [
        AuthResult("dkim", one.domain, one.result, one.selector) for one in evaluation.dkim[:8] if one.domain
    ]
    scope = "helo" if spf.identity == "helo" else "mfrom"
    results.append(AuthResult("spf", spf.domain, spf.result, scope))
    return Record(
        evaluation.peer,
        0,
        disposition,
        "dkim" in dmarc.aligned,
        "spf" in dmarc.aligned,
        dmarc.domain,
        evaluation.sender.domain if evaluation.sender is not None else "",
        reason,
        tuple(results),
    )


def _is_wanted(evaluation: Evaluation, record: DmarcRecord) -> bool:
    """Whether the domain asks to be told of such a failure (RFC 9991 §4, fo=)."""
    options = set(record.failure_options.split(":"))
    aligned = evaluation.dmarc.aligned
    if evaluation.dmarc.result == "fail" and (options & {"0", "1"} or not options & {"d", "s"}):
        return True
    if "1" in options and len(aligned) < 2 and evaluation.dmarc.result == "pass":
        return True
    if "d" in options and any(one.result == "fail" for one in evaluation.dkim):
        return True
    return "s" in options and evaluation.spf.result in ("fail", "softfail")


# -- messages --------------------------------------------------------------------------------------------


def _head(hostname: str, recipients: Iterable[Address], subject: str, kind: str, now: float) -> bytes:
    to = ",\r\n\t".join(str(one) for one in recipients)
    return (
        f"From: DMARC reports of {hostname} <postmaster@{hostname}>\r\nTo: {to}\r\nSubject: {subject}\r\n"
        f"Date: {rfc5322_date(now)}\r\nMessage-ID: <{new_id()}@{hostname}>\r\n"
        f"Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n"
    ).encode()


def aggregate_message(report: Report, hostname: str, recipients: Iterable[Address], now: float) -> bytes:
    """The message that carries a report (RFC 9990 §3.5.1), in wire form. Blocks while it packs."""
    packed = gzip.compress(to_xml(report, f"lorrainemail {VERSION}"), mtime=int(now))
    name, boundary = file_name(hostname, report), new_id()
    domain = report.published.domain
    subject = f"Report Domain: {domain} Submitter: {hostname}\r\n\tReport-ID: <{report.id}>"
    text = f"What {hostname} saw of mail in the name of {domain} in one day (DMARC, RFC 9990)."
    encoded = base64.encodebytes(packed).replace(b"\n", b"\r\n")
    return b"".join(
        (
            _head(hostname, recipients, subject, f'multipart/mixed; boundary="{boundary}"', now),
            f"--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n{text}\r\n".encode(),
            f'--{boundary}\r\nContent-Type: application/gzip; name="{name}"\r\n'
            f'Content-Disposition: attachment;\r\n\tfilename="{name}"\r\n'
            "Content-Transfer-Encoding: base64\r\n\r\n".encode(),
            encoded,
            f"--{boundary}--\r\n".encode(),
        )
    )


def failure_message(
    evaluation: Evaluation, header: bytes, hostname: str, recipients: Iterable[Address], now: float
) -> bytes:
    """A report of one failure (RFC 6591 §3), with the header of the message and nothing of its body."""
    dmarc, boundary = evaluation.dmarc, new_id()
    sender = str(evaluation.sender) if evaluation.sender is not None else "<>"
    signatures = "".join(
        f"DKIM-Domain: {one.domain}\r\nDKIM-Selector: {one.selector}\r\n"
        for one in evaluation.dkim[:1]
        if one.domain
    )
    delivery = {Action.JUNK: "spam", Action.REFUSE: "reject"}.get(evaluation.action, "delivered")
    results = f"{hostname}; dmarc={dmarc.result} header.from={dmarc.domain}; spf={evaluation.spf.result}"
    facts = (
        f"Feedback-Type: auth-failure\r\nUser-Agent: lorrainemail/{VERSION}\r\nVersion: 1\r\n"
        f"Original-Mail-From: {_line(sender)}\r\nSource-IP: {evaluation.peer}\r\n"
        f"Reported-Domain: {dmarc.domain}\r\nAuth-Failure: dmarc\r\nDelivery-Result: {delivery}\r\n"
        f"Identity-Alignment: {', '.join(dmarc.aligned) or 'none'}\r\n{signatures}"
        f"Authentication-Results: {results}\r\n"
    )
    kind = f'multipart/report; report-type=feedback-report;\r\n\tboundary="{boundary}"'
    subject = f"DMARC failure report on {dmarc.domain}"
    body = header.rstrip(b"\r\n") + b"\r\n"
    return b"".join(
        (
            _head(hostname, recipients, subject, kind, now),
            f"--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
            f"A message from {evaluation.peer} in the name of {dmarc.domain} failed DMARC.\r\n".encode(),
            f"--{boundary}\r\nContent-Type: message/feedback-report\r\n\r\n".encode(),
            facts.encode("utf-8", "replace"),
            f"\r\n--{boundary}\r\nContent-Type: text/rfc822-headers\r\n"
            "Content-Transfer-Encoding: base64\r\n\r\n".encode(),
            base64.encodebytes(body).replace(b"\n", b"\r\n"),
            f"--{boundary}--\r\n".encode(),
        )
    )


def _line(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:320])
