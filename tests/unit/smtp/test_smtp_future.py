"""Mail that its sender wants to leave later: kept safe, released in time, and only for who may still send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, maybeDeferred, succeed

from lorrainemail.addresses import parse_address
from lorrainemail.envelope import Envelope, Parameter, Recipient, Session
from lorrainemail.errors import STORAGE_FULL, Reply, TemporaryError
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Action,
    IContent,
    Outcome,
    QueueItem,
    QueueRecipient,
    Transaction,
    Verdict,
)
from lorrainemail.ops.content import Content
from lorrainemail.policy.chain import Guarded, PolicyChain
from lorrainemail.queue.format import FUTURE
from lorrainemail.smtp.future import FutureRelease
from lorrainemail.tables.memory import memory_set
from lorrainemail.tables.rules import DomainRow, Rules
from lorrainemail.tables.snapshot import Snapshot

NOW = 1_700_000_000.0
ANNE = Account(parse_address("anne@ours.test"))
BOB = Account(parse_address("bob@ours.test"))


class Placement:
    def __init__(self, queue: Queue, item: QueueItem, octets: bytes) -> None:
        self.queue, self.item, self.octets = queue, item, octets

    async def _commit(self) -> None:
        if self.queue.broken is not None:
            raise self.queue.broken
        self.queue.items.append((self.item, self.octets))

    def commit(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._commit())


class Queue:
    def __init__(self) -> None:
        self.items: list[tuple[QueueItem, bytes]] = []
        self.broken: Exception | None = None
        self.reply: Reply | None = None

    def placement(self, item: QueueItem, prefix: bytes, content: IContent) -> Placement:
        return Placement(self, item, prefix + b"".join(content.chunks()))

    def full(self) -> Reply | None:
        return self.reply


class Scene:
    """A FutureRelease with doubles around it."""

    def __init__(self, world: Any, directory: Path) -> None:
        self.world = world
        world.clock.rightNow = NOW
        self.queue = Queue()
        self.accounts: tuple[Account, ...] = (ANNE, BOB)
        self.policy = PolicyChain([Guarded(world.check, 10.0, True)], world.clock)
        queue: Any = self.queue
        self.future = FutureRelease(
            world.clock,
            self,  # type: ignore[arg-type]
            lambda: self.policy,
            lambda account, size: None,
            world.intake,
            queue,
            world.trace,
            "mail.ours.test",
            maybeDeferred,
            str(directory),
            lambda: True,
        )

    def current(self) -> Snapshot:
        return Snapshot(
            memory_set(accounts=self.accounts), Rules(domains={"ours.test": DomainRow("ours.test")})
        )

    async def hold(self, *addresses: str) -> Reply:
        tables = self.current()
        recipients = [Recipient(parse_address(one)) for one in addresses or ("bob@ours.test",)]
        envelope = Envelope(
            "id1",
            ANNE.address,
            tuple(recipients),
            parameters=(Parameter("HOLDFOR", "600"), Parameter("MT-PRIORITY", "2")),
            envid="e",
            received_at=NOW,
            sender_verified=True,
        )
        accepted = []
        for one in recipients:
            expansion: Any = tables.expand(one.address)
            accepted.append(Accepted(one, expansion))
        content = Content(b"From: anne@ours.test\r\n\r\nx\r\n")
        session = Session("s1", "submission", "198.51.100.7", esmtp=True, account="anne@ours.test")
        return await self.future.hold(
            Transaction(session, envelope, tuple(accepted), tables, content, trusted=True), NOW + 600
        )

    async def release(self) -> list[Outcome]:
        ((item, octets),) = self.queue.items
        return await self.future.deliver(item, item.recipients, Content(octets))


@pytest.fixture
def scene(world: Any, tmp_path: Path) -> Scene:
    world.door  # noqa: B018 - made, as its fixture expects
    return Scene(world, tmp_path)


@pytest_twisted.ensureDeferred
async def test_a_held_message_is_in_the_queue_before_the_250(scene: Scene) -> None:
    reply = await scene.hold("bob@ours.test", "zoe@else.test")
    assert str(reply) == "250 2.0.0 Held until 2023-11-14T22:23:20Z as id1"
    ((item, octets),) = scene.queue.items
    assert item.release_at == NOW + 600 and (item.account, item.trusted) == ("anne@ours.test", True)
    assert [(one.courier, one.next_try) for one in item.recipients] == [(FUTURE, NOW + 600)] * 2
    assert octets.startswith(b"Received: from mail.ours.test (submitted with login)")
    assert octets.endswith(b"From: anne@ours.test\r\n\r\nx\r\n") and item.size == len(octets)
    assert scene.world.intake.taken == []


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_kept_is_not_taken(scene: Scene) -> None:
    scene.queue.broken = TemporaryError(STORAGE_FULL)
    assert (await scene.hold()) == STORAGE_FULL
    scene.queue.broken = OSError("?")
    assert (await scene.hold()).code == 451
    scene.queue.reply = STORAGE_FULL
    assert (await scene.hold()) == STORAGE_FULL


@pytest_twisted.ensureDeferred
async def test_a_released_message_goes_the_usual_way_as_the_accounts_own(scene: Scene) -> None:
    await scene.hold("bob@ours.test", "zoe@else.test")
    scene.world.clock.rightNow += 600
    outcomes = await scene.release()
    assert [(one.kind, one.confirms) for one in outcomes] == [("delivered", True)] * 2
    (transaction,) = scene.world.intake.taken
    envelope = transaction.envelope
    assert envelope.id != "id1" and (envelope.envid, envelope.sender_verified) == ("e", True)
    assert [str(one.address) for one in envelope.recipients] == ["bob@ours.test", "zoe@else.test"]
    assert envelope.parameters == (Parameter("MT-PRIORITY", "2"),) and envelope.received_at == NOW + 600
    assert transaction.trusted and transaction.session.account == "anne@ours.test"
    assert scene.world.intake.wires == [scene.queue.items[0][1]]
    assert ("id1", "released", {"as": envelope.id}) in scene.world.trace.events


@pytest_twisted.ensureDeferred
async def test_a_disabled_account_sends_nothing_until_it_is_enabled_again(scene: Scene) -> None:
    await scene.hold()
    scene.accounts = (attrs.evolve(ANNE, enabled=False), BOB)
    (one,) = await scene.release()
    assert (one.kind, one.reply.enhanced) == ("deferred", "4.7.1") and scene.world.intake.taken == []
    scene.accounts = (ANNE, BOB)
    assert [one.kind for one in await scene.release()] == ["delivered"]


@pytest_twisted.ensureDeferred
async def test_mail_of_an_account_that_is_gone_comes_back(scene: Scene) -> None:
    await scene.hold()
    scene.accounts = (BOB,)
    assert [(one.kind, one.reply.code) for one in await scene.release()] == [("failed", 550)]
    assert scene.world.intake.taken == []


@pytest_twisted.ensureDeferred
async def test_an_address_that_is_no_longer_the_account_s_sends_nothing(scene: Scene) -> None:
    await scene.hold()
    ((item, octets),) = scene.queue.items
    other = attrs.evolve(item, envelope=attrs.evolve(item.envelope, sender=BOB.address))
    (one,) = await scene.future.deliver(other, other.recipients, Content(octets))
    assert (one.kind, one.reply.code) == ("failed", 553) and scene.world.intake.taken == []


@pytest_twisted.ensureDeferred
async def test_release_is_counted_and_who_is_over_the_limit_waits(scene: Scene) -> None:
    await scene.hold("bob@ours.test", "anne@ours.test")
    scene.world.check.stages = frozenset({"rcpt"})
    scene.policy = PolicyChain([Guarded(scene.world.check, 10.0, True)], scene.world.clock)
    answers = [None, Verdict(Action.DEFER, "limits", "", Reply(450, "4.7.1", "slowly"))]
    scene.world.check.answer = lambda: answers.pop(0)
    outcomes = await scene.release()
    assert [one.kind for one in outcomes] == ["delivered", "deferred"]
    assert {one.session.account for one in scene.world.check.seen} == {"anne@ours.test"}
    assert len(scene.world.intake.taken[0].accepted) == 1


@pytest_twisted.ensureDeferred
async def test_a_recipient_that_is_gone_by_then_is_told_to_the_sender(scene: Scene) -> None:
    await scene.hold()
    scene.accounts = (ANNE,)
    assert [(one.kind, one.reply.enhanced) for one in await scene.release()] == [("failed", "5.1.1")]


@pytest_twisted.ensureDeferred
async def test_what_intake_cannot_keep_is_tried_again(scene: Scene) -> None:
    await scene.hold()
    scene.world.intake.answer = lambda _: succeed(STORAGE_FULL)
    assert [one.kind for one in await scene.release()] == ["deferred"]
    assert not any(kind == "released" for _, kind, _ in scene.world.trace.events)


def test_recipients_of_one_account_share_a_line(scene: Scene) -> None:
    item = QueueItem(Envelope("id1", None, ()), (), NOW, 1, account="anne@ours.test")
    one = QueueRecipient(FUTURE, Recipient(BOB.address))
    assert scene.future.destination(item, one) == "anne@ours.test"
