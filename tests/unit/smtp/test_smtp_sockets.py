"""Doors on real sockets, with a client that knows nothing of us (smtplib)."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory

from lorrainemail.net.tls import CertificatePair, ServerTls
from lorrainemail.smtp.factory import SmtpFactory

T = TypeVar("T")
reactor: Any = global_reactor
PATIENCE = 20.0


def in_thread(work: Callable[[], T]) -> Deferred[T]:
    return deferToThread(work).addTimeout(PATIENCE, reactor)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    issued = authority.issue_cert("mail.ours.test")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "pair.pem"))
    return authority


@pytest.fixture
def serve(world: Any, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Open the world's door on loopback; the port."""
    ports = []
    world.clock = reactor

    def serve(implicit_tls: bool = False) -> int:
        factory: Any = SmtpFactory(world.door)
        if implicit_tls:
            factory = TLSMemoryBIOFactory(world.tls, False, factory)
        ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        return int(ports[-1].getHost().port)

    yield serve
    for port in ports:
        pytest_twisted.blockon(port.stopListening())
    gone = world.door.shut_down().addTimeout(PATIENCE, reactor)
    pytest_twisted.blockon(gone.addErrback(lambda _: pytest.fail("sessions that do not end")))
    world.clock = Clock()


def tls_of(tmp_path: Path) -> Any:
    pair = CertificatePair(str(tmp_path / "pair.pem"), str(tmp_path / "pair.pem"))
    return ServerTls((pair,)).context_factory("submission")


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


class Smtp(smtplib.SMTP):
    """Checks certificates against the name of the server, wherever it really is."""

    def connect(self, host: str = "", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        answer = super().connect(host, port)
        self._host = "mail.ours.test"
        return answer


@pytest_twisted.ensureDeferred
async def test_ordinary_client_sends_a_large_message(world: Any, serve: Any) -> None:
    port = serve()
    body = "Subject: x\r\n\r\n" + (".dots\r\n" + "é" * 400 + "\r\n") * 800

    def work() -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
            client.sendmail("carole@elorac.test", ["bob@ours.test"], body.encode(), ["BODY=8BITMIME"])

    await in_thread(work)
    assert world.intake.wires == [body.encode()]
    assert world.intake.taken[0].envelope.body == "8BITMIME"


@pytest_twisted.ensureDeferred
async def test_starttls_then_login_then_mail(world: Any, serve: Any, authority: Any, tmp_path: Path) -> None:
    world.submission().configure(plaintext_login=False)
    world.tls = tls_of(tmp_path)
    port = serve()

    def work() -> str:
        with Smtp("127.0.0.1", port, timeout=PATIENCE) as client:
            client.starttls(context=trusting(authority))
            client.ehlo("laptop.test")
            client.login("anne@ours.test", "secret")
            client.sendmail("anne@ours.test", ["bob@ours.test"], b"From: anne@ours.test\r\n\r\nhi\r\n")
            return str(client.sock.version())

    version = await in_thread(work)
    session = world.intake.taken[0].session
    assert session.tls.version == version
    assert session.tls.server_name == "mail.ours.test"
    assert (session.helo, session.account) == ("laptop.test", "anne@ours.test")


@pytest_twisted.ensureDeferred
async def test_implicit_tls_door_says_nothing_in_clear_text(
    world: Any, serve: Any, authority: Any, tmp_path: Path
) -> None:
    world.submission().configure(door="submissions", plaintext_login=False)
    world.tls = tls_of(tmp_path)
    port = serve(implicit_tls=True)

    def work() -> bytes:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
            client = trusting(authority).wrap_socket(raw, server_hostname="mail.ours.test")
            seen = client.recv(100)
            client.sendall(b"EHLO c\r\n")
            return seen + client.recv(1000)

    text = await in_thread(work)
    assert text.startswith(b"220 mail.ours.test ESMTP")
    assert b"AUTH PLAIN LOGIN" in text
    assert b"STARTTLS" not in text


@pytest_twisted.ensureDeferred
async def test_plaintext_behind_starttls_never_becomes_a_command(
    world: Any, serve: Any, authority: Any, tmp_path: Path
) -> None:
    world.tls = tls_of(tmp_path)
    port = serve()

    def work() -> bytes:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
            raw.recv(100)
            raw.sendall(b"EHLO c\r\n")
            raw.recv(1000)
            raw.sendall(b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@x.test>\r\n")
            assert raw.recv(100).startswith(b"220 ")
            client = trusting(authority).wrap_socket(raw, server_hostname="mail.ours.test")
            client.sendall(b"RCPT TO:<bob@ours.test>\r\n")
            return client.recv(1000)

    assert (await in_thread(work)).startswith(b"503 5.5.1 ")


@pytest_twisted.ensureDeferred
async def test_replies_that_nobody_reads_stop_the_reading_of_commands(world: Any, serve: Any) -> None:
    world.configure(errors=10**9)
    port = serve()
    sent = 0

    def work() -> int:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.settimeout(1.0)
            nonlocal sent
            try:
                while sent < 200_000_000:
                    sent += raw.send(b"X\r\n" * 20_000)
            except TimeoutError:
                return sent
            return -1

    assert 0 < await in_thread(work) < 100_000_000
