"""Policies of other domains that were fetched, kept on disk: one small file a domain in ``tls-policies``.

Owns that directory. A policy is trusted at first use and then until its ``max_age`` is over, so it must
outlive a restart (RFC 8461 §10.2): it is on the disk before it is used. Blocking; called in threads. Only
domains that have a file are ever looked for, and their names are read once. Fails with OSError; a file that
cannot be read counts as absent.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final

import attrs

from lorrainemail.certs.files import make_directory, read_json, write_json
from lorrainemail.tlspolicy.sts_policy import MAX_PATTERNS, StsPolicy

DIRECTORY: Final = "tls-policies"
#: Seconds for which any policy is used, so that not each message has it fetched.
MIN_AGE: Final = 300
#: Policies that are kept; beyond, new ones are not.
MAX_KEPT: Final = 50_000
#: The files hold only this kind of name, and nothing that leads out of the directory.
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,240}[a-z0-9])?\Z")


@attrs.frozen(slots=True)
class Kept:
    """One policy as it was fetched.

    :ivar id: of the record that told of it. ``fetched``, ``used``: wall-clock seconds; ``used`` to the day.
    """

    id: str
    policy: StsPolicy
    fetched: float
    used: float

    def holds(self, now: float) -> bool:
        """Whether it is still valid. One from the future is not: the clock was wrong then or is now."""
        return self.fetched - 86400 <= now < self.ends

    @property
    def ends(self) -> float:
        return self.fetched + max(self.policy.max_age, MIN_AGE)


class StsCache:
    """The directory, in the state directory."""

    def __init__(self, state: str) -> None:
        self._directory = os.path.join(state, DIRECTORY)

    def names(self) -> set[str]:
        """The domains of which there is a file."""
        try:
            return {name for name in os.listdir(self._directory) if _NAME.match(name)}
        except FileNotFoundError:
            return set()

    def get(self, domain: str) -> Kept | None:
        if not _NAME.match(domain):
            return None
        row = read_json(self._path(domain))
        try:
            policy = StsPolicy(
                row["mode"], tuple(map(str, row["mx"][:MAX_PATTERNS])), min(int(row["max_age"]), 1 << 40)
            )
            return Kept(str(row["id"]), policy, float(row["fetched"]), float(row["used"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put(self, domain: str, kept: Kept) -> None:
        if not _NAME.match(domain):
            return
        make_directory(self._directory)
        row: dict[str, Any] = {
            "domain": domain,
            "id": kept.id,
            "mode": kept.policy.mode,
            "mx": list(kept.policy.patterns),
            "max_age": kept.policy.max_age,
            "fetched": kept.fetched,
            "used": kept.used,
        }
        write_json(self._path(domain), row)

    def remove(self, domain: str) -> None:
        try:
            os.unlink(self._path(domain))
        except FileNotFoundError:
            return  # gone already

    def _path(self, domain: str) -> str:
        return os.path.join(self._directory, domain)
