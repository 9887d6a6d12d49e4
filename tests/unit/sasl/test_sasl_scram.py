"""SCRAM: the RFC's own exchange, what must not be provable, and when the mechanism is offered."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError
from lorrainemail.interfaces import Account, Credential
from lorrainemail.sasl.credentials import (
    hash_password,
    is_ready_for_scram,
    is_stale,
    matches,
    new_credentials,
    renewed,
    to_be_tried,
)
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.mechanisms import CANNOT_DECODE, CREDENTIALS_INVALID
from lorrainemail.sasl.passwords import Passwords
from lorrainemail.sasl.portal import Authenticator, make_portal
from lorrainemail.sasl.scram import ClientFirst, Proof, Verifier, saslprep
from lorrainemail.sasl.throttle import FREE_GUESSES, Throttle
from lorrainemail.sasl.verifiers import Scram
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
PENCIL = Verifier.derive(b"pencil", SALT, 4096)
STORED = Credential("scram-sha-256", str(PENCIL))
USER = Account(parse_address("user@x.org"), credentials=(STORED,))
SESSION = Session(id="s1", door="submission", peer="192.0.2.1")
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)


def test_the_exchange_of_rfc_7677_word_for_word() -> None:
    # RFC 7677 §3.
    first = ClientFirst.parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    proof = Proof(first, [PENCIL], PENCIL.salt, 4096, nonce=SERVER_NONCE)
    assert proof.challenge == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert proof.check(FINAL) == (0, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_another_password_proves_nothing() -> None:
    first = ClientFirst.parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    other = Verifier.derive(b"pencils", SALT, 4096)
    assert Proof(first, [other], SALT, 4096, nonce=SERVER_NONCE).check(FINAL) is None
    assert Proof(first, [other, PENCIL], SALT, 4096, nonce=SERVER_NONCE).check(FINAL) is not None


def test_verifiers_are_stored_as_dovecot_stores_them() -> None:
    # "doveadm pw -s SCRAM-SHA-256 -p pencil" with the RFC's salt.
    assert str(PENCIL).startswith("4096,W22ZaJ0SNY7soEsUEjb6gQ==,")
    assert Verifier.parse(str(PENCIL)) == PENCIL
    assert PENCIL.matches(b"pencil") and not PENCIL.matches(b"pen")
    assert "pencil" not in repr(PENCIL) and base64.b64encode(PENCIL.stored_key).decode() not in repr(PENCIL)


@pytest.mark.parametrize(
    "value",
    ["", "4096", "0,AA==,AA==,AA==", "4096,AA==,AA==,AA==", "99999999,AA==,x,y", "²,AA==,AA==,AA==", "é,,,"],
)
def test_a_broken_verifier_is_named_as_such_and_never_matches(value: str) -> None:
    with pytest.raises(ValueError):
        Verifier.parse(value)


@pytest.mark.parametrize(
    ("typed", "hashed"),
    [
        # RFC 4013 §3.
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", "\u0007"),
        ("\u0627\u0031", "\u0627\u0031"),
        ("é\u00a0x", "é x"),
    ],
)
def test_passwords_are_prepared_as_clients_prepare_them(typed: str, hashed: str) -> None:
    assert saslprep(typed.encode()) == hashed.encode()


@given(st.binary(max_size=200) | st.text(alphabet="nyp=,ar5:x-", max_size=60).map(str.encode))
def test_no_octets_of_a_client_raise_anything_but_value_error(message: bytes) -> None:
    try:
        first = ClientFirst.parse(message)
    except ValueError:
        return
    proof = Proof(first, [PENCIL], SALT, 4096)
    try:
        assert proof.check(message) is None
    except ValueError:
        pass


# -- the method ------------------------------------------------------------------------------------------


class Channel:
    """A TLS 1.3 channel."""

    def bindings(self) -> tuple[str, ...]:
        return ("tls-exporter", "tls-server-end-point")

    def binding(self, kind: str) -> bytes | None:
        return b"octets of " + kind.encode() if kind in self.bindings() else None

    def client_certificates(self) -> tuple[()]:
        return ()


class Client:
    """A client's half, from the RFC's formulas."""

    def __init__(self, name: bytes, password: bytes, gs2: bytes = b"n,,", bound: bytes = b"") -> None:
        self.name, self.password, self.gs2, self.bound = name, password, gs2, bound

    def log_in(self, house: House, mechanism: bytes = b"SCRAM-SHA-256", channel: Any = None) -> Any:
        exchange = house.door.exchange(mechanism, None, SESSION, channel)
        assert house.wait(exchange.start()) == b""
        bare = b"n=%b,r=clientnonce" % self.name
        first = base64.b64decode(house.wait(exchange.receive(base64.b64encode(self.gs2 + bare))))
        fields = dict(field.split(b"=", 1) for field in first.split(b","))
        self.salt = base64.b64decode(fields[b"s"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password, self.salt, int(fields[b"i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        without = b"c=%b,r=%b" % (base64.b64encode(self.gs2 + self.bound), fields[b"r"])
        signed = b",".join((bare, first, without))
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        last = base64.b64encode(without + b",p=" + base64.b64encode(proof))
        server = base64.b64decode(house.wait(exchange.receive(last)))
        expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        assert server == b"v=" + base64.b64encode(expected)
        return house.wait(exchange.receive(b""))


@attrs.define
class House:
    clock: Clock
    service: Any
    scram: Scram
    throttle: Throttle
    door: Authenticator

    def wait(self, work: Any) -> Any:
        results: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(results.append)
        for _ in range(100):
            if results:
                break
            self.clock.advance(1)
        (result,) = results
        if hasattr(result, "raiseException"):
            result.raiseException()
        return result


@attrs.define
class Service:
    snapshot: Snapshot

    def current(self) -> Snapshot:
        return self.snapshot

    def hold(self, *accounts: Account) -> None:
        self.snapshot = Snapshot(memory_set(accounts=accounts), Rules())


@pytest.fixture
def house() -> House:
    clock = Clock()
    service: Any = Service(Snapshot(memory_set(accounts=[USER]), Rules()))
    throttle = Throttle(clock)
    gate = Gate(throttle, clock)
    scram = Scram(service, gate, True)
    portal = make_portal(service, lambda account: "home", Passwords(clock), gate)  # type: ignore[arg-type,return-value]
    return House(clock, service, scram, throttle, Authenticator(portal, (scram,)))


def test_a_client_logs_in_and_the_server_proves_itself(house: House) -> None:
    principal = Client(b"user@x.org", b"pencil").log_in(house)
    assert principal.account is USER and principal.mechanism == "SCRAM-SHA-256"


def test_a_client_that_binds_to_the_channel_logs_in(house: House) -> None:
    for kind in (b"tls-exporter", b"tls-server-end-point"):
        client = Client(b"user@x.org", b"pencil", b"p=%b,," % kind, b"octets of " + kind)
        principal = client.log_in(house, b"SCRAM-SHA-256-PLUS", Channel())
        assert principal.mechanism == "SCRAM-SHA-256-PLUS"


def refusal(house: House, client: Client, mechanism: bytes = b"SCRAM-SHA-256", channel: Any = None) -> Any:
    with pytest.raises(PermanentError) as refused:
        client.log_in(house, mechanism, channel)
    return refused.value.reply


def test_somebody_between_client_and_server_is_found(house: House) -> None:
    # His channel to the client is another one than his channel to us.
    foreign = Client(b"user@x.org", b"pencil", b"p=tls-exporter,,", b"octets of his channel")
    assert refusal(house, foreign, b"SCRAM-SHA-256-PLUS", Channel()) == CREDENTIALS_INVALID
    # He took -PLUS out of our announcement (RFC 5802 §6).
    assert refusal(house, Client(b"user@x.org", b"pencil", b"y,,"), channel=Channel()) == CREDENTIALS_INVALID
    assert Client(b"user@x.org", b"pencil", b"y,,").log_in(house).account is USER
    plain = Client(b"user@x.org", b"pencil", b"p=tls-exporter,,", b"octets of tls-exporter")
    assert refusal(house, plain, channel=Channel()) == CANNOT_DECODE
    unique = Client(b"user@x.org", b"pencil", b"p=tls-unique,,", b"")
    assert refusal(house, unique, b"SCRAM-SHA-256-PLUS", Channel()) == CREDENTIALS_INVALID


def test_names_that_are_nobodys_look_like_accounts_and_keep_their_salt(house: House) -> None:
    stranger, same, other = (Client(name, b"x") for name in (b"nobody@x.org", b"NoBody@x.org", b"else@x.org"))
    replies = [refusal(house, client) for client in (stranger, same, other)]
    assert replies == [CREDENTIALS_INVALID] * 3
    assert stranger.salt == same.salt != other.salt
    assert len(stranger.salt) == len(new_scram_salt())
    assert refusal(house, Client(b"user@x.org", b"wrong")) == CREDENTIALS_INVALID


def new_scram_salt() -> bytes:
    return Verifier.derive(b"x", iterations=1).salt


def test_a_disabled_account_is_refused_at_the_end_like_a_wrong_password(house: House) -> None:
    house.service.hold(attrs.evolve(USER, enabled=False))
    client = Client(b"user@x.org", b"pencil")
    assert refusal(house, client) == CREDENTIALS_INVALID
    assert client.salt == SALT


def test_guessing_by_scram_is_slowed_like_any_other(house: House) -> None:
    for number in range(FREE_GUESSES + 1):
        refusal(house, Client(b"user@x.org", b"guess %d" % number))
    before = house.clock.seconds()
    Client(b"user@x.org", b"pencil").log_in(house)
    assert house.clock.seconds() > before


def test_it_is_offered_only_while_every_account_can_use_it(house: House) -> None:
    assert house.door.mechanisms() == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    assert house.door.mechanisms(Channel())[:2] == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")  # type: ignore[arg-type]
    late = Account(parse_address("late@x.org"), credentials=(hash_password(b"x"),))
    house.service.hold(USER, late)
    assert house.door.mechanisms() == ("PLAIN", "LOGIN")
    with pytest.raises(PermanentError) as refused:
        house.door.exchange(b"SCRAM-SHA-256", None, SESSION)
    assert refused.value.reply.code == 504
    house.service.hold(USER, attrs.evolve(late, enabled=False))
    assert "SCRAM-SHA-256" in house.door.mechanisms()
    house.scram.enabled = False
    assert house.door.mechanisms(Channel()) == ("PLAIN", "LOGIN")  # type: ignore[arg-type]


# -- credentials -----------------------------------------------------------------------------------------


def test_each_password_of_an_account_can_be_proved_in_one_exchange(house: House) -> None:
    first = new_credentials(b"main", "", True)
    both = (*first, *new_credentials(b"phone", "phone", True, first))
    account = attrs.evolve(USER, credentials=both)
    house.service.hold(account)
    assert is_ready_for_scram(account)
    assert Client(b"user@x.org", b"main").log_in(house).account is account
    assert Client(b"user@x.org", b"phone").log_in(house).account is account


def test_a_password_that_is_proved_gets_its_verifier_and_loses_it_again() -> None:
    (old,) = new_credentials(b"secret")
    phone = hash_password(b"phone", "phone")
    assert is_stale((old, phone), old, True) and not is_stale((old, phone), old, False)
    with_verifier = renewed((old, phone), old, b"secret", True)
    assert [c.scheme for c in with_verifier] == ["argon2id", "scram-sha-256", "argon2id"]
    assert with_verifier[0] == old and with_verifier[2] == phone
    assert not is_stale(with_verifier, old, True) and is_stale(with_verifier, old, False)
    complete = renewed(with_verifier, phone, b"phone", True)
    assert is_ready_for_scram(attrs.evolve(USER, credentials=complete))
    assert all(matches(c, b"secret") for c in complete[:2]) and all(
        matches(c, b"phone") for c in complete[2:]
    )
    assert renewed(with_verifier, old, b"secret", False) == (old, phone)


def test_a_verifier_alone_lets_plain_in_and_becomes_ours() -> None:
    assert to_be_tried((STORED,)) == (STORED,) and matches(STORED, b"pencil")
    assert is_stale((STORED,), STORED, False) and not is_stale((STORED,), STORED, True)
    (fresh,) = renewed((STORED,), STORED, b"pencil", False)
    assert fresh.scheme == "argon2id" and matches(fresh, b"pencil")


def test_plain_does_not_hash_a_password_twice() -> None:
    both = new_credentials(b"secret", "", True)
    assert to_be_tried(both) == both[:1]
