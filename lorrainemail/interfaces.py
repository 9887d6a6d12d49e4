"""The seams of the house: zope interfaces and the plain values that cross them, nothing else.

Each interface is implemented in the package that its section names and handed to its users by
:mod:`lorrainemail.service`; a package that needs a neighbour on a higher floor knows it only from here.

Two conventions. ``T | Deferred[T]`` as a result means: usually known at once (the hot path pays for no
Deferred), a slow backend may answer later; callers go through :func:`later`. And every failure that crosses a
seam is a :class:`lorrainemail.errors.MailError`.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import attrs
from zope.interface import Attribute, Interface

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.errors import BUILT_IN, Origin, Problem, Reply

if TYPE_CHECKING:  # commands that need no reactor load none of it
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")


async def later(value: T | Deferred[T]) -> T:
    """Await a value that may be known already."""
    if hasattr(value, "__await__"):
        return await cast("Deferred[T]", value)
    return value


# -- content ---------------------------------------------------------------------------- ops.content --


class IContent(Interface):
    """A finished message, immutable, in wire form (CRLF line ends), in memory or spilled to a file.

    It stays readable until :meth:`close`; its maker (door, injector) closes it.
    """

    size: int = Attribute("octets with CRLF line ends")
    eight_bit: bool = Attribute("whether any octet is over 127")

    def head(limit: int) -> bytes:
        """The first ``limit`` octets at most (one bounded read)."""

    def chunks(size: int = 65536) -> Iterator[bytes]:
        """The octets in order. May read a file: outside the reactor thread only, unless in memory."""

    def in_memory() -> bytes | None:
        """All octets where they are held in memory, else None."""

    def close() -> None:
        """Let go of memory and of the spill file."""


# -- durable writes -------------------------------------------------------------------- ops.committer --


@attrs.frozen(slots=True)
class FileWrite:
    """One file to make durable: written at ``temporary``, synced, then renamed to ``final``.

    :ivar temporary: path on the same file system; made with O_EXCL.
    :ivar final: the name that makes it visible. Must not exist.
    :ivar parts: what is written, in order: bytes, or a content (read in the committer's thread).
    :ivar line_feed: CRLF becomes LF on the way (Maildir, mbox).
    :ivar mode: permission bits, explicit, whatever the umask.
    :ivar new_directories: directories that were created for it, deepest last; their parents are synced too.
    :ivar replace: ``final`` may exist and is replaced (state files; never mail).
    """

    temporary: str
    final: str
    parts: tuple[bytes | IContent, ...]
    line_feed: bool = False
    mode: int = 0o600
    new_directories: tuple[str, ...] = ()
    replace: bool = False


class ICommitter(Interface):
    """Durable writes, grouped in a few threads.

    Each call answers with one entry a file: None, or the OSError that hit it; one file's error never fails
    another's. A failed fsync is never repeated: the file is unlinked. After a failed *directory* sync every
    call answers EIO for that file system until a probe (new write, sync, read back) succeeds.
    """

    def stage(writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        """Write and sync the temporary files; nothing is visible yet."""

    def publish(writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        """Rename staged files into place and sync their directories."""

    def commit(writes: Sequence[FileWrite]) -> Deferred[list[OSError | None]]:
        """Stage and publish in one thread hop: for single files, and where order does not matter."""

    def discard(writes: Sequence[FileWrite]) -> Deferred[None]:
        """Unlink staged files that will not be published."""

    def run(work: Callable[[], T]) -> Deferred[T]:
        """Run other blocking file work (mbox append, removal) in the committer's threads."""

    def writable(octets: int) -> OSError | None:
        """Whether a message of that size may be begun: disk reserve kept, no alarm standing. Cheap."""


# -- operations -------------------------------------------------------------------------------- ops --


class ITrace(Interface):
    """What happened to a message, event by event, kept for a bounded time (``trace.sqlite``)."""

    def event(message: str, kind: str, **facts: object) -> None:
        """Note one event of the message with that id. Returns at once; written in batches by one thread.

        :param kind: "received", "accepted", "refused", "delivered", "queued", "attempt", "deferred",
            "relayed", "bounced", "expired", "dropped", "injected", ...
        :param facts: JSON-able values, no secrets.
        """


# -- DNS -------------------------------------------------------------------------------- net.resolver --


class DnsFailure(Exception):
    """A DNS question without a usable answer.

    :ivar kind: "nxdomain" (the name does not exist), "nodata" (no such record), "temporary" (SERVFAIL,
        time-out, lame, loop: ask again later).
    """

    def __init__(
        self, kind: Literal["nxdomain", "nodata", "temporary"], question: str, detail: str = ""
    ) -> None:
        super().__init__(f"{question}: {detail or kind}")
        self.kind = kind
        self.question = question


@attrs.frozen(slots=True)
class MxHost:
    """One MX record: preference and exchange (lower-case A-labels, no trailing dot; "." is the null MX)."""

    preference: int
    host: str


class IResolver(Interface):
    """DNS as mail needs it. Every method fails with :class:`DnsFailure`; time is bounded inside."""

    def mx(domain: str) -> Deferred[list[MxHost]]:
        """MX records, unsorted. "nodata" where the name exists without MX."""

    def addresses(host: str, ipv6: bool = True, ipv4: bool = True) -> Deferred[list[str]]:
        """A and AAAA, canonical text. Fails with "temporary" only where neither family answered."""

    def txt(name: str) -> Deferred[list[bytes]]:
        """TXT records, their strings joined."""

    def ptr(address: str) -> Deferred[list[str]]:
        """Names of an IP address."""


# -- the table service ---------------------------------------------------------------------- tables --


@attrs.frozen(slots=True)
class Credential:
    """One proof of an account: scheme ("argon2id", "scram-sha-256", ...), its value, a label for people."""

    scheme: str
    value: str = attrs.field(repr=False)
    label: str = ""


@attrs.frozen(slots=True)
class SystemUser:
    """A user of this machine: number and home directory (absolute)."""

    uid: int
    home: str


@attrs.frozen(slots=True)
class Account:
    """A local account.

    :ivar address: its main address; ``address.key`` is its name everywhere.
    :ivar enabled: a disabled account cannot log in; its mail is still accepted.
    :ivar format: how its mail is stored.
    :ivar quota: octets, 0 for no limit; ``quota_messages`` likewise.
    :ivar may_send_as: folded addresses beside its own that it may send as.
    :ivar system: the user of this machine that it is, where its owner may say in files of his own where his
        mail goes.
    """

    address: Address
    enabled: bool = True
    format: Literal["maildir", "mbox"] = "maildir"
    credentials: tuple[Credential, ...] = ()
    quota: int = 0
    quota_messages: int = 0
    may_send_as: tuple[str, ...] = ()
    origin: Origin = BUILT_IN
    system: SystemUser | None = None


@attrs.frozen(slots=True)
class Step:
    """One step of an expansion, for people: "alias sales@x.org → bob@x.org", and where it is written."""

    what: str
    origin: Origin = BUILT_IN


@attrs.frozen(slots=True)
class LocalMailbox:
    """A final recipient here: an account and the folder that its address asks for ("" is INBOX).

    :ivar owner: who is told in the sender's place when it fails: the owner of the list that led here.
    """

    account: Account
    folder: str
    address: Address
    path: tuple[Step, ...] = ()
    owner: Address | None = None


@attrs.frozen(slots=True)
class RemoteMailbox:
    """A final recipient elsewhere; its next hop is found when the queue tries it.

    :ivar forwarded: it was reached through an alias of ours (not named by the client).
    :ivar owner: as for :class:`LocalMailbox`.
    """

    address: Address
    path: tuple[Step, ...] = ()
    forwarded: bool = False
    owner: Address | None = None


@attrs.frozen(slots=True)
class Handed:
    """A final recipient here that a courier of the queue serves: a command, a file, another server's store.

    :ivar courier: its name.
    :ivar argument: what it is told beside the address: a command line, a file. "" where a row of
        ``[deliver]`` says it, which the courier asks when it tries.
    :ivar address: whom it is for. ``account``: the account whose mail it is, where it is one's.
    :ivar user: the account in whose own files it stands, "" for the server's.
    :ivar owner: as for :class:`LocalMailbox`.
    """

    courier: str
    argument: str
    address: Address
    path: tuple[Step, ...] = ()
    owner: Address | None = None
    user: str = ""
    forwarded: bool = True
    account: Account | None = None


@attrs.frozen(slots=True)
class Refused:
    """The recipient cannot be had: the reply at RCPT and the steps that led to it."""

    reply: Reply
    path: tuple[Step, ...] = ()


Final = LocalMailbox | RemoteMailbox | Handed


@attrs.frozen(slots=True)
class Expansion:
    """What one recipient comes to.

    :ivar local: the recipient's domain is ours (so no relay right is needed).
    :ivar finals: the final recipients, none twice; empty exactly when ``refused`` is set.
    :ivar notes: branches of aliases of which nothing came (an unknown user, a loop), for explain and log.
    :ivar reversed: it is an address that we made for somebody else's mail that we sent on: bounces alone may
        come to it, and go back to him.
    """

    local: bool
    finals: tuple[Final, ...] = ()
    refused: Refused | None = None
    notes: tuple[Step, ...] = ()
    reversed: bool = False


TlsRequirement = Literal["none", "opportunistic", "verified"] | str  # or "sha256:<fingerprint>"


@attrs.frozen(slots=True)
class HopHost:
    """One next hop as a relay row names it: name or literal, and port."""

    host: str
    port: int = 25


@attrs.frozen(slots=True)
class Pace:
    """How a destination is to be treated; 0 for as every other.

    :ivar concurrency: deliveries at once. ``rate``: deliveries a minute.
    """

    concurrency: int = 0
    rate: int = 0


@attrs.frozen(slots=True)
class Route:
    """The next hop of a remote recipient.

    :ivar kind: "mx" (ask the DNS), "hosts" (a smarthost list), "reject" (a row says no).
    :ivar domain: the domain whose MX to ask, when kind is "mx".
    :ivar hosts: tried in order (``share``: in random order).
    :ivar credentials: the name in the credentials file, "" for none.
    :ivar pattern: the row that won, "" where none did (so: MX).
    :ivar reasons: how it was chosen, for explain and trace.
    :ivar source: our addresses to connect from, one of each family; without one the system chooses.
    :ivar pace: how much of it at once, and how fast.
    :ivar xforward: the next hop is told whom each message came from, where it offers XFORWARD.
    :ivar rewrite: mail of our own users leaves with its addresses as the world knows them.
    """

    kind: Literal["mx", "hosts", "reject"]
    domain: str = ""
    hosts: tuple[HopHost, ...] = ()
    share: bool = False
    tls: TlsRequirement = "opportunistic"
    credentials: str = ""
    reply: Reply | None = None
    pattern: str = ""
    origin: Origin = BUILT_IN
    reasons: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    pace: Pace = Pace()
    xforward: bool = False
    rewrite: bool = False


@attrs.frozen(slots=True)
class DeliveryRow:
    """How mail for a local domain or address is delivered, where not into our own mailboxes.

    :ivar courier: its name. ``argument``: what it is told, in its own words.
    :ivar accounts: only our own accounts are taken; else whoever is asked for, and the courier knows who
        exists.
    """

    pattern: str
    courier: str
    argument: str = ""
    accounts: bool = True
    tls: TlsRequirement = "opportunistic"
    origin: Origin = BUILT_IN


@attrs.frozen(slots=True)
class RelayRight:
    """Whether a session may relay outside, and why."""

    allowed: bool
    reason: str


class ITables(Interface):
    """One frozen snapshot of all tables; a transaction keeps the one it began with.

    Lookups may be asynchronous (SQL, LDAP); a lookup that fails raises TemporaryError (451) and never turns
    into "unknown user".
    """

    def is_local(domain: str) -> bool | Deferred[bool]:
        """Whether mail for the domain is delivered here."""

    def account(address: Address) -> Account | None | Deferred[Account | None]:
        """The account of exactly that main address."""

    def login(name: str) -> Account | None | Deferred[Account | None]:
        """The account that a login name means (its address; a bare local part where that is unambiguous)."""

    def expand(address: Address) -> Expansion | Deferred[Expansion]:
        """All final recipients of an address: aliases, subaddresses, catch-all, loops found."""

    def relay_right(session: Session) -> RelayRight:
        """Whether the session may relay outside (relay_networks on the smtp door, authentication)."""

    def route(recipient: Address, sender: Address | None) -> Route | Deferred[Route]:
        """The most specific relay row, or MX."""

    def delivery(address: Address) -> DeliveryRow | None:
        """The most specific row of ``[deliver]`` for an address of a local domain."""

    def rewrites(sender: Address) -> bool | Deferred[bool]:
        """Whether mail of that sender is sent on under another address than his own."""

    def return_path(
        sender: Address, original: str, in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    ) -> Deferred[Address]:
        """Under which address somebody's mail is sent on to another server, so that what it says of it comes
        back to him through us: his own where that is one of ours, or where no other can be had.

        :param original: the recipient of ours that it is sent on for, "" where unknown.
        """

    def owns(account: Account, address: Address) -> bool | Deferred[bool]:
        """Whether the account may send as the address."""

    def every_account(test: Callable[[Account], bool]) -> bool:
        """Whether the test holds for every account; False where not all can be seen at once. Remembered for
        as long as the snapshot lives."""


class ITableService(Interface):
    """Holds the current :class:`ITables`; reloads; keeps the old version of a table that broke."""

    def current() -> ITables:
        """The snapshot of now."""

    def secret(name: str) -> tuple[str, str] | None:
        """User and secret of a row in the credentials file, None where there is no such row."""

    def check_files() -> None:
        """Look at the table files now (also done at an interval) and reload what changed."""

    def on_change(listener: Callable[[], None]) -> None:
        """Call back after any change of the snapshot (login caches are dropped then)."""

    def alarms() -> list[Problem]:
        """Tables that could not be reloaded and still serve their old version."""


class ITableBackend(Interface):
    """A Twisted plugin (``twisted.plugin``, package ``lorrainemail.plugins``) that provides tables.

    Precise methods are in :mod:`lorrainemail.tables.backend`.
    """

    name: str = Attribute("the word that selects it in the configuration")


# -- policy ---------------------------------------------------------------------------------- policy --

Stage = Literal["connect", "helo", "mail", "rcpt", "data"]


class Action(enum.IntEnum):
    """What a check wants, weakest first; the strongest of a stage wins, refuse and defer at once."""

    CONTINUE = 0
    TAG = 1
    JUNK = 2
    DEFER = 3
    REFUSE = 4


@attrs.frozen(slots=True)
class Verdict:
    """One check's opinion with its reason, kept in trace, header and explain.

    :ivar reply: for DEFER and REFUSE, what the client is told.
    :ivar field: header fields, whole and with their CRLF, that are put above a message that is taken.
    :ivar verified: the check proved the reverse-path: a report to it is no backscatter.
    :ivar pending: what the check wanted before the recipients were known, where they want different things of
        it: decided at each RCPT.
    :ivar each: at "data", what each accepted recipient wants done, in order; empty where all want the same.
    :ivar content: the message as the check changed it, in place of the one that it was asked about.
    """

    action: Action
    check: str
    reason: str = ""
    reply: Reply | None = None
    field: bytes = b""
    verified: bool = False
    pending: Action = Action.CONTINUE
    each: tuple[Action, ...] = ()
    content: IContent | None = None


@attrs.frozen(slots=True)
class Circumstances:
    """What a check may look at; what its stage does not know yet is None or empty.

    :ivar spoke_early: at "connect", whether the client has spoken by now, before it was greeted.
    :ivar dry_run: asked by explain: the check says what it would say and changes nothing (no counting, no
        greylisting row).
    :ivar accepted: at "data", the recipients that were accepted.
    :ivar earlier: at "rcpt" the verdicts on connection, greeting and sender; at "data" those and the verdicts
        of the checks before this one.
    """

    stage: Stage
    session: Session
    tables: ITables
    sender: Address | None = None
    recipient: Recipient | None = None
    expansion: Expansion | None = None
    relay: RelayRight | None = None
    envelope: Envelope | None = None
    content: IContent | None = None
    dry_run: bool = False
    spoke_early: Callable[[], bool] | None = None
    accepted: tuple[Accepted, ...] = ()
    earlier: tuple[Verdict, ...] = ()


class IPolicyCheck(Interface):
    """One check of the chain; made by an :class:`IPolicyPlugin`."""

    name: str = Attribute("its word in the configuration, in verdicts and explain")
    stages: frozenset[Stage] = Attribute("when it is asked")

    def judge(circumstances: Circumstances) -> Verdict | None | Deferred[Verdict | None]:
        """Its verdict, or None to have no opinion."""


@attrs.frozen(slots=True)
class PolicyResources:
    """What checks are made from.

    :ivar clock: an ``IReactorTime``.
    :ivar resolver: None where the server runs without DNS (the embedded default).
    :ivar hostname: our name. ``hops``: Received fields after which a message loops.
    :ivar in_thread: runs a function in a thread of the server; None where there are none.
    :ivar recipients_per_hour: what an account may send to, 0 for no limit; ``recipients_per_day`` likewise.
    :ivar tell_operator: sends the postmaster a message of that subject and text; None where nobody is told.
    :ivar memory: what checks, each under its name, remember beyond a reload, which makes them anew.
    :ivar state: the state directory, where a check may keep files of its own; "" where it may not.
    :ivar block_lists: DNS lists of bad peers; ``pass_lists`` of good ones.
    :ivar greylist_wait: seconds that a stranger's first message waits.
    :ivar messages_per_domain: what may come in the name of one domain in an hour, 0 for no limit.
    :ivar heard_from: whether an account (its folded address) has mail from a domain; None: not to be asked.
    :ivar trusted_sealers: domains whose ARC seals are believed.
    :ivar forwarders: networks and names of servers that forward to an account, by its folded address.
    :ivar reports: hears of every DMARC evaluation (:class:`lorrainemail.mailauth.check.Reports`), or None.
    """

    clock: IReactorTime
    resolver: IResolver | None
    hostname: str
    hops: int = 100
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]] | None = None
    recipients_per_hour: int = 0
    recipients_per_day: int = 0
    tell_operator: Callable[[str, str], None] | None = None
    memory: dict[str, object] = attrs.field(factory=dict)
    state: str = ""
    block_lists: tuple[str, ...] = ()
    pass_lists: tuple[str, ...] = ()
    greylist_wait: float = 240.0
    messages_per_domain: int = 0
    heard_from: Callable[[str, str], Deferred[bool]] | None = None
    trusted_sealers: frozenset[str] = frozenset()
    forwarders: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    reports: Any = None


class IPolicyPlugin(Interface):
    """A Twisted plugin (``twisted.plugin``, package ``lorrainemail.plugins``) that makes one check.

    An attribute ``usual`` may give the word that holds for the check where ``[actions]`` has none ("off": it
    is asked only where somebody wants it).
    """

    name: str = Attribute("the check's word in the configuration")
    timeout: float = Attribute("seconds after which an answer is no longer waited for")
    fail_open: bool = Attribute("whether a check that fails lets the mail pass (else: 451)")

    def make(resources: PolicyResources) -> IPolicyCheck | None:
        """The check, or None where it has nothing to work with (a DNS check without a resolver)."""


class IPolicy(Interface):
    """The ordered chain."""

    stages: frozenset[Stage] = Attribute("the stages at which any check is asked; others may be skipped")

    def judge(
        circumstances: Circumstances,
    ) -> tuple[Verdict, ...] | Deferred[tuple[Verdict, ...]]:
        """All verdicts of the stage in order; the last one is DEFER or REFUSE where the chain stopped."""


# -- the store -------------------------------------------------------------------------------- store --


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


class SortingFacts(NamedTuple):
    """What SORT and THREAD go by (RFC 5256), of one message. A tuple: made by the hundred thousand.

    :ivar sent: the Date field's instant, None where it has none to read.
    :ivar base_subject: RFC 5256 §2.1, upper case; ``is_reply``: something like "Re:" was taken off it.
    :ivar header_id: the Message-ID with its brackets, b"" for none; ``in_reply_to`` the first one there.
    :ivar references: the message-ids of References, joined by spaces.
    """

    uid: int
    size: int
    internal_date: int
    sent: int | None
    base_subject: str
    is_reply: bool
    header_id: bytes
    in_reply_to: bytes
    references: bytes


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

    def sorting(uids: Sequence[int]) -> Deferred[list[SortingFacts]]:
        """What messages are sorted and threaded by, in the order asked (gone ones left out). In slices."""

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


# -- queue and couriers ------------------------------------------------------------- queue, delivery --


@attrs.frozen(slots=True)
class QueueRecipient:
    """One recipient of a queue item and how far it got.

    :ivar courier: which courier carries it: "remote", "local" (a mailbox that could not be had at once),
        "lmtp", "pipe", "file", or a plugin's.
    :ivar recipient: the final recipient with its DSN parameters.
    :ivar folder: for "local".
    :ivar state: "waiting", "held", "done" (delivered, bounced or dropped: leaves at the next rewrite).
    :ivar attempts: made so far; ``next_try``: wall-clock seconds; ``last_reply``: the remote's or our words.
    :ivar delay_told: the sender has had a notice that it is late.
    :ivar argument: what the courier is told, see :class:`Handed`; ``user`` likewise.
    :ivar owner: the sender for this recipient, where it is another than the envelope's.
    """

    courier: str
    recipient: Recipient
    folder: str = ""
    forwarded: bool = False
    state: Literal["waiting", "held", "done"] = "waiting"
    attempts: int = 0
    next_try: float = 0.0
    last_reply: str = ""
    delay_told: bool = False
    argument: str = ""
    user: str = ""
    owner: Address | None = None


@attrs.frozen(slots=True)
class QueueItem:
    """A queued message: envelope (with the session facts that its DSN needs), recipients, times.

    :ivar trusted: see :class:`Transaction`.
    :ivar client: whom the message came from, see :meth:`lorrainemail.envelope.Session.client`.
    :ivar release_at: wall-clock seconds before which its sender does not want it to go on, 0 for at once.
    """

    envelope: Envelope
    recipients: tuple[QueueRecipient, ...]
    queued_at: float
    size: int
    door: str = ""
    account: str = ""
    trusted: bool = False
    release_at: float = 0.0
    client: tuple[tuple[str, str], ...] = ()


class IQueue(Interface):
    """The spool."""

    def placement(item: QueueItem, prefix: bytes, content: IContent) -> IPlacement:
        """A new item; the runner is woken after publish."""

    def full() -> Reply | None:
        """452 4.3.1 where nothing more may be queued, else None."""


@attrs.frozen(slots=True)
class Outcome:
    """What a courier's attempt came to for one recipient.

    :ivar kind: "delivered", "deferred", "failed".
    :ivar reply: the remote's reply or ours in its stead.
    :ivar ours: the failure is on our side; deferred with an alarm, never final.
    :ivar host: the next hop that said it, "" where none did; ``tls`` "TLSv1.3 ..." of that session.
    :ivar confirms: delivered to a host that keeps the promises of DSN from here on (RFC 3461 §5.2.1).
    :ivar keeps_time: likewise of a time to deliver by (RFC 2852).
    """

    recipient: Recipient
    kind: Literal["delivered", "deferred", "failed"]
    reply: Reply
    ours: bool = False
    host: str = ""
    tls: str = ""
    confirms: bool = False
    keeps_time: bool = False


class ICourier(Interface):
    """Carries one queue item to some of its recipients."""

    name: str = Attribute("the word in QueueRecipient.courier")

    def destination(item: QueueItem, recipient: QueueRecipient) -> str | Deferred[str]:
        """The key under which attempts are grouped and their concurrency counted."""

    def deliver(
        item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        """One attempt; one outcome for each recipient, in order. Never fails."""


class IDelivery(Interface):
    """One message on its way to a destination, in this order: each recipient, the body, commit; or abort,
    at any moment before commit was called. A failure of any step is a :class:`lorrainemail.errors.MailError`.
    """

    def recipient(recipient: QueueRecipient, argument: str) -> Deferred[None]:
        """Name one more recipient. PermanentError or TemporaryError where he is not to be had; the others
        are served all the same.

        :param argument: of the recipient or of his row of ``[deliver]``.
        """

    def body(content: IContent) -> Deferred[None]:
        """Hand over the message; whatever can be found out is found out now. Its failure is everybody's."""

    def commit() -> Deferred[list[Reply]]:
        """Make it so: one reply for each recipient that was taken, in order. What it answers with 2xx is
        durable there."""

    def abort() -> Deferred[None]:
        """Give it up; nothing of it is delivered. Never fails."""


class IAgent(Interface):
    """What carries messages to where ``[deliver]`` rows and aliases lead, by name. Made by an
    :class:`IAgentPlugin`, or built in."""

    name: str = Attribute("the courier's word in rows and in the queue")

    def destination(recipient: QueueRecipient, argument: str) -> str:
        """The key under which deliveries are grouped and their concurrency counted."""

    def start(item: QueueItem, row: DeliveryRow | None) -> Deferred[IDelivery]:
        """Begin a delivery. TemporaryError where the destination cannot be reached.

        :param row: the row of ``[deliver]`` that leads here; None for an alias.
        """


@attrs.frozen(slots=True)
class AgentResources:
    """What agents are made from.

    :ivar reactor: the reactor. ``hostname``: our name.
    :ivar in_thread: runs blocking file work in a thread of the server.
    """

    reactor: Any
    hostname: str
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]


class IAgentPlugin(Interface):
    """A Twisted plugin (``twisted.plugin``, package ``lorrainemail.plugins``) that makes one agent."""

    name: str = Attribute("the courier's word in rows of [deliver]")

    def make(resources: AgentResources) -> IAgent:
        """The agent."""


class IPaced(Interface):
    """A courier whose destinations may have a pace of their own."""

    def pace(destination: str) -> Pace:
        """How fast a destination, as :meth:`ICourier.destination` named it last, may be served."""


# -- intake ----------------------------------------------------------------------------------- intake --


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


# -- filters of accounts (Sieve) ---------------------------------------------------------------- sieve --


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


# -- doors' access to accounts ------------------------------------------------------------------ sasl --


class IPrincipal(Interface):
    """Who logged in: the avatar that the one realm makes; each door adapts it to Twisted's interface."""

    account: Account = Attribute("the account")
    home: IMailHome = Attribute("its mail")
    mechanism: str = Attribute("how it was proved")


class IChannel(Interface):
    """The TLS that a login comes through, its handshake done."""

    def bindings() -> tuple[str, ...]:
        """The channel bindings that exist here (RFC 9266, RFC 5929)."""

    def binding(kind: str) -> bytes | None:
        """The octets of one, None where there is none of that kind."""

    def client_certificates() -> Sequence[Any]:
        """``cryptography.x509.Certificate``s that the client showed, its own first; maybe none.
        It has proved that it holds the first one's key; who signed them is still to be checked."""


class IExchange(Interface):
    """One SASL exchange. Both fail as :meth:`IAuthenticator.authenticate` does, and with the other replies of
    RFC 4954 §4 and §6 for what cannot be understood."""

    complete: bool = Attribute(
        "the challenge was the mechanism's last word, to which only an empty response can follow: a door whose "
        "protocol can send it along with success asks for the principal at once"
    )

    def start() -> Awaitable[bytes | IPrincipal]:
        """The first challenge in base64 (without "334 " or "+ "), or who that is."""

    def receive(line: bytes) -> Awaitable[bytes | IPrincipal]:
        """Take the client's next line, without CRLF."""


class IAuthenticator(Interface):
    """The one login of all doors, in front of the one portal."""

    def mechanisms(channel: IChannel | None = None) -> tuple[str, ...]:
        """The SASL mechanisms that truly work now for a session that may log in, strongest first.

        :param channel: its TLS, None where there is none (or not yet).
        """

    def exchange(
        mechanism: bytes, initial: bytes | None, session: Session, channel: IChannel | None = None
    ) -> IExchange:
        """Begin an exchange.

        :param mechanism: as the client wrote it, any case.
        :param initial: the initial response as it stood in the command (still base64, "=" for an empty one),
            None where there was none.
        :raises PermanentError: 504 5.5.4 where that mechanism is not offered.
        """

    def authenticate(
        username: bytes, password: bytes, session: Session, mechanism: str = "PLAIN"
    ) -> Deferred[IPrincipal]:
        """Who that is. Fails with PermanentError (535 5.7.8) for whatever is wrong with name or password,
        TemporaryError (454 4.7.0) where trying later may help; with nothing else. May take seconds: peers
        that guess are slowed. ``mechanism`` is for log and principal ("PLAIN", "LOGIN", "USER", ...)."""


class IPasswords(Interface):
    """Hashing in bounded threads, with a short cache of proven logins."""

    def check(account: Account | None, password: bytes, peer: str) -> Awaitable[Credential | None]:
        """The credential that the password is of. Constant behaviour for an unknown account (None)."""

    def hash(password: bytes) -> Deferred[Credential]:
        """A new credential."""


# -- TLS ------------------------------------------------------------------------------------- net.tls --


class IServerTls(Interface):
    """Server contexts with SNI; certificates are swapped while connections live on."""

    def context_factory(door: str) -> object:
        """What Twisted's ``startTLS`` and ``TLSMemoryBIOFactory`` take, for that door."""


class IClientTls(Interface):
    """TLS towards next hops."""

    def creator(host: str, requirement: TlsRequirement) -> object:
        """An ``IOpenSSLClientConnectionCreator`` for ``startTLS`` as a client: verifies the name for
        "verified", the certificate for "sha256:...", nothing for "opportunistic"."""

    def checking(host: str, check: Callable[..., None]) -> object:
        """The like, which asks ``check`` about the server's certificates (``net.tls.PeerCheck``)."""

    def watching(host: str) -> object:
        """The like, which goes on whatever the certificate; its ``heard`` tells what was wrong with it."""


class IDnsChallenges(Interface):
    """Puts the answers of ACME's DNS-01 into the DNS (RFC 8555 §8.4). Both fail with any exception whose text
    says why, in words for the operator."""

    def publish(name: str, value: str) -> None | Deferred[None]:
        """Add a TXT record beside those that are there; fires when every authoritative server has it.

        :param name: absolute, ``_acme-challenge.`` in front, without the final dot.
        """

    def withdraw(name: str, value: str) -> None | Deferred[None]:
        """Remove that record; one that is not there is no failure."""
