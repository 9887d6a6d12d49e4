"""EXTERNAL: a client certificate is the login, and nothing short of a good one is."""

from __future__ import annotations

import datetime
import imaplib
import smtplib
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A small authority that signs whatever the test asks for."""

    def __init__(self, name: str) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(self.name, self.key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())

    def _builder(self, subject: x509.Name, key: Any, until: datetime.datetime = NOW + DAY) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
        )

    def issue(
        self,
        folder: Path,
        *addresses: str,
        subject: str = "",
        until: datetime.datetime = NOW + DAY,
        usage: Any = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> tuple[Path, x509.Certificate]:
        """A client's certificate and key in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, "Bob")]
        if subject:
            attributes.append(x509.NameAttribute(NameOID.EMAIL_ADDRESS, subject))
        builder = self._builder(x509.Name(attributes), key, until)
        if addresses:
            names = [x509.RFC822Name(address) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        file = folder / f"{certificate.serial_number}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return file, certificate

    def pem(self, *revoked: x509.Certificate) -> bytes:
        octets = self.certificate.public_bytes(serialization.Encoding.PEM)
        if revoked:
            builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
            builder = builder.last_update(NOW - DAY).next_update(NOW + DAY)
            for certificate in revoked:
                builder = builder.add_revoked_certificate(
                    x509.RevokedCertificateBuilder()
                    .serial_number(certificate.serial_number)
                    .revocation_date(NOW - DAY)
                    .build()
                )
            octets += builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return octets


def context(server: Any, certificate: Path | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(server.ca))
    if certificate is not None:
        made.load_cert_chain(certificate)
    return made


def imap(server: Any, certificate: Path | None) -> imaplib.IMAP4_SSL:
    return imaplib.IMAP4_SSL(server.address, 2993, ssl_context=context(server, certificate), timeout=30)


@pytest.fixture
def authority() -> Authority:
    return Authority("Our users")


@pytest.fixture
def server(make_server: Any, authority: Authority) -> Any:
    server = make_server(
        accounts=("bob@ours.test", "eve@ours.test"),
        configuration='[auth]\nclient_ca = "users.pem"\n',
        start=False,
    )
    (server.state / "users.pem").write_bytes(authority.pem())
    return server.start()


def test_a_certificate_logs_in_at_submission_and_imap(
    server: Any, authority: Authority, tmp_path: Path
) -> None:
    file, _ = authority.issue(tmp_path, "Bob@Ours.test")
    with smtplib.SMTP(server.address, 2587, timeout=30) as client:
        client.starttls(context=context(server, file))
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["EXTERNAL", "PLAIN", "LOGIN"]
        assert client.docmd("AUTH", "EXTERNAL =")[0] == 235
        client.sendmail("bob@ours.test", ["eve@ours.test"], b"From: bob@ours.test\r\n\r\nhi\r\n")
    server.wait_for_messages("eve@ours.test", 1)
    with imap(server, file) as client:
        assert "AUTH=EXTERNAL" in client.capabilities
        client.authenticate("EXTERNAL", lambda _: b"bob@ours.test")
    old, _ = authority.issue(tmp_path, subject="bob@ours.test")
    with imap(server, old) as client:
        client.authenticate("EXTERNAL", lambda _: b"")
    assert "bob@ours.test logged in at imaps" in server.log_text()


def test_a_certificate_is_nobody_elses_login(server: Any, authority: Authority, tmp_path: Path) -> None:
    file, _ = authority.issue(tmp_path, "bob@ours.test")
    stranger, _ = authority.issue(tmp_path, "stranger@elsewhere.test")
    both, _ = authority.issue(tmp_path, "bob@ours.test", "eve@ours.test")
    for certificate, wanted in ((file, b"eve@ours.test"), (stranger, b""), (both, b"")):
        with imap(server, certificate) as client, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONF"):
            client.authenticate("EXTERNAL", lambda _, wanted=wanted: wanted)
    with imap(server, both) as client:
        client.authenticate("EXTERNAL", lambda _: b"eve@ours.test")
    server.command("account", "disable", "bob@ours.test")
    with imap(server, file) as client, pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONF"):
        client.authenticate("EXTERNAL", lambda _: b"")


def test_a_certificate_that_is_not_good_is_offered_nothing_and_spoils_nothing(
    server: Any, authority: Authority, tmp_path: Path
) -> None:
    self_made, _ = Authority("Our users").issue(tmp_path, "bob@ours.test")
    ended, _ = authority.issue(tmp_path, "bob@ours.test", until=NOW - DAY)
    web, _ = authority.issue(tmp_path, "bob@ours.test", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    nameless, _ = authority.issue(tmp_path)
    for certificate in (self_made, ended, web, nameless, None):
        with imap(server, certificate) as client:
            assert "AUTH=EXTERNAL" not in client.capabilities
            with pytest.raises(imaplib.IMAP4.error, match="CANNOT"):
                client.authenticate("EXTERNAL", lambda _: b"bob@ours.test")
            client.login("bob@ours.test", "correct horse battery")


def test_a_certificate_that_was_taken_back_stops_at_a_reload(
    server: Any, authority: Authority, tmp_path: Path
) -> None:
    lost, certificate = authority.issue(tmp_path, "bob@ours.test")
    kept, _ = authority.issue(tmp_path, "bob@ours.test")
    with imap(server, lost) as client:
        assert "AUTH=EXTERNAL" in client.capabilities
    (server.state / "users.pem").write_bytes(authority.pem(certificate))
    assert server.command("reload").returncode == 0
    with imap(server, lost) as client:
        assert "AUTH=EXTERNAL" not in client.capabilities
    with imap(server, kept) as client:
        client.authenticate("EXTERNAL", lambda _: b"")
    # A file that cannot be used is refused whole, and check says so.
    (server.state / "users.pem").write_bytes(b"nothing\n")
    assert server.command("reload").returncode == 1
    checked = server.command("check")
    assert checked.returncode == 1 and "users.pem" in checked.stdout
    with imap(server, kept) as client:
        assert "AUTH=EXTERNAL" in client.capabilities
