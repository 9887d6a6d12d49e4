"""What is done with a check's verdict: ``[actions]``, for everybody, for a domain, for an account. Pure.

A word weakens or strengthens what a check wants (:func:`weighed`): "off" (it is not asked), "log" (its
verdict is in the trace alone), "tag" (and in a header field), "junk" (the message goes to Junk), "refuse"
(the message is refused; deferred where that is what the check wants). The word of the account wins over that
of its domain, that over the general one; without any the check's own judgement holds.

Verdicts on connection, greeting and sender come before anybody knows the recipient. Where recipients want
different things of a check its verdict is held back (:attr:`Verdict.pending`) and decided at each RCPT
(:meth:`CheckActions.settle`). At the final dot a message is refused only where all its recipients want that;
else it goes to Junk for those that do. Callers: :mod:`lorrainemail.policy.chain` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from lorrainemail.interfaces import Accepted, Action, Circumstances, Expansion, LocalMailbox, Verdict

OFF: Final = "off"
WORDS: Final = (OFF, "log", "tag", "junk", "refuse")

#: What becomes of an action of one recipient beside another who takes the message.
_BESIDE: Final = {Action.DEFER: Action.CONTINUE, Action.REFUSE: Action.JUNK}
_ACTIONS: Final = {"tag": Action.TAG, "junk": Action.JUNK}


def weighed(action: Action, word: str) -> Action:
    """What becomes of an action under a word ("" leaves it); CONTINUE stays what it is."""
    if not word or action is Action.CONTINUE:
        return action
    if word == "refuse":
        # What may pass at the next try is not refused for good.
        return Action.DEFER if action is Action.DEFER else Action.REFUSE
    return _ACTIONS.get(word, Action.CONTINUE)


@attrs.frozen(slots=True)
class CheckActions:
    """The words for one check.

    :ivar general: for everybody, "" for none. ``special``: by folded address or domain.
    """

    general: str = ""
    special: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def never(self) -> bool:
        """Nobody wants the check asked."""
        return self.general == OFF and all(word == OFF for word in self.special.values())

    def word(self, keys: Iterable[str]) -> str:
        """The first of the keys that has one."""
        for key in keys:
            word = self.special.get(key)
            if word is not None:
                return word
        return self.general

    def asked(self, circumstances: Circumstances) -> bool:
        """Whether those whom it concerns want the check asked at all."""
        return any(word != OFF for word in self._words(circumstances))

    def apply(self, verdict: Verdict, circumstances: Circumstances) -> Verdict:
        """The verdict as those whom it concerns want it."""
        if verdict.each:
            words = self._words(circumstances)
            words = words * len(verdict.each) if len(words) == 1 else words
            own = [weighed(action, word) for action, word in zip(verdict.each, words, strict=True)]
            return attrs.evolve(verdict, each=tuple(_BESIDE.get(action, action) for action in own))
        if verdict.action is Action.CONTINUE:
            return verdict
        early = circumstances.stage in ("connect", "helo", "mail")
        if early and self.special and not circumstances.session.account:
            return attrs.evolve(verdict, action=Action.CONTINUE, pending=verdict.action)
        wanted = [weighed(verdict.action, word) for word in self._words(circumstances)]
        if len(set(wanted)) == 1:
            return _as(verdict, wanted[0])
        weakest = min(wanted)
        if weakest >= Action.DEFER:
            return _as(verdict, weakest)
        # Nobody waits where another recipient would not; who would have refused it finds it in Junk.
        each = tuple(_BESIDE.get(action, action) for action in wanted)
        return attrs.evolve(verdict, action=Action.CONTINUE, each=each)

    def settle(self, verdict: Verdict, circumstances: Circumstances) -> Verdict | None:
        """A verdict that was held back, for this recipient; None where he wants nothing of it."""
        (word,) = self._words(circumstances)
        if word == OFF:
            return None
        return _as(attrs.evolve(verdict, pending=Action.CONTINUE), weighed(verdict.pending, word))

    def _words(self, circumstances: Circumstances) -> list[str]:
        """One word, or at the final dot one for each recipient."""
        if not self.special:
            return [self.general]
        session = circumstances.session
        if session.account:
            return [self.word(_address_keys(session.account))]
        if circumstances.stage == "data" and circumstances.accepted:
            return [self.word(accepted_keys(accepted)) for accepted in circumstances.accepted]
        if circumstances.stage == "rcpt" and circumstances.recipient is not None:
            address = circumstances.recipient.address
            return [self.word(_keys(address.key, circumstances.expansion))]
        # The recipients are not known yet: asked where anybody wants it.
        return [*self.special.values(), self.general]


def accepted_keys(accepted: Accepted) -> list[str]:
    """Under what words for a recipient may stand, the most particular first."""
    return _keys(accepted.recipient.address.key, accepted.expansion)


def _keys(key: str, expansion: Expansion | None) -> list[str]:
    finals = expansion.finals if expansion is not None else ()
    accounts = [final.account.address.key for final in finals if isinstance(final, LocalMailbox)]
    # An alias of many is under its own name and its domain's; that of one is its account's.
    if len(accounts) == 1 and len(finals) == 1 and accounts[0] != key:
        return [key, accounts[0], *_address_keys(key)[1:], *_address_keys(accounts[0])[1:]]
    return _address_keys(key)


def _address_keys(key: str) -> list[str]:
    return [key, key.rpartition("@")[2]]


def _as(verdict: Verdict, action: Action) -> Verdict:
    if action is verdict.action:
        return verdict
    if action is Action.CONTINUE:
        wanted = (verdict.pending or verdict.action).name.lower()
        return attrs.evolve(verdict, action=action, reason=f"{verdict.reason} (logged only, not {wanted})")
    return attrs.evolve(verdict, action=action)
