"""The courier "remote": carries queued messages to other servers by SMTP.

Calls tables for the route, :mod:`~lorrainemail.delivery.hops` for the hosts, and speaks to one after the
other (:mod:`~lorrainemail.delivery.sessions`, :mod:`~lorrainemail.delivery.client`) until every recipient has
a final answer or all were tried. The runner is the caller.

The route is asked anew at each attempt, so mending a table mends what is queued. What one host deferred is
offered to the next one; what one host refused for good is not (RFC 5321 §5.1). Never fails: what cannot be
decided now is deferred.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from lorrainemail.addresses import Address
from lorrainemail.delivery.client import (
    MAX_HEADER,
    MAX_RECIPIENTS,
    NO_DELIVERBY,
    NO_REQUIRETLS,
    ClientSession,
    Sent,
)
from lorrainemail.delivery.hops import NextHops, OurEnds, find_hops
from lorrainemail.delivery.rewriting import Rewriting
from lorrainemail.delivery.sessions import NoSession, Sessions, Target
from lorrainemail.delivery.wire import SessionLost
from lorrainemail.envelope import Envelope
from lorrainemail.errors import INTERNAL_ERROR, MailError, Reply, TemporaryError
from lorrainemail.interfaces import (
    IContent,
    ICourier,
    IPaced,
    IResolver,
    ITableService,
    Outcome,
    Pace,
    QueueItem,
    QueueRecipient,
    Route,
    later,
)
from lorrainemail.ops.reheaded import Reheaded
from lorrainemail.tlspolicy.plan import HostPolicy, Plan, TlsPolicies

#: Connections that are begun, and sessions that speak of mail, in one attempt at most.
MAX_CONNECTIONS: Final = 10
MAX_SESSIONS: Final = 3
#: Destinations of which is remembered that a row gives them a pace of their own.
MAX_PACES: Final = 5000

#: Said of a host whose name the sender wants proved; of another it may be (RFC 8689 §4.2.1).
NOT_PROVED: Final = Reply(450, "4.7.30", "neither DNSSEC nor MTA-STS proves the name of the server")
MAYBE_PROVED: Final = Reply(450, "4.7.30", "whether anything proves the name of the server is not known now")

_USUAL: Final = Pace()
_WAIVER: Final = re.compile(rb"(?im)^TLS-Required:[ \t]*No[ \t]*\r?$")

_Kind = Literal["delivered", "deferred", "failed"]

_log = Logger("lorrainemail.delivery.remote")


@implementer(ICourier, IPaced)
class RemoteCourier:
    """The courier.

    :param tables: routes and credentials.
    :param resolver: MX and addresses.
    :param sessions: makes and keeps connections.
    :param ours: how this server is recognised among next hops.
    :param port: of MX hosts.
    :param ipv6: whether IPv6 is used.
    :param shuffle: puts hosts of equal rank into random order, in place.
    """

    name = "remote"

    def __init__(
        self,
        tables: ITableService,
        resolver: IResolver,
        sessions: Sessions,
        ours: OurEnds,
        port: int = 25,
        ipv6: bool = True,
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        self.ours = ours
        self.port = port
        self.ipv6 = ipv6
        self._tables = tables
        self._resolver = resolver
        self._sessions = sessions
        self._shuffle = shuffle
        #: How our addresses are written at rows that ask for it, and what signs a message that changed so.
        self.rewriting = Rewriting({})
        self.sign: Callable[[IContent], Awaitable[bytes]] | None = None
        self._paces: dict[str, Pace] = {}
        #: What other domains want of TLS; None: nobody is asked.
        self.policies: TlsPolicies | None = None

    def close(self) -> Deferred[None]:
        """Quit sessions that are kept; cut the others."""
        return self._sessions.close()

    # -- ICourier --------------------------------------------------------------------------------

    def destination(self, item: QueueItem, recipient: QueueRecipient) -> str | Deferred[str]:
        try:
            route = self._route(item, recipient)
        except MailError:
            return f"mx:{recipient.recipient.address.domain}"
        if isinstance(route, Deferred):
            return Deferred.fromCoroutine(self._destination(route, recipient))
        return self._to(route)

    async def _destination(self, asked: Deferred[Route], recipient: QueueRecipient) -> str:
        try:
            route = await asked
        except MailError:
            return f"mx:{recipient.recipient.address.domain}"
        return self._to(route)

    def _to(self, route: Route) -> str:
        """The key of a route, whose pace is known from here on."""
        where = self._named(route)
        if route.pace != _USUAL:
            if len(self._paces) >= MAX_PACES:
                self._paces.clear()
            self._paces[where] = route.pace
        else:
            self._paces.pop(where, None)
        return where

    def pace(self, destination: str) -> Pace:
        return self._paces.get(destination, _USUAL)

    @staticmethod
    def _named(route: Route) -> str:
        if route.kind == "hosts":
            hosts = ",".join(f"{host.host}:{host.port}" for host in route.hosts)
            # What one row cannot do for want of TLS or a login, another may.
            tls = "" if route.tls == "opportunistic" else f" tls {route.tls}"
            return f"hosts:{hosts}{tls}" + (f" as {route.credentials}" if route.credentials else "")
        if route.kind == "reject":
            return "reject"
        return f"mx:{route.domain}"

    def deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> Deferred[list[Outcome]]:
        return Deferred.fromCoroutine(self._deliver(item, recipients, content))

    async def _deliver(
        self, item: QueueItem, recipients: Sequence[QueueRecipient], content: IContent
    ) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        groups: dict[tuple[Route, Address | None], list[int]] = {}
        for index, one in enumerate(recipients):
            try:
                route = _only_the_way(await later(self._route(item, one)))
                groups.setdefault((route, await self._return_path(item, one)), []).append(index)
            except MailError as error:
                # a table that cannot answer is our side, whatever its words
                _log.warn("No route for {recipient}: {error}", recipient=one.recipient.address, error=error)
                outcomes[index] = Outcome(one.recipient, "deferred", error.reply, ours=True)
        for (route, sender), indices in groups.items():
            envelope = item.envelope
            if sender is not envelope.sender and sender != envelope.sender:
                envelope = attrs.evolve(envelope, sender=sender)
            text = content
            if route.rewrite and (item.account or item.trusted):
                envelope, text = await self._rewritten(envelope, content)
            attempt = _Attempt(self, envelope, [recipients[index] for index in indices], text)
            if route.xforward:
                attempt.origin = (*item.client, ("IDENT", envelope.id))
            try:
                found = await attempt.run(route)
            except CancelledError:
                raise
            except Exception:
                _log.failure("an attempt to deliver {id} failed unexpectedly", id=item.envelope.id)
                reply = Reply(451, "4.3.0", "internal error, tried again later")
                found = [
                    Outcome(recipients[index].recipient, "deferred", reply, ours=True) for index in indices
                ]
            outcomes.update(zip(indices, found, strict=True))
        return [outcomes[index] for index in range(len(recipients))]

    # -- inside ----------------------------------------------------------------------------------

    def _route(self, item: QueueItem, one: QueueRecipient) -> Route | Deferred[Route]:
        return self._tables.current().route(one.recipient.address, item.envelope.sender)

    async def _return_path(self, item: QueueItem, one: QueueRecipient) -> Address | None:
        """The reverse-path under which it leaves; its own but for mail of others that is sent on.

        :raises MailError: where a table does not answer, or no key can be had.
        """
        sender = item.envelope.sender
        if one.owner is not None:
            return one.owner
        if not one.forwarded or sender is None:
            return sender
        try:
            return await self._tables.current().return_path(
                sender, one.recipient.original, self._sessions.in_thread
            )
        except OSError as error:
            raise TemporaryError(
                INTERNAL_ERROR, f"the key for senders of mail that is sent on: {error}"
            ) from error

    async def _rewritten(self, envelope: Envelope, content: IContent) -> tuple[Envelope, IContent]:
        """Envelope and message as the world should see them, the message signed anew where it changed."""
        if envelope.sender is not None:
            envelope = attrs.evolve(envelope, sender=self.rewriting.address(envelope.sender))
        text, changed = await self._sessions.in_thread(lambda: self.rewriting.content(content))
        if changed and self.sign is not None:
            signature = await self.sign(text)
            text = Reheaded(text, 0, signature) if signature else text
        return envelope, text

    async def hops(self, route: Route) -> NextHops:
        """Where a route leads now."""
        return await find_hops(route, self._resolver, self.ours, self.port, self.ipv6, self._shuffle)

    async def plan(self, route: Route, hops: NextHops) -> Plan | None:
        """What the recipients' domain wants of TLS; None where a row of ours decides, or nobody is asked."""
        return await plan_of(self.policies, route, hops)

    def targets(self, route: Route, hops: NextHops) -> list[Target]:
        """Each address of each host, in the order of trying.

        :raises NoSession: where the route names credentials that do not exist.
        """
        credentials = None
        if route.credentials:
            credentials = self._tables.secret(route.credentials)
            if credentials is None:
                words = f"no row {route.credentials!r} in the credentials file"
                raise NoSession(Reply(451, "4.3.5", words), ours=True)
        return [
            Target(hop.host, address, hop.port, route.tls, credentials, _source(route, address))
            for hop in hops.hops
            for address in hop.addresses
        ][:MAX_CONNECTIONS]

    @property
    def sessions(self) -> Sessions:
        return self._sessions


@attrs.define(slots=True, eq=False)
class _Attempt:
    """One attempt for recipients of one route. ``outcomes``: the best that is known for each so far;
    ``strict``: TLS is verified because the sender wants it; ``origin``: whom the hosts are told that the
    message came from."""

    courier: RemoteCourier
    envelope: Envelope
    recipients: list[QueueRecipient]
    content: IContent
    outcomes: dict[int, Outcome] = attrs.field(factory=dict)
    strict: bool = False
    origin: tuple[tuple[str, str], ...] = ()

    async def run(self, route: Route) -> list[Outcome]:
        hops = await self.courier.hops(route)
        if hops.reply is not None:
            final = hops.reply.permanent and not hops.ours
            return self._all("failed" if final else "deferred", hops.reply, hops.ours)
        try:
            targets = self.courier.targets(route, hops)
        except NoSession as none:
            return self._all("deferred", none.reply, none.ours)
        plan = await self.courier.plan(route, hops)
        required = self.envelope.asks("REQUIRETLS")
        if plan is not None and plan.demands and not required and await self._waived():
            plan = None
        if plan is not None:
            self.strict = required
            targets = self._as_published(targets, plan, required)
        elif required:
            # RFC 8689 §4.2: whatever the row leaves open, the sender does not.
            self.strict = route.tls in ("none", "opportunistic")
            targets = [_protected(target) for target in targets]
        unserved = list(range(len(self.recipients)))
        spoken = 0
        for target in targets:
            before = unserved
            unserved = []
            reached = False
            for start in range(0, len(before), MAX_RECIPIENTS):
                part = before[start : start + MAX_RECIPIENTS]
                try:
                    unserved += await self._send(target, part)
                    reached = True
                except NoSession as none:
                    self._unreached(before[start:], none, target)
                    unserved += before[start:]
                    break
            spoken += reached
            if not unserved or spoken >= MAX_SESSIONS:
                break
        return [_final(self.outcomes[index]) for index in range(len(self.recipients))]

    async def _waived(self) -> bool:
        """Whether the message says that it should arrive whatever TLS there is (RFC 8689 §5)."""
        content = self.content
        if content.in_memory() is not None:
            head = content.head(MAX_HEADER)
        else:
            head = await self.courier.sessions.in_thread(lambda: content.head(MAX_HEADER))
        return _WAIVER.search(head.partition(b"\r\n\r\n")[0]) is not None

    def _as_published(self, targets: list[Target], plan: Plan, required: bool) -> list[Target]:
        """The targets as the recipients' domain wants them spoken to; of those that may not be used it is
        noted why. ``required``: the sender wants their names proved (RFC 8689 §4.2.1)."""
        everybody = list(range(len(self.recipients)))
        found, told = [], set[str]()
        for target in targets:
            policy = plan.of(target.host)
            reply: Reply | None = None
            if policy.use == "wait":
                reply = Reply(451, "4.7.5", f"{target.host} is not used: {policy.words}"[:400])
            elif required and not policy.authentic:
                reply = MAYBE_PROVED if plan.unsure else NOT_PROVED
            if reply is not None:
                self._unreached(everybody, NoSession(reply), target)
                if target.host not in told and policy.use == "wait":
                    self.courier.sessions.observed(target, policy, policy.fault, policy.words)
                told.add(target.host)
                continue
            tls = policy.requirement
            if required and policy.check is None:
                tls = "verified"
            watched = policy.use == "watched" and tls == "opportunistic"
            found.append(attrs.evolve(target, tls=tls, check=policy.check, watched=watched, policy=policy))
        if plan.fault and targets:
            missing = HostPolicy("any", "", plan.published)
            self.courier.sessions.observed(targets[0], missing, plan.fault, plan.words)
        return found

    def _unreached(self, indices: list[int], none: NoSession, target: Target) -> None:
        published = target.policy is not None and bool(none.fault)
        for index in indices:
            # what a host said of the recipient tells more than that another cannot be reached
            known = self.outcomes.get(index)
            if known is None or not known.host:
                # what a sender or the recipients' domain wants and a host does not do is no fault of ours
                ours = none.ours and not self.strict and not published
                self._set(index, "deferred", none.reply, ours, str(target) if none.remote else "")

    def _all(self, kind: _Kind, reply: Reply, ours: bool) -> list[Outcome]:
        return [Outcome(one.recipient, kind, reply, ours) for one in self.recipients]

    def _set(
        self,
        index: int,
        kind: _Kind,
        reply: Reply,
        ours: bool,
        host: str = "",
        tls: str = "",
        confirms: bool = False,
        keeps_time: bool = False,
    ) -> None:
        recipient = self.recipients[index].recipient
        self.outcomes[index] = Outcome(recipient, kind, reply, ours, host, tls, confirms, keeps_time)

    async def _send(self, target: Target, part: list[int]) -> list[int]:
        """Offer the message to one host; the indices that the next host may be offered.

        :raises NoSession: where there is no session with it.
        """
        sessions = self.courier.sessions
        chosen = [self.recipients[index].recipient for index in part]
        session = await sessions.get(target)
        kept = session.transactions > 0
        session.origin = self.origin
        try:
            sent = await session.send(self.envelope, chosen, self.content)
            if kept and session.wire.over is not None and all(_unheard(one) for one in sent):
                # closed while it was kept, or for having carried enough: nothing was delivered by it
                session = await sessions.get(target, fresh=True)
                session.origin = self.origin
                sent = await session.send(self.envelope, chosen, self.content)
        except BaseException:
            session.wire.end(SessionLost(Reply(421, "4.3.2", "given up here")))
            raise
        confirms, keeps_time = "DSN" in session.extensions, "DELIVERBY" in session.extensions
        sessions.give_back(target, session)
        for index, one in zip(part, sent, strict=True):
            kind: _Kind = "deferred"
            if one.reply.positive:
                kind = "delivered"
            elif one.reply.permanent:
                kind = "failed"
            host = str(target) if one.remote else ""
            self._set(index, kind, one.reply, False, host, _tls_words(session, target), confirms, keeps_time)
        return [
            index for index, one in zip(part, sent, strict=True) if one.reply.temporary and not one.uncertain
        ]


@lru_cache(maxsize=256)
def _only_the_way(route: Route) -> Route:
    """Without what differs between recipients that go the same way."""
    return attrs.evolve(route, reasons=(), domain=route.domain if route.kind == "mx" else "")


def _source(route: Route, address: str) -> str:
    """Our address to connect from to that one, "" for any."""
    return next((one for one in route.source if (":" in one) == (":" in address)), "")


async def plan_of(policies: TlsPolicies | None, route: Route, hops: NextHops) -> Plan | None:
    """What the domain that a route leads to wants of TLS; None where a row of ours decides, or nobody is
    asked. The courier and ``lorrainemail explain`` both ask here."""
    if policies is None or route.kind != "mx" or route.tls != "opportunistic":
        return None
    return await policies.plan(route.domain, [(hop.host, hop.port) for hop in hops.hops])


def _tls_words(session: ClientSession, target: Target) -> str:
    """What the session runs under, and what its host proved by that."""
    wire, policy = session.wire, target.policy
    if policy is None or not wire.tls:
        return wire.tls
    proved = policy.short or ("verified" if target.tls == "verified" else "")
    if target.watched:
        proved = f"MTA-STS testing: {wire.heard.words or 'verified'}"
    return f"{wire.tls}, {proved}" if proved else wire.tls


def _protected(target: Target) -> Target:
    """The same under TLS with a verified name, where its row asks for nothing better."""
    return attrs.evolve(target, tls="verified") if target.tls in ("none", "opportunistic") else target


def _final(outcome: Outcome) -> Outcome:
    """What the sender asked for and no host can do will not be possible later either."""
    if outcome.reply == NO_REQUIRETLS:
        # RFC 8689 §4.2.
        reply = Reply(550, "5.7.30", "no server of the recipient knows REQUIRETLS")
    elif outcome.reply == NOT_PROVED:
        words = "neither DNSSEC nor MTA-STS proves the names of the recipient's servers"
        reply = Reply(550, "5.7.30", words)
    elif outcome.reply == NO_DELIVERBY:
        reply = Reply(550, "5.3.3", "no server of the recipient promises delivery by a time")
    else:
        return outcome
    return attrs.evolve(outcome, kind="failed", reply=reply)


def _unheard(sent: Sent) -> bool:
    """The session ended before anything was decided."""
    return sent.reply.code == 421 and not sent.uncertain
