"""A session's own view of an INBOX: numbered messages that keep their numbers until QUIT.

Owns the snapshot (which UIDs, sizes and unique ids) and the marks for deletion; called by
:mod:`lorrainemail.pop3.server` alone. Nothing is changed in the mailbox before :meth:`Maildrop.update`, so a
broken connection deletes nothing. Fails with :class:`NoSuchMessage` for a number that means nothing now, and
with the store's :class:`~lorrainemail.errors.MailError`.
"""

from __future__ import annotations

from array import array
from functools import partial
from typing import Final

from twisted.logger import Logger

from lorrainemail.errors import MailError
from lorrainemail.interfaces import IMailbox, IMailHome, IMessage
from lorrainemail.ops.metrics import Counter
from lorrainemail.pop3.wire import whole_answer

log = Logger(namespace="lorrainemail.pop3")

_RETRIEVED = Counter("lorrainemail_pop3_retrieved", "Messages retrieved whole by POP3")
_DELETED = Counter("lorrainemail_pop3_deleted", "Messages deleted by POP3")

#: Index rows asked for at once.
SLICE: Final = 500
#: What is read ahead for a client that retrieves one message after the other: octets, and messages.
AHEAD: Final = 32 * 1024
MESSAGES_AHEAD: Final = 16


class NoSuchMessage(Exception):
    """The number is outside the snapshot or its message is marked as deleted; the text may be shown."""


class Maildrop:
    """The snapshot. Made by :meth:`open`; :meth:`close` after use.

    :ivar count: messages not marked as deleted, and their ``octets``.
    """

    def __init__(self, mailbox: IMailbox, utf8: bool = False) -> None:
        self._mailbox = mailbox
        self._utf8 = utf8
        self._uids = array("Q")
        self._sizes = array("Q")
        self._unique_ids: list[bytes] = []
        self._deleted: set[int] = set()
        self._read: set[int] = set()
        self._ahead: dict[int, bytes] = {}
        self._last = 0
        self.count = 0
        self.octets = 0

    @classmethod
    async def open(cls, home: IMailHome, utf8: bool = False) -> Maildrop:
        """Open INBOX as it is now.

        :param utf8: the client takes UTF-8 in header fields.
        """
        mailbox = await home.open("INBOX")
        maildrop = cls(mailbox, utf8)
        try:
            await mailbox.refresh()
            uids = mailbox.uids()
            for start in range(0, len(uids), SLICE):
                for facts in await mailbox.facts(uids[start : start + SLICE]):
                    unique = facts.unique_id or f"{mailbox.uid_validity}.{facts.uid}"
                    maildrop._uids.append(facts.uid)
                    maildrop._sizes.append(facts.size)
                    maildrop._unique_ids.append(unique.encode("ascii"))
        except BaseException:
            mailbox.close()
            raise
        maildrop.reset()
        return maildrop

    def numbers(self) -> range:
        """All numbers of the snapshot, deleted ones too."""
        return range(1, len(self._uids) + 1)

    def is_deleted(self, number: int) -> bool:
        """Whether that number is marked as deleted."""
        return number in self._deleted

    def size(self, number: int) -> int:
        """Octets of the message with CRLF line ends."""
        self._require(number)
        return self._sizes[number - 1]

    def unique_id(self, number: int) -> bytes:
        """RFC 1939 §7 UIDL."""
        self._require(number)
        return self._unique_ids[number - 1]

    async def message(self, number: int) -> IMessage:
        """Open the message."""
        self._require(number)
        return await self._mailbox.message(self._uids[number - 1])

    def answer(self, number: int) -> bytes | None:
        """The answer to RETR where it was made ahead and the message is still there."""
        self._require(number)
        answer = self._ahead.pop(number, None)
        if answer is None or self._mailbox.flags(self._uids[number - 1]) is None:
            return None
        self._last = number
        return answer

    async def answers(self, number: int) -> bytes | None:
        """The answer to RETR; None for a message that is not small, or not there: open it. Whoever retrieves
        one message after the other has the next ones read, too."""
        self._require(number)
        follows, self._last = number == self._last + 1, number
        wanted = [number]
        self._ahead.clear()
        octets = self._sizes[number - 1]
        if octets > AHEAD:
            return None
        if follows:
            for one in range(number + 1, min(number + MESSAGES_AHEAD, len(self._uids) + 1)):
                octets += self._sizes[one - 1]
                if octets > AHEAD:
                    break
                if one not in self._deleted:
                    wanted.append(one)
        work = partial(whole_answer, utf8=self._utf8)
        made = await self._mailbox.examine([self._uids[one - 1] for one in wanted], work)
        for one in wanted[1:]:
            answer = made.get(self._uids[one - 1])
            if answer is not None:
                self._ahead[one] = answer
        return made.get(self._uids[number - 1])

    def was_read(self, number: int) -> None:
        """It was retrieved whole; it counts as seen after QUIT."""
        self._read.add(number)
        _RETRIEVED.inc()

    def delete(self, number: int) -> None:
        """Mark for deletion at QUIT."""
        self._require(number)
        self._deleted.add(number)
        self.count -= 1
        self.octets -= self._sizes[number - 1]

    def reset(self) -> None:
        """Take all marks off."""
        self._deleted.clear()
        self.count = len(self._uids)
        self.octets = sum(self._sizes)

    async def update(self) -> None:
        """The UPDATE state: remove what is marked, durably (RFC 1939 §6); mark the rest of what was
        retrieved as seen."""
        if self._deleted:
            removed = await self._mailbox.expunge([self._uids[n - 1] for n in sorted(self._deleted)])
            _DELETED.inc(len(removed))
        seen = []
        for number in sorted(self._read - self._deleted):
            flags = self._mailbox.flags(self._uids[number - 1])
            if flags is not None and "\\Seen" not in flags:
                seen.append(self._uids[number - 1])
        if seen:
            try:
                await self._mailbox.change_flags(seen, "add", ["\\Seen"])
            except MailError as failure:
                # The deletions are done, and those are what the client is told of.
                log.warn("Retrieved messages could not be marked as seen: {failure}", failure=str(failure))

    def close(self) -> None:
        """Let go of the mailbox."""
        self._ahead.clear()
        self._mailbox.close()

    def _require(self, number: int) -> None:
        if not 1 <= number <= len(self._uids):
            raise NoSuchMessage(f"No such message, only {len(self._uids)} in the maildrop")
        if number in self._deleted:
            raise NoSuchMessage(f"Message {number} is deleted")
