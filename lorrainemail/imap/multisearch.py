"""ESEARCH (RFC 7377, MULTISEARCH): one search in many mailboxes, one after the other.

The selected mailbox is searched through the session's own view, any other through a view that lives for the
search alone and claims nothing. Mailboxes that cannot be read, or in which nothing matches, are passed over
in silence (RFC 7377 §2.1).
"""

from __future__ import annotations

from lorrainemail.errors import PermanentError
from lorrainemail.grammar.imap_commands import Command
from lorrainemail.grammar.imap_multisearch import Source
from lorrainemail.grammar.imap_names import DELIMITER, wire_name
from lorrainemail.grammar.imap_search import SearchKey
from lorrainemail.imap.matching import walk
from lorrainemail.imap.search import Scores, asks_relevancy, find, note_modseq, results, saving
from lorrainemail.imap.server import Bad, ImapServer
from lorrainemail.imap.view import View
from lorrainemail.interfaces import FolderFacts


async def esearch(session: ImapServer, command: Command) -> bytes:
    """RFC 7377 §2."""
    sources, program, options = command.arguments
    note_modseq(session, program)
    selected = session.view
    alone = all(source.filter == "SELECTED" for source in sources)
    if any(source.filter == "SELECTED" for source in sources) and selected is None:
        raise Bad(b"No mailbox is selected")
    if not alone and _numbered(program):
        raise Bad(b"Message numbers are of the selected mailbox alone")
    names: dict[str, None] = {}
    if not alone:
        facts = await session.mail().folders()
        names = {folder.name: None for folder in facts if folder.selectable and _in(sources, folder)}
    if selected is not None:
        mine = selected.mailbox.name
        if mine in names or any(source.filter == "SELECTED" for source in sources):
            names.pop(mine, None)
            scores: Scores | None = {} if asks_relevancy(options) else None
            found = await saving(selected, options, find(session, selected, program, scores))
            if found or options.saves:
                origin = _origin(session, selected)
                results(session, selected, command, program, options, found, scores, origin)
    for name in names:
        try:
            mailbox = await session.mail().open(name)
        except PermanentError:
            continue
        view = View(mailbox, True, _nothing, session.enabled)
        try:
            scores = {} if asks_relevancy(options) else None
            found = await find(session, view, program, scores)
            if found:
                results(session, view, command, program, options, found, scores, _origin(session, view))
        finally:
            view.close()
        await session.breathe()
    return b"OK ESEARCH completed"


def _nothing() -> None:
    """Nobody follows a view that lives for one search."""


def _origin(session: ImapServer, view: View) -> bytes:
    """RFC 7377 §2.1: which mailbox, and which of that name."""
    name = wire_name(view.mailbox.name, session.utf8)
    return b" MAILBOX %b UIDVALIDITY %d" % (name, view.mailbox.uid_validity)


def _numbered(program: SearchKey) -> bool:
    return any(
        key.name == "SET" or (key.messages is not None and key.messages.saved) for key in walk(program)
    )


def _in(sources: tuple[Source, ...], folder: FolderFacts) -> bool:
    return any(_is_of(source, folder) for source in sources)


def _is_of(source: Source, folder: FolderFacts) -> bool:
    name = folder.name
    if source.filter in ("INBOXES", "PERSONAL"):
        return not name.startswith("user/")
    if source.filter == "SUBSCRIBED":
        return folder.subscribed
    if source.filter == "SUBTREE":
        return any(name == top or name.startswith(top + DELIMITER) for top in source.mailboxes)
    if source.filter == "SUBTREE-ONE":  # RFC 7377 §2.2: the mailbox and its children, not theirs
        return any(
            name == top or (name.startswith(top + DELIMITER) and DELIMITER not in name[len(top) + 1 :])
            for top in source.mailboxes
        )
    return source.filter == "MAILBOXES" and name in source.mailboxes
