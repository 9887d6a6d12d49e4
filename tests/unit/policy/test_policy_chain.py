"""The policy chain: order, time-outs, failing checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from lorrainemail.envelope import Session
from lorrainemail.errors import ConfigurationError, Reply, TemporaryError
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    IPolicy,
    IPolicyCheck,
    IPolicyPlugin,
    PolicyResources,
    Stage,
    Verdict,
)
from lorrainemail.policy.chain import CHECK_FAILED, DEFERRED, REFUSED, Guarded, PolicyChain, build_chain

SESSION = Session("s", "smtp", "198.51.100.7")
NO: Any = None


@implementer(IPolicyCheck)
class Check:
    def __init__(self, name: str, answer: Callable[[], Any], *stages: Stage) -> None:
        self.name = name
        self.stages = frozenset(stages or ("mail",))
        self._answer = answer
        self.asked = 0

    def judge(self, circumstances: Circumstances) -> Any:
        self.asked += 1
        return self._answer()


def verdict(action: Action, name: str = "x", reply: Reply | None = None) -> Verdict:
    return Verdict(action, name, "because", reply)


def ask(clock: Clock, *checks: Check, fail_open: bool = True, stage: Stage = "mail") -> Any:
    chain = PolicyChain([Guarded(check, 10.0, fail_open) for check in checks], clock)
    verifyObject(IPolicy, chain)
    answer = chain.judge(Circumstances(stage, SESSION, NO))
    if not isinstance(answer, Deferred):
        return [v.action for v in answer], answer
    result: list[tuple[Verdict, ...]] = []
    answer.addCallback(result.append)
    clock.advance(11)
    clock.advance(11)
    return [v.action for v in result[0]], result[0]


def test_stages_that_nobody_looks_at_are_known() -> None:
    chain = PolicyChain([Guarded(Check("a", lambda: None, "helo", "data"), 1, True)], Clock())
    assert chain.stages == {"helo", "data"}
    assert chain.judge(Circumstances("rcpt", SESSION, NO)) == ()


@pytest.mark.parametrize("later", [False, True])
def test_verdicts_stand_in_order_and_a_refusal_ends_the_chain(later: bool) -> None:
    wrap: Any = succeed if later else lambda value: value
    last = Check("d", lambda: wrap(verdict(Action.JUNK)))
    actions, verdicts = ask(
        Clock(),
        Check("a", lambda: wrap(None)),
        Check("b", lambda: wrap(verdict(Action.TAG))),
        Check("c", lambda: wrap(verdict(Action.REFUSE, "c", Reply(550, "5.7.1", "No")))),
        last,
    )
    assert actions == [Action.TAG, Action.REFUSE]
    assert verdicts[-1].reply == Reply(550, "5.7.1", "No")
    assert last.asked == 0


@pytest.mark.parametrize(("action", "reply"), [(Action.DEFER, DEFERRED), (Action.REFUSE, REFUSED)])
def test_stopping_verdict_without_words_gets_some(action: Action, reply: Reply) -> None:
    _, verdicts = ask(Clock(), Check("a", lambda: verdict(action)))
    assert verdicts[-1].reply == reply


def raising() -> Any:
    raise RuntimeError("secret")


@pytest.mark.parametrize(
    "broken",
    [
        raising,
        lambda: fail(RuntimeError("secret")),
        lambda: fail(TemporaryError(Reply(451, "4.3.0", "x"), "secret")),
        Deferred,
    ],
)
def test_broken_or_silent_check_passes_or_defers_as_it_was_told(broken: Callable[[], Any]) -> None:
    after = Check("b", lambda: verdict(Action.TAG))
    actions, verdicts = ask(Clock(), Check("a", broken), after)
    assert actions == [Action.CONTINUE, Action.TAG]
    assert "secret" not in verdicts[0].reason
    actions, verdicts = ask(Clock(), Check("a", broken), after, fail_open=False)
    assert actions == [Action.DEFER]
    assert verdicts[0].reply == CHECK_FAILED


def test_slow_check_that_answers_in_time_counts() -> None:
    clock = Clock()
    slow: Deferred[Verdict | None] = Deferred()
    clock.callLater(9, slow.callback, verdict(Action.JUNK))
    actions, _ = ask(clock, Check("a", lambda: slow), Check("b", lambda: verdict(Action.TAG)))
    assert actions == [Action.JUNK, Action.TAG]


@implementer(IPolicyPlugin)
@attrs.frozen
class Plugin:
    name: str
    check: Check | None
    timeout: float = 1.0
    fail_open: bool = True

    def make(self, resources: PolicyResources) -> Check | None:
        return self.check


def test_chain_is_built_in_the_order_of_the_configuration() -> None:
    resources = PolicyResources(Clock(), None, "mail.ours.test")
    plugins = [Plugin(n, Check(n, lambda n=n: verdict(Action.TAG, n))) for n in "abc"] + [Plugin("off", None)]
    chain = build_chain(["c", "off", "a"], resources, plugins)
    answer = chain.judge(Circumstances("mail", SESSION, NO))
    assert isinstance(answer, tuple)
    assert [v.check for v in answer] == ["c", "a"]


def test_every_unknown_check_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        build_chain(["a", "nope", "none"], PolicyResources(Clock(), None, "h"), [Plugin("a", None)])
    assert [("nope" in str(p), "none" in str(p)) for p in caught.value.problems] == [
        (True, False),
        (False, True),
    ]


def test_built_in_checks_are_found_as_plugins() -> None:
    chain = build_chain(
        ("limits", "helo", "sender_domain", "loops"), PolicyResources(Clock(), None, "mail.ours.test")
    )
    assert chain.stages == {"helo", "mail", "rcpt", "data"}
