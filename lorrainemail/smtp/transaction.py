"""A transaction between its MAIL and its final dot."""

from __future__ import annotations

from lorrainemail.grammar.smtp import MailCommand
from lorrainemail.interfaces import Accepted, ITables, RelayRight, Verdict
from lorrainemail.smtp.chunks import ChunkedMessage

_NOT_YET = RelayRight(False, "not asked yet")


class OpenTransaction:
    """What is known so far; the one mutable record of a session's mail.

    :ivar id: the message's id.
    :ivar command: MAIL as given.
    :ivar tables: the snapshot that the whole transaction sees.
    :ivar received_at: wall-clock seconds of MAIL.
    :ivar relay: whether the session may send outside.
    :ivar chunks: the message, once BDAT has begun it.
    :ivar accepted: the recipients so far. ``verdicts``: of policy so far, but for those on recipients.
    """

    __slots__ = ("accepted", "chunks", "command", "id", "received_at", "relay", "tables", "verdicts")

    def __init__(self, id: str, command: MailCommand, tables: ITables, received_at: float) -> None:
        self.id = id
        self.command = command
        self.tables = tables
        self.received_at = received_at
        self.relay = _NOT_YET
        self.chunks: ChunkedMessage | None = None
        self.accepted: list[Accepted] = []
        self.verdicts: tuple[Verdict, ...] = ()
