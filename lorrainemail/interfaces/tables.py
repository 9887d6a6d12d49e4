"""Who is here and where mail goes (:mod:`lorrainemail.tables`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import attrs
from zope.interface import Attribute, Interface

from lorrainemail.addresses import Address
from lorrainemail.envelope import Session
from lorrainemail.errors import BUILT_IN, Origin, Problem, Reply

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


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
