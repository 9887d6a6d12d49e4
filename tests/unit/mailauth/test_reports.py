"""DMARC reports: ours sent to those who may have them, theirs read, whatever is in them."""

from __future__ import annotations

import email
import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.cli.dmarc import as_text
from lorrainemail.interfaces import Action
from lorrainemail.mailauth.check import Evaluation
from lorrainemail.mailauth.dkim import DkimResult
from lorrainemail.mailauth.dmarc import DmarcResult
from lorrainemail.mailauth.dmarc_record import parse_dmarc
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.mailauth.report import (
    MAX_XML,
    AuthResult,
    Published,
    Record,
    Report,
    ReportFault,
    from_octets,
    to_xml,
)
from lorrainemail.mailauth.report_file import ReportFile
from lorrainemail.mailauth.report_mail import reports_in
from lorrainemail.mailauth.reporting import FAILURES, FLUSH, Reporter, Tools
from lorrainemail.mailauth.spf import SpfResult
from lorrainemail.ops.content import Content

MESSAGE = b"From: carole@elorac.fr\r\nSubject: x\r\n\r\nnobody else's business\r\n"
FAILED = Record(
    "203.0.113.9",
    3,
    "quarantine",
    False,
    False,
    "elorac.fr",
    "evil.example",
    ("local_policy", "a & b < c"),
    (AuthResult("dkim", "evil.example", "pass", "s1"), AuthResult("spf", "evil.example", "pass", "mfrom")),
)
PASSED = Record("192.0.2.1", 40, "none", True, True, "elorac.fr", "elorac.fr")
REPORT = Report(
    "mail.bricoleur.com",
    "postmaster@bricoleur.com",
    "1.elorac.fr@mail.bricoleur.com",
    1_790_000_000 // 86400 * 86400,
    1_790_000_000 // 86400 * 86400 + 86399,
    Published("elorac.fr", "reject", "quarantine", testing=True),
    (PASSED, FAILED),
)


def zipped(octets: bytes, name: str = "r.xml", packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", packing) as archive:
        archive.writestr(name, octets)
    return held.getvalue()


def many_files(number: int) -> bytes:
    """An archive whose directory alone is large in memory."""
    octets = zipped(b"<feedback/>")
    directory, end = octets.index(b"PK\x01\x02"), octets.index(b"PK\x05\x06")
    return octets[:directory] + octets[directory:end] * number + octets[end:]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zipped])
def test_what_we_write_is_read_again(pack: Any) -> None:
    assert from_octets(pack(to_xml(REPORT, "x"))) == REPORT


def test_a_report_of_before_the_standard_is_read() -> None:
    text = b"""<?xml version="1.0"?><feedback><report_metadata><org_name>google.com</org_name>
      <email>noreply@google.com</email><report_id>77</report_id><date_range><begin>1790000000</begin>
      <end>1790086399</end></date_range></report_metadata><policy_published><domain>Elorac.FR</domain>
      <p>none</p><pct>100</pct></policy_published><record><row><source_ip>2001:DB8::1</source_ip>
      <count>2</count><policy_evaluated><disposition>none</disposition><dkim>fail</dkim><spf>pass</spf>
      </policy_evaluated></row><identifiers><header_from>elorac.fr</header_from></identifiers>
      <auth_results><spf><domain>elorac.fr</domain><result>pass</result></spf></auth_results></record></feedback>"""
    report = from_octets(text)
    assert report.organization == "google.com" and report.published.domain == "elorac.fr"
    assert report.records[0].source == "2001:db8::1" and report.records[0].spf and not report.records[0].dkim


BOMB = gzip.compress(b" " * (MAX_XML + 10))
LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><feedback>&b;</feedback>'


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (BOMB, "when unpacked"),
        (zipped(b" " * (MAX_XML + 10)), "when unpacked"),
        (LAUGHS, "document type"),
        (LAUGHS.decode().encode("utf-16"), "document type|no XML"),
        (b"\x1f\x8bbroken", "damaged"),
        (BOMB[:1000], "damaged"),
        (b"PK\x03\x04broken", "damaged"),
        (zipped(b"x", "r.exe"), "no XML file"),
        (b"<html/>", "no feedback"),
        (b"<feedback/>", "number"),
        (b"no xml", "no XML"),
        (b"<a>" * 100_000, "too many elements"),
        # A few octets of gzip that would be a gigabyte as elements.
        (gzip.compress(b"<feedback><record>" + b"<a/>" * 2_000_000), "too many elements"),
        (many_files(20_000), "more than 100 files"),
        (zipped(b"<feedback/>", packing=zipfile.ZIP_LZMA), "unusual way"),
        (b"x" * 11_000_000, "larger than"),
    ],
)
def test_bombs_and_nonsense_are_refused(octets: bytes, words: str) -> None:
    with pytest.raises(ReportFault, match=words):
        from_octets(octets)


@settings(max_examples=50)
@given(st.text(max_size=300), st.text(max_size=60))
def test_nothing_that_somebody_says_breaks_out_of_the_document(words: str, name: str) -> None:
    record = Record("192.0.2.1", 1, "none", False, False, "x.org", name, ("other", words))
    report = Report(words, name, name, 0, 1, Published("x.org"), (record,))
    read = from_octets(to_xml(report, words))
    assert len(read.records) == 1 and read.published.domain == "x.org"


# -- sending -----------------------------------------------------------------------------------------------


class World:
    def __init__(self, state: Path, record: bytes, rows: dict[str, Any] | None = None) -> None:
        self.clock, self.sent = Clock(), list[tuple[list[str], bytes]]()
        self.clock.advance(1_790_000_000)
        self.state, self.record = state, parse_dmarc(record)
        self.rows = rows or {}
        self.restart()

    def inject(self, sender: Any, recipients: Any, content: Any, hops: int, cause: str) -> Any:
        assert sender is None  # no bounce of a report makes another
        self.sent.append(([str(one) for one in recipients], content.in_memory()))
        return succeed("id")

    def restart(self) -> None:
        tools = Tools(
            self.clock,
            MemoryResolver(self.rows),
            self.inject,
            lambda work: succeed(work()),
            "mail.bricoleur.com",
            str(self.state),
        )
        self.reporter = Reporter(tools, True, True)
        self.reporter.startService()

    def note(
        self,
        result: Any = "fail",
        action: Action = Action.JUNK,
        override: str = "",
        peer: str = "203.0.113.9",
    ) -> None:
        aligned = ("spf",) if result == "pass" else ()
        dmarc = DmarcResult(
            result, "elorac.fr", "reject", "elorac.fr", self.record, "reject", aligned, reason="neither"
        )
        spf = SpfResult("pass", "evil.example", "mailfrom", "x@evil.example", "ok")
        evaluation = Evaluation(
            peer,
            parse_address("x@evil.example"),
            spf,
            [DkimResult("fail", "e.example", "s1")],
            dmarc,
            action,
            override,
        )
        self.reporter.note(evaluation, Header(Content(MESSAGE)))

    def next_day(self) -> None:
        self.clock.advance(FLUSH)
        self.clock.advance(86400)
        self.clock.advance(FLUSH)


def test_a_days_mail_is_told_once_to_who_asks_also_over_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, b"v=DMARC1; p=reject; rua=mailto:d@elorac.fr,mailto:d@other.example")
    world.note()
    world.clock.advance(FLUSH)
    world.note("pass", Action.CONTINUE, peer="192.0.2.1")
    world.reporter.stopService()
    world.restart()
    world.note()
    assert world.sent == []
    world.next_day()
    ((recipients, message),) = world.sent
    assert recipients == ["d@elorac.fr"]
    parsed = email.message_from_bytes(message)
    assert parsed["Subject"].startswith("Report Domain: elorac.fr Submitter: mail.bricoleur.com")
    attached = parsed.get_payload()[1]
    assert attached.get_filename().startswith(
        "mail.bricoleur.com!elorac.fr!"
    ) and attached.get_filename().endswith(".xml.gz")
    ((report, proved),) = reports_in(message, "mail.elorac.fr")
    assert not proved and report.published == Published("elorac.fr", "reject")
    by_source = {one.source: one for one in report.records}
    assert by_source["203.0.113.9"].count == 2 and by_source["203.0.113.9"].disposition == "quarantine"
    assert by_source["203.0.113.9"].reason[0] == "local_policy"
    assert by_source["192.0.2.1"].spf and by_source["192.0.2.1"].disposition == "none"
    world.next_day()
    assert len(world.sent) == 1
    world.reporter.stopService()


def test_a_foreign_address_gets_reports_only_where_its_domain_says_so(tmp_path: Path) -> None:
    rows = {"elorac.fr._report._dmarc.takes.example": [("TXT", "v=DMARC1")]}
    record = b"v=DMARC1; p=none; rua=mailto:a@takes.example,mailto:b@other.example,mailto:c@sub.elorac.fr"
    world = World(tmp_path, record, rows)
    world.note()
    world.next_day()
    assert world.sent[0][0] == ["a@takes.example", "c@sub.elorac.fr"]
    nobody = World(tmp_path, b"v=DMARC1; p=none; rua=mailto:b@other.example")
    nobody.note()
    nobody.next_day()
    assert nobody.sent == []
    world.reporter.stopService()
    nobody.reporter.stopService()


def test_who_asks_for_nothing_is_told_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, b"v=DMARC1; p=reject")
    world.note()
    world.next_day()
    assert world.sent == []
    world.reporter.stopService()


def test_single_failures_are_told_without_the_body_and_not_without_end(tmp_path: Path) -> None:
    world = World(tmp_path, b"v=DMARC1; p=reject; ruf=mailto:f@elorac.fr")
    for _ in range(50):
        world.note()
    assert len(world.sent) == FAILURES
    parsed = email.message_from_bytes(world.sent[0][1])
    assert parsed.get_param("report-type") == "feedback-report"
    facts, headers = parsed.get_payload()[1].get_payload()[0], parsed.get_payload()[2]
    assert facts["Feedback-Type"] == "auth-failure" and facts["Reported-Domain"] == "elorac.fr"
    assert facts["Auth-Failure"] == "dmarc" and facts["Source-IP"] == "203.0.113.9"
    assert b"business" not in world.sent[0][1] and b"Subject: x" in headers.get_payload(decode=True)
    world.note("pass", Action.CONTINUE)
    assert len(world.sent) == FAILURES
    world.reporter.stopService()


# -- receiving ---------------------------------------------------------------------------------------------


def test_what_was_reported_reads_well_and_is_kept_once(tmp_path: Path) -> None:
    file = ReportFile(str(tmp_path / "dmarc.sqlite"))
    assert file.add(REPORT, True) and not file.add(REPORT, False)
    text = "\n".join(as_text(file.reported("", 0)))
    assert "elorac.fr, 21 Sep 2026 to 21 Sep 2026: 43 messages, 40 passed, 3 failed" in text
    assert "203.0.113.9: 3 messages" in text
    assert "FAIL in the name of elorac.fr (dkim pass for evil.example; spf pass for evil.example), " in text
    assert "put aside: local policy" in text and "pass by SPF and DKIM" in text
    assert file.reported("other.example", 0) == [] and file.reported("", REPORT.end) == []
    file.expire(REPORT.end + 1)
    assert file.reported("", 0) == []
    assert "no reports" in "\n".join(as_text([]))
    file.close()


def test_a_message_says_whether_its_author_is_proved() -> None:
    attachment = gzip.compress(to_xml(REPORT, "x"))
    import base64

    body = base64.encodebytes(attachment)
    for results, proved in (
        (
            b"Authentication-Results: mail.elorac.fr;\r\n\tspf=pass; dmarc=pass header.from=x.fr\r\n",
            True,
        ),
        (b"Authentication-Results: mail.elorac.fr; dmarc=fail\r\n", False),
        (b"Authentication-Results: evil.example; dmarc=pass\r\n", False),
    ):
        message = (
            results + b"Content-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + body
        )
        assert reports_in(message, "mail.elorac.fr") == [(REPORT, proved)]
    assert reports_in(b"Subject: hello\r\n\r\nNo report\r\n", "x") == []
