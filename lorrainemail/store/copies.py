"""Copies of one message that wait for the index: the message is in memory once, and summarised once.

A message for fifty mailboxes differs from one to the next in the field that says whose copy it is. A
:class:`Copy` is what one mailbox got: those fields, and the :class:`Body` that all copies share. Made by
placements in the reactor's thread; summarised in the threads of the store, two of which may do the same work
at once, with the same result.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from lorrainemail.interfaces import IContent
from lorrainemail.message.summary import MAX_SURE_HEADER, Summary, summarize
from lorrainemail.ops.content import Content

#: The fields in which copies of one message differ: none of them is in a summary.
_OWN: Final = re.compile(rb"(?:(?:Return-Path|Delivered-To): [^\r\n]*\r\n)*")


@attrs.define(slots=True, eq=False)
class Body:
    """What copies have in common.

    :ivar holders: copies that wait for the index.
    :ivar known: of a copy that was summarised: the fields that it shared with others, the octets of all
        fields above the message, and its summary.
    """

    octets: bytes
    holders: int = 0
    known: tuple[bytes, int, Summary] | None = None


@attrs.frozen(slots=True, eq=False)
class Copy:
    """One mailbox's copy, in wire form.

    :ivar prefix: the fields above the message.
    """

    prefix: bytes
    body: Body

    @property
    def octets(self) -> bytes:
        """All of it."""
        return self.prefix + self.body.octets

    def summary(self) -> Summary:
        """Its facts, from those of another copy where there is one."""
        own = _OWN.match(self.prefix)
        shared = self.prefix if own is None else self.prefix[own.end() :]
        known = self.body.known
        if known is not None and known[0] == shared:
            longer = len(self.prefix) - known[1]
            header = known[2].header_octets + longer
            if header + abs(longer) <= MAX_SURE_HEADER:
                return attrs.evolve(known[2], header_octets=header) if longer else known[2]
        summary = summarize(self.octets)
        self.body.known = shared, len(self.prefix), summary
        return summary


def copy_of(prefix: bytes, content: IContent) -> Copy | None:
    """The copy with these fields of a message, None where that is not in memory."""
    if not isinstance(content, Content):
        whole = content.in_memory()
        return None if whole is None else Copy(prefix, Body(whole))
    body = content.notes
    if not isinstance(body, Body):
        body = content.notes = Body(content.in_memory())
    return Copy(prefix, body)
