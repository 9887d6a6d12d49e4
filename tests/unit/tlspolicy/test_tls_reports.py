"""TLS reports: counted, told to those who ask, and read whatever somebody sends."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import Address
from lorrainemail.cli import tls_report
from lorrainemail.interfaces import DnsFailure
from lorrainemail.tlspolicy.plan import Observed, Published
from lorrainemail.tlspolicy.report import (
    MAX_JSON,
    Failed,
    PolicyResults,
    ReportFault,
    TlsReport,
    destinations,
    from_octets,
    to_json,
)
from lorrainemail.tlspolicy.report_file import FILE, TlsReportFile
from lorrainemail.tlspolicy.report_mail import message_of, reports_in
from lorrainemail.tlspolicy.reporting import DAY, MAX_WAITING, SPREAD, TlsReporter, Tools, post_with

STS = Published("sts", "theirs.test", ("version: STSv1", "mode: enforce"), ("mx.theirs.test",))
GOOD = Observed(STS, "mx.theirs.test", "192.0.2.1", "198.51.100.1", "", "")
BAD = attrs.evolve(GOOD, fault="certificate-expired", words="the certificate has expired")

REPORT = TlsReport(
    "Elorac",
    "postmaster@elorac.fr",
    "1@elorac.fr",
    1_799_971_200,
    1_800_057_599,
    (
        PolicyResults(
            "sts",
            "ours.test",
            5,
            2,
            ("version: STSv1",),
            ("mail.ours.test",),
            (Failed("certificate-expired", 2, "mail.ours.test", "192.0.2.7", "198.51.100.9", "late"),),
        ),
    ),
)

#: As Google and Microsoft write them: one string for a list, other names for remarks, counts as they come.
FOREIGN = {
    "organization-name": "Google Inc.",
    "date-range": {"start-datetime": "2027-01-14T00:00:00Z", "end-datetime": "2027-01-14T23:59:59Z"},
    "contact-info": "smtp-tls-reporting@google.com",
    "report-id": "2027-01-14T00:00:00Z_ours.test",
    "policies": [
        {
            "policy": {
                "policy-type": "sts",
                "policy-string": ["version: STSv1", "mode: testing"],
                "policy-domain": "Ours.Test.",
                "mx-host": "mail.ours.test",
            },
            "summary": {"total-successful-session-count": 7, "total-failure-session-count": 1},
            "failure-details": [
                {
                    "result-type": "starttls-not-supported",
                    "failed-session-count": 1,
                    "receiving-mx-helo": "x",
                    "failure-reason-code": "X509",
                }
            ],
        }
    ],
}


# -- JSON ------------------------------------------------------------------------------------------------


def test_a_report_comes_back_as_it_was() -> None:
    assert from_octets(to_json(REPORT)) == from_octets(gzip.compress(to_json(REPORT))) == REPORT


def test_our_report_has_the_fields_of_the_standard() -> None:
    document = json.loads(to_json(REPORT))
    assert set(document) == {"organization-name", "date-range", "contact-info", "report-id", "policies"}
    assert document["date-range"]["start-datetime"] == "2027-01-15T00:00:00Z"
    policy = document["policies"][0]
    assert policy["policy"]["policy-type"] == "sts" and policy["policy"]["mx-host"] == ["mail.ours.test"]
    assert policy["summary"] == {"total-successful-session-count": 5, "total-failure-session-count": 2}
    assert policy["failure-details"][0]["receiving-mx-hostname"] == "mail.ours.test"


def test_reports_of_the_large_providers_are_read() -> None:
    report = from_octets(gzip.compress(json.dumps(FOREIGN).encode()))
    (policy,) = report.policies
    assert (policy.domain, policy.good, policy.bad, policy.hosts) == ("ours.test", 7, 1, ("mail.ours.test",))
    assert policy.failures[0].info == "X509"


def changed(**fields: Any) -> bytes:
    return json.dumps({**FOREIGN, **fields}).encode()


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"{}",
        b"[]",
        b"\x1f\x8bgarbage",
        gzip.compress(b"x" * 100)[:-9],
        gzip.compress(b" " * (MAX_JSON + 1)),
        b" " * (MAX_JSON + 1),
        b"[" * 100_000,
        b"\xff\xfe",
        changed(policies=None),
        changed(policies=[1]),
        changed(policies=[{"policy": {}, "summary": None}]),
        changed(**{"date-range": {}}),
        changed(**{"date-range": {"start-datetime": "9" * 200, "end-datetime": "x"}}),
        changed(**{"date-range": {"start-datetime": "0001-01-01T00:00:00+23:59", "end-datetime": 1}}),
        json.dumps(FOREIGN).replace('"total-successful-session-count": 7', '"x": ' + "9" * 9999).encode(),
    ],
)
def test_what_is_no_report_is_refused_in_bounds(octets: bytes) -> None:
    with pytest.raises(ReportFault):
        from_octets(octets)


@pytest.mark.parametrize("values", [b"[],", b"1,", b"{},"])
def test_a_crowd_of_values_is_not_taken_apart(values: bytes) -> None:
    with pytest.raises(ReportFault, match="values"):
        from_octets(gzip.compress(b'{"policies": [' + values * 300_000 + b"1]}"))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, 9)
    assert len(bomb) < 1_000_000
    with pytest.raises(ReportFault, match="unpacked"):
        from_octets(bomb)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["policies", "policy", "summary", "date-range", "failure-details"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_report_or_none(document: Any) -> None:
    for octets in (json.dumps(document).encode(), changed(policies=document), changed(policies=[document])):
        try:
            report = from_octets(octets)
        except ReportFault:
            continue
        assert from_octets(to_json(report)) == report


def test_texts_cannot_move_anybodys_terminal() -> None:
    report = from_octets(changed(**{"organization-name": "\x1b[2J evil\r\n\u202e" + "x" * 1000}))
    assert report.organization.isprintable() and len(report.organization) <= 300


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([b"v=TLSRPTv1; rua=mailto:tls@x.test"], ("mailto:tls@x.test",)),
        (
            [b"v=TLSRPTv1;rua=mailto:a@x.test, https://r.x.test/v1 ;"],
            ("mailto:a@x.test", "https://r.x.test/v1"),
        ),
        ([b"v=TLSRPTv1; rua=ftp://x.test,http://x.test"], ()),
        ([b"v=TLSRPTv1; rua=" + b",".join(b"mailto:a%d@x.test" % n for n in range(99))], 4),
        ([b"v=TLSRPTv1; rua=mailto:a@x.test"] * 2, ()),
        ([b"v=TLSRPTv2; rua=mailto:a@x.test"], ()),
        ([b"v=TLSRPTv1"], ()),
        ([], ()),
    ],
)
def test_who_wants_reports(records: list[bytes], found: Any) -> None:
    answer = destinations(records)
    assert len(answer) == found if isinstance(found, int) else answer == found


# -- sending ---------------------------------------------------------------------------------------------


class World:
    """A reporter, and the domain that it reports to."""

    def __init__(self, state: Path) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.records: Any = [b"v=TLSRPTv1; rua=mailto:tls@theirs.test"]
        self.asked: list[str] = []
        self.sent: list[tuple[list[Address], bytes]] = []
        self.posted: list[tuple[str, bytes]] = []
        self.takes = True
        self.state = state
        self.restart()

    def restart(self) -> None:
        resolver: Any = self
        self.reporter = TlsReporter(
            Tools(
                self.clock,
                resolver,
                self._inject,
                self._post,
                self._at_once,
                "mail.ours.test",
                str(self.state),
            )
        )

    def txt(self, name: str) -> Deferred[list[bytes]]:
        self.asked.append(name)
        if isinstance(self.records, str):
            kind: Any = self.records
            return fail(DnsFailure(kind, name))
        return succeed(self.records)

    def _inject(
        self, sender: Any, recipients: Sequence[Address], content: Any, hops: int, origin: str
    ) -> Deferred[str]:
        assert sender is None
        self.sent.append((list(recipients), content.in_memory()))
        return succeed("id")

    async def _post(self, url: str, packed: bytes) -> bool:
        self.posted.append((url, packed))
        return self.takes

    @staticmethod
    def _at_once(work: Callable[[], Any]) -> Deferred[Any]:
        try:
            return succeed(work())
        except Exception:
            return fail()

    def work(self) -> None:
        done: list[Any] = []
        Deferred.fromCoroutine(self.reporter.work()).addBoth(done.append)
        assert done == [None]

    def tomorrow(self) -> None:
        """A time at which every report on today is due."""
        day = int(self.clock.seconds()) // DAY
        self.clock.advance((day + 1) * DAY + SPREAD - self.clock.seconds())


@pytest.fixture
def world(tmp_path: Path) -> Any:
    world = World(tmp_path)
    yield world
    world.reporter.file.close()


def test_a_day_is_told_in_one_message(world: World) -> None:
    for observed, count in ((GOOD, 3), (BAD, 2)):
        for _ in range(count):
            world.reporter.note(observed)
    world.work()
    world.reporter.note(GOOD)
    world.work()
    assert not world.sent
    world.tomorrow()
    world.work()
    ((recipients, octets),) = world.sent
    assert [str(one) for one in recipients] == ["tls@theirs.test"]
    message = BytesParser().parsebytes(octets)
    assert message.get_content_type() == "multipart/report" and message.get_param("report-type") == "tlsrpt"
    assert message["TLS-Report-Domain"] == "theirs.test" and message["TLS-Required"] == "No"
    assert message["TLS-Report-Submitter"] == "mail.ours.test"
    part: Any = message.get_payload(1)
    assert part.get_content_type() == "application/tlsrpt+gzip"
    assert part.get_filename().startswith("mail.ours.test!theirs.test!1799971200!1800057599!")
    report = from_octets(part.get_payload(decode=True))
    (policy,) = report.policies
    assert (policy.type, policy.good, policy.bad) == ("sts", 4, 2)
    assert policy.failures == (
        Failed(
            "certificate-expired",
            2,
            "mx.theirs.test",
            "192.0.2.1",
            "198.51.100.1",
            "the certificate has expired",
        ),
    )
    world.clock.advance(DAY)
    world.work()
    assert len(world.sent) == 1, "each day is told once"


def test_nobody_is_told_who_did_not_ask(world: World) -> None:
    world.records = "nxdomain"
    world.reporter.note(BAD)
    world.work()
    world.tomorrow()
    world.work()
    assert world.sent == [] and world.asked == ["_smtp._tls.theirs.test"]
    assert world.reporter.file.due(10**9) == []


def test_what_was_counted_outlives_a_restart(world: World) -> None:
    world.reporter.note(BAD)
    world.reporter.startService()
    world.reporter.stopService()
    world.restart()
    world.tomorrow()
    world.work()
    assert len(world.sent) == 1


def test_while_the_dns_is_silent_counts_are_kept(world: World) -> None:
    world.records = "temporary"
    world.reporter.note(BAD)
    world.work()
    world.tomorrow()
    world.work()
    assert world.sent == []
    world.records = [b"v=TLSRPTv1; rua=mailto:tls@theirs.test"]
    world.clock.advance(3600)
    world.work()
    assert len(world.sent) == 1


def test_a_report_that_no_web_server_takes_is_tried_again_and_given_up(world: World) -> None:
    world.records = [b"v=TLSRPTv1; rua=https://r.theirs.test/v1"]
    world.takes = False
    world.reporter.note(BAD)
    world.work()
    world.tomorrow()
    for _ in range(3):
        world.work()
        world.clock.advance(3600)
    assert len(world.posted) == 3
    assert from_octets(world.posted[0][1]).policies[0].bad == 1
    world.clock.advance(4 * DAY)
    world.work()
    assert len(world.posted) == 3
    assert world.reporter.file.due(10**9) == []


def test_reports_leave_at_different_times_of_the_night(world: World) -> None:
    at = {world.reporter.sent_at(1, f"x{number}.test") - 2 * DAY for number in range(50)}
    assert len(at) > 40 and min(at) >= 0 and max(at) < SPREAD


def test_a_flood_of_different_results_is_bounded(world: World) -> None:
    for number in range(MAX_WAITING + 500):
        world.reporter.note(attrs.evolve(BAD, address=str(number)))
    world.reporter.note(attrs.evolve(BAD, words="x" * 10_000))
    assert len(world.reporter._counts) == MAX_WAITING
    assert max(len(one.words) for _, one in world.reporter._counts) < 1000


def test_off_it_counts_nothing(world: World) -> None:
    world.reporter.active = False
    world.reporter.note(BAD)
    world.work()
    assert world.asked == []


def test_the_service_works_by_itself_and_stops(world: World) -> None:
    world.reporter.startService()
    world.reporter.note(BAD)
    for _ in range(24 * 60 + 5 * 60 + 400):
        world.clock.advance(60)
    assert len(world.sent) == 1
    world.reporter.stopService()
    assert not world.clock.getDelayedCalls()


@pytest.mark.parametrize(("status", "taken"), [(200, True), (201, True), (302, False), (500, False)])
def test_a_web_server_must_say_that_it_took_it(status: int, taken: bool) -> None:
    class Fetcher:
        async def request(self, method: str, url: str, body: bytes, kind: str, most: int) -> Any:
            assert (method, kind, body) == ("POST", "application/tlsrpt+gzip", b"x")
            return argparse.Namespace(status=status)

    done: list[Any] = []
    Deferred.fromCoroutine(post_with(Fetcher)("https://r.theirs.test/v1", b"x")).addBoth(done.append)
    assert done == [taken]


# -- receiving -------------------------------------------------------------------------------------------


def mail() -> bytes:
    packed = gzip.compress(to_json(REPORT))
    return message_of(REPORT, packed, "ours.test", "elorac.fr", [Address("tls", "ours.test")], 1.8e9)


def test_reports_are_found_in_messages() -> None:
    assert reports_in(mail(), "mail.ours.test") == [(REPORT, False)]
    proved = b"Authentication-Results: mail.ours.test; dmarc=pass header.from=elorac.fr\r\n" + mail()
    assert reports_in(proved, "mail.ours.test") == [(REPORT, True)]
    forged = b"Authentication-Results: mail.theirs.test; dmarc=pass header.from=elorac.fr\r\n" + mail()
    assert reports_in(forged, "mail.ours.test") == [(REPORT, False)]
    assert reports_in(b"Subject: hello\r\n\r\nno report\r\n", "mail.ours.test") == []


@given(st.binary(max_size=200))
def test_any_message_is_looked_at_without_harm(octets: bytes) -> None:
    assert reports_in(octets, "mail.ours.test") == []


def test_a_report_is_kept_once(tmp_path: Path) -> None:
    file = TlsReportFile(str(tmp_path / FILE))
    assert file.add(REPORT, True) and not file.add(REPORT, True)
    assert [row.report for row in file.reported("ours.test")] == [REPORT]
    assert file.reported("rs.test") == [] == file.reported("ours.test", since=1_900_000_000)
    file.expire(1_900_000_000)
    assert file.reported() == []
    file.close()


def command(state: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    tls_report.configure(parser.add_subparsers())
    arguments = parser.parse_args(["tls-report", *words], argparse.Namespace(config=None, state=str(state)))
    status: int = arguments.run(arguments)
    return status


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "lorrainemail.toml").write_text(f'hostname = "mail.ours.test"\nstate = "{state}"\n')
    return state


def test_the_operator_reads_what_failed(state: Path, tmp_path: Path, capsys: Any) -> None:
    assert command(state, "list") == 0
    assert "no reports" in capsys.readouterr().out
    (tmp_path / "one").write_bytes(mail())
    (tmp_path / "two").write_bytes(gzip.compress(json.dumps(FOREIGN).encode()))
    (tmp_path / "three").write_bytes(b"nonsense")
    assert command(state, "read", *(str(tmp_path / name) for name in ("one", "two", "three"))) == 1
    said = capsys.readouterr()
    assert "Elorac taken" in said.out and "Google Inc. taken" in said.out and "three: no JSON" in said.err
    assert command(state, "read", str(tmp_path / "one")) == 0
    assert "here already" in capsys.readouterr().out
    assert command(state, "list", "--days", "99999") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "5 well, 2 FAILED" in "".join(lines)
    assert command(state, "show", "ours.test", "--days", "99999") == 0
    said = capsys.readouterr()
    assert "ours.test, 14 Jan 2027 to 15 Jan 2027: 12 sessions were well, 3 failed" in said.out
    assert "the certificate had expired" in said.out and "did not offer STARTTLS" in said.out
    assert "at mail.ours.test [192.0.2.7] from 198.51.100.9: late" in said.out
    number = json.loads(_json(state, capsys, "list"))["reports"][0]["number"]
    assert command(state, "show", str(number)) == 0 and "ours.test" in capsys.readouterr().out
    assert command(state, "show", "999") == 1


def _json(state: Path, capsys: Any, word: str) -> str:
    assert command(state, word, "--json", "--days", "99999") == 0
    return str(capsys.readouterr().out)


def test_one_domain_cannot_fill_the_disk(tmp_path: Path) -> None:
    file = TlsReportFile(str(tmp_path / FILE))
    for start in range(0, 5000, 500):
        file.see({(1, attrs.evolve(BAD, address=str(start + number))): 1 for number in range(500)})
    file.see({(1, attrs.evolve(BAD, published=attrs.evolve(STS, domain="other.test"))): 1})
    assert len(file.results(1, "theirs.test")[0].failures) <= 500
    assert file.due(2) == [(1, "other.test"), (1, "theirs.test")]
    file.close()
