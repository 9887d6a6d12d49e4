"""The HTTP door on real sockets: bounds, security headers, and peers that do not behave."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from lorrainemail.config.model import Settings
from lorrainemail.http.door import IDLE, LIFE, MAX_BODY, HttpFactory
from lorrainemail.http.exchange import Answer, Question
from lorrainemail.http.mta_sts import Policies
from lorrainemail.http.offers import offers
from lorrainemail.http.site import Site
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.tls import CertificatePair, ServerTls

reactor: Any = installed_reactor
TIMEOUT = 10


class Tables:
    def current(self) -> Tables:
        return self

    def is_local(self, domain: str) -> bool:
        return domain == "ours.test"


def make_factory(tmp_path: Path, clock: Any = reactor, **more: Any) -> HttpFactory:
    settings = Settings(hostname="mail.ours.test", state=str(tmp_path))
    doors = offers("mail.ours.test", [("imaps", 993), ("submissions", 465)])
    site = Site("mail.ours.test", cast(Any, Tables()), Policies(settings), doors, {"token": "answer"}, clock)
    return HttpFactory("https", site, clock, ConnectionCounter(10, 3), **{"secure": True, **more})


class Client:
    """A connection without a socket."""

    def __init__(self, factory: HttpFactory) -> None:
        self.transport = StringTransport()
        self.channel = factory.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def say(self, data: bytes) -> bytes:
        self.channel.dataReceived(data)
        said = self.transport.value()
        self.transport.clear()
        return said

    def go(self) -> None:
        self.channel.connectionLost(Failure(connectionDone.value))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(tmp_path: Path, clock: Clock) -> Iterator[Client]:
    made = Client(make_factory(tmp_path, clock))
    yield made
    made.go()
    assert not clock.getDelayedCalls()


GET = b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: MTA-STS.ours.test:443\r\n\r\n"


def test_every_answer_has_its_length_and_the_fields_that_keep_browsers_from_guessing(client: Client) -> None:
    head, _, body = client.say(GET).partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert head.startswith(b"HTTP/1.1 200 ") and body.startswith(b"version: STSv1\r\n")
    assert int(fields[b"content-length"]) == len(body)
    assert fields[b"x-content-type-options"] == b"nosniff"
    assert fields[b"cache-control"] == b"no-store"
    assert b"strict-transport-security" not in fields and b"server" not in fields
    assert b" 404 " in client.say(GET.replace(b"mta-sts.txt", b"other"))
    head, _, body = client.say(GET.replace(b"GET", b"HEAD")).partition(b"\r\n\r\n")
    assert body == b"" and b"Content-Length: 68" in head


def test_clients_are_told_to_come_by_tls_alone_only_with_a_certificate_that_they_accept(
    tmp_path: Path,
) -> None:
    it = Client(make_factory(tmp_path, Clock(), strict=lambda: True))
    assert b"\r\nStrict-Transport-Security: max-age=" in it.say(GET)
    it.go()


@pytest.mark.parametrize("method", [b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"get"])
def test_other_methods_are_not_implemented(client: Client, method: bytes) -> None:
    assert b"HTTP/1.1 501 " in client.say(GET.replace(b"GET", method))


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(client: Client) -> None:
    head = b"POST /autodiscover/autodiscover.xml HTTP/1.1\r\nHost: ours.test\r\nContent-Length: 70000\r\n\r\n"
    assert client.say(head).startswith(b"HTTP/1.1 413 ")
    assert client.transport.disconnecting
    assert client.say(b"x" * 70000) == b""


def test_a_body_of_chunks_without_end_is_cut_off(client: Client) -> None:
    head = b"POST /autodiscover/autodiscover.xml HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = client.say(head)
    for _ in range(MAX_BODY // 4096 + 2):
        said += client.say(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    assert said.startswith(b"HTTP/1.1 413 ") and said.count(b"HTTP/1.1") == 1
    assert client.transport.disconnecting


def test_a_whole_oversized_request_in_one_packet_is_refused_too(client: Client) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 66000\r\n\r\n"
    assert client.say(head + b"x" * 66000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"GET /" + b"x" * 17000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_too_much_or_no_request_ends_the_connection(client: Client, data: bytes) -> None:
    said = client.say(data)
    assert said.startswith(b"HTTP/1.1 400 ") or (said == b"" and len(data) > 16384)
    assert client.transport.disconnecting


def test_who_says_nothing_or_drips_is_let_go(client: Client, clock: Clock) -> None:
    client.say(b"GET / HTTP/1.1\r\n")
    for _ in range(int(LIFE // (IDLE / 2)) - 1):
        clock.advance(IDLE / 2)
        client.say(b"X: y\r\n")
    assert not client.transport.disconnected
    clock.advance(IDLE / 2 + 1)
    assert client.transport.disconnected


def test_a_page_that_fails_tells_nobody_why(tmp_path: Path) -> None:
    factory = make_factory(tmp_path, Clock())

    async def fail(question: Question) -> Answer:
        raise RuntimeError("a secret")

    factory.site.answer = fail  # type: ignore[method-assign]
    it = Client(factory)
    said = it.say(GET)
    assert said.startswith(b"HTTP/1.1 500 ") and b"secret" not in said
    it.go()


def test_a_page_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    clock = Clock()
    factory = make_factory(tmp_path, clock)

    async def wait(question: Question) -> Answer:
        await Deferred()
        raise AssertionError

    factory.site.answer = wait  # type: ignore[method-assign]
    patient, gone = Client(factory), Client(factory)
    assert (patient.say(GET), gone.say(GET)) == (b"", b"")
    gone.go()
    clock.advance(21)
    assert patient.transport.value().startswith(b"HTTP/1.1 500 ")
    patient.go()
    assert not clock.getDelayedCalls()


def test_connections_from_one_network_are_bounded_and_closing_waits_for_answers(tmp_path: Path) -> None:
    factory = make_factory(tmp_path, Clock())
    clients = [Client(factory) for _ in range(4)]
    assert [one.transport.disconnected for one in clients] == [False, False, False, True]
    done: list[Any] = []
    factory.close_sessions().addCallback(done.append)
    assert [one.transport.disconnecting for one in clients[:3]] == [True] * 3
    for one in clients:
        one.go()
    assert done == [None]


def test_a_hundred_requests_are_enough_for_one_connection(client: Client) -> None:
    answers = client.say(GET * 101)
    assert answers.count(b"HTTP/1.1 200") == 100
    assert client.transport.disconnecting


@pytest_twisted.ensureDeferred
async def test_who_came_for_a_challenge_by_tls_gets_no_page(tmp_path: Path) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("mail.ours.test")
    (tmp_path / "both.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    tls = ServerTls([CertificatePair(str(tmp_path / "both.pem"), str(tmp_path / "both.pem"))])
    from lorrainemail.certs.challenges import alpn_answer

    tls.answer_challenge("mail.ours.test", *alpn_answer("mail.ours.test", "key", reactor.seconds()))
    factory = make_factory(tmp_path)
    context: Any = tls.context_factory("https")
    port = reactor.listenTCP(0, TLSMemoryBIOFactory(context, False, factory), interface="127.0.0.1")
    where = ("127.0.0.1", port.getHost().port)

    def ask() -> tuple[str | None, bytes]:
        import socket

        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
        ours.set_alpn_protocols(["acme-tls/1"])
        plain = socket.create_connection(where, timeout=TIMEOUT)
        with ours.wrap_socket(plain, server_hostname="mail.ours.test") as secured:
            secured.sendall(GET)
            return secured.selected_alpn_protocol(), secured.recv(100)

    assert await deferToThread(ask) == ("acme-tls/1", b"")
    await maybeDeferred(port.stopListening)
    await factory.close_sessions().addTimeout(TIMEOUT, reactor)


class Asker(Protocol):
    """Unused input is kept."""

    def __init__(self) -> None:
        self.data = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


@pytest_twisted.ensureDeferred
async def test_a_request_over_a_real_socket_is_answered(tmp_path: Path) -> None:
    factory = make_factory(tmp_path)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    point = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    asker: Any = await connectProtocol(point, Asker())
    asker.transport.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    await asker.lost.addTimeout(TIMEOUT, reactor)
    assert asker.data.startswith(b"HTTP/1.1 200 ")
    await maybeDeferred(port.stopListening)
