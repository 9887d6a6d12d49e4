"""Hostile clients against a real server: a right reply or a closed connection, and others are served."""

from __future__ import annotations

import contextlib
import imaplib
import poplib
import smtplib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

PASSWORD = "correct horse battery"
MESSAGE = b"From: a@b.test\r\nSubject: x\r\n\r\nx\r\n"
TIME = 30


def connect(server: Any, source: str = "") -> socket.socket:
    where = (source, 0) if source else None
    return socket.create_connection((server.address, 2525), TIME, where)


def talk(server: Any, octets: bytes, source: str = "") -> bytes:
    """Send it all, close our half, and read to the end."""
    with connect(server, source) as connection:

        def send() -> None:
            # The server may have closed before it took all.
            with contextlib.suppress(OSError):
                connection.sendall(octets)
                connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(1 << 16):
                said += more
        sender.join(TIME)
        assert not sender.is_alive()
        return said


def resident(server: Any) -> int:
    """Octets of memory that the server holds."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def delivered(server: Any, count: int = 1) -> bytes:
    """An honest client is served all the same; the newest message."""
    with smtplib.SMTP(server.address, 2525, timeout=TIME, source_address=("127.0.0.99", 0)) as smtp:
        smtp.sendmail("carole@elorac.test", ["bob@ours.test"], MESSAGE)
    return bytes(server.wait_for_messages("bob@ours.test", count)[-1])


def test_commands_without_end_or_beyond_measure(make_server: Callable[..., Any]) -> None:
    server = make_server()
    before = resident(server)
    rcpts = b"".join(b"RCPT TO:<bob@ours.test>\r\n" for _ in range(20_000))
    said = talk(
        server, b"EHLO c\r\nMAIL FROM:<a@b.test>\r\n" + rcpts + b"DATA\r\n" + MESSAGE + b".\r\nQUIT\r\n"
    )
    assert said.count(b"\r\n250 2.1.5") == 1000 and said.count(b"\r\n452 4.5.3") == 19_000
    assert b"\r\n250 2.0.0 Delivered" in said and said.endswith(b"221 2.0.0 Bye\r\n")
    assert len(server.wait_for_messages("bob@ours.test", 1)) == 1  # once, however often it was named

    said = talk(server, b"EHLO c\r\n" + b"NOOP\r\n" * 10_000)
    assert said.endswith(b"421 4.7.0 Too many errors, closing connection\r\n") and said.count(b"\r\n") < 150
    said = talk(server, b"EHLO c\r\n" + b"FOO\r\n" * 10_000)
    assert said.endswith(b"421 4.7.0 Too many errors, closing connection\r\n") and said.count(b"\r\n") < 60
    said = talk(server, b"EHLO c\r\n" + b"MAIL FROM:<a@b.test>\r\nRSET\r\n" * 5_000)
    assert b"421 4.7.0" in said

    said = talk(server, b"EHLO " + b"x" * (8 << 20) + b"\r\nNOOP\r\n")
    assert said.endswith(b"500 5.5.2 Line too long\r\n250 2.0.0 OK\r\n")
    talk(server, b"x" * (8 << 20))
    assert delivered(server, 2)
    assert resident(server) - before < 40 << 20


def test_octets_that_no_command_has(make_server: Callable[..., Any]) -> None:
    server = make_server()
    for line, code in (
        (b"MAIL FROM:<a\0b@c.test>", b"501 "),
        (b"MAIL FROM:<a@b.test> SIZE=1\0", b"501 "),
        (b"MAIL\0FROM:<a@b.test>", b"500 "),
        (b"\0\0\0\0", b"500 "),
        (b"M\xc4IL FROM:<a@b.test>", b"500 "),
        (b"MAIL FROM:<\xe9@b.test>", b"501 "),
        ("MAIL FROM:<é@b.test>".encode(), b"553 5.6.7"),
        (b"NOOP\rNOOP", b"500 "),
        (b"VRFY \xff\xfe", b"252 "),
        (b"EHLO a\0b", b"501 "),
        (b"EHLO \xe9", b"501 "),
    ):
        said = talk(server, b"EHLO c\r\n" + line + b"\r\nNOOP\r\n").split(b"\r\n")
        assert said[-3].startswith(code) and said[-2].startswith(b"250 2.0.0"), (line, said)


def test_messages_with_nul_octets_and_large_headers_come_back_as_they_were(
    make_server: Callable[..., Any],
) -> None:
    server = make_server(configuration='[auth]\nplaintext = "loopback"\n')
    folded = b"X-Long: a\r\n" + b" \tfolded \x01\x7f\xe9 line\r\n" * 30_000
    many = b"".join(b"X-Field-%d: value\r\n" % n for n in range(30_000))
    messages = [
        b"Subject: n\0l\r\nX: \0\r\n\r\n\0\0a\0\r\n.\r\n..\r\n\0\r\n",
        folded + many + b"Subject: large\r\n\r\nbody\r\n",
        b"X-One: " + b"y" * (1 << 20) + b"\r\nSubject: one line\r\n\r\nbody\r\n",
        b"\r\nno header\r\n",
    ]
    assert len(messages[1]) > 1 << 20
    for wire in messages:
        stuffed = (b"\r\n" + wire).replace(b"\r\n.", b"\r\n..")[2:]
        said = talk(
            server,
            b"EHLO c\r\nMAIL FROM:<a@b.test> BODY=8BITMIME\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n"
            + stuffed
            + b".\r\nQUIT\r\n",
        )
        assert b"\r\n250 2.0.0 Delivered" in said, said[-300:]
    stored = server.wait_for_messages("bob@ours.test", len(messages))
    for wire in messages:
        assert any(one.endswith(wire.replace(b"\r\n", b"\n")) for one in stored)
    poplib._MAXLINE = 2 << 20  # type: ignore[attr-defined]
    pop = poplib.POP3(server.address, 2110, timeout=TIME)
    pop.user("bob@ours.test")
    pop.pass_(PASSWORD)
    retrieved = [b"\r\n".join(pop.retr(n + 1)[1]) + b"\r\n" for n in range(len(messages))]
    pop.quit()
    imap = imaplib.IMAP4(server.address, 2143, timeout=TIME)
    imap.login("bob@ours.test", PASSWORD)
    imap.select("INBOX", readonly=True)
    fetched = [imap.fetch(str(n + 1), "(BODY.PEEK[])")[1][0][1] for n in range(len(messages))]  # type: ignore[index]
    imap.logout()
    for wire in messages:
        assert any(one.endswith(wire) for one in retrieved)
        # RFC 3501 §9: no literal has a NUL.
        assert any(one.endswith(wire.replace(b"\0", b"\x80")) for one in fetched)  # type: ignore[union-attr]


def test_a_thousand_connections_of_one_peer_leave_room_for_others(make_server: Callable[..., Any]) -> None:
    server = make_server(configuration="[limits]\nconnections_per_peer = 20\n")
    held, refused = [], 0
    try:
        for _ in range(1000):
            connection = connect(server, "127.0.0.66")
            said = connection.recv(200)
            if said.startswith(b"220"):
                held.append(connection)
            else:
                assert said.startswith(b"421 4.7.0 Too many connections from your network") or not said
                refused += 1
                connection.close()
        assert (len(held), refused) == (20, 980)
        assert delivered(server)
        # One octet each of them now and then changes nothing for others.
        for connection in held:
            connection.sendall(b"E")
        assert delivered(server, 2)
    finally:
        for connection in held:
            connection.close()
    # Half open: their half is closed without a word; they are let go, and count no more.
    server.wait(lambda: connect_and_greet(server), "room for the peer again")


def connect_and_greet(server: Any) -> bool:
    with connect(server, "127.0.0.66") as connection:
        return connection.recv(200).startswith(b"220")


def test_a_client_in_a_pipe_gets_its_answers(make_server: Callable[..., Any]) -> None:
    server = make_server()
    assert talk(server, b"EHLO c\r\n").endswith(b"STARTTLS\r\n")
    with connect(server, "127.0.0.78") as polite:
        assert polite.recv(200).startswith(b"220")
        polite.sendall(
            b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@ours.test>\r\nDATA\r\n" + MESSAGE + b".\r\n"
        )
        polite.shutdown(socket.SHUT_WR)
        with polite.makefile("rb") as file:
            assert b"\r\n250 2.0.0 Delivered" in file.read()
