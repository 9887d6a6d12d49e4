"""Logins at the doors of a real server, by each mechanism that its configuration offers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import imaplib
import poplib
import smtplib
import ssl
from typing import Any

from OpenSSL import SSL

PASSWORD = "correct horse battery"
SCRAM = "[auth]\nscram = true\n"


def trusting(server: Any) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.ca))


class Scram:
    """A client's half of SCRAM-SHA-256, made from the formulas of RFC 5802 §3 alone."""

    def __init__(self, name: str, password: str, gs2: bytes = b"n,,", bound: bytes = b"") -> None:
        self.password, self.gs2, self.bound = password.encode(), gs2, bound
        self.bare = b"n=%b,r=fyko+d2lbbFgONRv9qkxdawL" % name.encode()
        self.steps = [self.first, self.final, self.verify]

    def __call__(self, challenge: Any = b"") -> bytes:
        """For smtplib (None or octets), imaplib (octets), poplib."""
        return self.steps.pop(0)(challenge or b"")

    def first(self, challenge: bytes) -> bytes:
        assert challenge == b""
        return self.gs2 + self.bare

    def final(self, challenge: bytes) -> bytes:
        fields = dict(field.split(b"=", 1) for field in challenge.split(b","))
        self.iterations = int(fields[b"i"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(fields[b"s"]), self.iterations)
        key = hmac.digest(salted, b"Client Key", "sha256")
        without = b"c=%b,r=%b" % (base64.b64encode(self.gs2 + self.bound), fields[b"r"])
        signed = b",".join((self.bare, challenge, without))
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        self.expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        return without + b",p=" + base64.b64encode(proof)

    def verify(self, challenge: bytes) -> bytes:
        assert challenge == b"v=" + base64.b64encode(self.expected)
        return b""


def submission(server: Any) -> smtplib.SMTP:
    client = smtplib.SMTP(server.address, 2587, timeout=30)
    client.starttls(context=trusting(server))
    client.ehlo("client.test")
    return client


def offered(client: smtplib.SMTP) -> list[str]:
    return client.esmtp_features["auth"].split()


def scram_by_smtp(client: smtplib.SMTP, exchange: Scram, name: str = "SCRAM-SHA-256") -> tuple[int, bytes]:
    code, words = client.docmd("AUTH", name)
    while code == 334:
        answer = exchange(base64.b64decode(words))
        code, words = client.docmd(base64.b64encode(answer).decode())
    return code, words


def test_scram_comes_with_the_next_plain_login_and_works_at_every_door(make_server: Any) -> None:
    server = make_server(accounts=("bob@ours.test", "eve@ours.test"), configuration=SCRAM)
    with submission(server) as client:
        assert offered(client) == ["PLAIN", "LOGIN"], "no account has a verifier yet"
        client.login("bob@ours.test", PASSWORD)
    accounts = server.state / "accounts"
    server.wait(lambda: accounts.read_text().count("{SCRAM-SHA-256}") == 1, "bob's verifier")
    checked = server.command("check").stdout
    assert "SCRAM is not offered yet: 1 accounts have passwords without verifier (eve@ours.test)" in checked
    with submission(server) as client:
        assert offered(client) == ["PLAIN", "LOGIN"], "eve has none yet"
        client.login("eve@ours.test", PASSWORD)
    server.wait(lambda: accounts.read_text().count("{SCRAM-SHA-256}") == 2, "eve's verifier")

    with submission(server) as client:
        assert offered(client)[:2] == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
        assert scram_by_smtp(client, Scram("bob@ours.test", PASSWORD))[0] == 235
        client.sendmail("bob@ours.test", ["eve@ours.test"], b"From: bob@ours.test\r\n\r\nhello\r\n")
    (message,) = server.wait_for_messages("eve@ours.test", 1)
    assert b"with ESMTPSA" in message
    with submission(server) as client:
        code, words = scram_by_smtp(client, Scram("bob@ours.test", "wrong"))
        assert (code, words) == (535, b"5.7.8 Authentication credentials invalid")
        assert scram_by_smtp(client, Scram("nobody@ours.test", "wrong"))[0] == 535

    with imaplib.IMAP4_SSL(server.address, 2993, ssl_context=trusting(server), timeout=30) as imap:
        assert {"AUTH=SCRAM-SHA-256-PLUS", "AUTH=SCRAM-SHA-256", "AUTH=PLAIN"} <= set(imap.capabilities)
        imap.authenticate("SCRAM-SHA-256", Scram("bob@ours.test", PASSWORD))
        assert imap.select()[0] == "OK"

    pop = poplib.POP3_SSL(server.address, 2995, context=trusting(server), timeout=30)
    assert "SCRAM-SHA-256" in pop.capa()["SASL"]
    exchange = Scram("eve@ours.test", PASSWORD)
    answer: bytes = pop._shortcmd("AUTH SCRAM-SHA-256")  # type: ignore[attr-defined]
    for _ in range(3):
        step = exchange(base64.b64decode(answer.removeprefix(b"+ ")))
        answer = pop._shortcmd(base64.b64encode(step).decode())  # type: ignore[attr-defined]
    assert answer.startswith(b"+OK 1 messages")
    pop.quit()

    # A new account has its verifier from the start: nobody loses SCRAM by it.
    added = server.command("account", "add", "new@ours.test", "--password-stdin", input="a new password\n")
    assert added.returncode == 0, added.stderr
    with submission(server) as client:
        assert "SCRAM-SHA-256" in offered(client)
        assert scram_by_smtp(client, Scram("new@ours.test", "a new password"))[0] == 235


def handshaken(server: Any, version: int) -> tuple[Any, Any]:
    """A pyOpenSSL client inside STARTTLS of the imaps door: it shows its channel bindings."""
    import socket

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    plain = socket.create_connection((server.address, 2993), timeout=30)
    plain.setblocking(True)
    connection = SSL.Connection(context, plain)
    connection.set_connect_state()
    connection.do_handshake()
    return connection, plain


def line_of(connection: Any) -> bytes:
    received = b""
    while not received.endswith(b"\r\n"):
        received += connection.recv(4096)
    return received


def plus_login(connection: Any, gs2: bytes, bound: bytes) -> bytes:
    exchange = Scram("bob@ours.test", PASSWORD, gs2, bound)
    first = base64.b64encode(exchange())
    connection.sendall(b"a AUTHENTICATE SCRAM-SHA-256-PLUS " + first + b"\r\n")
    answer = line_of(connection)
    while answer.startswith(b"+ "):
        connection.sendall(base64.b64encode(exchange(base64.b64decode(answer[2:]))) + b"\r\n")
        answer = line_of(connection)
    return answer


def test_scram_plus_binds_to_the_tls_channel_of_either_version(make_server: Any) -> None:
    server = make_server(accounts=(), configuration=SCRAM)
    server.command("account", "add", "bob@ours.test", "--password-stdin", input=PASSWORD + "\n")

    def exporter(connection: Any) -> bytes:
        octets: bytes = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        return octets

    def end_point(connection: Any) -> bytes:
        certificate = connection.get_peer_certificate(as_cryptography=True)
        octets: bytes = certificate.fingerprint(certificate.signature_hash_algorithm)
        return octets

    for version, kind, bound in (
        (SSL.TLS1_3_VERSION, b"tls-exporter", exporter),
        (SSL.TLS1_3_VERSION, b"tls-server-end-point", end_point),
        (SSL.TLS1_2_VERSION, b"tls-exporter", exporter),
        (SSL.TLS1_2_VERSION, b"tls-unique", lambda connection: connection.get_finished()),
    ):
        connection, plain = handshaken(server, version)
        line_of(connection)
        answer = plus_login(connection, b"p=%b,," % kind, bound(connection))
        assert answer.startswith(b"a OK"), (kind, answer)
        plain.close()
    connection, plain = handshaken(server, SSL.TLS1_3_VERSION)
    line_of(connection)
    wrong = plus_login(connection, b"p=tls-exporter,,", b"another channel's octets")
    assert wrong == b"a NO [AUTHENTICATIONFAILED] Wrong name or password\r\n"
    plain.close()
