"""Certificates fetched from Pebble, the authority that Let's Encrypt tests clients with."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import pytest_twisted
import trustme
from cryptography import x509
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory

from lorrainemail.certs.acme import AcmeClient, AcmeError, Credentials
from lorrainemail.certs.acme_state import make_key
from lorrainemail.certs.challenges import Challenges, Kind
from lorrainemail.certs.fetch import Fetcher
from lorrainemail.certs.order import obtain
from lorrainemail.net.tls import CertificatePair, ClientTls, ServerTls

pytestmark = pytest.mark.interop

reactor: Any = installed_reactor
#: Bound on every wait, in seconds.
PATIENCE = 90.0
#: A key that a known customer has, base64url.
OUTSIDE_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
HTTP, HTTPS, IMAPS, SMTP = 2080, 2443, 2993, 2525


@attrs.define
class Pebble:
    """One Pebble, with a DNS server that gives one address for every name."""

    address: str
    directory: Path
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        return f"https://{self.address}:14000/dir"

    @property
    def dns(self) -> str:
        return f"{self.address}:8053"

    def manage(self, what: str, **data: str) -> None:
        """Tell the DNS server what to answer."""
        request = urllib.request.Request(
            f"http://{self.address}:8055/{what}", json.dumps(data).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200

    def start(self, words: list[str], **environment: str) -> None:
        with open(self.directory / f"{Path(words[0]).name}.log", "wb") as log:
            self.processes.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    env={**os.environ, **environment},
                )
            )

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(PATIENCE)


def open_port(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True


def wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.05)


@pytest.fixture
def start_pebble(tool: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., Pebble]]:
    """``start_pebble(target)``: every name leads to that address."""
    programs = tool("pebble"), tool("pebble-challtestsrv")
    started: list[Pebble] = []

    def start(target: str, bound: bool = False) -> Pebble:
        place = tmp_path / "pebble"
        place.mkdir()
        address = f"127.{os.urandom(1)[0] % 100 + 2}.{os.urandom(1)[0]}.{os.urandom(1)[0] % 254 + 1}"
        ca = trustme.CA()
        leaf = ca.issue_cert(address)
        (place / "ca.pem").write_bytes(ca.cert_pem.bytes())
        (place / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (place / "key.pem").write_bytes(leaf.private_key_pem.bytes())
        settings: dict[str, Any] = {
            "listenAddress": f"{address}:14000",
            "managementListenAddress": f"{address}:15000",
            "certificate": "cert.pem",
            "privateKey": "key.pem",
            "httpPort": HTTP,
            "tlsPort": HTTPS,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bound,
        }
        if bound:
            settings["externalAccountMACKeys"] = {
                "kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
            }
        (place / "config.json").write_text(json.dumps({"pebble": settings}))
        pebble = Pebble(address, place)
        started.append(pebble)
        closed = [word for door in ("http01", "https01", "tlsalpn01") for word in (f"-{door}", "")]
        servers = ["-dns01", pebble.dns, "-management", f"{address}:8055", "-defaultIPv4", target]
        pebble.start([programs[1], *servers, "-defaultIPv6", "", *closed])
        pebble.start(
            [programs[0], "-config", "config.json", "-dnsserver", pebble.dns],
            PEBBLE_VA_NOSLEEP="1",
            PEBBLE_WFE_NONCEREJECT="5",
            PEBBLE_AUTHZREUSE="0",
        )
        wait(lambda: open_port(address, 14000) and open_port(address, 8055), "pebble")
        return pebble

    yield start
    for pebble in started:
        pebble.stop()


# -- a whole server --------------------------------------------------------------------------------------


@pytest.fixture
def server(make_server: Any, start_pebble: Callable[..., Pebble]) -> Any:
    server = make_server(start=False)
    pebble = start_pebble(server.address)
    text = server.configuration.read_text()
    doors = "\n".join(
        f"{door} = ['tcp:{port}:interface={server.address}']"
        for door, port in (("http", HTTP), ("https", HTTPS))
    )
    server.configuration.write_text(
        text.replace("[listen]\n", f"[listen]\n{doors}\n")
        + f'\n[dns]\nresolvers = ["{pebble.dns}"]\n'
        + f'\n[acme]\ndirectory = "{pebble.url}"\ntrust = "{pebble.directory}/ca.pem"\n'
        + 'contact = ["bob@ours.test"]\n'
    )
    return server


def connect(server: Any, port: int = IMAPS, name: str = "mail.ours.test", ciphers: str = "") -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if ciphers:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    plain = socket.create_connection((server.address, port), timeout=10)
    return context.wrap_socket(plain, server_hostname=name)


def shown(server: Any, **more: Any) -> x509.Certificate:
    with connect(server, **more) as session:
        certificate = session.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate)


def from_pebble(certificate: x509.Certificate) -> bool:
    return "Pebble" in certificate.issuer.rfc4514_string()


def listed(server: Any) -> dict[str, Any]:
    answer = server.command("certificate", "list", "--json")
    assert answer.stdout, answer.stderr
    data: dict[str, Any] = json.loads(answer.stdout)
    return data


def until(session: ssl.SSLSocket, words: bytes) -> bytes:
    said = b""
    while words not in said or not said.endswith(b"\r\n"):
        piece = session.recv(4096)
        assert piece, said
        said += piece
    return said


def test_a_server_fetches_its_certificates_and_renews_them_under_a_session_in_idle(server: Any) -> None:
    server.start()
    self_signed = shown(server)
    assert not from_pebble(self_signed)
    session = connect(server)
    with session:
        until(session, b"* OK")
        for number, words in enumerate((b'LOGIN bob@ours.test "correct horse battery"', b"SELECT INBOX")):
            session.sendall(b"a%d %s\r\n" % (number, words))
            until(session, b"a%d OK" % number)
        session.sendall(b"a9 IDLE\r\n")
        until(session, b"+ ")

        server.wait(
            lambda: len(listed(server)["certificates"]) == 4,
            "four certificates",
        )
        first = shown(server)
        assert from_pebble(first) and from_pebble(shown(server, ciphers="ECDHE+aRSA"))
        for name in ("mta-sts.ours.test", "autoconfig.ours.test", "autodiscover.ours.test"):
            web = shown(server, port=HTTPS, name=name)
            names = web.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert name in names.get_values_for_type(x509.DNSName)
        state = listed(server)
        assert not any(row["failures"] for row in state["acme"]["wanted"])
        assert {row["origin"] for row in state["certificates"]} == {"acme"}
        digests = {row["public_key"] for row in state["certificates"] if "mail.ours.test" in row["names"]}

        renewed = server.command("certificate", "renew", "mail.ours.test", "--force")
        assert renewed.returncode == 0, renewed.stderr
        second = shown(server)
        assert second != first and from_pebble(second)
        # So early the key stays: others have not known the next one for long enough.
        assert second.public_key() == first.public_key()
        after = listed(server)["certificates"]
        assert {row["public_key"] for row in after if "mail.ours.test" in row["names"]} == digests

        with socket.create_connection((server.address, SMTP), timeout=10) as stranger:
            said = stranger.recv(1000)
            for command in (b"EHLO other.test", b"MAIL FROM:<>", b"RCPT TO:<bob@ours.test>", b"DATA"):
                stranger.sendall(command + b"\r\n")
                said = stranger.recv(2000)
            assert said.startswith(b"354"), said
            stranger.sendall(b"Subject: after the swap\r\n\r\nx\r\n.\r\n")
            assert stranger.recv(1000).startswith(b"250")
        until(session, b"EXISTS")
        session.sendall(b"DONE\r\n")
        until(session, b"a9 OK")
    assert "valid until" in server.log_text()
    server.stop()
    server.start()
    assert shown(server) == second
    text = server.command("certificate", "list").stdout
    assert "mail.ours.test" in text and "ecdsa" in text and "rsa" in text
    # What is in use and what comes next, of both kinds of key.
    assert len(server.command("certificate", "keys").stdout.split()) == 4


# -- each way to prove a name ----------------------------------------------------------------------------


class Dns:
    """Writes TXT records into Pebble's DNS server."""

    def __init__(self, pebble: Pebble) -> None:
        self.pebble = pebble
        self.published: list[str] = []

    def publish(self, name: str, value: str) -> Deferred[None]:
        self.published.append(name)
        return deferToThread(self.pebble.manage, "set-txt", host=f"{name}.", value=value)

    def withdraw(self, name: str, value: str) -> Deferred[None]:
        self.published.remove(name)
        return deferToThread(self.pebble.manage, "clear-txt", host=f"{name}.")


async def register(pebble: Pebble, credentials: Credentials | None = None) -> AcmeClient:
    fetcher = Fetcher(reactor, ClientTls(str(pebble.directory / "ca.pem")))
    client = AcmeClient(fetcher, pebble.url, make_key("ecdsa"))
    await client.register((), credentials)
    return client


def target() -> str:
    return f"127.{os.urandom(1)[0] % 100 + 2}.{os.urandom(1)[0]}.{os.urandom(1)[0] % 254 + 1}"


@pytest_twisted.ensureDeferred
async def test_names_are_proved_by_tls_alone_on_a_door_that_goes_on_serving(
    start_pebble: Callable[..., Pebble], tmp_path: Path
) -> None:
    here = target()
    pebble = start_pebble(here)
    pem = tmp_path / "both.pem"
    pem.write_bytes(trustme.CA().issue_cert("mail.ours.test").private_key_and_cert_chain_pem.bytes())
    tls = ServerTls([CertificatePair(str(pem), str(pem))])
    context: Any = tls.context_factory("https")
    factory = Factory.forProtocol(Protocol)
    port = reactor.listenTCP(HTTPS, TLSMemoryBIOFactory(context, False, factory), interface=here)
    key, names = make_key("rsa"), ("mail.ours.test", "mta-sts.ours.test")
    client = await register(pebble)
    chain = await obtain(client, Challenges(tls), names, ("tls-alpn-01",), key, reactor)
    assert from_pebble(x509.load_pem_x509_certificates(chain)[0])
    assert not tls.challenged
    await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_names_are_proved_by_the_dns_and_the_records_are_taken_back(
    start_pebble: Callable[..., Pebble],
) -> None:
    pebble = start_pebble("127.0.0.1")
    dns = Dns(pebble)
    challenges = Challenges(ServerTls(), cast(Any, dns))
    key, client = make_key("ecdsa"), await register(pebble)
    chain = await obtain(client, challenges, ("mail.ours.test",), ("dns-01",), key, reactor)
    assert from_pebble(x509.load_pem_x509_certificates(chain)[0])
    assert dns.published == []


@pytest_twisted.ensureDeferred
async def test_where_nobody_answers_at_port_80_the_next_way_is_taken(
    start_pebble: Callable[..., Pebble],
) -> None:
    pebble = start_pebble(target())
    challenges = Challenges(ServerTls(), cast(Any, Dns(pebble)))
    key, client = make_key("ecdsa"), await register(pebble)
    ways: tuple[Kind, ...] = ("http-01", "tls-alpn-01", "dns-01")
    chain = await obtain(client, challenges, ("mail.ours.test",), ways, key, reactor)
    assert from_pebble(x509.load_pem_x509_certificates(chain)[0])
    with pytest.raises(AcmeError, match=r"other.ours.test could not be proved by http-01"):
        await obtain(client, challenges, ("other.ours.test",), ("http-01",), key, reactor)


@pytest_twisted.ensureDeferred
async def test_an_authority_for_known_customers_is_told_who_we_are(
    start_pebble: Callable[..., Pebble],
) -> None:
    pebble = start_pebble("127.0.0.1", bound=True)
    with pytest.raises(AcmeError, match="known customer"):
        await register(pebble)
    with pytest.raises(AcmeError, match="the authority said"):
        await register(pebble, Credentials("kid-1", "AAAA"))
    client = await register(pebble, Credentials("kid-1", OUTSIDE_KEY))
    assert client.account.startswith("https://")
