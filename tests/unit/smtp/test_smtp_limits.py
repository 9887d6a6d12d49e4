"""What one client cannot do to the server: every bound of a session, by count and by the clock."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ISSLTransport
from zope.interface import alsoProvides

from lorrainemail.errors import Reply
from lorrainemail.smtp.connection import COMMANDS_A_TURN, LAST_WORD, MAX_PIPELINED
from lorrainemail.smtp.session import MAX_IDLE_COMMANDS


def test_command_line_over_the_limit_is_refused_and_not_kept(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\n")
    assert client.send("MAIL FROM:<" + "x" * 3000) == ""
    assert client.send("y" * 100_000) == ""
    assert client.server._input == b""
    assert client.send("\r\nNOOP\r\n") == "500 5.5.2 Line too long\r\n250 2.0.0 OK\r\n"


def test_longest_lawful_command_is_taken(world: Any) -> None:
    client = world.connect()
    assert client.send("NOOP " + "x" * (512 - 7) + "\r\n") == "250 2.0.0 OK\r\n"


def test_line_without_cr_is_answered_at_once_and_not_executed(world: Any) -> None:
    client = world.connect()
    assert client.send("EHLO c\nMAIL FROM:<>\n") == "500 5.5.2 Lines must end with CRLF\r\n" * 2
    assert client.send("NO\rOP\r\n") == "500 5.5.2 Lines must end with CRLF\r\n"
    assert client.send("NOOP\r\r\n") == "500 5.5.2 Lines must end with CRLF\r\n"
    assert client.say("MAIL FROM:<>") == ["503 5.5.1"]


def test_too_many_recipients_are_put_off_not_refused(world: Any) -> None:
    world.configure(recipients=2)
    client = world.connect()
    client.say("EHLO c", "MAIL FROM:<>")
    assert client.say(*["RCPT TO:<bob@ours.test>"] * 4) == ["250 2.1.5"] * 2 + ["452 4.5.3"] * 2


def test_too_many_errors_end_the_session(world: Any) -> None:
    world.configure(errors=3)
    client = world.connect()
    assert client.say("X", "X", "X", "X") == ["500 5.5.2"] * 3 + ["421 4.7.0"]
    assert client.closing
    assert client.send("NOOP\r\n") == ""


def test_delivered_message_forgives_errors(world: Any) -> None:
    world.configure(errors=3)
    client = world.connect()
    client.say("X", "X", "X")
    assert client.mail().startswith("250")
    assert client.say("X", "X", "X") == ["500 5.5.2"] * 3


def test_commands_without_use_end_the_session(world: Any) -> None:
    client = world.connect()
    for _ in range(MAX_IDLE_COMMANDS):
        assert client.say("NOOP") == ["250 2.0.0"]
    assert client.say("RSET") == ["421 4.7.0"]
    assert client.closing


def test_pipelined_commands_leave_the_reactor_to_others(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM:<>\r\n")
    rcpt = "RCPT TO:<bob@ours.test>\r\n"
    assert client.send(rcpt * (COMMANDS_A_TURN * 2 + 5)).count("\r\n") == COMMANDS_A_TURN
    assert client.send("NOOP\r\n") == ""
    world.clock.advance(0)
    turns = [written.count(b"\r\n") for written in client.transport.writes]
    assert turns == [COMMANDS_A_TURN, 6]


def test_input_that_piles_up_behind_a_slow_check_is_not_read(world: Any) -> None:
    slow = world.slow_tables()
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\n")
    client.send(b"NOOP\r\n" * 100)
    assert client.transport.producerState == "producing"
    client.send(b"NOOP " + b"x" * MAX_PIPELINED)
    assert client.transport.producerState == "paused"
    slow.waiting.pop()()
    assert client.read().startswith("250 2.1.5")
    world.clock.advance(0)
    world.clock.advance(0)
    assert client.transport.producerState == "producing"


def test_client_that_does_not_read_its_replies_is_not_read_either(world: Any) -> None:
    client = world.connect()
    assert client.transport.producer is client.server
    client.server.pauseProducing()
    assert client.transport.producerState == "paused"
    assert client.send("NOOP\r\n") == ""
    client.server.resumeProducing()
    assert client.transport.producerState == "producing"
    assert client.read() == "250 2.0.0 OK\r\n"


def test_closing_is_not_held_up_by_a_client_that_does_not_read(world: Any) -> None:
    client = world.connect()
    client.send("QUIT\r\n")
    assert client.transport.producer is None
    world.clock.advance(LAST_WORD - 5)
    assert not client.transport.disconnected
    world.clock.pump([10, 10])
    assert client.transport.disconnected


def test_idle_client_is_told_and_sent_away(world: Any) -> None:
    client = world.connect()
    world.clock.pump([10] * 20)
    client.send("NOOP\r\n")
    world.clock.pump([10] * 29)
    assert client.read() == ""
    world.clock.pump([10] * 3)
    assert client.read().startswith("421 4.4.2 ")
    assert client.closing


def test_idle_client_in_the_middle_of_data_is_sent_away(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    client.send("Subject: x\r\n")
    world.clock.pump([10] * 32)
    assert client.read().startswith("421 4.4.2 ")
    client.lose()
    assert world.intake.taken == []


def test_session_that_drips_for_ever_ends(world: Any) -> None:
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n")
    for _ in range(160):
        if client.closing:
            break
        client.send("x")
        world.clock.pump([10] * 10)
    assert client.read().startswith("421 4.4.2 ")


def test_time_that_we_need_is_not_the_clients(world: Any) -> None:
    pending: Deferred[Reply] = Deferred()
    world.intake.answer = lambda _: pending
    client = world.connect()
    client.mail()
    world.clock.pump([10] * 40)
    assert not client.closing
    pending.callback(Reply(250, "2.0.0", "Done"))
    assert client.read() == "250 2.0.0 Done\r\n"
    world.clock.pump([10] * 20)
    assert not client.closing


def test_connections_from_one_network_are_limited(world: Any) -> None:
    world.configure(connections_per_peer=2)
    one, two = world.connect("198.51.100.7"), world.connect("198.51.100.7")
    refused = world.connect("198.51.100.7")
    assert refused.greeting.startswith("421 4.7.0 ")
    assert refused.closing
    assert world.connect("198.51.100.8").greeting.startswith("220")
    refused.lose()
    two.lose()
    assert world.connect("198.51.100.7").greeting.startswith("220")
    assert one.say("NOOP") == ["250 2.0.0"]


def test_connections_are_limited_in_all(world: Any) -> None:
    world.configure(connections=1)
    world.connect("198.51.100.7")
    assert world.connect("198.51.100.8").greeting.startswith("421 4.7.0 ")


def test_client_that_goes_away_while_a_check_works_harms_nothing(world: Any) -> None:
    slow = world.slow_tables()
    client = world.connect()
    client.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nQUIT\r\n")
    client.lose()
    slow.waiting.pop()()
    assert client.read() == ""


def test_shutdown_lets_a_message_in_our_hands_finish(world: Any) -> None:
    pending: Deferred[Reply] = Deferred()
    world.intake.answer = lambda _: pending
    idle, busy, talking = world.connect(), world.connect(), world.connect()
    idle.send("EHLO c\r\n")
    talking.send("EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\nhalf")
    assert busy.mail() == ""
    gone = []
    world.door.shut_down().addCallback(gone.append)
    assert idle.read().startswith("421 4.3.2 ")
    assert talking.read().startswith("421 4.3.2 ")
    assert busy.read() == ""
    assert world.connect().greeting.startswith("421 4.3.2 ")
    pending.callback(Reply(250, "2.0.0", "Done"))
    assert [line[:9] for line in busy.read().splitlines()] == ["250 2.0.0", "421 4.3.2"]
    for client in world.clients:
        assert client.closing
        assert not gone
        client.lose()
    assert gone == [None]


def test_shutdown_that_is_cancelled_aborts_what_is_left(world: Any) -> None:
    client = world.connect()
    done = world.door.shut_down()
    done.addErrback(lambda _: None)
    done.cancel()
    assert client.transport.disconnected


def test_shutdown_of_an_idle_door_is_immediate(world: Any) -> None:
    assert world.door.shut_down().called


def test_refused_connection_under_tls_costs_no_handshake(world: Any) -> None:
    world.configure(connections=0)
    from lorrainemail.smtp.server import SmtpServer

    client = world.connect()
    assert not client.transport.disconnected
    client.lose()
    transport = type(client.transport)("198.51.100.9")
    alsoProvides(transport, ISSLTransport)
    server = SmtpServer(world.door)
    server.makeConnection(transport)
    assert transport.disconnected
    client.transport, client.server = transport, server
