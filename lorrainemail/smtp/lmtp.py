"""The LMTP door (RFC 2033): mail for our own mailboxes from another server on this machine or network.

The session of the SMTP doors with three differences: LHLO instead of EHLO and HELO, no way to other hosts
whoever asks (the tables give this door no relay right), and after the end of the message one reply for each
recipient that was accepted, in their order. The peer is a server that has judged the message already, so the
policy that is about strangers leaves it alone; ``check`` warns of a door that others reach too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from twisted.internet.defer import Deferred

from lorrainemail.errors import Reply
from lorrainemail.interfaces import Transaction
from lorrainemail.smtp.server import VERBS, SmtpServer
from lorrainemail.smtp.transaction import OpenTransaction

# RFC 2033 §4.1: HELO and EHLO are no commands here.
_VERBS: Final = {verb: name for verb, name in VERBS.items() if verb not in (b"EHLO", b"HELO")}


class LmtpServer(SmtpServer):
    """See the module."""

    verbs: ClassVar[dict[bytes, str]] = {**_VERBS, b"LHLO": "LHLO"}
    # RFC 2033 §4.2.
    no_recipients: ClassVar[Reply] = Reply(503, "5.5.1", "No valid recipients")

    async def do_LHLO(self, argument: bytes) -> None:
        await self._greet(argument, True)

    def _hand_over(self, transaction: Transaction) -> Deferred[list[Reply]]:
        return self._door.intake.take_each(transaction)

    def _answer(self, transaction: OpenTransaction, answer: Reply | Sequence[Reply], detail: str) -> None:
        """RFC 2033 §4.2: one reply a recipient, also where all of them get the same one."""
        count = len(transaction.accepted)
        each = [answer] * count if isinstance(answer, Reply) else answer
        if any(reply.positive for reply in each):
            self._errors = self._idle_commands = 0
        else:
            self._errors += 1
        for accepted, reply in zip(transaction.accepted, each, strict=True):
            if not reply.positive:
                self._note_refusal(reply, detail, transaction, recipient=accepted.recipient.address)
            self._say(reply.wire())
