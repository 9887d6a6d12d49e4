"""The built-in checks: what each refuses, and whom it leaves alone."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from lorrainemail.addresses import Address, parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.interfaces import (
    Circumstances,
    DnsFailure,
    Expansion,
    MxHost,
    PolicyResources,
    RelayRight,
    RemoteMailbox,
    Verdict,
)
from lorrainemail.ops.content import Content
from lorrainemail.policy.checks import (
    RETURNED_BURST,
    Helo,
    Limits,
    Loops,
    SenderDomain,
)

STRANGER = Session("s", "smtp", "198.51.100.7", 1, "192.0.2.1", "mail.elorac.test", True)


class Tables:
    def __init__(self, relay: bool = False) -> None:
        self._relay = relay

    def is_local(self, domain: str) -> bool:
        return domain == "ours.test"

    def relay_right(self, session: Session) -> RelayRight:
        return RelayRight(self._relay or bool(session.account), "")


STRANGE: Any = Tables()
FRIEND: Any = Tables(True)


def said(answer: Any) -> str:
    """A verdict as "action code enhanced"."""
    if isinstance(answer, Deferred):
        results: list[Any] = []
        answer.addCallback(results.append)
        answer = results[0]
    if answer is None:
        return ""
    assert isinstance(answer, Verdict)
    assert answer.reason
    assert answer.reply is not None
    return f"{answer.action.name} {answer.reply.code} {answer.reply.enhanced}"


def greet(helo: str, tables: Any = STRANGE, **more: Any) -> str:
    session = attrs.evolve(STRANGER, helo=helo, **more)
    return said(Helo("mail.ours.test").judge(Circumstances("helo", session, tables)))


@pytest.mark.parametrize(
    "name", ["mail.elorac.test", "[198.51.100.7]", "localhost", "WIN_PC", "ours.test", "a."]
)
def test_lawful_greetings_pass(name: str) -> None:
    assert greet(name) == ""


@pytest.mark.parametrize("name", ["a..b", "<x>", "[300.0.0.1]", "-a", "a,b"])
def test_greeting_that_is_no_name_is_refused(name: str) -> None:
    assert greet(name) == "REFUSE 501 5.5.2"


@pytest.mark.parametrize("name", ["mail.ours.test", "MAIL.ours.test.", "[192.0.2.1]"])
def test_stranger_with_our_own_name_is_refused(name: str) -> None:
    assert greet(name) == "REFUSE 550 5.7.1"
    assert greet(name, FRIEND) == ""
    assert greet(name, peer="127.0.0.1") == ""
    assert greet(name, peer="192.0.2.1") == ""


def test_users_greet_as_they_like() -> None:
    assert greet("a..b", door="submission") == ""
    assert greet("a..b", account="anne@ours.test") == ""


class Resolver:
    def __init__(self, mx: Any, addresses: Any = None) -> None:
        self._mx, self._addresses = mx, addresses

    def mx(self, domain: str) -> Deferred[Any]:
        return _answer(self._mx)

    def addresses(self, host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[Any]:
        return _answer(self._addresses)


def _answer(value: Any) -> Deferred[Any]:
    return fail(DnsFailure(value, "q")) if isinstance(value, str) else succeed(value)


def from_domain(resolver: Any, sender: str = "a@elorac.test", tables: Any = STRANGE, **more: Any) -> str:
    address = parse_address(sender) if sender else None
    session = attrs.evolve(STRANGER, **more)
    return said(SenderDomain(resolver).judge(Circumstances("mail", session, tables, sender=address)))


@pytest.mark.parametrize(
    ("mx", "addresses", "expected"),
    [
        ([MxHost(10, "mx.elorac.test")], None, ""),
        ("nodata", ["192.0.2.9"], ""),
        ("nodata", "nodata", "REFUSE 550 5.1.8"),
        ("nodata", "nxdomain", "REFUSE 550 5.1.8"),
        ("nxdomain", None, "REFUSE 550 5.1.8"),
        ("temporary", None, "DEFER 451 4.1.8"),
        ("nodata", "temporary", "DEFER 451 4.1.8"),
        ([MxHost(0, ".")], None, "REFUSE 550 5.7.27"),
    ],
)
def test_senders_domain_must_take_mail(mx: Any, addresses: Any, expected: str) -> None:
    assert from_domain(Resolver(mx, addresses)) == expected


def test_senders_that_need_no_dns() -> None:
    nowhere = Resolver("nxdomain")
    assert from_domain(nowhere, "") == ""
    assert from_domain(nowhere, "a@[192.0.2.9]") == ""
    assert from_domain(nowhere, "bob@ours.test") == ""
    assert from_domain(nowhere, tables=FRIEND) == ""
    assert from_domain(nowhere, door="submission") == ""


def at_the_dot(wire: bytes, *recipients: str, hops: int = 3) -> str:
    envelope = Envelope(
        "i", None, tuple(Recipient(parse_address(r)) for r in recipients or ("bob@ours.test",))
    )
    return said(
        Loops(hops).judge(Circumstances("data", STRANGER, FRIEND, envelope=envelope, content=Content(wire)))
    )


def test_message_with_too_many_hops_loops() -> None:
    hop = b"Received: from a\r\n\tby b; date\r\n"
    assert at_the_dot(hop * 3 + b"X: received:\r\n\r\n" + hop * 9) == ""
    assert at_the_dot(b"RECEIVED: x\r\n" + hop * 3 + b"\r\n") == "REFUSE 554 5.4.6"
    assert at_the_dot(hop * 4) == "REFUSE 554 5.4.6"


def test_message_that_was_delivered_here_before_loops() -> None:
    wire = (
        b"Subject: x\r\ndelivered-to: Bob@ours.test\r\nDelivered-To: <x@y.test>\r\nDelivered-To: ??\r\n\r\n"
    )
    assert at_the_dot(wire) == "REFUSE 554 5.4.6"
    assert at_the_dot(wire, "bob@ours.test", "anne@ours.test") == ""
    assert at_the_dot(wire, "anne@ours.test") == ""
    assert at_the_dot(b"\r\nDelivered-To: bob@ours.test\r\n") == ""


def test_network_that_sends_too_fast_is_deferred_and_comes_back() -> None:
    clock = Clock()
    limits = Limits(PolicyResources(clock, None, "h", messages_per_network=60))
    mail = Circumstances("mail", STRANGER, STRANGE)
    for _ in range(60):
        assert limits.judge(mail) is None
    assert said(limits.judge(mail)) == "DEFER 450 4.7.1"
    assert limits.judge(Circumstances("mail", attrs.evolve(STRANGER, peer="198.51.100.8"), STRANGE)) is None
    assert limits.judge(Circumstances("rcpt", STRANGER, STRANGE)) is None
    clock.advance(1)
    assert limits.judge(mail) is None


def test_a_reload_changes_the_limits_of_networks_and_forgives_nothing() -> None:
    resources = PolicyResources(Clock(), None, "h", messages_per_network=3)
    mail = Circumstances("mail", STRANGER, STRANGE)
    before = Limits(resources)
    assert [said(before.judge(mail)) for _ in range(3)] == ["", "", ""]
    assert said(Limits(resources).judge(mail)) == "DEFER 450 4.7.1"
    without = Limits(attrs.evolve(resources, messages_per_network=0))
    assert [said(without.judge(mail)) for _ in range(9)] == [""] * 9


def test_dry_run_counts_nothing() -> None:
    limits = Limits(PolicyResources(Clock(), None, "h", messages_per_network=60, recipients_per_network=90))
    for _ in range(90 + 10):
        assert limits.judge(Circumstances("rcpt", STRANGER, STRANGE, dry_run=True)) is None
    for _ in range(90):
        assert limits.judge(Circumstances("rcpt", STRANGER, STRANGE)) is None
    assert said(limits.judge(Circumstances("rcpt", STRANGER, STRANGE, dry_run=True))) == "DEFER 450 4.7.1"


def test_loopback_friends_and_users_are_not_counted() -> None:
    limits = Limits(PolicyResources(Clock(), None, "h", messages_per_network=60, recipients_per_network=90))
    for _ in range(60 + 1):
        for session, tables in (
            (attrs.evolve(STRANGER, peer="127.0.0.1"), STRANGE),
            (STRANGER, FRIEND),
            (attrs.evolve(STRANGER, account="a@b"), STRANGE),
        ):
            assert limits.judge(Circumstances("mail", session, tables)) is None


def test_address_of_a_loop_is_compared_as_tables_do() -> None:
    wire = b'Delivered-To: "bob"@OURS.test\r\n\r\n'
    assert at_the_dot(wire) == "REFUSE 554 5.4.6"
    assert Address("Bob", "ours.test").key == "bob@ours.test"


@pytest.mark.parametrize("peer", ["198.51.100.7", "127.0.0.1"])
def test_bounces_of_what_was_sent_on_are_few_from_one_peer(peer: str) -> None:
    limits = Limits(PolicyResources(Clock(), None, "h", messages_per_network=60, recipients_per_network=90))
    back = Expansion(True, (RemoteMailbox(parse_address("ann@far.test")),), reversed=True)
    one = Circumstances("rcpt", attrs.evolve(STRANGER, peer=peer), STRANGE, expansion=back)
    for _ in range(int(RETURNED_BURST)):
        assert limits.judge(one) is None
    assert said(limits.judge(one)) == "DEFER 450 4.7.1"
