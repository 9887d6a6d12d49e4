"""Which certificates are to be fetched by ACME: our own name's, and one for each domain's service names.

Asked by :mod:`lorrainemail.certs.renewal`. A domain's names (``mta-sts.``, ``autoconfig.``,
``autodiscover.``) are wanted as far as the DNS leads them to the addresses of our own name: one that does not
would spoil the order for all. Never fails: where the DNS does not answer, what we have a certificate for
stays wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from lorrainemail.certs.challenges import Kind
from lorrainemail.config.model import Acme
from lorrainemail.interfaces import DnsFailure, IResolver

#: Seconds for which the answer is not worked out anew.
KEEP: Final = 3600.0
#: Domains that certificates are fetched for.
MAX_DOMAINS: Final = 1000
#: Names in front of a domain for which the https door answers.
LABELS: Final = ("mta-sts", "autoconfig", "autodiscover")


@attrs.frozen(slots=True)
class Wanted:
    """One certificate: the folder that it is kept in, its names, its kind of key."""

    folder: str
    names: tuple[str, ...]
    kind: str


@attrs.frozen(slots=True)
class Surroundings:
    """What the renewals are told of the rest of the server.

    :ivar hostname: our name; ``domains`` gives the local domains.
    :ivar ways: how names can be proved with the doors that are open.
    :ivar web: the https door is open.
    :ivar secret: user and secret of a row of the credentials file.
    """

    hostname: str
    domains: Callable[[], Sequence[str]]
    ways: Callable[[], Sequence[Kind]]
    web: bool
    secret: Callable[[str], tuple[str, str] | None]


class Wishes:
    """What is wanted now.

    :param has: whether we have a certificate of the authority for a name.
    """

    def __init__(self, around: Surroundings, resolver: IResolver, has: Callable[[str], bool]) -> None:
        self._around = around
        self._resolver = resolver
        self._has = has
        self._at = float("-inf")
        self.known: tuple[Wanted, ...] = ()

    def forget(self) -> None:
        """Work it out anew when it is asked for."""
        self._at = float("-inf")

    async def now(self, settings: Acme, now: float) -> tuple[Wanted, ...]:
        """All that is wanted; ``known`` is the same until then."""
        if now - self._at < KEEP:
            return self.known
        self._at = now
        host = self._around.hostname
        names = tuple(dict.fromkeys((host, *settings.names)))
        groups = [(host, names)]
        if self._around.web and settings.domains:
            for domain in list(self._around.domains())[:MAX_DOMAINS]:
                mine = [f"{label}.{domain}" for label in LABELS]
                leading = tuple([name for name in mine if name not in names and await self._leads_here(name)])
                if leading:
                    groups.append((f"for-{domain}", leading))
        kinds = dict.fromkeys(settings.keys)
        self.known = tuple(Wanted(folder, group, kind) for folder, group in groups for kind in kinds)
        return self.known

    async def _leads_here(self, name: str) -> bool:
        try:
            theirs = await self._resolver.addresses(name)
            ours = await self._resolver.addresses(self._around.hostname)
        except DnsFailure as failure:
            return failure.kind == "temporary" and self._has(name)
        return bool(set(theirs) & set(ours))
