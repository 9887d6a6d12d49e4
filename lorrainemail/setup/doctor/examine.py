"""The whole check-up: every check, side by side, each within its time.

:func:`examine` is called by ``lorrainemail doctor`` and, once a day, by the running server
(:mod:`lorrainemail.setup.doctor.daily`). It changes nothing. Whatever fails inside a check is logged and
told as unknown: a check-up always comes to its end, after :data:`CHECK_TIME` for each group at most.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import attrs
from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.logger import Logger

from lorrainemail.config.model import Settings
from lorrainemail.mailauth.spf import Spf
from lorrainemail.net.resolver import Resolver
from lorrainemail.setup.doctor import doors, machine
from lorrainemail.setup.doctor.authority import Authority, Uncached
from lorrainemail.setup.doctor.domain import Asker, domain_checks, host_checks, listed
from lorrainemail.setup.doctor.findings import Finding, bad, ordered, unknown
from lorrainemail.setup.records import Facts, facts_of, public_addresses

#: Seconds for one check.
CHECK_TIME: Final = 60.0
#: Domains that are looked at in one check-up.
MAX_DOMAINS: Final = 500

_log = Logger(namespace="lorrainemail.doctor")


@attrs.frozen(slots=True)
class Live:
    """What the running server says of itself.

    :ivar status: as ``lorrainemail status`` shows it; None where no server runs.
    :ivar oldest: age of what has waited longest in the queue, in seconds.
    """

    status: Mapping[str, Any] | None
    oldest: float = 0.0


async def examine(
    reactor: Any,
    settings: Settings,
    domains: Sequence[str],
    live: Live,
    in_thread: Callable[..., Deferred[Any]],
    resolver: Resolver | None = None,
) -> list[Finding]:
    """Everything that was looked at, the worst first.

    :param in_thread: runs blocking work.
    :param resolver: the configured one, where the caller has it; its memory is not used for our own names.
    """
    resolver = resolver or Resolver(reactor, settings.dns.resolvers, settings.dns.trusted)
    authority = Authority(reactor, resolver, settings.dns.port)
    spf = Spf(Uncached(authority, resolver), reactor, settings.hostname)
    asker = Asker(authority, resolver, spf)
    addresses = await in_thread(public_addresses, settings)
    facts = [await in_thread(facts_of, settings, domain, addresses) for domain in domains[:MAX_DOMAINS]]
    own = facts[0] if facts else Facts(settings.hostname, settings.hostname, tuple(addresses), {})
    here = doors.Machine(settings, own, in_thread, resolver)

    async def alone(check: Callable[..., Any], *arguments: Any) -> list[Finding]:
        found: list[Finding] = await in_thread(lambda: list(check(*arguments)))
        return found

    work: list[tuple[str, Coroutine[Any, Any, list[Finding]]]] = [
        ("disk", alone(machine.disk, settings)),
        ("permissions", alone(machine.permissions, settings)),
        ("tls_report", alone(machine.tls_reports, settings, reactor.seconds())),
        ("server", alone(machine.running, settings.state, live.status, live.oldest)),
        ("door", doors.reached(here)),
        ("certificate", doors.certificates(here)),
        ("relay", doors.relay(here)),
        ("outgoing", doors.outgoing(here)),
        ("clock", doors.clock(here)),
    ]
    work += [("blocklist", listed(resolver, one, settings.doctor.blocklists)) for one in addresses]
    work += [(check.__name__.strip("_"), _awaited(check, asker, own)) for check in host_checks()]
    findings = await _all(reactor, work, settings.hostname)
    for one in facts:
        checks = [(check.__name__.strip("_"), _awaited(check, asker, one)) for check in domain_checks()]
        checks.append(("mta_sts", doors.policy(here, one)))
        of_domain = await _all(reactor, checks, one.domain)
        nowhere = [found for found in of_domain if found.key == f"servers.none {one.domain}"]
        findings += nowhere or of_domain
    if authority.mute and facts:
        # One word for it, not one for each question.
        findings = [one for one in findings if one.level != "unknown"]
        findings.append(bad("resolver.mute", ", ".join(map(str, resolver.servers))))
    return ordered(findings)


async def _awaited(check: Any, asker: Asker, facts: Facts) -> list[Finding]:
    found: list[Finding] = await check(asker, facts)
    return found


async def _all(
    reactor: Any, work: Sequence[tuple[str, Coroutine[Any, Any, list[Finding]]]], subject: str
) -> list[Finding]:
    """All of them at once."""
    results: list[tuple[bool, list[Finding]]] = await DeferredList(
        [Deferred.fromCoroutine(_bounded(reactor, name, one, subject)) for name, one in work]
    )
    return [finding for _, found in results for finding in found]


async def _bounded(
    reactor: Any, name: str, check: Coroutine[Any, Any, list[Finding]], subject: str
) -> list[Finding]:
    try:
        return await Deferred.fromCoroutine(check).addTimeout(CHECK_TIME, reactor)
    except TimeoutError:
        return [unknown("check.late", f"{name} {subject}")]
    except Exception:
        _log.failure("The check {name} of {subject} failed", name=name, subject=subject)
        return [unknown("check.failed", f"{name} {subject}")]
