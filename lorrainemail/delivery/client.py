"""An SMTP session with a next hop, verb by verb, as the RFCs name them.

:class:`ClientSession` is one connection that can carry several messages. The remote courier opens it, hands
it messages, keeps it or quits. Every reply to MAIL, RCPT, DATA and the final dot becomes an outcome for each
recipient; everything else that goes wrong is a :class:`SessionLost` (the connection) or :class:`Unusable`
(the host said no before any mail was spoken of).

Decisions, beyond the letter of RFC 5321:

- With PIPELINING (RFC 2920) MAIL, RCPT and DATA go out at once.
- 552 to RCPT is 452 (RFC 5321 §4.5.3.1.10).
- With CHUNKING (RFC 3030) a message goes as one BDAT: no dots, and no end that anybody could mistake.
- 8-bit content for a host without 8BITMIME is converted part by part (RFC 6152 §3), or refused with 5.6.3
  where that may not be done (:mod:`lorrainemail.message.downgrade`); never "just sent".
- A UTF-8 address or header for a host without SMTPUTF8 is refused with 5.6.7 (RFC 6531 §3.5).
- What a server says of its limits (LIMITS, RFC 9422) is kept: recipients are split, sessions ended.
- REQUIRETLS goes on only under TLS to hosts that know it (RFC 8689 §4.2), BY with its mode R only to hosts
  that know it (RFC 2852 §4); where no host of the recipient's does, the courier returns the message.
- DSN parameters go on only to hosts that know them (RFC 3461 §5.2.1).
- A connection lost after the final dot and before its reply leaves the message's fate unknown: it is
  deferred, and not offered to another host in the same attempt.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from typing import Final, Literal

import attrs
from twisted.internet.defer import CancelledError, Deferred

from lorrainemail.delivery.replies import RemoteReply
from lorrainemail.delivery.wire import InThread, SessionLost, Wire, encode_line
from lorrainemail.envelope import Envelope, Recipient
from lorrainemail.errors import MailError, Reply
from lorrainemail.grammar.smtp import encode_orcpt, encode_xtext
from lorrainemail.grammar.smtp_wishes import NONE, DeliverBy, Wishes, wishes_of
from lorrainemail.grammar.smtp_xforward import commands as xforward_commands
from lorrainemail.interfaces import IContent
from lorrainemail.message.downgrade import MAX_OCTETS, CannotDowngrade, downgraded
from lorrainemail.ops.content import Content, ContentWriter, SpilledContent

#: RFC 5321 §4.5.3.2.1 to §4.5.3.2.6, in seconds.
GREETING_TIME: Final = 300
MAIL_TIME: Final = 300
RCPT_TIME: Final = 300
DATA_TIME: Final = 120
BLOCK_TIME: Final = 180
FINAL_DOT_TIME: Final = 600
#: The RFC names none for these.
EHLO_TIME: Final = 300
STARTTLS_TIME: Final = 120
AUTH_TIME: Final = 120
RSET_TIME: Final = 20
QUIT_TIME: Final = 5
#: RCPTs in one transaction: what every server must take (RFC 5321 §4.5.3.1.8).
MAX_RECIPIENTS: Final = 100
#: Said of a host that cannot do what the sender asks for; another may.
NO_REQUIRETLS: Final = Reply(450, "4.7.30", "the server does not know REQUIRETLS")
NO_DELIVERBY: Final = Reply(450, "4.3.3", "the server does not promise delivery by a time")
#: RFC 2852 §4: no host need be asked.
TOO_LATE: Final = Reply(550, "5.4.7", "the time by which it was to be delivered is over")
#: Octets of a message that are searched for the end of its header.
MAX_HEADER: Final = 256 << 10


class Unusable(Exception):
    """The host does not want to talk to us, or cannot as we must: no mail was spoken of.

    ``remote`` tells its words from ours; ``tls`` that TLS was the reason, so that clear text might do.
    """

    def __init__(self, reply: Reply, remote: bool = True, tls: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.remote = remote
        self.tls = tls


@attrs.frozen(slots=True)
class Sent:
    """What one recipient got.

    :ivar reply: the decisive one. ``remote``: the server's own words.
    :ivar uncertain: it may have been delivered all the same.
    """

    reply: Reply
    remote: bool = True
    uncertain: bool = False


def _protocol_fault(verb: str, reply: RemoteReply) -> SessionLost:
    return SessionLost(Reply(421, "4.5.0", f"unexpected reply to {verb}: {reply.reply}"))


class ClientSession:
    """One session.

    :param wire: its connection, just made.
    :param hostname: our name, said in EHLO.
    :param in_thread: runs the reading of message files.
    :param spill: where a large message that had to be converted is kept meanwhile; "" is the system's place.
    """

    def __init__(self, wire: Wire, hostname: str, in_thread: InThread, spill: str = "") -> None:
        self.wire = wire
        self._spill = spill
        #: Whom the next message came from, to be told by XFORWARD; empty: not told.
        self.origin: tuple[tuple[str, str], ...] = ()
        self.extensions: dict[str, str] = {}
        self.transactions = 0
        self._hostname = hostname
        self._in_thread = in_thread
        self._clean = True

    @property
    def usable(self) -> bool:
        """Whether it can carry another message."""
        return self.wire.over is None and self._clean

    @property
    def full(self) -> bool:
        """Whether the server wants no further message in this session (RFC 9422 §4.1)."""
        most = self._limit("MAILMAX")
        return bool(most) and self.transactions >= most

    def _limit(self, name: str) -> int:
        """A limit that the server announces (RFC 9422 §4), 0 where it does not."""
        for word in self.extensions.get("LIMITS", "").upper().split():
            keyword, _, value = word.partition("=")
            if keyword == name and value.isascii() and value.isdigit():
                return int(value[:9])
        return 0

    # -- the beginning ---------------------------------------------------------------------------

    async def greet(self) -> None:
        """Wait for 220, say EHLO, or HELO to those who do not know it."""
        reply = await self.wire.expect("greeting", GREETING_TIME)
        if reply.code != 220:
            raise Unusable(reply.reply)
        await self.ehlo()

    async def ehlo(self) -> None:
        reply = await self.wire.command(f"EHLO {self._hostname}", EHLO_TIME)
        if reply.code == 250:
            self.extensions = extensions_of(reply)
            return
        if reply.code < 500:
            raise Unusable(reply.reply)
        self.extensions = {}
        reply = await self.wire.command(f"HELO {self._hostname}", EHLO_TIME)
        if reply.code != 250:
            raise Unusable(reply.reply)

    async def starttls(self, creator: object) -> None:
        """RFC 3207: ask, shake hands, and say EHLO anew; all that was learnt in clear text is forgotten.

        :raises Unusable: with ``tls``, where the server does not offer it, or refuses; the session goes on.
        """
        if "STARTTLS" not in self.extensions:
            raise Unusable(Reply(454, "4.7.4", "the server does not offer TLS"), remote=False, tls=True)
        reply = await self.wire.command("STARTTLS", STARTTLS_TIME)
        if reply.code != 220:
            raise Unusable(reply.reply, tls=True)
        await self.wire.start_tls(creator, STARTTLS_TIME)
        await self.ehlo()

    async def auth(self, user: str, secret: str) -> None:
        """RFC 4954, PLAIN or LOGIN. The caller sees to it that the line is safe."""
        offered = self.extensions.get("AUTH", "").upper().split()
        if "PLAIN" in offered:
            token = base64.b64encode(f"\0{user}\0{secret}".encode()).decode("ascii")
            reply = await self.wire.command(f"AUTH PLAIN {token}", AUTH_TIME)
        elif "LOGIN" in offered:
            reply = await self.wire.command("AUTH LOGIN", AUTH_TIME)
            for word in (user, secret):
                if reply.code == 334:
                    answer = base64.b64encode(word.encode()).decode("ascii")
                    self.wire.write(answer.encode("ascii") + b"\r\n")
                    reply = await self.wire.expect("AUTH", AUTH_TIME)
        else:
            raise Unusable(Reply(454, "4.7.0", "the server offers no login that we know"), remote=False)
        if reply.code != 235:
            raise Unusable(reply.reply)

    # -- a message -------------------------------------------------------------------------------

    async def send(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent
    ) -> list[Sent]:
        """One message to at most :data:`MAX_RECIPIENTS`; what became of each, in order. Never fails."""
        most = self._limit("RCPTMAX")
        if most and len(recipients) > most:
            found: list[Sent] = []
            for start in range(0, len(recipients), most):
                found += await self.send(envelope, recipients[start : start + most], content)
            return found
        refusal = await self._cannot(envelope, content)
        if refusal is not None:
            return [Sent(refusal, remote=False)] * len(recipients)
        if "SMTPUTF8" not in self.extensions and not all(one.address.is_ascii for one in recipients):
            return await self._send_to_ascii(envelope, recipients, content)
        if not content.eight_bit or "8BITMIME" in self.extensions:
            return await self._transaction(envelope, recipients, content)
        try:
            converted = await self._in_thread(lambda: _seven_bit(content, self._spill))
        except CannotDowngrade as why:
            words = f"the server cannot take 8-bit messages, and this one cannot be converted: {why}"
            return [Sent(Reply(554, "5.6.3", words), remote=False)] * len(recipients)
        except MailError as error:
            return [Sent(error.reply, remote=False)] * len(recipients)
        try:
            over = self._too_large(converted)
            if over is not None:
                return [Sent(over, remote=False)] * len(recipients)
            return await self._transaction(envelope, recipients, converted)
        finally:
            converted.close()

    async def _transaction(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent
    ) -> list[Sent]:
        """From MAIL to the end of the message, which the server can take."""
        self.transactions += 1
        if self.origin and "XFORWARD" in self.extensions:
            await self._forward(dict(self.origin))
        mail = self._mail(envelope, recipients, content)
        rcpts = [self._rcpt(recipient) for recipient in recipients]
        try:
            if "PIPELINING" in self.extensions:
                return await self._transaction_at_once(mail, rcpts, content)
            return await self._transaction_in_turn(mail, rcpts, content)
        except SessionLost as lost:
            return [Sent(lost.reply, lost.remote)] * len(recipients)

    async def _send_to_ascii(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent
    ) -> list[Sent]:
        """To a server without SMTPUTF8: those recipients that it can be told of."""
        refused = Sent(Reply(550, "5.6.7", "the server cannot take international addresses"), remote=False)
        possible = [one for one in recipients if one.address.is_ascii]
        sent = iter(await self.send(envelope, possible, content) if possible else ())
        return [next(sent) if one.address.is_ascii else refused for one in recipients]

    async def _cannot(self, envelope: Envelope, content: IContent) -> Reply | None:
        """Why this server cannot take such a message at all."""
        over = self._too_large(content)
        if over is not None:
            return over
        if envelope.parameters:
            wishes = wishes_of(envelope)
            if wishes.require_tls and not (self.wire.secure and "REQUIRETLS" in self.extensions):
                return NO_REQUIRETLS
            by = wishes.deliver_by
            if by is not None and by.mode == "R":
                left = self._time_left(envelope, by)
                if left <= 0 or not self._keeps_time(by, left):
                    return TOO_LATE if left <= 0 else NO_DELIVERBY
        if "SMTPUTF8" not in self.extensions:
            if envelope.sender is not None and not envelope.sender.is_ascii:
                return Reply(550, "5.6.7", "the server cannot take international addresses")
            if envelope.smtputf8 and content.eight_bit and not await self._header_is_ascii(content):
                return Reply(550, "5.6.7", "the server cannot take international headers")
        return None

    def _time_left(self, envelope: Envelope, by: DeliverBy) -> int:
        return int(envelope.received_at + by.seconds - self.wire.now())

    def _keeps_time(self, by: DeliverBy, left: int) -> bool:
        """Whether the server takes a message to be delivered in so many seconds."""
        least = self.extensions.get("DELIVERBY")
        if least is None:
            return False
        # RFC 2852 §4: the least time that it deals with; of mode R alone.
        return by.mode == "N" or not least.isdigit() or int(least[:9]) <= left

    def _wished(self, envelope: Envelope, wishes: Wishes) -> list[str]:
        """The parameters that say on what the sender asked for."""
        words = []
        if wishes.require_tls:
            words.append("REQUIRETLS")
        if wishes.priority is not None and "MT-PRIORITY" in self.extensions:
            words.append(f"MT-PRIORITY={wishes.priority}")
        by = wishes.deliver_by
        if by is not None:
            left = self._time_left(envelope, by)
            if self._keeps_time(by, left):
                words.append(f"BY={left};{by.mode}{'T' if by.trace else ''}")
        return words

    def _too_large(self, content: IContent) -> Reply | None:
        limit = self.extensions.get("SIZE", "")
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < content.size:  # RFC 1870 §6.1
            return Reply(552, "5.3.4", f"the message is larger than the {limit[:20]} octets the server takes")
        return None

    async def _header_is_ascii(self, content: IContent) -> bool:
        if content.in_memory() is not None:
            head = content.head(MAX_HEADER)
        else:
            head = await self._in_thread(lambda: content.head(MAX_HEADER))
        return bool(head.partition(b"\r\n\r\n")[0].isascii())

    async def _forward(self, origin: dict[str, str]) -> None:
        """Say whom the next message came from. A server that does not want to know gets it all the same."""
        offered = self.extensions["XFORWARD"].upper().split()
        for line in xforward_commands(origin, offered):
            try:
                await self.wire.command(line, MAIL_TIME)
            except SessionLost:
                return  # the next command finds out

    def _mail(self, envelope: Envelope, recipients: Sequence[Recipient], content: IContent) -> str:
        sender = "" if envelope.sender is None else str(envelope.sender)
        words = [f"MAIL FROM:<{sender}>"]
        if "SIZE" in self.extensions:
            words.append(f"SIZE={content.size}")
        if "8BITMIME" in self.extensions and (content.eight_bit or envelope.body.upper() == "8BITMIME"):
            words.append("BODY=8BITMIME")
        if "SMTPUTF8" in self.extensions and (
            envelope.smtputf8 or not all(one.address.is_ascii for one in recipients) or not sender.isascii()
        ):
            words.append("SMTPUTF8")
        wishes = wishes_of(envelope) if envelope.parameters else NONE
        if wishes is not NONE:
            words += self._wished(envelope, wishes)
        if "DSN" in self.extensions:
            if envelope.ret or wishes.require_tls:
                # RFC 8689 §5: a report may go by other ways than the message.
                words.append(f"RET={'HDRS' if wishes.require_tls else envelope.ret}")
            if envelope.envid:
                words.append(f"ENVID={encode_xtext(envelope.envid)}")
        return " ".join(words)

    def _rcpt(self, recipient: Recipient) -> str:
        words = [f"RCPT TO:<{recipient.address}>"]
        if "DSN" in self.extensions:
            if recipient.notify:
                words.append(f"NOTIFY={','.join(recipient.notify)}")
            if ";" in recipient.orcpt:
                words.append(f"ORCPT={encode_orcpt(recipient.orcpt)}")
        return " ".join(words)

    async def _transaction_at_once(self, mail: str, rcpts: Sequence[str], content: IContent) -> list[Sent]:
        """RFC 2920 §3.1: the whole group in one write; DATA's reply decides. A BDAT waits for the replies:
        behind it come the octets at once, which nobody may want."""
        wire = self.wire
        chunked = "CHUNKING" in self.extensions
        lines = [mail, *rcpts] if chunked else [mail, *rcpts, "DATA"]
        wire.write(b"".join(map(encode_line, lines)))
        seconds = [MAIL_TIME, *[RCPT_TIME] * len(rcpts), DATA_TIME][: len(lines)]
        waiting = [
            wire.expect(line.split(" ", 1)[0], time) for line, time in zip(lines, seconds, strict=True)
        ]
        replies: list[RemoteReply | SessionLost] = []
        for one in waiting:
            try:
                replies.append(await one)
            except SessionLost as lost:
                replies.append(lost)
        refused = _refused("MAIL", replies[0])
        middle = replies[1 : len(rcpts) + 1]
        sent: list[Sent | None] = [refused or _rcpt_refused(one) for one in middle]
        if chunked:
            return await self._bdat(sent, content)
        return await self._data(replies[-1], sent, content)

    async def _transaction_in_turn(self, mail: str, rcpts: Sequence[str], content: IContent) -> list[Sent]:
        refused = _refused("MAIL", await self.wire.command(mail, MAIL_TIME))
        if refused is not None:
            await self._reset()
            return [refused] * len(rcpts)
        sent: list[Sent | None] = []
        for line in rcpts:
            try:
                sent.append(_rcpt_refused(await self.wire.command(line, RCPT_TIME)))
            except SessionLost as lost:
                sent.append(Sent(lost.reply, lost.remote))
        if "CHUNKING" in self.extensions:
            return await self._bdat(sent, content)
        if all(one is not None for one in sent):
            await self._reset()
            return [one for one in sent if one is not None]
        data: RemoteReply | SessionLost
        try:
            data = await self.wire.command("DATA", DATA_TIME)
        except SessionLost as lost:
            data = lost
        return await self._data(data, sent, content)

    async def _data(
        self, data: RemoteReply | SessionLost, sent: list[Sent | None], content: IContent
    ) -> list[Sent]:
        """From DATA's reply to the end; ``sent`` holds None for each accepted recipient."""
        accepted = any(one is None for one in sent)
        rest: Sent
        if isinstance(data, SessionLost):
            rest = Sent(data.reply, data.remote)
        elif data.code != 354:
            rest = _refused("DATA", data) or _unexpected("DATA", data)
            if data.code < 400:
                self._clean = False
            await self._reset()
        elif not accepted:
            await self._lone_dot()
            rest = Sent(Reply(451, "4.5.0", "no recipient was accepted"), remote=False)
        else:
            rest = await self._message(content)
        return [one or rest for one in sent]

    async def _bdat(self, sent: list[Sent | None], content: IContent) -> list[Sent]:
        """RFC 3030 §2: the message as one chunk, where anybody was accepted."""
        if all(one is not None for one in sent):
            await self._reset()
            return [one for one in sent if one is not None]
        self.wire.write(encode_line(f"BDAT {content.size} LAST"))
        rest = await self._message(content, "BDAT")
        return [one or rest for one in sent]

    async def _lone_dot(self) -> None:
        """RFC 2920 §3.1: a 354 although no recipient was accepted. Whatever it answers, nothing was sent."""
        self.wire.write(b".\r\n")
        try:
            await self.wire.expect("final dot", FINAL_DOT_TIME)
        except SessionLost:
            return
        await self._reset()

    async def _message(self, content: IContent, verb: Literal["DATA", "BDAT"] = "DATA") -> Sent:
        """The octets behind the verb, and what the server says of them."""
        final = self.wire.expect(verb, 0)
        self._clean = False
        dotted = False
        try:
            dotted = await self.wire.send_message(
                content, self._in_thread, BLOCK_TIME, final, counted=verb == "BDAT"
            )
        except SessionLost:
            pass  # final has it too
        except CancelledError:
            _swallow(final)
            raise
        except Exception as error:  # the message could not be read: it must not end with a dot
            self.wire.end(SessionLost(Reply(451, "4.3.0", "the message could not be read here")))
            _swallow(final)
            return Sent(
                Reply(451, "4.3.0", f"the message could not be read here: {type(error).__name__}"), False
            )
        if dotted:
            self.wire.hasten(FINAL_DOT_TIME)
        try:
            reply = await final
        except SessionLost as lost:
            return Sent(lost.reply, lost.remote, uncertain=dotted)
        if not dotted:
            # an early reply: the rest of the message cannot be taken back, so neither can the session
            self.wire.end(_protocol_fault("half a message", reply))
            return _refused(verb, reply) or _unexpected("half a message", reply)
        if reply.code // 100 == 2:
            self._clean = True
            return Sent(reply.reply)
        refused = _refused("the final dot", reply)
        if refused is None:
            return _unexpected("the final dot", reply)
        self._clean = True
        await self._reset()
        return refused

    async def _reset(self) -> None:
        """Back to the beginning of a transaction; where that fails the session is no longer used."""
        try:
            reply = await self.wire.command("RSET", RSET_TIME)
            self._clean = self._clean and reply.code == 250
        except SessionLost:
            pass

    # -- the end ---------------------------------------------------------------------------------

    async def quit(self) -> None:
        """Politely, and then in any case. Never fails."""
        try:
            await self.wire.command("QUIT", QUIT_TIME)
        except SessionLost:
            return
        self.wire.end(SessionLost(Reply(221, "2.0.0", "we closed the session")), politely=True)


def _refused(verb: str, reply: RemoteReply | SessionLost) -> Sent | None:
    """The outcome that a reply means for all recipients; None where it lets us go on."""
    if isinstance(reply, SessionLost):
        return Sent(reply.reply, reply.remote)
    if reply.code // 100 == 2:
        return None
    if reply.code // 100 == 3:
        return _unexpected(verb, reply)
    return Sent(reply.reply)


def _rcpt_refused(reply: RemoteReply | SessionLost) -> Sent | None:
    if isinstance(reply, RemoteReply) and reply.code == 552:
        said = reply.reply
        enhanced = "4" + said.enhanced[1:] if said.enhanced else "4.5.3"
        return Sent(attrs.evolve(said, code=452, enhanced=enhanced))
    return _refused("RCPT", reply)


def _unexpected(verb: str, reply: RemoteReply) -> Sent:
    return Sent(Reply(451, "4.5.0", f"unexpected reply to {verb}: {reply.reply}"), remote=False)


def extensions_of(reply: RemoteReply) -> dict[str, str]:
    """EHLO keywords in upper case with their parameters; several lines of one keyword are joined."""
    found: dict[str, str] = {}
    for line in reply.lines[1:]:
        text = line.decode("ascii", "replace").strip()
        if text.upper().startswith("AUTH="):  # before RFC 2554, and still in use
            text = "AUTH " + text[5:]
        keyword, _, value = text.partition(" ")
        if keyword:
            keyword = keyword.upper()
            found[keyword] = f"{found[keyword]} {value}".strip() if keyword in found else value.strip()
    return found


def _seven_bit(content: IContent, spill: str) -> Content | SpilledContent:
    """A content without octets over 127; the caller closes it. Not in the reactor's thread."""
    if content.size > MAX_OCTETS:
        raise CannotDowngrade("it is too large to be converted")
    writer = ContentWriter(spill or tempfile.gettempdir())
    try:
        for piece in downgraded(content.in_memory() or b"".join(content.chunks())):
            writer.write(piece)
        return writer.finish()
    except BaseException:
        writer.abort()
        raise


def _swallow(deferred: Deferred[RemoteReply]) -> None:
    deferred.addErrback(lambda _: None)
