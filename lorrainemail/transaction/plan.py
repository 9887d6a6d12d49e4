"""Plan: where a message goes, before anything of it is written.

Each final recipient becomes one :class:`~lorrainemail.transaction.course.Target`, however many RCPTs lead to
it; its quota is asked; copies that would lie side by side become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from lorrainemail.envelope import Recipient
from lorrainemail.errors import MailError, Reply
from lorrainemail.interfaces import Accepted, Action, Filing, Handed, LocalMailbox, RemoteMailbox, Verdict
from lorrainemail.message import dsn
from lorrainemail.transaction.course import (
    LATER,
    NOT_IN_TIME,
    OPEN,
    REFUSED,
    UNFINISHED,
    Course,
    Success,
    Target,
)

JUNK: Final = "Junk"

#: Who sends spam on is taken for its sender.
NOT_SENT_ON: Final = Reply(550, "5.7.1", "Taken for spam, and not sent on to another server")


def plan_targets(course: Course) -> list[Target]:
    """Each final recipient once."""
    transaction = course.transaction
    junk = is_junk(transaction.verdicts)
    targets: dict[tuple[str, str], Target] = {}
    for index, accepted in enumerate(transaction.accepted):
        group = index if course.each else 0
        to_junk = junk or (bool(accepted.verdicts) and is_junk(accepted.verdicts))
        asked = accepted.recipient
        success = None
        if asked.notify is not None and "SUCCESS" in asked.notify:
            success, asked = _success(accepted)
            if success is not None:
                course.successes.append(success)
        for final in accepted.expansion.finals:
            if isinstance(final, LocalMailbox):
                mailbox: LocalMailbox | None = final
                folder = JUNK if to_junk else final.folder
                key = (final.account.address.key, "/" + folder)
                forwarded = False
            elif isinstance(final, Handed):
                mailbox, folder, forwarded = None, "", False
                key = (f"|{final.courier}:{final.user}", final.argument or final.address.key)
            else:
                mailbox, folder, forwarded = None, "", final.forwarded
                key = (final.address.local, final.address.domain)
            target = targets.get(key)
            if target is not None:
                if group not in target.groups:
                    target.groups.append(group)
                notify = both(target.recipient.notify, asked.notify)
                if notify != target.recipient.notify:
                    target.recipient = attrs.evolve(target.recipient, notify=notify)
                if success is not None:
                    success.targets.append(target)
                continue
            recipient = asked
            if final.address is not recipient.address and final.address != recipient.address:
                recipient = attrs.evolve(
                    recipient,
                    address=final.address,
                    original=recipient.original or str(recipient.address),
                )
            target = Target(recipient, mailbox, forwarded, bool(final.path), folder, [group])
            targets[key] = target
            if final.owner is not None:
                target.owner = final.owner
            if isinstance(final, Handed):
                target.handed = final
            if forwarded and to_junk:
                target.state, target.reply = REFUSED, NOT_SENT_ON
            if success is not None:
                success.targets.append(target)
    if transaction.copies:
        _plan_copies(course, targets)
    planned = list(targets.values())
    for recipient, reply in course.refused or ():
        planned.append(Target(recipient, None, False, False, "", [0], REFUSED, reply))
    return planned


def _plan_copies(course: Course, targets: dict[tuple[str, str], Target]) -> None:
    """Archives that are not among the recipients themselves."""
    groups = list(range(course.groups))
    for accepted in course.transaction.copies:
        for final in accepted.expansion.finals:
            recipient = attrs.evolve(accepted.recipient, address=final.address)
            if isinstance(final, LocalMailbox):
                key = (final.account.address.key, "/" + final.folder)
                target = Target(recipient, final, False, True, final.folder, groups[:], copy=True)
            elif isinstance(final, RemoteMailbox):
                key = (final.address.local, final.address.domain)
                target = Target(recipient, None, False, True, "", groups[:], copy=True)
            else:
                continue  # a command or a file of an alias is no archive
            targets.setdefault(key, target)


async def ask_quota(course: Course) -> None:
    """Refuse the copies that their accounts have no room for."""
    size = course.transaction.content.size
    for target in course.targets:
        if target.mailbox is None:
            continue
        try:
            answer = course.means.store.may_accept(target.mailbox.account, size)
            if isinstance(answer, Deferred):
                (result,) = await course.all([answer])
                if result is UNFINISHED:
                    target.state, target.reply = LATER, NOT_IN_TIME
                    continue
                if isinstance(result, Failure):
                    course.failed(target, result)
                    continue
                answer = result
        except MailError:
            course.failed(target, Failure())  # type: ignore[no-untyped-call]
            continue
        if answer is not None:
            target.state = REFUSED if answer.permanent else LATER
            target.reply = answer


async def merge(course: Course) -> None:
    """Copies of one account that would lie side by side in its INBOX, because the folders that their
    addresses ask for do not exist, become one."""
    homes: dict[str, list[Target]] = {}
    for target in course.targets:
        if target.copy or target.mailbox is None or target.state is not OPEN:
            continue
        if _as_it_comes(target.filing):
            homes.setdefault(target.mailbox.account.address.key, []).append(target)
    for targets in homes.values():
        if len(targets) == 1 or targets[0].mailbox is None:
            continue
        asked = course.means.store.existing(targets[0].mailbox.account, [t.folder for t in targets])
        (there,) = await course.all([asked])
        if not isinstance(there, frozenset):
            continue  # twice is better than late
        inbox: Target | None = None
        for target in targets:
            if target.folder in there:
                continue
            if inbox is None:
                inbox = target
                continue
            inbox.folder = ""
            inbox.groups = sorted({*inbox.groups, *target.groups})
            notify = both(inbox.recipient.notify, target.recipient.notify)
            if notify != inbox.recipient.notify:
                inbox.recipient = attrs.evolve(inbox.recipient, notify=notify)
            inbox.settle = inbox.settle or target.settle
            course.targets.remove(target)
            for success in course.successes:
                success.targets = [inbox if one is target else one for one in success.targets]


def is_junk(verdicts: Sequence[Verdict]) -> bool:
    """Whether policy takes a message for spam."""
    return any(verdict.action is Action.JUNK for verdict in verdicts)


def _success(accepted: Accepted) -> tuple[Success | None, Recipient]:
    """Who tells of the success of a recipient: we, or None for whoever delivers it in the end; and the
    recipient as those further on see it."""
    recipient, finals = accepted.recipient, accepted.expansion.finals
    action: dsn.Action = "expanded"
    if len(finals) == 1:
        if isinstance(finals[0], LocalMailbox):
            return Success(recipient, "delivered", []), recipient
        if not finals[0].forwarded:
            return None, recipient
        action = "relayed"
    rest = tuple(word for word in recipient.notify or () if word != "SUCCESS")
    return Success(recipient, action, []), attrs.evolve(recipient, notify=rest or ("NEVER",))


def both(one: tuple[str, ...] | None, other: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The NOTIFY of two RCPTs that lead to the same place: whatever either wants (RFC 3461 §4.1)."""
    if one == other:
        return one
    usual = ("FAILURE", "DELAY")
    words = {*(usual if one is None else one), *(usual if other is None else other)}
    return tuple(word for word in ("SUCCESS", *usual) if word in words) or ("NEVER",)


def _as_it_comes(filing: Filing | None) -> bool:
    """Whether a filter changes nothing of a copy, and lets its folder fall back to INBOX."""
    return filing is None or not (filing.flags or filing.create or filing.content is not None)
