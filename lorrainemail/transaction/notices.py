"""What the sender is told beside the reply: recipients refused after all, and deliveries he asked to hear of.

Of a refusal he hears who proved to be the sender, of a success our own users alone: anything else would be
backscatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.logger import Logger

from lorrainemail.errors import Reply
from lorrainemail.message import dsn
from lorrainemail.ops.content import Content
from lorrainemail.ops.ids import new_id
from lorrainemail.transaction.course import KEPT, QUEUED, REFUSED, Course
from lorrainemail.transaction.plan import NOT_SENT_ON

_log = Logger("lorrainemail.intake")

DELIVERED: Final = Reply(250, "2.1.5", "Delivered")


async def notify(course: Course, replies: list[Reply]) -> None:
    """Tell the sender of recipients refused for good, where no reply can and it is no backscatter."""
    transaction = course.transaction
    fates = [
        dsn.Fate(target.recipient, "failed", target.reply, concealed=target.concealed)
        for target in course.targets
        if target.state is REFUSED
        and target.reply is not None
        and target.reply is not NOT_SENT_ON
        and (course.refused is not None or any(replies[group].positive for group in target.groups))
    ]
    if not fates:
        return
    envelope = transaction.envelope
    told = [f for f in fates if f.recipient.notify is None or "FAILURE" in f.recipient.notify]
    proven = envelope.sender_verified or bool(transaction.session.account)
    tell = bool(told) and proven and envelope.sender is not None
    for fate in fates:
        course.means.trace.event(
            course.id,
            "refused",
            recipient=str(fate.recipient.address),
            reply=str(fate.reply),
            notice="sent" if tell and fate in told else "none" if proven else "none: sender unproven",
        )
    if tell:
        await _tell(course, told)


async def notify_success(course: Course) -> None:
    """Tell the sender of what was delivered, where he asked for it and is one of our own."""
    transaction = course.transaction
    if not transaction.trusted or transaction.envelope.sender is None:
        return
    fates: dict[str, list[dsn.Fate]] = {}
    for success in course.successes:
        states = {target.state for target in success.targets}
        # A mailbox that must wait is told by the queue, which still knows the wish.
        if KEPT in states or (QUEUED in states and success.action != "delivered"):
            fate = dsn.Fate(success.recipient, success.action, DELIVERED, concealed=True)
            fates.setdefault(success.action, []).append(fate)
    for told in fates.values():
        await _tell(course, told)


async def _tell(course: Course, told: Sequence[dsn.Fate]) -> None:
    """One notice to the sender, durable when this ends, or its loss logged."""
    transaction = course.transaction
    envelope = transaction.envelope
    assert envelope.sender is not None
    wanted = dsn.octets_wanted(envelope, transaction.content.size)
    notice = Content(
        dsn.build(
            course.means.hostname,
            new_id(),
            envelope,
            told,
            transaction.content.head(wanted),
            transaction.content.size,
            course.means.clock.seconds(),
        )
    )
    (result,) = await course.all(
        [course.means.inject(None, (envelope.sender,), notice, envelope.hops + 1, course.id)]
    )
    if not isinstance(result, str):
        _log.error("{id}: the notice to its sender could not be kept", id=course.id)
