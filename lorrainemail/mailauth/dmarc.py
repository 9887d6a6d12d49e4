"""DMARC: whether the author's domain stands behind a message, and what it wants done where not (RFC 9989).

One call a message, :meth:`Dmarc.evaluate`, after SPF and DKIM. Policies and organizational domains are found
by the DNS tree walk, without any list of public suffixes. What is done with the answer is policy's business.

Bounds: a walk asks at most :data:`MAX_WALK` names, and is made for the author's domain and for
authenticated domains that could be aligned with it; :data:`TOTAL_TIME` for everything. Never fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from lorrainemail.interfaces import DnsFailure, IResolver
from lorrainemail.mailauth.authors import NoAuthor, author_domain
from lorrainemail.mailauth.dkim import DkimResult
from lorrainemail.mailauth.dmarc_record import DmarcRecord, Policy, is_dmarc, parse_dmarc
from lorrainemail.mailauth.header import Header
from lorrainemail.mailauth.spf import SpfResult

DmarcWord = Literal["pass", "fail", "none", "temperror", "permerror"]

#: Names that one walk asks (RFC 9989 §4.10).
MAX_WALK: Final = 8
#: Seconds for one evaluation.
TOTAL_TIME: Final = 20.0


@attrs.frozen(slots=True)
class DmarcResult:
    """What an evaluation came to.

    :ivar domain: of From, "" where there is not exactly one.
    :ivar policy: what the record wants done with a message that fails; "none" where there is no record.
    :ivar policy_domain: where the record stands. ``record``: what it says.
    :ivar disposition: ``policy`` where the message fails and the domain is not testing, else "none".
    :ivar aligned: the methods that vouch for the domain: "spf", "dkim".
    :ivar deceitful: From is of a form that is forbidden and may show a reader another author.
    :ivar reason: one sentence for people.
    """

    result: DmarcWord
    domain: str = ""
    policy: Policy = "none"
    policy_domain: str = ""
    record: DmarcRecord | None = None
    disposition: Policy = "none"
    aligned: tuple[str, ...] = ()
    deceitful: bool = False
    reason: str = ""


class _Unanswered(Exception):
    """A question to the DNS had no answer."""


class Dmarc:
    """Evaluates messages.

    :param clock: for the bound in time.
    """

    def __init__(self, resolver: IResolver, clock: IReactorTime) -> None:
        self._resolver = resolver
        self._clock = clock

    async def evaluate(
        self, header: Header, spf: SpfResult | None, dkim: Sequence[DkimResult]
    ) -> DmarcResult:
        """The result for a message with these findings.

        :param spf: of the reverse-path (or of the greeting, where that is null); None where not asked.
        """
        try:
            domain = author_domain(header)
        except NoAuthor as error:
            word: DmarcWord = "permerror" if error.deceitful else "none"
            return DmarcResult(word, deceitful=error.deceitful, reason=str(error))
        evaluation = Deferred.fromCoroutine(self._evaluate(domain, spf, dkim))
        try:
            return await evaluation.addTimeout(TOTAL_TIME, self._clock)
        except (TimeoutError, _Unanswered):
            return DmarcResult("temperror", domain, reason=f"the policy of {domain} cannot be looked up now")

    async def _evaluate(self, domain: str, spf: SpfResult | None, dkim: Sequence[DkimResult]) -> DmarcResult:
        own = await self._record(domain)
        passed = _passed(spf, dkim)
        if own is not None and own.policy is not None:
            same = tuple(method for method, one in passed if one == domain)
            if same:
                # RFC 9989 §4.10.2: nothing more needs to be known.
                return self._result(domain, domain, own, own.policy, tuple(dict.fromkeys(same)))
        others = [one for _, one in (*passed, *_undecided(spf, dkim)) if _could_share(one, domain)]
        if own is not None and own.policy is not None and not others:
            walked = {domain: own}  # nobody's organization matters
        else:
            walked = await self._walk(domain, own)
        organization = organizational_domain(domain, walked)
        found = _policy_record(domain, organization, walked)
        if found is None:
            return DmarcResult("none", domain, reason=f"{domain} has no DMARC record")
        where, record = found
        policy = await self._policy(domain, where, record)
        if policy is None:
            return DmarcResult("none", domain, reason=f"the DMARC record of {where} has no usable policy")
        aligned = []
        for method, one in passed:
            strict = record.strict_spf if method == "spf" else record.strict_dkim
            if method not in aligned and await self._aligned(one, domain, organization, strict):
                aligned.append(method)
        if not aligned:
            for method, one in _undecided(spf, dkim):
                strict = record.strict_spf if method == "spf" else record.strict_dkim
                if await self._aligned(one, domain, organization, strict):
                    # RFC 9989 §5.3.5: what may yet pass has not failed.
                    reason = f"{method.upper()} of {one} cannot be checked now"
                    return DmarcResult("temperror", domain, policy, where, record, reason=reason)
        return self._result(domain, where, record, policy, tuple(aligned))

    @staticmethod
    def _result(
        domain: str, where: str, record: DmarcRecord, policy: Policy, aligned: tuple[str, ...]
    ) -> DmarcResult:
        if aligned:
            return DmarcResult("pass", domain, policy, where, record, aligned=aligned)
        reason = f"neither SPF nor DKIM vouches for {domain}"
        disposition: Policy = "none" if record.testing else policy
        return DmarcResult("fail", domain, policy, where, record, disposition, reason=reason)

    # -- the walk (RFC 9989 §4.10) ---------------------------------------------------------------

    async def _record(self, domain: str) -> DmarcRecord | None:
        """The one record at a name; several are none."""
        try:
            texts = await self._resolver.txt(f"_dmarc.{domain}")
        except DnsFailure as failure:
            if failure.kind == "temporary":
                raise _Unanswered(domain) from None
            return None
        records = [text for text in texts if is_dmarc(text)]
        return parse_dmarc(records[0]) if len(records) == 1 else None

    async def _walk(self, domain: str, own: DmarcRecord | None) -> dict[str, DmarcRecord]:
        """The records from a domain upwards, the longest name first.

        :param own: that of the domain itself, which has been asked already.
        """
        found = {} if own is None else {domain: own}
        if own is not None and own.psd == "n":
            return found
        for name in above(domain):
            record = await self._record(name)
            if record is not None:
                found[name] = record
                if record.psd != "u":
                    break
        return found

    async def _aligned(self, one: str, domain: str, organization: str, strict: bool) -> bool:
        """Whether an authenticated domain is aligned with the author's (RFC 9989 §4.4)."""
        if one == domain:
            return True
        if strict:
            return False
        if one == organization:
            return True
        if not one.endswith("." + organization):
            return False
        return organizational_domain(one, await self._walk(one, await self._record(one))) == organization

    async def _policy(self, domain: str, where: str, record: DmarcRecord) -> Policy | None:
        """RFC 9989 §4.10.1: p= of the domain itself; of one above it sp= or np= where they apply."""
        if where == domain or record.policy is None:
            return record.policy
        if record.absent is not None and not await self._exists(domain):
            return record.absent
        return record.subdomains or record.policy

    async def _exists(self, domain: str) -> bool:
        """RFC 9989 §3.2.13: it has an address or an MX."""
        for question in (self._resolver.addresses, self._resolver.mx):
            try:
                await question(domain)
            except DnsFailure as failure:
                if failure.kind == "temporary":
                    return True
            else:
                return True
        return False


def above(domain: str) -> list[str]:
    """The names that a walk asks after the domain itself."""
    labels = domain.split(".")
    first = max(1, len(labels) - (MAX_WALK - 1))
    return [".".join(labels[start:]) for start in range(first, len(labels))]


def organizational_domain(domain: str, walked: dict[str, DmarcRecord]) -> str:
    """RFC 9989 §4.10.2.

    :param walked: what the walk from the domain found, the longest name first.
    """
    shortest = domain
    for name, record in walked.items():
        if record.psd == "n":
            return name
        if record.psd == "y" and name != domain:
            return ".".join(domain.split(".")[-(name.count(".") + 2) :])
        shortest = name
    return shortest


def _policy_record(
    domain: str, organization: str, walked: dict[str, DmarcRecord]
) -> tuple[str, DmarcRecord] | None:
    """The record of the domain itself, of its organization, or of the public suffix above that."""
    for name in (domain, organization):
        if name in walked:
            return name, walked[name]
    for name, record in walked.items():
        if record.psd == "y":
            return name, record
    return None


def _could_share(one: str, domain: str) -> bool:
    """Whether two different domains could be of one organization."""
    return one != domain and one.rpartition(".")[2] == domain.rpartition(".")[2]


def _passed(spf: SpfResult | None, dkim: Sequence[DkimResult]) -> list[tuple[str, str]]:
    found = [("spf", spf.domain)] if spf is not None and spf.result == "pass" else []
    return found + [("dkim", one.domain) for one in dkim if one.result == "pass"]


def _undecided(spf: SpfResult | None, dkim: Sequence[DkimResult]) -> list[tuple[str, str]]:
    found = [("spf", spf.domain)] if spf is not None and spf.result == "temperror" else []
    return found + [("dkim", one.domain) for one in dkim if one.result == "temperror" and one.domain]
