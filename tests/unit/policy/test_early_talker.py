"""Who speaks before he is greeted is a stranger that no server is; who waits is not made to wait again."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.interfaces import Circumstances, PolicyResources, RelayRight, Verdict
from lorrainemail.policy import early
from lorrainemail.policy.early import DELAY, TRUST


def EarlyTalker(clock: Clock) -> early.EarlyTalker:
    return early.EarlyTalker(PolicyResources(clock, None, "mail.ours.test"))


class Tables:
    def relay_right(self, session: Session) -> RelayRight:
        return RelayRight(session.peer.startswith("10."), "")


def ask(check: early.EarlyTalker, peer: str, spoke: bool = False, **more: Any) -> Any:
    session = Session("s", more.pop("door", "smtp"), peer)
    tables: Any = Tables()
    return check.judge(Circumstances("connect", session, tables, spoke_early=lambda: spoke, **more))


def answers(waiting: Any) -> list[Verdict | None]:
    assert isinstance(waiting, Deferred)
    found: list[Verdict | None] = []
    waiting.addCallback(found.append)
    return found


def test_who_speaks_first_is_refused_each_time() -> None:
    clock = Clock()
    check = EarlyTalker(clock)
    for _ in range(2):
        found = answers(ask(check, "198.51.100.7", True))
        assert found == []
        clock.advance(DELAY)
        (verdict,) = found
        assert verdict is not None and verdict.reply is not None and verdict.reply.code == 554


def test_who_waits_is_greeted_and_waits_no_more_for_a_day() -> None:
    clock = Clock()
    check = EarlyTalker(clock)
    found = answers(ask(check, "2001:db8::1"))
    clock.advance(DELAY)
    assert found == [None]
    assert ask(check, "2001:db8::2") is None  # the same /64
    clock.advance(TRUST)
    assert isinstance(ask(check, "2001:db8::1"), Deferred)
    clock.advance(DELAY)


@pytest.mark.parametrize(
    ("peer", "more"),
    [
        ("127.0.0.1", {}),
        ("10.1.2.3", {}),
        ("198.51.100.7", {"door": "submission"}),
        ("198.51.100.7", {"door": "lmtp"}),
        ("198.51.100.7", {"dry_run": True}),
    ],
)
def test_others_are_greeted_at_once(peer: str, more: Any) -> None:
    clock = Clock()
    assert ask(EarlyTalker(clock), peer, True, **more) is None
    assert clock.getDelayedCalls() == []


def test_a_reload_forgets_nobody_who_waited() -> None:
    clock = Clock()
    resources = PolicyResources(clock, None, "mail.ours.test")
    ask(early.EarlyTalker(resources), "198.51.100.7")
    clock.advance(DELAY)
    assert ask(early.EarlyTalker(resources), "198.51.100.7") is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "MAX_REMEMBERED", 10)
    clock = Clock()
    check = EarlyTalker(clock)
    for number in range(30):
        ask(check, f"198.51.100.{number}")
        clock.advance(DELAY)
    assert len(check._waited) == 10
    assert ask(check, "198.51.100.29") is None


def test_a_wait_that_is_given_up_leaves_no_timer() -> None:
    clock = Clock()
    waiting = ask(EarlyTalker(clock), "198.51.100.7")
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert clock.getDelayedCalls() == []
