"""The policy check ``mailauth``: SPF, DKIM, DMARC and ARC of a stranger's message, told and acted upon.

Asked at the final dot, when all is there: an SPF failure alone refuses nothing at MAIL, because DKIM may
still vouch for the message (RFC 9989 §7.1). SPF and DKIM are evaluated at the same time, DMARC from both. An
ARC chain is verified and told.

What it does with the answer:

- always: the Authentication-Results field, and whether the reverse-path was proved (then a report to it is
  no backscatter);
- DMARC fails and the domain wants quarantine or reject: Junk;
- refused only where the domain wants reject and everything else speaks against the message too: SPF fails
  outright, the client has no name that leads back to it, and nothing says that a list or another forwarder
  was at work (RFC 9989 §7.4);
- neither where an ARC chain passes in which a trusted sealer saw DMARC pass (RFC 8617 §7.2.1), nor where the
  peer is a forwarder that all its recipients named;
- From is of a forbidden form that may show a reader another author than the one examined: Junk.

Not asked of clients that logged in, that may relay, or that come by another door than smtp. A dry run
without a message foretells SPF.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Final, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from lorrainemail.addresses import Address
from lorrainemail.errors import Reply
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    DnsFailure,
    IContent,
    IPolicyCheck,
    IResolver,
    LocalMailbox,
    Stage,
    Verdict,
)
from lorrainemail.mailauth.arc import ArcResult, ArcVerifier
from lorrainemail.mailauth.authors import author_domains
from lorrainemail.mailauth.authres import Finding, field
from lorrainemail.mailauth.canonical import Form
from lorrainemail.mailauth.dkim import DkimResult, InThread, Verifier
from lorrainemail.mailauth.dmarc import Dmarc, DmarcResult
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.spf import Spf, SpfResult
from lorrainemail.ops.metrics import Counter

#: Names of a client of which one must lead back to it.
MAX_NAMES: Final = 10
#: Fields that say that a list or another forwarder may have changed the message.
_FORWARDED: Final = frozenset(
    {b"list-id", b"list-post", b"list-unsubscribe", b"resent-from", b"x-forwarded-to"}
)

_RESULTS = Counter("lorrainemail_mailauth_results", "Results of sender authentication", ["method", "result"])


@attrs.frozen(slots=True)
class Evaluation:
    """What became of one message, for reports to its author's domain.

    :ivar override: why what that domain wants was not done, "" where it was.
    """

    peer: str
    sender: Address | None
    spf: SpfResult
    dkim: list[DkimResult]
    dmarc: DmarcResult
    action: Action
    override: str


class Reports(Protocol):
    """Who hears of evaluations."""

    def note(self, evaluation: Evaluation, header: Header) -> None:
        """One evaluation of a message whose author's domain has a record. Returns at once."""


@implementer(IPolicyCheck)
class MailAuth:
    """See the module.

    :param in_thread: runs the hashing of large messages.
    :param hostname: our name, the authserv-id.
    :param trusted_sealers: domains whose seals are believed.
    :param forwarders: networks and names of servers that forward to an account, by its folded address.
    :param reports: hears of every evaluation; None: nobody does.
    """

    name: ClassVar[str] = "mailauth"

    def __init__(
        self,
        resolver: IResolver,
        clock: IReactorTime,
        in_thread: InThread[dict[Form, bytes]],
        hostname: str,
        trusted_sealers: frozenset[str] = frozenset(),
        forwarders: Mapping[str, tuple[str, ...]] | None = None,
        reports: Reports | None = None,
    ) -> None:
        self.stages: frozenset[Stage] = frozenset({"mail", "data"})
        self._resolver = resolver
        self._hostname = hostname
        self._spf = Spf(resolver, clock, hostname)
        self._dkim = Verifier(resolver, clock, in_thread)
        self._arc = ArcVerifier(resolver, clock, in_thread)
        self._dmarc = Dmarc(resolver, clock)
        self._trusted_sealers = trusted_sealers
        self._forwarders = forwarders or {}
        self._reports = reports

    def judge(self, circumstances: Circumstances) -> None | Deferred[Verdict | None]:
        session, content = circumstances.session, circumstances.content
        if content is None and not circumstances.dry_run:
            return None
        if session.door != "smtp" or session.account or not session.peer:
            return None
        relay = circumstances.relay or circumstances.tables.relay_right(session)
        if relay.allowed:
            return None
        if content is None:
            return Deferred.fromCoroutine(self._foretell(circumstances))
        return Deferred.fromCoroutine(self._judge(circumstances, content))

    async def _foretell(self, circumstances: Circumstances) -> Verdict:
        """For ``explain``, which has no message: what SPF would say."""
        session = circumstances.session
        spf = await self._spf.check(session.peer, session.helo, circumstances.sender)
        reason = f"spf {spf.result}: {spf.reason}; DKIM and DMARC are examined when the message is there"
        return Verdict(Action.CONTINUE, self.name, reason)

    async def _judge(self, circumstances: Circumstances, content: IContent) -> Verdict | None:
        session, sender = circumstances.session, circumstances.sender
        header = Header(content)
        asked = Deferred.fromCoroutine(self._spf.check(session.peer, session.helo, sender))
        dkim = await self._dkim.verify(content, header, author_domains(header))
        spf = await asked
        arc = await self._arc.verify(content, header)
        dmarc = await self._dmarc.evaluate(header, spf, dkim)
        _RESULTS.labels("spf", spf.result).inc()
        for one in dkim:
            _RESULTS.labels("dkim", one.result).inc()
        _RESULTS.labels("dmarc", dmarc.result).inc()
        action, reason, reply = Action.CONTINUE, _summary(spf, dkim, dmarc), None
        override = await self._override(circumstances, dmarc, arc) if dmarc.disposition != "none" else ""
        if override:
            reason = f"{dmarc.reason}, but {override}; {reason}"
        elif dmarc.disposition != "none":
            action, reply = Action.JUNK, _refusal(spf, dkim, dmarc)
            reason = (
                f"DMARC: {dmarc.domain} wants such mail "
                f"{'refused' if dmarc.disposition == 'reject' else 'put aside'}, and {dmarc.reason}; {reason}"
            )
            forwarded = arc.result == "pass" or await self._is_forwarder(circumstances, any)
            wanted = dmarc.disposition == "reject" and not forwarded
            if wanted and await self._all_agrees(session.peer, header, spf):
                action = Action.REFUSE
        elif dmarc.deceitful:
            action, reason = Action.JUNK, f"{dmarc.reason}; {reason}"
        if self._reports is not None and not circumstances.dry_run and dmarc.record is not None:
            self._reports.note(Evaluation(session.peer, sender, spf, dkim, dmarc, action, override), header)
        findings = _findings(spf, dkim, dmarc)
        if arc.result != "none":
            _RESULTS.labels("arc", arc.result).inc()
            findings.append(Finding("arc", arc.result, arc.reason, (), f"i={arc.sets} d={arc.sealer or '?'}"))
        told = field(self._hostname, findings)
        return Verdict(action, self.name, reason, reply, told, _proves(sender, spf, dkim))

    async def _all_agrees(self, peer: str, header: Header, spf: SpfResult) -> bool:
        """Whether nothing at all speaks for a message that its domain wants refused."""
        if spf.result != "fail" or any(one.name in _FORWARDED for one in header.fields):
            return False
        try:
            return not await self._names(peer)
        except DnsFailure:
            return False

    async def _names(self, peer: str) -> list[str]:
        """The names of an address that lead back to it.

        :raises DnsFailure: where a question that matters has no answer.
        """
        found = []
        try:
            names = await self._resolver.ptr(peer)
        except DnsFailure as failure:
            if failure.kind == "temporary":
                raise
            return []
        for name in names[:MAX_NAMES]:
            try:
                if peer in await self._resolver.addresses(name):
                    found.append(name)
            except DnsFailure as failure:
                if failure.kind == "temporary":
                    raise
        return found

    async def _override(self, circumstances: Circumstances, dmarc: DmarcResult, arc: ArcResult) -> str:
        """Why what a domain wants done is not, in a few words; "" where it is."""
        if arc.result == "pass" and self._trusted_sealers:
            sealer = arc.vouches(self._trusted_sealers, dmarc.domain)
            if sealer:
                return f"{sealer}, whose seals are trusted, saw it pass"
        if await self._is_forwarder(circumstances, all):
            return "its recipient named this peer as a forwarder"
        return ""

    async def _is_forwarder(
        self, circumstances: Circumstances, how: Callable[[Iterable[bool]], bool]
    ) -> bool:
        """Whether all, or any, of the recipients named the peer as a forwarder."""
        if not self._forwarders or not circumstances.accepted:
            return False
        peer = circumstances.session.peer
        listed = [
            self._forwarders.get(final.account.address.key, ()) if isinstance(final, LocalMailbox) else ()
            for accepted in circumstances.accepted
            for final in accepted.expansion.finals
        ]
        names: list[str] = []
        if any(not _is_network(one) for row in listed for one in row):
            try:
                names = await self._names(peer)
            except DnsFailure:
                names = []
        return how([any(_covers(one, peer, names) for one in row) for row in listed])


def _is_network(text: str) -> bool:
    return text[0].isdigit() or ":" in text


def _covers(one: str, peer: str, names: Sequence[str]) -> bool:
    """Whether a network or a name of a configuration is the peer's."""
    if _is_network(one):
        return ipaddress.ip_address(peer) in ipaddress.ip_network(one)
    return any(name == one or name.endswith("." + one) for name in names)


def _summary(spf: SpfResult, dkim: list[DkimResult], dmarc: DmarcResult) -> str:
    """One line for the trace."""
    signed = ", ".join(f"{one.result} ({one.domain or '?'})" for one in dkim) or "none"
    author = f" ({dmarc.domain})" if dmarc.domain else ""
    return f"spf {spf.result} ({spf.domain}), dkim {signed}, dmarc {dmarc.result}{author}"


def _refusal(spf: SpfResult, dkim: list[DkimResult], dmarc: DmarcResult) -> Reply:
    # RFC 7372 §3.3
    signatures = "it has no DKIM signature" if not dkim else "no DKIM signature of that domain is valid"
    return Reply(
        550,
        "5.7.26",
        f"{dmarc.domain} wants mail in its name refused that it does not vouch for (DMARC): by SPF "
        f"{spf.reason}, and {signatures}. If you are {dmarc.domain}, send through your own servers or "
        "sign with DKIM",
    )


def _findings(spf: SpfResult, dkim: list[DkimResult], dmarc: DmarcResult) -> list[Finding]:
    """What the field tells (RFC 8601 §2.7)."""
    name = "smtp.helo" if spf.identity == "helo" else "smtp.mailfrom"
    findings = [Finding("spf", spf.result, "" if spf.result == "pass" else spf.reason, ((name, spf.sender),))]
    findings += [
        Finding(
            "dkim",
            one.result,
            one.reason,
            (
                ("header.d", one.domain),
                ("header.s", one.selector),
                ("header.a", one.algorithm),
                ("header.b", one.mark),
            ),
        )
        for one in dkim
    ] or [Finding("dkim", "none")]
    comment = ""
    if dmarc.record is not None:
        comment = f"p={dmarc.policy}" + (" testing" if dmarc.record.testing else "")
    findings.append(Finding("dmarc", dmarc.result, dmarc.reason, (("header.from", dmarc.domain),), comment))
    return findings


def _proves(sender: Address | None, spf: SpfResult, dkim: list[DkimResult]) -> bool:
    """Whether a report to the reverse-path reaches somebody who had to do with the message."""
    if sender is None:
        return False
    if spf.result == "pass" and spf.identity == "mailfrom":
        return True
    return any(
        one.result == "pass" and (sender.domain == one.domain or sender.domain.endswith("." + one.domain))
        for one in dkim
    )
