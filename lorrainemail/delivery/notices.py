"""Who is told what became of a queued message, and who is not.

Owns the rule against backscatter for what the queue gives up, delays or delivers: a
notice goes only to a reverse-path that is our own user's or was proven at acceptance (of delays and successes
only to logged-in and listed peers), as the recipient's NOTIFY allows,
and never for ``<>``. Where there is none, the trace keeps the reason. The form is
:mod:`lorrainemail.message.dsn`; the way out is the injector, so a notice is durable when it is told as sent.
The runner is the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from lorrainemail.delivery.deadline import deadline_of
from lorrainemail.delivery.wire import InThread
from lorrainemail.errors import MailError
from lorrainemail.interfaces import IContent, IInjector, ITrace, Outcome, QueueItem, QueueRecipient
from lorrainemail.message.dsn import Fate, build, octets_wanted

_log = Logger("lorrainemail.delivery.notices")


def why_no_failure_notice(item: QueueItem, one: QueueRecipient) -> str:
    """The reason for which nobody is told that this recipient failed; "" where the sender is."""
    if item.envelope.sender is None:
        return "the reverse-path is null"
    if not item.envelope.sender_verified and not item.account:
        return "the sender is not verified: a notice could hit a stranger"
    notify = one.recipient.notify
    if notify is not None and "FAILURE" not in notify:  # RFC 3461 §4.1
        return "the sender did not ask for it"
    return ""


def why_no_delay_notice(item: QueueItem, one: QueueRecipient) -> str:
    """Likewise for a delay: only our own users are told, and only once."""
    if item.envelope.sender is None:
        return "the reverse-path is null"
    if not (item.trusted or item.account):
        return "only our own users and listed networks are told of delays"
    notify = one.recipient.notify
    if one.delay_told or (notify is not None and "DELAY" not in notify):
        return "told already, or not asked for"
    return ""


def why_no_success_notice(item: QueueItem, one: QueueRecipient, outcome: Outcome) -> str:
    """Likewise for a delivery; it must have been asked for, and nobody behind us be there to tell it."""
    notify = one.recipient.notify
    if notify is None or "SUCCESS" not in notify:
        deadline = deadline_of(item.envelope)
        if deadline is None or notify == ("NEVER",) or not outcome.host:
            return "not asked for"
        # RFC 2852 §4: of a host that does not keep his time, and, where he wants it, of all.
        if outcome.keeps_time and not deadline.trace:
            return "the next host takes care of it"
    elif outcome.confirms:
        return "the next host takes care of it"
    if item.envelope.sender is None:
        return "the reverse-path is null"
    if not (item.trusted or item.account):
        return "only our own users and listed networks are told of deliveries"
    return ""


class Notices:
    """Builds notices and hands them to the injector.

    :param content_of: makes an IContent of octets.
    :param new_id: a new unique id, for the Message-ID.
    """

    def __init__(
        self,
        injector: IInjector,
        hostname: str,
        content_of: Callable[[bytes], IContent],
        new_id: Callable[[], str],
        in_thread: InThread,
        trace: ITrace | None = None,
    ) -> None:
        self._injector = injector
        self._hostname = hostname
        self._content_of = content_of
        self._new_id = new_id
        self._in_thread = in_thread
        self._trace = trace

    async def send(self, item: QueueItem, fates: Sequence[Fate], content: IContent, now: float) -> bool:
        """One notice of all fates to the message's sender.

        :param content: the message; it is read in a thread.
        :returns: whether it is on its way, durable.
        """
        sender = item.envelope.sender
        assert sender is not None
        wanted = octets_wanted(item.envelope, content.size)
        try:
            original = await self._in_thread(lambda: content.head(wanted))
            notice = build(self._hostname, self._new_id(), item.envelope, fates, original, content.size, now)
            identity = await self._injector.inject(
                None, [sender], self._content_of(notice), item.envelope.hops + 1, item.envelope.id
            )
        except MailError as error:
            _log.warn("The notice about {id} must wait: {error}", id=item.envelope.id, error=error)
            return False
        self._event(item.envelope.id, "notice", action=fates[0].action, to=str(sender), notice=identity)
        return True

    def _event(self, message: str, kind: str, **facts: object) -> None:
        if self._trace is not None:
            self._trace.event(message, kind, **facts)
