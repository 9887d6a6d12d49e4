"""Who the client of an SMTP session is: connection, greeting, TLS, XCLIENT, login.

The verbs that come before any mail, beneath those of :class:`~lorrainemail.smtp.server.SmtpServer`, and the
state that they make: greeted or not, the session's facts, who logged in, what policy said. STARTTLS forgets
all of it, an open transaction, and every octet that was read but not yet looked at (RFC 3207 §4.2); so does
XCLIENT, which begins anew as another client.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final

import attrs
from twisted.internet.interfaces import ITLSTransport

from lorrainemail.envelope import Session
from lorrainemail.errors import MailError, Reply
from lorrainemail.grammar.smtp import parse_auth, parse_greeting
from lorrainemail.interfaces import Account, IExchange, IPrincipal, ITables, RelayRight, Verdict
from lorrainemail.net.channel import channel_of
from lorrainemail.net.tls import tls_facts
from lorrainemail.ops.metrics import Counter
from lorrainemail.sasl.mechanisms import CREDENTIALS_INVALID
from lorrainemail.smtp import replies
from lorrainemail.smtp.acceptance import judge_session, stopped
from lorrainemail.smtp.connection import SmtpConnection
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.xclient import renamed
from lorrainemail.smtp.xforward import announcing, merged

#: Commands that move no mail (NOOP, VRFY, HELP, RSET, EHLO) before the client is sent away.
MAX_IDLE_COMMANDS: Final = 100
#: Failed logins of one connection (RFC 4954 §9).
MAX_FAILED_LOGINS: Final = 3

_TLS = Counter("lorrainemail_smtp_tls", "Sessions under TLS, by version", ["door", "version"])


class SmtpSession(SmtpConnection):
    """See the module."""

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._principal: IPrincipal | None = None
        self._greeted = False
        self._connect_verdicts: tuple[Verdict, ...] = ()
        self._greeting_verdicts: tuple[Verdict, ...] = ()
        self._relay: tuple[ITables, Session, RelayRight] | None = None
        self._idle_commands = 0
        self._failed_logins = 0
        # A message has come from whom XFORWARD named; the next one did not.
        self._origin_used = False

    @property
    def account(self) -> Account | None:
        return None if self._principal is None else self._principal.account

    # -- greeting ------------------------------------------------------------------------------------

    async def _connected(self) -> None:
        door = self._door
        if "connect" in door.policy.stages:
            # A server in front has its own manners.
            early = None if self._believed else self._has_input
            verdicts = await judge_session(
                "connect", door.tables.current(), door.policy, self._session, spoke_early=early
            )
            reply = stopped(verdicts)
            if reply is not None:
                self._note_refusal(reply)
                # RFC 5321 §3.1: 554 instead of the greeting; 421 where it may come again.
                self._goodbye(Reply(554 if reply.permanent else 421, reply.enhanced, reply.text))
                return
            self._connect_verdicts = verdicts
        self._say(door.greeting)

    async def do_EHLO(self, argument: bytes) -> None:
        await self._greet(argument, True)

    async def do_HELO(self, argument: bytes) -> None:
        await self._greet(argument, False)

    async def _greet(self, argument: bytes, esmtp: bool) -> None:
        if self._greeted and not self._useful():
            return
        door, before = self._door, self._session
        name = parse_greeting(argument)
        tls = before.tls
        if self._secure and tls is None:
            tls = tls_facts(self.transport)
            _TLS.labels(before.door, tls.version if tls is not None else "unknown").inc()
        session = Session(
            before.id,
            before.door,
            before.peer,
            before.peer_port,
            before.local,
            name,
            esmtp,
            tls,
            before.account,
            before.mechanism,
            before.reverse_name,
        )
        verdicts: tuple[Verdict, ...] = ()
        tables = door.tables.current()
        relay = self._relay_right(tables, session)
        if "helo" in door.policy.stages:
            verdicts = await judge_session("helo", tables, door.policy, session, relay)
            reply = stopped(verdicts)
            if reply is not None:
                self._refuse(reply, name=name)
                return
        # RFC 5321 §4.1.4: a greeting ends any transaction.
        self._forget_message()
        self._session = session
        self._greeted = True
        self._greeting_verdicts = verdicts
        hello = door.hello
        if esmtp:
            hello = door.extensions(self._secure, self._believed, relay.allowed, self._mechanisms())
            if self._settings.forwards(session.peer):
                hello = announcing(hello)
        self._say(hello)

    async def do_STARTTLS(self, argument: bytes) -> None:
        if argument:
            self._refuse(replies.NO_ARGUMENT)
        elif self._secure:
            self._refuse(replies.ALREADY_TLS)
        elif self._door.tls is None or not ITLSTransport.providedBy(self.transport):
            self._refuse(replies.NOT_IMPLEMENTED)
        else:
            # RFC 3207 §4.2: what came in clear text before TLS is forgotten, and so is what we know.
            self._drop_input()
            self._forget_message()
            self._greeted = False
            self._greeting_verdicts = ()
            self._principal = None
            self._session = attrs.evolve(self._session, helo="", esmtp=False, account="", mechanism="")
            self._secure = True
            self._settled = False
            self._say(replies.START_TLS)
            self._flush()
            self.transport.startTLS(self._door.tls)

    async def do_XCLIENT(self, argument: bytes) -> None:
        before = self._session
        if not self._believed:
            self._refuse(replies.NOT_BELIEVED)
        elif self._open is not None:
            self._refuse(replies.NOT_DURING_MAIL)
        elif self._useful():
            session = renamed(before, argument)
            full = self._door.rename(before.peer, session.peer)
            self._session = session if full is None else before
            if full is not None:
                self._note_refusal(full)
                self._goodbye(full)
                return
            self._note("The session is {peer}'s now, says {front}", front=before.peer)
            # As if that client had just come.
            self._greeted = False
            self._greeting_verdicts = self._connect_verdicts = ()
            self._principal = None
            await self._connected()

    async def do_XFORWARD(self, argument: bytes) -> None:
        session = self._session
        if not self._settings.forwards(session.peer):
            self._refuse(replies.NOT_BELIEVED)
        elif not self._greeted:
            self._refuse(replies.GREET_FIRST)
        elif self._open is not None:
            self._refuse(replies.NOT_DURING_MAIL)
        else:
            origin = merged(() if self._origin_used else session.origin, argument)
            self._session = attrs.evolve(session, origin=origin)
            self._origin_used = False
            self._say(replies.OK)

    # -- login ---------------------------------------------------------------------------------------

    async def do_AUTH(self, argument: bytes) -> None:
        settings = self._settings
        if settings.login == "no" or self._door.authenticator is None:
            self._refuse(replies.NOT_IMPLEMENTED)
        elif not self._greeted:
            self._refuse(replies.GREET_FIRST)
        elif self._principal is not None:
            # RFC 4954 §4: once a session.
            self._refuse(replies.ALREADY_LOGGED_IN)
        elif self._open is not None:
            self._refuse(replies.NOT_DURING_MAIL)
        elif not (self._secure or settings.plaintext_login):
            self._refuse(replies.LOGIN_NEEDS_TLS)
        else:
            mechanism, initial = parse_auth(argument)
            channel = channel_of(self.transport) if self._secure else None
            exchange = self._door.authenticator.exchange(mechanism, initial, self._session, channel)
            await self._login(exchange, exchange.start())

    async def _continue_login(self, exchange: IExchange, line: bytes) -> None:
        self._exchange = None
        await self._login(exchange, exchange.receive(line))

    async def _login(self, exchange: IExchange, step: Awaitable[bytes | IPrincipal]) -> None:
        try:
            result = await step
        except MailError as failure:
            if failure.reply.permanent and failure.reply.code != CREDENTIALS_INVALID.code:
                raise  # not understood, or cancelled: an error like any other
            # The portal has logged it, with what may be said of the name.
            self._failed_logins += 1
            if self._failed_logins >= MAX_FAILED_LOGINS:
                self._goodbye(replies.TOO_MANY_LOGINS)
            else:
                self._say(failure.reply.wire())
            return
        if isinstance(result, bytes):
            self._exchange = exchange
            self._say(b"334 " + result + b"\r\n")
            return
        self._principal = result
        account = result.account.address.key
        self._session = attrs.evolve(self._session, account=account, mechanism=result.mechanism)
        self._say(replies.LOGGED_IN)

    def _mechanisms(self) -> tuple[str, ...]:
        """What may be announced by which to log in now."""
        settings, authenticator = self._settings, self._door.authenticator
        if settings.login == "no" or authenticator is None:
            return ()
        if not (self._secure or settings.plaintext_login):
            return ()
        return authenticator.mechanisms(channel_of(self.transport) if self._secure else None)

    def _relay_right(self, tables: ITables, session: Session) -> RelayRight:
        """Whether the session may send outside; asked once for what does not change."""
        known = self._relay
        if known is None or known[0] is not tables or known[1] is not session:
            self._relay = known = (tables, session, tables.relay_right(session))
        return known[2]

    def _useful(self) -> bool:
        """Count a command that moves no mail; False (and the client sent away) when there were too many."""
        self._idle_commands += 1
        if self._idle_commands > MAX_IDLE_COMMANDS:
            self._note_refusal(replies.TOO_MANY_ERRORS)
            self._goodbye(replies.TOO_MANY_ERRORS)
            return False
        return True
