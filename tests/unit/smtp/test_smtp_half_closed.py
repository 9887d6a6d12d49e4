"""Clients that say everything, close their half and read on, as ``printf ... | nc`` does; and slow ones."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from lorrainemail.errors import Reply
from lorrainemail.smtp.factory import SmtpFactory

MAIL = "EHLO c\r\nMAIL FROM:<a@b.org>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"


def test_replies_to_what_was_said_come_before_the_close(world: Any) -> None:
    answers: list[Deferred[Reply]] = []

    def later(_: object) -> Deferred[Reply]:
        answers.append(Deferred())
        return answers[-1]

    world.intake.answer = later
    client = world.connect()
    assert IHalfCloseableProtocol.providedBy(client.server)
    client.send(MAIL + "NOOP\r\n")
    client.server.readConnectionLost()
    assert not client.closing
    answers[0].callback(Reply(250, "2.0.0", "kept"))
    assert client.read() == "250 2.0.0 kept\r\n250 2.0.0 OK\r\n"
    assert client.closing


def test_an_idle_client_that_closes_its_half_is_let_go(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM")
    client.server.readConnectionLost()
    assert client.closing


def test_half_a_message_is_no_message(world: Any) -> None:
    client = world.connect()
    client.send(MAIL.removesuffix(".\r\n"))
    client.server.readConnectionLost()
    assert client.closing and client.read() == ""
    client.lose()
    assert world.intake.taken == []


def test_many_commands_before_the_close_are_all_answered(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\n" + "MAIL FROM:<a@b.org>\r\nRSET\r\n" * 45)
    client.server.readConnectionLost()
    assert not client.closing
    for _ in range(5):
        world.clock.advance(0)
    assert client.read().count("250 2.0.0") >= 20 and client.closing


def test_octets_now_and_then_do_not_keep_an_unfinished_command_alive(world: Any) -> None:
    """A line, and the rest of one that is too long: one octet a minute for ever."""
    for begun in ("EHLO ", "x" * 5000):
        client = world.connect()
        client.send(begun)
        for _ in range(7):
            world.clock.advance(60)
            client.server.dataReceived(b"x")
        assert "421 4.4.2" in client.read() and client.closing
        client.lose()


@pytest_twisted.ensureDeferred
async def test_a_client_in_a_pipe_gets_its_answers(world: Any) -> None:
    """Over a real socket: shutdown of its half at once behind the commands, answers later."""
    import socket

    def answer(_: object) -> Any:
        return deferLater(reactor, 0.05, lambda: Reply(250, "2.0.0", "kept"))

    world.intake.answer = answer
    port = reactor.listenTCP(0, SmtpFactory(world.door), interface="127.0.0.1")  # type: ignore[attr-defined]

    def pipe() -> bytes:
        with socket.create_connection(("127.0.0.1", port.getHost().port), 10) as connection:
            connection.sendall(MAIL.encode())
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as file:
                return file.read()

    try:
        said = await deferToThread(pipe)
    finally:
        await port.stopListening()
    assert said.endswith(b"\r\n354 End with a dot on a line of its own\r\n250 2.0.0 kept\r\n")
