"""Filters as members of the policy chain: whose mail, how large, how long, and what a failure means."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.config.model import FilterRow
from lorrainemail.envelope import Envelope, Session
from lorrainemail.filters import check
from lorrainemail.filters.asking import Opinion
from lorrainemail.filters.stream import FilterError
from lorrainemail.interfaces import Action, Circumstances, PolicyResources, RelayRight
from lorrainemail.ops.content import Content
from lorrainemail.policy.chain import build_chain

NO: Any = None


class World:
    """A chain with one filter, whose client is the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **row: Any) -> None:
        self.clock, self.asked, self.memory = Clock(), list[Any](), dict[str, object]()
        self.answer: Any = Opinion(Action.CONTINUE, "fine")
        self.row = FilterRow("clamav", "unix:/x", **row)

        async def ask(question: Any, means: Any) -> Opinion:
            self.asked.append(question)
            answer = self.answer
            if isinstance(answer, Exception):
                raise answer
            return await answer if isinstance(answer, Deferred) else answer

        class Module:
            pass

        Module.ask = staticmethod(ask)  # type: ignore[attr-defined]
        monkeypatch.setattr(check, "import_module", lambda name: Module)
        self.reload()

    def reload(self) -> None:
        resources = PolicyResources(self.clock, None, "mail.bricoleur.com", memory=self.memory)
        self.chain = build_chain([], resources, [], filters=check.plugins_of({"virus": self.row}, None, "/x"))

    def __call__(
        self, account: str = "", relay: bool = False, size: int = 100, seconds: float = 0, **more: Any
    ) -> Any:
        envelope = Envelope("m", parse_address("a@b.example"), ())
        circumstances = Circumstances(
            "data",
            Session("s", "smtp", "192.0.2.1", account=account),
            NO,
            relay=RelayRight(relay, ""),
            envelope=envelope,
            content=Content(b"x" * size),
            **more,
        )
        answer = self.chain.judge(circumstances)
        if isinstance(answer, Deferred):
            found: list[Any] = []
            answer.addCallback(found.append)
            self.clock.advance(seconds)
            (answer,) = found
        return answer


@pytest.mark.parametrize(("mail", "stranger", "ours"), [("in", 1, 0), ("out", 0, 1), ("both", 1, 1)])
def test_a_filter_sees_the_mail_that_its_row_names(
    monkeypatch: pytest.MonkeyPatch, mail: Any, stranger: int, ours: int
) -> None:
    world = World(monkeypatch, mail=mail)
    assert len(world()) == stranger
    assert len(world(account="bob@x.org")) == ours and len(world(relay=True)) == ours


def test_large_messages_pass_unseen_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, size=1000)
    (verdict,) = world(size=1001)
    assert verdict.action is Action.CONTINUE and "larger than 1000" in verdict.reason and world.asked == []


@pytest.mark.parametrize(("fail", "action"), [("open", Action.CONTINUE), ("closed", Action.DEFER)])
def test_a_filter_that_hangs_or_breaks_fails_as_its_row_says(
    monkeypatch: pytest.MonkeyPatch, fail: Any, action: Action
) -> None:
    world = World(monkeypatch, fail=fail, timeout=5)
    cancelled: list[Any] = []
    world.answer = Deferred(cancelled.append)
    (verdict,) = world(seconds=6)
    assert verdict.action is action and "no answer within 5 s" in verdict.reason and cancelled
    world.answer = FilterError("broken")
    (verdict,) = world()
    assert verdict.action is action


def test_a_filter_that_keeps_failing_is_left_alone_also_over_a_reload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, fail="closed")
    world.answer = FilterError("broken")
    for _ in range(4):
        assert world()[0].action is Action.DEFER
    world.reload()
    world()
    assert len(world.asked) == check.MAX_FAILURES
    world.clock.advance(check.REST + 1)
    world.answer = Opinion(Action.JUNK, "spam", field=b"X: y\r\n")
    (verdict,) = world()
    assert (verdict.action, verdict.check, verdict.field) == (Action.JUNK, "virus", b"X: y\r\n")


def test_a_message_that_one_filter_changed_is_what_the_next_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    changed = Content(b"changed")
    resources = PolicyResources(world.clock, None, "mx")
    rows = {"one": world.row, "two": world.row}
    world.chain = build_chain([], resources, [], filters=check.plugins_of(rows, None, "/x"))
    world.answer = Opinion(Action.CONTINUE, "changed it", None, b"X-One: 1\r\n", changed)
    world()
    first, second = world.asked
    assert second.content is changed and second.fields == b"X-One: 1\r\n" and first.fields == b""


def test_a_dry_run_shows_milters_nothing_and_keeps_no_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.answer = Opinion(Action.CONTINUE, "changed it", content=Content(b"x"))
    (verdict,) = world(dry_run=True)
    assert verdict.content is None
    world.row = attrs.evolve(world.row, kind="milter")
    world.reload()
    (verdict,) = world(dry_run=True)
    assert "not asked" in verdict.reason and len(world.asked) == 1


def test_the_modules_are_real() -> None:
    for kind in ("milter", "rspamd", "clamav", "spamd"):
        row = FilterRow(kind, "unix:/x")  # type: ignore[arg-type]
        (plugin,) = check.plugins_of({"f": row}, None, "/x")
        made = plugin.make(PolicyResources(Clock(), None, "mx"))
        assert made.name == "f" and pytest_twisted is not None
