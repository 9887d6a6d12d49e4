"""One SMTP session: the verbs of the MX door and the submission doors (RFC 5321).

Each command is a method named after its verb; :mod:`lorrainemail.smtp.connection` calls them one after the
other. State: greeted (after EHLO or HELO), then ``_open`` (after MAIL: the transaction), then ``_reader``
(after DATA, and inside each BDAT), then greeted again; ``_exchange`` while AUTH asks for lines. STARTTLS
forgets all of it and every octet that was read but not yet looked at (RFC 3207 §4.2).

Made by :class:`~lorrainemail.smtp.factory.SmtpFactory`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, Final

import attrs
from prometheus_client import Counter
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITLSTransport

from lorrainemail.envelope import Envelope, Recipient, Session
from lorrainemail.errors import INTERNAL_ERROR, MailError, Reply
from lorrainemail.grammar.smtp import (
    parse_auth,
    parse_bdat,
    parse_greeting,
    parse_mail,
    parse_rcpt,
    split_command,
)
from lorrainemail.interfaces import (
    Accepted,
    Circumstances,
    IPrincipal,
    ITables,
    RelayRight,
    Transaction,
    Verdict,
)
from lorrainemail.net.tls import tls_facts
from lorrainemail.ops.ids import new_id
from lorrainemail.sasl.mechanisms import Claim, Exchange
from lorrainemail.smtp import replies
from lorrainemail.smtp.acceptance import judge_recipient, judge_sender, judge_session, judge_stage, stopped
from lorrainemail.smtp.chunks import ChunkedMessage, ChunkReader
from lorrainemail.smtp.connection import SmtpConnection, log
from lorrainemail.smtp.data import IncomingMessage, MessageReader
from lorrainemail.smtp.door import Door
from lorrainemail.smtp.submission import submitted
from lorrainemail.smtp.transaction import OpenTransaction
from lorrainemail.smtp.xclient import renamed

#: Commands that move no mail (NOOP, VRFY, HELP, RSET, EHLO) before the client is sent away.
MAX_IDLE_COMMANDS: Final = 100
#: Failed logins of one connection (RFC 4954 §9).
MAX_FAILED_LOGINS: Final = 3

_TLS = Counter("lorrainemail_smtp_tls", "Sessions under TLS, by version", ["door", "version"])

#: What browsers and proxies say when somebody makes them speak to us.
_WEB_VERBS: Final = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS"})


#: The verbs of a session; each is the method named after it.
VERBS: Final = {
    name.encode("ascii"): name
    for name in (
        "EHLO",
        "HELO",
        "STARTTLS",
        "AUTH",
        "XCLIENT",
        "MAIL",
        "RCPT",
        "DATA",
        "BDAT",
        "RSET",
        "NOOP",
        "VRFY",
        "EXPN",
        "HELP",
        "QUIT",
    )
}


class SmtpServer(SmtpConnection):
    """See the module.

    :cvar verbs: the commands of this protocol. ``no_recipients``: said to a message for nobody.
    """

    verbs: ClassVar[dict[bytes, str]] = VERBS
    no_recipients: ClassVar[Reply] = replies.NO_RECIPIENTS

    def __init__(self, door: Door) -> None:
        super().__init__(door)
        self._principal: IPrincipal | None = None
        self._greeted = False
        self._connect_verdicts: tuple[Verdict, ...] = ()
        self._greeting_verdicts: tuple[Verdict, ...] = ()
        self._relay: tuple[ITables, Session, RelayRight] | None = None
        self._idle_commands = 0
        self._failed_logins = 0

    def _command(self, line: bytes) -> Coroutine[Any, Any, None]:
        if self._exchange is not None:
            return self._continue_login(self._exchange, line)
        verb, argument = split_command(line)
        name = self.verbs.get(verb)
        if name is None:
            return self._unknown(verb)
        self._verb = name
        method: Coroutine[Any, Any, None] = getattr(self, "do_" + name)(argument)
        return method

    async def _unknown(self, verb: bytes) -> None:
        self._verb = "unknown command"
        if verb in _WEB_VERBS:
            self._note_refusal(replies.NOT_SMTP)
            self._goodbye(replies.NOT_SMTP)
        else:
            self._refuse(replies.UNKNOWN_COMMAND)

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
            hello = door.extensions(self._secure, self._believed, relay.allowed)
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
            exchange = Exchange(mechanism, initial)
            await self._login(exchange, exchange.start())

    async def _continue_login(self, exchange: Exchange, line: bytes) -> None:
        self._exchange = None
        await self._login(exchange, exchange.receive(line))

    async def _login(self, exchange: Exchange, step: bytes | Claim) -> None:
        if not isinstance(step, Claim):
            self._exchange = exchange
            self._say(b"334 " + step + b"\r\n")
            return
        authenticator = self._door.authenticator
        assert authenticator is not None
        try:
            principal = await authenticator.authenticate(
                step.username, step.password, self._session, step.mechanism
            )
        except MailError as failure:
            # The portal has logged it, with what may be said of the name.
            self._failed_logins += 1
            if self._failed_logins >= MAX_FAILED_LOGINS:
                self._goodbye(replies.TOO_MANY_LOGINS)
            else:
                self._say(failure.reply.wire())
            return
        self._principal = principal
        account = principal.account.address.key
        self._session = attrs.evolve(self._session, account=account, mechanism=step.mechanism)
        self._say(replies.LOGGED_IN)

    def _relay_right(self, tables: ITables, session: Session) -> RelayRight:
        """Whether the session may send outside; asked once for what does not change."""
        known = self._relay
        if known is None or known[0] is not tables or known[1] is not session:
            self._relay = known = (tables, session, tables.relay_right(session))
        return known[2]

    # -- a transaction -------------------------------------------------------------------------------

    async def do_MAIL(self, argument: bytes) -> None:
        door, settings, principal = self._door, self._settings, self._principal
        if not self._greeted:
            # RFC 5321 §4.1.4.
            self._refuse(replies.GREET_FIRST)
            return
        if self._open is not None:
            self._refuse(replies.NESTED_MAIL)
            return
        if principal is None and settings.login == "required":
            may_log_in = self._secure or settings.plaintext_login
            self._refuse(replies.LOGIN_FIRST if may_log_in else replies.TLS_FIRST)
            return
        command = parse_mail(argument, door.mail_parameters)
        if command.size > settings.message_size:
            # RFC 1870 §6.1.
            self._refuse(replies.SIZE_OVER, size=command.size)
            return
        full = door.room(command.size)
        if full is not None:
            self._refuse(full)
            return
        tables = door.tables.current()
        transaction = OpenTransaction(new_id(), command, tables, door.wall_clock())
        account = None if principal is None else principal.account
        relay = self._relay_right(tables, self._session)
        decision = await judge_sender(tables, door.policy, self._session, command.sender, account, relay)
        if decision.reply is not None:
            self._refuse(decision.reply, message=transaction)
            return
        transaction.relay = decision.relay
        transaction.verdicts = self._connect_verdicts + self._greeting_verdicts + decision.verdicts
        self._open = transaction
        self._say(replies.SENDER_OK)

    async def do_RCPT(self, argument: bytes) -> None:
        transaction = self._open
        if transaction is None:
            self._refuse(replies.MAIL_FIRST)
            return
        if transaction.chunks is not None:
            self._refuse(replies.CHUNKS_BEGUN)
            return
        if len(transaction.accepted) >= self._settings.recipients:
            # RFC 5321 §4.5.3.1.10. No error of the client's: it is expected to come back.
            self._say(replies.TOO_MANY_RECIPIENTS.wire())
            return
        door, mail = self._door, transaction.command
        command = parse_rcpt(argument, door.rcpt_parameters, mail.smtputf8)
        recipient = Recipient(
            command.address, command.text, command.notify, command.orcpt, command.parameters
        )
        decision = await judge_recipient(
            transaction.tables,
            door.policy,
            door.may_accept,
            self._session,
            mail.sender,
            transaction.relay,
            recipient,
            mail.size,
        )
        if decision.reply is not None:
            self._refuse(decision.reply, recipient=command.address)
            return
        transaction.accepted.append(Accepted(recipient, decision.expansion, decision.verdicts))
        self._say(replies.RECIPIENT_OK)

    async def do_DATA(self, argument: bytes) -> None:
        transaction = self._open
        if argument:
            self._refuse(replies.NO_ARGUMENT)
        elif transaction is None:
            self._refuse(replies.MAIL_FIRST)
        elif not transaction.accepted:
            # RFC 5321 §3.3, RFC 2920 §3.1.
            self._refuse(self.no_recipients)
        elif transaction.chunks is not None:
            self._refuse(replies.CHUNKS_BEGUN)
        else:
            settings = self._settings
            mend = settings.mends(self._session.peer)
            self._reader = MessageReader(settings.spill_directory, settings.message_size, mend)
            self._say(replies.GO_AHEAD)

    async def do_BDAT(self, argument: bytes) -> None:
        try:
            count, last = parse_bdat(argument)
        except MailError as error:
            # RFC 3030 §2: octets follow, but how many? They must not be read as commands.
            self._note_refusal(error.reply)
            self._goodbye(error.reply)
            return
        transaction = self._open
        message, refusal = None, None
        if transaction is None:
            refusal = replies.MAIL_FIRST
        elif not transaction.accepted:
            refusal = self.no_recipients
        else:
            message = transaction.chunks
            if message is None:
                settings = self._settings
                mend = settings.mends(self._session.peer)
                message = ChunkedMessage(settings.spill_directory, settings.message_size, mend)
                transaction.chunks = message
            message.expect(count)
        reader = ChunkReader(count, last, message, refusal)
        if count:
            self._reader = reader
        elif last or self._useful():
            await self._chunk(reader)

    async def _chunk(self, reader: ChunkReader) -> None:
        transaction, message = self._open, reader.message
        if transaction is None or message is None:
            self._refuse(reader.refusal or replies.MAIL_FIRST)
        elif reader.last:
            self._open = None
            self._verb = "message"
            await self._message(transaction, message)
        elif message.failure is not None:
            self._refuse(message.failure.reply, message.failure.detail)
        else:
            self._say(Reply(250, "2.0.0", f"{reader.count} octets received").wire())

    async def _message(self, transaction: OpenTransaction, message: IncomingMessage) -> None:
        detail = ""
        try:
            answer = await self._deliver(transaction, message)
        except MailError as failure:
            answer, detail = failure.reply, failure.detail
        except Exception:
            log.failure(
                "Message {message} could not be taken (session {session})",
                message=transaction.id,
                session=self._session.id,
            )
            answer = INTERNAL_ERROR
        self._answer(transaction, answer, detail)

    def _answer(self, transaction: OpenTransaction, answer: Reply | Sequence[Reply], detail: str) -> None:
        """Say what became of the message."""
        assert isinstance(answer, Reply)
        if answer.positive:
            self._errors = self._idle_commands = 0
            self._say(answer.wire())
        else:
            self._refuse(answer, detail, transaction)

    def _hand_over(self, transaction: Transaction) -> Deferred[Reply] | Deferred[list[Reply]]:
        """To intake."""
        return self._door.intake.take(transaction)

    async def _deliver(
        self, transaction: OpenTransaction, message: IncomingMessage
    ) -> Reply | Sequence[Reply]:
        """Check the message and hand it to intake. The client waits."""
        door, session, principal = self._door, self._session, self._principal
        mail, tables = transaction.command, transaction.tables
        content = message.finish()
        try:
            if principal is not None:
                content = await submitted(
                    content,
                    tables,
                    principal.account,
                    mail.sender,
                    transaction.id,
                    self._settings.hostname,
                    transaction.received_at,
                )
            envelope = Envelope(
                transaction.id,
                mail.sender,
                tuple([accepted.recipient for accepted in transaction.accepted]),
                mail.size,
                mail.body,
                mail.smtputf8,
                mail.ret,
                mail.envid,
                mail.parameters,
                transaction.received_at,
                0,
                # Our own users and listed networks: a report to the sender is no backscatter.
                principal is not None or transaction.relay.allowed,
            )
            verdicts = transaction.verdicts
            if "data" in door.policy.stages:
                circumstances = Circumstances(
                    "data",
                    session,
                    tables,
                    mail.sender,
                    relay=transaction.relay,
                    envelope=envelope,
                    content=content,
                )
                judged = await judge_stage(door.policy, circumstances)
                reply = stopped(judged)
                if reply is not None:
                    return reply
                verdicts += judged
                if not envelope.sender_verified and any(verdict.verified for verdict in judged):
                    envelope = attrs.evolve(envelope, sender_verified=True)
            ours = principal is not None or transaction.relay.allowed
            fields = await door.sign(content) if ours and door.sign is not None else b""
            return await self._hand_over(
                Transaction(
                    session,
                    envelope,
                    tuple(transaction.accepted),
                    tables,
                    content,
                    verdicts,
                    ours,
                    fields,
                )
            )
        finally:
            content.close()

    # -- the small verbs -----------------------------------------------------------------------------

    def _useful(self) -> bool:
        """Count a command that moves no mail; False (and the client sent away) when there were too many."""
        self._idle_commands += 1
        if self._idle_commands > MAX_IDLE_COMMANDS:
            self._note_refusal(replies.TOO_MANY_ERRORS)
            self._goodbye(replies.TOO_MANY_ERRORS)
            return False
        return True

    async def do_RSET(self, argument: bytes) -> None:
        if argument:
            self._refuse(replies.NO_ARGUMENT)
        elif self._useful():
            self._forget_message()
            self._say(replies.OK)

    async def do_NOOP(self, argument: bytes) -> None:
        if self._useful():
            self._say(replies.OK)

    async def do_VRFY(self, argument: bytes) -> None:
        if not argument:
            self._refuse(replies.MISSING_ARGUMENT)
        elif self._useful():
            self._say(replies.VRFY)

    async def do_EXPN(self, argument: bytes) -> None:
        # RFC 5321 §3.5.2: who is on a list is nobody's business.
        self._refuse(replies.NOT_IMPLEMENTED)

    async def do_HELP(self, argument: bytes) -> None:
        if self._useful():
            self._say(replies.HELP)

    async def do_QUIT(self, argument: bytes) -> None:
        if argument:
            self._refuse(replies.NO_ARGUMENT)
            return
        self._say(replies.BYE)
        self._close()
