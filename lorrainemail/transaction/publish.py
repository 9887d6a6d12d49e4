"""Stage and publish: what was planned becomes durable, then visible.

Mailboxes alone are one call of the store each. Where something must leave too, everything is staged and
synced together, and the queue's item is published first: a crash in between may serve a mailbox twice, never
lose a recipient. What failed for a moment joins the queue's item, if anything of its group is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.errors import Reply
from lorrainemail.interfaces import IContent, IPlacement, Placed, QueueItem
from lorrainemail.message.received import delivered_to_field, return_path_field
from lorrainemail.ops.metrics import Counter
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.sieve.filing import FolderPlacement
from lorrainemail.transaction.course import (
    KEPT,
    LATER,
    NOT_IN_TIME,
    OPEN,
    QUEUED,
    UNFINISHED,
    Course,
    Target,
    reply_of,
)
from lorrainemail.transaction.words import note_delivered

_log = Logger("lorrainemail.intake")
_PLACED = Counter("lorrainemail_messages_placed", "Copies placed in mailboxes by intake")
_QUEUED = Counter("lorrainemail_messages_queued", "Messages that intake put into the queue")


def make_placements(course: Course, content: IContent) -> None:
    """What is to be written into each mailbox: its own fields above the message, or above what its filter
    made of it."""
    sender = course.transaction.envelope.sender
    senders = return_path_field(sender)
    for target in course.targets:
        if target.mailbox is None or target.state is not OPEN:
            continue
        above = senders
        account, filing = target.mailbox.account, target.filing
        if target.owner is not None:
            above = return_path_field(target.owner)
        prefix, body = above + delivered_to_field(target.mailbox.address), content
        if filing is not None and filing.content is not None:
            body = filing.content  # the fields of our own are in it
        else:
            prefix += course.prefix
        if filing is not None and (filing.flags or filing.create):
            target.placement = FolderPlacement(
                course.means.store,
                account,
                target.folder,
                Reheaded(body, 0, prefix),
                filing.flags,
                filing.create,
            )
        else:
            target.placement = course.means.store.placement(account, target.folder, prefix, body, course.id)


async def keep(course: Course) -> None:
    """Mailboxes only: stage and publish in one."""
    targets = [target for target in course.targets if target.placement is not None]
    if not targets:
        return
    commits = [target.placement.commit() for target in targets if target.placement]
    for target, commit, result in zip(targets, commits, await course.all(commits), strict=True):
        _apply(course, target, result)
        if result is UNFINISHED:
            commit.addCallback(_came_late, course, target)


def _came_late(result: object, course: Course, target: Target) -> None:
    """A commit that could not be called back ended after the answer: it may be there twice now."""
    if isinstance(result, Placed):
        note_delivered(course, target, result)


async def keep_and_queue(course: Course) -> None:
    """Something must leave: queue item and mailboxes staged together, the queue item published first."""
    queue = course.means.queue
    leaving = {group for t in course.targets if t.mailbox is None and t.state is OPEN for group in t.groups}
    # What failed in the plan beside something that leaves goes along.
    waiting = [
        target
        for target in course.targets
        if (target.mailbox is None and target.state is OPEN)
        or (target.state is LATER and not leaving.isdisjoint(target.groups))
    ]
    full = queue.full()
    if full is not None:
        course.kill(waiting, full)
        waiting = []
    mailboxes = [t for t in course.targets if t.placement is not None and course.lives(t)]
    if not mailboxes:
        await _queue_alone(course, [*waiting, *_to_be_queued(course, waiting)] if waiting else [])
        return
    item = _queue_placement(course, waiting) if waiting else None
    staged = [target.placement.stage() for target in mailboxes if target.placement]
    if item is not None:
        staged.append(item.stage())
    results = await course.all(staged)
    item_result = results.pop() if item is not None else None
    for index, (target, result) in enumerate(zip(mailboxes, results, strict=True)):
        if result is None:
            continue
        if result is UNFINISHED and target.placement is not None:
            staged[index].addCallback(_abort_late, target.placement)
        _apply(course, target, result)
    more = _to_be_queued(course, waiting)
    if item is not None and more and item_result is None:
        await course.all([item.abort()])
        waiting = [*waiting, *more]
        item = _queue_placement(course, waiting)
        stage = item.stage()
        (item_result,) = await course.all([stage])
        if item_result is UNFINISHED:
            stage.addCallback(_abort_late, item)
    elif item is not None and item_result is UNFINISHED:
        staged[-1].addCallback(_abort_late, item)
    if item is not None:
        if item_result is None:
            (item_result,) = await course.all([item.publish()])
        else:
            item_result = item_result or UNFINISHED
        if isinstance(item_result, Placed):
            for target in waiting:
                target.state = QUEUED
            _QUEUED.inc()
        else:
            course.kill(waiting, reply_of(item_result, course.id))
    ready = [t for t in mailboxes if t.state is OPEN]
    living = [t for t in ready if course.lives(t)]
    aborted = [t.placement.abort() for t in ready if t.placement is not None and not course.lives(t)]
    published = [t.placement.publish() for t in living if t.placement is not None]
    results = await course.all([*published, *aborted])
    for target, result in zip(living, results[: len(living)], strict=True):
        _apply(course, target, result)


async def _queue_alone(course: Course, waiting: Sequence[Target]) -> None:
    """No mailbox is to wait for: stage and publish the queue's item in one."""
    if not waiting:
        return
    (result,) = await course.all([_queue_placement(course, waiting).commit()])
    if isinstance(result, Placed):
        for target in waiting:
            target.state = QUEUED
        _QUEUED.inc()
    else:
        course.kill(waiting, reply_of(result, course.id))


async def queue_leftovers(course: Course) -> None:
    """Mailboxes that failed for a moment, in groups of which something else is kept."""
    left = _to_be_queued(course, ())
    if not left:
        return
    result: Any = course.means.queue.full()
    if result is None:
        (result,) = await course.all([_queue_placement(course, left).commit()])
    if isinstance(result, Placed):
        for target in left:
            target.state = QUEUED
        _QUEUED.inc()
    else:
        # Better twice than never: others have it already, and this sender will come again.
        reply = result if isinstance(result, Reply) else reply_of(result, course.id)
        course.kill(left, reply)


def _queue_placement(course: Course, targets: Sequence[Target]) -> IPlacement:
    transaction = course.transaction
    now = course.means.clock.seconds()
    item = QueueItem(
        transaction.envelope,
        tuple(target.queue_recipient(now) for target in targets),
        queued_at=now,
        size=transaction.content.size + len(course.seal) + len(course.prefix),
        door=transaction.session.door,
        account=transaction.session.account,
        trusted=transaction.trusted,
        client=transaction.session.client(),
    )
    return course.means.queue.placement(item, course.seal + course.prefix, transaction.content)


def _to_be_queued(course: Course, others: Sequence[Target]) -> list[Target]:
    """Those that failed for a moment and share a living group with something that is kept, or is among
    ``others``, or will be queued for the same reason."""
    besides = set(others)
    kept = {
        group
        for target in course.targets
        if target.state is KEPT or target.state is QUEUED or target in besides
        for group in target.groups
    }
    found: list[Target] = []
    while True:
        more = [
            target
            for target in course.targets
            if target.state is LATER
            and target not in besides
            and any(group in kept and group not in course.dead for group in target.groups)
        ]
        if not more:
            return found
        found += more
        besides.update(more)
        kept.update(group for target in more for group in target.groups)


def _apply(course: Course, target: Target, result: object) -> None:
    """A mailbox's answer."""
    if isinstance(result, Placed):
        target.state = KEPT
        _PLACED.inc()
        note_delivered(course, target, result)
    elif isinstance(result, Failure):
        course.failed(target, result)
    else:
        target.state, target.reply = LATER, NOT_IN_TIME
        _log.warn(
            "{id}: mailbox of {account} did not answer in time",
            id=course.id,
            account=str(target.recipient.address),
        )


def _abort_late(_: object, placement: IPlacement) -> Deferred[None]:
    """A stage that ended after its time: nobody will publish it."""
    return placement.abort()
