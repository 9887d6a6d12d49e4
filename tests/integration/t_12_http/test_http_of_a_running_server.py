"""The http and https doors of a running server, and a certificate that is exchanged under an open session."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

HTTP, HTTPS, IMAPS = 2080, 2443, 2993


@pytest.fixture
def server(make_server: Any) -> Any:
    server = make_server(start=False)
    text = server.configuration.read_text()
    doors = "\n".join(
        f"{door} = ['tcp:{port}:interface={server.address}']"
        for door, port in (("http", HTTP), ("https", HTTPS))
    )
    server.configuration.write_text(text.replace("[listen]\n", f"[listen]\n{doors}\n"))
    return server


def get(
    server: Any, host: str, path: str, port: int = HTTPS, before: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    with socket.create_connection((server.address, port), timeout=10) as plain:
        if port == HTTPS:
            context = ssl.create_default_context(cafile=str(server.ca))
            context.check_hostname = False
            plain = context.wrap_socket(plain, server_hostname=server.hostname)
        plain.sendall(before)
        plain.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(plain)
        response.begin()
        body = response.read()
        plain.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def test_a_mail_program_finds_the_server_by_https(server: Any) -> None:
    server.start()
    path = "/mail/config-v1.1.xml?emailaddress=bob%40ours.test"
    status, fields, body = get(server, "autoconfig.ours.test", path)
    assert (status, fields["content-type"]) == (200, "text/xml; charset=utf-8")
    assert b"<hostname>mail.ours.test</hostname>" in body and b"<port>2993</port>" in body
    assert get(server, "mta-sts.ours.test", "/.well-known/mta-sts.txt")[2].startswith(b"version: STSv1")
    assert get(server, "mail.ours.test", "/")[0] == 404
    assert "strict-transport-security" not in fields


def test_http_leads_to_https_where_others_reach_it(server: Any) -> None:
    # Behind a proxy the door is no longer one that only this machine reaches.
    text = server.configuration.read_text().replace(f"'tcp:{HTTP}:", f"'haproxy:tcp:{HTTP}:")
    server.configuration.write_text(f'proxy_networks = ["127.0.0.0/8"]\n{text}')
    server.start()
    proxy = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n"
    status, fields, _ = get(server, "ours.test", "/.well-known/autoconfig/mail/config-v1.1.xml", HTTP, proxy)
    assert status == 301
    assert fields["location"] == "https://ours.test/.well-known/autoconfig/mail/config-v1.1.xml"


def test_the_operator_sees_and_sets_what_the_policies_say(server: Any) -> None:
    server.start()
    assert "ours.test  testing" in server.command("mta-sts", "list").stdout
    assert "a week of clean checks" in server.command("mta-sts", "set", "ours.test", "enforce").stderr
    done = server.command("mta-sts", "set", "ours.test", "enforce", "--now")
    assert (done.returncode, "id=" in done.stdout) == (0, True)
    assert b"mode: enforce" in get(server, "mta-sts.ours.test", "/.well-known/mta-sts.txt")[2]
    shown = json.loads(server.command("mta-sts", "list", "--json").stdout)
    assert shown["domains"][0]["mode"] == "enforce" and shown["domains"][0]["id"] in done.stdout
    assert server.command("mta-sts", "set", "elsewhere.test", "enforce", "--now").returncode == 1


def test_certificates_are_listed_with_and_without_a_server(server: Any) -> None:
    server.start()
    running = json.loads(server.command("certificate", "list", "--json").stdout)
    renew = server.command("certificate", "renew")
    assert (renew.returncode, "names no directory" in renew.stderr) == (1, True)
    (digest,) = server.command("certificate", "keys").stdout.split()
    server.stop()
    stopped = json.loads(server.command("certificate", "list", "--json").stdout)
    (one,) = running["certificates"]
    assert (one["origin"], one["names"], one["public_key"]) == (
        "self-signed",
        ["localhost", "mail.ours.test"],
        digest,
    )
    assert [row["fingerprint"] for row in stopped["certificates"]] == [one["fingerprint"]]
    text = server.command("certificate", "list")
    assert (text.returncode, "self-signed, until 20" in text.stdout) == (0, True)
    assert server.command("certificate", "renew").returncode == 1


@contextmanager
def idling(server: Any) -> Iterator[ssl.SSLSocket]:
    """An IMAP session of bob's in IDLE."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((server.address, IMAPS), timeout=10)
    with context.wrap_socket(plain, server_hostname=server.hostname) as session:
        until(session, b"* OK")
        for number, words in enumerate((b'LOGIN bob@ours.test "correct horse battery"', b"SELECT INBOX")):
            session.sendall(b"a%d %s\r\n" % (number, words))
            until(session, b"a%d OK" % number)
        session.sendall(b"a9 IDLE\r\n")
        until(session, b"+ ")
        yield session


def until(session: ssl.SSLSocket, words: bytes) -> bytes:
    said = b""
    while words not in said or not said.endswith(b"\r\n"):
        piece = session.recv(4096)
        assert piece, said
        said += piece
    return said


def shown(server: Any) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection((server.address, IMAPS), timeout=10)
    with context.wrap_socket(plain, server_hostname=server.hostname) as session:
        certificate = session.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def put(ca: trustme.CA, folder: Path) -> None:
    leaf = ca.issue_cert("mail.ours.test")
    folder.mkdir(exist_ok=True)
    (folder / "privkey.pem").write_bytes(leaf.private_key_pem.bytes())
    (folder / "fullchain.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


def test_a_renewed_certificate_is_shown_at_a_reload_and_a_session_in_idle_lives_on(
    server: Any, tmp_path: Path
) -> None:
    ca = trustme.CA()
    put(ca, tmp_path / "live")
    with open(server.configuration, "a") as file:
        file.write(f'\n[tls]\nfolders = ["{tmp_path / "live"}"]\n')
    server.start()
    before = shown(server)
    with idling(server) as session:
        put(ca, tmp_path / "live")
        assert server.command("reload").returncode == 0
        assert shown(server) != before
        with socket.create_connection((server.address, 2525), timeout=10) as stranger:
            stranger.sendall(b"")
            talk(stranger, b"EHLO other.test", b"MAIL FROM:<>", b"RCPT TO:<bob@ours.test>", b"DATA")
            stranger.sendall(b"Subject: after the swap\r\n\r\nx\r\n.\r\n")
            assert stranger.recv(1000).startswith(b"250")
        assert b"EXISTS" in until(session, b"EXISTS")
        session.sendall(b"DONE\r\n")
        until(session, b"a9 OK")


def talk(stranger: socket.socket, *commands: bytes) -> None:
    said = stranger.recv(1000)
    for command in commands:
        stranger.sendall(command + b"\r\n")
        said = stranger.recv(2000)
    assert said.startswith(b"354"), said
