"""The door tells the check whether the client has spoken."""

from __future__ import annotations

from typing import Any

from lorrainemail.interfaces import PolicyResources
from lorrainemail.policy.chain import Guarded, PolicyChain
from lorrainemail.policy.early import DELAY, EarlyTalker


def waiting(world: Any) -> PolicyChain:
    check = EarlyTalker(PolicyResources(world.clock, None, "mail.ours.test"))
    return PolicyChain([Guarded(check, 30.0, True)], world.clock)


def test_early_talker_gets_no_greeting_and_his_commands_are_not_read(world: Any) -> None:
    world.door.policy = waiting(world)
    client = world.connect()
    assert client.greeting == ""
    assert client.send("EHLO spam.test\r\nMAIL FROM:<>\r\n") == ""
    world.clock.advance(DELAY)
    assert client.read() == "554 5.5.1 You spoke before our greeting\r\n"
    assert client.closing


def test_client_that_waits_is_greeted(world: Any) -> None:
    world.door.policy = waiting(world)
    client = world.connect()
    assert client.greeting == ""
    world.clock.advance(DELAY)
    assert client.read().startswith("220 ")
    assert world.connect().greeting.startswith("220 ")


def test_client_that_leaves_while_it_waits_harms_nobody(world: Any) -> None:
    world.door.policy = waiting(world)
    client = world.connect()
    client.lose()
    world.clock.advance(DELAY)
    assert client.read() == ""
