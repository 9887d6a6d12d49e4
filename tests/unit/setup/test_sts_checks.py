"""The daily look at our own MTA-STS policies, through the eyes of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock

from lorrainemail.certs.fetch import FetchError, Response
from lorrainemail.config.model import Settings
from lorrainemail.http.mta_sts import Policies
from lorrainemail.interfaces import DnsFailure, MxHost
from lorrainemail.setup.sts_checks import StsChecks

DAY = 86400.0


@attrs.define(slots=False)
class World:
    """What others see; by default all is well."""

    policies: Policies
    certificate: bool = True
    records: list[bytes] | None = None
    hosts: list[str] = attrs.field(factory=lambda: ["mail.ours.test"])
    answer: Response | FetchError | None = None
    down: bool = False

    def txt(self, name: str) -> Deferred[list[bytes]]:
        if self.down:
            return fail(DnsFailure("temporary", name, "nobody answers"))
        if self.records is not None:
            return succeed(self.records)
        return succeed([b"other", f"v=STSv1; id={self.policies.id('ours.test')}".encode()])

    def mx(self, name: str) -> Deferred[list[MxHost]]:
        if self.down:
            return fail(DnsFailure("temporary", name, "nobody answers"))
        return succeed([MxHost(10, host) for host in self.hosts])

    async def request(self, method: str, url: str) -> Response:
        assert (method, url) == ("GET", "https://mta-sts.ours.test/.well-known/mta-sts.txt")
        if isinstance(self.answer, FetchError):
            raise self.answer
        return self.answer or Response(200, {}, self.policies.text("ours.test").encode())

    def trusted(self) -> object:
        return "one" if self.certificate else None


@attrs.define
class Bench:
    clock: Clock
    world: World
    policies: Policies
    checks: StsChecks
    notes: list[str]

    def days(self, count: int) -> None:
        for _ in range(count * 24):
            self.clock.advance(3600)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    clock = Clock()
    clock.advance(1_700_000_000)
    policies = Policies(Settings(hostname="mail.ours.test", state=str(tmp_path)))
    world: Any = World(policies)
    notes: list[str] = []
    checks = StsChecks(
        policies,
        lambda: ["ours.test"],
        cast(Any, world),
        lambda: world,
        cast(Any, world),
        clock,
        lambda subject, text: notes.append(subject),
        execute,
    )
    checks.startService()
    return Bench(clock, world, policies, checks, notes)


def test_after_a_week_without_a_finding_the_postmaster_hears_that_he_may_enforce_once(bench: Bench) -> None:
    bench.days(6)
    assert bench.notes == [] and bench.policies.standing("ours.test").reasons == ()
    bench.days(14)
    assert bench.notes == ["The MTA-STS policy of ours.test may enforce now"]
    assert bench.policies.mode("ours.test") == "testing"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"records": []}, "there are 0 records"),
        ({"records": [b"v=STSv1; id=1;", b"v=STSv1; id=2;"]}, "there are 2 records"),
        ({"records": [b"v=STSv1; id=old;"]}, "has not the id"),
        (
            {"hosts": ["mail.ours.test", "backup.test"]},
            "the MX backup.test of ours.test is not in the policy",
        ),
        ({"answer": FetchError("mta-sts.ours.test: certificate verify failed")}, "certificate verify failed"),
        ({"answer": Response(301, {}, b"")}, "status 301"),
        ({"answer": Response(200, {}, b"version: STSv1")}, "another policy"),
        ({"certificate": False}, "no certificate of a known authority"),
        ({"down": True}, "nobody answers"),
    ],
)
def test_each_fault_is_named_and_begins_the_week_anew(
    bench: Bench, change: dict[str, Any], words: str
) -> None:
    bench.days(5)
    for name, value in change.items():
        setattr(bench.world, name, value)
    bench.days(1)
    assert words in "\n".join(bench.policies.standing("ours.test").reasons)
    for field in attrs.fields(World):
        if field.name in change:
            setattr(bench.world, field.name, getattr(World(bench.policies), field.name))
    bench.days(6)
    assert bench.notes == []
    assert bench.policies.standing("ours.test").reasons == ()


def test_a_policy_that_keeps_mail_away_is_told_at_once_and_once(bench: Bench) -> None:
    bench.days(1)
    bench.policies.choose("ours.test", "enforce")
    bench.world.certificate = False
    bench.days(3)
    assert bench.notes == ["The MTA-STS policy of ours.test keeps mail away"]


def test_a_restart_does_not_check_twice_a_day_and_a_stop_ends_what_is_under_way(bench: Bench) -> None:
    bench.clock.advance(400)
    checked = bench.policies.standing("ours.test").checked
    assert checked
    bench.checks.stopService()
    bench.checks.startService()
    bench.clock.advance(3600)
    assert bench.policies.standing("ours.test").checked == checked
    bench.world.txt = lambda name: Deferred()  # type: ignore[method-assign]
    bench.days(1)
    stopped = bench.checks.stopService()
    assert stopped is not None and stopped.called
    assert not bench.clock.getDelayedCalls()
