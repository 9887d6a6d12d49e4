"""The policy chain: ordered checks, each asked at its stages, each bounded in time.

Owns the order, the time-outs, and what happens when a check itself fails. Callers: the SMTP doors at each
verb and ``explain`` as a dry run; :mod:`lorrainemail.service` builds the chain with :func:`build_chain` from
the names in the configuration. Checks are Twisted plugins in ``lorrainemail.plugins``.

Invariants: the chain never fails and never raises; DEFER and REFUSE end it at once and stand last; a stage
that no check looks at costs its caller one set lookup. A check that fails or takes too long passes
(``fail_open``) or defers the mail, and is logged either way. What is done with a verdict may be set for
everybody, a domain or an account (:mod:`lorrainemail.policy.actions`); a check that nobody wants is not made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.plugin import getPlugins
from zope.interface import implementer

import lorrainemail.plugins
from lorrainemail.errors import ConfigurationError, MailError, Origin, Problem, Reply
from lorrainemail.interfaces import (
    Action,
    Circumstances,
    IPolicy,
    IPolicyCheck,
    IPolicyPlugin,
    PolicyResources,
    Stage,
    Verdict,
)
from lorrainemail.ops.metrics import Counter
from lorrainemail.policy.actions import WORDS, CheckActions

log = Logger()
_VERDICTS = Counter("lorrainemail_policy_verdicts", "Verdicts of the policy checks", ["check", "action"])

#: What the client is told when a check that may not be skipped could not be made.
CHECK_FAILED: Final = Reply(451, "4.7.0", "A check could not be made, try again later")
#: What the client is told where a check defers or refuses without words of its own.
DEFERRED: Final = Reply(451, "4.7.1", "Try again later")
REFUSED: Final = Reply(550, "5.7.1", "Refused by policy")


@attrs.frozen(slots=True)
class Guarded:
    """A check with its bounds.

    :ivar timeout: seconds after which its answer is no longer waited for.
    :ivar fail_open: whether the mail passes where the check fails.
    :ivar actions: what is done with its verdicts; None: what it wants.
    """

    check: IPolicyCheck
    timeout: float
    fail_open: bool
    actions: CheckActions | None = None


def build_chain(
    names: Sequence[str],
    resources: PolicyResources,
    plugins: Iterable[IPolicyPlugin] | None = None,
    where: Origin | None = None,
    actions: Mapping[str, Mapping[str, str]] | None = None,
    fail_closed: Sequence[str] = (),
    filters: Iterable[IPolicyPlugin] = (),
) -> PolicyChain:
    """The chain of the named checks, in that order.

    :param plugins: default: every Twisted plugin in ``lorrainemail.plugins``.
    :param where: the names stand, for problems.
    :param actions: words by check, for each key: "" (everybody), a domain, or an address; both folded.
    :param fail_closed: checks without which no mail is taken.
    :param filters: checks that the configuration makes itself; they come after the named ones.
    :raises ConfigurationError: where a name is no check's.
    """
    if plugins is None:
        plugins = getPlugins(IPolicyPlugin, lorrainemail.plugins)
    known = {plugin.name: plugin for plugin in plugins}
    own = {plugin.name: plugin for plugin in filters}
    where = where or Origin()
    problems = []
    checks = []
    told = {name for words in (actions or {}).values() for name in words} | set(fail_closed)
    for name in [*names, *sorted(told.difference(names, own))]:
        if name not in known:
            words = ", ".join(sorted(known)) or "none"
            what = f"[policy] checks: no check is called {name!r}"
            problems.append(Problem(where.file, where.line, what, f"known: {words}"))
        elif name not in names:
            what = f"[actions] or fail_closed: the check {name!r} is not among [policy] checks"
            problems.append(Problem(where.file, where.line, what, "add it there"))
    if problems:
        raise ConfigurationError(tuple(problems))
    for plugin in [*(known[name] for name in names), *own.values()]:
        words_for = _actions_of(plugin, actions or {})
        if words_for is not None and words_for.never:
            continue
        check = plugin.make(resources)
        if check is not None:
            open_ = plugin.fail_open and plugin.name not in fail_closed
            checks.append(Guarded(check, plugin.timeout, open_, words_for))
    return PolicyChain(checks, resources.clock)


def _actions_of(plugin: IPolicyPlugin, actions: Mapping[str, Mapping[str, str]]) -> CheckActions | None:
    """The words for a check; None where there are none."""
    name = plugin.name
    special = {key: words[name] for key, words in actions.items() if key and name in words}
    general = actions.get("", {}).get(name, getattr(plugin, "usual", ""))
    assert {general, *special.values()} <= {"", *WORDS}
    return CheckActions(general, special) if general or special else None


@implementer(IPolicy)
class PolicyChain:
    """See :class:`~lorrainemail.interfaces.IPolicy`.

    :param checks: in the order in which they are asked.
    :param clock: for their time-outs.
    """

    def __init__(self, checks: Sequence[Guarded], clock: IReactorTime) -> None:
        self._clock = clock
        self._by_stage: dict[Stage, tuple[Guarded, ...]] = {}
        for stage in ("connect", "helo", "mail", "rcpt", "data"):
            asked = tuple(guarded for guarded in checks if stage in guarded.check.stages)
            if asked:
                self._by_stage[stage] = asked
        #: Checks whose verdicts wait for the recipient.
        self._held = {
            guarded.check.name: guarded.actions
            for guarded in checks
            if guarded.actions is not None and guarded.actions.special
        }
        if self._held:
            self._by_stage.setdefault("rcpt", ())
        self.stages: frozenset[Stage] = frozenset(self._by_stage)

    def judge(self, circumstances: Circumstances) -> tuple[Verdict, ...] | Deferred[tuple[Verdict, ...]]:
        asked = self._by_stage.get(circumstances.stage, ())
        verdicts: list[Verdict] = []
        if self._held and circumstances.stage == "rcpt" and self._settle(circumstances, verdicts):
            return tuple(verdicts)
        for position, guarded in enumerate(asked):
            verdict = self._ask(guarded, circumstances, verdicts)
            if isinstance(verdict, Deferred):
                rest = self._continue(circumstances, verdicts, asked[position:], verdict)
                return Deferred.fromCoroutine(rest)
            if verdict is not None:
                verdicts.append(_finished(guarded, verdict, circumstances))
                if verdicts[-1].action >= Action.DEFER:
                    break
                if verdict.content is not None:
                    circumstances = attrs.evolve(circumstances, content=verdict.content)
        return tuple(verdicts)

    def _settle(self, circumstances: Circumstances, verdicts: list[Verdict]) -> bool:
        """What was held back, for this recipient; whether that stops the mail."""
        for held in circumstances.earlier:
            if held.pending is not Action.CONTINUE:
                settled = self._held[held.check].settle(held, circumstances)
                if settled is not None:
                    verdicts.append(_worded(settled, circumstances))
                    if settled.action >= Action.DEFER:
                        return True
        return False

    def _ask(
        self, guarded: Guarded, circumstances: Circumstances, verdicts: list[Verdict]
    ) -> Verdict | None | Deferred[Verdict | None]:
        actions = guarded.actions
        if actions is not None and not actions.asked(circumstances):
            return None
        if verdicts and circumstances.stage == "data":
            circumstances = attrs.evolve(circumstances, earlier=(*circumstances.earlier, *verdicts))
        try:
            return guarded.check.judge(circumstances)
        except Exception as error:
            return self._failed(guarded, circumstances, error)

    async def _continue(
        self,
        circumstances: Circumstances,
        verdicts: list[Verdict],
        asked: tuple[Guarded, ...],
        pending: Deferred[Verdict | None],
    ) -> tuple[Verdict, ...]:
        """The rest of a chain whose first check is already at work."""
        answer: Verdict | None | Deferred[Verdict | None] = pending
        for position, guarded in enumerate(asked):
            if position:
                answer = self._ask(guarded, circumstances, verdicts)
            if isinstance(answer, Deferred):
                try:
                    answer = await answer.addTimeout(guarded.timeout, self._clock)
                except Exception as error:
                    answer = self._failed(guarded, circumstances, error)
            if answer is not None:
                verdicts.append(_finished(guarded, answer, circumstances))
                if verdicts[-1].action >= Action.DEFER:
                    break
                if answer.content is not None:
                    circumstances = attrs.evolve(circumstances, content=answer.content)
        return tuple(verdicts)

    @staticmethod
    def _failed(guarded: Guarded, circumstances: Circumstances, error: Exception) -> Verdict:
        name = guarded.check.name
        session = circumstances.session.id
        if isinstance(error, TimeoutError):
            reason = f"the check gave no answer within {guarded.timeout:g} s"
            log.warn(
                "Policy check {name}: {reason} (session {session})", name=name, reason=reason, session=session
            )
        elif isinstance(error, MailError):
            reason = "the check could not be made"
            log.warn(
                "Policy check {name}: {error} (session {session})",
                name=name,
                error=str(error),
                session=session,
            )
        else:
            reason = "the check failed"
            log.failure("Policy check {name} failed (session {session})", name=name, session=session)
        if guarded.fail_open:
            return Verdict(Action.CONTINUE, name, f"{reason}; the mail passes")
        return Verdict(Action.DEFER, name, reason, CHECK_FAILED)


def _finished(guarded: Guarded, verdict: Verdict, circumstances: Circumstances) -> Verdict:
    """As those whom it concerns want it; but where a check could not be made it says what happens itself."""
    if guarded.actions is not None and verdict.reply is not CHECK_FAILED:
        verdict = guarded.actions.apply(verdict, circumstances)
    return _worded(verdict, circumstances)


def _worded(verdict: Verdict, circumstances: Circumstances) -> Verdict:
    """Counted, and with a reply where it stops the mail."""
    if not circumstances.dry_run:
        _VERDICTS.labels(verdict.check, verdict.action.name.lower()).inc()
    if verdict.action < Action.DEFER or verdict.reply is not None:
        return verdict
    return attrs.evolve(verdict, reply=REFUSED if verdict.action == Action.REFUSE else DEFERRED)
