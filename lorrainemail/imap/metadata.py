"""METADATA (RFC 5464): what clients note about the server (per account) and about folders; LIST-METADATA."""

from __future__ import annotations

from typing import Final

from lorrainemail.errors import MailError
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_metadata import MetadataArguments
from lorrainemail.grammar.imap_names import wire_name
from lorrainemail.imap.server import ImapServer, No
from lorrainemail.message.quoting import nstring

#: As the store bounds it (RFC 5464 §4.3).
MAX_VALUE: Final = 64 * 1024


async def get_metadata(session: ImapServer, command: Command) -> bytes:
    """RFC 5464 §4.2."""
    arguments: MetadataArguments = command.arguments[0]
    known = await session.mail().metadata(arguments.mailbox)
    found: dict[str, bytes | None] = {}
    for entry in arguments.entries:
        if arguments.depth == 0:
            found[entry] = known.get(entry)
            continue
        for name, value in known.items():
            below = name[len(entry) :].count("/") if name.startswith(entry + "/") else -1
            if name == entry or (below > 0 and arguments.depth in (below, -1)):
                found[name] = value
    longest = 0
    if arguments.max_size is not None:  # RFC 5464 §4.2.1
        sizes = [len(value) for value in found.values() if value is not None]
        longest = max((size for size in sizes if size > arguments.max_size), default=0)
        found = {
            name: value for name, value in found.items() if value is None or len(value) <= arguments.max_size
        }
    if found:
        session.send(line(session, arguments.mailbox, found))
    if longest:
        return b"OK [METADATA LONGENTRIES %d] GETMETADATA completed" % longest
    return b"OK GETMETADATA completed"


async def set_metadata(session: ImapServer, command: Command) -> bytes:
    """RFC 5464 §4.3."""
    name, values = command.arguments
    if any(value is not None and len(value) > MAX_VALUE for value in values.values()):
        raise No(b"[METADATA MAXSIZE %d] The value is too large" % MAX_VALUE)
    try:
        await session.mail().set_metadata(name, values)
    except MailError as failure:
        if failure.detail.startswith("LIMIT"):
            raise No(b"[METADATA TOOMANY] There is no room for more") from None
        raise
    return b"OK SETMETADATA completed"


def line(session: ImapServer, name: str, entries: dict[str, bytes | None]) -> bytes:
    """One METADATA response (RFC 5464 §4.4.1)."""
    shown = b" ".join(
        [b"%b %b" % (entry.encode("ascii"), nstring(value)) for entry, value in entries.items()]
    )
    return b"* METADATA %b (%b)\r\n" % (wire_name(name, session.utf8) if name else b'""', shown)


async def of_listed(session: ImapServer, name: str, entries: tuple[str, ...]) -> None:
    """RFC 9590 §3: behind the LIST response."""
    try:
        known = await session.mail().metadata(name)
    except MailError:
        return  # gone meanwhile
    session.send(line(session, name, {entry: known.get(entry) for entry in entries}))
