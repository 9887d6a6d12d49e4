"""POP3 over real sockets: scripted dialogues, poplib, TLS; with the real login over a store in memory.

In a script ``C:`` sends a line, ``C>`` one that goes out together with the next, ``S:`` expects a line (shell
patterns), ``S!`` expects the end of the connection.
"""

from __future__ import annotations

import fnmatch
import poplib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory

from lorrainemail.addresses import parse_address
from lorrainemail.interfaces import Account
from lorrainemail.net.limits import ConnectionCounter
from lorrainemail.net.tls import CertificatePair, ServerTls
from lorrainemail.pop3.factory import Pop3Factory
from lorrainemail.sasl.credentials import hash_password
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.passwords import Passwords
from lorrainemail.sasl.portal import Authenticator, make_portal
from lorrainemail.sasl.throttle import Throttle
from lorrainemail.store.memory import MemoryContent, MemoryStore

reactor: Any = installed_reactor
PATIENCE = 20.0
PASSWORD = "correct horse battery"
BOB = Account(parse_address("bob@bricoleur.com"), credentials=(hash_password(PASSWORD.encode()),))
BIG = b"Subject: big\r\n\r\n" + b"".join(b".line %07d\r\n" % n for n in range(100_000))
MESSAGES = (
    b"Subject: one\r\n\r\nfirst line\r\nsecond line\r\n",
    b"Subject: dots\r\n\r\n.\r\n..two\r\nend\r\n",
    b"Subject: three\r\n\r\nno line end",
)


class Tables:
    """The one account, under its two names."""

    def current(self) -> Tables:
        return self

    def login(self, name: str) -> Account | None:
        return BOB if name in ("bob", "bob@bricoleur.com") else None

    def account(self, address: object) -> Account | None:
        return BOB if str(address) == "bob@bricoleur.com" else None


@attrs.define
class House:
    """Both doors, listening."""

    store: MemoryStore
    factories: dict[str, Pop3Factory]
    ports: dict[str, int]
    trust: ssl.SSLContext

    @property
    def uids(self) -> tuple[int, ...]:
        return tuple(self.store.memory_home(BOB).folder("INBOX").uids())

    def deliver(self, *messages: bytes) -> None:
        for message in messages:
            self.store.placement(BOB, "", b"", MemoryContent(message), "id").commit()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    tls = ServerTls([CertificatePair(str(chain), str(key))])
    store, tables, passwords = MemoryStore(reactor), Tables(), Passwords(reactor)
    door = Authenticator(make_portal(tables, store.home, passwords, Gate(Throttle(reactor), reactor)))  # type: ignore[arg-type]
    factories = {
        "pop3": Pop3Factory("pop3", door, reactor, ConnectionCounter(50, 50), tls, plaintext=True),
        "pop3s": Pop3Factory("pop3s", door, reactor, ConnectionCounter(50, 50), tls),
    }
    wrapped = TLSMemoryBIOFactory(tls.context_factory("pop3s"), False, factories["pop3s"])
    ports = [
        reactor.listenTCP(0, factories["pop3"], interface="127.0.0.1"),
        reactor.listenTCP(0, wrapped, interface="127.0.0.1"),
    ]
    numbers = dict(zip(("pop3", "pop3s"), (port.getHost().port for port in ports), strict=True))
    house = House(store, factories, numbers, trust)
    house.deliver(*MESSAGES)
    yield house
    for port in ports:
        pytest_twisted.blockon(port.stopListening())
    for factory in factories.values():
        pytest_twisted.blockon(factory.close_sessions().addTimeout(PATIENCE, reactor))
    passwords.stopService()


def play(script: Path, port: int) -> None:
    """One script against the server. In a thread."""
    waiting = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        stream = connection.makefile("rb")
        for number, line in enumerate(script.read_text().split("\n"), 1):
            what, _, text = line.partition(" ")
            if what == "C>":
                waiting += text.encode() + b"\r\n"
            elif what == "C:":
                connection.sendall(waiting + text.encode() + b"\r\n")
                waiting = b""
            elif what == "S:":
                got = stream.readline(100_000)
                assert got.endswith(b"\r\n"), f"{script.name}:{number}: got {got!r} for {text!r}"
                assert fnmatch.fnmatchcase(got[:-2].decode(), text), (
                    f"{script.name}:{number}: {got!r} for {text!r}"
                )
            elif what == "S!":
                assert stream.read(1) == b"", f"{script.name}:{number}: the connection stays open"


@pytest.mark.parametrize(
    "script", sorted(Path(__file__).parent.glob("pop3*.txt")), ids=lambda path: path.stem
)
@pytest_twisted.ensureDeferred
async def test_dialogue(house: House, script: Path) -> None:
    await deferToThread(play, script, house.ports["pop3"])
    assert house.uids == ((1, 2) if script.stem == "pop3_session" else (1, 2, 3))


def with_line_end(message: bytes) -> bytes:
    return message if message.endswith(b"\r\n") else message + b"\r\n"


@pytest.mark.parametrize("how", ["plaintext", "stls", "pop3s"])
@pytest_twisted.ensureDeferred
async def test_poplib_collects_every_message_byte_for_byte(house: House, how: str) -> None:
    house.deliver(BIG)

    def collect() -> tuple[list[bytes], list[bytes]]:
        client: poplib.POP3
        if how == "pop3s":
            client = poplib.POP3_SSL("localhost", house.ports["pop3s"], timeout=PATIENCE, context=house.trust)
        else:
            client = poplib.POP3("localhost", house.ports["pop3"], timeout=PATIENCE)
        if how == "stls":
            assert "STLS" in client.capa()
            client.stls(house.trust)
            assert "STLS" not in client.capa()
        client.user("bob@bricoleur.com")
        client.pass_(PASSWORD)
        count, octets = client.stat()
        assert (count, octets) == (4, sum(map(len, (*MESSAGES, BIG))))
        ids = client.uidl()[1]
        found = [b"\r\n".join(client.retr(n)[1]) + b"\r\n" for n in range(1, count + 1)]
        for number in range(1, count + 1):
            client.dele(number)
        client.quit()
        return found, ids

    found, ids = await deferToThread(collect)
    assert found == [with_line_end(message) for message in (*MESSAGES, BIG)]
    assert len(set(ids)) == 4
    assert house.uids == ()


@pytest_twisted.ensureDeferred
async def test_commands_pipelined_in_plaintext_behind_stls_do_nothing_inside_tls(house: House) -> None:
    def inject() -> bytes:
        with socket.create_connection(("localhost", house.ports["pop3"]), PATIENCE) as plain:
            assert plain.recv(1000).startswith(b"+OK")
            plain.sendall(b"STLS\r\nUSER bob\r\n")
            assert plain.recv(1000) == b"+OK Begin TLS negotiation\r\n"
            with house.trust.wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(b"PASS " + PASSWORD.encode() + b"\r\nQUIT\r\n")
                return b"".join(iter(lambda: secure.recv(1000), b""))

    assert await deferToThread(inject) == b"-ERR USER comes first\r\n+OK Goodbye\r\n"


@pytest_twisted.ensureDeferred
async def test_a_connection_cut_after_dele_deletes_nothing(house: House) -> None:
    def cut() -> None:
        client = poplib.POP3("localhost", house.ports["pop3"], timeout=PATIENCE)
        client.user("bob")
        client.pass_(PASSWORD)
        client.dele(1)
        client.close()

    await deferToThread(cut)
    await house.factories["pop3"].close_sessions().addTimeout(PATIENCE, reactor)
    assert house.uids == (1, 2, 3)


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_of_a_big_message_holds_little_memory_in_the_server(house: House) -> None:
    house.deliver(BIG)
    held: list[int] = []

    def watch(transport: Any) -> Callable[..., None]:
        write = transport.write

        def written(data: bytes) -> None:
            write(data)
            held.append(len(transport.dataBuffer) + sum(map(len, transport._tempDataBuffer)))

        return written

    def read_slowly() -> int:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            connection.settimeout(PATIENCE)
            connection.connect(("127.0.0.1", house.ports["pop3"]))
            connection.sendall(b"USER bob\r\nPASS %s\r\n" % PASSWORD.encode())
            stream = connection.makefile("rb", buffering=4096)
            assert [stream.readline()[:3] for _ in range(3)] == [b"+OK"] * 3
            (session,) = house.factories["pop3"]._sessions
            transport: Any = session.transport
            transport.write = watch(transport)
            connection.sendall(b"RETR 4\r\nQUIT\r\n")
            return sum(len(chunk) for chunk in iter(lambda: stream.read(4096), b""))

    total = await deferToThread(read_slowly)
    assert total > len(BIG)
    assert held and max(held) < 300_000
