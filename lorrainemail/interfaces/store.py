"""Mailboxes (:mod:`lorrainemail.store`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import attrs
from zope.interface import Attribute, Interface

from lorrainemail.errors import Reply
from lorrainemail.interfaces.awaiting import T
from lorrainemail.interfaces.ops import IContent
from lorrainemail.interfaces.tables import Account

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@attrs.frozen(slots=True)
class Placed:
    """Where a message went: account key, folder, and a file or offset for people."""

    account: str
    folder: str
    where: str


class IPlacement(Interface):
    """One message on its way into one place (mailbox, queue): stage, then publish or abort.

    The same three steps for Maildir, mbox, and the queue, so that intake can order them across all.
    Failures are TemporaryError / PermanentError; after a failed stage nothing is left behind.
    """

    def stage() -> Deferred[None]:
        """Make it durable but not visible."""

    def publish() -> Deferred[Placed]:
        """Make it visible, and that durable too. Store events go out after it."""

    def commit() -> Deferred[Placed]:
        """Stage and publish at once: for the only placement of a transaction."""

    def abort() -> Deferred[None]:
        """Leave no trace of what was staged."""


class MessageFacts(NamedTuple):
    """One message's row in the index. A tuple: made by the hundred thousand.

    :ivar uid: RFC 3501 §2.3.1.1; ``modseq`` RFC 7162.
    :ivar flags: system flags with their backslash and keywords, without ``\\Recent``.
    :ivar size: octets with CRLF. ``internal_date``, ``save_date``: seconds since the epoch.
    :ivar message_id: the OBJECTID EMAILID (RFC 8474); copies share it.
    :ivar unique_id: the POP3 UIDL: of this one message alone; only where the wire bytes are not asked for.
    :ivar envelope: ready wire bytes of ENVELOPE; ``structure`` of BODYSTRUCTURE; ``body`` of BODY.
        Empty where not asked for.
    """

    uid: int
    modseq: int
    flags: frozenset[str]
    size: int
    internal_date: int
    save_date: int
    message_id: str
    envelope: bytes = b""
    structure: bytes = b""
    unique_id: str = ""


#: What :meth:`IMailbox.columns` tells of a message, some of it as in :class:`MessageFacts`; and what SORT and
#: THREAD go by (RFC 5256): ``sent``, the Date field's instant, None where it has none to read;
#: ``base_subject`` (§2.1, upper case); ``is_reply``, something like "Re:" was taken off it; ``header_id``,
#: the Message-ID with its brackets, b"" for none; ``in_reply_to``, the first one there; ``references``, those
#: of References, joined by spaces.
Column = Literal[
    "size",
    "internal_date",
    "envelope",
    "sent",
    "base_subject",
    "is_reply",
    "header_id",
    "in_reply_to",
    "references",
]


@attrs.frozen(slots=True)
class MailboxChange:
    """Something happened in a mailbox. ``kind``: "added", "flags", "expunged", "gone" (the folder itself)."""

    kind: Literal["added", "flags", "expunged", "gone"]
    uids: tuple[int, ...]
    modseq: int


@attrs.frozen(slots=True)
class StoreResult:
    """Of a flag change: uids that changed, and those left alone for UNCHANGEDSINCE (RFC 7162)."""

    changed: tuple[int, ...]
    modified: tuple[int, ...] = ()


@attrs.frozen(slots=True)
class TextCandidates:
    """What the text index says of a folder: it knows the UIDs up to ``mark`` (0 for none), and of those only
    ``uids`` may hold the text."""

    mark: int
    uids: tuple[int, ...]


class IMessage(Interface):
    """One stored message, open for reading, in wire form (CRLF), our internal fields hidden."""

    size: int = Attribute("octets with CRLF")

    def read(offset: int = 0, length: int | None = None) -> Deferred[bytes]:
        """That range of octets (in a thread where it is large)."""

    def close() -> None:
        """Let go of the file."""


class IMailbox(Interface):
    """One folder of one account, one object shared by every session that has it open.

    UIDs handed out here are durable. The object's own view is always the newest; a session keeps its own
    list of UIDs and brings it up to date when its protocol allows.
    """

    name: str = Attribute("INBOX, or the path with '/' as separator")
    mailbox_id: str = Attribute("OBJECTID MAILBOXID (RFC 8474)")
    uid_validity: int = Attribute("RFC 3501 §2.3.1.1")
    uid_next: int = Attribute("the next UID to be given")
    highest_modseq: int = Attribute("RFC 7162 §3.1.2")
    rights: str = Attribute("what the user may do with it, RFC 4314 §2.1")

    def uids() -> Sequence[int]:
        """All UIDs now, ascending. A copy that stays as it is."""

    def flags(uid: int) -> frozenset[str] | None:
        """A message's flags now, None where it is gone. From memory."""

    def modseq(uid: int) -> int:
        """A message's MODSEQ now. From memory."""

    def flags_of(uids: Sequence[int]) -> list[frozenset[str] | None]:
        """The flags of each of these, ascending, None for one that is gone: quicker than one by one."""

    def overview() -> tuple[int, frozenset[str]]:
        """The UID of the first message that is not ``\\Seen`` (0 for none), and all flags in use."""

    def claim_recent(uids: Sequence[int], peek: bool = False) -> frozenset[int]:
        """Those of the uids that no session was told of as recent before; they are the caller's from now,
        unless he only peeks."""

    def facts(uids: Sequence[int], wire: bool = False) -> Deferred[list[MessageFacts]]:
        """Index rows in the order asked (gone ones left out); ``wire``: with envelope and structure.
        Callers ask in slices of some hundred."""

    def columns(uids: Sequence[int], names: Sequence[Column]) -> Deferred[list[tuple[Any, ...]]]:
        """(uid, and what the names say) of each message, in the order asked (gone ones left out). In slices;
        quicker than :meth:`facts` where little is wanted of many."""

    def candidates(field: Literal["envelope", "references"], words: Sequence[bytes]) -> Deferred[list[int]]:
        """UIDs, ascending, of all messages but those of which the index says for sure that one of the words
        (lower case, of ``[a-z0-9._-]``) is nowhere in the header fields that ENVELOPE shows, or in
        References."""

    def text_candidates(grams: Sequence[str]) -> Deferred[TextCandidates]:
        """Messages that may hold a text with all of these grams (:mod:`lorrainemail.message.searchable`)."""

    def index_texts() -> None:
        """Somebody searches texts here: take what is not in the text index into it, in the background."""

    def examine(uids: Sequence[int], work: Callable[[bytes], T]) -> Deferred[dict[int, T | None]]:
        """What a pure function says of the octets of each of these messages, asked in a thread; None where a
        message is gone; nothing of those too large to be read whole. Callers ask in slices of some ten."""

    def expunged_since(since: int) -> Deferred[list[int] | None]:
        """UIDs, ascending, of messages expunged after that MODSEQ (RFC 7162 §3.2.5); None where that is not
        known so far back."""

    def message(uid: int) -> Deferred[IMessage]:
        """Open one message. PermanentError where it is gone."""

    def change_flags(
        uids: Sequence[int],
        operation: Literal["add", "remove", "set"],
        flags: Iterable[str],
        unchanged_since: int | None = None,
    ) -> Deferred[StoreResult]:
        """Change flags and keywords, in slices; watchers are told."""

    def expunge(uids: Sequence[int]) -> Deferred[tuple[int, ...]]:
        """Remove messages for good; answers (those that were removed) when durable."""

    def append(content: IContent, flags: Iterable[str], internal_date: int | None) -> Deferred[int]:
        """Store one message; its UID when durable."""

    def copy_to(uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        """Copy all or none; (source uid, target uid) pairs."""

    def move_to(uids: Sequence[int], target: IMailbox) -> Deferred[list[tuple[int, int]]]:
        """Move (RFC 6851); a message is at any moment in one of the two at least."""

    def refresh() -> Deferred[None]:
        """Look for what other programs did."""

    def watch(listener: Callable[[MailboxChange], None]) -> Callable[[], None]:
        """Be told of changes at once, in the reactor thread; returns the call that ends it. While anybody
        watches, foreign writers are noticed by inotify."""

    def close() -> None:
        """One user fewer; the last one lets memory go."""


@attrs.frozen(slots=True)
class FolderFacts:
    """One line of a folder list.

    :ivar name: INBOX, or the path with '/'. ``selectable`` is False for a parent that has no mail of its own.
    :ivar special_use: RFC 6154 attributes, as "\\Sent".
    """

    name: str
    selectable: bool
    subscribed: bool
    special_use: tuple[str, ...] = ()


@attrs.frozen(slots=True)
class FolderStatus:
    """STATUS (RFC 3501 §6.3.10, RFC 7162, RFC 8438, RFC 8474)."""

    messages: int
    recent: int
    unseen: int
    deleted: int
    size: int
    uid_next: int
    uid_validity: int
    highest_modseq: int
    mailbox_id: str


@attrs.frozen(slots=True)
class HomeEvent:
    """Something happened in an account's home.

    :ivar folder: where; of "metadata" "" means the account as a whole.
    :ivar other: of "renamed" the old name, of "metadata" the entry.
    """

    kind: Literal[
        "delivered", "flagged", "expunged", "copied", "created", "deleted", "renamed", "subscribed",
        "unsubscribed", "metadata",
    ]  # fmt: skip
    folder: str
    other: str = ""


class IMailHome(Interface):
    """All folders of one account. Failures: PermanentError whose ``detail`` is an IMAP response code word
    ("NONEXISTENT", "ALREADYEXISTS", "TRYCREATE", "CANNOT", "OVERQUOTA", ...)."""

    account: Account = Attribute("whose home")

    def folders() -> Deferred[list[FolderFacts]]:
        """Every folder, INBOX first."""

    def open(name: str) -> Deferred[IMailbox]:
        """Open a folder; close it after use."""

    def status(name: str) -> Deferred[FolderStatus]:
        """Counts without opening where that is cheaper."""

    def create(name: str, special_use: Sequence[str] = ()) -> Deferred[None]:
        """Make a folder and its missing parents."""

    def delete(name: str) -> Deferred[None]:
        """Delete a folder and its mail; folders below it stay."""

    def rename(old: str, new: str) -> Deferred[None]:
        """Rename with everything below; INBOX as RFC 3501 §6.3.5 says."""

    def subscribe(name: str, subscribed: bool) -> Deferred[None]:
        """Set or clear a subscription."""

    def rights(name: str, user: str = "") -> Deferred[str]:
        """The letters (RFC 4314 §2.1) of what the session's user, or that account (folded), may do."""

    def acl(name: str) -> Deferred[dict[str, str]]:
        """Who, besides the owner, has which rights: account or "anyone" → letters."""

    def acls() -> Deferred[dict[str, dict[str, str]]]:
        """The same of all of the account's own folders of which anybody has any."""

    def set_acl(name: str, identifier: str, rights: str) -> Deferred[None]:
        """Give exactly those, "" for none."""

    def metadata(name: str) -> Deferred[dict[str, bytes]]:
        """What clients noted of a folder, or of the account for "" (RFC 5464): lower-case entries."""

    def set_metadata(name: str, entries: Mapping[str, bytes | None]) -> Deferred[None]:
        """Note that, all or none; None removes an entry. ``LIMIT`` where it is too much."""

    def watch(listener: Callable[[HomeEvent], None]) -> Callable[[], None]:
        """Be told what happens in the home, in the reactor thread; returns the call that ends it. Of folders
        that nobody has open, what other programs do is not heard of."""

    def usage() -> Deferred[tuple[int, int]]:
        """(octets, messages) as its quota counts them; (0, 0) where the account has no quota."""


class IStore(Interface):
    """All local mail."""

    def placement(account: Account, folder: str, prefix: bytes, content: IContent, id: str) -> IPlacement:
        """A delivery of ``prefix`` (trace header fields, CRLF) + content into a folder ("" is INBOX; a
        missing folder falls back to INBOX, except the special ones that every home has, which are made).
        ``id`` is the message's id, for store events and trace."""

    def existing(account: Account, folders: Sequence[str]) -> Deferred[frozenset[str]]:
        """Those of the folders into which a delivery would really go; all others fall back to INBOX."""

    def may_accept(account: Account, octets: int) -> Reply | None | Deferred[Reply | None]:
        """None, or the reply that says why not (quota)."""

    def home(account: Account) -> IMailHome:
        """The folders of an account."""

    def watch(listener: Callable[[str, str, str], None]) -> None:
        """Be told (event, account key, folder) of "delivered", "flagged", "expunged", "copied"."""
