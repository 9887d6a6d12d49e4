"""NOTIFY (RFC 5465): events of all mailboxes of an account, told without being asked.

Of the selected mailbox the view tells, at once instead of after the next command; of others a STATUS, LIST
or METADATA line. What happens in quick succession is told once. Of mailboxes that nobody has open, only what
goes through this server is heard of, not what other programs do to the files.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_names import DELIMITER, wire_name
from lorrainemail.grammar.imap_notify import EVENTS, EventGroup, NotifyArguments
from lorrainemail.imap.asides import Telling
from lorrainemail.imap.folders import status_line
from lorrainemail.imap.server import ImapServer, No
from lorrainemail.interfaces import FolderFacts, HomeEvent

#: Seconds for which changes of other mailboxes are gathered.
GATHER: Final = 0.2
#: Mailboxes whose changes wait to be told.
MAX_PENDING: Final = 1000

_SUPPORTED: Final = EVENTS - {"ANNOTATIONCHANGE"}
_NAMES: Final = {
    "MESSAGENEW": b"MessageNew",
    "MESSAGEEXPUNGE": b"MessageExpunge",
    "FLAGCHANGE": b"FlagChange",
    "MAILBOXNAME": b"MailboxName",
    "SUBSCRIPTIONCHANGE": b"SubscriptionChange",
    "MAILBOXMETADATACHANGE": b"MailboxMetadataChange",
    "SERVERMETADATACHANGE": b"ServerMetadataChange",
}
_MEANS: Final = {
    "delivered": "MESSAGENEW",
    "copied": "MESSAGENEW",
    "expunged": "MESSAGEEXPUNGE",
    "flagged": "FLAGCHANGE",
    "created": "MAILBOXNAME",
    "deleted": "MAILBOXNAME",
    "renamed": "MAILBOXNAME",
    "subscribed": "SUBSCRIPTIONCHANGE",
    "unsubscribed": "SUBSCRIPTIONCHANGE",
    "metadata": "MAILBOXMETADATACHANGE",
}
_ITEMS: Final = ("MESSAGES", "UIDNEXT", "UIDVALIDITY", "UNSEEN")


async def notify(session: ImapServer, command: Command) -> bytes:
    """RFC 5465 §3."""
    arguments: NotifyArguments = command.arguments[0]
    if arguments.groups is not None:
        unknown = {event for group in arguments.groups for event in group.events} - _SUPPORTED
        if unknown:  # RFC 5465 §5
            words = b" ".join(_NAMES[name] for name in sorted(_SUPPORTED))
            raise No(b"[BADEVENT (%b)] Not all of these events are known" % words)
    facts = await session.mail().folders()
    notifier = Notifier(session, arguments.groups or (), facts)
    session.set_notifier(notifier)
    if arguments.status:
        for name in notifier.watched_for_messages(facts):
            try:
                session.send(await status_line(session, name, notifier.items))
            except MailError:
                continue  # gone meanwhile
            await session.flush()
    return b"OK NOTIFY completed"


class Notifier:
    """What one client wants to hear of.

    :ivar selected: the group for the selected mailbox, None where nothing of it is wanted.
    """

    def __init__(self, session: ImapServer, groups: tuple[EventGroup, ...], facts: list[FolderFacts]) -> None:
        self._session = session
        self.selected = next((group for group in groups if group.filter.startswith("SELECTED")), None)
        self._groups = [group for group in groups if not group.filter.startswith("SELECTED")]
        self._subscribed = {folder.name for folder in facts if folder.subscribed}
        self._pending: dict[str, None] = {}
        self._call: IDelayedCall | None = None
        self._end = session.mail().watch(self._heard) if self._groups else None

    def close(self) -> None:
        """Tell nothing more."""
        if self._end is not None:
            self._end()
            self._end = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    # -- the selected mailbox --

    @property
    def at_once(self) -> bool:
        """Whether changes of the selected mailbox are told without being asked (RFC 5465 §6.1, §6.2)."""
        return self.selected is not None and bool(self.selected.events)

    @property
    def delays_expunges(self) -> bool:
        """They wait for a command during which they may be told."""
        return self.selected is None or self.selected.filter == "SELECTED-DELAYED"

    def wants(self, event: str) -> bool:
        """Whether an event of the selected mailbox is told at all."""
        return self.selected is not None and event in self.selected.events

    def came(self, uids: list[int]) -> None:
        """New messages of the selected mailbox were told of: their items follow (RFC 5465 §5.2)."""
        if uids and self.selected is not None and self.selected.fetch:
            self._session.tell_aside(partial(self._fetch, uids))

    async def _fetch(self, uids: list[int]) -> None:
        from lorrainemail.imap.fetch import fetch_of

        view = self._session.view
        if view is None or self.selected is None:
            return
        indexes = [index for uid in uids if (index := view.index_of(uid)) >= 0]
        await fetch_of(self._session, view, indexes, self.selected.fetch)

    # -- other mailboxes --

    @property
    def items(self) -> tuple[str, ...]:
        """What is told of a mailbox (RFC 5465 §4)."""
        return (*_ITEMS, "HIGHESTMODSEQ") if "CONDSTORE" in self._session.enabled else _ITEMS

    def watched_for_messages(self, facts: list[FolderFacts]) -> list[str]:
        """Mailboxes, without the selected one, whose messages are of interest."""
        return [
            folder.name
            for folder in facts
            if folder.selectable
            and not self._is_selected(folder.name)
            and "MESSAGENEW" in self._events_of(folder.name)
        ]

    def _is_selected(self, name: str) -> bool:
        view = self._session.view
        return view is not None and view.mailbox.name == name

    def _events_of(self, name: str) -> frozenset[str]:
        """RFC 5465 §6: the first group that a mailbox is in counts."""
        for group in self._groups:
            if self._is_in(group, name):
                return group.events
        return frozenset()

    def _is_in(self, group: EventGroup, name: str) -> bool:
        if group.filter == "SUBSCRIBED":
            return name in self._subscribed
        if group.filter == "SUBTREE":
            return any(name == top or name.startswith(top + DELIMITER) for top in group.mailboxes)
        # filters may put mail into any folder, so all are inboxes (RFC 5465 §6.3)
        return group.filter in ("PERSONAL", "INBOXES") or name in group.mailboxes

    def _heard(self, event: HomeEvent) -> None:
        if event.kind == "subscribed":
            self._subscribed.add(event.folder)
        elif event.kind == "unsubscribed":
            self._subscribed.discard(event.folder)
        means = _MEANS[event.kind]
        if means == "MAILBOXMETADATACHANGE" and not event.folder:
            means = "SERVERMETADATACHANGE"
            if any(means in group.events for group in self._groups):
                self._say(partial(self._metadata, event))
            return
        wanted = means in self._events_of(event.folder) or (
            event.kind == "renamed" and means in self._events_of(event.other)
        )
        if not wanted:
            return
        if means in ("MAILBOXNAME", "SUBSCRIPTIONCHANGE"):
            self._say(partial(self._list, event))
        elif means == "MAILBOXMETADATACHANGE":
            self._say(partial(self._metadata, event))
        elif not self._is_selected(event.folder):
            self._pending[event.folder] = None
            if len(self._pending) > MAX_PENDING:
                self._overflow()
            elif self._call is None:
                self._call = self._session.callLater(GATHER, self._tell_pending)

    def _tell_pending(self) -> None:
        self._call = None
        names, self._pending = tuple(self._pending), {}
        for name in names:
            self._say(partial(self._status, name))

    def _say(self, telling: Telling) -> None:
        if not self._session.tell_aside(telling):
            self._overflow()

    def _overflow(self) -> None:
        """RFC 5465 §5.8: too much happens; from here on the client hears of nothing."""
        session = self._session
        session.set_notifier(None)

        async def say() -> None:
            session.send(b"* OK [NOTIFICATIONOVERFLOW] Too much happens, no more is told\r\n")

        session.tell_aside(say, always=True)

    async def _status(self, name: str) -> None:
        self._session.send(await status_line(self._session, name, self.items))

    async def _metadata(self, event: HomeEvent) -> None:
        """RFC 5464 §4.4.2."""
        name = wire_name(event.folder, self._session.utf8) if event.folder else b'""'
        self._session.send(b"* METADATA %b %b\r\n" % (name, event.other.encode("ascii")))

    async def _list(self, event: HomeEvent) -> None:
        """RFC 5465 §5.4, §5.5."""
        utf8 = self._session.utf8
        if event.kind == "deleted":
            line = b'(\\NonExistent) "/" %b' % wire_name(event.folder, utf8)
        elif event.kind == "renamed":
            line = b'() "/" %b ("OLDNAME" (%b))' % (
                wire_name(event.folder, utf8),
                wire_name(event.other, utf8),
            )
        else:
            flag = b"\\Subscribed" if event.kind == "subscribed" else b""
            line = b'(%b) "/" %b' % (flag, wire_name(event.folder, utf8))
        self._session.send(b"* LIST %b\r\n" % line)
