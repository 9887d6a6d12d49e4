"""A stranger with a message, and checks that are asked about him."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Circumstances,
    Expansion,
    LocalMailbox,
    RelayRight,
    Verdict,
)
from lorrainemail.ops.content import Content

MESSAGE = b"From: carole@elorac.fr\r\nSubject: x\r\n\r\nBonjour\r\n"


def accepted(address: str, *accounts: str) -> Accepted:
    finals = tuple(
        LocalMailbox(Account(parse_address(one)), "", parse_address(address))
        for one in accounts or (address,)
    )
    return Accepted(Recipient(parse_address(address), address), Expansion(True, finals))


def stranger(stage: Any, *recipients: str, sender: str = "carole@elorac.fr", **more: Any) -> Circumstances:
    taken = tuple(accepted(one) for one in recipients)
    whole = stage == "data"
    reverse = parse_address(sender) if sender else None
    given: dict[str, Any] = {
        "recipient": taken[0].recipient if taken and not whole else None,
        "expansion": taken[0].expansion if taken and not whole else None,
        "accepted": taken if whole else (),
        "envelope": Envelope("m", reverse, tuple(one.recipient for one in taken)) if whole else None,
        "content": Content(MESSAGE) if whole else None,
        "relay": RelayRight(False, ""),
        **more,
    }
    none: Any = None
    session = given.pop("session", Session("s", "smtp", "198.51.100.7", helo="mail.elorac.fr"))
    return Circumstances(stage, session, none, reverse, **given)


@attrs.frozen
class Asked:
    """Turns what a check answers into a verdict, the clock going on by seconds meanwhile."""

    clock: Clock

    def __call__(self, answer: Any, seconds: float = 0.0) -> Any:
        if not isinstance(answer, Deferred):
            return answer
        found: list[Any] = []
        answer.addBoth(found.append)
        for _ in range(int(seconds)):
            self.clock.advance(1)
        (result,) = found
        if hasattr(result, "raiseException"):
            result.raiseException()
        return result


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def asked(clock: Clock) -> Asked:
    return Asked(clock)


@pytest.fixture
def make() -> Any:
    return stranger


@pytest.fixture
def make_accepted() -> Any:
    return accepted


def verdict_of(answer: Any) -> Verdict:
    assert isinstance(answer, Verdict)
    return answer
