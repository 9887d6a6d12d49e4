"""ACL and RIGHTS (RFC 4314), LIST-MYRIGHTS (RFC 8440): who may do what with a folder."""

from __future__ import annotations

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_names import wire_name
from lorrainemail.imap.server import Bad, ImapServer, No
from lorrainemail.message.quoting import astring
from lorrainemail.store.rights import ALL, ANYONE, changed, shown


async def set_acl(session: ImapServer, command: Command) -> bytes:
    """RFC 4314 §3.1."""
    name, identifier, change = command.arguments
    user = _identifier(identifier)
    acl = await _administered(session, name)
    _not_the_owner(session, name, user)
    rights = changed(acl.get(user, ""), change)
    if rights is None:
        raise Bad(b"That is no right")
    await session.mail().set_acl(name, user, rights)
    return b"OK SETACL completed"


async def delete_acl(session: ImapServer, command: Command) -> bytes:
    """RFC 4314 §3.2."""
    name, identifier = command.arguments
    user = _identifier(identifier)
    await _administered(session, name)
    _not_the_owner(session, name, user)
    await session.mail().set_acl(name, user, "")
    return b"OK DELETEACL completed"


async def get_acl(session: ImapServer, command: Command) -> bytes:
    """RFC 4314 §3.3."""
    (name,) = command.arguments
    acl = {_owner(session, name): ALL, **await _administered(session, name)}
    pairs = b"".join(
        b" %b %b" % (astring(user.encode("utf-8")), shown(rights).encode("ascii") or b'""')
        for user, rights in acl.items()
    )
    session.send(b"* ACL %b%b\r\n" % (wire_name(name, session.utf8), pairs))
    return b"OK GETACL completed"


async def list_rights(session: ImapServer, command: Command) -> bytes:
    """RFC 4314 §3.4: the owner has all and keeps them; anybody else may get each alone."""
    name, identifier = command.arguments
    user = _identifier(identifier)
    await _administered(session, name)
    words = shown(ALL).encode("ascii")
    if user != _owner(session, name):
        words = b'"" ' + b" ".join(letter.encode("ascii") for letter in shown(ALL))
    session.send(
        b"* LISTRIGHTS %b %b %b\r\n" % (wire_name(name, session.utf8), astring(user.encode("utf-8")), words)
    )
    return b"OK LISTRIGHTS completed"


async def my_rights(session: ImapServer, command: Command) -> bytes:
    """RFC 4314 §3.5."""
    (name,) = command.arguments
    rights = await session.mail().rights(name)
    if not set(rights) & set("lrikxa"):
        raise No(b"[NONEXISTENT] No such folder")
    session.send(_line(session, name, rights))
    return b"OK MYRIGHTS completed"


async def of_listed(session: ImapServer, name: str) -> None:
    """RFC 8440 §3: behind the LIST response."""
    try:
        session.send(_line(session, name, await session.mail().rights(name)))
    except MailError:
        return  # gone meanwhile


def _line(session: ImapServer, name: str, rights: str) -> bytes:
    return b"* MYRIGHTS %b %b\r\n" % (wire_name(name, session.utf8), shown(rights).encode("ascii"))


async def _administered(session: ImapServer, name: str) -> dict[str, str]:
    return await session.mail().acl(name)


def _identifier(text: str) -> str:
    """An account's address, or "anyone", perhaps with "-" before it (RFC 4314 §2)."""
    sign = "-" if text.startswith("-") else ""
    user = text.removeprefix("-").lower()
    if user != ANYONE and ("@" not in user or len(user) > 320 or not user.isprintable() or " " in user):
        raise No(b"[CANNOT] An identifier is an account's address, or anyone")
    return sign + user


def _owner(session: ImapServer, name: str) -> str:
    parts = name.split("/")
    if parts[0] == "user" and len(parts) > 2 and "@" in parts[1]:
        return parts[1]
    return session.mail().account.address.key


def _not_the_owner(session: ImapServer, name: str, user: str) -> None:
    if user.removeprefix("-") == _owner(session, name):
        raise No(b"[CANNOT] The owner keeps all rights")
