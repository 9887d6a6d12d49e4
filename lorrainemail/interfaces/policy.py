"""Verdicts, and the checks that give them (:mod:`lorrainemail.policy`)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import attrs
from zope.interface import Attribute, Interface

from lorrainemail.addresses import Address
from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.errors import Reply
from lorrainemail.interfaces.net import IResolver
from lorrainemail.interfaces.ops import IContent
from lorrainemail.interfaces.tables import Expansion, ITables, RelayRight

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from lorrainemail.interfaces.intake import Accepted


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
    :ivar messages_per_network: what strangers of one network may send in a minute, 0 for no limit;
        ``recipients_per_network`` likewise.
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
    messages_per_network: int = 1200
    recipients_per_network: int = 6000
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
