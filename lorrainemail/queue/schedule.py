"""When a deferred recipient is tried again, and when a message is given up.

Pure. The spool and the runner ask it. Ages are seconds for which a server of ours was up with the message
(see :mod:`lorrainemail.queue.spool`), never differences of wall clocks: neither a jump of the clock nor a
week in a drawer gives up a message (RFC 5321 §4.5.4.1 asks for four or five days *of tries*).
"""

from __future__ import annotations

import random
from typing import Final

import attrs

#: How far a wait is spread around its length, so that what failed together does not come back together.
JITTER: Final = 0.15


@attrs.frozen(slots=True)
class Schedule:
    """Growing waits, the last one repeating, until ``expire`` seconds of age.

    :ivar waits: seconds between tries; at least one.
    :ivar expire: age at which a message that fails again is given up.
    :ivar delay_notice: age at which our own users are told once that a message is late; 0 for never.
    """

    waits: tuple[int, ...] = (300, 600, 1200, 1800, 3600, 7200, 14400)
    expire: int = 5 * 86400
    delay_notice: int = 4 * 3600

    @property
    def longest(self) -> float:
        """No wait is longer; what a file says beyond that is a jump of the clock."""
        return max(self.waits) * (1 + JITTER)

    def wait(self, attempts: int, chance: float | None = None) -> float:
        """Seconds until the next try after so many tries (from 1).

        :param chance: 0 to 1, where in the spread; random by default.
        """
        base = self.waits[min(max(attempts, 1), len(self.waits)) - 1]
        spread = random.random() if chance is None else chance
        return base * (1 - JITTER + 2 * JITTER * spread)

    def expired(self, age: float) -> bool:
        """Whether a message of that age is given up if this try fails as well."""
        return age >= self.expire
