"""What one account may send: a clear word over the limit, a note to the operator, nobody else hindered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.interfaces import Circumstances, PolicyResources, Verdict
from lorrainemail.policy import senders
from lorrainemail.policy.senders import SAVE, SILENCE, AccountLimits


@pytest.fixture
def resources() -> PolicyResources:
    return PolicyResources(Clock(), None, "mail.ours.test", recipients_per_hour=3, recipients_per_day=5)


def ask(check: AccountLimits, account: str = "anne@ours.test", **more: Any) -> str:
    session = Session("s", "submission", "198.51.100.7", account=account)
    tables: Any = None
    verdict = check.judge(Circumstances("rcpt", session, tables, **more))
    if verdict is None:
        return ""
    assert isinstance(verdict, Verdict) and verdict.reply is not None
    return str(verdict.reply)


def test_hour_and_day_are_bounded_and_the_reply_says_when_to_come_back(resources: PolicyResources) -> None:
    clock: Any = resources.clock
    check = AccountLimits(resources)
    assert [ask(check) for _ in range(3)] == ["", "", ""]
    assert ask(check) == "450 4.7.1 Your limit of 3 recipients an hour is reached; try again in 21 min"
    clock.advance(1201)
    assert ask(check) == ""
    clock.advance(1201)
    assert ask(check) == ""
    clock.advance(1201)
    assert ask(check).startswith("450 4.7.1 Your limit of 5 recipients a day is reached; try again in ")
    clock.advance(86400)
    assert ask(check) == ""


def test_other_accounts_and_strangers_are_not_counted(resources: PolicyResources) -> None:
    check = AccountLimits(resources)
    for _ in range(9):
        ask(check)
        assert ask(check, "") == ""
    assert ask(check, "bob@ours.test") == ""


def test_explain_spends_nothing(resources: PolicyResources) -> None:
    check = AccountLimits(resources)
    assert [ask(check, dry_run=True) for _ in range(9)] == [""] * 9
    assert ask(check) == ""


def test_operator_is_told_once_a_day_for_each_account(
    resources: PolicyResources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "MAX_TOLD", 2)
    clock: Any = resources.clock
    notes: list[tuple[str, str]] = []
    check = AccountLimits(attrs.evolve(resources, tell_operator=lambda *words: notes.append(words)))
    for _ in range(9):
        ask(check)
        ask(check, "bob@ours.test")
    assert [subject for subject, _ in notes] == [
        "anne@ours.test sends too much",
        "bob@ours.test sends too much",
    ]
    assert "lorrainemail account passwd anne@ours.test" in notes[0][1]
    clock.advance(SILENCE)
    for _ in range(9):
        ask(check)
    assert len(notes) == 3
    for number in range(5):
        for _ in range(9):
            ask(check, f"user{number}@ours.test")
    assert len(check._spent.told) == 2


def test_a_reload_changes_the_limit_and_forgets_nothing(resources: PolicyResources) -> None:
    check = AccountLimits(resources)
    for _ in range(3):
        ask(check)
    assert ask(AccountLimits(resources)) != ""
    assert ask(AccountLimits(attrs.evolve(resources, recipients_per_hour=0))) == ""


def test_a_restart_does_not_forgive(tmp_path: Path) -> None:
    clock = Clock()
    clock.advance(1000.0)

    def start(**more: Any) -> AccountLimits:
        facts: dict[str, Any] = {"recipients_per_hour": 3, "recipients_per_day": 100, **more}
        state, threads = str(tmp_path), maybeDeferred
        return AccountLimits(PolicyResources(clock, None, "h", in_thread=threads, state=state, **facts))

    check = start()
    assert [ask(check) for _ in range(3)] == ["", "", ""]
    check._spent.close()
    assert clock.getDelayedCalls() == []
    (file,) = tmp_path.iterdir()
    assert file.name == "account-limits.json" and file.stat().st_mode & 0o777 == 0o600
    assert ask(start()).startswith("450 4.7.1 Your limit of 3 recipients an hour is reached")
    assert ask(start(), "bob@ours.test") == ""
    assert [ask(check, "eve@ours.test") for _ in range(3)] == ["", "", ""]
    clock.advance(SAVE)
    assert ask(start(), "eve@ours.test").startswith("450 4.7.1")
    # A file that is none forgives.
    file.write_text("[1]")
    assert ask(start()) == ""


def test_nothing_is_written_where_nothing_may_be(tmp_path: Path) -> None:
    clock = Clock()
    check = AccountLimits(PolicyResources(clock, None, "h", recipients_per_hour=3, state=str(tmp_path)))
    assert ask(check) == ""
    assert clock.getDelayedCalls() == [] and list(tmp_path.iterdir()) == []
