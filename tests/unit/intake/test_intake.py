"""Intake: which answer the sender gets, and where each recipient's copy ends up, whatever fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs, formatEvent

from lorrainemail.addresses import Address, parse_address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.errors import PermanentError, Reply, TemporaryError
from lorrainemail.intake import MAX_HOPS, Intake
from lorrainemail.interfaces import (
    Accepted,
    Account,
    Action,
    Expansion,
    IContent,
    LocalMailbox,
    Placed,
    QueueItem,
    RemoteMailbox,
    Step,
    Transaction,
    Verdict,
)
from lorrainemail.ops.content import Content
from lorrainemail.transaction.course import BOUND, PATIENCE

FULL = Reply(552, "5.2.2", "Mailbox full")
BUSY = Reply(451, "4.2.0", "Mailbox busy")
QUEUE_FULL = Reply(452, "4.3.1", "Queue full")
MESSAGE = b"Message-ID: <one@elorac.fr>\r\nSubject: x\r\n\r\nbody\r\n"


class Where:
    """One placement under a script: how each step ends ("ok", "temp", "perm", "hang")."""

    def __init__(self, script: dict[str, str], keep: Any) -> None:
        self.script = script
        self.keep = keep
        self.state = "new"
        self.hanging: list[tuple[str, Deferred[Any]]] = []

    def _end(self, step: str) -> Deferred[Any]:
        how = self.script.get(step, "ok")
        if how == "temp":
            return fail(TemporaryError(BUSY))
        if how == "perm":
            return fail(PermanentError(FULL))
        if how == "bug":
            return fail(RuntimeError("secret"))
        if how == "hang":
            waiting: Deferred[Any] = Deferred()
            self.hanging.append((step, waiting))
            return waiting
        return succeed(self._did(step))

    def _did(self, step: str) -> Any:
        if step == "stage":
            assert self.state == "new"
            self.state = "staged"
            return None
        assert self.state == ("staged" if step == "publish" else "new"), (self.state, step)
        self.state = "kept"
        self.keep()
        return Placed("account", "INBOX", "somewhere")

    def finish(self) -> None:
        """What hung comes to its end after all."""
        for step, waiting in self.hanging:
            waiting.callback(self._did(step))
        self.hanging.clear()

    def stage(self) -> Deferred[None]:
        return self._end("stage")

    def publish(self) -> Deferred[Placed]:
        return self._end("publish")

    def commit(self) -> Deferred[Placed]:
        return self._end("commit")

    def abort(self) -> Deferred[None]:
        assert self.state != "kept"
        self.state = "aborted"
        return succeed(None)


class World:
    """Store, queue, tables and trace of a test."""

    def __init__(self) -> None:
        self.clock = task.Clock()
        self.clock.advance(1_700_000_000)
        self.mailboxes: dict[str, dict[str, str]] = {}  # account → script
        self.quota: dict[str, Any] = {}
        self.queue_scripts: list[dict[str, str]] = []
        self.queue_full: Reply | None = None
        self.placements: list[Where] = []
        self.delivered: list[tuple[str, str, bytes]] = []
        self.queued: list[tuple[QueueItem, bytes]] = []
        self.order: list[str] = []
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.expansions: dict[str, Any] = {}
        self.intake = Intake(self.clock, self, QueueSide(self), self, self, "mx.example.test")  # type: ignore[arg-type]

    # store
    def may_accept(self, account: Account, octets: int) -> Any:
        return self.quota.get(account.address.key)

    def placement(self, account: Account, folder: str, prefix: bytes, content: IContent, id: str) -> Where:
        data = prefix + b"".join(content.chunks())
        name = account.address.key

        def keep() -> None:
            self.delivered.append((name, folder, data))
            self.order.append(name)

        where = Where(self.mailboxes.get(name, {}), keep)
        self.placements.append(where)
        return where

    # trace
    def event(self, message: str, kind: str, **facts: Any) -> None:
        self.events.append((message, kind, facts))

    # tables
    def current(self) -> World:
        return self

    def expand(self, address: Address) -> Any:
        return self.expansions.get(address.key, Expansion(True, (mailbox(address.key),)))

    def is_local(self, domain: str) -> bool:
        return domain == "bricoleur.com"

    def places(self) -> Counter[str]:
        """How often each final recipient is kept anywhere."""
        count = Counter(name for name, _, _ in self.delivered)
        for item, _ in self.queued:
            count.update(r.recipient.address.key for r in item.recipients)
        return count

    def staged_left(self) -> list[Where]:
        return [where for where in self.placements if where.state == "staged"]


class QueueSide:
    def __init__(self, world: World) -> None:
        self.world = world

    def full(self) -> Reply | None:
        return self.world.queue_full

    def placement(self, item: QueueItem, prefix: bytes, content: IContent) -> Where:
        def keep() -> None:
            self.world.queued.append((item, prefix + b"".join(content.chunks())))
            self.world.order.append("queue")

        script = self.world.queue_scripts.pop(0) if self.world.queue_scripts else {}
        where = Where(script, keep)
        self.world.placements.append(where)
        return where


def mailbox(name: str, folder: str = "", **more: Any) -> LocalMailbox:
    address = parse_address(name)
    return LocalMailbox(Account(address), folder, address, **more)


def accepted(*finals: Any, to: str = "", verdicts: Sequence[Verdict] = ()) -> Accepted:
    address = parse_address(to) if to else finals[0].address
    return Accepted(
        Recipient(address, original=str(address)), Expansion(True, tuple(finals)), tuple(verdicts)
    )


def transaction(
    *recipients: Accepted, message: bytes = MESSAGE, sender: str = "carole@elorac.fr", **more: Any
) -> Transaction:
    verdicts = more.pop("verdicts", ())
    trusted = more.pop("trusted", False)
    session = more.pop("session", Session("s1", "smtp", peer="192.0.2.9", helo="client.example", esmtp=True))
    envelope = Envelope(
        "m1", parse_address(sender) if sender else None, tuple(r.recipient for r in recipients), **more
    )
    return Transaction(session, envelope, recipients, None, Content(message), verdicts, trusted)  # type: ignore[arg-type]


def answer(deferred: Deferred[Any]) -> Any:
    found: list[Any] = []
    deferred.addBoth(found.append)
    assert found, "no answer yet"
    return found[0]


BOB, DAVE, FAR = (
    mailbox("bob@bricoleur.com"),
    mailbox("dave@bricoleur.com"),
    RemoteMailbox(parse_address("x@far.example")),
)


# -- the common case -------------------------------------------------------------------------------


def test_message_for_one_mailbox_is_delivered_with_its_trace_fields_and_nothing_else_changed() -> None:
    world = World()
    reply = answer(world.intake.take(transaction(accepted(BOB))))
    assert (reply.code, reply.enhanced) == (250, "2.0.0") and "m1" in reply.text
    ((name, folder, data),) = world.delivered
    assert (name, folder) == ("bob@bricoleur.com", "")
    assert data.startswith(
        b"Return-Path: <carole@elorac.fr>\r\nDelivered-To: bob@bricoleur.com\r\nReceived: from client.example"
    )
    assert b"for <bob@bricoleur.com>" in data and b"id m1" in data
    assert data.endswith(MESSAGE)
    assert [kind for _, kind, _ in world.events] == ["received", "delivered"]
    assert world.events[0][2]["message_id"] == "<one@elorac.fr>"


@pytest.mark.parametrize(
    ("name", "reply"), [("bob", "250 2.0.0 Delivered as m1"), ("dave", "451 4.2.0 Mailbox busy")]
)
def test_every_message_has_one_line_in_the_log_that_says_what_was_answered(name: str, reply: str) -> None:
    world = World()
    world.mailboxes["dave@bricoleur.com"] = {"commit": "temp"}
    final = mailbox(f"{name}@bricoleur.com")
    many = [accepted(final, to=f"{name}+{number}@bricoleur.com") for number in range(7)]
    with capturedLogs() as events:
        answer(world.intake.take(transaction(*many)))
    (line,) = [text for event in events if (text := formatEvent(event)).startswith("m1: from ")]
    assert line.startswith(f"m1: from <carole@elorac.fr> for {name}+0@bricoleur.com, {name}+1@")
    assert "and 2 more, " in line
    assert f"octets, at smtp from 192.0.2.9: {reply}" in line


def test_several_recipients_do_not_learn_of_each_other() -> None:
    world = World()
    assert answer(world.intake.take(transaction(accepted(BOB), accepted(DAVE)))).code == 250
    for name, _, data in world.delivered:
        other = b"dave" if name.startswith("bob") else b"bob"
        assert other not in data


def test_two_addresses_of_one_mailbox_get_one_copy() -> None:
    world = World()
    both = [
        accepted(BOB),
        accepted(BOB, to="robert@bricoleur.com"),
        accepted(BOB, DAVE, to="all@bricoleur.com"),
    ]
    assert answer(world.intake.take(transaction(*both))).code == 250
    assert world.places() == {"bob@bricoleur.com": 1, "dave@bricoleur.com": 1}


def test_junk_goes_to_the_junk_folder_and_says_why() -> None:
    world = World()
    verdict = Verdict(Action.JUNK, "dnsbl", "listed\r\nX-Evil: yes")
    assert answer(world.intake.take(transaction(accepted(BOB), verdicts=(verdict,)))).code == 250
    ((_, folder, data),) = world.delivered
    assert folder == "Junk"
    assert b"\r\nX-Lorrainemail-Policy: junk dnsbl (listed??X-Evil: yes)\r\n" in data


def test_what_was_taken_for_spam_is_not_sent_on_to_other_servers() -> None:
    world = World()
    spam = (Verdict(Action.JUNK, "dnsbl", "listed"),)
    away = attrs.evolve(FAR, forwarded=True)
    reply = answer(world.intake.take(transaction(accepted(BOB, away), verdicts=spam)))
    assert reply.code == 250 and world.queued == []
    assert [folder for _, folder, _ in world.delivered] == ["Junk"]
    # With nobody here to keep it, the sender is told while he is still there.
    reply = answer(world.intake.take(transaction(accepted(away), verdicts=spam, sender_verified=True)))
    assert (reply.code, reply.enhanced) == (550, "5.7.1") and world.queued == []
    # What our own user sends elsewhere is not ours to judge.
    assert answer(world.intake.take(transaction(accepted(FAR), verdicts=spam))).code == 250
    assert len(world.queued) == 1


def test_fields_of_checks_and_signatures_stand_above_the_message_here_and_on_its_way() -> None:
    world = World()
    result = Verdict(
        Action.CONTINUE, "mailauth", "fine", field=b"Authentication-Results: mx.example.test; none\r\n"
    )
    given = attrs.evolve(
        transaction(accepted(BOB), accepted(FAR), verdicts=(result,)), fields=b"DKIM-Signature: v=1\r\n"
    )
    assert answer(world.intake.take(given)).code == 250
    ((_, _, delivered),), ((_, queued),) = world.delivered, world.queued
    for data in (delivered, queued):
        assert b"Authentication-Results: mx.example.test; none\r\nReceived: " in data
        assert data.endswith(b"\r\nDKIM-Signature: v=1\r\n" + MESSAGE)
    assert b"X-Lorrainemail-Policy" not in delivered


def test_results_forged_in_our_name_reach_nobody() -> None:
    world = World()
    forged = (
        b"Subject: x\r\nAuthentication-Results: MX.example.test;\r\n\tdmarc=pass\r\nStatus: RO\r\nTo: y\r\n"
    )
    given = transaction(accepted(BOB), accepted(FAR), message=forged + b"\r\nbody\r\n")
    assert answer(world.intake.take(given)).code == 250
    ((_, _, delivered),), ((item, queued),) = world.delivered, world.queued
    assert delivered.endswith(b"\r\nSubject: x\r\nTo: y\r\n\r\nbody\r\n")
    assert queued.endswith(b"\r\nSubject: x\r\nStatus: RO\r\nTo: y\r\n\r\nbody\r\n")
    assert item.size == len(queued)


# -- failures --------------------------------------------------------------------------------------


def test_one_failing_mailbox_of_two_is_tried_again_from_the_queue() -> None:
    world = World()
    world.mailboxes["dave@bricoleur.com"] = {"commit": "temp"}
    assert answer(world.intake.take(transaction(accepted(BOB), accepted(DAVE)))).code == 250
    ((item, data),) = world.queued
    (recipient,) = item.recipients
    assert (recipient.courier, str(recipient.recipient.address)) == ("local", "dave@bricoleur.com")
    assert recipient.next_try > world.clock.seconds()
    assert data.startswith(b"Received: ") and data.endswith(MESSAGE)
    assert world.places() == {"bob@bricoleur.com": 1, "dave@bricoleur.com": 1}


def test_when_nothing_is_kept_the_sender_keeps_it() -> None:
    for script, code in (("temp", 451), ("perm", 552), ("bug", 451)):
        world = World()
        world.mailboxes["bob@bricoleur.com"] = {"commit": script}
        reply = answer(world.intake.take(transaction(accepted(BOB))))
        assert reply.code == code
        assert "secret" not in reply.text
        assert not world.places()


def test_temporary_failure_of_one_outweighs_the_refusal_of_another() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"commit": "temp"}
    world.quota["dave@bricoleur.com"] = FULL
    assert answer(world.intake.take(transaction(accepted(DAVE), accepted(BOB)))).code == 451
    assert not world.places()


def test_what_must_leave_is_published_before_the_mailboxes() -> None:
    world = World()
    assert answer(world.intake.take(transaction(accepted(BOB), accepted(FAR)))).code == 250
    assert world.order == ["queue", "bob@bricoleur.com"]
    ((item, _),) = world.queued
    assert [(r.courier, r.recipient.address.key) for r in item.recipients] == [("remote", "x@far.example")]


def test_queue_item_takes_along_the_mailbox_that_could_not_be_staged() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"stage": "temp"}
    assert answer(world.intake.take(transaction(accepted(BOB), accepted(FAR)))).code == 250
    ((item, _),) = world.queued
    assert sorted(r.courier for r in item.recipients) == ["local", "remote"]
    assert not world.staged_left()


def test_when_the_queue_cannot_take_it_no_mailbox_shows_it() -> None:
    for queue in ({"stage": "temp"}, {"publish": "temp"}, {"stage": "bug"}):
        world = World()
        world.queue_scripts = [queue]
        assert answer(world.intake.take(transaction(accepted(BOB), accepted(FAR)))).temporary
        assert not world.places()
        assert not [where for where in world.staged_left() if not where.script]
    world = World()
    world.queue_full = QUEUE_FULL
    assert answer(world.intake.take(transaction(accepted(BOB), accepted(FAR)))) == QUEUE_FULL
    assert not world.placements or not world.places()


def test_mailbox_that_fails_after_the_queue_was_published_is_queued_too() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"publish": "temp"}
    assert answer(world.intake.take(transaction(accepted(BOB), accepted(FAR)))).code == 250
    assert world.places() == {"bob@bricoleur.com": 1, "x@far.example": 1}


# -- time ------------------------------------------------------------------------------------------


def test_mailbox_that_hangs_is_queued_before_the_client_gives_up_and_not_delivered_twice() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"stage": "hang"}
    done = world.intake.take(transaction(accepted(BOB), accepted(FAR)))
    world.clock.pump([1.0] * int(PATIENCE + 2))
    assert answer(done).code == 250
    assert world.places() == {"bob@bricoleur.com": 1, "x@far.example": 1}
    for where in list(world.placements):
        where.finish()
    assert world.places() == {"bob@bricoleur.com": 1, "x@far.example": 1}
    assert not world.staged_left()


def test_answer_comes_within_its_bound_when_everything_hangs() -> None:
    for mailboxes, queue in (({"commit": "hang"}, {}), ({"stage": "hang"}, {"stage": "hang"})):
        world = World()
        world.mailboxes["bob@bricoleur.com"] = mailboxes
        world.queue_scripts = [queue, {"commit": "hang", "stage": "hang"}]
        others = [accepted(FAR)] if queue else []
        done = world.intake.take(transaction(accepted(BOB), *others))
        world.clock.pump([1.0] * int(BOUND + 3))
        assert answer(done).temporary
    world = World()
    world.quota["bob@bricoleur.com"] = Deferred()
    done = world.intake.take(transaction(accepted(BOB)))
    world.clock.pump([1.0] * int(PATIENCE + 2))
    assert answer(done).temporary


def test_stopping_waits_for_the_message_that_is_being_taken() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"commit": "hang"}
    done = world.intake.take(transaction(accepted(BOB)))
    stopped = world.intake.stopService()
    assert not stopped.called
    world.placements[0].finish()
    assert answer(done).code == 250
    world.clock.advance(0)
    assert stopped.called
    assert not world.clock.getDelayedCalls()


def test_stopping_after_a_message_leaves_no_timer() -> None:
    world = World()
    assert answer(world.intake.take(transaction(accepted(BOB)))).code == 250
    assert world.intake.stopService().called
    assert not world.clock.getDelayedCalls()


# -- notices ---------------------------------------------------------------------------------------


def test_sender_of_ours_is_told_of_a_recipient_refused_after_others_were_served() -> None:
    world = World()
    world.quota["dave@bricoleur.com"] = FULL
    done = world.intake.take(
        transaction(accepted(BOB), accepted(DAVE), sender="eve@bricoleur.com", sender_verified=True)
    )
    assert answer(done).code == 250
    names = [name for name, _, _ in world.delivered]
    assert names == ["bob@bricoleur.com", "eve@bricoleur.com"]
    notice = world.delivered[1][2]
    assert notice.startswith(b"Return-Path: <>\r\n")
    assert b"Final-Recipient: rfc822; dave@bricoleur.com" in notice and b"Status: 5.2.2" in notice


def test_unproven_sender_gets_no_notice() -> None:
    for more in ({"sender": "victim@bricoleur.com"}, {"sender": "", "sender_verified": True}):
        world = World()
        world.quota["dave@bricoleur.com"] = FULL
        assert answer(world.intake.take(transaction(accepted(BOB), accepted(DAVE), **more))).code == 250
        assert [name for name, _, _ in world.delivered] == ["bob@bricoleur.com"]
        assert ("m1", "refused") in [(m, kind) for m, kind, _ in world.events]


def test_sender_who_wants_no_notice_gets_none() -> None:
    world = World()
    world.quota["dave@bricoleur.com"] = FULL
    dave = attrs.evolve(accepted(DAVE), recipient=Recipient(DAVE.address, notify=("NEVER",)))
    done = world.intake.take(
        transaction(accepted(BOB), dave, sender="eve@bricoleur.com", sender_verified=True)
    )
    assert answer(done).code == 250
    assert [name for name, _, _ in world.delivered] == ["bob@bricoleur.com"]


def test_private_target_of_an_alias_is_not_told_to_the_sender() -> None:
    world = World()
    world.quota["dave@bricoleur.com"] = FULL
    hidden = mailbox("dave@bricoleur.com", path=(Step("alias"),))
    done = world.intake.take(
        transaction(
            accepted(BOB),
            accepted(hidden, to="sales@bricoleur.com"),
            sender="eve@bricoleur.com",
            sender_verified=True,
        )
    )
    assert answer(done).code == 250
    notice = world.delivered[1][2]
    assert b"dave" not in notice and b"sales@bricoleur.com" in notice


def asking(which: Accepted, *notify: str, **more: Any) -> Accepted:
    """The same with NOTIFY."""
    return attrs.evolve(which, recipient=attrs.evolve(which.recipient, notify=notify, **more))


def notices(world: World) -> list[bytes]:
    return [data for name, _, data in world.delivered if name == "eve@bricoleur.com"]


OURS: dict[str, Any] = {"sender": "eve@bricoleur.com", "sender_verified": True, "trusted": True}


def test_sender_of_ours_hears_of_a_delivery_when_asked_for() -> None:
    world = World()
    bob = asking(accepted(BOB, to="robert@bricoleur.com"), "SUCCESS", orcpt="rfc822;first@far.example")
    assert answer(world.intake.take(transaction(bob, accepted(DAVE), ret="FULL", **OURS))).code == 250
    (notice,) = notices(world)
    assert b"Action: delivered" in notice and b"Final-Recipient: rfc822; robert@bricoleur.com" in notice
    assert b"Original-Recipient: rfc822; first@far.example" in notice
    assert b"dave" not in notice and b"text/rfc822-headers" in notice


def test_stranger_gets_no_notice_of_success_however_well_proven() -> None:
    for more in ({**OURS, "trusted": False}, {**OURS, "sender": ""}):
        world = World()
        assert answer(world.intake.take(transaction(asking(accepted(BOB), "SUCCESS"), **more))).code == 250
        assert [name for name, _, _ in world.delivered] == ["bob@bricoleur.com"]


def test_alias_of_several_is_told_once_and_its_members_see_no_wish_for_notices() -> None:
    world = World()
    everybody = asking(accepted(BOB, FAR, to="all@bricoleur.com"), "SUCCESS", "FAILURE")
    assert answer(world.intake.take(transaction(everybody, **OURS))).code == 250
    (notice,) = notices(world)
    assert b"Action: expanded" in notice and b"Final-Recipient: rfc822; all@bricoleur.com" in notice
    assert b"bob" not in notice and b"far.example" not in notice
    ((item, _),) = world.queued
    assert item.trusted
    assert [r.recipient.notify for r in item.recipients] == [("FAILURE",)]


def test_alias_that_leads_elsewhere_does_not_show_where_by_a_notice() -> None:
    world = World()
    away = RemoteMailbox(parse_address("x@far.example"), forwarded=True)
    alone = asking(accepted(away, to="bob@bricoleur.com"), "SUCCESS")
    assert answer(world.intake.take(transaction(alone, **OURS))).code == 250
    (notice,) = notices(world)
    assert b"Action: relayed" in notice and b"far.example" not in notice
    assert world.queued[0][0].recipients[0].recipient.notify == ("NEVER",)


def test_wish_for_success_goes_on_with_a_recipient_elsewhere_and_with_a_mailbox_that_must_wait() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"commit": "temp", "stage": "temp"}
    both = [asking(accepted(BOB), "SUCCESS"), asking(accepted(FAR), "SUCCESS", "DELAY")]
    assert answer(world.intake.take(transaction(*both, **OURS))).code == 250
    assert notices(world) == []
    wishes = {r.courier: r.recipient.notify for item, _ in world.queued for r in item.recipients}
    assert wishes == {"local": ("SUCCESS",), "remote": ("SUCCESS", "DELAY")}


def test_two_names_of_one_mailbox_keep_the_wishes_of_both() -> None:
    for first, second, merged in (
        (("NEVER",), None, ("FAILURE", "DELAY")),
        (("NEVER",), ("SUCCESS",), ("SUCCESS",)),
        (("DELAY",), ("FAILURE",), ("FAILURE", "DELAY")),
    ):
        world = World()
        one, other = accepted(FAR), accepted(FAR)
        one = attrs.evolve(one, recipient=attrs.evolve(one.recipient, notify=first))
        other = attrs.evolve(other, recipient=attrs.evolve(other.recipient, notify=second))
        assert answer(world.intake.take(transaction(one, other, **OURS))).code == 250
        assert world.queued[0][0].recipients[0].recipient.notify == merged


# -- LMTP ------------------------------------------------------------------------------------------


def test_lmtp_answers_each_recipient_by_itself() -> None:
    world = World()
    world.mailboxes["dave@bricoleur.com"] = {"commit": "temp"}
    world.quota["eve@bricoleur.com"] = FULL
    eve = mailbox("eve@bricoleur.com")
    replies = answer(world.intake.take_each(transaction(accepted(BOB), accepted(DAVE), accepted(eve))))
    assert [reply.code for reply in replies] == [250, 451, 552]
    assert world.places() == {"bob@bricoleur.com": 1}  # the client has the other two still


def test_lmtp_recipient_that_cannot_be_queued_does_not_harm_the_others() -> None:
    world = World()
    world.queue_full = QUEUE_FULL
    replies = answer(world.intake.take_each(transaction(accepted(BOB), accepted(FAR))))
    assert [reply.code for reply in replies] == [250, 452]
    assert world.places() == {"bob@bricoleur.com": 1}


# -- injected --------------------------------------------------------------------------------------


def inject(world: World, sender: str, *to: str, hops: int = 1) -> Any:
    recipients = [parse_address(address) for address in to]
    return answer(
        world.intake.inject(
            parse_address(sender) if sender else None, recipients, Content(MESSAGE), hops, "cause"
        )
    )


def test_mail_of_our_own_is_expanded_and_delivered() -> None:
    world = World()
    world.expansions["far@bricoleur.com"] = Expansion(True, (FAR,))
    id = inject(world, "", "bob@bricoleur.com", "far@bricoleur.com")
    assert isinstance(id, str)
    assert world.places() == {"bob@bricoleur.com": 1, "x@far.example": 1}
    assert world.queued[0][0].envelope.hops == 1


def test_mail_of_our_own_is_signed_and_what_a_filter_sends_on_is_not() -> None:
    world = World()
    world.intake._sign = lambda content: succeed(b"DKIM-Signature: v=1\r\n")
    to = (parse_address("bob@bricoleur.com"),)
    answer(world.intake.inject(None, to, Content(MESSAGE), 1, ""))
    answer(world.intake.redirect(parse_address("carole@elorac.fr"), to, Content(MESSAGE), 1, ""))
    signed, sent_on = (data for _, _, data in world.delivered)
    assert signed.endswith(b"\r\nDKIM-Signature: v=1\r\n" + MESSAGE)
    assert sent_on.endswith(MESSAGE) and b"DKIM-Signature" not in sent_on


def test_mail_of_our_own_that_nobody_takes_ends_without_causing_more() -> None:
    from lorrainemail.interfaces import Refused

    world = World()
    world.expansions["gone@bricoleur.com"] = Expansion(True, (), Refused(Reply(550, "5.1.1", "unknown")))
    assert isinstance(inject(world, "", "gone@bricoleur.com"), str)
    assert not world.places()
    assert isinstance(inject(world, "bob@bricoleur.com", "gone@bricoleur.com"), str)
    assert world.places() == {"bob@bricoleur.com": 1}  # the notice
    assert world.delivered[0][2].startswith(b"Return-Path: <>")


def test_mail_of_our_own_does_not_go_round_for_ever() -> None:
    world = World()
    assert isinstance(inject(world, "bob@bricoleur.com", "dave@bricoleur.com", hops=MAX_HOPS + 1), str)
    assert not world.places()
    assert world.events[-1][1] == "dropped"


def test_mail_of_our_own_that_was_not_kept_says_so_to_its_maker() -> None:
    world = World()
    world.mailboxes["bob@bricoleur.com"] = {"commit": "temp"}
    failure = inject(world, "", "bob@bricoleur.com")
    assert isinstance(failure.value, TemporaryError)


# -- everything at once ----------------------------------------------------------------------------

STEP = st.sampled_from(["ok", "ok", "ok", "temp", "perm", "bug"])
MAILBOX = st.fixed_dictionaries({"stage": STEP, "publish": STEP, "commit": STEP})
QUEUE = st.fixed_dictionaries(
    {step: st.sampled_from(["ok", "ok", "temp"]) for step in ("stage", "publish", "commit")}
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=4),
    st.lists(MAILBOX, min_size=4, max_size=4),
    st.lists(QUEUE, max_size=3),
    st.lists(st.sampled_from([None, None, None, FULL, BUSY]), min_size=4, max_size=4),
    st.booleans(),
)
def test_whatever_fails_nobody_is_served_twice_and_nobody_is_lost(
    plan: list[list[int]],
    mailboxes: list[dict[str, str]],
    queues: list[dict[str, str]],
    quota: list[Reply | None],
    each: bool,
) -> None:
    finals = [mailbox(f"u{n}@bricoleur.com") for n in range(4)]
    finals += [RemoteMailbox(parse_address(f"r{n}@far.example")) for n in range(2)]  # type: ignore[list-item]
    world = World()
    for number in range(4):
        world.mailboxes[f"u{number}@bricoleur.com"] = mailboxes[number]
        world.quota[f"u{number}@bricoleur.com"] = quota[number]
    world.queue_scripts = list(queues)
    recipients = [
        accepted(*[finals[n] for n in dict.fromkeys(targets)], to=f"rcpt{index}@bricoleur.com")
        for index, targets in enumerate(plan)
    ]
    if each:
        groups = [set(targets) for targets in plan]
        replies = answer(world.intake.take_each(transaction(*recipients)))
    else:
        groups = [{n for targets in plan for n in targets}]
        replies = [answer(world.intake.take(transaction(*recipients)))]
    places = world.places()
    assert all(count == 1 for count in places.values()), "served twice"
    refused = {
        facts["recipient"] for _, kind, facts in world.events if kind == "refused" and "recipient" in facts
    }
    for group, reply in zip(groups, replies, strict=True):
        names = {finals[n].address.key for n in group}
        if reply.positive:
            assert names <= set(places) | refused, "lost"
            assert names & set(places), "nothing kept, yet 250"
        elif reply.permanent:
            assert not names & set(places)
    if not each and not replies[0].positive and not any(q["commit"] == "temp" for q in queues):
        assert not places, "answered 4xx or 5xx, yet kept"
    for where in world.staged_left():
        assert where.script.get("publish", "ok") != "ok", "staged and forgotten"
