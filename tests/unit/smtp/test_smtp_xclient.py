"""XCLIENT: whom a listed server in front names is the client, with his rights and no others."""

from __future__ import annotations

from typing import Any

import pytest

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Action, Verdict
from lorrainemail.policy.chain import Guarded, PolicyChain

FRONT = "203.0.113.1"
STRANGER = "198.51.100.9"


@pytest.fixture
def front(world: Any) -> Any:
    client = world.configure(xclient=("203.0.113.0/24",)).connect(FRONT)
    assert "XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT" in client.send("EHLO front.test\r\n")
    return client


def test_only_listed_peers_are_believed(world: Any, front: Any) -> None:
    client = world.connect(STRANGER)
    assert "XCLIENT" not in client.send("EHLO c\r\n")
    assert client.say("XCLIENT ADDR=10.1.2.3", "MAIL FROM:<>", "RCPT TO:<x@elsewhere.test>") == [
        "550 5.7.0",
        "250 2.1.0",
        "550 5.7.1",
    ]


def test_client_named_in_front_is_the_client(world: Any, front: Any) -> None:
    answer = front.send(
        f"XCLIENT ADDR={STRANGER} PORT=4711 NAME=Mail.Elorac.TEST HELO=x "
        "DESTADDR=IPV6:2001:db8::25 PROTO=ESMTP\r\n"
    )
    assert answer == "220 mail.ours.test ESMTP lorrainemail\r\n"
    assert front.say("MAIL FROM:<>") == ["503 5.5.1"]
    assert front.mail().startswith("250 ")
    session = world.intake.taken[0].session
    assert (session.peer, session.peer_port, session.local) == (STRANGER, 4711, "2001:db8::25")
    assert (session.helo, session.reverse_name) == ("client.test", "mail.elorac.test")


def test_rights_are_those_of_the_client_who_may_change(world: Any, front: Any) -> None:
    for address, code in (("10.1.2.3", "250 2.1.5"), (STRANGER, "550 5.7.1"), ("[UNAVAILABLE]", "550 5.7.1")):
        assert front.say(f"XCLIENT ADDR={address}")[0][:3] == "220"
        assert front.say("EHLO c", "MAIL FROM:<a@b.test>", "RCPT TO:<x@elsewhere.test>")[-1] == code
        front.say("RSET")


def test_a_login_ends_with_a_new_client(world: Any) -> None:
    world.submission(xclient=("203.0.113.0/24",))
    client = world.connect(FRONT)
    assert client.say("EHLO c", "AUTH PLAIN AGFubmVAb3Vycy50ZXN0AHNlY3JldA==")[1] == "235 2.7.0"
    assert client.say(f"XCLIENT ADDR={STRANGER}", "EHLO c", "MAIL FROM:<anne@ours.test>")[-1] == "530 5.7.0"


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "ADDR",
        "ADDR=",
        "ADDR=300.1.1.1",
        "ADDR=mail.elorac.test",
        "ADDR=192.0.2.1 ADDR=192.0.2.2",
        "LOGIN=anne@ours.test",
        "ADDR=192.0.2.1 LOGIN=anne@ours.test",
        "PORT=65536",
        "PORT=-1",
        "NAME=a+0Ab",
        "NAME=+zz",
        "NAME=é",
    ],
)
def test_what_is_malformed_changes_nothing(world: Any, front: Any, argument: str) -> None:
    assert front.say(f"XCLIENT {argument}") == ["501 5.5.4"]
    front.mail()
    assert world.intake.taken[0].session.peer == FRONT


def test_not_in_the_middle_of_a_transaction(world: Any, front: Any) -> None:
    assert front.say("MAIL FROM:<>", f"XCLIENT ADDR={STRANGER}") == ["250 2.1.0", "503 5.5.1"]


def test_policy_judges_the_client_anew(world: Any, front: Any) -> None:
    world.check.stages = frozenset({"connect"})
    world.check.answer = lambda: Verdict(Action.REFUSE, "check", "because", Reply(550, "5.7.1", "Go away"))
    world.door.policy = PolicyChain([Guarded(world.check, 10.0, True)], world.clock)
    assert front.send(f"XCLIENT ADDR={STRANGER}\r\n") == "554 5.7.1 Go away\r\n"
    assert front.closing
    assert world.check.seen[-1].session.peer == STRANGER


def test_clients_are_counted_by_their_own_address(world: Any) -> None:
    world.configure(xclient=("203.0.113.0/24",), connections_per_peer=1)
    first = world.connect(FRONT)
    assert first.say(f"XCLIENT ADDR={STRANGER}")[0][:3] == "220"
    second = world.connect(FRONT)
    assert second.say(f"XCLIENT ADDR={STRANGER}") == ["421 4.7.0"]
    assert second.closing
    second.lose()
    first.lose()
    assert world.door.connections.of(STRANGER) == world.door.connections.of(FRONT) == 0
