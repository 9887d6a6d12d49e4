"""MTA-STS as a sender: what a policy says, when it is fetched, how long it holds, who can take it away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from lorrainemail.interfaces import DnsFailure, IResolver, MxHost
from lorrainemail.tlspolicy.sts import (
    PATIENCE,
    UNUSED,
    PolicyUnfetched,
    StsFound,
    StsPolicies,
    fetch_with,
)
from lorrainemail.tlspolicy.sts_cache import Kept, StsCache
from lorrainemail.tlspolicy.sts_policy import MAX_AGE, PolicyFault, StsPolicy, id_of, parse

DAY = 86400.0
TEXT = (
    b"version: STSv1\r\nmode: enforce\r\nmx: mx.theirs.test\r\nmx: *.mail.theirs.test\r\nmax_age: 864000\r\n"
)


# -- reading ---------------------------------------------------------------------------------------------


def test_a_policy_is_read() -> None:
    policy = parse(TEXT)
    assert policy == StsPolicy("enforce", ("mx.theirs.test", "*.mail.theirs.test"), 864000)
    assert parse(TEXT.replace(b"\r\n", b"\n")) == policy
    assert parse(TEXT + b"later: a field\r\n\r\n") == policy
    assert parse(TEXT + b"mode: none\r\n") == policy, "of a field that stands twice the first counts"
    assert parse(b"version:STSv1\nmode:none\nmax_age:1") == StsPolicy("none", (), 1)


def test_a_policy_holds_for_a_year_at_most() -> None:
    assert parse(TEXT.replace(b"864000", b"9999999999")).max_age == MAX_AGE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>404</html>",
        TEXT.replace(b"STSv1", b"STSv2"),
        TEXT.replace(b"enforce", b"maybe"),
        TEXT.replace(b"864000", b"-1"),
        TEXT.replace(b"864000", b"long"),
        TEXT.replace(b"max_age: 864000\r\n", b""),
        b"version: STSv1\nmode: enforce\nmax_age: 1\n",
        TEXT.replace(b"*.mail", b"*.*.mail"),
        TEXT.replace(b"*.mail.theirs.test", b"*"),
        TEXT.replace(b"mx.theirs", b"m*.theirs"),
        TEXT + b"\xff: x\r\n",
        TEXT + b"no field at all\r\n",
        TEXT + b"a" * 70_000,
    ],
)
def test_what_is_no_policy_is_refused(body: bytes) -> None:
    with pytest.raises(PolicyFault):
        parse(body)


@given(st.binary(max_size=300))
def test_any_octets_are_a_policy_or_none(octets: bytes) -> None:
    try:
        parse(octets)
    except PolicyFault:
        pass  # the one failure that there may be


def test_hosts_match_as_the_policy_says() -> None:
    policy = parse(TEXT)
    assert policy.names("mx.theirs.test") and policy.names("MX.Theirs.Test.")
    assert policy.names("a.mail.theirs.test")
    for host in (
        "mail.theirs.test",
        "a.b.mail.theirs.test",
        "theirs.test",
        "mx.theirs.test.evil.test",
        "test",
    ):
        assert not policy.names(host), host


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([b"v=STSv1; id=20261122;"], "20261122"),
        ([b"v=STSv1;id=a1"], "a1"),
        ([b"v=STSv1 ; later=x; id = a1 ;"], "a1"),
        ([b"v=spf1 -all", b"v=STSv1; id=a1;"], "a1"),
        ([b"v=STSv1; id=a1;", b"v=STSv1; id=a2;"], ""),
        ([b"v=STSv2; id=a1;"], ""),
        ([b"v=STSv1"], ""),
        ([b"v=STSv1; id=;"], ""),
        ([b"v=STSv1; id=a-b;"], ""),
        ([b"v=STSv1; id=" + b"a" * 33], ""),
        ([b" v=STSv1; id=a1"], ""),
        ([], ""),
    ],
)
def test_the_record_tells_of_one_policy_or_of_none(records: list[bytes], found: str) -> None:
    assert id_of(records) == found


# -- finding ---------------------------------------------------------------------------------------------


@implementer(IResolver)
class Names:
    """Records of ``_mta-sts``, or a failure in their place."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}
        self.asked: list[str] = []

    def txt(self, name: str) -> Deferred[list[bytes]]:
        self.asked.append(name)
        found = self.records.get(name, "nxdomain")
        return fail(DnsFailure(found, name)) if isinstance(found, str) else succeed(found)

    def mx(self, domain: str) -> Deferred[list[MxHost]]:
        raise NotImplementedError

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        raise NotImplementedError

    def ptr(self, address: str) -> Deferred[list[str]]:
        raise NotImplementedError


def at_once(work: Callable[[], Any]) -> Deferred[Any]:
    try:
        return succeed(work())
    except Exception:
        return fail()


class World:
    """A domain with its record and its web server, and us."""

    def __init__(self, state: Path) -> None:
        self.clock = Clock()
        self.clock.advance(1_800_000_000)
        self.names = Names()
        self.state = state
        self.web: Any = TEXT
        self.fetched = 0
        self.publish("a1")
        self.restart()

    def publish(self, id_: str) -> None:
        self.names.records["_mta-sts.theirs.test"] = [f"v=STSv1; id={id_};".encode()]

    def restart(self, read_only: bool = False) -> None:
        cache = StsCache(str(self.state))
        self.policies = StsPolicies(self.names, self._fetch, cache, at_once, self.clock, read_only)

    async def _fetch(self, domain: str) -> bytes:
        self.fetched += 1
        web = self.web
        if isinstance(web, Deferred):
            web = await web
        if isinstance(web, Exception):
            raise web
        return bytes(web)

    def find(self, domain: str = "theirs.test") -> StsFound:
        found: list[StsFound] = []
        Deferred.fromCoroutine(self.policies.find(domain)).addCallback(found.append)
        return found[0]

    def mode(self) -> str:
        policy = self.find().policy
        return policy.mode if policy is not None else ""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


NO_WEB = PolicyUnfetched("sts-policy-fetch-error", "no answer")


def test_a_policy_is_fetched_once_and_holds(world: World) -> None:
    for _ in range(3):
        assert world.mode() == "enforce"
    assert world.fetched == 1


def test_a_domain_without_a_policy_costs_one_question_and_no_file(world: World) -> None:
    assert world.find("none.test") == StsFound()
    assert world.names.asked == ["_mta-sts.none.test"] and not world.fetched
    assert not list(world.state.iterdir())


def test_a_policy_outlives_a_restart_even_where_record_and_web_server_are_gone(world: World) -> None:
    world.mode()
    for gone in ("nxdomain", "nodata", "temporary"):
        world.names.records["_mta-sts.theirs.test"] = gone
        world.web = NO_WEB
        world.restart()
        assert world.mode() == "enforce", gone
    assert world.fetched == 1


def test_it_ends_with_its_age(world: World) -> None:
    world.mode()
    world.names.records.clear()
    world.clock.advance(864000 - 1)
    assert world.mode() == "enforce"
    world.clock.advance(2)
    assert world.mode() == ""
    world.restart()
    assert world.mode() == ""


def test_a_new_id_has_it_fetched_anew(world: World) -> None:
    world.mode()
    world.publish("a2")
    world.web = TEXT.replace(b"enforce", b"testing")
    assert world.mode() == "testing"
    world.restart()
    assert world.mode() == "testing" and world.fetched == 2


def test_what_was_kept_holds_while_a_new_one_cannot_be_had(world: World) -> None:
    world.mode()
    world.publish("a2")
    world.web = NO_WEB
    found = world.find()
    assert found.policy is not None and found.policy.mode == "enforce"
    assert found.fault == "sts-policy-fetch-error" and not found.unsure
    world.web = b"rubbish"
    world.clock.advance(PATIENCE + 1)
    found = world.find()
    assert found.policy is not None and found.fault == "sts-policy-invalid"


def test_a_policy_that_cannot_be_had_is_not_asked_for_at_each_message(world: World) -> None:
    world.web = NO_WEB
    for _ in range(5):
        found = world.find()
        assert found.policy is None and found.fault == "sts-policy-fetch-error" and found.unsure
    assert world.fetched == 1
    world.clock.advance(PATIENCE + 1)
    world.web = TEXT
    assert world.mode() == "enforce" and world.fetched == 2


def test_many_messages_wait_for_one_fetch(world: World) -> None:
    world.web = web = Deferred[bytes]()
    found: list[StsFound] = []
    for _ in range(10):
        Deferred.fromCoroutine(world.policies.find("theirs.test")).addCallback(found.append)
    assert not found and world.fetched == 1
    web.callback(TEXT)
    assert [one.policy is not None for one in found] == [True] * 10 and world.fetched == 1


def test_who_waited_learns_that_it_failed(world: World) -> None:
    world.web = web = Deferred[bytes]()
    found: list[StsFound] = []
    for _ in range(3):
        Deferred.fromCoroutine(world.policies.find("theirs.test")).addCallback(found.append)
    web.errback(PolicyUnfetched("sts-webpki-invalid", "another name"))
    assert [one.fault for one in found] == ["sts-webpki-invalid"] * 3


def test_a_message_that_is_given_up_does_not_leave_the_others_waiting(world: World) -> None:
    world.web = Deferred[bytes]()
    found: list[StsFound] = []
    first = Deferred.fromCoroutine(world.policies.find("theirs.test"))
    first.addErrback(lambda _: None)
    Deferred.fromCoroutine(world.policies.find("theirs.test")).addCallback(found.append)
    first.cancel()
    assert [one.fault for one in found] == ["sts-policy-fetch-error"]


def test_a_policy_of_mode_none_ends_the_others(world: World) -> None:
    world.mode()
    world.publish("a2")
    world.web = b"version: STSv1\nmode: none\nmax_age: 86400\n"
    assert world.mode() == "none"


def test_a_dry_run_keeps_nothing(world: World) -> None:
    world.restart(read_only=True)
    assert world.mode() == "enforce"
    assert not list(world.state.iterdir())


def test_a_full_disk_does_not_lose_the_policy_while_running(world: World, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StsCache, "put", full)
    assert world.mode() == "enforce"
    world.names.records.clear()
    assert world.mode() == "enforce"


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\x00" * 50, b'{"id": 1, "mode": "enforce", "mx": 3}']
)
def test_a_file_that_was_destroyed_counts_as_absent(world: World, content: bytes) -> None:
    world.mode()
    (world.state / "tls-policies" / "theirs.test").write_bytes(content)
    world.restart()
    assert world.mode() == "enforce" and world.fetched == 2


@pytest.mark.parametrize("domain", ["../../etc/passwd", "a/b.test", ".hidden.test", "a\0b.test", "x" * 300])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, domain: str) -> None:
    cache = StsCache(str(tmp_path / "state"))
    cache.put(domain, Kept("a", parse(TEXT), 0.0, 0.0))
    assert cache.get(domain) is None and not (tmp_path / "state").exists()


# -- refreshing --------------------------------------------------------------------------------------------


def refresh(world: World) -> None:
    done: list[None] = []
    Deferred.fromCoroutine(world.policies.refresh()).addCallback(done.append)
    assert done == [None]


def test_a_policy_in_use_is_refreshed_daily_before_it_ends(world: World) -> None:
    world.mode()
    refresh(world)
    assert world.fetched == 1, "not before a day is over"
    for _ in range(20):  # twice its max_age
        world.clock.advance(DAY)
        world.restart()
        refresh(world)
    world.names.records.clear()
    assert world.mode() == "enforce" and world.fetched == 21


def test_a_policy_that_cannot_be_refreshed_holds_until_its_end(world: World) -> None:
    world.mode()
    world.web = NO_WEB
    for _ in range(9):
        world.clock.advance(DAY)
        refresh(world)
        assert world.mode() == "enforce"
    world.clock.advance(DAY + 1)
    refresh(world)
    assert world.mode() == ""
    assert not list((world.state / "tls-policies").iterdir())


def test_a_policy_that_nobody_needs_any_more_is_let_go(world: World) -> None:
    world.mode()
    for _ in range(int(UNUSED / DAY) + 15):
        world.clock.advance(DAY)
        refresh(world)
    fetched = world.fetched
    world.clock.advance(DAY)
    refresh(world)
    assert world.fetched == fetched
    assert not list((world.state / "tls-policies").iterdir())


def test_the_service_looks_by_itself_and_stops(world: World) -> None:
    world.mode()
    world.policies.startService()
    for _ in range(25):
        world.clock.advance(3600)
    assert world.fetched == 2
    world.policies.stopService()
    assert not world.clock.getDelayedCalls()


# -- fetching ----------------------------------------------------------------------------------------------


class Answer:
    def __init__(self, status: int, kind: str, body: bytes = TEXT) -> None:
        self.status, self.fields, self.body = status, {"content-type": kind}, body


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (Answer(200, "text/plain"), ""),
        (Answer(200, "Text/Plain; charset=utf-8"), ""),
        (Answer(200, "text/html"), "sts-policy-invalid"),
        (Answer(200, ""), "sts-policy-invalid"),
        (Answer(301, "text/plain"), "sts-policy-fetch-error"),
        (Answer(404, "text/plain"), "sts-policy-fetch-error"),
        (Answer(204, "text/plain"), "sts-policy-fetch-error"),
    ],
)
def test_only_a_plain_answer_counts(answer: Answer, fault: str) -> None:
    class Fetcher:
        async def request(self, method: str, url: str, most: int) -> Answer:
            assert (method, url) == ("GET", "https://mta-sts.theirs.test/.well-known/mta-sts.txt")
            assert most <= 65536
            return answer

    results: list[Any] = []
    fetched: Deferred[bytes] = Deferred.fromCoroutine(fetch_with(Fetcher)("theirs.test"))
    fetched.addBoth(results.append)
    if fault:
        assert results[0].value.fault == fault
    else:
        assert results == [TEXT]
