"""The LMTP door: LHLO, one reply a recipient, and no way out."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Action, Verdict

FULL = Reply(452, "4.2.2", "Full")
TAKEN = Reply(250, "2.0.0", "Ok, delivered")


@pytest.fixture
def client(world: Any) -> Any:
    client = world.configure(door="lmtp").connect()
    assert client.greeting == "220 mail.ours.test LMTP lorrainemail\r\n"
    return client


def begin(client: Any, *names: str) -> None:
    client.say("LHLO front.ours.test", "MAIL FROM:<carole@elorac.test>")
    client.say(*(f"RCPT TO:<{name}@ours.test>" for name in names))


def codes(text: str) -> list[str]:
    return [line[:9].strip() for line in text.splitlines() if line[3] == " "]


def test_greeting_of_smtp_is_no_command_and_lhlo_is_none_of_smtp(world: Any, client: Any) -> None:
    assert client.say("EHLO c", "HELO c", "MAIL FROM:<>") == ["500 5.5.2", "500 5.5.2", "503 5.5.1"]
    hello = client.send("LHLO c\r\n")
    # RFC 2033 §5
    assert "250-PIPELINING\r\n" in hello and "ENHANCEDSTATUSCODES\r\n" in hello and "8BITMIME\r\n" in hello
    assert "AUTH" not in hello


def test_each_accepted_recipient_has_its_own_reply_in_order(world: Any, client: Any) -> None:
    world.intake.each = lambda _: succeed([FULL, TAKEN])
    begin(client, "anne", "nobody", "bob")
    assert client.say("DATA") == ["354 End w"]
    assert codes(client.send("a: b\r\n\r\n.\r\nNOOP\r\n")) == ["452 4.2.2", "250 2.0.0", "250 2.0.0"]
    (transaction,) = world.intake.taken
    assert transaction.session.door == "lmtp" and transaction.session.helo == "front.ours.test"
    assert not transaction.trusted and not transaction.envelope.sender_verified
    refused = [facts for _, kind, facts in world.trace.events if kind == "refused"]
    assert [facts["recipient"] for facts in refused] == ["nobody@ours.test", "anne@ours.test"]


def test_same_address_twice_is_answered_twice(world: Any, client: Any) -> None:
    begin(client, "bob", "bob")
    client.say("DATA")
    assert codes(client.send("a: b\r\n\r\n.\r\n")) == ["250 2.0.0"] * 2


def test_what_refuses_the_message_is_told_for_each_recipient(world: Any, client: Any) -> None:
    begin(client, "bob", "anne")
    client.say("DATA")
    assert codes(client.send("a\nb\r\n.\r\n")) == ["550 5.6.0"] * 2
    world.check.stages = frozenset({"data"})
    world.check.answer = lambda: Verdict(Action.REFUSE, "check", "because", Reply(554, "5.7.1", "No"))
    world._door = None
    client = world.connect()
    begin(client, "bob", "anne")
    client.say("DATA")
    assert codes(client.send("a: b\r\n.\r\n")) == ["554 5.7.1"] * 2


def test_failing_intake_answers_each_recipient_for_now(world: Any, client: Any) -> None:
    world.intake.each = lambda _: fail(RuntimeError("secret"))
    begin(client, "bob", "anne")
    client.say("DATA")
    assert codes(client.send("a: b\r\n\r\n.\r\n")) == ["451 4.3.0"] * 2


def test_last_chunk_is_answered_for_each_recipient(world: Any, client: Any) -> None:
    begin(client, "bob", "anne")
    assert codes(client.send("BDAT 3\r\na: BDAT 3 LAST\r\nb\r\n")) == ["250 2.0.0"] * 3
    assert world.intake.wires == [b"a: b\r\n"]


def test_message_for_nobody_is_refused_before_it_comes(world: Any, client: Any) -> None:
    begin(client, "nobody")
    assert client.say("DATA") == ["503 5.5.1"]


def test_nobody_relays_through_it_not_even_from_a_listed_network(world: Any) -> None:
    client = world.configure(door="lmtp").connect("10.1.2.3")
    client.say("LHLO c", "MAIL FROM:<a@b.test>")
    assert client.say("RCPT TO:<x@elsewhere.test>") == ["550 5.7.1"]


def test_replies_wait_for_intake_and_what_follows_waits_for_them(world: Any, client: Any) -> None:
    pending: Deferred[list[Reply]] = Deferred()
    world.intake.each = lambda _: pending
    begin(client, "bob", "anne")
    client.say("DATA")
    assert client.send("a: b\r\n\r\n.\r\nQUIT\r\n") == ""
    pending.callback([TAKEN, FULL])
    assert codes(client.read()) == ["250 2.0.0", "452 4.2.2", "221 2.0.0"]
