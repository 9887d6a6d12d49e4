"""Accounts' filters at the final dot: what they decide happens, and nothing that they do loses a message."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred, succeed

from lorrainemail.addresses import Address, parse_address
from lorrainemail.envelope import Envelope, Parameter, Recipient, Session
from lorrainemail.errors import Reply
from lorrainemail.intake import Intake
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Expansion,
    Filing,
    Filtered,
    LocalMailbox,
    Placed,
    QueueItem,
    Redirection,
    Refused,
    RemoteMailbox,
    Transaction,
)
from lorrainemail.ops.content import Content
from lorrainemail.store.memory import MemoryStore
from lorrainemail.transaction.course import BOUND, PATIENCE

MESSAGE = b"Subject: x\r\nMessage-ID: <a@b>\r\n\r\nbody\r\n"
ACCOUNTS = ("bob@bricoleur.com", "dave@bricoleur.com")


class Queued:
    def __init__(self, world: World, item: QueueItem, data: bytes) -> None:
        self.world, self.entry = world, (item, data)

    def stage(self) -> Deferred[None]:
        return succeed(None)

    def publish(self) -> Deferred[Placed]:
        self.world.queued.append(self.entry)
        return succeed(Placed("queue", "", "queue"))

    commit = publish

    def abort(self) -> Deferred[None]:
        return succeed(None)


class World:
    """Two accounts, a store in memory, a queue, and filters that a test sets."""

    def __init__(self) -> None:
        self.clock = task.Clock()
        self.store = MemoryStore(self.clock)
        self.queued: list[tuple[QueueItem, bytes]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.plans: dict[str, Any] = {}
        self.asked: list[str] = []
        self.queue_full: Reply | None = None
        self.intake = Intake(
            self.clock,
            self.store,
            self,
            self,
            self,
            "mx.example.test",
            filter=self,  # type: ignore[arg-type]
        )

    # queue
    def full(self) -> Reply | None:
        return self.queue_full

    def placement(self, item: QueueItem, prefix: bytes, content: Any) -> Queued:
        return Queued(self, item, prefix + b"".join(content.chunks()))

    # tables
    def current(self) -> World:
        return self

    def expand(self, address: Address) -> Expansion:
        if address.domain != "bricoleur.com":
            return Expansion(False, (RemoteMailbox(address),))
        if address.key not in ACCOUNTS:
            return Expansion(True, refused=Refused(Reply(550, "5.1.1", "No such user")))
        return Expansion(True, (mailbox(address.key),))

    def is_local(self, domain: str) -> bool:
        return domain == "bricoleur.com"

    # trace
    def event(self, message: str, kind: str, **facts: Any) -> None:
        self.events.append((kind, facts))

    # filter
    def plan(self, mailbox: LocalMailbox, transaction: Transaction, prefix: bytes, content: Any) -> Any:
        self.asked.append(mailbox.account.address.key)
        plan = self.plans.get(mailbox.account.address.key)
        return plan(prefix, content) if callable(plan) else plan

    def take(self, *recipients: str, sender: str = "carole@elorac.fr", **more: Any) -> Any:
        accepted = tuple(
            Accepted(Recipient(parse_address(r), original=r), self.expand(parse_address(r)))
            for r in recipients
        )
        envelope = Envelope("m1", parse_address(sender), tuple(a.recipient for a in accepted), **more)
        session = Session("s1", "smtp", peer="192.0.2.9", helo="client.example", esmtp=True)
        taken = Transaction(session, envelope, accepted, self, Content(MESSAGE))  # type: ignore[arg-type]
        found: list[Any] = []
        self.intake.take(taken).addBoth(found.append)
        self.clock.advance(0)
        return found[0] if found else None

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def folder(self, account: str, name: str = "INBOX") -> list[tuple[bytes, set[str]]]:
        """What is in a folder: octets and flags."""
        home = self.store.memory_home(Account(parse_address(account)))
        try:
            folder = home.folder(name)
        except Exception:
            return []
        return [(read(folder, uid), set(folder.flags(uid) or ())) for uid in folder.uids()]

    def make(self, account: str, name: str) -> None:
        self.store.memory_home(Account(parse_address(account))).create(name)


def read(folder: Any, uid: int) -> bytes:
    found: list[Any] = []
    folder.message(uid).addCallback(lambda message: message.read()).addCallback(found.append)
    data: bytes = found[0]
    return data


def mailbox(name: str) -> LocalMailbox:
    address = parse_address(name)
    return LocalMailbox(Account(address), "", address)


BOB, DAVE = ACCOUNTS


def test_without_a_plan_delivery_is_the_usual() -> None:
    world = World()
    assert world.take(BOB).code == 250
    ((data, flags),) = world.folder(BOB)
    assert data.endswith(MESSAGE) and not flags


def test_a_copy_goes_into_each_folder_that_is_wanted_and_no_other() -> None:
    world = World()
    world.make(BOB, "lists")
    world.plans[BOB] = Filtered((Filing("lists"), Filing("lists"), Filing(None)))
    assert world.take(BOB).code == 250
    assert len(world.folder(BOB, "lists")) == 1 and len(world.folder(BOB)) == 1


def test_a_folder_is_made_where_that_is_wanted_and_flags_are_set() -> None:
    world = World()
    world.plans[BOB] = Filtered((Filing("new/one", ("\\Seen", "work"), create=True),))
    assert world.take(BOB).code == 250
    ((data, flags),) = world.folder(BOB, "new/one")
    assert flags == {"\\Seen", "work"}
    assert data.startswith(b"Return-Path: <carole@elorac.fr>\r\nDelivered-To: bob@bricoleur.com\r\nReceived:")
    assert world.folder(BOB) == []


def test_a_folder_that_is_not_there_becomes_the_inbox() -> None:
    world = World()
    world.plans[BOB] = Filtered((Filing("nowhere", ("\\Flagged",)),))
    assert world.take(BOB).code == 250
    ((_, flags),) = world.folder(BOB)
    assert flags == {"\\Flagged"}


def test_an_edited_message_is_stored_as_edited_below_our_own_fields() -> None:
    world = World()

    def edit(prefix: bytes, content: Any) -> Filtered:
        assert prefix.startswith(b"Received:")
        return Filtered((Filing(None, content=Content(b"X-New: 1\r\n" + prefix + MESSAGE)),))

    world.plans[BOB] = edit
    world.take(BOB)
    ((data, _),) = world.folder(BOB)
    head = b"Return-Path: <carole@elorac.fr>\r\nDelivered-To: bob@bricoleur.com\r\nX-New: 1\r\nReceived:"
    assert data.startswith(head) and data.count(b"Received:") == 1


def test_a_discarded_message_is_answered_250_and_is_nowhere() -> None:
    world = World()
    world.plans[BOB] = Filtered()
    assert world.take(BOB).code == 250
    assert world.folder(BOB) == [] and world.queued == []
    assert "discarded" in world.kinds()


def test_a_rejection_by_all_recipients_is_the_answer() -> None:
    world = World()
    world.plans[BOB] = Filtered(reply=Reply(550, "5.7.1", "go away"))
    assert str(world.take(BOB)) == "550 5.7.1 go away"
    assert world.folder(BOB) == []


def test_a_rejection_by_one_of_two_refuses_nobody_elses_copy() -> None:
    world = World()
    world.plans[BOB] = Filtered(reply=Reply(550, "5.7.1", "go away"))
    assert world.take(BOB, DAVE).code == 250
    assert world.folder(BOB) == [] and len(world.folder(DAVE)) == 1
    # the sender was never proved, so he gets no notice
    assert world.queued == [] and "refused" in world.kinds()


def redirect(to: str) -> Redirection:
    return Redirection(parse_address("carole@elorac.fr"), parse_address(to), Content(b"X: 1\r\n" + MESSAGE))


def test_a_redirected_message_is_in_the_queue_before_the_answer_under_the_same_sender() -> None:
    world = World()
    world.plans[BOB] = Filtered(redirections=(redirect("far@away.example"),))
    assert world.take(BOB).code == 250
    ((item, data),) = world.queued
    assert str(item.envelope.sender) == "carole@elorac.fr" and item.envelope.hops == 1
    assert [str(r.recipient.address) for r in item.recipients] == ["far@away.example"]
    assert data.endswith(b"X: 1\r\n" + MESSAGE)
    assert world.folder(BOB) == [] and "redirected" in world.kinds()


def test_what_must_stay_under_tls_is_redirected_under_tls_alone() -> None:
    world = World()
    world.plans[BOB] = Filtered(redirections=(redirect("far@away.example"),))
    asked = (Parameter("SIZE", "100"), Parameter("REQUIRETLS"), Parameter("BY", "100;R"))
    assert world.take(BOB, parameters=asked).code == 250
    ((item, _),) = world.queued
    assert item.envelope.parameters == (Parameter("REQUIRETLS"),)


@pytest.mark.parametrize("failure", ["full", "unknown", "hops"])
def test_a_redirection_that_fails_keeps_the_message_here(failure: str) -> None:
    world = World()
    to = "nobody@bricoleur.com" if failure == "unknown" else "far@away.example"
    if failure == "full":
        world.queue_full = Reply(452, "4.3.1", "Queue full")
    world.plans[BOB] = Filtered(redirections=(redirect(to),))
    if failure == "hops":
        world.intake._means.redirect = _too_many(world)
    assert world.take(BOB).code == 250
    assert len(world.folder(BOB)) == 1 and world.queued == []
    assert "not redirected" in world.kinds()


def _too_many(world: World) -> Any:
    def redirect(
        sender: Any, recipients: Any, content: Any, hops: int, cause: str, parameters: Any, account: str
    ) -> Deferred[str]:
        return world.intake.redirect(sender, recipients, content, 99, cause)

    return redirect


def test_two_accounts_that_redirect_to_one_another_lose_nothing() -> None:
    world = World()
    world.plans[BOB] = Filtered(redirections=(redirect(DAVE),))
    world.plans[DAVE] = Filtered(redirections=(redirect(BOB),))
    assert world.take(BOB).code == 250
    assert len(world.folder(BOB)) + len(world.folder(DAVE)) == 1
    assert len(world.asked) <= 12


def test_what_a_filter_sends_goes_out_once_the_message_is_safe() -> None:
    world = World()
    order: list[int] = []

    def settle(inject: Any) -> Deferred[None]:
        order.append(len(world.folder(BOB)))
        done = inject(None, (parse_address("carole@elorac.fr"),), Content(b"Subject: away\r\n\r\n"), 1, "m1")
        result: Deferred[None] = done.addCallback(lambda _: None)
        return result

    world.plans[BOB] = Filtered((Filing(), Filing("other", create=True)), settle=settle)
    assert world.take(BOB).code == 250
    assert order == [1], "once, and after the copy"
    ((item, _),) = world.queued
    assert item.envelope.sender is None


def test_a_filter_that_settles_badly_fails_nobodys_mail() -> None:
    world = World()

    def settle(inject: Any) -> Deferred[None]:
        failed: Deferred[None] = Deferred()
        failed.errback(OSError("disk"))
        return failed

    world.plans[BOB] = Filtered((Filing(),), settle=settle)
    assert world.take(BOB).code == 250
    assert len(world.folder(BOB)) == 1


def test_a_filter_that_never_answers_delays_the_mail_but_does_not_lose_it() -> None:
    world = World()
    world.plans[BOB] = Deferred()
    assert world.take(BOB) is None
    for _ in range(int(PATIENCE) + 2):
        world.clock.advance(1)
    assert len(world.folder(BOB)) == 1
    assert PATIENCE < BOUND


def test_a_failed_filter_is_in_the_trace_and_the_message_is_kept() -> None:
    world = World()
    world.plans[BOB] = Filtered((Filing(),), error="line 3: what?")
    assert world.take(BOB).code == 250
    assert ("filter failed", {"recipient": BOB, "error": "line 3: what?"}) in world.events
    assert len(world.folder(BOB)) == 1


def test_each_recipient_has_a_filter_of_his_own() -> None:
    world = World()
    world.plans[BOB] = Filtered()
    assert world.take(BOB, DAVE).code == 250
    assert world.asked == [BOB, DAVE]
    assert world.folder(BOB) == [] and len(world.folder(DAVE)) == 1
