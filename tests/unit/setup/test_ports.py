"""Ports are opened before anything else, whatever kind they are, and a failure says what to change."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import defer, protocol, reactor

from lorrainemail.config.model import Listen
from lorrainemail.setup import ports
from lorrainemail.setup.failure import StartError
from lorrainemail.setup.ports import BoundPort, bind_all, bind_unix
from lorrainemail.setup.state import Owner, Undo

TIMEOUT = 10


def bind(state: Path, undo: Undo, **doors: tuple[str, ...]) -> list[BoundPort]:
    return bind_all(Listen(**doors), str(state), Owner(), undo, "the.toml")


def test_doors_are_bound_in_their_order_with_what_every_connection_needs(tmp_path: Path) -> None:
    with Undo() as undo:
        imap, smtp = "tcp:0:interface=127.0.0.1", "tcp:0"
        bound = bind(tmp_path, undo, imap=(imap,), smtp=(smtp,))
        assert [(port.door, port.host, port.loopback) for port in bound] == [
            ("smtp", "0.0.0.0", False),
            ("imap", "127.0.0.1", True),
        ]
        for port in bound:
            assert port.port > 0
            assert port.listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert port.listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not port.listener.getblocking()
            assert not port.listener.get_inheritable()


def test_a_failure_closes_what_was_open(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(StartError) as failed, Undo() as undo:
            bind(tmp_path, undo, smtp=("unix:s",), imap=(f"tcp:{taken}:interface=127.0.0.1",))
    assert f"tcp:{taken}:interface=127.0.0.1" in failed.value.what
    assert failed.value.mend == (
        "stop the program that has it (ss -ltnp shows it) or change imap in [listen] of the.toml"
    )
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_not_ours_and_a_low_port_have_their_own_words() -> None:
    words = {
        code: str(ports._port_error("smtp", "tcp:25", OSError(code, os.strerror(code)), "the.toml"))
        for code in (errno.EADDRNOTAVAIL, errno.EACCES, errno.EMFILE)
    }
    assert "no such address" in words[errno.EADDRNOTAVAIL]
    assert "--uid" in words[errno.EACCES]
    assert "Too many open files" in words[errno.EMFILE]


def test_the_ipv6_wildcard_serves_ipv4_too_and_without_ipv6_it_is_the_ipv4_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Undo() as undo:
        (port,) = bind(tmp_path, undo, smtp=(r"tcp:0:interface=\:\:",))
        with socket.create_connection(("127.0.0.1", port.port), timeout=TIMEOUT):
            assert port.listener.accept()[0].getpeername()[0] in ("::ffff:127.0.0.1", "127.0.0.1")
    monkeypatch.setattr(ports, "_has_ipv6", lambda: False)
    monkeypatch.setattr(ports, "has_ipv6_loopback", lambda: False)
    with Undo() as undo:
        wildcard, loopback = bind(
            tmp_path,
            undo,
            smtp=(r"tcp:0:interface=\:\:",),
            imap=("tcp:0:interface=127.0.0.1", r"tcp:0:interface=\:\:1"),
        )
        assert (wildcard.host, loopback.host) == ("0.0.0.0", "127.0.0.1")
    with pytest.raises(StartError, match="no such address"), Undo() as undo:
        bind(tmp_path, undo, smtp=(r"tcp:0:interface=\:\:1",))


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_both_wildcards_of_one_port_may_be_written_out(tmp_path: Path) -> None:
    with Undo() as undo:
        (first,) = bind(tmp_path, undo, smtp=("tcp:0",))
        number = first.port
    with Undo() as undo:
        assert len(bind(tmp_path, undo, smtp=(f"tcp:{number}", rf"tcp:{number}:interface=\:\:"))) == 2


def test_a_unix_socket_gets_its_mode_and_replaces_a_dead_one_only(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    first = bind_unix(str(path), 0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError) as failed:
        bind_unix(str(path), 0o600)
    assert failed.value.errno == errno.EADDRINUSE
    first.close()
    bind_unix(str(path), 0o600).close()
    path.unlink()
    path.write_text("a file")
    with pytest.raises(OSError):
        bind_unix(str(path), 0o600)
    assert path.read_text() == "a file"


def test_a_state_whose_path_has_no_room_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    path = str(tmp_path / ("d" * 100) / "control.sock")
    with pytest.raises(StartError, match=r"longer than 107 octets.*shorter path"):
        bind_all(Listen(), str(tmp_path), Owner(), Undo(), "the.toml", [("control", path, 0o600)])


def test_relative_unix_paths_are_below_the_state_directory(tmp_path: Path) -> None:
    with Undo() as undo:
        (port,) = bind(tmp_path, undo, smtp=("unix:door.sock",))
        assert (port.host, port.port) == (str(tmp_path / "door.sock"), 0)
    assert not (tmp_path / "door.sock").exists()


class Greeter(protocol.Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Hearer(protocol.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.done: defer.Deferred[bytes] = defer.Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        self.done.callback(self.heard)


@pytest_twisted.ensureDeferred
async def test_what_was_bound_is_served_later_tcp_unix_and_proxied(tmp_path: Path) -> None:
    greeter = protocol.Factory.forProtocol(Greeter)
    with Undo() as undo:
        plain, unix, proxied = bind(
            tmp_path,
            undo,
            smtp=("tcp:0:interface=127.0.0.1", "unix:s:mode=600", "haproxy:tcp:0:interface=127.0.0.1"),
        )
        assert not proxied.loopback
        path, numbers = unix.host, (plain.port, proxied.port)
        undo.keep_all()
    listening = [port.serve(reactor, greeter) for port in (plain, unix, proxied)]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    hearers = [Hearer(), Hearer(), Hearer()]
    plain_hearer, unix_hearer, proxied_hearer = hearers
    connect = protocol.ClientCreator(reactor, lambda: plain_hearer)
    await connect.connectTCP("127.0.0.1", numbers[0]).addTimeout(TIMEOUT, reactor)
    connect = protocol.ClientCreator(reactor, lambda: unix_hearer)
    await connect.connectUNIX(path).addTimeout(TIMEOUT, reactor)
    connect = protocol.ClientCreator(reactor, lambda: proxied_hearer)
    await connect.connectTCP("127.0.0.1", numbers[1]).addTimeout(TIMEOUT, reactor)
    proxied_hearer.transport.write(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n")
    for hearer in hearers:
        assert await hearer.done.addTimeout(TIMEOUT, reactor) == b"hello"
    for port in listening:
        await defer.maybeDeferred(port.stopListening)
    assert os.listdir(tmp_path) == []
