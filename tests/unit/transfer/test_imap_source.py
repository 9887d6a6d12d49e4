"""An IMAP server that lies, drips or floods costs an import a word, not its memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorrainemail.transfer import imap
from lorrainemail.transfer.imap import ImapSource, Login
from lorrainemail.transfer.sources import SourceError

Answer = Callable[[bytes], bytes]


class Server(threading.Thread):
    """Says what it is told to, a line of untagged data for each command; then OK."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(daemon=True)
        self.answer = answer
        self.commands: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            try:
                with client, client.makefile("rwb") as stream:
                    self._talk(stream)
            except OSError:
                continue  # it had enough

    def _talk(self, stream: object) -> None:
        stream.write(b"* OK [CAPABILITY IMAP4rev1] hello\r\n")  # type: ignore[attr-defined]
        stream.flush()  # type: ignore[attr-defined]
        for line in stream:  # type: ignore[attr-defined]
            tag, _, command = line.strip().partition(b" ")
            self.commands.append(command)
            stream.write(self.answer(command) + tag + b" OK done\r\n")  # type: ignore[attr-defined]
            stream.flush()  # type: ignore[attr-defined]
            if command == b"LOGOUT":
                return


@pytest.fixture
def make_source(tmp_path: Path) -> Iterator[Callable[[Answer], tuple[ImapSource, Server]]]:
    servers: list[Server] = []
    sources: list[ImapSource] = []

    def make(answer: Answer) -> tuple[ImapSource, Server]:
        server = Server(answer)
        servers.append(server)
        source = ImapSource(Login("127.0.0.1", server.port, "none", "bob", "secret"), str(tmp_path))
        sources.append(source)
        return source, server

    yield make
    for source in sources:
        source.close()
    for server in servers:
        server.listening.shutdown(socket.SHUT_RDWR)
        server.listening.close()
        server.join(10)


def plain(command: bytes) -> bytes:
    """A small, honest server with two messages."""
    if command.startswith(b"LIST"):
        return b'* LIST (\\HasNoChildren) "/" INBOX\r\n* LIST (\\All) "/" "[Gmail]/All Mail"\r\n'
    if command.startswith(b"STATUS"):
        return b'* STATUS "INBOX" (UIDVALIDITY 9 UIDNEXT 8)\r\n'
    if command.startswith(b"EXAMINE"):
        return b"* 2 EXISTS\r\n* OK [UIDVALIDITY 9] x\r\n"
    if command.startswith(b"FETCH"):
        return b"* 1 FETCH (UID 4)\r\n* 2 FETCH (UID 7)\r\n"
    if b"RFC822.SIZE" in command:
        line = (
            b'* %d FETCH (UID %d RFC822.SIZE 12 FLAGS (\\Seen) INTERNALDATE " 1-Feb-2020 00:00:00 +0000")\r\n'
        )
        return line % (1, 4) + line % (2, 7)
    if b"BODY.PEEK" in command:
        return (
            b"* 1 FETCH (BODY[] {11}\r\nA: b\r\n\r\nc\r\n UID 4)\r\n* 2 FETCH (UID 7 BODY[] {3}\r\nx\r\n)\r\n"
        )
    return b""


def test_an_honest_server_is_read_without_changing_anything(
    make_source: Callable[[Answer], tuple[ImapSource, Server]],
) -> None:
    source, server = make_source(plain)
    (inbox,) = source.folders()
    assert (inbox.name, inbox.uid_validity, inbox.uid_next) == ("INBOX", 9, 8)
    marks = source.marks(inbox)
    found = {one.uid: (one.flags, one.date, b"".join(one.octets())) for one in source.messages(inbox, marks)}
    assert found[4] == (("\\Seen",), 1580515200, b"A: b\r\n\r\nc\r\n")
    assert found[7][2] == b"x\r\n"
    assert not [command for command in server.commands if command.startswith((b"SELECT", b"UID STORE"))]


@pytest.mark.parametrize("flood", [b"* 1 FETCH (UID 4 BODY[] {99999999999}\r\n", b"* 1 EXISTS\r\n" * 4000])
def test_a_flood_is_refused_before_it_is_in_memory(
    make_source: Callable[[Answer], tuple[ImapSource, Server]], monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    monkeypatch.setattr(imap, "MAX_ANSWER", 20_000)
    source, _ = make_source(lambda command: flood if b"RFC822.SIZE" in command else plain(command))
    (inbox,) = source.folders()
    with pytest.raises(SourceError, match="sends more than"):
        list(source.messages(inbox, source.marks(inbox)))


def test_nonsense_is_left_out(make_source: Callable[[Answer], tuple[ImapSource, Server]]) -> None:
    def answer(command: bytes) -> bytes:
        if b"RFC822.SIZE" in command:
            return (
                b'* 1 FETCH (UID 4 RFC822.SIZE 12 INTERNALDATE "99-Foo-2020 00:00:00 +0000")\r\n* FETCH x\r\n'
            )
        if b"BODY.PEEK" in command:
            return b"* 1 FETCH (BODY[] {11}\r\nA: b\r\n\r\nc\r\n UID 4)\r\n* 5 FETCH (UID 99 BODY[] NIL)\r\n"
        return plain(command)

    source, _ = make_source(answer)
    (inbox,) = source.folders()
    (only,) = source.messages(inbox, source.marks(inbox))
    assert (only.uid, only.flags, only.date) == (4, (), 0)


def test_a_password_goes_nowhere_else_without_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(plain)
    monkeypatch.setattr(imap, "is_loopback", lambda connection: False)
    with pytest.raises(SourceError, match="needs TLS"):
        ImapSource(Login("127.0.0.1", server.port, "none", "bob", "secret"), str(tmp_path))
    assert not [command for command in server.commands if b"secret" in command]
    server.listening.shutdown(socket.SHUT_RDWR)
    server.listening.close()
    server.join(10)
