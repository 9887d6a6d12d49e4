"""XFORWARD: a listed server in front says whom a message came from; nobody gets rights by it."""

from __future__ import annotations

from typing import Any

import pytest

from lorrainemail.grammar.smtp_xforward import commands
from lorrainemail.smtp.xforward import merged

FRONT = "10.9.0.1"
BODY = "Subject: x\r\n\r\nx\r\n.\r\n"


@pytest.fixture
def front(world: Any) -> Any:
    """A client that is a listed server."""
    return world.configure(xforward=("10.9.0.0/16",)).connect(FRONT)


def one_mail(client: Any) -> None:
    client.send("MAIL FROM:<carole@elorac.test>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    assert client.send(BODY).startswith("250")


def test_only_listed_peers_are_offered_and_granted_it(world: Any, front: Any) -> None:
    assert front.send("EHLO c\r\n").endswith("\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n")
    stranger = world.connect()
    assert "XFORWARD" not in stranger.send("EHLO c\r\n")
    assert stranger.say("XFORWARD ADDR=192.0.2.7") == ["550 5.7.0"]
    one_mail(stranger)
    assert world.intake.taken[-1].session.origin == ()


def test_what_is_said_goes_with_the_next_message_alone(world: Any, front: Any) -> None:
    assert (
        front.say(
            "EHLO front.test",
            "XFORWARD NAME=spike.porcupine.org ADDR=168.100.189.2 PROTO=ESMTP",
            "XFORWARD HELO=spike+20x IDENT=[UNAVAILABLE] SOURCE=REMOTE NAME=[UNAVAILABLE]",
        )[1:]
        == ["250 2.0.0"] * 2
    )
    one_mail(front)
    session = world.intake.taken[0].session
    assert dict(session.origin) == {
        "ADDR": "168.100.189.2", "PROTO": "ESMTP", "HELO": "spike x", "SOURCE": "REMOTE",
    }  # fmt: skip
    assert (session.peer, session.helo) == (FRONT, "front.test")
    one_mail(front)
    assert world.intake.taken[1].session.origin == ()
    front.say("XFORWARD ADDR=192.0.2.7")
    one_mail(front)
    assert world.intake.taken[2].session.origin == (("ADDR", "192.0.2.7"),)


def test_nobody_gets_rights_by_it(world: Any, front: Any) -> None:
    # 10.1.0.0/16 may relay; the front may not.
    assert front.say("EHLO c", "XFORWARD ADDR=10.1.2.3", "MAIL FROM:<a@b.org>", "RCPT TO:<x@far.org>")[
        1:
    ] == [
        "250 2.0.0",
        "250 2.1.0",
        "550 5.7.1",
    ]


@pytest.mark.parametrize(
    "argument",
    ["", "ADDR", "ADDR=", "ADDR=1 ADDR=2", "LOGIN=x",
     "HELO=+0A", "HELO=+zz", "SOURCE=MARS", "NAME=" + "x" * 256],
)  # fmt: skip
def test_what_is_malformed_changes_nothing(front: Any, argument: str) -> None:
    front.say("EHLO c", "XFORWARD ADDR=192.0.2.7")
    assert front.say(f"XFORWARD {argument}".strip()) == ["501 5.5.4"]
    assert front.server._session.origin == (("ADDR", "192.0.2.7"),)


def test_it_has_its_place_in_a_session(front: Any) -> None:
    assert front.say("XFORWARD ADDR=192.0.2.7") == ["503 5.5.1"]
    assert front.say("EHLO c", "MAIL FROM:<a@b.org>", "XFORWARD ADDR=192.0.2.7")[2] == "503 5.5.1"


def test_words_of_other_scripts_survive_the_way() -> None:
    origin = {"NAME": "é+=x", "HELO": "h" * 300, "ADDR": "IPV6:2001:db8::1"}
    lines = commands(origin, ("ADDR", "HELO", "NAME", "IDENT"))
    assert all(len(line) <= 510 for line in lines)
    said: tuple[tuple[str, str], ...] = ()
    for line in lines:
        said = merged(said, line.partition(" ")[2].encode())
    assert dict(said) == {"NAME": "é+=x", "HELO": "h" * 255, "ADDR": "IPV6:2001:db8::1"}
    assert commands(origin, ()) == []
    assert commands({"NAME": "é" * 255}, ("NAME",)) == ["XFORWARD NAME=[UNAVAILABLE]"]
