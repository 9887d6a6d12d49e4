"""What each account's filter wants done with its copy, and what happens to mail that is sent on.

A filter that fails changes nothing: the copy is kept as it came. What it redirects is safe (in the queue, or
in a mailbox here) before the copy that it replaces is given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from lorrainemail.interfaces import Filing, Filtered, IContent, IFilter, Redirection
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.transaction.course import KEPT, OPEN, QUEUED, REFUSED, Course, Target, reply_of
from lorrainemail.transaction.plan import is_junk

_log = Logger("lorrainemail.intake")


async def filter_copies(course: Course, filter: IFilter, content: IContent) -> None:
    """Each account's filter says what becomes of its copy; one that does not answer changes nothing."""
    for target in tuple(course.targets):
        if target.mailbox is None or target.state is not OPEN:
            continue
        planned: Any = filter.plan(target.mailbox, course.transaction, course.prefix, content)
        if isinstance(planned, Deferred):
            (planned,) = await course.all([planned])
        if isinstance(planned, Filtered):
            await _follow(course, target, planned)


async def _follow(course: Course, target: Target, filtered: Filtered) -> None:
    """What the filter decided becomes targets of their own; what it redirects is safe after this."""
    account = str(target.recipient.address)
    if filtered.error:
        course.means.trace.event(course.id, "filter failed", recipient=account, error=filtered.error)
    if filtered.reply is not None:
        target.state, target.reply = REFUSED, filtered.reply
        return
    filings = filtered.filings
    if not await _redirect(course, filtered.redirections, account) and not filings:
        filings = (Filing(),)
    target.settle = filtered.settle
    if not filings:
        target.state = KEPT
        if not filtered.redirections:
            course.means.trace.event(course.id, "discarded", recipient=account)
        return
    folder, groups = target.folder, target.groups
    others = [other for other in course.targets if other is not target and other.state is OPEN]
    course.targets.remove(target)
    for filing in filings:
        wanted = folder if filing.folder is None else filing.folder
        wanted = "" if wanted.upper() == "INBOX" else wanted
        twin = next((other for other in others if _same_place(other, target, wanted)), None)
        if twin is not None:
            twin.groups = sorted({*twin.groups, *groups})
            twin.settle = twin.settle or filtered.settle
            continue
        copy = attrs.evolve(target, folder=wanted, filing=filing, groups=list(groups))
        others.append(copy)
        course.targets.append(copy)
        for success in course.successes:
            if target in success.targets:
                success.targets.append(copy)
    for success in course.successes:
        if target in success.targets:
            success.targets.remove(target)


async def _redirect(course: Course, redirections: Sequence[Redirection], account: str) -> bool:
    """Send on; whether all of it is safe."""
    if redirections and is_junk(course.transaction.verdicts):
        course.means.trace.event(course.id, "not redirected", recipient=account, reason="taken for spam")
        return False
    hops = course.transaction.envelope.hops + 1
    # RFC 8689 §4.2: what must stay under TLS does so on its further way.
    parameters = tuple(one for one in course.transaction.envelope.parameters if one.keyword == "REQUIRETLS")
    contents = [one.content for one in redirections]
    if course.means.seal is not None:
        contents = [Reheaded(one, 0, await sealed(course, one)) for one in contents]
    results = await course.all(
        [
            course.means.redirect(one.sender, (one.recipient,), content, hops, course.id, parameters, account)
            for one, content in zip(redirections, contents, strict=True)
        ]
    )
    for one, result in zip(redirections, results, strict=True):
        done = isinstance(result, str)
        facts = {"to": str(one.recipient), "as": result} if done else {"to": str(one.recipient)}
        kind = "redirected" if done else "not redirected"
        course.means.trace.event(course.id, kind, recipient=account, **facts)
        if not done:
            _log.warn(
                "{id}: {account} keeps it: not redirected to {to}: {reply}",
                id=course.id,
                account=account,
                to=str(one.recipient),
                reply=str(reply_of(result, course.id)),
            )
    return all(isinstance(result, str) for result in results)


async def sealed(course: Course, content: IContent) -> bytes:
    """The seal on a stranger's message that is sent on, b"" for none: not worth a message's delay."""
    transaction = course.transaction
    if course.means.seal is None or transaction.trusted or transaction.session.door == "local":
        return b""
    domains = [accepted.recipient.address.domain for accepted in transaction.accepted]
    (fields,) = await course.all([Deferred.fromCoroutine(course.means.seal(content, domains))])
    if isinstance(fields, Failure):
        _log.failure("{id}: not sealed", fields, id=course.id)
    return fields if isinstance(fields, bytes) else b""


async def settle(course: Course) -> None:
    """What filters do once a message is safe; a failure there fails nobody's mail."""
    settles = {
        target.settle: None
        for target in course.targets
        if target.settle is not None and target.state in (KEPT, QUEUED)
    }
    if not settles:
        return
    for result in await course.all([settle(course.means.inject) for settle in settles]):
        if isinstance(result, Failure):
            _log.failure("{id}: a filter's reply or memory was lost", result, id=course.id)


def _same_place(one: Target, other: Target, folder: str) -> bool:
    """Whether a target is that folder of the other's account."""
    if one.mailbox is None or other.mailbox is None:
        return False
    return one.folder == folder and one.mailbox.account.address.key == other.mailbox.account.address.key
