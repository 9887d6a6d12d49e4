"""The server's own authority: clients can verify us with it, and with nothing else."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lorrainemail.certs import selfsigned

NOW = datetime.now(UTC)


def handshake(files: selfsigned.SelfSigned, authority: str, name: str) -> None:
    """One real handshake in memory-sized sockets, the client verifying ``name``; raises where it fails."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=authority)
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as secured:
                secured.recv(1)
        except (ssl.SSLError, OSError):
            pass  # the client's side tells

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as secured:
            secured.send(b"x")
    finally:
        ours.close()
        thread.join(10)


@pytest.mark.parametrize("name", ["mail.example.test", "localhost", "127.0.0.1", "::1", "127.0.0.9"])
def test_clients_that_trust_our_authority_can_verify_us(tmp_path: Path, name: str) -> None:
    files = selfsigned.ensure(str(tmp_path / "tls"), "mail.example.test", NOW, ("127.0.0.9",))
    handshake(files, files.authority, name)


def test_a_client_that_does_not_trust_us_or_wants_another_name_notices(tmp_path: Path) -> None:
    files = selfsigned.ensure(str(tmp_path / "a"), "mail.example.test", NOW)
    other = selfsigned.ensure(str(tmp_path / "b"), "mail.example.test", NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, other.authority, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, files.authority, "other.example.test")


def test_our_authority_cannot_be_used_to_pose_as_a_bank(tmp_path: Path) -> None:
    files = selfsigned.ensure(str(tmp_path), "mail.example.test", NOW)
    authority = selfsigned._readable(files.authority, str(tmp_path / "ca-key.pem"), NOW)
    assert authority is not None
    certificate, key = selfsigned._make_server(authority, ("bank.example",), (), NOW)
    Path(files.certificate).write_bytes(selfsigned._pem(certificate))
    Path(files.key).write_bytes(selfsigned._key_pem(key))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, files.authority, "bank.example")


def test_a_second_start_keeps_every_file_as_it_is(tmp_path: Path) -> None:
    first = selfsigned.ensure(str(tmp_path), "mail.example.test", NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    second = selfsigned.ensure(str(tmp_path), "mail.example.test", NOW + timedelta(days=300))
    assert (first.created, second.created) == (True, False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_keys_are_for_the_owner_alone(tmp_path: Path) -> None:
    selfsigned.ensure(str(tmp_path / "tls"), "mail.example.test", NOW)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes == {
        "ca.pem": 0o644,
        "ca-key.pem": 0o600,
        "self-signed.pem": 0o644,
        "self-signed-key.pem": 0o600,
    }
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_a_certificate_near_its_end_is_renewed_and_clients_need_not_trust_anew(tmp_path: Path) -> None:
    first = selfsigned.ensure(str(tmp_path), "mail.example.test", NOW - timedelta(days=760))
    trusted = Path(first.authority).read_bytes()
    old = Path(first.certificate).read_bytes()
    second = selfsigned.ensure(str(tmp_path), "mail.example.test", NOW)
    assert second.created
    assert Path(second.authority).read_bytes() == trusted
    assert Path(second.certificate).read_bytes() != old
    handshake(second, second.authority, "mail.example.test")


def test_another_hostname_gets_an_authority_that_may_sign_for_it(tmp_path: Path) -> None:
    selfsigned.ensure(str(tmp_path), "mail.example.test", NOW)
    files = selfsigned.ensure(str(tmp_path), "mx.bricoleur.com", NOW)
    handshake(files, files.authority, "mx.bricoleur.com")


@pytest.mark.parametrize("broken", ["ca-key.pem", "ca.pem", "self-signed.pem", "self-signed-key.pem"])
def test_a_file_that_was_lost_or_cut_off_is_made_anew(tmp_path: Path, broken: str) -> None:
    selfsigned.ensure(str(tmp_path), "mail.example.test", NOW)
    (tmp_path / broken).write_bytes(b"")
    (tmp_path / f"{broken}.new").write_bytes(b"left over")
    files = selfsigned.ensure(str(tmp_path), "mail.example.test", NOW)
    handshake(files, files.authority, "mail.example.test")
