"""An ACME server that fails, lies or drips at each step: bounded, answered, tried again."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from lorrainemail.certs import fetch
from lorrainemail.certs.acme import AcmeClient, AcmeError, certificate_id
from lorrainemail.certs.acme_state import KNOWN, AcmeState, key_digests, make_key
from lorrainemail.certs.challenges import Challenges
from lorrainemail.certs.fetch import FetchError, Response
from lorrainemail.certs.jose import thumbprint, unb64
from lorrainemail.certs.order import PATIENCE, obtain
from lorrainemail.certs.renewal import LOOK, Renewals
from lorrainemail.certs.sources import Sources
from lorrainemail.certs.store import CertificateStore
from lorrainemail.certs.wishes import Surroundings
from lorrainemail.config.model import Acme
from lorrainemail.interfaces import DnsFailure
from lorrainemail.net.certificates import public_key_digest
from lorrainemail.net.tls import ServerTls

BASE = "https://acme.test"
DAY = 86400.0
NOW = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC).timestamp()
CA = trustme.CA()

#: Takes the request's name, its payload and the answer that would be given; gives another.
Spoiler = Callable[[str, Any, Response], Response | Exception]


def issue(request: bytes, clock: Clock, days: float) -> bytes:
    """A chain for a certificate request."""
    wanted = x509.load_der_x509_csr(request)
    assert wanted.is_signature_valid
    start = datetime.datetime.fromtimestamp(clock.seconds(), datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Fake authority")])
    names = wanted.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name)
        .public_key(wanted.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
        .add_extension(names, critical=False)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return leaf.public_bytes(serialization.Encoding.PEM)


class Authority:
    """An ACME server in memory: checks what it gets as a real one does, and fails where it is told to."""

    def __init__(self, clock: Clock, answers: Challenges | None = None) -> None:
        self.clock = clock
        self.answers = answers
        self.log: list[str] = []
        self.spoil: dict[str, Spoiler] = {}
        self.days = 90.0
        self.window: tuple[float, float] | None = None
        self.moving = True
        self.ways = ["http-01", "dns-01", "tls-alpn-01"]
        self.blind: set[str] = set()
        self.replaced: list[str] = []
        self._nonces: set[str] = set()
        self._count = 0
        self._names: list[str] = []
        self._state: dict[str, str] = {}
        self._chain = b""
        self._key: ec.EllipticCurvePublicKey | None = None

    async def request(self, method: str, url: str, body: bytes | None = None, kind: str = "") -> Response:
        await succeed(None)
        name = url.removeprefix(BASE).strip("/").split("/")[0]
        self.log.append(name)
        payload: Any = None
        if method == "POST":
            assert body is not None and kind == "application/jose+json"
            refused, payload = self._open(url, body)
            if refused is not None:
                return refused
        answer = self._answer(name, url, payload)
        spoiler = self.spoil.get(name)
        if spoiler is not None:
            spoiled = spoiler(name, payload, answer)
            if isinstance(spoiled, Exception):
                raise spoiled
            return spoiled
        return answer

    def _open(self, url: str, body: bytes) -> tuple[Response | None, Any]:
        outer = json.loads(body)
        head = json.loads(unb64(outer["protected"]))
        assert head["url"] == url and head["alg"] == "ES256"
        if head["nonce"] not in self._nonces:
            return self.problem("badNonce"), None
        self._nonces.remove(head["nonce"])
        if "jwk" in head:
            x, y = (int.from_bytes(unb64(head["jwk"][part]), "big") for part in "xy")
            self._key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        else:
            assert head["kid"] == f"{BASE}/account/1"
        assert self._key is not None
        signature = unb64(outer["signature"])
        r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
        signed = f"{outer['protected']}.{outer['payload']}".encode()
        self._key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
        return None, json.loads(unb64(outer["payload"])) if outer["payload"] else None

    def _nonce(self) -> str:
        self._count += 1
        nonce = f"nonce{self._count}"
        self._nonces.add(nonce)
        return nonce

    def forget_nonces(self) -> None:
        self._nonces.clear()

    def _respond(self, data: Any, status: int = 200, **fields: str) -> Response:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return Response(status, {"replay-nonce": self._nonce(), **named}, json.dumps(data).encode())

    def problem(self, kind: str, status: int = 400, **fields: str) -> Response:
        words = {"type": f"urn:ietf:params:acme:error:{kind}", "detail": f"it is {kind}"}
        return self._respond(words, status, **fields)

    def _answer(self, name: str, url: str, payload: Any) -> Response:
        last = url.rpartition("/")[2]
        if name == "dir":
            places = {word: f"{BASE}/{word}" for word in ("newNonce", "newAccount", "newOrder", "revokeCert")}
            return self._respond(places | ({"renewalInfo": f"{BASE}/ari"} if self.window else {}))
        if name == "newAccount":
            assert payload["termsOfServiceAgreed"] is True
            return self._respond({"status": "valid"}, 201, location=f"{BASE}/account/1")
        if name == "newOrder":
            self._names = [one["value"] for one in payload["identifiers"]]
            self.replaced.append(payload.get("replaces", ""))
            self._state = {"order": "pending", **{one: "pending" for one in self._names}}
            return self._respond(self._order(), 201, location=f"{BASE}/order/1")
        if name == "order":
            return self._respond(self._order())
        if name == "authz":
            return self._respond(self._authorization(last))
        if name == "challenge":
            return self._respond(self._prove(last, url))
        if name == "finalize":
            assert self._state["order"] == "ready"
            self._chain = issue(unb64(payload["csr"]), self.clock, self.days)
            if self.moving and self.window is not None:
                self.window = (self.clock.seconds() + 40 * DAY, self.clock.seconds() + 41 * DAY)
            self._state["order"] = "valid"
            return self._respond(self._order())
        if name == "cert":
            return Response(200, {"replay-nonce": self._nonce()}, self._chain)
        if name == "ari":
            assert self.window is not None
            start, end = (
                datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat() for moment in self.window
            )
            return self._respond({"suggestedWindow": {"start": start, "end": end}}, retry_after="7200")
        assert name == "newNonce"
        return self._respond({})

    def _order(self) -> dict[str, Any]:
        state = self._state["order"]
        if state == "pending" and all(self._state[name] == "valid" for name in self._names):
            state = self._state["order"] = "ready"
        found: dict[str, Any] = {
            "status": state,
            "authorizations": [f"{BASE}/authz/{name}" for name in self._names],
            "finalize": f"{BASE}/finalize/1",
        }
        return found | ({"certificate": f"{BASE}/cert/1"} if state == "valid" else {})

    def _authorization(self, name: str) -> dict[str, Any]:
        token = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()
        challenges: list[dict[str, Any]] = [
            {"type": way, "url": f"{BASE}/challenge/{way}/{name}", "token": token, "status": "pending"}
            for way in self.ways
        ]
        if self._state[name] == "invalid":
            challenges[0]["error"] = {"type": "x:connection", "detail": "nobody answers\x07"}
        return {
            "status": self._state[name],
            "identifier": {"type": "dns", "value": name},
            "challenges": challenges,
        }

    def _prove(self, name: str, url: str) -> dict[str, Any]:
        way = url.split("/")[-2]
        seen = way not in self.blind
        if way == "http-01" and self.answers is not None and seen:
            seen = any(answer.startswith(token + ".") for token, answer in self.answers.http.items())
        self._state[name] = "valid" if seen else "invalid"
        return {"status": "processing"}


class Pausing(Clock):
    """Time passes by itself while somebody waits: no test sleeps."""

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **more: object) -> Any:
        call = super().callLater(delay, callable, *args, **more)
        if delay <= 30:
            self.waits = [*getattr(self, "waits", []), delay]
            self.advance(delay)
        return call


@attrs.define
class Bench:
    clock: Clock
    authority: Authority
    challenges: Challenges
    client: AcmeClient

    def obtain(self, *names: str, ways: Any = ("http-01",), key: Any = None) -> bytes:
        work = obtain(
            self.client,
            self.challenges,
            names or ("mail.ours.test",),
            ways,
            key or make_key("ecdsa"),
            self.clock,
        )
        outcome: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(outcome.append)
        assert outcome, "it waits for something that does not come"
        if not isinstance(outcome[0], bytes):
            outcome[0].raiseException()
        chain: bytes = outcome[0]
        return chain


def run(work: Any) -> Any:
    outcome: list[Any] = []
    Deferred.fromCoroutine(work).addBoth(outcome.append)
    assert outcome
    if hasattr(outcome[0], "raiseException"):
        outcome[0].raiseException()
    return outcome[0]


@pytest.fixture
def bench() -> Bench:
    clock = Pausing()
    clock.rightNow = NOW
    challenges = Challenges(ServerTls())
    authority = Authority(clock, challenges)
    client = AcmeClient(cast(Any, authority), f"{BASE}/dir", make_key("ecdsa"))
    run(client.register(("bob@ours.test",), None))
    return Bench(clock, authority, challenges, client)


def test_an_order_for_several_names_ends_with_a_chain_and_without_answers_left(bench: Bench) -> None:
    key = make_key("rsa")
    chain = bench.obtain("mail.ours.test", "mta-sts.ours.test", key=key)
    assert x509.load_pem_x509_certificate(chain).public_key() == key.public_key()
    assert bench.challenges.http == {}


def test_the_answer_is_the_token_and_the_thumbprint_of_the_account(bench: Bench) -> None:
    seen: list[dict[str, str]] = []

    def look(name: str, payload: Any, answer: Response) -> Response:
        seen.append(dict(bench.challenges.http))
        return answer

    bench.authority.spoil["challenge"] = look
    bench.obtain()
    ((token, answer),) = seen[0].items()
    assert answer == f"{token}.{thumbprint(bench.client.key)}"


def test_nonces_that_have_run_out_are_fetched_anew(bench: Bench) -> None:
    bench.authority.forget_nonces()
    bench.obtain()
    bench.authority.spoil["newOrder"] = lambda name, payload, answer: bench.authority.problem("badNonce")
    with pytest.raises(AcmeError, match="badNonce"):
        bench.obtain()
    assert bench.authority.log.count("newOrder") < 10


@pytest.mark.parametrize("step", ["dir", "newOrder", "authz", "challenge", "finalize", "cert", "order"])
@pytest.mark.parametrize("how", ["refused", "silent", "garbage", "list", "limited"])
def test_a_failure_at_any_step_is_told_in_its_words_and_leaves_no_answer_behind(
    bench: Bench, step: str, how: str
) -> None:
    authority = bench.authority
    kinds: dict[str, Spoiler] = {
        "refused": lambda name, payload, answer: authority.problem("unauthorized", 403),
        "silent": lambda name, payload, answer: FetchError("acme.test took longer than 60 s"),
        "garbage": lambda name, payload, answer: attrs.evolve(answer, body=b"\xff<html>"),
        "list": lambda name, payload, answer: attrs.evolve(answer, body=b"[" * 2000),
        "limited": lambda name, payload, answer: authority.problem("rateLimited", 429, retry_after="3600"),
    }
    if step == "dir":
        bench.client._directory = {}
    if step == "order":
        authority.spoil["finalize"] = lambda name, payload, answer: attrs.evolve(
            answer, body=answer.body.replace(b'"valid"', b'"processing"')
        )
    authority.spoil[step] = kinds[how]
    if step == "challenge" and how in ("garbage", "list"):
        bench.obtain()  # nothing of that answer is needed
        return
    with pytest.raises(AcmeError) as caught:
        bench.obtain()
    assert bench.challenges.http == {}
    if how == "limited":
        assert (caught.value.wait, caught.value.kind) == (3600.0, "rateLimited")
    assert len(authority.log) < 40


def test_a_name_that_stays_pending_is_given_up(bench: Bench) -> None:
    bench.authority.spoil["challenge"] = lambda name, payload, answer: answer
    bench.authority.spoil["authz"] = lambda name, payload, answer: attrs.evolve(
        answer, body=answer.body.replace(b'"valid"', b'"pending"')
    )
    with pytest.raises(AcmeError, match="no answer in 300 s"):
        bench.obtain()
    assert bench.clock.seconds() - NOW < PATIENCE + 60
    assert bench.challenges.http == {}


def test_an_order_that_stays_in_the_making_is_given_up(bench: Bench) -> None:
    for step in ("finalize", "order"):
        bench.authority.spoil[step] = lambda name, payload, answer: attrs.evolve(
            answer,
            body=answer.body.replace(b'"valid"', b'"processing"'),
            fields={**answer.fields, "retry-after": "9999999"},
        )
    with pytest.raises(AcmeError, match="still 'processing' after 300 s"):
        bench.obtain()


def test_the_next_way_is_taken_where_the_authority_did_not_see_the_answer(bench: Bench) -> None:
    class Dns:
        published: ClassVar[list[str]] = []

        def publish(self, name: str, value: str) -> None:
            self.published.append(name)

        def withdraw(self, name: str, value: str) -> None:
            self.published.remove(name)

    bench.challenges.dns = cast(Any, Dns())
    bench.authority.blind = {"http-01"}
    assert bench.obtain(ways=("http-01", "dns-01"))
    assert Dns.published == []
    bench.authority.blind = {"http-01", "dns-01"}
    with pytest.raises(AcmeError, match=r"mail.ours.test could not be proved by http-01: nobody answers $"):
        bench.obtain(ways=("http-01", "dns-01"))


def test_a_dns_that_cannot_be_written_to_is_the_reason_that_is_told(bench: Bench) -> None:
    class Broken:
        def publish(self, name: str, value: str) -> Deferred[None]:
            raise RuntimeError("the key of ours.test is refused")

        def withdraw(self, name: str, value: str) -> None:
            raise RuntimeError("and so it is here")

    bench.challenges.dns = cast(Any, Broken())
    with pytest.raises(AcmeError, match=r"dns-01: the key of ours.test is refused"):
        bench.obtain(ways=("dns-01",))


def test_without_any_way_the_operator_is_told_what_to_open(bench: Bench) -> None:
    with pytest.raises(AcmeError, match="open the http or https door"):
        bench.obtain(ways=())
    bench.authority.ways = ["dns-01"]
    with pytest.raises(AcmeError, match=r"no .*way to prove mail.ours.test"):
        bench.obtain(ways=("http-01",))


@pytest.mark.parametrize("how", ["key", "names", "ended", "empty"])
def test_a_certificate_that_was_not_ordered_is_not_taken(bench: Bench, how: str) -> None:
    key, other = make_key("ecdsa"), make_key("ecdsa")
    names = ["mail.ours.test"]
    from lorrainemail.certs.order import certificate_request

    requests = {
        "key": certificate_request(names, other),
        "names": certificate_request(["other.test"], key),
        "ended": certificate_request(names, key),
    }
    days = -1 if how == "ended" else 90
    clock = Clock()
    clock.advance(NOW - 2 * DAY)
    chain = issue(requests[how], clock, 1 if days < 0 else 90) if how != "empty" else b""
    bench.authority.spoil["cert"] = lambda name, payload, answer: attrs.evolve(answer, body=chain)
    with pytest.raises(AcmeError, match="the authority sent a c"):
        bench.obtain(key=key)


@pytest.mark.parametrize("token", ["../x", "a b", "", "x" * 2000, "a\r\nb"])
def test_a_token_that_is_none_never_becomes_a_path(bench: Bench, token: str) -> None:
    def spoil(name: str, payload: Any, answer: Response) -> Response:
        data = json.loads(answer.body)
        for challenge in data["challenges"]:
            challenge["token"] = token
        return attrs.evolve(answer, body=json.dumps(data).encode())

    bench.authority.spoil["authz"] = spoil
    with pytest.raises(AcmeError):
        bench.obtain()
    assert bench.challenges.http == {}


def test_the_id_of_a_certificate_is_that_of_the_standards_example() -> None:
    # RFC 9773 §4.1: the serial number 0x8765432100 has a first octet of 128 and more.
    key = make_key("ecdsa")
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    identifier = bytes.fromhex("69885B6B8746404120A0CF8E1C0C2B3F7E1DBB60".lower().ljust(40, "0"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0x87654321)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.AuthorityKeyIdentifier(identifier, None, None), critical=False)
        .sign(key, hashes.SHA256())
    )
    first, _, second = certificate_id(certificate).partition(".")
    assert unb64(first) == identifier and second == "AIdlQyE"


# -- what is due, and what if it fails -------------------------------------------------------------------


class Names:
    """A DNS in which everything leads to us."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {"mail.ours.test": ["192.0.2.1"]}

    def addresses(self, name: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        if name in self.known:
            return succeed(self.known[name])
        failed: Deferred[list[str]] = Deferred()
        failed.errback(DnsFailure("nxdomain", name, "there is no such name"))
        return failed


@attrs.define
class House:
    clock: Clock
    authority: Authority
    store: CertificateStore
    renewals: Renewals
    names: Names
    notes: list[str]
    state: str

    def pass_time(self, seconds: float, step: float = 3600.0) -> None:
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))

    def shown(self) -> Any:
        return self.store.certificates()[0][0]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    clock = Pausing()
    clock.rightNow = NOW
    tls = ServerTls()
    challenges = Challenges(tls)
    authority = Authority(clock, challenges)
    monkeypatch.setattr(fetch, "Fetcher", lambda reactor, tls: authority)
    notes: list[str] = []
    store = CertificateStore(
        tls, Sources(str(tmp_path), "mail.ours.test"), clock, lambda s, t: notes.append(s)
    )
    around = Surroundings(
        "mail.ours.test", lambda: ["ours.test"], lambda: ["http-01"], True, lambda name: None
    )
    settings = Acme(directory=f"{BASE}/dir", keys=("ecdsa",), domains=False)
    names = Names()
    renewals = Renewals(
        settings,
        str(tmp_path),
        around,
        store,
        challenges,
        cast(Any, names),
        clock,
        lambda subject, text: notes.append(subject),
        lambda work, *args: run_now(work, *args),
    )
    return House(clock, authority, store, renewals, names, notes, str(tmp_path))


def run_now(work: Callable[..., Any], *args: Any) -> Deferred[Any]:
    from twisted.internet.defer import execute

    return execute(work, *args)


def test_a_new_server_has_its_certificate_a_moment_after_the_start(house: House) -> None:
    house.renewals.startService()
    house.clock.advance(2)
    assert [origin for _, origin in house.store.certificates()] == ["acme"]
    assert house.renewals.alarms() == [] and house.notes == []
    before = house.authority.log.count("newOrder")
    house.pass_time(50 * DAY)
    assert house.authority.log.count("newOrder") == before == 1


def test_it_is_renewed_after_two_thirds_of_its_life_with_the_key_that_was_known_before(house: House) -> None:
    house.renewals.startService()
    house.clock.advance(2)
    first = house.shown()
    known = list(key_digests(house.store.sources))
    assert len(known) == 2 and known[0] == first.public_key
    house.pass_time(61 * DAY)
    second = house.shown()
    assert second.fingerprint != first.fingerprint
    assert second.public_key == known[1]
    after = list(key_digests(house.store.sources))
    assert after[0] == known[1] and after[1] not in known


def test_a_renewal_before_others_could_know_the_next_key_keeps_the_key(house: House) -> None:
    house.renewals.startService()
    house.clock.advance(2)
    first, known = house.shown(), list(key_digests(house.store.sources))
    house.clock.advance(KNOWN / 2)
    house.renewals.renew(force=True)
    second = house.shown()
    assert second.fingerprint != first.fingerprint and second.public_key == first.public_key
    assert list(key_digests(house.store.sources)) == known


def test_a_crash_between_certificate_and_next_key_does_not_use_a_key_twice_as_next(tmp_path: Path) -> None:
    state = AcmeState(str(tmp_path))
    clock = Clock()
    clock.advance(NOW)
    from lorrainemail.certs.order import certificate_request

    def keep(at: float) -> Any:
        key = state.key_for_order("h.test", "ecdsa", at)
        state.keep("h.test", "ecdsa", key, issue(certificate_request(["h.test"], key), clock, 90), at)
        return key

    keep(NOW)
    following = state.next_key("h.test", "ecdsa")
    second = keep(NOW + 30 * DAY)
    assert public_key_digest(second) == public_key_digest(following)
    # As if the process had ended before the next key was made anew.
    path = tmp_path / "tls" / "acme" / "h.test" / "ecdsa-next.key"
    path.write_bytes(
        second.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    keep(NOW + 60 * DAY)
    assert public_key_digest(state.next_key("h.test", "ecdsa")) != public_key_digest(second)
    assert path.stat().st_mode & 0o077 == 0


def test_the_authoritys_own_time_wins_and_an_incident_renews_at_once(house: House) -> None:
    house.authority.window = (NOW + 40 * DAY, NOW + 41 * DAY)
    house.renewals.startService()
    house.clock.advance(2)
    first = house.shown()
    house.pass_time(39 * DAY, 6 * 3600.0)
    assert house.shown().fingerprint == first.fingerprint
    house.pass_time(2 * DAY + 7200)
    second = house.shown()
    assert second.fingerprint != first.fingerprint
    assert house.authority.replaced == ["", certificate_id(x509.load_pem_x509_certificate(first.chain))]
    # An incident: the window lies behind us.
    house.authority.window = (house.clock.seconds() - 2 * DAY, house.clock.seconds() - DAY)
    house.pass_time(DAY)
    assert house.shown().fingerprint != second.fingerprint


def test_an_authority_that_always_wants_a_renewal_gets_one_a_day_at_most(house: House) -> None:
    house.authority.window, house.authority.moving = (NOW - 2 * DAY, NOW - DAY), False
    house.renewals.startService()
    house.pass_time(10 * DAY)
    assert 2 <= house.authority.log.count("newOrder") <= 11


@pytest.mark.parametrize("how", ["never", "broken"])
def test_a_renewal_time_that_is_nonsense_does_not_let_the_certificate_end(house: House, how: str) -> None:
    house.authority.window = (NOW + 400 * DAY, NOW + 500 * DAY)
    if how == "broken":
        house.authority.spoil["ari"] = lambda name, payload, answer: attrs.evolve(answer, body=b"{}")
    house.renewals.startService()
    house.clock.advance(2)
    first = house.shown()
    house.pass_time(80 * DAY, 6 * 3600.0)
    assert house.shown().fingerprint != first.fingerprint


def test_failures_are_loud_tried_again_ever_later_and_told_once(house: House) -> None:
    house.authority.blind = {"http-01"}
    house.renewals.startService()
    house.clock.advance(2)
    (alarm,) = house.renewals.alarms()
    assert "mail.ours.test could not be proved by http-01" in str(alarm)
    assert house.shown().names == {"mail.ours.test", "localhost"}
    house.pass_time(DAY, LOOK)
    tries = house.authority.log.count("newOrder")
    assert 4 <= tries <= 7
    assert house.notes == ["The certificate for mail.ours.test cannot be renewed"]
    house.pass_time(4 * DAY)
    assert house.authority.log.count("newOrder") - tries <= 10
    house.authority.blind = set()
    house.pass_time(DAY)
    assert house.renewals.alarms() == []
    assert house.notes[1:] == ["The certificate for mail.ours.test is in order again"]


def test_an_authority_that_has_enough_is_left_alone_as_long_as_it_wants(house: House) -> None:
    authority = house.authority
    authority.spoil["newOrder"] = lambda name, payload, answer: authority.problem(
        "rateLimited", 429, retry_after=str(3 * 86400)
    )
    house.renewals.startService()
    house.pass_time(2 * DAY)
    assert authority.log.count("newOrder") == 1
    del authority.spoil["newOrder"]
    house.pass_time(2 * DAY)
    assert [origin for _, origin in house.store.certificates()] == ["acme"]


def test_an_account_that_the_authority_forgot_is_made_anew(house: House) -> None:
    house.renewals.startService()
    house.clock.advance(2)
    authority = house.authority
    refusals = [authority.problem("accountDoesNotExist", 400)]
    authority.spoil["newOrder"] = lambda name, payload, answer: refusals.pop() if refusals else answer
    house.pass_time(62 * DAY)
    assert authority.log.count("newAccount") == 2
    assert house.renewals.alarms() == []


def test_a_domains_names_get_a_certificate_as_far_as_they_lead_to_us(house: House) -> None:
    house.renewals.settings = attrs.evolve(house.renewals.settings, domains=True)
    house.names.known |= {
        "mta-sts.ours.test": ["192.0.2.1"],
        "autoconfig.ours.test": ["192.0.2.9"],
    }
    house.renewals.startService()
    house.clock.advance(2)
    assert {one.names for one, _ in house.store.certificates()} == {
        frozenset({"mail.ours.test"}),
        frozenset({"mta-sts.ours.test"}),
    }
    house.names.known["autoconfig.ours.test"] = ["192.0.2.1", "192.0.2.9"]
    house.pass_time(2 * 3600)
    assert frozenset({"mta-sts.ours.test", "autoconfig.ours.test"}) in {
        one.names for one, _ in house.store.certificates()
    }


def test_what_was_known_of_failures_and_accounts_outlives_a_restart(house: House) -> None:
    house.authority.blind = {"http-01"}
    house.renewals.startService()
    house.pass_time(2 * 3600, LOOK)
    tries = house.authority.log.count("newOrder")
    house.renewals.stopService()
    house.renewals._status.clear()
    house.renewals._client = None
    house.renewals.startService()
    house.clock.advance(2)
    assert house.authority.log.count("newOrder") == tries
    assert house.authority.log.count("newAccount") == 1
    assert len(house.renewals.alarms()) == 1


def test_a_stop_in_the_middle_of_an_order_is_no_failure_and_takes_the_answer_back(house: House) -> None:
    waiting: list[Deferred[Response]] = []

    async def hang(method: str, url: str, body: bytes | None = None, kind: str = "") -> Response:
        if "/challenge/" not in url:
            return await type(house.authority).request(house.authority, method, url, body, kind)
        waiting.append(Deferred())
        return await waiting[0]

    house.authority.request = hang  # type: ignore[method-assign]
    house.renewals.startService()
    house.clock.advance(2)
    assert house.renewals.describe()["busy"] and house.authority.answers is not None
    assert len(house.authority.answers.http) == 1
    stopped = house.renewals.stopService()
    assert stopped is not None and stopped.called
    assert house.authority.answers.http == {}
    assert house.renewals.alarms() == [] and not house.clock.getDelayedCalls()


def test_without_a_directory_nothing_happens(house: House) -> None:
    house.renewals.settings = Acme()
    house.renewals.startService()
    house.pass_time(2 * DAY)
    assert house.authority.log == []
    assert house.renewals.renew() == {"begun": False, "directory": ""}
