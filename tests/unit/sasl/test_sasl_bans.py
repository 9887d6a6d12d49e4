"""Guessers are kept out, users are not; bans outlive a restart and stay bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, TemporaryError
from lorrainemail.interfaces import Account, Credential
from lorrainemail.net.peers import network_key
from lorrainemail.sasl import bans as module
from lorrainemail.sasl.bans import FIRST, LONGEST, REMEMBERED, Bans, parse_network
from lorrainemail.sasl.book import Book
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.portal import Authenticator, make_portal
from lorrainemail.sasl.record import LoginRecord
from lorrainemail.sasl.throttle import ABUSE_GUESSES, ACCOUNT_WAIT, FORGET_AFTER, SPACING, Throttle
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import Rules
from lorrainemail.tables.snapshot import Snapshot

ACCOUNTS = [Account(parse_address(f"{name}@x.org")) for name in ("bob", "eve")]
HOME = "198.51.100.7"
EVIL = "192.0.2.66"


class Wall:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Passwords:
    """Everybody's password is "right"."""

    async def check(self, account: Account | None, password: bytes, peer: str) -> Credential | None:
        return Credential("test", "") if account is not None and password == b"right" else None


class House:
    """The logins of a server on a state directory, its clock in the test's hand."""

    def __init__(self, state: Path, wall: Wall | None = None) -> None:
        self.clock, self.wall = Clock(), wall or Wall()
        self.book = Book(str(state), execute)
        self.bans = Bans(self.book, self.wall)
        self.record = LoginRecord(self.book, self.clock, self.wall)
        self.throttle = Throttle(self.clock)
        self.bans.load()
        for account, peer in self.record.known():
            self.throttle.trust(network_key(peer), account)
        gate = Gate(self.throttle, self.clock, self.record, self.bans)
        service: Any = self
        self.snapshot = Snapshot(memory_set(accounts=ACCOUNTS), Rules())
        self.door = Authenticator(make_portal(service, lambda _: None, Passwords(), gate))  # type: ignore[arg-type,return-value]

    def current(self) -> Snapshot:
        return self.snapshot

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.now += seconds

    def start_login(self, peer: str, password: bytes, name: bytes = b"bob@x.org") -> list[Any]:
        """The list gets the principal or the failure when there is one."""
        answers: list[Any] = []
        if self.bans.refuses(peer, logins=True):
            return ["refused at connect"]
        login = self.door.authenticate(name, password, Session("s", "imaps", peer))
        login.addBoth(lambda result: answers.append(getattr(result, "value", result)))
        return answers

    def log_in(self, peer: str, password: bytes = b"right", name: bytes = b"bob@x.org") -> tuple[Any, float]:
        """What came of it, and the seconds that it took."""
        begun = self.clock.seconds()
        answers = self.start_login(peer, password, name)
        for _ in range(200):
            if answers:
                break
            self.advance(0.5)
        return answers[0], self.clock.seconds() - begun

    def guess(self, peer: str, count: int, name: bytes = b"bob@x.org", first: int = 0) -> list[Any]:
        return [self.log_in(peer, b"guess %d" % number, name)[0] for number in range(first, first + count)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def is_in(result: Any) -> bool:
    return getattr(result, "account", None) is ACCOUNTS[0]


def test_a_network_that_guesses_on_is_refused_at_connect_and_longer_each_time(house: House) -> None:
    answers = house.guess(EVIL, ABUSE_GUESSES + 3)
    assert answers.count("refused at connect") == 3
    assert all(isinstance(answer, PermanentError) for answer in answers[:ABUSE_GUESSES])
    assert not house.bans.refuses(EVIL, logins=False), "its mail is another matter"
    house.advance(FIRST)
    assert not house.bans.refuses(EVIL, logins=True)
    house.guess(EVIL, 1, first=900)
    house.advance(FIRST + 1)
    assert house.bans.refuses(EVIL, logins=True), "the second one is longer"
    house.advance(FIRST)
    assert not house.bans.refuses(EVIL, logins=True)


def test_a_connection_from_before_the_ban_logs_in_no_more(house: House) -> None:
    house.guess(EVIL, ABUSE_GUESSES)
    answers: list[Any] = []
    login = house.door.authenticate(b"bob@x.org", b"right", Session("old", "smtp", EVIL))
    login.addBoth(lambda result: answers.append(result.value))
    (answer,) = answers
    assert isinstance(answer, TemporaryError) and answer.reply.code == 454


def test_a_phone_with_a_stale_password_is_never_refused(house: House) -> None:
    for _ in range(500):
        result, took = house.log_in(HOME, b"last year's")
        assert isinstance(result, PermanentError) and took == 0
        house.advance(60)


def test_a_brute_force_from_1000_addresses_keeps_its_victim_not_out(house: House) -> None:
    assert is_in(house.log_in(HOME)[0])
    # The crowd: his own address among them, somebody else behind it.
    crowd = [f"203.0.{number // 250}.{number % 250 + 1}" for number in range(999)] + [HOME]
    waiting: list[list[Any]] = []
    for round_ in range(3):
        for number, peer in enumerate(crowd):
            name = b"bob@x.org" if peer != HOME else b"eve@x.org"
            waiting.append(house.start_login(peer, b"guess %d-%d" % (round_, number), name))
        result, took = house.log_in(HOME)
        assert is_in(result) and took == 0, "the victim at home"
        result, took = house.log_in(f"198.51.100.{100 + round_}")
        assert is_in(result) and took <= ACCOUNT_WAIT, "the victim on a journey"
    house.advance(2 * ACCOUNT_WAIT)
    assert not any(is_in(answers[0]) for answers in waiting if answers)
    # They go on from his own address, at his own account too, as long as they like.
    for number in range(3 * ABUSE_GUESSES):
        house.start_login(HOME, b"more %d" % number, b"eve@x.org")
        house.advance(1)
    assert not house.bans.refuses(HOME, logins=True)
    result, took = house.log_in(HOME)
    assert is_in(result) and took == 0
    house.guess(HOME, 8)
    result, took = house.log_in(HOME)
    while isinstance(result, TemporaryError):
        house.advance(SPACING[-1])
        result, took = house.log_in(HOME)
    assert is_in(result), "slowed down, but in"
    assert house.log_in(HOME)[1] == 0, "and a good login clears"


def test_guesses_at_others_from_the_same_address_do_not_hold_up_who_mistyped(house: House) -> None:
    house.log_in(HOME)
    house.guess(HOME, 6)
    house.advance(FORGET_AFTER / 2)
    for number in range(50):
        house.start_login(HOME, b"x%d" % number, b"eve@x.org")
    result, took = house.log_in(HOME)
    assert is_in(result) and took <= SPACING[2]


def test_bans_and_the_trust_of_networks_outlive_a_restart(tmp_path: Path) -> None:
    wall = Wall()
    before = House(tmp_path, wall)
    before.log_in(HOME)
    before.guess(EVIL, ABUSE_GUESSES)
    before.bans.add("2001:db8:bad::/48", 0, "all", "spam")
    before.record.flush()
    after = House(tmp_path, wall)
    assert after.bans.refuses(EVIL, logins=True)
    assert after.bans.refuses("2001:db8:bad:1::5", logins=False)
    after.guess(HOME, 2 * ABUSE_GUESSES, b"eve@x.org")
    assert not after.bans.refuses(HOME, logins=True), "somebody of ours was there before the restart"
    wall.now += LONGEST + 1
    assert not House(tmp_path, wall).bans.refuses(EVIL, logins=True)


def test_the_operator_bans_and_lifts_bans(house: House) -> None:
    answers: list[Any] = []
    house.bans.add("192.0.2.0/24", 3600, "all", "a\nbad one").addBoth(answers.append)
    house.bans.add("::ffff:198.51.100.9", 0, "logins").addBoth(answers.append)
    assert [answer["network"] for answer in answers] == ["192.0.2.0/24", "198.51.100.9"]
    assert house.bans.refuses("192.0.2.200", logins=False)
    assert house.bans.refuses("198.51.100.9", logins=True)
    assert not house.bans.refuses("198.51.100.9", logins=False)
    assert not house.bans.refuses("", logins=True)
    listed = house.bans.listing()["bans"]
    assert [ban["reason"] for ban in listed] == ["abad one", ""] and listed[1]["until"] is None
    house.advance(3601)
    assert not house.bans.refuses("192.0.2.200", logins=True)
    house.bans.remove("198.51.100.9")
    assert not house.bans.refuses("198.51.100.9", logins=True) and house.bans.listing() == {"bans": []}
    for wrong in ("192.0.2.1", "nonsense", "0.0.0.0/0", "::/0"):
        with pytest.raises(PermanentError):
            house.bans.remove(wrong)
    # The operator's word outlasts what the machine thinks.
    house.bans.add(EVIL, 0)
    house.bans.strike(EVIL, "x")
    assert house.bans.listing()["bans"][0]["automatic"] is False


def test_memory_is_bounded_and_the_operators_bans_stay(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BANS", 20)
    for number in range(10):
        house.bans.add(f"198.51.100.{number}")
    for number in range(100):
        house.bans.strike(f"192.0.2.{number}", "x")
        house.advance(1)
    assert len(house.bans._bans) <= 20
    assert all(house.bans.refuses(f"198.51.100.{number}", logins=False) for number in range(10))
    assert house.bans.refuses("192.0.2.99", logins=True)
    for number in range(10, 20):
        house.bans.add(f"198.51.100.{number}")
    with pytest.raises(PermanentError):
        house.bans.add("198.51.100.99")


def test_a_disk_that_fails_bans_all_the_same(tmp_path: Path) -> None:
    def failing(work: Any, *arguments: Any) -> Deferred[Any]:
        def fails() -> None:
            raise OSError(28, "No space left on device")

        return execute(fails)

    bans = Bans(Book(str(tmp_path), failing), Wall())
    bans.strike(EVIL, "x")
    assert bans.refuses(EVIL, logins=True)
    assert REMEMBERED > LONGEST > FIRST


@given(st.text(max_size=40) | st.ip_addresses().map(str))
def test_no_word_of_an_operator_raises_anything_else(text: str) -> None:
    try:
        network = parse_network(text)
    except PermanentError:
        return
    assert network.prefixlen >= 8
