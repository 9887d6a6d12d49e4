"""What is done with a verdict: for everybody, a domain, an account."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from zope.interface import implementer

from lorrainemail.envelope import Session
from lorrainemail.errors import ConfigurationError, Reply, TemporaryError
from lorrainemail.interfaces import Action, IPolicyCheck, IPolicyPlugin, PolicyResources, Verdict
from lorrainemail.policy.actions import WORDS, weighed
from lorrainemail.policy.chain import CHECK_FAILED, build_chain
from lorrainemail.smtp.acceptance import for_each

WORDS_FOR = Reply(550, "5.7.1", "You are on a list")


@implementer(IPolicyCheck)
class Check:
    name = "lists"

    def __init__(self, stage: Any, action: Action | Exception) -> None:
        self.stages = frozenset({stage})
        self.action = action
        self.times = 0

    def judge(self, circumstances: Any) -> Any:
        self.times += 1
        if isinstance(self.action, Exception):
            raise self.action
        return Verdict(self.action, self.name, "because", WORDS_FOR)


@implementer(IPolicyPlugin)
class Plugin:
    timeout, fail_open, name, usual = 5.0, True, "lists", ""

    def __init__(self, check: Check) -> None:
        self.check = check

    def make(self, resources: Any) -> Check:
        return self.check


def chain(
    check: Check, actions: dict[str, dict[str, str]], usual: str = "", closed: tuple[str, ...] = ()
) -> Any:
    plugin = Plugin(check)
    plugin.usual = usual
    resources = PolicyResources(Clock(), None, "mail.bricoleur.com")
    return build_chain(["lists"], resources, [plugin], actions=actions, fail_closed=closed)


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("", Action.REFUSE),
        ("log", Action.CONTINUE),
        ("tag", Action.TAG),
        ("junk", Action.JUNK),
        ("refuse", Action.REFUSE),
    ],
)
def test_one_word_for_everybody_holds_at_once(make: Any, word: str, becomes: Action) -> None:
    (verdict,) = chain(Check("mail", Action.REFUSE), {"": {"lists": word}} if word else {}).judge(
        make("mail")
    )
    assert verdict.action is becomes and verdict.reason.startswith("because")
    assert ("logged only, not refuse" in verdict.reason) == (word == "log")


def test_a_check_that_nobody_wants_is_not_made(make: Any) -> None:
    check = Check("mail", Action.REFUSE)
    assert chain(check, {"": {"lists": "off"}}).stages == frozenset()
    assert chain(check, {}, usual="off").stages == frozenset()
    assert chain(check, {"": {"lists": "tag"}}, usual="off").stages == {"mail"}
    assert check.times == 0


def test_a_junk_verdict_that_is_to_be_refused_says_why(make: Any) -> None:
    (verdict,) = chain(Check("data", Action.JUNK), {"": {"lists": "refuse"}}).judge(make("data", "bob@x.org"))
    assert verdict.action is Action.REFUSE and verdict.reply is WORDS_FOR


def test_a_verdict_on_the_connection_waits_for_recipients_that_want_different_things(make: Any) -> None:
    actions = {"": {"lists": "refuse"}, "free.org": {"lists": "junk"}, "bob@free.org": {"lists": "off"}}
    made = chain(Check("connect", Action.REFUSE), actions)
    assert made.stages == {"connect", "rcpt"}
    earlier = made.judge(make("connect"))
    assert [(v.action, v.pending) for v in earlier] == [(Action.CONTINUE, Action.REFUSE)]
    at = {
        one: made.judge(make("rcpt", one, earlier=earlier))
        for one in ("a@x.org", "a@free.org", "bob@free.org")
    }
    assert at["a@x.org"][0].action is Action.REFUSE and at["a@x.org"][0].reply is WORDS_FOR
    assert at["a@free.org"][0].action is Action.JUNK
    assert at["bob@free.org"] == ()


def test_an_alias_of_one_account_has_the_accounts_word(make: Any, make_accepted: Any) -> None:
    made = chain(Check("data", Action.JUNK), {"bob@x.org": {"lists": "off"}})
    assert made.judge(make("data", accepted=(make_accepted("sales@y.org", "bob@x.org"),))) == ()
    several = make_accepted("sales@y.org", "bob@x.org", "eve@x.org")
    assert made.judge(make("data", accepted=(several,)))[0].action is Action.JUNK


def test_a_message_is_refused_only_where_all_its_recipients_want_that(make: Any) -> None:
    made = chain(Check("data", Action.REFUSE), {"bob@x.org": {"lists": "tag"}})
    assert made.judge(make("data", "eve@x.org", "joe@x.org"))[0].action is Action.REFUSE
    circumstances = make("data", "eve@x.org", "bob@x.org")
    (verdict,) = made.judge(circumstances)
    assert verdict.action is Action.CONTINUE and verdict.each == (Action.JUNK, Action.TAG)
    eve, bob = for_each(circumstances.accepted, (verdict,))
    assert [v.action for v in eve.verdicts] == [Action.JUNK] and bob.verdicts[0].action is Action.TAG


def test_nobody_waits_because_another_recipient_would(make: Any) -> None:
    made = chain(Check("data", Action.DEFER), {"bob@x.org": {"lists": "off"}})
    (verdict,) = made.judge(make("data", "eve@x.org", "bob@x.org"))
    assert verdict.action is Action.CONTINUE and set(verdict.each) == {Action.CONTINUE}


def test_who_logged_in_has_the_word_of_his_account(make: Any) -> None:
    made = chain(Check("rcpt", Action.DEFER), {"bob@x.org": {"lists": "off"}})
    session = Session("s", "submission", account="bob@x.org")
    assert made.judge(make("rcpt", "eve@y.org", session=session)) == ()


def test_a_check_that_fails_defers_the_mail_where_that_is_wanted(make: Any) -> None:
    broken = Check("mail", TemporaryError(CHECK_FAILED, "broken"))
    assert chain(broken, {}).judge(make("mail"))[0].action is Action.CONTINUE
    closed = chain(broken, {"": {"lists": "junk"}}, closed=("lists",)).judge(make("mail"))
    assert closed[0].action is Action.DEFER and closed[0].reply is CHECK_FAILED


def test_words_for_checks_that_do_not_exist_are_an_error() -> None:
    resources = PolicyResources(Clock(), None, "x")
    with pytest.raises(ConfigurationError, match="no check is called 'nothing'"):
        build_chain([], resources, [], actions={"": {"nothing": "tag"}})


@given(st.sampled_from(list(Action)), st.sampled_from(["", *WORDS]))
def test_no_word_makes_a_verdict_of_none(action: Action, word: str) -> None:
    becomes = weighed(action, word)
    assert becomes is Action.CONTINUE if action is Action.CONTINUE else becomes in Action
    # A deferral never becomes final.
    assert not (action is Action.DEFER and becomes is Action.REFUSE)


def test_words_for_checks_that_are_not_asked_are_an_error() -> None:
    resources = PolicyResources(Clock(), None, "x")
    plugin = Plugin(Check("mail", Action.TAG))
    with pytest.raises(ConfigurationError, match="'lists' is not among"):
        build_chain([], resources, [plugin], actions={"bob@x.org": {"lists": "off"}})
