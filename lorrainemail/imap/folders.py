"""Commands about folders: SELECT and EXAMINE, CREATE to UNSUBSCRIBE, LIST, LSUB, STATUS, NAMESPACE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lorrainemail.errors import MailError, PermanentError
from lorrainemail.grammar.imap_commands import Command, ListArguments, SelectArguments
from lorrainemail.grammar.imap_names import DELIMITER, Pattern, wire_name
from lorrainemail.imap import acl
from lorrainemail.imap.metadata import of_listed
from lorrainemail.imap.resync import resynchronize
from lorrainemail.imap.server import Bad, ImapServer, No
from lorrainemail.imap.view import SYSTEM_FLAGS, View
from lorrainemail.interfaces import FolderFacts
from lorrainemail.store.rights import WRITING
from lorrainemail.store.shares import PREFIX

#: Messages whose flags are looked at in one turn.
SLICE: Final = 4000
#: Messages whose sizes are asked for at once.
FACTS: Final = 500
#: Folders that are held against the patterns in one turn.
FOLDER_SLICE: Final = 100
#: RFC 6154 §2.
SPECIAL_USES: Final = {
    f"\\{word.lower()}": f"\\{word}"
    for word in ("All", "Archive", "Drafts", "Flagged", "Junk", "Sent", "Trash")
}


async def namespace(session: ImapServer, command: Command) -> bytes:
    """RFC 2342: one's own folders, and what others share."""
    session.send(b'* NAMESPACE (("" "/")) (("%b" "/")) NIL\r\n' % PREFIX.encode("ascii"))
    return b"OK NAMESPACE completed"


# -- SELECT ------------------------------------------------------------------------------------------


async def select(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.1."""
    return await _open(session, command.arguments[0], b"SELECT")


async def examine(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.2."""
    return await _open(session, command.arguments[0], b"EXAMINE")


async def _open(session: ImapServer, arguments: SelectArguments, name: bytes) -> bytes:
    if arguments.resync is not None and "QRESYNC" not in session.enabled:
        raise Bad(b"QRESYNC was not enabled")  # RFC 7162 §3.2.5
    if arguments.resync is not None and arguments.resync.numbers and "UIDONLY" in session.enabled:
        raise Bad(b"[UIDREQUIRED] Message numbers are not used here")  # RFC 9586 §3.6
    if session.view is not None and session.enabled & {"QRESYNC", "IMAP4rev2"}:
        session.send(b"* OK [CLOSED] Previous mailbox closed\r\n")  # RFC 7162 §3.2.11
    session.close_view()  # RFC 3501 §6.3.1: also where the new one cannot be had
    if arguments.condstore:
        session.enable("CONDSTORE")
    mailbox = await session.mail().open(arguments.mailbox)
    read_only = name == b"EXAMINE" or not WRITING & set(mailbox.rights)  # RFC 4314 §5.2
    view = View(mailbox, read_only, session.notice, session.enabled)
    session.view = view
    session.obey_notifier(view)
    modseq = mailbox.highest_modseq  # what happens from here on, the view hears of
    unseen, flags = mailbox.overview()
    keywords = {flag for flag in flags if not flag.startswith("\\")}
    view.keywords = set(keywords)
    session.send(view.flags_line())
    permanent = () if read_only else _permanent(mailbox.rights, sorted(keywords))
    session.send(b"* OK [PERMANENTFLAGS (%b)] Flags kept\r\n" % " ".join(permanent).encode("ascii"))
    session.send(view.counts())
    if unseen and not session.enabled & {"UIDONLY", "IMAP4rev2"}:
        session.send(b"* OK [UNSEEN %d] First unseen\r\n" % (view.index_of(unseen) + 1))
    session.send(b"* OK [UIDVALIDITY %d] UIDs valid\r\n" % mailbox.uid_validity)
    session.send(b"* OK [UIDNEXT %d] Next UID\r\n" % mailbox.uid_next)
    session.send(b"* OK [HIGHESTMODSEQ %d] Highest\r\n" % modseq)  # RFC 7162 §3.1.2.1
    session.send(b"* OK [MAILBOXID (%b)] Its id\r\n" % mailbox.mailbox_id.encode("ascii"))  # RFC 8474 §4.2
    if "IMAP4rev2" in session.enabled:
        session.send(_line(session, b"LIST", (), mailbox.name))  # RFC 9051 §6.3.2
    if arguments.resync is not None and arguments.resync.uid_validity == mailbox.uid_validity:
        await resynchronize(session, view, arguments.resync)
    session.state = "select"
    if read_only:
        return b"OK [READ-ONLY] %b completed" % name
    return b"OK [READ-WRITE] SELECT completed"


def _permanent(rights: str, keywords: list[str]) -> list[str]:
    """Flags that the user may change for good (RFC 4314 §5.1.2)."""
    needs = {"\\Seen": "s", "\\Deleted": "t"}
    flags = [flag for flag in SYSTEM_FLAGS if needs.get(flag, "w") in rights]
    return [*flags, *keywords, "\\*"] if "w" in rights else flags


# -- making, moving, forgetting ----------------------------------------------------------------------


async def create(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.3, RFC 6154 §3."""
    name, words = command.arguments
    # a trailing separator says that names will follow below it
    name = name.rstrip(DELIMITER)
    if not name or name == "INBOX":
        raise No(b"[ALREADYEXISTS] It is there already" if name else b"[CANNOT] A folder needs a name")
    uses = [SPECIAL_USES.get(word.lower()) for word in words]
    if None in uses:
        raise No(b"[USEATTR] No such special use")
    await session.mail().create(name, [use for use in uses if use is not None])
    made = await session.mail().status(name)
    return b"OK [MAILBOXID (%b)] CREATE completed" % made.mailbox_id.encode("ascii")  # RFC 8474 §4.1


async def delete(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.4."""
    (name,) = command.arguments
    if name == "INBOX":
        raise No(b"[CANNOT] INBOX cannot be deleted")
    await session.mail().delete(name)
    session.leave_if_gone()
    return b"OK DELETE completed"


async def rename(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.5."""
    old, new = command.arguments
    new = new.rstrip(DELIMITER)
    if not new or new == "INBOX":
        raise No(b"[ALREADYEXISTS] INBOX is there already" if new else b"[CANNOT] A folder needs a name")
    await session.mail().rename(old, new)
    return b"OK RENAME completed"


async def subscribe(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.6."""
    await session.mail().subscribe(command.arguments[0], True)
    return b"OK SUBSCRIBE completed"


async def unsubscribe(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.7."""
    await session.mail().subscribe(command.arguments[0], False)
    return b"OK UNSUBSCRIBE completed"


# -- LIST --------------------------------------------------------------------------------------------


def _parents(names: Iterable[str]) -> set[str]:
    """Every name that has another one below it."""
    found: set[str] = set()
    for name in names:
        while (cut := name.rfind(DELIMITER)) > 0:
            name = name[:cut]
            if name in found:
                break
            found.add(name)
    return found


def _matches(patterns: tuple[Pattern, ...], name: str) -> bool:
    return any(pattern.matches(name) for pattern in patterns)


def _line(session: ImapServer, kind: bytes, attributes: Iterable[str], name: str, more: bytes = b"") -> bytes:
    words = " ".join(attributes).encode("ascii")
    return b'* %b (%b) "/" %b%b\r\n' % (kind, words, wire_name(name, session.utf8), more)


async def list_folders(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.8; RFC 5258, RFC 5819, RFC 6154 where asked for."""
    arguments: ListArguments = command.arguments[0]
    if arguments.empty and not arguments.extended:
        # RFC 3501 §6.3.8: asks for the separator and the root
        session.send(b'* LIST (\\Noselect) "/" ""\r\n')
        return b"OK LIST completed"
    facts = await session.mail().folders()
    parents = _parents(folder.name for folder in facts)
    chosen = {folder.name for folder in facts if _selected(folder, arguments.select)}
    matching_children = _parents(chosen) if "RECURSIVEMATCH" in arguments.select else set()
    for count, folder in enumerate(facts, 1):
        if count % FOLDER_SLICE == 0:
            await session.breathe()
        if not _matches(arguments.patterns, folder.name):
            continue
        below = folder.name in matching_children
        if folder.name not in chosen and not below:
            continue
        attributes = list(_attributes(folder, parents, arguments))
        more = b' ("CHILDINFO" ("SUBSCRIBED"))' if below and "SUBSCRIBED" in arguments.select else b""
        session.send(_line(session, b"LIST", attributes, folder.name, more))
        if arguments.status and folder.selectable:
            await _list_status(session, folder.name, arguments.status)
        if "MYRIGHTS" in arguments.give and folder.selectable:
            await acl.of_listed(session, folder.name)
        if arguments.metadata and folder.selectable:
            await of_listed(session, folder.name, arguments.metadata)
    return b"OK LIST completed"


def _selected(folder: FolderFacts, select: frozenset[str]) -> bool:
    if "SUBSCRIBED" in select and not folder.subscribed:
        return False
    return not ("SPECIAL-USE" in select and not folder.special_use)


def _attributes(folder: FolderFacts, parents: set[str], arguments: ListArguments) -> Iterable[str]:
    if not folder.selectable:
        # RFC 5258 §3: a subscribed name without a mailbox
        yield "\\NonExistent" if arguments.extended and folder.name not in parents else "\\Noselect"
    if folder.subscribed and ("SUBSCRIBED" in arguments.select or "SUBSCRIBED" in arguments.give):
        yield "\\Subscribed"
    yield "\\HasChildren" if folder.name in parents else "\\HasNoChildren"
    yield from folder.special_use


async def _list_status(session: ImapServer, name: str, items: tuple[str, ...]) -> None:
    try:
        line = await status_line(session, name, items)
    except PermanentError:
        return  # RFC 5819 §2: gone meanwhile, then there is no STATUS
    session.send(line)


async def lsub(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.9."""
    arguments: ListArguments = command.arguments[0]
    if arguments.empty:
        session.send(b'* LSUB (\\Noselect) "/" ""\r\n')
        return b"OK LSUB completed"
    facts = await session.mail().folders()
    subscribed = {folder.name: folder for folder in facts if folder.subscribed}
    lines: dict[str, tuple[str, ...]] = {}
    for name, folder in subscribed.items():
        if _matches(arguments.patterns, name):
            lines[name] = () if folder.selectable else ("\\Noselect",)
    # a parent that is not subscribed is shown where "%" stopped at it
    for name in _parents(subscribed):
        if name not in subscribed and _matches(arguments.patterns, name):
            lines[name] = ("\\Noselect",)
    for name in sorted(lines, key=lambda n: (n != "INBOX", n)):
        session.send(_line(session, b"LSUB", lines[name], name))
    return b"OK LSUB completed"


# -- STATUS ------------------------------------------------------------------------------------------


async def status(session: ImapServer, command: Command) -> bytes:
    """RFC 3501 §6.3.10, RFC 7162 §3.1.7, RFC 8438, RFC 8474 §4.3."""
    name, items = command.arguments
    if "HIGHESTMODSEQ" in items:
        session.enable("CONDSTORE")  # RFC 7162 §3.1.1
    session.send(await status_line(session, name, items))
    return b"OK STATUS completed"


async def status_line(session: ImapServer, name: str, items: tuple[str, ...]) -> bytes:
    """One STATUS response."""
    found = await session.mail().status(name)
    values: dict[str, int | str] = {
        "MESSAGES": found.messages,
        "RECENT": found.recent,
        "UIDNEXT": found.uid_next,
        "UIDVALIDITY": found.uid_validity,
        "UNSEEN": found.unseen,
        "SIZE": found.size,
        "DELETED": found.deleted,
        "HIGHESTMODSEQ": found.highest_modseq,
        "MAILBOXID": f"({found.mailbox_id})",
        "DELETED-STORAGE": 0,
    }
    if "DELETED-STORAGE" in items and found.deleted:
        values["DELETED-STORAGE"] = await _deleted_octets(session, name)
    pairs = " ".join(f"{item} {values[item]}" for item in items).encode("ascii")
    return b"* STATUS %b (%b)\r\n" % (wire_name(name, session.utf8), pairs)


async def _deleted_octets(session: ImapServer, name: str) -> int:
    """RFC 9208 §4.1.4: octets that an EXPUNGE would free."""
    mailbox = await session.mail().open(name)
    octets = 0
    try:
        uids = mailbox.uids()
        for start in range(0, len(uids), SLICE):
            part = [u for u in uids[start : start + SLICE] if "\\Deleted" in (mailbox.flags(u) or ())]
            for at in range(0, len(part), FACTS):
                octets += sum(facts.size for facts in await mailbox.facts(part[at : at + FACTS]))
            await session.breathe()
    finally:
        mailbox.close()
    return octets


def target_failure(failure: MailError) -> Exception:
    """A missing target of APPEND, COPY, MOVE: the client may make it (RFC 3501 §7.1)."""
    if failure.detail.split(" ", 1)[0] in ("NONEXISTENT", "TRYCREATE"):
        return No(b"[TRYCREATE] No such folder")
    return failure
