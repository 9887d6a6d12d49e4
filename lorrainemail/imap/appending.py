"""APPEND (RFC 3501 §6.3.11, RFC 4315 §3): its message is streamed into a content, then stored.

What can be refused is refused before the client sends the message, if it waits (a synchronising literal);
else the message is read over, so that the session goes on at the right octet.
"""

from __future__ import annotations

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_input import AppendMessage
from lorrainemail.imap.folders import target_failure
from lorrainemail.imap.server import Bad, ImapServer, No
from lorrainemail.interfaces import IMailbox
from lorrainemail.ops.content import ContentWriter


async def append(session: ImapServer, event: AppendMessage) -> bytes:
    """One APPEND, from its literal on."""
    if session.state == "unauth":
        session.skip_literal(event)
        raise Bad(b"APPEND not allowed now")
    if event.size > session.shared.message_size:
        session.skip_literal(event)
        raise No(b"[TOOBIG] Message too large")
    if not event.size:
        session.skip_literal(event)
        raise No(b"[CANNOT] Message is empty")  # RFC 3502 §6.3.11: cancels a multiple append, too
    try:
        mailbox = await session.mail().open(event.arguments.mailbox)
    except MailError as failure:
        session.skip_literal(event)
        raise target_failure(failure) from None
    try:
        return await _receive(session, event, mailbox)
    finally:
        mailbox.close()


async def _receive(session: ImapServer, event: AppendMessage, mailbox: IMailbox) -> bytes:
    writer = ContentWriter(session.shared.spill_directory)
    failures: list[MailError] = []

    def write(chunk: bytes) -> None:
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
        rest = await session.read_line(100)
    except BaseException:
        writer.abort()
        raise
    if rest:
        writer.abort()
        if rest.endswith(b"}"):
            session.bye(b"One message at a time")
        raise Bad(b"Unexpected text after the message")
    if failures:
        raise failures[0]
    content = writer.finish()
    try:
        uid = await mailbox.append(content, event.arguments.flags, event.arguments.date)
    except MailError as failure:
        raise target_failure(failure) from None
    finally:
        content.close()
    return b"OK [APPENDUID %d %d] APPEND completed" % (mailbox.uid_validity, uid)
