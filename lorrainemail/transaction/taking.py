"""The whole way of one transaction, from the final dot to its reply: plan, filter, stage, publish, tell.

Made and run by :mod:`lorrainemail.intake`, whose head tells the rules. One object a transaction, used once.
:meth:`Taking.run` may fail only by a fault of ours; :meth:`Taking.hurry` ends whatever it waits for.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from lorrainemail.delivery.arrival import for_mailbox, header_of, with_header
from lorrainemail.errors import INTERNAL_ERROR, Reply
from lorrainemail.mailauth.authres import claimed_by
from lorrainemail.message.received import received_field
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.transaction.course import KEPT, LATER, OPEN, QUEUED, REFUSED, Course, Target
from lorrainemail.transaction.filtering import filter_copies, sealed, settle
from lorrainemail.transaction.notices import notify, notify_success
from lorrainemail.transaction.plan import ask_quota, merge, plan_targets
from lorrainemail.transaction.publish import keep, keep_and_queue, make_placements, queue_leftovers
from lorrainemail.transaction.words import note_end, note_received, verdict_field


class Taking(Course):
    """One transaction on its way from the final dot to its reply."""

    __slots__ = ()

    async def run(self) -> list[Reply]:
        """The whole way; one reply a group."""
        transaction = self.transaction
        header = header_of(transaction.content)
        note_received(self, header)
        cleaned = claimed_by(header, self.means.hostname)
        if cleaned is not None:
            content = with_header(transaction.content, header, cleaned)
            self.transaction = transaction = attrs.evolve(transaction, content=content)
            header = cleaned
        self.targets = plan_targets(self)
        await ask_quota(self)
        received = received_field(
            transaction.session,
            transaction.envelope,
            self.means.hostname,
            self.began,
            transaction.accepted[0].recipient.address
            # Where a filter sends it on to is its owner's affair, also in a header that comes back.
            if len(transaction.accepted) == 1 and not transaction.envelope.hops
            else None,
            self.means.hide_submitter,
        )
        self.prefix = b"".join(
            (*[v.field for v in transaction.verdicts], verdict_field(self), received, transaction.fields)
        )
        content = for_mailbox(transaction.content, header)
        if self.means.filter is not None:
            await filter_copies(self, self.means.filter, content)
        if any(target.forwarded and target.state is OPEN for target in self.targets):
            self.seal = await sealed(self, Reheaded(transaction.content, 0, self.prefix))
        if len(self.targets) > 1:
            await merge(self)
        make_placements(self, content)
        if any(target.mailbox is None for target in self.targets):
            await keep_and_queue(self)
        else:
            await keep(self)
        await queue_leftovers(self)
        answers = replies(self)
        await settle(self)
        await notify(self, answers)
        if self.successes:
            await notify_success(self)
        note_end(self, answers)
        return answers


def replies(course: Course) -> list[Reply]:
    """One for each group."""
    members: list[list[Target]] = [[] for _ in range(course.groups)]
    for target in course.targets:
        for group in target.groups:
            members[group].append(target)
    return [_reply(course, group, targets) for group, targets in enumerate(members)]


def _reply(course: Course, group: int, targets: Sequence[Target]) -> Reply:
    """The answer of a group."""
    if group in course.dead:
        return course.dead[group]
    if course.transaction.copies:
        targets = [target for target in targets if not target.copy]
    states = {target.state for target in targets}
    if QUEUED in states:
        return Reply(250, "2.0.0", f"Queued as {course.id}")
    if KEPT in states:
        return Reply(250, "2.0.0", f"Delivered as {course.id}")
    for state in (LATER, REFUSED):
        for target in targets:
            if target.state is state and target.reply is not None:
                return target.reply
    return INTERNAL_ERROR
