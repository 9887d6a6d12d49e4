"""Why a server did not start: one line for the operator.

Raised by everything in ``setup`` and turned into ``SystemExit`` by :mod:`lorrainemail.tap` alone.
"""

from __future__ import annotations


class StartError(Exception):
    """The start cannot go on.

    :ivar what: what is wrong; ``mend``: what to do.
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}: {mend}")
        self.what = what
        self.mend = mend
