"""Fetching from web servers that are not who they should be, or do not behave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor as installed_reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from lorrainemail.certs import fetch
from lorrainemail.certs.fetch import MAX_BODY, Fetcher, FetchError
from lorrainemail.interfaces import DnsFailure
from lorrainemail.net.tls import CertificatePair, ClientTls, ServerTls

reactor: Any = installed_reactor


class Speaker(Protocol):
    """Answers whatever it is asked with the same octets."""

    answer = b""
    close = True
    asked = b""

    def dataReceived(self, data: bytes) -> None:
        Speaker.asked += data
        if b"\r\n\r\n" in Speaker.asked:
            cast(Any, self.transport).write(self.answer)
            if self.close:
                cast(Any, self.transport).loseConnection()


class Host:
    """An HTTPS server on loopback."""

    def __init__(self, folder: Path, ca: trustme.CA, name: str, answer: bytes, close: bool) -> None:
        pem = folder / "both.pem"
        pem.write_bytes(ca.issue_cert(name).private_key_and_cert_chain_pem.bytes())
        (folder / "ca.pem").write_bytes(ca.cert_pem.bytes())
        tls = ServerTls([CertificatePair(str(pem), str(pem))])
        Speaker.answer, Speaker.close, Speaker.asked = answer, close, b""
        factory = Factory.forProtocol(Speaker)
        factory.noisy = False
        wrapped = TLSMemoryBIOFactory(cast(Any, tls.context_factory("https")), False, factory)
        self.port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
        self.number = self.port.getHost().port
        self.tls = ClientTls(str(folder / "ca.pem"))


Serve = Callable[..., Host]


@pytest.fixture
def serve(tmp_path: Path) -> Any:
    hosts: list[Host] = []

    def start(
        answer: bytes, name: str = "127.0.0.1", ca: trustme.CA | None = None, close: bool = True
    ) -> Host:
        hosts.append(Host(tmp_path, ca or trustme.CA(), name, answer, close))
        return hosts[-1]

    yield start
    for host in hosts:
        pytest_twisted.blockon(maybeDeferred(host.port.stopListening))


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nRetry-After: 5\r\nContent-Length: 5\r\n\r\nhello"


@pytest_twisted.ensureDeferred
async def test_what_a_host_that_proves_its_name_answers_is_given(serve: Serve) -> None:
    host = serve(OK)
    fetcher = Fetcher(reactor, host.tls)
    found = await fetcher.request("POST", f"https://127.0.0.1:{host.number}/x", b"body", "application/json")
    assert (found.status, found.body, found.fields["retry-after"]) == (200, b"hello", "5")
    assert b"Content-Type: application/json" in Speaker.asked and Speaker.asked.endswith(b"body")


@pytest_twisted.ensureDeferred
async def test_a_host_under_another_name_or_of_an_unknown_authority_gets_no_request(serve: Serve) -> None:
    host = serve(OK, "other.test")
    with pytest.raises(FetchError, match=r"not for 127.0.0.1"):
        await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/")
    with pytest.raises(FetchError, match="certificate verify failed"):
        await Fetcher(reactor, ClientTls()).request("GET", f"https://127.0.0.1:{host.number}/")
    assert Speaker.asked == b""


@pytest_twisted.ensureDeferred
async def test_a_redirect_is_an_answer_and_not_followed(serve: Serve) -> None:
    host = serve(b"HTTP/1.1 302 Found\r\nLocation: https://evil.test/\r\nContent-Length: 0\r\n\r\n")
    found = await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/")
    assert (found.status, found.body) == (302, b"")


@pytest.mark.parametrize("length", [b"Content-Length: 3000000\r\n", b""])
@pytest_twisted.ensureDeferred
async def test_an_answer_without_end_is_cut_off(serve: Serve, length: bytes) -> None:
    host = serve(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + b"x" * (MAX_BODY + 100_000), close=False)
    with pytest.raises(FetchError, match="larger than"):
        await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_off_or_is_none_is_a_failure_in_words(
    serve: Serve, answer: bytes
) -> None:
    host = serve(answer)
    with pytest.raises(FetchError, match=rf"127.0.0.1:{host.number}: \S"):
        await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/")


@pytest_twisted.ensureDeferred
async def test_a_host_that_drips_is_left(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "EXCHANGE", 0.3)
    host = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nha", close=False)
    with pytest.raises(FetchError, match="took longer"):
        await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/")


@pytest.mark.parametrize(
    "url", ["http://a.test/", "ftp://x", "https://a b/", "https://é.test/", "", "https://a\r\n"]
)
@pytest_twisted.ensureDeferred
async def test_nothing_but_https_is_asked(url: str) -> None:
    with pytest.raises(FetchError, match="is no https address"):
        await Fetcher(reactor, ClientTls()).request("GET", url)


class Names:
    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        if not self._addresses:
            return fail(DnsFailure("nxdomain", host, "there is no such name"))
        return succeed(list(self._addresses))


@pytest_twisted.ensureDeferred
async def test_our_own_resolver_is_asked_and_every_address_is_tried(serve: Serve) -> None:
    host = serve(OK, "mta-sts.ours.test")
    url = f"https://mta-sts.ours.test:{host.number}/"
    names = cast(Any, Names("127.0.0.9", "127.0.0.1"))
    found = await Fetcher(reactor, host.tls, names).request("GET", url)
    assert found.body == b"hello"
    with pytest.raises(FetchError, match="there is no such name"):
        await Fetcher(reactor, host.tls, cast(Any, Names())).request("GET", url)
    with pytest.raises(FetchError, match="refused"):
        await Fetcher(reactor, host.tls, cast(Any, Names("127.0.0.9"))).request("GET", url)


@pytest_twisted.ensureDeferred
async def test_a_header_without_end_is_cut_off(serve: Serve) -> None:
    flood = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(12_000))
    host = serve(b"HTTP/1.1 200 OK\r\n" + flood + b"Content-Length: 2\r\n\r\nok", close=False)
    with pytest.raises(FetchError):
        await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/")
    with pytest.raises(FetchError):
        await Fetcher(reactor, host.tls).request("GET", f"https://127.0.0.1:{host.number}/", most=1000)


@pytest_twisted.ensureDeferred
async def test_who_asks_says_how_much_he_wants(serve: Serve) -> None:
    host = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101)
    url = f"https://127.0.0.1:{host.number}/"
    assert len((await Fetcher(reactor, host.tls).request("GET", url, most=101)).body) == 101
    with pytest.raises(FetchError, match="larger than 100 octets"):
        await Fetcher(reactor, host.tls).request("GET", url, most=100)


@pytest_twisted.ensureDeferred
async def test_a_name_that_is_not_proved_is_told_from_other_failures(serve: Serve) -> None:
    host = serve(OK, "other.test")
    url = f"https://127.0.0.1:{host.number}/"
    for tls in (host.tls, ClientTls()):
        with pytest.raises(FetchError) as caught:
            await Fetcher(reactor, tls).request("GET", url)
        assert caught.value.tls
    with pytest.raises(FetchError) as caught:
        await Fetcher(reactor, host.tls).request("GET", "https://127.0.0.1:1/")
    assert not caught.value.tls
