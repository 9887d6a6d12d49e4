"""Complete messages, and what accounts want done with theirs (:mod:`lorrainemail.intake`,
:mod:`lorrainemail.sieve`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import attrs
from zope.interface import Interface

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.errors import Reply
from lorrainemail.interfaces.ops import IContent
from lorrainemail.interfaces.policy import Verdict
from lorrainemail.interfaces.tables import Account, Expansion, ITables, LocalMailbox

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@attrs.frozen(slots=True)
class Accepted:
    """A RCPT that was accepted: the recipient, what it expands to, and the verdicts on the way."""

    recipient: Recipient
    expansion: Expansion
    verdicts: tuple[Verdict, ...] = ()


@attrs.frozen(slots=True)
class Transaction:
    """A complete transaction at its final dot.

    :ivar trusted: the session logged in or comes from a listed network: notices of success and delay are for
        such peers alone.
    :ivar fields: header fields that belong to the message and stand right above it: our signatures.
    :ivar copies: archives, which get it too and do not count in the answer.
    """

    session: Session
    envelope: Envelope
    accepted: tuple[Accepted, ...]
    tables: ITables
    content: IContent
    verdicts: tuple[Verdict, ...] = ()
    trusted: bool = False
    fields: bytes = b""
    copies: tuple[Accepted, ...] = ()


class IIntake(Interface):
    """Takes one complete message, plans, makes it durable, answers."""

    def take(transaction: Transaction) -> Deferred[Reply]:
        """The reply to the final dot; durable before a 2xx. Never fails; bounded in time."""

    def take_each(transaction: Transaction) -> Deferred[list[Reply]]:
        """One reply for each accepted recipient, in order (LMTP, RFC 2033 §4.2)."""


class IInjector(Interface):
    """How the server sends mail of its own: DSNs, notices."""

    def inject(
        sender: Address | None, recipients: Sequence[Address], content: IContent, hops: int, cause: str
    ) -> Deferred[str]:
        """Durable when it answers with the new message's id.

        :param hops: of the message that caused it, plus one; over the limit it is dropped and said so.
        :param cause: id of the causing message, "" where none, for the trace.
        """


@attrs.frozen(slots=True)
class Filing:
    """One copy that an account's filter wants in a mailbox.

    :ivar folder: None is the folder that the address asks for.
    :ivar flags: system flags with their backslash, and keywords.
    :ivar create: make the folder where it is missing (else the copy goes to INBOX).
    :ivar content: instead of the message with its trace fields; None: those as they are.
    """

    folder: str | None = None
    flags: tuple[str, ...] = ()
    create: bool = False
    content: IContent | None = None


@attrs.frozen(slots=True)
class Redirection:
    """The message, sent on by an account's filter; it must not be lost: a failure keeps it here."""

    sender: Address | None
    recipient: Address
    content: IContent


#: What :meth:`IInjector.inject` is.
Inject = Callable[[Address | None, Sequence[Address], IContent, int, str], "Deferred[str]"]


@attrs.frozen(slots=True)
class Filtered:
    """What an account's filter decided about one message. Neither filings nor redirections nor a reply: it
    is thrown away.

    :ivar reply: the message is refused, with these words.
    :ivar settle: called once the message is safe: what the filter itself sends is injected, what it remembers
        becomes durable.
    :ivar error: the filter failed, why; the message is kept then.
    """

    filings: tuple[Filing, ...] = ()
    redirections: tuple[Redirection, ...] = ()
    reply: Reply | None = None
    settle: Callable[[Inject], Deferred[None]] | None = None
    error: str = ""


class IFilter(Interface):
    """What accounts want done with their mail at the final dot."""

    def plan(
        mailbox: LocalMailbox, transaction: Transaction, prefix: bytes, content: IContent
    ) -> Filtered | None | Deferred[Filtered | None]:
        """What becomes of a message for that mailbox; nothing is written yet. None: the usual.

        :param prefix: the trace fields that will stand above ``content``. Never fails.
        """


@attrs.frozen(slots=True)
class MailboxEvent:
    """Something that a user did to messages by IMAP (RFC 6785 §3).

    :ivar account: whose folder it is. ``user``: who did it.
    :ivar cause: "APPEND", "COPY" (a move too) or "FLAG".
    :ivar folder: where the messages are now; ``uids`` there. ``source``: where they came from, or "".
    :ivar changed: of "FLAG" by UID: the flags that changed.
    """

    account: Account
    user: str
    cause: Literal["APPEND", "COPY", "FLAG"]
    folder: str
    uids: tuple[int, ...]
    source: str = ""
    changed: Mapping[int, frozenset[str]] = attrs.field(factory=dict)


class IMailboxScripts(Interface):
    """Scripts that run because of what users do."""

    def wants(account: Account) -> bool:
        """Whether anything might come of an event of that account. Cheap."""

    def happened(event: MailboxEvent) -> None:
        """It happened. Returns at once, never fails."""
