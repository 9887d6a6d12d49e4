"""DNS lists, honest ones and others."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.errors import TemporaryError
from lorrainemail.interfaces import Action, IPolicyCheck, PolicyResources
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.policy.lists import DnsLists, question

PEER = "7.100.51.198"


def check(
    clock: Any, rows: dict[str, Any], block: Any = ("bad.example",), good: Any = (), memory: Any = None
) -> Any:
    resolver = rows if not isinstance(rows, dict) else MemoryResolver(rows)
    resources = PolicyResources(
        clock, resolver, "mx", block_lists=block, pass_lists=good, memory={} if memory is None else memory
    )
    made = DnsLists(resources, resolver)
    assert IPolicyCheck.providedBy(made)
    return made


def test_a_listed_stranger_is_refused_with_the_lists_own_words(asked: Any, clock: Clock, make: Any) -> None:
    rows = {f"{PEER}.bad.example": [("A", "127.0.0.2"), ("TXT", "spam seen\x07 https://bad.example/7")]}
    verdict = asked(check(clock, rows).judge(make("mail")))
    assert verdict.action is Action.REFUSE
    assert str(verdict.reply) == (
        "550 5.7.1 198.51.100.7 is listed by bad.example: spam seen? https://bad.example/7"
    )


@pytest.mark.parametrize("answer", ["127.255.255.254", "127.0.0.1", "203.0.113.9"])
def test_answers_that_say_nothing_about_the_peer_do_not_count(
    asked: Any, clock: Clock, make: Any, answer: str
) -> None:
    assert asked(check(clock, {f"{PEER}.bad.example": [("A", answer)]}).judge(make("mail"))) is None


def test_only_the_answers_that_the_operator_named_count(asked: Any, clock: Clock, make: Any) -> None:
    for answer, counts in (("127.0.0.4", True), ("127.0.0.10", False), ("127.0.1.4", False)):
        made = check(clock, {f"{PEER}.bad.example": [("A", answer)]}, ("bad.example=127.0.0.2-9",))
        assert (asked(made.judge(make("mail"))) is not None) is counts


def test_a_list_that_has_everybody_is_not_believed_and_looked_at_again_later(
    asked: Any, clock: Clock, make: Any
) -> None:
    rows = {f"{PEER}.bad.example": [("A", "127.0.0.2")], "1.0.0.127.bad.example": [("A", "127.0.0.2")]}
    made = check(clock, rows, good=("good.example",))
    resolver = made._resolver
    with pytest.raises(TemporaryError):
        asked(made.judge(make("mail")))
    count = len(resolver.asked)
    with pytest.raises(TemporaryError):
        asked(made.judge(make("mail")))
    assert len(resolver.asked) == count + 1  # only the other list
    clock.advance(3601)
    del resolver.rows["1.0.0.127.bad.example"]
    assert asked(made.judge(make("mail"))).action is Action.REFUSE


def test_a_list_of_good_peers_spares_the_peer_of_another_lists_verdict(
    asked: Any, clock: Clock, make: Any
) -> None:
    rows = {f"{PEER}.bad.example": [("A", "127.0.0.2")], f"{PEER}.good.example": [("A", "127.0.5.1")]}
    verdict = asked(check(clock, rows, good=("good.example",)).judge(make("mail")))
    assert verdict.action is Action.CONTINUE and "good peers good.example" in verdict.reason


class Silent:
    """A resolver that never answers."""

    def __init__(self) -> None:
        self.times = 0

    def addresses(self, name: str, ipv6: bool = True, ipv4: bool = True) -> Any:
        self.times += 1
        return Deferred(lambda _: None)


def test_lists_that_hang_delay_nobody_for_long_and_are_left_alone(
    asked: Any, clock: Clock, make: Any
) -> None:
    silent = Silent()
    made = check(clock, silent, ("a.example", "b.example"))  # type: ignore[arg-type]
    for _ in range(5):
        with pytest.raises(TemporaryError, match="no DNS list answers"):
            asked(made.judge(make("mail")), 7)
    assert silent.times == 6  # three times each, then no more
    clock.advance(301)
    with pytest.raises(TemporaryError):
        asked(made.judge(make("mail")), 7)
    assert silent.times == 8


def test_what_is_known_of_a_list_outlives_a_reload(asked: Any, clock: Clock, make: Any) -> None:
    memory: dict[str, object] = {}
    silent = Silent()
    for _ in range(3):
        with pytest.raises(TemporaryError):
            asked(check(clock, silent, memory=memory).judge(make("mail")), 7)  # type: ignore[arg-type]
    with pytest.raises(TemporaryError):
        asked(check(clock, silent, memory=memory).judge(make("mail")))  # type: ignore[arg-type]
    assert silent.times == 3


def test_only_strangers_are_looked_up(asked: Any, clock: Clock, make: Any) -> None:
    made = check(clock, {})
    for session in (Session("s", "smtp", "127.0.0.1"), Session("s", "submission", "198.51.100.7")):
        assert made.judge(make("mail", session=session)) is None


def test_names_are_formed_as_the_standard_says() -> None:
    assert question("192.0.2.99", "bad.example") == "99.2.0.192.bad.example"
    # RFC 5782 §2.4
    assert question("2001:db8::1", "x.y") == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.x.y"
