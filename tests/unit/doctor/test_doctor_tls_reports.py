"""``doctor`` on what other servers reported of TLS with ours."""

from __future__ import annotations

import attrs
import pytest

from lorrainemail.config.model import Settings
from lorrainemail.setup.doctor.findings import Finding
from lorrainemail.setup.doctor.machine import tls_reports
from lorrainemail.setup.doctor.words import line_of
from lorrainemail.tlspolicy.report import Failed, PolicyResults, TlsReport
from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile

NOW = 1_800_000_000
BAD = PolicyResults("sts", "ours.test", 5, 2, failures=(Failed("certificate-expired", 2),))


@pytest.fixture
def settings(tmp_path: object) -> Settings:
    return Settings(state=str(tmp_path))


def reported(settings: Settings, policy: PolicyResults, proved: bool = True, age: int = 0) -> list[Finding]:
    file = TlsReportFile(f"{settings.state}/{FILE}")
    end = NOW - age
    file.add(TlsReport("Elorac", "", f"{policy.bad}{age}", end - 86400, end, (policy,)), proved)
    file.close()
    return list(tls_reports(settings, NOW))


def test_without_reports_nothing_is_said_and_no_file_made(settings: Settings) -> None:
    assert list(tls_reports(settings, NOW)) == []
    with pytest.raises(FileNotFoundError):
        open(f"{settings.state}/{FILE}").close()


def test_failures_of_these_days_are_named_in_both_languages(settings: Settings) -> None:
    (found,) = reported(settings, BAD)
    assert (found.case, found.level, found.subject) == ("tls_report.failing", "warn", "ours.test")
    for language in ("en", "fr"):
        text = line_of(found, language)  # type: ignore[arg-type]
        assert "Elorac" in text and "certificate-expired" in text and "tls-report show ours.test" in text


def test_what_anybody_may_have_written_worries_nobody(settings: Settings) -> None:
    assert reported(settings, BAD, proved=False) == []


def test_what_is_long_over_is_no_news(settings: Settings) -> None:
    assert reported(settings, BAD, age=6 * 86400) == []


def test_good_reports_are_good(settings: Settings) -> None:
    (found,) = reported(settings, attrs.evolve(BAD, bad=0, failures=()))
    assert found.level == "good"


def test_a_destroyed_file_is_said_so(settings: Settings) -> None:
    with open(f"{settings.state}/{FILE}", "wb") as file:
        file.write(b"no database" * 100)
    (found,) = tls_reports(settings, NOW)
    assert found.level == "unknown"
