"""The courier "lmtp": another server's store, by LMTP (RFC 2033) over TCP or a UNIX socket.

So Dovecot or Cyrus can hold the mailboxes: a row of ``[deliver]`` names their door. A delivery is one
transaction of the session: MAIL at the first recipient, RCPT for each, DATA at commit, and then one reply for
each recipient that was taken (RFC 2033 §4.2). Sessions are made and kept as for other servers
(:mod:`~lorrainemail.delivery.sessions`); hosts of a TCP row are found as for a relay row. Called through
:mod:`~lorrainemail.delivery.agents`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from lorrainemail.config.values import split_port
from lorrainemail.delivery.client import (
    BLOCK_TIME,
    DATA_TIME,
    EHLO_TIME,
    FINAL_DOT_TIME,
    MAIL_TIME,
    RCPT_TIME,
    ClientSession,
    Unusable,
    extensions_of,
)
from lorrainemail.delivery.hops import NextHops
from lorrainemail.delivery.replies import RemoteReply
from lorrainemail.delivery.sessions import CONNECT_TIME, NoSession, Sessions, Target
from lorrainemail.delivery.wire import SessionLost
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import PermanentError, Reply, TemporaryError
from lorrainemail.interfaces import (
    DeliveryRow,
    HopHost,
    IAgent,
    IContent,
    IDelivery,
    QueueItem,
    QueueRecipient,
    Route,
)

_UNIX: Final = "unix:"
#: Where a server refused every recipient, or none was named.
NOBODY: Final = Reply(451, "4.5.0", "no recipient was accepted")

#: Finds the hosts of a row by name.
FindHops = Callable[[Route], Awaitable[NextHops]]


class LmtpSession(ClientSession):
    """One session with an LMTP server."""

    async def ehlo(self) -> None:
        reply = await self.wire.command(f"LHLO {self._hostname}", EHLO_TIME)
        if reply.code != 250:
            raise Unusable(reply.reply)
        self.extensions = extensions_of(reply)

    async def begin(self, envelope: Envelope, size: int) -> None:
        """MAIL.

        :raises PermanentError: or TemporaryError, as the server says. SessionLost where it is gone.
        """
        self.transactions += 1
        self._clean = False
        sender = "" if envelope.sender is None else str(envelope.sender)
        if not sender.isascii() and "SMTPUTF8" not in self.extensions:
            raise PermanentError(Reply(550, "5.6.7", "the server cannot take international addresses"))
        words = [f"MAIL FROM:<{sender}>"]
        if "SIZE" in self.extensions:
            words.append(f"SIZE={size}")
        if "8BITMIME" in self.extensions:
            words.append("BODY=8BITMIME")
        if "SMTPUTF8" in self.extensions and (envelope.smtputf8 or not sender.isascii()):
            words.append("SMTPUTF8")
        _demand(await self.wire.command(" ".join(words), MAIL_TIME))

    async def rcpt(self, recipient: Recipient) -> None:
        """RCPT; fails as :meth:`begin`."""
        if not recipient.address.is_ascii and "SMTPUTF8" not in self.extensions:
            raise PermanentError(Reply(550, "5.6.7", "the server cannot take international addresses"))
        _demand(await self.wire.command(self._rcpt(recipient), RCPT_TIME))

    async def data(self, content: IContent, count: int) -> list[Reply]:
        """DATA and the message; one reply for each of so many recipients (RFC 2033 §4.2)."""
        reply = await self.wire.command("DATA", DATA_TIME)
        if reply.code != 354:
            _demand(reply)
            raise TemporaryError(Reply(451, "4.5.0", f"unexpected reply to DATA: {reply.reply}"))
        seconds = [0, *[FINAL_DOT_TIME] * (count - 1)]
        waiting = [self.wire.expect("final dot", time) for time in seconds]
        for one in waiting:
            one.addErrback(_as_reply)
        try:
            whole = await self.wire.send_message(content, self._in_thread, BLOCK_TIME, waiting[0])
        except SessionLost:
            whole = True  # every waiter has it
        except BaseException:
            # It could not be read: it must not end with a dot.
            self.wire.end(SessionLost(Reply(451, "4.3.0", "the message could not be read here")))
            raise
        if not whole:
            # An early reply: the rest of the message cannot be taken back, so neither can the session.
            self.wire.end(SessionLost(Reply(451, "4.5.0", "the server answered before the end")))
        else:
            self.wire.hasten(FINAL_DOT_TIME)
        replies = [_said(await one) for one in waiting]
        self._clean = self.wire.over is None
        return replies

    async def rset(self) -> None:
        """Back to the beginning, so that the session can carry another message."""
        self._clean = True
        await self._reset()


def _as_reply(failure: object) -> RemoteReply:
    """What a lost session means for a recipient whose reply it kept: he may have it all the same."""
    error = getattr(failure, "value", None)
    words = error.reply.text if isinstance(error, SessionLost) else "the session was lost"
    return RemoteReply(421, (f"4.4.2 {words}".encode("utf-8", "replace"),))


def _said(reply: RemoteReply) -> Reply:
    if reply.code // 100 == 3:
        return Reply(451, "4.5.0", f"unexpected reply to the message: {reply.reply}")
    return reply.reply


def _demand(reply: RemoteReply) -> None:
    """Go on, or fail as the server says."""
    if reply.code // 100 == 2:
        return
    said = reply.reply
    if said.permanent:
        raise PermanentError(said)
    if reply.code // 100 == 3:
        said = Reply(451, "4.5.0", f"unexpected reply: {said}")
    raise TemporaryError(said)


class LmtpSessions(Sessions):
    """Sessions with LMTP servers; a target whose address is a path is a UNIX socket."""

    speaks = LmtpSession

    def endpoint(self, target: Target) -> IStreamClientEndpoint:
        if target.address.startswith("/"):
            return UNIXClientEndpoint(self._reactor, target.address, int(CONNECT_TIME))  # type: ignore[no-untyped-call]
        return super().endpoint(target)


@implementer(IAgent)
class LmtpAgent:
    """The agent.

    :param find: the hosts of a TCP row.
    """

    name = "lmtp"

    def __init__(self, sessions: LmtpSessions, find: FindHops) -> None:
        self._sessions = sessions
        self._find = find

    def close(self) -> Deferred[None]:
        """Quit sessions that are kept; cut the others."""
        return self._sessions.close()

    def destination(self, recipient: QueueRecipient, argument: str) -> str:
        return argument

    def start(self, item: QueueItem, row: DeliveryRow | None) -> Deferred[IDelivery]:
        return Deferred.fromCoroutine(self._start(item, row))

    async def _start(self, item: QueueItem, row: DeliveryRow | None) -> IDelivery:
        if row is None:
            raise TemporaryError(Reply(451, "4.3.5", "only a row of [deliver] leads to an LMTP server"))
        session, target = await self._session(await self._targets(row))
        return LmtpDelivery(self._sessions, session, target, item)

    async def _session(self, targets: list[Target]) -> tuple[LmtpSession, Target]:
        """With the first that is there. Kept ones may be dead: asked whether they live by RSET."""
        last = Reply(451, "4.4.1", "the row names no host")
        for target in targets:
            try:
                session = await self._sessions.get(target)
                assert isinstance(session, LmtpSession)
                if session.transactions:
                    await session.rset()
                    if not session.usable:
                        session = await self._sessions.get(target, fresh=True)
                        assert isinstance(session, LmtpSession)
                return session, target
            except NoSession as none:
                last = none.reply
        raise TemporaryError(last)

    async def _targets(self, row: DeliveryRow) -> list[Target]:
        if row.argument.startswith(_UNIX):
            path = row.argument[len(_UNIX) :]
            return [Target(path, path, 0, "none")]
        host, port = split_port(row.argument, 24)
        hops = await self._find(
            Route("hosts", hosts=(HopHost(host, port),), pattern=row.pattern, origin=row.origin)
        )
        if hops.reply is not None:
            raise TemporaryError(hops.reply)
        return [
            Target(hop.host, address, hop.port, row.tls) for hop in hops.hops for address in hop.addresses
        ]


@implementer(IDelivery)
class LmtpDelivery:
    """One transaction."""

    def __init__(self, sessions: LmtpSessions, session: LmtpSession, target: Target, item: QueueItem) -> None:
        self._sessions = sessions
        self._session = session
        self._target = target
        self._item = item
        self._begun = False
        self._taken = 0
        self._content: IContent | None = None

    def recipient(self, recipient: QueueRecipient, argument: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._recipient(recipient))

    async def _recipient(self, recipient: QueueRecipient) -> None:
        try:
            if not self._begun:
                await self._session.begin(self._item.envelope, self._item.size)
                self._begun = True
            await self._session.rcpt(recipient.recipient)
        except SessionLost as lost:
            raise TemporaryError(_temporary(lost)) from None
        self._taken += 1

    def body(self, content: IContent) -> Deferred[None]:
        return Deferred.fromCoroutine(self._body(content))

    async def _body(self, content: IContent) -> None:
        if content.eight_bit and "8BITMIME" not in self._session.extensions:
            raise PermanentError(Reply(554, "5.6.3", "the server cannot take 8-bit messages"))
        self._content = content

    def commit(self) -> Deferred[list[Reply]]:
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> list[Reply]:
        assert self._content is not None, "committed before the body was there"
        try:
            return await self._session.data(self._content, self._taken)
        except SessionLost as lost:
            raise TemporaryError(_temporary(lost)) from None
        except TemporaryError:
            await self._session.rset()
            raise
        finally:
            self._sessions.give_back(self._target, self._session)

    def abort(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._abort())

    async def _abort(self) -> None:
        if self._session.wire.over is None:
            await self._session.rset()
        self._sessions.give_back(self._target, self._session)


def _temporary(lost: SessionLost) -> Reply:
    return lost.reply if lost.reply.temporary else Reply(421, "4.4.2", lost.reply.text)
