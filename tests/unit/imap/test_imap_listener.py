"""The door on a real listener: scripted dialogues, the standard library's client, real TLS."""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor
from twisted.internet.threads import deferToThread, deferToThreadPool
from twisted.protocols.tls import TLSMemoryBIOFactory

from lorrainemail.net.tls import CertificatePair, ServerTls
from lorrainemail.store.memory import MemoryContent

DIALOGUES = Path(__file__).parents[2] / "dialogues"
PATIENCE = 20.0


@pytest.fixture
def listen(make_door: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make a door that listens on a free loopback port; ``door.port`` is that."""
    ports: list[Any] = []

    def begin(**settings: Any) -> Any:
        door = make_door(**settings)
        door.factory.clock = reactor
        door.factory.spill_directory = str(tmp_path)
        door.factory.run = partial(deferToThreadPool, reactor, reactor.getThreadPool())  # type: ignore[attr-defined]
        served = door.factory
        if door.factory.implicit_tls:
            served = TLSMemoryBIOFactory(door.factory.tls.context_factory("imaps"), False, door.factory)
        listening = reactor.listenTCP(0, served, interface="127.0.0.1")  # type: ignore[attr-defined]
        ports.append((listening, door))
        door.port = listening.getHost().port
        return door

    yield begin

    async def end() -> None:
        for listening, door in ports:
            await listening.stopListening()
            await door.factory.close_sessions().addTimeout(PATIENCE, reactor)

    from twisted.internet.defer import Deferred

    pytest_twisted.blockon(Deferred.fromCoroutine(end()))


# -- dialogues ---------------------------------------------------------------------------------------


def setup(door: Any, lines: list[str]) -> list[str]:
    """Deliver the messages at the beginning of a dialogue; what is left of it."""
    position = 0
    while position < len(lines) and not lines[position].startswith(("C:", "S:")):
        line = lines[position]
        position += 1
        if line.startswith("= deliver "):
            _, _, folder, *flags = line.split(" ")
            body = []
            while position < len(lines) and lines[position].startswith("|"):
                body.append(lines[position][2:])
                position += 1
            content = MemoryContent("".join(text + "\r\n" for text in body).encode())
            words = " ".join(flags).strip("()").split()
            door.folder(folder).append(content, words, None)
    return [line for line in lines[position:] if line.startswith(("C:", "S:"))]


def play(port: int, lines: list[str]) -> None:
    """The client's side, in a thread; fails with the first line that differs."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        stream = connection.makefile("rwb")
        for number, line in enumerate(lines, 1):
            text = line[3:]
            if line.startswith("C:"):
                stream.write(text.encode() + b"\r\n")
                stream.flush()
                continue
            got = stream.readline()
            if text == "<end>":
                assert got == b"", f"line {number}: the connection should be closed, not {got!r}"
                continue
            assert got.endswith(b"\r\n"), f"line {number}: {got!r} where {text!r} was expected"
            expression = ".*".join(map(re.escape, text.split("…")))
            said = got.decode("utf-8")[:-2]
            assert re.fullmatch(expression, said), f"line {number}: {said!r} where {text!r} was expected"


@pytest.mark.parametrize("path", sorted(DIALOGUES.glob("imap*.txt")), ids=lambda path: path.stem)
@pytest_twisted.ensureDeferred
async def test_the_dialogue_goes_as_written(path: Path, listen: Callable[..., Any]) -> None:
    door = listen()
    text = await deferToThread(path.read_text, "utf-8")
    lines = setup(door, text.splitlines())
    assert lines
    await deferToThread(play, door.port, lines)


# -- a client ----------------------------------------------------------------------------------------

MESSAGE = b"From: a@b\r\nSubject: hello\r\n\r\nline\r\n.\r\n\r\nlast\r\n"


def use_imaplib(client: imaplib.IMAP4) -> None:
    client.login("bob", 'se"sa\\me')
    assert client.select()[1] == [b"0"]
    answer = client.append("INBOX", "(\\Flagged)", imaplib.Time2Internaldate(86400.0), MESSAGE)
    assert answer[0] == "OK" and b"APPENDUID" in answer[1][0]
    client.noop()
    kind, data = client.fetch("1", "(UID FLAGS BODY.PEEK[])")
    assert kind == "OK" and data[0][1] == MESSAGE
    assert client.uid("SEARCH", None, "SUBJECT", "hello")[1] == [b"1"]
    assert client.store("1", "+FLAGS", "(\\Deleted)")[0] == "OK"
    assert client.copy("1", "Sent")[0] == "OK"
    assert client.expunge()[1] == [b"1"]
    assert client.status("Sent", "(MESSAGES)")[1] == [b"Sent (MESSAGES 1)"]
    assert b'(\\HasNoChildren \\Sent) "/" Sent' in client.list()[1]
    assert client.create('"a b"')[0] == "OK"
    assert client.select('"a b"')[0] == "OK"
    assert client.close()[0] == "OK"
    assert client.logout()[0] == "BYE"


@pytest_twisted.ensureDeferred
async def test_imaplib_does_its_work(listen: Callable[..., Any]) -> None:
    door = listen()
    await deferToThread(lambda: use_imaplib(imaplib.IMAP4("127.0.0.1", door.port, timeout=PATIENCE)))
    assert door.counter.open == 0


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[ServerTls, ssl.SSLContext]:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost", "127.0.0.1")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    for index, pem in enumerate(leaf.cert_chain_pems):
        pem.write_to_path(tmp_path / "chain.pem", append=index > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    pair = CertificatePair(str(tmp_path / "chain.pem"), str(tmp_path / "key.pem"))
    return ServerTls([pair]), context


@pytest_twisted.ensureDeferred
async def test_starttls_then_login(
    listen: Callable[..., Any], certificates: tuple[ServerTls, ssl.SSLContext]
) -> None:
    server, context = certificates
    door = listen(tls=server, plaintext=False)

    def work() -> None:
        client = imaplib.IMAP4("127.0.0.1", door.port, timeout=PATIENCE)
        assert "LOGINDISABLED" in client.capabilities
        with pytest.raises(imaplib.IMAP4.error):
            client.login("bob", "sesame")
        client.starttls(context)
        assert "AUTH=PLAIN" in client.capabilities and "STARTTLS" not in client.capabilities
        use_imaplib(client)

    await deferToThread(work)
    session = door.authenticator.asked[0][2]
    assert session.tls is not None and session.tls.version.startswith("TLSv1.")


@pytest_twisted.ensureDeferred
async def test_tls_from_the_first_octet(
    listen: Callable[..., Any], certificates: tuple[ServerTls, ssl.SSLContext]
) -> None:
    server, context = certificates
    door = listen(door="imaps", tls=server, plaintext=False)
    door.folder().append(MemoryContent(b"Subject: big\r\n\r\n" + b"y" * 3_000_000 + b"\r\n"), (), None)

    def work() -> None:
        client = imaplib.IMAP4_SSL("127.0.0.1", door.port, ssl_context=context, timeout=PATIENCE)
        assert "STARTTLS" not in client.capabilities and "AUTH=PLAIN" in client.capabilities
        client.login("bob", "sesame")
        client.select()
        assert len(client.fetch("1", "(BODY[TEXT])")[1][0][1]) == 3_000_002
        client.store("1", "+FLAGS.SILENT", "(\\Deleted)")
        client.expunge()
        client.logout()

    await deferToThread(work)
    assert door.authenticator.asked[0][2].door == "imaps"
    assert door.authenticator.asked[0][2].tls is not None


@pytest_twisted.ensureDeferred
async def test_a_client_that_never_reads_holds_little_and_harms_nobody(listen: Callable[..., Any]) -> None:
    door = listen()
    for _ in range(40):
        door.folder().append(MemoryContent(b"Subject: x\r\n\r\n" + b"y" * 1_000_000 + b"\r\n"), (), None)

    def stuck() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE)
        connection.sendall(b"a LOGIN bob sesame\r\nb SELECT INBOX\r\nc FETCH 1:* BODY.PEEK[]\r\n")
        return connection

    def reader() -> int:
        client = imaplib.IMAP4("127.0.0.1", door.port, timeout=PATIENCE)
        client.login("bob", "sesame")
        client.select()
        _, data = client.fetch("1:10", "(BODY.PEEK[])")
        client.logout()
        return sum(len(item[1]) for item in data if isinstance(item, tuple))

    connections = [await deferToThread(stuck) for _ in range(3)]
    try:
        assert await deferToThread(reader) == 10 * (1_000_000 + 16)
        for session in door.factory._sessions:
            transport: Any = session.transport
            held = len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer))
            assert held < 500_000
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + PATIENCE
    while door.counter.open and time.monotonic() < deadline:
        await deferToThread(time.sleep, 0.01)
    assert door.counter.open == 0 and door.folder().users == 0
