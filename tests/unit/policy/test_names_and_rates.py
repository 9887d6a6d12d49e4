"""Names of strangers, and how much comes in one domain's name."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock

from lorrainemail.envelope import Session
from lorrainemail.interfaces import Action, PolicyResources
from lorrainemail.mailauth.memory import MemoryResolver
from lorrainemail.policy.names import HeloName, ReverseName
from lorrainemail.policy.rates import SenderRates

REVERSE = "7.100.51.198.in-addr.arpa"


@pytest.mark.parametrize(
    ("rows", "action", "words"),
    [
        ({}, Action.TAG, "has no name"),
        ({REVERSE: [("PTR", "mail.elorac.fr")]}, Action.TAG, "has no name"),
        (
            {REVERSE: [("PTR", "mail.elorac.fr")], "mail.elorac.fr": [("A", "198.51.100.7")]},
            Action.CONTINUE,
            "is mail.elorac.fr",
        ),
        ({REVERSE: [("PTR", "TIMEOUT")]}, Action.CONTINUE, "not known"),
        (
            {REVERSE: [("PTR", "mail.elorac.fr")], "mail.elorac.fr": [("*", "TIMEOUT")]},
            Action.CONTINUE,
            "not known",
        ),
    ],
)
def test_a_name_counts_where_it_leads_back(
    asked: Any, make: Any, rows: Any, action: Action, words: str
) -> None:
    verdict = asked(ReverseName(MemoryResolver(rows)).judge(make("helo")))
    assert verdict.action is action and words in verdict.reason


@pytest.mark.parametrize(
    ("greeting", "tagged"),
    [
        ("mail.elorac.fr", False),
        ("nowhere.example", True),
        ("localhost", True),
        ("[198.51.100.7]", False),
        ("[192.0.2.1]", True),
        ("[IPv6:::ffff:198.51.100.7]", False),
        ("silent.example", False),
    ],
)
def test_greetings_that_are_nobodys_name_are_tagged(
    asked: Any, make: Any, greeting: str, tagged: bool
) -> None:
    resolver = MemoryResolver({"mail.elorac.fr": [("A", "192.0.2.5")], "silent.example": [("*", "TIMEOUT")]})
    session = Session("s", "smtp", "198.51.100.7", helo=greeting)
    verdict = asked(HeloName(resolver).judge(make("helo", session=session)))
    assert (verdict is not None and verdict.action is Action.TAG) is tagged


def test_a_domain_over_its_limit_waits_and_others_do_not(clock: Clock, make: Any) -> None:
    check = SenderRates(PolicyResources(clock, None, "mx"), 2)
    assert check.judge(make("mail")) is None
    assert check.judge(make("mail", dry_run=True)) is None  # takes nothing
    assert check.judge(make("mail")) is None
    verdict = check.judge(make("mail"))
    assert verdict is not None and verdict.action is Action.DEFER and "elorac.fr" in verdict.reason
    assert check.judge(make("mail", sender="a@other.example")) is None
    assert check.judge(make("mail", sender="")) is None
    clock.advance(1800)
    assert check.judge(make("mail")) is None
