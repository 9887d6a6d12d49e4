"""One SMTP session: the verbs of the MX door and the submission doors (RFC 5321).

Each command is a method named after its verb; :mod:`lorrainemail.smtp.connection` calls them one after the
other. Here are those that move mail; who the client is, :mod:`lorrainemail.smtp.session` finds out. State:
greeted (after EHLO or HELO), then ``_open`` (after MAIL: the transaction), then ``_reader`` (after DATA, and
inside each BDAT), then greeted again; ``_exchange`` while AUTH asks for lines.

Made by :class:`~lorrainemail.smtp.factory.SmtpFactory`.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar, Final

import attrs
from twisted.internet.defer import Deferred

from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import INTERNAL_ERROR, MailError, PermanentError, Reply, TemporaryError
from lorrainemail.grammar.smtp import parse_bdat, parse_mail, parse_rcpt, split_command
from lorrainemail.interfaces import Accepted, Circumstances, IContent, Transaction, Verdict
from lorrainemail.ops.ids import new_id
from lorrainemail.smtp import replies
from lorrainemail.smtp.acceptance import (
    changed,
    for_each,
    judge_recipient,
    judge_sender,
    judge_stage,
    stopped,
    why,
)
from lorrainemail.smtp.chunks import ChunkedMessage, ChunkReader
from lorrainemail.smtp.connection import log
from lorrainemail.smtp.data import IncomingMessage, MessageReader
from lorrainemail.smtp.session import SmtpSession
from lorrainemail.smtp.submission import submitted
from lorrainemail.smtp.transaction import OpenTransaction
from lorrainemail.smtp.wishes import refused

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
        "XFORWARD",
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


class SmtpServer(SmtpSession):
    """See the module.

    :cvar verbs: the commands of this protocol. ``no_recipients``: said to a message for nobody.
    """

    verbs: ClassVar[dict[bytes, str]] = VERBS
    no_recipients: ClassVar[Reply] = replies.NO_RECIPIENTS
    # When the open transaction's message may go on, 0 for at once.
    _release = 0.0

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
        if self._session.origin:
            if self._origin_used:
                self._session = attrs.evolve(self._session, origin=())
            self._origin_used = True
        self._release = 0.0
        if command.wishes is not None:
            now = transaction.received_at
            trusted = relay.allowed
            refusal = refused(command.wishes, self._secure, principal is not None, trusted, now)
            if refusal is not None:
                self._refuse(refusal)
                return
            self._release = command.wishes.release_at(now)
        decision = await judge_sender(tables, door.policy, self._session, command.sender, account, relay)
        if decision.reply is not None:
            self._refuse(decision.reply, why(decision.verdicts), message=transaction)
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
            earlier=transaction.verdicts,
        )
        if decision.reply is not None:
            self._refuse(decision.reply, why(decision.verdicts), recipient=command.address)
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
        """To intake, or, where the sender wants it, to those that keep it for later."""
        hold = self._door.hold
        if self._release and hold is not None:
            return hold(transaction, self._release)
        return self._door.intake.take(transaction)

    async def _deliver(
        self, transaction: OpenTransaction, message: IncomingMessage
    ) -> Reply | Sequence[Reply]:
        """Check the message and hand it to intake. The client waits."""
        door, session, principal = self._door, self._session, self._principal
        mail, tables = transaction.command, transaction.tables
        content = message.finish()
        judged: tuple[Verdict, ...] = ()
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
            accepted = tuple(transaction.accepted)
            taken: IContent = content
            if "data" in door.policy.stages:
                circumstances = Circumstances(
                    "data",
                    session,
                    tables,
                    mail.sender,
                    relay=transaction.relay,
                    envelope=envelope,
                    content=content,
                    accepted=accepted,
                    earlier=verdicts,
                )
                judged = await judge_stage(door.policy, circumstances)
                reply = stopped(judged)
                if reply is not None:
                    raise (PermanentError if reply.permanent else TemporaryError)(reply, why(judged))
                verdicts += judged
                accepted = for_each(accepted, judged)
                taken = changed(content, judged)
                if not envelope.sender_verified and any(verdict.verified for verdict in judged):
                    envelope = attrs.evolve(envelope, sender_verified=True)
            ours = principal is not None or transaction.relay.allowed
            fields = await door.sign(taken) if ours and door.sign is not None else b""
            return await self._hand_over(
                Transaction(
                    session,
                    envelope,
                    accepted,
                    tables,
                    taken,
                    verdicts,
                    ours,
                    fields,
                )
            )
        finally:
            content.close()
            for verdict in judged:
                if verdict.content is not None:
                    verdict.content.close()

    # -- the small verbs -----------------------------------------------------------------------------

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
