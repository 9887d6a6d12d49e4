"""Which queue items an operator means: by sender, recipient's domain, age, reason, state.

Pure. :class:`Choice` is made from the plain values of a command (:meth:`Choice.of`) and asked by the handlers
behind ``lorrainemail queue``. All that is given must hold; nothing given means every item. Recipients that
are done do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from lorrainemail.errors import PermanentError, Reply
from lorrainemail.interfaces import QueueRecipient
from lorrainemail.queue.format import Stored

#: The sender of notices, as an operator writes it.
NULL = "<>"


@attrs.frozen(slots=True)
class Choice:
    """What is asked for.

    :ivar sender: an address, a domain, or "<>"; ``recipient`` an address or a domain. Folded.
    :ivar older, newer: bounds of the age in seconds; None for none.
    :ivar reason: a part of the last reply, folded.
    :ivar state: "waiting" or "held".
    """

    sender: str = ""
    recipient: str = ""
    older: float | None = None
    newer: float | None = None
    reason: str = ""
    state: str = ""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Choice:
        """From a command's words.

        :raises PermanentError: where they are none.
        """
        known = {field.name: field for field in attrs.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            fits = isinstance(value, int | float) if name in ("older", "newer") else isinstance(value, str)
            if name not in known or not fits:
                words = f"items cannot be chosen by {name} = {value!r}"
                raise PermanentError(Reply(550, "5.5.4", words), words)
            values[name] = value.casefold() if isinstance(value, str) else value
        return cls(**values)

    @property
    def everything(self) -> bool:
        """Nothing is asked for."""
        return self == _EVERYTHING

    def means(self, stored: Stored, age: float) -> bool:
        """Whether an item is meant.

        :param age: in seconds.
        """
        if (self.older is not None and age < self.older) or (self.newer is not None and age > self.newer):
            return False
        sender = stored.item.envelope.sender
        if self.sender and not _fits(NULL if sender is None else str(sender), self.sender):
            return False
        return any(self._means_recipient(one) for one in stored.item.recipients)

    def _means_recipient(self, one: QueueRecipient) -> bool:
        return (
            one.state != "done"
            and (not self.state or one.state == self.state)
            and (not self.recipient or _fits(str(one.recipient.address), self.recipient))
            and (not self.reason or self.reason in one.last_reply.casefold())
        )


def _fits(address: str, wanted: str) -> bool:
    folded = address.casefold()
    return folded == wanted or folded.rpartition("@")[2] == wanted.removeprefix("@")


_EVERYTHING = Choice()
