"""``:include:`` files: lists of targets that aliases name, noticed when they change, kept when they break.

Used by the file backend only. A list has targets as an alias has, parted by commas or line ends, ``#`` begins
a comment line; it may name further lists. Commands and files in a list are not followed (who keeps a list
need not be trusted with those). Blocking, except :meth:`Lists.changed`, which is one ``stat`` a list. A list
that was read once and cannot be read now keeps its old version, with an alarm; one that never could be read
holds up the mail of its alias alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from lorrainemail.errors import Origin, Problem
from lorrainemail.tables.aliases import entries
from lorrainemail.tables.backend import AliasRow, AliasTarget
from lorrainemail.tables.targets import MAX_TARGETS, parse_targets
from lorrainemail.tables.textfile import read_octets

#: Lists that all aliases together may name, and octets of one.
MAX_LISTS: Final = 1000
MAX_OCTETS: Final = 2**20

Signature = tuple[int, ...]


class Lists:
    """All lists of one backend.

    :ivar targets: by path; None where the list cannot be had.
    :ivar problems: lists that are not used as they stand. ``warnings``: targets that are left out.
    """

    def __init__(self) -> None:
        self.targets: dict[str, tuple[AliasTarget, ...] | None] = {}
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._seen: dict[str, Signature] = {}

    def changed(self) -> bool:
        """Whether any list is another one than when it was last read."""
        return any(_signature(path) != seen for path, seen in self._seen.items())

    @property
    def size(self) -> int:
        """Octets of all lists together."""
        return sum(seen[2] for seen in self._seen.values() if seen)

    def load(self, rows: Iterable[AliasRow]) -> None:
        """Read every list that the aliases name, and those that these name."""
        old, self.targets, self._seen = self.targets, {}, {}
        self.problems, self.warnings = [], []
        wanted = [(path_of(target), row.origin) for row in rows for target in row.targets if _names(target)]
        while wanted:
            path, origin = wanted.pop()
            if path in self.targets:
                continue
            if len(self.targets) >= MAX_LISTS:
                self._fault(origin, f"more than {MAX_LISTS} lists; {path} is not read", "use fewer")
                self.targets[path] = None
                continue
            self._seen[path] = _signature(path)
            try:
                self.targets[path] = self._read(path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                kept = old.get(path)
                words = "its old version stays in use" if kept is not None else "its mail waits"
                self._fault(
                    Origin(path), f"the list cannot be used: {reason} ({words})", f"{origin} names it"
                )
                self.targets[path] = kept
            more = self.targets[path] or ()
            wanted += [(path_of(target), target.origin or origin) for target in more if _names(target)]

    def _read(self, path: str) -> tuple[AliasTarget, ...]:
        octets = read_octets(path)
        if len(octets) > MAX_OCTETS:
            raise ValueError(f"is larger than {MAX_OCTETS} octets")
        found: list[AliasTarget] = []
        for number, entry in entries(octets.decode("utf-8-sig")):
            origin = Origin(path, number)
            try:
                targets = parse_targets(entry, origin)
            except ValueError as error:
                what, _, mend = str(error).partition("; ")
                self.warnings.append(Problem(path, number, what, mend))
                continue
            found.extend(targets)
        if len(found) > MAX_TARGETS:
            raise ValueError(f"has more than {MAX_TARGETS} members")
        return tuple(found)

    def _fault(self, origin: Origin, what: str, mend: str) -> None:
        self.problems.append(Problem(origin.file, origin.line, what, mend))


def _names(target: AliasTarget) -> bool:
    return target.kind == "include"


def path_of(target: AliasTarget) -> str:
    """Where the list is that a target names."""
    return os.path.normpath(target.text[len(":include:") :])


def _signature(path: str) -> Signature:
    try:
        facts = os.stat(path)
    except OSError:
        return ()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
