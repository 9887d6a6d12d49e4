"""APPEND (RFC 3501 §6.3.11), of several messages at once (RFC 3502), and REPLACE (RFC 8508).

Each message is streamed into a content; when all are there they are stored, all or none. What can be refused
is refused before the client sends the message, if it waits (a synchronising literal); else the message is
read over, so that the session goes on at the right octet.
"""

from __future__ import annotations

from typing import Final

import attrs

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_commands import AppendArguments, BadCommand
from lorrainemail.grammar.imap_input import AppendMessage, next_message
from lorrainemail.grammar.imap_sets import print_set
from lorrainemail.imap.catenate import MAX_BETWEEN, catenate, cut_literal
from lorrainemail.imap.folders import target_failure
from lorrainemail.imap.server import Bad, ImapServer, No
from lorrainemail.interfaces import IContent, IMailbox
from lorrainemail.ops.content import ContentWriter

#: Messages of one APPEND; together they may have the size of the largest single one.
MAX_MESSAGES: Final = 500


@attrs.frozen(slots=True)
class Received:
    """One message that came, and what it is to be stored with."""

    content: IContent
    arguments: AppendArguments


async def append(session: ImapServer, event: AppendMessage) -> bytes:
    """APPEND, or REPLACE, from its first literal on."""
    arguments = event.arguments
    name = arguments.name.encode("ascii")
    replaced: int | None = None
    if session.state == "unauth" or (arguments.replaces and session.state != "select"):
        session.skip_literal(event)
        raise Bad(b"%b not allowed now" % name)
    try:
        if arguments.replaces:
            replaced = _replaced(session, arguments)
        _check(session, event, 0)
        mailbox = await session.mail().open(arguments.mailbox)
    except (No, Bad):
        session.skip_literal(event)
        raise
    except MailError as failure:
        session.skip_literal(event)
        raise target_failure(failure) from None
    messages: list[Received] = []
    try:
        await _receive_all(session, event, messages)
        uids = await _store(mailbox, messages)
        code = b"[APPENDUID %d %b]" % (mailbox.uid_validity, print_set(uids))
        session.happened("APPEND", mailbox.name, uids)
        if replaced is None:
            return b"OK %b APPEND completed" % code
        await _remove_replaced(session, mailbox, replaced, uids)
        session.send(b"* OK %b Replacement ready\r\n" % code)  # RFC 8508 §3.3
        return b"OK REPLACE completed"
    finally:
        for message in messages:
            message.content.close()
        mailbox.close()


def _replaced(session: ImapServer, arguments: AppendArguments) -> int:
    """The UID of the message that REPLACE is about."""
    view = session.writable()
    number = arguments.replaces
    if arguments.by_uid:
        if view.index_of(number) < 0:
            raise No(b"[NONEXISTENT] No such message")
        uid = number
    elif "UIDONLY" in session.enabled:
        raise Bad(b"[UIDREQUIRED] Message numbers are not used here")
    elif number > len(view.uids):
        raise Bad(b"No such message")
    else:
        uid = view.uids[number - 1]
    if view.mailbox.flags(uid) is None:
        raise No(b"[EXPUNGEISSUED] The message is gone")
    return uid


async def _remove_replaced(session: ImapServer, mailbox: IMailbox, replaced: int, uids: list[int]) -> None:
    """The new message is there: the old one goes, or, where it cannot, the new one."""
    try:
        gone = await session.writable().mailbox.expunge([replaced])
    except BaseException:
        await mailbox.expunge(uids)
        raise
    if not gone:
        await mailbox.expunge(uids)
        raise No(b"[EXPUNGEISSUED] The message is gone")


def _check(session: ImapServer, event: AppendMessage, before: int) -> None:
    """Whether a message may come, after so many octets of others."""
    if event.size > session.shared.message_size:
        raise No(b"[TOOBIG] Message too large")
    if before + event.size > session.shared.message_size:
        raise No(b"[LIMIT] Too much for one APPEND")
    if not event.size and not event.arguments.catenates:
        raise No(b"[CANNOT] Message is empty")  # RFC 3502 §6.3.11: cancels a multiple append, too
    if event.arguments.utf8 and not session.utf8:
        raise Bad(b"UTF8 was not enabled")  # RFC 6855 §4


async def _receive_all(session: ImapServer, event: AppendMessage, messages: list[Received]) -> None:
    """Each message of the command, the first one checked already."""
    size = 0
    while True:
        if event.arguments.catenates:
            content, event = await catenate(session, event, session.shared.message_size - size)
            messages.append(Received(content, event.arguments))
            size += content.size
            rest = event.arguments.behind
        else:
            content = await _receive(session, event)
            messages.append(Received(content, event.arguments))
            size += event.size
            rest = await session.read_line(MAX_BETWEEN)
        if event.arguments.utf8:
            if not rest.startswith(b")"):
                raise Bad(b'")" is missing')
            rest = rest[1:]
        if not rest:
            break
        try:
            following = next_message(event, rest)
        except BadCommand as bad:
            cut_literal(session, rest)
            raise Bad(bad.text.encode("ascii")) from None
        if following is None or event.arguments.replaces:
            cut_literal(session, rest)
            raise Bad(b"Unexpected text after the message")
        event = following
        try:
            _check(session, event, size)
            if len(messages) >= MAX_MESSAGES:
                raise No(b"[LIMIT] Too many messages for one APPEND")
        except (No, Bad):
            session.skip_literal(event)
            raise


async def _receive(session: ImapServer, event: AppendMessage) -> IContent:
    """One message. A failure of ours is told after the client has sent it all."""
    writer = ContentWriter(session.shared.spill_directory)
    failures: list[MailError] = []
    nul = False

    def write(chunk: bytes) -> None:
        nonlocal nul
        nul = nul or b"\0" in chunk
        if failures:
            return
        try:
            writer.write(chunk)
        except MailError as failure:
            failures.append(failure)  # the rest is read over

    try:
        if event.waits:
            session.send(b"+ Ready for the message\r\n")
        await session.read_octets(event.size, write)
    except BaseException:
        writer.abort()
        raise
    if failures or (nul and event.binary):
        writer.abort()
        await session.read_line(MAX_BETWEEN)
        if failures:
            raise failures[0]
        raise No(b"[UNKNOWN-CTE] NUL cannot be stored")  # RFC 3516 §4.4
    return writer.finish()


async def _store(mailbox: IMailbox, messages: list[Received]) -> list[int]:
    """All or none of them (RFC 3502 §6.3.11)."""
    uids: list[int] = []
    try:
        for message in messages:
            arguments = message.arguments
            uids.append(await mailbox.append(message.content, arguments.flags, arguments.date))
    except BaseException as failure:
        if uids:
            await mailbox.expunge(uids)
        if isinstance(failure, MailError):
            raise target_failure(failure) from None
        raise
    return uids
