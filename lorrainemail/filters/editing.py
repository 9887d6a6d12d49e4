"""What a milter changes in a message: gathered, bounded, applied at its end.

Fields that it adds or inserts stand above the message, the last one inserted first, like those of every
check. Fields that it changes or deletes are counted as it was shown them: those that earlier checks put above
the message are not its to change. A new body is written where large messages are. Whatever was not
negotiated, or does not fit, is left out with a line in the log.
"""

from __future__ import annotations

from typing import Final

from twisted.logger import Logger

from lorrainemail.errors import MailError, Reply
from lorrainemail.filters import milter_wire as wire
from lorrainemail.filters.asking import MAX_ADDED, Means, Opinion, Question, harmless, header_field
from lorrainemail.filters.stream import FilterError
from lorrainemail.interfaces import Action, IContent
from lorrainemail.mailauth.header import Header
from lorrainemail.ops.content import ContentWriter
from lorrainemail.ops.reheaded import Reheaded

#: Changes of one message.
MAX_CHANGES: Final = 500

QUARANTINED: Final = Reply(550, "5.7.1", "Put aside by a filter")

_log = Logger("lorrainemail.filters")


class Edits:
    """The changes of one message.

    :param header: of the message. ``actions``: what was negotiated.
    :param above: names, in lower case, of the fields that the filter was shown before those.
    """

    def __init__(self, header: Header, means: Means, actions: int, above: list[bytes]) -> None:
        self._header = header
        self._means = means
        self._actions = actions
        self._above = above
        self._added: list[bytes] = []
        self._inserted: list[bytes] = []
        self._changed: dict[int, bytes] = {}
        self._changes = 0
        self._body: ContentWriter | None = None
        self._octets = 0
        self._reason = ""
        #: Packets that are taken before the end: changes, and pieces of a body.
        self.most = MAX_CHANGES + means.limit // 1024 + 64

    def take(self, answer: bytes, content: bytes) -> bool:
        """One packet; False where it is no change.

        :raises FilterError: where it cannot be understood, or is too much.
        """
        if answer == wire.REPLACE_BODY:
            if self._allowed(wire.MAY_BODY, "a body"):
                self._write(content)
            return True
        if answer in (wire.ADD_RECIPIENT, wire.ADD_RECIPIENT_PAR, wire.DELETE_RECIPIENT, wire.CHANGE_SENDER):
            return self._allowed(0, "sender or recipients") or True
        if answer not in (wire.ADD_HEADER, wire.INSERT_HEADER, wire.CHANGE_HEADER, wire.QUARANTINE):
            return False
        self._changes += 1
        if self._changes > MAX_CHANGES:
            raise FilterError(f"the milter makes more than {MAX_CHANGES} changes")
        if answer == wire.QUARANTINE:
            if self._allowed(wire.MAY_QUARANTINE, "quarantine"):
                self._reason = harmless(content.partition(b"\0")[0]) or "no reason given"
        elif answer == wire.ADD_HEADER:
            if self._allowed(wire.MAY_ADD, "header fields"):
                self._add(self._added, *wire.two_strings(content))
        elif answer == wire.INSERT_HEADER:
            _, name, value = wire.indexed(content)
            if self._allowed(wire.MAY_ADD, "header fields"):
                self._add(self._inserted, name, value)
        elif self._allowed(wire.MAY_CHANGE, "header fields"):
            self._change(*wire.indexed(content))
        return True

    def _allowed(self, action: int, what: str) -> bool:
        if self._actions & action:
            return True
        _log.warn("The milter at {address} may not change {what}", address=self._means.address, what=what)
        return False

    def _add(self, fields: list[bytes], name: bytes, value: bytes) -> None:
        if len(self._added) + len(self._inserted) < MAX_ADDED:
            fields.append(header_field(name, value))

    def _change(self, index: int, name: bytes, value: bytes) -> None:
        """The field of that name and number (from 1) gets another value, or goes where that is empty."""
        lower = name.lower()
        index -= self._above.count(lower)
        places = [number for number, field in enumerate(self._header.fields) if field.name == lower]
        if index < 1:
            _log.warn("The milter at {address} may not change our own fields", address=self._means.address)
        elif index <= len(places):
            self._changed[places[index - 1]] = header_field(name, value) if value else b""
        elif value:
            # There is none: it is added.
            self._add(self._added, name, value)

    def _write(self, octets: bytes) -> None:
        self._octets += len(octets)
        if self._octets > self._means.limit:
            self.abort()
            raise FilterError(f"the milter's body is longer than {self._means.limit} octets")
        try:
            if self._body is None:
                self._body = ContentWriter(self._means.spill)
            self._body.write(octets)
        except MailError as error:
            raise FilterError(f"the milter's body cannot be kept: {error}") from None

    def abort(self) -> None:
        """Nothing of it is wanted."""
        if self._body is not None:
            self._body.abort()

    def _edited_header(self) -> bytes:
        """The header with its empty line."""
        header, parts, position = self._header, [], 0
        for number, field in enumerate(header.fields):
            if number in self._changed:
                parts += [header.data[position : field.start], self._changed[number]]
                position = field.end
        parts.append(header.data[position : header.body])
        return b"".join(parts)

    def opinion(self, question: Question) -> Opinion:
        """What the filter wanted in the end."""
        fields = b"".join([*reversed(self._inserted), *self._added])
        content: IContent | None = None
        if self._body is not None:
            content = _Owned(self._body.finish(), 0, self._edited_header())
        elif self._changed:
            content = Reheaded(question.content, self._header.body, self._edited_header())
        changed = " and changed it" if content is not None else ""
        if self._reason:
            return Opinion(Action.JUNK, f"put aside: {self._reason}", QUARANTINED, fields, content)
        return Opinion(Action.CONTINUE, f"let it pass{changed}", None, fields, content)


class _Owned(Reheaded):
    """A view that closes what it is a view of."""

    __slots__ = ("_whole",)

    def __init__(self, content: IContent, octets: int, head: bytes) -> None:
        super().__init__(content, octets, head)
        self._whole = content

    def close(self) -> None:
        self._whole.close()
