"""QUOTA (RFC 9208): one quota root an account, for its octets and messages, where the operator set limits."""

from __future__ import annotations

from typing import Final

from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_names import wire_name
from lorrainemail.imap.server import ImapServer, No

#: The one root's name.
ROOT: Final = b"User quota"
#: RFC 9208 §5.1: STORAGE is counted in units of 1,024 octets.
UNIT: Final = 1024


def _limits(session: ImapServer) -> tuple[int, int]:
    account = session.mail().account
    return account.quota, account.quota_messages


async def get_quota(session: ImapServer, command: Command) -> bytes:
    """RFC 9208 §4.1.2."""
    (root,) = command.arguments
    if root != ROOT or not any(_limits(session)):
        raise No(b"[NONEXISTENT] No such quota root")
    await _say(session)
    return b"OK GETQUOTA completed"


async def get_quota_root(session: ImapServer, command: Command) -> bytes:
    """RFC 9208 §4.1.3."""
    (name,) = command.arguments
    mailbox = await session.mail().open(name)  # RFC 9208: NO where there is no such mailbox
    mailbox.close()
    limited = any(_limits(session))
    root = b' "%b"' % ROOT if limited else b""
    session.send(b"* QUOTAROOT %b%b\r\n" % (wire_name(name, session.utf8), root))
    if limited:
        await _say(session)
    return b"OK GETQUOTAROOT completed"


async def set_quota(session: ImapServer, command: Command) -> bytes:
    """RFC 9208 §4.1.1: the operator's, not ours to change."""
    raise No(b"[NOPERM] Limits are set by the operator")


async def _say(session: ImapServer) -> None:
    octets, messages = await session.mail().usage()
    most_octets, most_messages = _limits(session)
    resources: list[bytes] = []
    if most_octets:
        # what is begun counts; a limit below one unit is still one
        resources.append(b"STORAGE %d %d" % (-(-octets // UNIT), max(most_octets // UNIT, 1)))
    if most_messages:
        resources.append(b"MESSAGE %d %d" % (messages, most_messages))
    session.send(b'* QUOTA "%b" (%b)\r\n' % (ROOT, b" ".join(resources)))
