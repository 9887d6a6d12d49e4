"""What a check found: values, nothing else.

A :class:`Finding` names its case; the words for it, in each language, are in
:mod:`lorrainemail.setup.doctor.words`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

import attrs

#: "good": as it should be. "warn": works, and should be better. "bad": mail suffers. "unknown": could not be
#: looked at just now; it neither accuses nor clears.
Level = Literal["good", "warn", "bad", "unknown"]
Language = Literal["en", "fr"]
#: The worst first.
LEVELS: Final[tuple[Level, ...]] = ("bad", "warn", "unknown", "good")
#: Characters of any fact from outside that are shown.
MAX_FACT: Final = 200


@attrs.frozen(slots=True)
class Finding:
    """One thing that was looked at.

    :ivar case: which of the known cases, as "spf.missing"; before the dot stands the check.
    :ivar subject: what it is about: a domain, host, address, file.
    :ivar facts: for the words; strangers' text in it is cut and made printable.
    """

    case: str
    level: Level
    subject: str
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def check(self) -> str:
        return self.case.partition(".")[0]

    @property
    def key(self) -> str:
        """The same trouble another day has the same key."""
        return f"{self.case} {self.subject}"


def bad(case: str, subject: str, **facts: object) -> Finding:
    return _finding(case, "bad", subject, facts)


def warn(case: str, subject: str, **facts: object) -> Finding:
    return _finding(case, "warn", subject, facts)


def unknown(case: str, subject: str, **facts: object) -> Finding:
    return _finding(case, "unknown", subject, facts)


def good(check: str, subject: str) -> Finding:
    return Finding(f"{check}.good", "good", subject)


def _finding(case: str, level: Level, subject: str, facts: dict[str, object]) -> Finding:
    return Finding(case, level, subject, tuple((name, _shown(value)) for name, value in facts.items()))


def _shown(value: object) -> str:
    """Strangers' text cannot move the terminal's cursor or fill it."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, Iterable):
        text = ", ".join(sorted(str(one) for one in value))
    else:
        text = str(value)
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= MAX_FACT else text[:MAX_FACT] + "…"


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, then by check and subject; of several about the same the worst."""
    worst: dict[str, Finding] = {}
    for one in sorted(findings, key=lambda one: (LEVELS.index(one.level), one.case, one.subject)):
        worst.setdefault(one.key, one)
    return list(worst.values())
