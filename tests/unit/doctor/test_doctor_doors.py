"""Doors, relay, certificates, clock, disk, permissions and queue: what the doctor says of each."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as installed_reactor
from twisted.internet.threads import deferToThreadPool

from lorrainemail.certs import selfsigned
from lorrainemail.config.load import load_text
from lorrainemail.net.resolver import Resolver
from lorrainemail.setup.doctor import doors, machine, outside
from lorrainemail.setup.records import Facts

reactor: Any = installed_reactor


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[int]:
    """A server of one connection after the other, in a thread."""
    with socket.create_server((address, 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        handle(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def smtp(name: str, rcpt: str = "550 5.7.1 no relaying") -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        connection.sendall(f"220 {name} ESMTP\r\n".encode())
        stream = connection.makefile("rb")
        for line in stream:
            verb = line[:4].upper()
            answer = {b"RCPT": rcpt, b"EHLO": f"250-{name}\r\n250 PIPELINING"}.get(verb, "250 ok")
            connection.sendall(answer.encode() + b"\r\n")
            if verb == b"QUIT":
                return

    return handle


def make_machine(tmp_path: Path, port: int, more: str = "", address: str = "127.0.0.1") -> doors.Machine:
    text = f"""
hostname = "mail.bricoleur.com"
local_domains = ["bricoleur.com"]
{more}
[listen]
smtp = ['tcp:{port}:interface={address}']
[dns]
addresses = ["{address}"]
resolvers = ["127.0.0.1:1"]
"""
    settings = load_text(text, "lorrainemail.toml", str(tmp_path))
    facts = Facts("mail.bricoleur.com", "bricoleur.com", (address,), {"smtp": port})
    in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    return doors.Machine(settings, facts, in_thread, Resolver(reactor, settings.dns.resolvers))


@pytest_twisted.ensureDeferred
async def test_a_door_that_answers_in_our_name_is_good(tmp_path: Path) -> None:
    with serving(smtp("mail.bricoleur.com")) as port:
        found = await doors.reached(make_machine(tmp_path, port))
    assert [one.case for one in found] == ["door.good"]


@pytest_twisted.ensureDeferred
async def test_an_old_server_that_still_holds_the_port_is_named(tmp_path: Path) -> None:
    with serving(smtp("debian.localdomain")) as port:
        (found,) = await doors.reached(make_machine(tmp_path, port))
    assert (found.case, dict(found.facts)["name"]) == ("door.other", "debian.localdomain")


@pytest_twisted.ensureDeferred
async def test_a_closed_port_of_our_own_is_bad_and_one_behind_a_router_is_not_known(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (found,) = await doors.reached(make_machine(tmp_path, port))
    assert (found.case, found.level) == ("door.closed", "bad")
    assert not doors.is_local("192.0.2.77")


@pytest_twisted.ensureDeferred
async def test_an_open_relay_is_found_without_sending_anything(tmp_path: Path) -> None:
    with serving(smtp("mail.bricoleur.com", "250 ok")) as port:
        (found,) = await doors.relay(make_machine(tmp_path, port))
    assert (found.case, found.level) == ("relay.open", "bad")
    with serving(smtp("mail.bricoleur.com")) as port:
        (found,) = await doors.relay(make_machine(tmp_path, port))
    assert found.case == "relay.good"


@pytest.mark.parametrize(
    ("network", "wide"),
    [
        ("0.0.0.0/0", True),
        ("::/0", True),
        ("0.0.0.0/1", True),
        ("10.0.0.0/8", False),
        ("192.0.2.0/24", False),
    ],
)
def test_a_list_that_covers_the_world_is_an_open_relay(network: str, wide: bool) -> None:
    assert bool(list(doors.wide_networks([network]))) == wide


@pytest_twisted.ensureDeferred
async def test_a_smarthost_that_does_not_answer_is_told_instead_of_port_25(tmp_path: Path) -> None:
    with serving(smtp("smart.provider.example")) as port:
        here = make_machine(tmp_path, 2525, more=f'[relay]\n"*" = "[127.0.0.1]:{port}"')
        assert [one.case for one in await doors.outgoing(here)] == ["outgoing.good"]
    assert [one.case for one in await doors.outgoing(here)] == ["outgoing.smarthost"]


@pytest_twisted.ensureDeferred
async def test_a_blocked_port_25_is_told_with_the_way_out(tmp_path: Path) -> None:
    (found,) = await doors.outgoing(make_machine(tmp_path, 2525))
    assert (found.case, found.level) == ("outgoing.blocked", "bad")


def test_a_server_that_drips_ends_within_the_time() -> None:
    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"2")
                time.sleep(0.02)

    with serving(drip) as port, pytest.raises(OSError):
        outside.smtp_greeting("127.0.0.1", port, 0.5)


def test_a_server_that_talks_without_end_is_cut_off() -> None:
    def flood(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"220-more\r\n" * 100)

    with serving(flood) as port, pytest.raises(OSError, match="without end"):
        outside.smtp_greeting("127.0.0.1", port, 10)


# -- certificates ----------------------------------------------------------------------------------------


def made(tmp_path: Path, hostname: str) -> x509.Certificate:
    files = selfsigned.ensure(str(tmp_path / "tls"), hostname, datetime.now(UTC))
    return x509.load_pem_x509_certificate(Path(files.certificate).read_bytes())


def cases(certificate: x509.Certificate, now: datetime, authority: bytes = b"") -> list[tuple[str, str]]:
    shown = certificate.public_bytes(Encoding.DER)
    return [(one.case, one.level) for one in doors.judged(shown, "mail.a.test", "smtp", authority, now)]


def test_certificates_are_judged_by_name_time_and_signer(tmp_path: Path) -> None:
    certificate, now = made(tmp_path, "mail.a.test"), datetime.now(UTC)
    end = certificate.not_valid_after_utc
    assert cases(certificate, now) == [("certificate.good", "good")]
    assert cases(certificate, end - timedelta(days=15)) == [("certificate.ends", "warn")]
    assert cases(certificate, end - timedelta(days=3)) == [("certificate.ends", "bad")]
    assert cases(certificate, end + timedelta(days=1)) == [("certificate.ended", "bad")]
    issuer = certificate.issuer.public_bytes()
    assert cases(certificate, now, issuer) == [("certificate.self_signed", "warn")]
    other = made(tmp_path / "other", "old.a.test")
    assert cases(other, now) == [("certificate.name", "bad")]
    assert [one.case for one in doors.judged(b"?", "mail.a.test", "smtp", b"", now)] == ["certificate.broken"]


# -- the clock -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def time_server(ahead: float, stratum: int = 2) -> Iterator[int]:
    """One answer of a time server whose clock is ahead of ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)

        def serve() -> None:
            with contextlib.suppress(OSError):
                question, peer = server.recvfrom(512)
                whole, part = divmod(time.time() + ahead + 2_208_988_800, 1)
                stamp = struct.pack("!II", int(whole), int(part * 2**32))
                head = bytes((0x24, stratum, 0, 0)) + bytes(20)
                server.sendto(head + question[40:48] + stamp + stamp, peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(0, ("clock.good", "good")), (20, ("clock.wrong", "warn")), (-7200, ("clock.wrong", "bad"))],
)
@pytest_twisted.ensureDeferred
async def test_a_wrong_clock_is_told(tmp_path: Path, ahead: float, expected: tuple[str, str]) -> None:
    with time_server(ahead) as port:
        here = make_machine(tmp_path, 2525, more=f'[doctor]\ntime = "127.0.0.1:{port}"')
        (found,) = await doors.clock(here)
    assert (found.case, found.level) == expected


@pytest_twisted.ensureDeferred
async def test_a_time_server_that_does_not_know_the_time_is_not_believed(tmp_path: Path) -> None:
    with time_server(-7200, stratum=0) as port:
        here = make_machine(tmp_path, 2525, more=f'[doctor]\ntime = "127.0.0.1:{port}"')
        (found,) = await doors.clock(here)
    assert found.level == "unknown"


# -- the machine -----------------------------------------------------------------------------------------


def test_a_disk_below_the_reserve_is_told_before_mail_is_refused(tmp_path: Path) -> None:
    settings = make_machine(tmp_path, 2525).settings
    (found,) = machine.disk(attrs.evolve(settings, limits=attrs.evolve(settings.limits, disk_reserve=2**60)))
    assert (found.case, found.level) == ("disk.full", "bad")
    (found,) = machine.disk(attrs.evolve(settings, state=str(tmp_path / "none")))
    assert found.level == "unknown"


def test_secrets_that_others_may_read_are_told_with_the_command_that_shuts_them(tmp_path: Path) -> None:
    settings = make_machine(tmp_path, 2525).settings
    for name in ("accounts", "credentials"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    key = tmp_path / "dkim" / "a.test" / "r1.pem"
    key.parent.mkdir(parents=True)
    key.write_text("x")
    key.chmod(0o640)
    tmp_path.chmod(0o755)
    open_ones = {one.subject for one in machine.permissions(settings) if one.level == "bad"}
    assert open_ones == {str(tmp_path / "accounts"), str(tmp_path / "credentials"), str(key)}
    tmp_path.chmod(0o700)
    assert [one.level for one in machine.permissions(settings)] == ["good"], "nobody comes that far in"


def test_a_queue_that_stands_still_and_alarms_are_told() -> None:
    status = {"alarms": ["the disk fails"], "queued": 3}
    assert {one.case for one in machine.running("/s", status, 9 * 3600)} == {"server.alarm", "queue.old"}
    assert {one.case for one in machine.running("/s", {"queued": 5000}, 60)} == {"queue.long"}
    assert {one.case for one in machine.running("/s", None, 0)} == {"server.down"}
