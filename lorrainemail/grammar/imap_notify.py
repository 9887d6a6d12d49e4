"""NOTIFY (RFC 5465): which events of which mailboxes a client wants to hear of."""

from __future__ import annotations

from typing import Any, Final

import attrs

from lorrainemail.grammar.imap_fetch import FetchItem, fetch_items
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault

#: Event groups of one command, and mailboxes of one group.
MAX_GROUPS: Final = 50
MAX_MAILBOXES: Final = 500

_MESSAGE_EVENTS: Final = frozenset({"MESSAGENEW", "MESSAGEEXPUNGE", "FLAGCHANGE", "ANNOTATIONCHANGE"})
EVENTS: Final = _MESSAGE_EVENTS | {
    "MAILBOXNAME", "SUBSCRIPTIONCHANGE", "MAILBOXMETADATACHANGE", "SERVERMETADATACHANGE",
}  # fmt: skip
_FILTERS: Final = frozenset(
    {"SELECTED", "SELECTED-DELAYED", "INBOXES", "PERSONAL", "SUBSCRIBED", "SUBTREE", "MAILBOXES"}
)


@attrs.frozen(slots=True)
class EventGroup:
    """RFC 5465 §8 ``event-group``.

    :ivar filter: as the RFC names it, upper case; ``mailboxes`` of SUBTREE and MAILBOXES.
    :ivar events: upper case, none where nothing is wanted; those that nobody knows among them.
    :ivar fetch: what is wanted of each new message, of SELECTED and SELECTED-DELAYED.
    """

    filter: str
    mailboxes: tuple[str, ...] = ()
    events: frozenset[str] = frozenset()
    fetch: tuple[FetchItem, ...] = ()


@attrs.frozen(slots=True)
class NotifyArguments:
    """``groups`` is None for NOTIFY NONE; ``status``: tell the state of all mailboxes named at once."""

    groups: tuple[EventGroup, ...] | None
    status: bool = False


def notify(scanner: Scanner) -> tuple[Any, ...]:
    """``NOTIFY (NONE / SET [STATUS] event-groups)``."""
    scanner.space()
    word = scanner.keyword()
    if word == b"NONE":
        return (NotifyArguments(None),)
    if word != b"SET":
        raise SyntaxFault("NOTIFY needs SET or NONE")
    scanner.space()
    status = not scanner.at(b"(")
    if status:
        if scanner.keyword() != b"STATUS":
            raise SyntaxFault("malformed NOTIFY")
        scanner.space()
    groups = [_group(scanner)]
    while scanner.skip(b" "):
        groups.append(_group(scanner))
        if len(groups) > MAX_GROUPS:
            raise SyntaxFault("too many event groups")
    if sum(group.filter.startswith("SELECTED") for group in groups) > 1:
        raise SyntaxFault("the selected mailbox twice")  # RFC 5465 §6
    return (NotifyArguments(tuple(groups), status),)


def _group(scanner: Scanner) -> EventGroup:
    scanner.expect(b"(")
    kind = scanner.keyword().decode("ascii")
    if kind not in _FILTERS:
        raise SyntaxFault("unknown mailbox filter")
    scanner.space()
    names: tuple[str, ...] = ()
    if kind in ("SUBTREE", "MAILBOXES"):
        names = mailboxes(scanner)
        scanner.space()
    selected = kind.startswith("SELECTED")
    events: set[str] = set()
    fetch: tuple[FetchItem, ...] = ()
    if scanner.skip(b"("):
        while True:
            event = scanner.keyword().decode("ascii")
            events.add(event)
            if event == "MESSAGENEW" and scanner.skip(b" ("):
                if not selected:
                    raise SyntaxFault("items are fetched of the selected mailbox alone")  # RFC 5465 §5.2
                scanner.position -= 1
                fetch = fetch_items(scanner)
            if scanner.skip(b")"):
                break
            scanner.space()
    elif scanner.keyword() != b"NONE":
        raise SyntaxFault("malformed event list")
    scanner.expect(b")")
    _check(events, selected)
    return EventGroup(kind, names, frozenset(events), fetch)


def _check(events: set[str], selected: bool) -> None:
    """RFC 5465 §5: which events go with which."""
    pair = {"MESSAGENEW", "MESSAGEEXPUNGE"}
    if len(events & pair) == 1:
        raise SyntaxFault("MessageNew and MessageExpunge go together")
    if events & {"FLAGCHANGE", "ANNOTATIONCHANGE"} and not events & pair:
        raise SyntaxFault("FlagChange needs MessageNew and MessageExpunge")
    if selected and events & (EVENTS - _MESSAGE_EVENTS):
        raise SyntaxFault("of the selected mailbox only messages are told")


def mailboxes(scanner: Scanner) -> tuple[str, ...]:
    """``one-or-more-mailbox``."""
    if not scanner.skip(b"("):
        return (scanner.mailbox(),)
    found = [scanner.mailbox()]
    while not scanner.skip(b")"):
        scanner.space()
        found.append(scanner.mailbox())
        if len(found) > MAX_MAILBOXES:
            raise SyntaxFault("too many mailboxes")
    return tuple(found)
