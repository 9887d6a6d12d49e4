"""Where the parts of a state directory are. Knows names alone and touches nothing."""

from __future__ import annotations

import os
from typing import Final

import attrs

#: Holds the first account's password until it is changed.
PASSWORD_FILE: Final = "first-account"


@attrs.frozen(slots=True)
class Directories:
    """The parts of a state directory that the server works in."""

    mail: str
    queue: str
    spill: str


def directories(state: str) -> Directories:
    """Where they are. Messages too large for memory spill beside the queue, on the same file system."""
    return Directories(*(os.path.join(state, name) for name in ("mail", "queue", "spill")))
