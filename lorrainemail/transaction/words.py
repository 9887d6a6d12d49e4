"""What a transaction says of itself: the verdicts' field in the message, its events in the trace, its line in
the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.logger import Logger

from lorrainemail.addresses import Address
from lorrainemail.delivery.arrival import VERDICT_FIELD, message_id_of
from lorrainemail.errors import Reply
from lorrainemail.interfaces import Action, Placed
from lorrainemail.ops.log import note
from lorrainemail.transaction.course import Course, Target

_log = Logger("lorrainemail.intake")

#: Characters of reasons in the verdict field.
MAX_VERDICT: Final = 400
#: Recipients (and answers) that a log line names.
MAX_LOGGED: Final = 5


def verdict_field(course: Course) -> bytes:
    """What policy thought of a message that it let pass, for the reader's filters."""
    verdicts = course.transaction.verdicts
    for accepted in course.transaction.accepted:
        if accepted.verdicts:
            verdicts += accepted.verdicts
    told = list(
        dict.fromkeys(
            f"{verdict.action.name.lower()} {verdict.check} ({verdict.reason})"
            for verdict in verdicts
            if verdict.action in (Action.TAG, Action.JUNK)
        )
    )
    if not told:
        return b""
    text = "".join(c if " " <= c <= "~" else "?" for c in "; ".join(told))[:MAX_VERDICT]
    return f"{VERDICT_FIELD}: {text}\r\n".encode()


def note_received(course: Course, header: bytes) -> None:
    session, envelope = course.transaction.session, course.transaction.envelope
    facts: dict[str, Any] = {
        "door": session.door,
        "sender": _shown(envelope.sender),
        "recipients": [r.original or str(r.address) for r in envelope.recipients],
        "size": course.transaction.content.size,
        "message_id": message_id_of(header),
    }
    if session.peer:
        facts["peer"] = session.peer
        facts["helo"] = session.helo
    if session.origin:
        facts["origin"] = dict(session.origin)
    if session.account:
        facts["account"] = session.account
    if session.tls is not None:
        facts["tls"] = f"{session.tls.version} {session.tls.cipher}"
    if course.transaction.verdicts:
        facts["verdicts"] = [f"{v.check}: {v.action.name} {v.reason}" for v in course.transaction.verdicts]
    for accepted in course.transaction.accepted:
        if accepted.verdicts:
            whom = accepted.recipient.original or str(accepted.recipient.address)
            told = [f"{v.check}: {v.action.name} {v.reason}" for v in accepted.verdicts]
            facts.setdefault("verdicts_for", {})[whom] = told
    course.means.trace.event(course.id, "received", **facts)


def note_delivered(course: Course, target: Target, placed: Placed) -> None:
    course.means.trace.event(
        course.id,
        "delivered",
        recipient=str(target.recipient.address),
        account=placed.account,
        folder=placed.folder,
        where=placed.where,
    )


def note_end(course: Course, replies: list[Reply]) -> None:
    """One line in the log, and to the trace what the events of mailboxes and queue do not say."""
    for reply in replies:
        if not reply.positive:
            kind = "refused" if reply.permanent else "deferred"
            course.means.trace.event(course.id, kind, reply=str(reply))
    session, envelope = course.transaction.session, course.transaction.envelope
    sender, size = _shown(envelope.sender), course.transaction.content.size
    recipients = _few([one.original or str(one.address) for one in envelope.recipients]) or "nobody"
    answer = _few(list(dict.fromkeys(map(str, replies))))
    peer = f" from {session.peer}" if session.peer else ""
    account = f" logged in as {session.account}" if session.account else ""
    note(
        _log,
        f"{course.id}: from <{sender}> for {recipients}, {size} octets, "
        f"at {session.door}{peer}{account}: {answer}",
        id=course.id,
        sender=sender,
        recipients=recipients,
        size=size,
        door=session.door,
        peer=session.peer,
        account=session.account,
        answer=answer,
    )


def _few(words: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(words) - MAX_LOGGED
    return ", ".join(words[:MAX_LOGGED]) + (f" and {more} more" if more > 0 else "")


def _shown(sender: Address | None) -> str:
    return "" if sender is None else str(sender)
