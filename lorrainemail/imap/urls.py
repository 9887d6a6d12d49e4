"""IMAP URLs (RFC 5092) as CATENATE gives them: to a message, or a part of one, of who is logged in.

:func:`parse_url` is pure; :func:`read_url` opens the mailbox and answers with ranges of octets, so that a
large message is never held whole. What leads nowhere is :class:`BadUrl`, whatever the reason: the mailbox is
not there, its UIDVALIDITY is another, the message or its part is gone, or the URL is of another server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

import attrs

from lorrainemail.errors import PermanentError
from lorrainemail.grammar.imap_fetch import FetchItem, fetch_item
from lorrainemail.grammar.imap_names import decode_name
from lorrainemail.grammar.imap_scan import Scanner, SyntaxFault
from lorrainemail.imap.octets import Source
from lorrainemail.imap.server import ImapServer, No
from lorrainemail.interfaces import IMailbox
from lorrainemail.message.quoting import string

#: Octets of a URL; a mailbox name and a section need no more.
MAX_URL: Final = 4000
#: A PARTIAL without its length goes to the end.
_TO_THE_END: Final = 0xFFFFFFFF

#: Octets of a message that are read at once.
CHUNK: Final = 64 * 1024

_ABSOLUTE = re.compile(rb"imap://(?:([^@/]*)@)?([^@/:]+)(?::[0-9]{1,5})?(?=/)", re.IGNORECASE)
_PATH = re.compile(
    rb"(?:/(?P<mailbox>[^;]+?)(?:;UIDVALIDITY=(?P<validity>[0-9]{1,10}))?/)?/?;UID=(?P<uid>[0-9]{1,10})"
    rb"(?:/;SECTION=(?P<section>[^;]*?))?(?:/;PARTIAL=(?P<start>[0-9]{1,10})(?:\.(?P<count>[0-9]{1,10}))?)?/?",
    re.IGNORECASE,
)


class BadUrl(Exception):
    """The URL leads to nothing that may be read here."""


@attrs.frozen(slots=True)
class ImapUrl:
    """A message or a part of one.

    :ivar server: of an absolute URL, lower case; ``user`` too; "" where they are not said.
    :ivar mailbox: None for the selected one.
    :ivar uid_validity: 0 where it is not said.
    """

    server: str
    user: str
    mailbox: str | None
    uid_validity: int
    uid: int
    item: FetchItem


def parse_url(text: bytes) -> ImapUrl:
    """A URL of a message (RFC 5092 §2 ``imapurl``, §7.2 relative ones).

    :raises BadUrl: for any other.
    """
    server = user = ""
    absolute = _ABSOLUTE.match(text)
    if absolute is not None:
        given, host = absolute.groups()
        server = host.decode("latin-1").lower()
        # ";AUTH=..." says how to log in, which is done
        user = unquote_to_bytes((given or b"").partition(b";")[0]).decode("utf-8", "replace")
        text = text[absolute.end() :]
    match = _PATH.fullmatch(text) if len(text) <= MAX_URL else None
    if match is None or (absolute is not None and match["mailbox"] is None):
        raise BadUrl
    section = unquote_to_bytes(match["section"] or b"")
    wanted = b"BODY.PEEK[%b]" % section
    if match["start"] is not None:
        wanted += b"<%d.%d>" % (int(match["start"]), int(match["count"] or _TO_THE_END))
    scanner = Scanner(wanted)
    try:
        (item,) = fetch_item(scanner, macros=False)
        scanner.end()
        name = match["mailbox"]
        mailbox = None if name is None else decode_name(unquote_to_bytes(name), utf8=True)
    except (SyntaxFault, ValueError):
        raise BadUrl from None
    return ImapUrl(server, user, mailbox, int(match["validity"] or 0), int(match["uid"]), item)


def refusal(text: bytes) -> No:
    """RFC 4469 §5.1."""
    return No(b"[BADURL %b] That leads to nothing here" % string(text))


async def read_url(
    session: ImapServer, text: bytes, begin: Callable[[int], None], write: Callable[[bytes], None]
) -> None:
    """Hand over what the URL means.

    :param begin: told first how many octets come; may refuse.
    :raises BadUrl: before anything was handed over.
    """
    url = parse_url(text)
    _check_server(session, url)
    try:
        mailbox, ours = await _mailbox(session, url)
    except PermanentError:
        raise BadUrl from None
    source = Source(session, mailbox, url.uid)
    try:
        if url.uid_validity not in (0, mailbox.uid_validity):
            raise BadUrl
        try:
            found = await source.section(url.item)
        except PermanentError:
            raise BadUrl from None
        if found is None:
            raise BadUrl
        if isinstance(found, bytes):
            begin(len(found))
            write(found)
            return
        begin(found.end - found.start)
        for position in range(found.start, found.end, CHUNK):
            write(await source.read(position, min(position + CHUNK, found.end)))
    finally:
        source.close()
        if ours:
            mailbox.close()


def _check_server(session: ImapServer, url: ImapUrl) -> None:
    """Other servers and other people's URLs are not followed."""
    assert session.principal is not None
    if url.server and url.server != session.shared.hostname.lower():
        raise BadUrl
    if url.user and url.user.lower() != session.principal.account.address.key:
        raise BadUrl


async def _mailbox(session: ImapServer, url: ImapUrl) -> tuple[IMailbox, bool]:
    """The mailbox, and whether it is to be closed afterwards."""
    if url.mailbox is not None:
        return await session.mail().open(url.mailbox), True
    if session.view is None:
        raise BadUrl
    return session.view.mailbox, False
