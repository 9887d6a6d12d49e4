"""Which certificate a server shows: by the client's abilities, and to an ACME server that wants a proof."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from lorrainemail.errors import ConfigurationError
from lorrainemail.net.certificates import CertificatePair, load
from lorrainemail.net.client_hello import offered_protocols
from lorrainemail.net.tls import ServerTls


def issue(
    folder: Path, ca: trustme.CA, *names: str, kind: trustme.KeyType = trustme.KeyType.ECDSA
) -> CertificatePair:
    leaf = ca.issue_cert(*names, key_type=kind)
    folder.mkdir()
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return CertificatePair(str(chain), str(key))


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@attrs.frozen
class Shown:
    certificate: x509.Certificate
    protocol: str | None


def ask(
    tls: ServerTls,
    name: str | None,
    alpn: list[str] | None = None,
    ciphers: str = "",
    door: str = "imaps",
    oldest: bool = False,
) -> Shown:
    """A whole handshake in memory, the standard library's TLS as the client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    if oldest:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers("ALL:@SECLEVEL=0")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    server: SSL.Connection = cast(Any, tls.context_factory(door)).serverConnectionForTLS(None)
    server.set_accept_state()
    for _ in range(10):
        try:
            client.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        sent = outgoing.read()
        for start in range(0, len(sent), 100):  # as a slow network hands it over
            server.bio_write(sent[start : start + 100])
            try:
                server.do_handshake()
            except SSL.WantReadError:
                pass
        try:
            incoming.write(server.bio_read(1 << 16))
        except SSL.WantReadError:
            if done:
                break
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return Shown(x509.load_der_x509_certificate(shown), client.selected_alpn_protocol())


def test_each_client_gets_the_kind_of_key_that_it_can_use(ca: trustme.CA, tmp_path: Path) -> None:
    tls = ServerTls(
        [
            issue(tmp_path / "ec", ca, "mail.ours.test"),
            issue(tmp_path / "rsa", ca, "mail.ours.test", kind=trustme.KeyType.RSA),
        ]
    )
    for name in ("mail.ours.test", None, "unknown.test"):
        modern, old = ask(tls, name), ask(tls, name, ciphers="ECDHE+aRSA")
        assert isinstance(modern.certificate.public_key(), ec.EllipticCurvePublicKey)
        assert not isinstance(old.certificate.public_key(), ec.EllipticCurvePublicKey)


def test_a_name_that_only_one_kind_covers_is_not_answered_with_another_names_certificate(
    ca: trustme.CA, tmp_path: Path
) -> None:
    tls = ServerTls(
        [
            issue(tmp_path / "ec", ca, "mail.ours.test"),
            issue(tmp_path / "rsa", ca, "mail.theirs.test", kind=trustme.KeyType.RSA),
        ]
    )
    shown = ask(tls, "mail.theirs.test")
    assert not isinstance(shown.certificate.public_key(), ec.EllipticCurvePublicKey)
    with pytest.raises((ssl.SSLError, SSL.Error)):
        ask(tls, "mail.ours.test", ciphers="ECDHE+aRSA")


@pytest.mark.parametrize("door", ["smtp", "imaps"])
def test_the_answer_to_a_challenge_is_for_the_acme_server_alone(
    ca: trustme.CA, tmp_path: Path, door: str
) -> None:
    tls = ServerTls([issue(tmp_path / "a", ca, "mail.ours.test")])
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "challenge")])
    now = datetime.datetime.now(datetime.UTC)
    answer = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    tls.answer_challenge("mail.ours.test", answer, key)
    asked = ask(tls, "mail.ours.test", ["acme-tls/1"], door=door)
    assert (asked.certificate, asked.protocol) == (answer, "acme-tls/1")
    for others in (["h2", "http/1.1"], ["acme-tls/1", "http/1.1"], None):
        seen = ask(tls, "mail.ours.test", others, door=door)
        assert (seen.certificate == answer, seen.protocol) == (False, None)
    assert ask(tls, "other.test", ["acme-tls/1"], door=door).certificate != answer
    tls.forget_challenge("mail.ours.test")
    assert not tls.challenged
    assert ask(tls, "mail.ours.test", ["acme-tls/1"], door=door).certificate != answer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("door", "switch", "taken"), [("smtp", True, True), ("smtp", False, False), ("imaps", True, False)]
)
def test_very_old_servers_get_in_on_port_25_alone_and_only_by_the_switch(
    ca: trustme.CA, tmp_path: Path, door: str, switch: bool, taken: bool
) -> None:
    tls = ServerTls([issue(tmp_path / "a", ca, "mail.ours.test", kind=trustme.KeyType.RSA)], old_peers=switch)
    if taken:
        assert ask(tls, "mail.ours.test", door=door, oldest=True)
    else:
        with pytest.raises((ssl.SSLError, SSL.Error)):
            ask(tls, "mail.ours.test", door=door, oldest=True)
    assert ask(tls, "mail.ours.test", door=door)


def test_a_certificate_that_stays_keeps_its_context_when_another_is_exchanged(
    ca: trustme.CA, tmp_path: Path
) -> None:
    pairs = [issue(tmp_path / name, ca, f"{name}.test") for name in ("one", "two")]
    tls = ServerTls(pairs)
    one, two = (tls.context_for("", f"{name}.test") for name in ("one", "two"))
    pairs[1] = issue(tmp_path / "new", ca, "two.test", "*.three.test")
    tls.reload(pairs)
    assert tls.context_for("", "one.test") is one
    assert tls.context_for("", "two.test") is not two
    assert tls.context_for("", "a.three.test") is tls.context_for("", "two.test")


def test_a_wildcard_of_one_kind_stands_beside_a_name_of_another(ca: trustme.CA, tmp_path: Path) -> None:
    tls = ServerTls(
        [
            issue(tmp_path / "ec", ca, "*.ours.test"),
            issue(tmp_path / "rsa", ca, "mail.ours.test", kind=trustme.KeyType.RSA),
        ]
    )
    modern, old = ask(tls, "mail.ours.test"), ask(tls, "mail.ours.test", ciphers="ECDHE+aRSA")
    assert isinstance(modern.certificate.public_key(), ec.EllipticCurvePublicKey)
    assert not isinstance(old.certificate.public_key(), ec.EllipticCurvePublicKey)


def test_a_key_that_tls_does_not_take_is_named_when_it_is_read(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak.test")])
    now = datetime.datetime.now(datetime.UTC)
    weak = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (tmp_path / "chain.pem").write_bytes(weak.public_bytes(pem))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ConfigurationError, match="does not take this certificate"):
        load(CertificatePair(str(tmp_path / "chain.pem"), str(tmp_path / "key.pem")))


def hello(alpn: list[str]) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="mail.ours.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@given(st.binary(max_size=300), st.integers(0, 600), st.integers(0, 255))
def test_whatever_a_client_sends_first_is_read_without_failing(noise: bytes, at: int, octet: int) -> None:
    offered_protocols(noise)
    good = bytearray(hello(["acme-tls/1"]))
    assert offered_protocols(bytes(good)) == (b"acme-tls/1",)
    assert offered_protocols(bytes(good[: min(at, len(good) - 1)])) == ()
    good[at % len(good)] = octet
    offered_protocols(bytes(good))
    offered_protocols(bytes(good[:at]) + noise)
