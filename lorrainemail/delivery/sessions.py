"""Open sessions with next hops: made, kept for a moment for the next message, closed.

Owns connections from the connect to the QUIT. The remote courier asks for a session with a host's address and
gives it back. A session that was kept may have been closed by the other side without our knowledge; the
courier tries its message again on a new one when a kept one turns out to be dead before it answered MAIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectBindError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from lorrainemail.delivery.client import ClientSession, Unusable
from lorrainemail.delivery.wire import InThread, SessionLost, Wire
from lorrainemail.errors import Reply
from lorrainemail.interfaces import IClientTls, TlsRequirement
from lorrainemail.net.peers import is_loopback
from lorrainemail.ops.metrics import Counter
from lorrainemail.tlspolicy.plan import HostPolicy, Observed
from lorrainemail.tlspolicy.tlsa import TlsaCheck

#: Seconds for the TCP handshake.
CONNECT_TIME: Final = 30.0
#: Seconds for which a session without a message is kept, messages that one carries, and sessions kept.
KEEP_TIME: Final = 5.0
MAX_TRANSACTIONS: Final = 100
MAX_KEPT: Final = 50
#: RFC 8460 §4.3.
NOT_OFFERED: Final = "starttls-not-supported"

_SESSIONS = Counter(
    "lorrainemail_outgoing_tls",
    "Sessions with mail servers of other domains, by policy and fault of TLS",
    ["policy", "result"],
)

_log = Logger("lorrainemail.delivery.sessions")


@attrs.frozen(slots=True)
class Target:
    """What a session is with, and how: only equal targets may share one.

    :ivar host: name for TLS and people; ``address`` and ``port`` to connect to.
    :ivar credentials: user and secret, None for no login.
    :ivar source: our address to connect from, "" for any.
    :ivar check: what the certificates must be, in place of ``tls``'s own rule.
    :ivar watched: what is wrong with them is only noted.
    :ivar policy: what its domain publishes of TLS, None where nobody asked. It is no part of what makes
        targets equal: what it asks for is in ``tls`` and ``check``.
    """

    host: str
    address: str
    port: int
    tls: TlsRequirement = "opportunistic"
    credentials: tuple[str, str] | None = attrs.field(default=None, repr=False)
    source: str = ""
    check: TlsaCheck | None = attrs.field(default=None, repr=False)
    watched: bool = False
    policy: HostPolicy | None = attrs.field(default=None, repr=False, eq=False)

    def __str__(self) -> str:
        name = "" if self.host == self.address else self.host
        return f"{name}[{self.address}]:{self.port}"


class NoSession(Exception):
    """There is no session to be had with the target.

    :ivar reply: why, in the host's words or ours. ``remote``: the host's.
    :ivar ours: our side failed (a required TLS, a login) and a person should know.
    :ivar fault: what was wrong with TLS (RFC 8460 §4.3), "" where it was something else.
    """

    def __init__(self, reply: Reply, remote: bool = False, ours: bool = False, fault: str = "") -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.remote = remote
        self.ours = ours
        self.fault = fault


@attrs.define(slots=True, eq=False)
class _Kept:
    session: ClientSession
    timer: IDelayedCall


class Sessions:
    """All sessions of a courier.

    :param reactor: TCP and timers.
    :param hostname: said in EHLO.
    :param client_tls: contexts for STARTTLS; None where TLS is not to be had.
    :param in_thread: runs reads of message files.
    :param spill: where converted messages are kept while they are sent, "" for the system's place.
    """

    #: What a connection becomes.
    speaks: ClassVar[type[ClientSession]] = ClientSession

    def __init__(
        self,
        reactor: object,
        hostname: str,
        client_tls: IClientTls | None,
        in_thread: InThread,
        spill: str = "",
    ) -> None:
        self._spill = spill
        self.hostname = hostname
        self._reactor = reactor
        self.client_tls = client_tls
        self.in_thread = in_thread
        self._kept: dict[Target, list[_Kept]] = {}
        self._open: set[Wire] = set()
        self._closed = False
        #: Told of each new session under TLS with a host whose policy was asked for, and of what kept one
        #: from it.
        self.observe: Callable[[Observed], None] | None = None

    async def get(self, target: Target, fresh: bool = False) -> ClientSession:
        """A session ready for MAIL.

        :param fresh: not one that was kept.
        :raises NoSession: where there is none.
        """
        if not fresh:
            kept = self._take_kept(target)
            if kept is not None:
                return kept
        try:
            return await self._begin(target, encrypted=target.tls != "none")
        except _TlsFailed as failed:
            if target.tls != "opportunistic":
                raise NoSession(failed.reply, ours=True, fault=failed.fault) from None
            _log.info(
                "TLS with {target} failed, in clear text then: {reply}", target=target, reply=failed.reply
            )
        return await self._begin(target, encrypted=False)

    def give_back(self, target: Target, session: ClientSession) -> None:
        """Keep it for a moment, or quit."""
        if not session.usable:
            session.wire.end(SessionLost(Reply(221, "2.0.0", "we closed the session")))
            return
        total = sum(map(len, self._kept.values()))
        if self._closed or session.full or session.transactions >= MAX_TRANSACTIONS or total >= MAX_KEPT:
            Deferred.fromCoroutine(session.quit())
            return
        timer = self._call_later(KEEP_TIME, self._let_go, target, session)
        self._kept.setdefault(target, []).append(_Kept(session, timer))

    def close(self) -> Deferred[None]:
        """Quit what is kept; cut what is not idle."""
        self._closed = True
        quits = []
        for target in list(self._kept):
            while (session := self._take_kept(target)) is not None:
                quits.append(Deferred.fromCoroutine(session.quit()))

        def cut(_: object) -> None:
            for wire in list(self._open):
                wire.end(SessionLost(Reply(421, "4.3.2", "the server here is stopping")))

        return gatherResults(quits).addBoth(cut)

    # -- inside ----------------------------------------------------------------------------------

    def _call_later(self, delay: float, call: Callable[..., object], *arguments: object) -> IDelayedCall:
        delayed: IDelayedCall = self._reactor.callLater(delay, call, *arguments)  # type: ignore[attr-defined]
        return delayed

    def _take_kept(self, target: Target) -> ClientSession | None:
        waiting = self._kept.get(target)
        while waiting:
            kept = waiting.pop()
            if not waiting:
                del self._kept[target]
            if kept.timer.active():
                kept.timer.cancel()
            if kept.session.usable:
                return kept.session
        return None

    def _let_go(self, target: Target, session: ClientSession) -> None:
        waiting = self._kept.get(target, [])
        waiting[:] = [kept for kept in waiting if kept.session is not session]
        if not waiting:
            self._kept.pop(target, None)
        Deferred.fromCoroutine(session.quit())

    async def _begin(self, target: Target, encrypted: bool) -> ClientSession:
        """Connect, greet, encrypt and log in as the target says."""
        session = self.speaks(await self._connect(target), self.hostname, self.in_thread, self._spill)
        try:
            await session.greet()
            if encrypted and self.client_tls is not None:
                await self._encrypt(session, target, self.client_tls)
            elif target.tls not in ("none", "opportunistic"):
                Deferred.fromCoroutine(session.quit())
                raise NoSession(Reply(454, "4.7.4", "TLS is required and not to be had here"), ours=True)
            if target.credentials is not None:
                await self._login(session, target)
        except Unusable as unusable:
            Deferred.fromCoroutine(session.quit())
            # A refusal at connect or EHLO is not the message's fault
            raise NoSession(
                _temporary(unusable.reply), unusable.remote, ours=unusable.reply.permanent
            ) from None
        except SessionLost as lost:
            if lost.remote:
                raise NoSession(_temporary(lost.reply), True) from None
            # one who takes the connection and then says nothing of use is not there either
            raise NoSession(Reply(421, "4.4.1", f"no session with {target}: {lost.reply.text}")) from None
        except NoSession:
            raise  # whoever raised it said goodbye
        except BaseException:
            session.wire.end(SessionLost(Reply(421, "4.3.2", "given up here")))
            raise
        return session

    def endpoint(self, target: Target) -> IStreamClientEndpoint:
        """How the target is reached."""
        kind = TCP6ClientEndpoint if ":" in target.address else TCP4ClientEndpoint
        source = (target.source, 0) if target.source else None
        return kind(self._reactor, target.address, target.port, CONNECT_TIME, source)

    async def _connect(self, target: Target) -> Wire:
        if self._closed:
            raise NoSession(Reply(421, "4.3.2", "the server here is stopping"))
        endpoint = self.endpoint(target)
        wire = Wire(self._reactor, lambda: self._open.discard(wire))  # type: ignore[arg-type]
        factory = Factory.forProtocol(lambda: wire)
        factory.noisy = False
        try:
            await endpoint.connect(factory)
        except CancelledError:
            raise
        except ConnectBindError:
            words = f"{target.source} is no address of this machine to connect from"
            raise NoSession(Reply(451, "4.3.5", words), ours=True) from None
        except Exception as error:  # every way in which a connect fails
            words = str(error).strip().rstrip(".") or type(error).__name__
            raise NoSession(Reply(421, "4.4.1", f"no connection to {target}: {words}"[:300])) from None
        if wire.over is None:
            self._open.add(wire)
        return wire

    async def _encrypt(self, session: ClientSession, target: Target, tls: IClientTls) -> None:
        required = target.tls != "opportunistic"
        try:
            await session.starttls(_creator(tls, target))
        except Unusable as unusable:
            fault = NOT_OFFERED if unusable.tls else ""
            if fault:
                self._observed(session, target, fault, "" if unusable.remote else unusable.reply.text)
            if required:
                Deferred.fromCoroutine(session.quit())
                raise NoSession(_temporary(unusable.reply), ours=True, fault=fault) from None
            if not unusable.tls:
                raise
            # not offered, or refused: opportunistic means clear text then
        except SessionLost as lost:
            if lost.fault:
                self._observed(session, target, lost.fault, lost.reply.text)
            raise _TlsFailed(_temporary(lost.reply), lost.fault) from None
        else:
            heard = session.wire.heard
            self._observed(session, target, heard.fault, heard.words)

    def _observed(self, session: ClientSession, target: Target, fault: str, words: str) -> None:
        if target.policy is not None:
            self.observed(target, target.policy, fault, words, session.wire.ours)

    def observed(
        self, target: Target, policy: HostPolicy, fault: str, words: str = "", ours: str = ""
    ) -> None:
        """Note what a session with a host came to under a policy. ``fault``: "" for none."""
        if not fault:
            fault, words = policy.fault, policy.words if policy.fault else ""
        published = policy.published
        _SESSIONS.labels(published.type, fault or "good").inc()
        if fault and published.type != "no-policy-found":
            _log.info(
                "TLS with {target}, under what {domain} publishes: {fault} ({words})",
                target=target,
                domain=published.domain,
                fault=fault,
                words=words,
            )
        if self.observe is not None:
            self.observe(Observed(published, target.host, target.address, ours, fault, words))

    async def _login(self, session: ClientSession, target: Target) -> None:
        assert target.credentials is not None
        if not session.wire.secure and not is_loopback(target.address):
            Deferred.fromCoroutine(session.quit())
            raise NoSession(
                Reply(454, "4.7.0", "a login needs TLS, which the server did not give"), ours=True
            )
        try:
            await session.auth(*target.credentials)
        except Unusable as unusable:
            Deferred.fromCoroutine(session.quit())
            raise NoSession(_temporary(unusable.reply), unusable.remote, ours=True) from None


class _TlsFailed(Exception):
    def __init__(self, reply: Reply, fault: str = "") -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.fault = fault


def _creator(tls: IClientTls, target: Target) -> object:
    if target.check is not None:
        # RFC 7672 §8.1: asked for by the name that has the records
        return tls.checking(target.check.names[0], target.check)
    if target.watched:
        return tls.watching(target.host)
    return tls.creator(target.host, target.tls)


def _temporary(reply: Reply) -> Reply:
    """The same words, not final: before MAIL nothing is."""
    if not reply.permanent:
        return reply
    enhanced = "4" + reply.enhanced[1:] if reply.enhanced else ""
    return Reply(450, enhanced, f"{reply.text} (it said {reply.code})")
