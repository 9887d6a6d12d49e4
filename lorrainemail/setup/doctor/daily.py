"""The check-up that the running server makes of itself once a day.

:class:`Daily` is composed by :mod:`lorrainemail.service`. What turned bad since the last time is told to the
postmaster, once; when it is well again that is told too, once. What could not be looked at neither accuses
nor clears. What was told is kept in ``<state>/doctor.json``, written after the message was accepted: a crash
in between tells twice rather than never. While an IPv6 address has no PTR record, mail leaves by IPv4
(:attr:`Daily.without_ipv6`). Fails never; a check-up that fails is logged, and made again the next day.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from lorrainemail.setup.doctor.findings import Finding, Language
from lorrainemail.setup.first_start import write_small

#: Seconds from the start to the first check-up, and between two; a part of it is chance, so that not all
#: servers of the world ask the same lists at the same time.
FIRST: Final = 1200.0
EVERY: Final = 86400.0
CHANCE: Final = 600.0
#: What was told, in the state directory, and its greatest size.
MEMORY: Final = "doctor.json"
MAX_MEMORY: Final = 1 << 20
#: Troubles that are remembered.
MAX_TOLD: Final = 2000
#: An IPv6 address without a name: mail leaves by IPv4 meanwhile.
_NAMELESS_6: Final = "ptr.missing6 "

_WORDS: Final[dict[Language, dict[str, str]]] = {
    "en": {
        "subject": "{hostname}: {bad} new troubles, {well} over",
        "bad": "This has turned bad:",
        "well": "This is well again:",
        "end": '"lorrainemail doctor" shows everything.',
    },
    "fr": {
        "subject": "{hostname} : {bad} nouveaux soucis, {well} finis",
        "bad": "Ceci s'est dégradé :",
        "well": "Ceci va de nouveau bien :",
        "end": "« lorrainemail doctor --lang fr » montre tout.",
    },
}


@attrs.frozen(slots=True)
class News:
    """What has changed since the last time.

    :ivar bad: new troubles; ``well``: lines of those that are over. ``told``: what is known afterwards.
    """

    bad: tuple[Finding, ...]
    well: tuple[str, ...]
    told: Mapping[str, str]


def _line(finding: Finding, language: Language) -> str:
    """In words, which are loaded with the first one that is needed: most days go without."""
    from lorrainemail.setup.doctor.words import line_of

    return line_of(finding, language)


def compare(findings: Sequence[Finding], told: Mapping[str, str], language: Language) -> News:
    """This check-up against what was told."""
    bad = {one.key: one for one in findings if one.level == "bad"}
    open_checks = {one.check for one in findings if one.level == "unknown"}
    late = any(one.check == "check" for one in findings)
    new = tuple(one for key, one in bad.items() if key not in told)
    over = {
        key: line
        for key, line in told.items()
        if key not in bad and not late and key.partition(".")[0] not in open_checks
    }
    kept = {key: line for key, line in told.items() if key not in over}
    kept.update((one.key, _line(one, language)) for one in new)
    return News(new, tuple(over.values()), dict(list(kept.items())[:MAX_TOLD]))


class Daily(Service):
    """Makes the check-up, and tells.

    :param examine: makes one; answers the findings.
    :param tell: given subject and text, brings them to the postmaster; its Deferred fires when that is safe.
    :param facts: answers (switched on, language, hostname) of the configuration in force.
    :ivar without_ipv6: mail should leave by IPv4; ``changed`` is called when that changes.
    """

    name = "doctor"
    _log: ClassVar[Logger] = Logger(namespace="lorrainemail.doctor")

    def __init__(
        self,
        clock: Any,
        state: str,
        examine: Callable[[], Deferred[list[Finding]]],
        tell: Callable[[str, str], Deferred[Any]],
        facts: Callable[[], tuple[bool, Language, str]],
        changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._path = os.path.join(state, MEMORY)
        self._examine = examine
        self._tell = tell
        self._facts = facts
        self._changed = changed
        self._told = self._remembered()
        self._next: IDelayedCall | None = None
        self._working: Deferred[None] | None = None
        self.without_ipv6 = any(key.startswith(_NAMELESS_6) for key in self._told)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._plan(FIRST)

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._working is not None:
            self._working.cancel()

    def _plan(self, seconds: float) -> None:
        self._next = self._clock.callLater(seconds + random.uniform(0, CHANCE), self._begin)

    def _begin(self) -> None:
        self._plan(EVERY)
        if self._facts()[0] and self._working is None:
            self._working = Deferred.fromCoroutine(self.look())
            self._working.addErrback(self._failed).addBoth(self._ended)

    def _failed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self._log.failure("The daily check-up failed", failure)

    def _ended(self, _: None) -> None:
        self._working = None

    async def look(self) -> None:
        """One check-up with all that follows from it."""
        findings = await self._examine()
        _, language, hostname = self._facts()
        news = compare(findings, self._told, language)
        for finding in news.bad:
            self._log.warn("{line}", line=_line(finding, "en"))
        without = any(key.startswith(_NAMELESS_6) for key in news.told)
        if without != self.without_ipv6:
            self.without_ipv6 = without
            self._log.warn("Mail leaves by IPv4 while the IPv6 address has no PTR record: {now}", now=without)
            self._changed()
        if news.bad or news.well:
            await self._tell(*message(news, language, hostname))
        if news.told != self._told:
            self._told = news.told
            self._remember()

    # -- memory --------------------------------------------------------------------------------------

    def _remembered(self) -> Mapping[str, str]:
        try:
            with open(self._path, encoding="utf-8") as file:
                kept = json.loads(file.read(MAX_MEMORY))["told"]
            return {str(key): str(line) for key, line in list(kept.items())[:MAX_TOLD]}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._log.warn("{path} cannot be used: {error}", path=self._path, error=str(error))
            return {}

    def _remember(self) -> None:
        """A small file, once a day and only where something has changed."""
        text = json.dumps({"version": 1, "told": self._told}, ensure_ascii=False)
        try:
            write_small(self._path, text, 0o600)
        except OSError as error:
            self._log.error("{path} cannot be written: {error}", path=self._path, error=str(error))
            with contextlib.suppress(OSError):
                os.unlink(f"{self._path}.new")


def message(news: News, language: Language, hostname: str) -> tuple[str, str]:
    """Subject (ASCII) and text."""
    words = _WORDS[language]
    parts = []
    if news.bad:
        parts += [words["bad"], "", *(f"- {_line(one, language)}" for one in news.bad), ""]
    if news.well:
        parts += [words["well"], "", *(f"- {line}" for line in news.well), ""]
    subject = words["subject"].format(hostname=hostname, bad=len(news.bad), well=len(news.well))
    return subject, "\n".join([*parts, words["end"], ""])
