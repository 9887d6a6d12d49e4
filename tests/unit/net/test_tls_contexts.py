"""TLS as a client and a server meet it: names, fingerprints, SNI, certificates swapped while running."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.internet import defer, endpoints, protocol, reactor
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from lorrainemail.errors import ConfigurationError
from lorrainemail.net.tls import CertificatePair, ClientTls, PeerNotVerified, ServerTls, tls_facts

TIMEOUT = 10


def write_pair(folder: Path, ca: trustme.CA, *names: str) -> CertificatePair:
    leaf = ca.issue_cert(*names)
    folder.mkdir(exist_ok=True)
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return CertificatePair(str(chain), str(key))


def fingerprint(pair: CertificatePair) -> str:
    leaf = x509.load_pem_x509_certificate(Path(pair.certificate).read_bytes())
    return leaf.fingerprint(hashes.SHA256()).hex(":").upper()


class Greeter(protocol.Protocol):
    """Says its facts after one line, and stays until told to go."""

    def dataReceived(self, data: bytes) -> None:
        facts = tls_facts(self.transport)
        assert facts is not None
        self.transport.write(f"{facts.version} {facts.bits} {facts.server_name}\n".encode())


class Asker(protocol.Protocol):
    def __init__(self) -> None:
        self.answer: defer.Deferred[bytes] = defer.Deferred()
        self.lost: defer.Deferred[BaseException] = defer.Deferred()
        self.names: frozenset[str] = frozenset()

    def connectionMade(self) -> None:
        self.transport.write(b"hello\n")

    def dataReceived(self, data: bytes) -> None:
        certificate = self.transport.getPeerCertificate().to_cryptography()
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        self.names = frozenset(extension.value.get_values_for_type(x509.DNSName))
        answer, self.answer = self.answer, defer.Deferred()
        answer.callback(data)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self.lost.callback(reason.value)


class Bench:
    """One TLS listener on loopback and clients to it."""

    def __init__(self, tls: ServerTls, door: str = "imaps") -> None:
        factory = TLSMemoryBIOFactory(tls.context_factory(door), False, protocol.Factory.forProtocol(Greeter))
        self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")

    async def ask(self, creator: Any) -> Asker:
        point = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", self.port.getHost().port)
        wrapped = endpoints.wrapClientTLS(creator, point)
        asker: Asker = await wrapped.connect(protocol.Factory.forProtocol(Asker)).addTimeout(TIMEOUT, reactor)
        return asker

    async def close(self, *askers: Asker) -> None:
        for asker in askers:
            asker.transport.abortConnection()
            await asker.lost.addTimeout(TIMEOUT, reactor)
        await defer.maybeDeferred(self.port.stopListening)


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


def trust_file(ca: trustme.CA, folder: Path) -> str:
    path = folder / "ca.pem"
    path.write_bytes(ca.cert_pem.bytes())
    return str(path)


@pytest_twisted.ensureDeferred
async def test_a_verified_next_hop_with_the_right_name_is_talked_to(ca: trustme.CA, tmp_path: Path) -> None:
    bench = Bench(ServerTls([write_pair(tmp_path / "a", ca, "mx.example.test", "127.0.0.1")]))
    client = ClientTls(trust_file(ca, tmp_path))
    asker = await bench.ask(client.creator("mx.example.test", "verified"))
    by_address = await bench.ask(client.creator("127.0.0.1", "verified"))
    answer = await asker.answer.addTimeout(TIMEOUT, reactor)
    assert answer == b"TLSv1.3 256 mx.example.test\n"
    # An address is never sent as a server name.
    assert await by_address.answer.addTimeout(TIMEOUT, reactor) == b"TLSv1.3 256 \n"
    await bench.close(asker, by_address)


@pytest_twisted.ensureDeferred
async def test_a_verified_next_hop_under_another_name_gets_nothing(ca: trustme.CA, tmp_path: Path) -> None:
    bench = Bench(ServerTls([write_pair(tmp_path / "a", ca, "mx.example.test")]))
    asker = await bench.ask(ClientTls(trust_file(ca, tmp_path)).creator("mx.other.test", "verified"))
    reason = await asker.lost.addTimeout(TIMEOUT, reactor)
    assert isinstance(reason, PeerNotVerified)
    assert not asker.answer.called
    await bench.close()


@pytest_twisted.ensureDeferred
async def test_a_verified_next_hop_of_an_unknown_authority_gets_nothing(
    ca: trustme.CA, tmp_path: Path
) -> None:
    bench = Bench(ServerTls([write_pair(tmp_path / "a", trustme.CA(), "mx.example.test")]))
    asker = await bench.ask(ClientTls(trust_file(ca, tmp_path)).creator("mx.example.test", "verified"))
    reason = await asker.lost.addTimeout(TIMEOUT, reactor)
    assert isinstance(reason, SSL.Error)
    await bench.close()


@pytest_twisted.ensureDeferred
async def test_a_fingerprint_row_accepts_that_certificate_alone(ca: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(tmp_path / "a", ca, "mx.example.test")
    right = fingerprint(pair)
    bench = Bench(ServerTls([pair]))
    good = await bench.ask(ClientTls().creator("any.test", f"sha256:{right}"))
    assert (await good.answer.addTimeout(TIMEOUT, reactor)).startswith(b"TLSv1.3")
    bad = await bench.ask(ClientTls().creator("any.test", "sha256:" + "00" * 32))
    reason = await bad.lost.addTimeout(TIMEOUT, reactor)
    assert isinstance(reason, PeerNotVerified)
    await bench.close(good)


@pytest_twisted.ensureDeferred
async def test_opportunistic_tls_takes_whatever_certificate_there_is(ca: trustme.CA, tmp_path: Path) -> None:
    bench = Bench(ServerTls([write_pair(tmp_path / "a", ca, "mx.example.test")], old_peers=True), door="smtp")
    asker = await bench.ask(ClientTls().creator("mx.other.test", "opportunistic"))
    assert await asker.answer.addTimeout(TIMEOUT, reactor) == b"TLSv1.3 256 mx.other.test\n"
    await bench.close(asker)


@pytest_twisted.ensureDeferred
async def test_a_client_gets_the_certificate_of_the_name_it_asks_for(ca: trustme.CA, tmp_path: Path) -> None:
    tls = ServerTls(
        [
            write_pair(tmp_path / "a", ca, "mail.one.test"),
            write_pair(tmp_path / "b", ca, "mail.two.test", "*.three.test"),
        ]
    )
    bench = Bench(tls)
    seen = []
    askers = []
    for name in ("mail.one.test", "MAIL.two.test", "x.three.test", "x.y.three.test", "unknown.test"):
        asker = await bench.ask(ClientTls().creator(name, "opportunistic"))
        await asker.answer.addTimeout(TIMEOUT, reactor)
        seen.append("mail.two.test" in asker.names)
        askers.append(asker)
    assert seen == [False, True, True, False, False]
    await bench.close(*askers)


@pytest_twisted.ensureDeferred
async def test_a_renewed_certificate_serves_new_clients_and_leaves_open_ones_alone(
    ca: trustme.CA, tmp_path: Path
) -> None:
    pair = write_pair(tmp_path / "a", ca, "old.test")
    tls = ServerTls([pair])
    bench = Bench(tls)
    before = await bench.ask(ClientTls().creator("x.test", "opportunistic"))
    await before.answer.addTimeout(TIMEOUT, reactor)
    write_pair(tmp_path / "a", ca, "new.test")
    tls.reload([pair])
    after = await bench.ask(ClientTls().creator("x.test", "opportunistic"))
    await after.answer.addTimeout(TIMEOUT, reactor)
    before.transport.write(b"again\n")
    assert (await before.answer.addTimeout(TIMEOUT, reactor)).startswith(b"TLSv1.3")
    assert (before.names, after.names) == ({"old.test"}, {"new.test"})
    await bench.close(before, after)


def test_a_reload_with_a_wrong_key_names_the_file_and_keeps_the_old_certificate(
    ca: trustme.CA, tmp_path: Path
) -> None:
    pair = write_pair(tmp_path / "a", ca, "old.test")
    other = write_pair(tmp_path / "b", ca, "new.test")
    tls = ServerTls([pair])
    kept = tls.context_for("", None)
    with pytest.raises(ConfigurationError, match="do not fit together"):
        tls.reload([CertificatePair(pair.certificate, other.key)])
    with pytest.raises(ConfigurationError, match=r"cannot read the TLS key.*No such file"):
        tls.reload([CertificatePair(pair.certificate, str(tmp_path / "none.pem"))])
    assert tls.context_for("", None) is kept


def test_trusted_authorities_that_are_no_certificates_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match="trusted authorities"):
        ClientTls(str(tmp_path / "x.pem"))


def test_a_plain_transport_has_no_tls_facts() -> None:
    with socket.socket() as plain:
        assert tls_facts(plain) is None
