"""The time by which a sender wants his message delivered (RFC 2852), as the queue keeps it.

Pure. The runner asks: with mode R what is not delivered by then is given up and returned, with mode N its
sender is told once that it is late, and it goes on. Next hops are asked to keep it by the client.
"""

from __future__ import annotations

from typing import Final

import attrs

from lorrainemail.envelope import Envelope
from lorrainemail.errors import Reply
from lorrainemail.grammar.smtp_wishes import wishes_of
from lorrainemail.interfaces import Outcome

#: RFC 3463 §3.5, RFC 2852 §4.
NOT_IN_TIME: Final = "not delivered by the time that its sender set"


@attrs.frozen(slots=True)
class Deadline:
    """When (wall-clock seconds), whether it is given up then, and whether each relaying is to be told."""

    at: float
    final: bool
    trace: bool

    def over(self, now: float) -> bool:
        return now >= self.at

    def next_try(self, now: float, planned: float) -> float:
        """A try is due at the deadline too: what has to happen then must not wait longer."""
        return min(planned, self.at) if self.at > now else planned

    def judged(self, outcome: Outcome, now: float) -> Outcome:
        """An outcome of an attempt that ended now: a deferral may be the end."""
        if not self.final or outcome.kind != "deferred" or not self.over(now):
            return outcome
        reply = Reply(550, "5.4.7", f"{NOT_IN_TIME}; at last: {outcome.reply}")
        return attrs.evolve(outcome, kind="failed", reply=reply, ours=False, host="")


def deadline_of(envelope: Envelope) -> Deadline | None:
    """The deadline of a message, None where it has none."""
    if not envelope.parameters:
        return None
    by = wishes_of(envelope).deliver_by
    return None if by is None else Deadline(envelope.received_at + by.seconds, by.mode == "R", by.trace)
