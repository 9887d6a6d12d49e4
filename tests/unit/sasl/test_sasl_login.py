"""Logging in: through the portal, with real hashes and controlled threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface import Interface
from zope.interface.verify import verifyObject

from lorrainemail.addresses import fold_local, parse_address
from lorrainemail.envelope import Session
from lorrainemail.errors import PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import Account, Credential, IAuthenticator, IPasswords, IPrincipal
from lorrainemail.sasl import passwords as passwords_module
from lorrainemail.sasl.credentials import hash_password
from lorrainemail.sasl.gate import Gate
from lorrainemail.sasl.passwords import MAX_WAITING, MAX_WAITING_PER_NETWORK, Passwords
from lorrainemail.sasl.portal import Authenticator, Checker, Login, Principal, Realm, make_portal
from lorrainemail.sasl.throttle import FREE_GUESSES, Throttle

GOOD = hash_password("pässword 1".encode())
BOB = Account(parse_address("bob@bricoleur.com"), credentials=(GOOD,))
ODD = Account(parse_address('"a b"@bricoleur.com'), credentials=(GOOD,))
OFF = Account(parse_address("off@bricoleur.com"), enabled=False, credentials=(GOOD,))
IMPORTED = Account(
    parse_address("imported@bricoleur.com"),
    credentials=(Credential("cram-md5", "9186d855e11eba527a7a52ca82b313e180d62234"),),
)
SESSION = Session(id="s1", door="submission", peer="192.0.2.1")


class Tables:
    """Enough of a table service: accounts by address or unambiguous local part."""

    def __init__(self, *accounts: Account) -> None:
        self.accounts = list(accounts)
        self.failure: Exception | None = None

    def current(self) -> Tables:
        return self

    def login(self, name: str) -> Any:
        if self.failure is not None:
            return fail(self.failure)
        found = [a for a in self.accounts if fold_local(name) in (a.address.key, fold_local(a.address.local))]
        return found[0] if len(found) == 1 else None

    def account(self, address: Any) -> Any:
        return next((a for a in self.accounts if a.address.key == address.key), None)


class Threads:
    """Runs the work when the test says so."""

    def __init__(self) -> None:
        self.running: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.done = 0

    def __call__(self, work: Callable[[], Any]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.running.append((work, answer))
        return answer

    def finish_one(self) -> None:
        work, answer = self.running.pop(0)
        self.done += 1
        answer.callback(work())

    def finish_all(self) -> None:
        while self.running:
            self.finish_one()


@attrs.define
class House:
    clock: Clock
    threads: Threads
    tables: Tables
    passwords: Passwords
    throttle: Throttle
    door: Authenticator

    def login(self, name: bytes, password: bytes, session: Session = SESSION) -> Any:
        """The principal or the failure, after whatever waiting it takes."""
        results: list[Any] = []
        self.door.authenticate(name, password, session).addBoth(results.append)
        for _ in range(200):
            if results:
                break
            self.threads.finish_all()
            if not results:
                self.clock.advance(1)
        (result,) = results
        return getattr(result, "value", result)


@pytest.fixture
def house() -> House:
    clock, threads = Clock(), Threads()
    tables: Any = Tables(BOB, ODD, OFF, IMPORTED)
    passwords = Passwords(clock, run=threads)
    throttle = Throttle(clock)
    gate = Gate(throttle, clock)
    portal = make_portal(tables, lambda account: "home of " + account.address.key, passwords, gate)  # type: ignore[arg-type,return-value]
    return House(clock, threads, tables, passwords, throttle, Authenticator(portal))


@pytest.fixture
def logged() -> Any:
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def text_of(events: list[dict[str, Any]]) -> str:
    return "\n".join(str(event) for event in events)


PASSWORD = "pässword 1".encode()


def test_interfaces_are_kept(house: House) -> None:
    verifyObject(IAuthenticator, house.door)
    verifyObject(IPasswords, house.passwords)
    verifyObject(IPrincipal, Principal(BOB, None))  # type: ignore[arg-type]
    verifyObject(ICredentialsChecker, Checker(None, None, None))  # type: ignore[arg-type]
    verifyObject(IRealm, Realm(None, None, {}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [b"bob@bricoleur.com", b"BOB@Bricoleur.COM", b"bob", b"Bob"])
def test_a_good_password_gives_the_principal(house: House, name: bytes) -> None:
    principal = house.login(name, PASSWORD)
    assert principal.account is BOB
    assert principal.home == "home of bob@bricoleur.com"
    assert principal.mechanism == "PLAIN"


def test_an_account_with_a_quoted_local_part_can_log_in(house: House) -> None:
    assert house.login(b"a b@bricoleur.com", PASSWORD).account is ODD


def test_a_password_typed_with_combining_accents_is_the_same(house: House) -> None:
    assert house.login(b"bob", "pa\u0308ssword\u00a01".encode()).account is BOB


@pytest.mark.parametrize(
    ("name", "password"),
    [
        (b"bob", b"wrong"),
        (b"bob", b""),
        (b"bob", b"\xff\xfe"),
        (b"bob", b"x" * 5000),
        (b"nobody", PASSWORD),
        (b"\xff\xff", PASSWORD),
        (b"", PASSWORD),
        (b"off@bricoleur.com", PASSWORD),
        (b"imported@bricoleur.com", PASSWORD),
    ],
)
def test_every_bad_login_is_the_same_535_at_the_cost_of_one_hash(
    house: House, name: bytes, password: bytes
) -> None:
    failure = house.login(name, password)
    assert isinstance(failure, PermanentError)
    assert str(failure.reply) == "535 5.7.8 Authentication credentials invalid"
    assert house.threads.done == 1


def test_a_failing_table_is_temporary_and_never_a_wrong_password(house: House) -> None:
    house.tables.failure = TemporaryError(Reply(451, "4.3.0", "tables are away"), "no database")
    failure = house.login(b"bob", PASSWORD)
    assert isinstance(failure, TemporaryError)
    assert failure.reply.code == 454 and failure.reply.enhanced == "4.7.0"


def test_an_unexpected_error_is_temporary_and_shows_nothing(house: House) -> None:
    house.tables.failure = ValueError("secret inside")
    failure = house.login(b"bob", PASSWORD)
    assert isinstance(failure, TemporaryError)
    assert "secret" not in str(failure.reply)


def test_a_proven_login_is_not_hashed_again_until_a_table_changes(house: House) -> None:
    for _ in range(5):
        assert house.login(b"bob", PASSWORD).account is BOB
    assert house.threads.done == 1
    house.passwords.forget()
    house.login(b"bob", PASSWORD)
    assert house.threads.done == 2
    house.clock.advance(passwords_module.REMEMBER + 1)
    house.login(b"bob", PASSWORD)
    assert house.threads.done == 3


def test_a_new_password_ends_the_old_one_at_once_even_from_the_cache(house: House) -> None:
    house.login(b"bob", PASSWORD)
    house.tables.accounts[0] = attrs.evolve(BOB, credentials=(hash_password(b"other"),))
    assert isinstance(house.login(b"bob", PASSWORD), PermanentError)
    assert house.login(b"bob", b"other").account.address == BOB.address


def test_a_disabled_account_does_not_get_in_through_the_cache(house: House) -> None:
    house.login(b"bob", PASSWORD)
    house.tables.accounts[0] = attrs.evolve(BOB, enabled=False)
    assert isinstance(house.login(b"bob", PASSWORD), PermanentError)


def test_each_of_several_credentials_opens(house: House) -> None:
    house.tables.accounts[0] = attrs.evolve(BOB, credentials=(hash_password(b"phone"), GOOD))
    assert house.login(b"bob", PASSWORD).account.address == BOB.address
    assert house.login(b"bob", b"phone").account.address == BOB.address


def test_guesses_slow_the_guesser_down(house: House) -> None:
    for number in range(FREE_GUESSES + 1):
        house.login(b"bob", b"guess %d" % number)
    before = house.clock.seconds()
    house.login(b"bob", PASSWORD)
    assert house.clock.seconds() > before


def test_logs_say_the_reason_and_never_a_secret(house: House, logged: list[dict[str, Any]]) -> None:
    house.login(b"bob", b"hunter2-wrong")
    house.login(b"hunter2-typed-as-name", b"hunter2-too")
    house.login(b"off@bricoleur.com", PASSWORD)
    house.login(b"bob", PASSWORD)
    text = text_of(logged)
    assert "hunter2" not in text and "pässword" not in text and "argon2" not in text
    assert "wrong password" in text and "no such account" in text and "disabled" in text
    assert "hunter2" not in repr(Login(b"bob", b"hunter2"))


def test_an_unknown_scheme_raises_one_alarm(house: House, logged: list[dict[str, Any]]) -> None:
    house.login(b"imported", b"x")
    house.login(b"imported", b"y")
    told = [event for event in logged if event["log_level"].name == "error"]
    assert [event["account"] for event in told] == ["imported@bricoleur.com"]
    assert ['"cram-md5" is unknown' in str(alarm) for alarm in house.passwords.alarms()] == [True]
    house.passwords.forget()
    assert house.passwords.alarms() == []


def test_hashes_of_a_crowded_network_do_not_hold_up_another(house: House) -> None:
    order: list[str] = []
    for number in range(6):
        house.passwords.check(BOB, b"%d" % number, "192.0.2.1").addCallback(lambda _: order.append("crowd"))
    house.passwords.check(BOB, b"x", "198.51.100.9").addCallback(lambda _: order.append("other"))
    assert len(house.threads.running) == 2
    house.threads.finish_all()
    assert order.index("other") <= 3


def test_the_queue_is_bounded_for_a_network_and_in_all(house: House) -> None:
    failures: list[Any] = []

    def flood(peer: str, count: int) -> None:
        for number in range(count):
            house.passwords.check(BOB, b"%d" % number, peer).addErrback(
                lambda f: failures.append(f.value.reply.code)
            )

    flood("192.0.2.1", 2 + MAX_WAITING_PER_NETWORK + 5)
    assert failures == [454] * 5
    flood("192.0.2.2", MAX_WAITING_PER_NETWORK)
    assert len(failures) == 5 and house.passwords._queue._count == MAX_WAITING
    # A newcomer still gets in: the most crowded network gives way.
    mine: list[Any] = []
    house.passwords.check(BOB, PASSWORD, "198.51.100.9").addBoth(mine.append)
    assert len(failures) == 6 and mine == []
    assert house.passwords._queue._count == MAX_WAITING


def test_stopping_answers_what_waits(house: House) -> None:
    results: list[Any] = []
    house.passwords.startService()
    for _ in range(5):
        house.passwords.check(BOB, b"x", "192.0.2.1").addErrback(lambda f: results.append(f.value.reply.code))
    house.passwords.stopService()
    assert results == [454, 454, 454]
    house.threads.finish_all()


def test_hashing_refuses_what_could_never_be_typed_again() -> None:
    for password in (b"", b"\xff", b"a\0b"):
        with pytest.raises(PermanentError):
            hash_password(password)


def test_a_twisted_avatar_comes_from_the_adapters_table(house: House) -> None:
    class ITwistedThing(Interface):
        """Stands for twisted.mail's interfaces."""

    portal = make_portal(
        house.tables,  # type: ignore[arg-type]
        lambda account: "home",  # type: ignore[arg-type,return-value]
        house.passwords,
        Gate(house.throttle, house.clock),
        {ITwistedThing: lambda principal: ("adapted", principal.account)},
    )
    results: list[Any] = []
    portal.login(Login(b"bob", PASSWORD, SESSION), SESSION, ITwistedThing).addBoth(results.append)
    house.threads.finish_all()
    assert results[0][:2] == (ITwistedThing, ("adapted", BOB))


def test_work_that_is_done_at_once_is_served(house: House) -> None:
    passwords = Passwords(Clock(), run=lambda work: succeed(work()))
    results: list[Any] = []
    for _ in range(3):
        passwords.check(BOB, PASSWORD, "").addBoth(results.append)
    assert results == [GOOD, GOOD, GOOD]
