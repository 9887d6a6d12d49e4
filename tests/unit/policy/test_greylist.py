"""Whom the greylist delays, and whom never."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.interfaces import Action, PolicyResources, Verdict
from lorrainemail.policy import acquaintance
from lorrainemail.policy.acquaintance import Acquaintances
from lorrainemail.policy.greylist import Greylist, constant, network_of


class World:
    def __init__(self, state: Path, asked: Any, clock: Clock) -> None:
        self.state, self.asked, self.clock = state, asked, clock
        self.now = 1_000_000.0
        self.heard: list[tuple[str, str]] = []
        self.mailboxes: set[tuple[str, str]] = set()
        self.restart()

    def heard_from(self, account: str, domain: str) -> Deferred[bool]:
        self.heard.append((account, domain))
        return succeed((account, domain) in self.mailboxes)

    def restart(self) -> None:
        resources = PolicyResources(self.clock, None, "mx", state=str(self.state), heard_from=self.heard_from)
        self.check = Greylist(resources, 240.0, lambda: self.now)

    def __call__(self, circumstances: Any) -> Any:
        return self.asked(self.check.judge(circumstances))


@pytest.fixture
def world(tmp_path: Path, asked: Any, clock: Clock) -> World:
    return World(tmp_path, asked, clock)


def test_a_stranger_waits_once_also_over_a_restart(world: World, make: Any) -> None:
    first = world(make("data", "bob@x.org"))
    assert first.action is Action.DEFER and str(first.reply).startswith("451 4.7.1 We do not know you yet")
    assert (world.state / "policy.sqlite").stat().st_mode & 0o777 == 0o600
    world.now += 100
    assert world(make("data", "bob@x.org")).action is Action.DEFER
    world.restart()
    world.now += 150
    assert world(make("data", "bob@x.org")).action is Action.CONTINUE
    assert world(make("data", "bob@x.org", sender="other@elorac.fr")).action is Action.CONTINUE  # known now


def test_another_server_of_the_same_network_may_come_again(world: World, make: Any) -> None:
    world(make("data", "bob@x.org", sender="news-123+bob=x@elorac.fr"))
    world.now += 300
    session = Session("s", "smtp", "198.51.100.99")
    again = world(make("data", "bob@x.org", sender="news-124+bob=x@elorac.fr", session=session))
    assert again.action is Action.CONTINUE


def test_whom_the_user_has_mail_from_is_never_delayed(world: World, make: Any) -> None:
    world.mailboxes.add(("bob@x.org", "bank.example"))
    code = world(make("data", "bob@x.org", sender="bounce-77@bank.example"))
    assert code.action is Action.CONTINUE and "bob@x.org has mail from bank.example" in code.reason
    world.heard.clear()
    assert world(make("data", "bob@x.org", sender="bounce-78@bank.example")).action is Action.CONTINUE
    assert world.heard == []  # remembered, the mailbox is not looked at again
    assert world(make("data", "eve@x.org", sender="bounce-79@bank.example")).action is Action.DEFER


def test_whom_the_user_wrote_to_may_answer_at_once(world: World, make: Any) -> None:
    session = Session("s", "submission", "198.51.100.1", account="bob@x.org")
    assert world(make("data", "carole@elorac.fr", sender="bob@x.org", session=session)) is None
    assert world(make("data", "bob@x.org")).action is Action.CONTINUE


@pytest.mark.parametrize(
    "earlier",
    [
        Verdict(Action.CONTINUE, "mailauth", "spf pass", verified=True),
        Verdict(Action.CONTINUE, "dns_lists", "1.2.3.4 is on the list of good peers x"),
    ],
)
def test_proved_and_listed_senders_are_spared(world: World, make: Any, earlier: Verdict) -> None:
    assert world(make("data", "bob@x.org", earlier=(earlier,))).action is Action.CONTINUE


def test_what_went_to_junk_makes_nobody_known(world: World, make: Any) -> None:
    junk = (Verdict(Action.JUNK, "mailauth", "bad"),)
    world(make("data", "bob@x.org", earlier=junk))
    world.now += 300
    assert world(make("data", "bob@x.org", earlier=junk)).action is Action.CONTINUE
    assert world(make("data", "bob@x.org", sender="z@elorac.fr")).action is Action.DEFER


def test_a_dry_run_writes_nothing(world: World, make: Any) -> None:
    assert world(make("data", "bob@x.org", dry_run=True)).action is Action.DEFER
    assert not (world.state / "policy.sqlite").exists()


def test_the_file_stays_within_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquaintance, "MAX_KNOWN", 50)
    monkeypatch.setattr(acquaintance, "MAX_TRIES", 50)
    monkeypatch.setattr(acquaintance, "SWEEP", 10)
    known = Acquaintances(os.fspath(tmp_path / "policy.sqlite"))
    for number in range(200):
        known.meet(["a"], [f"{number}.example"], 1000.0 + number)
        known.waited("n", f"{number}", "r", 1000.0 + number, 240, True)
    known.close()
    connection = sqlite3.connect(tmp_path / "policy.sqlite")
    for table in ("known", "tried"):
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert 50 <= count <= 70
    connection.close()
    assert known.known(["a"], "199.example") and not known.known(["a"], "0.example")
    known.close()


def test_a_file_that_is_none_fails_the_check_not_the_server(world: World, make: Any) -> None:
    (world.state / "policy.sqlite").write_bytes(b"this is no database, but it is long enough to be read" * 30)
    with pytest.raises(sqlite3.Error):
        world(make("data", "bob@x.org"))


def test_networks_and_senders() -> None:
    assert network_of("198.51.100.7") == "198.51.100.0" and network_of("2001:db8::7") == "2001:db8::/64"
    assert constant(None) == ""
